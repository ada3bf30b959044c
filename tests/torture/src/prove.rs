//! What must hold at the end. Each proof is a function of the evidence alone, so that it can be tried on
//! evidence that was tampered with: see [`crate::doubt`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::{Context as _, Result, bail, ensure};

use crate::device::HOT;
use crate::evidence::{Alert, Evidence, What, micros};
use crate::model;
use crate::outlets::plain;

/// A proof: what it says when it holds, or what does not hold.
pub type Proof = fn(&Evidence) -> Result<String>;

/// All of them, by name.
pub const PROOFS: [(&str, Proof); 9] = [
    ("readings", readings),
    ("changes", changes),
    ("episodes", episodes),
    ("verdicts", verdicts),
    ("one at a time", one_at_a_time),
    ("arrived", arrived),
    ("ids", ids),
    ("table", table),
    ("topic", topic),
];

/// Every acknowledged reading is in the log, once, with all that it said, in the order of its device; and
/// nothing else is.
fn readings(evidence: &Evidence) -> Result<String> {
    let mut logged: HashMap<(u64, u64), Vec<_>> = HashMap::new();
    for record in &evidence.log {
        match &record.what {
            What::Rows(rows) => rows.iter().for_each(|row| {
                logged.entry((record.partition, row.handle)).or_default().push(row);
            }),
            What::Bad(record) => bail!("in the log: {record}"),
            _ => {}
        }
    }
    let mut by_first: HashMap<u64, _> = HashMap::new();
    for rows in logged.values() {
        ensure!(by_first.insert(rows[0].serial, rows).is_none(), "two handles of one device");
    }
    let mut count = 0;
    for ledger in &evidence.ledgers {
        let Some(first) = ledger.acknowledged.first() else { continue };
        let there = by_first.remove(&first.serial);
        let there = there
            .with_context(|| format!("{}: its first reading is not the first in the log", ledger.device))?;
        let serials: HashSet<u64> = there.iter().map(|row| row.serial).collect();
        let lost = ledger.acknowledged.iter().filter(|reading| !serials.contains(&reading.serial)).count();
        ensure!(
            there.len() == ledger.acknowledged.len(),
            "{}: {} readings acknowledged, {} rows in the log, {lost} acknowledged ones missing",
            ledger.device,
            ledger.acknowledged.len(),
            there.len()
        );
        for (row, reading) in there.iter().zip(&ledger.acknowledged) {
            // As it was sent: what is missing there is missing here.
            let sent = reading.metrics();
            let same = sent.as_object().map(serde_json::Map::len)
                == row.metrics.as_object().map(serde_json::Map::len)
                && sent.as_object().into_iter().flatten().all(|(metric, value)| match value.as_f64() {
                    Some(number) => row.number(metric) == Some(number),
                    None => row.metrics[metric] == *value,
                });
            ensure!(
                row.time == reading.time * 1000 && same,
                "{}: sent {reading:?}, the log has {row:?}",
                ledger.device
            );
        }
        count += there.len();
    }
    ensure!(by_first.is_empty(), "{} devices in the log sent nothing", by_first.len());
    Ok(format!("{count} acknowledged readings are in the log, each once, in order"))
}

/// Every change of a rule that was said to be durable is in the log where it was said to be, and was made by
/// every partition; versions are never given twice; a rollback brings back what that version was; and the
/// API tells the same versions.
fn changes(evidence: &Evidence) -> Result<String> {
    let mut by_position = HashMap::new();
    let mut versions: BTreeMap<u64, (f64, Option<u64>)> = BTreeMap::new();
    let mut activated: HashMap<u64, BTreeSet<u64>> = HashMap::new();
    let mut partitions = BTreeSet::new();
    for record in &evidence.log {
        partitions.insert(record.partition);
        match &record.what {
            What::Rule { rule, version, restores, high, .. } if rule == "churn" => {
                by_position.insert(record.position.as_str(), (*version, *high));
                let known = *versions.entry(*version).or_insert((*high, *restores));
                ensure!(known == (*high, *restores), "version {version} was given twice");
            }
            What::Activated { rule, version } if rule == "churn" => {
                let new = activated.entry(*version).or_default().insert(record.partition);
                ensure!(new, "partition {} made version {version} twice", record.partition);
            }
            _ => {}
        }
    }
    for change in &evidence.changes {
        let (high, restores) =
            *versions.get(&change.version).with_context(|| format!("version {} is lost", change.version))?;
        ensure!(change.positions.len() == partitions.len(), "{change:?}: not in every partition");
        for position in &change.positions {
            ensure!(
                by_position.get(position.as_str()) == Some(&(change.version, high)),
                "version {} does not stand at {position}",
                change.version
            );
        }
        match (change.high, restores) {
            (Some(asked), None) => ensure!(asked == high, "{change:?}: the log says {high}"),
            (None, Some(restores)) => {
                let then = versions.get(&restores).map(|(high, _)| *high);
                ensure!(then == Some(high), "{change:?}: version {restores} had {then:?}, not {high}");
            }
            _ => bail!("{change:?} is something else in the log"),
        }
    }
    for version in versions.keys() {
        let made = activated.get(version).map_or(0, BTreeSet::len);
        ensure!(made == partitions.len(), "version {version} was made by {made} partitions");
    }
    let told: BTreeMap<u64, f64> = evidence.versions.iter().copied().collect();
    let logged: BTreeMap<u64, f64> = versions.iter().map(|(version, (high, _))| (*version, *high)).collect();
    ensure!(told == logged, "the API tells versions {told:?}, the log has {logged:?}");
    let rollbacks = versions.values().filter(|(_, restores)| restores.is_some()).count();
    Ok(format!(
        "{} versions of a rule, {rollbacks} of them rollbacks, made by every partition",
        versions.len()
    ))
}

/// The rule that never changes said what the ledgers of the devices call for, at their times, and nothing
/// else.
pub fn episodes(evidence: &Evidence) -> Result<String> {
    let mut expected = BTreeSet::new();
    for ledger in &evidence.ledgers {
        let mut since = None;
        for reading in &ledger.acknowledged {
            match (reading.temperature >= HOT, since) {
                (true, None) => since = Some(reading.time),
                (false, Some(began)) => {
                    expected.insert((ledger.device.clone(), began * 1000, Some(reading.time * 1000)));
                    since = None;
                }
                _ => {}
            }
        }
        ensure!(since.is_none(), "{} did not end calm", ledger.device);
    }
    let main = evidence.alerts.iter().filter(|alert| alert.rule == "main");
    let found: BTreeSet<_> =
        main.clone().map(|alert| (alert.device.clone(), alert.raised, alert.resolved)).collect();
    ensure!(found.len() == main.count(), "an alert was raised twice");
    same("episodes of the ledgers", &expected, &found)?;
    Ok(format!("{} times a device was too hot, and as many alerts with these times", found.len()))
}

/// All alerts are those that follow from the log, version by version: a rollback counts from its record on,
/// with the state from before.
fn verdicts(evidence: &Evidence) -> Result<String> {
    let key = |alert: &Alert| {
        let Alert { rule, version, device, raised, resolved, position } = alert.clone();
        (rule, device, raised, resolved, version, position)
    };
    let expected: BTreeSet<_> = model::alerts(evidence)?.iter().map(key).collect();
    let found: BTreeSet<_> = evidence.alerts.iter().map(key).collect();
    ensure!(found.len() == evidence.alerts.len(), "an alert was raised twice");
    same("verdicts that follow from the log", &expected, &found)?;
    Ok(format!("{} alerts of all versions are those that follow from the log", found.len()))
}

fn same<T: Ord + std::fmt::Debug>(what: &str, expected: &BTreeSet<T>, found: &BTreeSet<T>) -> Result<()> {
    let missing: Vec<_> = expected.difference(found).collect();
    let more: Vec<_> = found.difference(expected).collect();
    if missing.is_empty() && more.is_empty() {
        return Ok(());
    }
    let few =
        |list: &[&T]| list.iter().take(3).map(|item| format!("{item:?}")).collect::<Vec<_>>().join("; ");
    bail!(
        "{what}: {} have no alert ({}), {} alerts follow from none ({})",
        missing.len(),
        few(&missing),
        more.len(),
        few(&more)
    )
}

/// No identity had two alerts at the same time, and in the end none is active. Begin and end are by the clock of
/// the device, or by that of the log where a rollback ended an alert: a reading may have been on its way
/// meanwhile. So an alert must have ended when the log received what began the next one.
fn one_at_a_time(evidence: &Evidence) -> Result<String> {
    let logged: HashMap<&str, i64> =
        evidence.log.iter().map(|record| (record.position.as_str(), record.appended_at)).collect();
    let mut identities: BTreeMap<(&str, &str), Vec<(i64, i64)>> = BTreeMap::new();
    for alert in &evidence.alerts {
        let resolved = alert.resolved.with_context(|| format!("still active: {alert:?}"))?;
        let logged = logged.get(alert.position.as_str());
        let logged = *logged.with_context(|| format!("raised by no record: {alert:?}"))?;
        identities.entry((&alert.rule, &alert.device)).or_default().push((logged, resolved));
    }
    for (identity, spans) in &mut identities {
        spans.sort_unstable();
        for pair in spans.windows(2) {
            ensure!(pair[0].1 <= pair[1].0, "{identity:?} had two alerts at once: {pair:?}");
        }
    }
    Ok(format!("{} identities, each with one alert at a time, all resolved", identities.len()))
}

/// What a delivery says of one alert: rule, device, status, begin, end.
type Notice = (String, String, String, i64, Option<i64>);

fn notices(body: &serde_json::Value) -> Result<Vec<Notice>> {
    let alerts = body["alerts"].as_array().context("a delivery without alerts")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    let notice = |alert: &serde_json::Value| {
        let status = text(&alert["status"]);
        let end = (status == "resolved").then(|| micros(&alert["endsAt"])).transpose()?;
        let labels = &alert["labels"];
        Ok((text(&labels["rule"]), text(&labels["device"]), status, micros(&alert["startsAt"])?, end))
    };
    alerts.iter().map(notice).collect()
}

/// Raise and resolve of every alert were taken by the receiver, with their times; it was told of nothing
/// else; and the engine's ledger of deliveries says the same.
fn arrived(evidence: &Evidence) -> Result<String> {
    let mut expected: BTreeSet<Notice> = BTreeSet::new();
    for alert in &evidence.alerts {
        let notice = |status: &str, end| {
            (alert.rule.clone(), alert.device.clone(), status.to_string(), alert.raised, end)
        };
        expected.insert(notice("firing", None));
        expected.insert(notice("resolved", alert.resolved));
    }
    let mut taken = BTreeSet::new();
    let mut told = BTreeSet::new();
    let mut taken_ids = BTreeSet::new();
    for arrival in &evidence.arrivals {
        let notices = notices(&arrival.body)?;
        told.extend(notices.iter().cloned());
        if arrival.taken {
            taken.extend(notices);
            taken_ids.insert(arrival.id.as_str());
        }
    }
    let missing: Vec<_> = expected.difference(&taken).take(3).collect();
    ensure!(missing.is_empty(), "never taken by the receiver, among others: {missing:?}");
    let more: Vec<_> = told.difference(&expected).take(3).collect();
    ensure!(more.is_empty(), "told, though there is no such alert: {more:?}");
    let open: Vec<_> = evidence.deliveries.iter().filter(|(_, state)| state != "delivered").take(3).collect();
    ensure!(open.is_empty(), "not delivered, as the API tells: {open:?}");
    let ids: BTreeSet<&str> = evidence.deliveries.iter().map(|(id, _)| id.as_str()).collect();
    ensure!(ids == taken_ids, "the API and the receiver know different deliveries");
    Ok(format!("{} deliveries in {} attempts, all taken", ids.len(), evidence.arrivals.len()))
}

/// What came twice came with the same id, an id never told two things, and in each group the next notice
/// came only after the one before was taken: so a resolve never overtook its raise.
fn ids(evidence: &Evidence) -> Result<String> {
    let mut of_notice: HashMap<Notice, &str> = HashMap::new();
    let mut of_id: HashMap<&str, (Vec<Notice>, bool)> = HashMap::new();
    let mut last: HashMap<&str, &str> = HashMap::new();
    let mut again = 0;
    for arrival in &evidence.arrivals {
        let id = arrival.id.as_str();
        let notices = notices(&arrival.body)?;
        for notice in &notices {
            let known = *of_notice.entry(notice.clone()).or_insert(id);
            ensure!(known == id, "{notice:?} came as {known} and as {id}");
        }
        let group = arrival.body["groupKey"].as_str().context("a delivery without a group")?;
        let before = last.insert(group, id);
        let new = !of_id.contains_key(id);
        match before {
            Some(before) if before == id => again += 1,
            Some(before) => {
                ensure!(of_id[before].1, "{id} came before {before} of its group was taken");
                ensure!(new, "{id} came again after {before} of its group");
            }
            None => {}
        }
        let (told, taken) = of_id.entry(id).or_insert_with(|| (notices.clone(), false));
        ensure!(*told == notices, "{id} told {told:?}, then {notices:?}");
        *taken |= arrival.taken;
    }
    // Within a group raise and resolve of one alert take turns.
    let mut standing: HashMap<(String, String), i64> = HashMap::new();
    let mut seen = HashSet::new();
    for arrival in evidence.arrivals.iter().filter(|arrival| seen.insert(arrival.id.as_str())) {
        for (rule, device, status, begin, _) in notices(&arrival.body)? {
            let identity = (rule, device);
            let before = match status.as_str() {
                "firing" => standing.insert(identity.clone(), begin).is_none(),
                _ => standing.remove(&identity) == Some(begin),
            };
            ensure!(before, "{identity:?}: {status} of the alert of {begin} came out of turn");
        }
    }
    Ok(format!("{again} repeated attempts, each with the id of the first"))
}

/// The table of the database holds exactly the acknowledged readings, once each.
fn table(evidence: &Evidence) -> Result<String> {
    let Some(outlet) = &evidence.outlet else { return Ok("no table".into()) };
    let mut expected = Vec::new();
    for ledger in &evidence.ledgers {
        for reading in &ledger.acknowledged {
            let metrics = reading.metrics();
            let metrics = metrics.as_object().context("metrics")?;
            expected.extend(
                metrics.iter().map(|(metric, value)| {
                    (ledger.device.clone(), reading.time, metric.clone(), plain(value))
                }),
            );
        }
    }
    let mut there = outlet.rows.clone();
    expected.sort();
    there.sort();
    if expected != there {
        let (sent, had): (BTreeSet<_>, BTreeSet<_>) = (expected.iter().collect(), there.iter().collect());
        bail!(
            "{} values acknowledged, {} in the table; missing {:?}, too many {:?}",
            expected.len(),
            there.len(),
            sent.difference(&had).next(),
            had.difference(&sent).next()
        );
    }
    Ok(format!("{} values are in the table, once each", there.len()))
}

/// The topic holds every acknowledged reading, in the order of its device; what is there twice has the same id.
fn topic(evidence: &Evidence) -> Result<String> {
    let Some(outlet) = &evidence.outlet else { return Ok("no topic".into()) };
    let mut by_id = HashMap::new();
    let mut by_device: BTreeMap<&str, Vec<&serde_json::Value>> = BTreeMap::new();
    let mut repeats = 0;
    for message in &outlet.messages {
        match by_id.insert(&message.id, message) {
            None => by_device.entry(&message.key).or_default().push(&message.body),
            Some(first) => {
                ensure!(!outlet.transactional, "{} is there twice", message.id);
                ensure!(first == message, "{} is there as two things", message.id);
                repeats += 1;
            }
        }
    }
    for ledger in evidence.ledgers.iter().filter(|ledger| !ledger.acknowledged.is_empty()) {
        let there = by_device.remove(ledger.device.as_str()).unwrap_or_default();
        let serials: Vec<_> = there.iter().map(|body| body["metrics"]["serial"].as_f64()).collect();
        let sent: Vec<_> = ledger.acknowledged.iter().map(|reading| Some(reading.serial as f64)).collect();
        ensure!(
            serials == sent,
            "{}: {} readings acknowledged, {} on the topic, or in another order",
            ledger.device,
            sent.len(),
            serials.len()
        );
        for (body, reading) in there.iter().zip(&ledger.acknowledged) {
            let (metrics, sent) = (&body["metrics"], reading.metrics());
            let same = |(name, value): (&String, &serde_json::Value)| plain(&metrics[name]) == plain(value);
            ensure!(
                metrics.as_object().map(|there| there.len()) == sent.as_object().map(|sent| sent.len())
                    && sent.as_object().is_some_and(|sent| sent.iter().all(same)),
                "{}: {metrics} was {sent}",
                ledger.device
            );
        }
    }
    ensure!(by_device.is_empty(), "on the topic of nobody: {:?}", by_device.keys());
    Ok(format!("{} readings are on the topic in order, {repeats} of them twice with one id", by_id.len()))
}
