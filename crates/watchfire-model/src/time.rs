//! Times and spans in microseconds: what the log stores and what guests see.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since the Unix epoch, UTC. Written as RFC 3339 with six decimals; read from RFC 3339 or
/// from integer milliseconds since the epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// Microseconds, never negative. Written and read as a number of seconds in documents (`12.5`), or as
/// text with a unit (`"90s"`, `"5m"`, `"2h"`, `"1d"`, `"250ms"`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(pub u64);

/// A text that is no time or span.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not {expected}")]
pub struct TimeError {
    text: String,
    expected: &'static str,
}

const RFC_3339: &str = "an RFC 3339 time such as 2026-01-01T00:00:00Z";
const SPAN: &str = "a span such as 250ms, 90s, 5m, 2h or 1d";

impl Timestamp {
    /// The time `milliseconds` after the Unix epoch; `None` where microseconds would overflow.
    pub fn from_millis(milliseconds: i64) -> Option<Self> {
        milliseconds.checked_mul(1000).map(Self)
    }

    /// This time as jiff knows it; times outside of its range (years -9999 to 9999) are clamped.
    pub fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }

    /// The span from `earlier` to this time; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0).max(0) as u64)
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Self {
        Self(time.as_microsecond())
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add_unsigned(span.0))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(span.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.to_jiff())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimeError;
    fn from_str(text: &str) -> Result<Self, TimeError> {
        text.parse::<jiff::Timestamp>()
            .map(Self::from)
            .map_err(|_| TimeError { text: text.into(), expected: RFC_3339 })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time or integer milliseconds since the epoch")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Timestamp, E> {
                Timestamp::from_millis(number).ok_or_else(|| E::custom("milliseconds out of range"))
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Timestamp, E> {
                i64::try_from(number)
                    .ok()
                    .and_then(Timestamp::from_millis)
                    .ok_or_else(|| E::custom("milliseconds out of range"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1_000_000)
    }

    /// A span of whole milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds * 1000)
    }

    /// The span in seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The same span for timers of the process.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0)
    }

    fn from_secs_f64(seconds: f64) -> Option<Self> {
        (seconds.is_finite() && (0.0..1e12).contains(&seconds)).then(|| Self((seconds * 1e6).round() as u64))
    }
}

impl From<std::time::Duration> for Duration {
    fn from(span: std::time::Duration) -> Self {
        Self(span.as_micros().min(u64::MAX.into()) as u64)
    }
}

impl fmt::Display for Duration {
    /// The largest unit that divides the span: `90s`, `5m`, `250ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units =
            [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1000, "ms")];
        match units.iter().find(|(size, _)| self.0 >= *size && self.0.is_multiple_of(*size)) {
            Some((size, unit)) => write!(f, "{}{unit}", self.0 / size),
            None if self.0 == 0 => f.write_str("0s"),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Duration {
    type Err = TimeError;
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let error = || TimeError { text: text.into(), expected: SPAN };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
        let number: f64 = trimmed[..split].parse().map_err(|_| error())?;
        let seconds = match trimmed[split..].trim() {
            "us" => 1e-6,
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(error()),
        };
        Self::from_secs_f64(number * seconds).ok_or_else(error)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Duration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds or a span such as \"5m\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Duration, E> {
                Duration::from_secs_f64(seconds).ok_or_else(|| E::custom("seconds out of range"))
            }
            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Duration, E> {
                self.visit_f64(seconds as f64)
            }
            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Duration, E> {
                self.visit_f64(seconds as f64)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_six_decimals_and_are_read_back() {
        let time: Timestamp = "2026-01-01T02:00:00.5+02:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-01-01T00:00:00.500000Z");
        assert_eq!(serde_json::from_str::<Timestamp>("1767225600500").unwrap(), time);
        assert_eq!(serde_json::from_str::<Timestamp>(&serde_json::to_string(&time).unwrap()).unwrap(), time);
        assert!("yesterday".parse::<Timestamp>().unwrap_err().to_string().contains("RFC 3339"));
        assert!(serde_json::from_str::<Timestamp>("9223372036854775807").is_err());
    }

    #[test]
    fn spans_read_units_and_print_the_largest_that_divides() {
        for (text, micros, printed) in [
            ("90s", 90_000_000, "90s"),
            ("5m", 300_000_000, "5m"),
            ("1.5", 1_500_000, "1500ms"),
            ("0", 0, "0s"),
            ("1d", 86_400_000_000, "1d"),
        ] {
            let span: Duration = text.parse().unwrap();
            assert_eq!((span.0, span.to_string().as_str()), (micros, printed));
            assert_eq!(span.to_string().parse::<Duration>().unwrap(), span);
        }
        for bad in ["", "-1s", "5 parsecs", "NaN", "1e300h"] {
            assert!(bad.parse::<Duration>().is_err(), "{bad}");
        }
    }
}
