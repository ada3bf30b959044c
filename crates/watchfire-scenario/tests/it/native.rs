//! Rules in native Rust.

use std::sync::Arc;

use watchfire_model::alert::Detail;
use watchfire_model::call::{
    AlertEffect, CallFailure, Callback, Effects, EmittedReading, FailureKind, Level, Message, Module,
    Schedule, Subscription, Timer, TimerEffect,
};
use watchfire_model::state::Blobs;
use watchfire_model::{DeviceHandle, Duration, Severity, Value};
use watchfire_scenario::{Case, Report, run_module};
use watchfire_testkit::{Guest, NativeModule};

pub fn check(module: NativeModule, text: &str) -> Report {
    let module: Arc<dyn Module> = Arc::new(module);
    run_module(&module, &[Case::from_yaml(text, "case.yaml").unwrap()])
}

pub fn passes(module: NativeModule, text: &str) {
    let report = check(module, text);
    assert!(report.passed(), "{report}");
}

/// The report must contain these words.
pub fn fails(module: NativeModule, text: &str, words: &[&str]) {
    let report = check(module, text).to_string();
    assert!(report.starts_with("FAILED  "), "{report}");
    for word in words {
        assert!(report.contains(word), "{word:?} is not in\n{report}");
    }
}

pub fn trigger(device: DeviceHandle, row: Option<u32>, value: f64) -> AlertEffect {
    AlertEffect::Trigger {
        device,
        key: "high".into(),
        severity: Severity::Major,
        summary: "high".into(),
        details: vec![Detail { name: "value".into(), value: Value::Number(value) }],
        row,
    }
}

/// Triggers while `x` is above 80, clears otherwise.
pub fn threshold() -> NativeModule {
    NativeModule::new("native", Subscription::default(), |guest: &mut Guest<'_>| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let mut effects = Effects::default();
        for (row, (&device, &x)) in rows.devices().iter().zip(rows.numbers("x").iter()).enumerate() {
            let row = Some(row as u32);
            if x > 1000.0 {
                return Err(CallFailure::new(FailureKind::Refused, "x is absurd"));
            }
            effects.alerts.push(if x > 80.0 {
                trigger(device, row, x)
            } else {
                AlertEffect::Clear { device, key: "high".into(), row }
            });
        }
        Ok(effects)
    })
}

/// Triggers at the third reading, counting in memory alone.
pub fn forgetful() -> NativeModule {
    NativeModule::with_instances(
        "forgetful",
        |_| Ok(Subscription::default()),
        |_| {
            let mut seen = 0;
            Ok(Box::new(move |guest: &mut Guest<'_>| {
                let mut effects = Effects::default();
                let Callback::Batch(rows) = guest.callback else { return Ok(effects) };
                for (row, &device) in rows.devices().iter().enumerate() {
                    seen += 1;
                    if seen == 3 {
                        effects.alerts.push(trigger(device, Some(row as u32), 3.0));
                    }
                }
                Ok(effects)
            }))
        },
    )
}

/// Triggers where a batch has several rows.
pub fn counts_rows() -> NativeModule {
    NativeModule::new("counts", Subscription::default(), |guest: &mut Guest<'_>| {
        let Callback::Batch(rows) = guest.callback else { return Ok(Effects::default()) };
        let several = (rows.len() > 1).then(|| trigger(rows.devices()[0], Some(0), 0.0));
        Ok(Effects { alerts: several.into_iter().collect(), ..Effects::default() })
    })
}

/// Every reading sets a timer of 10 minutes, every timer one of an hour; a timer triggers once it is the third.
pub fn timers() -> NativeModule {
    NativeModule::new("timers", Subscription::default(), |guest: &mut Guest<'_>| {
        let mut effects = Effects::default();
        let mut set = |device, tag, span: u64| {
            let at = guest.context.now + Duration::from_secs(span);
            effects.timers.push(TimerEffect::Set(Timer { device, tag, at }));
        };
        match guest.callback {
            Callback::Batch(rows) => set(rows.devices()[0], 1, 600),
            Callback::Timers(timers) => {
                for timer in timers {
                    set(timer.device, timer.tag + 1, 3600);
                    if timer.tag == 3 {
                        effects.alerts.push(trigger(timer.device, None, 3.0));
                    }
                }
            }
            _ => {}
        }
        Ok(effects)
    })
}

/// A timer in each timer, a microsecond later.
pub fn restless() -> NativeModule {
    NativeModule::new("restless", Subscription::default(), |guest: &mut Guest<'_>| {
        let device = match guest.callback {
            Callback::Batch(rows) => rows.devices()[0],
            Callback::Timers(timers) => timers[0].device,
            _ => return Ok(Effects::default()),
        };
        let timer = TimerEffect::Set(Timer { device, tag: 0, at: guest.context.now });
        Ok(Effects { timers: vec![timer], ..Effects::default() })
    })
}

/// Doubles `x`, and every day at six in the morning emits 1 for `site`.
pub fn publishes() -> NativeModule {
    let six = Schedule { name: "six".into(), cron: "0 6 * * *".into(), zone: None };
    let subscription = Subscription { schedules: vec![six], ..Subscription::default() };
    NativeModule::new("publishes", subscription, |guest: &mut Guest<'_>| {
        let mut effects = Effects::default();
        match guest.callback {
            Callback::Batch(rows) => {
                let doubled = rows.numbers("x").iter().map(|x| x * 2.0).collect();
                effects.derived.push(("double".into(), doubled));
            }
            Callback::Schedule { at, .. } => effects.emitted.push(EmittedReading {
                device: "site".into(),
                time: *at,
                metric: "day".into(),
                value: Value::Number(1.0),
            }),
            _ => {}
        }
        Ok(effects)
    })
}

/// Counts the readings of each device in slot 0, and derives `count`; fails on an `x` above 1000. Its state is of version
/// 2: of version 1 it takes over what lies in slot 0. An instance keeps what it has loaded, and logs what it did not have.
pub fn counts() -> NativeModule {
    let module = NativeModule::with_instances(
        "counts",
        |_| Ok(Subscription::default()),
        |parameters| {
            let by = parameters["by"].as_i64().unwrap_or(1);
            if by < 0 {
                return Err(CallFailure::new(FailureKind::Refused, "it does not count down"));
            }
            let mut loaded = std::collections::HashMap::new();
            Ok(Box::new(move |guest: &mut Guest<'_>| {
                let mut effects = Effects::default();
                let Callback::Batch(rows) = guest.callback else { return Ok(effects) };
                let (mut counts, mut stores) = (Vec::new(), std::collections::BTreeMap::new());
                for (&device, &x) in rows.devices().iter().zip(rows.numbers("x").iter()) {
                    if x > 1000.0 {
                        return Err(CallFailure::new(FailureKind::Refused, format!("{x} is absurd")));
                    }
                    let state = guest.state().get(0, device);
                    let count = loaded
                        .entry(device)
                        .or_insert_with(|| i64::from_le_bytes(state.try_into().unwrap_or_default()));
                    *count += by;
                    counts.push(*count as f64);
                    stores.insert(device, *count);
                    let text = format!("{x} of {}", device.0);
                    guest.messages.push(Message { level: Level::Info, text });
                }
                for (device, count) in stores {
                    let mut blobs = Blobs::default();
                    blobs.push(&count.to_le_bytes());
                    effects.stores.push((0, vec![device], blobs));
                }
                effects.derived.push(("count".into(), counts));
                Ok(effects)
            }))
        },
    );
    module.state_version(2).migrating(|version, slot, blobs| match (version, slot) {
        (1, 0) => Ok(blobs),
        _ => Err(CallFailure::new(FailureKind::Refused, format!("nothing is known of slot {slot}"))),
    })
}
