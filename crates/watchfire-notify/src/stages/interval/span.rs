//! One set of conditions on the date and the time of day.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use watchfire_model::Timestamp;

/// A time of day from a minute up to another one, which is not part of it: `HH:MM`, to `24:00`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TimeRange {
    /// The first minute.
    pub start_time: String,
    /// The first minute that is not part of it.
    pub end_time: String,
}

/// One thing, or from one to another: `"monday:friday"`, `"-1"`, `2026`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range(pub String);

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Range;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a range such as \"1:5\", or a number")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Range, E> {
                Ok(Range(text.into()))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Range, E> {
                Ok(Range(number.to_string()))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Range, E> {
                Ok(Range(number.to_string()))
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Of each key that is given, one range must hold. The keys are those of
/// [`TimeIntervalConfig`](super::TimeIntervalConfig).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpanConfig {
    /// Times of day.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<TimeRange>,
    /// Days of the week.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weekdays: Vec<Range>,
    /// Days of the month.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days_of_month: Vec<Range>,
    /// Months.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub months: Vec<Range>,
    /// Years.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub years: Vec<Range>,
    /// The time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// From one number to another, both included.
type Numbers = (i16, i16);

/// A span, ready to be asked. An empty list is no condition.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Minutes of the day, the second one not included.
    times: Vec<Numbers>,
    /// From Sunday, 0.
    weekdays: Vec<Numbers>,
    days_of_month: Vec<Numbers>,
    months: Vec<Numbers>,
    years: Vec<Numbers>,
    zone: TimeZone,
}

impl Span {
    /// Whether a time lies within it.
    pub(super) fn contains(&self, time: Timestamp) -> bool {
        let local = self.zone.to_datetime(time.to_jiff());
        let minute = i16::from(local.hour()) * 60 + i16::from(local.minute());
        let in_time = |(start, end): &Numbers| (*start..*end).contains(&minute);
        (self.times.is_empty() || self.times.iter().any(in_time)) && self.may_hold_on(local.date())
    }

    /// Whether the date is right.
    pub(super) fn may_hold_on(&self, date: Date) -> bool {
        let last = i16::from(date.days_in_month());
        let from_begin = |day: i16| if day < 0 { last + day + 1 } else { day };
        let of_month: Vec<Numbers> =
            self.days_of_month.iter().map(|(begin, end)| (from_begin(*begin), from_begin(*end))).collect();
        within(&self.weekdays, i16::from(date.weekday().to_sunday_zero_offset()))
            && within(&of_month, i16::from(date.day()))
            && within(&self.months, i16::from(date.month()))
            && within(&self.years, date.year())
    }

    /// The minutes of a day at which it may begin or end.
    pub(super) fn minutes(&self) -> impl Iterator<Item = i16> {
        // 24:00 is the midnight of the next day.
        let ends =
            self.times.iter().flat_map(|(start, end)| [*start, *end]).filter(|minute| *minute < 24 * 60);
        std::iter::once(0).chain(ends)
    }

    /// Where its clock is read.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }
}

fn within(ranges: &[Numbers], number: i16) -> bool {
    ranges.is_empty() || ranges.iter().any(|(begin, end)| (*begin..=*end).contains(&number))
}

impl SpanConfig {
    /// What is wrong with it, if anything is: the place within it (may be empty), and the fault.
    pub(super) fn compile(&self) -> Result<Span, (String, String)> {
        if *self == (Self { location: self.location.clone(), ..Self::default() }) {
            return Err((String::new(), "says no time".into()));
        }
        let times = listed("times", &self.times, time_range)?;
        let weekdays = listed("weekdays", &self.weekdays, |range| {
            in_order(
                parts(&range.0, |text| place(&WEEKDAYS, text).map(|day| day - 1))?,
                "a week begins with Sunday: write two ranges",
            )
        })?;
        let days_of_month = listed("days_of_month", &self.days_of_month, |range| days_of_month(&range.0))?;
        let months = listed("months", &self.months, |range| {
            let month = |text: &str| place(&MONTHS, text).or_else(|| number(text, 1, 12));
            in_order(parts(&range.0, month)?, "the end is before the begin: write two ranges")
        })?;
        let years = listed("years", &self.years, |range| {
            in_order(parts(&range.0, |text| number(text, 1, 9999))?, "the end is before the begin")
        })?;
        let zone = match self.location.as_deref().unwrap_or("UTC") {
            "UTC" => TimeZone::UTC,
            "Local" => TimeZone::system(),
            name => TimeZone::get(name).map_err(|_| {
                let fault =
                    format!("{name:?} is no time zone that this machine knows, such as \"Europe/Oslo\"");
                ("location".to_string(), fault)
            })?,
        };
        Ok(Span { times, weekdays, days_of_month, months, years, zone })
    }
}

const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

fn listed<T>(
    key: &str,
    ranges: &[T],
    read: impl Fn(&T) -> Result<Numbers, String>,
) -> Result<Vec<Numbers>, (String, String)> {
    let one = |(i, range): (usize, &T)| read(range).map_err(|fault| (format!("{key}[{i}]"), fault));
    ranges.iter().enumerate().map(one).collect()
}

/// The place of a word in a list, from 1.
fn place(words: &[&str], text: &str) -> Option<i16> {
    let at = words.iter().position(|word| word.eq_ignore_ascii_case(text))?;
    i16::try_from(at + 1).ok()
}

fn number(text: &str, least: i16, most: i16) -> Option<i16> {
    text.parse().ok().filter(|number| (least..=most).contains(number))
}

/// Both ends of a range, which are one where there is no colon.
fn parts(text: &str, read: impl Fn(&str) -> Option<i16>) -> Result<Numbers, String> {
    let (begin, end) = text.split_once(':').unwrap_or((text, text));
    let one = |part: &str| read(part.trim()).ok_or_else(|| format!("{part:?} is none"));
    Ok((one(begin)?, one(end)?))
}

fn in_order((begin, end): Numbers, fault: &str) -> Result<Numbers, String> {
    if begin <= end { Ok((begin, end)) } else { Err(fault.into()) }
}

/// As Alertmanager checks them (`timeinterval.go`): where one end counts from the end of the month, by a month of 28 days.
fn days_of_month(text: &str) -> Result<Numbers, String> {
    let (begin, end) = parts(text, |text| number(text, -31, 31).filter(|day| *day != 0))?;
    if begin < 0 && end > 0 {
        return Err("a range that begins from the end of the month ends there too".into());
    }
    let short = |day: i16| if day < 0 { 28 + day } else { day };
    in_order((short(begin), short(end)), "the end is before the begin")?;
    Ok((begin, end))
}

fn time_range(range: &TimeRange) -> Result<Numbers, String> {
    let minute = |text: &str| -> Result<i16, String> {
        let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        text.split_once(':')
            .filter(|(hours, minutes)| digits(hours) && digits(minutes))
            .and_then(|(hours, minutes)| Some(number(hours, 0, 24)? * 60 + number(minutes, 0, 59)?))
            .filter(|minute| *minute <= 24 * 60)
            .ok_or_else(|| format!("{text:?} is no time such as 06:30, from 00:00 to 24:00"))
    };
    let (start, end) = (minute(&range.start_time)?, minute(&range.end_time)?);
    if start < end {
        return Ok((start, end));
    }
    Err(format!(
        "ends before it begins: over midnight write two, {} to 24:00 and 00:00 to {}",
        range.start_time, range.end_time
    ))
}
