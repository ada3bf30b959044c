//! Commits a chunk and the cursor of its lane in one transaction: nothing is lost or doubled by a crash on either side.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};
use watchfire_model::Epoch;

use super::config::TimescaleConfig;
use super::encode::{COLUMNS, Encoded, HEADER, TRAILER, Table, TimescaleEncoder};
use super::retry;
use super::schema::{self, Partitions};
use crate::chunk::{Chunk, Row};
use crate::contract::{Failure, Lane, LaneId, Place, Refusal};

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(10);

/// As many refused rows are looked for at once: each costs some attempts.
const REFUSALS: usize = 256;

/// One lane, with a connection of its own.
pub struct TimescaleLane {
    id: LaneId,
    name: String,
    config: Arc<TimescaleConfig>,
    in_force: Arc<Mutex<Option<String>>>,
    connection: Option<PgConnection>,
    partitions: HashMap<String, Partitions>,
}

impl TimescaleLane {
    pub(super) fn new(
        id: LaneId,
        name: String,
        config: Arc<TimescaleConfig>,
        in_force: Arc<Mutex<Option<String>>>,
    ) -> Self {
        Self { id, name, config, in_force, connection: None, partitions: HashMap::new() }
    }

    async fn place(&self, connection: &mut PgConnection) -> Result<Option<Place>, sqlx::Error> {
        let row = sqlx::query("SELECT epoch, next FROM watchfire_cursor WHERE sink = $1 AND lane = $2")
            .persistent(false)
            .bind(&self.name)
            .bind(self.id.number())
            .fetch_optional(connection)
            .await?;
        row.map(|row| {
            Ok(Place {
                epoch: Epoch(row.try_get::<i64, _>("epoch")? as u32),
                next: row.try_get::<i64, _>("next")? as u64,
            })
        })
        .transpose()
    }

    /// Moves the cursor of the lane; `false`: somebody else did.
    async fn advance(
        &self,
        connection: &mut PgConnection,
        after: Option<Place>,
        to: Place,
    ) -> Result<bool, sqlx::Error> {
        let statement = match after {
            Some(_) => {
                "UPDATE watchfire_cursor SET epoch = $3, next = $4, written_at = now() \
                 WHERE sink = $1 AND lane = $2 AND epoch = $5 AND next = $6"
            }
            None => {
                "INSERT INTO watchfire_cursor (sink, lane, epoch, next) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
            }
        };
        let mut query = sqlx::query(statement)
            .persistent(false)
            .bind(&self.name)
            .bind(self.id.number())
            .bind(i64::from(to.epoch.0))
            .bind(to.next as i64);
        if let Some(after) = after {
            query = query.bind(i64::from(after.epoch.0)).bind(after.next as i64);
        }
        Ok(query.execute(connection).await?.rows_affected() == 1)
    }

    async fn commit(
        &mut self,
        connection: &mut PgConnection,
        chunk: &Chunk,
        encoded: &Encoded,
        after: Option<Place>,
        without: &BTreeSet<Row>,
    ) -> Result<bool, sqlx::Error> {
        for table in &encoded.tables {
            let known = match self.partitions.get_mut(&table.name) {
                Some(known) => known,
                None => {
                    let known = Partitions::load(connection, &table.name).await?;
                    self.partitions.entry(table.name.clone()).or_insert(known)
                }
            };
            known.ensure(connection, &table.name, &table.hours).await?;
        }
        let mut transaction = connection.begin().await?;
        // The cursor first: its row is the lock against another engine that writes the same lane.
        if !self.advance(&mut transaction, after, chunk.to).await? {
            return Ok(false);
        }
        for table in &encoded.tables {
            copy(&mut transaction, table, 0..table.rows.len(), without).await?;
        }
        documents(&mut transaction, PUT_DEVICES, &encoded.devices, without).await?;
        documents(&mut transaction, PUT_ALERTS, &encoded.alerts, without).await?;
        documents(&mut transaction, PUT_TRANSITIONS, &encoded.transitions, without).await?;
        if let Some(gap) = &chunk.gap {
            sqlx::query(
                "INSERT INTO watchfire_gap (sink, lane, from_epoch, from_next, to_epoch, to_next, reason) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .persistent(false)
            .bind(&self.name)
            .bind(self.id.number())
            .bind(i64::from(gap.from.epoch.0))
            .bind(gap.from.next as i64)
            .bind(i64::from(gap.to.epoch.0))
            .bind(gap.to.next as i64)
            .bind(gap.reason)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

impl Lane for TimescaleLane {
    type Encoder = TimescaleEncoder;
    type Encoded = Encoded;

    fn encoder(&self) -> TimescaleEncoder {
        TimescaleEncoder::new(self.config.takes(), self.config.devices)
    }

    async fn open(&mut self) -> Result<Option<Place>, Failure> {
        self.connection = None;
        self.partitions.clear();
        let options =
            self.config.connect_options().map_err(|error| Failure::retry("configuration", error))?;
        let connecting = tokio::time::timeout(CONNECT, PgConnection::connect_with(&options));
        let mut connection = match connecting.await {
            Ok(connected) => connected.map_err(|error| retry::failure(&error))?,
            Err(_) => return Err(Failure::retry("unreachable", "no answer")),
        };
        let opened = async {
            schema::settle(&mut connection, &self.config).await?;
            let server = schema::prepare(&mut connection, &self.config).await?;
            *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(server.describe(&self.config));
            self.place(&mut connection).await
        };
        let place = opened.await.map_err(|error| retry::failure(&error))?;
        self.connection = Some(connection);
        Ok(place)
    }

    async fn write(
        &mut self,
        chunk: &Chunk,
        encoded: &Encoded,
        after: Option<Place>,
        without: &BTreeSet<Row>,
    ) -> Result<(), Failure> {
        let impossible: Vec<Refusal> =
            encoded.impossible.iter().filter(|refusal| !without.contains(&refusal.row)).cloned().collect();
        if !impossible.is_empty() {
            return Err(Failure::Refused(impossible));
        }
        // Taken out: a future that is dropped half way leaves no connection in an unknown state behind.
        let Some(mut connection) = self.connection.take() else {
            return Err(Failure::retry("unreachable", "not connected"));
        };
        match self.commit(&mut connection, chunk, encoded, after, without).await {
            Ok(true) => {
                self.connection = Some(connection);
                Ok(())
            }
            Ok(false) => Err(Failure::retry("contended", "another engine writes this lane")),
            Err(error) if retry::of_a_row(&error) => {
                let refused = search(&mut connection, encoded, without).await;
                let refused = refused.map_err(|error| retry::failure(&error))?;
                self.connection = Some(connection);
                if refused.is_empty() {
                    // Each row passes by itself: it is their being together, or it passed meanwhile.
                    return Err(retry::failure(&error));
                }
                Err(Failure::Refused(refused))
            }
            Err(error) => Err(retry::failure(&error)),
        }
    }
}

/// Finds the rows that the server refuses, by halves. Nothing that it tries is kept.
async fn search(
    connection: &mut PgConnection,
    encoded: &Encoded,
    without: &BTreeSet<Row>,
) -> Result<Vec<Refusal>, sqlx::Error> {
    let mut refused = Vec::new();
    for table in &encoded.tables {
        let whole = 0..table.rows.len();
        let mut stack = vec![whole];
        while let Some(range) = stack.pop() {
            if range.is_empty() || refused.len() >= REFUSALS {
                continue;
            }
            let mut trial = connection.begin().await?;
            let tried = copy(&mut trial, table, range.clone(), without).await;
            trial.rollback().await?;
            match tried {
                Ok(()) => {}
                Err(error) if retry::of_a_row(&error) => {
                    if range.len() == 1 {
                        refused.push(Refusal { row: table.rows[range.start].0, reason: retry::said(&error) });
                        continue;
                    }
                    let middle = range.start + range.len() / 2;
                    // The first half is tried first.
                    stack.push(middle..range.end);
                    stack.push(range.start..middle);
                }
                Err(error) => return Err(error),
            }
        }
    }
    let documents_of = [
        (PUT_DEVICES, &encoded.devices),
        (PUT_ALERTS, &encoded.alerts),
        (PUT_TRANSITIONS, &encoded.transitions),
    ];
    for (statement, all) in documents_of {
        // Few: one by one.
        for document in all.iter().filter(|(row, _)| !without.contains(row)) {
            let mut trial = connection.begin().await?;
            let tried = documents(&mut trial, statement, std::slice::from_ref(document), without).await;
            trial.rollback().await?;
            match tried {
                Err(error) if retry::of_a_row(&error) => {
                    refused.push(Refusal { row: document.0, reason: retry::said(&error) });
                }
                tried => tried?,
            }
        }
    }
    Ok(refused)
}

/// Copies rows of a table, less those in `without`.
async fn copy(
    connection: &mut PgConnection,
    table: &Table,
    range: std::ops::Range<usize>,
    without: &BTreeSet<Row>,
) -> Result<(), sqlx::Error> {
    if range.is_empty() {
        return Ok(());
    }
    let statement = format!("COPY {} ({COLUMNS}) FROM STDIN (FORMAT binary)", table.name);
    let mut sending = connection.copy_in_raw(&statement).await?;
    let start = |row: usize| if row == 0 { 0 } else { table.rows[row - 1].1 as usize };
    let sent = async {
        sending.send(HEADER).await?;
        let mut from = start(range.start);
        if !without.is_empty() {
            for row in range.clone().filter(|row| without.contains(&table.rows[*row].0)) {
                sending.send(&table.bytes[from..start(row)]).await?;
                from = start(row + 1);
            }
        }
        sending.send(&table.bytes[from..start(range.end)]).await?;
        sending.send(TRAILER).await?;
        Ok(())
    };
    match sent.await {
        Ok(()) => sending.finish().await.map(drop),
        Err(error) => Err(error),
    }
}

const PUT_DEVICES: &str = "INSERT INTO devices \
    SELECT id, type, site, labels, expected_interval_seconds, deleted, changed_at \
    FROM jsonb_to_recordset($1::jsonb) AS d(id text, type text, site text, labels jsonb, expected_interval_seconds float8, \
    deleted boolean, changed_at timestamptz) \
    ON CONFLICT (id) DO UPDATE SET \
    type = CASE WHEN excluded.deleted THEN devices.type ELSE excluded.type END, \
    site = CASE WHEN excluded.deleted THEN devices.site ELSE excluded.site END, \
    labels = CASE WHEN excluded.deleted THEN devices.labels ELSE excluded.labels END, \
    expected_interval_seconds = CASE WHEN excluded.deleted THEN devices.expected_interval_seconds \
    ELSE excluded.expected_interval_seconds END, \
    deleted = excluded.deleted, changed_at = coalesce(excluded.changed_at, devices.changed_at)";

const PUT_ALERTS: &str = "INSERT INTO alerts \
    SELECT id, rule, device, key, severity, summary, details, labels, state, raised_at, cleared_at, resolved_at, \
    resolve_reason, last_seen, count, acknowledged_at, acknowledged_by, acknowledge_comment, position, rule_version, \
    module \
    FROM jsonb_populate_recordset(NULL::alerts, $1::jsonb) \
    ON CONFLICT (id) DO UPDATE SET severity = excluded.severity, summary = excluded.summary, \
    details = excluded.details, state = excluded.state, cleared_at = excluded.cleared_at, \
    resolved_at = excluded.resolved_at, resolve_reason = excluded.resolve_reason, last_seen = excluded.last_seen, \
    count = excluded.count, acknowledged_at = excluded.acknowledged_at, \
    acknowledged_by = excluded.acknowledged_by, acknowledge_comment = excluded.acknowledge_comment";

const PUT_TRANSITIONS: &str = "INSERT INTO alert_transitions \
    SELECT id, sequence, alert, rule, device, key, kind, severity, from_severity, reason, summary, details, at, \
    recorded_at, position, rule_version, actor, comment \
    FROM jsonb_populate_recordset(NULL::alert_transitions, $1::jsonb) ON CONFLICT (id) DO NOTHING";

async fn documents(
    connection: &mut PgConnection,
    statement: &'static str,
    documents: &[(Row, Value)],
    without: &BTreeSet<Row>,
) -> Result<(), sqlx::Error> {
    let documents: Vec<&Value> =
        documents.iter().filter(|(row, _)| !without.contains(row)).map(|(_, document)| document).collect();
    if documents.is_empty() {
        return Ok(());
    }
    let documents = serde_json::to_string(&documents).unwrap_or_default();
    sqlx::query(statement).persistent(false).bind(documents).execute(connection).await.map(drop)
}

/// Drops what is older than configured, where partitions are ours to drop. Gives the names of what is gone.
pub async fn tidy(
    config: &TimescaleConfig,
    now: watchfire_model::Timestamp,
) -> Result<Vec<String>, sqlx::Error> {
    let options = config.connect_options().map_err(|error| sqlx::Error::Configuration(error.into()))?;
    let mut connection = PgConnection::connect_with(&options).await?;
    schema::settle(&mut connection, config).await?;
    let mut dropped = Vec::new();
    for stream in &config.streams {
        let table = super::config::table_of(stream);
        dropped.extend(schema::drop_partitions(&mut connection, &table, now - config.retain_for).await?);
    }
    connection.close().await?;
    Ok(dropped)
}
