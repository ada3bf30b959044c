//! From wasmtime's errors to what the operator reads.

use std::fmt;

use wasmtime::{Trap, WasmBacktrace};
use watchfire_model::Limits;
use watchfire_model::call::{CallFailure, FailureKind, Level, Message};

/// The longest text of a failure: a guest decides about part of it.
const LONGEST: usize = 4096;

/// A host function refused; the guest traps.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

/// The error of a host function that was called against the contract.
pub(crate) fn trap(message: impl Into<String>) -> wasmtime::Error {
    wasmtime::Error::new(Refused { kind: FailureKind::Trapped, message: message.into() })
}

/// The error of a host function that met a limit.
pub(crate) fn over(kind: FailureKind, message: impl Into<String>) -> wasmtime::Error {
    wasmtime::Error::new(Refused { kind, message: message.into() })
}

/// What happened while a call of `rule` (for `what`: the callback and its rows) failed.
pub(crate) fn of_error(
    error: &wasmtime::Error,
    rule: &str,
    what: &str,
    limits: &Limits,
    replay: bool,
    messages: &[Message],
) -> CallFailure {
    let backtrace = || error.downcast_ref::<WasmBacktrace>().map(ToString::to_string).unwrap_or_default();
    let (kind, text) = match (error.downcast_ref::<Refused>(), error.downcast_ref::<Trap>()) {
        (Some(refused), _) => (refused.kind, refused.message.clone()),
        (None, Some(Trap::Interrupt)) => {
            let limit = limits.time.as_secs_f64() * if replay { 10.0 } else { 1.0 };
            (FailureKind::Time, format!("it ran longer than its time limit of {limit} s"))
        }
        (None, Some(Trap::OutOfFuel)) => {
            let limit = limits.fuel.unwrap_or_default();
            (FailureKind::Fuel, format!("it spent its fuel limit of {limit} instructions"))
        }
        (None, Some(Trap::StackOverflow)) => {
            let limit = crate::engine::WASM_STACK >> 10;
            (FailureKind::Stack, format!("it recursed deeper than its stack limit of {limit} KiB"))
        }
        (None, Some(trap)) => {
            // Without a panic's text "unreachable" says nothing; the SDKs log it just before they trap.
            let last = messages.last().filter(|message| message.level == Level::Error);
            let said = last.map(|message| format!(" ({})", message.text)).unwrap_or_default();
            (FailureKind::Trapped, format!("it trapped: {trap}{said}"))
        }
        (None, None) => (FailureKind::Trapped, format!("it trapped: {}", error.root_cause())),
    };
    let mut message = format!("rule {rule}, {what}: {text}");
    let backtrace = backtrace();
    if !backtrace.is_empty() {
        message.push('\n');
        message.push_str(backtrace.trim_end());
    }
    CallFailure::new(kind, cut(message))
}

/// A text cut to the longest that is kept.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
