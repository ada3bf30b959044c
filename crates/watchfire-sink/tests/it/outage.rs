//! A server that is down, slow, full of somebody else, or changed by hand; an engine that dies; a log that went on.

use std::time::Duration;

use watchfire_model::Value;
use watchfire_services::{Postgres, or_skip};

use crate::world::*;

on_both! {
    "sink-kill-9" => the_server_dies_again_and_again_and_every_value_is_there_once,
    "sink-faults" => each_fault_has_a_name_and_passes_without_a_hand,
    "sink-foreign-table" => a_table_of_somebody_else_is_not_taken,
    "sink-gap" => what_the_log_could_not_keep_is_a_gap_that_is_written_down,
    "sink-restore" => a_restored_backup_is_another_life_and_goes_on_behind_what_is_there,
}

async fn the_server_dies_again_and_again_and_every_value_is_there_once(mut postgres: Postgres) {
    let mut world = World::new().await;
    world.register(7).await;
    let config = config(&postgres, "alerts = false");
    let mut running = sink(&world, &config).await;
    level(&running).await;
    let mut values = 0;
    for round in 0..6 {
        values += world.many(7, 40, 100).await;
        tokio::time::sleep(Duration::from_millis(37 * round)).await;
        postgres.kill();
        values += world.many(7, 5, 100).await;
        if round % 2 == 1 {
            // The engine dies as well: what it was writing may be there or not.
            drop(running);
            world = world.reopen(false).await;
            running = sink(&world, &config).await;
        }
        postgres.restart().unwrap();
    }
    let status = level(&running).await;
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), values, "{status:?}");
    assert_eq!(number(&postgres, "SELECT count(DISTINCT (device, metric, time)) FROM readings"), values);
    let sum = number(&postgres, "SELECT sum(value)::bigint FROM readings WHERE metric = 'n'");
    let n = number(&postgres, "SELECT count(*) FROM readings WHERE metric = 'n'");
    assert_eq!(sum, n * (n - 1) / 2);
    running.stop().await;
}

async fn each_fault_has_a_name_and_passes_without_a_hand(mut postgres: Postgres) {
    let mut world = World::new().await;
    world.register(2).await;
    let running = {
        // A user that is not there.
        let mut config = config(&postgres, "");
        config.url = postgres.url().replace("postgres://postgres@", "postgres://nobody@").into();
        let running = sink(&world, &config).await;
        says(&running, "credentials").await;
        postgres.query("CREATE ROLE nobody LOGIN SUPERUSER").unwrap();
        level(&running).await;
        running
    };
    let mut written = 0;
    let mut put = async |world: &mut World| {
        world.reading("readings", "device-0", &[("t", Value::Number(1.0))]).await;
        written += 1;
        written
    };

    let limit = "ALTER ROLE nobody SET default_transaction_read_only TO";
    postgres
        .query(&format!(
            "{limit} on; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'nobody'"
        ))
        .unwrap();
    put(&mut world).await;
    says(&running, "read-only").await;
    postgres.query(&format!("SET default_transaction_read_only = off; {limit} off")).unwrap();
    level(&running).await;

    postgres.query("ALTER TABLE readings RENAME COLUMN value TO worth").unwrap();
    put(&mut world).await;
    says(&running, "schema").await;
    postgres.query("ALTER TABLE readings RENAME COLUMN worth TO value").unwrap();
    level(&running).await;

    postgres.stop();
    put(&mut world).await;
    says(&running, "unreachable").await;
    postgres.restart().unwrap();
    level(&running).await;

    postgres.query("DROP TABLE readings CASCADE").unwrap();
    put(&mut world).await;
    level(&running).await;
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), 1, "made anew, with what came since");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_rotated_counts_once_it_stands_in_the_file() {
    let Some(postgres) = or_skip("sink-password", Postgres::start()) else { return };
    let mut world = World::new().await;
    world.register(1).await;
    postgres.query("CREATE ROLE rotated LOGIN SUPERUSER PASSWORD 'old'").unwrap();
    let hba = texts(&postgres, "SHOW hba_file").remove(0);
    let lines =
        "(VALUES ('host all rotated 127.0.0.1/32 scram-sha-256'), ('host all all 127.0.0.1/32 trust'))";
    postgres.query(&format!("COPY {lines} TO '{hba}'; SELECT pg_reload_conf()")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let url = |password: &str| {
        let user = format!("postgres://rotated:{password}@");
        std::fs::write(file.path(), postgres.url().replace("postgres://postgres@", &user) + "\n").unwrap();
    };
    url("old");
    let mut config = config(&postgres, "");
    config.url = watchfire_model::Secret::in_file(file.path());
    let running = sink(&world, &config).await;
    level(&running).await;

    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'";
    postgres.query(&format!("ALTER ROLE rotated PASSWORD 'new'; {end}")).unwrap();
    world.reading("readings", "device-0", &[("t", Value::Number(1.0))]).await;
    says(&running, "credentials").await;
    std::fs::remove_file(file.path()).unwrap();
    says(&running, "configuration").await;
    url("new");
    level(&running).await;
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), 1);
    running.stop().await;
}

async fn a_table_of_somebody_else_is_not_taken(postgres: Postgres) {
    let world = World::new().await;
    world.register(1).await;
    postgres.query("CREATE TABLE devices (name text)").unwrap();
    let running = sink(&world, &config(&postgres, "")).await;
    says(&running, "schema").await;
    let status = running.status();
    let reason = status.lanes.iter().find_map(|lane| lane.reason.clone()).unwrap();
    assert!(reason.contains("\"devices\" already exists"), "{reason}");
    running.stop().await;
    let other = sink(&world, &config(&postgres, "schema = 'watchfire'")).await;
    level(&other).await;
    assert_eq!(texts(&postgres, "SELECT id FROM watchfire.devices"), ["device-0"]);
    other.stop().await;
}

async fn what_the_log_could_not_keep_is_a_gap_that_is_written_down(postgres: Postgres) {
    let mut world = World::new().await;
    world.register(3).await;
    let config = config(&postgres, "alerts = false");
    let running = sink(&world, &config).await;
    let first = world.many(3, 2, 10).await;
    level(&running).await;
    running.stop().await;
    // It is away, and detached: somebody gave it up.
    use watchfire_log::Log as _;
    world.log.remove_cursor("sink:timescale");
    for partition in 0..PARTITIONS {
        world.log.set_cursor("engine", watchfire_model::PartitionId(partition), u64::MAX);
    }
    let mut lost = 0;
    let begins = |world: &World| world.log.range(watchfire_model::PartitionId(0)).0;
    while begins(&world) < 50 {
        lost += world.many(3, 50, 200).await;
    }
    let running = sink(&world, &config).await;
    let status = level(&running).await;
    assert_eq!(status.lanes.iter().map(|lane| lane.gaps).collect::<Vec<_>>(), [1, 1]);
    assert!(status.lanes.iter().all(|lane| lane.lost_at.is_some()));
    assert_eq!(texts(&postgres, "SELECT DISTINCT reason FROM watchfire_gap"), ["not-kept"]);
    let there = number(&postgres, "SELECT count(*) FROM readings");
    assert!(there > first && there < first + lost, "{there} of {first} and {lost}");
    running.stop().await;
}

async fn a_restored_backup_is_another_life_and_goes_on_behind_what_is_there(postgres: Postgres) {
    let mut world = World::new().await;
    world.register(3).await;
    let config = config(&postgres, "");
    let running = sink(&world, &config).await;
    let kept = world.many(3, 5, 20).await;
    world.transition("device-0", 1, watchfire_model::alert::TransitionKind::Raised).await;
    level(&running).await;
    let backup = tempfile::tempdir().unwrap();
    world.copy_to(backup.path());
    let lost = world.many(3, 5, 20).await;
    world.transition("device-1", 2, watchfire_model::alert::TransitionKind::Raised).await;
    level(&running).await;
    running.stop().await;
    let folder = world.folder.path().to_owned();
    world.log.close();
    world.store.close().await;
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(backup.keep(), &folder).unwrap();
    let mut world = world.reopen(true).await;
    let running = sink(&world, &config).await;
    let new = world.many(3, 5, 20).await;
    world.transition("device-2", 3, watchfire_model::alert::TransitionKind::Raised).await;
    level(&running).await;
    // What came in the life that is lost had come here, and stays.
    assert_eq!(number(&postgres, "SELECT count(*) FROM readings"), kept + lost + new);
    assert_eq!(texts(&postgres, "SELECT DISTINCT reason FROM watchfire_gap"), ["restored"]);
    assert_eq!(
        texts(&postgres, "SELECT device FROM alert_transitions ORDER BY device"),
        ["device-0", "device-1", "device-2"]
    );
    running.stop().await;
}
