//! What the API needs of the rest of the engine. Small traits, so that handlers are tested without it.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use utoipa::ToSchema;
use watchfire_model::alert::{Evidence, Verdict};
use watchfire_model::call::{CallFailure, Manifest};
use watchfire_model::{DeviceHandle, Digest, Duration, Limits, OnRecovery, RuleVersion, Timestamp, Value};
use watchfire_notify::NotifyConfig;
use watchfire_notify::stages::plan::Settings;
use watchfire_notify::stages::storm::Standing;

/// A boxed future: these traits are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The partition loop, as the API sees it.
pub trait EngineView: Send + Sync {
    /// How far each partition is.
    fn partitions(&self) -> BoxFuture<'_, Vec<PartitionStatus>>;
    /// How each rule does, over all partitions that answer in time; those that do not run are left out.
    fn rules(&self) -> BoxFuture<'_, BTreeMap<String, RuleHealth>>;
    /// The last values of these devices; `None`: nothing came from it yet.
    fn device_states(&self, ids: Vec<String>) -> BoxFuture<'_, Result<Vec<Option<DeviceState>>, Busy>>;
    /// What a rule keeps in each partition that runs it; `back_to`: what going back to that version would do to its
    /// alerts is counted.
    fn kept_state(
        &self,
        rule: String,
        back_to: Option<RuleVersion>,
    ) -> BoxFuture<'_, Result<Vec<KeptState>, Busy>>;
    /// Tries `migrate` of a module on copies of all that a rule keeps. Changes nothing.
    fn try_migration(
        &self,
        rule: String,
        module: Digest,
        limits: Limits,
    ) -> BoxFuture<'_, Result<Trial, Busy>>;
    /// Makes a verdict once more from the evidence of an alert. Changes nothing.
    fn rerun(&self, again: Again) -> BoxFuture<'_, Result<Result<Rerun, CallFailure>, Busy>>;
    /// What rules do, as it happens. A receiver that is too slow misses some, and is told how many.
    fn rule_events(&self) -> broadcast::Receiver<RuleEvent>;
}

/// A verdict that is to be made once more.
#[derive(Clone, Debug, PartialEq)]
pub struct Again {
    /// The rule.
    pub rule: String,
    /// What a call of it may cost.
    pub limits: Limits,
    /// The condition.
    pub key: String,
    /// What the verdict rests on.
    pub evidence: Evidence,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rerun {
    /// What the rule says now; `None`: nothing of this condition.
    pub verdict: Option<Verdict>,
    /// Time in the callback.
    pub took: std::time::Duration,
}

/// The loop does not answer now: it is in a long call, or has too much to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Busy(pub String);

/// What a rule keeps in one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptState {
    /// The partition.
    pub partition: u16,
    /// The version that it runs.
    pub version: RuleVersion,
    /// Blobs: one for each slot and device.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is kept of versions that were left.
    pub left: Vec<LeftState>,
    /// Alerts that going back to the version that was asked for would raise, ...
    pub raises: u64,
    /// ... and resolve, where the devices stay selected.
    pub resolves: u64,
}

/// What is kept of a version of a rule that was left.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftState {
    /// The version.
    pub version: RuleVersion,
    /// When it was left, by the time of the log.
    pub at: Timestamp,
    /// Blobs: one for each slot and device.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What came of `migrate`, tried on copies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trial {
    /// Devices with state.
    pub devices: u64,
    /// Blobs: one for each slot and device.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes that came of them.
    pub new_bytes: u64,
    /// Time in `migrate`, of the partition that takes longest: about as long it stands still at the swap.
    pub took: std::time::Duration,
    /// What stands against it.
    pub failure: Option<TrialFailure>,
}

/// Why state cannot be migrated.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialFailure {
    /// Where.
    pub partition: u16,
    /// The slot; `None`: it is the state as a whole.
    pub slot: Option<u32>,
    /// The device whose state is at fault; `None`: it was not found, or is none in particular.
    pub device: Option<DeviceHandle>,
    /// Devices whose states were migrated together, that one among them.
    pub devices: usize,
    /// What the module or the host said.
    pub reason: String,
}

/// How far a partition is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: u16,
    /// The offset that comes next.
    pub offset: u64,
    /// The offset behind the last synced record.
    pub end: u64,
    /// Offset of the last checkpoint; `None`: the partition did not answer in time.
    pub checkpoint: Option<u64>,
    /// Why it stands still, if it does: it needs somebody, and a new start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// How a rule does, since the engine started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct RuleHealth {
    /// Calls of callbacks.
    pub calls: u64,
    /// Rows that it was called with.
    pub rows: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Wall time of all calls, in nanoseconds.
    pub nanoseconds: u64,
    /// 99 of 100 calls took at most this long, in nanoseconds.
    pub p99_nanoseconds: u64,
    /// Bytes of keyed state.
    pub state_bytes: u64,
    /// Devices that it selects.
    pub devices: u64,
    /// Alerts of it that are raised.
    pub active_alerts: u64,
    /// What its latest failed call said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Bytes of linear memory of its instances.
    pub memory: u64,
    /// `closed`, `open` (it is out of a partition at least) or `catching-up`.
    pub breaker: BreakerState,
    /// The partitions that it is out of, or behind in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outages: Vec<Outage>,
}

/// How the breaker of a rule stands: that of the partition that is worst off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// It is called.
    #[default]
    Closed,
    /// It passes again, and is given what it missed before it goes on.
    CatchingUp,
    /// It is not called, because it kept failing.
    Open,
}

/// A rule that is out of a partition, or behind because it was.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Outage {
    /// The partition.
    pub partition: u16,
    /// `open` or `catching-up`.
    pub breaker: BreakerState,
    /// When the breaker opened, by the time of the log.
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// How much failed.
    pub why: String,
    /// What the last call or try that failed said.
    pub reason: String,
    /// With `open`: when it is tried again, with the next rows that it would be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub retry_at: Option<Timestamp>,
    /// Tries that failed.
    pub tries: u32,
    /// What it has not seen begins at this offset; missing: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed_from: Option<u64>,
    /// ... and ends before this one.
    pub missed_upto: u64,
    /// Records with rows for it since the breaker opened.
    pub missed_records: u64,
    /// Rows of them.
    pub missed_rows: u64,
    /// Rows that it was given since.
    pub caught_up_rows: u64,
    /// Records that were not kept for it: it never sees them.
    pub lost_records: u64,
    /// `catch-up` or `skip`: what becomes of what it missed.
    #[schema(value_type = String)]
    pub on_recovery: OnRecovery,
}

/// The last values of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceState {
    /// When the log received something from it last.
    pub last_seen: Timestamp,
    /// The latest event time.
    pub last_event_time: Timestamp,
    /// The latest value of each metric, with its event time.
    pub values: BTreeMap<String, (Timestamp, Value)>,
}

/// Something that a rule did.
#[derive(Clone, Debug, Serialize)]
pub struct RuleEvent {
    /// The rule.
    pub rule: String,
    /// `log`, `trigger`, `clear`, `failure`, `activated` or `refused`.
    pub event: &'static str,
    /// The rest, as a JSON object.
    pub data: serde_json::Value,
}

/// What the API needs of the rule host.
pub trait ModuleWorks: Send + Sync {
    /// Looks at a component, compiles it at low priority, and asks it what it is. A component that is known
    /// already is not compiled again.
    fn add(&self, bytes: Arc<[u8]>) -> BoxFuture<'_, Result<ModuleInfo, ModuleRefusal>>;
    /// Forgets a module and its compiled code.
    fn remove(&self, digest: Digest);
    /// The parameters with defaults filled in, or everything that the schema has against them.
    fn validate_parameters(
        &self,
        manifest: &Manifest,
        parameters: &serde_json::Value,
    ) -> Result<serde_json::Value, Vec<ParameterFault>>;
}

/// What is known of a module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModuleInfo {
    /// What it is known by: `sha256:` and 64 hex digits.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// Its version, by its author's counting.
    pub version: String,
    /// One or two sentences.
    #[serde(default)]
    pub description: String,
    /// What it was written in, as far as can be told.
    #[serde(default)]
    pub language: Option<String>,
    /// Bytes of the component.
    pub size: u64,
    /// The interfaces that it imports: its capabilities.
    pub imports: Vec<String>,
    /// The interfaces that it exports: what it can be called for.
    pub exports: Vec<String>,
    /// Patterns of metrics that it reads; empty: all, or not known before it runs.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// JSON Schema of the parameters.
    #[schema(value_type = Object)]
    pub parameters: serde_json::Value,
    /// Version of the layout of its state; 0: keeps none.
    pub state_version: u32,
    /// It can migrate state of earlier layouts.
    pub migrates: bool,
    /// When it was uploaded.
    #[serde(default)]
    #[schema(value_type = String)]
    pub uploaded_at: Timestamp,
}

#[cfg(test)]
impl ModuleInfo {
    pub(crate) fn for_tests(name: &str) -> Self {
        Self {
            digest: Digest::of(name.as_bytes()),
            name: name.into(),
            version: "0.1.0".into(),
            description: String::new(),
            language: None,
            size: 0,
            imports: Vec::new(),
            exports: Vec::new(),
            metrics: Vec::new(),
            parameters: serde_json::Value::Null,
            state_version: 0,
            migrates: false,
            uploaded_at: Timestamp(0),
        }
    }
}

impl ModuleInfo {
    /// The manifest in it.
    pub fn manifest(&self) -> Manifest {
        Manifest {
            name: self.name.clone(),
            version: self.version.clone(),
            description: self.description.clone(),
            parameters: self.parameters.clone(),
            state_version: self.state_version,
        }
    }
}

/// A component that cannot be a module.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct ModuleRefusal {
    /// A stable code, such as `import-outside-contract`.
    pub code: String,
    /// Names the import, export or limit.
    pub detail: String,
}

/// Something that a schema has against parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ParameterFault {
    /// JSON pointer to it.
    pub pointer: String,
    /// What is wrong.
    pub detail: String,
}

/// Submits the bytes of a dead letter again, as new input.
pub trait Resubmit: Send + Sync {
    /// Waits until it is durable and says how many readings it held. An error: nothing of it was taken, and no
    /// further dead letter was written.
    fn resubmit(&self, input: RawInput) -> BoxFuture<'_, Result<u64, ResubmitError>>;
}

/// An input as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct RawInput {
    /// The source that received it.
    pub source: String,
    /// Topic or path.
    pub address: String,
    /// The device that sent it or was named, where that is known.
    pub device: Option<String>,
    /// Who sent it, by kind and name: it may do what that one may, and no more.
    pub sender: Option<String>,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// Why an input was not taken again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ResubmitError {
    /// It is still no good.
    #[error("{reason}")]
    Rejected {
        /// A stable code.
        code: String,
        /// For people.
        reason: String,
    },
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
}

/// The receivers of notifications.
pub trait Receivers: Send + Sync {
    /// Their names and channels; nothing secret.
    fn list(&self) -> Vec<ReceiverInfo>;
    /// The configuration of receivers and routes that is in force.
    fn config(&self) -> NotifyConfig;
    /// What decisions about notices depend on now; another value once another configuration is in force.
    fn settings(&self) -> Arc<Settings>;
    /// The storms that hold alerts now.
    fn storms(&self) -> Arc<Standing>;
    /// Sends a test message. An error: it was not taken.
    fn test(&self, name: &str) -> BoxFuture<'_, Result<TestAnswer, TestAnswer>>;
}

/// What came of a test message.
#[derive(Clone, Debug, PartialEq)]
pub struct TestAnswer {
    /// In words: the status and how long it took, or what went wrong.
    pub said: String,
    /// The beginning of what the receiver answered, where it answered anything.
    pub answer: Option<String>,
}

/// A configured receiver, and how it does since the start or a change of its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ReceiverInfo {
    /// Its name.
    pub name: String,
    /// The channels of it, such as `webhook`.
    pub channels: Vec<String>,
    /// `ok`, `failing` (the last attempt failed and it is tried again), `refusing` (it will not take the last one, however
    /// often) or `unused` (nothing was sent since the start).
    pub state: &'static str,
    /// Attempts that failed since the last one that was taken.
    pub failures: u32,
    /// When the last attempt ended.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Timestamp>,
    /// How long that took.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took: Option<Duration>,
    /// When something was taken last.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_delivered: Option<Timestamp>,
    /// What the last attempt that failed said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Nothing is sent before then: it asked for rest, or is only tried now and then.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rests_until: Option<Timestamp>,
    /// Deliveries that wait for it.
    pub waiting: u64,
    /// When the oldest of them was made.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
}

/// A source that connects to a service by itself, and how it does.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SourceInfo {
    /// Its name, such as `kafka`.
    pub name: String,
    /// `starting`, `running`, `waiting` (it goes on by itself) or `stopped` (somebody has to change something).
    pub state: String,
    /// What keeps it from reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where results flow to, and the past that they keep.
pub trait Sinks: Send + Sync {
    /// Each with how it does.
    fn list(&self) -> Vec<SinkInfo>;
    /// The past of a metric, from the sink that keeps it.
    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<History, HistoryFailure>>;
}

/// A configured sink.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SinkInfo {
    /// Its name: the section of the configuration.
    pub name: String,
    /// `running`, `catching-up`, `retrying`, `starting` or `stopped`: that of the lane that is worst off.
    pub state: String,
    /// What is in force at the service, such as version and extension; missing: it was not reached yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
    /// The streams that it takes.
    pub streams: Vec<String>,
    /// Records, or transitions, that the service does not have yet.
    pub behind: u64,
    /// Rows written since the start.
    pub rows: u64,
    /// Rows that the service refused for themselves: dead letters.
    pub refused: u64,
    /// What keeps it from writing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its lanes: one for each partition, and one for alerts.
    pub lanes: Vec<SinkLane>,
}

/// A lane of a sink.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SinkLane {
    /// `partition 0`, or `alerts`.
    pub lane: String,
    /// As that of the sink.
    pub state: String,
    /// What it writes next: an offset, of alerts a sequence.
    pub next: u64,
    /// Records, or transitions, that the service does not have yet.
    pub behind: u64,
    /// Rows written since the start.
    pub rows: u64,
    /// Rows that the service refused for themselves.
    pub refused: u64,
    /// Parts of the log that it never saw, since the start.
    pub gaps: u64,
    /// With `retrying`: a stable code, such as `unreachable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// With `retrying`: what the service said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// With `retrying`: since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub since: Option<Timestamp>,
}

/// What is asked of the past.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryQuery {
    /// The device.
    pub device: String,
    /// The metric.
    pub metric: String,
    /// The stream.
    pub stream: String,
    /// From then on ...
    pub from: Timestamp,
    /// ... and before then.
    pub to: Timestamp,
    /// The span that a point stands for; zero: each value is a point.
    pub step: watchfire_model::Duration,
}

/// The past of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct History {
    /// What it was read from: a table, or an aggregate.
    pub source: String,
    /// The points, in the order of time. Spans without a value have none.
    pub points: Vec<HistoryPoint>,
}

/// A span of time, by its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct HistoryPoint {
    /// Where the span begins, a multiple of the step since the Unix epoch; or when the value was measured.
    #[schema(value_type = String)]
    pub time: Timestamp,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// The mean.
    pub avg: f64,
    /// How many values there are.
    pub count: i64,
    /// The last value.
    pub last: f64,
}

/// Why the past is not told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryFailure {
    /// No sink keeps it.
    #[error("no sink keeps history: configure [sink.timescale]")]
    Nowhere,
    /// It cannot be answered as it was asked.
    #[error("{0}")]
    Refused(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
}

/// The level of the log of the process.
pub trait LogLevel: Send + Sync {
    /// The present filter.
    fn get(&self) -> String;
    /// Sets it, such as `info,watchfire_engine=debug`. An error says what is wrong with it.
    fn set(&self, filter: &str) -> Result<(), String>;
}

/// Makes backups.
pub trait Archiver: Send + Sync {
    /// Writes a consistent copy of everything that a restore needs into an empty folder.
    fn snapshot(&self, into: PathBuf) -> BoxFuture<'_, Result<(), ArchiveError>>;
}

/// Why there is no backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Not as things are; what has to change first is said to whoever asked.
    #[error("{0}")]
    Refused(String),
    /// It failed; the words are for the log.
    #[error("{0}")]
    Failed(String),
}
