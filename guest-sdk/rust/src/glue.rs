//! What [`crate::export_rule!`] expands to leans on this. Not for rules.

use std::cell::{Cell, RefCell};
use std::thread::LocalKey;

use crate::bindings::watchfire::rule::{clock, config, log};
use crate::{Rule, Subscription, Timestamp, device, effects};

/// The place of the rule in its instance; empty before `start`, and after a callback that failed.
pub type Place<R> = RefCell<Option<R>>;

thread_local! {
    /// The clock does not move within a callback: it is asked once.
    static NOW: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

/// The time of the log at this callback, in microseconds since the Unix epoch: the only clock there is.
pub fn now() -> Timestamp {
    NOW.get().unwrap_or_else(|| {
        let now = clock::now();
        NOW.set(Some(now));
        now
    })
}

/// Makes the rule from its parameters.
pub fn make<R: Rule>() -> Result<(R, Subscription), String> {
    // Without WASI there is no standard error: the text of a panic would be lost.
    std::panic::set_hook(Box::new(|panic| log::write(log::Level::Error, &panic.to_string())));
    let parameters = serde_json::from_str(&config::json()).map_err(|error| format!("parameters: {error}"))?;
    R::start(parameters)
}

/// The export `start`.
pub fn start<R: Rule>(place: &'static LocalKey<Place<R>>) -> Result<Subscription, String> {
    let (rule, subscription) = make::<R>()?;
    place.set(Some(rule));
    Ok(subscription)
}

/// A callback. One that returns an error has its effects dropped by the host, so that what the rule
/// remembers of them is wrong: it is made anew before the next one.
pub fn call<R: Rule>(
    place: &'static LocalKey<Place<R>>,
    callback: impl FnOnce(&mut R) -> Result<(), String>,
) -> Result<(), String> {
    NOW.set(None);
    device::begin();
    effects::begin();
    place.with_borrow_mut(|place| {
        let rule = match place {
            Some(rule) => rule,
            None => place.insert(make()?.0),
        };
        let answer = callback(rule);
        match &answer {
            Ok(()) => effects::hand_over(),
            Err(_) => *place = None,
        }
        answer
    })
}

/// Makes a module of a type that implements [`Rule`].
#[macro_export]
macro_rules! export_rule {
    ($rule:ty) => {
        const _: () = {
            use $crate::bindings::exports::watchfire::rule as exports;
            use $crate::bindings::watchfire::rule::types::Blobs;
            use $crate::{Batch, Rule, Timer, Timestamp, glue};

    ::std::thread_local!(static RULE: glue::Place<$rule> = const { ::std::cell::RefCell::new(None) });

            struct Module;

            impl exports::handler::Guest for Module {
                fn describe() -> exports::handler::Manifest {
                    <$rule as Rule>::MANIFEST.into()
                }
                fn start() -> Result<exports::handler::Subscription, String> {
                    glue::start(&RULE).map(Into::into)
                }
                fn on_batch() -> Result<(), String> {
                    glue::call(&RULE, |rule| Rule::on_batch(rule, &Batch::default()))
                }
            }
            impl exports::timer_handler::Guest for Module {
                fn on_timers(due: Vec<Timer>) -> Result<(), String> {
                    glue::call(&RULE, |rule| Rule::on_timers(rule, &due))
                }
            }
            impl exports::silence_handler::Guest for Module {
                fn on_silence(devices: Vec<exports::silence_handler::SilentDevice>) -> Result<(), String> {
                    glue::call(&RULE, |rule| Rule::on_silence(rule, &devices))
                }
            }
            impl exports::schedule_handler::Guest for Module {
                fn on_schedule(name: String, at: Timestamp) -> Result<(), String> {
                    glue::call(&RULE, |rule| Rule::on_schedule(rule, &name, at))
                }
            }
            impl exports::state_migration::Guest for Module {
                fn migrate(old_version: u32, slot: u32, states: Blobs) -> Result<Blobs, String> {
                    <$rule as Rule>::migrate(old_version, slot, states)
                }
            }
    $crate::bindings::export_module!(Module with_types_in $crate::bindings);
        };
    };
}
