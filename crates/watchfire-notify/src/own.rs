//! What the engine has to tell of itself: a receiver that takes nothing, or refuses what it is sent; a sink that gets
//! nothing through.
//!
//! Once for each time that it happens: the id of the notice follows from since when it is so, and who was told is
//! kept, so that a restart does not tell it again, and it is told again only after it was over. The notice goes where
//! routes send an alert of its name with its label; where they send it to nobody, or to nobody else than who takes
//! nothing, to the first other receiver by name.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use watchfire_model::{Duration, Severity, Timestamp};
use watchfire_store::deliveries::Waiting;
use watchfire_store::stand_ins::GivenUp;
use watchfire_store::{Flush, LabelSet, NewDelivery, Store, StoreError};

use crate::channel::payload::own_message;
use crate::stages::plan::Settings;

/// What waits for longer is not on its way any more: many times the longest wait between two attempts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// What a receiver refused for good, or let expire, is told of until nothing more was for so long.
pub(crate) const LATELY: Duration = Duration::from_secs(3600);

/// Something about the engine itself that somebody has to know, for as long as it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it is about, such as the receiver or the sink: the value of the label that the kind names.
    pub about: String,
    /// Since when.
    pub since: Timestamp,
    /// For people.
    pub text: String,
}

/// A kind of notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoticeKind {
    /// The name of the alert, such as `watchfire-sink`.
    pub name: &'static str,
    /// The label that says what it is about.
    pub label: &'static str,
    /// What is said once it is over, behind what it is about.
    pub over: &'static str,
    /// How bad it is.
    pub severity: Severity,
}

const UNDELIVERED: NoticeKind = NoticeKind {
    name: "watchfire-undelivered",
    label: "receiver",
    over: "takes again what it is sent",
    severity: Severity::Major,
};

const REFUSED: NoticeKind = NoticeKind {
    name: "watchfire-refused",
    label: "receiver",
    over: "has refused nothing for an hour",
    severity: Severity::Major,
};

/// Whoever was kept from being told is told again from then on.
pub(crate) const SILENCE_ENDS: NoticeKind = NoticeKind {
    name: "watchfire-silence",
    label: "silence",
    over: "holds no more, or for longer",
    severity: Severity::Info,
};

/// What other parts of the engine have to tell, by kind. A kind of which nobody said anything yet is not known to be
/// over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<BTreeMap<&'static str, (NoticeKind, Vec<Notice>)>>>);

impl Board {
    pub fn set(&self, kind: NoticeKind, notices: Vec<Notice>) {
        self.lock().insert(kind.name, (kind, notices));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, (NoticeKind, Vec<Notice>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was told and is not over, by the name of its kind and what it is about.
#[derive(Debug)]
pub(crate) struct Own {
    board: Board,
    /// `None`: not read from the store yet.
    told: Option<BTreeMap<String, Told>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    name: String,
    about: String,
    since: Timestamp,
}

/// The setting that keeps it over restarts: JSON.
const SETTING: &str = "notify.own";

impl Own {
    /// Nothing is known of yet.
    pub fn new(board: Board) -> Self {
        Self { board, told: None }
    }

    /// What the notifier itself has to tell, all of one kind as of now.
    pub fn set(&self, kind: NoticeKind, notices: Vec<Notice>) {
        self.board.set(kind, notices);
    }

    /// Looks at what waits and at what others have to tell; tells what is new, and what is over.
    pub async fn look(
        &mut self,
        store: &Store,
        settings: &Settings,
        waiting: &[Waiting],
        given_up: &[GivenUp],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let late = |waits: &&Waiting| {
            settings.receivers.contains_key(&waits.receiver) && waits.oldest + PATIENCE < now
        };
        let late: Vec<&Waiting> = waiting.iter().filter(late).collect();
        let silent: HashSet<&str> = late.iter().map(|waits| waits.receiver.as_str()).collect();
        let undelivered = late.iter().map(|waits| Notice {
            about: waits.receiver.clone(),
            since: waits.oldest,
            text: format!(
                "{} has taken nothing since {}: {} deliveries wait for it",
                waits.receiver, waits.oldest, waits.pending
            ),
        });
        // Whoever refuses one message may well take another: it is not kept from being told of others.
        let refused = given_up.iter().filter(|one| settings.receivers.contains_key(&one.receiver));
        let refused = refused.map(|one| Notice {
            about: one.receiver.clone(),
            since: one.since,
            text: format!(
                "{} will not be told of {} deliveries that were refused for good or expired{}",
                one.receiver,
                one.count,
                one.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default()
            ),
        });
        let mut all = vec![(UNDELIVERED, undelivered.collect()), (REFUSED, refused.collect())];
        all.extend(self.board.lock().values().cloned());
        let told = match &mut self.told {
            Some(told) => told,
            None => {
                let kept = store.setting(SETTING).await?;
                self.told.insert(kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
            }
        };
        let mut flush = Flush::default();
        let mut now_told = told.clone();
        for (kind, notices) in &all {
            let key = |about: &str| format!("{} {about}", kind.name);
            for notice in notices.iter().filter(|notice| !told.contains_key(&key(&notice.about))) {
                let to = others(settings, kind, &notice.about, &silent);
                tell(&mut flush, settings, &to, kind, notice, None, store).await?;
                let entry = Told { name: kind.name.into(), about: notice.about.clone(), since: notice.since };
                now_told.insert(key(&notice.about), entry);
            }
            let standing: HashSet<&str> = notices.iter().map(|notice| notice.about.as_str()).collect();
            let over = told
                .values()
                .filter(|entry| entry.name == kind.name && !standing.contains(entry.about.as_str()));
            for entry in over {
                let to = others(settings, kind, &entry.about, &silent);
                let text = format!("{} {}", entry.about, kind.over);
                let notice = Notice { about: entry.about.clone(), since: entry.since, text };
                tell(&mut flush, settings, &to, kind, &notice, Some(now), store).await?;
                now_told.remove(&key(&entry.about));
            }
        }
        if !flush.deliveries.is_empty() {
            store.apply_flush(&flush, now).await?;
        }
        if now_told != *told {
            let text = serde_json::to_string(&now_told).unwrap_or_default();
            store.set_setting(SETTING, Some(&text)).await?;
            *told = now_told;
        }
        Ok(())
    }
}

fn labels(kind: &NoticeKind, about: &str) -> LabelSet {
    let severity = kind.severity.as_str();
    [("alertname", kind.name), ("rule", kind.name), (kind.label, about), ("severity", severity)]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into()
}

/// Who is told: not who takes nothing, and nobody of himself.
fn others(settings: &Settings, kind: &NoticeKind, about: &str, silent: &HashSet<&str>) -> Vec<String> {
    let can = |other: &str| {
        let itself = kind.label == UNDELIVERED.label && other == about;
        !silent.contains(other) && !itself
    };
    let routed = settings.router.route(&labels(kind, about)).into_iter().map(|target| target.receiver);
    let mut routed: Vec<String> = routed.filter(|other| can(other)).collect();
    routed.sort();
    routed.dedup();
    if routed.is_empty() {
        routed.extend(settings.receivers.keys().filter(|other| can(other)).min().cloned());
    }
    routed
}

async fn tell(
    flush: &mut Flush,
    settings: &Settings,
    to: &[String],
    kind: &NoticeKind,
    notice: &Notice,
    until: Option<Timestamp>,
    store: &Store,
) -> Result<(), StoreError> {
    let Notice { about, since, text } = notice;
    match until {
        None => tracing::error!(kind = kind.name, about, "{text}"),
        Some(_) => tracing::info!(kind = kind.name, about, "{text}"),
    }
    for other in to {
        let public_url = settings.public_url.as_deref();
        let message = own_message(other, public_url, kind.label, labels(kind, about), text, *since, until);
        let id = format!("{}-{about}-{}-{other}-{}", kind.name, since.0, message.status);
        // The life before this one may have told it.
        match store.delivery(&id).await {
            Err(StoreError::NotFound { .. }) => flush.deliveries.push(NewDelivery {
                id,
                receiver: other.clone(),
                group_key: message.group_key.clone(),
                status: message.status.clone(),
                reason: message.notification_reason.clone(),
                payload: serde_json::to_string(&message).unwrap_or_default(),
                alerts: Vec::new(),
                caused_at: None,
            }),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
