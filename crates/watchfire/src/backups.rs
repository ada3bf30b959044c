//! A backup while everything runs.
//!
//! A restore loads the checkpoints and replays the log from there, so the parts are copied in the order in which one
//! depends on the next: the checkpoints first; then the store, which had everything that a checkpoint rests on before
//! that was written; the log last, which has everything that the store knows. What was copied early is older, and the
//! replay makes up for it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use watchfire_api::contract::{ArchiveError, Archiver, BoxFuture};
use watchfire_engine::{Checkpoint, Engine};
use watchfire_log::codec::group::{GroupHeader, SEGMENT_HEADER, SegmentHeader};
use watchfire_log::inspect::Inspection;
use watchfire_log::{EmbeddedLog, Log as _};
use watchfire_model::{Offset, PartitionId};
use watchfire_store::{Store, StoreError};

/// The name under which the log is kept from being cut meanwhile.
const HOLD: &str = "backup";

/// Times that a checkpoint is copied again because it was written meanwhile: it is, every few minutes at most.
const ATTEMPTS: usize = 5;

/// Bytes at the beginning of a checkpoint that every commit changes.
const HEAD: usize = 4096;

/// Makes backups.
pub struct Backups {
    /// The store; modules lie beside it.
    pub store: Store,
    /// The log.
    pub log: Arc<EmbeddedLog>,
    /// The partition loop.
    pub engine: Arc<Engine>,
    /// The data folder: the log, the state, the store.
    pub data: PathBuf,
    /// Bytes of disk that are for alerts and checkpoints: a backup does not touch them.
    pub reserve_bytes: u64,
}

/// Lets go of the log also where whoever asked has gone away.
struct Held<'a>(&'a EmbeddedLog);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release(HOLD);
    }
}

fn failed(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Failed(error.to_string())
}

impl Archiver for Backups {
    fn snapshot(&self, into: PathBuf) -> BoxFuture<'_, Result<(), ArchiveError>> {
        Box::pin(async move {
            for partition in self.partitions() {
                self.log.hold(HOLD, partition, self.log.range(partition).0);
            }
            let _held = Held(&self.log);
            self.copy(&into).await
        })
    }
}

impl Backups {
    fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.log.partitions()).map(PartitionId)
    }

    async fn copy(&self, into: &Path) -> Result<(), ArchiveError> {
        let needed = self.needed().await?;
        self.check_room(into)?;
        let (state, to) = (self.data.join("state"), into.join("state"));
        let partitions: Vec<PartitionId> = self.partitions().collect();
        blocking(move || partitions.into_iter().try_for_each(|id| copy_checkpoint(&state, &to, id))).await?;

        match self.store.backup(&into.join("watchfire.db")).await {
            Ok(()) => {}
            Err(StoreError::DiskFull { .. }) => {
                return Err(ArchiveError::Refused("the disk is full".into()));
            }
            Err(error) => return Err(ArchiveError::Failed(error.chain())),
        }
        let (modules, to) = (self.store.modules_folder(), into.join("modules"));
        blocking(move || link_files(&modules, &to).map_err(failed)).await?;

        let (log, to, from) = (self.data.join("log"), into.join("log"), needed.clone());
        blocking(move || copy_log(&log, &to, &from).map_err(failed)).await?;
        let to = into.join("log");
        blocking(move || check_log(&to, &needed)).await
    }

    /// The first record of each partition that a restore needs.
    async fn needed(&self) -> Result<Vec<Offset>, ArchiveError> {
        let status = self.engine.status().await;
        let stored = watchfire_api::projector::needs(&self.store, self.log.partitions()).await;
        let stored = stored.map_err(|error| ArchiveError::Failed(error.chain()))?;
        let mut needed = Vec::new();
        for (partition, stored) in self.partitions().zip(stored) {
            let Some(known) = status.partitions.get(&partition).and_then(Option::as_ref) else {
                return Err(ArchiveError::Refused(format!(
                    "partition {partition} does not say how far its checkpoint is: it is busy; try again"
                )));
            };
            let first = self.log.range(partition).0;
            if known.checkpoint < first {
                return Err(ArchiveError::Refused(format!(
                    "the log of partition {partition} begins at {first}, behind its checkpoint at {}: \
                     nothing could be restored from a copy",
                    known.checkpoint
                )));
            }
            needed.push(known.checkpoint.min(stored.max(first)));
        }
        Ok(needed)
    }

    /// Refuses where the copy would leave less of the disk than alerts and checkpoints need. Most of the log and the
    /// modules are linked and take nothing.
    fn check_room(&self, into: &Path) -> Result<(), ArchiveError> {
        let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = size(&self.data.join("watchfire.db")) + size(&self.data.join("watchfire.db-wal"));
        for entry in std::fs::read_dir(self.data.join("state")).into_iter().flatten().flatten() {
            bytes += size(&entry.path());
        }
        let newest = std::fs::read_dir(self.data.join("log")).into_iter().flatten().flatten();
        bytes += newest.map(|entry| size(&entry.path())).max().unwrap_or(0);
        let disk = rustix::fs::statvfs(into).map_err(failed)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < bytes.saturating_add(self.reserve_bytes) {
            return Err(ArchiveError::Refused(format!(
                "a copy takes {bytes} bytes for a while; {free} are free, of which {} are kept for alerts and \
                 checkpoints",
                self.reserve_bytes
            )));
        }
        Ok(())
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<(), ArchiveError> + Send + 'static,
) -> Result<(), ArchiveError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(error)))
}

/// Copies the checkpoint of a partition, as of one commit.
///
/// redb never writes over what the last commit holds, and every commit changes the head of the file: where the head is
/// the same before and after, what was read in between is that commit, whole. Opening the copy checks it, and settles
/// what a transaction had begun to write meanwhile.
fn copy_checkpoint(from: &Path, to: &Path, partition: PartitionId) -> Result<(), ArchiveError> {
    let name = format!("partition-{partition}.redb");
    let (source, target) = (from.join(&name), to.join(&name));
    if !source.is_file() {
        return Ok(());
    }
    std::fs::create_dir_all(to).map_err(failed)?;
    for _ in 0..ATTEMPTS {
        let before = head(&source).map_err(failed)?;
        std::fs::copy(&source, &target).map_err(failed)?;
        if head(&source).map_err(failed)? == before {
            return Checkpoint::open(to, partition).map(drop).map_err(failed);
        }
    }
    Err(ArchiveError::Refused(format!(
        "the checkpoint of partition {partition} was written each time it was copied; try again"
    )))
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Links files that never change, or copies them where the file system has no links.
fn link_files(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    if !from.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        // A dot in front: an upload that is being written.
        if let Some(name) = path.file_name().filter(|name| !name.to_string_lossy().starts_with('.')) {
            link(&path, &to.join(name))?;
        }
    }
    Ok(())
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to).or_else(|_| std::fs::copy(from, to).map(drop))
}

/// Copies the log from the segment on that holds the first record needed of every partition.
///
/// The newest segment first: a segment says where the one before it ends, so that what is copied later must have at
/// least what its successor says it has.
fn copy_log(from: &Path, to: &Path, needed: &[Offset]) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::copy(from.join("FORMAT"), to.join("FORMAT"))?;
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let mut page = Vec::with_capacity(SEGMENT_HEADER);
        File::open(&path)?.take(SEGMENT_HEADER as u64).read_to_end(&mut page)?;
        // What has no header yet holds nothing.
        if let Ok(header) = SegmentHeader::decode(&page) {
            segments.push((header, path));
        }
    }
    segments.sort_unstable_by_key(|(header, _)| header.sequence);
    let holds = |(header, _): &(SegmentHeader, PathBuf)| {
        header.offsets.iter().zip(needed).all(|(first, needed)| first <= needed)
    };
    let begin = segments.iter().rposition(holds).unwrap_or(0);
    let mut successor: Option<(u64, u64)> = None;
    for (header, path) in segments[begin..].iter().rev() {
        let Some(name) = path.file_name() else { continue };
        match successor {
            None => copy_newest(header, path, &to.join(name))?,
            // Not part of the chain: nothing in it was ever synced.
            Some((previous, _)) if previous != header.sequence => continue,
            Some((_, end)) if path.metadata()?.len() == end => link(path, &to.join(name))?,
            Some((_, end)) => {
                io::copy(&mut File::open(path)?.take(end), &mut File::create_new(to.join(name))?)?;
            }
        }
        successor = Some((header.previous, header.previous_end));
    }
    Ok(())
}

/// Copies the segment that is being written, up to the last group that is whole. What stands behind it may be half of
/// one, with a later one behind that: a start would take that for damage.
fn copy_newest(header: &SegmentHeader, from: &Path, to: &Path) -> io::Result<()> {
    let bytes = std::fs::read(from)?;
    let (mut at, mut group) = (SEGMENT_HEADER, header.first_group);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty())
        && let Ok(found) = GroupHeader::decode(rest)
        && (found.log, found.group) == (header.log, group)
        && found.length() <= rest.len()
        && found.body(rest).is_ok()
    {
        at += found.length();
        group += 1;
    }
    File::create_new(to)?.write_all(&bytes[..at.min(bytes.len())])
}

/// Looks at the copy as a start would.
fn check_log(folder: &Path, needed: &[Offset]) -> Result<(), ArchiveError> {
    let inspection = Inspection::open(folder).map_err(failed)?;
    let segments = inspection.segments();
    let first = segments.first().map(|segment| segment.first_offsets.clone()).unwrap_or_default();
    drop(inspection);
    // The one that looked left its lock behind.
    let _ = std::fs::remove_file(folder.join("LOCK"));
    match first.iter().zip(needed).any(|(first, needed)| first > needed) {
        true => Err(failed("the log was cut while it was copied")),
        false => Ok(()),
    }
}
