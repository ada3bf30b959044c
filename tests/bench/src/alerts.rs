//! Alerts from a POST to a webhook, beside Alertmanager: the same alerts over the same API, to receivers of this
//! process, in rounds that alternate. Ours is durable before it answers; Alertmanager keeps alerts in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use watchfire_log::{Clock as _, SystemClock};
use watchfire_model::Timestamp;
use watchfire_services::{Alertmanager, Failure, amtool};

use crate::figure::{Figure, median};
use crate::hook::Hook;
use crate::latency::at;
use crate::server::{Server, cpu_of, memory_of};
use crate::{Options, event};

/// Rounds of each side, after one of a tenth of the alerts that does not count.
const ROUNDS: usize = 4;
/// Alerts of a POST: what Prometheus sends at once.
const BATCH: usize = 64;
/// Alerts on their way while the most is looked for. Alertmanager opens a connection for each.
const WINDOW: usize = 1024;
/// Requests at the same time.
const SENDERS: usize = 4;
/// Alerts of a POST while latency is measured: few, since those of one POST wait for each other.
const FEW: usize = 8;
/// How long latency is measured.
const STEADY: Duration = Duration::from_secs(10);
/// What is done after a message was answered belongs to it.
const SETTLE: Duration = Duration::from_secs(2);
/// Alerts of one name while many are active: what a filter finds, and a page.
const NAMED: usize = 100;
/// Calls of each kind.
const CALLS: usize = 200;
/// How long Alertmanager is asked the same: with very many alerts each call takes it seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Alerts of a POST of the storm.
const STORM_BATCH: usize = 1000;
/// Messages in a minute that the receiver of the storm takes.
const PER_MINUTE: usize = 3;

pub fn run(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // It lies where Alertmanager does.
        if let Err(Failure::Missing(why)) = amtool() {
            eprintln!("SKIPPED alerts: {why}");
            return Ok(());
        }
        many(options, figures).await?;
        storm(options, figures).await
    })
}

/// Something that takes alerts, and its receiver.
struct Side {
    /// Where the API of Alertmanager is, version 2.
    url: String,
    process: u32,
    hook: Hook,
    client: Client,
    /// How many alerts were said so far.
    said: usize,
    engine: Engine,
}

/// Ends with its side.
enum Engine {
    Ours(Server),
    Theirs { _alertmanager: Alertmanager },
}

impl Side {
    /// Watchfire with this configuration besides, which goes on within the table of the receiver.
    fn ours(options: &Options, most: usize, window: usize, more: &str) -> Result<Self> {
        let hook = Hook::start(most, window)?;
        let server = Server::start_with(options, Some(hook.address), more)?;
        let url = format!("http://{}/alertmanager/api/v2", server.http());
        Self::new(url, server.id(), hook, Engine::Ours(server))
    }

    /// Alertmanager, which groups by these labels and tells of changes after that time.
    fn theirs(most: usize, window: usize, group_by: &str, interval: &str) -> Result<Self> {
        let hook = Hook::start(most, window)?;
        let alertmanager =
            Alertmanager::start(&configuration(group_by, interval, &hook.address.to_string()))?;
        let url = format!("http://{}/api/v2", alertmanager.address());
        let process = alertmanager.id().context("Alertmanager does not run")?;
        Self::new(url, process, hook, Engine::Theirs { _alertmanager: alertmanager })
    }

    fn new(url: String, process: u32, hook: Hook, engine: Engine) -> Result<Self> {
        let client = Client::builder().timeout(Duration::from_secs(120)).build()?;
        Ok(Self { url, process, hook, client, said: 0, engine })
    }

    fn cpu(&self) -> Result<f64> {
        cpu_of(self.process)
    }

    /// Resident MiB.
    fn memory(&self) -> Result<f64> {
        Ok(mebibytes(memory_of(self.process, "VmRSS:")?))
    }

    /// Says so many more, as quickly as they come; gives CPU seconds of the engine, and alerts a second.
    async fn pour(&mut self, count: usize, names: usize) -> Result<(f64, f64)> {
        let (numbers, cpu) = (self.said..self.said + count, self.cpu()?);
        self.said += count;
        let next = AtomicUsize::new(numbers.start);
        let sender = async || {
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= numbers.end {
                    return anyhow::Ok(());
                }
                let batch = first..(first + BATCH).min(numbers.end);
                let body = body(batch.clone(), |number| number % names);
                self.hook.room(batch.len()).await?;
                self.hook.expect(batch);
                say(&self.client, &self.url, body).await?;
            }
        };
        tokio::try_join!(sender(), sender(), sender(), sender())?;
        self.hook.wait(self.said).await?;
        tokio::time::sleep(SETTLE).await;
        Ok((self.cpu()? - cpu, count as f64 / self.hook.span(numbers).as_secs_f64()))
    }

    /// Says so many a second for [`STEADY`], whether they come or not; gives CPU seconds for each, and latencies.
    async fn pace(&mut self, rate: f64, names: usize) -> Result<(f64, Vec<Duration>)> {
        let (first, cpu, began) = (self.said, self.cpu()?, Instant::now());
        let mut sending = JoinSet::new();
        while began.elapsed() < STEADY {
            let batch = self.said..self.said + FEW;
            let body = body(batch.clone(), |number| number % names);
            let due = began + Duration::from_secs_f64((self.said - first) as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
            self.said = batch.end;
            self.hook.expect(batch);
            let (client, url) = (self.client.clone(), self.url.clone());
            sending.spawn(async move { say(&client, &url, body).await });
            while let Some(sent) = sending.try_join_next() {
                sent??;
            }
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        self.hook.wait(self.said).await?;
        tokio::time::sleep(SETTLE).await;
        let latencies = self.hook.latencies(first..self.said);
        Ok(((self.cpu()? - cpu) / latencies.len() as f64, latencies))
    }

    /// Asks once, and reads the whole answer; gives how long that took.
    async fn ask(&self, method: &str, url: &str, body: Option<&Value>) -> Result<Duration> {
        let mut request = self.client.request(method.parse()?, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let began = Instant::now();
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.bytes().await?);
        let took = began.elapsed();
        ensure!(status.is_success(), "{method} {url}: {status}: {}", String::from_utf8_lossy(&text));
        // An answer that lists nothing would cost nothing.
        ensure!(text.len() > 20, "{method} {url}: nothing came");
        Ok(took)
    }
}

/// A configuration of Alertmanager: nothing waits that need not.
fn configuration(group_by: &str, interval: &str, hook: &str) -> String {
    // Ours lists 500 alerts in a message, too.
    format!(
        "route:\n  receiver: bench\n  group_by: {group_by}\n  group_wait: 0s\n  group_interval: {interval}\n  \
         repeat_interval: 4h\nreceivers:\n- name: bench\n  webhook_configs:\n  - url: http://{hook}/alerts\n    \
         max_alerts: 500\n"
    )
}

async fn say(client: &Client, url: &str, body: String) -> Result<()> {
    let request = client.post(format!("{url}/alerts")).header("content-type", "application/json");
    let answer = request.body(body).send().await?;
    let status = answer.status();
    ensure!(status.is_success(), "POST of alerts: {status}: {}", answer.text().await?);
    Ok(())
}

/// Alerts with these numbers; `name` numbers their names. As Prometheus says them, with an end that does not come
/// while they are looked at.
fn body(numbers: std::ops::Range<usize>, name: impl Fn(usize) -> usize) -> String {
    let ends = event::stamp(Timestamp(SystemClock.wall().0 + 86_400_000_000));
    let alerts: Vec<Value> = numbers
        .map(|number| {
            let device = format!("device-{number:06}");
            json!({
                "labels": {"alertname": named(name(number)), "instance": device, "severity": "critical",
                    "site": (["oslo", "lyon", "porto", "turin"])[number % 4], "number": number.to_string()},
                "annotations": {"summary": format!("temperature of {device} is above its limit"),
                    "description": "It was above 90 °C for more than five minutes."},
                "endsAt": ends,
                "generatorURL": "http://prometheus.example/graph?g0.expr=temperature+%3E+90",
            })
        })
        .collect();
    Value::from(alerts).to_string()
}

fn named(name: usize) -> String {
    format!("limit-{name:04}")
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Each alert a group of its own: first until the wanted number, then what it costs to have many of them.
async fn many(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let names = options.active.div_ceil(NAMED).max(1);
    // What is paced comes on top, whatever its rate is.
    let most = 2 * options.alerts.max(options.active) + 200_000;
    let mut ours = Side::ours(options, most, WINDOW, "[route]\ngroup_by = [\"...\"]\n")?;
    // The interval is none that matters: a group of one alert has nothing to tell after its first message.
    let mut theirs = Side::theirs(most, WINDOW, "['...']", "5m")?;
    let (mut cpu, mut rates) = ((0.0, 0.0), (Vec::new(), Vec::new()));
    for round in 0..=ROUNDS {
        let count = options.alerts / if round == 0 { 10 } else { ROUNDS };
        let (our, their) = (ours.pour(count, names).await?, theirs.pour(count, names).await?);
        if round > 0 {
            cpu = (cpu.0 + our.0, cpu.1 + their.0);
            rates.0.push(our.1);
            rates.1.push(their.1);
        }
    }
    let count = options.alerts / ROUNDS * ROUNDS;
    let micros = |seconds: f64| seconds * 1e6 / count as f64;
    let figure = format!("CPU for each of {count} alerts told one by one, against Alertmanager");
    let pair = (micros(cpu.0), micros(cpu.1));
    figures.push(Figure::against("alerts", figure, "us", pair, "<= 0.1x", |_, ratio| Some(ratio <= 0.1)));
    let pair = (median(&mut rates.0), median(&mut rates.1));
    let figure = format!("told one by one, {WINDOW} on their way, against Alertmanager");
    figures.push(Figure::against("alerts", figure, "alerts/s", pair, "report", |_, _| None));
    let figure = format!("resident after {} alerts, against Alertmanager", ours.said);
    let memory = (ours.memory()?, theirs.memory()?);
    figures.push(Figure::against("alerts", figure, "MiB", memory, "report", |_, _| None));

    // The same rate for both, at which neither queues.
    let rate = pair.0.min(pair.1) / 2.0;
    let ((our, mut here), (their, mut there)) =
        (ours.pace(rate, names).await?, theirs.pace(rate, names).await?);
    let figure = format!("CPU for each alert at {rate:.0} alerts/s, against Alertmanager");
    let pair = (our * 1e6, their * 1e6);
    figures.push(Figure::against("alerts", figure, "us", pair, "<= 0.1x", |_, ratio| Some(ratio <= 0.1)));
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        let pair = (at(&mut here, quantile), at(&mut there, quantile));
        let figure =
            format!("POST of {FEW} alerts to webhook, {name} at {rate:.0} alerts/s, against Alertmanager");
        figures.push(Figure::against("alerts", figure, "ms", pair, "report", |_, _| None));
    }
    for side in [&mut ours, &mut theirs] {
        side.pour(options.active.saturating_sub(side.said), names).await?;
    }
    let figure = format!("resident with {} active, each a group, against Alertmanager", ours.said);
    let memory = (ours.memory()?, theirs.memory()?);
    let met = |value: f64, _| Some(value * f64::from(1 << 20) <= 400e6);
    figures.push(Figure::against("alerts", figure, "MiB", memory, "<= 400 MB", met));
    asked(&ours, &theirs, names, figures).await?;
    let figure = format!("resident once these {} were listed, against Alertmanager", ours.said);
    let memory = (ours.memory()?, theirs.memory()?);
    figures.push(Figure::against("alerts", figure, "MiB", memory, "<= 400 MB", met));
    Ok(())
}

/// What people and programs ask while many are active.
async fn asked(ours: &Side, theirs: &Side, names: usize, figures: &mut Vec<Figure>) -> Result<()> {
    let filter = |name: usize| format!("filter=alertname%3D%22{}%22", named(name % names));
    let quick = |value: f64, _| Some(value < 50.0);
    // Ours keeps what is listed in memory, and reads it when somebody asks: the first one waits for that.
    let first = format!("alerts?{}", filter(0));
    let pair = (
        ours.ask("GET", &format!("{}/{first}", ours.url), None).await?.as_secs_f64() * 1000.0,
        theirs.ask("GET", &format!("{}/{first}", theirs.url), None).await?.as_secs_f64() * 1000.0,
    );
    let figure = "GET alerts with a filter, the first call, against Alertmanager";
    figures.push(Figure::against("alerts", figure, "ms", pair, "report", |_, _| None));
    for (path, what) in [("alerts", "alerts"), ("alerts/groups", "groups")] {
        let ask = async |side: &Side, call: usize| {
            side.ask("GET", &format!("{}/{path}?{}", side.url, filter(call * 7)), None).await
        };
        let pair = quantile(async |call| ask(ours, call).await, async |call| ask(theirs, call).await).await?;
        let figure = format!("GET {path} with a filter that finds {NAMED} {what}, p99, against Alertmanager");
        figures.push(Figure::against("alerts", figure, "ms", pair, "< 50 ms", quick));
    }
    if let Engine::Ours(server) = &ours.engine {
        let page = format!("http://{}/api/v1/alerts?state=active&limit=100", server.http());
        let near =
            async |call| theirs.ask("GET", &format!("{}/alerts?{}", theirs.url, filter(call)), None).await;
        let pair = quantile(async |_| ours.ask("GET", &page, None).await, near).await?;
        let figure =
            "GET /api/v1/alerts, a page of 100, p99, against a filter that finds as many in Alertmanager";
        figures.push(Figure::against("alerts", figure, "ms", pair, "< 50 ms", quick));
    }
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        here.push(ours.ask("GET", &format!("{}/alerts/groups", ours.url), None).await?);
        there.push(theirs.ask("GET", &format!("{}/alerts/groups", theirs.url), None).await?);
    }
    let pair = (at(&mut here, 0.5), at(&mut there, 0.5));
    let figure = "GET alerts/groups, all of them, median, against Alertmanager";
    figures.push(Figure::against("alerts", figure, "ms", pair, "report", |_, _| None));
    // Last: what is silenced is listed otherwise.
    let time = |ahead: i64| event::stamp(Timestamp(SystemClock.wall().0 + ahead));
    let silence = async |side: &Side, call: usize| {
        let silence = json!({
            "matchers": [{"name": "alertname", "value": named(call % names), "isRegex": false, "isEqual": true}],
            "startsAt": time(0), "endsAt": time(3_600_000_000), "createdBy": "bench", "comment": "bench",
        });
        side.ask("POST", &format!("{}/silences", side.url), Some(&silence)).await
    };
    let pair =
        quantile(async |call| silence(ours, call).await, async |call| silence(theirs, call).await).await?;
    let figure = format!("POST of a silence that holds for {NAMED} alerts, p99, against Alertmanager");
    figures.push(Figure::against("alerts", figure, "ms", pair, "< 50 ms", quick));
    Ok(())
}

/// Calls ours [`CALLS`] times, and in between Alertmanager until [`PATIENCE`] is over; gives the p99 of each.
async fn quantile(
    ours: impl AsyncFn(usize) -> Result<Duration>,
    theirs: impl AsyncFn(usize) -> Result<Duration>,
) -> Result<(f64, f64)> {
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for call in 0..CALLS {
        here.push(ours(call).await?);
        if there.iter().sum::<Duration>() < PATIENCE {
            there.push(theirs(call).await?);
        }
    }
    Ok((at(&mut here, 0.99), at(&mut there, 0.99)))
}

/// What a storm of one group came to.
struct Storm {
    raised: f64,
    first: f64,
    messages: f64,
    cpu: f64,
    memory: f64,
}

/// Very many at once in one group, to a receiver that takes few messages.
async fn storm(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    let (count, room) = (options.active, options.active + WINDOW);
    let bound = format!("max_per_minute = {PER_MINUTE}\n[route]\ngroup_by = [\"alertname\"]\n");
    let ours = strike(Side::ours(options, count, room, &bound)?, count).await?;
    // It knows no bound of messages: an interval comes to the same for one group.
    let interval = format!("{}s", 60 / PER_MINUTE);
    let theirs = strike(Side::theirs(count, room, "[alertname]", &interval)?, count).await?;
    let mut push = |figure: String, unit, pair, goal, met: &dyn Fn(f64) -> Option<bool>| {
        figures.push(Figure::against("alerts", figure, unit, pair, goal, |value, _| met(value)));
    };
    let against = "against Alertmanager";
    let pair = (ours.raised, theirs.raised);
    push(format!("a storm of {count} in one group is said, {against}"), "s", pair, "report", &|_| None);
    let pair = (ours.first, theirs.first);
    push(format!("from its first POST to the first notice, {against}"), "s", pair, "<= 10 s", &|value| {
        Some(value <= 10.0)
    });
    let pair = (ours.messages, theirs.messages);
    push(format!("messages of its first minute, {against}"), "messages", pair, "<= 3", &|value| {
        Some(value <= PER_MINUTE as f64)
    });
    let pair = (ours.cpu, theirs.cpu);
    push(format!("CPU of its first minute, {against}"), "s", pair, "report", &|_| None);
    let pair = (ours.memory, theirs.memory);
    push(format!("the most that was resident in it, {against}"), "MiB", pair, "report", &|_| None);
    Ok(())
}

async fn strike(side: Side, count: usize) -> Result<Storm> {
    // Made before: this machine makes them more slowly than it should say them.
    let bodies = (0..count).step_by(STORM_BATCH);
    let bodies = bodies.map(|first| body(first..(first + STORM_BATCH).min(count), |_| 0));
    let bodies: Arc<Vec<String>> = Arc::new(bodies.collect());
    let (began, cpu, next) = (Instant::now(), side.cpu()?, Arc::new(AtomicUsize::new(0)));
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (bodies, next) = (bodies.clone(), next.clone());
        let (client, url) = (side.client.clone(), side.url.clone());
        senders.spawn(async move {
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                say(&client, &url, body.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(sent) = senders.join_next().await {
        sent??;
    }
    let raised = began.elapsed().as_secs_f64();
    tokio::time::sleep_until((began + Duration::from_secs(60)).into()).await;
    let messages = side.hook.messages();
    let first = messages.first().context("nobody was told of the storm within a minute")?;
    Ok(Storm {
        raised,
        first: first.duration_since(began).as_secs_f64(),
        messages: messages.len() as f64,
        cpu: side.cpu()? - cpu,
        memory: mebibytes(memory_of(side.process, "VmHWM:")?),
    })
}
