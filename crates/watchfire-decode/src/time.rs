//! Times as devices write them.

use watchfire_model::Timestamp;

/// Reads an RFC 3339 time. The common form is read without a general parser: it is one in every reading.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    fast(text.as_bytes()).or_else(|| text.parse().ok())
}

/// `YYYY-MM-DDTHH:MM:SS[.f…](Z|±HH:MM)`. Everything else, leap seconds included, is left to the general parser.
fn fast(b: &[u8]) -> Option<Timestamp> {
    if b.len() < 20 || b[4] != b'-' || b[7] != b'-' || !matches!(b[10], b'T' | b't' | b' ') {
        return None;
    }
    if b[13] != b':' || b[16] != b':' {
        return None;
    }
    let year = i64::from(two(b, 0)?) * 100 + i64::from(two(b, 2)?);
    let (month, day) = (two(b, 5)?, two(b, 8)?);
    let (hour, minute, second) = (two(b, 11)?, two(b, 14)?, two(b, 17)?);
    if !(1..=12).contains(&month) || day == 0 || day > days_of(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut micros = 0_i64;
    if b[at] == b'.' {
        at += 1;
        let mut unit = 100_000;
        let first = at;
        while at < b.len() && b[at].is_ascii_digit() {
            // Below a microsecond digits are dropped: that is the resolution of the log.
            micros += i64::from(b[at] - b'0') * unit;
            unit /= 10;
            at += 1;
        }
        // More than nine digits: the general parser decides.
        if at == first || at - first > 9 {
            return None;
        }
    }
    let offset = match b.get(at)? {
        b'Z' | b'z' if at + 1 == b.len() => 0,
        sign @ (b'+' | b'-') if at + 6 == b.len() && b[at + 3] == b':' => {
            let (h, m) = (two(b, at + 1)?, two(b, at + 4)?);
            if h > 23 || m > 59 {
                return None;
            }
            let minutes = i64::from(h) * 60 + i64::from(m);
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let days = days_from_civil(year, i64::from(month), i64::from(day));
    let minutes = days * 1440 + i64::from(hour) * 60 + i64::from(minute) - offset;
    Some(Timestamp((minutes * 60 + i64::from(second)) * 1_000_000 + micros))
}

fn two(b: &[u8], at: usize) -> Option<u8> {
    let (tens, ones) = (b[at].wrapping_sub(b'0'), b[at + 1].wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| tens * 10 + ones)
}

fn days_of(year: i64, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar. Years are counted from March, so that the leap day
/// is the last of its year, and in eras of 400 years, which all have 146 097 days.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_path_agrees_with_the_general_parser() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2026-01-01T00:00:00.000Z",
            "2024-02-29T23:59:59.999999Z",
            "2000-02-29T12:00:00+05:30",
            "2100-03-01T00:00:00-08:00",
            "0001-01-01T00:00:00Z",
            "9999-12-30T00:00:00z",
            "2026-06-15 10:11:12.5Z",
        ] {
            assert_eq!(fast(text.as_bytes()), text.parse().ok(), "{text}");
        }
        // Every month of some hundred years, and the days around its end.
        for year in (1890..2110).chain([0, 400, 9998]) {
            for month in 1..=12 {
                for day in [1, 27, 28, 29, 30, 31] {
                    let text = format!("{year:04}-{month:02}-{day:02}T01:02:03.25Z");
                    assert_eq!(fast(text.as_bytes()), text.parse().ok(), "{text}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-01-01T25:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1:00",
            "２０２６-01-01T00:00:00Z",
            "2026-01-01T00:00:00Zx",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        // Digits below a microsecond are dropped.
        assert_eq!(parse("1970-01-01T00:00:00.123456789Z"), Some(Timestamp(123_456)));
    }
}
