//! Who is told and how, as written in the configuration.
//!
//! Routing has Alertmanager's words and meaning (a tree, matchers, `continue`, `group_by`, `group_wait`,
//! `group_interval`, `repeat_interval`). Its defaults differ, because an alert is due in well under 100 ms:
//!
//! * `group_by = ["alertname", "device"]`: one notice tells of one rule on one device, all keys of it;
//! * `group_wait = "0s"`: the first notice of a group goes out at once; a longer wait gathers what belongs
//!   together, at that price;
//! * `group_interval = "0s"`: so does every change. A value holds changes of a group back for so long after
//!   its last notice and tells them together. Nothing is left out either way: an alert that is raised and
//!   resolved while its group waits is told as two notices, in order;
//! * `repeat_interval = "4h"`.
//!
//! A route may name several receivers, or nobody (`receivers`), which Alertmanager says with a receiver of several
//! channels, or of none.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use watchfire_model::{Duration, Secret};

use crate::channel::alertmanager::AlertmanagerConfig;
use crate::channel::email::EmailConfig;
use crate::channel::kafka::KafkaConfig;
use crate::channel::mqtt::MqttConfig;
use crate::channel::ntfy::NtfyConfig;
use crate::channel::pagerduty::PagerDutyConfig;
use crate::channel::slack::SlackConfig;
use crate::channel::teams::TeamsConfig;
use crate::channel::telegram::TelegramConfig;
use crate::channel::{self, Channel};
use crate::matcher::{Matcher, Matchers};
use crate::stages::escalation::EscalationConfig;
use crate::stages::inhibit::InhibitConfig;
use crate::stages::interval::TimeIntervalConfig;
use crate::stages::storm::StormConfig;

/// Everything about notification.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// Where people reach this installation: the base of links in messages.
    pub public_url: Option<String>,
    /// Who can be told.
    #[serde(rename = "receiver")]
    pub receivers: Vec<ReceiverConfig>,
    /// Who is told of what.
    pub route: RouteConfig,
    /// Who is told next where nobody acknowledges: routes name them.
    #[serde(rename = "escalation")]
    pub escalations: Vec<EscalationConfig>,
    /// What of many alerts is one storm.
    #[serde(rename = "storm")]
    pub storms: Vec<StormConfig>,
    /// Which alerts keep which others from being told.
    pub inhibit: Vec<InhibitConfig>,
    /// Times of day and year that routes name.
    #[serde(rename = "time_interval")]
    pub time_intervals: Vec<TimeIntervalConfig>,
}

/// Somebody who can be told, over one channel. To tell somebody over two, make two receivers and a route
/// with `continue`: so each has a ledger of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverConfig {
    /// Unique.
    pub name: String,
    /// A channel: an HTTP request with Alertmanager's body.
    pub webhook: Option<WebhookConfig>,
    /// A channel: an incoming webhook of Slack.
    pub slack: Option<SlackConfig>,
    /// A channel: a workflow of Microsoft Teams.
    pub teams: Option<TeamsConfig>,
    /// A channel: events of PagerDuty.
    pub pagerduty: Option<PagerDutyConfig>,
    /// A channel: a bot of Telegram.
    pub telegram: Option<TelegramConfig>,
    /// A channel: a topic of ntfy.
    pub ntfy: Option<NtfyConfig>,
    /// A channel: mail.
    pub email: Option<EmailConfig>,
    /// A channel: an Alertmanager.
    pub alertmanager: Option<AlertmanagerConfig>,
    /// A channel: topics of a broker that speaks MQTT.
    pub mqtt: Option<MqttConfig>,
    /// A channel: a topic of Kafka.
    pub kafka: Option<KafkaConfig>,
    /// How many requests may be under way at the same time, each for another group. Default 16.
    #[serde(default = "max_in_flight")]
    pub max_in_flight: usize,
    /// The first wait after an attempt that failed; each further one is twice as long. Default 500ms.
    #[serde(default = "retry_initial")]
    pub retry_initial: Duration,
    /// The longest wait between two attempts. Default 1m.
    #[serde(default = "retry_max")]
    pub retry_max: Duration,
    /// After that time a delivery is given up, and counted. Default 24h.
    #[serde(default = "expire")]
    pub expire: Duration,
    /// How many alerts one message lists. Alerts that go on unchanged are what is cut; changes never are,
    /// they go into further messages. Default 500.
    #[serde(default = "max_alerts")]
    pub max_alerts: usize,
    /// How many messages it is sent in a minute at most; 0: any number. What is over it waits, and is told in one digest.
    /// Default 3 where a person reads them, any number where a program does.
    pub max_per_minute: Option<usize>,
    /// Alerts that this bound does not hold back, such as those of safety: matchers, of which all of one list must hold.
    #[serde(default)]
    pub bypass: Vec<Vec<String>>,
    /// Whether it is told that somebody acknowledged. Default: where the message before can be changed, or a program
    /// keeps the state.
    pub responses: Option<bool>,
    /// Who is told instead of what waits for it for too long, what it refuses for good and what expires.
    pub fallback: Option<FallbackConfig>,
}

/// A second way where the first does not work.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FallbackConfig {
    /// Who is told.
    pub receiver: String,
    /// After a delivery has waited for so long. Default 5m.
    #[serde(default = "fallback_after")]
    pub after: Duration,
}

fn fallback_after() -> Duration {
    Duration::from_secs(300)
}

/// Messages that a person can be expected to read in a minute.
const PER_MINUTE: usize = 3;

impl ReceiverConfig {
    /// How many messages it is sent in a minute; `None`: any number.
    pub fn max_per_minute(&self) -> Option<usize> {
        let most = self.max_per_minute.unwrap_or(if channel::is_read(self) { PER_MINUTE } else { 0 });
        (most > 0).then_some(most)
    }

    /// Whether it is told what people did to an alert.
    pub fn tells_responses(&self) -> bool {
        self.responses.unwrap_or_else(|| channel::tells_responses(self))
    }
}

fn max_in_flight() -> usize {
    16
}
fn retry_initial() -> Duration {
    Duration::from_millis(500)
}
fn retry_max() -> Duration {
    Duration::from_secs(60)
}
fn expire() -> Duration {
    Duration::from_secs(24 * 3600)
}
fn max_alerts() -> usize {
    500
}
fn json() -> String {
    "application/json".into()
}
fn timeout() -> Duration {
    Duration::from_secs(10)
}

/// A webhook that takes the body of Alertmanager's, version 4.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// `http://` or `https://`.
    pub url: Secret,
    /// Sent with each request, such as `Authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// A template of the body, in place of Alertmanager's.
    pub body: Option<String>,
    /// What the body is. Default `application/json`.
    #[serde(default = "json")]
    pub content_type: String,
    /// For a whole request. Default 10s.
    #[serde(default = "timeout")]
    pub timeout: Duration,
    /// What requests are signed with, as [`signature`](crate::channel::signature) says: `whsec_` and the key in base64.
    /// Not given: they are not signed.
    pub signing_secret: Option<Secret>,
}

impl std::fmt::Debug for WebhookConfig {
    /// Address and headers may hold secrets, and the key is one: none is printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookConfig").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A route: who is told of the alerts that it matches. What a child does not say it has from its parent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteConfig {
    /// Who is told. The root may leave it out where there is exactly one receiver.
    pub receiver: Option<String>,
    /// In place of `receiver`: several, each of whom is told; `[]`: nobody is, of what this route takes.
    pub receivers: Option<Vec<String>>,
    /// Alerts with the same values of these labels share notices; `["..."]`: all labels.
    pub group_by: Option<Vec<String>>,
    /// How long the first notice of a group waits for more.
    pub group_wait: Option<Duration>,
    /// How long changes of a group wait after its last notice.
    pub group_interval: Option<Duration>,
    /// When a group without changes is told again; `0s`: never.
    pub repeat_interval: Option<Duration>,
    /// Who is told next where nobody acknowledges: an `[[escalation]]` by its name.
    pub escalation: Option<String>,
    /// All must match: `severity=~"major|critical"`, with `=`, `!=`, `=~`, `!~`. None for the root.
    pub matchers: Vec<String>,
    /// Nothing is told within these time intervals; it is once they are over, if it is still so. Not inherited, and
    /// not for the root.
    pub mute_time_intervals: Vec<String>,
    /// Where there are any, something is told only within these time intervals. Not inherited, and not for the root.
    pub active_time_intervals: Vec<String>,
    /// The routes after this one are tried even where it matches.
    pub r#continue: bool,
    /// Tried in order before this one.
    pub routes: Vec<RouteConfig>,
}

/// The configuration cannot be used.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {fault}")]
pub struct ConfigError {
    /// Where, as a path into the configuration.
    pub place: String,
    /// What is wrong with it.
    pub fault: String,
}

fn error(place: impl Into<String>, fault: impl Into<String>) -> ConfigError {
    ConfigError { place: place.into(), fault: fault.into() }
}

impl NotifyConfig {
    /// Says what is wrong, if anything is. Opens nothing and asks nobody.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut names = HashSet::new();
        for (i, receiver) in self.receivers.iter().enumerate() {
            let place = format!("receiver[{i}] {:?}", receiver.name);
            if receiver.name.is_empty() {
                return Err(error(place, "has no name"));
            }
            if !names.insert(receiver.name.as_str()) {
                return Err(error(place, "another receiver has the same name"));
            }
            if receiver.max_in_flight == 0 || receiver.max_alerts == 0 {
                return Err(error(place, "max_in_flight and max_alerts are at least 1"));
            }
            if receiver.retry_initial == Duration::ZERO || receiver.retry_max < receiver.retry_initial {
                return Err(error(place, "retry_initial is above 0s and not above retry_max"));
            }
            for (j, text) in receiver.bypass.iter().flatten().enumerate() {
                text.parse::<Matcher>().map_err(|fault| error(format!("{place}.bypass[{j}]"), fault))?;
            }
            if receiver.bypass.iter().any(Vec::is_empty) {
                return Err(error(place, "bypass: a list without matchers would let everything through"));
            }
            if let Some(fallback) = &receiver.fallback
                && (fallback.receiver == receiver.name
                    || !self.receivers.iter().any(|other| other.name == fallback.receiver))
            {
                let fault = format!("fallback: {:?} is no other receiver", fallback.receiver);
                return Err(error(place, fault));
            }
            if let Some(fallback) = receiver.fallback.as_ref().filter(|one| one.after >= receiver.expire) {
                let FallbackConfig { after, .. } = fallback;
                let fault = format!("fallback: after ({after}) is below expire ({})", receiver.expire);
                return Err(error(place, fault));
            }
            Channel::check(receiver).map_err(|(key, fault)| {
                let dot = if key.is_empty() { "" } else { "." };
                error(format!("{place}{dot}{key}"), fault)
            })?;
        }
        if self.route.receiver.is_none() && self.route.receivers.is_none() && self.receivers.len() > 1 {
            return Err(error("route", "names no receiver, and there are several"));
        }
        if !self.route.matchers.is_empty() {
            return Err(error("route", "the root matches every alert: put matchers into `routes`"));
        }
        if self.route.r#continue {
            return Err(error("route", "the root cannot `continue`: nothing comes after it"));
        }
        if !self.route.mute_time_intervals.is_empty() || !self.route.active_time_intervals.is_empty() {
            let fault = "the root has no time intervals: routes do not inherit them, put them into `routes`";
            return Err(error("route", fault));
        }
        for (i, rule) in self.inhibit.iter().enumerate() {
            let name = rule.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
            rule.check().map_err(|(place, fault)| error(format!("inhibit[{i}]{name}.{place}"), fault))?;
        }
        let mut intervals = HashSet::new();
        for (i, interval) in self.time_intervals.iter().enumerate() {
            let place = format!("time_interval[{i}] {:?}", interval.name);
            if interval.name.is_empty() {
                return Err(error(place, "has no name"));
            }
            if !intervals.insert(interval.name.as_str()) {
                return Err(error(place, "another time interval has the same name"));
            }
            interval.check().map_err(|(within, fault)| {
                let dot = if within.is_empty() { "" } else { "." };
                error(format!("{place}{dot}{within}"), fault)
            })?;
        }
        let mut escalations = HashSet::new();
        for (i, escalation) in self.escalations.iter().enumerate() {
            let place = format!("escalation[{i}] {:?}", escalation.name);
            if !escalations.insert(escalation.name.as_str()) {
                return Err(error(place, "another escalation has the same name"));
            }
            escalation.check(|name| names.contains(name)).map_err(|fault| error(place, fault))?;
        }
        let mut parents = HashSet::new();
        for (i, storm) in self.storms.iter().enumerate() {
            let place = format!("storm[{i}] {:?}", storm.parent);
            if !parents.insert(storm.parent.as_str()) {
                return Err(error(place, "another storm has the same parent"));
            }
            storm.check().map_err(|fault| error(place, fault))?;
        }
        check_route(&self.route, "route", &Names { receivers: names, intervals, escalations })
    }
}

/// What routes may name.
struct Names<'a> {
    receivers: HashSet<&'a str>,
    intervals: HashSet<&'a str>,
    escalations: HashSet<&'a str>,
}

/// Says that there is nothing of a name, and what there is.
fn unknown(place: &str, kind: &str, name: &str, known: &HashSet<&str>) -> ConfigError {
    let mut known: Vec<&str> = known.iter().copied().collect();
    known.sort_unstable();
    let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
    error(place, format!("there is no {kind} {name:?}; there is: {known}"))
}

fn check_route(route: &RouteConfig, place: &str, names: &Names<'_>) -> Result<(), ConfigError> {
    if route.receiver.is_some() && route.receivers.is_some() {
        return Err(error(place, "`receivers` stands in place of `receiver`: give one of them"));
    }
    if let Some(escalation) = route.escalation.as_deref().filter(|name| !names.escalations.contains(name)) {
        return Err(unknown(place, "escalation", escalation, &names.escalations));
    }
    let several = route.receivers.iter().flatten();
    for receiver in several.clone().chain(&route.receiver) {
        if !names.receivers.contains(receiver.as_str()) {
            return Err(unknown(place, "receiver", receiver, &names.receivers));
        }
    }
    if several.clone().collect::<HashSet<_>>().len() < several.count() {
        return Err(error(place, "receivers: each is named once"));
    }
    Matchers::all(&route.matchers).map_err(|(i, fault)| error(format!("{place}.matchers[{i}]"), fault))?;
    for interval in route.mute_time_intervals.iter().chain(&route.active_time_intervals) {
        if !names.intervals.contains(interval.as_str()) {
            return Err(unknown(place, "time interval", interval, &names.intervals));
        }
    }
    if let Some(labels) = &route.group_by
        && labels.len() > 1
        && labels.iter().any(|label| label == "...")
    {
        return Err(error(place, "group_by: \"...\" stands for all labels and stands alone"));
    }
    for (i, child) in route.routes.iter().enumerate() {
        check_route(child, &format!("{place}.routes[{i}]"), names)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), &str>) {
        let found = toml::from_str::<NotifyConfig>(text)
            .map_err(|error| error.message().to_string())
            .and_then(|config| config.check().map_err(|error| error.to_string()));
        match expected {
            Ok(()) => assert_eq!(found, Ok(()), "{text}"),
            Err(part) => {
                let message = found.expect_err(text);
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        }
    }

    const HOOK: &str = "[[receiver]]\nname = \"hook\"\nwebhook = { url = \"http://127.0.0.1/hook\" }\n";

    #[test]
    fn what_is_wrong_is_said() {
        check("", Ok(()));
        check(HOOK, Ok(()));
        check(
            &format!("{HOOK}[route]\nreceiver = \"hok\""),
            Err("there is no receiver \"hok\"; there is: hook"),
        );
        check(&format!("{HOOK}{HOOK}"), Err("the same name"));
        check("[[receiver]]\nname = \"a\"", Err("no channel"));
        check(&HOOK.replace("http:", "ftp:"), Err("http:// or https://"));
        check(&HOOK.replace("url", "uri"), Err("unknown field"));
        let signed = |more: &str| HOOK.replace("/hook\" }", &format!("/hook\", {more} }}"));
        let secret = "signing_secret = \"whsec_d2F0Y2hmaXJlIHNpZ25zIHdoYXQgaXQgc2VuZHM=\"";
        check(&signed(secret), Ok(()));
        check(&signed("signing_secret = \"\""), Err("webhook: signing_secret: begins with whsec_"));
        check(&signed("signing_secret = \"whsec_c2hvcnQ=\""), Err("5 bytes"));
        let own = "headers = { webhook-id = \"1\" }";
        check(&signed(own), Ok(()));
        check(&signed(&format!("{own}, {secret}")), Err("webhook-id is set by Watchfire"));
        check(&format!("{HOOK}[route]\nmatchers = ['a=\"b\"']"), Err("the root matches every alert"));
        check(
            &format!("{HOOK}[[route.routes]]\nmatchers = ['a=~\"(\"']"),
            Err("route.routes[0].matchers[0]: "),
        );
        check(&format!("{HOOK}[route]\ngroup_by = [\"...\", \"a\"]"), Err("stands alone"));
        check(&format!("{HOOK}[route]\ngroup_wait = \"5 parsecs\""), Err("span"));
        check(&format!("{HOOK}retry_initial = \"0s\""), Err("retry_initial"));
        let two = format!("{HOOK}{}", HOOK.replace("\"hook\"", "\"two\""));
        check(&two, Err("names no receiver"));
        check(&format!("{two}[route]\nreceiver = \"two\"\ncontinue = true"), Err("continue"));
        check(&format!("{two}[route]\nreceivers = [\"two\", \"hook\"]"), Ok(()));
        check(&format!("{two}[route]\nreceivers = []"), Ok(()));
        check(&format!("{two}[route]\nreceivers = [\"two\", \"tow\"]"), Err("there is: hook, two"));
        check(&format!("{two}[route]\nreceivers = [\"two\", \"two\"]"), Err("named once"));
        check(&format!("{two}[route]\nreceiver = \"two\"\nreceivers = []"), Err("in place of `receiver`"));
    }

    #[test]
    fn what_holds_notices_back_is_checked_with_its_place() {
        let night = "[[time_interval]]\nname = \"night\"\nyears = [2026]\n";
        let route = |keys: &str| format!("{HOOK}[[route.routes]]\n{keys}\n{night}");
        check(&route("mute_time_intervals = [\"night\"]"), Ok(()));
        check(
            &route("active_time_intervals = [\"nihgt\"]"),
            Err("route.routes[0]: there is no time interval"),
        );
        check(&format!("{HOOK}[route]\nmute_time_intervals = [\"night\"]\n{night}"), Err("do not inherit"));
        check(&format!("{night}{night}"), Err("time_interval[1] \"night\": another"));
        check(&night.replace("night", ""), Err("has no name"));
        check(&night.replace("2026", "0"), Err("time_interval[0] \"night\".years[0]: \"0\" is none"));
        check("[[time_interval]]\nname = \"x\"", Err("time_interval[0] \"x\": says no time"));
        let rule = "[[inhibit]]\nname = \"down\"\nsource_matchers = ['a=b', '{c=d,e=f}']\ntarget_matchers = ['a=c']\n";
        check(rule, Ok(()));
        check(&rule.replace("a=c", "a"), Err("inhibit[0] \"down\".target_matchers[0]: \"a\" is no matcher"));
        check(&rule.replace("['a=c']", "[]"), Err("inhibit[0] \"down\".target_matchers: names no matcher"));
        check(
            &format!("{HOOK}[[route.routes]]\nmatchers = ['a=b', '']"),
            Err("route.routes[0].matchers[1]: "),
        );
    }

    #[test]
    fn nothing_secret_is_printed() {
        let text = "[[receiver]]\nname = \"a\"\n[receiver.webhook]\nurl = \"http://h/?key=s3cret\"\nheaders = \
                    { Authorization = \"Bearer s3cret\" }";
        let config: NotifyConfig = toml::from_str(text).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
