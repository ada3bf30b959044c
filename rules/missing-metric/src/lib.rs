//! Missing metric: a device goes on reporting, but not something that it used to report.

mod known;

use watchfire_rule::prelude::*;
use watchfire_rule::{DeviceBytes, Kind};

use known::Known;

/// Metrics that are remembered of one device: as many as a reading may have.
const MOST: usize = 512;

const NO_TEXT: u32 = u32::MAX;
const NO_FLAG: u8 = u8::MAX;

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    metrics: Vec<String>,
    readings: u32,
    after: f64,
    seen: u32,
    forget: f64,
    severity: Severity,
}

struct MissingMetric {
    metrics: Vec<String>,
    readings: u32,
    /// In microseconds.
    after: i64,
    seen: u32,
    /// In microseconds; `i64::MAX`: never.
    forget: i64,
    severity: Severity,
    /// What each device reports: a list of [`Known`].
    state: DeviceBytes,
}

/// A watched metric of a batch: in which rows it has a value.
struct Presence {
    metric: String,
    rows: Vec<bool>,
}

impl MissingMetric {
    fn watches(&self, metric: &str) -> bool {
        self.metrics.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => metric.starts_with(start),
            None => metric == pattern,
        })
    }

    fn presences(&self, batch: &Batch) -> Vec<Presence> {
        let mut presences: Vec<Presence> = Vec::new();
        for column in batch.columns().into_iter().filter(|column| self.watches(&column.metric)) {
            let metric = column.metric;
            let rows: Vec<bool> = match column.kind {
                Kind::Number => batch.numbers(&metric).iter().map(|value| !value.is_nan()).collect(),
                Kind::Text => batch.texts(&metric).codes.iter().map(|code| *code != NO_TEXT).collect(),
                Kind::Boolean => batch.booleans(&metric).iter().map(|flag| *flag != NO_FLAG).collect(),
            };
            // A metric of two kinds has a column of each.
            match presences.iter_mut().find(|known| known.metric == metric) {
                Some(known) => known.rows.iter_mut().zip(rows).for_each(|(known, row)| *known |= row),
                None => presences.push(Presence { metric, rows }),
            }
        }
        presences
    }

    /// A reading with the metric.
    fn present(&self, known: &mut Known, device: Device, row: usize) {
        if known.raised {
            clear(device, &key_of(&known.metric), Some(row));
        }
        known.seen = known.seen.saturating_add(1).min(self.seen);
        (known.missed, known.since, known.raised) = (0, 0, false);
    }

    /// A reading without it. False: it is to be forgotten.
    fn absent(&self, known: &mut Known, device: Device, row: usize, time: Timestamp) -> bool {
        if known.seen < self.seen {
            return true;
        }
        if known.missed == 0 {
            known.since = time;
        }
        // No farther than it is needed: each change is a state to store.
        known.missed = known.missed.saturating_add(1).min(self.readings);
        let span = time.saturating_sub(known.since);
        if span >= self.forget {
            if known.raised {
                clear(device, &key_of(&known.metric), Some(row));
            }
            return false;
        }
        if known.raised || (known.missed >= self.readings && span >= self.after) {
            known.raised = true;
            let summary = ["the device does not report ", &known.metric, " any more"].concat();
            Alert::new(device, &key_of(&known.metric), self.severity, &summary)
                .detail("metric", known.metric.as_str())
                .detail("seconds", span as f64 / 1e6)
                .row(row)
                .trigger();
        }
        true
    }

    fn reading(&mut self, presences: &[Presence], device: Device, row: usize, time: Timestamp) {
        let mut all = known::read(self.state.get(device));
        all.retain_mut(|known| {
            let present = presences.iter().any(|other| other.rows[row] && other.metric == known.metric);
            if present {
                self.present(known, device, row);
                return true;
            }
            self.absent(known, device, row, time)
        });
        for presence in presences.iter().filter(|presence| presence.rows[row]) {
            if all.len() < MOST && all.iter().all(|known| known.metric != presence.metric) {
                all.push(Known { metric: presence.metric.clone(), seen: 1, ..Known::default() });
            }
        }
        self.state.set(device, known::write(&all));
    }
}

fn key_of(metric: &str) -> String {
    [metric, ".missing"].concat()
}

impl Rule for MissingMetric {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "missing-metric",
        version: env!("CARGO_PKG_VERSION"),
        description: "A device that reports, but not a metric that it used to report.",
        parameters: include_str!("../parameters.json"),
        state_version: 1,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        let after = seconds(parameters.after);
        let forget = if parameters.forget > 0.0 { seconds(parameters.forget) } else { i64::MAX };
        if forget <= after {
            return Err("forget is not above after: an alert would be over before it begins".into());
        }
        let rule = Self {
            metrics: parameters.metrics,
            readings: parameters.readings,
            after,
            seen: parameters.seen,
            forget,
            severity: parameters.severity,
            state: DeviceBytes::new(0),
        };
        // Readings without the metric are those that matter, so it gets all.
        Ok((rule, Subscription::everything()))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let presences = self.presences(batch);
        let (devices, times) = (batch.devices(), batch.times());
        self.state.load(devices);
        for (row, (&device, &time)) in devices.iter().zip(times).enumerate() {
            self.reading(&presences, device, row, time);
        }
        self.state.save();
        Ok(())
    }
}

watchfire_rule::export_rule!(MissingMetric);
