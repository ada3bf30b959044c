//! What a partition knows of each device as one stream tells it: when it was heard of, and what its clock
//! says.

use std::collections::BTreeMap;
use std::sync::Arc;

use watchfire_model::{Batch, DeviceHandle, Duration, Registry, Timestamp};

use crate::rule::RuleId;
use crate::selection::Selections;

/// A device in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Track {
    /// The clock of the device: the newest event time of its rows in the order of the log, never going
    /// back, not later than their receipt. Before its first row: when it was registered.
    pub clock: Timestamp,
    /// When the log received the row that `clock` was last looked at with, moved by the gaps since.
    pub reference: Timestamp,
    /// When the log received its last row.
    pub seen: Timestamp,
    /// Event time of its last row.
    pub event: Timestamp,
    pub flags: u8,
}

/// It has had a row.
pub(crate) const REPORTED: u8 = 1;
/// Conditions of rules on this stream wait for its clock.
pub(crate) const DATED: u8 = 2;
/// It is silent for a rule on this stream.
pub(crate) const SILENT: u8 = 4;

impl Track {
    pub fn registered(at: Timestamp) -> Self {
        Self { clock: at, reference: at, seen: at, event: at, flags: 0 }
    }

    /// What its clock says at a time of the log.
    pub fn clock_at(&self, now: Timestamp) -> Timestamp {
        self.clock + now.since(self.reference)
    }

    /// When, by the time of the log, its clock says `due` if no row comes.
    pub fn log_time_of(&self, due: Timestamp) -> Timestamp {
        self.reference + due.since(self.clock)
    }
}

/// A stream that rules of this partition read.
pub(crate) struct Stream {
    pub name: Arc<str>,
    pub tracks: Vec<Track>,
    pub selections: Selections,
    /// The rules that have conditions which wait for the clock of a device.
    pub dated: BTreeMap<DeviceHandle, Vec<RuleId>>,
    /// The rules that want to hear of silence.
    pub silence: Vec<RuleId>,
}

impl Stream {
    pub fn new(name: Arc<str>, registry: &Registry, now: Timestamp) -> Self {
        Self {
            name,
            tracks: vec![Track::registered(now); registry.devices().len()],
            selections: Selections::new(registry),
            dated: BTreeMap::new(),
            silence: Vec::new(),
        }
    }

    /// Notes the rows of a record: what each one's device's clock says then, and which devices something
    /// waits for.
    pub fn note(
        &mut self,
        batch: &Batch,
        now: Timestamp,
        clocks: &mut Vec<Timestamp>,
        waiting: &mut Vec<DeviceHandle>,
    ) {
        clocks.clear();
        waiting.clear();
        for (device, &event) in batch.devices.iter().zip(&batch.times) {
            // The log holds handles that this partition has given: a batch with another one is of a log
            // whose registrations are lost, and nothing can be said of it.
            let Some(track) = self.tracks.get_mut(device.0 as usize) else {
                clocks.push(event.min(now));
                continue;
            };
            let bounded = event.min(now);
            track.clock = if track.flags & REPORTED == 0 { bounded } else { track.clock.max(bounded) };
            (track.reference, track.seen, track.event) = (now, now, event);
            if track.flags & (DATED | SILENT) != 0 {
                waiting.push(*device);
            }
            track.flags |= REPORTED;
            clocks.push(track.clock);
        }
        waiting.sort_unstable();
        waiting.dedup();
    }

    /// Our own downtime: everything that counts from the last row counts that much less.
    pub fn shift(&mut self, span: Duration) {
        for track in &mut self.tracks {
            track.reference = track.reference + span;
        }
    }

    /// A rule has, or has no longer, conditions that wait for the clock of the device.
    pub fn set_dated(&mut self, device: DeviceHandle, rule: RuleId, dated: bool) {
        let Some(track) = self.tracks.get_mut(device.0 as usize) else { return };
        if dated {
            let rules = self.dated.entry(device).or_default();
            if let Err(place) = rules.binary_search(&rule) {
                rules.insert(place, rule);
            }
            track.flags |= DATED;
        } else if let Some(rules) = self.dated.get_mut(&device) {
            rules.retain(|other| *other != rule);
            if rules.is_empty() {
                self.dated.remove(&device);
                track.flags &= !DATED;
            }
        }
    }
}
