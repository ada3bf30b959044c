//! The log as files of one folder, and two threads.
//!
//! | file | is |
//! |---|---|
//! | `FORMAT` | version, number of partitions, epoch, the number of the log |
//! | `DETACHED` | readers that held more than they may, and lost a part of the log |
//! | `LOCK` | locked by the process that has the log open |
//! | `segment-N.wal` | groups, see [`crate::codec::group`] |
//!
//! Appends of all connections collect in the open group; the appender takes it, writes and syncs it,
//! publishes its records in memory and resolves the tickets. While one sync runs, the next group collects.

use std::any::Any;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use watchfire_model::{Epoch, Offset, PartitionId, Position, READINGS, Timestamp};

use crate::clock::Clock;
use crate::codec::group::MAX_PARTITIONS;
use crate::contract::{Append, AppendError, Log, LogError, LogReader, Ticket};
use crate::disk::{Disk, RealDisk};
use crate::record::Entry;

mod appender;
mod intake;
mod keeper;
mod options;
mod reader;
pub(crate) mod recover;
mod retention;
mod rows;
pub(crate) mod segment;
mod tail;
mod time;

pub use options::{Cut, Detached, LogOptions, OpenReport};
pub use retention::ENGINE;

use recover::io;

/// The name of the file that says what the folder is.
pub(crate) const FORMAT: &str = "FORMAT";
const FORMAT_VERSION: u32 = 1;

/// A log in a folder.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    appender: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    lock: Option<Box<dyn Any + Send + Sync>>,
}

/// What the threads, readers and callers share.
struct Shared {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: LogOptions,
    log: u64,
    epoch: Epoch,
    partitions: u16,
    readings: Arc<str>,
    intake: intake::Intake,
    time: Mutex<time::LogTime>,
    segments: segment::Segments,
    prepared: Mutex<keeper::Prepared>,
    tail: tail::Tail,
    /// The first offsets where there is no segment.
    fallback_first: Vec<Offset>,
    synced: Mutex<u64>,
    synced_changed: Condvar,
    synced_number: AtomicU64,
    synced_notify: Notify,
    readers: Mutex<Vec<Weak<reader::Progress>>>,
    recent: Mutex<reader::Recent>,
    disk_reads: AtomicU64,
    needs: Mutex<retention::Needs>,
    /// The boot clock when a group was synced last, in microseconds.
    written: AtomicU64,
    /// The boot clock when the log was opened.
    opened: Duration,
    began: Instant,
    keeper: Mutex<KeeperSignal>,
    keeper_changed: Condvar,
}

#[derive(Default)]
struct KeeperSignal {
    wanted: bool,
    stop: bool,
}

/// What the folder is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Format {
    format: String,
    version: u32,
    pub(crate) partitions: u16,
    pub(crate) epoch: Epoch,
    /// The number of the log, 16 hex digits: groups of another log are never taken for its own.
    log: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Format {
    /// Reads the file; `None`: there is none.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Self>, LogError> {
        let file = match disk.open(FORMAT) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("opening", FORMAT)(error)),
        };
        let mut bytes = vec![0; 4096];
        let read = file.read_at(0, &mut bytes).map_err(io("reading", FORMAT))?;
        let format: Self = serde_json::from_slice(&bytes[..read])
            .map_err(|error| LogError::Format(format!("{FORMAT} is not readable: {error}")))?;
        if format.format != "watchfire-log" || format.version != FORMAT_VERSION {
            return Err(LogError::Format(format!(
                "the folder is a {} of version {}, not a watchfire-log of version {FORMAT_VERSION}",
                format.format, format.version
            )));
        }
        Ok(Some(format))
    }

    pub(crate) fn log(&self) -> Result<u64, LogError> {
        u64::from_str_radix(&self.log, 16)
            .map_err(|_| LogError::Format(format!("{FORMAT} has no number of the log")))
    }

    fn write(&self, disk: &dyn Disk) -> Result<(), LogError> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| LogError::Format(error.to_string()))?;
        disk.replace(FORMAT, &text).map_err(io("writing", FORMAT))
    }
}

/// A number that nobody outside can know: the keys of std's hash maps are drawn by the system.
fn random_number() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl EmbeddedLog {
    /// Opens the log in a folder, or begins one there. What was acknowledged is there; a torn write at the
    /// end is left out and reported; damage of what was synced is an error and changes nothing.
    pub fn open(
        folder: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, OpenReport), LogError> {
        let disk = RealDisk::new(folder).map_err(io("making", folder.display().to_string()))?;
        Self::open_on(Arc::new(disk), options, clock)
    }

    /// As [`EmbeddedLog::open`], on any disk.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, OpenReport), LogError> {
        let locked =
            disk.lock().map_err(io("locking", disk.name()))?.ok_or_else(|| LogError::InUse(disk.name()))?;
        if options.partitions == 0 || options.partitions > MAX_PARTITIONS {
            return Err(LogError::Format(format!("partitions must be 1 to {MAX_PARTITIONS}")));
        }
        let (format, created) = Self::format(&*disk, &options)?;
        let number = format.log()?;
        let mut found = recover::find(&*disk, number, format.partitions)?;
        let report = OpenReport {
            created,
            epoch: format.epoch,
            segments: found.segments.len() + usize::from(found.last.is_some()),
            last_group: found.last_group,
            last_appended_at: found.last.as_ref().map(|last| last.header.appended_at),
            clean: found.clean,
            cut: found.cut.clone(),
        };
        if let Some(cut) = &report.cut {
            tracing::warn!(file = cut.file, at = cut.at, "a torn write at the end of the log is left out");
        }
        let next_group = Self::settle(&*disk, &mut found, number)?;
        let shared = Arc::new(Shared {
            clock: clock.clone(),
            log: number,
            epoch: format.epoch,
            partitions: format.partitions,
            readings: READINGS.into(),
            intake: intake::Intake::new(
                format.partitions,
                next_group,
                options.queue_bytes,
                options.group_bytes,
            ),
            time: Mutex::new(time::LogTime::new(
                clock.clone(),
                report.last_appended_at,
                options.clock_jump,
                options.clock_stable,
                options.clock_away,
            )),
            segments: segment::Segments::new(std::mem::take(&mut found.segments)),
            prepared: Mutex::new(keeper::Prepared { next_sequence: found.next_sequence, file: None }),
            tail: tail::Tail::new(&found.at.next),
            fallback_first: found.at.next.clone(),
            synced: Mutex::new(next_group - 1),
            synced_changed: Condvar::new(),
            synced_number: AtomicU64::new(next_group - 1),
            synced_notify: Notify::new(),
            readers: Mutex::default(),
            recent: Mutex::default(),
            disk_reads: AtomicU64::new(0),
            needs: Mutex::new(retention::Needs::restore(&*disk)),
            written: AtomicU64::new(clock.boot().as_micros() as u64),
            opened: clock.boot(),
            began: Instant::now(),
            keeper: Mutex::default(),
            keeper_changed: Condvar::new(),
            disk,
            options,
        });
        // Before anything can be appended: the clock may not be one to trust.
        shared.apply_pause();
        let threads = Self::start(&shared, found.at, locked)?;
        // The gap since the last life of the log comes first.
        shared.intake.nudge();
        Ok((Arc::new(Self { shared, threads: Mutex::new(threads) }), report))
    }

    fn format(disk: &dyn Disk, options: &LogOptions) -> Result<(Format, bool), LogError> {
        match Format::read(disk)? {
            Some(mut format) => {
                if format.partitions != options.partitions {
                    return Err(LogError::Format(format!(
                        "the folder has {} partitions, not {}: the number is fixed when a folder is made",
                        format.partitions, options.partitions
                    )));
                }
                if options.new_epoch {
                    format.epoch.0 += 1;
                    format.write(disk)?;
                }
                Ok((format, false))
            }
            None => {
                let names = disk.list().map_err(io("listing", disk.name()))?;
                if let Some(name) = names.iter().find(|name| segment::sequence_of(name).is_some()) {
                    return Err(LogError::Format(format!("there is {name}, but no {FORMAT}")));
                }
                let format = Format {
                    format: "watchfire-log".into(),
                    version: FORMAT_VERSION,
                    partitions: options.partitions,
                    epoch: Epoch(1),
                    log: format!("{:016x}", random_number()),
                };
                format.write(disk)?;
                Ok((format, true))
            }
        }
    }

    /// Writes the last group once more, into a new segment, and removes what is void. Gives the number of
    /// the next group.
    fn settle(disk: &dyn Disk, found: &mut recover::Found, log: u64) -> Result<u64, LogError> {
        let mut next_group = 1;
        if let Some(last) = found.last.take() {
            next_group = last.header.group;
            if last.header.records > 0 {
                next_group += 1;
                let segment = Self::rewrite(disk, found, log, &last)?;
                found.segments.push(segment);
            }
        }
        for name in &found.void {
            disk.remove(name).map_err(io("removing", name))?;
        }
        Ok(next_group)
    }

    fn rewrite(
        disk: &dyn Disk,
        found: &mut recover::Found,
        log: u64,
        last: &recover::LastGroup,
    ) -> Result<Arc<segment::Segment>, LogError> {
        let sequence = found.next_sequence;
        found.next_sequence += 1;
        let header = crate::codec::group::SegmentHeader {
            log,
            sequence,
            previous: found.at.end.0,
            previous_end: found.at.end.1,
            first_group: last.header.group,
            appended_before: found.at.appended_at,
            offsets: found.at.next.clone().into(),
        };
        let mut bytes = header.encode();
        bytes.extend_from_slice(&last.bytes);
        let name = segment::file_name(sequence);
        let file = disk.create(&name, bytes.len() as u64).map_err(io("making", &name))?;
        disk.sync_directory().map_err(io("syncing", disk.name()))?;
        file.write_at(0, &bytes).map_err(io("writing", &name))?;
        file.sync_data().map_err(io("syncing", &name))?;
        for share in &last.header.shares {
            found.at.next[usize::from(share.partition.0)] += u64::from(share.count);
        }
        found.at.end = (sequence, bytes.len() as u64);
        found.at.appended_at = last.header.appended_at;
        Ok(Arc::new(segment::Segment::new(header, file, bytes.len() as u64, last.header.appended_at)))
    }

    fn start(
        shared: &Arc<Shared>,
        at: appender::Continuation,
        locked: Box<dyn Any + Send + Sync>,
    ) -> Result<Threads, LogError> {
        let writer = appender::Appender::new(shared.clone(), at);
        let appender = std::thread::Builder::new()
            .name("log-appender".into())
            .spawn(move || writer.run())
            .map_err(io("starting a thread for", shared.disk.name()))?;
        let beside = shared.clone();
        let keeper =
            std::thread::Builder::new().name("log-keeper".into()).spawn(move || keeper::run(&beside));
        match keeper {
            Ok(keeper) => Ok(Threads { appender: Some(appender), keeper: Some(keeper), lock: Some(locked) }),
            Err(error) => {
                shared.intake.close();
                let _ = appender.join();
                Err(io("starting a thread for", shared.disk.name())(error))
            }
        }
    }

    /// Writes what was accepted, proves it synced, and gives the folder free. Readers may go on reading.
    /// Appends are refused from now on. Blocks; a second call does nothing.
    pub fn close(&self) {
        let mut threads = lock(&self.threads);
        self.shared.intake.close();
        if let Some(appender) = threads.appender.take() {
            let _ = appender.join();
        }
        lock(&self.shared.keeper).stop = true;
        self.shared.keeper_changed.notify_all();
        if let Some(keeper) = threads.keeper.take() {
            let _ = keeper.join();
        }
        if let Some((sequence, _)) = lock(&self.shared.prepared).file.take() {
            let _ = self.shared.disk.remove(&segment::file_name(sequence));
        }
        threads.lock = None;
    }

    /// Keeps a partition from this offset on, for a snapshot or a range that is evaluated again, until
    /// [`EmbeddedLog::release`]. A hold may have an offset in each partition.
    pub fn hold(&self, name: &str, partition: PartitionId, from: Offset) {
        lock(&self.shared.needs).hold(name, partition, from);
    }

    /// What this name held is not needed any more.
    pub fn release(&self, name: &str) {
        lock(&self.shared.needs).release(name);
    }

    fn open_reader(&self, partition: PartitionId, from: Offset) -> Result<reader::Reader, LogError> {
        self.shared.check(partition)?;
        let first = self.shared.first(partition);
        if from < first {
            return Err(LogError::Gone { partition, wanted: from, first });
        }
        Ok(reader::Reader::new(self.shared.clone(), partition, from))
    }

    /// Readers and holds that kept more than they may, newest last.
    pub fn detached(&self) -> Vec<Detached> {
        lock(&self.shared.needs).detached()
    }

    /// Groups that were read from the disk since the log was opened: 0 while all readers are level.
    pub fn disk_reads(&self) -> u64 {
        self.shared.disk_reads.load(Ordering::Relaxed)
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedLog").field("folder", &self.shared.disk.name()).finish_non_exhaustive()
    }
}

impl Log for EmbeddedLog {
    fn identity(&self) -> u64 {
        self.shared.log
    }

    fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    fn partitions(&self) -> u16 {
        self.shared.partitions
    }

    fn now(&self) -> Timestamp {
        lock(&self.shared.time).now()
    }

    fn append(&self, append: Append) -> Result<Ticket, AppendError> {
        self.shared.intake.append(append)
    }

    fn reader(&self, partition: PartitionId, from: Offset) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(self.open_reader(partition, from)?))
    }

    fn pacing_reader(&self, partition: PartitionId, from: Offset) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(self.open_reader(partition, from)?.setting_the_pace()))
    }

    fn range(&self, partition: PartitionId) -> (Offset, Offset) {
        if self.shared.check(partition).is_err() {
            return (0, 0);
        }
        (self.shared.first(partition), self.shared.tail.range(partition).1)
    }

    fn synced_group(&self) -> u64 {
        self.shared.synced_number.load(Ordering::Acquire)
    }

    fn wait_past(&self, group: u64, timeout: Duration) -> u64 {
        let synced = lock(&self.shared.synced);
        let waited =
            self.shared.synced_changed.wait_timeout_while(synced, timeout, |synced| *synced <= group);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn synced_past(&self, group: u64) -> Pin<Box<dyn Future<Output = u64> + Send + '_>> {
        Box::pin(async move {
            loop {
                // Before the look: a notification between the two is not missed.
                let changed = self.shared.synced_notify.notified();
                let synced = self.synced_group();
                if synced > group {
                    return synced;
                }
                changed.await;
            }
        })
    }

    fn set_cursor(&self, reader: &str, partition: PartitionId, next: Offset) {
        if self.shared.check(partition).is_ok() {
            let first: Vec<Offset> =
                (0..self.shared.partitions).map(|p| self.shared.first(PartitionId(p))).collect();
            lock(&self.shared.needs).set_cursor(reader, partition, next, &first);
        }
    }

    fn remove_cursor(&self, reader: &str) {
        lock(&self.shared.needs).remove_cursor(reader, &*self.shared.disk);
    }

    fn confirm_clock(&self) -> bool {
        let resumed = lock(&self.shared.time).confirm();
        self.shared.apply_pause();
        if resumed {
            self.shared.intake.nudge();
        }
        resumed
    }

    fn paused(&self) -> Option<AppendError> {
        lock(&self.shared.time).paused().map(|(_, error)| error.clone())
    }

    fn scan(
        &self,
        from: Position,
    ) -> Result<Box<dyn Iterator<Item = Result<Arc<Entry>, LogError>> + Send>, LogError> {
        self.shared.check(from.partition)?;
        Ok(Box::new(reader::Scan::new(self.shared.clone(), from)?))
    }
}

impl Shared {
    fn check(&self, partition: PartitionId) -> Result<(), LogError> {
        if partition.0 < self.partitions {
            Ok(())
        } else {
            Err(LogError::Format(format!("there is no partition {partition}, only {}", self.partitions)))
        }
    }

    fn first(&self, partition: PartitionId) -> Offset {
        self.segments.first(partition).unwrap_or(self.fallback_first[usize::from(partition.0)])
    }

    /// A group is synced and can be read.
    fn publish(&self, group: u64) {
        self.written.store(self.clock.boot().as_micros() as u64, Ordering::Relaxed);
        *lock(&self.synced) = group;
        self.synced_number.store(group, Ordering::Release);
        self.synced_changed.notify_all();
        self.synced_notify.notify_waiters();
    }

    /// Tells the intake whether it is paused.
    fn apply_pause(&self) {
        let pause = lock(&self.time).paused().map(|(_, error)| error.clone());
        self.intake.set_pause(pause);
    }

    /// How long the next group may be held: longer, the more records the slowest reader has before it that
    /// sets the pace and follows the tail. Readers that stand still for a second, and those that read old records, do not
    /// count: nothing is won by waiting for them.
    fn hold(&self) -> Duration {
        let now = self.began.elapsed().as_millis() as u64;
        let mut most = 0;
        lock(&self.readers).retain(|reader| {
            let Some(reader) = reader.upgrade() else { return false };
            let offset = reader.offset.load(Ordering::Relaxed);
            if reader.seen.swap(offset, Ordering::Relaxed) != offset {
                reader.moved.store(now, Ordering::Relaxed);
            }
            let (first, end) = self.tail.range(reader.partition);
            if offset >= first && now - reader.moved.load(Ordering::Relaxed) < 1000 {
                most = most.max(end.saturating_sub(offset));
            }
            true
        });
        // One record behind is what a reader always is.
        let behind = u32::try_from(most.saturating_sub(2)).unwrap_or(u32::MAX);
        Duration::from_micros(500).saturating_mul(behind).min(self.options.hold)
    }

    fn wake_keeper(&self) {
        lock(&self.keeper).wanted = true;
        self.keeper_changed.notify_all();
    }

    /// Waits until the keeper is wanted, or so long. Whether it has to stop.
    fn wait_keeper(&self, period: Duration) -> bool {
        let idle = |signal: &mut KeeperSignal| !signal.wanted && !signal.stop;
        let waited = self.keeper_changed.wait_timeout_while(lock(&self.keeper), period, idle);
        let mut signal = waited.unwrap_or_else(PoisonError::into_inner).0;
        signal.wanted = false;
        signal.stop
    }
}
