//! What is asked of the past, of both kinds of server.

use std::sync::Arc;

use watchfire_model::{Duration, PartitionId, Timestamp, Value};
use watchfire_services::wire::Row;
use watchfire_services::{Postgres, Timescale, or_skip};
use watchfire_sink::timescale::{History, HistoryError, HistoryPoint, HistoryQuery, TimescaleConfig};
use watchfire_sink::{Lane as _, LaneId, Sink as _};

use crate::world::*;

on_both! {
    "sink-history" => the_past_is_made_coarse_by_the_server,
}

fn query(from: i64, to: i64, step: u64) -> HistoryQuery {
    HistoryQuery {
        device: "device-0".into(),
        metric: "n".into(),
        from: Timestamp(START + from * 60_000_000),
        to: Timestamp(START + to * 60_000_000),
        step: Duration::from_secs(step),
        stream: "readings".into(),
    }
}

/// The same figures whichever way they are made: a value each ten seconds, n for the nth.
fn expected(minutes: i64) -> Vec<HistoryPoint> {
    (0..minutes)
        .map(|minute| {
            let (first, last) = (minute * 6, minute * 6 + 5);
            HistoryPoint {
                time: Timestamp(START + minute * 60_000_000),
                min: first as f64,
                max: last as f64,
                avg: (first + last) as f64 / 2.0,
                count: 6,
                last: last as f64,
            }
        })
        .collect()
}

async fn the_past_is_made_coarse_by_the_server(postgres: Postgres) {
    let world = World::new().await;
    world.register(2).await;
    for n in 0..60 {
        let time = Timestamp(START + n * 10_000_000);
        world.reading_at("readings", "device-0", time, &[("n", Value::Number(n as f64))]).await;
        world.reading_at("readings", "device-1", time, &[("n", Value::Number(-1.0))]).await;
    }
    let config = config(&postgres, "");
    let running = sink(&world, &config).await;
    level(&running).await;
    let history = History::new(Arc::new(config), 4).unwrap();
    let (points, source) = history.query(&query(0, 10, 60)).await.unwrap();
    let from = if postgres.has_timescale() { "readings_1m" } else { "readings" };
    assert_eq!((points, source.as_str()), (expected(10), from));
    let (points, _) = history.query(&query(2, 4, 0)).await.unwrap();
    assert_eq!(
        points.iter().map(|point| point.last).collect::<Vec<_>>(),
        (12..24).map(f64::from).collect::<Vec<_>>()
    );
    let (points, _) = history.query(&query(0, 10, 3600)).await.unwrap();
    assert_eq!((points.len(), points[0].count, points[0].avg, points[0].last), (1, 60, 29.5, 59.0));
    for bad in
        [query(10, 0, 60), query(0, 60 * 24 * 365, 1), HistoryQuery { stream: "x".into(), ..query(0, 1, 0) }]
    {
        assert!(matches!(history.query(&bad).await, Err(HistoryError::Refused(_))), "{bad:?}");
    }
    running.stop().await;
    drop(postgres);
    assert!(matches!(history.query(&query(0, 1, 0)).await, Err(HistoryError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn timescale_gets_hypertables_policies_and_aggregates() {
    let Some(timescale) = or_skip("sink-timescale", Timescale::start()) else { return };
    hypertables_policies_and_aggregates(&timescale.url(), |sql| timescale.query(sql)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_timescale_gets_hypertables_policies_and_aggregates() {
    let Some(postgres) = with_timescale(&[]) else { return };
    hypertables_policies_and_aggregates(&postgres.url(), |sql| postgres.query(sql)).await;
}

async fn hypertables_policies_and_aggregates(url: &str, ask: impl Fn(&str) -> std::io::Result<Vec<Row>>) {
    let more = "streams = ['readings', 'hot-only']\nretain_for = '90d'\nexpected_rate = 200";
    let text = format!("url = '{url}'\n{more}");
    let mut config: TimescaleConfig = toml::from_str(&text).unwrap();
    config.check().unwrap();
    let texts = |sql: &str| -> Vec<String> {
        let rows = ask(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>().join(" ")).collect()
    };
    // One connection at a time is what the packaged server has.
    for _ in 0..2 {
        let sink = watchfire_sink::timescale::Timescale::new(Arc::new(config.clone()));
        let mut lane = sink.lane(LaneId::Partition(PartitionId(0)));
        assert_eq!(lane.open().await, Ok(None));
        drop(lane);
        let said = sink.in_force().unwrap();
        assert!(
            said.starts_with("TimescaleDB 2.")
                && said.contains("chunks of 1d, compressed after 7d, aggregates"),
            "{said}"
        );
    }
    let hypertables = "SELECT hypertable_name, time_interval FROM timescaledb_information.dimensions WHERE hypertable_schema = 'public' ORDER BY 1";
    assert_eq!(texts(hypertables), ["derived_hot_only 1 day", "readings 1 day"]);
    let jobs = "SELECT hypertable_name, proc_name FROM timescaledb_information.jobs WHERE hypertable_schema = 'public' ORDER BY 1, 2";
    assert_eq!(
        texts(jobs),
        [
            "derived_hot_only policy_compression",
            "derived_hot_only policy_retention",
            "derived_hot_only_1h policy_refresh_continuous_aggregate",
            "derived_hot_only_1m policy_refresh_continuous_aggregate",
            "readings policy_compression",
            "readings policy_retention",
            "readings_1h policy_refresh_continuous_aggregate",
            "readings_1m policy_refresh_continuous_aggregate"
        ]
    );
    let segments = "SELECT attname FROM timescaledb_information.compression_settings WHERE hypertable_name = 'readings' AND segmentby_column_index IS NOT NULL ORDER BY segmentby_column_index";
    assert_eq!(texts(segments), ["device", "metric"]);
    let views = "SELECT view_name FROM timescaledb_information.continuous_aggregates ORDER BY 1";
    assert_eq!(texts(views), ["derived_hot_only_1h", "derived_hot_only_1m", "readings_1h", "readings_1m"]);

    let values: Vec<String> = (0..60)
        .map(|n| format!("(to_timestamp({}), 'device-0', 'n', {n})", START / 1_000_000 + n * 10))
        .collect();
    ask(&format!("INSERT INTO readings (time, device, metric, value) VALUES {}", values.join(","))).unwrap();
    for view in ["readings_1m", "readings_1h"] {
        ask(&format!("CALL refresh_continuous_aggregate('{view}', NULL, NULL)")).unwrap();
    }
    let history = History::new(Arc::new(config.clone()), 1).unwrap();
    let (points, source) = history.query(&query(0, 10, 60)).await.unwrap();
    assert_eq!((points, source.as_str()), (expected(10), "readings_1m"));
    let (points, source) = history.query(&query(0, 60, 3600)).await.unwrap();
    assert_eq!((points.len(), points[0].count, points[0].avg, source.as_str()), (1, 60, 29.5, "readings_1h"));
    let (points, source) = history.query(&query(0, 1, 30)).await.unwrap();
    assert_eq!((points.len(), source.as_str()), (2, "readings"));
    drop(history);

    // What is configured otherwise from now on is so from the next connection on.
    config.retain_for = Duration::ZERO;
    config.compress_after = Duration::ZERO;
    let sink = watchfire_sink::timescale::Timescale::new(Arc::new(config));
    assert_eq!(sink.lane(LaneId::Alerts).open().await, Ok(None));
    assert!(texts(jobs).iter().all(|job| job.ends_with("policy_refresh_continuous_aggregate")));
}
