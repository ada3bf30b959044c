//! `config`: the parameters of the rule.

use wasmtime::Result;

use crate::bindings::{config, types};
use crate::data::{Data, Need};

impl config::Host for Data {
    fn get(&mut self, name: String) -> Result<Option<types::Value>> {
        self.enter("config.get", Need::Parameters)?;
        Ok(match self.parameters.get(&name) {
            Some(serde_json::Value::Number(number)) => number.as_f64().map(types::Value::Number),
            Some(serde_json::Value::String(text)) => Some(types::Value::Text(text.clone())),
            Some(serde_json::Value::Bool(flag)) => Some(types::Value::Boolean(*flag)),
            _ => None,
        })
    }

    fn json(&mut self) -> Result<String> {
        self.enter("config.json", Need::Parameters)?;
        Ok(self.parameters.to_string())
    }
}
