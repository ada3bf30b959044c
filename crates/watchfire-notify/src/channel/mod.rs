//! How somebody is told: one file for each channel. A channel makes one attempt and says what came of it;
//! when and how often is the business of the [`lane`](crate::lane).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use watchfire_model::{Duration, Secret, Timestamp};
use watchfire_outbound::Target;
pub use watchfire_store::deliveries::Thread;

use crate::config::ReceiverConfig;

pub mod alertmanager;
pub mod email;
mod event;
pub mod kafka;
pub mod mqtt;
pub mod ntfy;
pub mod pagerduty;
pub mod payload;
pub mod signature;
pub mod slack;
mod smtp;
pub mod teams;
pub mod telegram;
mod template;
pub mod text;
pub mod webhook;

pub use watchfire_outbound::{Outcome, Retry};

/// The longest that a request takes, where a configuration does not say.
pub(crate) fn timeout() -> Duration {
    Duration::from_secs(10)
}

/// Headers of one's own, where a channel has none.
static NO_HEADERS: BTreeMap<String, Secret> = BTreeMap::new();

/// An address that is posted to without headers of one's own.
fn target(url: &Secret, timeout: Duration) -> Target<'_> {
    Target { url, headers: &NO_HEADERS, timeout: timeout.to_std(), reserved: &[] }
}

/// A configuration with secrets in it says nothing of itself when it is printed.
macro_rules! hidden {
    ($name:ident) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("timeout", &self.timeout).finish_non_exhaustive()
            }
        }
    };
}
pub(crate) use hidden;

/// What a channel is to send.
#[derive(Clone, Copy, Debug)]
pub struct Delivering<'a> {
    /// The id of the delivery: the same on every attempt.
    pub id: &'a str,
    /// The body of Alertmanager's webhook, version 4, as JSON.
    pub payload: &'a str,
    /// When the attempt is made.
    pub now: Timestamp,
    /// What the channel keeps of the group.
    pub thread: &'a Kept,
}

/// What a channel keeps of a group from one message to the next.
#[derive(Debug, Default)]
pub struct Kept {
    before: Option<String>,
    after: Mutex<Option<Thread>>,
}

impl Kept {
    /// With what the message before left.
    pub fn new(before: Option<String>) -> Self {
        Self { before, after: Mutex::default() }
    }

    /// What was left by the message before.
    pub fn before(&self) -> Option<&str> {
        self.before.as_deref()
    }

    /// What this message leaves, if it is taken.
    pub fn leave(&self, after: Thread) {
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = Some(after);
    }

    /// What is to be kept from now on; `None`: what was kept before.
    pub fn after(self) -> Option<Thread> {
        self.after.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivering<'_> {
    fn message(&self) -> Result<payload::Message, serde_json::Error> {
        serde_json::from_str(self.payload)
    }
}

/// A client that is made anew where a secret of its may have been changed in its file.
#[derive(Clone)]
struct Renewed<T>(Arc<RwLock<T>>);

impl<T> std::fmt::Debug for Renewed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewed").finish_non_exhaustive()
    }
}

impl<T: Clone> Renewed<T> {
    fn new(made: T) -> Self {
        Self(Arc::new(RwLock::new(made)))
    }

    fn get(&self) -> T {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it cannot be made, the one before counts on.
    fn renew(&self, made: Result<T, String>) {
        if let Ok(made) = made {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = made;
        }
    }
}

/// What is known of deliveries that went out in part, by their ids, for the next attempt. Beyond as many as are kept, or
/// after a restart, a part may go out twice: under one id.
#[derive(Clone, Debug)]
struct Halfway<T>(Arc<Mutex<HashMap<String, T>>>);

const HALFWAY: usize = 1000;

impl<T> Default for Halfway<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Halfway<T> {
    fn take(&self, id: &str) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    fn keep(&self, id: &str, known: T) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= HALFWAY {
            all.clear();
        }
        all.insert(id.to_string(), known);
    }
}

/// The ledger holds what nobody of this version wrote.
fn unreadable() -> Outcome {
    Outcome::Failed { retry: Retry::Never, status: None, error: "the delivery cannot be read".into() }
}

/// A file with a secret is missing: it may be there again later.
fn no_secret(key: &str) -> Outcome {
    Outcome::Failed { retry: Retry::Later(None), status: None, error: format!("{key} cannot be read") }
}

/// Makes of a list of channels what has a line for each: the key in a configuration, the module of that name, its type.
macro_rules! channels {
    ($($(#[$said:meta])* $key:ident: $channel:ident),+ $(,)?) => {
        /// A channel that is ready to be used.
        #[derive(Clone, Debug)]
        pub enum Channel {
            $($(#[$said])* $channel(Box<$key::$channel>),)+
        }

        /// All channels by their keys.
        const KEYS: &[&str] = &[$(stringify!($key)),+];

        /// The channels of a receiver by their keys, those that it has.
        fn given(config: &ReceiverConfig) -> Vec<&'static str> {
            let all = [$((stringify!($key), config.$key.is_some())),+];
            all.into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key).collect()
        }

        /// Says what is wrong with the channels of a receiver, if anything is.
        fn check_given(config: &ReceiverConfig) -> Result<(), String> {
            $(config.$key.as_ref().map_or(Ok(()), $key::check)?;)+
            Ok(())
        }

        impl Channel {
            /// The channel of a receiver. Connects to nothing.
            pub fn new(config: &ReceiverConfig) -> Result<Self, String> {
                $(if let Some(config) = &config.$key {
                    return $key::$channel::new(config).map(Box::new).map(Self::$channel);
                })+
                Err("has no channel".into())
            }

            /// What it is called in a configuration.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$channel(_) => stringify!($key),)+
                }
            }

            /// One attempt.
            pub async fn send(&self, delivering: &Delivering<'_>) -> Outcome {
                match self {
                    $(Self::$channel(channel) => channel.send(delivering).await,)+
                }
            }
        }
    };
}

channels! {
    /// Alertmanager's webhook.
    webhook: Webhook,
    /// E-mail.
    email: Email,
    /// Slack.
    slack: Slack,
    /// Microsoft Teams.
    teams: Teams,
    /// PagerDuty.
    pagerduty: PagerDuty,
    /// Telegram.
    telegram: Telegram,
    /// ntfy.
    ntfy: Ntfy,
    /// A broker that speaks MQTT.
    mqtt: Mqtt,
    /// A topic of Kafka.
    kafka: Kafka,
    /// An Alertmanager, or a cluster of them.
    alertmanager: Alertmanager,
}

impl Channel {
    /// Says what is wrong with the channel of a receiver, if anything is: the key, and the fault.
    pub fn check(config: &ReceiverConfig) -> Result<(), (String, String)> {
        let one = match &given(config)[..] {
            [one] => *one,
            [] => {
                let fault = format!("has no channel: give it one of {}", KEYS.join(", "));
                return Err((String::new(), fault));
            }
            several => {
                let fault = format!("has several channels ({}): make a receiver of each", several.join(", "));
                return Err((String::new(), fault));
            }
        };
        check_given(config).map_err(|fault| (one.to_string(), fault))
    }

    /// How often what stands is to be said again; `None`: never, it is known there until its end is told.
    pub fn resends(&self) -> Option<Duration> {
        match self {
            Self::Alertmanager(alertmanager) => Some(alertmanager.resend_interval()),
            _ => None,
        }
    }
}

/// Whether people read what the channel of a receiver carries, and not a program that bounds it itself.
pub fn is_read(config: &ReceiverConfig) -> bool {
    let chats = config.slack.is_some() || config.teams.is_some() || config.telegram.is_some();
    chats || config.ntfy.is_some() || config.email.is_some()
}

/// Whether a channel shows, where the alert is, what somebody did to it.
pub fn tells_responses(config: &ReceiverConfig) -> bool {
    config.pagerduty.is_some() || config.slack.as_ref().is_some_and(slack::SlackConfig::changes_in_place)
}
