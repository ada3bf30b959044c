//! The API of Alertmanager.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use watchfire_log::Record;
use watchfire_model::alert::{AlertChanges, Detail, ResolveReason, TransitionKind};
use watchfire_model::external::External;
use watchfire_model::{
    AlertId, DeviceHandle, DeviceSpec, Epoch, PartitionId, Position, Severity, Timestamp, Transition,
};
use watchfire_store::{NewToken, Role};

use crate::server::{Answer, Server};

const START: Timestamp = Timestamp(1_767_225_600_000_000);

pub async fn hand_over(server: &Server, transition: &Transition) {
    let (keeper, transition) = (server.store.keeper(), transition.clone());
    tokio::task::spawn_blocking(move || {
        let changes = AlertChanges { transitions: vec![transition], ..AlertChanges::default() };
        let number = keeper.submit(changes);
        assert!(keeper.wait_committed(number, Duration::from_secs(10)) >= number);
    })
    .await
    .unwrap();
}

/// An alert that the loop raised.
pub async fn raise(server: &Server, rule: &str, device: &str, severity: Severity) -> Transition {
    let transition = raise_unsent(rule, device, severity);
    hand_over(server, &transition).await;
    transition
}

pub fn raise_unsent(rule: &str, device: &str, severity: Severity) -> Transition {
    static OFFSET: AtomicU64 = AtomicU64::new(0);
    let offset = OFFSET.fetch_add(2, Ordering::Relaxed);
    let position = Position { epoch: Epoch(1), partition: PartitionId(0), offset };
    let id = format!("{position}/{rule}/0/0");
    Transition {
        alert: AlertId::raised_by(&id),
        id,
        kind: TransitionKind::Raised,
        rule: rule.into(),
        rule_version: 1,
        device: DeviceSpec { id: device.into(), kind: "press".into(), ..DeviceSpec::default() },
        handle: DeviceHandle(0),
        key: String::new(),
        severity,
        summary: "too hot".into(),
        details: vec![Detail { name: "value".into(), value: watchfire_model::Value::Number(91.5) }],
        at: START,
        logged_at: START,
        position,
        evidence: None,
        external: None,
    }
}

pub async fn resolve(server: &Server, raised: Transition) {
    let position = Position { offset: raised.position.offset + 1, ..raised.position };
    let kind = TransitionKind::Resolved { reason: ResolveReason::Cleared };
    hand_over(server, &Transition { id: format!("{position}/resolved"), kind, position, ..raised }).await;
}

async fn get(server: &Server, path: &str) -> Value {
    let answer = server.call("GET", &format!("/alertmanager/api/v2{path}"), Value::Null).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(answer.headers["content-type"], "application/json");
    answer.json
}

fn names(alerts: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        alerts.as_array().unwrap().iter().map(|alert| alert["labels"]["device"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

/// A refusal in Alertmanager's shape.
fn refused(answer: &Answer, said: &str) {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.headers["content-type"], "application/json");
    let text = answer.json.as_str().unwrap_or_else(|| panic!("{} is no text", answer.json));
    assert!(text.contains(said), "{text:?} does not say {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_told_as_alertmanager_does() {
    let server = Server::start().await;
    assert_eq!(get(&server, "/alerts").await, json!([]), "an empty list is no null");
    assert_eq!(get(&server, "/alerts/groups").await, json!([]));
    assert_eq!(get(&server, "/silences").await, json!([]));
    let raised = raise(&server, "hot", "press-1", Severity::Critical).await;
    let alert = get(&server, "/alerts").await[0].clone();
    assert_eq!(
        alert["labels"],
        json!({"alertname": "hot", "rule": "hot", "device": "press-1", "severity": "critical", "type": "press"})
    );
    assert_eq!(alert["annotations"]["summary"], "too hot");
    assert_eq!(alert["annotations"]["value"], "91.5");
    assert_eq!(alert["startsAt"], "2026-01-01T00:00:00.000Z");
    assert_eq!(alert["generatorURL"], format!("https://plant.example/api/v1/alerts/{}", raised.alert));
    assert_eq!(alert["receivers"], json!([{"name": "night"}, {"name": "ops"}]));
    assert_eq!(
        alert["status"],
        json!({"state": "active", "silencedBy": [], "inhibitedBy": [], "mutedBy": []})
    );
    // One that goes on must not look as if it were over.
    let ends: Timestamp = alert["endsAt"].as_str().unwrap().parse().unwrap();
    assert!(ends > server.store.wall());
    // What is acknowledged stays active, and says so.
    server.store.acknowledge(&raised.alert.0, "anna", Some("on my way"), START).await.unwrap();
    let alert = get(&server, "/alerts").await[0].clone();
    assert_eq!(alert["annotations"]["acknowledged"], "by anna at 2026-01-01T00:00:00.000000Z: on my way");
    resolve(&server, raised).await;
    assert_eq!(get(&server, "/alerts").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_groups_are_filtered() {
    let server = Server::start().await;
    for (rule, device, severity) in [
        ("hot", "press-1", Severity::Critical),
        ("hot", "press-2", Severity::Minor),
        ("cold", "press-3", Severity::Minor),
    ] {
        raise(&server, rule, device, severity).await;
    }
    for (query, expected) in [
        ("", &["press-1", "press-2", "press-3"][..]),
        ("?filter=alertname%3D%22hot%22", &["press-1", "press-2"]),
        ("?filter=alertname%3D~h.*&filter=severity!%3Dminor", &["press-1"]),
        ("?filter=key%3D%22%22", &["press-1", "press-2", "press-3"]),
        ("?receiver=night", &["press-1"]),
        ("?receiver=nigh", &[]),
        ("?receiver=ops%7Cnight", &["press-1", "press-2", "press-3"]),
        ("?receiver_matchers=owner%3D%22a%22", &[]),
        ("?receiver_matchers=owner!%3D%22a%22", &["press-1", "press-2", "press-3"]),
        ("?active=false", &[]),
        ("?unprocessed=false", &["press-1", "press-2", "press-3"]),
    ] {
        assert_eq!(names(&get(&server, &format!("/alerts{query}")).await), expected, "{query}");
    }
    let groups = get(&server, "/alerts/groups").await;
    let shown: Vec<_> = groups
        .as_array()
        .unwrap()
        .iter()
        .map(|group| (group["receiver"]["name"].as_str().unwrap(), &group["labels"], names(&group["alerts"])))
        .collect();
    let (cold, hot) = (json!({"alertname": "cold"}), json!({"alertname": "hot"}));
    assert_eq!(
        shown,
        [
            ("ops", &cold, vec!["press-3"]),
            ("night", &hot, vec!["press-1"]),
            ("ops", &hot, vec!["press-1", "press-2"]),
        ]
    );
    assert_eq!(groups[0]["routeLabels"], json!({}));
    assert_eq!(get(&server, "/alerts/groups?receiver=night").await.as_array().unwrap().len(), 1);
    for (query, said) in [
        ("?filter=alertname", "no matcher"),
        ("?receiver=(", "failed to parse receiver param"),
        ("?receiver_matchers=x", "failed to parse receiver_matchers param"),
        ("?active=perhaps", "boolean"),
    ] {
        for list in ["alerts", "alerts/groups"] {
            let path = format!("/alertmanager/api/v2/{list}{query}");
            refused(&server.call("GET", &path, Value::Null).await, said);
        }
    }
}

fn silence(device: &str) -> Value {
    json!({
        "matchers": [{"name": "device", "value": device, "isRegex": false}],
        "startsAt": "2026-01-01T00:00:00Z", "endsAt": "2126-01-01T00:00:00.000+00:00",
        "createdBy": "karma", "comment": "works",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_silenced_is_suppressed_and_silences_live_as_alertmanagers_do() {
    let server = Server::start().await;
    raise(&server, "hot", "press-1", Severity::Minor).await;
    raise(&server, "hot", "press-2", Severity::Minor).await;
    let post = async |body: &Value| server.call("POST", "/alertmanager/api/v2/silences", body.clone()).await;
    let made = post(&silence("press-1")).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.json);
    let id = made.json["silenceID"].as_str().unwrap().to_string();
    let shown = get(&server, &format!("/silence/{id}")).await;
    let expected = json!([{"name": "device", "value": "press-1", "isRegex": false, "isEqual": true}]);
    assert_eq!((&shown["matchers"], &shown["status"]), (&expected, &json!({"state": "active"})));
    assert_eq!((&shown["createdBy"], &shown["annotations"]), (&json!("karma"), &json!({})));

    let alerts = get(&server, "/alerts?active=false").await;
    assert_eq!(names(&alerts), ["press-1"]);
    assert_eq!(
        alerts[0]["status"],
        json!({"state": "suppressed", "silencedBy": [id], "inhibitedBy": [], "mutedBy": []})
    );
    assert_eq!(names(&get(&server, "/alerts?silenced=false").await), ["press-2"]);
    let groups = get(&server, "/alerts/groups?silenced=false").await;
    assert_eq!(names(&groups[0]["alerts"]), ["press-2"]);

    // Another matcher: the old silence ends, and another one is there.
    let mut changed = silence("press-2");
    changed["id"] = id.clone().into();
    let other = post(&changed).await.json["silenceID"].as_str().unwrap().to_string();
    assert_ne!(other, id);
    let states = |silences: &Value| {
        let all = silences.as_array().unwrap().iter();
        all.map(|one| (one["id"].as_str().unwrap().to_string(), one["status"]["state"].clone()))
            .collect::<Vec<_>>()
    };
    let all = get(&server, "/silences").await;
    assert_eq!(states(&all), [(other.clone(), json!("active")), (id.clone(), json!("expired"))]);
    assert_eq!(states(&get(&server, "/silences?active=false").await), [(id.clone(), json!("expired"))]);
    assert_eq!(states(&get(&server, "/silences?expired=false&pending=false").await).len(), 1);
    let filtered = get(&server, "/silences?filter=device%3D%22press-2%22").await;
    assert_eq!(states(&filtered), [(other.clone(), json!("active"))]);
    let path = format!("/alertmanager/api/v2/silence/{other}");
    let deleted = server.call("DELETE", &path, Value::Null).await;
    assert_eq!((deleted.status, deleted.bytes.len()), (StatusCode::OK, 0));
    assert_eq!(get(&server, "/alerts?active=false").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_silence_is_said_in_alertmanagers_words() {
    let server = Server::start().await;
    let post = async |change: &dyn Fn(&mut Value)| {
        let mut body = silence("press-1");
        change(&mut body);
        server.call("POST", "/alertmanager/api/v2/silences", body).await
    };
    let changes: [(&dyn Fn(&mut Value), &str); 5] = [
        (&|body| body["endsAt"] = body["startsAt"].clone(), "start time must be before end time"),
        (
            &|body| {
                body["startsAt"] = "2020-01-01T00:00:00Z".into();
                body["endsAt"] = "2020-01-02T00:00:00Z".into();
            },
            "end time can't be in the past",
        ),
        (
            &|body| {
                body["matchers"][0]["isRegex"] = true.into();
                body["matchers"][0]["value"] = "(".into();
            },
            "invalid regular expression",
        ),
        (&|body| body["matchers"][0]["value"] = "".into(), "must not match the empty string"),
        (&|body| body["matchers"][0]["name"] = "".into(), "invalid label name"),
    ];
    for (change, said) in changes {
        refused(&post(change).await, said);
    }
    let unknown = post(&|body| body["id"] = "6f7c0f5e-33a6-4d5c-9d4b-1d0f6f7f2c11".into()).await;
    assert_eq!((unknown.status, &unknown.json), (StatusCode::NOT_FOUND, &json!("silence not found")));
    let missing = post(&|body| drop(body.as_object_mut().unwrap().remove("matchers"))).await;
    assert_eq!((missing.status.as_u16(), &missing.json["code"]), (422, &json!(422)));
    let none = post(&|body| body["matchers"] = json!([])).await;
    assert_eq!(none.status.as_u16(), 422);
    let broken = server.call("POST", "/alertmanager/api/v2/silences", json!("{")).await;
    assert_eq!((broken.status.as_u16(), &broken.json["code"]), (400, &json!(400)));
    for method in ["GET", "DELETE"] {
        let path = "/alertmanager/api/v2/silence/";
        let answer =
            server.call(method, &format!("{path}6f7c0f5e-33a6-4d5c-9d4b-1d0f6f7f2c11"), Value::Null).await;
        assert_eq!((answer.status, answer.bytes.len()), (StatusCode::NOT_FOUND, 0));
        assert_eq!(server.call(method, &format!("{path}x"), Value::Null).await.status.as_u16(), 422);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_receivers_health_and_what_is_not_offered() {
    let server = Server::start().await;
    let status = get(&server, "/status").await;
    assert_eq!(status["cluster"], json!({"status": "disabled", "peers": []}));
    for member in ["version", "revision", "branch", "buildUser", "buildDate", "goVersion"] {
        assert!(status["versionInfo"][member].is_string(), "{member}");
    }
    assert!(status["config"]["original"].as_str().unwrap().contains("receiver: \"night\""));
    assert!(status["uptime"].as_str().unwrap().parse::<Timestamp>().is_ok());
    let receivers = get(&server, "/receivers").await;
    assert_eq!(receivers, json!([{"name": "ops", "labels": {}}, {"name": "night", "labels": {}}]));
    assert_eq!(get(&server, "/receivers?receiver_matchers=owner%3Da").await, json!([]));
    for (method, path, status) in [
        ("GET", "/-/healthy", 200),
        ("HEAD", "/-/healthy", 200),
        ("GET", "/-/ready", 200),
        ("POST", "/-/reload", 403),
        ("GET", "/-/reload", 405),
        ("GET", "/api/v1/alerts", 410),
        ("POST", "/api/v1/silences", 410),
        ("GET", "/api/v2/nothing", 404),
        // Grafana takes a base for another implementation where this one answers.
        ("GET", "/alertmanager/api/v2/status", 404),
    ] {
        let answer = server.call(method, &format!("/alertmanager{path}"), Value::Null).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}");
    }
    raise(&server, "hot", "press-1", Severity::Minor).await;
    let metrics = server.call("GET", "/alertmanager/metrics", Value::Null).await;
    let text = String::from_utf8(metrics.bytes).unwrap();
    for line in [
        "alertmanager_build_info{branch=\"watchfire\",version=\"0.34.0\"} 1",
        "alertmanager_alerts{state=\"active\"} 1",
        "alertmanager_silences{state=\"active\"} 0",
        "alertmanager_cluster_members 1",
    ] {
        assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_as_bearer_or_password_and_roles_hold() {
    use base64::Engine as _;
    let server = Server::start().await;
    let token = async |role| {
        let new = NewToken { name: "t".into(), role, by: "test".into(), expires_at: None };
        server.store.create_token(&new).await.unwrap().1.expose().to_string()
    };
    let (viewer, operator) = (token(Role::Viewer).await, token(Role::Operator).await);
    let basic = |token: &str| {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("any:{token}")))
    };
    let send = async |authorization: Option<&str>, method: &str, path: &str, body: Value| {
        server.authorized(authorization, method, path, body).await.status.as_u16()
    };
    let alerts = "/alertmanager/api/v2/alerts";
    let silences = "/alertmanager/api/v2/silences";
    let bearer = |token: &str| format!("Bearer {token}");
    for (viewer, operator) in [(bearer(&viewer), bearer(&operator)), (basic(&viewer), basic(&operator))] {
        assert_eq!(send(Some(&viewer), "GET", alerts, Value::Null).await, 200);
        assert_eq!(send(Some(&viewer), "POST", silences, silence("a")).await, 403);
        assert_eq!(send(Some(&operator), "POST", silences, silence("a")).await, 200);
    }
    assert_eq!(send(Some(&basic("wf_0_0")), "GET", alerts, Value::Null).await, 401);
    assert_eq!(send(None, "GET", alerts, Value::Null).await, 401);
    // Elsewhere a password is no token: browsers send it by themselves.
    assert_eq!(send(Some(&basic(&operator)), "GET", "/api/v1/alerts", Value::Null).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_may_ask() {
    let server = Server::start().await;
    let path = "/alertmanager/api/v2/silences";
    let origin = [("origin", "https://karma.example")];
    let preflight = [origin[0], ("access-control-request-method", "POST")];
    let answer = server.with_headers(&preflight, "OPTIONS", path).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert!(answer.headers["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    // Whoever comes from there without a token is nobody, also on this machine: and can read why.
    let answer = server.with_headers(&origin, "GET", path).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert!(!server.with_headers(&[], "GET", path).await.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_send_becomes_records_and_what_is_wrong_keeps_nothing_else_back() {
    let server = Server::start().await;
    let post = async |body: Value| server.call("POST", "/alertmanager/api/v2/alerts", body).await;
    let records = || {
        let records = server.log.records();
        let external = records.iter().filter_map(|entry| match &entry.record {
            Record::External(said) => Some((entry.position.partition, (**said).clone())),
            _ => None,
        });
        external.collect::<Vec<_>>()
    };
    let alert = |name: &str| {
        json!({"labels": {"alertname": name, "empty": ""}, "annotations": {"summary": "s"},
            "generatorURL": "http://prometheus/graph", "endsAt": "2126-01-01T00:00:00Z"})
    };
    let taken = post(json!([alert("a"), alert("b"), alert("c")])).await;
    assert_eq!((taken.status, taken.bytes.len()), (StatusCode::OK, 0));
    let said = records();
    let mut names: Vec<_> = said
        .iter()
        .flat_map(|(_, said)| &said.alerts)
        .map(|alert| alert.labels["alertname"].clone())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);
    for (partition, said) in &said {
        assert_eq!(said.by.name, "anonymous");
        for alert in &said.alerts {
            assert_eq!(alert.fingerprint, watchfire_store::fingerprint(&alert.labels));
            assert_eq!(*partition, PartitionId::of(&alert.fingerprint, 2));
            assert_eq!(alert.labels.len(), 1, "an empty label is none");
        }
    }
    // Said again it is not written again; said with one that is wrong, it is taken all the same.
    assert_eq!(post(json!([alert("a"), alert("b"), alert("c")])).await.status, StatusCode::OK);
    assert_eq!(records().len(), said.len());
    let wrong = post(json!([{"labels": {}}, alert("d"), {"labels": {"a": "b"},
        "startsAt": "2026-01-02T00:00:00Z", "endsAt": "2026-01-01T00:00:00Z"}]))
    .await;
    refused(&wrong, "at least one label pair required");
    refused(&wrong, "start time must be before end time");
    assert_eq!(records().len(), said.len() + 1);
    assert_eq!(post(json!([])).await.status, StatusCode::OK);
    assert_eq!(post(json!("{")).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(json!([{"annotations": {}}])).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let metrics = server.call("GET", "/alertmanager/metrics", Value::Null).await;
    let text = String::from_utf8(metrics.bytes).unwrap();
    assert!(text.contains("alertmanager_alerts_invalid_total{version=\"v2\"}"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_of_others_is_told_as_it_was_sent() {
    let server = Server::start().await;
    let labels = std::collections::BTreeMap::from([
        ("alertname".to_string(), "Down".to_string()),
        ("severity".to_string(), "page".to_string()),
    ]);
    let mut sent = raise_unsent("Down", "node", Severity::Critical);
    sent.details =
        vec![Detail { name: "summary".into(), value: watchfire_model::Value::Text("it is down".into()) }];
    sent.rule_version = 0;
    let external = External { labels, generator_url: "http://prometheus/graph".into() };
    sent.external = Some(Box::new(external));
    hand_over(&server, &sent).await;
    let alert = get(&server, "/alerts").await[0].clone();
    assert_eq!(alert["labels"], json!({"alertname": "Down", "severity": "page"}));
    assert_eq!(alert["generatorURL"], "http://prometheus/graph");
    let url = format!("https://plant.example/api/v1/alerts/{}", sent.alert);
    assert_eq!(alert["annotations"], json!({"summary": "it is down", "alert_url": url}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_else_holds_an_alert_is_shown_in_alertmanagers_words() {
    let server = Server::start().await;
    server.fake.configure(
        r#"
        mute_time_intervals = ["always"]
        matchers = ['alertname="cold"']
        [[inhibit]]
        source_matchers = ['alertname="hot"', 'severity="critical"']
        target_matchers = ['severity="minor"']
        equal = ["device"]
        [[time_interval]]
        name = "always"
        times = [{ start_time = "00:00", end_time = "24:00" }]
        [[storm]]
        parent = "type"
        least = 2
        matchers = ['alertname="silent"']
        "#,
    );
    let status = async |device: &str, alert: &str| {
        let path = format!("/alerts?filter=device%3D{device}&filter=alertname%3D{alert}");
        get(&server, &path).await[0]["status"].clone()
    };
    // Another alert of the device that says more.
    let critical = raise(&server, "hot", "press-1", Severity::Critical).await;
    let source = get(&server, "/alerts").await[0]["fingerprint"].clone();
    raise(&server, "warm", "press-1", Severity::Minor).await;
    raise(&server, "warm", "press-2", Severity::Minor).await;
    let inhibited = status("press-1", "warm").await;
    assert_eq!(
        inhibited,
        json!({"state": "suppressed", "silencedBy": [], "inhibitedBy": [source], "mutedBy": []})
    );
    assert_eq!(status("press-2", "warm").await["state"], "active");
    assert_eq!(names(&get(&server, "/alerts?inhibited=false").await), ["press-1", "press-2"]);
    resolve(&server, critical).await;
    assert_eq!(status("press-1", "warm").await["state"], "active", "what said more is over");

    // Shelved, and out of service: as silences, under names of their own.
    let shelved = raise(&server, "hot", "press-3", Severity::Minor).await;
    let body = json!({"for": "1h", "reason": "works"});
    let path = format!("/api/v1/alerts/{}", shelved.alert);
    assert_eq!(server.call("POST", &format!("{path}/shelve"), body.clone()).await.status, StatusCode::OK);
    let by = status("press-3", "hot").await;
    assert_eq!(
        (&by["state"], &by["silencedBy"][0]),
        (&json!("suppressed"), &json!(format!("shelved:{}", shelved.alert)))
    );
    assert!(!names(&get(&server, "/alerts?silenced=false").await).contains(&"press-3"));
    let out = server.call("PUT", "/api/v1/out-of-service?device=press-3", body).await;
    assert_eq!(out.status, StatusCode::OK, "{}", out.json);
    let both = json!([format!("shelved:{}", shelved.alert), format!("suppressed:{}", shelved.alert)]);
    assert_eq!(status("press-3", "hot").await["silencedBy"], both);
    server.call("POST", &format!("{path}/unshelve"), Value::Null).await;
    server.call("DELETE", "/api/v1/out-of-service?device=press-3", Value::Null).await;
    assert_eq!(status("press-3", "hot").await["state"], "active");

    // Outside the times of the route, in its groups alone.
    raise(&server, "cold", "press-4", Severity::Minor).await;
    let group = get(&server, "/alerts/groups?filter=alertname%3Dcold").await[0].clone();
    let muted = &group["alerts"][0]["status"];
    assert_eq!((&muted["state"], &muted["mutedBy"]), (&json!("suppressed"), &json!(["always"])));
    assert_eq!(get(&server, "/alerts/groups?filter=alertname%3Dcold&muted=false").await, json!([]));

    // A storm of what they have in common.
    raise(&server, "silent", "press-5", Severity::Minor).await;
    *server.fake.storms.lock().unwrap() = storm();
    let by = status("press-5", "silent").await;
    assert_eq!((&by["state"], by["inhibitedBy"].as_array().unwrap().len()), (&json!("suppressed"), 1));
}

/// The storm of two presses, as notification has it.
fn storm() -> std::sync::Arc<watchfire_notify::stages::storm::Standing> {
    use watchfire_notify::stages::{fleet::Fleet, storm::Storms};
    let config = toml::from_str("parent = \"type\"\nleast = 2\nmatchers = ['alertname=\"silent\"']").unwrap();
    let mut storms = Storms::new(&[config]);
    for device in ["a", "b"] {
        let labels = [("alertname", "silent"), ("device", device), ("type", "press")];
        storms.fires(&labels.map(|(name, value)| (name.to_string(), value.to_string())).into());
    }
    storms.settle(&Fleet::default(), START);
    std::sync::Arc::new(storms.standing())
}
