//! What each rule costs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::table::Output;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// How to look.
#[derive(Args, Debug)]
pub struct Top {
    /// Look once, over one second, as in a pipe
    #[arg(long)]
    once: bool,
    /// What comes first: core, time, calls, rows, p99, memory, state, failures or name
    #[arg(long, default_value = "core")]
    sort: String,
}

/// What is sorted by, as the command line names it, and the member that it is.
const ORDERS: [(&str, &str); 9] = [
    ("core", "core_percent"),
    ("time", "seconds"),
    ("calls", "calls_per_second"),
    ("rows", "rows_per_second"),
    ("p99", "p99_microseconds"),
    ("memory", "memory"),
    ("state", "state_bytes"),
    ("failures", "failures"),
    ("name", "name"),
];

const COLUMNS: [&str; 11] = [
    "name",
    "core_percent",
    "seconds",
    "calls_per_second",
    "rows_per_second",
    "nanoseconds_per_row",
    "p99_microseconds",
    "memory",
    "state_bytes",
    "failures",
    "breaker",
];

pub(super) async fn run(command: Top, client: &Client, output: Output) -> Result<(), ClientError> {
    let order = ORDERS.iter().find(|(name, _)| *name == command.sort);
    let Some((_, order)) = order else {
        let names: Vec<&str> = ORDERS.iter().map(|(name, _)| *name).collect();
        return Err(ClientError::Usage(format!("--sort {}: there are {}", command.sort, names.join(", "))));
    };
    let look = async || {
        let rules = client.list("/rules", Vec::new(), usize::MAX).await?;
        let of = |rule: Value| Some((rule["name"].as_str()?.to_string(), rule["health"].clone()));
        Ok::<_, ClientError>((Instant::now(), rules.into_iter().filter_map(of).collect()))
    };
    let mut before: (Instant, BTreeMap<String, Value>) = look().await?;
    loop {
        tokio::time::sleep(PERIOD).await;
        let now: (Instant, BTreeMap<String, Value>) = look().await?;
        let rows = costs(&before.1, &now.1, now.0 - before.0, order);
        if command.once || !output.is_watched() {
            output.list(&rows, &COLUMNS);
            return Ok(());
        }
        output.screen(
            &format!("{} rules, the last {PERIOD:?}; end with Ctrl-C", rows.len()),
            &rows,
            &COLUMNS,
        );
        before = now;
    }
}

/// What rules cost between two looks, in order.
fn costs(
    before: &BTreeMap<String, Value>,
    now: &BTreeMap<String, Value>,
    span: Duration,
    order: &str,
) -> Vec<Value> {
    let seconds = span.as_secs_f64().max(1e-3);
    let one = |(name, health): (&String, &Value)| {
        // A rule that is new, or a server that was started again: nothing is known of the time before.
        let since = |member: &str| {
            let (then, now) = (before.get(name)?[member].as_u64()?, health[member].as_u64()?);
            now.checked_sub(then)
        };
        let rate = |member: &str| since(member).map(|count| rounded(count as f64 / seconds, 1.0));
        let per_row = since("nanoseconds").zip(since("rows")).filter(|(_, rows)| *rows > 0);
        json!({
            "name": name,
            "core_percent": since("nanoseconds").map(|spent| rounded(spent as f64 / 1e7 / seconds, 100.0)),
            "seconds": health["nanoseconds"].as_u64().map(|spent| rounded(spent as f64 / 1e9, 1000.0)),
            "calls_per_second": rate("calls"),
            "rows_per_second": rate("rows"),
            "nanoseconds_per_row": per_row.map(|(spent, rows)| spent / rows),
            "p99_microseconds": health["p99_nanoseconds"].as_u64().map(|p99| p99 / 1000),
            "memory": health["memory"],
            "state_bytes": health["state_bytes"],
            "failures": health["failures"],
            "breaker": health["breaker"],
        })
    };
    let mut rows: Vec<Value> = now.iter().map(one).collect();
    if order != "name" {
        // What is not known comes last, and equals stay in the order of their names.
        let key = |row: &Value| row[order].as_f64().unwrap_or(-1.0);
        rows.sort_by(|a, b| key(b).total_cmp(&key(a)));
    }
    rows
}

fn rounded(x: f64, to: f64) -> f64 {
    (x * to).round() / to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_of_the_time_between_two_looks_the_dearest_first() {
        let health = |nanoseconds: u64, rows: u64| json!({"nanoseconds": nanoseconds, "rows": rows, "calls": rows / 10, "failures": 0});
        let before = BTreeMap::from([
            ("a".to_string(), health(1_000_000_000, 1000)),
            ("b".to_string(), health(0, 0)),
            ("again".to_string(), health(9_000_000_000, 10)),
        ]);
        let now = BTreeMap::from([
            ("a".to_string(), health(1_100_000_000, 3000)),
            ("again".to_string(), health(500, 20)),
            ("b".to_string(), health(500_000_000, 100)),
            ("idle".to_string(), Value::Null),
        ]);
        let rows = costs(&before, &now, Duration::from_secs(2), "core_percent");
        let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
        assert_eq!(names, ["b", "a", "again", "idle"]);
        assert_eq!(rows[0]["core_percent"], 25.0);
        assert_eq!(rows[1]["core_percent"], 5.0);
        assert_eq!(
            (&rows[1]["rows_per_second"], &rows[1]["calls_per_second"]),
            (&json!(1000.0), &json!(100.0))
        );
        assert_eq!(rows[1]["nanoseconds_per_row"], 50_000);
        assert_eq!(rows[2]["core_percent"], Value::Null, "it began anew between the two");
    }
}
