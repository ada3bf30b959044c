//! The second step, at the device that stands for a site: the sum of what the partitions said.

use watchfire_rule::DeviceBytes;
use watchfire_rule::prelude::*;
use watchfire_rule::{TextColumn, timers};

use crate::parts::{self, Part};
use crate::{BETWEEN, DEVICES, NAMES, PART, SILENT};

const KEY: &str = "site-silent";

/// A partition counts each minute. One that has missed three has no device of the site any more.
const STALE: i64 = 200_000_000;

state! {
    /// Whether a timer is set, and whether the alert stands.
    struct Standing { waits: bool, alerts: bool }
}

/// When it alerts.
pub struct Limits {
    /// In percent.
    pub share: f64,
    pub clear_share: f64,
    pub least_devices: f64,
    pub most_names: usize,
}

pub struct Judge {
    limits: Limits,
    /// In microseconds.
    settle: i64,
    severity: Severity,
    state: DeviceState<Standing>,
    parts: DeviceBytes,
}

impl Judge {
    pub fn new(limits: Limits, settle: f64, severity: Severity) -> Self {
        let (state, parts) = (DeviceState::new(0), DeviceBytes::new(slot_of("parts")));
        Self { limits, settle: seconds(settle), severity, state, parts }
    }

    pub fn on_batch(&mut self, batch: &Batch) {
        let (names, first) = (batch.texts(PART), batch.texts(NAMES));
        let (devices, silent) = (batch.numbers(DEVICES), batch.numbers(SILENT));
        let (sites, times) = (batch.devices(), batch.times());
        self.state.load(sites);
        self.parts.load(sites);
        let mut waits = Vec::new();
        for (row, &site) in sites.iter().enumerate() {
            let Some(name) = text(&names, row).filter(|_| !devices[row].is_nan() && !silent[row].is_nan())
            else {
                continue;
            };
            let part = Part {
                name: name.into(),
                time: times[row],
                devices: devices[row],
                silent: silent[row],
                names: text(&first, row).unwrap_or_default().into(),
            };
            let mut parts = parts::read(self.parts.get(site));
            match parts.iter_mut().find(|known| known.name == part.name) {
                Some(known) => *known = part,
                None => parts.push(part),
            }
            self.parts.set(site, parts::write(&parts));
            let standing = self.state.get(site);
            if !standing.waits {
                self.state.set(site, Standing { waits: true, ..standing });
                waits.push(Timer { device: site, tag: 0, at: now().saturating_add(self.settle) });
            }
        }
        self.state.save();
        self.parts.save();
        if !waits.is_empty() {
            timers::set(&waits);
        }
    }

    /// What the partitions said has settled.
    pub fn judge(&mut self, sites: &[Device]) {
        self.state.load(sites);
        self.parts.load(sites);
        for &site in sites {
            let mut parts = parts::read(self.parts.get(site));
            let newest = parts.iter().map(|part| part.time).max().unwrap_or_default();
            parts.retain(|part| newest.saturating_sub(part.time) < STALE);
            self.parts.set(site, parts::write(&parts));
            let alerts = self.verdict(site, &parts, self.state.get(site).alerts);
            self.state.set(site, Standing { waits: false, alerts });
        }
        self.state.save();
        self.parts.save();
    }

    fn verdict(&self, site: Device, parts: &[Part], before: bool) -> bool {
        let devices: f64 = parts.iter().map(|part| part.devices).sum();
        let silent: f64 = parts.iter().map(|part| part.silent).sum();
        let share = if devices > 0.0 { 100.0 * silent / devices } else { 0.0 };
        let limit = if before { self.limits.clear_share } else { self.limits.share };
        if devices < self.limits.least_devices || share <= limit {
            if before {
                clear(site, KEY, None);
            }
            return false;
        }
        let mut names: Vec<&str> =
            parts.iter().flat_map(|part| part.names.split(BETWEEN)).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.truncate(self.limits.most_names);
        let alert = Alert::new(site, KEY, self.severity, "a large share of the site's devices is silent")
            .detail("silent", silent)
            .detail("devices", devices)
            .detail("share", share);
        if names.is_empty() { alert } else { alert.detail("first", names.join(", ")) }.trigger();
        true
    }
}

fn text(column: &TextColumn, row: usize) -> Option<&str> {
    column.dictionary.get(column.codes[row] as usize).map(String::as_str)
}
