//! How good the alerts are for the people who get them: the measures of EEMUA-191 and ISA-18.2 (IEC 62682) over a span
//! of time.
//!
//! What counts is when an alert became known here, not when the device says that it began: people are told then. Alerts
//! that the retention has removed are not counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use futures::TryStreamExt as _;
use serde::Serialize;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use utoipa::ToSchema;
use watchfire_model::{Duration, Severity, Timestamp};

use crate::Store;
use crate::db::time;
use crate::error::StoreError;

/// What rates are given for (EEMUA-191).
pub const WINDOW: Duration = Duration::from_secs(600);
/// More than so many in a window are a flood (ISA-18.2).
pub const FLOOD: u64 = 10;
/// Raises of one condition within [`CHATTER_WITHIN`] from which on it chatters (ISA-18.2).
pub const CHATTER: usize = 3;
/// See [`CHATTER`].
pub const CHATTER_WITHIN: Duration = Duration::from_secs(60);
/// An alert that is active for longer is standing (ISA-18.2, "stale").
pub const STANDING: Duration = Duration::from_secs(24 * 3600);

/// Over what is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct QualityFilter {
    /// From this time on ...
    pub from: Timestamp,
    /// ... until before this one, which is also when what stands is looked at.
    pub to: Timestamp,
    /// Alerts of devices of this site.
    pub site: Option<String>,
    /// Alerts of this rule.
    pub rule: Option<String>,
    /// An alert that ended within this is fleeting.
    pub fleeting: Duration,
    /// So many of the worst are named.
    pub top: usize,
}

/// How much comes, in windows of ten minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Rate {
    /// In all.
    pub count: u64,
    /// In ten minutes, on average. (EEMUA-191: 1 is very likely acceptable, 10 is not.)
    pub average: f64,
    /// In the worst ten minutes.
    pub peak: u64,
    /// When those began; missing: nothing came.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub peak_at: Option<Timestamp>,
    /// The share of all windows in which more than ten came. (ISA-18.2: below 0.01.)
    pub flood_share: f64,
}

/// One name among others.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Share {
    /// Of a rule, a device, a site or a severity.
    pub name: String,
    /// Its alerts.
    pub count: u64,
    /// Of all alerts of the span.
    pub share: f64,
}

/// A condition that chatters: three raises or more within a minute.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Chattering {
    /// The rule.
    pub rule: String,
    /// The device.
    pub device: String,
    /// The key.
    pub key: String,
    /// Its raises in the whole span.
    pub raises: u64,
}

/// What one receiver was sent.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ReceiverLoad {
    /// The receiver.
    pub receiver: String,
    /// Messages.
    pub messages: Rate,
}

/// The measures.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Quality {
    /// The span.
    #[schema(value_type = String)]
    pub from: Timestamp,
    /// The span.
    #[schema(value_type = String)]
    pub to: Timestamp,
    /// Alerts that were raised.
    pub raised: Rate,
    /// By severity, from the least. (ISA-18.2: about 80, 15 and 5 in a hundred of low, medium and high priority.)
    pub severities: Vec<Share>,
    /// The rules with most alerts.
    pub rules: Vec<Share>,
    /// The devices with most alerts. (ISA-18.2: the ten worst together below 0.01 to 0.05 of all.)
    pub devices: Vec<Share>,
    /// The sites with most alerts.
    pub sites: Vec<Share>,
    /// The conditions that chatter, those with most raises.
    pub chattering: Vec<Chattering>,
    /// How many conditions chatter, those that are not named included.
    pub chattering_conditions: u64,
    /// Alerts that ended within the bound.
    pub fleeting: u64,
    /// The bound.
    #[schema(value_type = String)]
    pub fleeting_within: Duration,
    /// Alerts that are active.
    pub active: u64,
    /// Those of them that have been so for more than a day.
    pub standing: u64,
    /// Those of them that nobody acknowledged.
    pub unacknowledged: u64,
    /// Those of them that are shelved.
    pub shelved: u64,
    /// Those of them that are suppressed.
    pub suppressed: u64,
    /// Alerts of the span that somebody acknowledged.
    pub acknowledged: u64,
    /// From the raise to the first acknowledgement: so long at most for half of them, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub acknowledge_median: Option<Duration>,
    /// ... and for 95 of a hundred.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub acknowledge_p95: Option<Duration>,
    /// Messages by receiver, of all sites and rules: missing where only some are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receivers: Option<Vec<ReceiverLoad>>,
}

/// What stands, as far as it costs nearly nothing to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandingCounts {
    /// Active for more than a day.
    pub standing: u64,
    /// Shelved.
    pub shelved: u64,
    /// Suppressed.
    pub suppressed: u64,
    /// Raised in the last ten minutes.
    pub raised_lately: u64,
}

/// Counts in windows from a time on.
struct Windows {
    from: Timestamp,
    span: Duration,
    counts: Vec<u64>,
}

impl Windows {
    fn new(from: Timestamp, to: Timestamp) -> Self {
        let span = to.since(from);
        Self { from, span, counts: vec![0; span.0.div_ceil(WINDOW.0).max(1) as usize] }
    }

    fn add(&mut self, at: Timestamp) {
        let index = (at.since(self.from).0 / WINDOW.0) as usize;
        if let Some(count) = self.counts.get_mut(index) {
            *count += 1;
        }
    }

    fn rate(&self) -> Rate {
        let count = self.counts.iter().sum();
        let peak = self.counts.iter().copied().max().unwrap_or(0);
        let first = self.counts.iter().position(|count| *count == peak).unwrap_or(0);
        let floods = self.counts.iter().filter(|count| **count > FLOOD).count();
        Rate {
            count,
            average: if self.span.0 == 0 { 0.0 } else { count as f64 * WINDOW.0 as f64 / self.span.0 as f64 },
            peak,
            peak_at: (peak > 0).then(|| self.from + Duration(WINDOW.0 * first as u64)),
            flood_share: floods as f64 / self.counts.len() as f64,
        }
    }
}

/// The latest raises of one condition.
#[derive(Default)]
struct Raises {
    /// The ones before the latest, the newest last; as many as chattering takes, without the latest.
    before: [Option<Timestamp>; CHATTER - 1],
    count: u64,
    chatters: bool,
}

impl Raises {
    /// Says whether it chatters since this one.
    fn add(&mut self, at: Timestamp) -> bool {
        self.count += 1;
        let begins = !self.chatters && self.before[0].is_some_and(|first| at.since(first) <= CHATTER_WITHIN);
        self.chatters |= begins;
        self.before.rotate_left(1);
        self.before[CHATTER - 2] = Some(at);
        begins
    }
}

/// The value that so large a part of them does not exceed (nearest rank). They are in order.
fn percentile(sorted: &[u64], part: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().map(Duration)
}

fn worst(counts: HashMap<String, u64>, all: u64, top: usize) -> Vec<Share> {
    let mut shares: Vec<Share> = counts
        .into_iter()
        .map(|(name, count)| Share { name, count, share: count as f64 / all.max(1) as f64 })
        .collect();
    shares.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    shares.truncate(top);
    shares
}

/// Adds one to a name, which is copied only where it is new.
fn count(counts: &mut HashMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => {
            counts.insert(name.into(), 1);
        }
    }
}

impl QualityFilter {
    fn narrow(&self, query: &mut QueryBuilder<Sqlite>) {
        if let Some(rule) = &self.rule {
            query.push(" AND a.rule = ").push_bind(rule.clone());
        }
        if let Some(site) = &self.site {
            query.push(" AND json_extract(a.labels, '$.site') = ").push_bind(site.clone());
        }
    }
}

impl Store {
    /// Measures. Reads each alert of the span once: the longer it is, the longer that takes.
    pub async fn quality(&self, filter: &QualityFilter) -> Result<Quality, StoreError> {
        let failed = StoreError::sql("measure the quality of alerts");
        let mut windows = Windows::new(filter.from, filter.to);
        let (mut rules, mut devices, mut sites) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut severities: BTreeMap<Severity, u64> =
            Severity::ALL.into_iter().map(|severity| (severity, 0)).collect();
        // By a hash of the condition: its names are kept only where it chatters.
        let mut conditions: HashMap<u64, Raises> = HashMap::new();
        let mut chattering: HashMap<u64, Chattering> = HashMap::new();
        let mut fleeting = 0;

        // An alert that goes on after a repair was raised before.
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT t.at, t.recorded_at, t.severity, a.rule, a.device, a.key, a.raised_at, a.resolved_at, \
             json_extract(a.labels, '$.site') AS site FROM transitions AS t INDEXED BY transitions_raised \
             CROSS JOIN alerts AS a ON a.id = t.alert WHERE t.kind = 'raised' AND t.reason IS NULL \
             AND t.recorded_at >= ",
        );
        query.push_bind(filter.from.0).push(" AND t.recorded_at < ").push_bind(filter.to.0);
        filter.narrow(&mut query);
        query.push(" ORDER BY t.recorded_at");
        let mut rows = query.build().fetch(self.db().read());
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            let text = |column| row.try_get::<&str, _>(column).map_err(&failed);
            windows.add(time(&row, "recorded_at").map_err(&failed)?);
            let (rule, device, key) = (text("rule")?, text("device")?, text("key")?);
            count(&mut rules, rule);
            count(&mut devices, device);
            count(&mut sites, row.try_get::<Option<&str>, _>("site").map_err(&failed)?.unwrap_or_default());
            if let Ok(severity) = text("severity")?.parse() {
                *severities.entry(severity).or_default() += 1;
            }
            let raised = time(&row, "raised_at").map_err(&failed)?;
            let resolved: Option<i64> = row.try_get("resolved_at").map_err(&failed)?;
            if resolved.is_some_and(|resolved| Timestamp(resolved).since(raised) < filter.fleeting) {
                fleeting += 1;
            }
            let mut hasher = DefaultHasher::new();
            (rule, device, key).hash(&mut hasher);
            let hash = hasher.finish();
            if conditions.entry(hash).or_default().add(time(&row, "at").map_err(&failed)?) {
                let named =
                    Chattering { rule: rule.into(), device: device.into(), key: key.into(), raises: 0 };
                chattering.insert(hash, named);
            }
        }
        drop(rows);

        let raised = windows.rate();
        let mut chattering: Vec<Chattering> = chattering
            .into_iter()
            .map(|(hash, named)| Chattering {
                raises: conditions.get(&hash).map_or(0, |it| it.count),
                ..named
            })
            .collect();
        chattering.sort_by(|a, b| {
            let name = |it: &Chattering| (it.rule.clone(), it.device.clone(), it.key.clone());
            b.raises.cmp(&a.raises).then_with(|| name(a).cmp(&name(b)))
        });
        let chattering_conditions = chattering.len() as u64;
        chattering.truncate(filter.top);
        let spread = |(severity, count): (Severity, u64)| Share {
            name: severity.to_string(),
            count,
            share: count as f64 / raised.count.max(1) as f64,
        };
        let acknowledged = self.times_to_acknowledge(filter).await?;
        let now = self.active_now(filter).await?;
        let whole = filter.site.is_none() && filter.rule.is_none();
        Ok(Quality {
            from: filter.from,
            to: filter.to,
            severities: severities.into_iter().map(spread).collect(),
            rules: worst(rules, raised.count, filter.top),
            devices: worst(devices, raised.count, filter.top),
            sites: worst(sites, raised.count, filter.top),
            chattering,
            chattering_conditions,
            fleeting,
            fleeting_within: filter.fleeting,
            active: now[0],
            standing: now[1],
            unacknowledged: now[2],
            shelved: now[3],
            suppressed: now[4],
            acknowledged: acknowledged.len() as u64,
            acknowledge_median: percentile(&acknowledged, 0.5),
            acknowledge_p95: percentile(&acknowledged, 0.95),
            receivers: if whole { Some(self.receiver_loads(filter).await?) } else { None },
            raised,
        })
    }

    /// Microseconds to the first acknowledgement, of alerts that were raised in the span; in order.
    async fn times_to_acknowledge(&self, filter: &QualityFilter) -> Result<Vec<u64>, StoreError> {
        let failed = StoreError::sql("measure how long acknowledgements take");
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT t.alert, t.recorded_at, r.recorded_at AS raised FROM transitions AS t \
             INDEXED BY transitions_acknowledged CROSS JOIN alerts AS a ON a.id = t.alert \
             CROSS JOIN transitions AS r ON r.sequence = a.sequence WHERE t.kind = 'acknowledged' \
             AND t.recorded_at >= ",
        );
        query.push_bind(filter.from.0).push(" AND t.recorded_at < ").push_bind(filter.to.0);
        // Whoever knew of an alert from before the span is not told by it.
        query.push(" AND r.recorded_at >= ").push_bind(filter.from.0);
        filter.narrow(&mut query);
        query.push(" ORDER BY t.recorded_at");
        let mut rows = query.build().fetch(self.db().read());
        let (mut seen, mut times) = (HashSet::new(), Vec::new());
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            if seen.insert(row.try_get::<String, _>("alert").map_err(&failed)?) {
                let raised = time(&row, "raised").map_err(&failed)?;
                times.push(time(&row, "recorded_at").map_err(&failed)?.since(raised).0);
            }
        }
        times.sort_unstable();
        Ok(times)
    }

    /// Active, standing, unacknowledged, shelved, suppressed.
    async fn active_now(&self, filter: &QualityFilter) -> Result<[u64; 5], StoreError> {
        let failed = StoreError::sql("count what is active");
        let mut query =
            QueryBuilder::<Sqlite>::new("SELECT count(*) AS active, coalesce(sum(a.raised_at <= ");
        query.push_bind((filter.to - STANDING).0).push(
            "), 0) AS standing, coalesce(sum(a.acknowledged_at IS NULL), 0) AS unacknowledged, \
             coalesce(sum(a.shelved_at IS NOT NULL), 0) AS shelved, \
             coalesce(sum(a.suppressed_at IS NOT NULL), 0) AS suppressed FROM alerts AS a WHERE a.state = 'active'",
        );
        filter.narrow(&mut query);
        let row = query.build().fetch_one(self.db().read()).await.map_err(&failed)?;
        let mut counts = [0; 5];
        for (count, column) in
            counts.iter_mut().zip(["active", "standing", "unacknowledged", "shelved", "suppressed"])
        {
            *count = row.try_get::<i64, _>(column).map_err(&failed)? as u64;
        }
        Ok(counts)
    }

    async fn receiver_loads(&self, filter: &QualityFilter) -> Result<Vec<ReceiverLoad>, StoreError> {
        let failed = StoreError::sql("count messages");
        // They are numbered in the order in which they are made: read from the latest on until the span begins.
        let mut rows = sqlx::query("SELECT receiver, created_at FROM deliveries ORDER BY sequence DESC")
            .fetch(self.db().read());
        let mut loads: BTreeMap<String, Windows> = BTreeMap::new();
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            let at = time(&row, "created_at").map_err(&failed)?;
            if at < filter.from {
                break;
            }
            if at >= filter.to {
                continue;
            }
            let receiver: &str = row.try_get("receiver").map_err(&failed)?;
            if !loads.contains_key(receiver) {
                loads.insert(receiver.into(), Windows::new(filter.from, filter.to));
            }
            if let Some(windows) = loads.get_mut(receiver) {
                windows.add(at);
            }
        }
        let load =
            |(receiver, windows): (String, Windows)| ReceiverLoad { receiver, messages: windows.rate() };
        Ok(loads.into_iter().map(load).collect())
    }

    /// What stands as of `now`, out of indexes alone.
    pub async fn standing_counts(&self, now: Timestamp) -> Result<StandingCounts, StoreError> {
        let failed = StoreError::sql("count what stands");
        // By severity and time: as many looks into the index as there are severities.
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM alerts INDEXED BY alerts_severity WHERE state = 'active' \
              AND severity IN ('info', 'warning', 'minor', 'major', 'critical') AND raised_at <= $1) AS standing, \
             (SELECT count(*) FROM alerts WHERE shelved_at IS NOT NULL) AS shelved, \
             (SELECT count(*) FROM alerts WHERE suppressed_at IS NOT NULL) AS suppressed, \
             (SELECT count(*) FROM transitions INDEXED BY transitions_raised WHERE kind = 'raised' \
              AND recorded_at > $2) AS lately",
        )
        .bind((now - STANDING).0)
        .bind((now - WINDOW).0)
        .fetch_one(self.db().read())
        .await
        .map_err(&failed)?;
        let get = |column| row.try_get::<i64, _>(column).map(|count| count as u64).map_err(&failed);
        Ok(StandingCounts {
            standing: get("standing")?,
            shelved: get("shelved")?,
            suppressed: get("suppressed")?,
            raised_lately: get("lately")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let of = |values: &[u64], part| percentile(values, part).map(|span| span.0);
        assert_eq!(of(&[], 0.5), None);
        assert_eq!((of(&[7], 0.5), of(&[7], 0.95)), (Some(7), Some(7)));
        assert_eq!(of(&[1, 2, 3, 4], 0.5), Some(2));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(of(&hundred, 0.95), Some(95));
    }

    #[test]
    fn a_condition_chatters_from_three_raises_within_a_minute_on() {
        let told = |seconds: &[i64]| -> Vec<bool> {
            let mut raises = Raises::default();
            seconds.iter().map(|at| raises.add(Timestamp(at * 1_000_000))).collect()
        };
        assert_eq!(told(&[0, 30, 60]), [false, false, true]);
        assert_eq!(told(&[0, 30, 61, 90, 91]), [false, false, false, true, false]);
    }

    #[test]
    fn windows_say_how_much_comes() {
        let minutes = |n: i64| Timestamp(n * 60_000_000);
        let mut windows = Windows::new(minutes(0), minutes(100));
        (0..11).for_each(|_| windows.add(minutes(25)));
        (0..10).for_each(|_| windows.add(minutes(30)));
        windows.add(minutes(100));
        let rate = windows.rate();
        assert_eq!((rate.count, rate.peak, rate.peak_at), (21, 11, Some(minutes(20))));
        assert!((rate.average - 2.1).abs() < 1e-9 && (rate.flood_share - 0.1).abs() < 1e-9);
        assert_eq!(Windows::new(minutes(0), minutes(1)).rate().peak_at, None);
    }
}
