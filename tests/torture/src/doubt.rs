//! A proof that cannot fail proves nothing. So once all of them hold, the evidence is tampered with, each way
//! in which something could be wrong, and the proof that is there for it must fail.

use anyhow::{Context as _, Result, ensure};

use crate::evidence::{Evidence, Row, What};
use crate::prove::PROOFS;

/// Something wrong: its name, the proof that must find it, and how it is done. `None`: there is nothing in
/// this evidence that it could be done to.
type Fault = (&'static str, &'static str, fn(&mut Evidence) -> Option<()>);

const FAULTS: [Fault; 25] = [
    ("a row is lost", "readings", |e| rows(e)?.pop().map(drop)),
    ("an acknowledgement is forgotten", "readings", |e| {
        e.ledgers.iter_mut().find_map(|ledger| ledger.acknowledged.pop()).map(drop)
    }),
    ("a row is there twice", "readings", |e| {
        let rows = rows(e)?;
        let row = rows.last()?.clone();
        rows.push(row);
        Some(())
    }),
    ("two readings changed places", "readings", |e| {
        let ledger = e.ledgers.iter_mut().find(|ledger| ledger.acknowledged.len() > 1)?;
        ledger.acknowledged.swap(0, 1);
        Some(())
    }),
    ("a value is another", "readings", |e| {
        rows(e)?.last_mut()?.metrics["load"] = (-1.0).into();
        Some(())
    }),
    ("a metric is missing", "readings", |e| {
        rows(e)?.last_mut()?.metrics.as_object_mut()?.remove("load").map(drop)
    }),
    ("a change of a rule is lost", "changes", |e| {
        let lost = e.changes.last()?.version;
        e.log.retain(|record| !matches!(&record.what, What::Rule { version, rule, .. } if *version == lost && rule == "churn"));
        Some(())
    }),
    ("a partition did not make a change", "changes", |e| {
        let place = e
            .log
            .iter()
            .rposition(|record| matches!(&record.what, What::Activated { rule, .. } if rule == "churn"))?;
        e.log.remove(place);
        Some(())
    }),
    ("an alert is missing", "episodes", |e| {
        let place = e.alerts.iter().rposition(|alert| alert.rule == "main")?;
        e.alerts.remove(place);
        Some(())
    }),
    ("an alert was resolved late", "episodes", |e| {
        *e.alerts.iter_mut().find(|alert| alert.rule == "main")?.resolved.as_mut()? += 1;
        Some(())
    }),
    ("an alert of the rule that comes and goes is missing", "verdicts", |e| {
        let place = e.alerts.iter().rposition(|alert| alert.rule == "churn")?;
        e.alerts.remove(place);
        Some(())
    }),
    ("a version that was left went on", "verdicts", |e| {
        let alert = e.alerts.iter_mut().find(|alert| alert.rule == "churn" && alert.version > 1)?;
        alert.version -= 1;
        Some(())
    }),
    ("a rollback changed nothing", "verdicts", |e| {
        let last = e.log.iter().rev().find_map(|record| match &record.what {
            What::Rule { version, restores: Some(_), .. } => Some(*version),
            _ => None,
        })?;
        let left = e.log.iter().find_map(|record| match &record.what {
            What::Rule { version, high, rule, .. } if *version == last - 1 && rule == "churn" => Some(*high),
            _ => None,
        })?;
        for record in &mut e.log {
            if let What::Rule { version, high, restores, .. } = &mut record.what
                && *version == last
                && restores.is_some()
            {
                *high = left;
            }
        }
        Some(())
    }),
    ("an identity has two alerts at once", "one at a time", |e| {
        let mut alert = e.alerts.first()?.clone();
        alert.raised += 1;
        e.alerts.push(alert);
        Some(())
    }),
    ("a delivery never arrived", "arrived", |e| {
        let id = e.arrivals.first()?.id.clone();
        e.arrivals.retain(|arrival| arrival.id != id);
        Some(())
    }),
    ("a delivery was never taken", "arrived", |e| {
        let id = e.arrivals.first()?.id.clone();
        e.arrivals.iter_mut().filter(|arrival| arrival.id == id).for_each(|arrival| arrival.taken = false);
        Some(())
    }),
    ("the receiver was told of an alert that there is not", "arrived", |e| e.alerts.pop().map(drop)),
    ("what came twice came with another id", "ids", |e| {
        let mut again = e.arrivals.first()?.clone();
        again.id.push('x');
        e.arrivals.push(again);
        Some(())
    }),
    ("a resolve overtook its raise", "ids", |e| {
        let is = |status: &str, arrival: &crate::receiver::Arrival| arrival.body["status"] == status;
        let first = e.arrivals.iter().position(|arrival| arrival.taken && is("firing", arrival))?;
        let group = e.arrivals[first].body["groupKey"].clone();
        let second = e
            .arrivals
            .iter()
            .position(|arrival| arrival.body["groupKey"] == group && is("resolved", arrival))?;
        e.arrivals.swap(first, second);
        Some(())
    }),
    ("a row of the table is lost", "table", |e| e.outlet.as_mut()?.rows.pop().map(drop)),
    ("a row of the table is there twice", "table", |e| {
        let rows = &mut e.outlet.as_mut()?.rows;
        let row = rows.last()?.clone();
        rows.push(row);
        Some(())
    }),
    ("a value of the table is another", "table", |e| {
        e.outlet.as_mut()?.rows.last_mut()?.3 = "-1".into();
        Some(())
    }),
    ("a message is lost", "topic", |e| e.outlet.as_mut()?.messages.pop().map(drop)),
    ("a message is there twice under two ids", "topic", |e| {
        let messages = &mut e.outlet.as_mut()?.messages;
        let mut message = messages.last()?.clone();
        message.id.push('x');
        messages.push(message);
        Some(())
    }),
    ("two messages changed places", "topic", |e| {
        let messages = &mut e.outlet.as_mut()?.messages;
        let first = messages.first()?.key.clone();
        let second = (1..messages.len()).find(|place| messages[*place].key == first)?;
        messages.swap(0, second);
        Some(())
    }),
];

/// The rows of the last record that has some.
fn rows(evidence: &mut Evidence) -> Option<&mut Vec<Row>> {
    evidence.log.iter_mut().rev().find_map(|record| match &mut record.what {
        What::Rows(rows) if !rows.is_empty() => Some(rows),
        _ => None,
    })
}

/// Tampers with evidence for which every proof holds; gives how many faults were found. All must be.
pub fn check(evidence: &Evidence) -> Result<usize> {
    let mut found = 0;
    for (fault, name, tamper) in FAULTS {
        let mut tampered = evidence.clone();
        if tamper(&mut tampered).is_none() {
            println!("torture: not tried, for want of an example: {fault}");
            continue;
        }
        let (_, proof) = PROOFS.iter().find(|(other, _)| *other == name).context("a proof of that name")?;
        ensure!(proof(&tampered).is_err(), "the proof {name:?} holds although {fault}");
        found += 1;
    }
    Ok(found)
}
