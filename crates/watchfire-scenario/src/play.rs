//! Plays a case in one mode: a log in memory, the partition that reads it, and what came of it.

use std::sync::Arc;

use tokio::sync::broadcast;
use watchfire_engine::{Output, Partition, PartitionSetup, RuleEvent, RuleEventKind};
use watchfire_host::validate_parameters;
use watchfire_log::{Entry, Record};
use watchfire_model::alert::{Detail, ResolveReason};
use watchfire_model::batch::{NO_BOOLEAN, NO_TEXT};
use watchfire_model::call::Module;
use watchfire_model::{
    Actor, Batch, BatchBuilder, BreakerOptions, Control, Epoch, PartitionId, Position, READINGS, RuleSpec,
    RuleVersion, Severity, Timestamp, Transition, TransitionKind, Value, Values,
};

use crate::before::BeforeModule;
use crate::case::{Case, Kept, Kind, Logged, Row, What};
use crate::fresh::CaseModules;

/// The output stream, whatever a deployment would call it.
const OUTPUT: &str = "output";
/// Times at which something is due in one case: a year of a schedule every minute. A rule that sets a timer in
/// each timer could go on for ever.
const MOST_TICKS: u32 = 600_000;
/// A stream of its own for the one reading that brings state from before.
const BEFORE: &str = "before";
/// Log messages that are kept: a rule that logs each of many readings must not fill the memory.
const MOST_MESSAGES: usize = 20_000;
/// Events that one record can make before the later ones are lost.
const EVENTS: usize = 16_384;

/// How the time line becomes records and calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    pub name: &'static str,
    by_row: bool,
    fresh: bool,
}

pub(crate) const MODES: [Mode; 4] = [
    Mode { name: "whole", by_row: false, fresh: false },
    Mode { name: "row by row", by_row: true, fresh: false },
    Mode { name: "fresh instances", by_row: false, fresh: true },
    Mode { name: "row by row, fresh instances", by_row: true, fresh: true },
];

/// A change of an alert.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub at: Timestamp,
    pub kind: Kind,
    pub device: String,
    pub key: String,
    pub severity: Severity,
    pub reason: Option<ResolveReason>,
    pub summary: String,
    pub details: Vec<Detail>,
}

/// What came of a case.
#[derive(Debug, Default)]
pub(crate) struct Played {
    pub changes: Vec<Change>,
    pub published: Vec<Row>,
    pub failures: Vec<Failure>,
    pub messages: Vec<Logged>,
    /// At the end, by device and slot.
    pub kept: Vec<Kept>,
}

/// Something that went wrong, such as a call that failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub at: Timestamp,
    /// Whose rows were left out.
    pub devices: Vec<String>,
    pub text: String,
}

/// The rule does not start: what it says.
pub(crate) struct Refused(pub String);

/// The parameters as a rule gets them; else everything that the schema has against them.
pub(crate) fn validated(
    module: &dyn Module,
    parameters: &serde_json::Value,
) -> Result<serde_json::Value, String> {
    validate_parameters(module.manifest(), parameters).map_err(|problems| {
        let texts: Vec<_> = problems.iter().map(|p| format!("{} {}", p.path, p.message)).collect();
        format!("parameters: {}", texts.join("; ").trim())
    })
}

pub(crate) fn play(module: &Arc<dyn Module>, case: &Case, mode: Mode) -> Result<Played, Refused> {
    let parameters = validated(&**module, &case.parameters).map_err(Refused)?;
    let before = case.before.as_ref().map(|before| Arc::new(BeforeModule::new(before)));
    let (sender, events) = broadcast::channel(EVENTS);
    let other = before.clone().map(|before| before as Arc<dyn Module>);
    let partition = Partition::new(PartitionSetup {
        id: PartitionId(0),
        partitions: 1,
        epoch: Epoch(1),
        modules: Arc::new(CaseModules::new(module, mode.fresh, other)),
        events: Some(sender),
    });
    let by = Actor { name: "scenario".into(), ..Actor::default() };
    let spec = RuleSpec {
        name: module.manifest().name.clone(),
        module: module.digest(),
        input: READINGS.into(),
        output: Some(OUTPUT.into()),
        pass: case.pass.clone(),
        select: case.select.clone(),
        parameters,
        condition: case.condition.clone(),
        limits: case.limits.clone(),
        // A case says what each call makes of its rows: none is left out because others failed.
        breaker: BreakerOptions { enabled: false, ..BreakerOptions::default() },
    };
    let mut player = Player {
        partition,
        events,
        now: case.start,
        by: by.clone(),
        version: 0,
        refused: None,
        played: Played::default(),
        ticks: 0,
    };
    let devices = case.devices.clone();
    player.control(Control::DevicesPut { devices, by: by.clone() });
    if let Some(before) = before {
        player.bring(&before, &spec);
    }
    player.deploy(spec.clone());
    if let Some(reason) = player.refused.take() {
        return Err(Refused(reason));
    }
    let mut batch = BatchBuilder::new();
    let mut actions = case.actions.iter().peekable();
    while let Some(action) = actions.next() {
        player.pass_time(action.at);
        match &action.what {
            What::Reading(row) => {
                player.add(&mut batch, row);
                // Everything that is received at one time, up to something else, is one record.
                let goes_on = actions
                    .peek()
                    .is_some_and(|next| next.at == action.at && matches!(next.what, What::Reading(_)));
                if mode.by_row || !goes_on {
                    player.readings(&mut batch);
                }
            }
            What::Register(devices) => {
                player.control(Control::DevicesPut { devices: devices.clone(), by: by.clone() });
            }
            What::Delete(id) => player.control(Control::DeviceDeleted { id: id.clone(), by: by.clone() }),
            What::Reset { device, key } => player.control(Control::ConditionCleared {
                rule: spec.name.clone(),
                device: device.clone(),
                key: key.clone(),
                force: false,
                by: by.clone(),
            }),
            What::Deploy(parameters) => player.deploy_again(&**module, &spec, parameters),
            What::Replace => player.append(Record::CheckpointMark),
            What::Nothing => player.append(Record::Tick),
        }
    }
    Ok(player.end(&spec.name))
}

struct Player {
    partition: Partition,
    events: broadcast::Receiver<RuleEvent>,
    /// The clock of the log.
    now: Timestamp,
    by: Actor,
    /// The version of the rule that was deployed last.
    version: RuleVersion,
    refused: Option<String>,
    played: Played,
    ticks: u32,
}

impl Player {
    /// Moves the clock, with a tick wherever something is due before, as a server does when nothing comes.
    fn pass_time(&mut self, to: Timestamp) {
        while let Some(due) = self.partition.next_due().filter(|due| *due < to) {
            if self.ticks == MOST_TICKS {
                let text = format!("more than {MOST_TICKS} timers, silences, schedules and delays were due");
                self.fail(self.now, Vec::new(), text);
            }
            self.ticks = self.ticks.saturating_add(1);
            if self.ticks > MOST_TICKS {
                break;
            }
            // Due by now means due when time has moved: it did not run at the record that set it.
            self.now = due.max(Timestamp(self.now.0.saturating_add(1))).min(to);
            self.append(Record::Tick);
        }
        self.now = self.now.max(to);
    }

    fn control(&mut self, control: Control) {
        self.append(Record::Control(Box::new(control)));
    }

    fn fail(&mut self, at: Timestamp, devices: Vec<String>, text: String) {
        self.played.failures.push(Failure { at, devices, text });
    }

    fn deploy(&mut self, spec: RuleSpec) {
        self.version += 1;
        let (spec, version, by) = (Box::new(spec), self.version, self.by.clone());
        self.control(Control::RuleDeployed { spec, version, discard_state: false, by });
    }

    /// A further version; one that is refused is a failure, and the one before it goes on.
    fn deploy_again(&mut self, module: &dyn Module, spec: &RuleSpec, parameters: &serde_json::Value) {
        let refused = match validated(module, parameters) {
            Ok(parameters) => {
                self.deploy(RuleSpec { parameters, ..spec.clone() });
                self.refused.take()
            }
            Err(refused) => Some(refused),
        };
        if let Some(reason) = refused {
            self.fail(self.now, Vec::new(), format!("the deployment is refused: {reason}"));
        }
    }

    /// Has an earlier version of the rule store what it had kept.
    fn bring(&mut self, before: &BeforeModule, spec: &RuleSpec) {
        let Some(device) = before.first().and_then(|id| self.partition.registry().find(id)) else { return };
        let module = before.digest();
        self.deploy(RuleSpec {
            name: spec.name.clone(),
            module,
            input: BEFORE.into(),
            output: None,
            pass: Vec::new(),
            select: Default::default(),
            parameters: serde_json::Value::Null,
            condition: Default::default(),
            limits: spec.limits.clone(),
            breaker: spec.breaker.clone(),
        });
        let mut batch = BatchBuilder::new();
        batch.begin(device, self.now);
        // The one metric of an empty reading.
        let _ = batch.boolean(BEFORE, true);
        batch.commit();
        let batch = Arc::new(batch.finish());
        self.append(Record::Readings { stream: BEFORE.into(), origin: None, batch });
    }

    /// Appends a record and has it evaluated, and what the loop appends because of it.
    fn append(&mut self, record: Record) {
        let mut records = std::collections::VecDeque::from([record]);
        while let Some(record) = records.pop_front() {
            let position =
                Position { epoch: Epoch(1), partition: PartitionId(0), offset: self.partition.next_offset() };
            let mut out = Vec::new();
            let entry = Entry { position, appended_at: self.now, record };
            self.partition.apply(&entry, &mut out);
            for output in out {
                match output {
                    Output::Transition(transition) => self.played.changes.push(change(*transition)),
                    Output::Own(record) => {
                        match &record {
                            Record::Refused { reason, .. } => self.refused = Some(reason.clone()),
                            Record::Skipped(skipped) => {
                                let text = format!("{} failed: {}", skipped.callback_name, skipped.reason);
                                let devices = self.devices(&entry.record, &skipped.rows);
                                self.fail(self.now, devices, text);
                            }
                            _ => {}
                        }
                        records.push_back(record);
                    }
                    Output::Derived(derived) => {
                        for (_, record) in derived {
                            if let Record::Readings { batch, .. } = &record {
                                self.publish(batch);
                            }
                            records.push_back(record);
                        }
                    }
                }
            }
            self.note_messages();
        }
    }

    /// The devices of some rows of a record.
    fn devices(&self, record: &Record, rows: &[u32]) -> Vec<String> {
        let Record::Readings { batch, .. } = record else { return Vec::new() };
        let mut devices = Vec::new();
        for row in rows {
            let device = batch.devices.get(*row as usize);
            let device = device.and_then(|&device| self.partition.registry().get(device));
            let id = device.map(|device| device.spec.id.clone()).unwrap_or_default();
            if !devices.contains(&id) {
                devices.push(id);
            }
        }
        devices
    }

    /// What came of it, with what the rule keeps.
    fn end(mut self, rule: &str) -> Played {
        for (slot, device, bytes) in self.partition.kept(rule).into_iter().flat_map(|state| state.iter()) {
            let device = self.partition.registry().get(device);
            let device = device.map(|device| device.spec.id.clone()).unwrap_or_default();
            let kept = Kept { device, slot, bytes: bytes.into(), ..Kept::default() };
            self.played.kept.push(kept);
        }
        self.played.kept.sort_by(|a, b| (&a.device, a.slot).cmp(&(&b.device, b.slot)));
        self.played
    }

    fn add(&mut self, batch: &mut BatchBuilder, row: &Row) {
        // The case was checked: the device is registered.
        let Some(device) = self.partition.registry().find(&row.device) else { return };
        batch.begin(device, row.at);
        for (metric, value) in &row.metrics {
            // Names of a map are different.
            let _ = match value {
                Value::Number(number) => batch.number(metric, *number),
                Value::Text(text) => batch.text(metric, text),
                Value::Boolean(flag) => batch.boolean(metric, *flag),
            };
        }
        batch.commit();
    }

    fn readings(&mut self, batch: &mut BatchBuilder) {
        let batch = Arc::new(std::mem::take(batch).finish());
        self.append(Record::Readings { stream: READINGS.into(), origin: None, batch });
    }

    fn publish(&mut self, batch: &Batch) {
        let first = self.played.published.len();
        for (device, &at) in batch.devices.iter().zip(&batch.times) {
            let device = self.partition.registry().get(*device);
            let device = device.map(|device| device.spec.id.clone()).unwrap_or_default();
            self.played.published.push(Row { line: 0, at, device, metrics: Default::default() });
        }
        for column in &batch.columns {
            for place in 0..column.values.len() {
                let row = column.rows.as_ref().map_or(place, |rows| rows[place] as usize);
                let value = match &column.values {
                    Values::Numbers(numbers) if numbers[place].is_nan() => continue,
                    Values::Numbers(numbers) => Value::Number(numbers[place]),
                    Values::Texts(texts) if texts.codes[place] == NO_TEXT => continue,
                    Values::Texts(texts) => {
                        Value::Text(texts.dictionary[texts.codes[place] as usize].to_string())
                    }
                    Values::Booleans(flags) if flags[place] == NO_BOOLEAN => continue,
                    Values::Booleans(flags) => Value::Boolean(flags[place] != 0),
                };
                self.played.published[first + row].metrics.insert(column.metric.to_string(), value);
            }
        }
    }

    fn note_messages(&mut self) {
        loop {
            match self.events.try_recv() {
                Ok(RuleEvent { now, kind: RuleEventKind::Message { level, text }, .. }) => {
                    if self.played.messages.len() < MOST_MESSAGES {
                        self.played.messages.push(Logged { line: 0, at: now, level, text });
                    }
                }
                Ok(RuleEvent { now, kind: RuleEventKind::UnknownDevice { device }, .. }) => {
                    let text = format!("emitted a reading for {device:?}, which is not registered");
                    self.fail(now, Vec::new(), text);
                }
                Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return,
            }
        }
    }
}

fn change(transition: Transition) -> Change {
    let (kind, reason) = match transition.kind {
        TransitionKind::Raised | TransitionKind::SeverityChanged { .. } => (Kind::Trigger, None),
        TransitionKind::Cleared => (Kind::Latched, None),
        TransitionKind::Realarmed => (Kind::Realarm, None),
        TransitionKind::Resolved { reason } => (Kind::Clear, Some(reason)),
    };
    Change {
        at: transition.at,
        kind,
        device: transition.device.id,
        key: transition.key,
        severity: transition.severity,
        reason,
        summary: transition.summary,
        details: transition.details,
    }
}
