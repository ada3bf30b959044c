//! Dead letters: what is replayed, by whom, and what a replay leaves behind.

use serde_json::{Value, json};
use watchfire_log::record::Skipped;
use watchfire_log::{Record, Reject};
use watchfire_model::call::FailureKind;
use watchfire_model::{BatchBuilder, Timestamp};

use crate::calls::{ok, problem, upload};
use crate::server::Server;

fn reject(code: &str, payload: &[u8]) -> Reject {
    Reject {
        source: "mqtt".into(),
        address: "devices/press-1/telemetry".into(),
        device: Some("press-1".into()),
        sender: Some("device:press-1".into()),
        index: None,
        code: code.into(),
        reason: "no good".into(),
        payload: payload.to_vec(),
    }
}

async fn paths(server: &Server, query: &str) -> Vec<String> {
    let list = server.call("GET", &format!("/api/v1/dead-letters{query}"), Value::Null).await;
    let items = ok(&list, 200)["items"].as_array().unwrap().clone();
    let id = |item: &Value| item["id"].as_str().unwrap().replace('/', "-");
    items.iter().map(|item| format!("/api/v1/dead-letters/{}", id(item))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_callers_never_use_a_letter_twice() {
    let server = Server::start().await;
    server.append(vec![(0, Record::Rejects(vec![reject("not-json", b"slow")]))]).await;
    let path = format!("{}/replay", paths(&server, "").await[0]);
    let (one, two) =
        tokio::join!(server.call("POST", &path, Value::Null), server.call("POST", &path, Value::Null));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{} {}", one.json, two.json);
    {
        let resubmitted = server.fake.resubmitted.lock().unwrap();
        assert_eq!((resubmitted.len(), resubmitted[0].sender.as_deref()), (1, Some("device:press-1")));
    }
    problem(&server.call("POST", &path, Value::Null).await, 409, "replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_sender_was_not_allowed_to_say_is_not_replayed() {
    let server = Server::start().await;
    server.append(vec![(0, Record::Rejects(vec![reject("not-authorised", b"{}")]))]).await;
    let path = paths(&server, "").await.remove(0);
    let refused = server.call("POST", &format!("{path}/replay"), Value::Null).await;
    problem(&refused, 422, "not-replayable");
    assert!(server.fake.resubmitted.lock().unwrap().is_empty());
    assert!(ok(&server.call("GET", &path, Value::Null).await, 200)["replayed_at"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_one_record_and_rule_are_replayed_together_and_those_of_timers_not_at_all() {
    let server = Server::start().await;
    upload(&server, "component").await;
    ok(&server.call("PUT", "/api/v1/rules/hot", json!({"module": "threshold"})).await, 201);
    ok(&server.call("PUT", "/api/v1/devices/press-1", json!({})).await, 201);
    let (partition, handle) = server.control.registries().find("press-1").unwrap();
    let mut batch = BatchBuilder::new();
    for row in 0..2 {
        batch.begin(handle, Timestamp(row));
        batch.number("temperature", 90.0).unwrap();
        batch.commit();
    }
    let readings = Record::Readings { stream: "readings".into(), origin: None, batch: batch.finish().into() };
    let offset = watchfire_log::Log::range(&*server.log, partition).1;
    let skipped = |callback: &str, rows: Vec<u32>| {
        Record::Skipped(Box::new(Skipped {
            rule: "hot".into(),
            version: 1,
            offset,
            callback: 0,
            callback_name: callback.into(),
            rows,
            kind: FailureKind::Refused,
            reason: "divided by zero".into(),
        }))
    };
    let p = partition.0;
    server
        .append(vec![(p, readings), (p, skipped("batch", vec![0, 1])), (p, skipped("timers", vec![]))])
        .await;

    let letters = paths(&server, "?rule=hot").await;
    let [timer, second, first] = &letters[..] else { panic!("{letters:?}") };
    let refused = server.call("POST", &format!("{timer}/replay"), Value::Null).await;
    problem(&refused, 422, "not-replayable");
    assert!(refused.json["detail"].as_str().unwrap().contains("timers"), "{}", refused.json);
    let redone = server.call("POST", &format!("{first}/replay"), Value::Null).await;
    assert_eq!(ok(&redone, 200)["outcome"], "redo");
    // The rows of the other letter were evaluated with it.
    problem(&server.call("POST", &format!("{second}/replay"), Value::Null).await, 409, "replayed");
    assert!(ok(&server.call("GET", timer, Value::Null).await, 200)["replayed_at"].is_null());

    // A rule that fails on its rows says nothing of how the device is heard.
    let why = server.call("GET", "/api/v1/devices/press-1/why", Value::Null).await;
    assert!(ok(&why, 200)["last_reject"].is_null(), "{}", why.json);
    server.append(vec![(p, Record::Rejects(vec![reject("not-json", b"x")]))]).await;
    let why = server.call("GET", "/api/v1/devices/press-1/why", Value::Null).await;
    assert_eq!(ok(&why, 200)["last_reject"]["code"], "not-json");
}
