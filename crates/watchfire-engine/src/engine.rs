//! The engine: partitions on threads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot, watch};
use watchfire_log::Log;
use watchfire_model::alert::AlertKeeper;
use watchfire_model::call::Modules;
use watchfire_model::{Offset, PartitionId, Position, RuleVersion};

use crate::catch_up::{self, Keeping, Outages};
use crate::checkpoint::Checkpoint;
use crate::deaths::{Deaths, Tries};
use crate::error::EngineError;
use crate::lookahead::Lookahead;
use crate::partition::{PartitionSetup, Pieces};
use crate::release::Releaser;
use crate::shard::{Lane, PiecesOf, Question, Shard, ShardStatus, Writer};
use crate::status::{DeviceState, EngineStatus, KeptState, RuleEvent};

/// When checkpoints are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointPolicy {
    /// After so many rows and records: what a replay gets through in about a second.
    pub rows: u64,
    /// After so long, where anything came: bounds the log that is kept for a quiet partition.
    pub interval: Duration,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self { rows: 1_000_000, interval: Duration::from_secs(300) }
    }
}

/// How the engine runs.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where checkpoints lie.
    pub state_folder: PathBuf,
    /// Threads; 0: one for each partition, but not more than there are cores.
    pub shards: usize,
    /// When checkpoints are taken.
    pub checkpoint: CheckpointPolicy,
    /// Events of rules kept for a watcher that does not keep up; more are lost to it, and counted.
    pub events: usize,
}

impl EngineOptions {
    /// The defaults, with checkpoints in this folder.
    pub fn new(state_folder: impl Into<PathBuf>) -> Self {
        Self {
            state_folder: state_folder.into(),
            shards: 0,
            checkpoint: CheckpointPolicy::default(),
            events: 1024,
        }
    }
}

/// The running loop.
pub struct Engine {
    shards: Vec<ShardHandle>,
    writers: Mutex<Vec<JoinHandle<()>>>,
    progress: BTreeMap<PartitionId, watch::Receiver<Offset>>,
    shard_of: BTreeMap<PartitionId, usize>,
    log: Arc<dyn Log>,
    pub(crate) modules: Arc<dyn Modules>,
    stop: Arc<AtomicU64>,
    events: broadcast::Sender<RuleEvent>,
    failed: watch::Receiver<Option<String>>,
}

struct ShardHandle {
    questions: SyncSender<Question>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How long a thread of the loop may take to answer: it does between two records, and a guest may have a whole
/// minute for one.
const PATIENCE: Duration = Duration::from_secs(2);

impl ShardHandle {
    /// Asks at once; the future waits for the answer.
    fn ask<T, Q: FnOnce(oneshot::Sender<T>) -> Question>(
        &self,
        question: Q,
    ) -> impl Future<Output = Result<T, EngineError>> + use<T, Q> {
        let (answer, answered) = oneshot::channel();
        let sent = self.questions.try_send(question(answer));
        async move {
            sent.map_err(|error| match error {
                TrySendError::Full(_) => EngineError::Busy,
                TrySendError::Disconnected(_) => EngineError::Stopped,
            })?;
            match tokio::time::timeout(PATIENCE, answered).await {
                Ok(answer) => answer.map_err(|_| EngineError::Stopped),
                Err(_) => Err(EngineError::Busy),
            }
        }
    }
}

impl Engine {
    /// Reads the checkpoints, looks ahead in the log, and starts the threads, which replay what came since
    /// and go on. Blocks for as long as reading takes, not for the replay: see [`Engine::wait_level`].
    pub fn start(
        log: Arc<dyn Log>,
        modules: Arc<dyn Modules>,
        keeper: Arc<dyn AlertKeeper>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        let partitions = log.partitions();
        let (events, _) = broadcast::channel(options.events.max(1));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = match options.shards {
            0 => usize::from(partitions).min(cores),
            some => some.min(usize::from(partitions)),
        }
        .max(1);
        let stop = Arc::new(AtomicU64::new(0));
        let (fail, failed) = watch::channel(None);
        let mut lanes: Vec<Vec<Lane>> = (0..count).map(|_| Vec::new()).collect();
        let mut checkpoints: Vec<BTreeMap<PartitionId, Checkpoint>> =
            (0..count).map(|_| BTreeMap::new()).collect();
        let keeping = Arc::new(Keeping::new(log.clone()));
        let (want, wanted) = sync_channel(usize::from(partitions).max(16));
        let (mut progress, mut shard_of) = (BTreeMap::new(), BTreeMap::new());
        for id in (0..partitions).map(PartitionId) {
            let setup = PartitionSetup {
                id,
                partitions,
                epoch: log.epoch(),
                modules: modules.clone(),
                events: Some(events.clone()),
            };
            let checkpoint = Checkpoint::open(&options.state_folder, id)?;
            let mut partition = checkpoint.load(&setup)?;
            let from = partition.next_offset();
            let (first, end) = log.range(id);
            if from < first {
                return Err(EngineError::Behind { partition: id.0, wanted: from, first });
            }
            partition.look_ahead(Lookahead::read(&*log, id, from)?, end);
            if from < end {
                let deaths = Deaths::open(&options.state_folder, id)?;
                if let Some(death) = deaths.last().filter(|death| death.is_enough()) {
                    tracing::error!(partition = %id, ?death, "the process died in this call: it is skipped");
                }
                partition.watch_replay(Box::new(deaths));
            }
            partition.note_tries(Tries::open(&options.state_folder, id));
            keeping.set(id, &partition.needed());
            log.set_cursor("engine", id, from);
            let reader = log.pacing_reader(id, from)?;
            let releaser = Releaser::new(log.clone(), keeper.clone(), id);
            let outages = Outages::new(want.clone(), keeping.clone());
            let lane = Lane::new(partition, reader, releaser, outages, end);
            tracing::info!(partition = %id, from, end, "the partition starts");
            let shard = usize::from(id.0) % count;
            progress.insert(id, lane.progress.subscribe());
            shard_of.insert(id, shard);
            lanes[shard].push(lane);
            checkpoints[shard].insert(id, checkpoint);
        }
        // It ends with the last lane, which holds what it is asked with.
        drop(want);
        let (mut shards, mut writers) = (Vec::new(), Vec::new());
        {
            let log = log.clone();
            let work = guarded("catch-up".into(), fail.clone(), move || catch_up::run(&*log, &wanted));
            writers.push(spawn("catch-up".into(), work)?);
        }
        for (i, (lanes, checkpoints)) in lanes.into_iter().zip(checkpoints).enumerate() {
            let (questions, asked) = sync_channel(64);
            let (jobs, taken) = sync_channel(lanes.len().max(1));
            let writer = Writer {
                log: log.clone(),
                keeper: keeper.clone(),
                checkpoints,
                jobs: taken,
                stop: stop.clone(),
            };
            let shard = Shard {
                log: log.clone(),
                lanes,
                policy: options.checkpoint.clone(),
                questions: asked,
                writer: jobs,
                stop: stop.clone(),
            };
            let work = guarded(format!("checkpoint-{i}"), fail.clone(), move || writer.run());
            writers.push(spawn(format!("checkpoint-{i}"), work)?);
            let work = guarded(format!("shard-{i}"), fail.clone(), move || shard.run());
            let thread = Mutex::new(Some(spawn(format!("shard-{i}"), work)?));
            shards.push(ShardHandle { questions, thread });
        }
        Ok(Self {
            shards,
            writers: Mutex::new(writers),
            progress,
            shard_of,
            log,
            modules,
            stop,
            events,
            failed,
        })
    }

    /// Evaluates what is in the log, takes a checkpoint of every partition, and ends the threads. Blocks.
    pub fn stop(&self) {
        self.end(1);
    }

    /// Ends the threads where they are, without a checkpoint: what a crash leaves behind. Blocks.
    pub fn abort(&self) {
        self.end(2);
    }

    fn end(&self, how: u64) {
        self.stop.fetch_max(how, Ordering::AcqRel);
        for shard in &self.shards {
            let thread = shard.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            // A panic in it was told when it came.
            let _ = thread.map(JoinHandle::join);
        }
        self.stop.fetch_max(2, Ordering::AcqRel);
        for writer in self.writers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = writer.join();
        }
    }

    /// What rules do from now on. Who does not keep up loses the oldest, and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<RuleEvent> {
        self.events.subscribe()
    }

    /// Waits until a thread of the loop has panicked; gives what it said. Its partitions stand still: whoever runs
    /// the engine ends the process, and a new one replays.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(said) => said.clone().unwrap_or_default(),
            // Stopped in order: that is no failure, and comes to nobody.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until the record at `position` is evaluated.
    pub async fn wait_for(&self, position: Position) -> Result<(), EngineError> {
        let mut progress = self.progress.get(&position.partition).ok_or(EngineError::Stopped)?.clone();
        let reached = progress.wait_for(|next| *next > position.offset).await;
        reached.map(drop).map_err(|_| EngineError::Stopped)
    }

    /// Waits until everything that is in the log now is evaluated.
    pub async fn wait_level(&self) -> Result<(), EngineError> {
        for (&partition, progress) in &self.progress {
            let end = self.log.range(partition).1;
            let reached = progress.clone().wait_for(|next| *next >= end).await.map(drop);
            reached.map_err(|_| EngineError::Stopped)?;
        }
        Ok(())
    }

    /// The offset that each partition evaluates next, without asking its thread.
    pub fn progress(&self) -> BTreeMap<PartitionId, Offset> {
        self.progress.iter().map(|(id, next)| (*id, *next.borrow())).collect()
    }

    /// The offset behind the last synced record of a partition.
    pub fn log_end(&self, partition: PartitionId) -> Offset {
        self.log.range(partition).1
    }

    /// What is known of each of these devices from its readings; `None`: it is not registered.
    pub async fn device_states(&self, ids: &[String]) -> Result<Vec<Option<DeviceState>>, EngineError> {
        let mut of_shard: Vec<Vec<usize>> = vec![Vec::new(); self.shards.len()];
        for (place, id) in ids.iter().enumerate() {
            let partition = PartitionId::of(id, self.log.partitions());
            if let Some(&shard) = self.shard_of.get(&partition) {
                of_shard[shard].push(place);
            }
        }
        let mut states = vec![None; ids.len()];
        let asked: Vec<_> = of_shard
            .into_iter()
            .zip(&self.shards)
            .filter(|(places, _)| !places.is_empty())
            .map(|(places, shard)| {
                let asked: Arc<[String]> = places.iter().map(|place| ids[*place].clone()).collect();
                (places, shard.ask(|answer| Question::Devices(asked, answer)))
            })
            .collect();
        for (places, answer) in asked {
            for (place, state) in places.into_iter().zip(answer.await?) {
                states[place] = state;
            }
        }
        Ok(states)
    }

    /// Everything about partitions and rules. Shards that do not answer in time are left out.
    pub async fn status(&self) -> EngineStatus {
        let mut status = EngineStatus::default();
        status.partitions.extend(self.progress.keys().map(|id| (*id, None)));
        // All are asked before the first is waited for: they sleep for up to 20 ms.
        let asked: Vec<_> = self.shards.iter().map(|shard| shard.ask(Question::Status)).collect();
        for answer in asked {
            let Ok(ShardStatus { partitions, rules }) = answer.await else { continue };
            status.partitions.extend(partitions.into_iter().map(|(id, known)| (id, Some(known))));
            for (name, part) in rules {
                let rule = status.rules.entry(name).or_default();
                rule.versions.extend(part.versions);
                rule.module = part.module;
                rule.paused |= part.paused;
                rule.breakers.extend(part.breakers);
                rule.state_bytes += part.state_bytes;
                rule.memory += part.memory;
                rule.devices += part.devices;
                rule.active += part.active;
                rule.stats.add(&part.stats);
            }
        }
        status
    }

    /// What a rule keeps in each partition that has it, by partition; `back_to`: what going back to that version would
    /// do to its alerts is counted.
    pub async fn kept_state(
        &self,
        rule: &str,
        back_to: Option<RuleVersion>,
    ) -> Result<Vec<KeptState>, EngineError> {
        let rule: Arc<str> = rule.into();
        let ask = |shard: &ShardHandle| shard.ask(|answer| Question::Kept(rule.clone(), back_to, answer));
        let asked: Vec<_> = self.shards.iter().map(ask).collect();
        let mut kept = Vec::new();
        for answer in asked {
            kept.extend(answer.await?);
        }
        kept.sort_by_key(|kept| kept.partition);
        Ok(kept)
    }

    /// Some of what a rule keeps in a partition, as it is between two records.
    pub(crate) async fn pieces(&self, of: PiecesOf) -> Result<Option<Pieces>, EngineError> {
        let shard = self.shard_of.get(&of.partition).and_then(|shard| self.shards.get(*shard));
        shard.ok_or(EngineError::Stopped)?.ask(|answer| Question::Pieces(of, answer)).await
    }

    /// The partitions.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.shard_of.keys().copied()
    }

    /// Takes a checkpoint of every partition soon.
    pub fn checkpoint(&self) {
        for shard in &self.shards {
            // A full queue: a checkpoint is the last thing that helps.
            let _ = shard.questions.try_send(Question::Checkpoint);
        }
    }

    /// Everything that decides what partitions do next, as bytes by key: for tests and support.
    pub async fn dump(&self) -> BTreeMap<PartitionId, BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut all = BTreeMap::new();
        for shard in &self.shards {
            all.extend(shard.ask(Question::Dump).await.unwrap_or_default());
        }
        all
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Work that tells when it panics.
fn guarded(
    name: String,
    failed: watch::Sender<Option<String>>,
    work: impl FnOnce() + Send + 'static,
) -> impl FnOnce() + Send + 'static {
    move || {
        // Nothing is used after it that it could have left half changed: the process ends.
        let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) else { return };
        let said = panic
            .downcast_ref::<&str>()
            .map(|said| said.to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(thread = name, "a thread of the partition loop has panicked: {said}");
        failed.send_replace(Some(format!("{name}: {said}")));
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, EngineError> {
    std::thread::Builder::new().name(name).spawn(work).map_err(EngineError::Thread)
}
