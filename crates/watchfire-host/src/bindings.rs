//! What `wit/rule.wit` looks like from this side, generated. The interface `readings` is linked by hand
//! (see `imports/readings.rs`): generated code would copy each column once more.

#![allow(missing_docs, clippy::all)]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "full-rule",
    imports: { default: trappable },
});

pub(crate) use exports::watchfire::rule::{
    handler, schedule_handler, silence_handler, state_migration, timer_handler,
};
pub(crate) use watchfire::rule::{
    alerts, clock, config, devices, log, output, readings, state, timers, types,
};
