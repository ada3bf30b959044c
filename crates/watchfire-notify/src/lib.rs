//! Who is told of an alert, over what, and the workers that see every delivery through.
//!
//! ```text
//!  store: transition + outbox row
//!      |  flush: one transaction evaluates the routes of that moment, writes the deliveries with their
//!      |  ids, the groups with their timers, and marks the outbox rows          (flush.rs, stages/)
//!  store: deliveries
//!      |  a worker for each receiver: in order per group, retried until delivered, refused or expired
//!      |                                                                        (lane.rs, channel/)
//!  receiver
//! ```
//!
//! What holds, whenever the process dies:
//!
//! * every transition that has a route becomes a delivery, once: the mark and the delivery are one
//!   transaction;
//! * every attempt of a delivery carries the same id and the same body;
//! * within a receiver and group, notices go out in the order of what they tell: a resolve never before its
//!   firing, and only to those for whom a delivery of the firing was made. An alert that is raised and
//!   resolved before anything was sent is told as two notices, in order. (A firing that the receiver
//!   refused for good, or that expired, does not keep its resolve back.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use watchfire_log::Clock;
use watchfire_store::{Store, StoreError};

mod backoff;
mod backwards;
pub mod channel;
pub mod config;
pub mod export;
mod flush;
mod health;
mod ids;
pub mod import;
mod lane;
mod links;
pub mod matcher;
pub mod message;
mod own;
mod resend;
pub mod stages;
mod stand_in;
mod turning;

pub use channel::{Outcome, Retry};
pub use health::ReceiverHealth;
pub use links::Links;
pub use own::{Notice, NoticeKind};

pub use config::{ConfigError, NotifyConfig, ReceiverConfig, RouteConfig, WebhookConfig};

use backwards::Backwards;
use channel::{Channel, Delivering, Kept};
use health::Health;
use stages::fleet::Fleet;
use stages::plan::Settings;
use stages::storm::Standing;
use turning::Turning;

/// Notification could not begin, or could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The configuration cannot be used.
    #[error("the configuration of receivers and routes cannot be used")]
    Config(#[from] ConfigError),
    /// The store refused.
    #[error("notification cannot read the store")]
    Store(#[from] StoreError),
    /// There is no such receiver.
    #[error("there is no receiver {0:?}")]
    UnknownReceiver(String),
}

/// A configuration that was checked, with everything built that it needs: the first step of a reload.
#[derive(Debug)]
pub struct Prepared {
    config: NotifyConfig,
    settings: Arc<Settings>,
    channels: HashMap<String, Channel>,
}

impl Prepared {
    /// Checks a configuration and builds what it needs. Changes nothing and connects to nothing.
    pub fn new(config: NotifyConfig) -> Result<Self, ConfigError> {
        let settings = Arc::new(Settings::new(&config)?);
        let mut channels = HashMap::new();
        for receiver in &config.receivers {
            let channel = Channel::new(receiver)
                .map_err(|fault| ConfigError { place: format!("receiver {:?}", receiver.name), fault })?;
            channels.insert(receiver.name.clone(), channel);
        }
        Ok(Self { config, settings, channels })
    }
}

/// What a receiver is, for lists.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ReceiverInfo {
    /// Its name.
    pub name: String,
    /// Such as `webhook`.
    pub channel: &'static str,
    /// How it does.
    pub health: ReceiverHealth,
}

/// What came of a test message.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TestResult {
    /// The receiver took it.
    pub delivered: bool,
    /// The HTTP status, where there was an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The beginning of what it answered, where it said anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// How long it took.
    pub took: watchfire_model::Duration,
}

struct Running {
    config: ReceiverConfig,
    channel: Channel,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    turning: Turning,
    health: Health,
}

#[derive(Default)]
struct State {
    config: NotifyConfig,
    lanes: HashMap<String, Running>,
    flush: Option<JoinHandle<()>>,
}

/// Notification, running.
pub struct Notifier {
    store: Store,
    clock: Arc<dyn Clock>,
    settings: watch::Sender<Arc<Settings>>,
    stop: watch::Sender<bool>,
    notices: own::Board,
    links: Option<Arc<dyn Links>>,
    storms: watch::Receiver<Arc<Standing>>,
    turning: Turning,
    state: Mutex<State>,
}

impl Notifier {
    /// Begins: reads the groups, and goes on with what is not routed and not delivered yet. Must be called
    /// within a tokio runtime.
    pub async fn start(
        store: Store,
        config: NotifyConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, NotifyError> {
        Self::start_with_links(store, config, clock, None).await
    }

    /// As [`Notifier::start`]; messages have links with which whoever gets them acts on the alert.
    pub async fn start_with_links(
        store: Store,
        config: NotifyConfig,
        clock: Arc<dyn Clock>,
        links: Option<Arc<dyn Links>>,
    ) -> Result<Self, NotifyError> {
        let prepared = Prepared::new(config)?;
        let settings = watch::Sender::new(prepared.settings.clone());
        let stop = watch::Sender::new(false);
        let notices = own::Board::default();
        let (storms_now, storms) = watch::channel(Arc::default());
        let flush = flush::Flusher {
            store: store.clone(),
            clock: clock.clone(),
            settings: settings.subscribe(),
            stop: stop.subscribe(),
            own: own::Own::new(notices.clone()),
            groups: None,
            storms: storms_now,
            fleet: Fleet::default(),
            counted: None,
            configured: None,
            turning: Turning::new(),
            backwards: Backwards::new(&*clock),
            looked: HashMap::new(),
        };
        let turning = flush.turning.clone();
        let state = Mutex::default();
        let notifier = Self { store, clock, settings, stop, notices, links, storms, turning, state };
        notifier.apply(prepared);
        notifier.lock().flush = Some(tokio::spawn(flush.run()));
        Ok(notifier)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The second step of a reload: what was prepared takes over. Workers of receivers that did not change
    /// go on; one that changed begins when the old one has ended, so that order is kept. Deliveries to a
    /// receiver that is gone wait until it is back or they expire.
    pub fn apply(&self, prepared: Prepared) {
        let Prepared { config, mut settings, channels } = prepared;
        Arc::make_mut(&mut settings).links = self.links.clone();
        let mut state = self.lock();
        let mut old = std::mem::take(&mut state.lanes);
        for receiver in &config.receivers {
            let name = receiver.name.clone();
            let Some(channel) = channels.get(&name) else { continue };
            let before = match old.remove(&name) {
                // What is said again has links in it.
                Some(lane)
                    if lane.config == *receiver
                        && (lane.channel.resends().is_none()
                            || state.config.public_url == config.public_url) =>
                {
                    state.lanes.insert(name, lane);
                    continue;
                }
                before => before,
            };
            let stop = watch::Sender::new(false);
            let turning = Turning::new();
            let health = Health::default();
            let lane = lane::Lane {
                health: health.clone(),
                config: receiver.clone(),
                channel: channel.clone(),
                public_url: config.public_url.clone(),
                store: self.store.clone(),
                clock: self.clock.clone(),
                stop: stop.subscribe(),
                turning: turning.clone(),
            };
            let task = tokio::spawn(async move {
                if let Some(before) = before {
                    before.stop.send_replace(true);
                    let _ = before.task.await;
                }
                lane.run().await;
            });
            let (config, channel) = (receiver.clone(), channel.clone());
            state.lanes.insert(name, Running { config, channel, stop, task, turning, health });
        }
        for lane in old.into_values() {
            lane.stop.send_replace(true);
        }
        state.config = config;
        drop(state);
        self.settings.send_replace(settings);
    }

    /// Checks a configuration and goes on with it; an error leaves the running one untouched.
    pub fn reload(&self, config: NotifyConfig) -> Result<(), ConfigError> {
        self.apply(Prepared::new(config)?);
        Ok(())
    }

    /// What a part of the engine has to tell of itself, all of one kind as of now: what is new is told, and so is
    /// that something is over.
    pub fn set_notices(&self, kind: NoticeKind, notices: Vec<Notice>) {
        self.notices.set(kind, notices);
    }

    /// Who went round least lately, routing (`None`) or the worker of a receiver, and how long ago. Each does at least
    /// every few seconds, unless the store does not answer or the process does not come to it.
    pub fn slowest(&self) -> (Option<String>, Duration) {
        let state = self.lock();
        let lanes = state.lanes.iter().map(|(name, lane)| (Some(name.clone()), lane.turning.since()));
        let all = lanes.chain([(None, self.turning.since())]);
        all.max_by_key(|(_, since)| *since).unwrap_or_default()
    }

    /// The receivers.
    pub fn receivers(&self) -> Vec<ReceiverInfo> {
        let state = self.lock();
        let info = |receiver: &ReceiverConfig| {
            let lane = state.lanes.get(&receiver.name);
            ReceiverInfo {
                name: receiver.name.clone(),
                channel: lane.map(|lane| lane.channel.name()).unwrap_or_default(),
                health: lane.map(|lane| lane.health.look()).unwrap_or_default(),
            }
        };
        state.config.receivers.iter().map(info).collect()
    }

    /// The configuration that is in force.
    pub fn config(&self) -> NotifyConfig {
        self.lock().config.clone()
    }

    /// What decisions depend on now; another value once another configuration is in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// The storms that hold alerts now.
    pub fn storms(&self) -> Arc<Standing> {
        self.storms.borrow().clone()
    }

    /// Sends a message that says that it is a test. One attempt, beside the ledger.
    pub async fn test_receiver(&self, name: &str) -> Result<TestResult, NotifyError> {
        let (channel, public_url) = {
            let state = self.lock();
            let lane = state.lanes.get(name).ok_or_else(|| NotifyError::UnknownReceiver(name.into()))?;
            (lane.channel.clone(), state.config.public_url.clone())
        };
        let now = self.clock.wall();
        let message = channel::payload::test_message(name, public_url.as_deref(), now);
        let body = serde_json::to_string(&message).unwrap_or_default();
        let started = Instant::now();
        let id = format!("test-{}", now.0);
        let kept = Kept::default();
        let delivering = Delivering { id: &id, payload: &body, now, thread: &kept };
        let (outcome, answer) = watchfire_outbound::heard(channel.send(&delivering)).await;
        let took = started.elapsed().into();
        Ok(match outcome {
            Outcome::Delivered { status } => {
                TestResult { delivered: true, status: Some(status), error: None, answer, took }
            }
            Outcome::Failed { status, error, .. } => {
                TestResult { delivered: false, status, error: Some(error), answer, took }
            }
        })
    }

    /// Ends: what is under way is given five seconds and recorded; the rest waits in the store. Whatever
    /// was committed before is routed first, as far as two seconds allow.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let (flush, lanes) = {
            let mut state = self.lock();
            (state.flush.take(), std::mem::take(&mut state.lanes))
        };
        if let Some(flush) = flush {
            let _ = tokio::time::timeout(Duration::from_secs(2), flush).await;
        }
        for lane in lanes.values() {
            lane.stop.send_replace(true);
        }
        for lane in lanes.into_values() {
            let _ = lane.task.await;
        }
    }
}

impl Drop for Notifier {
    /// Without [`Notifier::stop`] everything ends where it stands, as in a crash: the store has the rest.
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let state = self.lock();
        if let Some(flush) = &state.flush {
            flush.abort();
        }
        for lane in state.lanes.values() {
            lane.task.abort();
        }
    }
}
