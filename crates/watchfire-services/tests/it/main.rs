//! Each server starts, answers, is killed, and has its data when it is back.

use std::sync::Once;

use watchfire_services::{Kafka, Mosquitto, Postgres, Timescale, or_skip, wire};

/// One at a time: together they would take a gigabyte, and each would wait for the others.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    static SAID: Once = Once::new();
    SAID.call_once(|| println!("servers come from {}", watchfire_services::cache().display()));
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn texts(rows: Vec<wire::Row>) -> Vec<String> {
    rows.into_iter().flatten().flatten().collect()
}

#[test]
fn postgres_keeps_what_it_confirmed() {
    let _alone = alone();
    let Some(mut postgres) = or_skip("postgres", Postgres::start_with(&[("max_connections", "7")])) else {
        return;
    };
    assert_eq!(texts(postgres.query("SHOW max_connections").unwrap()), ["7"]);
    postgres.query("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)").unwrap();
    assert!(postgres.query("SELECT * FROM nothing").unwrap_err().to_string().contains("nothing"));
    postgres.kill();
    assert!(postgres.query("SELECT 1").is_err());
    postgres.restart().unwrap();
    assert_eq!(texts(postgres.query("SELECT sum(a) FROM t").unwrap()), ["3"]);
    postgres.stop();
    postgres.restart().unwrap();
    assert_eq!(texts(postgres.query("SELECT count(*) FROM t").unwrap()), ["2"]);
    assert!(postgres.url().ends_with(&format!("127.0.0.1:{}/postgres", postgres.port())));
}

#[test]
fn postgres_has_timescale_where_it_is_compiled_for_it() {
    let _alone = alone();
    let Some(mut postgres) = or_skip("native-timescaledb", Postgres::start_with_timescale(&[])) else {
        return;
    };
    assert!(postgres.has_timescale());
    postgres
        .query("CREATE EXTENSION timescaledb; CREATE TABLE r (time timestamptz NOT NULL, v float8)")
        .unwrap();
    postgres.query("SELECT create_hypertable('r', 'time')").unwrap();
    postgres.query("COPY r FROM PROGRAM 'printf \"2026-01-01\\t1\\n2026-02-01\\t2\\n\"'").unwrap();
    postgres.kill();
    postgres.restart().unwrap();
    assert_eq!(texts(postgres.query("SELECT sum(v) FROM r").unwrap()), ["3"]);
    assert_eq!(texts(postgres.query("SELECT count(*) FROM show_chunks('r')").unwrap()), ["2"]);
    // Nobody outside is told of a test.
    let told = "SELECT coalesce(current_setting('timescaledb.telemetry_level', true), 'off')";
    assert_eq!(texts(postgres.query(told).unwrap()), ["off"]);
}

#[test]
fn timescale_is_the_real_extension() {
    let _alone = alone();
    let Some(mut timescale) = or_skip("timescale", Timescale::start()) else { return };
    let version =
        texts(timescale.query("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").unwrap());
    assert!(version[0].starts_with("2."), "{version:?}");
    timescale
        .query("CREATE TABLE r (time timestamptz NOT NULL, v float8); SELECT create_hypertable('r', 'time')")
        .unwrap();
    timescale.query("INSERT INTO r VALUES ('2026-01-01', 1), ('2026-02-01', 2)").unwrap();
    timescale.kill();
    assert!(timescale.query("SELECT 1").is_err());
    timescale.restart().unwrap();
    assert_eq!(texts(timescale.query("SELECT sum(v) FROM r").unwrap()), ["3"]);
    assert_eq!(texts(timescale.query("SELECT count(*) FROM show_chunks('r')").unwrap()), ["2"]);
}

#[test]
fn kafka_answers_again() {
    let _alone = alone();
    let Some(mut kafka) = or_skip("kafka", Kafka::start()) else { return };
    assert_eq!(wire::kafka_brokers(kafka.port()).unwrap(), 1);
    kafka.kill();
    assert!(wire::kafka_brokers(kafka.port()).is_err());
    kafka.restart().unwrap();
    assert_eq!(wire::kafka_brokers(kafka.port()).unwrap(), 1);
    assert_eq!(kafka.bootstrap(), format!("127.0.0.1:{}", kafka.port()));
}

#[test]
fn mosquitto_answers_again() {
    let _alone = alone();
    let Some(mut mosquitto) = or_skip("mosquitto", Mosquitto::start()) else { return };
    assert_eq!(wire::mqtt_connect(mosquitto.port(), "a").unwrap(), 0);
    mosquitto.kill();
    assert!(wire::mqtt_connect(mosquitto.port(), "a").is_err());
    mosquitto.restart().unwrap();
    assert_eq!(wire::mqtt_connect(mosquitto.port(), "a").unwrap(), 0);
    let strict = or_skip("mosquitto", Mosquitto::start_with("allow_anonymous false")).unwrap();
    assert_eq!(wire::mqtt_connect(strict.port(), "a").unwrap(), 5, "not authorised");
}
