//! The past of a metric, made coarse by the server: from its aggregates where they fit, from the readings where not.

use std::sync::Arc;
use std::time::Duration as Wait;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};
use watchfire_model::{Duration, Timestamp, chain};

use super::config::{TimescaleConfig, table_of};
use super::schema::AGGREGATES;

/// As many points are given at once.
pub const POINTS: i64 = 10_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryQuery {
    /// The device.
    pub device: String,
    /// The metric.
    pub metric: String,
    /// From then on ...
    pub from: Timestamp,
    /// ... and before then.
    pub to: Timestamp,
    /// The span that a point stands for; zero: each value is a point.
    pub step: Duration,
    /// The stream.
    pub stream: String,
}

/// A span of time, by its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryPoint {
    /// Where the span begins, or when the value was measured.
    pub time: Timestamp,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The mean.
    pub avg: f64,
    /// How many.
    pub count: i64,
    /// The last.
    pub last: f64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HistoryError {
    /// It cannot be answered.
    #[error("{0}")]
    Refused(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
}

/// Answers from the database.
pub struct History {
    pool: PgPool,
    config: Arc<TimescaleConfig>,
}

impl History {
    /// Connects when it is first asked, at most as many times.
    pub fn new(config: Arc<TimescaleConfig>, connections: u32) -> Result<Self, crate::ConfigError> {
        let options = config.connect_options()?;
        let path = format!(
            "SET search_path TO {}, public; SET TimeZone TO 'UTC'; SET statement_timeout TO '20s'",
            config.schema
        );
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Wait::from_secs(5))
            .idle_timeout(Wait::from_secs(300))
            .after_connect(move |connection, _| {
                let path = path.clone();
                Box::pin(
                    async move { connection.execute(sqlx::raw_sql(AssertSqlSafe(path))).await.map(drop) },
                )
            })
            .connect_lazy_with(options);
        Ok(Self { pool, config })
    }

    /// The points, and what they were read from. Numbers only: of texts and flags there is no mean.
    pub async fn query(&self, query: &HistoryQuery) -> Result<(Vec<HistoryPoint>, String), HistoryError> {
        if !self.config.streams.contains(&query.stream) {
            return Err(HistoryError::Refused(format!("the stream {:?} is not written there", query.stream)));
        }
        if query.from >= query.to {
            return Err(HistoryError::Refused("from is not before to".into()));
        }
        let span = query.to.since(query.from).0;
        let points = span.checked_div(query.step.0);
        if points.is_some_and(|points| points > POINTS as u64) {
            return Err(HistoryError::Refused(format!(
                "{} points are too many: {POINTS} are given at once",
                points.unwrap_or_default()
            )));
        }
        let table = table_of(&query.stream);
        // One for both statements: a question must not wait for a second while others hold theirs.
        let mut connection = self.pool.acquire().await.map_err(unavailable)?;
        let source = source(&mut connection, &table, query.step).await?;
        let statement = statement(&table, &source, query.step);
        let rows = sqlx::query(AssertSqlSafe(statement))
            .persistent(false)
            .bind(&query.device)
            .bind(&query.metric)
            .bind(query.from.0)
            .bind(query.to.0)
            .bind(POINTS + 1)
            .bind(query.step.0 as i64)
            .fetch_all(&mut *connection)
            .await
            .map_err(unavailable)?;
        if rows.len() as i64 > POINTS {
            return Err(HistoryError::Refused(format!(
                "there are more than {POINTS} values: give a step, or a shorter span"
            )));
        }
        let points = rows.iter().map(|row| {
            Ok(HistoryPoint {
                time: Timestamp(row.try_get("at")?),
                min: row.try_get("min")?,
                max: row.try_get("max")?,
                avg: row.try_get("avg")?,
                count: row.try_get("count")?,
                last: row.try_get("last")?,
            })
        });
        Ok((points.collect::<Result<_, sqlx::Error>>().map_err(unavailable)?, source))
    }
}

/// The coarsest aggregate whose span divides the step, where there is one; else the table itself.
async fn source(connection: &mut PgConnection, table: &str, step: Duration) -> Result<String, HistoryError> {
    let spans = [("1h", 3_600_000_000_u64), ("1m", 60_000_000)];
    for (name, _) in spans.into_iter().filter(|(_, span)| step.0 >= *span && step.0.is_multiple_of(*span)) {
        debug_assert!(AGGREGATES.iter().any(|(aggregate, ..)| *aggregate == name));
        let view = format!("{table}_{name}");
        let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .persistent(false)
            .bind(&view)
            .fetch_one(&mut *connection)
            .await
            .map_err(unavailable)?;
        if there {
            return Ok(view);
        }
    }
    Ok(table.to_string())
}

/// Buckets begin at multiples of the step since the Unix epoch, whichever way they are made.
fn statement(table: &str, source: &str, step: Duration) -> String {
    let filter = "device = $1 AND metric = $2";
    let time = |column: &str| {
        format!(
            "{column} >= to_timestamp($3::bigint / 1000000.0) AND {column} < to_timestamp($4::bigint / 1000000.0)"
        )
    };
    let micros = |column: &str| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
    if step == Duration::ZERO {
        return format!(
            "SELECT {} AS at, value AS min, value AS max, value AS avg, 1::bigint AS count, value AS last \
             FROM {table} WHERE {filter} AND {} AND value IS NOT NULL AND $6::bigint = 0 ORDER BY time LIMIT $5",
            micros("time"),
            time("time")
        );
    }
    if source == table {
        return format!(
            "SELECT ({m} / $6::bigint) * $6::bigint AS at, min(value) AS min, max(value) AS max, avg(value) AS avg, \
             count(value) AS count, (array_agg(value ORDER BY time DESC))[1] AS last \
             FROM {table} WHERE {filter} AND {} AND value IS NOT NULL GROUP BY 1 ORDER BY 1 LIMIT $5",
            time("time"),
            m = micros("time")
        );
    }
    format!(
        "SELECT ({m} / $6::bigint) * $6::bigint AS at, min(min) AS min, max(max) AS max, \
         sum(avg * count) / sum(count) AS avg, sum(count)::bigint AS count, \
         (array_agg(last ORDER BY bucket DESC))[1] AS last \
         FROM {source} WHERE {filter} AND {} AND count > 0 GROUP BY 1 ORDER BY 1 LIMIT $5",
        time("bucket"),
        m = micros("bucket")
    )
}

fn unavailable(error: sqlx::Error) -> HistoryError {
    HistoryError::Unavailable(chain(&error))
}
