//! Forwarding into Alertmanagers: what stands is said again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use watchfire_log::{Clock as _, ManualClock};
use watchfire_model::Timestamp;
use watchfire_notify::Notifier;

use crate::channels::Server;
use crate::receiver::{Behave, Place, Receiver, raise, resolve, submit, until};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Of a posted list: device and end of each.
fn said(body: &Value) -> Vec<(String, Timestamp)> {
    let one = |alert: &Value| {
        let device = alert["labels"]["device"].as_str().unwrap_or_default().to_string();
        (device, alert["endsAt"].as_str().unwrap().parse().unwrap())
    };
    let mut all: Vec<_> = body.as_array().unwrap().iter().map(one).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_is_said_again_and_what_ended_for_a_while() {
    let (place, server) = (Place::new(), Server::start(OK, Duration::ZERO).await);
    let store = place.open().await;
    let text =
        format!("[[receiver]]\nname = \"old\"\nalertmanager = {{ urls = [\"{}\"] }}\n", server.address);
    let config = || toml::from_str(&text).unwrap();
    let clock = Arc::new(ManualClock::new("2026-01-01T00:10:00Z".parse().unwrap()));
    let notifier = Notifier::start(store.clone(), config(), clock.clone()).await.unwrap();
    let count = || server.bodies().len();
    submit(&store, vec![raise("a", 1), raise("b", 2)]).await;
    until("both are told", || count() >= 2).await;
    let minute = async |expected: usize| {
        let before = count();
        clock.advance(Duration::from_secs(60));
        // What stands and what ended are requests of their own.
        let all = || {
            let mut all: Vec<_> = server.bodies()[before..].iter().flat_map(said).collect();
            all.sort();
            all
        };
        until("it is said again", || all().len() >= expected).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(all().len(), expected, "{:?}", all());
        all()
    };
    let in_four = || clock.wall() + watchfire_model::Duration::from_secs(240);
    let both = minute(2).await;
    assert_eq!(both, [("a".to_string(), in_four()), ("b".to_string(), in_four())]);
    // Its end is said with the rest for a quarter of an hour, and is no other than it was.
    let before = count();
    submit(&store, vec![resolve("a", 30)]).await;
    until("its end is told", || count() > before).await;
    let ended = said(&server.bodies()[before])[0].1;
    assert!(ended < clock.wall(), "{ended}");
    assert_eq!(minute(2).await[0], ("a".to_string(), ended));
    for _ in 0..13 {
        minute(2).await;
    }
    clock.advance(Duration::from_secs(60));
    assert_eq!(minute(1).await[0].0, "b");
    notifier.stop().await;
    // A new start says at once what stands: nothing runs out of its time for our being away.
    let before = count();
    let notifier = Notifier::start(store.clone(), config(), clock.clone()).await.unwrap();
    until("it is said at once", || count() > before).await;
    assert_eq!(said(&server.bodies()[before]), [("b".to_string(), in_four())]);
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_is_told_in_the_place_of_another_is_said_again_as_well() {
    let (place, server) = (Place::new(), Server::start(OK, Duration::ZERO).await);
    let (store, hook) = (place.open().await, Receiver::start().await);
    hook.usual(Behave::Answer(400));
    let text = format!(
        "[[receiver]]\nname = \"hook\"\nwebhook = {{ url = \"{}\" }}\nfallback = {{ receiver = \"old\", after = \"1h\" }}\n\
         [[receiver]]\nname = \"old\"\nalertmanager = {{ urls = [\"{}\"] }}\n[route]\nreceiver = \"hook\"",
        hook.url, server.address
    );
    let config = || toml::from_str(&text).unwrap();
    let clock = Arc::new(ManualClock::new("2026-01-01T00:10:00Z".parse().unwrap()));
    let notifier = Notifier::start(store.clone(), config(), clock.clone()).await.unwrap();
    // Whether it ends by itself, of each request that is about it. That something was refused is told as well.
    let ends = || {
        let all = server.bodies();
        let said = all.iter().flat_map(said).filter(|(device, _)| device == "a");
        said.map(|(_, ends)| ends).collect::<Vec<_>>()
    };
    submit(&store, vec![raise("a", 1)]).await;
    until("it is told in the place of the other", || !ends().is_empty()).await;
    let in_four = || clock.wall() + watchfire_model::Duration::from_secs(240);
    for _ in 0..5 {
        clock.advance(Duration::from_secs(60));
        until("it is said again", || ends().last() == Some(&in_four())).await;
        // What ended is said behind it: only then the next minute counts.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    notifier.stop().await;
    clock.advance(Duration::from_secs(60));
    let notifier = Notifier::start(store.clone(), config(), clock.clone()).await.unwrap();
    until("it is said at once", || ends().last() == Some(&in_four())).await;
    submit(&store, vec![resolve("a", 30)]).await;
    until("its end is told", || ends().last().is_some_and(|end| *end < clock.wall())).await;
    let (end, told) = (ends().last().copied(), ends().len());
    for more in 1..3 {
        clock.advance(Duration::from_secs(60));
        until("its end is said again", || ends().len() >= told + more).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(ends().last().copied(), end);
    }
    notifier.stop().await;
}
