//! The engine: partitions on threads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot, watch};
use watchfire_log::Log;
use watchfire_model::alert::AlertKeeper;
use watchfire_model::call::Modules;
use watchfire_model::{Offset, PartitionId, Position};

use crate::checkpoint::Checkpoint;
use crate::error::EngineError;
use crate::lookahead::Lookahead;
use crate::partition::PartitionSetup;
use crate::release::Releaser;
use crate::shard::{Lane, Question, Shard, ShardStatus, Writer};
use crate::status::{DeviceState, EngineStatus, RuleEvent};

/// When checkpoints are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointPolicy {
    /// After so many rows and records: what a replay gets through in about a second.
    pub rows: u64,
    /// After so long, where at least `least_rows` came: bounds the log that is kept for a quiet partition.
    pub interval: Duration,
    /// See `interval`.
    pub least_rows: u64,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self { rows: 1_000_000, interval: Duration::from_secs(300), least_rows: 1_000 }
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
    stop: Arc<AtomicU64>,
    events: broadcast::Sender<RuleEvent>,
}

struct ShardHandle {
    questions: SyncSender<Question>,
    thread: Mutex<Option<JoinHandle<()>>>,
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
        let mut lanes: Vec<Vec<Lane>> = (0..count).map(|_| Vec::new()).collect();
        let mut checkpoints: Vec<BTreeMap<PartitionId, Checkpoint>> =
            (0..count).map(|_| BTreeMap::new()).collect();
        let (mut progress, mut shard_of) = (BTreeMap::new(), BTreeMap::new());
        for id in (0..partitions).map(PartitionId) {
            let setup = PartitionSetup {
                id,
                partitions,
                epoch: log.epoch(),
                modules: modules.clone(),
                history: Some(log.clone()),
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
            log.set_cursor("engine", id, from);
            let reader = log.reader(id, from)?;
            let releaser = Releaser::new(log.clone(), keeper.clone(), id);
            let lane = Lane::new(partition, reader, releaser, end);
            tracing::info!(partition = %id, from, end, "the partition starts");
            let shard = usize::from(id.0) % count;
            progress.insert(id, lane.progress.subscribe());
            shard_of.insert(id, shard);
            lanes[shard].push(lane);
            checkpoints[shard].insert(id, checkpoint);
        }
        let (mut shards, mut writers) = (Vec::new(), Vec::new());
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
            writers.push(spawn(format!("checkpoint-{i}"), move || writer.run())?);
            let thread = Mutex::new(Some(spawn(format!("shard-{i}"), move || shard.run())?));
            shards.push(ShardHandle { questions, thread });
        }
        Ok(Self { shards, writers: Mutex::new(writers), progress, shard_of, log, stop, events })
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
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("a thread of the partition loop had panicked");
            }
        }
        self.stop.fetch_max(2, Ordering::AcqRel);
        for writer in self.writers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if writer.join().is_err() {
                tracing::error!("the thread that writes checkpoints had panicked");
            }
        }
    }

    /// What rules do from now on. Who does not keep up loses the oldest, and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<RuleEvent> {
        self.events.subscribe()
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

    /// What is known of a device from its readings; `None`: it is not registered, or the loop is stopped.
    pub async fn device_state(&self, id: &str) -> Option<DeviceState> {
        let partition = PartitionId::of(id, self.log.partitions());
        let shard = self.shards.get(*self.shard_of.get(&partition)?)?;
        let (answer, answered) = oneshot::channel();
        shard.questions.try_send(Question::Device(id.into(), answer)).ok()?;
        answered.await.ok()?
    }

    /// Everything about partitions and rules. Shards that do not answer within a second are left out.
    pub async fn status(&self) -> EngineStatus {
        let mut status = EngineStatus::default();
        for shard in &self.shards {
            let (answer, answered) = oneshot::channel();
            if shard.questions.try_send(Question::Status(answer)).is_err() {
                continue;
            }
            let Ok(ShardStatus { partitions, rules }) = answered.await else { continue };
            status.partitions.extend(partitions);
            for (name, part) in rules {
                let rule = status.rules.entry(name).or_default();
                rule.versions.extend(part.versions);
                rule.module = part.module;
                rule.paused |= part.paused;
                rule.state_bytes += part.state_bytes;
                rule.memory += part.memory;
                rule.devices += part.devices;
                rule.active += part.active;
                rule.stats.add(&part.stats);
            }
        }
        status
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
            let (answer, answered) = oneshot::channel();
            if shard.questions.try_send(Question::Dump(answer)).is_ok() {
                all.extend(answered.await.unwrap_or_default());
            }
        }
        all
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.abort();
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, EngineError> {
    std::thread::Builder::new().name(name).spawn(work).map_err(EngineError::Thread)
}
