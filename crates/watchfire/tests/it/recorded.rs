//! What devices said, out of the log of a server, through a rule that is here.

use std::sync::Arc;

use serde_json::{Value, json};
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::SystemClock;

use crate::binary::watchfire;
use crate::mqtt::Client;
use crate::{call, hot, rules, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn readings_of_the_log_are_played_through_a_rule_and_become_a_case() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "data = {:?}\nrules = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n",
        folder.path().join("data"),
        rules()
    );
    let config = Config::read(&text, "test", []).unwrap();
    let server = Server::start(config, Arc::new(SystemClock)).await.unwrap();
    let (http, mqtt) = (server.addresses.http, server.addresses.mqtt.unwrap());
    call(http, "PUT", "/devices/press-1", Some(json!({ "type": "press", "site": "lyon" }))).await;
    call(http, "PUT", "/rules/hot?wait=true", Some(hot())).await;
    let mut client = Client::connect(mqtt, "tester", None).await.unwrap();
    for value in [70.0, 95.0, 60.0] {
        assert!(client.temperature("press-1", value).await);
        assert!(client.temperature("saw-1", 99.0).await);
    }
    wait_for("the readings in the log", async || {
        let answer =
            reqwest::get(format!("http://{http}/api/v1/devices/press-1/readings?from=0")).await.unwrap();
        (answer.text().await.unwrap().lines().count() == 3).then_some(())
    })
    .await;

    let project = folder.path().join("project");
    std::fs::create_dir_all(project.join("cases")).unwrap();
    let component = rules().join("threshold.wasm");
    let test = |arguments: &[&str]| {
        let mut command = watchfire();
        command.env("WATCHFIRE_SERVER", format!("http://{http}")).args(["rule", "test"]).arg(&project);
        let output = command.arg("--module").arg(&component).args(arguments).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), said(&output.stdout), said(&output.stderr))
    };
    let case = project.join("cases/press-1.yaml");
    let like = ["--from-log", "press-1,1h", "--like", "hot"];
    let (code, told, error) = test(&[&like[..], &["--save", case.to_str().unwrap()]].concat());
    assert_eq!(code, Some(0), "{told}{error}");
    assert!(told.contains("press-1: 3 readings") && told.contains("2 changes of alerts"), "{told}");
    assert!(told.contains("trigger press-1 temperature.high critical"), "{told}");
    // What was saved is a case that passes, with what it was made of beside it.
    let (code, told, error) = test(&[]);
    assert!(code == Some(0) && told.contains("1 of 1 cases passed"), "{told}{error}");
    let saved = std::fs::read_to_string(&case).unwrap();
    assert!(saved.contains("\"site\":\"lyon\"") && saved.contains("press-1.ndjson"), "{saved}");

    // Another limit, and another device beside it.
    let parameters = ["--set", "metric=temperature", "--set", "high=96"];
    let both = ["--from-log", "press-1,1h", "--from-log", "saw-1,1h", "--json"];
    let (code, told, error) = test(&[&both[..], &parameters[..]].concat());
    assert_eq!(code, Some(0), "{error}");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["readings"], &told["changes"][0]["device"]), (&json!(6), &json!("saw-1")));
    assert_eq!(told["changes"].as_array().unwrap().len(), 1);

    for (arguments, code, words) in [
        (&["--from-log", "nobody,1h"][..], 1, "there is no device"),
        (&["--from-log", "press-1"], 2, "DEVICE,RANGE"),
        (&["--from-log", "press-1,2020-01-01T00:00:00Z..2020-01-02T00:00:00Z"], 1, "has no readings"),
        (&["--from-log", "press-1,1h", "--like", "nothing"], 1, "there is no rule"),
        (&["--from-log", "press-1,1h", "--set", "metric=t", "--set", "high=x"], 1, "every rule must"),
        (&["--set", "high=1"], 2, "--from-log"),
    ] {
        let (got, told, error) = test(arguments);
        assert!(got == Some(code) && error.contains(words), "{arguments:?}: {told}{error}");
    }
    server.stop().await.unwrap();
}
