//! `watchfire rule test`: the cases of a rule project (`cases/*.yaml`, described in `rules/README.md`), run by
//! the very partition loop that a server runs, on a simulated clock.
//!
//! Every case runs in four cuts: each step of the time line as one record, and each reading as a record of its
//! own; each of them with one instance throughout, and with a fresh one for each record. All must say the same,
//! since where a log is cut and when an instance is replaced is chance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use watchfire_engine::{Output, Partition, PartitionSetup};
use watchfire_host::{Host, HostOptions, ModuleReport, build, validate_parameters};
use watchfire_log::{Entry, Record};
use watchfire_model::rule::ConditionSet;
use watchfire_model::{
    Actor, BatchBuilder, Control, DeviceSpec, Duration, Epoch, Limits, PartitionId, Position, READINGS,
    RuleSpec, Selector, Severity, Timestamp, Transition, TransitionKind, Value,
};

/// Which rule.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The project
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// The component; built from the project where it is not given
    #[arg(long)]
    module: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    parameters: serde_json::Value,
    /// As in a deployment.
    #[serde(default)]
    condition: ConditionSet,
    #[serde(default)]
    select: Selector,
    start: Option<Timestamp>,
    #[serde(default)]
    devices: Vec<DeviceSpec>,
    timeline: Vec<Step>,
    expect: Vec<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at: Duration,
    measured: Option<Duration>,
    #[serde(default)]
    readings: BTreeMap<String, BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    at: Duration,
    trigger: Option<Identity>,
    clear: Option<Identity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    device: String,
    key: String,
    severity: Option<Severity>,
}

/// A change of a condition, since the start of the case. Ordered by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    at: Duration,
    device: String,
    key: String,
    /// `None`: it ended.
    severity: Option<Severity>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, device, key, severity } = self;
        match severity {
            Some(severity) => write!(f, "{at}: trigger {device} {key} {severity}"),
            None => write!(f, "{at}: clear {device} {key}"),
        }
    }
}

/// How the time line becomes records.
#[derive(Clone, Copy, Debug)]
struct Cut {
    name: &'static str,
    by_row: bool,
    fresh: bool,
}

const CUTS: [Cut; 4] = [
    Cut { name: "whole", by_row: false, fresh: false },
    Cut { name: "row by row", by_row: true, fresh: false },
    Cut { name: "a fresh instance for each callback", by_row: false, fresh: true },
    Cut { name: "row by row, a fresh instance for each callback", by_row: true, fresh: true },
];

/// Runs every case of the project; an error where one fails or there is none.
pub fn run(options: Options) -> Result<()> {
    let (component, place) = match &options.module {
        Some(file) => {
            (std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?, file)
        }
        None => (build::build_rust_rule(&options.folder)?, &options.folder),
    };
    let host = Host::new(HostOptions::default())?;
    let report = host.add(&component).with_context(|| format!("{} is no rule", place.display()))?;
    let mut files: Vec<_> = std::fs::read_dir(options.folder.join("cases"))
        .with_context(|| format!("{} has no folder `cases`", options.folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml"))
        .collect();
    files.sort();
    let mut failed = 0;
    for file in &files {
        match run_file(&host, &report, file) {
            Ok(name) => println!("ok      {name}"),
            Err(error) => {
                failed += 1;
                println!("FAILED  {}: {error:#}", file.display());
            }
        }
    }
    if files.is_empty() {
        bail!("{} has no cases", options.folder.display());
    }
    println!("{} {}: {} of {} cases passed", report.name, report.version, files.len() - failed, files.len());
    if failed > 0 {
        bail!("{failed} of {} cases failed", files.len());
    }
    Ok(())
}

fn run_file(host: &Host, report: &ModuleReport, file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file)?;
    let case: Case = serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{error}"))?;
    let expected = expected(&case)?;
    for cut in CUTS {
        let found = play(host, report, &case, cut)?;
        let differences = differences(&expected, &found);
        if !differences.is_empty() {
            bail!("{} ({})\n{}", case.name, cut.name, differences.join("\n"));
        }
    }
    Ok(case.name)
}

fn expected(case: &Case) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for expected in &case.expect {
        let (identity, severity) = match (&expected.trigger, &expected.clear) {
            (Some(trigger), None) => {
                let severity = trigger.severity.context("an expected trigger has a severity")?;
                (trigger, Some(severity))
            }
            (None, Some(clear)) => (clear, None),
            _ => bail!("what is expected is a trigger or a clear"),
        };
        let (device, key) = (identity.device.clone(), identity.key.clone());
        changes.push(Change { at: expected.at, device, key, severity });
    }
    changes.sort();
    Ok(changes)
}

fn differences(expected: &[Change], found: &[Change]) -> Vec<String> {
    let missing = expected.iter().filter(|change| !found.contains(change));
    let surplus = found.iter().filter(|change| !expected.contains(change));
    let mut lines: Vec<_> = missing.map(|change| format!("        expected  {change}")).collect();
    lines.extend(surplus.map(|change| format!("        not expected  {change}")));
    if lines.is_empty() && expected.len() != found.len() {
        lines.push(format!("        {} changes expected, {} found", expected.len(), found.len()));
    }
    lines
}

/// What comes of a time line, cut like this.
fn play(host: &Host, report: &ModuleReport, case: &Case, cut: Cut) -> Result<Vec<Change>> {
    let start = case.start.unwrap_or(Timestamp(1_767_225_600_000_000));
    let mut loop_ = Loop::new(host);
    let mut devices: BTreeMap<&str, DeviceSpec> =
        case.devices.iter().map(|spec| (spec.id.as_str(), spec.clone())).collect();
    let named: BTreeSet<&str> =
        case.timeline.iter().flat_map(|step| step.readings.keys()).map(String::as_str).collect();
    for id in named {
        devices.entry(id).or_insert_with(|| DeviceSpec { id: id.into(), ..DeviceSpec::default() });
    }
    for id in devices.keys() {
        DeviceSpec::check_id(id).map_err(anyhow::Error::msg)?;
    }
    let by = Actor::default();
    let put = Control::DevicesPut { devices: devices.into_values().collect(), by: by.clone() };
    loop_.apply(start, Record::Control(Box::new(put)))?;
    let parameters = validate_parameters(&report.manifest, &case.parameters).map_err(|problems| {
        let texts: Vec<_> =
            problems.iter().map(|problem| format!("{} {}", problem.path, problem.message)).collect();
        anyhow::anyhow!("parameters: {}", texts.join("; "))
    })?;
    let spec = RuleSpec {
        name: report.name.clone(),
        module: report.digest,
        input: READINGS.into(),
        output: None,
        pass: Vec::new(),
        select: case.select.clone(),
        parameters,
        condition: case.condition.clone(),
        limits: Limits::default(),
    };
    let deploy = Control::RuleDeployed { spec: Box::new(spec), version: 1, discard_state: false, by };
    loop_.apply(start, Record::Control(Box::new(deploy)))?;
    let mut before = Duration::ZERO;
    for step in &case.timeline {
        if step.at < before {
            bail!("the time line goes back from {before} to {}", step.at);
        }
        before = step.at;
        let (at, measured) = (start + step.at, start + step.measured.unwrap_or(step.at));
        if step.readings.is_empty() {
            loop_.apply(at, Record::Tick)?;
        }
        let mut batch = BatchBuilder::new();
        for (id, metrics) in &step.readings {
            loop_.reading(&mut batch, id, measured, metrics)?;
            if cut.by_row {
                loop_.readings(at, std::mem::take(&mut batch), cut)?;
            }
        }
        loop_.readings(at, batch, cut)?;
    }
    let mut changes = Vec::new();
    for transition in loop_.transitions {
        let severity = match transition.kind {
            TransitionKind::Raised | TransitionKind::SeverityChanged { .. } => Some(transition.severity),
            TransitionKind::Resolved { .. } => None,
            TransitionKind::Cleared | TransitionKind::Realarmed => continue,
        };
        changes.push(Change {
            at: transition.at.since(start),
            device: transition.device.id,
            key: transition.key,
            severity,
        });
    }
    changes.sort();
    Ok(changes)
}

/// A partition that is handed records made up here.
struct Loop {
    partition: Partition,
    out: Vec<Output>,
    transitions: Vec<Transition>,
}

impl Loop {
    fn new(host: &Host) -> Self {
        let partition = Partition::new(PartitionSetup {
            id: PartitionId(0),
            partitions: 1,
            epoch: Epoch(1),
            modules: Arc::new(host.clone()),
            history: None,
            events: None,
        });
        Self { partition, out: Vec::new(), transitions: Vec::new() }
    }

    fn apply(&mut self, at: Timestamp, record: Record) -> Result<()> {
        let offset = self.partition.next_offset();
        let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset };
        self.partition.apply(&Entry { position, appended_at: at, record }, &mut self.out);
        for output in self.out.drain(..) {
            match output {
                Output::Transition(transition) => self.transitions.push(*transition),
                Output::Own(Record::Refused { reason, .. }) => bail!("the rule does not start: {reason}"),
                Output::Own(Record::Skipped(skipped)) => {
                    bail!("{} failed: {}", skipped.callback_name, skipped.reason)
                }
                Output::Own(_) | Output::Derived(_) => {}
            }
        }
        Ok(())
    }

    fn reading(
        &self,
        batch: &mut BatchBuilder,
        id: &str,
        time: Timestamp,
        metrics: &BTreeMap<String, Value>,
    ) -> Result<()> {
        let device = self.partition.registry().find(id).context("every device is registered")?;
        batch.begin(device, time);
        for (metric, value) in metrics {
            let added = match value {
                Value::Number(number) => batch.number(metric, *number),
                Value::Text(text) => batch.text(metric, text),
                Value::Boolean(flag) => batch.boolean(metric, *flag),
            };
            added.map_err(|_| anyhow::anyhow!("metric {metric:?} twice"))?;
        }
        batch.commit();
        Ok(())
    }

    fn readings(&mut self, at: Timestamp, batch: BatchBuilder, cut: Cut) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if cut.fresh {
            self.apply(at, Record::CheckpointMark)?;
        }
        let batch = Arc::new(batch.finish());
        self.apply(at, Record::Readings { stream: READINGS.into(), origin: None, batch })
    }
}
