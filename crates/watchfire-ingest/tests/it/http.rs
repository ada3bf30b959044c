//! Telemetry over HTTP: every answer there is.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use watchfire_ingest::UnknownDevices;
use watchfire_ingest::http::HttpOptions;
use watchfire_log::AppendError;

use crate::setup::{Rig, Settings, until};

const GOOD: &str = r#"{"device":"a","metrics":{"t":1}}"#;

/// Two backends of rustls may be linked into this test: it is told which one.
fn builder() -> reqwest::ClientBuilder {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
}

fn client() -> Client {
    builder().build().unwrap()
}

async fn post(rig: &Rig, path: &str, body: impl Into<String>, headers: &[(&str, &str)]) -> Response {
    let mut request = client().post(format!("http://{}{path}", rig.http)).body(body.into());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn problem(response: Response, status: u16, code: &str) -> Value {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_string();
    let problem: Value = response.json().await.unwrap();
    assert_eq!(
        (&problem["type"], &problem["status"], &problem["request"]),
        (&json!(format!("urn:watchfire:problem:{code}")), &json!(status), &json!(id))
    );
    problem
}

#[tokio::test]
async fn uploads_are_answered_item_by_item() {
    let rig = Rig::start().await;
    let path = "/ingest/v1/telemetry";
    let lines = format!("{GOOD}\n{{\"device\":\"a\",\"metrics\":{{\"t\":[]}}}}\n\n{GOOD}\n");
    let response = post(&rig, path, lines, &[("content-type", "application/x-ndjson")]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["accepted"], 2);
    assert_eq!(
        (&answer["rejected"][0]["index"], &answer["rejected"][0]["code"]),
        (&json!(1), &json!("metric-array"))
    );
    assert!(answer["rejected"][0]["reason"].as_str().unwrap().contains("t: an array is no metric"));
    let response =
        post(&rig, path, format!("[{GOOD},{GOOD}]"), &[("content-type", "application/json; charset=utf-8")])
            .await;
    assert_eq!(response.json::<Value>().await.unwrap(), json!({"accepted": 2, "rejected": []}));
    let response = post(&rig, path, GOOD, &[]).await;
    assert_eq!(response.json::<Value>().await.unwrap()["accepted"], 1);
    let response = post(&rig, "/ingest/v1/devices/press-1/telemetry", r#"[{"t":1},{"t":2}]"#, &[]).await;
    assert_eq!(response.json::<Value>().await.unwrap()["accepted"], 2);
    let response = post(&rig, path, "nonsense", &[]).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(response.json::<Value>().await.unwrap()["rejected"][0]["code"], "not-json");
    assert_eq!(rig.rows(), 7);
    let letters: Vec<(String, Vec<u8>)> = rig.rejects().into_iter().map(|r| (r.code, r.payload)).collect();
    assert_eq!(
        letters,
        [
            ("metric-array".into(), b"{\"device\":\"a\",\"metrics\":{\"t\":[]}}".to_vec()),
            ("not-json".into(), b"nonsense".to_vec()),
        ]
    );
}

#[tokio::test]
async fn ok_follows_the_durable_append() {
    let rig = Rig::start().await;
    post(&rig, "/ingest/v1/telemetry", GOOD, &[]).await;
    rig.log.hold();
    let url = format!("http://{}/ingest/v1/telemetry", rig.http);
    let answer = tokio::spawn(async move { client().post(url).body(GOOD).send().await.unwrap().status() });
    until("the append", || rig.log.held() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!answer.is_finished());
    rig.log.release();
    assert_eq!(answer.await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn problems() {
    let http = HttpOptions { body_bytes: 1000, body_seconds: 1, ..HttpOptions::default() };
    let rig = Rig::with(Settings { http, ..Settings::default() }).await;
    let path = "/ingest/v1/telemetry";
    problem(post(&rig, path, "x".repeat(1001), &[]).await, 413, "too-large").await;
    problem(post(&rig, path, GOOD, &[("content-type", "image/png")]).await, 415, "unsupported-media-type")
        .await;
    problem(post(&rig, path, GOOD, &[("content-encoding", "gzip")]).await, 415, "unsupported-media-type")
        .await;
    problem(post(&rig, path, GOOD, &[("idempotency-key", "")]).await, 400, "idempotency-key").await;
    for (refusal, code) in [
        (AppendError::Full, "queue-full"),
        (AppendError::DiskFull, "disk-full"),
        (AppendError::ClockStep(Duration::from_secs(7200)), "clock-step"),
        (AppendError::Closed, "stopping"),
    ] {
        rig.log.refuse(Some(refusal));
        let response = post(&rig, path, GOOD, &[("x-request-id", "my-id")]).await;
        assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
        assert_eq!(problem(response, 503, code).await["request"], "my-id");
    }
    rig.log.refuse(None);
    rig.log.hold();
    let url = format!("http://{}{path}", rig.http);
    let answer = tokio::spawn(async move { client().post(url).body(GOOD).send().await.unwrap() });
    until("the append", || rig.log.held() == 1).await;
    rig.log.fail("no more disk");
    problem(answer.await.unwrap(), 503, "write-failed").await;
    rig.log.release();
    // A body that announces more than it brings.
    let mut stream = tokio::net::TcpStream::connect(rig.http).await.unwrap();
    stream
        .write_all(
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{").as_bytes(),
        )
        .await
        .unwrap();
    let mut answer = vec![0; 1000];
    let read =
        tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await.unwrap().unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer[..read]));
    assert_eq!(rig.rows(), 0);
}

#[tokio::test]
async fn credentials() {
    let rig = Rig::with(Settings { authenticates: true, ..Settings::default() }).await;
    let own = "/ingest/v1/devices/a/telemetry";
    for headers in [
        &[][..],
        &[("authorization", "Bearer wrong")],
        &[("authorization", "Basic !")],
        &[("authorization", "Digest x")],
    ] {
        let response = post(&rig, own, "{\"t\":1}", headers).await;
        assert!(response.headers().contains_key("www-authenticate"));
        problem(response, 401, "unauthorized").await;
    }
    // a:secret
    let device = [("authorization", "Basic YTpzZWNyZXQ=")];
    assert_eq!(post(&rig, own, "{\"t\":1}", &device).await.status(), StatusCode::OK);
    problem(post(&rig, "/ingest/v1/devices/b/telemetry", "{\"t\":1}", &device).await, 403, "forbidden").await;
    let both = r#"[{"device":"a","metrics":{"t":1}},{"device":"b","metrics":{"t":1}}]"#;
    let answer: Value = post(&rig, "/ingest/v1/telemetry", both, &device).await.json().await.unwrap();
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["code"]), (&json!(1), &json!("not-authorised")));
    problem(
        post(&rig, "/ingest/v1/telemetry", both, &[("authorization", "Bearer viewer")]).await,
        403,
        "forbidden",
    )
    .await;
    let response = post(&rig, "/ingest/v1/telemetry", both, &[("authorization", "bearer operator")]).await;
    assert_eq!(response.json::<Value>().await.unwrap()["accepted"], 2);
}

#[tokio::test]
async fn an_upload_with_a_key_is_taken_once() {
    let rig = Rig::start().await;
    let path = "/ingest/v1/telemetry";
    let key = [("idempotency-key", "upload-1")];
    let first = post(&rig, path, GOOD, &key).await;
    assert_eq!(first.status(), StatusCode::OK);
    let first = first.text().await.unwrap();
    let again = post(&rig, path, GOOD, &key).await;
    assert_eq!((again.status(), again.text().await.unwrap()), (StatusCode::OK, first));
    assert_eq!(rig.rows(), 1);
    problem(post(&rig, path, "[]", &key).await, 422, "idempotency-key-reused").await;
    // While it is on its way.
    rig.log.hold();
    let url = format!("http://{}{path}", rig.http);
    let request = client().post(url).header("idempotency-key", "upload-2").body(GOOD);
    let answer = tokio::spawn(async move { request.send().await.unwrap().status() });
    until("the append", || rig.log.held() == 1).await;
    let response = post(&rig, path, GOOD, &[("idempotency-key", "upload-2")]).await;
    problem(response, 409, "idempotency-key-in-use").await;
    // What was not written leaves its key free.
    rig.log.fail("no more disk");
    assert_eq!(answer.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    rig.log.release();
    assert_eq!(post(&rig, path, GOOD, &[("idempotency-key", "upload-2")]).await.status(), StatusCode::OK);
    assert_eq!(rig.rows(), 2);
}

#[tokio::test]
async fn unknown_devices_by_policy() {
    let rig = Rig::with(Settings { unknown: UnknownDevices::Quarantine, ..Settings::default() }).await;
    let response = post(&rig, "/ingest/v1/telemetry", GOOD, &[]).await;
    assert_eq!(
        response.json::<Value>().await.unwrap(),
        json!({"accepted": 1, "quarantined": 1, "rejected": []})
    );
    let rig = Rig::with(Settings { unknown: UnknownDevices::Refuse, ..Settings::default() }).await;
    let response = post(&rig, "/ingest/v1/telemetry", GOOD, &[]).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(rig.rejects()[0].code, "unknown-device");
}

#[tokio::test]
async fn http_2_with_prior_knowledge() {
    let rig = Rig::start().await;
    let client = builder().http2_prior_knowledge().build().unwrap();
    let response =
        client.post(format!("http://{}/ingest/v1/telemetry", rig.http)).body(GOOD).send().await.unwrap();
    assert_eq!((response.version(), response.status()), (reqwest::Version::HTTP_2, StatusCode::OK));
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed() {
    let rig = Rig::start().await;
    for start in [&b""[..], b"P", b"GET / HTTP/1.1\r\nhost:"] {
        let mut stream = tokio::net::TcpStream::connect(rig.http).await.unwrap();
        stream.write_all(start).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{start:?}");
    }
    assert_eq!(post(&rig, "/ingest/v1/telemetry", GOOD, &[]).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn without_a_credential_only_programs_on_this_machine_are_let_in() {
    let rig = Rig::start().await;
    let path = "/ingest/v1/telemetry";
    let form = ("content-type", "application/x-www-form-urlencoded");
    for headers in [
        // What a page in a browser sends without asking anybody.
        &[("origin", "https://evil.example"), ("content-type", "text/plain")][..],
        &[("origin", "null"), form],
        &[("sec-fetch-site", "cross-site"), form],
        // A name that was bound to 127.0.0.1 afterwards, and a proxy.
        &[("host", "evil.example")],
        &[("x-forwarded-for", "10.0.0.1")],
    ] {
        problem(post(&rig, path, GOOD, headers).await, 403, "not-local").await;
    }
    assert_eq!(rig.rows(), 0);
    let own = format!("http://{}", rig.http);
    assert_eq!(post(&rig, path, GOOD, &[("origin", &own)]).await.status(), StatusCode::OK);
    assert_eq!(post(&rig, path, GOOD, &[form]).await.status(), StatusCode::OK, "as curl says it");

    // Meant for other machines: proxies may be between, web pages may not.
    let http = HttpOptions { anonymous_remote: true, ..HttpOptions::default() };
    let rig = Rig::with(Settings { http, ..Settings::default() }).await;
    let headers = [("x-forwarded-for", "10.0.0.1"), ("host", "box.example")];
    assert_eq!(post(&rig, path, GOOD, &headers).await.status(), StatusCode::OK);
    problem(post(&rig, path, GOOD, &[("origin", "https://evil.example")]).await, 403, "not-local").await;

    // With a credential, whoever has it may be anywhere.
    let rig = Rig::with(Settings { authenticates: true, ..Settings::default() }).await;
    let headers = [("authorization", "Bearer operator"), ("x-forwarded-for", "10.0.0.1")];
    assert_eq!(post(&rig, path, GOOD, &headers).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_no_handler_sees_is_a_problem_document_too() {
    let rig = Rig::start().await;
    for path in ["/ingest/v1/telemetries", "/ingest/v2/telemetry", "/ingest", "/ingest/v1/devices/a"] {
        problem(post(&rig, path, GOOD, &[]).await, 404, "not-found").await;
    }
    problem(post(&rig, "/ingest/v1/devices/%ff/telemetry", GOOD, &[]).await, 400, "http").await;
    let got = client().get(format!("http://{}/ingest/v1/telemetry", rig.http)).send().await.unwrap();
    assert_eq!(got.headers()["allow"], "POST");
    problem(got, 405, "http").await;
    // An id that could not stand in a log line is not taken over.
    let response = post(&rig, "/ingest", GOOD, &[("x-request-id", "a b")]).await;
    assert_ne!(problem(response, 404, "not-found").await["request"], "a b");
}

#[tokio::test]
async fn uploads_in_flight_are_bounded() {
    let http = HttpOptions { bytes_in_flight: 200, ..HttpOptions::default() };
    let rig = Rig::with(Settings { http, ..Settings::default() }).await;
    let path = "/ingest/v1/telemetry";
    assert_eq!(post(&rig, path, GOOD, &[]).await.status(), StatusCode::OK);
    rig.log.hold();
    let url = format!("http://{}{path}", rig.http);
    let waiting: Vec<_> = (0..3)
        .map(|_| client().post(&url).body(GOOD).send())
        .map(|sending| tokio::spawn(async move { sending.await.unwrap().status() }))
        .collect();
    until("the appends", || rig.log.held() == 3).await;
    let refused = post(&rig, path, GOOD, &[]).await;
    assert_eq!(refused.headers()["retry-after"], "1");
    problem(refused, 503, "uploads").await;
    rig.log.release();
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), StatusCode::OK);
    }
    // Who only announces takes nothing.
    let mut silent = tokio::net::TcpStream::connect(rig.http).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n");
    silent.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(post(&rig, path, GOOD, &[]).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_large_upload_is_decoded_beside_others() {
    let rig = Rig::start().await;
    let body = vec![GOOD; 50_000].join("\n");
    let response = post(&rig, "/ingest/v1/telemetry", body, &[]).await;
    assert_eq!(response.json::<Value>().await.unwrap()["accepted"], 50_000);
}

#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    let listen = watchfire_ingest::listen::ListenOptions {
        connections_per_address: 2,
        header_seconds: 60,
        ..Default::default()
    };
    let rig = Rig::with(Settings { listen, ..Settings::default() }).await;
    let open = || tokio::net::TcpStream::connect(rig.http);
    let (mut first, _second) = (open().await.unwrap(), open().await.unwrap());
    let request = b"POST /ingest/v1/telemetry HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n[]";
    first.write_all(request).await.unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 422");
    let mut third = open().await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), third.read_to_end(&mut rest)).await.unwrap();
    assert!(read.is_err() || rest.is_empty(), "{rest:?}");
    drop(first);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mut again = open().await.unwrap();
        let mut answer = [0; 12];
        if again.write_all(request).await.is_ok() && again.read_exact(&mut answer).await.is_ok() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the place is given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn mapped_paths() {
    let http_mappings = "
        [[mapping]]
        path = 'plant/{device}/{metric}'
        [[mapping]]
        path = 'lines/+/data'
        device = '/id'
        time = '/ts'
        metrics = '/values'
    ";
    let settings = Settings { http_mappings, authenticates: true, ..Settings::default() };
    let rig = Rig::with(settings).await;
    let device = ("authorization", "Basic YTpzZWNyZXQ=");
    let response = post(&rig, "/ingest/v1/plant/a/temperature", "71.4", &[device]).await;
    assert_eq!(response.status(), StatusCode::OK);
    problem(post(&rig, "/ingest/v1/plant/b/temperature", "1", &[device]).await, 403, "forbidden").await;
    let body = r#"[{"id":"a","ts":1767225600001,"values":{"x":1}},{"id":"b","values":{"x":1}}]"#;
    let answer: Value = post(&rig, "/ingest/v1/lines/3/data", body, &[device]).await.json().await.unwrap();
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["code"]), (&json!(1), &json!("not-authorised")));
    problem(post(&rig, "/ingest/v1/lines/3/other", body, &[device]).await, 404, "not-found").await;
    problem(post(&rig, "/ingest/v1/lines/3/data", body, &[]).await, 401, "unauthorized").await;
    assert_eq!(rig.rows(), 2);
}
