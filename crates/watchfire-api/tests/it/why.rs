//! Why an alert is, and why somebody was told or was not.

use serde_json::{Value, json};
use watchfire_model::{Severity, Timestamp};
use watchfire_store::routing::{DecisionRow, Flush, NewDelivery};

use crate::alertmanager::raise;
use crate::calls::{ok, problem};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn each_receiver_has_its_reason() {
    let server = Server::start().await;
    let raised = raise(&server, "hot", "press-1", Severity::Major).await;
    let id = raised.alert.0.clone();
    let why =
        async |query: &str| server.call("GET", &format!("/api/v1/alerts/{id}/why{query}"), Value::Null).await;
    let reason = |answer: &Value, receiver: &str| {
        let all = answer["receivers"].as_array().unwrap();
        all.iter()
            .find(|one| one["receiver"] == receiver)
            .unwrap_or_else(|| panic!("{receiver}: {all:?}"))
            .clone()
    };
    let first = why("").await;
    let first = ok(&first, 200);
    assert_eq!(first["steps"][0]["kind"], "raised");
    assert_eq!(first["routes"][0]["receiver"], "ops");
    let ops = reason(first, "ops");
    assert_eq!(ops["told"], "not_told");
    assert!(ops["reason"].as_str().unwrap().contains("waits with its group"), "{ops}");
    let night = reason(first, "night");
    assert!(night["reason"].as_str().unwrap().contains("no route"), "{night}");

    let at = Timestamp(1_767_225_700_000_000);
    let held = DecisionRow {
        at,
        alert: id.clone(),
        receiver: "night".into(),
        group_key: "{}".into(),
        stage: "silence".into(),
        outcome: "held".into(),
        detail: "silenced by 17".into(),
    };
    let payload = json!({"alerts": [{"annotations": {"acknowledge_url": "https://plant.example/a/x"}}],
        "commonAnnotations": {"acknowledge_url": "https://plant.example/a/x", "summary": "hot"}});
    let delivery = NewDelivery {
        id: "d1".into(),
        receiver: "ops".into(),
        group_key: "{}".into(),
        status: "firing".into(),
        reason: "first notification".into(),
        payload: payload.to_string(),
        alerts: vec![id.clone()],
        caused_at: Some(at),
    };
    let flush = Flush { deliveries: vec![delivery], decisions: vec![held], ..Flush::default() };
    server.store.apply_flush(&flush, at).await.unwrap();
    let now = why("").await;
    let now = ok(&now, 200);
    assert_eq!(reason(now, "ops")["told"], "waiting");
    assert!(reason(now, "night")["reason"].as_str().unwrap().ends_with("by silence: silenced by 17"));
    assert_eq!(now["deliveries"][0]["id"], "d1");
    assert!(now["deliveries"][0]["payload"].is_null());

    let night = why("?receiver=night").await;
    let night = ok(&night, 200);
    assert_eq!(night["receivers"].as_array().unwrap().len(), 1);
    assert_eq!(
        (night["deliveries"].as_array().unwrap().len(), night["decisions"].as_array().unwrap().len()),
        (0, 1)
    );
    problem(&why("?receiver=nobody").await, 404, "not-found");
    problem(&server.call("GET", "/api/v1/alerts/none/why", Value::Null).await, 404, "not-found");

    // Whoever may look at messages may not act by their links.
    let shown = server.call("GET", "/api/v1/deliveries/d1", Value::Null).await;
    let payload = &ok(&shown, 200)["payload"];
    assert_eq!(payload["commonAnnotations"], json!({"acknowledge_url": "hidden", "summary": "hot"}));
    assert!(!payload.to_string().contains("/a/x"));
}
