//! Every call: its good and its bad answers.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use watchfire_api::control::Progress;
use watchfire_log::{Record, Reject};

use crate::server::{Answer, Server};

pub fn problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.json);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.json["type"], format!("urn:watchfire:problem:{code}"), "{}", answer.json);
    assert_eq!(answer.json["request"], answer.headers["x-request-id"].to_str().unwrap());
}

pub fn ok(answer: &Answer, status: u16) -> &Value {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.json);
    &answer.json
}

pub async fn upload(server: &Server, bytes: &str) -> String {
    let answer = server.call("POST", "/api/v1/modules", json!(bytes)).await;
    answer.json["digest"].as_str().expect("a module").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_are_uploaded_listed_and_deleted() {
    let server = Server::start().await;
    let digest = upload(&server, "component").await;
    ok(&server.call("POST", "/api/v1/modules", json!("component")).await, 200);
    let refused = server.call("POST", "/api/v1/modules", json!("bad component")).await;
    problem(&refused, 422, "module");
    assert!(refused.json["detail"].as_str().unwrap().contains("wasi:clocks"));
    let listed = server.call("GET", "/api/v1/modules", Value::Null).await;
    assert_eq!(ok(&listed, 200)["items"][0]["digest"], digest);
    ok(&server.call("GET", "/api/v1/modules/threshold@1.0.0", Value::Null).await, 200);
    ok(&server.call("PUT", "/api/v1/rules/hot", json!({"module": "threshold"})).await, 201);
    let path = format!("/api/v1/modules/{digest}");
    problem(&server.call("DELETE", &path, Value::Null).await, 409, "module-in-use");
    ok(&server.call("DELETE", "/api/v1/rules/hot", Value::Null).await, 204);
    // Nobody can name it any more, but a replay of what the log holds needs it.
    let deleted = server.call("DELETE", &path, Value::Null).await;
    assert!(ok(&deleted, 202)["kept"].as_str().unwrap().contains("the log still holds"));
    problem(&server.call("DELETE", &path, Value::Null).await, 404, "not-found");
    let kept: watchfire_model::Digest = digest.parse().unwrap();
    assert_eq!(server.store.sweep_modules(|digest| server.control.needs_module(*digest)).await.unwrap(), 0);
    assert!(server.store.module_bytes(&kept).is_ok());
    assert_eq!(server.store.sweep_modules(|_| false).await.unwrap(), 1);
    assert!(server.store.module_bytes(&kept).is_err());
    // One that no rule ever ran goes at once.
    let unused = upload(&server, "unused").await;
    ok(&server.call("DELETE", &format!("/api/v1/modules/{unused}"), Value::Null).await, 204);
    assert!(server.store.module_bytes(&unused.parse().unwrap()).is_err());
    problem(&server.call("PUT", "/api/v1/rules/hot", json!({"module": digest})).await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_checked_deployed_rolled_back_and_removed() {
    let server = Server::start().await;
    upload(&server, "component").await;
    let put =
        async |body: Value, query: &str| server.call("PUT", &format!("/api/v1/rules/hot{query}"), body).await;
    for (body, code) in [
        (json!({"module": "threshold", "parameters": {"above": "x"}}), "parameters"),
        (json!({"module": "threshold", "parameters": {"above": -1}}), "start"),
        (json!({"module": "threshold", "condition": {"on_dely": "3s"}}), "condition"),
        (json!({"module": "threshold", "output": "readings"}), "stream-name"),
        (json!({"module": "threshold", "input": "a", "output": "a"}), "stream-cycle"),
        (json!({"module": "threshold", "limits": {"memory": 1}}), "limits"),
    ] {
        problem(&put(body, "").await, 422, code);
    }
    problem(&put(json!({"module": "nothing"}), "").await, 404, "not-found");
    let unknown = put(json!({"module": "threshold", "selct": {}}), "").await;
    problem(&unknown, 400, "json");
    assert!(unknown.json["column"].is_number());
    let dry = put(json!({"module": "threshold"}), "?dry_run=true").await;
    assert_eq!(ok(&dry, 200)["change"], "create");
    problem(&server.call("GET", "/api/v1/rules/hot", Value::Null).await, 404, "not-found");

    let first = put(json!({"module": "threshold", "reason": "why not"}), "").await;
    assert_eq!(ok(&first, 201)["version"], 1);
    assert_eq!(first.json["activated_at"].as_array().unwrap().len(), 2);
    assert_eq!(ok(&put(json!({"module": "threshold"}), "").await, 200)["state"], "unchanged");
    let body = json!({"module": "threshold", "parameters": {"above": 90}});
    let dry = put(body.clone(), "?dry_run=true").await;
    assert_eq!(ok(&dry, 200)["differences"][0], json!({"path": "/parameters/above", "from": 80, "to": 90}));
    assert_eq!(ok(&put(body, "").await, 200)["version"], 2);
    let back = server.call("POST", "/api/v1/rules/hot/rollback", Value::Null).await;
    assert_eq!(ok(&back, 200)["version"], 3);
    let versions = server.call("GET", "/api/v1/rules/hot/versions?limit=2", Value::Null).await;
    assert_eq!(ok(&versions, 200)["items"][0]["restores"], 1);
    assert_eq!(versions.json["items"][1]["state"], "replaced");
    let next = format!("/api/v1/rules/hot/versions?cursor={}", versions.json["next"].as_str().unwrap());
    assert_eq!(ok(&server.call("GET", &next, Value::Null).await, 200)["items"][0]["reason"], "why not");

    let paused = server.call("POST", "/api/v1/rules/hot/pause", Value::Null).await;
    assert_eq!(ok(&paused, 200)["state"], "paused");
    let resumed = server.call("POST", "/api/v1/rules/hot/resume", json!({"reason": "fixed"})).await;
    assert_eq!(ok(&resumed, 200)["state"], "pending");
    upload(&server, "layout 2").await;
    let put_layout = put(json!({"module": "threshold"}), "").await;
    problem(&put_layout, 409, "state-version");
    ok(&put(json!({"module": "threshold", "discard_state": true}), "").await, 200);
    ok(&server.call("DELETE", "/api/v1/rules/hot", Value::Null).await, 204);
    problem(&server.call("POST", "/api/v1/rules/hot/rollback", Value::Null).await, 404, "not-found");
    let audit = server.call("GET", "/api/v1/audit?action=rule", Value::Null).await;
    let actions: Vec<_> = ok(&audit, 200)["items"].as_array().unwrap().iter().collect();
    assert!(actions.iter().any(|row| row["action"] == "rule.rollback" && row["outcome"] == "refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_waits_for_every_partition_and_one_refusal_takes_it_back() {
    let server = Server::start().await;
    upload(&server, "component").await;
    let activated = |version| Record::Activated { rule: "hot".into(), version, offset: 0 };
    let (answer, ()) = tokio::join!(
        server.call("PUT", "/api/v1/rules/hot?wait=true", json!({"module": "threshold"})),
        async {
            while server.control.rule("hot").is_none() {
                tokio::task::yield_now().await;
            }
            server.append(vec![(0, activated(1)), (1, activated(1))]).await;
        }
    );
    assert_eq!(ok(&answer, 201)["state"], "active");
    let second = json!({"module": "threshold", "parameters": {"above": 90}});
    let (answer, ()) = tokio::join!(server.call("PUT", "/api/v1/rules/hot?wait=true", second), async {
        while server.control.rule("hot").unwrap().current != Some(2) {
            tokio::task::yield_now().await;
        }
        let refused =
            Record::Refused { rule: "hot".into(), version: 2, offset: 0, reason: "no memory".into() };
        server.append(vec![(0, activated(2)), (1, refused)]).await;
    });
    problem(&answer, 422, "refused");
    assert_eq!(answer.json["partition"], 1);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while server.control.rule("hot").unwrap().current != Some(1) {
        assert!(tokio::time::Instant::now() < deadline, "the refused version was not taken back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rule = server.control.rule("hot").unwrap();
    assert_eq!(rule.active().unwrap().progress(2), Progress::Activated);
    // The same after a restart.
    let server = server.restart().await;
    assert_eq!(server.control.rule("hot").unwrap(), rule);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_registered_found_and_explained() {
    let server = Server::start().await;
    let put =
        server.call("PUT", "/api/v1/devices/press-1", json!({"type": "press", "interval": "10s"})).await;
    assert_eq!(ok(&put, 201)["interval"], "10s");
    ok(&server.call("PUT", "/api/v1/devices/press-1", json!({"type": "press"})).await, 200);
    problem(&server.call("PUT", "/api/v1/devices/a%2Fb", json!({})).await, 422, "device");
    problem(&server.call("PUT", "/api/v1/devices/x", json!({"id": "y"})).await, 422, "device");
    let mut rechecks = server.control.rechecks();
    let gateway = async |patterns: Value| {
        server.call("PUT", "/api/v1/devices/gw", json!({"speaks_for": patterns})).await
    };
    assert_eq!(ok(&gateway(json!(["press-*"])).await, 201)["speaks_for"], json!(["press-*"]));
    ok(&gateway(json!(["press-*"])).await, 200);
    assert!(rechecks.try_recv().is_err(), "nobody has to show again who it is");
    let bad = gateway(json!(["press-*", "devices/+"])).await;
    problem(&bad, 422, "device");
    assert_eq!(bad.json["pointer"], "/speaks_for/1");
    problem(&gateway(json!(vec!["a"; 65])).await, 422, "device");
    let many = "{\"id\":\"gw\",\"speaks_for\":[\"saw-*\"]}\n{\"id\":\"gw\",\"speaks_for\":[\"**\"]}\n";
    let import = server.call("POST", "/api/v1/devices:import", json!(many)).await;
    assert_eq!((&ok(&import, 200)["updated"], &import.json["errors"][0]["line"]), (&json!(1), &json!(2)));
    assert_eq!(rechecks.try_recv().unwrap(), "gw");
    assert_eq!(
        ok(&server.call("GET", "/api/v1/devices/gw", Value::Null).await, 200)["speaks_for"],
        json!(["saw-*"])
    );
    ok(&server.call("DELETE", "/api/v1/devices/gw", Value::Null).await, 204);
    assert_eq!(rechecks.try_recv().unwrap(), "gw");
    let lines = "{\"id\":\"press-2\"}\n{\"id\":\"\"}\n{\"id\":\"press-1\",\"site\":\"lyon\"}\n";
    let import = server.call("POST", "/api/v1/devices:import", json!(lines)).await;
    assert_eq!(ok(&import, 200)["created"], 1);
    assert_eq!((&import.json["updated"], &import.json["errors"][0]["line"]), (&json!(1), &json!(2)));
    ok(&server.call("POST", "/api/v1/devices:import", json!("nonsense")).await, 422);
    let page = server.call("GET", "/api/v1/devices?limit=1", Value::Null).await;
    assert_eq!(ok(&page, 200)["next"], "press-1");
    problem(&server.call("GET", "/api/v1/devices?limit=0", Value::Null).await, 400, "query");
    ok(&server.call("GET", "/api/v1/devices/press-1/state", Value::Null).await, 200);

    let made = server.call("POST", "/api/v1/devices/press-1/credentials", Value::Null).await;
    let secret = ok(&made, 201)["secret"].as_str().unwrap().to_string();
    assert!(server.store.verify_device("press-1", &secret).await.unwrap());
    let listed = server.call("GET", "/api/v1/devices/press-1/credentials", Value::Null).await;
    assert!(!String::from_utf8_lossy(&listed.bytes).contains(&secret));
    let weak = server.call("POST", "/api/v1/devices/press-1/credentials", json!({"password": "1"})).await;
    problem(&weak, 422, "credential");
    let why = server.call("GET", "/api/v1/devices/press-1/why", Value::Null).await;
    assert_eq!(ok(&why, 200)["registered"], true);
    assert!(why.json["findings"].to_string().contains("no reading of it was ever taken"));

    // What intake registers is found at once, together and without repeats.
    let (one, two) = tokio::join!(
        server.control.register(vec!["new-1".into(), "press-2".into()]),
        server.control.register(vec!["new-2".into(), "new-1".into()]),
    );
    assert_eq!((one, two), (Ok(()), Ok(())));
    assert!(server.control.register(vec!["a/b".into()]).await.is_err());
    ok(&server.call("DELETE", "/api/v1/devices/press-2", Value::Null).await, 204);
    ok(&server.call("PUT", "/api/v1/devices/press-2", json!({})).await, 201);
    let before = server.control.registries();
    let server = server.restart().await;
    assert_eq!(server.control.registries(), before, "handles are the same after a restart");
    ok(&server.call("DELETE", "/api/v1/devices/press-1", Value::Null).await, 204);
    problem(&server.call("GET", "/api/v1/devices/press-1", Value::Null).await, 404, "not-found");
    assert!(!server.store.verify_device("press-1", &secret).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_kept_replayed_and_deleted() {
    let server = Server::start().await;
    let reject = |payload: &[u8]| Reject {
        source: "mqtt".into(),
        address: "devices/press-1/telemetry".into(),
        device: Some("press-1".into()),
        sender: None,
        index: None,
        code: "not-json".into(),
        reason: "no JSON at byte 0".into(),
        payload: payload.to_vec(),
    };
    server.append(vec![(0, Record::Rejects(vec![reject(b"still bad"), reject(&[0xff, 1])]))]).await;
    let list = server.call("GET", "/api/v1/dead-letters?device=press-1", Value::Null).await;
    let items = ok(&list, 200)["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["payload_base64"]), (2, &json!("/wE=")));
    let path =
        |i: usize| format!("/api/v1/dead-letters/{}", items[i]["id"].as_str().unwrap().replace('/', "-"));
    ok(&server.call("GET", &path(0), Value::Null).await, 200);
    problem(&server.call("POST", &format!("{}/replay", path(1)), Value::Null).await, 422, "rejected-again");
    ok(&server.call("POST", &format!("{}/replay", path(0)), Value::Null).await, 200);
    assert_eq!(server.fake.resubmitted.lock().unwrap()[0].payload, [0xff, 1]);
    problem(&server.call("POST", &format!("{}/replay", path(0)), Value::Null).await, 409, "replayed");
    ok(&server.call("DELETE", &path(0), Value::Null).await, 204);
    problem(&server.call("GET", &path(0), Value::Null).await, 404, "not-found");
    let gone = path(0);
    let server = server.restart().await;
    problem(&server.call("GET", &gone, Value::Null).await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_bound_what_a_token_may_do() {
    let server = Server::start().await;
    let elsewhere = server.send("GET", "/api/v1/rules", None, Some("10.0.0.1:9"), Vec::new()).await;
    problem(&elsewhere, 401, "token-missing");
    assert!(elsewhere.headers.contains_key("www-authenticate"));
    let mut secrets: Vec<String> = Vec::new();
    for role in ["admin", "author", "operator", "viewer"] {
        // From the second on with the first: without a token nobody is welcome any more.
        let body = json!({"name": role, "role": role});
        let answer = match secrets.first() {
            None => server.call("POST", "/api/v1/tokens", body).await,
            Some(admin) => server.call_as(admin, "POST", "/api/v1/tokens", body).await,
        };
        secrets.push(ok(&answer, 201)["secret"].as_str().unwrap().to_string());
    }
    problem(&server.call("GET", "/api/v1/rules", Value::Null).await, 401, "token-missing");
    let [admin, author, operator, viewer] = &secrets[..] else { panic!() };
    for (token, method, path, expected) in [
        (viewer, "GET", "/api/v1/rules", 200),
        (viewer, "GET", "/metrics", 200),
        (viewer, "POST", "/api/v1/rules/x/pause", 403),
        (operator, "POST", "/api/v1/rules/x/pause", 404),
        (operator, "DELETE", "/api/v1/rules/x", 403),
        (author, "DELETE", "/api/v1/rules/x", 404),
        (author, "GET", "/api/v1/tokens", 403),
        (admin, "GET", "/api/v1/tokens", 200),
    ] {
        let answer = server.call_as(token, method, path, Value::Null).await;
        assert_eq!(answer.status.as_u16(), expected, "{method} {path}: {}", answer.json);
        assert!(
            secrets.iter().all(|secret| !String::from_utf8_lossy(&answer.bytes).contains(secret.as_str()))
        );
    }
    let tokens = server.call_as(admin, "GET", "/api/v1/tokens", Value::Null).await;
    let id =
        tokens.json["items"].as_array().unwrap().iter().find(|row| row["name"] == "viewer").unwrap()["id"]
            .as_str()
            .unwrap();
    ok(&server.call_as(admin, "DELETE", &format!("/api/v1/tokens/{id}"), Value::Null).await, 204);
    problem(&server.call_as(viewer, "GET", "/api/v1/rules", Value::Null).await, 401, "token-invalid");
    problem(&server.call_as(admin, "DELETE", "/api/v1/tokens/none", Value::Null).await, 404, "not-found");
    let bad = server.call_as(admin, "POST", "/api/v1/tokens", json!({"name": "", "role": "admin"})).await;
    problem(&bad, 422, "token-name");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_answers_and_refuses() {
    let server = Server::start().await;
    for path in [
        "/-/healthy",
        "/-/ready",
        "/metrics",
        "/api/v1/status",
        "/api/v1/alerts",
        "/api/v1/deliveries",
        "/api/v1/receivers",
        "/api/v1/sinks",
        "/api/v1/streams",
        "/api/v1/log-level",
        "/api/v1/audit",
    ] {
        ok(&server.call("GET", path, Value::Null).await, 200);
    }
    let history = |device: &str, query: &str| {
        format!("/api/v1/devices/{device}/history?metric=temperature&from=2026-01-01T00:00:00Z{query}")
    };
    let asked = server.call("GET", &history("a", "&step=1m&stream=hourly"), Value::Null).await;
    assert_eq!(ok(&asked, 200)["source"], "hourly_1m");
    ok(&server.call("GET", &history("a", "&to=1767225600001"), Value::Null).await, 200);
    problem(&server.call("GET", &history("a", "&step=often"), Value::Null).await, 400, "query");
    problem(&server.call("GET", &history("a", "&to=1"), Value::Null).await, 422, "history");
    problem(&server.call("GET", &history("unknown", ""), Value::Null).await, 404, "no-history");
    problem(&server.call("GET", &history("down", ""), Value::Null).await, 503, "history");
    problem(&server.call("GET", "/api/v1/nothing", Value::Null).await, 404, "not-found");
    problem(&server.call("PATCH", "/api/v1/rules", Value::Null).await, 405, "method");
    problem(&server.call("GET", "/api/v1/alerts?severity=awful", Value::Null).await, 400, "query");
    problem(&server.call("GET", "/api/v1/alerts?since=yesterday", Value::Null).await, 400, "query");
    problem(&server.call("GET", "/api/v1/alerts/none", Value::Null).await, 404, "not-found");
    for (action, body) in
        [("acknowledge", Value::Null), ("comment", json!({"comment": "x"})), ("reset", Value::Null)]
    {
        problem(&server.call("POST", &format!("/api/v1/alerts/none/{action}"), body).await, 404, "not-found");
    }
    problem(&server.call("GET", "/api/v1/deliveries?state=lost", Value::Null).await, 400, "query");
    problem(&server.call("POST", "/api/v1/receivers/ops/test", Value::Null).await, 502, "receiver");
    problem(&server.call("POST", "/api/v1/receivers/none/test", Value::Null).await, 404, "not-found");
    problem(&server.call("PUT", "/api/v1/log-level", json!({"filter": "loud"})).await, 422, "log-level");
    let large = "x".repeat(2 << 20);
    problem(&server.call("PUT", "/api/v1/devices/a", json!(large)).await, 413, "body-too-large");
    let backup = server.call("POST", "/api/v1/backup", Value::Null).await;
    assert_eq!(backup.status, StatusCode::OK);
    let into = server.folder.path().join("restored");
    assert_eq!(watchfire_api::backup::unpack(&mut &backup.bytes[..], &into).unwrap(), 1);
    assert_eq!(std::fs::read(into.join("watchfire.db")).unwrap(), b"copy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_followed_and_resumed() {
    let server = Server::start().await;
    ok(&server.call("PUT", "/api/v1/devices/press-1", json!({})).await, 201);
    let (partition, handle) = server.control.registries().find("press-1").unwrap();
    let readings = |value: f64| {
        let mut batch = watchfire_model::BatchBuilder::new();
        batch.begin(handle, watchfire_model::Timestamp(0));
        batch.number("temperature", value).unwrap();
        batch.commit();
        Record::Readings { stream: "readings".into(), origin: None, batch: batch.finish().into() }
    };
    server.append(vec![(partition.0, readings(1.0)), (partition.0, readings(2.0))]).await;
    let events = server.events("/api/v1/streams/readings/tail?device=press-1", Some("0,0"), 2).await;
    assert!(events[0].contains("\"temperature\":1.0"), "{events:?}");
    let id = events[0].lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let events = server.events("/api/v1/streams/readings/tail", Some(id), 1).await;
    assert!(events[0].contains("\"temperature\":2.0"), "{events:?}");
}

/// The document is generated with the router; what is compared here is what users were promised.
#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_each_route_and_each_route_answers() {
    let server = Server::start().await;
    let document = server.call("GET", "/api/v1/openapi.json", Value::Null).await;
    let paths = ok(&document, 200)["paths"].as_object().unwrap();
    let mut seen = 0;
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let path = path.replace("{name}", "nobody").replace("{id}", "nobody");
            let path = path.replace("{digest}", "nobody").replace("{credential}", "nobody");
            let answer = server.call(&method.to_uppercase(), &path, Value::Null).await;
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_ne!(answer.json["kind"], "address", "{method} {path} leads nowhere");
            seen += 1;
        }
    }
    assert!(seen >= 45, "{seen} operations");
    for promised in [
        "/api/v1/modules",
        "/api/v1/rules/{name}/rollback",
        "/api/v1/rules/{name}/tail",
        "/api/v1/devices:import",
        "/api/v1/devices/{id}/why",
        "/api/v1/alerts/events",
        "/api/v1/dead-letters/{id}/replay",
        "/metrics",
    ] {
        assert!(paths.contains_key(promised), "{promised}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_stands_still_is_seen_from_outside() {
    let server = Server::start().await;
    ok(&server.call("PUT", "/api/v1/devices/press-1", json!({})).await, 201);
    ok(&server.call("GET", "/api/v1/devices/press-1/state", Value::Null).await, 200);
    *server.fake.fault.lock().unwrap() = Some("the log cannot be read".into());
    let ready = server.call("GET", "/-/ready", Value::Null).await;
    problem(&ready, 503, "not-ready");
    assert!(ready.json["detail"].as_str().unwrap().contains("the log cannot be read"), "{}", ready.json);
    let status = server.call("GET", "/api/v1/status", Value::Null).await;
    assert_eq!(ok(&status, 200)["partitions"][0]["fault"], "the log cannot be read");
    // What only the loop knows is not made up; what others know is told.
    problem(&server.call("GET", "/api/v1/devices/press-1/state", Value::Null).await, 503, "engine-busy");
    problem(&server.call("GET", "/api/v1/devices", Value::Null).await, 503, "engine-busy");
    ok(&server.call("GET", "/-/healthy", Value::Null).await, 200);
}
