//! `migrate`, tried on a copy of what a rule keeps, before anything is deployed. The loop goes on meanwhile.
//!
//! The copy is taken piece by piece, each between two records, and each is let go of before the next one is asked
//! for: a state of any size takes a few megabytes, and no partition stands still for longer than it takes to copy
//! those. What changes between two pieces does not matter to the trial, since a call of `migrate` sees blobs of one
//! slot and nothing else. A blob that comes after its place was passed is not tried: what the swap itself then says is
//! the last word, and one partition that refuses takes the version back everywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use watchfire_model::call::{CallFailure, DeviceSet, Module};
use watchfire_model::state::{BLOB_OVERHEAD, Blobs, Piece};
use watchfire_model::{DeviceHandle, Digest, Limits, PartitionId};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::partition::migrate_piece;
use crate::shard::PiecesOf;

/// Bytes of pieces that are copied at once.
const COPIED_AT_ONCE: usize = 8 << 20;

/// How long the search for the one blob at fault may take: a call that runs out of time is slow to fail.
const SEARCH: Duration = Duration::from_secs(10);

/// What came of a trial.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trial {
    /// The layout that the state has; of partitions that differ, the first that has any.
    pub from: u32,
    /// The layout that the module reads.
    pub to: u32,
    /// Devices with state.
    pub devices: u64,
    /// Blobs: one for each slot and device.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes that came of them.
    pub new_bytes: u64,
    /// Time in `migrate`, of the partition that takes longest: about as long it stands still at the swap.
    pub took: Duration,
    /// What stands against it.
    pub failure: Option<TrialFailure>,
}

/// Why state cannot be migrated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialFailure {
    /// Where.
    pub partition: PartitionId,
    /// The slot; `None`: it is the state as a whole.
    pub slot: Option<u32>,
    /// The device whose state is at fault; `None`: it was not found, or is none in particular.
    pub device: Option<DeviceHandle>,
    /// Devices whose states were migrated together, that one among them.
    pub devices: usize,
    /// What the module or the host said.
    pub reason: String,
}

/// What one partition adds up to.
#[derive(Default)]
struct Sum {
    devices: DeviceSet,
    slots: BTreeSet<u32>,
    blobs: u64,
    bytes: u64,
    new_bytes: u64,
    new_blobs: u64,
    took: Duration,
}

impl Engine {
    /// Tries `migrate` of a module on all that a rule keeps, in every partition, until one says no. Changes nothing.
    pub async fn try_migration(
        &self,
        rule: &str,
        module: Digest,
        limits: &Limits,
    ) -> Result<Trial, EngineError> {
        let modules = self.modules.clone();
        let found = tokio::task::spawn_blocking(move || modules.get(module)).await;
        let mut trial = Trial::default();
        let module = match found.map_err(|_| EngineError::Stopped)? {
            Ok(module) => module,
            Err(failure) => {
                let partition = PartitionId(0);
                let reason = failure.message;
                trial.failure =
                    Some(TrialFailure { partition, slot: None, device: None, devices: 0, reason });
                return Ok(trial);
            }
        };
        trial.to = module.manifest().state_version;
        for partition in self.partitions() {
            let tried = self.try_in(partition, rule, &module, limits, &mut trial).await?;
            if tried.is_some() {
                trial.failure = tried;
                break;
            }
        }
        Ok(trial)
    }

    async fn try_in(
        &self,
        partition: PartitionId,
        rule: &str,
        module: &Arc<dyn Module>,
        limits: &Limits,
        trial: &mut Trial,
    ) -> Result<Option<TrialFailure>, EngineError> {
        let (rule, mut after, mut version) = (Arc::<str>::from(rule), None, None);
        let mut sum = Sum::default();
        let failure = loop {
            let of = PiecesOf { partition, rule: rule.clone(), after, bytes: COPIED_AT_ONCE };
            let Some(copied) = self.pieces(of).await? else { break None };
            // Another version since: what was tried is not what there is.
            if *version.get_or_insert(copied.version) != copied.version {
                return Err(EngineError::Busy);
            }
            let Some(last) = copied.pieces.last() else { break None };
            after = last.devices.last().map(|device| (last.slot, *device));
            let from = copied.state_version;
            if trial.from == 0 {
                trial.from = from;
            }
            if from == trial.to {
                break None;
            }
            let (module, limits) = (module.clone(), limits.clone());
            let tried = tokio::task::spawn_blocking(move || {
                let failure = try_pieces(&*module, &limits, from, copied.pieces, &mut sum);
                let failure = failure.or_else(|| {
                    let new = sum.new_bytes + sum.new_blobs * BLOB_OVERHEAD;
                    let kept = limits.check_state(copied.kept, (new, sum.slots.len()));
                    kept.err().map(|reason| (None, None, sum.devices.len(), reason))
                });
                (sum, failure)
            });
            let failed;
            (sum, failed) = tried.await.map_err(|_| EngineError::Stopped)?;
            if failed.is_some() {
                break failed;
            }
        };
        trial.devices += sum.devices.len() as u64;
        trial.blobs += sum.blobs;
        trial.bytes += sum.bytes;
        trial.new_bytes += sum.new_bytes;
        trial.took = trial.took.max(sum.took);
        let told =
            |(slot, device, devices, reason)| TrialFailure { partition, slot, device, devices, reason };
        Ok(failure.map(told))
    }
}

type Failed = (Option<u32>, Option<DeviceHandle>, usize, String);

fn try_pieces(
    module: &dyn Module,
    limits: &Limits,
    from: u32,
    pieces: Vec<Piece>,
    sum: &mut Sum,
) -> Option<Failed> {
    for piece in pieces {
        let begun = Instant::now();
        let migrated = migrate_piece(module, limits, from, piece.slot, piece.blobs.clone());
        sum.took += begun.elapsed();
        sum.blobs += piece.devices.len() as u64;
        sum.bytes += piece.blobs.data.len() as u64;
        for &device in &piece.devices {
            sum.devices.set(device, true);
        }
        match migrated {
            Ok(migrated) => {
                let stored = migrated.lengths.iter().filter(|length| **length > 0).count() as u64;
                if stored > 0 {
                    sum.slots.insert(piece.slot);
                }
                sum.new_blobs += stored;
                sum.new_bytes += migrated.data.len() as u64;
            }
            Err(failure) => {
                let (device, failure) = search(module, limits, from, &piece, failure);
                return Some((Some(piece.slot), device, piece.devices.len(), failure.message));
            }
        }
    }
    None
}

/// The first blob that fails alone, by halving what fails; with what is said of it.
fn search(
    module: &dyn Module,
    limits: &Limits,
    from: u32,
    piece: &Piece,
    failure: CallFailure,
) -> (Option<DeviceHandle>, CallFailure) {
    let begun = Instant::now();
    let blobs: Vec<&[u8]> = piece.blobs.iter().collect();
    let (mut failing, mut said) = (0..blobs.len(), failure.clone());
    while failing.len() > 1 {
        let middle = failing.start + failing.len() / 2;
        let halves = [failing.start..middle, middle..failing.end];
        let failed = halves.into_iter().find_map(|half| {
            if begun.elapsed() > SEARCH {
                return None;
            }
            let mut some = Blobs::default();
            blobs[half.clone()].iter().for_each(|blob| some.push(blob));
            let failure = migrate_piece(module, limits, from, piece.slot, some).err()?;
            Some((half, failure))
        });
        match failed {
            Some(found) => (failing, said) = found,
            // They fail only together, or there was no time.
            None => return (None, failure),
        }
    }
    (piece.devices.get(failing.start).copied(), said)
}
