//! What a callback does to its output stream and to timers: collected, and handed over when it has
//! succeeded. A call of the host for each row would cost more than most rules do.
//!
//! Each kind notes how it is handed over when it is first used. So a component imports only what its rule
//! uses: the import list is the list of its capabilities.

use std::cell::RefCell;

use crate::bindings::watchfire::rule::{output, readings, timers};
use crate::{Device, Timer, Timestamp, Value};

#[derive(Default)]
struct Effects {
    derived: Vec<(String, Vec<f64>)>,
    /// 0: left out. Empty: all are kept.
    mask: Vec<u8>,
    emitted: Vec<output::Reading>,
    timers: Vec<(Timing, Timer)>,
    derive: Option<fn(&str, &[f64])>,
    keep: Option<fn(&[u8])>,
    emit: Option<fn(&[output::Reading])>,
    set: Option<fn(&[Timer])>,
    cancel: Option<fn(&[Timer])>,
}

#[derive(Clone, Copy, PartialEq)]
enum Timing {
    Set,
    Cancel,
}

thread_local! {
    static EFFECTS: RefCell<Effects> = RefCell::default();
}

/// Before a callback: what one that failed left behind is dropped.
pub(crate) fn begin() {
    EFFECTS.with_borrow_mut(|effects| {
        effects.derived.clear();
        effects.mask.clear();
        effects.emitted.clear();
        effects.timers.clear();
    });
}

/// After a callback that succeeded: hands over what it did.
pub(crate) fn hand_over() {
    EFFECTS.with_borrow_mut(|effects| {
        if let Some(derive) = effects.derive {
            effects.derived.drain(..).for_each(|(metric, values)| derive(&metric, &values));
        }
        if let Some(keep) = effects.keep
            && !effects.mask.is_empty()
        {
            keep(&effects.mask);
        }
        if let Some(emit) = effects.emit
            && !effects.emitted.is_empty()
        {
            emit(&effects.emitted);
        }
        // In the order in which the rule said so: one may be set, cancelled and set again.
        for run in effects.timers.chunk_by(|(one, _), (next, _)| one == next) {
            let function = if run[0].0 == Timing::Set { effects.set } else { effects.cancel };
            let timers: Vec<Timer> = run.iter().map(|(_, timer)| *timer).collect();
            if let Some(function) = function {
                function(&timers);
            }
        }
    });
    begin();
}

/// A value of the output stream for a row of the batch.
#[inline]
pub(crate) fn derive(row: usize, metric: &str, value: f64) {
    EFFECTS.with_borrow_mut(|effects| {
        effects.derive = Some(output::derive);
        let place = effects.derived.iter().position(|(name, _)| name == metric).unwrap_or_else(|| {
            effects.derived.push((metric.into(), vec![f64::NAN; readings::rows() as usize]));
            effects.derived.len() - 1
        });
        effects.derived[place].1[row] = value;
    });
}

/// Whether a row goes into the output stream.
pub(crate) fn keep(row: usize, yes: bool) {
    EFFECTS.with_borrow_mut(|effects| {
        effects.keep = Some(output::keep);
        if effects.mask.is_empty() {
            effects.mask = vec![1; readings::rows() as usize];
        }
        effects.mask[row] = yes.into();
    });
}

/// A new reading on the output stream of the rule, of any registered device, by name: one that stands for a
/// site or a line, for instance. Handed over when the callback has succeeded.
pub fn emit(device_name: &str, metric: &str, value: impl Into<Value>, time: Timestamp) {
    let reading =
        output::Reading { device: device_name.into(), time, metric: metric.into(), value: value.into() };
    EFFECTS.with_borrow_mut(|effects| {
        effects.emit = Some(output::emit);
        effects.emitted.push(reading);
    });
}

pub(crate) fn set_timer(device: Device, tag: u32, at: Timestamp) {
    EFFECTS.with_borrow_mut(|effects| {
        effects.set = Some(timers::set);
        effects.timers.push((Timing::Set, Timer { device, tag, at }));
    });
}

pub(crate) fn cancel_timer(device: Device, tag: u32) {
    EFFECTS.with_borrow_mut(|effects| {
        effects.cancel = Some(timers::cancel);
        effects.timers.push((Timing::Cancel, Timer { device, tag, at: 0 }));
    });
}
