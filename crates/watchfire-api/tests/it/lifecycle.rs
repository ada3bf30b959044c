//! What people do to alerts, over the API.

use serde_json::{Value, json};
use watchfire_model::Severity;

use crate::alertmanager::{raise, resolve};
use crate::calls::{ok, problem};
use crate::server::Server;

async fn alert(server: &Server, id: &str) -> Value {
    ok(&server.call("GET", &format!("/api/v1/alerts/{id}"), Value::Null).await, 200).clone()
}

/// The kinds of what happened to it, in order.
fn kinds(alert: &Value) -> Vec<&str> {
    alert["history"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_acknowledged_confirmed_assigned_and_remarked_on() {
    let server = Server::start().await;
    let raised = raise(&server, "hot", "press-1", Severity::Major).await;
    let id = raised.alert.0.clone();
    let act =
        async |act: &str, body: Value| server.call("POST", &format!("/api/v1/alerts/{id}/{act}"), body).await;
    let acknowledged = act("acknowledge", json!({"for": "4h", "comment": "on my way"})).await;
    let shown = ok(&acknowledged, 200);
    assert_eq!(
        (&shown["acknowledged_by"], &shown["acknowledge_comment"]),
        (&json!("anonymous"), &json!("on my way"))
    );
    assert!(shown["acknowledged_until"].is_string());
    problem(&act("acknowledge", json!({"for": "4h", "until": "2126-01-01T00:00:00Z"})).await, 422, "until");
    problem(&act("acknowledge", json!({"until": "2020-01-01T00:00:00Z"})).await, 422, "until");
    assert!(ok(&act("unacknowledge", Value::Null).await, 200)["acknowledged_at"].is_null());
    assert_eq!(ok(&act("confirm", json!({"comment": "new seal"})).await, 200)["confirm_comment"], "new seal");
    assert_eq!(ok(&act("assign", json!({"to": "anna"})).await, 200)["assigned_to"], "anna");
    problem(&act("assign", json!({"to": ""})).await, 422, "to");
    let listed = server.call("GET", "/api/v1/alerts?assigned_to=anna", Value::Null).await;
    assert_eq!(ok(&listed, 200)["items"][0]["id"], id.as_str());
    assert!(ok(&act("assign", json!({"to": null})).await, 200)["assigned_to"].is_null());
    ok(&act("comment", json!({"comment": "the seal again"})).await, 200);
    problem(&act("comment", json!({"comment": ""})).await, 422, "comment");
    problem(&act("comment", json!({"remark": "?"})).await, 400, "json");
    let alert = alert(&server, &id).await;
    assert_eq!(
        kinds(&alert),
        ["raised", "acknowledged", "unacknowledged", "confirmed", "assigned", "unassigned", "commented"]
    );
    assert_eq!(alert["history"][6]["comment"], "the seal again");
    let unknown = server.call("POST", "/api/v1/alerts/nothing/confirm", Value::Null).await;
    problem(&unknown, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_shelved_for_a_time_or_until_it_ends() {
    let server = Server::start().await;
    let raised = raise(&server, "hot", "press-1", Severity::Major).await;
    let shelve = async |body: Value| {
        server.call("POST", &format!("/api/v1/alerts/{}/shelve", raised.alert), body).await
    };
    for body in [
        json!({"for": "1h"}),
        json!({"reason": "works"}),
        json!({"reason": "works", "for": "1h", "one_shot": true}),
        json!({"reason": "works", "for": "25h"}),
        json!({"reason": "works", "until": "2020-01-01T00:00:00Z"}),
    ] {
        let refused = shelve(body.clone()).await;
        assert_eq!(refused.status.as_u16(), 422, "{body}: {}", refused.json);
    }
    assert_eq!(shelve(json!({"reason": "works", "for": "25h"})).await.json["max"], "1d");
    let shown = shelve(json!({"reason": "works", "for": "2h"})).await;
    assert_eq!(ok(&shown, 200)["shelve_reason"], "works");
    let shelves = server.call("GET", "/api/v1/shelves", Value::Null).await;
    let shelf = &ok(&shelves, 200)["items"][0];
    assert_eq!(
        (&shelf["rule"], &shelf["device"], &shelf["source"]),
        (&json!("hot"), &json!("press-1"), &json!("rule"))
    );
    let listed = async |query: &str| {
        let answer = server.call("GET", &format!("/api/v1/alerts?{query}"), Value::Null).await;
        ok(&answer, 200)["items"].as_array().unwrap().len()
    };
    assert_eq!((listed("shelved=true").await, listed("shelved=false").await), (1, 0));
    let unshelve = format!("/api/v1/alerts/{}/unshelve", raised.alert);
    ok(&server.call("POST", &unshelve, json!({"comment": "done"})).await, 200);
    assert_eq!(ok(&server.call("GET", "/api/v1/shelves", Value::Null).await, 200)["items"], json!([]));
    // One-shot: it ends with the alert, and the next one is told.
    assert_eq!(ok(&shelve(json!({"reason": "works", "one_shot": true})).await, 200)["shelve_one_shot"], true);
    resolve(&server, raised.clone()).await;
    let ended = alert(&server, &raised.alert.0).await;
    assert!(ended["shelved_at"].is_null());
    assert_eq!(kinds(&ended), ["raised", "shelved", "unshelved", "shelved", "resolved"]);
    problem(&shelve(json!({"reason": "works", "for": "1h"})).await, 409, "refused");
    raise(&server, "hot", "press-1", Severity::Major).await;
    assert_eq!(listed("shelved=true").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_alerts_are_acknowledged_or_shelved_slice_by_slice() {
    let server = Server::start().await;
    for i in 0..5 {
        raise(&server, "hot", &format!("press-{i}"), Severity::Minor).await;
    }
    raise(&server, "cold", "press-0", Severity::Minor).await;
    let mut path = "/api/v1/alerts:acknowledge?rule=hot&limit=2".to_string();
    let mut changed = 0;
    loop {
        let answer = server.call("POST", &path, json!({"comment": "storm"})).await;
        let answer = ok(&answer, 200);
        changed += answer["changed"].as_u64().unwrap();
        match answer["next"].as_str() {
            Some(next) => path = format!("/api/v1/alerts:acknowledge?rule=hot&limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(changed, 5);
    let again = server.call("POST", "/api/v1/alerts:acknowledge?rule=hot", json!({"comment": "storm"})).await;
    assert_eq!((&ok(&again, 200)["changed"], &again.json["unchanged"]), (&json!(0), &json!(5)));
    let shelved = server.call("POST", "/api/v1/alerts:shelve", json!({"reason": "works", "for": "1h"})).await;
    assert_eq!(ok(&shelved, 200)["changed"], 6);
    let refused = server.call("POST", "/api/v1/alerts:acknowledge?state=resolved", Value::Null).await;
    problem(&refused, 400, "query");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_goes_out_of_service_and_comes_back() {
    let server = Server::start().await;
    let before = raise(&server, "hot", "press-1", Severity::Major).await;
    let put = async |query: &str, body: Value| {
        server.call("PUT", &format!("/api/v1/out-of-service{query}"), body).await
    };
    problem(&put("", json!({"reason": "works"})).await, 400, "query");
    problem(&put("?device=press-1", json!({})).await, 422, "reason");
    problem(
        &put("?device=press-1", json!({"reason": "works", "until": "2020-01-01T00:00:00Z"})).await,
        422,
        "until",
    );
    let out = put("?device=press-1", json!({"reason": "new bearing", "for": "2d"})).await;
    assert_eq!(
        (&ok(&out, 200)["kind"], &out.json["created_by"]),
        (&json!("out_of_service"), &json!("anonymous"))
    );
    let listed = server.call("GET", "/api/v1/out-of-service?device=press-1", Value::Null).await;
    assert_eq!(ok(&listed, 200)["items"][0]["reason"], "new bearing");
    // What stood before, and what comes now.
    let after = raise(&server, "cold", "press-1", Severity::Major).await;
    let other = raise(&server, "hot", "press-2", Severity::Major).await;
    for id in [&before.alert.0, &after.alert.0] {
        let alert = alert(&server, id).await;
        assert_eq!(
            (&alert["suppressed_as"], kinds(&alert)),
            (&json!("out_of_service"), vec!["raised", "suppressed"])
        );
    }
    assert!(alert(&server, &other.alert.0).await["suppressed_at"].is_null());
    let back =
        server.call("DELETE", "/api/v1/out-of-service?device=press-1", json!({"comment": "done"})).await;
    ok(&back, 204);
    let alert = alert(&server, &before.alert.0).await;
    assert_eq!(kinds(&alert), ["raised", "suppressed", "unsuppressed"]);
    let again = server.call("DELETE", "/api/v1/out-of-service?device=press-1", Value::Null).await;
    problem(&again, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_good_the_alerts_are_is_measured() {
    let server = Server::start().await;
    for device in ["press-1", "press-2", "press-1x"] {
        raise(&server, "hot", device, Severity::Major).await;
    }
    // They were raised at the beginning of 2026, by the clock of the log.
    let path = "/api/v1/alerts/statistics?span=1h&to=2026-01-01T00:30:00Z&top=1";
    let answer = server.call("GET", path, Value::Null).await;
    let quality = ok(&answer, 200);
    assert_eq!(
        (&quality["raised"]["count"], &quality["rules"][0]["name"]),
        (&json!(3), &json!("hot")),
        "{quality}"
    );
    for query in ["span=0s", "span=32d", "top=0", "top=101", "span=long", "to=never"] {
        let answer = server.call("GET", &format!("/api/v1/alerts/statistics?{query}"), Value::Null).await;
        problem(&answer, 400, "query");
    }
}
