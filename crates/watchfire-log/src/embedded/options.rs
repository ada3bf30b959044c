//! What the embedded log can be told, and what it found when it was opened.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use watchfire_model::{Epoch, Offset, PartitionId, Timestamp};

/// How the log behaves.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Partitions of a new folder; of one that is there it must be the same. Default: as many as cores.
    pub partitions: u16,
    /// Bytes set aside for a segment. Default 64 MiB.
    pub segment_bytes: u64,
    /// Bytes that may wait for the disk before appends are refused. Default 64 MiB, at most 1 GiB.
    pub queue_bytes: usize,
    /// Bytes from which on a waiting group is closed and another begun, so that no record grows beyond
    /// what one callback can take. Default 8 MiB.
    pub group_bytes: usize,
    /// Bytes of records kept in memory for readers that are level. Default 64 MiB.
    pub tail_bytes: usize,
    /// Bytes of disk that intake never touches: they are for the store and checkpoints. The log's own
    /// records (activations, operator actions) may use half of it. Default 256 MiB.
    pub reserve_bytes: u64,
    /// How long a group may be held while readers lag behind. Default 10 ms.
    pub hold: Duration,
    /// A segment that every reader passed is kept this long ... Default one day.
    pub retain_for: Duration,
    /// ... unless the log is larger than this, or the disk is about to be full. Default 8 GiB.
    pub retain_bytes: u64,
    /// Bytes that a reader other than the engine, or a hold, may keep from being removed. Default 16 GiB.
    pub reader_bytes: u64,
    /// Nothing is removed before this is over: readers attach first. Default one minute.
    pub retention_delay: Duration,
    /// A forward jump of the wall clock that is larger than this pauses appends. Default one hour.
    pub clock_jump: Duration,
    /// At a start, a wall clock that is farther ahead of the last record than this pauses appends as a jump does.
    /// Default 30 days: longer than an installation is switched off for, much less than a dead clock is wrong by.
    pub clock_away: Duration,
    /// Where nothing is written for so long, a tick is, so that the log says that time passed. After a crash the gap
    /// begins at the last record: what nobody wrote down counts as our downtime, and a device's silence is shifted
    /// by it. Default 5 s. It bounds that error, and costs one small write and sync each time, only while no
    /// reading comes: 17 280 a day, in all some 2 MiB of log, and on the worst flash (an erased block of 512 KiB a
    /// sync) 9 GB, where a small card stands some ten thousands of GB.
    pub heartbeat: Duration,
    /// After being stable for so long a clock that jumped is trusted. Default five minutes.
    pub clock_stable: Duration,
    /// The folder was restored from a backup: its epoch goes up, so that no id is used twice.
    pub new_epoch: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            partitions: cores.min(crate::codec::group::MAX_PARTITIONS.into()) as u16,
            segment_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            group_bytes: 8 << 20,
            tail_bytes: 64 << 20,
            reserve_bytes: 256 << 20,
            hold: Duration::from_millis(10),
            retain_for: Duration::from_secs(86_400),
            retain_bytes: 8 << 30,
            reader_bytes: 16 << 30,
            retention_delay: Duration::from_secs(60),
            clock_jump: Duration::from_secs(3600),
            clock_away: Duration::from_secs(30 * 86_400),
            heartbeat: Duration::from_secs(5),
            clock_stable: Duration::from_secs(300),
            new_epoch: false,
        }
    }
}

/// What was found in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// The folder was empty before.
    pub created: bool,
    /// The epoch of what is appended from now on.
    pub epoch: Epoch,
    /// Segments with records.
    pub segments: usize,
    /// The last group that is kept.
    pub last_group: Option<u64>,
    /// When it was appended.
    pub last_appended_at: Option<Timestamp>,
    /// The log was closed before it ended: everything in it was known to be synced.
    pub clean: bool,
    /// A torn write at the end: nobody was told that it is durable.
    pub cut: Option<Cut>,
}

/// Where a torn write was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub file: String,
    /// The byte from which on it is void.
    pub at: u64,
    /// Up to where there was something.
    pub bytes: u64,
}

/// A reader or a hold that kept more from being removed than it may. What it needed and what is kept when it comes
/// back differ by what it lost. Noted in a file of the folder, until the reader is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Its name.
    pub name: String,
    /// What it still needed: the next offset of each partition.
    pub needed: Vec<(PartitionId, Offset)>,
    /// Bytes that it held.
    pub bytes: u64,
    /// When this happened, by the clock of the log.
    pub at: Timestamp,
}
