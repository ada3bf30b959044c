//! Values that are made: how a metric goes over a series of readings.

use std::f64::consts::TAU;

use serde::Deserialize;
use watchfire_model::{Duration, Value};

use crate::file::Pairs;

/// What a value is made of. The parts that stand together are added up; they all begin at the `at` of their step.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeriesFile {
    /// The same always.
    value: Option<f64>,
    /// Evenly from one value ...
    from: Option<f64>,
    /// ... to the other.
    to: Option<f64>,
    /// From a span since the beginning on, this value. Alone they may be flags or texts.
    steps: Option<Pairs<Value>>,
    sine: Option<Sine>,
    noise: Option<Noise>,
}

/// `offset + amplitude * sin(2 pi (t / period + phase / 360))`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sine {
    amplitude: f64,
    period: Duration,
    #[serde(default)]
    offset: f64,
    /// Degrees.
    #[serde(default)]
    phase: f64,
}

/// Numbers that look like chance and are the same each time: see [`Random`].
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noise {
    /// Evenly between minus this and this ...
    amplitude: Option<f64>,
    /// ... or normally distributed with this standard deviation.
    deviation: Option<f64>,
    #[serde(default)]
    seed: u64,
}

/// A series that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    constant: f64,
    ramp: Option<(f64, f64)>,
    steps: Vec<(Duration, Value)>,
    sine: Option<Sine>,
    noise: Option<(Noise, Random)>,
}

impl Series {
    /// Checks a series. Its noise is that of this device and metric.
    pub fn new(file: &SeriesFile, device: &str, metric: &str) -> Result<Self, String> {
        let SeriesFile { value, from, to, steps, sine, noise } = file;
        let ramp = match (from, to) {
            (Some(from), Some(to)) => Some((*from, *to)),
            (None, None) => None,
            _ => return Err("`from` and `to` go together".into()),
        };
        let steps = steps.as_ref().map(|steps| check_steps(&steps.0)).transpose()?.unwrap_or_default();
        let numbers = value.is_some() || ramp.is_some() || sine.is_some() || noise.is_some();
        if !numbers && steps.is_empty() {
            return Err("give `from` and `to`, `value`, `steps`, `sine` or `noise`".into());
        }
        if numbers && steps.iter().any(|(_, value)| !matches!(value, Value::Number(_))) {
            return Err("flags and texts cannot be added to: `steps` of them stand alone".into());
        }
        if sine.is_some_and(|sine| sine.period == Duration::ZERO) {
            return Err("a sine has a `period` above zero".into());
        }
        if noise.is_some_and(|noise| noise.amplitude.is_some() == noise.deviation.is_some()) {
            return Err("noise has either an `amplitude` or a `deviation`".into());
        }
        let noise = noise.map(|noise| (noise, Random::of(noise.seed, device, metric)));
        Ok(Self { constant: value.unwrap_or_default(), ramp, steps, sine: *sine, noise })
    }

    /// The next value: so long after the beginning, which is this part of the whole.
    pub fn next(&mut self, since: Duration, part: f64) -> Value {
        let step = self.steps.iter().rev().find(|(from, _)| *from <= since).map(|(_, value)| value);
        let mut sum = self.constant;
        match step {
            Some(Value::Number(number)) => sum += number,
            Some(other) => return other.clone(),
            None => {}
        }
        if let Some((from, to)) = self.ramp {
            sum += from + (to - from) * part;
        }
        if let Some(Sine { amplitude, period, offset, phase }) = self.sine {
            // Whole periods are taken off first: far away the sine of a large number is a coarse one.
            let turn = (since.0 % period.0) as f64 / period.0 as f64 + phase / 360.0;
            sum += offset + amplitude * (TAU * turn).sin();
        }
        if let Some((noise, random)) = &mut self.noise {
            sum += match (noise.amplitude, noise.deviation) {
                (Some(amplitude), _) => amplitude * (2.0 * random.unit() - 1.0),
                (None, deviation) => deviation.unwrap_or_default() * random.normal(),
            };
        }
        Value::Number(sum)
    }
}

fn check_steps(steps: &[(String, Value)]) -> Result<Vec<(Duration, Value)>, String> {
    let mut checked: Vec<(Duration, Value)> = Vec::new();
    for (from, value) in steps {
        let from: Duration =
            from.parse().map_err(|error: watchfire_model::time::TimeError| error.to_string())?;
        match checked.last() {
            None if from > Duration::ZERO => return Err("the first of the `steps` is from 0s on".into()),
            Some((before, _)) if *before >= from => {
                return Err(format!("`steps` ascend, and {from} is not behind {before}"));
            }
            _ => checked.push((from, value.clone())),
        }
    }
    let kind = checked.first().map(|(_, value)| std::mem::discriminant(value));
    if checked.iter().any(|(_, value)| Some(std::mem::discriminant(value)) != kind) {
        return Err("`steps` are all numbers, all flags or all texts".into());
    }
    if checked.is_empty() {
        return Err("`steps` has at least one".into());
    }
    Ok(checked)
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): from a seed the
/// same numbers on every machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers of a metric of a device: with one seed each has its own. The state to begin with is the seed, changed
    /// by FNV-1a (64 bit) of the device, a zero byte and the metric.
    fn of(seed: u64, device: &str, metric: &str) -> Self {
        let bytes = device.bytes().chain([0]).chain(metric.bytes());
        let name = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(seed ^ name)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1: the upper 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// With mean 0 and standard deviation 1: Box and Muller, "A note on the generation of random normal deviates",
    /// 1958. Of each pair of numbers one is used.
    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (TAU * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(text: &str) -> Result<Series, String> {
        let file: SeriesFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Series::new(&file, "a", "x")
    }

    fn check(text: &str, at: u64, part: f64, expected: f64) {
        let Value::Number(number) = series(text).unwrap().next(Duration::from_secs(at), part) else {
            panic!("{text} is no number");
        };
        assert!((number - expected).abs() < 1e-9, "{text} at {at}: {number} is not {expected}");
    }

    #[test]
    fn parts_are_added_up() {
        check(r#"{"from":10,"to":20}"#, 5, 0.25, 12.5);
        let sine = r#"{"sine":{"amplitude":5,"period":"1m","offset":20}}"#;
        for (at, expected) in [(0, 20.0), (15, 25.0), (30, 20.0), (45, 15.0), (60 * 60 * 24 * 365 + 15, 25.0)]
        {
            check(sine, at, 0.0, expected);
        }
        check(r#"{"sine":{"amplitude":2,"period":60,"phase":90}}"#, 0, 0.0, 2.0);
        let steps = r#"{"steps":{"0s":1,"1m":3}}"#;
        check(steps, 59, 0.0, 1.0);
        check(steps, 60, 0.0, 3.0);
        let all = r#"{"value":100,"from":0,"to":10,"steps":{"0s":1000},"sine":{"amplitude":1,"period":60}}"#;
        check(all, 15, 0.5, 1106.0);
        let mut modes = series(r#"{"steps":{"0s":"idle","10s":"auto"}}"#).unwrap();
        assert_eq!(modes.next(Duration::from_secs(9), 0.0), Value::Text("idle".into()));
        assert_eq!(modes.next(Duration::from_secs(10), 0.0), Value::Text("auto".into()));
    }

    #[test]
    fn chance_is_the_same_each_time_and_for_each_its_own() {
        // The reference implementation gives these for the seed 1234567.
        let mut random = Random(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next(), random.next(), random.next()], expected);
        let draw = |device: &str, text: &str| -> Vec<f64> {
            let file: SeriesFile = serde_json::from_str(text).unwrap();
            let mut series = Series::new(&file, device, "x").unwrap();
            let number = |_| match series.next(Duration::ZERO, 0.0) {
                Value::Number(number) => number,
                other => panic!("{other:?}"),
            };
            (0..10_000).map(number).collect()
        };
        let even = r#"{"value":7,"noise":{"amplitude":2,"seed":1}}"#;
        let normal = r#"{"noise":{"deviation":2,"seed":1}}"#;
        assert_eq!(draw("a", even), draw("a", even));
        assert_ne!(draw("a", even)[0], draw("b", even)[0]);
        assert_ne!(draw("a", even)[0], draw("a", &even.replace(":1}", ":2}"))[0]);
        assert!(draw("a", even).iter().all(|x| (5.0..9.0).contains(x)));
        let moments = |all: &[f64]| {
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            (mean, (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt())
        };
        let (mean, deviation) = moments(&draw("a", normal));
        assert!(mean.abs() < 0.06 && (deviation - 2.0).abs() < 0.06, "{mean} {deviation}");
        let (mean, deviation) = moments(&draw("a", even));
        assert!(
            (mean - 7.0).abs() < 0.04 && (deviation - 2.0 / 3_f64.sqrt()).abs() < 0.04,
            "{mean} {deviation}"
        );
    }

    #[test]
    fn what_makes_no_series_is_refused() {
        for (text, expected) in [
            ("{}", "give `from` and `to`"),
            (r#"{"from":1}"#, "go together"),
            (r#"{"sine":{"amplitude":1,"period":0}}"#, "above zero"),
            (r#"{"sine":{"amplitude":1}}"#, "period"),
            (r#"{"noise":{}}"#, "either"),
            (r#"{"noise":{"amplitude":1,"deviation":1}}"#, "either"),
            (r#"{"steps":{}}"#, "at least one"),
            (r#"{"steps":{"1s":1}}"#, "from 0s on"),
            (r#"{"steps":{"0s":1,"10s":2,"5s":3}}"#, "5s is not behind 10s"),
            (r#"{"steps":{"0s":1,"10s":true}}"#, "all numbers"),
            (r#"{"steps":{"soon":1}}"#, "soon"),
            (r#"{"value":1,"steps":{"0s":"a"}}"#, "stand alone"),
            (r#"{"step":{"0s":1}}"#, "unknown field"),
        ] {
            let error = series(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
