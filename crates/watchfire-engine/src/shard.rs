//! A thread that owns partitions: reads their records, has them evaluated, releases what came of them,
//! appends ticks, begins checkpoints, and answers questions between records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use watchfire_log::{Append, AppendError, Log, LogError, LogReader, Record, Ticket};
use watchfire_model::alert::{AlertChanges, AlertKeeper};
use watchfire_model::{DeviceHandle, Offset, PartitionId, RuleVersion};
use watchfire_telemetry::metrics;

use crate::catch_up::Outages;
use crate::checkpoint::Checkpoint;
use crate::engine::CheckpointPolicy;
use crate::error::EngineError;
use crate::partition::{Capture, Partition, Pieces};
use crate::release::Releaser;
use crate::status::{DeviceState, KeptState, PartitionStatus, RuleStats, RuleStatus};

/// Records of one partition evaluated before the next one has its turn.
const TURN: usize = 64;
/// What waits to be released before evaluation pauses: some records' worth of alerts of every device.
const WAITING: usize = 50_000;
/// The longest a shard sleeps: questions wait that long.
const NAP: Duration = Duration::from_millis(20);
/// Hot state of alerts, and numbers of rules, are handed over this often.
const HAND_OVER: Duration = Duration::from_millis(500);
/// A log that cannot be read is read again after this long, and then at longer and longer times ...
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// ... up to this.
const LAST_RETRY: Duration = Duration::from_secs(10);
/// A partition whose log cannot be read, or that stopped for another reason, is given this long at the end.
const LAST_CHECKPOINT: Duration = Duration::from_secs(30);

/// Something asked between two records.
pub(crate) enum Question {
    Devices(Arc<[String]>, oneshot::Sender<Vec<Option<DeviceState>>>),
    Status(oneshot::Sender<ShardStatus>),
    Kept(Arc<str>, Option<RuleVersion>, oneshot::Sender<Vec<KeptState>>),
    Pieces(PiecesOf, oneshot::Sender<Option<Pieces>>),
    Dump(oneshot::Sender<BTreeMap<PartitionId, BTreeMap<Vec<u8>, Vec<u8>>>>),
    Checkpoint,
}

/// Which pieces of what a rule keeps are asked for.
pub(crate) struct PiecesOf {
    pub partition: PartitionId,
    pub rule: Arc<str>,
    /// Those behind it.
    pub after: Option<(u32, DeviceHandle)>,
    /// About so many of them.
    pub bytes: usize,
}

#[derive(Default)]
pub(crate) struct ShardStatus {
    pub partitions: BTreeMap<PartitionId, PartitionStatus>,
    pub rules: BTreeMap<String, RuleStatus>,
}

/// A partition and what drives it.
pub(crate) struct Lane {
    pub partition: Partition,
    pub reader: Box<dyn LogReader>,
    pub releaser: Releaser,
    pub live_from: Offset,
    /// Whether the keeper was told, after the start, what is raised.
    pub compared: bool,
    pub progress: watch::Sender<Offset>,
    /// The offset that the last checkpoint on disk goes on from.
    pub saved: Arc<AtomicU64>,
    pub save_failed: Arc<AtomicBool>,
    pub fault: Option<String>,
    /// When the log is read again after an error, and how long it takes to the next time.
    again: Option<(Instant, Duration)>,
    tick: Option<Ticking>,
    mark: Mark,
    saved_at: Instant,
    outages: Outages,
    published: BTreeMap<String, RuleStats>,
}

struct Ticking {
    /// A record at or behind it is the tick, or makes it needless.
    behind: Offset,
    since: Instant,
    _ticket: Ticket,
}

/// How far a checkpoint has come.
enum Mark {
    /// None is under way.
    None,
    /// The mark is on its way into the log.
    Appended(Instant),
    /// The mark was evaluated; what was caused up to it, which ends with this number, is not released yet.
    Captured(Box<Capture>, u64),
    /// It is being written: what was on disk before.
    Writing { next: Offset },
}

/// What the writer thread gets.
pub(crate) struct Job {
    pub capture: Capture,
    pub partition: PartitionId,
    pub keeper_number: u64,
    pub saved: Arc<AtomicU64>,
    pub failed: Arc<AtomicBool>,
}

impl Lane {
    pub fn new(
        partition: Partition,
        reader: Box<dyn LogReader>,
        releaser: Releaser,
        outages: Outages,
        live_from: Offset,
    ) -> Self {
        let next = partition.next_offset();
        Self {
            partition,
            reader,
            releaser,
            live_from,
            compared: false,
            progress: watch::Sender::new(next),
            saved: Arc::new(AtomicU64::new(next)),
            save_failed: Arc::default(),
            fault: None,
            again: None,
            tick: None,
            mark: Mark::None,
            saved_at: Instant::now(),
            outages,
            published: BTreeMap::new(),
        }
    }
}

pub(crate) struct Shard {
    pub log: Arc<dyn Log>,
    pub lanes: Vec<Lane>,
    pub policy: CheckpointPolicy,
    pub questions: Receiver<Question>,
    pub writer: SyncSender<Job>,
    /// 1: stop with a checkpoint; 2: stop at once.
    pub stop: Arc<AtomicU64>,
}

impl Shard {
    pub fn run(mut self) {
        let mut handed_over = Instant::now();
        loop {
            let group = self.log.synced_group();
            self.answer();
            match self.stop.load(Ordering::Acquire) {
                0 => {}
                1 => return self.finish(),
                _ => return,
            }
            let mut busy = false;
            for i in 0..self.lanes.len() {
                busy |= self.turn(i);
            }
            if handed_over.elapsed() >= HAND_OVER {
                handed_over = Instant::now();
                self.hand_over();
            }
            if !busy {
                let nap = self.nap();
                if !nap.is_zero() {
                    self.log.wait_past(group, nap);
                }
            }
        }
    }

    /// A stretch of one partition; whether there was anything.
    fn turn(&mut self, i: usize) -> bool {
        let lane = &mut self.lanes[i];
        if lane.fault.is_some() || lane.again.is_some_and(|(at, _)| at > Instant::now()) {
            return false;
        }
        if let Some((_, wait)) = lane.again {
            match self.log.pacing_reader(lane.partition.id(), lane.partition.next_offset()) {
                Ok(reader) => lane.reader = reader,
                Err(error) => {
                    lane.later(wait, &error);
                    return false;
                }
            }
        }
        match lane.read(&*self.log, &self.policy, &self.writer) {
            Ok(busy) => {
                lane.again = None;
                busy
            }
            // A disk that does not answer may answer again; what it holds is not known to be wrong.
            Err(EngineError::Log(error @ LogError::Io { .. })) => {
                let wait = lane.again.map_or(FIRST_RETRY, |(_, wait)| wait);
                lane.later(wait, &error);
                false
            }
            Err(error) => {
                let mut chain = error.to_string();
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    chain = format!("{chain}: {cause}");
                    source = cause.source();
                }
                tracing::error!(partition = %lane.partition.id(), "the partition stands still: {chain}");
                let label = [("partition", lane.partition.id().to_string())];
                metrics().rules.standing.get_or_create(&label).set(1);
                lane.fault = Some(chain);
                false
            }
        }
    }

    fn nap(&mut self) -> Duration {
        let now = self.log.now();
        let mut nap = NAP;
        for lane in &mut self.lanes {
            if lane.fault.is_some() {
                continue;
            }
            if !lane.releaser.is_done() {
                nap = nap.min(Duration::from_millis(2));
            }
            if let Some(due) = lane.partition.next_due()
                && lane.tick.is_none()
            {
                nap = nap.min(due.since(now).to_std());
            }
        }
        nap
    }

    fn answer(&mut self) {
        while let Ok(question) = self.questions.try_recv() {
            // Whoever asked may have gone away.
            match question {
                Question::Devices(ids, answer) => {
                    let of = |id: &String| self.lanes.iter().find_map(|lane| lane.partition.device_state(id));
                    let _ = answer.send(ids.iter().map(of).collect());
                }
                Question::Status(answer) => {
                    let mut status = ShardStatus::default();
                    for lane in &self.lanes {
                        let id = lane.partition.id();
                        let partition = PartitionStatus {
                            end: self.log.range(id).1,
                            checkpoint: lane.saved.load(Ordering::Acquire),
                            fault: lane.fault.clone(),
                            ..lane.partition.status()
                        };
                        status.partitions.insert(id, partition);
                        lane.partition.add_rule_status(&mut status.rules);
                    }
                    let _ = answer.send(status);
                }
                Question::Kept(rule, back_to, answer) => {
                    let kept = self.lanes.iter().filter_map(|lane| lane.partition.kept_state(&rule, back_to));
                    let _ = answer.send(kept.collect());
                }
                Question::Pieces(of, answer) => {
                    let lane = self.lanes.iter().find(|lane| lane.partition.id() == of.partition);
                    let pieces = lane.and_then(|lane| lane.partition.pieces(&of.rule, of.after, of.bytes));
                    let _ = answer.send(pieces);
                }
                Question::Dump(answer) => {
                    let dump = self.lanes.iter().map(|lane| (lane.partition.id(), lane.partition.dump()));
                    let _ = answer.send(dump.collect());
                }
                Question::Checkpoint => {
                    for lane in &mut self.lanes {
                        lane.begin_checkpoint(&*self.log);
                    }
                }
            }
        }
    }

    fn hand_over(&mut self) {
        let all = &metrics().rules;
        for lane in &mut self.lanes {
            let updates = lane.partition.take_updates();
            if !updates.is_empty() {
                lane.releaser.submit(AlertChanges { updates, ..AlertChanges::default() });
            }
            let id = lane.partition.id();
            let lag = self.log.range(id).1.saturating_sub(lane.partition.next_offset());
            all.lag.get_or_create(&[("partition", id.to_string())]).set(lag as i64);
            if lane.partition.next_offset() >= lane.live_from {
                lane.outages.look(&lane.partition, &*self.log);
            } else {
                lane.outages.keep(&lane.partition);
            }
            for (name, stats) in lane.partition.rule_stats() {
                let before = lane.published.get(&*name);
                let since = |of: fn(&RuleStats) -> u64| of(stats) - before.map_or(0, of).min(of(stats));
                let label = [("rule", name.to_string())];
                all.calls.get_or_create(&label).inc_by(since(|stats| stats.calls));
                all.rule_rows.get_or_create(&label).inc_by(since(|stats| stats.rows));
                let seconds = since(|stats| stats.nanoseconds) as f64 / 1e9;
                all.call_seconds.get_or_create(&label).inc_by(seconds);
                lane.published.insert(name.to_string(), stats.clone());
            }
        }
    }

    /// Goes on until a checkpoint of every partition is written, or time is up.
    fn finish(&mut self) {
        let until = Instant::now() + LAST_CHECKPOINT;
        self.hand_over();
        let mut wanted: Vec<Option<Offset>> = self
            .lanes
            .iter()
            .map(|lane| lane.fault.is_none().then(|| self.log.range(lane.partition.id()).1))
            .collect();
        while Instant::now() < until && self.stop.load(Ordering::Acquire) < 2 {
            let group = self.log.synced_group();
            let mut busy = false;
            for (i, wanted) in wanted.iter_mut().enumerate() {
                busy |= self.turn(i);
                let lane = &mut self.lanes[i];
                let Some(end) = *wanted else { continue };
                if lane.fault.is_some() || lane.saved.load(Ordering::Acquire) > end {
                    *wanted = None;
                } else if matches!(lane.mark, Mark::None) {
                    // A partition with nothing in it needs no checkpoint.
                    if end == 0 || !lane.begin_checkpoint(&*self.log) {
                        *wanted = None;
                    }
                }
            }
            if wanted.iter().all(Option::is_none) {
                return;
            }
            if !busy {
                self.log.wait_past(group, Duration::from_millis(2));
            }
        }
        tracing::warn!("stopped before every partition had its checkpoint: the next start replays more");
    }
}

impl Lane {
    /// Tries again to read the log, later.
    fn later(&mut self, wait: Duration, error: &LogError) {
        tracing::error!(partition = %self.partition.id(), ?wait, "the log cannot be read, tried again: {error}");
        self.again = Some((Instant::now() + wait, (wait * 2).min(LAST_RETRY)));
    }

    fn read(
        &mut self,
        log: &dyn Log,
        policy: &CheckpointPolicy,
        writer: &SyncSender<Job>,
    ) -> Result<bool, EngineError> {
        let mut out = Vec::new();
        let mut count = 0;
        let mut level = false;
        while count < TURN && self.releaser.len() < WAITING {
            let Some(entry) = self.reader.next()? else {
                level = true;
                break;
            };
            self.partition.apply(&entry, &mut out);
            self.releaser.push(&mut out);
            count += 1;
            let offset = entry.position.offset;
            if offset >= self.live_from {
                metrics().rules.records.inc();
                if let Record::Readings { batch, .. } = &entry.record {
                    metrics().rules.rows.inc_by(batch.rows() as u64);
                    let waited = log.now().since(entry.appended_at);
                    metrics().rules.append_to_evaluated.observe(waited.as_secs_f64());
                }
            }
            if self.tick.as_ref().is_some_and(|tick| offset >= tick.behind) {
                self.tick = None;
            }
            if entry.record == Record::CheckpointMark && matches!(self.mark, Mark::Appended(_)) {
                if self.save_failed.swap(false, Ordering::AcqRel) {
                    self.partition.mark_all_dirty();
                }
                // What rules have missed is needed behind the checkpoint, when the loop itself does not.
                self.outages.keep(&self.partition);
                self.mark = Mark::Captured(Box::new(self.partition.capture()), self.releaser.pushed());
            }
        }
        if !self.compared && self.partition.next_offset() >= self.live_from {
            self.compared = true;
            self.releaser.compare(self.partition.recovered());
        }
        self.releaser.pump()?;
        if count > 0 {
            self.progress.send_replace(self.partition.next_offset());
        }
        self.checkpoint(log, policy, writer);
        if self.partition.next_offset() >= self.live_from {
            self.outages.ask(&self.partition);
        }
        if level {
            self.tick(log);
        }
        Ok(count > 0)
    }

    /// Appends a tick where something is due and nothing comes.
    fn tick(&mut self, log: &dyn Log) {
        // A tick that was lost with its group is appended again.
        if self.tick.as_ref().is_some_and(|tick| tick.since.elapsed() < Duration::from_secs(1)) {
            return;
        }
        let Some(due) = self.partition.next_due() else { return };
        if due > log.now() {
            return;
        }
        let id = self.partition.id();
        match log.append(Append::Records(vec![(id, Record::Tick)])) {
            Ok(ticket) => {
                metrics().rules.ticks.inc();
                let behind = self.partition.next_offset();
                self.tick = Some(Ticking { behind, since: Instant::now(), _ticket: ticket });
            }
            // A full queue is full of records, and the next of them does as well.
            Err(error) => tracing::debug!(partition = %id, "no tick: {error}"),
        }
    }

    fn begin_checkpoint(&mut self, log: &dyn Log) -> bool {
        if !matches!(self.mark, Mark::None) {
            return true;
        }
        match log.append(Append::Records(vec![(self.partition.id(), Record::CheckpointMark)])) {
            Ok(_) => {
                self.mark = Mark::Appended(Instant::now());
                true
            }
            Err(AppendError::Full) => true,
            Err(error) => {
                tracing::warn!(partition = %self.partition.id(), "no checkpoint: {error}");
                false
            }
        }
    }

    fn checkpoint(&mut self, log: &dyn Log, policy: &CheckpointPolicy, writer: &SyncSender<Job>) {
        match std::mem::replace(&mut self.mark, Mark::None) {
            Mark::None => {
                let rows = self.partition.rows_since_checkpoint();
                let live = self.partition.next_offset() >= self.live_from;
                let old = rows > 0 && self.saved_at.elapsed() >= policy.interval;
                // A quiet partition too: the log is kept, for all of them, from the oldest checkpoint on.
                if live && (rows >= policy.rows || old) {
                    self.saved_at = Instant::now();
                    self.begin_checkpoint(log);
                }
            }
            // The mark was lost with its group.
            Mark::Appended(since) if since.elapsed() > Duration::from_secs(10) => {}
            Mark::Appended(since) => self.mark = Mark::Appended(since),
            Mark::Captured(capture, number) => {
                // Everything caused up to the mark must be durable before the checkpoint that covers it. What came
                // of later records is not waited for: under load there always is some.
                if self.releaser.released() < number {
                    self.mark = Mark::Captured(capture, number);
                    return;
                }
                let next = capture.next;
                let job = Job {
                    capture: *capture,
                    partition: self.partition.id(),
                    keeper_number: self.releaser.submitted(),
                    saved: self.saved.clone(),
                    failed: self.save_failed.clone(),
                };
                match writer.try_send(job) {
                    Ok(()) => self.mark = Mark::Writing { next },
                    Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                        self.mark = Mark::Captured(Box::new(job.capture), number);
                    }
                }
            }
            Mark::Writing { next } => {
                let done = self.saved.load(Ordering::Acquire) >= next;
                if !done && !self.save_failed.load(Ordering::Acquire) {
                    self.mark = Mark::Writing { next };
                }
            }
        }
    }
}

/// Writes checkpoints, so that the loop goes on meanwhile.
pub(crate) struct Writer {
    pub log: Arc<dyn Log>,
    pub keeper: Arc<dyn AlertKeeper>,
    pub checkpoints: BTreeMap<PartitionId, Checkpoint>,
    pub jobs: Receiver<Job>,
    pub stop: Arc<AtomicU64>,
}

impl Writer {
    pub fn run(mut self) {
        while let Ok(job) = self.jobs.recv() {
            while self.keeper.committed() < job.keeper_number {
                if self.stop.load(Ordering::Acquire) >= 2 {
                    return;
                }
                self.keeper.wait_committed(job.keeper_number, Duration::from_millis(200));
            }
            if self.stop.load(Ordering::Acquire) >= 2 {
                return;
            }
            let Some(checkpoint) = self.checkpoints.get_mut(&job.partition) else { continue };
            let begun = Instant::now();
            match checkpoint.write(&job.capture) {
                Ok(()) => {
                    metrics().rules.checkpoint_seconds.observe(begun.elapsed().as_secs_f64());
                    self.log.set_cursor("engine", job.partition, job.capture.next);
                    job.saved.store(job.capture.next, Ordering::Release);
                }
                Err(error) => {
                    metrics().rules.checkpoint_failures.inc();
                    tracing::error!(partition = %job.partition, "{error}; the next one writes everything");
                    // After an error the database takes nothing until it is opened again.
                    if let Err(error) = checkpoint.reopen() {
                        tracing::error!(partition = %job.partition, "{error}");
                    }
                    job.failed.store(true, Ordering::Release);
                }
            }
        }
    }
}
