//! A module of the smallest world: asks for state in `describe`, and for silence and schedules without
//! exporting what they come back to.

wit_bindgen::generate!({ path: "../../../wit", world: "rule" });

use exports::watchfire::rule::handler::{Guest, Manifest, Schedule, Silence, Subscription};
use watchfire::rule::{config, state, timers, types};

struct Module;

impl Guest for Module {
    fn describe() -> Manifest {
        // A test turns this text into another of the same length to get a module that behaves.
        let mode = std::hint::black_box("describe-asks-for-state");
        if mode.starts_with("describe-asks") {
            state::load(0, &[]);
        }
        Manifest {
            name: "nosy".into(),
            version: "0.1.0".into(),
            description: String::new(),
            parameters: if mode.starts_with("describe-schema") {
                "{\"type\":7}".into()
            } else {
                String::new()
            },
            state_version: 0,
            extra: None,
        }
    }
    fn start() -> Result<Subscription, String> {
        let wants = |name: &str| matches!(config::get(name), Some(types::Value::Boolean(true)));
        let schedule = Schedule { name: "s".into(), cron: "* * * * *".into(), zone: None };
        Ok(Subscription {
            metrics: vec![],
            silence: if wants("silence") { Silence::Registry } else { Silence::Off },
            schedules: if wants("schedule") { vec![schedule] } else { vec![] },
            extra: None,
        })
    }
    fn on_batch() -> Result<(), String> {
        timers::set(&[]);
        Ok(())
    }
}

export!(Module);
