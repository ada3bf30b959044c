//! The machine of one condition.

use serde::{Deserialize, Serialize};
use watchfire_model::alert::{AlertId, ConditionOptions, Detail, Evidence, ResolveReason};
use watchfire_model::{Duration, Severity, Timestamp};

/// When something happens to a condition, twice told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The clock of the device, which delays are measured with: the newest event time of its rows, never
    /// going back, not later than their receipt; while no row comes it goes on with the time of the log.
    #[serde(with = "micros")]
    pub clock: Timestamp,
    /// What is told as the time: the event time of the row that caused it, or the time of the callback.
    #[serde(with = "micros")]
    pub at: Timestamp,
}

/// What a rule says when it triggers.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// How bad.
    pub severity: Severity,
    /// For people.
    pub summary: String,
    /// Values.
    pub details: Vec<Detail>,
}

/// Where a condition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It does not stand and nothing is raised.
    #[default]
    Inactive,
    /// It stands, not yet for the on-delay or not yet said often enough.
    Pending {
        /// Since when.
        since: Moment,
    },
    /// It stands and is raised.
    Active,
    /// It is raised and cleared, not yet for the off-delay.
    Clearing {
        /// Since when.
        since: Moment,
    },
    /// It is raised, cleared, and waits for an operator's reset.
    Latched {
        /// It stands again since then, not yet for the on-delay or not yet said often enough.
        again: Option<Moment>,
    },
}

/// A transition to make, and the time to tell with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An alert begins. The driver gives it an id: [`Condition::set_alert`].
    Raised(Timestamp),
    /// The alert goes on with another severity.
    SeverityChanged {
        /// The severity before.
        from: Severity,
        /// When.
        at: Timestamp,
    },
    /// The condition cleared, the alert is latched.
    Cleared(Timestamp),
    /// The alert stands for so long that people are told again, or stands again, as bad as it was told, after it
    /// was latched. (Where it comes back worse or milder, that is a [`Step::SeverityChanged`].)
    Realarmed(Timestamp),
    /// The alert ended.
    Resolved {
        /// Why.
        reason: ResolveReason,
        /// When.
        at: Timestamp,
    },
}

impl Step {
    /// The time to tell.
    pub fn at(&self) -> Timestamp {
        match *self {
            Self::Raised(at) | Self::Cleared(at) | Self::Realarmed(at) => at,
            Self::SeverityChanged { at, .. } | Self::Resolved { at, .. } => at,
        }
    }
}

/// One condition of one device under one rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    phase: Phase,
    /// Of the latest trigger.
    severity: Severity,
    /// What people were told, once they were: a trigger of a latched alert counts only when it stands again, and
    /// must not make anybody believe meanwhile that the new severity was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told_severity: Option<Severity>,
    summary: String,
    details: Vec<Detail>,
    /// The alert that is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alert: Option<AlertId>,
    /// What the latest trigger rests on, until it is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence: Option<Box<Evidence>>,
    /// Triggers since it was raised or began to be pending, the first included.
    count: u64,
    /// Triggers since it began to stand, of an alert that is latched since it began to stand again: what
    /// `minimum_repeat` is compared with.
    #[serde(default)]
    said: u64,
    /// The clock at the latest of them.
    #[serde(default = "never", with = "micros")]
    heard: Timestamp,
    /// The time told last; what is told of one alert does not go back.
    #[serde(with = "micros")]
    told: Timestamp,
    /// The latest trigger, as told.
    #[serde(with = "micros")]
    last_seen: Timestamp,
    /// The clock when people were told last: what re-alarm counts from.
    #[serde(with = "micros")]
    announced: Timestamp,
    /// The clock at the latest raises, the newest last; as many as chatter looks at.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "many_micros")]
    raises: Vec<Timestamp>,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            phase: Phase::Inactive,
            severity: Severity::Info,
            told_severity: None,
            summary: String::new(),
            details: Vec::new(),
            alert: None,
            evidence: None,
            count: 0,
            said: 0,
            heard: never(),
            told: never(),
            last_seen: never(),
            announced: never(),
            raises: Vec::new(),
        }
    }
}

impl Condition {
    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether an alert is raised.
    pub fn is_raised(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Clearing { .. } | Phase::Latched { .. })
    }

    /// Whether time alone may raise it: the driver then keeps what the latest trigger rests on.
    pub fn is_pending(&self) -> bool {
        matches!(self.phase, Phase::Pending { .. })
    }

    /// The alert that is raised, or was last.
    pub fn alert(&self) -> Option<&AlertId> {
        self.alert.as_ref()
    }

    /// Names the alert that [`Step::Raised`] began.
    pub fn set_alert(&mut self, alert: AlertId) {
        self.alert = Some(alert);
    }

    /// Keeps what the latest trigger rests on.
    pub fn set_evidence(&mut self, evidence: Box<Evidence>) {
        self.evidence = Some(evidence);
    }

    /// Gives up what [`Condition::set_evidence`] kept.
    pub fn take_evidence(&mut self) -> Option<Box<Evidence>> {
        self.evidence.take()
    }

    /// As it was told; before anything was told, of the latest trigger.
    pub fn severity(&self) -> Severity {
        self.told_severity.unwrap_or(self.severity)
    }

    /// Of the latest trigger.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Of the latest trigger.
    pub fn details(&self) -> &[Detail] {
        &self.details
    }

    /// Triggers since it began, the first included.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The time told with the latest trigger.
    pub fn last_seen(&self) -> Timestamp {
        self.last_seen
    }

    /// The rule says that the condition stands. Delays that are due by then must have been taken with
    /// [`Condition::advance`] before.
    pub fn trigger(&mut self, options: &ConditionOptions, now: Moment, trigger: Trigger) -> Option<Step> {
        self.severity = trigger.severity;
        (self.summary, self.details) = (trigger.summary, trigger.details);
        self.count += 1;
        self.said += 1;
        self.heard = now.clock;
        self.last_seen = self.last_seen.max(now.at);
        let since = match self.phase {
            Phase::Inactive => {
                (self.count, self.said, self.last_seen) = (1, 1, now.at);
                self.told_severity = None;
                now
            }
            Phase::Latched { again: None } => {
                self.said = 1;
                now
            }
            Phase::Pending { since } | Phase::Latched { again: Some(since) } => since,
            Phase::Active | Phase::Clearing { .. } => {
                self.phase = Phase::Active;
                return self.change_severity(now);
            }
        };
        match (self.is_raised(), self.was_said(options) && since.clock + options.on_delay <= now.clock) {
            (false, true) => Some(self.raise(options, now)),
            (true, true) => Some(self.stand_again(now)),
            (false, false) => {
                self.phase = Phase::Pending { since };
                None
            }
            (true, false) => {
                self.phase = Phase::Latched { again: Some(since) };
                None
            }
        }
    }

    /// The rule says that the condition does not stand. As with [`Condition::trigger`], delays first.
    pub fn clear(&mut self, options: &ConditionOptions, now: Moment) -> Option<Step> {
        match self.phase {
            Phase::Inactive | Phase::Clearing { .. } => None,
            Phase::Pending { .. } | Phase::Latched { .. } => {
                self.give_up();
                None
            }
            Phase::Active if self.off_delay(options) > Duration::ZERO => {
                self.phase = Phase::Clearing { since: now };
                None
            }
            Phase::Active => Some(self.end(options, now)),
        }
    }

    /// The clock of the device stands at `clock`: takes the first delay that is due by then. Called until
    /// it gives none; `now.at` of a step is its own due time, told as the device tells time. What was not said
    /// again in time is given up without a step.
    pub fn advance(&mut self, options: &ConditionOptions, clock: Timestamp) -> Option<Step> {
        let due = self.due(options).filter(|due| *due <= clock)?;
        let when = |since: Moment, delay: Duration| Moment { clock: due, at: since.at + delay };
        match self.phase {
            Phase::Pending { .. } | Phase::Latched { again: Some(_) } if !self.was_said(options) => {
                self.give_up();
                return None;
            }
            Phase::Pending { since } => return Some(self.raise(options, when(since, options.on_delay))),
            Phase::Latched { again: Some(since) } => {
                return Some(self.stand_again(when(since, options.on_delay)));
            }
            Phase::Clearing { since } if since.clock + self.off_delay(options) == due => {
                let delay = self.off_delay(options);
                return Some(self.end(options, when(since, delay)));
            }
            _ => {}
        }
        // What is left is re-alarm: told once, however many times over it is due, but not past the end.
        let realarm = options.realarm.filter(|span| *span > Duration::ZERO)?;
        let until = match self.phase {
            Phase::Clearing { since } => clock.min(since.clock + self.off_delay(options)),
            _ => clock,
        };
        let periods = until.since(self.announced).0 / realarm.0;
        self.announced = self.announced + Duration(realarm.0 * periods);
        Some(Step::Realarmed(self.tell(self.announced)))
    }

    /// Nobody looked for a while, until `clock`: a delay that was under way begins again, and so does the count.
    pub fn begin_delay_anew(&mut self, clock: Timestamp) {
        self.said = self.said.min(1);
        if let Phase::Pending { since } | Phase::Clearing { since } | Phase::Latched { again: Some(since) } =
            &mut self.phase
        {
            since.at = since.at + clock.since(since.clock);
            since.clock = since.clock.max(clock);
        }
    }

    /// When [`Condition::advance`] has something to do next, by the clock of the device.
    pub fn due(&self, options: &ConditionOptions) -> Option<Timestamp> {
        let realarm = options.realarm.filter(|span| *span > Duration::ZERO);
        let realarm = realarm.map(|span| self.announced + span);
        match self.phase {
            Phase::Inactive | Phase::Latched { again: None } => None,
            Phase::Pending { since } | Phase::Latched { again: Some(since) } if self.was_said(options) => {
                Some(since.clock + options.on_delay)
            }
            // A trigger exactly at the end of the pause still counts.
            Phase::Pending { since } | Phase::Latched { again: Some(since) } => {
                Some(self.heard.max(since.clock) + options.longest_pause() + Duration(1))
            }
            Phase::Active => realarm,
            Phase::Clearing { since } => {
                let over = since.clock + self.off_delay(options);
                Some(realarm.map_or(over, |realarm| realarm.min(over)))
            }
        }
    }

    /// An operator resets a latched alert, or clears any by force.
    pub fn reset(&mut self, force: bool, at: Timestamp) -> Option<Step> {
        match self.phase {
            Phase::Latched { again: None } => Some(self.resolve(ResolveReason::Operator, at)),
            _ if force => self.remove(ResolveReason::Operator, at),
            _ => None,
        }
    }

    /// Rule or device are gone: what is raised ends, what is pending is forgotten.
    pub fn remove(&mut self, reason: ResolveReason, at: Timestamp) -> Option<Step> {
        let step = self.is_raised().then(|| self.resolve(reason, at));
        self.phase = Phase::Inactive;
        self.evidence = None;
        step
    }

    /// Whether there is nothing left to remember: it is inactive, and chatter does not look at its raises
    /// any more.
    pub fn is_over(&self, options: &ConditionOptions, clock: Timestamp) -> bool {
        let window = options.chatter.as_ref().map_or(Duration::ZERO, |chatter| chatter.window);
        self.phase == Phase::Inactive && self.raises.last().is_none_or(|raise| *raise + window < clock)
    }

    /// Whether it was said often enough to be raised, or told again.
    fn was_said(&self, options: &ConditionOptions) -> bool {
        self.said >= u64::from(options.minimum_repeat)
    }

    /// It does not stand any more, and nobody was told that it did.
    fn give_up(&mut self) {
        self.phase = match self.phase {
            Phase::Latched { .. } => Phase::Latched { again: None },
            _ => Phase::Inactive,
        };
        self.evidence = None;
    }

    fn raise(&mut self, options: &ConditionOptions, now: Moment) -> Step {
        self.phase = Phase::Active;
        (self.announced, self.told) = (now.clock, now.at);
        self.told_severity = Some(self.severity);
        match &options.chatter {
            Some(chatter) => {
                let keep = (chatter.count.clamp(1, 1000) - 1) as usize;
                let over = self.raises.len().saturating_sub(keep);
                self.raises.drain(..over);
                self.raises.push(now.clock);
            }
            None => self.raises.clear(),
        }
        Step::Raised(now.at)
    }

    fn stand_again(&mut self, now: Moment) -> Step {
        self.phase = Phase::Active;
        self.announced = now.clock;
        self.change_severity(now).unwrap_or_else(|| Step::Realarmed(self.tell(now.at)))
    }

    fn change_severity(&mut self, now: Moment) -> Option<Step> {
        let from = self.severity();
        self.told_severity = Some(self.severity);
        (from != self.severity).then(|| {
            self.announced = now.clock;
            Step::SeverityChanged { from, at: self.tell(now.at) }
        })
    }

    fn end(&mut self, options: &ConditionOptions, now: Moment) -> Step {
        if options.latched {
            self.phase = Phase::Latched { again: None };
            return Step::Cleared(self.tell(now.at));
        }
        self.resolve(ResolveReason::Cleared, now.at)
    }

    fn resolve(&mut self, reason: ResolveReason, at: Timestamp) -> Step {
        self.phase = Phase::Inactive;
        self.evidence = None;
        Step::Resolved { reason, at: self.tell(at) }
    }

    fn tell(&mut self, at: Timestamp) -> Timestamp {
        self.told = self.told.max(at);
        self.told
    }

    /// The off-delay, and while it chatters at least the window: so many raises so close together that it
    /// stays raised until it was clear for all of it.
    fn off_delay(&self, options: &ConditionOptions) -> Duration {
        match &options.chatter {
            Some(chatter) if self.chatters(chatter.count, chatter.window) => {
                options.off_delay.max(chatter.window)
            }
            _ => options.off_delay,
        }
    }

    fn chatters(&self, count: u32, window: Duration) -> bool {
        let count = count.clamp(1, 1000) as usize;
        match (self.raises.len().checked_sub(count), self.raises.last()) {
            (Some(first), Some(last)) => last.since(self.raises[first]) <= window,
            _ => false,
        }
    }
}

fn never() -> Timestamp {
    Timestamp(i64::MIN)
}

/// Times as integer microseconds: exact over the whole range, unlike RFC 3339.
mod micros {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use watchfire_model::Timestamp;

    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        time.0.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(deserializer).map(Timestamp)
    }
}

mod many_micros {
    use serde::{Deserialize, Deserializer, Serializer};
    use watchfire_model::Timestamp;

    pub fn serialize<S: Serializer>(times: &[Timestamp], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(times.iter().map(|time| time.0))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Timestamp>, D::Error> {
        Vec::<i64>::deserialize(deserializer).map(|times| times.into_iter().map(Timestamp).collect())
    }
}
