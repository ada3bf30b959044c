use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use watchfire_log::{Clock, ManualClock, SystemClock};
use watchfire_model::Severity;
use watchfire_model::alert::{AlertId, Transition, TransitionKind};
use watchfire_notify::{Notifier, NotifyError};
use watchfire_store::{DeliveryFilter, DeliveryState, Store};

use crate::receiver::{
    Behave, Place, Receiver, Seen, config, notify, raise, resolve, submit, transition, until,
};

async fn states(store: &Store) -> Vec<(DeliveryState, u32)> {
    let filter = DeliveryFilter { limit: 1000, ..DeliveryFilter::default() };
    let rows = store.deliveries(&filter).await.unwrap().items;
    rows.iter().rev().map(|row| (row.state, row.attempts)).collect()
}

async fn settled(store: &Store, count: usize) {
    for _ in 0..2000 {
        let states = states(store).await;
        if states.len() >= count && states.iter().all(|(state, _)| *state != DeliveryState::Pending) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let unrouted = store.unrouted(1000).await.unwrap().len();
    panic!("not settled, {unrouted} not routed: {:?}", states(store).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_body_is_that_of_alertmanager_version_4() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    let notifier = notify(&store, config(&receiver.url, "")).await;
    submit(&store, vec![raise("press-1", 1)]).await;
    receiver.wait_taken(1).await;
    submit(&store, vec![resolve("press-1", 61)]).await;
    let seen = receiver.wait_taken(2).await;
    let golden: serde_json::Value = serde_json::from_str(include_str!("webhook.json")).unwrap();
    assert_eq!(serde_json::json!([seen[0].body, seen[1].body]), golden);
    assert_ne!(seen[0].id, seen[1].id);
    settled(&store, 2).await;
    let alert = &store.alerts(&Default::default()).await.unwrap().items[0].id;
    let detail = store.alert(alert).await.unwrap();
    assert_eq!(detail.deliveries.len(), 2);
    let ledger = store.delivery(&seen[0].id).await.unwrap();
    assert_eq!((ledger.payload, ledger.tries.len()), (seen[0].body.clone(), 1));
    notifier.stop().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_severity_resolves_the_old_labels_and_fires_the_new() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    let notifier = notify(&store, config(&receiver.url, "")).await;
    let change = TransitionKind::SeverityChanged { from: Severity::Major };
    submit(&store, vec![raise("a", 1)]).await;
    receiver.wait_taken(1).await;
    submit(&store, vec![transition("a", 2, change, Severity::Critical)]).await;
    let seen = receiver.wait_taken(2).await;
    let alerts = &seen[1].body["alerts"];
    let told = |i: usize| (alerts[i]["status"].as_str(), alerts[i]["labels"]["severity"].as_str());
    assert_eq!(told(0), (Some("resolved"), Some("major")));
    assert_eq!(told(1), (Some("firing"), Some("critical")));
    assert_eq!(alerts[0]["fingerprint"], seen[0].body["alerts"][0]["fingerprint"]);
    assert_ne!(alerts[0]["fingerprint"], alerts[1]["fingerprint"]);
    submit(&store, vec![resolve("a", 3)]).await;
    let seen = receiver.wait_taken(3).await;
    assert_eq!(seen[2].body["alerts"][0]["fingerprint"], alerts[1]["fingerprint"]);
    assert_eq!(seen[2].body["notification_reason"], "all alerts resolved");
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_tried_again_with_the_same_id_and_in_order() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    receiver.next([Behave::Answer(500), Behave::Hang, Behave::Answer(429), Behave::Answer(503)]);
    let notifier = notify(&store, config(&receiver.url, "")).await;
    submit(&store, vec![raise("a", 1), resolve("a", 2)]).await;
    let taken = receiver.wait_taken(2).await;
    let says: Vec<_> = taken.iter().map(|seen| seen.body["status"].as_str().unwrap().to_string()).collect();
    assert_eq!(says, ["firing", "resolved"]);
    let ids: Vec<_> = receiver.seen().iter().map(|seen| seen.id.clone()).collect();
    assert_eq!(ids[..5].iter().collect::<HashSet<_>>().len(), 1, "every attempt of the firing has its id");
    settled(&store, 2).await;
    assert_eq!(states(&store).await, [(DeliveryState::Delivered, 5), (DeliveryState::Delivered, 1)]);
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_asks_for_patience_gets_it() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    receiver.next([Behave::AnswerAfter(429, 1)]);
    let notifier = notify(&store, config(&receiver.url, "")).await;
    let started = std::time::Instant::now();
    submit(&store, vec![raise("a", 1)]).await;
    receiver.wait_taken(1).await;
    assert!(started.elapsed() >= std::time::Duration::from_secs(1));
    assert_eq!(receiver.seen().len(), 2);
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_good_is_kept_and_holds_nobody_back() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    receiver.next([Behave::Answer(422)]);
    let notifier = notify(&store, config(&receiver.url, "")).await;
    submit(&store, vec![raise("a", 1), resolve("a", 2)]).await;
    receiver.wait_taken(1).await;
    settled(&store, 2).await;
    assert_eq!(states(&store).await, [(DeliveryState::Refused, 1), (DeliveryState::Delivered, 1)]);
    let refused = DeliveryFilter { state: Some(DeliveryState::Refused), ..DeliveryFilter::default() };
    let row = &store.deliveries(&refused).await.unwrap().items[0];
    assert_eq!(row.last_error.as_deref(), Some("answered 422 Unprocessable Entity"));
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_hangs_delays_nobody_else() {
    let (place, good, bad) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    bad.usual(Behave::Hang);
    let more = format!(
        "[[receiver]]\nname = \"bad\"\nmax_in_flight = 2\nwebhook = {{ url = \"{}\", timeout = \"60s\" }}\n\
         [route]\nreceiver = \"hook\"\n[[route.routes]]\nreceiver = \"bad\"\ncontinue = true\n\
         [[route.routes]]\nreceiver = \"hook\"\n",
        bad.url
    );
    let notifier = notify(&store, config(&good.url, &more)).await;
    let raised = (0..50).map(|i| raise(&format!("d-{i}"), 1)).collect();
    submit(&store, raised).await;
    good.wait_taken(50).await;
    until("as many hang as may", || bad.seen().len() == 2).await;
    // The deadline of the test is what tells a stop that waits for a minute.
    notifier.stop().await;
    assert_eq!(bad.seen().len(), 2);
    assert_eq!(store.waiting_deliveries().await.unwrap()[0].pending, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_under_another_id_whenever_it_dies() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    receiver.usual(Behave::Answer(503));
    let devices: Vec<String> = (0..20).map(|i| format!("d-{i}")).collect();
    for round in 0..6_u64 {
        let store = place.open().await;
        // Dropped at different moments: before routing, before or during attempts, between answer and record.
        let notifier = notify(&store, config(&receiver.url, "")).await;
        let step = round * 10 + 1;
        let transitions: Vec<_> = devices
            .iter()
            .flat_map(|device| match round {
                0 => vec![raise(device, step)],
                5 => vec![resolve(device, step)],
                _ => {
                    let from = if round % 2 == 1 { Severity::Major } else { Severity::Critical };
                    let to = if round % 2 == 1 { Severity::Critical } else { Severity::Major };
                    vec![transition(device, step, TransitionKind::SeverityChanged { from }, to)]
                }
            })
            .collect();
        submit(&store, transitions.clone()).await;
        submit(&store, transitions).await;
        if round >= 3 {
            receiver.usual(Behave::Take);
        }
        tokio::time::sleep(std::time::Duration::from_millis(round * 25)).await;
        drop(notifier);
        store.close().await;
    }
    let store = place.open().await;
    let notifier = notify(&store, config(&receiver.url, "")).await;
    settled(&store, 120).await;
    assert_eq!(states(&store).await.len(), 120);
    let mut bodies = HashMap::new();
    let mut order: HashMap<String, Vec<String>> = HashMap::new();
    for seen in receiver.seen() {
        let before = bodies.insert(seen.id.clone(), seen.body.clone());
        assert!(before.is_none_or(|before| before == seen.body), "the same id says the same");
        if seen.taken {
            let list = order.entry(seen.says()[0].0.clone()).or_default();
            // A repetition after a crash has the id of the one before it.
            if list.last() != Some(&seen.id) {
                list.push(seen.id);
            }
        }
    }
    assert_eq!(bodies.len(), 120);
    assert!(receiver.seen().len() > 120, "no attempt was repeated: nothing was interrupted");
    for device in devices {
        let filter = DeliveryFilter { limit: 1000, ..DeliveryFilter::default() };
        let rows = store.deliveries(&filter).await.unwrap().items;
        let expected: Vec<String> = rows
            .iter()
            .rev()
            .filter(|row| row.group_key.contains(&format!("{device:?}")))
            .map(|row| row.id.clone())
            .collect();
        assert_eq!(order[&device], expected, "{device}: each once, in order");
    }
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_too_long_is_given_up_and_named() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    receiver.usual(Behave::Answer(500));
    let mut config = config(&receiver.url, "");
    config.receivers[0].expire = watchfire_model::Duration::from_millis(300);
    let notifier = notify(&store, config).await;
    submit(&store, vec![raise("a", 1)]).await;
    settled(&store, 1).await;
    assert_eq!(states(&store).await[0].0, DeliveryState::Expired);
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_waits_survives_a_restart_and_tells_everything_in_order() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    let route = "[route]\ngroup_by = [\"alertname\"]\ngroup_wait = \"700ms\"";
    let notifier = notify(&store, config(&receiver.url, route)).await;
    submit(&store, vec![raise("a", 1), raise("b", 2), resolve("a", 3)]).await;
    while store.groups().await.unwrap().groups.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    notifier.stop().await;
    assert!(receiver.seen().is_empty());
    let notifier = notify(&store, config(&receiver.url, route)).await;
    let seen = receiver.wait_taken(2).await;
    let pair = |device: &str, status: &str| (device.to_string(), status.to_string());
    assert_eq!(seen[0].says(), [pair("a", "firing"), pair("b", "firing")]);
    assert_eq!(seen[1].says(), [pair("a", "resolved"), pair("b", "firing")]);
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_over_or_leaves_everything_as_it_was() {
    let (place, first, second) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    let notifier = notify(&store, config(&first.url, "")).await;
    let mut broken = config(&second.url, "");
    broken.route.receiver = Some("nobody".into());
    assert!(notifier.reload(broken).unwrap_err().to_string().contains("nobody"));
    submit(&store, vec![raise("a", 1)]).await;
    first.wait_taken(1).await;
    notifier.reload(config(&second.url, "")).unwrap();
    submit(&store, vec![resolve("a", 2)]).await;
    second.wait_taken(1).await;
    assert_eq!(notifier.receivers()[0].name, "hook");
    let test = notifier.test_receiver("hook").await.unwrap();
    assert!(test.delivered, "{test:?}");
    assert_eq!(second.taken()[1].body["alerts"][0]["labels"]["alertname"], "watchfire-test");
    second.usual(Behave::Answer(401));
    assert_eq!(notifier.test_receiver("hook").await.unwrap().status, Some(401));
    assert!(matches!(notifier.test_receiver("x").await, Err(NotifyError::UnknownReceiver(_))));
    notifier.stop().await;
}

/// Not a test of time: prints how long it takes from the hand-over of a transition to the receiver.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_long_from_transition_to_receiver() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    let notifier = notify(&store, config(&receiver.url, "")).await;
    let mut took = Vec::new();
    for i in 0..300_usize {
        let started = std::time::Instant::now();
        let keeper = store.keeper();
        let transitions = vec![raise(&format!("d-{i}"), 1)];
        keeper.submit(watchfire_model::alert::AlertChanges { transitions, ..Default::default() });
        while receiver.count() <= i {
            tokio::time::sleep(std::time::Duration::from_micros(100)).await;
        }
        took.push(started.elapsed());
        settled_one(&store).await;
    }
    took.sort();
    println!("transition to receiver: p50 {:?}, p99 {:?}", took[150], took[297]);
    let started = std::time::Instant::now();
    submit(&store, (0..5000).map(|i| raise(&format!("s-{i}"), 1)).collect()).await;
    while receiver.count() < 5300 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    println!("a storm of 5000 alerts, a message each: {:?}", started.elapsed());
    notifier.stop().await;
}

async fn settled_one(store: &Store) {
    while !store.waiting_deliveries().await.unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_micros(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_being_deployed_is_told_when_it_is_back() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    receiver.next([Behave::Answer(404), Behave::Answer(401), Behave::Answer(403), Behave::Answer(502)]);
    let notifier = notify(&store, config(&receiver.url, "")).await;
    submit(&store, vec![raise("a", 1)]).await;
    receiver.wait_taken(1).await;
    settled(&store, 1).await;
    assert_eq!(states(&store).await, [(DeliveryState::Delivered, 5)]);
    notifier.stop().await;
}

/// A clock that is so many hours ahead, and stands still.
fn hours_ahead(hours: u64) -> Arc<ManualClock> {
    let clock = ManualClock::new(SystemClock.wall());
    clock.advance(std::time::Duration::from_secs(hours * 3600));
    Arc::new(clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_receiver_that_is_gone_expires() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    receiver.usual(Behave::Answer(503));
    let notifier = notify(&store, config(&receiver.url, "")).await;
    submit(&store, vec![raise("a", 1)]).await;
    until("it is tried", || receiver.count() > 0).await;
    notifier.stop().await;
    let without = || toml::from_str("").unwrap();
    let notifier = Notifier::start(store.clone(), without(), hours_ahead(23)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(states(&store).await[0].0, DeliveryState::Pending, "it may come back");
    notifier.stop().await;
    let notifier = Notifier::start(store.clone(), without(), hours_ahead(25)).await.unwrap();
    settled(&store, 1).await;
    assert_eq!(states(&store).await[0].0, DeliveryState::Expired);
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_receiver_is_told_once_that_one_takes_nothing_and_once_that_it_does_again() {
    let (place, bad, good) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    bad.usual(Behave::Answer(503));
    let more = format!(
        "[[receiver]]\nname = \"other\"\nwebhook = {{ url = \"{}\" }}\n[route]\nreceiver = \"hook\"\n",
        good.url
    );
    let notifier = notify(&store, config(&bad.url, &more)).await;
    submit(&store, vec![raise("a", 1)]).await;
    until("it is tried", || bad.count() > 0).await;
    assert_eq!(good.count(), 0, "that is no hour");
    notifier.stop().await;
    // Told once, whatever restarts.
    for _ in 0..2 {
        let notifier = Notifier::start(store.clone(), config(&bad.url, &more), hours_ahead(1)).await.unwrap();
        let told = good.wait_taken(1).await;
        assert_eq!(told[0].body["alerts"][0]["labels"]["alertname"], "watchfire-undelivered");
        assert_eq!(told[0].body["alerts"][0]["labels"]["receiver"], "hook");
        assert_eq!(told[0].body["status"], "firing");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(good.count(), 1);
        notifier.stop().await;
    }
    bad.usual(Behave::Take);
    let clock = hours_ahead(1);
    let notifier = Notifier::start(store.clone(), config(&bad.url, &more), clock.clone()).await.unwrap();
    // The wait after an attempt that failed is over.
    clock.advance(std::time::Duration::from_secs(3600));
    bad.wait_taken(1).await;
    let told = good.wait_taken(2).await;
    assert_eq!((&told[1].body["status"], told.len()), (&serde_json::json!("resolved"), 2));
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_in_for_a_receiver_is_told_once_what_waits_for_it_too_long() {
    let (place, first, second) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    first.usual(Behave::Answer(503));
    let more = format!(
        "fallback = {{ receiver = \"second\", after = \"100ms\" }}\n[[receiver]]\nname = \"second\"\n\
         fallback = {{ receiver = \"hook\", after = \"100ms\" }}\n\
         webhook = {{ url = \"{}\" }}\n[route]\nreceiver = \"hook\"",
        second.url
    );
    let notifier = notify(&store, config(&first.url, &more)).await;
    submit(&store, vec![raise("a", 1)]).await;
    let seen = second.wait_taken(1).await;
    assert_eq!((&seen[0].body["receiver"], &seen[0].body["status"]), (&"second".into(), &"firing".into()));
    // What the first one is told once it takes again is the same under its own id, and the other is told nothing more.
    first.usual(Behave::Take);
    let own = first.wait_taken(1).await;
    assert_eq!(seen[0].id, format!("fallback/second/{}", own[0].id));
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(second.wait_taken(1).await.len(), 1);
    let alert = &store.alerts(&Default::default()).await.unwrap().items[0].id;
    let decisions = store.decisions(alert).await.unwrap();
    assert_eq!((decisions.len(), decisions[0].stage.as_str()), (1, "fallback"), "{decisions:?}");
    assert_eq!(decisions[0].detail, "hook took nothing for 100ms");
    notifier.stop().await;
}

/// Where `second` stands in for `hook`.
fn with_fallback(second: &Receiver, more: &str) -> String {
    format!(
        "fallback = {{ receiver = \"second\", after = \"1h\" }}\n[[receiver]]\nname = \"second\"\n\
         webhook = {{ url = \"{}\" }}\n{more}\n[route]\nreceiver = \"hook\"",
        second.url
    )
}

fn alertname(seen: &Seen) -> &str {
    seen.body["alerts"][0]["labels"]["alertname"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_in_is_told_what_was_refused_for_good_and_its_end_and_that_it_was() {
    let (place, first, second) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    first.next([Behave::Answer(400)]);
    let notifier = notify(&store, config(&first.url, &with_fallback(&second, ""))).await;
    submit(&store, vec![raise("a", 1)]).await;
    let seen = second.wait_taken(2).await;
    let (own, instead): (Vec<_>, Vec<_>) =
        seen.iter().partition(|seen| alertname(seen) == "watchfire-refused");
    assert_eq!((own.len(), instead.len()), (1, 1));
    let said = own[0].body["commonAnnotations"]["summary"].as_str().unwrap();
    assert!(said.contains("hook will not be told of 1 deliveries") && said.contains("400"), "{said}");
    assert_eq!(
        (&instead[0].body["receiver"], &instead[0].body["status"]),
        (&"second".into(), &"firing".into())
    );
    // The first takes the end; the other was told that it fires, and hears of the end too.
    submit(&store, vec![resolve("a", 2)]).await;
    first.wait_taken(1).await;
    let seen = second.wait_taken(3).await;
    assert_eq!((alertname(&seen[2]), &seen[2].body["status"]), ("hot", &"resolved".into()));
    // What comes next is none of its business.
    submit(&store, vec![Transition { alert: AlertId::raised_by("again"), ..raise("a", 3) }]).await;
    first.wait_taken(2).await;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(second.count(), 3);
    let alert = store.alerts(&Default::default()).await.unwrap().items.pop().unwrap().id;
    let decisions = store.decisions(&alert).await.unwrap();
    let details: Vec<_> = decisions.iter().map(|decision| decision.detail.as_str()).collect();
    assert_eq!(details, ["hook refused it for good", "more of what was told instead of hook"]);
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_of_who_stands_in_holds_for_what_is_given_over() {
    let (place, first, second) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    first.usual(Behave::Answer(400));
    let more = with_fallback(&second, "max_per_minute = 2\nbypass = [['device=\"safety\"']]");
    let raised = ["a", "b", "c", "safety"].iter().zip(1..).map(|(device, at)| raise(device, at));
    submit(&store, raised.collect()).await;
    // First without anybody who stands in: so all of it is late at once.
    let notifier = notify(&store, config(&first.url, "")).await;
    settled(&store, 4).await;
    notifier.stop().await;
    let notifier = notify(&store, config(&first.url, &more)).await;
    until("what was refused is told, and that it was", || second.count() >= 3).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let seen = second.taken();
    let told: Vec<_> = seen.iter().filter(|seen| alertname(seen) == "hot").collect();
    let digest: Vec<_> = told.iter().filter(|seen| !seen.body["digest"].is_null()).collect();
    assert_eq!((told.len(), digest.len()), (2, 1), "{told:?}");
    assert_eq!(digest[0].body["digest"]["firing"], 3);
    assert!(told.iter().any(|seen| seen.says() == [("safety".to_string(), "firing".to_string())]));
    notifier.stop().await;
}

/// Severities and statuses that a message tells, and whether it is a digest.
fn told(seen: &Seen) -> (Vec<(String, String)>, bool) {
    let alerts = seen.body["alerts"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    let all = alerts.map(|alert| (text(&alert["labels"]["severity"]), text(&alert["status"])));
    (all.collect(), !seen.body["digest"].is_null())
}

fn severity(device: &str, step: u64, from: Severity, to: Severity) -> Transition {
    transition(device, step, TransitionKind::SeverityChanged { from }, to)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_in_is_told_in_order_of_what_was_in_a_digest() {
    let (place, first, second) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    first.usual(Behave::Answer(503));
    second.next([Behave::Answer(503)]);
    let more = with_fallback(
        &second,
        "max_per_minute = 1\nbypass = [['severity=\"critical\"']]\nretry_initial = \"4s\"\nretry_max = \"4s\"",
    );
    let notifier = notify(&store, config(&first.url, &more.replace("\"1h\"", "\"100ms\""))).await;
    submit(&store, vec![raise("a", 1), raise("b", 2)]).await;
    until("the digest was tried", || second.count() >= 1).await;
    // Nothing holds this back but that it was told of there.
    submit(&store, vec![severity("a", 3, Severity::Major, Severity::Critical)]).await;
    let seen = second.wait_taken(2).await;
    assert!(told(&seen[0]).1, "{seen:?}");
    let change = [("major", "resolved"), ("critical", "firing")];
    assert_eq!(told(&seen[1]), (change.map(|(of, how)| (of.to_string(), how.to_string())).into(), false));
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_for_who_stands_in_comes_behind_what_was_told_of_its_alerts_before() {
    let (place, first, second) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    first.usual(Behave::Answer(400));
    let more = with_fallback(&second, "max_per_minute = 3\nbypass = [['severity=\"critical\"']]");
    // First without anybody who stands in: so all of it is late at once.
    let notifier = notify(&store, config(&first.url, "")).await;
    submit(&store, vec![transition("a", 1, TransitionKind::Raised, Severity::Critical)]).await;
    settled(&store, 1).await;
    submit(&store, vec![severity("a", 2, Severity::Critical, Severity::Major)]).await;
    settled(&store, 2).await;
    submit(&store, vec![resolve("a", 3), raise("b", 4), raise("c", 5)]).await;
    settled(&store, 5).await;
    notifier.stop().await;
    let notifier = notify(&store, config(&first.url, &more)).await;
    let hot = || second.taken().into_iter().filter(|seen| alertname(seen) == "hot").collect::<Vec<_>>();
    until("all of it is told", || hot().len() >= 3).await;
    let digests: Vec<bool> = hot().iter().map(|seen| told(seen).1).collect();
    assert_eq!(digests, [false, false, true], "{:?}", hot());
    assert_eq!(told(&hot()[0]).0, [("critical".to_string(), "firing".to_string())]);
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_asked_for_rest_has_it_whatever_comes_of_what_was_under_way() {
    let (place, receiver) = (Place::new(), Receiver::start().await);
    let store = place.open().await;
    let clock = Arc::new(ManualClock::new(SystemClock.wall()));
    receiver.next([Behave::TakeLater(150), Behave::AnswerAfter(429, 600)]);
    let notifier = Notifier::start(store.clone(), config(&receiver.url, ""), clock.clone()).await.unwrap();
    submit(&store, vec![raise("a", 1), raise("b", 2)]).await;
    until("both are tried", || receiver.count() == 2).await;
    while !states(&store).await.iter().any(|(state, _)| *state == DeliveryState::Delivered) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    submit(&store, vec![raise("c", 3)]).await;
    clock.advance(std::time::Duration::from_secs(590));
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(receiver.count(), 2, "it asked for ten minutes");
    clock.advance(std::time::Duration::from_secs(60));
    receiver.wait_taken(3).await;
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_in_follows_the_alert_and_not_what_else_is_in_its_group() {
    let (place, first, second) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    first.next([Behave::Answer(400)]);
    let more = format!("{}\ngroup_by = [\"alertname\"]", with_fallback(&second, ""));
    let notifier = notify(&store, config(&first.url, &more)).await;
    submit(&store, vec![raise("a", 1)]).await;
    second.wait_taken(2).await;
    // The group goes on with another one; what is new in it is told by whoever it was meant for.
    for (count, transition) in [(1, raise("b", 2)), (2, resolve("a", 3)), (3, resolve("b", 4))] {
        submit(&store, vec![transition]).await;
        first.wait_taken(count).await;
    }
    let told = second.wait_taken(3).await;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let ours = |seen: &Seen| (alertname(seen) == "hot").then(|| seen.says()[0].clone());
    let told: Vec<_> = told.iter().filter_map(ours).collect();
    let expected = [("a", "firing"), ("a", "resolved")].map(|(one, how)| (one.to_string(), how.to_string()));
    assert_eq!((told, second.count()), (expected.to_vec(), 3));
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_word_to_who_stands_in_is_how_it_ended() {
    let (place, first, second) = (Place::new(), Receiver::start().await, Receiver::start().await);
    let store = place.open().await;
    first.usual(Behave::Answer(503));
    let more = with_fallback(&second, "").replace("\"1h\"", "\"1500ms\"");
    let more = format!("{more}\ngroup_by = [\"alertname\"]");
    let notifier = notify(&store, config(&first.url, &more)).await;
    submit(&store, vec![raise("a", 1)]).await;
    second.wait_taken(1).await;
    // Each a message of its own, none of which the first one takes; the last comes before the one between is late.
    for transition in [raise("b", 2), resolve("a", 3), resolve("b", 4)] {
        let before = store.deliveries(&DeliveryFilter::default()).await.unwrap().items.len();
        submit(&store, vec![transition]).await;
        while store.deliveries(&DeliveryFilter::default()).await.unwrap().items.len() == before {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    second.wait_taken(2).await;
    tokio::time::sleep(std::time::Duration::from_millis(4000)).await;
    let mut state: HashMap<String, String> = HashMap::new();
    for (device, status) in second.taken().iter().flat_map(Seen::says) {
        let before = state.insert(device.clone(), status.clone());
        assert!(
            before.as_deref() != Some("resolved") || status == "resolved",
            "{device} is over, and fires again"
        );
    }
    assert!(state.values().all(|status| status == "resolved"), "{state:?}");
    notifier.stop().await;
}
