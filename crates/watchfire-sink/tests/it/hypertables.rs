//! What only TimescaleDB does, with the extension compiled for this machine: the packaged one takes no COPY.

use std::sync::Arc;
use std::time::Duration as Wait;

use watchfire_model::{Duration, Timestamp, Value};
use watchfire_services::{Postgres, wire};
use watchfire_sink::timescale::{History, HistoryQuery, TimescaleConfig};

use crate::world::*;

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 86_400_000_000;

/// Jobs run when a test says so, and not by themselves.
const BY_HAND: &[(&str, &str)] = &[("timescaledb.max_background_workers", "0")];

fn job(postgres: &Postgres, table: &str, policy: &str) -> String {
    let jobs = format!(
        "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name = '{table}' AND proc_name = '{policy}'"
    );
    format!("CALL run_job({})", number(postgres, &jobs))
}

const JOBS: &str = "SELECT hypertable_name, proc_name FROM timescaledb_information.jobs \
    WHERE hypertable_schema = 'public' ORDER BY 1, 2";

const COMPRESSED: &str = "SELECT count(*) FROM timescaledb_information.chunks \
    WHERE hypertable_name = 'readings' AND is_compressed";

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_compressed_take_what_comes_late() {
    let Some(postgres) = with_timescale(BY_HAND) else { return };
    let mut world = World::new().await;
    world.register(3).await;
    let mut config: TimescaleConfig = config(&postgres, "alerts = false");
    let running = sink(&world, &config).await;
    let mut values = world.many(3, 20, 100).await;
    level(&running).await;
    let compression = job(&postgres, "readings", "policy_compression");
    postgres.query(&compression).unwrap();
    assert_eq!(number(&postgres, COMPRESSED), 1);

    // Of the same hour, and one of the very microsecond of another.
    values += world.many(3, 20, 100).await;
    world.reading_at("readings", "device-0", Timestamp(START), &[("n", Value::Number(0.5))]).await;
    // Somebody added a constraint by hand.
    postgres.query("ALTER TABLE readings ADD CHECK (value < 1000000)").unwrap();
    world.reading("readings", "device-1", &[("n", Value::Number(1e6)), ("rpm", Value::Number(1.0))]).await;
    let status = level(&running).await;
    values += 2;
    assert_eq!(status.lanes.iter().map(|lane| lane.refused).sum::<u64>(), 1);
    let first = format!(
        "SELECT value FROM readings WHERE device = 'device-0' AND metric = 'n' \
         AND time = to_timestamp({}) ORDER BY value",
        START / 1_000_000
    );
    for _ in 0..2 {
        assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), values);
        assert_eq!(texts(&postgres, &first), ["0", "0.5"]);
        // Once more, with what came late in it.
        postgres.query(&compression).unwrap();
    }

    // What is configured otherwise from now on is so, compressed chunks or not.
    running.stop().await;
    config.retain_for = Duration::from_secs(3650 * 86_400);
    let running = sink(&world, &config).await;
    level(&running).await;
    let jobs = [
        "readings policy_compression",
        "readings policy_retention",
        "readings_1h policy_refresh_continuous_aggregate",
        "readings_1m policy_refresh_continuous_aggregate",
    ];
    assert_eq!(texts(&postgres, JOBS), jobs);
    // A table that is made again has all that belongs to it.
    postgres.query("DROP TABLE readings CASCADE").unwrap();
    assert_eq!(texts(&postgres, JOBS), [""; 0]);
    world.reading("readings", "device-0", &[("n", Value::Number(1.0))]).await;
    level(&running).await;
    assert_eq!(texts(&postgres, JOBS), jobs);
    postgres.query(&job(&postgres, "readings", "policy_compression")).unwrap();
    assert_eq!(number(&postgres, COMPRESSED), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_runs_while_values_are_written_and_the_server_dies() {
    let Some(mut postgres) = with_timescale(&[]) else { return };
    let mut world = World::new().await;
    world.register(7).await;
    let running = sink(&world, &config(&postgres, "alerts = false")).await;
    let mut values = world.many(7, 20, 100).await;
    level(&running).await;
    for round in 0..5 {
        let (port, compression) = (postgres.port(), job(&postgres, "readings", "policy_compression"));
        // It dies with the server, or holds locks that the sink waits for.
        let compressing = tokio::task::spawn_blocking(move || {
            while wire::postgres(port, "postgres", "postgres", &compression).is_ok() {}
        });
        values += world.many(7, 60, 100).await;
        tokio::time::sleep(Wait::from_millis(61 * round)).await;
        postgres.kill();
        values += world.many(7, 5, 100).await;
        compressing.await.unwrap();
        postgres.restart().unwrap();
    }
    let status = level(&running).await;
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), values, "{status:?}");
    assert_eq!(number(&postgres, "SELECT count(DISTINCT (device, metric, time)) FROM readings"), values);
    assert_eq!(status.lanes.iter().map(|lane| lane.refused).sum::<u64>(), 0);
    postgres.query(&job(&postgres, "readings", "policy_compression")).unwrap();
    assert_eq!(number(&postgres, COMPRESSED), 1);
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), values);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_outlive_the_readings_that_are_dropped() {
    let Some(postgres) = with_timescale(BY_HAND) else { return };
    let world = World::new().await;
    world.register(1).await;
    let config = config(&postgres, "retain_for = '20d'\nalerts = false");
    let running = sink(&world, &config).await;
    let now = Timestamp::from(jiff::Timestamp::now());
    let days_ago = |days: i64| Timestamp((now.0 - days * DAY).div_euclid(60 * MINUTE) * 60 * MINUTE);
    for days in [1, 25] {
        for n in 0..60 {
            let time = Timestamp(days_ago(days).0 + n * MINUTE);
            world.reading_at("readings", "device-0", time, &[("n", Value::Number(n as f64))]).await;
        }
    }
    level(&running).await;
    let refresh = || {
        for view in ["readings_1m", "readings_1h"] {
            postgres.query(&job(&postgres, view, "policy_refresh_continuous_aggregate")).unwrap();
        }
    };
    // What is older than readings are kept was aggregated before.
    for view in ["readings_1m", "readings_1h"] {
        postgres.query(&format!("CALL refresh_continuous_aggregate('{view}', NULL, NULL)")).unwrap();
    }
    postgres.query(&job(&postgres, "readings", "policy_retention")).unwrap();
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), 60);
    refresh();
    let history = History::new(Arc::new(config), 1).unwrap();
    for (days, step, source, points) in
        [(25, 3600, "readings_1h", 1), (25, 60, "readings_1m", 60), (1, 3600, "readings_1h", 1)]
    {
        let query = HistoryQuery {
            device: "device-0".into(),
            metric: "n".into(),
            from: days_ago(days),
            to: Timestamp(days_ago(days).0 + 60 * MINUTE),
            step: Duration::from_secs(step),
            stream: "readings".into(),
        };
        let (found, from) = history.query(&query).await.unwrap();
        assert_eq!((found.len(), from.as_str()), (points, source), "{days} {step}");
        assert_eq!(found.iter().map(|point| point.count).sum::<i64>(), 60);
        assert_eq!(found.last().unwrap().last, 59.0);
    }
    // What comes late is counted at the next refresh.
    world.reading_at("readings", "device-0", days_ago(1), &[("n", Value::Number(-1.0))]).await;
    level(&running).await;
    refresh();
    let counted = format!("WHERE bucket = to_timestamp({})", days_ago(1).0 / 1_000_000);
    assert_eq!(texts(&postgres, &format!("SELECT count, min FROM readings_1h {counted}")), ["61 -1"]);
    assert_eq!(texts(&postgres, &format!("SELECT count, min FROM readings_1m {counted}")), ["2 -1"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_the_server_does_not_load_is_not_used() {
    let Some(postgres) = with_timescale(&[("shared_preload_libraries", "")]) else { return };
    let mut world = World::new().await;
    world.register(1).await;
    let running = sink(&world, &config(&postgres, "")).await;
    world.reading("readings", "device-0", &[("n", Value::Number(1.0))]).await;
    let status = level(&running).await;
    assert!(status.in_force.unwrap().contains("without TimescaleDB: partitions"));
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extension_may_stand_in_a_schema_of_its_own() {
    let Some(postgres) = with_timescale(&[]) else { return };
    let mut world = World::new().await;
    world.register(1).await;
    postgres.query("CREATE SCHEMA \"Tools\"; CREATE EXTENSION timescaledb SCHEMA \"Tools\"").unwrap();
    let running = sink(&world, &config(&postgres, "schema = 'plant'")).await;
    world.reading("readings", "device-0", &[("n", Value::Number(1.0))]).await;
    let status = level(&running).await;
    assert!(status.in_force.unwrap().starts_with("TimescaleDB"));
    assert_eq!(number(&postgres, "SELECT count(*) FROM plant.readings_1h"), 1);
    running.stop().await;
}
