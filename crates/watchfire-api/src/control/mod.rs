//! The control plane: the only writer of control records. A command is validated against the head (what all
//! records so far add up to), appended to every partition in one group, and, once that is durable, applied
//! to the head. The tables of the store follow behind ([`crate::projector`]); nothing is decided by them.
//!
//! Commands queue at one async mutex from validation until the head has moved, so that handles are given in
//! log order and no command is checked against a state that another is about to change.

mod candidates;
mod commands;
mod devices;
mod error;
mod parameters;
mod registrar;
pub mod rules;
mod state;
mod versions;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use watchfire_log::{Append, Entry, Log, LogError, Record};
use watchfire_model::call::Modules;
use watchfire_model::device::Registries;
use watchfire_model::{Control, Digest, PartitionId, Position, RuleVersion, Timestamp};

pub use commands::RuleRequest;
pub(crate) use devices::check_device;
pub use error::ControlError;
pub use rules::{Progress, Rule, Rules, Swap, Version};
pub use state::{StateChoice, StateFate, StatePlan, TrialView};
pub use versions::{Activation, Outcome, Plan};

use crate::contract::{ModuleInfo, ModuleWorks};

/// Where sources look devices up. Readers clone the inner `Arc` and let go of the lock at once.
pub type Directory = Arc<RwLock<Arc<Registries>>>;

/// What was projected of the log when it was last stored.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The registry of each partition; empty: nothing was stored yet.
    pub registries: Registries,
    /// All rules.
    pub rules: Vec<Rule>,
    /// All modules that were uploaded.
    pub modules: Vec<ModuleInfo>,
    /// The first offset of each partition that is not in it.
    pub cursors: BTreeMap<u16, u64>,
}

/// The control plane.
pub struct ControlPlane {
    /// Itself, for tasks that outlive a caller.
    me: Weak<Self>,
    log: Arc<dyn Log>,
    works: Arc<dyn ModuleWorks>,
    modules: Arc<dyn Modules>,
    directory: Directory,
    rules: RwLock<Rules>,
    catalog: RwLock<BTreeMap<Digest, Arc<ModuleInfo>>>,
    candidates: Mutex<candidates::Candidates>,
    /// Held from validation until the head has moved.
    order: tokio::sync::Mutex<()>,
    /// Registrations that wait for whoever holds `order` next.
    waiting: Mutex<Vec<registrar::Waiting>>,
    changes: watch::Sender<u64>,
    /// Devices whose grant changed, or that were deleted.
    rechecks: broadcast::Sender<String>,
}

impl ControlPlane {
    /// Rebuilds the head from what was stored and what the log holds behind it.
    pub fn start(
        log: Arc<dyn Log>,
        works: Arc<dyn ModuleWorks>,
        modules: Arc<dyn Modules>,
        snapshot: Snapshot,
    ) -> Result<Arc<Self>, LogError> {
        let mut registries = snapshot.registries;
        registries.0.resize(usize::from(log.partitions()), Default::default());
        let mut rules = Rules::restore(snapshot.rules);
        // Up to here everything must be seen. Partition 0 first: it holds each control record too, so a rule
        // is known when the other partitions say what they made of it.
        let ends: Vec<u64> = (0..log.partitions()).map(|p| log.range(PartitionId(p)).1).collect();
        for partition in 0..log.partitions() {
            let from = snapshot.cursors.get(&partition).copied().unwrap_or(0);
            let from = from.max(log.range(PartitionId(partition)).0);
            let mut reader = log.reader(PartitionId(partition), from)?;
            while reader.offset() < ends[usize::from(partition)] {
                let Some(entry) = reader.next()? else { break };
                apply_entry(&mut registries, &mut rules, &entry);
            }
        }
        let catalog = snapshot.modules.into_iter().map(|info| (info.digest, Arc::new(info))).collect();
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            log,
            works,
            modules,
            directory: Arc::new(RwLock::new(Arc::new(registries))),
            rules: RwLock::new(rules),
            catalog: RwLock::new(catalog),
            candidates: Mutex::default(),
            order: tokio::sync::Mutex::new(()),
            waiting: Mutex::new(Vec::new()),
            changes: watch::Sender::new(0),
            rechecks: broadcast::Sender::new(1024),
        }))
    }

    /// The registries of all partitions, as sources share them.
    pub fn directory(&self) -> Directory {
        self.directory.clone()
    }

    /// The registries as they are now.
    pub fn registries(&self) -> Arc<Registries> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the rules. The closure must be short: commands wait meanwhile.
    pub fn with_rules<T>(&self, look: impl FnOnce(&Rules) -> T) -> T {
        look(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A rule that there is, removed or not.
    pub fn rule(&self, name: &str) -> Option<Rule> {
        self.with_rules(|rules| rules.get(name).cloned())
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u16 {
        self.log.partitions()
    }

    /// The log's time.
    pub fn now(&self) -> Timestamp {
        self.log.now()
    }

    /// All modules, by digest.
    pub fn modules(&self) -> Vec<Arc<ModuleInfo>> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A module by its digest.
    pub fn module(&self, digest: Digest) -> Option<Arc<ModuleInfo>> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned()
    }

    /// A module that was uploaded and stored: from now on rules may name it. Returns whether it is new.
    pub fn add_module(&self, info: ModuleInfo) -> bool {
        self.stored(info.digest);
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        catalog.insert(info.digest, Arc::new(info)).is_none()
    }

    /// Forgets a module: from now on no deployment can name it. Refused with the rules whose history names it while
    /// they run. Says whether its bytes have to stay: the log may still be replayed from before the end of a rule
    /// that ran it.
    pub async fn forget_module(&self, digest: Digest) -> Result<bool, Vec<String>> {
        let _order = self.order.lock().await;
        let users: Vec<String> = self.with_rules(|rules| {
            let uses = |rule: &&Rule| {
                rule.current.is_some() && rule.versions.values().any(|version| version.spec.module == digest)
            };
            rules.iter().filter(uses).map(|rule| rule.name.clone()).collect()
        });
        if !users.is_empty() {
            return Err(users);
        }
        self.catalog.write().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        Ok(self.needs_module(digest))
    }

    /// Whether a rule, or a replay of what the log holds, may still call a module.
    pub fn needs_module(&self, digest: Digest) -> bool {
        let partitions = self.log.partitions();
        let first = |partition| self.log.range(PartitionId(partition)).0;
        self.with_rules(|rules| rules.iter().any(|rule| rule.needs(digest, partitions, first)))
    }

    /// Notes what a partition made of a version: told by the projector, which reads it from the log.
    pub(crate) fn note_swap(&self, rule: &str, version: RuleVersion, partition: u16, swap: Swap) {
        let changed = self
            .rules
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .note_swap(rule, version, partition, swap);
        if changed {
            self.changed();
        }
    }

    /// Waits until every partition runs the version, one refused it, or the time is over.
    pub async fn wait_swapped(&self, rule: &str, version: RuleVersion, patience: Duration) -> Progress {
        let progress = || {
            self.with_rules(|rules| {
                let version = rules.get(rule).and_then(|rule| rule.versions.get(&version));
                version.map_or(Progress::Pending, |version| version.progress(self.log.partitions()))
            })
        };
        let mut changes = self.changes.subscribe();
        let settled = async { while progress() == Progress::Pending && changes.changed().await.is_ok() {} };
        // Whatever was reached by then is the answer.
        let _ = tokio::time::timeout(patience, settled).await;
        progress()
    }

    /// Runs a command to its end, whatever becomes of its caller: a connection that breaks off between the
    /// append and the head would leave the head behind the log.
    async fn uninterrupted<T, F>(
        self: &Arc<Self>,
        command: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, ControlError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ControlError>> + Send + 'static,
    {
        match tokio::spawn(command(self.clone())).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(watchfire_log::AppendError::Closed.into()),
        }
    }

    /// Appends a control record to every partition, waits until it is durable, and moves the head. The
    /// caller holds `order`.
    async fn commit(&self, control: Control) -> Result<Arc<[Position]>, ControlError> {
        let records = (0..self.log.partitions())
            .map(|partition| (PartitionId(partition), Record::Control(Box::new(control.clone()))))
            .collect();
        let at = self.log.now();
        let positions = self.log.append(Append::Records(records))?.durable().await?;
        watchfire_telemetry::metrics().api.commands.inc();
        self.apply(&control, &positions, at);
        Ok(positions)
    }

    fn apply(&self, control: &Control, positions: &[Position], at: Timestamp) {
        match control {
            Control::DevicesPut { .. } | Control::DeviceDeleted { .. } => {
                let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
                // Copies the registries only where a reader holds them at this moment.
                let registries = Arc::make_mut(&mut directory);
                (0..self.log.partitions())
                    .for_each(|p| apply_to_registry(registries, PartitionId(p), control));
            }
            _ => {
                let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
                rules.apply(control, positions, at);
            }
        }
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }
}

/// What a record of the log changes in registries and rules. Returns the name of the rule that changed.
pub(crate) fn apply_entry(registries: &mut Registries, rules: &mut Rules, entry: &Entry) -> Option<String> {
    let partition = entry.position.partition;
    match &entry.record {
        Record::Control(control) => {
            apply_to_registry(registries, partition, control);
            rules.apply(control, &[entry.position], entry.appended_at)
        }
        record => {
            let (rule, version, swap) = swap_of(record)?;
            rules.note_swap(rule, version, partition.0, swap).then(|| rule.to_string())
        }
    }
}

/// What a partition says of a rule version with this record, if it does.
pub(crate) fn swap_of(record: &Record) -> Option<(&str, RuleVersion, Swap)> {
    match record {
        Record::Activated { rule, version, .. } => Some((rule, *version, Swap::Activated)),
        Record::Refused { rule, version, reason, .. } => {
            Some((rule, *version, Swap::Refused { reason: reason.clone() }))
        }
        _ => None,
    }
}

/// What a control record changes in the registry of one partition: the same that the partition itself makes
/// of it, so that handles agree.
fn apply_to_registry(registries: &mut Registries, partition: PartitionId, control: &Control) {
    let owns = |id: &str, registries: &Registries| registries.partition_of(id) == partition;
    match control {
        Control::DevicesPut { devices, .. } => {
            for spec in devices {
                if owns(&spec.id, registries) {
                    registries.0[usize::from(partition.0)].put(spec.clone());
                }
            }
        }
        Control::DeviceDeleted { id, .. } if owns(id, registries) => {
            registries.0[usize::from(partition.0)].delete(id);
        }
        _ => {}
    }
}
