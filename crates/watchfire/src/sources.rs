//! The sources that connect to services by themselves: started, watched, and asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watchfire_api::contract::SourceInfo;
use watchfire_ingest::board::State;
#[cfg(feature = "kafka")]
use watchfire_ingest::kafka::{self, KafkaSource};
use watchfire_ingest::mqtt_source::{self, MqttSource};
use watchfire_ingest::{Intake, Source, UnknownDevices};
use watchfire_log::Clock;
use watchfire_model::{Duration, Severity, Timestamp};
use watchfire_notify::{Notice, NoticeKind, Notifier};

use crate::config::SourceConfig;

/// How often it is looked whether somebody has to be told.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

/// What is told of a source that gets nothing.
const KIND: NoticeKind =
    NoticeKind { name: "watchfire-source", label: "source", over: "reads again", severity: Severity::Major };

/// The running sources, each with how long it may get nothing before that is told.
pub struct RunningSources {
    #[cfg(feature = "kafka")]
    kafka: Option<(Arc<KafkaSource>, Duration)>,
    mqtt: Option<(Arc<MqttSource>, Duration)>,
    stop: CancellationToken,
}

impl RunningSources {
    /// Starts what is enabled. `source` gives one of a name its policies. A service that cannot be reached is no error: it
    /// is tried again.
    pub fn start(
        config: &SourceConfig,
        source: impl Fn(&str, UnknownDevices) -> Source,
        intake: &Arc<Intake>,
    ) -> Result<Self> {
        #[cfg(feature = "kafka")]
        let kafka = match &config.kafka {
            options if options.enabled => {
                let source = source(kafka::NAME, options.unknown_devices);
                let started = KafkaSource::start(options.clone(), source, intake.clone());
                Some((started.context("[source.kafka]")?, options.alert_after))
            }
            _ => None,
        };
        let mqtt = match &config.mqtt {
            options if options.enabled => {
                let source = source(mqtt_source::NAME, options.unknown_devices);
                let started = MqttSource::start(options.clone(), source, intake.clone());
                Some((started.context("[source.mqtt]")?, options.alert_after))
            }
            _ => None,
        };
        Ok(Self {
            #[cfg(feature = "kafka")]
            kafka,
            mqtt,
            stop: CancellationToken::new(),
        })
    }

    /// What each is at, and its patience.
    fn states(&self) -> Vec<(&'static str, State, Duration)> {
        let mut states = Vec::new();
        #[cfg(feature = "kafka")]
        states.extend(self.kafka.iter().map(|(source, patience)| (kafka::NAME, source.state(), *patience)));
        states.extend(
            self.mqtt.iter().map(|(source, patience)| (mqtt_source::NAME, source.state(), *patience)),
        );
        states
    }

    /// Each, with how it does.
    pub fn list(&self) -> Vec<SourceInfo> {
        let info = |(name, state, _): (&str, State, Duration)| {
            let (state, reason) = match state {
                State::Starting => ("starting", None),
                State::Running => ("running", None),
                State::Waiting(reason) => ("waiting", Some(reason)),
                State::Stopped(reason) => ("stopped", Some(reason)),
            };
            SourceInfo { name: name.into(), state: state.into(), reason }
        };
        self.states().into_iter().map(info).collect()
    }

    /// Tells of sources that get nothing for long.
    pub fn watch(self: &Arc<Self>, notifier: Arc<Notifier>, clock: Arc<dyn Clock>) -> JoinHandle<()> {
        let this = self.clone();
        tokio::spawn(async move {
            let mut silent = BTreeMap::new();
            loop {
                tokio::select! {
                    () = this.stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => this.look(&mut silent, &notifier, clock.wall()),
                }
            }
        })
    }

    /// `silent`: since when a source gets nothing.
    fn look(&self, silent: &mut BTreeMap<&'static str, Timestamp>, notifier: &Notifier, now: Timestamp) {
        let mut notices = Vec::new();
        let states = self.states();
        let mut known = !states.is_empty();
        for (name, state, patience) in states {
            let (reason, patience) = match state {
                State::Running => {
                    silent.remove(name);
                    continue;
                }
                State::Starting => ("it is not connected yet".to_string(), patience),
                State::Waiting(reason) => (reason, patience),
                // It does not pass by itself: nothing is waited for.
                State::Stopped(reason) => (reason, Duration::ZERO),
            };
            let since = *silent.entry(name).or_insert(now);
            if since + patience > now {
                // It may have been told of in the life before, and is not over.
                known = false;
                continue;
            }
            let text = format!("the source {name} has got nothing since {since}: {reason}");
            notices.push(Notice { about: name.into(), since, text });
        }
        if known {
            notifier.set_notices(KIND, notices);
        }
    }

    /// Ends them; what they have taken is durable then, as far as that is possible.
    pub async fn stop(&self) {
        self.stop.cancel();
        if let Some((mqtt, _)) = &self.mqtt {
            mqtt.stop().await;
        }
        #[cfg(feature = "kafka")]
        if let Some((kafka, _)) = &self.kafka {
            kafka.stop().await;
        }
    }
}
