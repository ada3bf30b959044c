//! What transitions make of alerts: a pure function of the rows that are there and what comes.
//!
//! The loop hands over each alert's life in order, so that every transition finds the row it expects. Where
//! it does not (a state restored from a snapshot that does not fit the database, a replay that differs),
//! the transition is never lost and the invariant of one active alert per identity holds; what was missing
//! is made up and counted:
//!
//! * a raise finds another active alert of its identity: that one is resolved first, reason `superseded`;
//! * a later transition finds no alert: it is raised first, as of that transition, with what it says;
//! * a transition finds its alert resolved: it stands in the history and changes nothing else. Only where the loop
//!   says, once it is level after a start, that the alert goes on, does it ([`Fold::restore`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use watchfire_model::alert::{AlertUpdate, Evidence, ResolveReason, Transition, TransitionKind};
use watchfire_model::{Severity, Timestamp};

use crate::alerts::{AlertRow, AlertSource, AlertState};
use crate::labels::{LabelSet, fingerprint, labels, with_severity};
use crate::response::{self, Event, Response};
use crate::service::Standing;

/// Rule, device, key, and whose it is.
pub(crate) type Identity = (String, String, String, AlertSource);

/// A row of the table of transitions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recorded {
    pub sequence: i64,
    pub id: String,
    pub alert: String,
    pub kind: &'static str,
    pub severity: Severity,
    pub from_severity: Option<Severity>,
    pub from_since: Option<Timestamp>,
    pub reason: Option<&'static str>,
    pub summary: String,
    pub details: String,
    pub at: Timestamp,
    pub recorded_at: Timestamp,
    /// Of what people did for longer than an alert lasts: none.
    pub position: Option<String>,
    pub rule_version: u32,
    pub actor: Option<String>,
    pub comment: Option<String>,
    /// People may have to be told.
    pub outbox: bool,
}

/// The alerts that a batch of transitions touches, and what became of them.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    /// By id: what was in the store, changed as transitions come.
    pub rows: HashMap<String, AlertRow>,
    /// The active alert of each identity that the batch touches.
    pub active: HashMap<Identity, String>,
    /// Ids of the rows that have to be written, in the order in which they were first touched.
    pub touched: Vec<String>,
    /// What is inserted, in order.
    pub recorded: Vec<Recorded>,
    /// Evidence by alert.
    pub evidence: Vec<(String, String)>,
    /// Alerts whose flags have to be written.
    pub responded: BTreeSet<String>,
    /// How often something had to be made up.
    pub repaired: u64,
    standing: Standing,
    next: i64,
}

fn reason_text(reason: ResolveReason) -> &'static str {
    match reason {
        ResolveReason::Cleared => "cleared",
        ResolveReason::Operator => "operator",
        ResolveReason::RuleRemoved => "rule_removed",
        ResolveReason::Deselected => "deselected",
        ResolveReason::DeviceDeleted => "device_deleted",
        ResolveReason::RolledBack => "rolled_back",
    }
}

fn identity(transition: &Transition) -> Identity {
    (transition.rule.clone(), transition.device.id.clone(), transition.key.clone(), source(transition))
}

fn source(transition: &Transition) -> AlertSource {
    if transition.external.is_some() { AlertSource::External } else { AlertSource::Rule }
}

/// The same labels with another severity; those of others stay as they were given.
fn relabelled(row: &AlertRow, severity: Severity) -> LabelSet {
    match row.source {
        AlertSource::Rule => with_severity(&row.labels, severity),
        AlertSource::External => row.labels.clone(),
    }
}

impl Fold {
    /// A fold over these rows; `last` is the sequence of the last transition in the store, `standing` what alerts are
    /// born with.
    pub(crate) fn new(rows: Vec<AlertRow>, last: i64, standing: Standing) -> Self {
        let active = rows
            .iter()
            .filter(|row| row.state == AlertState::Active)
            .map(|row| ((row.rule.clone(), row.device.clone(), row.key.clone(), row.source), row.id.clone()))
            .collect();
        let rows = rows.into_iter().map(|row| (row.id.clone(), row)).collect();
        Self { rows, active, next: last + 1, standing, ..Self::default() }
    }

    /// Applies one transition that is not in the store yet.
    pub(crate) fn apply(&mut self, transition: &Transition) {
        let id = transition.alert.0.clone();
        let known = self.rows.contains_key(&id);
        match &transition.kind {
            TransitionKind::Raised if known => {
                // Its row was made up from a later transition: only the history was missing.
                self.repaired += 1;
                self.record(transition, "raised", transition.id.clone(), None, false);
                self.keep_evidence(transition);
            }
            TransitionKind::Raised => self.raise(transition, transition.id.clone()),
            _ => {
                if !known {
                    self.repaired += 1;
                    self.raise(transition, format!("{}/raised", transition.id));
                }
                self.change(transition);
            }
        }
    }

    /// Applies a transition of a comparison: the loop holds this alert as raised, whatever the store has.
    pub(crate) fn restore(&mut self, transition: &Transition) {
        let ended = |row: &AlertRow| row.state == AlertState::Resolved;
        if !self.rows.get(&transition.alert.0).is_some_and(ended) {
            return self.apply(transition);
        }
        self.repaired += 1;
        let identity = identity(transition);
        if let Some(other) = self.active.remove(&identity) {
            self.supersede(&other, transition);
        }
        let Some(row) = self.rows.get_mut(&transition.alert.0) else { return };
        let latched = transition.kind == TransitionKind::Cleared;
        row.state = AlertState::Active;
        (row.resolved_at, row.resolve_reason) = (None, None);
        row.cleared_at = latched.then_some(transition.at);
        row.severity = transition.severity;
        row.severity_since = transition.at;
        row.labels = relabelled(row, transition.severity);
        row.fingerprint = fingerprint(&row.labels);
        row.last_seen = row.last_seen.max(transition.at);
        row.summary.clone_from(&transition.summary);
        row.details.clone_from(&transition.details);
        self.active.insert(identity, transition.alert.0.clone());
        self.touch(&transition.alert.0);
        // People were told that it ended: they are told that it goes on.
        self.record(transition, "raised", transition.id.clone(), None, true);
        if let Some(recorded) = self.recorded.last_mut() {
            recorded.reason = Some("restored");
        }
        if let Some(row) = self.rows.get_mut(&transition.alert.0) {
            response::restored(row);
            self.responded.insert(transition.alert.0.clone());
        }
        self.hold(transition);
    }

    /// What is known of a repeated trigger.
    pub(crate) fn update(&mut self, update: &AlertUpdate) {
        if let Some(row) = self.rows.get_mut(&update.alert.0)
            && row.state == AlertState::Active
        {
            row.last_seen = row.last_seen.max(update.last_seen);
            row.count = row.count.max(update.count);
            row.summary.clone_from(&update.summary);
            row.details.clone_from(&update.details);
        }
    }

    fn raise(&mut self, transition: &Transition, id: String) {
        let identity = identity(transition);
        if let Some(other) = self.active.remove(&identity) {
            self.supersede(&other, transition);
        }
        let (labels, generator_url) = match &transition.external {
            Some(external) => (external.labels.clone(), external.generator_url.clone()),
            None => {
                let (rule, device, key) = (&transition.rule, &transition.device, &transition.key);
                (labels(rule, device, key, transition.severity), String::new())
            }
        };
        let row = AlertRow {
            id: transition.alert.0.clone(),
            sequence: self.next,
            rule: transition.rule.clone(),
            device: transition.device.id.clone(),
            key: transition.key.clone(),
            severity: transition.severity,
            summary: transition.summary.clone(),
            details: transition.details.clone(),
            fingerprint: fingerprint(&labels),
            labels,
            state: AlertState::Active,
            raised_at: transition.at,
            severity_since: transition.at,
            cleared_at: None,
            resolved_at: None,
            resolve_reason: None,
            last_seen: transition.at,
            count: 1,
            acknowledged_at: None,
            acknowledged_by: None,
            acknowledge_comment: None,
            partition: transition.position.partition.0,
            position: transition.position.to_string(),
            rule_version: transition.rule_version,
            module: transition.evidence.as_ref().map(|evidence| evidence.module.to_string()),
            source: source(transition),
            generator_url,
            response: Response::default(),
        };
        self.active.insert(identity, row.id.clone());
        self.touch(&row.id);
        self.rows.insert(row.id.clone(), row);
        self.record(transition, "raised", id, None, true);
        self.keep_evidence(transition);
        self.hold(transition);
    }

    /// An alert that begins is suppressed or shelved from its beginning, where its device, its rule or its condition is.
    fn hold(&mut self, transition: &Transition) {
        let Some(row) = self.rows.get_mut(&transition.alert.0) else { return };
        let at = transition.logged_at;
        let mut events: Vec<(Event, String)> = Vec::new();
        if let Some(service) = self.standing.service(row) {
            let event = response::suppress(row, service.kind, &service.created_by, &service.reason, at);
            events.push((event, service.created_by.clone()));
        }
        if let Some(shelf) = self.standing.shelf(row) {
            events.push((response::shelved_from_the_start(row, shelf, at), shelf.shelved_by.clone()));
        }
        for (event, actor) in events {
            let recorded = Recorded {
                sequence: self.next,
                id: format!("{}/{}", transition.id, event.kind),
                alert: row.id.clone(),
                kind: event.kind,
                severity: row.severity,
                from_severity: None,
                from_since: Some(row.severity_since),
                reason: event.reason,
                summary: row.summary.clone(),
                details: crate::db::to_json(&event.details),
                at,
                recorded_at: at,
                position: None,
                rule_version: row.rule_version,
                actor: Some(actor),
                comment: event.comment,
                outbox: event.outbox,
            };
            self.next += 1;
            self.responded.insert(row.id.clone());
            self.recorded.push(recorded);
        }
    }

    fn supersede(&mut self, other: &str, by: &Transition) {
        self.repaired += 1;
        let Some(row) = self.rows.get_mut(other) else { return };
        row.state = AlertState::Resolved;
        row.resolved_at = Some(by.at.max(row.raised_at));
        row.resolve_reason = Some("superseded".into());
        if row.response.end() {
            self.responded.insert(other.into());
        }
        let recorded = Recorded {
            sequence: self.next,
            id: format!("{}/superseded/{other}", by.id),
            alert: other.into(),
            kind: "resolved",
            severity: row.severity,
            from_severity: None,
            from_since: Some(row.severity_since),
            reason: Some("superseded"),
            summary: row.summary.clone(),
            details: crate::db::to_json(&row.details),
            at: by.at.max(row.raised_at),
            recorded_at: by.logged_at,
            position: Some(by.position.to_string()),
            rule_version: by.rule_version,
            actor: None,
            comment: None,
            outbox: true,
        };
        self.next += 1;
        self.recorded.push(recorded);
        self.touch(other);
    }

    /// Everything but a raise, on an alert that is there.
    fn change(&mut self, transition: &Transition) {
        let Some(row) = self.rows.get_mut(&transition.alert.0) else { return };
        if row.state == AlertState::Resolved {
            self.repaired += 1;
            let kind = kind_text(&transition.kind);
            self.record(transition, kind, transition.id.clone(), None, false);
            return;
        }
        let (before, since) = (row.severity, row.severity_since);
        row.last_seen = row.last_seen.max(transition.at);
        row.summary.clone_from(&transition.summary);
        row.details.clone_from(&transition.details);
        let mut outbox = true;
        match &transition.kind {
            TransitionKind::SeverityChanged { .. } => {
                row.cleared_at = None;
                row.severity = transition.severity;
                row.severity_since = transition.at;
                row.labels = relabelled(row, transition.severity);
                row.fingerprint = fingerprint(&row.labels);
                outbox = before != transition.severity;
            }
            TransitionKind::Raised | TransitionKind::Realarmed => row.cleared_at = None,
            TransitionKind::Cleared => {
                row.cleared_at = Some(transition.at);
                // The alert stays active: nobody is told until it is reset.
                outbox = false;
            }
            TransitionKind::Resolved { reason } => {
                row.state = AlertState::Resolved;
                row.resolved_at = Some(transition.at);
                row.resolve_reason = Some(reason_text(*reason).into());
                if row.response.end() {
                    self.responded.insert(row.id.clone());
                }
                self.active.remove(&identity(transition));
            }
        }
        // What is told is what was told before: the labels of the row, not those that the transition claims.
        let severity = row.severity;
        self.touch(&transition.alert.0);
        self.record(transition, kind_text(&transition.kind), transition.id.clone(), Some(since), outbox);
        if let Some(recorded) = self.recorded.last_mut() {
            recorded.severity = severity;
            recorded.from_severity = recorded.from_severity.map(|_| before);
        }
    }

    fn record(
        &mut self,
        transition: &Transition,
        kind: &'static str,
        id: String,
        from_since: Option<Timestamp>,
        outbox: bool,
    ) {
        let (from_severity, reason) = match (&transition.kind, kind) {
            (TransitionKind::SeverityChanged { from }, "severity_changed") => (Some(*from), None),
            (TransitionKind::Resolved { reason }, "resolved") => (None, Some(reason_text(*reason))),
            _ => (None, None),
        };
        self.recorded.push(Recorded {
            sequence: self.next,
            id,
            alert: transition.alert.0.clone(),
            kind,
            severity: transition.severity,
            from_severity,
            from_since,
            reason,
            summary: transition.summary.clone(),
            details: crate::db::to_json(&transition.details),
            at: transition.at,
            recorded_at: transition.logged_at,
            position: Some(transition.position.to_string()),
            rule_version: transition.rule_version,
            actor: None,
            comment: None,
            outbox,
        });
        self.next += 1;
    }

    fn keep_evidence(&mut self, transition: &Transition) {
        if let Some(evidence) = &transition.evidence {
            self.evidence.push((transition.alert.0.clone(), bounded(evidence)));
        }
    }

    fn touch(&mut self, id: &str) {
        // A batch touches an alert a few times at most, mostly in a row.
        if self.touched.last().is_none_or(|last| last != id) {
            self.touched.push(id.to_string());
        }
    }
}

/// Bytes of state that evidence keeps at most, as hex digits: a rule may have a MiB of it for each device, and alerts
/// come in storms.
const STATE_BYTES: usize = 64 << 10;

/// Evidence as it is kept: with as much of the state as it may, slots that are too large named instead.
fn bounded(evidence: &Evidence) -> String {
    let bytes = |state: &BTreeMap<u32, String>| state.values().map(String::len).sum::<usize>();
    if bytes(&evidence.state_before) <= STATE_BYTES {
        return crate::db::to_json(evidence);
    }
    let mut evidence = evidence.clone();
    while bytes(&evidence.state_before) > STATE_BYTES {
        let largest = evidence.state_before.iter().max_by_key(|(_, hex)| hex.len()).map(|(slot, _)| *slot);
        let Some(slot) = largest else { break };
        evidence.state_before.remove(&slot);
        evidence.state_left_out.push(slot);
    }
    evidence.state_left_out.sort_unstable();
    crate::db::to_json(&evidence)
}

fn kind_text(kind: &TransitionKind) -> &'static str {
    match kind {
        TransitionKind::Raised => "raised",
        TransitionKind::SeverityChanged { .. } => "severity_changed",
        TransitionKind::Cleared => "cleared",
        TransitionKind::Realarmed => "realarmed",
        TransitionKind::Resolved { .. } => "resolved",
    }
}
