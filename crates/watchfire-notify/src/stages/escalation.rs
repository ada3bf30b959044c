//! Escalation: who is told next where nobody acknowledges an alert.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use watchfire_model::{Duration, Timestamp};

/// Steps that a route names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EscalationConfig {
    /// Unique.
    pub name: String,
    /// In order; each begins to wait when the one before it was taken.
    pub steps: Vec<StepConfig>,
    /// How often all steps are gone through again while still nobody acknowledges. Default 0.
    #[serde(default)]
    pub repeat: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepConfig {
    /// How long nobody must have acknowledged since the step before, or since the alert was told.
    pub after: Duration,
    /// Who is told then, beside those who know.
    pub receivers: Vec<String>,
}

impl EscalationConfig {
    /// Says what is wrong, if anything is. `known`: whether there is such a receiver.
    pub fn check(&self, known: impl Fn(&str) -> bool) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("has no name".into());
        }
        if self.steps.is_empty() {
            return Err("has no steps".into());
        }
        for (i, step) in self.steps.iter().enumerate() {
            if step.after == Duration::ZERO {
                return Err(format!("steps[{i}].after: is above 0s"));
            }
            if step.receivers.is_empty() {
                return Err(format!("steps[{i}].receivers: names nobody"));
            }
            if let Some(unknown) = step.receivers.iter().find(|name| !known(name)) {
                return Err(format!("steps[{i}].receivers: there is no receiver {unknown:?}"));
            }
        }
        Ok(())
    }

    /// How many steps there are with all repetitions.
    fn all(&self) -> u64 {
        self.steps.len() as u64 * (u64::from(self.repeat) + 1)
    }
}

/// How far the escalation of each alert of a group is, by the id of the alert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Progress(BTreeMap<String, Waiting>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    /// The next step, counted over repetitions.
    step: u64,
    due: Timestamp,
}

/// A step whose time has come, for one alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The alert.
    pub alert: String,
    /// Which step, from 0.
    pub step: usize,
    /// Who is told.
    pub receivers: Vec<String>,
}

impl Progress {
    /// The alert was told and nobody acknowledged it: waiting begins, unless it has begun.
    pub fn begin(&mut self, config: &EscalationConfig, alert: &str, now: Timestamp) {
        if let Some(first) = config.steps.first() {
            self.0.entry(alert.to_string()).or_insert(Waiting { step: 0, due: now + first.after });
        }
    }

    /// It was acknowledged, or is over.
    pub fn stop(&mut self, alert: &str) {
        self.0.remove(alert);
    }

    /// Takes the steps that are due by now, one for each alert at most: after a long stand-still people are told step
    /// by step, not all at once.
    pub fn take(&mut self, config: &EscalationConfig, now: Timestamp) -> Vec<Due> {
        let mut due = Vec::new();
        self.0.retain(|alert, waiting| {
            if waiting.due > now {
                return true;
            }
            // The configuration may have lost steps meanwhile.
            if waiting.step >= config.all() {
                return false;
            }
            let step = (waiting.step % config.steps.len() as u64) as usize;
            due.push(Due { alert: alert.clone(), step, receivers: config.steps[step].receivers.clone() });
            waiting.step += 1;
            let next = (waiting.step % config.steps.len() as u64) as usize;
            waiting.due = now + config.steps[next].after;
            waiting.step < config.all()
        });
        due
    }

    /// The clock was set back by so much.
    pub fn set_back(&mut self, by: Duration) {
        self.0.values_mut().for_each(|waiting| waiting.due = waiting.due - by);
    }

    /// When a step is due next.
    pub fn next(&self) -> Option<Timestamp> {
        self.0.values().map(|waiting| waiting.due).min()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    fn config(more: &str) -> EscalationConfig {
        toml::from_str(&format!(
            "name = \"plant\"\n{more}\n[[steps]]\nafter = \"5m\"\nreceivers = [\"lead\"]\n[[steps]]\nafter = \"10m\"\n\
             receivers = [\"lead\", \"head\"]"
        ))
        .unwrap()
    }

    fn told(due: &[Due]) -> Vec<(&str, usize, usize)> {
        due.iter().map(|due| (due.alert.as_str(), due.step, due.receivers.len())).collect()
    }

    #[test]
    fn steps_come_one_after_the_other_until_somebody_acknowledges() {
        let (config, mut progress) = (config(""), Progress::default());
        progress.begin(&config, "a", at(0));
        progress.begin(&config, "b", at(100));
        progress.begin(&config, "a", at(200));
        assert_eq!(progress.next(), Some(at(300)));
        assert_eq!(progress.take(&config, at(299)), []);
        assert_eq!(told(&progress.take(&config, at(300))), [("a", 0, 1)]);
        progress.stop("b");
        assert_eq!(progress.next(), Some(at(900)));
        assert_eq!(told(&progress.take(&config, at(900))), [("a", 1, 2)]);
        assert!(progress.is_empty());
    }

    #[test]
    fn they_are_gone_through_again_where_that_is_said() {
        let (config, mut progress) = (config("repeat = 1"), Progress::default());
        progress.begin(&config, "a", at(0));
        let mut steps = Vec::new();
        while let Some(next) = progress.next() {
            steps.extend(progress.take(&config, next).iter().map(|due| (next.0 / 60_000_000, due.step)));
        }
        assert_eq!(steps, [(5, 0), (15, 1), (20, 0), (30, 1)]);
        // Steps that are gone from the configuration are not taken.
        progress.begin(&config, "a", at(0));
        progress.take(&config, at(300));
        let shorter = EscalationConfig { steps: config.steps[..1].to_vec(), repeat: 0, ..config };
        assert_eq!(progress.take(&shorter, at(90_000)), []);
        assert!(progress.is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let known = |name: &str| name != "head";
        assert!(
            config("")
                .check(known)
                .unwrap_err()
                .contains("steps[1].receivers: there is no receiver \"head\"")
        );
        assert_eq!(config("").check(|_| true), Ok(()));
        let empty = EscalationConfig { steps: Vec::new(), ..config("") };
        assert!(empty.check(|_| true).unwrap_err().contains("no steps"));
    }
}
