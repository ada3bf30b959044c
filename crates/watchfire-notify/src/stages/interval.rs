//! Time intervals: when routes are silent, or only speak.

use std::collections::HashMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use watchfire_model::{Duration, Timestamp};

mod span;
#[cfg(test)]
mod tests;

use span::Span;
pub use span::{Range, SpanConfig, TimeRange};

/// How far [`Intervals::next_edge`] looks.
const HORIZON: Duration = Duration::from_secs(40 * 86_400);

/// Times of day and year under a name, with Alertmanager's meaning: of each key that is given, one range must hold.
/// What one set of keys cannot say is said by several, in `any`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeIntervalConfig {
    /// What routes call it.
    pub name: String,
    /// Times of day: `{ start_time = "22:00", end_time = "24:00" }`, without the end.
    pub times: Vec<TimeRange>,
    /// Days of the week, the last one included: `"monday:friday"`, `"sunday"`. A week begins with Sunday.
    pub weekdays: Vec<Range>,
    /// Days of the month, the last one included; negative ones count from its end: `"1:5"`, `"-3:-1"`.
    pub days_of_month: Vec<Range>,
    /// Months, the last one included: `"may:august"`, `"1:3"`.
    pub months: Vec<Range>,
    /// Years, the last one included: `"2026:2028"`.
    pub years: Vec<Range>,
    /// The IANA time zone in which all of this is meant, such as `"Europe/Oslo"`; `"Local"` is that of the machine.
    /// Default: UTC.
    pub location: Option<String>,
    /// In place of the keys above: several sets of them, of which one must hold.
    pub any: Vec<SpanConfig>,
}

impl TimeIntervalConfig {
    /// What is wrong with it, if anything is: the place within it (may be empty), and the fault.
    pub fn check(&self) -> Result<(), (String, String)> {
        self.compile().map(drop)
    }

    /// The sets of keys, whichever way they are written.
    pub fn spans(&self) -> Vec<SpanConfig> {
        let own = self.own();
        if own == SpanConfig::default() { self.any.clone() } else { vec![own] }
    }

    fn own(&self) -> SpanConfig {
        SpanConfig {
            times: self.times.clone(),
            weekdays: self.weekdays.clone(),
            days_of_month: self.days_of_month.clone(),
            months: self.months.clone(),
            years: self.years.clone(),
            location: self.location.clone(),
        }
    }

    fn compile(&self) -> Result<Vec<Span>, (String, String)> {
        let own = self.own();
        match (own == SpanConfig::default(), self.any.as_slice()) {
            (true, []) => Err((String::new(), "says no time".into())),
            (false, []) => Ok(vec![own.compile()?]),
            (false, _) => Err(("any".into(), "stands in place of the other keys: give it, or them".into())),
            (true, any) => any
                .iter()
                .enumerate()
                .map(|(i, span)| {
                    let at = |place: String| if place.is_empty() { place } else { format!(".{place}") };
                    span.compile().map_err(|(place, fault)| (format!("any[{i}]{}", at(place)), fault))
                })
                .collect(),
        }
    }
}

/// When a route tells anything: names of time intervals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// It tells nothing within any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mute: Vec<String>,
    /// Where there are any, it tells only within one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<String>,
}

impl Times {
    /// Whether the route always tells.
    pub fn is_always(&self) -> bool {
        self.mute.is_empty() && self.active.is_empty()
    }

    /// The time intervals because of which the route tells nothing now: those that mute it, or else those within none of
    /// which it is. None: it tells.
    pub fn muting<'a>(&'a self, intervals: &Intervals, now: Timestamp) -> Vec<&'a str> {
        let is_active = |name: &&str| intervals.is_active(name, now);
        let within: Vec<&str> = self.mute.iter().map(String::as_str).filter(is_active).collect();
        let active = || self.active.iter().map(String::as_str);
        if within.is_empty() && !active().any(|name| is_active(&name)) { active().collect() } else { within }
    }

    /// Why the route tells nothing now; `None`: it tells.
    pub fn muted(&self, intervals: &Intervals, now: Timestamp) -> Option<String> {
        let muting = self.muting(intervals, now);
        let within = intervals.is_active(muting.first()?, now);
        Some(if within { format!("within {}", muting[0]) } else { format!("outside {}", muting.join(", ")) })
    }
}

/// The time intervals of a configuration, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Intervals {
    by_name: HashMap<String, Vec<Span>>,
}

impl Intervals {
    /// Those of a configuration; an error says which is wrong, and where in it.
    pub fn new(configs: &[TimeIntervalConfig]) -> Result<Self, String> {
        let mut by_name = HashMap::new();
        for config in configs {
            let spans = config.compile().map_err(|(place, fault)| {
                let dot = if place.is_empty() { "" } else { "." };
                format!("{:?}{dot}{place}: {fault}", config.name)
            })?;
            if by_name.insert(config.name.clone(), spans).is_some() {
                return Err(format!("{:?}: another time interval has the same name", config.name));
            }
        }
        Ok(Self { by_name })
    }

    /// Whether a time lies within the interval of this name; never in one that there is not.
    pub fn is_active(&self, name: &str, now: Timestamp) -> bool {
        self.by_name.get(name).is_some_and(|spans| spans.iter().any(|span| span.contains(now)))
    }

    /// When the answer for any of them may change next, after now. Where none does within forty days, the time in forty
    /// days: who asks then gets the next. `None`: there are no intervals.
    pub fn next_edge(&self, now: Timestamp) -> Option<Timestamp> {
        if self.by_name.is_empty() {
            return None;
        }
        let end = now + HORIZON;
        let edges = self.by_name.values().flatten().map(|span| edge(span, now, end));
        Some(edges.fold(end, Timestamp::min))
    }
}

/// When a span begins or ends first after now, or the end of the search.
///
/// Between two instants at which the local clock shows midnight or one of the minutes of `times`, or is changed, nothing
/// in a span can change; so those are asked, in order.
fn edge(span: &Span, now: Timestamp, end: Timestamp) -> Timestamp {
    let zone = span.zone();
    let before = span.contains(now);
    let changes: Vec<Timestamp> = zone
        .following(now.to_jiff())
        .map(|transition| Timestamp::from(transition.timestamp()))
        .take_while(|change| *change < end)
        .collect();
    let mut day = zone.to_datetime(now.to_jiff()).date();
    let mut pending = changes.into_iter().peekable();
    loop {
        let next = day.tomorrow().ok();
        let begin = next.map_or(end, |next| instants(zone, next, 0).min().unwrap_or(end));
        let mut candidates: Vec<Timestamp> = Vec::new();
        if before || span.may_hold_on(day) {
            candidates.extend(span.minutes().flat_map(|minute| instants(zone, day, minute)));
        }
        // The clock may show another date of a sudden, so whatever the date says.
        while let Some(change) = pending.next_if(|change| *change <= begin) {
            candidates.push(change);
        }
        candidates.sort_unstable();
        let found = candidates.into_iter().find(|&instant| instant > now && span.contains(instant) != before);
        if let Some(instant) = found {
            return instant.min(end);
        }
        match next {
            Some(next) if begin < end => day = next,
            _ => return end,
        }
    }
}

/// When the clock of a zone shows this minute of a day: once, twice where it is set back over it, and where it is set
/// forward over it, what it would be by the time before and by the time after.
fn instants(zone: &TimeZone, day: Date, minute: i16) -> impl Iterator<Item = Timestamp> {
    let time = jiff::civil::time((minute / 60) as i8, (minute % 60) as i8, 0, 0);
    let ambiguous = zone.to_ambiguous_timestamp(day.to_datetime(time));
    let (earlier, later) = (ambiguous.earlier(), ambiguous.later());
    [earlier, later].into_iter().flatten().map(Timestamp::from)
}
