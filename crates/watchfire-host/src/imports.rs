//! The host functions, an interface each. Every one begins by [`crate::data::Data::enter`], which counts the
//! call and refuses it where the contract does.

mod alerts;
mod config;
mod devices;
mod output;
mod readings;
mod state;
mod timers;

use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker};
use watchfire_model::Value;
use watchfire_model::call::Level;

use crate::bindings;
use crate::data::{Data, Need};

/// Everything that a module may import.
pub(crate) fn link(linker: &mut Linker<Data>) -> Result<()> {
    readings::link(linker)?;
    bindings::types::add_to_linker::<Data, HasSelf<Data>>(linker, |data| data)?;
    bindings::clock::add_to_linker::<Data, HasSelf<Data>>(linker, |data| data)?;
    bindings::devices::add_to_linker::<Data, HasSelf<Data>>(linker, |data| data)?;
    bindings::alerts::add_to_linker::<Data, HasSelf<Data>>(linker, |data| data)?;
    bindings::output::add_to_linker::<Data, HasSelf<Data>>(linker, |data| data)?;
    bindings::state::add_to_linker::<Data, HasSelf<Data>>(linker, |data| data)?;
    bindings::timers::add_to_linker::<Data, HasSelf<Data>>(linker, |data| data)?;
    bindings::config::add_to_linker::<Data, HasSelf<Data>>(linker, |data| data)?;
    bindings::log::add_to_linker::<Data, HasSelf<Data>>(linker, |data| data)
}

impl bindings::types::Host for Data {}

impl bindings::clock::Host for Data {
    fn now(&mut self) -> Result<i64> {
        self.enter("clock.now", Need::Callback)?;
        Ok(self.context()?.now.0)
    }
}

impl bindings::log::Host for Data {
    fn write(&mut self, level: bindings::log::Level, message: String) -> Result<()> {
        self.enter("log.write", Need::Nothing)?;
        let level = match level {
            bindings::log::Level::Debug => Level::Debug,
            bindings::log::Level::Info => Level::Info,
            bindings::log::Level::Warn => Level::Warn,
            bindings::log::Level::Error => Level::Error,
        };
        self.log(level, message);
        Ok(())
    }
}

fn from_guest(value: bindings::types::Value) -> Value {
    match value {
        bindings::types::Value::Number(number) => Value::Number(number),
        bindings::types::Value::Text(text) => Value::Text(text),
        bindings::types::Value::Boolean(flag) => Value::Boolean(flag),
    }
}

fn to_guest(value: Value) -> bindings::types::Value {
    match value {
        Value::Number(number) => bindings::types::Value::Number(number),
        Value::Text(text) => bindings::types::Value::Text(text),
        Value::Boolean(flag) => bindings::types::Value::Boolean(flag),
    }
}

/// Bytes that a value takes, for the output limit.
fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len() + 8,
        Value::Number(_) | Value::Boolean(_) => 8,
    }
}
