//! What must hold at the end, from the ledgers alone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::device::{HOT, Ledger};
use crate::engine::Engine;
use crate::receiver::Receiver;

/// Proves everything, or says what does not hold.
pub async fn all(engine: &mut Engine, receiver: &Receiver, ledgers: &[Ledger]) -> Result<()> {
    let expected: HashMap<&str, usize> =
        ledgers.iter().map(|ledger| (ledger.device.as_str(), episodes(ledger))).collect();
    let alerts = settled(engine, &expected).await?;
    delivered(receiver, &alerts).await?;
    engine.terminate().await.context("stop at the end")?;
    engine.verify_log()?;
    logged(&engine.dump_log()?, ledgers)?;
    Ok(())
}

/// How many times a device went from calm to hot: each is one alert.
fn episodes(ledger: &Ledger) -> usize {
    let mut hot = false;
    ledger
        .acknowledged
        .iter()
        .filter(|(_, value)| {
            let was = std::mem::replace(&mut hot, *value >= HOT);
            hot && !was
        })
        .count()
}

/// Waits until the alerts of the rule under test are those that the ledgers call for, all resolved.
async fn settled(engine: &Engine, expected: &HashMap<&str, usize>) -> Result<Vec<Value>> {
    let began = Instant::now();
    loop {
        let alerts = all_alerts(engine).await?;
        let mut found: HashMap<&str, usize> = HashMap::new();
        let mut active = 0;
        for alert in &alerts {
            *found.entry(alert["device"].as_str().unwrap_or_default()).or_default() += 1;
            active += usize::from(alert["state"] == "active");
        }
        let missing: Vec<_> = expected
            .iter()
            .filter(|(device, count)| found.get(*device).copied().unwrap_or(0) != **count)
            .map(|(device, count)| {
                format!("{device}: {} alerts for {count} episodes", found.get(device).unwrap_or(&0))
            })
            .collect();
        if missing.is_empty() && active == 0 {
            println!("torture: {} alerts, as many as episodes, all resolved", alerts.len());
            return Ok(alerts);
        }
        if began.elapsed() > Duration::from_secs(30) {
            bail!("{active} alerts still active; {}", missing.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn all_alerts(engine: &Engine) -> Result<Vec<Value>> {
    let (mut alerts, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = engine.call("GET", &format!("/alerts?rule=main&limit=500&cursor={cursor}"), None).await?;
        let items =
            page["alerts"].as_array().or(page["items"].as_array()).context("a page without alerts")?;
        alerts.extend(items.iter().cloned());
        match page["next_cursor"].as_str().or(page["cursor"].as_str()) {
            Some(next) if !items.is_empty() => cursor = next.to_string(),
            _ => return Ok(alerts),
        }
    }
}

/// Waits until every alert's raise and resolve were accepted by the receiver; proves order and ids.
async fn delivered(receiver: &Receiver, alerts: &[Value]) -> Result<()> {
    let began = Instant::now();
    loop {
        let missing = receiver.with(|received| {
            // Per identity and start: what was accepted, in order of first acceptance.
            let mut accepted: HashMap<(String, String), Vec<String>> = HashMap::new();
            let mut seen = std::collections::HashSet::new();
            for (id, _) in received.arrivals.iter().filter(|(_, ok)| *ok) {
                if !seen.insert(id.clone()) {
                    continue;
                }
                for alert in received.bodies[id]["alerts"].as_array().into_iter().flatten() {
                    let labels = &alert["labels"];
                    if labels["rule"] != "main" {
                        continue;
                    }
                    let key = (
                        labels["device"].as_str().unwrap_or_default().to_string(),
                        alert["startsAt"].as_str().unwrap_or_default().to_string(),
                    );
                    accepted
                        .entry(key)
                        .or_default()
                        .push(alert["status"].as_str().unwrap_or_default().to_string());
                }
            }
            for (key, states) in &accepted {
                if states.first().is_some_and(|first| first != "firing") {
                    received.faults.push(format!("{key:?}: {states:?}: a resolve before its raise"));
                }
            }
            ensure!(received.faults.is_empty(), "{:?}", received.faults);
            let whole = |states: &&Vec<String>| {
                states.iter().any(|s| s == "firing") && states.iter().any(|s| s == "resolved")
            };
            Ok(alerts.len().abs_diff(accepted.values().filter(whole).count()))
        })?;
        if missing == 0 {
            let (arrivals, distinct) =
                receiver.with(|received| (received.arrivals.len(), received.bodies.len()));
            println!(
                "torture: {distinct} deliveries in {arrivals} attempts, every raise and resolve arrived in order"
            );
            return Ok(());
        }
        if began.elapsed() > Duration::from_secs(120) {
            bail!("{missing} of {} alerts were not delivered whole", alerts.len());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Every acknowledged reading is in the log, once, in the order of its device.
fn logged(dump: &str, ledgers: &[Ledger]) -> Result<()> {
    let mut logged: HashMap<String, Vec<i64>> = HashMap::new();
    for line in dump.lines() {
        let entry: Value =
            serde_json::from_str(line).with_context(|| format!("log dump line {line:.200}"))?;
        if entry["stream"] != "readings" {
            continue;
        }
        for row in entry["rows"].as_array().into_iter().flatten() {
            let device = row["device"].as_str().context("a row without a device")?;
            let time = row["time"].as_str().context("a row without a time")?;
            logged.entry(device.into()).or_default().push(millis(time)?);
        }
    }
    for ledger in ledgers {
        let there = logged.get(&ledger.device).map_or(&[][..], Vec::as_slice);
        let sent: Vec<i64> = ledger.acknowledged.iter().map(|(time, _)| *time).collect();
        if there != sent {
            let lost = sent.iter().filter(|time| !there.contains(time)).count();
            bail!(
                "{}: {} readings acknowledged, {} in the log, {lost} acknowledged ones missing",
                ledger.device,
                sent.len(),
                there.len()
            );
        }
    }
    println!("torture: the log holds every acknowledged reading once, in order");
    Ok(())
}

/// Milliseconds since the epoch of an RFC 3339 time in UTC with six decimals, as the log prints it.
fn millis(time: &str) -> Result<i64> {
    let part = |from: usize, to: usize| -> Result<i64> {
        Ok(time.get(from..to).with_context(|| format!("{time:?} is no time"))?.parse()?)
    };
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    // Days since 1970-01-01 in the proleptic Gregorian calendar, years counted from March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + part(11, 13)? * 3600 + part(14, 16)? * 60 + part(17, 19)?;
    Ok(seconds * 1000 + part(20, 23)?)
}
