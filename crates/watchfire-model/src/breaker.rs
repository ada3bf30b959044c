//! When a rule that keeps failing is taken out of a partition, and what becomes of what it misses meanwhile.

use serde::{Deserialize, Serialize};

use crate::time::Duration;

/// When the breaker of a rule opens, and how it closes again. It looks at one rule in one partition, over the last
/// [`BreakerOptions::span`] of log time; what is older counts no more, so it is a rate that opens it and not a number
/// that every rule reaches some day.
///
/// It does not protect from a rule that is slow and succeeds: that is what limits are for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerOptions {
    /// `false`: a rule that fails is called all the same, and what it fails on becomes dead letters. Default `true`.
    pub enabled: bool,
    /// It opens where at least this share of the callbacks failed. A callback of which some rows were at fault and
    /// others evaluated has not failed. Default 0.5: a rule that half of the time does nothing watches nothing, and
    /// one bad device among many opens no breaker for the good ones.
    pub failures: f64,
    /// It opens where callbacks that failed, and the search for rows at fault, took at least this share of the span.
    /// Default 0.1: the other rules of the partition wait meanwhile. Three failures are the least, since one that took
    /// long may be the machine.
    pub time: f64,
    /// Fewer callbacks than this in the span say nothing about a share. Default 20: with one failure in four, by
    /// chance, ten of twenty come together once in seventy spans.
    pub calls: u32,
    /// The span of log time that is looked at. Default 60 s: a service or a sensor that hiccups is over it, and a rule
    /// that is broken is out before it has made a thousand dead letters.
    pub span: Duration,
    /// It is tried again after this long, and each time that it fails after twice the time before. Default 10 s.
    pub wait: Duration,
    /// It is tried again after this long at the latest. Default 10 min: what is repaired elsewhere is noticed by then,
    /// and a try may cost as much as a call.
    pub longest_wait: Duration,
    /// What becomes of what it missed. Default `catch-up`: an alert that is late is better than none.
    pub on_recovery: OnRecovery,
}

/// What becomes of the rows that a rule missed while it was out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRecovery {
    /// It evaluates them in their order before it goes on with new ones.
    #[default]
    CatchUp,
    /// It goes on with new ones.
    Skip,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            failures: 0.5,
            time: 0.1,
            calls: 20,
            span: Duration::from_secs(60),
            wait: Duration::from_secs(10),
            longest_wait: Duration::from_secs(600),
            on_recovery: OnRecovery::CatchUp,
        }
    }
}

impl BreakerOptions {
    /// Refuses what no breaker could work with: the member, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let seconds = Duration::from_secs;
        for (name, share) in [("failures", self.failures), ("time", self.time)] {
            // Written so that no number at all is refused too.
            if !(0.01..=1.0).contains(&share) {
                return Err((name, "a share is between 0.01 and 1"));
            }
        }
        if !(1..=1_000_000).contains(&self.calls) {
            return Err(("calls", "the least number of callbacks is between 1 and 1000000"));
        }
        if !(seconds(1)..=seconds(3600)).contains(&self.span) {
            return Err(("span", "the span that is looked at is between 1 s and 1 h"));
        }
        if !(seconds(1)..=seconds(3600)).contains(&self.wait) {
            return Err(("wait", "the first wait is between 1 s and 1 h"));
        }
        if !(self.wait..=seconds(86_400)).contains(&self.longest_wait) {
            return Err(("longest_wait", "the longest wait is between the first one and 24 h"));
        }
        Ok(())
    }

    /// The wait behind one that was not long enough.
    pub fn wait_after(&self, wait: Duration) -> Duration {
        Duration(wait.0.saturating_mul(2)).clamp(self.wait, self.longest_wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), &str>) {
        let options: BreakerOptions = serde_json::from_str(text).unwrap();
        assert_eq!(options.check().map_err(|(name, _)| name), expected, "{text}");
    }

    #[test]
    fn options_stay_within_reason() {
        check("{}", Ok(()));
        check(r#"{"failures":1,"time":0.01,"calls":1,"span":"1s","wait":"1s","longest_wait":"1s"}"#, Ok(()));
        check(r#"{"failures":0}"#, Err("failures"));
        check(r#"{"time":1.5}"#, Err("time"));
        check(r#"{"calls":0}"#, Err("calls"));
        check(r#"{"span":"2h"}"#, Err("span"));
        check(r#"{"wait":"100ms"}"#, Err("wait"));
        check(r#"{"wait":"30s","longest_wait":"20s"}"#, Err("longest_wait"));
        assert!(serde_json::from_str::<BreakerOptions>(r#"{"fails":1}"#).is_err());
        assert!(serde_json::from_str::<BreakerOptions>(r#"{"on_recovery":"forget"}"#).is_err());
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let options = BreakerOptions::default();
        let mut wait = options.wait;
        let mut seconds = Vec::new();
        for _ in 0..8 {
            seconds.push(wait.0 / 1_000_000);
            wait = options.wait_after(wait);
        }
        assert_eq!(seconds, [10, 20, 40, 80, 160, 320, 600, 600]);
    }
}
