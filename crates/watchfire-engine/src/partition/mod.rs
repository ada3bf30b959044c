//! One partition: all of its logic, without threads, clocks or files. It is given the records of its log in
//! order and says what came of each; whoever drives it releases that in the same order.

mod alerts;
mod breaker;
mod call;
mod control;
mod dues;
mod evidence;
mod external;
mod limits;
mod output;
mod persist;
mod redo;
mod search;
mod values;
mod versions;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::broadcast;
use watchfire_log::{Entry, Record};
use watchfire_model::alert::AlertUpdate;
use watchfire_model::call::{Callback, DeviceSet, Modules, Rows};
use watchfire_model::{
    Batch, DeviceHandle, Epoch, KeyedState, Offset, PartitionId, Position, READINGS, Registry, Timestamp,
    Transition,
};

use crate::deaths::{CallWatch, Tries};
use crate::due::DueQueue;
use crate::lookahead::Lookahead;
use crate::rule::{Rule, RuleId};
use crate::status::{DeviceState, PartitionStatus, RuleEvent, RuleEventKind, RuleStatus};
use crate::stream::{REPORTED, Stream};

pub(crate) use breaker::{Behind, Kept};
pub(crate) use evidence::finite;
pub(crate) use output::copy_row;
pub use persist::{Capture, Image};
pub(crate) use versions::{Pieces, migrate_piece};

use external::Externals;
use values::LastValues;

/// What a partition is made with.
#[derive(Clone)]
pub struct PartitionSetup {
    /// Which it is.
    pub id: PartitionId,
    /// Of how many.
    pub partitions: u16,
    /// The life of the log.
    pub epoch: Epoch,
    /// Where the modules are.
    pub modules: Arc<dyn Modules>,
    /// Who watches rules; `None`: nobody.
    pub events: Option<broadcast::Sender<RuleEvent>>,
}

/// Something that came of a record. To be released in order, and only once that record is durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// For the keeper of alerts.
    Transition(Box<Transition>),
    /// For the log of this partition: what it made of an activation, or a call that failed. Nothing that
    /// follows is released before this is durable.
    Own(Record),
    /// For the log: rows of an output stream, one record for each partition that they belong to.
    Derived(Vec<(PartitionId, Record)>),
}

/// One partition.
pub struct Partition {
    setup: PartitionSetup,
    known: Lookahead,
    /// Records below are replayed: their calls get ten times the time.
    live_from: Offset,
    next: Offset,
    /// The time of the log at the record that was evaluated last.
    time: Timestamp,
    registry: Arc<Registry>,
    /// Handles of the devices that others own: what was emitted for them needs it.
    foreign: Vec<Foreign>,
    streams: Vec<Stream>,
    stream_names: HashMap<Arc<str>, usize>,
    rules: Vec<Option<Box<Rule>>>,
    rule_ids: BTreeMap<Arc<str>, RuleId>,
    due: DueQueue,
    values: LastValues,
    external: Externals,
    updates: Vec<(RuleId, DeviceHandle, Box<str>)>,
    /// Devices whose registration has changed since the last checkpoint.
    dirty_devices: DeviceSet,
    foreign_dirty: bool,
    /// What a rule still does to them comes to nothing.
    deleted: DeviceSet,
    removed_rules: Vec<RuleId>,
    /// The next checkpoint begins with nothing.
    rewrite: bool,
    rows_since_checkpoint: u64,
    /// Told of every call of a replay before it is made (`true`) and after.
    watch: Option<Box<dyn CallWatch>>,
    tries: Option<Tries>,
    /// For the length of one record.
    clocks: Vec<Timestamp>,
    waiting: Vec<DeviceHandle>,
    steps: HashMap<(RuleId, DeviceHandle, Box<str>), u32>,
}

/// The devices of another partition, as far as `emit` needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub handles: HashMap<Box<str>, u32>,
    pub next: u32,
}

/// The record that is being evaluated.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    pub position: Position,
    pub time: Timestamp,
    pub replay: bool,
}

impl Partition {
    /// A partition before its first record.
    pub fn new(setup: PartitionSetup) -> Self {
        let foreign = vec![Foreign::default(); usize::from(setup.partitions)];
        let mut new = Self {
            setup,
            known: Lookahead::default(),
            live_from: 0,
            next: 0,
            time: Timestamp(0),
            registry: Arc::default(),
            foreign,
            streams: Vec::new(),
            stream_names: HashMap::new(),
            rules: Vec::new(),
            rule_ids: BTreeMap::new(),
            due: DueQueue::default(),
            values: LastValues::default(),
            external: Externals::default(),
            updates: Vec::new(),
            dirty_devices: DeviceSet::default(),
            // A first checkpoint holds everything.
            foreign_dirty: true,
            deleted: DeviceSet::default(),
            removed_rules: Vec::new(),
            rewrite: false,
            watch: None,
            tries: None,
            rows_since_checkpoint: 0,
            clocks: Vec::new(),
            waiting: Vec::new(),
            steps: HashMap::new(),
        };
        new.stream(READINGS, Timestamp(0));
        new
    }

    /// What the log says of the records that are about to be replayed: those below `live_from`.
    pub fn look_ahead(&mut self, known: Lookahead, live_from: Offset) {
        (self.known, self.live_from) = (known, live_from);
    }

    /// Who is told of every call of the replay, and says which one is not made.
    pub(crate) fn watch_replay(&mut self, watch: Box<dyn CallWatch>) {
        self.watch = Some(watch);
    }

    /// Where tries of rules that are out are noted.
    pub(crate) fn note_tries(&mut self, tries: Tries) {
        self.tries = Some(tries);
    }

    /// Which partition it is.
    pub fn id(&self) -> PartitionId {
        self.setup.id
    }

    /// The offset of the record that it wants next.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// The time of the log at the record that was evaluated last.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Rows evaluated since the last checkpoint: what a replay would cost.
    pub fn rows_since_checkpoint(&self) -> u64 {
        self.rows_since_checkpoint
    }

    /// Evaluates the next record.
    pub fn apply(&mut self, entry: &Entry, out: &mut Vec<Output>) {
        debug_assert_eq!(entry.position.offset, self.next, "records come in order");
        let here = Here {
            position: entry.position,
            time: entry.appended_at.max(self.time),
            replay: entry.position.offset < self.live_from,
        };
        self.steps.clear();
        // Our own downtime must not count before it is taken off.
        if let Record::Gap { from, to, .. } = &entry.record {
            self.shift(to.since(*from));
        }
        self.run_due(here, out);
        self.external.run_due(here, out);
        match &entry.record {
            Record::Readings { stream, batch, .. } => self.readings(here, stream, batch, out),
            Record::Control(control) => self.control(here, control, out),
            Record::External(said) => self.external.take(here, said, out),
            Record::Redo(redo) => self.redo(here, redo, out),
            Record::Breaker(breaker) => self.breaker_changed(here, breaker),
            Record::CheckpointMark => self.discard_instances(),
            Record::Rejects(_)
            | Record::Tick
            | Record::Gap { .. }
            | Record::Activated { .. }
            | Record::Refused { .. }
            | Record::Skipped(_)
            | Record::Consumed(_) => {}
        }
        self.time = here.time;
        self.next = entry.position.offset + 1;
        self.rows_since_checkpoint += 1;
        if self.next >= self.live_from {
            if !self.known.is_empty() {
                self.known = Lookahead::default();
            }
            self.watch = None;
        }
    }

    fn readings(&mut self, here: Here, stream: &Arc<str>, batch: &Arc<Batch>, out: &mut Vec<Output>) {
        self.rows_since_checkpoint += batch.rows() as u64;
        let Some(&place) = self.stream_names.get(stream) else { return };
        let mut clocks = std::mem::take(&mut self.clocks);
        let mut waiting = std::mem::take(&mut self.waiting);
        self.streams[place].note(batch, here.time, &mut clocks, &mut waiting);
        self.clocks = clocks;
        if place == 0 {
            self.values.note(batch);
        }
        for &device in &waiting {
            self.end_silence(place, device);
        }
        let mut selected = Vec::new();
        self.streams[place].selections.select(stream, batch, &mut selected);
        for (rule, rows) in selected {
            self.call(here, rule, Callback::Batch(rows), here.time, out);
        }
        // Rows move the clocks of their devices whether a rule saw them or not.
        for &device in &waiting {
            let rules = self.streams[place].dated.get(&device).cloned().unwrap_or_default();
            for rule in rules {
                self.with_rule(rule, |partition, rule| {
                    if !rule.stands() {
                        partition.advance(here, rule, device, Some(batch), here.time, out);
                    }
                });
            }
        }
        self.waiting = waiting;
    }

    /// Works on a rule that is taken out of its place meanwhile, so that the rest can be borrowed.
    pub(crate) fn with_rule<T>(
        &mut self,
        id: RuleId,
        work: impl FnOnce(&mut Self, &mut Rule) -> T,
    ) -> Option<T> {
        let mut rule = self.rules.get_mut(id.0 as usize)?.take()?;
        let done = work(self, &mut rule);
        self.rules[id.0 as usize] = Some(rule);
        Some(done)
    }

    fn rule_ids(&self) -> Vec<RuleId> {
        self.rules.iter().flatten().map(|rule| rule.id).collect()
    }

    /// The place of a stream, made if no rule has read it so far.
    fn stream(&mut self, name: &str, now: Timestamp) -> usize {
        if let Some(&place) = self.stream_names.get(name) {
            return place;
        }
        let name: Arc<str> = name.into();
        let place = self.streams.len();
        self.streams.push(Stream::new(name.clone(), &self.registry, now));
        self.stream_names.insert(name, place);
        place
    }

    fn discard_instances(&mut self) {
        for rule in self.rules.iter_mut().flatten() {
            rule.instance = None;
            rule.tail.begin(self.next + 1);
            let stream = &self.streams[rule.stream];
            let devices: Vec<_> = rule.conditions.keys().copied().collect();
            let before: usize = rule.conditions.values().map(Vec::len).sum();
            for device in devices {
                if let Some(track) = stream.tracks.get(device.0 as usize) {
                    rule.tidy(device, track.clock);
                }
            }
            rule.dirty.conditions |= rule.conditions.values().map(Vec::len).sum::<usize>() != before;
        }
    }

    fn event(&self, here: Here, rule: &Rule, now: Timestamp, kind: impl FnOnce() -> RuleEventKind) {
        let Some(events) = &self.setup.events else { return };
        if here.replay || events.receiver_count() == 0 {
            return;
        }
        // Nobody listens any more: nothing is lost.
        let _ = events.send(RuleEvent {
            rule: rule.name.clone(),
            version: rule.version,
            position: here.position,
            now,
            kind: kind(),
        });
    }

    /// What is known of a device from its readings; `None`: it is not registered here.
    pub fn device_state(&self, id: &str) -> Option<DeviceState> {
        let handle = self.registry.find(id)?;
        let track = self.streams[0].tracks.get(handle.0 as usize)?;
        let heard = track.flags & REPORTED != 0;
        Some(DeviceState {
            handle: Some(handle),
            last_seen: heard.then_some(track.seen),
            last_event_time: heard.then_some(track.event),
            values: self.values.of(handle),
        })
    }

    /// The registry as of the record that was evaluated last.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What a rule keeps of the devices of this partition; `None`: there is no such rule here.
    pub fn kept(&self, rule: &str) -> Option<&KeyedState> {
        let id = self.rule_ids.get(rule)?;
        self.rules.get(id.0 as usize)?.as_ref().map(|rule| &rule.state)
    }

    /// The latest of each repeated trigger since the last call.
    pub fn take_updates(&mut self) -> Vec<AlertUpdate> {
        let mut marked = std::mem::take(&mut self.updates);
        marked.sort_unstable();
        marked.dedup();
        let mut updates = self.external.take_updates();
        updates.reserve(marked.len());
        for (rule, device, key) in marked {
            let Some(Some(rule)) = self.rules.get_mut(rule.0 as usize) else { continue };
            let Some(condition) = rule.condition(device, &key).filter(|condition| condition.is_raised())
            else {
                continue;
            };
            let Some(alert) = condition.alert().cloned() else { continue };
            updates.push(AlertUpdate {
                alert,
                last_seen: condition.last_seen(),
                count: condition.count(),
                summary: condition.summary().to_string(),
                details: condition.details().to_vec(),
            });
        }
        updates
    }

    /// Where it stands. Who drives it adds what it does not know: the end of the log, the checkpoint.
    pub fn status(&self) -> PartitionStatus {
        let (next, live_from, time) = (self.next, self.live_from, self.time);
        PartitionStatus { next, live_from, time, ..PartitionStatus::default() }
    }

    /// The numbers of each rule.
    pub(crate) fn rule_stats(&self) -> impl Iterator<Item = (Arc<str>, &crate::status::RuleStats)> {
        self.rules.iter().flatten().map(|rule| (rule.name.clone(), &rule.stats))
    }

    /// Its part of what is to be said of each rule.
    pub fn add_rule_status(&self, rules: &mut BTreeMap<String, RuleStatus>) {
        for rule in self.rules.iter().flatten() {
            let status = rules.entry(rule.name.to_string()).or_default();
            status.versions.insert(self.setup.id, rule.version);
            status.module = Some(rule.spec.module);
            status.paused = rule.paused;
            status.breakers.extend(self.breaker_status(rule).map(|breaker| (self.setup.id, breaker)));
            status.state_bytes += rule.state.bytes();
            status.memory += rule.instance.as_ref().map_or(0, |instance| instance.memory());
            status.devices += self.streams[rule.stream].selections.devices(rule.group).len() as u64;
            let conditions = rule.conditions.values().flatten();
            status.active += conditions.filter(|(_, condition)| condition.is_raised()).count() as u64;
            status.stats.add(&rule.stats);
        }
    }
}

/// The rows of a callback, where it has rows.
pub(crate) fn rows_of(callback: &Callback) -> Option<&Arc<Rows>> {
    match callback {
        Callback::Batch(rows) => Some(rows),
        _ => None,
    }
}
