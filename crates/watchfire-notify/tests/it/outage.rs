//! Receivers that are down, want to be left alone, or are slow, on a simulated clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use watchfire_log::{Clock, ManualClock};
use watchfire_model::Duration;
use watchfire_store::{DeliveryFilter, DeliveryRow, DeliveryState};

use crate::driver::{Timeline, behaves, firing, raise, raise_all, resolve, resolve_all, resolved, span};
use crate::receiver::Behave;

/// Nobody is told again of what only goes on.
const ONCE: &str = "[route]\nrepeat_interval = \"0s\"";

/// The whole ledger of a receiver, from the first delivery on.
async fn ledger(line: &Timeline, receiver: &str) -> Vec<DeliveryRow> {
    let mut filter =
        DeliveryFilter { receiver: Some(receiver.into()), limit: 1000, ..DeliveryFilter::default() };
    let mut all = Vec::new();
    loop {
        let page = line.store.deliveries(&filter).await.unwrap();
        all.extend(page.items);
        match page.next {
            Some(next) => filter.cursor = Some(next),
            None => break,
        }
    }
    all.reverse();
    all
}

fn device(i: usize) -> String {
    format!("press-{i:03}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_hour_of_outage_everything_is_told_once_and_in_order() {
    let mut line = Timeline::new(ONCE, "20s").await;
    line.at("0s", behaves("hook", Behave::Answer(503)));
    // Ten groups begin to fire each minute, and every other one is over seven minutes later.
    for minute in 0..50 {
        let begin = minute * 10;
        line.at(&format!("{minute}m"), raise_all((begin..begin + 10).map(device)));
        let over = (begin..begin + 10).filter(|i| i % 2 == 0).map(device);
        line.at(&format!("{}m", minute + 7), resolve_all(over));
    }
    line.until("1h");
    line.play().await;
    let hook = line.receiver("hook").clone();
    let while_down = hook.count();
    // Once it is known to be down, it is tried with one at a time and fifteen seconds between, and not with each of
    // hundreds: an hour has 240 of these, a quarter more where the spread of the waits is small, and sixteen go out
    // together before anything is known.
    assert!((50..=340).contains(&while_down), "{while_down} attempts in an hour");
    assert!(line.notices().is_empty(), "{:?}", line.notices());

    line.at("1h", behaves("hook", Behave::Take));
    line.until("1h5m");
    line.play().await;
    let deadline = Instant::now() + std::time::Duration::from_secs(30);
    while !line.pending("hook").await.is_empty() {
        assert!(Instant::now() < deadline, "not delivered: {:?}", line.pending("hook").await.first());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }

    let ledger = ledger(&line, "hook").await;
    assert_eq!(ledger.len(), 500 + 250);
    let delivered = ledger.iter().filter(|row| row.state == DeliveryState::Delivered).count();
    assert_eq!(delivered, 750);
    let attempts: u32 = ledger.iter().map(|row| row.attempts).sum();
    assert_eq!(attempts as usize, hook.count(), "each attempt is on the record");
    // A minute and a quarter is the longest wait between two attempts, and before that there are seven shorter ones.
    let most = ledger.iter().map(|row| row.attempts).max().unwrap();
    assert!(most <= 90, "{most} attempts of one delivery");
    let few = ledger.iter().filter(|row| row.attempts == 1).count();
    assert!(few > 650, "all but those that were tried while it was down go through at once: {few}");

    // Each notice has one id, whatever attempt took it, and each group is told in order.
    let mut bodies = BTreeMap::new();
    let mut stories: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for seen in hook.seen() {
        let before = bodies.insert(seen.id.clone(), seen.text.clone());
        assert!(before.is_none_or(|before| before == seen.text), "one id, and two texts: {}", seen.text);
        if seen.taken {
            for (device, status) in seen.says() {
                stories.entry(device).or_default().push(status);
            }
        }
    }
    let ids: BTreeSet<&str> = ledger.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(bodies.keys().map(String::as_str).collect::<BTreeSet<_>>(), ids);
    assert_eq!(stories.len(), 500);
    for (i, (device, story)) in stories.iter().enumerate() {
        let expected: &[&str] = if i % 2 == 0 { &["firing", "resolved"] } else { &["firing"] };
        assert_eq!(story, expected, "{device}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_to_be_left_alone_is_left_alone_for_as_long() {
    let mut line = Timeline::new(ONCE, "5s").await;
    line.at("0s", behaves("hook", Behave::AnswerAfter(429, 120)));
    line.at("1s", raise("press-1"));
    line.at("2s", behaves("hook", Behave::Take));
    // Others wait as well: it is the receiver who wants it, and not the one message.
    line.at("30s", raise("press-2"));
    line.at("40s", resolve("press-2"));
    line.expect("2m1s".."2m6s", firing(["press-1"]));
    line.expect("2m1s".."2m6s", firing(["press-2"]));
    line.expect("2m1s".."2m6s", resolved(["press-2"]));
    line.at("4m", raise("press-3"));
    line.expect("4m".."4m", firing(["press-3"]));
    line.until("5m").run().await;
    assert_eq!(line.receiver("hook").count(), 1 + 4, "one was refused, and nothing else was tried");
}

/// A digest is of a group of its own, and what comes behind it is of the groups that it tells of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_what_a_digest_tells_of_waits_for_the_digest() {
    let text = format!(
        "[[receiver]]\nname = \"hook\"\nmax_per_minute = 1\nretry_initial = \"10m\"\nretry_max = \"10m\"\n{ONCE}"
    );
    let mut line = Timeline::new(&text, "5s").await;
    line.at("0s", raise("press-1"));
    line.expect("0s".."0s", firing(["press-1"]));
    line.at("10s", raise_all(["press-2", "press-3"].map(String::from)));
    line.at("50s", behaves("hook", Behave::Answer(503)));
    // It is tried once, and then again in ten minutes or a quarter more or less. What tells of none of it does not wait.
    line.at("90s", behaves("hook", Behave::Take));
    line.at("95s", resolve("press-1"));
    line.expect("95s".."2m5s", resolved(["press-1"]));
    line.at("3m10s", resolve("press-2"));
    line.expect("8m".."14m", firing(["press-2", "press-3"]));
    line.expect("8m".."14m", resolved(["press-2"]));
    let notices = line.until("15m").run().await;
    let told: Vec<_> = notices.iter().map(|notice| notice.told.clone()).collect();
    let expected =
        [firing(["press-1"]), resolved(["press-1"]), firing(["press-2", "press-3"]), resolved(["press-2"])];
    assert_eq!(told, expected);
}

/// A receiver that answers only when the simulated clock is so much further; gives its address.
async fn slow(clock: Arc<ManualClock>, answers_after: Duration) -> String {
    let answer = move || {
        let clock = clock.clone();
        async move {
            let ready = clock.wall() + answers_after;
            while clock.wall() < ready {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            StatusCode::OK
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_slowly_delays_nobody_else() {
    let begin = "2026-01-05T08:00:00Z";
    let clock = Arc::new(ManualClock::new(begin.parse().unwrap()));
    let url = slow(clock.clone(), span("30s")).await;
    let text = "[[receiver]]\nname = \"hook\"\n[[receiver]]\nname = \"slow\"\nmax_in_flight = 1\n\
                [route]\nreceivers = [\"slow\", \"hook\"]\nrepeat_interval = \"0s\"";
    let mut line = Timeline::with(clock, text, "5s", [("slow", url)]).await;
    for i in 0..10 {
        let name = device(i);
        let time = format!("{}s", 10 * i);
        line.at(&time, raise(&name));
        line.expect(time.as_str()..time.as_str(), firing([name.as_str()]));
    }
    line.at("3m", resolve("press-000"));
    line.expect("3m".."3m", resolved(["press-000"]));
    // Each takes half a minute, one after the other.
    line.until("7m").run().await;
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    while !line.pending("slow").await.is_empty() {
        assert!(Instant::now() < deadline, "the slow one is told as well: {:?}", line.pending("slow").await);
        line.clock.advance(std::time::Duration::from_secs(1));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let slow = ledger(&line, "slow").await;
    let took = |row: &DeliveryRow| row.finished_at.unwrap().since(row.created_at);
    assert!(slow.iter().all(|row| row.state == DeliveryState::Delivered && row.attempts == 1), "{slow:?}");
    assert!(slow.iter().all(|row| took(row) >= span("30s")), "{slow:?}");
    let hook = ledger(&line, "hook").await;
    assert!(hook.iter().all(|row| took(row) == Duration::ZERO), "{hook:?}");
}
