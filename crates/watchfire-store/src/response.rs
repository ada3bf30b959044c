//! What people do to alerts: the response half of ISA-18.2 and OPC UA Part 9, as a pure function of the alert as it
//! stands, what is done, who does it, and when.
//!
//! The flags do not depend on each other. None of them changes the condition, which goes on being evaluated.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use utoipa::ToSchema;
use watchfire_model::alert::Detail;
use watchfire_model::{Duration, Timestamp, Value};

use crate::alerts::{AlertRow, AlertSource, AlertState};
use crate::db::{parsed_opt, time_opt};
use crate::error::StoreError;

/// What people did to an alert beside acknowledging it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Response {
    /// The acknowledgement counts until then; missing: until the alert ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub acknowledged_until: Option<Timestamp>,
    /// Somebody did something about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub confirmed_at: Option<Timestamp>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed_by: Option<String>,
    /// What was said with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_comment: Option<String>,
    /// Nobody wants to be told of it for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub shelved_at: Option<Timestamp>,
    /// Who said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shelved_by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shelve_reason: Option<String>,
    /// When it is told again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub shelved_until: Option<Timestamp>,
    /// Shelving ends with the alert, and does not go over to the next of the same condition.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shelve_one_shot: bool,
    /// When people are told that shelving ends soon.
    #[serde(skip)]
    pub shelve_notice_at: Option<Timestamp>,
    /// The device or the rule is out of service, or the alert is suppressed by design.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub suppressed_at: Option<Timestamp>,
    /// Who said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed_by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppress_reason: Option<String>,
    /// Which of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed_as: Option<SuppressedAs>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_to: Option<String>,
    /// Who said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_by: Option<String>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub assigned_at: Option<Timestamp>,
}

/// Why nobody is told of alerts of a device or a rule (ISA-18.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuppressedAs {
    /// It is being worked on, or is not trusted.
    OutOfService,
    /// As things are, these alerts say nothing.
    ByDesign,
}

impl SuppressedAs {
    /// As written in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfService => "out_of_service",
            Self::ByDesign => "by_design",
        }
    }
}

impl std::str::FromStr for SuppressedAs {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "out_of_service" => Ok(Self::OutOfService),
            "by_design" => Ok(Self::ByDesign),
            _ => Err(format!("{text:?} is neither out_of_service nor by_design")),
        }
    }
}

impl Response {
    pub(crate) fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            acknowledged_until: time_opt(row, "acknowledged_until")?,
            confirmed_at: time_opt(row, "confirmed_at")?,
            confirmed_by: row.try_get("confirmed_by")?,
            confirm_comment: row.try_get("confirm_comment")?,
            shelved_at: time_opt(row, "shelved_at")?,
            shelved_by: row.try_get("shelved_by")?,
            shelve_reason: row.try_get("shelve_reason")?,
            shelved_until: time_opt(row, "shelved_until")?,
            shelve_one_shot: row.try_get("shelve_one_shot")?,
            shelve_notice_at: time_opt(row, "shelve_notice_at")?,
            suppressed_at: time_opt(row, "suppressed_at")?,
            suppressed_by: row.try_get("suppressed_by")?,
            suppress_reason: row.try_get("suppress_reason")?,
            suppressed_as: parsed_opt(row, "suppressed_as")?,
            assigned_to: row.try_get("assigned_to")?,
            assigned_by: row.try_get("assigned_by")?,
            assigned_at: time_opt(row, "assigned_at")?,
        })
    }

    fn unshelve(&mut self) {
        (self.shelved_at, self.shelved_by, self.shelve_reason) = (None, None, None);
        (self.shelved_until, self.shelve_notice_at) = (None, None);
        self.shelve_one_shot = false;
    }

    fn unsuppress(&mut self) {
        (self.suppressed_at, self.suppressed_by) = (None, None);
        (self.suppress_reason, self.suppressed_as) = (None, None);
    }

    /// The alert ended: what holds notices back ends with it, and what could expire will not. Who knew of it, what was
    /// done and whose it was stays. Says whether anything changed.
    pub(crate) fn end(&mut self) -> bool {
        let before = (self.acknowledged_until, self.shelved_at, self.suppressed_at);
        self.acknowledged_until = None;
        self.unshelve();
        self.unsuppress();
        before != (None, None, None)
    }
}

/// For how long alerts may be shelved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShelvePolicy {
    /// The longest that an alert is shelved, one-shot or not (`MaxTimeShelved` of OPC UA Part 9).
    pub max: Duration,
    /// So long before the end people are told of it; zero: they are not. Where an alert is shelved for less, they are
    /// not either.
    pub notice: Duration,
}

impl Default for ShelvePolicy {
    fn default() -> Self {
        Self { max: Duration::from_secs(24 * 3600), notice: Duration::from_secs(15 * 60) }
    }
}

/// Until when an alert is to be shelved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShelveUntil {
    /// This time.
    Time(Timestamp),
    /// The alert ends, but not longer than may be.
    Resolved,
}

impl ShelvePolicy {
    /// Shelving as somebody wants it. Refuses what is over already, and what takes longer than may be.
    pub fn shelve(&self, until: ShelveUntil, reason: &str, at: Timestamp) -> Result<Act, StoreError> {
        let reason = reason.trim();
        if reason.is_empty() {
            return Err(StoreError::Refused("whoever shelves an alert says why".into()));
        }
        let most = at + self.max;
        let (end, one_shot) = match until {
            ShelveUntil::Resolved => (most, true),
            ShelveUntil::Time(until) if until <= at => {
                return Err(StoreError::Refused(format!("{until} is over: nothing would be shelved")));
            }
            ShelveUntil::Time(until) if until > most => {
                let max = self.max;
                return Err(StoreError::Refused(format!(
                    "an alert is shelved for {max} at most, until {most}, and not until {until}"
                )));
            }
            ShelveUntil::Time(until) => (until, false),
        };
        let notice = Timestamp((end - self.notice).0);
        let notice_at = (self.notice > Duration::ZERO && notice > at).then_some(notice);
        Ok(Act::Shelve { until: end, one_shot, notice_at, reason: reason.into() })
    }
}

/// Something that somebody does to an alert.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Somebody knows of it.
    Acknowledge {
        /// It counts until then, and people are told again; `None`: until the alert ends.
        until: Option<Timestamp>,
        /// A remark.
        comment: Option<String>,
    },
    /// Nobody looks after it any more.
    Unacknowledge {
        /// A remark.
        comment: Option<String>,
    },
    /// Something was done about it.
    Confirm {
        /// What.
        comment: Option<String>,
    },
    /// Nobody is told of it for a while: made by [`ShelvePolicy::shelve`], which knows the bounds.
    Shelve {
        /// Until then.
        until: Timestamp,
        /// Or until the alert ends.
        one_shot: bool,
        /// When people are told that it ends soon.
        notice_at: Option<Timestamp>,
        /// Why.
        reason: String,
    },
    /// People are told of it again.
    Unshelve {
        /// A remark.
        comment: Option<String>,
    },
    /// It is somebody's, or nobody's.
    Assign {
        /// Whose; `None`: nobody's.
        to: Option<String>,
        /// A remark.
        comment: Option<String>,
    },
    /// A remark.
    Comment {
        /// What was said.
        comment: String,
    },
}

/// What is written into the history of an alert.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub kind: &'static str,
    pub reason: Option<&'static str>,
    pub details: Vec<Detail>,
    pub comment: Option<String>,
    /// People may have to be told, or not to be told any more.
    pub outbox: bool,
}

impl Event {
    pub(crate) fn new(kind: &'static str, outbox: bool) -> Self {
        Self { kind, reason: None, details: Vec::new(), comment: None, outbox }
    }

    fn saying(mut self, comment: Option<&str>) -> Self {
        self.comment = comment.map(Into::into);
        self
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.details.push(Detail { name: name.into(), value });
        self
    }

    fn until(self, until: Option<Timestamp>) -> Self {
        match until {
            Some(until) => self.with("until", Value::Text(until.to_string())),
            None => self,
        }
    }

    fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }
}

impl Act {
    /// Does it. `None`: the alert is so already.
    pub(crate) fn apply(
        &self,
        row: &mut AlertRow,
        by: &str,
        at: Timestamp,
    ) -> Result<Option<Event>, StoreError> {
        let active = row.state == AlertState::Active;
        let response = &mut row.response;
        Ok(Some(match self {
            Self::Acknowledge { until, comment } => {
                if until.is_some_and(|until| until <= at) {
                    return Err(StoreError::Refused("the acknowledgement would be over already".into()));
                }
                // An alert that is over is known of for good.
                let until = until.filter(|_| active);
                if row.acknowledged_at.is_some() && response.acknowledged_until == until {
                    return Ok(None);
                }
                row.acknowledged_at = Some(at);
                row.acknowledged_by = Some(by.into());
                row.acknowledge_comment.clone_from(comment);
                response.acknowledged_until = until;
                Event::new("acknowledged", active).saying(comment.as_deref()).until(until)
            }
            Self::Unacknowledge { comment } => {
                if row.acknowledged_at.is_none() {
                    return Ok(None);
                }
                unacknowledge(row);
                Event::new("unacknowledged", active).saying(comment.as_deref())
            }
            Self::Confirm { comment } => {
                if response.confirmed_at.is_some() {
                    return Ok(None);
                }
                response.confirmed_at = Some(at);
                response.confirmed_by = Some(by.into());
                response.confirm_comment.clone_from(comment);
                Event::new("confirmed", false).saying(comment.as_deref())
            }
            Self::Shelve { until, one_shot, notice_at, reason } => {
                if !active {
                    return Err(StoreError::Refused(
                        "the alert is resolved: there is nothing to shelve".into(),
                    ));
                }
                if (response.shelved_until, response.shelve_one_shot) == (Some(*until), *one_shot)
                    && response.shelve_reason.as_ref() == Some(reason)
                {
                    return Ok(None);
                }
                shelve(response, by, at, *until, *one_shot, *notice_at, reason)
            }
            Self::Unshelve { comment } => {
                if response.shelved_at.is_none() {
                    return Ok(None);
                }
                response.unshelve();
                Event::new("unshelved", active).saying(comment.as_deref())
            }
            Self::Assign { to, comment } => {
                if response.assigned_to == *to {
                    return Ok(None);
                }
                response.assigned_to.clone_from(to);
                response.assigned_by = to.is_some().then(|| by.into());
                response.assigned_at = to.is_some().then_some(at);
                let event = match to {
                    Some(to) => Event::new("assigned", false).with("assigned_to", Value::Text(to.clone())),
                    None => Event::new("unassigned", false),
                };
                event.saying(comment.as_deref())
            }
            Self::Comment { comment } => Event::new("commented", false).saying(Some(comment)),
        }))
    }
}

fn unacknowledge(row: &mut AlertRow) {
    (row.acknowledged_at, row.acknowledged_by, row.acknowledge_comment) = (None, None, None);
    row.response.acknowledged_until = None;
}

fn shelve(
    response: &mut Response,
    by: &str,
    at: Timestamp,
    until: Timestamp,
    one_shot: bool,
    notice_at: Option<Timestamp>,
    reason: &str,
) -> Event {
    response.shelved_at = Some(at);
    response.shelved_by = Some(by.into());
    response.shelve_reason = Some(reason.into());
    response.shelved_until = Some(until);
    response.shelve_one_shot = one_shot;
    response.shelve_notice_at = notice_at;
    Event::new("shelved", true)
        .saying(Some(reason))
        .until(Some(until))
        .with("one_shot", Value::Boolean(one_shot))
}

/// A condition that is shelved whatever becomes of its alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ShelfRow {
    /// The rule.
    pub rule: String,
    /// The device.
    pub device: String,
    /// The key.
    pub key: String,
    /// Whose alerts.
    pub source: AlertSource,
    /// The alert that was shelved.
    pub alert: String,
    /// When.
    #[schema(value_type = String)]
    pub shelved_at: Timestamp,
    /// Who said so.
    pub shelved_by: String,
    /// Why.
    pub reason: String,
    /// When it is told again.
    #[schema(value_type = String)]
    pub until: Timestamp,
    #[serde(skip)]
    pub(crate) notice_at: Option<Timestamp>,
}

/// An alert begins whose condition is shelved: so is the alert.
pub(crate) fn shelved_from_the_start(row: &mut AlertRow, shelf: &ShelfRow, at: Timestamp) -> Event {
    let notice_at = shelf.notice_at.filter(|notice| *notice > at);
    let (by, until, reason) = (&shelf.shelved_by, shelf.until, &shelf.reason);
    shelve(&mut row.response, by, at, until, false, notice_at, reason).because("continued")
}

/// The device or the rule of the alert is not in service.
pub(crate) fn suppress(
    row: &mut AlertRow,
    kind: SuppressedAs,
    by: &str,
    reason: &str,
    at: Timestamp,
) -> Event {
    let response = &mut row.response;
    response.suppressed_at = Some(at);
    response.suppressed_by = Some(by.into());
    response.suppress_reason = Some(reason.into());
    response.suppressed_as = Some(kind);
    Event::new("suppressed", true).saying(Some(reason)).because(kind.as_str())
}

/// It is in service again.
pub(crate) fn unsuppress(row: &mut AlertRow, comment: Option<&str>, expired: bool) -> Event {
    row.response.unsuppress();
    let event = Event::new("unsuppressed", true).saying(comment);
    if expired { event.because("expired") } else { event }
}

/// An alert goes on that people were told had ended: nobody looks after it, whatever was said before.
pub(crate) fn restored(row: &mut AlertRow) {
    unacknowledge(row);
    let response = &mut row.response;
    response.end();
    (response.confirmed_at, response.confirmed_by, response.confirm_comment) = (None, None, None);
}

/// What time makes of an alert by now: an acknowledgement or shelving that is over, and the notice before.
pub(crate) fn expire(row: &mut AlertRow, now: Timestamp) -> Vec<Event> {
    let due = |time: Option<Timestamp>| time.is_some_and(|time| time <= now);
    let mut events = Vec::new();
    if due(row.response.acknowledged_until) {
        unacknowledge(row);
        events.push(Event::new("unacknowledged", true).because("expired"));
    }
    if due(row.response.shelved_until) {
        row.response.unshelve();
        events.push(Event::new("unshelved", true).because("expired"));
    } else if due(row.response.shelve_notice_at) {
        row.response.shelve_notice_at = None;
        events.push(Event::new("shelve_expiring", true).until(row.response.shelved_until));
    }
    events
}
