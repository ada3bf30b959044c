//! The API of Alertmanager, as those who speak it meet it: the real amtool, a real Prometheus, and a real Alertmanager
//! beside ours.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::SystemClock;
use watchfire_services::{Alertmanager, Prometheus, alertmanager_schema, amtool, or_skip};
use watchfire_store::{NewToken, Role};

use crate::receiver::Receiver;
use crate::{call, wait_for};

/// A server with a receiver, and amtool against it.
pub struct Place {
    pub server: Server,
    config: Config,
    pub receiver: Receiver,
    _folder: tempfile::TempDir,
}

impl Place {
    pub async fn start(more: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (receiver, hook) = Receiver::start().await;
        let text = format!(
            "data = {:?}\npublic_url = \"https://plant.example\"\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\n\
             enabled = false\n[[receiver]]\nname = \"hook\"\nretry_initial = \"50ms\"\n\
             webhook = {{ url = \"http://{hook}/hook\" }}\n{more}",
            folder.path().join("data")
        );
        let config = Config::read(&text, "test", []).unwrap();
        let server = Server::start(config.clone(), Arc::new(SystemClock)).await.unwrap();
        Self { server, config, receiver, _folder: folder }
    }

    /// Ends as on SIGTERM and starts again with what it kept.
    async fn restart(self) -> Self {
        self.server.stop().await.unwrap();
        let server = Server::start(self.config.clone(), Arc::new(SystemClock)).await.unwrap();
        Self { server, ..self }
    }

    pub fn url(&self) -> String {
        format!("http://{}/alertmanager", self.server.addresses.http)
    }

    /// A token of this role. From the first one on nobody is let in without.
    pub async fn token(&self, role: Role) -> String {
        let new = NewToken { name: "client".into(), role, by: "test".into(), expires_at: None };
        self.server.store().create_token(&new).await.unwrap().1.expose().to_string()
    }

    async fn get(&self, path: &str) -> Value {
        let answer = reqwest::get(format!("{}/api/v2{path}", self.url())).await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// The real amtool against an address.
pub struct Amtool {
    pub program: PathBuf,
    pub url: String,
}

impl Amtool {
    /// What it prints and whether it liked what it got.
    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(&self.program);
        command.arg(format!("--alertmanager.url={}", self.url)).args(arguments);
        // Its own configuration, if whoever runs the tests has one, is not ours.
        command.env("HOME", "/nonexistent").env("XDG_CONFIG_HOME", "/nonexistent");
        command.stdin(std::process::Stdio::null()).output().await.unwrap()
    }

    async fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let (said, complaint) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}{complaint}");
        assert!(!complaint.contains("Warning"), "{arguments:?}: {complaint}");
        said
    }

    pub async fn json(&self, arguments: &[&str]) -> Value {
        let said = self.says(&[arguments, &["--output=json"]].concat()).await;
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn amtool_works_as_always() {
    let Some(program) = or_skip("amtool", amtool()) else { return };
    let place =
        Place::start("[[route.routes]]\nmatchers = ['severity=~\"critical|page\"']\ngroup_by = [\"...\"]\n")
            .await;
    let amtool = Amtool { program, url: place.url() };
    let add = [
        "alert",
        "add",
        "Down",
        "instance=node:9100",
        "severity=critical",
        "--annotation=summary=it is down",
    ];
    amtool.says(&add).await;
    amtool.says(&["alert", "add", "Slow", "instance=node:9100"]).await;
    let listed = wait_for("both alerts", async || {
        let listed = amtool.json(&["alert", "query"]).await;
        (listed.as_array().unwrap().len() == 2).then_some(listed)
    })
    .await;
    let down =
        listed.as_array().unwrap().iter().find(|alert| alert["labels"]["alertname"] == "Down").unwrap();
    assert_eq!(down["labels"], json!({"alertname": "Down", "instance": "node:9100", "severity": "critical"}));
    assert_eq!(down["annotations"]["summary"], "it is down");
    assert_eq!(down["status"]["state"], "active");
    wait_for("the notices", async || (place.receiver.told().len() == 2).then_some(())).await;
    // It is an alert as any other: it can be acknowledged.
    let ours = call(place.server.addresses.http, "GET", "/alerts?state=active&device=node:9100", None).await;
    assert_eq!(ours["items"].as_array().unwrap().len(), 2);
    assert_eq!(ours["items"][0]["source"], "external");

    let silence = [
        "silence",
        "add",
        "alertname=Down",
        "instance=~node.*",
        "--comment=works",
        "--author=anna",
        "--duration=1h",
    ];
    let id = amtool.says(&silence).await.trim().to_string();
    let silences = amtool.json(&["silence", "query"]).await;
    assert_eq!((&silences[0]["id"], &silences[0]["createdBy"]), (&json!(id), &json!("anna")));
    assert_eq!(silences[0]["matchers"].as_array().unwrap().len(), 2);
    let names = async |arguments: &[&str]| {
        let listed = amtool.json(&[&["alert", "query"], arguments].concat()).await;
        let all = listed.as_array().unwrap().iter();
        all.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--silenced"]).await, ["Down"]);
    assert_eq!(names(&["--active"]).await, ["Slow"]);
    assert_eq!(names(&["alertname=~S.*"]).await, ["Slow"]);
    assert_eq!(names(&["--receiver=hook", "severity=\"\""]).await, ["Slow"]);
    amtool.says(&["silence", "update", &id, "--duration=2h", "--comment=longer"]).await;
    let silences = amtool.json(&["silence", "query"]).await;
    // The end and the comment alone do not rewrite the past.
    assert_eq!((silences.as_array().unwrap().len(), &silences[0]["id"]), (1, &json!(id)));
    assert_eq!(silences[0]["comment"], "longer");
    amtool.says(&["silence", "expire", &id]).await;
    assert_eq!(amtool.json(&["silence", "query"]).await, json!([]));
    assert_eq!(amtool.json(&["silence", "query", "--expired"]).await[0]["id"], id);
    assert_eq!(names(&["--silenced"]).await, [] as [&str; 0]);
    let refused =
        amtool.run(&["silence", "add", "a=~.*", "--comment=c", "--author=a", "--duration=1h"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("must not match the empty string"), "{said}");

    assert!(amtool.says(&["config", "show"]).await.contains("receiver: \"hook\""));
    let tree = amtool.says(&["config", "routes", "show"]).await;
    assert!(tree.contains("severity=~\"critical|page\"") && tree.contains("receiver: hook"), "{tree}");
    assert_eq!(amtool.says(&["config", "routes", "test", "severity=page"]).await.trim(), "hook");
    amtool.says(&["cluster", "show"]).await;
    // The end is told as everybody tells it: by an alert whose end has passed.
    let ended = [&add[..], &["--end=2020-01-01T00:00:00Z", "--start=2019-01-01T00:00:00Z"]].concat();
    amtool.says(&ended).await;
    wait_for("the end of one", async || (names(&[]).await == ["Slow"]).then_some(())).await;
    place.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn amtool_shows_its_token_as_bearer_or_as_a_password() {
    let Some(program) = or_skip("amtool", amtool()) else { return };
    let place = Place::start("").await;
    let (viewer, operator) = (place.token(Role::Viewer).await, place.token(Role::Operator).await);
    let amtool = Amtool { program: program.clone(), url: place.url() };
    assert!(!amtool.run(&["alert", "query"]).await.status.success(), "nobody is let in any more");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("http.yml");
    let add = ["silence", "add", "a=b", "--comment=c", "--author=a", "--duration=1h"];
    for (token, may) in [(&viewer, false), (&operator, true)] {
        let flag = format!("--http.config.file={}", file.display());
        std::fs::write(&file, format!("authorization:\n  credentials: {token}\n")).unwrap();
        amtool.says(&["--output=json", &flag, "alert", "query"]).await;
        assert_eq!(amtool.run(&[&[flag.as_str()], &add[..]].concat()).await.status.success(), may);
        let url = place.url().replace("http://", &format!("http://any:{token}@"));
        let amtool = Amtool { program: program.clone(), url };
        amtool.says(&["alert", "query"]).await;
        assert_eq!(amtool.run(&add).await.status.success(), may);
    }
    place.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_of_others_and_silences_outlive_a_restart_and_are_told_once() {
    let place = Place::start("").await;
    let post = async |place: &Place, path: &str, body: Value| {
        let answer = reqwest::Client::new().post(format!("{}/api/v2{path}", place.url())).json(&body).send();
        assert!(answer.await.unwrap().status().is_success());
    };
    let alert = json!([{"labels": {"alertname": "Down", "instance": "a"}}]);
    let silence = json!({"matchers": [{"name": "alertname", "value": "Slow", "isRegex": false}],
        "startsAt": "2026-01-01T00:00:00Z", "endsAt": "2126-01-01T00:00:00Z", "createdBy": "a", "comment": "c"});
    post(&place, "/alerts", alert.clone()).await;
    post(&place, "/silences", silence).await;
    wait_for("the notice", async || (place.receiver.told().len() == 1).then_some(())).await;
    let (alerts, silences) = (place.get("/alerts").await, place.get("/silences").await);
    let place = place.restart().await;
    wait_for("the loop is level", async || {
        let status = call(place.server.addresses.http, "GET", "/status", None).await;
        (status["ready"] == true).then_some(())
    })
    .await;
    // Its sender goes on to say it, as it does every minute.
    post(&place, "/alerts", alert).await;
    let now = place.get("/alerts").await;
    for member in ["fingerprint", "startsAt", "labels", "annotations"] {
        assert_eq!(now[0][member], alerts[0][member], "{member}");
    }
    assert_eq!(place.get("/silences").await, silences);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((place.receiver.told().len(), now.as_array().unwrap().len()), (1, 1));
    place.server.stop().await.unwrap();
}

/// The schema of an answer, out of the document that Alertmanager publishes.
fn schema(document: &Value, of: Value) -> jsonschema::Validator {
    let mut schema = of;
    schema["definitions"] = document["definitions"].clone();
    jsonschema::draft4::new(&schema).unwrap()
}

fn check(document: &Value, path: &str, answer: &Value) {
    let of = document["paths"][path]["get"]["responses"]["200"]["schema"].clone();
    assert!(of.is_object(), "the schema says nothing of {path}");
    let faults: Vec<String> = schema(document, of)
        .iter_errors(answer)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{path}: {faults:?}\n{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_published_shapes() {
    let Some(file) = or_skip("amtool", alertmanager_schema()) else { return };
    let document: Value = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let place = Place::start("").await;
    let post = async |path: &str, body: Value| {
        let answer = reqwest::Client::new().post(format!("{}/api/v2{path}", place.url())).json(&body).send();
        let answer = answer.await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json::<Value>().await.unwrap_or_default()
    };
    post("/alerts", json!([{"labels": {"alertname": "Down"}, "annotations": {"summary": "s"}}])).await;
    let silence = json!({"matchers": [{"name": "alertname", "value": "Down", "isRegex": false}],
        "startsAt": "2026-01-01T00:00:00Z", "endsAt": "2126-01-01T00:00:00Z", "createdBy": "a", "comment": "c"});
    let id = post("/silences", silence).await["silenceID"].as_str().unwrap().to_string();
    wait_for("the alert", async || (place.get("/alerts").await != json!([])).then_some(())).await;
    for path in ["/status", "/receivers", "/alerts", "/alerts/groups", "/silences"] {
        let answer = place.get(path).await;
        assert_ne!(answer, json!([]), "an empty list proves nothing");
        check(&document, path, &answer);
    }
    check(&document, "/silence/{silenceID}", &place.get(&format!("/silence/{id}")).await);
    // The check can fail: a null where a list belongs, and a member that is missing.
    let mut broken = place.get("/alerts").await;
    broken[0]["status"]["silencedBy"] = Value::Null;
    let of = json!({"$ref": "#/definitions/gettableAlerts"});
    assert!(!schema(&document, of.clone()).is_valid(&broken));
    broken = json!([{"labels": {}}]);
    assert!(!schema(&document, of).is_valid(&broken));
    place.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_fires_into_it() {
    let place = Place::start("").await;
    let address = place.server.addresses.http;
    let configuration = format!(
        "global:\n  evaluation_interval: 1s\nrule_files: [rules.yml]\nalerting:\n  alertmanagers:\n  \
         - path_prefix: /alertmanager\n    api_version: v2\n    static_configs:\n    - targets: ['{address}']\n"
    );
    let rules = "groups:\n- name: test\n  rules:\n  - alert: AlwaysFiring\n    expr: vector(7) > 5\n    labels:\n      \
                 severity: critical\n      instance: node:9100\n    annotations:\n      summary: 'it is {{ $value }}'\n";
    let Some(mut prometheus) = or_skip("prometheus", Prometheus::start(&configuration, rules)) else {
        return;
    };
    wait_for("its alert at the receiver", async || {
        let told = place.receiver.messages.lock().unwrap().clone();
        told.iter().any(|(_, body)| body["alerts"][0]["labels"]["alertname"] == "AlwaysFiring").then_some(())
    })
    .await;
    let alerts = place.get("/alerts").await;
    assert_eq!(alerts[0]["annotations"]["summary"], "it is 7");
    assert!(alerts[0]["generatorURL"].as_str().unwrap().contains("/graph?"), "{alerts}");
    // It is said again and again, and stays one alert that is told once.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(place.get("/alerts").await.as_array().unwrap().len(), 1);
    assert_eq!(place.receiver.messages.lock().unwrap().len(), 1);
    prometheus.stop();
    place.server.stop().await.unwrap();
}

/// What a receiver was told: status, name and device of each alert that changed, in the order of the messages.
fn story(receiver: &Receiver) -> Vec<Vec<(String, String)>> {
    let messages = receiver.messages.lock().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let all = messages.iter().map(|(_, body)| {
        let alerts = body["alerts"].as_array().unwrap().iter();
        let mut alerts: Vec<_> =
            alerts.map(|alert| (text(&alert["status"]), text(&alert["labels"]["instance"]))).collect();
        alerts.sort();
        alerts
    });
    all.collect()
}

/// The same alerts, said to both at the same time: the same messages, with the same keys of groups and fingerprints.
#[tokio::test(flavor = "multi_thread")]
async fn alertmanager_beside_ours_tells_the_same() {
    let route = "group_by = [\"alertname\"]\ngroup_wait = \"1s\"\ngroup_interval = \"2s\"\nrepeat_interval = \"1h\"\n";
    let (theirs, hook) = Receiver::start().await;
    let configuration = format!(
        "route:\n  receiver: hook\n  group_by: [alertname]\n  group_wait: 1s\n  group_interval: 2s\n  \
         repeat_interval: 1h\nreceivers:\n- name: hook\n  webhook_configs:\n  - url: http://{hook}/hook\n"
    );
    let Some(alertmanager) = or_skip("alertmanager", Alertmanager::start(&configuration)) else { return };
    let place = Place::start(&format!("[route]\n{route}")).await;
    let say = async |alerts: Value| {
        for base in [place.url(), format!("http://{}", alertmanager.address())] {
            let answer =
                reqwest::Client::new().post(format!("{base}/api/v2/alerts")).json(&alerts).send().await;
            assert!(answer.unwrap().status().is_success(), "{base}");
        }
    };
    let now = || jiff::Timestamp::now().to_string();
    // Alertmanager does not wait for more of a group whose first alert began long ago; ours waits as it is told to.
    let began = now();
    let alert = |instance: &str, ends: Option<&str>| {
        let mut alert = json!({"labels": {"alertname": "Down", "instance": instance},
            "annotations": {"summary": "it is down"}, "generatorURL": "http://prometheus/graph",
            "startsAt": began});
        if let Some(ends) = ends {
            alert["endsAt"] = ends.into();
        }
        alert
    };
    let both = async |count: usize| {
        wait_for("both tell", async || {
            (story(&place.receiver).len() >= count && story(&theirs).len() >= count).then_some(())
        })
        .await;
    };
    say(json!([alert("a", None), alert("b", None)])).await;
    both(1).await;
    say(json!([alert("a", Some(&now()))])).await;
    both(2).await;
    say(json!([alert("b", Some(&now())), alert("a", None)])).await;
    both(3).await;
    assert_eq!(story(&place.receiver), story(&theirs));
    let (ours, theirs) =
        (place.receiver.messages.lock().unwrap().clone(), theirs.messages.lock().unwrap().clone());
    for ((_, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        for member in
            ["version", "groupKey", "status", "receiver", "groupLabels", "commonLabels", "truncatedAlerts"]
        {
            assert_eq!(ours[member], theirs[member], "{member}");
        }
        let fingerprints = |body: &Value| {
            let alerts = body["alerts"].as_array().unwrap().iter();
            let mut all: Vec<_> =
                alerts.map(|alert| alert["fingerprint"].as_str().unwrap().to_string()).collect();
            all.sort();
            all
        };
        assert_eq!(fingerprints(ours), fingerprints(theirs));
    }
    place.server.stop().await.unwrap();
}

/// Forwarded into the real one: it knows what stands, also after it was away, and hears of the end.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_is_known_to_an_alertmanager_beside() {
    let configuration = "route:\n  receiver: nobody\nreceivers:\n- name: nobody\n";
    let Some(mut beside) = or_skip("alertmanager", Alertmanager::start(configuration)) else { return };
    let place = Place::start(&format!(
        "[[receiver]]\nname = \"beside\"\nalertmanager = {{ urls = [\"http://127.0.0.1:9\", \"http://{}\"], \
         resend = \"1s\" }}\n[route]\nreceivers = [\"hook\", \"beside\"]\n",
        beside.address()
    ))
    .await;
    let say = async |alert: Value| {
        let answer =
            reqwest::Client::new().post(format!("{}/api/v2/alerts", place.url())).json(&json!([alert]));
        assert!(answer.send().await.unwrap().status().is_success());
    };
    let address = beside.address();
    let there = async || {
        let answer = reqwest::get(format!("http://{address}/api/v2/alerts")).await.ok()?;
        answer.json::<Value>().await.ok()?.as_array().cloned()
    };
    let labels = json!({"alertname": "Down", "instance": "a"});
    say(json!({"labels": labels, "annotations": {"summary": "it is down"}})).await;
    let one = async || there().await?.into_iter().next();
    let known = wait_for("it is forwarded", one).await;
    assert_eq!((&known["labels"], &known["annotations"]["summary"]), (&labels, &json!("it is down")));
    let ours = place.get("/alerts").await;
    assert_eq!((&known["fingerprint"], &known["startsAt"]), (&ours[0]["fingerprint"], &ours[0]["startsAt"]));
    // It keeps nothing over a kill: what stands is said again, without anything happening here.
    beside.kill();
    beside.restart().unwrap();
    wait_for("it is said again", one).await;
    say(json!({"labels": labels, "endsAt": jiff::Timestamp::now().to_string()})).await;
    wait_for("its end is known", async || there().await?.is_empty().then_some(())).await;
    assert_eq!(place.receiver.told().len(), 2, "the other receiver is told as ever");
    place.server.stop().await.unwrap();
}
