//! The projector: reads every partition of the log and writes what people look at to the store: dead
//! letters, devices, rules. It also tells the control plane what partitions made of rule versions.
//!
//! It holds two places in each partition. The *snapshot* is what registry and rules added up to, written now
//! and then as one document with the place it stands for, so that the two never disagree; a start reads on
//! from there. The *tables* follow record by record; writing one again changes nothing, but a dead letter
//! that was deleted since must not come back, so they have a place of their own.

mod letters;
mod outages;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watchfire_log::{Entry, Log, LogError, Record};
use watchfire_model::device::Registries;
use watchfire_model::{Control, Device, PartitionId, Position, Registry, Timestamp, chain};
use watchfire_store::{RuleState, RuleVersionRow, Store, StoreError};

use crate::contract::ModuleInfo;
use crate::control::{ControlPlane, Rule, Rules, Snapshot, apply_entry, swap_of};
use letters::Letters;

/// The name of the cursor of the tables in the store, and of the whole in the log.
const READER: &str = "projector";

/// The name of the cursor of the snapshot in the store.
const SNAPSHOT: &str = "projector-snapshot";

/// Records of a partition that are read before they are written.
const CHUNK: usize = 256;

/// How often the snapshot is written, where something changed. What came since is read again at a start.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(30);

/// How long a round waits for more, so that a busy log is read in stretches and not group by group.
const GATHER: Duration = Duration::from_millis(10);

/// How long a failed round waits before the next one: the store may be full, or the disk slow.
const RETRY: Duration = Duration::from_secs(1);

/// How far the tables are, by partition: the first offset that is not in them.
#[derive(Clone, Debug)]
pub struct Projection(watch::Receiver<BTreeMap<u16, u64>>);

impl Projection {
    /// The first offset of a partition that the tables lack.
    pub fn next(&self, partition: u16) -> u64 {
        self.0.borrow().get(&partition).copied().unwrap_or(0)
    }

    /// Waits until a record is in the tables.
    pub async fn reached(&mut self, position: Position) {
        let partition = position.partition.0;
        // An end of the projector is an end of waiting.
        let _ =
            self.0.wait_for(|next| next.get(&partition).is_some_and(|next| *next > position.offset)).await;
    }
}

/// The running projector.
pub struct Projector {
    projection: Projection,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Projector {
    /// Begins where the snapshot ends, which is the one that the control plane started with.
    pub async fn start(
        log: Arc<dyn Log>,
        store: Store,
        control: Arc<ControlPlane>,
        snapshot: Snapshot,
    ) -> Result<Self, StoreError> {
        let tables: BTreeMap<u16, u64> =
            store.cursors(READER).await?.into_iter().map(|(partition, next)| (partition.0, next)).collect();
        let (sender, receiver) = watch::channel(tables.clone());
        let stop = CancellationToken::new();
        let mut registries = snapshot.registries;
        registries.0.resize(usize::from(log.partitions()), Registry::default());
        let next: Vec<u64> = (0..log.partitions())
            .map(|p| snapshot.cursors.get(&p).copied().unwrap_or(0).max(log.range(PartitionId(p)).0))
            .collect();
        let work = Work {
            applied: next.clone(),
            next,
            rules: Rules::restore(snapshot.rules),
            registries,
            tables,
            changed: true,
            log,
            store,
            control,
            sender,
        };
        let task = tokio::spawn(work.run(stop.clone()));
        Ok(Self { projection: Projection(receiver), stop, task })
    }

    /// How far it is.
    pub fn projection(&self) -> Projection {
        self.projection.clone()
    }

    /// Writes what the log holds by now, and the snapshot, and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        if self.task.await.is_err() {
            tracing::error!("the projector had failed");
        }
    }
}

/// Where a start would read on from what the store holds now, by partition: a copy of the store needs the log from
/// there.
pub async fn needs(store: &Store, partitions: u16) -> Result<Vec<u64>, StoreError> {
    let snapshot = Snapshot::load(store, partitions).await?;
    Ok((0..partitions).map(|partition| snapshot.cursors.get(&partition).copied().unwrap_or(0)).collect())
}

/// The registry of a partition, or the rules, as one document with its place.
#[derive(Serialize, Deserialize)]
struct Stored<T> {
    cursor: u64,
    what: T,
}

fn key(partition: u16) -> String {
    format!("control/registry/{partition}")
}

const RULES: &str = "control/rules";

impl Snapshot {
    /// Reads what was stored by an earlier run.
    pub async fn load(store: &Store, partitions: u16) -> Result<Self, StoreError> {
        fn read<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<Stored<T>, StoreError> {
            serde_json::from_str(text)
                .map_err(|error| StoreError::Refused(format!("the setting {name:?} is damaged: {error}")))
        }
        let mut snapshot = Self { registries: Registries::new(partitions), ..Self::default() };
        for partition in 0..partitions {
            let name = key(partition);
            if let Some(text) = store.setting(&name).await? {
                let stored: Stored<(Vec<Device>, u64)> = read(&name, &text)?;
                let (devices, version) = stored.what;
                let devices = devices.into_iter().map(Arc::new).collect();
                snapshot.registries.0[usize::from(partition)] = Registry::restore(devices, version);
                snapshot.cursors.insert(partition, stored.cursor);
            }
        }
        for (partition, next) in store.cursors(SNAPSHOT).await? {
            if let Some(cursor) = snapshot.cursors.get_mut(&partition.0) {
                *cursor = next.max(*cursor);
            }
        }
        if let Some(text) = store.setting(RULES).await? {
            snapshot.rules = read::<Vec<Rule>>(RULES, &text)?.what;
        }
        snapshot.modules = store
            .modules()
            .await?
            .into_iter()
            .filter_map(|row| {
                let mut info: ModuleInfo = serde_json::from_value(row.report).ok()?;
                info.uploaded_at = row.created_at;
                Some(info)
            })
            .collect();
        Ok(snapshot)
    }
}

/// Why a round came to nothing; it is tried again.
#[derive(Debug, thiserror::Error)]
enum ProjectError {
    #[error("the log could not be read")]
    Log(#[from] LogError),
    #[error("the store could not be written")]
    Store(#[from] StoreError),
}

struct Work {
    log: Arc<dyn Log>,
    store: Store,
    control: Arc<ControlPlane>,
    registries: Registries,
    rules: Rules,
    /// Where reading goes on, by partition.
    next: Vec<u64>,
    /// What registries and rules have already: a round that failed half way is repeated, but a registration
    /// applied twice, with a deletion between, would give another handle.
    applied: Vec<u64>,
    /// What the tables have already, by partition.
    tables: BTreeMap<u16, u64>,
    /// Something is not in the stored snapshot yet.
    changed: bool,
    sender: watch::Sender<BTreeMap<u16, u64>>,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        let mut due = tokio::time::interval(SNAPSHOT_EVERY);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Asked before reading: what is synced while we read wakes us at once.
            let group = self.log.synced_group();
            let stopping = stop.is_cancelled();
            match self.round().await {
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(error = chain(&error), "the store does not follow the log");
                    if stopping {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => continue,
                        () = stop.cancelled() => continue,
                    }
                }
            }
            if stopping {
                self.save().await;
                return;
            }
            tokio::select! {
                _ = self.log.synced_past(group) => {
                    tokio::select! {
                        () = tokio::time::sleep(GATHER) => {}
                        () = stop.cancelled() => {}
                    }
                }
                _ = due.tick() => self.save().await,
                () = stop.cancelled() => {}
            }
        }
    }

    /// Reads everything that is synced by now. Partition 0 first, up to an end that is noted last: it holds
    /// each control record, so that rules are known when other partitions say what they made of them.
    async fn round(&mut self) -> Result<(), ProjectError> {
        let mut ends: Vec<u64> =
            (1..self.log.partitions()).map(|partition| self.log.range(PartitionId(partition)).1).collect();
        ends.insert(0, self.log.range(PartitionId(0)).1);
        self.show_lag();
        for (partition, end) in ends.into_iter().enumerate() {
            while self.next[partition] < end {
                let entries = self.read(partition as u16, end).await?;
                if entries.is_empty() {
                    break;
                }
                self.project(partition as u16, &entries).await?;
            }
        }
        self.show_lag();
        Ok(())
    }

    /// Of the end as it is now: what came while a round went on counts.
    fn show_lag(&self) {
        let behind = (0..self.log.partitions())
            .zip(&self.next)
            .map(|(partition, next)| self.log.range(PartitionId(partition)).1.saturating_sub(*next));
        watchfire_telemetry::metrics().api.projector_lag.set(behind.sum::<u64>() as i64);
    }

    async fn read(&self, partition: u16, end: u64) -> Result<Vec<Arc<Entry>>, LogError> {
        let (log, from) = (self.log.clone(), self.next[usize::from(partition)]);
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = log.reader(PartitionId(partition), from)?;
            let mut entries = Vec::new();
            while entries.len() < CHUNK && reader.offset() < end {
                match reader.next()? {
                    Some(entry) => entries.push(entry),
                    None => break,
                }
            }
            Ok(entries)
        });
        read.await.unwrap_or_else(|_| Err(LogError::Format("the reading task ended".into())))
    }

    async fn project(&mut self, partition: u16, entries: &[Arc<Entry>]) -> Result<(), ProjectError> {
        let seen = self.tables.get(&partition).copied().unwrap_or(0);
        let mut letters = Letters::new(&self.store);
        let mut swaps = false;
        for entry in entries {
            let offset = entry.position.offset;
            if offset >= self.applied[usize::from(partition)] {
                apply_entry(&mut self.registries, &mut self.rules, entry);
                self.applied[usize::from(partition)] = offset + 1;
            }
            if let Some((rule, version, swap)) = swap_of(&entry.record) {
                self.control.note_swap(rule, version, partition, swap);
                swaps = true;
            }
            if offset >= seen {
                match &entry.record {
                    Record::Rejects(rejects) => {
                        for (i, reject) in rejects.iter().enumerate() {
                            letters.push(letters::of_reject(entry, i, reject)).await?;
                        }
                    }
                    Record::Skipped(skipped) => {
                        let (id, registry) =
                            (PartitionId(partition), &self.registries.0[usize::from(partition)]);
                        let record = match &skipped.rows[..] {
                            [] => None,
                            _ => {
                                letters
                                    .record(&self.log, entries, id, skipped.rows_at.unwrap_or(skipped.offset))
                                    .await?
                            }
                        };
                        let record = record.as_ref().map(|entry| &entry.record);
                        letters.add_failure(entry, skipped, record, registry).await?;
                    }
                    Record::Redo(redo) => {
                        if let Some(upto) = &redo.upto {
                            // They may be on their way to the store with this very stretch.
                            letters.write().await?;
                            let failed = redo.failed.to_string();
                            let (by, at) = (&redo.by.name, entry.appended_at);
                            self.store.mark_record_replayed(&redo.rule, &failed, upto, by, at).await?;
                        }
                    }
                    _ => {}
                }
            }
            if let Record::Control(control) = &entry.record {
                self.project_control(partition, entry, control).await?;
            }
            self.changed |= matches!(
                entry.record,
                Record::Control(_) | Record::Activated { .. } | Record::Refused { .. }
            );
            self.project_swap(entry).await?;
            outages::project(&self.store, entry).await?;
        }
        letters.write().await?;
        let Some(last) = entries.last() else { return Ok(()) };
        let next = last.position.offset + 1;
        self.next[usize::from(partition)] = next;
        if next > seen {
            // Without letters nothing is lost by reading again, and a commit for each round would be.
            if letters.stored() > 0 {
                self.store.set_cursor(READER, PartitionId(partition), next).await?;
            }
            self.tables.insert(partition, next);
            self.sender.send_modify(|tables| {
                tables.insert(partition, next);
            });
        }
        if swaps && let Err(error) = self.control.withdraw_refused().await {
            // The refusal stands in the log: the next swap, or the next start, tries again.
            tracing::error!(error = chain(&error), "a refused rule version could not be taken back");
        }
        Ok(())
    }

    async fn project_control(
        &self,
        partition: u16,
        entry: &Entry,
        control: &Control,
    ) -> Result<(), ProjectError> {
        let at = entry.appended_at;
        match control {
            Control::DevicesPut { devices, .. } => {
                let registry = &self.registries.0[usize::from(partition)];
                let rows: Vec<_> = devices
                    .iter()
                    .filter_map(|spec| {
                        let handle = registry.find(&spec.id)?;
                        Some((spec.clone(), PartitionId(partition), handle))
                    })
                    .collect();
                self.store.put_devices(&rows, at).await?;
            }
            // Deleting takes credentials along: not those of a device that was registered again since.
            Control::DeviceDeleted { id, .. }
                if self.registries.partition_of(id).0 == partition
                    && self.control.registries().find(id).is_none() =>
            {
                self.store.delete_device(id, at).await?;
            }
            _ if partition == 0 => self.project_rule(control, at).await?,
            _ => {}
        }
        Ok(())
    }

    async fn project_rule(&self, control: &Control, at: Timestamp) -> Result<(), ProjectError> {
        let (name, state) = match control {
            Control::RuleDeployed { spec, version, .. } => {
                return self.project_version(&spec.name, *version).await;
            }
            Control::RuleRolledBack { name, version, from, by, .. } => {
                if *version > 0 {
                    return self.project_version(name, *version).await;
                }
                let reason = by.reason.as_deref();
                return found(
                    self.store.set_rule_state(name, Some(*from), RuleState::Refused, reason, at).await,
                );
            }
            Control::RulePaused { name, .. } => (name, RuleState::Paused),
            Control::RuleResumed { name, .. } => (name, RuleState::Deployed),
            Control::RuleRemoved { name, .. } => (name, RuleState::Removed),
            _ => return Ok(()),
        };
        found(self.store.set_rule_state(name, None, state, None, at).await)
    }

    async fn project_version(&self, name: &str, version: u32) -> Result<(), ProjectError> {
        let Some(version) = self.rules.get(name).and_then(|rule| rule.versions.get(&version)) else {
            return Ok(());
        };
        let row = RuleVersionRow {
            name: name.to_string(),
            version: version.version,
            spec: (*version.spec).clone(),
            state: RuleState::Deployed,
            by: version.by.clone(),
            created_at: version.at,
            rolled_back_to: version.restores,
            refusal: None,
            positions: BTreeMap::new(),
        };
        Ok(self.store.put_rule_version(&row).await?)
    }

    async fn project_swap(&self, entry: &Entry) -> Result<(), ProjectError> {
        match &entry.record {
            Record::Activated { rule, version, .. } => {
                found(self.store.record_activation(rule, *version, entry.position).await)
            }
            _ => Ok(()),
        }
    }

    /// Writes the snapshot where something changed, its place in any case, and lets go of the log before it.
    async fn save(&mut self) {
        let saved = async {
            if self.changed {
                self.write_snapshot().await?;
            }
            // Registry and rules are the same at every place since: the later of this place and the one in
            // the document counts.
            for (partition, next) in self.next.iter().enumerate() {
                self.store.set_cursor(SNAPSHOT, PartitionId(partition as u16), *next).await?;
            }
            Ok::<_, StoreError>(())
        };
        match saved.await {
            Ok(()) => {
                self.changed = false;
                for (partition, next) in self.next.iter().enumerate() {
                    self.log.set_cursor(READER, PartitionId(partition as u16), *next);
                }
            }
            Err(error) => tracing::error!(error = chain(&error), "registry and rules could not be stored"),
        }
    }

    async fn write_snapshot(&self) -> Result<(), StoreError> {
        // Rules first: they are of partition 0, whose registry carries the place for both. Newer rules are
        // no harm, since applying a record twice changes nothing in them.
        let rules: Vec<&Rule> = self.rules.iter().collect();
        self.put(RULES, &Stored { cursor: self.next[0], what: rules }).await?;
        for (partition, registry) in self.registries.0.iter().enumerate() {
            let devices: Vec<&Device> = registry.devices().iter().map(|device| &**device).collect();
            let stored = Stored { cursor: self.next[partition], what: (devices, registry.version()) };
            self.put(&key(partition as u16), &stored).await?;
        }
        Ok(())
    }

    async fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let text = serde_json::to_string(value)
            .map_err(|error| StoreError::Refused(format!("{name} cannot be written: {error}")))?;
        self.store.set_setting(name, Some(&text)).await
    }
}

/// What the tables never had cannot change there.
fn found(result: Result<(), StoreError>) -> Result<(), ProjectError> {
    match result {
        Err(StoreError::NotFound { .. }) => Ok(()),
        result => Ok(result?),
    }
}
