//! The tables: made where they are missing, in versioned steps, and kept as the configuration says.
//!
//! Whether the extension is there is decided once, when a stream's table is made, and written down beside it: a
//! hypertable and a table with partitions do not become one another by themselves.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use watchfire_model::{Duration, Timestamp};

use super::config::{Extension, TimescaleConfig, table_of};

/// Everybody who changes tables holds this lock of the database: engines, and the lanes of one.
const LOCK: i64 = 0x0077_6174_6368_6669;

/// What the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Such as `15.13`.
    pub version: String,
    /// The version of TimescaleDB, where it is used.
    pub extension: Option<String>,
    /// Whether that has compression and continuous aggregates: they are under a licence of their own, and some
    /// distributions leave them out.
    pub community: bool,
}

impl Server {
    /// For people.
    pub fn describe(&self, config: &TimescaleConfig) -> String {
        let span = config.interval();
        match (&self.extension, self.community) {
            (None, _) => format!("PostgreSQL {} without TimescaleDB: partitions of {span}", self.version),
            (Some(extension), false) => format!(
                "TimescaleDB {extension} on PostgreSQL {}: chunks of {span}; its licence leaves out compression and aggregates",
                self.version
            ),
            (Some(extension), true) => {
                let mut text =
                    format!("TimescaleDB {extension} on PostgreSQL {}: chunks of {span}", self.version);
                if config.compress_after > Duration::ZERO {
                    text.push_str(&format!(", compressed after {}", config.compress_after));
                }
                if config.aggregates {
                    text.push_str(", aggregates of 1m and 1h");
                }
                text
            }
        }
    }
}

/// The steps that made the tables what they are. One that was released is never changed: a further one is added.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE watchfire_cursor (
        sink text NOT NULL,
        lane integer NOT NULL,
        epoch bigint NOT NULL,
        next bigint NOT NULL,
        written_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (sink, lane)
    );
    COMMENT ON TABLE watchfire_cursor IS 'How far each lane is written. Changed in the transaction that writes its rows.';
    CREATE TABLE watchfire_gap (
        sink text NOT NULL,
        lane integer NOT NULL,
        from_epoch bigint NOT NULL,
        from_next bigint NOT NULL,
        to_epoch bigint NOT NULL,
        to_next bigint NOT NULL,
        reason text NOT NULL,
        noted_at timestamptz NOT NULL DEFAULT now()
    );
    COMMENT ON TABLE watchfire_gap IS 'Parts of the log that never came here.';
    CREATE TABLE devices (
        id text NOT NULL PRIMARY KEY,
        type text NOT NULL,
        site text NOT NULL,
        labels jsonb NOT NULL,
        expected_interval_seconds double precision,
        deleted boolean NOT NULL,
        changed_at timestamptz
    );
    CREATE TABLE alerts (
        id text NOT NULL PRIMARY KEY,
        rule text NOT NULL,
        device text NOT NULL,
        key text NOT NULL,
        severity text NOT NULL,
        summary text NOT NULL,
        details jsonb NOT NULL,
        labels jsonb NOT NULL,
        state text NOT NULL,
        raised_at timestamptz NOT NULL,
        cleared_at timestamptz,
        resolved_at timestamptz,
        resolve_reason text,
        last_seen timestamptz NOT NULL,
        count bigint NOT NULL,
        acknowledged_at timestamptz,
        acknowledged_by text,
        acknowledge_comment text,
        position text NOT NULL,
        rule_version integer NOT NULL,
        module text
    );
    CREATE INDEX alerts_device ON alerts (device, raised_at DESC);
    CREATE INDEX alerts_raised ON alerts (raised_at DESC);
    CREATE TABLE alert_transitions (
        id text NOT NULL PRIMARY KEY,
        sequence bigint NOT NULL,
        alert text NOT NULL,
        rule text NOT NULL,
        device text NOT NULL,
        key text NOT NULL,
        kind text NOT NULL,
        severity text NOT NULL,
        from_severity text,
        reason text,
        summary text NOT NULL,
        details jsonb NOT NULL,
        at timestamptz NOT NULL,
        recorded_at timestamptz NOT NULL,
        position text,
        rule_version integer NOT NULL,
        actor text,
        comment text
    );
    CREATE INDEX alert_transitions_alert ON alert_transitions (alert, sequence);
    CREATE INDEX alert_transitions_at ON alert_transitions (at DESC);
"];

/// Makes tables that are missing, and policies as they are configured. Says what the server is.
pub(super) async fn prepare(
    connection: &mut PgConnection,
    config: &TimescaleConfig,
) -> Result<Server, sqlx::Error> {
    sqlx::query("SELECT pg_advisory_lock($1)").persistent(false).bind(LOCK).execute(&mut *connection).await?;
    let prepared = prepare_alone(connection, config).await;
    // A connection that failed lost the lock with it.
    let unlocked = sqlx::query("SELECT pg_advisory_unlock($1)")
        .persistent(false)
        .bind(LOCK)
        .execute(&mut *connection)
        .await;
    let server = prepared?;
    unlocked?;
    Ok(server)
}

async fn prepare_alone(
    connection: &mut PgConnection,
    config: &TimescaleConfig,
) -> Result<Server, sqlx::Error> {
    let schema = &config.schema;
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
        .persistent(false)
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        connection.execute(AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {schema}"))).await?;
    }
    let server = look(connection, config).await?;
    migrate(connection).await?;
    for stream in &config.streams {
        stream_table(connection, config, &server, &table_of(stream)).await?;
    }
    Ok(server)
}

/// Names are looked up in the schema of the configuration first.
pub(super) async fn settle(
    connection: &mut PgConnection,
    config: &TimescaleConfig,
) -> Result<(), sqlx::Error> {
    let path = format!(
        "SET search_path TO {}, public; SET TimeZone TO 'UTC'; SET client_min_messages TO warning",
        config.schema
    );
    sqlx::raw_sql(AssertSqlSafe(path)).execute(connection).await.map(drop)
}

async fn look(connection: &mut PgConnection, config: &TimescaleConfig) -> Result<Server, sqlx::Error> {
    let version: String =
        sqlx::query_scalar("SHOW server_version").persistent(false).fetch_one(&mut *connection).await?;
    let version = version.split_whitespace().next().unwrap_or_default().to_string();
    let mut server = Server { version, extension: None, community: false };
    if config.extension == Extension::Off {
        return Ok(server);
    }
    server.extension = installed(connection).await?;
    if server.extension.is_none() {
        // Where the server did not load it at its start, creating it ends the connection. Its loader has this setting.
        let offered: Option<bool> = sqlx::query_scalar(
            "SELECT current_setting('timescaledb.disable_load', true) IS NOT NULL \
             FROM pg_available_extensions WHERE name = 'timescaledb'",
        )
        .persistent(false)
        .fetch_optional(&mut *connection)
        .await?;
        match offered {
            None => {}
            Some(false) => {
                tracing::warn!(
                    "the server has TimescaleDB, but it is not in its shared_preload_libraries: partitions are used"
                )
            }
            // It would else stand in the schema of this configuration, where no other one finds it.
            Some(true) => {
                match connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public").await {
                    Ok(_) => server.extension = installed(connection).await?,
                    Err(error @ sqlx::Error::Database(_)) => {
                        tracing::warn!(%error, "the server has TimescaleDB, but this user may not switch it on in the database: partitions are used")
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
    if server.extension.is_some() {
        let licence: Option<String> =
            sqlx::query_scalar("SELECT current_setting('timescaledb.license', true)")
                .persistent(false)
                .fetch_one(&mut *connection)
                .await?;
        server.community = licence.as_deref() == Some("timescale");
    }
    Ok(server)
}

/// The version of the extension. Its functions are found from then on, in whatever schema somebody put them.
async fn installed(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT extversion, \
         set_config('search_path', current_setting('search_path') || ', ' || quote_ident(nspname), false) \
         FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'timescaledb'",
    )
    .persistent(false)
    .fetch_optional(connection)
    .await?;
    row.map(|row| row.try_get("extversion")).transpose()
}

async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection
        .execute(
            "CREATE TABLE IF NOT EXISTS watchfire_setting (key text NOT NULL PRIMARY KEY, value text NOT NULL)",
        )
        .await?;
    let done = setting(connection, "version").await?.and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    for (place, step) in MIGRATIONS.iter().enumerate().skip(done) {
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(*step).execute(&mut *transaction).await?;
        set(&mut transaction, "version", &(place + 1).to_string()).await?;
        transaction.commit().await?;
    }
    Ok(())
}

async fn setting(connection: &mut PgConnection, key: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT value FROM watchfire_setting WHERE key = $1")
        .persistent(false)
        .bind(key)
        .fetch_optional(connection)
        .await
}

async fn set(connection: &mut PgConnection, key: &str, value: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO watchfire_setting (key, value) VALUES ($1, $2) \
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )
    .persistent(false)
    .bind(key)
    .bind(value)
    .execute(connection)
    .await
    .map(drop)
}

async fn exists(connection: &mut PgConnection, schema: &str, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2)",
    )
    .persistent(false)
    .bind(schema)
    .bind(table)
    .fetch_one(connection)
    .await
}

/// `hypertable`, or `partitions` with their span in microseconds.
fn kind_key(table: &str) -> String {
    format!("table:{table}")
}

/// What the policies of a table were last made with.
fn policies_key(table: &str) -> String {
    format!("policies:{table}")
}

async fn stream_table(
    connection: &mut PgConnection,
    config: &TimescaleConfig,
    server: &Server,
    table: &str,
) -> Result<(), sqlx::Error> {
    if !exists(connection, &config.schema, table).await? {
        let partitioned = if server.extension.is_some() { "" } else { " PARTITION BY RANGE (time)" };
        let span = config.interval().0;
        let mut statements = format!(
            "CREATE TABLE {table} (time timestamptz NOT NULL, device text NOT NULL, metric text NOT NULL, \
             value double precision, text text, flag boolean){partitioned}; \
             CREATE INDEX {table}_device ON {table} (device, metric, time DESC);"
        );
        let kind = if server.extension.is_some() {
            statements.push_str(&format!(
                "SELECT create_hypertable('{table}', 'time', chunk_time_interval => INTERVAL '{span} microseconds', \
                 create_default_indexes => false);"
            ));
            "hypertable".to_string()
        } else {
            format!("partitions {span}")
        };
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *transaction).await?;
        set(&mut transaction, &kind_key(table), &kind).await?;
        // Where somebody dropped the table, its policies and aggregates went with it.
        sqlx::query("DELETE FROM watchfire_setting WHERE key = $1")
            .persistent(false)
            .bind(policies_key(table))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
    }
    if server.community && setting(connection, &kind_key(table)).await?.as_deref() == Some("hypertable") {
        policies(connection, config, table).await?;
    }
    Ok(())
}

/// Compression, retention and aggregates, where they are not as configured already.
async fn policies(
    connection: &mut PgConnection,
    config: &TimescaleConfig,
    table: &str,
) -> Result<(), sqlx::Error> {
    let wanted = format!("{} {} {}", config.compress_after.0, config.retain_for.0, config.aggregates);
    let key = policies_key(table);
    if setting(connection, &key).await?.as_deref() == Some(wanted.as_str()) {
        return Ok(());
    }
    let mut statements = vec![
        format!("SELECT remove_compression_policy('{table}', if_exists => true)"),
        format!("SELECT remove_retention_policy('{table}', if_exists => true)"),
    ];
    if config.compress_after > Duration::ZERO {
        // Before 2.14 the extension refuses this, even if it changes nothing, once a chunk is compressed.
        if !compresses(connection, &config.schema, table).await? {
            statements.push(format!(
                "ALTER TABLE {table} SET (timescaledb.compress, \
                 timescaledb.compress_segmentby = 'device, metric', timescaledb.compress_orderby = 'time DESC')"
            ));
        }
        statements.push(format!(
            "SELECT add_compression_policy('{table}', INTERVAL '{} microseconds')",
            config.compress_after.0
        ));
    }
    if config.retain_for > Duration::ZERO {
        statements.push(format!(
            "SELECT add_retention_policy('{table}', INTERVAL '{} microseconds')",
            config.retain_for.0
        ));
    }
    for (name, bucket, schedule) in AGGREGATES {
        let view = format!("{table}_{name}");
        if !config.aggregates {
            // What was kept is kept: only its refreshing ends.
            if exists(connection, &config.schema, &view).await? {
                statements
                    .push(format!("SELECT remove_continuous_aggregate_policy('{view}', if_exists => true)"));
            }
            continue;
        }
        if !exists(connection, &config.schema, &view).await? {
            statements.push(format!(
                "CREATE MATERIALIZED VIEW {view} WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS \
                 SELECT time_bucket(INTERVAL '{bucket}', time) AS bucket, device, metric, min(value) AS min, \
                 max(value) AS max, avg(value) AS avg, count(value) AS count, last(value, time) AS last \
                 FROM {table} WHERE value IS NOT NULL GROUP BY 1, 2, 3 WITH NO DATA"
            ));
        }
        // Readings may come a month late; only spans in which something changed are computed again. One whose readings
        // were dropped has changed as well, and would be computed from nothing: it is never looked at again.
        let late = match config.retain_for {
            Duration::ZERO => "INTERVAL '32 days'".to_string(),
            kept => format!("least(INTERVAL '32 days', INTERVAL '{} microseconds')", kept.0),
        };
        statements.push(format!("SELECT remove_continuous_aggregate_policy('{view}', if_exists => true)"));
        // Two spans at least is what the extension wants to be left.
        statements.push(format!(
            "SELECT add_continuous_aggregate_policy('{view}', \
             start_offset => greatest({late}, 3 * INTERVAL '{bucket}'), \
             end_offset => INTERVAL '{bucket}', schedule_interval => INTERVAL '{schedule}')"
        ));
    }
    for statement in statements {
        // Each by itself: a continuous aggregate is not made inside of a transaction with others.
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    set(connection, &key, &wanted).await
}

/// Whether a hypertable was told how to compress its chunks.
async fn compresses(connection: &mut PgConnection, schema: &str, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables \
         WHERE hypertable_schema = $1 AND hypertable_name = $2 AND compression_enabled)",
    )
    .persistent(false)
    .bind(schema)
    .bind(table)
    .fetch_one(connection)
    .await
}

/// The name behind that of the table, the span, and how often it is brought up to date.
pub(super) const AGGREGATES: [(&str, &str, &str); 2] =
    [("1m", "1 minute", "1 minute"), ("1h", "1 hour", "10 minutes")];

/// The partitions of a table, as one lane knows them. Of a hypertable there is nothing to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Partitions {
    /// Microseconds; 0: the server makes its chunks by itself.
    span: i64,
    /// The beginnings of those that are there.
    known: BTreeSet<i64>,
}

impl Partitions {
    /// What is known of a table.
    pub async fn load(connection: &mut PgConnection, table: &str) -> Result<Self, sqlx::Error> {
        let kind = setting(connection, &kind_key(table)).await?.unwrap_or_default();
        let span = kind.strip_prefix("partitions ").and_then(|span| span.parse().ok()).unwrap_or(0);
        Ok(Self { span, known: BTreeSet::new() })
    }

    /// Makes those that hold these hours since the epoch.
    pub async fn ensure(
        &mut self,
        connection: &mut PgConnection,
        table: &str,
        hours: &BTreeSet<i64>,
    ) -> Result<(), sqlx::Error> {
        if self.span == 0 {
            return Ok(());
        }
        let starts: BTreeSet<i64> =
            hours.iter().map(|hour| (hour * HOUR).div_euclid(self.span) * self.span).collect();
        for start in starts {
            if self.known.contains(&start) {
                continue;
            }
            let (from, to) = (Timestamp(start), Timestamp(start.saturating_add(self.span)));
            let name = partition_name(table, from);
            let mut transaction = connection.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .persistent(false)
                .bind(LOCK)
                .execute(&mut *transaction)
                .await?;
            let statement = format!(
                "CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table} FOR VALUES FROM ('{from}') TO ('{to}')"
            );
            transaction.execute(AssertSqlSafe(statement)).await?;
            transaction.commit().await?;
            self.known.insert(start);
        }
        Ok(())
    }
}

/// Microseconds.
pub(super) const HOUR: i64 = 3_600_000_000;

fn partition_name(table: &str, from: Timestamp) -> String {
    format!("{table}_p{}", from.to_jiff().strftime("%Y%m%d%H%M%S"))
}

/// Drops partitions that ended before a time. Gives their names.
pub(super) async fn drop_partitions(
    connection: &mut PgConnection,
    table: &str,
    before: Timestamp,
) -> Result<Vec<String>, sqlx::Error> {
    let span = Partitions::load(connection, table).await?.span;
    if span == 0 {
        return Ok(Vec::new());
    }
    let names = sqlx::query(
        "SELECT c.relname::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = $1::regclass ORDER BY 1",
    )
    .persistent(false)
    .bind(table)
    .fetch_all(&mut *connection)
    .await?;
    let oldest = partition_name(table, Timestamp(before.0.saturating_sub(span)));
    let mut dropped = Vec::new();
    for row in names {
        let name: String = row.try_get("name")?;
        // Those that somebody made by hand, under another name, are theirs.
        if name.len() == oldest.len() && name < oldest && name.starts_with(&format!("{table}_p")) {
            connection.execute(AssertSqlSafe(format!("DROP TABLE IF EXISTS {name}"))).await?;
            dropped.push(name);
        }
    }
    Ok(dropped)
}
