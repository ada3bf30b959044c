//! What decisions depend on, beside alerts and time.

use std::collections::HashMap;
use std::sync::Arc;

use watchfire_store::LabelSet;

use crate::Links;
use crate::config::{ConfigError, FallbackConfig, NotifyConfig};
use crate::matcher::Matcher;
use crate::stages::escalation::EscalationConfig;
use crate::stages::inhibit::InhibitConfig;
use crate::stages::interval::Intervals;
use crate::stages::notice::Notice;
use crate::stages::route::Router;
use crate::stages::storm::StormConfig;

/// What decisions depend on, beside alerts and time.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The tree of routes.
    pub router: Router,
    /// The base of links.
    pub public_url: Option<String>,
    /// What makes the links of messages.
    pub links: Option<Arc<dyn Links>>,
    /// By name.
    pub receivers: HashMap<String, ReceiverSettings>,
    /// By name.
    pub escalations: HashMap<String, EscalationConfig>,
    /// The time intervals that routes name.
    pub intervals: Intervals,
    /// What inhibits what.
    pub inhibit: Vec<InhibitConfig>,
    /// What is one storm.
    pub storms: Vec<StormConfig>,
}

/// What decisions depend on of a receiver.
#[derive(Clone, Debug)]
pub struct ReceiverSettings {
    /// How many alerts one message lists.
    pub max_alerts: usize,
    /// How many messages it is sent in a minute; `None`: any number.
    pub max_per_minute: Option<usize>,
    /// Alerts that the bound does not hold back: any of these lists of matchers.
    pub bypass: Vec<Vec<Matcher>>,
    /// It is told of what people did to an alert.
    pub responses: bool,
    /// Who is told instead once something waits for it for too long.
    pub fallback: Option<FallbackConfig>,
}

impl Settings {
    /// Those of a configuration.
    pub fn new(config: &NotifyConfig) -> Result<Self, ConfigError> {
        let router = Router::new(config)?;
        let place = |name: &str| format!("receiver {name:?}.bypass");
        let mut receivers = HashMap::new();
        for receiver in &config.receivers {
            let bypass = receiver.bypass.iter().map(|all| all.iter().map(|text| text.parse()).collect());
            let bypass = bypass
                .collect::<Result<_, _>>()
                .map_err(|fault| ConfigError { place: place(&receiver.name), fault })?;
            receivers.insert(
                receiver.name.clone(),
                ReceiverSettings {
                    max_alerts: receiver.max_alerts,
                    max_per_minute: receiver.max_per_minute(),
                    bypass,
                    responses: receiver.tells_responses(),
                    fallback: receiver.fallback.clone(),
                },
            );
        }
        Ok(Self {
            router,
            public_url: config.public_url.clone(),
            links: None,
            receivers,
            escalations: config.escalations.iter().map(|one| (one.name.clone(), one.clone())).collect(),
            intervals: Intervals::new(&config.time_intervals)
                .map_err(|fault| ConfigError { place: "time_interval".into(), fault })?,
            inhibit: config.inhibit.clone(),
            storms: config.storms.clone(),
        })
    }
}

impl ReceiverSettings {
    pub(super) fn bypasses(&self, notice: &Notice) -> bool {
        self.lets_through(&notice.labels)
    }

    /// Whether the bound on messages does not hold back what has these labels.
    pub fn lets_through(&self, labels: &LabelSet) -> bool {
        self.bypass.iter().any(|all| all.iter().all(|matcher| matcher.matches(labels)))
    }
}
