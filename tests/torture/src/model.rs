//! What the rules should have said of this log: the threshold with its deadband, versions that come and go
//! back at a record, and the state that comes back with a version, written down once more from the words of
//! the documents and nothing of the product.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result};

use crate::device::{SERIALS, name};
use crate::evidence::{Alert, Evidence, What};

/// A rule in one partition.
#[derive(Default)]
struct Rule {
    version: u64,
    metric: String,
    high: f64,
    deadband: f64,
    /// Devices that the rule knows as beyond the limit.
    beyond: BTreeSet<u64>,
    /// Alerts that stand, as places in the list of all.
    standing: BTreeMap<u64, usize>,
    /// How it was when versions were left, the latest at the end.
    left: Vec<Snapshot>,
}

/// Versions whose state is kept.
const KEPT: usize = 5;

#[derive(Clone)]
struct Snapshot {
    version: u64,
    beyond: BTreeSet<u64>,
    standing: BTreeSet<u64>,
}

/// The alerts that follow from the log, in no order.
pub fn alerts(evidence: &Evidence) -> Result<Vec<Alert>> {
    let devices = devices(evidence);
    let mut rules: BTreeMap<(u64, String), Rule> = BTreeMap::new();
    let mut alerts: Vec<Alert> = Vec::new();
    for record in &evidence.log {
        let raise = |alerts: &mut Vec<Alert>, rule: &str, version: u64, handle: u64, raised: i64| {
            let device = devices.get(&(record.partition, handle)).context("a handle of no device")?.clone();
            let position = record.position.clone();
            alerts.push(Alert { rule: rule.into(), version, device, raised, resolved: None, position });
            anyhow::Ok(alerts.len() - 1)
        };
        match &record.what {
            What::Rule { rule: name, version, restores, metric, high, deadband } => {
                let new = !rules.contains_key(&(record.partition, name.clone()));
                let rule = rules.entry((record.partition, name.clone())).or_default();
                let now = Snapshot {
                    version: rule.version,
                    beyond: rule.beyond.clone(),
                    standing: rule.standing.keys().copied().collect(),
                };
                // The state comes back as it was when that version was left, as long as that is kept.
                let back = rule.left.iter().find(|left| Some(left.version) == *restores).cloned();
                if !new {
                    rule.left.retain(|left| left.version != now.version);
                    rule.left.push(now);
                    rule.left.drain(..rule.left.len().saturating_sub(KEPT));
                }
                (rule.version, rule.metric) = (*version, metric.clone());
                (rule.high, rule.deadband) = (*high, *deadband);
                let Some(back) = back else { continue };
                rule.beyond = back.beyond;
                for handle in &back.standing {
                    if !rule.standing.contains_key(handle) {
                        let alert = raise(&mut alerts, name, *version, *handle, record.appended_at)?;
                        rule.standing.insert(*handle, alert);
                    }
                }
                rule.standing.retain(|handle, alert| {
                    let stays = back.standing.contains(handle);
                    if !stays {
                        alerts[*alert].resolved = Some(record.appended_at);
                    }
                    stays
                });
            }
            What::Rows(rows) => {
                for ((_, name), rule) in
                    rules.iter_mut().filter(|((partition, _), _)| *partition == record.partition)
                {
                    for row in rows {
                        let Some(value) = row.number(&rule.metric) else { continue };
                        let at = row.time.min(record.appended_at);
                        let was = rule.beyond.contains(&row.handle);
                        if value > rule.high || (was && value > rule.high - rule.deadband) {
                            rule.beyond.insert(row.handle);
                            if !rule.standing.contains_key(&row.handle) {
                                let alert = raise(&mut alerts, name, rule.version, row.handle, at)?;
                                rule.standing.insert(row.handle, alert);
                            }
                        } else if was {
                            rule.beyond.remove(&row.handle);
                            if let Some(alert) = rule.standing.remove(&row.handle) {
                                alerts[alert].resolved = Some(at);
                            }
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(alerts)
}

/// Devices by partition and handle. Serial numbers say whose a row is, whatever its handle.
fn devices(evidence: &Evidence) -> HashMap<(u64, u64), String> {
    let rows = evidence.log.iter().filter_map(|record| match &record.what {
        What::Rows(rows) => Some(rows.iter().map(|row| (record.partition, row))),
        _ => None,
    });
    rows.flatten().map(|(partition, row)| ((partition, row.handle), name(row.serial / SERIALS))).collect()
}
