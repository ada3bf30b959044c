//! A time line in the manner of Alertmanager's acceptance tests: a test says what happens when, and which notices are
//! taken when. At the end every notice is one that was expected, and everything that was expected was taken.
//!
//! The clock is simulated. It stands at one moment until everything that is due by then was done, and then goes on to
//! the next one: so a notice is of the moment at which it is taken, however slow the machine is.
//!
//! Routing and the workers sleep by the machine's clock, a second at most. So that no moment waits for that, each has a
//! tick: an alert of its own that goes to a receiver of its own. When it is taken, routing has decided on all that was
//! due by the clock as it stands, and whoever delivers was woken by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use watchfire_log::{Clock, ManualClock};
use watchfire_model::alert::{ResolveReason, TransitionKind};
use watchfire_model::{AlertId, Duration, Severity, Timestamp};
use watchfire_notify::{Notifier, NotifyConfig};
use watchfire_store::{Act, DeliveryFilter, DeliveryRow, DeliveryState, NewSilence, SilenceMatcher, Store};

use crate::receiver::{Behave, Place, Receiver, submit, transition};

/// How long the machine may take for what is due at one moment.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
/// How long a notice that was expected, and is not there when its time is over, is waited for. Longer than the second
/// that routing and the workers sleep at most.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);
/// Who is told of ticks.
const TICK: &str = "tick";
/// So long before the time of a notice it is looked whether it came too early.
const EARLY: Duration = Duration::from_millis(1);

/// A span of several units, such as `1h30m`.
pub fn span(text: &str) -> Duration {
    let parts = text.split_inclusive(|c: char| c.is_ascii_alphabetic()).fold(
        Vec::<String>::new(),
        |mut parts, piece| {
            match parts.last_mut() {
                // The second letter of `ms`.
                Some(last) if !piece.starts_with(|c: char| c.is_ascii_digit()) => last.push_str(piece),
                _ => parts.push(piece.to_string()),
            }
            parts
        },
    );
    Duration(parts.iter().map(|part| part.parse::<Duration>().unwrap().0).sum())
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Action {
    Raise(Vec<String>),
    Resolve(Vec<String>),
    Acknowledge { device: String, until: Option<Duration> },
    Silence { name: String, device: String, ends_after: Duration },
    DeleteSilence { name: String },
    Behave { receiver: String, behave: Behave },
    SetClock { seconds: i64 },
    Reload { config: String },
    Restart,
}

pub fn raise(device: &str) -> Action {
    raise_all([device.to_string()])
}

/// At once, in one commit.
pub fn raise_all(devices: impl IntoIterator<Item = String>) -> Action {
    Action::Raise(devices.into_iter().collect())
}

pub fn resolve(device: &str) -> Action {
    resolve_all([device.to_string()])
}

pub fn resolve_all(devices: impl IntoIterator<Item = String>) -> Action {
    Action::Resolve(devices.into_iter().collect())
}

pub fn acknowledge(device: &str) -> Action {
    Action::Acknowledge { device: device.into(), until: None }
}

pub fn acknowledge_for(device: &str, until: &str) -> Action {
    Action::Acknowledge { device: device.into(), until: Some(span(until)) }
}

/// Holds what is told of the devices that match the pattern.
pub fn silence(name: &str, device: &str, ends_after: &str) -> Action {
    Action::Silence { name: name.into(), device: device.into(), ends_after: span(ends_after) }
}

pub fn delete_silence(name: &str) -> Action {
    Action::DeleteSilence { name: name.into() }
}

pub fn behaves(receiver: &str, behave: Behave) -> Action {
    Action::Behave { receiver: receiver.into(), behave }
}

/// Somebody sets the wall clock, by so many seconds.
pub fn set_clock(seconds: i64) -> Action {
    Action::SetClock { seconds }
}

pub fn reload(config: &str) -> Action {
    Action::Reload { config: config.into() }
}

/// Dies where it stands, and is started again.
pub fn restart() -> Action {
    Action::Restart
}

/// What a notice says: to whom, and each alert that it lists.
#[derive(Clone, PartialEq, Eq)]
pub struct Told {
    receiver: String,
    /// Device and status.
    alerts: BTreeSet<(String, String)>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alerts = self.alerts.iter().map(|(device, status)| format!("{device} {status}"));
        write!(f, "{}: {}", self.receiver, alerts.collect::<Vec<_>>().join(", "))
    }
}

impl Told {
    fn says(mut self, devices: &[&str], status: &str) -> Self {
        self.alerts.extend(devices.iter().map(|device| (device.to_string(), status.to_string())));
        self
    }

    /// Beside what it says already.
    pub fn and_firing<const N: usize>(self, devices: [&str; N]) -> Self {
        self.says(&devices, "firing")
    }

    /// Not to `hook`.
    pub fn to(self, receiver: &str) -> Self {
        Self { receiver: receiver.into(), ..self }
    }
}

/// To `hook`, unless said otherwise.
pub fn firing<const N: usize>(devices: [&str; N]) -> Told {
    Told { receiver: "hook".into(), alerts: BTreeSet::new() }.says(&devices, "firing")
}

pub fn resolved<const N: usize>(devices: [&str; N]) -> Told {
    Told { receiver: "hook".into(), alerts: BTreeSet::new() }.says(&devices, "resolved")
}

#[derive(Clone, Debug)]
struct Expected {
    from: Duration,
    to: Duration,
    told: Told,
}

/// A request that a receiver took.
#[derive(Clone, Debug)]
pub struct Notice {
    /// After the beginning, by a clock that nobody sets.
    pub at: Duration,
    pub told: Told,
}

/// Who is told of ticks, and of what the engine tells of itself where nobody else can be.
struct Ticks {
    /// The number of the last one.
    last: Arc<AtomicUsize>,
    url: String,
}

impl Ticks {
    async fn start() -> Self {
        let last = Arc::new(AtomicUsize::new(0));
        let noted = last.clone();
        let take = move |Json(body): Json<serde_json::Value>| {
            let device = body["groupLabels"]["device"].as_str().unwrap_or_default();
            let number = device.rsplit('-').next().and_then(|number| number.parse().ok());
            noted.fetch_max(number.unwrap_or_default(), Ordering::SeqCst);
            async { StatusCode::OK }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/tick", listener.local_addr().unwrap());
        let router = Router::new().route("/tick", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { last, url }
    }

    fn last(&self) -> usize {
        self.last.load(Ordering::SeqCst)
    }
}

pub struct Timeline {
    pub store: Store,
    pub clock: Arc<ManualClock>,
    notifier: Option<Notifier>,
    /// Those that are waited for, by name.
    receivers: BTreeMap<String, Receiver>,
    /// Where each receiver of the configuration is, others than these included.
    urls: BTreeMap<String, String>,
    ticks: Ticks,
    config: NotifyConfig,
    script: Vec<(Duration, Action)>,
    expected: Vec<Expected>,
    step: Duration,
    end: Duration,
    passed: Duration,
    notices: Vec<Notice>,
    looked_at: BTreeMap<String, usize>,
    /// How many transitions, ticks included, were made.
    made: u64,
    made_ticks: usize,
    /// The active alert of each device.
    alerts: BTreeMap<String, AlertId>,
    /// Ids of silences by their names.
    silences: BTreeMap<String, String>,
    _place: Place,
}

impl Timeline {
    /// Begins with this configuration, as TOML without addresses; without receivers there is one, `hook`. The clock stops
    /// at least every `step`, and wherever something happens or is expected.
    pub async fn new(config: &str, step: &str) -> Self {
        Self::beginning("2026-01-05T08:00:00Z", config, step).await
    }

    /// With the wall clock at this time.
    pub async fn beginning(time: &str, config: &str, step: &str) -> Self {
        Self::with(Arc::new(ManualClock::new(time.parse().unwrap())), config, step, []).await
    }

    /// On this clock, with receivers beside that the test looks after itself: their names and addresses. Nobody waits for
    /// them.
    pub async fn with<const N: usize>(
        clock: Arc<ManualClock>,
        config: &str,
        step: &str,
        others: [(&str, String); N],
    ) -> Self {
        let place = Place::new();
        let store = place.open().await;
        let mut timeline = Self {
            store,
            clock,
            notifier: None,
            receivers: BTreeMap::new(),
            urls: others.into_iter().map(|(name, url)| (name.to_string(), url)).collect(),
            ticks: Ticks::start().await,
            config: NotifyConfig::default(),
            script: Vec::new(),
            expected: Vec::new(),
            step: span(step),
            end: Duration::ZERO,
            passed: Duration::ZERO,
            notices: Vec::new(),
            looked_at: BTreeMap::new(),
            made: 0,
            made_ticks: 0,
            alerts: BTreeMap::new(),
            silences: BTreeMap::new(),
            _place: place,
        };
        timeline.config = timeline.configuration(config).await;
        timeline.start().await;
        timeline
    }

    /// The configuration with the addresses of the receivers, which are started where they are not known yet, and with
    /// the route of ticks before all others.
    async fn configuration(&mut self, text: &str) -> NotifyConfig {
        let mut config: NotifyConfig = toml::from_str(text).unwrap();
        if config.receivers.is_empty() {
            let hook: NotifyConfig = toml::from_str("[[receiver]]\nname = \"hook\"").unwrap();
            config.receivers = hook.receivers;
        }
        if config.route.receiver.is_none() && config.route.receivers.is_none() {
            config.route.receiver = Some(config.receivers[0].name.clone());
        }
        for receiver in &mut config.receivers {
            if !self.urls.contains_key(&receiver.name) {
                let started = Receiver::start().await;
                self.urls.insert(receiver.name.clone(), started.url.clone());
                self.receivers.insert(receiver.name.clone(), started);
            }
            receiver.webhook =
                Some(toml::from_str(&format!("url = {:?}", self.urls[&receiver.name])).unwrap());
        }
        // Each tick is a group of its own, so that none waits for what was told of another.
        let ticks: NotifyConfig = toml::from_str(&format!(
            "[[receiver]]\nname = {TICK:?}\nwebhook = {{ url = {:?} }}\n[[route.routes]]\nreceiver = {TICK:?}\n\
             matchers = ['device=~\"{TICK}-.*\"']\ngroup_by = [\"device\"]\ngroup_wait = \"0s\"\n\
             group_interval = \"0s\"\nrepeat_interval = \"0s\"",
            self.ticks.url
        ))
        .unwrap();
        config.receivers.extend(ticks.receivers);
        config.route.routes.splice(0..0, ticks.route.routes);
        config
    }

    async fn start(&mut self) {
        let started = Notifier::start(self.store.clone(), self.config.clone(), self.clock.clone()).await;
        self.notifier = Some(started.unwrap());
    }

    /// Something happens.
    pub fn at(&mut self, time: &str, action: Action) -> &mut Self {
        let time = span(time);
        self.script.push((time, action));
        self.end = self.end.max(time);
        self
    }

    /// A notice is taken within this time, both ends included.
    pub fn expect(&mut self, within: Range<&str>, told: Told) -> &mut Self {
        let (from, to) = (span(within.start), span(within.end));
        self.expected.push(Expected { from, to, told });
        self.end = self.end.max(to);
        self
    }

    /// Goes on until then at least, so that what is told and should not be is seen.
    pub fn until(&mut self, time: &str) -> &mut Self {
        self.end = self.end.max(span(time));
        self
    }

    /// What was taken by now.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// A receiver of the configuration.
    pub fn receiver(&self, name: &str) -> &Receiver {
        &self.receivers[name]
    }

    /// Plays it, and says what was told that should not have been, what was not, and what was told at another time.
    pub async fn run(&mut self) -> Vec<Notice> {
        let notices = self.play().await;
        let (missing, surplus) = self.judge();
        if missing.is_empty() && surplus.is_empty() {
            return notices;
        }
        let mut faults = Vec::new();
        let mut late = vec![false; surplus.len()];
        for Expected { from, to, told } in missing {
            let other = surplus.iter().enumerate().find(|(i, notice)| !late[*i] && notice.told == told);
            match other {
                Some((i, notice)) => {
                    late[i] = true;
                    faults.push(format!(
                        "mistimed at {}, expected within {}..{}: {told:?}",
                        shown(notice.at),
                        shown(from),
                        shown(to)
                    ));
                }
                None => faults.push(format!("missing within {}..{}: {told:?}", shown(from), shown(to))),
            }
        }
        for (notice, late) in surplus.iter().zip(late) {
            if !late {
                faults.push(format!("unexpected at {}: {:?}", shown(notice.at), notice.told));
            }
        }
        let all = self.notices.iter().map(|notice| format!("{} {:?}", shown(notice.at), notice.told));
        let all = all.collect::<Vec<_>>().join("\n  ");
        panic!("{}\nall that was taken:\n  {all}", faults.join("\n"));
    }

    /// Plays it, for tests that look at what came of it themselves. What is added then is played by the next call, which
    /// goes on where this one ended.
    pub async fn play(&mut self) -> Vec<Notice> {
        let script = std::mem::take(&mut self.script);
        let begin = self.passed;
        for moment in self.moments(&script).into_iter().filter(|moment| *moment >= begin) {
            self.clock.advance(std::time::Duration::from_micros(moment.0 - self.passed.0));
            self.passed = moment;
            self.settle().await;
            for (_, action) in script.iter().filter(|(time, _)| *time == moment) {
                self.act(action.clone()).await;
            }
            self.wait_for_what_is_over().await;
        }
        self.notices.clone()
    }

    fn moments(&self, script: &[(Duration, Action)]) -> BTreeSet<Duration> {
        let steps = (0..=self.end.0 / self.step.0).map(|step| Duration(step * self.step.0));
        let edges = self.expected.iter().flat_map(|expected| {
            let early = expected.from.0.saturating_sub(EARLY.0);
            [Duration(early), expected.from, expected.to]
        });
        let actions = script.iter().map(|(time, _)| *time);
        steps.chain(edges).chain(actions).chain([self.end]).collect()
    }

    async fn act(&mut self, action: Action) {
        let now = self.clock.wall();
        let read_apart = matches!(
            action,
            Action::Silence { .. }
                | Action::DeleteSilence { .. }
                | Action::Reload { .. }
                | Action::SetClock { .. }
        );
        match action {
            Action::Raise(devices) => self.make(&devices, TransitionKind::Raised).await,
            Action::Resolve(devices) => {
                self.make(&devices, TransitionKind::Resolved { reason: ResolveReason::Cleared }).await;
            }
            Action::Acknowledge { device, until } => {
                let act = Act::Acknowledge { until: until.map(|until| now + until), comment: None };
                self.store.respond(&self.alerts[&device].0, &act, "anna", now).await.unwrap();
            }
            Action::Silence { name, device, ends_after } => {
                let matcher =
                    SilenceMatcher { name: "device".into(), value: device, is_regex: true, is_equal: true };
                let new = NewSilence {
                    id: None,
                    matchers: vec![matcher],
                    starts_at: now,
                    ends_at: now + ends_after,
                    created_by: "anna".into(),
                    comment: "works there".into(),
                    annotations: BTreeMap::new(),
                    until_resolved: false,
                    matches: false,
                };
                let made = self.store.set_silence(&new, now).await.unwrap();
                self.silences.insert(name, made.id);
            }
            Action::DeleteSilence { name } => {
                self.store.expire_silence(&self.silences[&name], now).await.unwrap();
            }
            Action::Behave { receiver, behave } => self.receivers[&receiver].usual(behave),
            Action::SetClock { seconds } => self.clock.set_wall(Timestamp(now.0 + seconds * 1_000_000)),
            Action::Reload { config } => {
                self.config = self.configuration(&config).await;
                self.notifier.as_ref().unwrap().reload(self.config.clone()).unwrap();
            }
            Action::Restart => {
                drop(self.notifier.take());
                self.start().await;
            }
        }
        self.settle().await;
        if read_apart {
            // What is no event is read before events are: by the first tick, or else by the second.
            self.settle().await;
        }
    }

    async fn make(&mut self, devices: &[String], kind: TransitionKind) {
        let now = self.clock.wall();
        let mut all = Vec::new();
        for device in devices {
            self.made += 1;
            let mut one = transition(device, self.made, kind.clone(), Severity::Major);
            (one.at, one.logged_at) = (now, now);
            if matches!(kind, TransitionKind::Raised) {
                self.alerts.insert(device.clone(), AlertId::raised_by(&one.id));
            }
            one.alert = self.alerts[device].clone();
            all.push(one);
        }
        submit(&self.store, all).await;
    }

    /// Waits until all that is due by the clock as it stands was done, and looks at what was taken.
    async fn settle(&mut self) {
        self.made_ticks += 1;
        self.make(&[format!("{TICK}-{}", self.made_ticks)], TransitionKind::Raised).await;
        let deadline = Instant::now() + PATIENCE;
        while self.ticks.last() < self.made_ticks {
            assert!(Instant::now() < deadline, "nothing is routed any more at {}", shown(self.passed));
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        for name in self.receivers.keys() {
            while !self.is_level(name).await {
                assert!(
                    Instant::now() < deadline,
                    "{name} is told nothing any more at {}",
                    shown(self.passed)
                );
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        self.collect();
    }

    /// Whether nothing is to be sent to a receiver before the clock goes on.
    async fn is_level(&self, receiver: &str) -> bool {
        let now = self.clock.wall();
        let pending = self.pending(receiver).await;
        // Once something failed its worker may rest, which ends with the clock and not with waiting.
        pending.iter().any(|row| row.attempts > 0) || pending.iter().all(|row| row.next_try > now)
    }

    /// What waits for a receiver, a thousand at most.
    pub async fn pending(&self, receiver: &str) -> Vec<DeliveryRow> {
        let filter = DeliveryFilter {
            receiver: Some(receiver.into()),
            state: Some(DeliveryState::Pending),
            limit: 1000,
            ..DeliveryFilter::default()
        };
        self.store.deliveries(&filter).await.unwrap().items
    }

    fn collect(&mut self) {
        for (name, receiver) in &self.receivers {
            let taken = receiver.taken();
            let looked_at = self.looked_at.entry(name.clone()).or_default();
            for seen in &taken[*looked_at..] {
                let own = seen.body["alerts"][0]["labels"]["alertname"].as_str().unwrap_or_default();
                // What the engine tells of itself, such as that somebody takes nothing, is not of the time line.
                if own.starts_with("watchfire-") {
                    continue;
                }
                let told = Told { receiver: name.clone(), alerts: seen.says().into_iter().collect() };
                self.notices.push(Notice { at: self.passed, told });
            }
            *looked_at = taken.len();
        }
    }

    /// The clock does not leave the time of a notice that is not there yet: what a worker does only once in a second of
    /// the machine is waited for.
    async fn wait_for_what_is_over(&mut self) {
        let deadline = Instant::now() + GRACE;
        while self.judge().0.iter().any(|missing| missing.to == self.passed) && Instant::now() < deadline {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            self.collect();
        }
    }

    /// What was expected and not taken, and what was taken and not expected.
    fn judge(&self) -> (Vec<Expected>, Vec<Notice>) {
        let mut missing = self.expected.clone();
        missing.sort_by_key(|expected| expected.to);
        let mut surplus = Vec::new();
        for notice in &self.notices {
            let fits = |one: &Expected| one.told == notice.told && (one.from..=one.to).contains(&notice.at);
            match missing.iter().position(fits) {
                Some(place) => drop(missing.remove(place)),
                None => surplus.push(notice.clone()),
            }
        }
        (missing, surplus)
    }
}

fn shown(time: Duration) -> String {
    let (seconds, micros) = (time.0 / 1_000_000, time.0 % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours}h{minutes:02}m{seconds:02}.{:03}s", micros / 1000)
}
