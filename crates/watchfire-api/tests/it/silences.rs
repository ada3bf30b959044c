//! Silences over our own API.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use watchfire_api::alertmanager::follow_silences;
use watchfire_api::contract::Receivers as _;
use watchfire_log::clock::SystemClock;
use watchfire_model::Severity;

use crate::alertmanager::{raise, resolve};
use crate::calls::{ok, problem};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn silences_are_made_changed_listed_and_ended() {
    let server = Server::start().await;
    raise(&server, "hot", "press-1", Severity::Major).await;
    let body = json!({"matchers": ["device=\"press-1\""], "for": "2h", "comment": "works"});
    let made = server.call("POST", "/api/v1/silences", body).await;
    let made = ok(&made, 200).clone();
    assert_eq!(
        (&made["state"], &made["alerts"], &made["created_by"]),
        (&json!("active"), &json!(1), &json!("anonymous"))
    );
    let id = made["id"].as_str().unwrap();
    let path = format!("/api/v1/silences/{id}");
    assert_eq!(ok(&server.call("GET", &path, Value::Null).await, 200), &made);

    let parts = json!([{"name": "device", "value": "press-1", "is_regex": false, "is_equal": true}]);
    let longer = json!({"id": id, "matchers": parts, "for": "3h", "comment": "still"});
    let longer = server.call("POST", "/api/v1/silences", longer).await;
    assert_eq!(ok(&longer, 200)["id"], id);
    let other = json!({"id": id, "matchers": ["device=~\"press-.*\""], "for": "3h", "comment": "more"});
    let other = server.call("POST", "/api/v1/silences", other).await;
    let other = ok(&other, 200)["id"].as_str().unwrap().to_string();
    assert_ne!(other, id);
    let listed = async |query: &str| {
        let answer = server.call("GET", &format!("/api/v1/silences{query}"), Value::Null).await;
        let items = ok(&answer, 200)["items"].as_array().unwrap().clone();
        items.into_iter().map(|item| item["id"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, [other.as_str()]);
    assert_eq!(listed("?state=expired").await, [id]);
    ok(&server.call("DELETE", &format!("/api/v1/silences/{other}"), Value::Null).await, 204);
    assert_eq!(listed("").await, [] as [&str; 0]);
    assert_eq!(
        ok(&server.call("GET", "/api/v1/silences:forgotten", Value::Null).await, 200)["items"],
        json!([])
    );
    problem(&server.call("DELETE", "/api/v1/silences/nothing", Value::Null).await, 404, "not-found");
    problem(&server.call("GET", "/api/v1/silences?state=over", Value::Null).await, 400, "query");
    problem(&server.call("GET", "/api/v1/silences:forgotten?idle=long", Value::Null).await, 400, "query");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_silence_is_said() {
    let server = Server::start().await;
    for (body, code) in [
        (json!({"matchers": ["a=\"b\""], "for": "1h", "comment": ""}), "comment"),
        (json!({"matchers": ["a"], "for": "1h", "comment": "c"}), "matcher"),
        (json!({"matchers": [], "for": "1h", "comment": "c"}), "matcher"),
        (json!({"matchers": ["a=~\".*\""], "for": "1h", "comment": "c"}), "matcher"),
        (json!({"matchers": ["a=b"], "comment": "c"}), "span"),
        (json!({"matchers": ["a=b"], "comment": "c", "ends_at": "2020-01-01T00:00:00Z"}), "span"),
    ] {
        let answer = server.call("POST", "/api/v1/silences", body).await;
        problem(&answer, 422, code);
        assert!(answer.json["pointer"].is_string(), "{}", answer.json);
    }
    let unknown = json!({"id": "x", "matchers": ["a=b"], "for": "1h", "comment": "c"});
    problem(&server.call("POST", "/api/v1/silences", unknown).await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_until_resolved_ends_with_its_last_alert() {
    let server = Server::start().await;
    let (fake, stop) = (server.fake.clone(), server.stop.clone());
    let settings = move || fake.settings();
    let following = follow_silences(
        server.store.clone(),
        server.active.clone(),
        settings,
        Arc::new(SystemClock),
        stop.clone(),
    );
    let following = tokio::spawn(following);
    let (one, two) = (
        raise(&server, "hot", "press-1", Severity::Major).await,
        raise(&server, "hot", "press-2", Severity::Major).await,
    );
    let body = json!({"matchers": ["alertname=hot"], "until_resolved": true, "comment": "known"});
    let made = server.call("POST", "/api/v1/silences", body).await;
    let id = ok(&made, 200)["id"].as_str().unwrap().to_string();
    let waiting = json!({"matchers": ["alertname=cold"], "until_resolved": true, "comment": "may come"});
    let waiting = server.call("POST", "/api/v1/silences", waiting).await;
    let waiting = ok(&waiting, 200)["id"].as_str().unwrap().to_string();
    let state = async |id: &str| {
        let answer = server.call("GET", &format!("/api/v1/silences/{id}"), Value::Null).await;
        ok(&answer, 200)["state"].as_str().unwrap().to_string()
    };
    resolve(&server, one).await;
    assert_eq!(state(&id).await, "active");
    resolve(&server, two).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while state(&id).await != "expired" {
        assert!(std::time::Instant::now() < deadline, "the silence goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state(&waiting).await, "active", "nothing of it came yet");
    stop.cancel();
    following.await.unwrap();
}
