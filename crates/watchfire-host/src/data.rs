//! What a store carries: the callback that runs, what it may see, what it did so far, and what it may cost.

use std::collections::HashMap;
use std::sync::Arc;

use wasmtime::{ResourceLimiter, Result};
use watchfire_model::DeviceHandle;
use watchfire_model::call::{Context, Effects, FailureKind, Level, Message, Rows};
use watchfire_model::rule::Limits;
use watchfire_model::state::BLOB_OVERHEAD;

use crate::failure::{over, trap};

/// What runs in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Describe,
    Start,
    Migrate,
    Batch,
    Timers,
    Silence,
    Schedule,
}

impl Phase {
    fn function(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Start => "start",
            Self::Migrate => "migrate",
            Self::Batch => "on-batch",
            Self::Timers => "on-timers",
            Self::Silence => "on-silence",
            Self::Schedule => "on-schedule",
        }
    }
}

/// When a host function may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Always.
    Nothing,
    /// Where there are parameters: in `start` and in callbacks.
    Parameters,
    /// In callbacks.
    Callback,
    /// In `on-batch`.
    Batch,
}

/// The data of a store.
pub(crate) struct Data {
    pub(crate) limits: Limits,
    pub(crate) parameters: Arc<serde_json::Value>,
    pub(crate) memory: Memory,
    /// Whether the module has the export that timers come back to.
    pub(crate) hears_timers: bool,
    pub(crate) phase: Phase,
    pub(crate) context: Option<Context>,
    pub(crate) rows: Option<Arc<Rows>>,
    pub(crate) effects: Effects,
    pub(crate) messages: Vec<Message>,
    pub(crate) host_calls: u32,
    effect_count: u32,
    output: u64,
    logged: u64,
    log_cut: u64,
    /// Where what this callback stored lies in `effects.stores`, by (slot, device). Filled when a load asks
    /// for it: most callbacks load first and store last.
    stored: HashMap<(u32, u32), (usize, usize, usize)>,
    stored_upto: usize,
    /// A bit for each device, all zero between calls: finds a device that is stored twice.
    seen: Vec<u64>,
}

impl Data {
    pub(crate) fn new(phase: Phase, limits: Limits, parameters: Arc<serde_json::Value>) -> Self {
        Self {
            memory: Memory::new(limits.memory),
            limits,
            parameters,
            hears_timers: false,
            phase,
            context: None,
            rows: None,
            effects: Effects::default(),
            messages: Vec::new(),
            host_calls: 0,
            effect_count: 0,
            output: 0,
            logged: 0,
            log_cut: 0,
            stored: HashMap::new(),
            stored_upto: 0,
            seen: Vec::new(),
        }
    }

    /// Before a callback.
    pub(crate) fn begin(&mut self, phase: Phase, context: Context, rows: Option<Arc<Rows>>) {
        self.phase = phase;
        self.context = Some(context);
        self.rows = rows;
        self.host_calls = 0;
        self.effect_count = 0;
        self.output = 0;
        self.logged = 0;
        self.log_cut = 0;
        if self.stored_upto > 0 {
            self.stored.clear();
            self.stored_upto = 0;
        }
    }

    /// After a callback: what it logged, with a line about what was cut.
    pub(crate) fn take_messages(&mut self) -> Vec<Message> {
        if self.log_cut > 0 {
            let text = format!(
                "{} bytes of log messages were cut: the limit is {} bytes a call",
                self.log_cut, self.limits.log
            );
            self.messages.push(Message { level: Level::Warn, text });
            self.log_cut = 0;
        }
        std::mem::take(&mut self.messages)
    }

    /// The first line of every host function.
    pub(crate) fn enter(&mut self, function: &'static str, need: Need) -> Result<()> {
        self.host_calls += 1;
        if self.host_calls > self.limits.host_calls {
            let limit = self.limits.host_calls;
            return Err(over(
                FailureKind::Output,
                format!("it made more than {limit} host calls, its limit"),
            ));
        }
        let allowed = match need {
            Need::Nothing => true,
            Need::Parameters => !matches!(self.phase, Phase::Describe | Phase::Migrate),
            Need::Callback => !matches!(self.phase, Phase::Describe | Phase::Migrate | Phase::Start),
            Need::Batch => self.phase == Phase::Batch,
        };
        if allowed {
            Ok(())
        } else {
            Err(trap(format!("{function} must not be called in {}", self.phase.function())))
        }
    }

    /// What the callback may see; there in every callback.
    pub(crate) fn context(&self) -> Result<&Context> {
        self.context.as_ref().ok_or_else(|| trap("there is no callback"))
    }

    /// Counts effects that are counted one by one.
    pub(crate) fn count_effects(&mut self, more: usize) -> Result<()> {
        let limit = self.limits.effects;
        self.effect_count = self.effect_count.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        if self.effect_count > limit {
            let text = format!("it asked for more than {limit} effects, its limit");
            return Err(over(FailureKind::Output, text));
        }
        Ok(())
    }

    /// Counts bytes of effects.
    pub(crate) fn count_output(&mut self, more: usize) -> Result<()> {
        let limit = self.limits.output;
        self.output = self.output.saturating_add(more as u64);
        if self.output > limit {
            let text = format!("its effects are larger than {limit} bytes, its output limit");
            return Err(over(FailureKind::Output, text));
        }
        Ok(())
    }

    /// Refuses a handle that the partition has not given.
    pub(crate) fn check_device(&self, function: &str, device: u32) -> Result<DeviceHandle> {
        let known = self.context()?.devices.devices().len();
        if (device as usize) < known {
            Ok(DeviceHandle(device))
        } else {
            Err(trap(format!("{function}: no device of this partition has the handle {device}")))
        }
    }

    /// Refuses handles that the partition has not given.
    pub(crate) fn check_devices(&self, function: &str, devices: &[u32]) -> Result<()> {
        match devices.iter().max() {
            Some(&largest) => self.check_device(function, largest).map(drop),
            None => Ok(()),
        }
    }

    /// Refuses a row that the batch does not have.
    pub(crate) fn check_row(&self, function: &str, row: Option<u32>) -> Result<()> {
        let rows = self.rows.as_ref().map_or(0, |rows| rows.len());
        match row {
            Some(row) if row as usize >= rows => {
                Err(trap(format!("{function}: row {row} is not there, the batch has {rows} rows")))
            }
            _ => Ok(()),
        }
    }

    /// The number of rows, where a list must have an entry for each.
    pub(crate) fn check_entries(&self, function: &str, entries: usize) -> Result<()> {
        let rows = self.rows.as_ref().map_or(0, |rows| rows.len());
        if entries == rows {
            Ok(())
        } else {
            Err(trap(format!("{function}: {entries} entries for a batch of {rows} rows")))
        }
    }

    /// Refuses a list that names a device twice. The handles have been checked.
    pub(crate) fn check_once(&mut self, function: &str, devices: &[u32]) -> Result<()> {
        // Most rules go through devices in order of handle or have few.
        if devices.windows(2).all(|pair| pair[0] < pair[1]) {
            return Ok(());
        }
        let words = self.context()?.devices.devices().len().div_ceil(64);
        if self.seen.len() < words {
            self.seen.resize(words, 0);
        }
        let mut twice = None;
        for &device in devices {
            let (word, bit) = (device as usize / 64, 1_u64 << (device % 64));
            if self.seen[word] & bit != 0 {
                twice = Some(device);
            }
            self.seen[word] |= bit;
        }
        for &device in devices {
            self.seen[device as usize / 64] = 0;
        }
        match twice {
            Some(device) => Err(trap(format!("{function}: device {device} is there twice"))),
            None => Ok(()),
        }
    }

    /// What this callback stored for a device so far, if it did.
    pub(crate) fn stored(&self, slot: u32, device: u32) -> Option<&[u8]> {
        let &(store, from, to) = self.stored.get(&(slot, device))?;
        self.effects.stores[store].2.data.get(from..to)
    }

    /// Brings what [`Data::stored`] knows up to date; returns whether there is anything of this slot.
    pub(crate) fn index_stores(&mut self, slot: u32) -> bool {
        for (i, (slot, devices, blobs)) in self.effects.stores.iter().enumerate().skip(self.stored_upto) {
            let mut at = 0;
            for (device, &length) in devices.iter().zip(&blobs.lengths) {
                self.stored.insert((*slot, device.0), (i, at, at + length as usize));
                at += length as usize;
            }
        }
        self.stored_upto = self.effects.stores.len();
        self.effects.stores.iter().any(|store| store.0 == slot)
    }

    /// Refuses state beyond what the rule may keep, once the callback has stored what it wanted. Timers and
    /// conditions are counted by the loop, which has them.
    pub(crate) fn check_kept(&mut self) -> std::result::Result<(), String> {
        let (stores, limit) = (&self.effects.stores, self.limits.state);
        let Some(Context { state, .. }) = self.context.as_ref().filter(|_| !stores.is_empty()) else {
            return Ok(());
        };
        // Nearly always there is room for all of it, in slots that are in use: then nothing has to be looked
        // up.
        let most: u64 = stores
            .iter()
            .map(|(_, devices, blobs)| blobs.data.len() as u64 + devices.len() as u64 * BLOB_OVERHEAD)
            .sum();
        if state.size() + most <= limit && stores.iter().all(|(slot, ..)| state.used(*slot) > 0) {
            return Ok(());
        }
        self.index_stores(0);
        let Some(Context { state, .. }) = &self.context else { return Ok(()) };
        let size = |bytes: usize| if bytes == 0 { 0 } else { bytes as u64 + BLOB_OVERHEAD };
        let (mut used, mut after) = (HashMap::<u32, usize>::new(), state.size());
        for (&(slot, device), &(_, from, to)) in &self.stored {
            let (old, new) = (state.get(slot, DeviceHandle(device)).len(), to - from);
            after = after + size(new) - size(old);
            let used = used.entry(slot).or_insert_with(|| state.used(slot));
            *used = *used + usize::from(new > 0) - usize::from(old > 0);
        }
        let slots = state.slots().count();
        let begun = used.iter().filter(|(slot, used)| **used > 0 && state.used(**slot) == 0).count();
        let ended = used.iter().filter(|(slot, used)| **used == 0 && state.used(**slot) > 0).count();
        self.limits.check_state((state.size(), slots), (after, slots + begun - ended))
    }

    /// Keeps a log message as long as the limit allows.
    pub(crate) fn log(&mut self, level: Level, mut text: String) {
        let left = u64::from(self.limits.log).saturating_sub(self.logged);
        if text.len() as u64 > left {
            let end = (0..=left as usize).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            self.log_cut += (text.len() - end) as u64;
            text.truncate(end);
        }
        // An empty message costs its place in the list all the same.
        self.logged += text.len() as u64 + 16;
        if !text.is_empty() {
            self.messages.push(Message { level, text });
        }
    }
}

/// Counts the bytes of an answer while it is made. A guest may ask for one thing a million times over; what
/// would not fit its memory cannot be handed over, and the host does not gather it either.
pub(crate) struct Answer {
    function: &'static str,
    bytes: u64,
    limit: u64,
}

impl Answer {
    pub(crate) fn new(function: &'static str, limits: &Limits) -> Self {
        Self { function, bytes: 0, limit: limits.memory }
    }

    pub(crate) fn add(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes as u64;
        if self.bytes > self.limit {
            let (function, limit) = (self.function, self.limit);
            let text =
                format!("{function}: it asked for more at once than the {limit} bytes of its memory limit");
            return Err(over(FailureKind::Memory, text));
        }
        Ok(())
    }
}

/// Counts linear memory and tables. Growth beyond the limit traps: a guest that is told "no" would only
/// answer with a bare `unreachable`.
pub(crate) struct Memory {
    pub(crate) used: u64,
    pub(crate) limit: u64,
    /// Entries of all tables.
    entries: usize,
}

impl Memory {
    pub(crate) fn new(limit: u64) -> Self {
        Self { used: 0, limit, entries: 0 }
    }
}

/// Entries of all tables of a guest, 8 bytes each beside its memory. They hold the functions that are called
/// through pointers: the largest interpreters have some ten thousand.
const ENTRIES: usize = 1 << 20;

/// Tables of a guest. A component has one for its functions and some for the glue between its parts.
const TABLES: usize = 64;

/// Linear memories of a guest, each of which takes some GiB of address space. A component has one, and one
/// for each component in it.
const MEMORIES: usize = 16;

/// Core instances of a guest: Python with its libraries has about thirty.
const INSTANCES: usize = 256;

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        // What the guest itself ruled out fails as it expects, and is not counted.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let used = self.used.saturating_add(desired.saturating_sub(current) as u64);
        if used > self.limit {
            let (limit, wanted) = (self.limit, used);
            let text = format!("it wanted {wanted} bytes of memory, its limit is {limit}");
            return Err(over(FailureKind::Memory, text));
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let entries = self.entries.saturating_add(desired.saturating_sub(current));
        if entries > ENTRIES {
            let text =
                format!("it wanted tables of {entries} entries, the limit is {ENTRIES} for all of them");
            return Err(over(FailureKind::Memory, text));
        }
        self.entries = entries;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_count_in_sum() {
        let mut memory = Memory::new(100);
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(!memory.memory_growing(0, 60, Some(50)).unwrap(), "beyond its own maximum: not counted");
        assert!(memory.memory_growing(0, 40, Some(40)).unwrap());
        let error = memory.memory_growing(40, 41, None).unwrap_err().to_string();
        assert_eq!(error, "it wanted 101 bytes of memory, its limit is 100");
        assert!(memory.table_growing(0, ENTRIES / 2, None).unwrap());
        assert!(!memory.table_growing(0, ENTRIES, Some(1)).unwrap());
        assert!(memory.table_growing(0, ENTRIES / 2, None).unwrap());
        let error = memory.table_growing(ENTRIES / 2, ENTRIES / 2 + 1, None).unwrap_err().to_string();
        assert_eq!(error, "it wanted tables of 1048577 entries, the limit is 1048576 for all of them");
        assert_eq!((memory.tables(), memory.memories(), memory.instances()), (64, 16, 256));
    }
}
