//! Answers that programs rely on: statuses, forms of times, ends of streams, the document.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::calls::{ok, problem};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_caller_got_wrong_is_400_and_what_passes_is_503() {
    let server = Server::start().await;
    for list in ["alerts", "deliveries", "dead-letters", "audit"] {
        let answer = server.call("GET", &format!("/api/v1/{list}?cursor=nonsense"), Value::Null).await;
        problem(&answer, 400, "query");
        assert_eq!(answer.json["parameter"], "cursor");
    }
    let busy = server.call("POST", "/api/v1/modules", json!("busy component")).await;
    problem(&busy, 503, "module-busy");
    assert!(busy.headers.contains_key("retry-after"));
    server.fake.full.store(true, Ordering::Relaxed);
    let backup = server.call("POST", "/api/v1/backup", Value::Null).await;
    problem(&backup, 409, "backup-refused");
    assert_eq!(backup.json["detail"], "only the reserve is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_in_addresses_are_texts_or_milliseconds() {
    let server = Server::start().await;
    for list in ["alerts", "dead-letters", "audit"] {
        for since in ["1767225600000", "2026-01-01T00:00:00Z"] {
            ok(&server.call("GET", &format!("/api/v1/{list}?since={since}"), Value::Null).await, 200);
        }
        let answer = server.call("GET", &format!("/api/v1/{list}?since=yesterday"), Value::Null).await;
        problem(&answer, 400, "query");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_end_when_the_server_stops() {
    for path in ["/api/v1/alerts/events", "/api/v1/streams/readings/tail", "/api/v1/rules/hot/tail"] {
        let server = Server::start().await;
        crate::calls::upload(&server, "component").await;
        ok(&server.call("PUT", "/api/v1/rules/hot", json!({"module": "threshold"})).await, 201);
        assert_eq!(server.until_stop(path).await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nothing_publishes_is_not_found() {
    let server = Server::start().await;
    problem(&server.call("GET", "/api/v1/streams/reedings/tail", Value::Null).await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_says_what_rows_look_like() {
    let server = Server::start().await;
    let document = server.call("GET", "/api/v1/openapi.json", Value::Null).await;
    let document = ok(&document, 200);
    for (path, schema, member) in [
        ("/api/v1/alerts", "AlertRow", "raised_at"),
        ("/api/v1/deliveries", "DeliveryRow", "attempts"),
        ("/api/v1/dead-letters", "DeadLetterView", "payload_base64"),
        ("/api/v1/audit", "AuditRow", "outcome"),
    ] {
        let answer = &document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"];
        assert!(
            answer["schema"]["$ref"].as_str().unwrap().ends_with(&format!("Listing_{schema}")),
            "{answer}"
        );
        let rows = &document["components"]["schemas"][schema];
        assert!(rows.to_string().contains(&format!("\"{member}\"")), "{schema}: {rows}");
    }
}
