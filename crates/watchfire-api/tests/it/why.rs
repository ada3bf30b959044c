//! Why an alert is, and why somebody was told or was not.

use std::time::Duration;

use serde_json::{Value, json};
use watchfire_api::contract::Rerun;
use watchfire_model::alert::{Evidence, Verdict};
use watchfire_model::call::{CallFailure, FailureKind};
use watchfire_model::{Severity, Timestamp};
use watchfire_store::routing::{DecisionRow, Flush, NewDelivery};

use crate::alertmanager::{hand_over, raise, raise_unsent};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_is_made_again_and_compared() {
    let server = Server::start().await;
    let mut raised = raise_unsent("hot", "press-1", Severity::Major);
    let verdict = Verdict {
        severity: raised.severity,
        summary: raised.summary.clone(),
        details: raised.details.clone(),
    };
    let evidence = Evidence {
        device: Some(raised.device.clone()),
        verdict: Some(verdict.clone()),
        ..watchfire_testkit::evidence(raised.position, raised.at)
    };
    raised.evidence = Some(Box::new(evidence.clone()));
    hand_over(&server, &raised).await;
    let path = format!("/api/v1/alerts/{}/rerun", raised.alert.0);
    let again = async |made: Result<Option<&Verdict>, CallFailure>| {
        let made = made.map(|verdict| Rerun { verdict: verdict.cloned(), took: Duration::from_millis(2) });
        *server.fake.rerun.lock().unwrap() = made;
        let answer = server.call("POST", &path, Value::Null).await;
        ok(&answer, 200).clone()
    };
    let same = again(Ok(Some(&verdict))).await;
    assert_eq!((&same["outcome"], &same["again"]), (&json!("confirmed"), &same["verdict"]), "{same}");
    let asked = server.fake.again.lock().unwrap().pop().unwrap();
    assert_eq!((asked.rule.as_str(), asked.evidence), ("hot", evidence));
    let milder = Verdict { severity: Severity::Minor, ..verdict.clone() };
    assert_eq!(again(Ok(Some(&milder))).await["outcome"], "different");
    assert_eq!(
        again(Ok(None)).await["reason"],
        "the rule says nothing of the same evidence: it may have looked at other devices"
    );
    let failed = again(Err(CallFailure::new(FailureKind::Load, "there is no such module"))).await;
    assert_eq!(
        (&failed["outcome"], &failed["reason"]),
        (&json!("failed"), &json!("there is no such module"))
    );

    let external = raise(&server, "cold", "press-2", Severity::Major).await;
    let path = format!("/api/v1/alerts/{}/rerun", external.alert.0);
    problem(&server.call("POST", &path, Value::Null).await, 409, "no-evidence");
    problem(&server.call("POST", "/api/v1/alerts/none/rerun", Value::Null).await, 404, "not-found");
}
