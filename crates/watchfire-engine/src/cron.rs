//! Five-field cron in its Unix meaning: minute, hour, day of month, month, day of week; 0 and 7 are Sunday;
//! where both days are restricted, either is enough (POSIX.1-2024, crontab). In an IANA time zone: what
//! falls into the hour that a zone skips in spring comes as much later as the zone skips, unless the
//! schedule is for every hour anyway; what falls into the hour that comes twice in autumn comes once,
//! again unless the schedule is for every hour.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use watchfire_model::{Duration, Timestamp};

/// A text that is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schedule {cron:?}: {what}")]
pub struct CronError {
    cron: String,
    what: String,
}

/// When something comes again and again.
#[derive(Clone, Debug)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are restricted: either is enough.
    either_day: bool,
    zone: TimeZone,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const EVERY_HOUR: u64 = (1 << 24) - 1;

impl Cron {
    /// Reads the five fields; `zone`: an IANA name, `None`: UTC.
    pub fn parse(cron: &str, zone: Option<&str>) -> Result<Self, CronError> {
        let error = |what: String| CronError { cron: cron.into(), what };
        let zone = match zone {
            None => TimeZone::UTC,
            // The bundled database: the same schedule is the same in every place that runs this binary.
            Some(name) => TimeZoneDatabase::bundled()
                .get(name)
                .map_err(|_| error(format!("{name:?} is no time zone of the IANA database")))?,
        };
        let fields: Vec<&str> = cron.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(error(format!("has {} fields; five are wanted", fields.len())));
        };
        let field = |text: &str, name, low, high, names: &[&str]| {
            parse_field(text, low, high, names).map_err(|what| error(format!("{name}: {what}")))
        };
        let mut weekday = field(weekdays, "day of week", 0, 7, &WEEKDAYS)?;
        weekday = (weekday | weekday >> 7) & 0x7f;
        let schedule = Self {
            minutes: field(minutes, "minute", 0, 59, &[])?,
            hours: field(hours, "hour", 0, 23, &[])?,
            days: field(days, "day of month", 1, 31, &[])?,
            months: field(months, "month", 1, 12, &MONTHS)?,
            weekdays: weekday,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
            zone,
        };
        if schedule.next_after(Timestamp(0)).is_none() {
            return Err(error("never comes".into()));
        }
        Ok(schedule)
    }

    /// The first time after `after`; `None`: there is none within the 28 years in which the calendar
    /// repeats.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let mut date = self.zone.to_datetime(after.to_jiff()).date();
        // A day before: the zone may have been ahead of what it is now.
        date = date.yesterday().unwrap_or(date);
        for _ in 0..28 * 366 {
            if self.takes(date)
                && let Some(time) = self.first_on(date, after)
            {
                return Some(time);
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The last time after `after` that is not later than `until`.
    pub fn last_until(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        const HOUR: u64 = 3600;
        let spans = [HOUR, 24 * HOUR, 32 * 24 * HOUR, 366 * 24 * HOUR];
        let starts = spans.map(|span| (until - Duration::from_secs(span)).max(after));
        for start in starts.into_iter().chain([after]) {
            let mut last = None;
            let mut from = start;
            while let Some(time) = self.next_after(from).filter(|time| *time <= until) {
                (last, from) = (Some(time), time);
            }
            if last.is_some() {
                return last;
            }
        }
        None
    }

    fn takes(&self, date: Date) -> bool {
        let day = self.days >> date.day() & 1 != 0;
        let weekday = self.weekdays >> date.weekday().to_sunday_zero_offset() & 1 != 0;
        let days = if self.either_day { day || weekday } else { day && weekday };
        self.months >> date.month() & 1 != 0 && days
    }

    fn first_on(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        let mut best: Option<Timestamp> = None;
        for hour in (0..24).filter(|hour| self.hours >> hour & 1 != 0) {
            for minute in (0..60).filter(|minute| self.minutes >> minute & 1 != 0) {
                let Ok(time) = Time::new(hour, minute, 0, 0) else { continue };
                let (first, second) = self.times(date.to_datetime(time));
                // Further ones of this day are later than this first one.
                if let (Some(best), Some(first)) = (best, first)
                    && first > best
                {
                    return Some(best);
                }
                for time in [first, second].into_iter().flatten().filter(|time| *time > after) {
                    best = Some(best.map_or(time, |best| best.min(time)));
                }
            }
        }
        best
    }

    /// The moments that a local time names, the earlier first.
    fn times(&self, local: DateTime) -> (Option<Timestamp>, Option<Timestamp>) {
        let at = |offset: jiff::tz::Offset| offset.to_timestamp(local).ok().map(Timestamp::from);
        let every_hour = self.hours == EVERY_HOUR;
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => (at(offset), None),
            // With the offset from before the gap the local time lies as far behind it as it was in it.
            AmbiguousOffset::Gap { before, .. } => (at(before).filter(|_| !every_hour), None),
            AmbiguousOffset::Fold { before, after } => (at(before), at(after).filter(|_| every_hour)),
        }
    }
}

fn parse_field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let number = |text: &str| -> Result<u32, String> {
        let named = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        let first = if names.len() == 12 { 1 } else { 0 };
        let number = match named {
            Some(place) => place as u32 + first,
            None => text.parse().map_err(|_| format!("{text:?} is no number"))?,
        };
        if !(low..=high).contains(&number) {
            return Err(format!("{number} is not within {low} and {high}"));
        }
        Ok(number)
    };
    let mut bits = 0_u64;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step: u32 = step.parse().map_err(|_| format!("{step:?} is no step"))?;
                (range, Some(step).filter(|step| *step > 0).ok_or("a step of 0")?)
            }
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            // `5/15` counts on to the end, as everybody who writes it means.
            None if part.contains('/') => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return Err(format!("{range:?} goes backwards"));
        }
        for value in (from..=to).step_by(step as usize) {
            bits |= 1 << value;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cron: &str, zone: Option<&str>, after: &str, expected: &[&str]) {
        let schedule = Cron::parse(cron, zone).unwrap();
        let mut now: Timestamp = after.parse().unwrap();
        for expected in expected {
            now = schedule.next_after(now).unwrap();
            assert_eq!(now, expected.parse().unwrap(), "{cron} {zone:?}");
        }
    }

    #[test]
    fn fields_mean_what_they_mean_in_unix() {
        check(
            "*/15 * * * *",
            None,
            "2026-01-01T00:00:00Z",
            &["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"],
        );
        check("0 6 * * 7", None, "2026-01-01T00:00:00Z", &["2026-01-04T06:00:00Z", "2026-01-11T06:00:00Z"]);
        check("0 6 * * 0", None, "2026-01-01T00:00:00Z", &["2026-01-04T06:00:00Z"]);
        check("0 6 * * 1-5", None, "2026-01-02T07:00:00Z", &["2026-01-05T06:00:00Z"]);
        check(
            "0 6 * * sat,SUN",
            None,
            "2026-01-05T07:00:00Z",
            &["2026-01-10T06:00:00Z", "2026-01-11T06:00:00Z"],
        );
        // Day of month or day of week: the 13th, and every Friday.
        check(
            "0 0 13 * 5",
            None,
            "2026-01-08T12:00:00Z",
            &["2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"],
        );
        // A star in either, and both must hold.
        check("0 0 13 * *", None, "2026-01-08T12:00:00Z", &["2026-01-13T00:00:00Z", "2026-02-13T00:00:00Z"]);
        check("0 0 */2 * 1", None, "2026-01-01T12:00:00Z", &["2026-01-05T00:00:00Z", "2026-01-19T00:00:00Z"]);
        check("59 23 29 feb *", None, "2026-01-01T00:00:00Z", &["2028-02-29T23:59:00Z"]);
        check(
            "5/20 0 1 1 *",
            None,
            "2026-01-01T00:10:00Z",
            &["2026-01-01T00:25:00Z", "2026-01-01T00:45:00Z"],
        );
        check("0 0 31 * *", None, "2026-01-31T00:00:00Z", &["2026-03-31T00:00:00Z"]);
    }

    #[test]
    fn zones_skip_and_repeat_hours() {
        let paris = Some("Europe/Paris");
        check("0 6 * * *", paris, "2026-03-28T06:00:00Z", &["2026-03-29T04:00:00Z", "2026-03-30T04:00:00Z"]);
        // 02:30 does not exist on 29 March: 03:30 instead, 01:30 UTC.
        check("30 2 * * *", paris, "2026-03-28T12:00:00Z", &["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]);
        // 02:30 comes twice on 25 October: the first time counts.
        check("30 2 * * *", paris, "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        // Every half hour stays every half hour.
        check(
            "*/30 * * * *",
            paris,
            "2026-10-25T00:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"],
        );
        check(
            "*/30 * * * *",
            paris,
            "2026-03-29T00:30:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
        );
    }

    #[test]
    fn the_last_one_missed() {
        let t = |text: &str| text.parse::<Timestamp>().unwrap();
        let daily = Cron::parse("0 6 * * *", None).unwrap();
        let last = daily.last_until(t("2026-01-01T06:00:00Z"), t("2026-03-05T05:59:00Z"));
        assert_eq!(last, Some(t("2026-03-04T06:00:00Z")));
        assert_eq!(daily.last_until(t("2026-01-01T06:00:00Z"), t("2026-01-02T05:00:00Z")), None);
        let yearly = Cron::parse("0 0 1 1 *", None).unwrap();
        let last = yearly.last_until(t("2020-06-01T00:00:00Z"), t("2026-12-01T00:00:00Z"));
        assert_eq!(last, Some(t("2026-01-01T00:00:00Z")));
    }

    #[test]
    fn what_is_no_schedule_is_refused_by_name() {
        for (cron, zone, needle) in [
            ("* * * *", None, "four"),
            ("60 * * * *", None, "minute"),
            ("* * 0 * *", None, "day of month"),
            ("* * * * 8", None, "day of week"),
            ("* * * * x", None, "no number"),
            ("5-1 * * * *", None, "backwards"),
            ("*/0 * * * *", None, "step"),
            ("0 0 31 2 *", None, "never"),
            ("* * * * *", Some("Mars/Olympus"), "zone"),
        ] {
            let error = Cron::parse(cron, zone).unwrap_err().to_string();
            let needle = if needle == "four" { "4 fields" } else { needle };
            assert!(error.contains(needle), "{error}");
        }
    }
}
