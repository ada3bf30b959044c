//! What many rules need, as fields of a state: kept for each device, the same in every language.
//!
//! All arithmetic is IEEE 754 in the order written, without fused operations: a verdict is the same
//! everywhere.

use crate::{Timestamp, state};

state! {
    /// Exponentially weighted mean and variance.
    ///
    /// Finch, "Incremental calculation of weighted mean and variance" (2009), section 9.
    pub struct Ewma {
        /// The mean so far.
        pub mean: f64,
        /// The variance so far.
        pub variance: f64,
        /// How many values there were.
        pub count: i64,
    }
}

impl Ewma {
    /// Takes a value in, with the weight `alpha` (0 to 1; more follows faster). The first one is the mean.
    #[inline]
    pub fn update(&mut self, x: f64, alpha: f64) {
        if self.count == 0 {
            self.mean = x;
            self.variance = 0.0;
        } else {
            let delta = x - self.mean;
            self.mean += alpha * delta;
            self.variance = (1.0 - alpha) * (self.variance + alpha * delta * delta);
        }
        self.count = self.count.saturating_add(1);
    }

    /// How many standard deviations a value is away from the mean; 0 while there is no variance.
    #[inline]
    pub fn deviation(&self, x: f64) -> f64 {
        if self.variance == 0.0 { 0.0 } else { (x - self.mean) / self.variance.sqrt() }
    }
}

state! {
    /// How fast a value changes.
    pub struct RateOfChange {
        /// The value before.
        pub value: f64,
        /// When that was.
        pub time: i64,
        /// Whether there was one.
        pub known: bool,
    }
}

impl RateOfChange {
    /// Takes a value in and gives its change per second since the one before. `None` for the first one, and
    /// for one that is not later than that: it is left aside.
    #[inline]
    pub fn update(&mut self, time: Timestamp, x: f64) -> Option<f64> {
        if self.known && time <= self.time {
            return None;
        }
        let seconds = time.wrapping_sub(self.time) as f64 / 1e6;
        let rate = self.known.then(|| (x - self.value) / seconds);
        *self = Self { value: x, time, known: true };
        rate
    }
}

/// What a [`Hysteresis`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// It became active.
    Rising,
    /// It is no longer active.
    Falling,
    /// It is what it was.
    Unchanged,
}

state! {
    /// A limit with a distance back: it becomes active beyond one and inactive on the other side of another.
    pub struct Hysteresis {
        /// Whether it is active.
        pub active: bool,
    }
}

impl Hysteresis {
    /// Takes a value in. With `on` at or above `off` it is for high values: active above `on`, inactive below
    /// `off`; with `on` below `off` for low ones: active below `on`, inactive above `off`.
    #[inline]
    pub fn update(&mut self, x: f64, on: f64, off: f64) -> Edge {
        let high = on >= off;
        let beyond = if high { x > on } else { x < on };
        let back = if high { x < off } else { x > off };
        if !self.active && beyond {
            self.active = true;
            Edge::Rising
        } else if self.active && back {
            self.active = false;
            Edge::Falling
        } else {
            Edge::Unchanged
        }
    }
}

state! {
    /// A condition that counts once it held for some time.
    pub struct Debounce {
        /// When it began to hold.
        pub since: i64,
        /// Whether it holds.
        pub pending: bool,
    }
}

impl Debounce {
    /// Takes in whether the condition holds at a time; says whether it has held for `hold` microseconds.
    #[inline]
    pub fn update(&mut self, condition: bool, time: Timestamp, hold: i64) -> bool {
        if !condition {
            self.pending = false;
            return false;
        }
        if !self.pending {
            self.pending = true;
            self.since = time;
        }
        time.saturating_sub(self.since) >= hold
    }
}

/// What a window held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Where it begins.
    pub start: Timestamp,
    /// Where it ends; this instant is of the next one.
    pub end: Timestamp,
    /// How many values.
    pub count: i64,
    /// Their sum.
    pub sum: f64,
    /// The least; NaN where there is none.
    pub min: f64,
    /// The greatest; NaN where there is none.
    pub max: f64,
    /// `sum / count`; NaN where there is none.
    pub mean: f64,
}

state! {
    /// Values of one span of time after the other.
    pub struct TumblingWindow {
        /// Which span since 1970.
        pub index: i64,
        /// How many values.
        pub count: i64,
        /// Their sum.
        pub sum: f64,
        /// The least.
        pub min: f64,
        /// The greatest.
        pub max: f64,
    }
}

impl TumblingWindow {
    /// Takes a value in, and gives the window that it closes: the one before, once a value of a later one
    /// comes. `span` is in microseconds, above 0. A value of an earlier window is left aside.
    #[inline]
    pub fn add(&mut self, time: Timestamp, x: f64, span: i64) -> Option<Window> {
        let index = time.div_euclid(span);
        if self.count > 0 && index < self.index {
            return None;
        }
        let closed = (self.count > 0 && index > self.index).then(|| self.window(span));
        if self.count == 0 || closed.is_some() {
            *self = Self { index, count: 0, sum: 0.0, min: 0.0, max: 0.0 };
        }
        self.take(x);
        closed
    }

    /// One more value of the span.
    #[inline]
    pub(crate) fn take(&mut self, x: f64) {
        if self.count == 0 {
            (self.sum, self.min, self.max) = (x, x, x);
        } else {
            self.sum += x;
            self.min = least(self.min, x);
            self.max = greatest(self.max, x);
        }
        self.count = self.count.saturating_add(1);
    }

    fn window(&self, span: i64) -> Window {
        let start = self.index.saturating_mul(span);
        let Self { count, sum, min, max, .. } = *self;
        Window { start, end: start.saturating_add(span), count, sum, min, max, mean: sum / count as f64 }
    }
}

/// Not `f64::min`: which of -0 and 0 that gives is left open.
#[inline]
pub(crate) fn least(min: f64, x: f64) -> f64 {
    if x < min { x } else { min }
}

#[inline]
pub(crate) fn greatest(max: f64, x: f64) -> f64 {
    if x > max { x } else { max }
}
