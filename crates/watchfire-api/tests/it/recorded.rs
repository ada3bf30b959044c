//! Readings of a device, out of the log.

use serde_json::{Value, json};
use watchfire_log::Record;
use watchfire_model::{BatchBuilder, Duration, Timestamp};

use crate::calls::{ok, problem};
use crate::server::Server;

/// The log of [`Server::start`] begins then.
const START: Timestamp = Timestamp(1_767_225_600_000_000);

/// A server whose log has ten readings each of `press-1` and of a neighbour in the same partition, a second apart.
async fn with_readings() -> Server {
    let server = Server::start().await;
    ok(&server.call("PUT", "/api/v1/devices/press-1", json!({})).await, 201);
    let (partition, handle) = server.control.registries().find("press-1").unwrap();
    let mut neighbour = None;
    for number in 0.. {
        let id = format!("saw-{number}");
        ok(&server.call("PUT", &format!("/api/v1/devices/{id}"), json!({})).await, 201);
        neighbour = server.control.registries().find(&id).filter(|found| found.0 == partition);
        if neighbour.is_some() {
            break;
        }
    }
    let (_, other) = neighbour.unwrap();
    for second in 0..10_u64 {
        let mut batch = BatchBuilder::new();
        for (device, value) in [(other, -1.0), (handle, second as f64)] {
            // Measured half a second before it was received.
            batch.begin(device, START + Duration(second * 1_000_000 + 500_000));
            batch.number("n", value).unwrap();
            batch.text("mode", "auto").unwrap();
            batch.commit();
        }
        server.log.set_now(START + Duration::from_secs(second + 1));
        let record =
            Record::Readings { stream: "readings".into(), origin: None, batch: batch.finish().into() };
        let derived = Record::Readings { stream: "hot".into(), origin: None, batch: one(handle) };
        server.append(vec![(partition.0, record), (partition.0, derived)]).await;
    }
    server
}

fn one(device: watchfire_model::DeviceHandle) -> std::sync::Arc<watchfire_model::Batch> {
    let mut batch = BatchBuilder::new();
    batch.begin(device, START);
    batch.number("derived", 1.0).unwrap();
    batch.commit();
    batch.finish().into()
}

async fn lines(server: &Server, query: &str) -> Vec<Value> {
    let path = format!("/api/v1/devices/press-1/readings?{query}");
    let answer = server.call("GET", &path, Value::Null).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["content-type"]),
        (200, &"application/x-ndjson".parse().unwrap())
    );
    let text = String::from_utf8(answer.bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_of_the_log_is_given_line_by_line() {
    let server = with_readings().await;
    let numbers = |lines: &[Value]| lines.iter().map(|line| line["metrics"]["n"].clone()).collect::<Vec<_>>();
    let all = lines(&server, "from=2026-01-01T00:00:00Z").await;
    assert_eq!(numbers(&all), (0..10).map(|n| json!(f64::from(n))).collect::<Vec<_>>());
    assert_eq!(
        all[2],
        json!({
            "device": "press-1",
            "time": "2026-01-01T00:00:02.500000Z",
            "received": "2026-01-01T00:00:03.000000Z",
            "metrics": { "n": 2.0, "mode": "auto" },
        })
    );
    // From then on, and before then, by when it was received.
    let some = lines(&server, "from=2026-01-01T00:00:04Z&to=1767225607000").await;
    assert_eq!(numbers(&some), [json!(3.0), json!(4.0), json!(5.0)]);
    assert!(lines(&server, "from=2027-01-01T00:00:00Z").await.is_empty());
    assert!(lines(&server, "from=2025-01-01T00:00:00Z&to=2026-01-01T00:00:00Z").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_says_where_to_go_on() {
    let server = with_readings().await;
    let (mut from, mut all) = ("2026-01-01T00:00:00Z".to_string(), Vec::new());
    for expected in [4, 4, 2] {
        let mut part = lines(&server, &format!("from={from}&limit=4")).await;
        if let Some(next) = part.last().and_then(|last| last["next"].as_str()) {
            from = next.into();
            part.pop();
        }
        assert_eq!(part.len(), expected);
        all.extend(part);
    }
    let numbers: Vec<f64> = all.iter().map(|line| line["metrics"]["n"].as_f64().unwrap()).collect();
    assert!(numbers.into_iter().eq((0..10).map(f64::from)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused() {
    let server = with_readings().await;
    let ask = async |path: &str| server.call("GET", &format!("/api/v1/devices/{path}"), Value::Null).await;
    problem(&ask("nobody/readings?from=0").await, 404, "not-found");
    for (query, parameter) in [("from=soon", "from"), ("from=0&to=x", "to"), ("from=0&limit=0", "limit")] {
        let answer = ask(&format!("press-1/readings?{query}")).await;
        problem(&answer, 400, "query");
        assert_eq!(answer.json["parameter"], parameter);
    }
    problem(&ask("press-1/readings").await, 400, "query");
    problem(&ask("press-1/readings?from=0&until=1").await, 400, "query");
    problem(&ask("press-1/readings?from=0&limit=1000001").await, 400, "query");
}
