//! What stands in the database, and what does not.

use watchfire_model::alert::{ResolveReason, TransitionKind};
use watchfire_model::control::Actor;
use watchfire_model::{Control, Timestamp, Value};
use watchfire_services::{Postgres, or_skip};
use watchfire_sink::timescale::TimescaleConfig;

use crate::world::*;

on_both! {
    "sink-values" => values_arrive_as_they_were_sent_and_a_restart_goes_on_where_it_was,
    "sink-takes" => streams_devices_and_metrics_decide_what_is_written,
    "sink-alerts" => devices_alerts_and_transitions_stand_as_they_are,
    "sink-refused" => rows_that_the_server_refuses_are_dead_letters_and_the_rest_passes,
    "sink-all-refused" => every_row_may_be_poison,
}

fn number_of(value: f64) -> Value {
    Value::Number(value)
}

async fn values_arrive_as_they_were_sent_and_a_restart_goes_on_where_it_was(postgres: Postgres) {
    let mut world = World::new().await;
    world.register(3).await;
    let first = world
        .reading("readings", "device-0", &[("t", number_of(0.1 + 0.2)), ("open", Value::Boolean(true))])
        .await;
    // Two values at one microsecond are two values.
    world.reading_at("readings", "device-0", first, &[("t", number_of(7.0))]).await;
    world.reading("readings", "device-1", &[("mode", Value::Text("äuto".into()))]).await;
    world.reading("readings", "device-2", &[("t", number_of(-1e300))]).await;
    let config = config(&postgres, "");
    let running = sink(&world, &config).await;
    let status = level(&running).await;
    let (in_force, kind) =
        (status.in_force.unwrap(), if postgres.has_timescale() { "chunks" } else { "partitions" });
    assert_eq!(in_force.contains("without TimescaleDB"), !postgres.has_timescale(), "{in_force}");
    assert!(in_force.contains(&format!("{kind} of 6h")), "{in_force}");
    let all = "SELECT device, metric, value, text, flag, extract(epoch FROM time) * 1000000 FROM readings ORDER BY device, metric, value";
    let at = |n: i64| format!("{}.000000", START + n * 1000);
    assert_eq!(
        texts(&postgres, all),
        [
            format!("device-0 open   t {}", at(0)),
            format!("device-0 t 0.30000000000000004   {}", at(0)),
            format!("device-0 t 7   {}", at(0)),
            format!("device-1 mode  äuto  {}", at(1)),
            format!("device-2 t -1e+300   {}", at(2)),
        ]
    );
    running.stop().await;
    world.reading("readings", "device-1", &[("t", number_of(1.0))]).await;
    let world = world.reopen(false).await;
    let running = sink(&world, &config).await;
    level(&running).await;
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), 6);
    // What the service has, the log need not keep for it.
    use watchfire_log::Log as _;
    let noted = world.store.cursors("sink:timescale").await.unwrap();
    assert!(noted.iter().all(|(partition, next)| *next <= world.log.range(*partition).1));
    running.stop().await;
}

async fn streams_devices_and_metrics_decide_what_is_written(postgres: Postgres) {
    let mut world = World::new().await;
    world.register(4).await;
    for device in 0..4 {
        let device = format!("device-{device}");
        let metrics =
            [("temperature", number_of(1.0)), ("temp_max", number_of(2.0)), ("rpm", number_of(3.0))];
        world.reading("readings", &device, &metrics).await;
        world.reading("hot-only", &device, &metrics).await;
    }
    // The raw stream off, the filtered one on.
    let filtered = config(
        &postgres,
        "schema = 'filtered'\nstreams = ['hot-only']\nmetrics = ['temp*']\nselect = { site = 'lyon' }\nalerts = false",
    );
    let running = sink(&world, &filtered).await;
    let status = level(&running).await;
    assert_eq!(status.lanes.len(), 2, "no lane for alerts");
    let written = "SELECT device, metric FROM filtered.derived_hot_only ORDER BY device, metric";
    assert_eq!(
        texts(&postgres, written),
        ["device-0 temp_max", "device-0 temperature", "device-2 temp_max", "device-2 temperature"]
    );
    assert_eq!(texts(&postgres, "SELECT to_regclass('filtered.readings') IS NULL"), ["t"]);
    running.stop().await;
    // A sink that begins now does not write what was.
    let fresh = config(&postgres, "schema = 'fresh'\nstart = 'now'");
    let running = sink(&world, &fresh).await;
    level(&running).await;
    world.reading("readings", "device-0", &[("t", number_of(5.0))]).await;
    level(&running).await;
    assert_eq!(texts(&postgres, "SELECT value FROM fresh.readings"), ["5"]);
    running.stop().await;
}

async fn devices_alerts_and_transitions_stand_as_they_are(postgres: Postgres) {
    let world = World::new().await;
    world.register(3).await;
    world.transition("device-0", 1, TransitionKind::Raised).await;
    world.transition("device-1", 2, TransitionKind::Raised).await;
    world.transition("device-0", 3, TransitionKind::Resolved { reason: ResolveReason::Cleared }).await;
    let config = config(&postgres, "");
    let running = sink(&world, &config).await;
    level(&running).await;
    let alerts =
        "SELECT device, state, severity, resolve_reason, labels->>'rule' FROM alerts ORDER BY device";
    assert_eq!(
        texts(&postgres, alerts),
        ["device-0 resolved major cleared hot", "device-1 active major  hot"]
    );
    let transitions =
        "SELECT sequence, device, kind, details->0->>'value' FROM alert_transitions ORDER BY sequence";
    assert_eq!(
        texts(&postgres, transitions),
        ["1 device-0 raised 91.5", "2 device-1 raised 91.5", "3 device-0 resolved 91.5"]
    );
    let id = texts(&postgres, "SELECT id FROM alerts WHERE state = 'active'").remove(0);
    world.store.acknowledge(&id, "eva", Some("on my way"), Timestamp(START)).await.unwrap();
    world.control(Control::DeviceDeleted { id: "device-2".into(), by: Actor::default() }).await;
    level(&running).await;
    assert_eq!(
        texts(&postgres, "SELECT acknowledged_by, acknowledge_comment FROM alerts WHERE state = 'active'"),
        ["eva on my way"]
    );
    let devices = "SELECT id, type, site, deleted FROM devices ORDER BY id";
    assert_eq!(
        texts(&postgres, devices),
        ["device-0 press lyon f", "device-1 press oslo f", "device-2 press lyon t"]
    );
    running.stop().await;
    // All of it again, into tables that have it: nothing changes.
    postgres.query("DELETE FROM watchfire_cursor WHERE lane = -1").unwrap();
    let running = sink(&world, &config).await;
    level(&running).await;
    assert_eq!(number(&postgres, "SELECT count(*) FROM alert_transitions"), 4);
    running.stop().await;
}

async fn rows_that_the_server_refuses_are_dead_letters_and_the_rest_passes(postgres: Postgres) {
    let mut world = World::new().await;
    world.register(5).await;
    let config = config(&postgres, "");
    let running = sink(&world, &config).await;
    level(&running).await;
    // Somebody added a constraint by hand.
    postgres.query("ALTER TABLE readings ADD CHECK (value < 1000000)").unwrap();
    let good = world.many(5, 10, 200).await;
    for (device, value) in [("device-1", 1e6), ("device-3", 1e7)] {
        world.reading("readings", device, &[("t", number_of(value)), ("rpm", number_of(1.0))]).await;
    }
    // And what no PostgreSQL can hold.
    world.reading("readings", "device-4", &[("mode", Value::Text("a\0b".into()))]).await;
    let more = world.many(5, 10, 200).await;
    let status = level(&running).await;
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), good + more + 2);
    assert_eq!(status.lanes.iter().map(|lane| lane.refused).sum::<u64>(), 3);
    let letters = world.store.dead_letters(&Default::default()).await.unwrap().items;
    let mut said: Vec<_> = letters
        .iter()
        .map(|letter| (letter.device.clone().unwrap(), letter.code.clone(), letter.source.clone()))
        .collect();
    said.sort();
    let refused = |device: &str| (device.to_string(), "refused-by-sink".to_string(), "timescale".to_string());
    assert_eq!(said, [refused("device-1"), refused("device-3"), refused("device-4")]);
    let whole = letters.iter().find(|letter| letter.device.as_deref() == Some("device-3")).unwrap();
    let payload: serde_json::Value = serde_json::from_slice(&whole.payload).unwrap();
    assert_eq!(payload["metrics"], serde_json::json!({"t": 1e7}), "only what was refused");
    assert!(whole.reason.contains("check constraint"), "{}", whole.reason);
    running.stop().await;
}

async fn every_row_may_be_poison(postgres: Postgres) {
    let mut world = World::new().await;
    world.register(2).await;
    let config = config(&postgres, "alerts = false");
    let running = sink(&world, &config).await;
    level(&running).await;
    postgres.query("ALTER TABLE readings ADD CHECK (value < 0)").unwrap();
    let all = world.many(2, 3, 200).await as u64;
    let status = level(&running).await;
    assert_eq!(status.lanes.iter().map(|lane| lane.refused).sum::<u64>(), all);
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_where_readings_lie_and_dropped_when_their_time_is_over() {
    let Some(postgres) = or_skip("sink-partitions", Postgres::start()) else { return };
    let world = World::new().await;
    world.register(1).await;
    let now = Timestamp::from(jiff::Timestamp::now());
    let day = 86_400_000_000;
    for back in [0, 1, 29, 30] {
        world
            .reading_at("readings", "device-0", Timestamp(now.0 - back * day), &[("t", number_of(1.0))])
            .await;
    }
    let mut config: TimescaleConfig = config(&postgres, "chunk_interval = '1d'\nretain_for = '20d'");
    let running = sink(&world, &config).await;
    level(&running).await;
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'readings'::regclass";
    assert_eq!(number(&postgres, partitions), 4);
    // Another span does not fit between those that are there: it is that of the table's making.
    config.chunk_interval = Some(watchfire_model::Duration::from_secs(7200));
    running.stop().await;
    let running = sink(&world, &config).await;
    world.reading_at("readings", "device-0", Timestamp(now.0 - 2 * day), &[("t", number_of(1.0))]).await;
    level(&running).await;
    assert_eq!(number(&postgres, partitions), 5);
    let dropped = watchfire_sink::timescale::tidy(&config, now).await.unwrap();
    assert_eq!(dropped.len(), 2, "{dropped:?}");
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), 3);
    running.stop().await;
}
