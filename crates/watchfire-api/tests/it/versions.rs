//! Versions of rules: what a dry run says, what refuses one, what a rollback goes on with, and what differs.

use serde_json::{Value, json};
use watchfire_api::contract::{Trial, TrialFailure};
use watchfire_log::Record;
use watchfire_model::{Control, DeviceHandle, RollbackState};

use crate::calls::{ok, problem, upload};
use crate::server::{Answer, Server};

async fn put(server: &Server, body: Value, query: &str) -> Answer {
    server.call("PUT", &format!("/api/v1/rules/hot{query}"), body).await
}

async fn back(server: &Server, body: Value, query: &str) -> Answer {
    server.call("POST", &format!("/api/v1/rules/hot/rollback{query}"), body).await
}

/// The last record that the rule is changed by.
fn last_control(server: &Server) -> Control {
    let records = server.log.records();
    let controls = records.iter().rev().filter_map(|entry| match &entry.record {
        Record::Control(control) => Some((**control).clone()),
        _ => None,
    });
    let mut of_rules =
        controls.filter(|c| matches!(c, Control::RuleDeployed { .. } | Control::RuleRolledBack { .. }));
    of_rules.next().unwrap()
}

fn state_of(control: &Control) -> RollbackState {
    match control {
        Control::RuleRolledBack { state, .. } => *state,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let server = Server::start().await;
    upload(&server, "component").await;
    for (id, kind) in [("press-1", "press"), ("press-2", "press"), ("pump-1", "pump"), ("old", "pump")] {
        let path = format!("/api/v1/devices/{id}");
        ok(&server.call("PUT", &path, json!({"type": kind})).await, 201);
    }
    ok(&server.call("DELETE", "/api/v1/devices/old", Value::Null).await, 204);
    let reader = json!({"module": "threshold", "input": "hot-readings"});
    ok(&server.call("PUT", "/api/v1/rules/reader", reader).await, 201);
    let first = json!({
        "module": "threshold", "select": {"type": "press"}, "output": "hot-readings", "reason": "summer",
    });
    let dry = put(&server, first.clone(), "?dry_run=true").await;
    assert_eq!(ok(&dry, 200)["change"], "create");
    assert_eq!(dry.json["devices"]["gained"], json!({"count": 2, "names": ["press-1", "press-2"]}));
    assert_eq!((&dry.json["state"]["fate"], &dry.json["refusal"]), (&json!("none"), &Value::Null));
    assert_eq!(dry.json["streams"]["read_by"], json!(["reader"]));
    ok(&put(&server, first, "").await, 201);

    // A module that is only looked at.
    let bytes = "layout 2 migrates";
    let looked = server.call("POST", "/api/v1/modules?dry_run=true", json!(bytes)).await;
    let digest = ok(&looked, 200)["digest"].clone();
    *server.fake.trial.lock().unwrap() =
        Trial { devices: 2, blobs: 3, bytes: 24, new_bytes: 48, ..Trial::default() };
    let records = server.log.records().len();
    let second = json!({
        "module": digest, "select": {"type": ["pump"]}, "parameters": {"above": 90}, "limits": {"time": "1s"},
    });
    let dry = put(&server, second.clone(), "?dry_run=true").await;
    let plan = ok(&dry, 200);
    assert_eq!((&plan["change"], &plan["from_version"]), (&json!("update"), &json!(1)));
    assert_eq!(plan["parameters"], json!([{"name": "above", "from": 80, "to": 90}]));
    assert_eq!(plan["devices"]["before"], 2);
    assert_eq!(plan["devices"]["gained"], json!({"count": 1, "names": ["pump-1"]}));
    assert_eq!(plan["devices"]["lost"], json!({"count": 2, "names": ["press-1", "press-2"]}));
    assert_eq!(plan["resolved"], json!({"count": 0, "first": []}));
    assert_eq!(
        (&plan["limits"]["from"]["time"], &plan["limits"]["to"]["time"]),
        (&json!("500ms"), &json!("1s"))
    );
    assert_eq!(plan["streams"]["output"], json!({"from": "hot-readings", "to": null}));
    assert_eq!(plan["streams"]["lost_by"], json!(["reader"]));
    assert_eq!(plan["imports"]["to"], json!(["watchfire:rule/readings"]));
    assert_eq!((&plan["module"]["to"]["digest"], &plan["metrics"]["to"]), (&digest, &json!([])));
    let state = &plan["state"];
    assert_eq!(
        (&state["fate"], &state["from_layout"], &state["to_layout"]),
        (&json!("migrated"), &json!(1), &json!(2))
    );
    assert_eq!((&state["trial"]["blobs"], &state["trial"]["new_bytes"]), (&json!(3), &json!(48)));
    // Nothing of it is there afterwards, and a deployment does not know the module.
    assert_eq!(server.log.records().len(), records);
    problem(&server.call("GET", "/api/v1/modules/none", Value::Null).await, 404, "not-found");
    let listed = server.call("GET", "/api/v1/modules", Value::Null).await;
    assert_eq!(ok(&listed, 200)["items"].as_array().unwrap().len(), 1);
    problem(&put(&server, second.clone(), "").await, 404, "not-found");
    // A few are held, and no more: the ninth pushes the first one out.
    for i in 0..8 {
        ok(&server.call("POST", "/api/v1/modules?dry_run=true", json!(format!("other {i}"))).await, 200);
    }
    problem(&put(&server, second.clone(), "?dry_run=true").await, 404, "not-found");
    upload(&server, bytes).await;
    assert_eq!(ok(&put(&server, second.clone(), "").await, 200)["goes_on_with"]["fate"], "migrated");
    assert_eq!(ok(&put(&server, second, "?dry_run=true").await, 200)["change"], "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_cannot_be_migrated_refuses_a_version_or_is_dropped_where_that_is_said() {
    let server = Server::start().await;
    upload(&server, "component").await;
    ok(&server.call("PUT", "/api/v1/devices/press-1", json!({})).await, 201);
    ok(&put(&server, json!({"module": "threshold"}), "").await, 201);
    let digest = upload(&server, "layout 2 migrates").await;
    let (partition, handle) = server.control.registries().find("press-1").unwrap();
    let failure = TrialFailure {
        partition: partition.0,
        slot: Some(7),
        device: Some(handle),
        devices: 40,
        reason: "13 is no count".into(),
    };
    *server.fake.trial.lock().unwrap() =
        Trial { blobs: 40, failure: Some(failure.clone()), ..Trial::default() };
    let body = json!({"module": digest});
    let refused = put(&server, body.clone(), "").await;
    problem(&refused, 409, "state-migration");
    assert_eq!((&refused.json["device"], &refused.json["slot"]), (&json!("press-1"), &json!(7)));
    let detail = "migrate from layout 1 to 2 fails for device press-1 in slot 7: 13 is no count; \
                  set discard_state to begin without state";
    assert_eq!(refused.json["detail"], detail);
    let dry = put(&server, body.clone(), "?dry_run=true").await;
    assert_eq!(ok(&dry, 200)["refusal"], json!({"code": "state-migration", "detail": detail}));
    assert_eq!(dry.json["state"]["trial"]["failure"], "13 is no count");
    let together = TrialFailure { device: None, slot: Some(1), ..failure.clone() };
    server.fake.trial.lock().unwrap().failure = Some(together);
    let refused = put(&server, body.clone(), "").await;
    assert!(
        refused.json["detail"].as_str().unwrap().contains("40 devices together in slot 1"),
        "{}",
        refused.json
    );
    assert_eq!(refused.json["device"], Value::Null);
    let strange = TrialFailure { device: Some(DeviceHandle(99)), slot: None, ..failure };
    server.fake.trial.lock().unwrap().failure = Some(strange);
    problem(&put(&server, body.clone(), "").await, 409, "state-migration");
    // Whoever has to be asked does not answer: nothing is deployed on a guess.
    *server.fake.fault.lock().unwrap() = Some("the loop is busy".into());
    let busy = put(&server, body.clone(), "").await;
    problem(&busy, 503, "engine-busy");
    assert!(busy.json["detail"].as_str().unwrap().contains("the loop is busy"));
    // What needs no answer goes.
    ok(&put(&server, json!({"module": "threshold@1.0.0", "reason": "x"}), "?dry_run=true").await, 200);
    *server.fake.fault.lock().unwrap() = None;
    assert_eq!(server.control.rule("hot").unwrap().current, Some(1), "the old one runs on");

    let discard = json!({"module": digest, "discard_state": true});
    let answer = put(&server, discard, "").await;
    assert_eq!(ok(&answer, 200)["goes_on_with"]["fate"], "dropped");
    assert!(matches!(last_control(&server), Control::RuleDeployed { discard_state: true, .. }));
    // Where it can be migrated it is, whatever may be dropped.
    ok(&server.call("DELETE", "/api/v1/rules/hot", Value::Null).await, 204);
    let old = upload(&server, "component").await;
    ok(&put(&server, json!({"module": old}), "").await, 201);
    *server.fake.trial.lock().unwrap() = Trial { blobs: 1, ..Trial::default() };
    let answer = put(&server, json!({"module": digest, "discard_state": true}), "").await;
    assert_eq!(ok(&answer, 200)["goes_on_with"]["fate"], "migrated");
    assert!(matches!(last_control(&server), Control::RuleDeployed { discard_state: false, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_says_what_it_goes_on_with() {
    let server = Server::start().await;
    let old = upload(&server, "component").await;
    let new = upload(&server, "layout 2 migrates").await;
    ok(&put(&server, json!({"module": old}), "").await, 201);
    ok(&put(&server, json!({"module": old, "parameters": {"above": 90}}), "").await, 200);
    let records = server.log.records().len();
    let dry = back(&server, Value::Null, "?dry_run=true").await;
    assert_eq!((&ok(&dry, 200)["change"], &dry.json["restores"]), (&json!("rollback"), &json!(1)));
    assert_eq!(dry.json["parameters"], json!([{"name": "above", "from": 90, "to": 80}]));
    let state = &dry.json["state"];
    assert_eq!(
        (&state["fate"], &state["of_version"], &state["raises"]),
        (&json!("restored"), &json!(1), &json!(2))
    );
    assert_eq!(state["as_of"], "1970-01-01T00:00:00.000001Z");
    assert_eq!(server.log.records().len(), records);
    let versions = server.call("GET", "/api/v1/rules/hot/versions", Value::Null).await;
    assert_eq!(ok(&versions, 200)["items"][1]["state_kept_as_of"], "1970-01-01T00:00:00.000001Z");
    assert_eq!(versions.json["items"][0]["state_kept_as_of"], Value::Null, "it runs");
    assert_eq!(versions.json["items"][0]["digest"], old);

    let done = back(&server, json!({"reason": "too late"}), "").await;
    assert_eq!(ok(&done, 200)["goes_on_with"]["fate"], "restored");
    assert_eq!(state_of(&last_control(&server)), RollbackState::Kept);
    let done = back(&server, json!({"to": 2, "keep_state": true}), "").await;
    assert_eq!(ok(&done, 200)["goes_on_with"]["fate"], "kept");
    assert_eq!(state_of(&last_control(&server)), RollbackState::Present);
    let done = back(&server, json!({"to": 1, "discard_state": true}), "").await;
    assert_eq!(ok(&done, 200)["goes_on_with"]["fate"], "dropped");
    assert_eq!(state_of(&last_control(&server)), RollbackState::Empty);
    problem(&back(&server, json!({"keep_state": true, "discard_state": true}), "").await, 400, "json");

    // What is not kept any more: the present one where that can be read, and a refusal where it cannot.
    *server.fake.kept.lock().unwrap() = Some(Vec::new());
    let done = back(&server, json!({"to": 2}), "").await;
    assert_eq!(ok(&done, 200)["goes_on_with"]["fate"], "kept");
    assert!(done.json["goes_on_with"]["text"].as_str().unwrap().contains("is not kept any more"));
    assert_eq!(state_of(&last_control(&server)), RollbackState::Present);
    ok(&put(&server, json!({"module": new}), "").await, 200);
    let refused = back(&server, json!({"to": 1}), "").await;
    problem(&refused, 409, "state-gone");
    assert!(refused.json["detail"].as_str().unwrap().contains("set discard_state"), "{}", refused.json);
    *server.fake.fault.lock().unwrap() = Some("the loop is busy".into());
    problem(&back(&server, json!({"to": 1}), "").await, 503, "engine-busy");
    *server.fake.fault.lock().unwrap() = None;
    problem(&back(&server, json!({"to": 99}), "").await, 422, "no-such-version");
    ok(&back(&server, json!({"to": 1, "discard_state": true}), "").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_compared() {
    let server = Server::start().await;
    upload(&server, "component").await;
    ok(&put(&server, json!({"module": "threshold", "reason": "first"}), "").await, 201);
    let second = json!({
        "module": "threshold", "parameters": {"above": 90}, "select": {"type": "press"}, "reason": "summer",
    });
    ok(&put(&server, second, "").await, 200);
    let differences = json!([
        {"path": "/parameters/above", "from": 80, "to": 90},
        {"path": "/select/type", "from": null, "to": ["press"]},
    ]);
    for query in ["", "?from=1&to=2", "?to=2"] {
        let answer = server.call("GET", &format!("/api/v1/rules/hot/difference{query}"), Value::Null).await;
        assert_eq!(ok(&answer, 200)["differences"], differences);
        assert_eq!(
            (&answer.json["from"]["reason"], &answer.json["to"]["reason"]),
            (&json!("first"), &json!("summer"))
        );
    }
    let back = server.call("GET", "/api/v1/rules/hot/difference?from=2&to=1", Value::Null).await;
    assert_eq!(ok(&back, 200)["differences"][0]["to"], 80);
    for query in ["?to=1", "?from=1&to=9"] {
        let answer = server.call("GET", &format!("/api/v1/rules/hot/difference{query}"), Value::Null).await;
        problem(&answer, 404, "not-found");
    }
    problem(&server.call("GET", "/api/v1/rules/none/difference", Value::Null).await, 404, "not-found");
}
