//! What outlives the process beside the log: alerts and what happened to them, the ledger of deliveries,
//! dead letters, tokens, the audit trail, and the projections of devices, modules and rules.
//!
//! SQLite, in one file: write-ahead log, `synchronous=FULL`, so that what is committed survives a power
//! cut. One connection writes, a few read. No SQL stands outside of this crate; its text keeps to what
//! PostgreSQL takes too (`$1`, `ON CONFLICT`, `RETURNING`) where the two agree.
//!
//! Each noun has a file with its rows and its methods on [`Store`]; [`Store::keeper`] is what the partition
//! loops write alerts through.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use watchfire_log::Clock;
use watchfire_model::alert::AlertKeeper;

pub mod alerts;
pub mod audit;
mod backup;
mod compare;
mod credentials;
mod db;
pub mod dead_letters;
pub mod deliveries;
pub mod devices;
mod error;
mod fold;
mod guesses;
mod keeper;
pub mod labels;
mod link_keys;
pub mod modules;
pub mod outages;
pub mod quality;
pub mod response;
mod responses;
pub mod retention;
pub mod routing;
pub mod rules;
pub mod secrets;
pub mod service;
mod settings;
pub mod silences;
pub mod stand_ins;
pub mod tokens;
mod uses;

pub use alerts::{AlertDetail, AlertFilter, AlertRow, AlertSource, AlertState, EventRow};
pub use audit::{AuditFilter, AuditRow};
pub use credentials::{Checked, CredentialKind, CredentialRow, Revoked};
pub use db::{PAGE, Page};
pub use dead_letters::{
    DeadLetterBounds, DeadLetterFilter, DeadLetterRow, DeadLetterTotals, KeptRows, NewDeadLetter,
};
pub use deliveries::{AttemptRow, DeliveryDetail, DeliveryFilter, DeliveryRow, DeliveryState};
pub use devices::{DeviceFilter, DeviceRow};
pub use error::StoreError;
pub use labels::{LabelSet, fingerprint};
pub use modules::ModuleRow;
pub use quality::{Quality, QualityFilter};
pub use response::{Act, Response, ShelfRow, ShelvePolicy, ShelveUntil, SuppressedAs};
pub use responses::{Done, Expired};
pub use retention::{Retention, Tidied, Tidying};
pub use routing::{
    DecisionRow, Flush, GroupRow, GroupRows, MemberRow, NewDelivery, Outbox, PendingRow, ResponseRow,
};
pub use rules::{RuleRow, RuleState, RuleVersionRow};
pub use secrets::Secret;
pub use service::ServiceRow;
pub use silences::{ForgottenAfter, NewSilence, Silence, SilenceMatcher, SilenceState, SilenceUse};
pub use tokens::{NewToken, Role, TokenRow};

/// The store. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: db::Database,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    keeper: Arc<keeper::Shared>,
    writing: Mutex<Option<JoinHandle<()>>>,
    /// Writes when secrets were last right.
    noting: JoinHandle<()>,
    transitions: watch::Sender<i64>,
    deliveries: watch::Sender<u64>,
    silences: watch::Sender<u64>,
    bounds: Mutex<DeadLetterBounds>,
    verified: secrets::Verified,
    guesses: guesses::Guesses,
    revocations: broadcast::Sender<Revoked>,
    uses: Arc<uses::Uses>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database at `path`, or makes it; a database of an earlier release is brought to the format
    /// of this one, one of a later release is refused. Modules lie in the folder `modules` beside it. Must
    /// be called within a tokio runtime, which then writes what [`Store::keeper`] takes.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let database = db::Database::open(path).await?;
        let (last, generation): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT coalesce(max(sequence), 0) FROM transitions), \
             (SELECT coalesce(max(sequence), 0) FROM deliveries)",
        )
        .fetch_one(database.read())
        .await
        .map_err(StoreError::sql("open the database"))?;
        let keeper = Arc::new(keeper::Shared::default());
        let transitions = watch::Sender::new(last);
        let announce = {
            let transitions = transitions.clone();
            move |sequence| announce(&transitions, sequence)
        };
        let uses = Arc::new(uses::Uses::default());
        let noting = {
            let (uses, database) = (uses.clone(), database.clone());
            tokio::spawn(async move { uses.run(&database).await })
        };
        let writing = tokio::spawn(keeper::run(keeper.clone(), database.clone(), announce));
        Ok(Self {
            inner: Arc::new(Inner {
                database,
                folder,
                clock,
                keeper,
                writing: Mutex::new(Some(writing)),
                noting,
                transitions,
                deliveries: watch::Sender::new(generation as u64),
                silences: watch::Sender::new(0),
                bounds: Mutex::default(),
                verified: secrets::Verified::default(),
                guesses: guesses::Guesses::default(),
                revocations: broadcast::Sender::new(1024),
                uses,
            }),
        })
    }

    /// Where the partition loops hand over alerts. Bounded: it blocks while the disk is behind.
    pub fn keeper(&self) -> Arc<dyn AlertKeeper> {
        Arc::new(keeper::Keeper(self.inner.keeper.clone()))
    }

    /// Changes whenever something happened to an alert; holds the sequence of the last event.
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.inner.transitions.subscribe()
    }

    /// Changes whenever deliveries were made, superseded or brought nearer; what comes of attempts is known to whoever
    /// made them.
    pub fn subscribe_deliveries(&self) -> watch::Receiver<u64> {
        self.inner.deliveries.subscribe()
    }

    /// The end comes. From now on a loop that hands over alerts is not held up by a database that takes nothing: what
    /// is not taken is in no checkpoint either, so the next start evaluates it again. To be called before the loop
    /// is stopped.
    pub fn ending(&self) {
        self.inner.keeper.end();
    }

    /// Writes what the keeper still holds and closes the database. Whoever submits must have ended.
    pub async fn close(&self) {
        self.inner.keeper.close();
        let writing = self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writing) = writing
            && writing.await.is_err()
        {
            tracing::error!("the task that writes alerts had failed");
        }
        self.inner.noting.abort();
        // A disk that takes nothing must not hold up the end.
        let last = self.inner.uses.write(&self.inner.database, Duration::ZERO);
        let _ = tokio::time::timeout(Duration::from_secs(5), last).await;
        self.inner.database.close().await;
    }

    pub(crate) fn db(&self) -> &db::Database {
        &self.inner.database
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.inner.folder
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    /// The time by which tokens expire.
    pub fn wall(&self) -> watchfire_model::Timestamp {
        self.inner.clock.wall()
    }

    pub(crate) fn verified(&self) -> &secrets::Verified {
        &self.inner.verified
    }

    pub(crate) fn guesses(&self) -> &guesses::Guesses {
        &self.inner.guesses
    }

    /// Who loses a credential or a token from now on.
    pub fn revocations(&self) -> broadcast::Receiver<Revoked> {
        self.inner.revocations.subscribe()
    }

    pub(crate) fn announce_revoked(&self, revoked: Revoked) {
        // Nobody listens: nobody was let in.
        let _ = self.inner.revocations.send(revoked);
    }

    pub(crate) fn uses(&self) -> &uses::Uses {
        &self.inner.uses
    }

    pub(crate) fn bounds(&self) -> &Mutex<DeadLetterBounds> {
        &self.inner.bounds
    }

    pub(crate) fn announce_transitions(&self, sequence: i64) {
        announce(&self.inner.transitions, sequence);
    }

    pub(crate) fn silence_changes(&self) -> &watch::Sender<u64> {
        &self.inner.silences
    }

    pub(crate) fn announce_silences(&self) {
        self.inner.silences.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn announce_deliveries(&self) {
        self.inner.deliveries.send_modify(|generation| *generation += 1);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.noting.abort();
    }
}

fn announce(transitions: &watch::Sender<i64>, sequence: i64) {
    transitions.send_if_modified(|last| {
        let grows = sequence > *last;
        *last = sequence.max(*last);
        grows
    });
}
