//! The real binary's commands against a running server.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};
use watchfire::config::Config;
use watchfire::serve::Server;
use watchfire_log::SystemClock;

use crate::binary::watchfire;
use crate::mqtt::Client;
use crate::receiver::Receiver;
use crate::versions::guest;
use crate::{PATIENCE, call, hot, rules, wait_for};

/// A server in this process, and the commands against it.
pub struct Setup {
    pub server: Server,
    receiver: Receiver,
    pub folder: tempfile::TempDir,
    token: Mutex<Option<String>>,
}

impl Setup {
    /// Without any module: what is there was brought by a command.
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (receiver, hook) = Receiver::start().await;
        let text = format!(
            "data = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n[[receiver]]\n\
             name = \"hook\"\nretry_initial = \"50ms\"\nwebhook = {{ url = \"http://{hook}/hook\" }}\n",
            folder.path().join("data")
        );
        let config = Config::read(&text, "test", []).unwrap();
        let server = Server::start(config, Arc::new(SystemClock)).await.unwrap();
        Self { server, receiver, folder, token: Mutex::default() }
    }

    pub fn http(&self) -> SocketAddr {
        self.server.addresses.http
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = watchfire();
        command.env("WATCHFIRE_SERVER", format!("http://{}", self.http())).args(arguments);
        if let Some(token) = &*self.token.lock().unwrap() {
            command.env("WATCHFIRE_TOKEN", token);
        }
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What the command says to people.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the command says to programs.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let said = self.says(&[arguments, &["--json"]].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
    }

    /// The command ends with this code and says so.
    pub fn fails(&self, arguments: &[&str], code: i32, expected: &str) {
        let output = self.output(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said:?} does not say {expected:?}");
    }

    pub async fn mqtt(&self) -> Client {
        Client::connect(self.server.addresses.mqtt.unwrap(), "tester", None).await.unwrap()
    }
}

pub fn threshold() -> PathBuf {
    rules().join("threshold.wasm")
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_deployed_changed_and_taken_back() {
    let setup = Setup::start().await;
    let component = threshold();
    let wasm = text(&component);
    let first = ["rule", "deploy", wasm, "--name", "hot", "--set", "metric=temperature", "--set", "high=80"];

    // Only asked: the server has neither rule nor module afterwards.
    let planned = setup.json(&[&first[..], &["--dry-run"]].concat());
    assert_eq!(planned["change"], "create");
    assert_eq!(planned["spec"]["parameters"]["high"], 80);
    assert!(setup.says(&[&first[..], &["--dry-run"]].concat()).contains("is not on the server yet"));
    assert_eq!(setup.json(&["module", "ls"]), json!([]));
    assert_eq!(setup.json(&["rule", "ls"]), json!([]));
    setup.fails(&[&first[..], &["--set", "nonsense=1", "--dry-run"]].concat(), 1, "nonsense");

    let options = [
        "--select",
        "type=press",
        "--condition",
        "on_delay=1s",
        "--limit",
        "time=200ms",
        "--pass",
        "pressure",
        "--output",
        "hot-readings",
        "--wait",
    ];
    assert_eq!(setup.json(&[&first[..], &options[..]].concat())["state"], "active");
    assert_eq!(setup.json(&["module", "ls"]).as_array().unwrap().len(), 1);

    // A further version names one parameter; everything else stays.
    let again =
        ["rule", "deploy", "threshold", "--name", "hot", "--set", "high=90", "--condition", "latched=true"];
    let planned = setup.json(&[&again[..], &["--dry-run"]].concat());
    let paths: Vec<_> =
        planned["differences"].as_array().unwrap().iter().map(|d| d["path"].clone()).collect();
    assert_eq!(paths, ["/condition/latched", "/parameters/high"], "{planned}");
    assert!(setup.says(&[&again[..], &["--dry-run"]].concat()).contains("high: 80 -> 90"));
    assert_eq!(setup.json(&again)["version"], 2);
    let spec = setup.json(&["rule", "show", "hot"])["spec"].clone();
    assert_eq!(spec["select"], json!({"type": ["press"]}));
    assert_eq!(
        (&spec["parameters"]["high"], &spec["parameters"]["metric"]),
        (&json!(90), &json!("temperature"))
    );
    assert_eq!((&spec["condition"]["on_delay"], &spec["condition"]["latched"]), (&json!("1s"), &json!(true)));
    assert_eq!((&spec["limits"]["time"], &spec["pass"]), (&json!("200ms"), &json!(["pressure"])));
    assert_eq!(spec["output"], "hot-readings");

    assert!(setup.says(&["rule", "ls"]).contains("threshold@"));
    assert_eq!(setup.json(&["rule", "versions", "hot"]).as_array().unwrap().len(), 2);
    assert_eq!(setup.json(&["rule", "rollback", "hot", "--wait", "--reason", "too late"])["version"], 3);
    assert_eq!(setup.json(&["rule", "show", "hot"])["spec"]["parameters"]["high"], 80);
    assert_eq!(setup.json(&["rule", "pause", "hot"])["state"], "paused");
    assert_ne!(setup.json(&["rule", "resume", "hot"])["state"], "paused");
    let reset =
        ["rule", "deploy", "threshold", "--name", "hot", "--set", "metric=temperature", "--set", "high=80"];
    setup.json(&[&reset[..], &["--reset"]].concat());
    assert_eq!(setup.json(&["rule", "show", "hot"])["spec"]["select"], json!({}));
    setup.json(&["rule", "rm", "hot"]);
    assert_eq!(setup.json(&["rule", "ls"]), json!([]));
    assert_eq!(setup.json(&["rule", "ls", "--removed"])[0]["state"], "removed");

    // Refused or failed is 1, used wrongly is 2.
    setup.fails(&["rule", "show", "nothing"], 1, "there is no rule");
    setup.fails(&["rule", "deploy", "nothing"], 1, "there is no module");
    setup.fails(&[&first[..], &["--select", "colour=red"]].concat(), 2, "--select colour");
    setup.fails(&[&first[..], &["--set", "high"]].concat(), 2, "KEY=VALUE");
    setup.fails(&["rule", "ls", "--server", "nowhere"], 2, "http://");
    setup.fails(&["rule", "ls", "--server", "http://127.0.0.1:1"], 1, "could not be asked");
    setup.fails(&["rule", "new", "Not A Name"], 2, "is no name");
    setup.fails(&["rule", "build", text(setup.folder.path())], 2, "no rule project");
    setup.fails(&["simulate", "--rate", "0"], 2, "--rate");
    setup.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_rule_is_refused_by_name_and_compiled_by_the_server_alone() {
    let setup = Setup::start().await;
    let wasm = setup.folder.path().join("nosy.wasm");
    std::fs::copy(guest("nosy"), &wasm).unwrap();
    let wasm = text(&wasm);
    // It has to be compiled before it says what it is: only the answer of a server has the id of a request.
    let commands: [&[&str]; 3] = [&["module", "add"], &["rule", "deploy"], &["rule", "deploy", "--dry-run"]];
    for command in commands {
        let output = setup.output(&[command, &[wasm]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        let reason = format!("{wasm} is no rule: the module does not say what it is: ");
        assert!(said.contains(&reason) && said.contains("must not be called in describe"), "{said}");
        assert!(said.contains("[request ") && output.status.code() == Some(1), "{said}");
    }
    // What is seen without that is not even sent.
    let list = setup.folder.path().join("list.csv");
    std::fs::write(&list, "id,type\n").unwrap();
    let output = setup.output(&["rule", "deploy", text(&list)]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.ends_with("list.csv is no rule: this is not WebAssembly\n"), "{said}");
    assert_eq!((setup.json(&["module", "ls"]), setup.json(&["rule", "ls"])), (json!([]), json!([])));
    setup.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_made_so_on_the_server() {
    let setup = Setup::start().await;
    let folder = setup.folder.path().join("rules");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(threshold(), folder.join("threshold.wasm")).unwrap();
    let rule = "module = \"threshold.wasm\"\n[parameters]\nmetric = \"temperature\"\nhigh = 80\n";
    std::fs::write(folder.join("hot.toml"), rule).unwrap();
    let folder = text(&folder).to_string();
    let planned = setup.json(&["apply", &folder, "--dry-run"]);
    assert_eq!(planned["changed"], json!(["hot"]));
    assert_eq!((setup.json(&["module", "ls"]), setup.json(&["rule", "ls"])), (json!([]), json!([])));
    assert!(setup.says(&["apply", &folder]).contains("rule hot: create"));
    assert_eq!(setup.json(&["rule", "show", "hot"])["version"], 1);
    assert_eq!(setup.json(&["apply", &folder])["changed"], json!([]));
    setup.json(&["rule", "deploy", "threshold", "--name", "other", "--set", "metric=x", "--set", "high=1"]);
    assert_eq!(setup.json(&["apply", &folder])["surplus"], json!(["other"]));
    setup.json(&["apply", &folder, "--prune"]);
    assert_eq!(setup.json(&["rule", "ls"]).as_array().unwrap().len(), 1);
    std::fs::write(Path::new(&folder).join("bad.toml"), "=").unwrap();
    setup.fails(&["apply", &folder], 2, "bad.toml");

    let digest = setup.json(&["module", "show", "threshold"])["digest"].as_str().unwrap().to_string();
    setup.fails(&["module", "rm", &digest], 1, "use it");
    setup.json(&["rule", "rm", "hot"]);
    assert!(setup.output(&["module", "rm", &digest]).status.success());
    assert_eq!(setup.json(&["module", "ls"]), json!([]));
    assert_eq!(setup.json(&["module", "add", text(&threshold())])["digest"], digest.as_str());
    setup.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_alerts_and_what_became_of_them_are_handled() {
    let setup = Setup::start().await;
    setup.json(&["module", "add", text(&threshold())]);
    call(setup.http(), "PUT", "/rules/hot?wait=true", Some(hot())).await;
    setup.json(&["device", "add", "press-1", "--type", "press", "--label", "line=3", "--interval", "10s"]);
    // A further call changes what it names, and nothing else.
    setup.json(&["device", "add", "press-1", "--site", "lyon", "--label", "shift=b"]);
    let device = setup.json(&["device", "show", "press-1"]);
    assert_eq!(
        (&device["type"], &device["site"], &device["interval"]),
        (&json!("press"), &json!("lyon"), &json!("10s"))
    );
    assert_eq!(device["labels"], json!({"line": "3", "shift": "b"}));
    setup.json(&["device", "add", "press-1", "--label", "shift="]);
    assert_eq!(setup.json(&["device", "show", "press-1"])["labels"], json!({"line": "3"}));
    setup.json(&["device", "add", "press-1", "--speaks-for", "saw-*", "--speaks-for", "drill-1"]);
    setup.json(&["device", "add", "press-1", "--site", "oslo"]);
    assert_eq!(setup.json(&["device", "show", "press-1"])["speaks_for"], json!(["saw-*", "drill-1"]));
    setup.json(&["device", "add", "press-1", "--speaks-for", ""]);
    assert_eq!(setup.json(&["device", "show", "press-1"])["speaks_for"], json!([]));
    setup.fails(&["device", "add", "press-1", "--speaks-for", "a/b"], 1, "contains '/'");
    let list = setup.folder.path().join("devices.ndjson");
    std::fs::write(&list, "{\"id\":\"press-2\"}\n{\"id\":\"a/b\"}\n").unwrap();
    setup.fails(&["device", "import", text(&list)], 1, "some lines were refused");
    assert!(setup.says(&["device", "ls"]).contains("press-2"));
    setup.json(&["device", "rm", "press-2"]);
    let made = setup.json(&["device", "credential", "press-1"]);
    setup.json(&["device", "credential", "press-1", "--revoke", made["id"].as_str().unwrap()]);

    let mut client = setup.mqtt().await;
    assert!(client.temperature("press-1", 95.5).await);
    let alert =
        wait_for("the alert", async || setup.json(&["alert", "ls"])[0]["id"].as_str().map(String::from))
            .await;
    let why = setup.json(&["device", "why", "press-1"]);
    assert_eq!(why["last_reading"]["metrics"]["temperature"], 95.5, "{why}");
    assert!(why["last_reading"]["time"].is_string());
    assert!(setup.says(&["alert", "ls"]).contains("press-1"));
    setup.json(&["alert", "ack", &alert, "--comment", "on my way"]);
    setup.json(&["alert", "comment", &alert, "it is the pump"]);
    let shown = setup.json(&["alert", "show", &alert]);
    assert_eq!(shown["history"].as_array().unwrap().len(), 3, "{shown}");
    setup.fails(&["alert", "reset", &alert], 1, "still stands");
    setup.json(&["alert", "reset", &alert, "--force", "--reason", "sensor"]);
    setup.fails(&["alert", "show", "none"], 1, "there is no alert");

    let delivery = wait_for("the delivery", async || {
        let found = setup.json(&["delivery", "ls", "--state", "delivered"]);
        found[0]["id"].as_str().map(String::from)
    })
    .await;
    assert_eq!(setup.json(&["delivery", "show", &delivery])["receiver"], "hook");
    assert_eq!(setup.json(&["receiver", "ls"])[0]["name"], "hook");
    setup.json(&["receiver", "test", "hook"]);
    assert!(!setup.receiver.messages.lock().unwrap().is_empty());

    assert!(client.publish("devices/press-1/telemetry", "no json").await);
    let letter = wait_for("the dead letter", async || {
        setup.json(&["dead-letter", "ls"])[0]["id"].as_str().map(String::from)
    })
    .await;
    assert_eq!(setup.json(&["dead-letter", "show", &letter])["payload"], "no json");
    setup.fails(&["dead-letter", "replay", &letter], 1, "");
    setup.json(&["dead-letter", "rm", &letter]);
    assert_eq!(setup.json(&["dead-letter", "ls"]), json!([]));

    assert_eq!(setup.json(&["status"])["rules"], 1);
    // With the first token nobody is welcome without one.
    let secret = setup.says(&["token", "create", "ops", "--role", "admin"]).trim().to_string();
    setup.fails(&["token", "ls"], 1, "token");
    *setup.token.lock().unwrap() = Some(secret);
    let tokens = setup.json(&["token", "ls"]);
    assert_eq!((tokens.as_array().unwrap().len(), &tokens[0]["name"]), (1, &json!("ops")));
    let audit = setup.json(&["audit", "ls", "--action", "dead-letter"]);
    let actions: Vec<_> = audit.as_array().unwrap().iter().map(|row| row["action"].clone()).collect();
    assert_eq!(actions, ["dead-letter.delete", "dead-letter.replay"]);
    let id = tokens[0]["id"].as_str().unwrap().to_string();
    setup.json(&["token", "revoke", &id]);
    setup.fails(&["status"], 1, "revoked");
    setup.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silences_are_made_listed_and_ended() {
    let setup = Setup::start().await;
    let add =
        ["silence", "add", "site=\"oslo\"", "severity=~info|warning", "--for", "2h", "--comment", "works"];
    let id = setup.says(&add).trim().to_string();
    let listed = setup.says(&["silence", "ls"]);
    assert!(listed.contains(&id) && listed.contains("site=\"oslo\" severity=~\"info|warning\""), "{listed}");
    let until = ["silence", "add", "site=lyon", "--until-resolved", "--comment", "known"];
    let until = setup.json(&until);
    assert_eq!((&until["state"], &until["until_resolved"]), (&json!("active"), &json!(true)));
    let longer = ["silence", "add", "site=lyon", "--until-resolved", "--comment", "more", "--id"];
    let until = until["id"].as_str().unwrap();
    assert_eq!(setup.says(&[&longer[..], &[until]].concat()).trim(), until);
    assert_eq!(setup.json(&["silence", "show", until])["comment"], "more");
    assert_eq!(setup.json(&["silence", "forgotten"]), json!([]));
    assert!(setup.says(&["silence", "forgotten", "--idle", "0s"]).contains(until));
    setup.says(&["silence", "expire", &id, until]);
    assert_eq!(setup.json(&["silence", "ls"]), json!([]));
    assert_eq!(setup.json(&["silence", "ls", "--state", "expired"]).as_array().unwrap().len(), 2);
    setup.fails(&["silence", "expire", "nothing"], 1, "there is no silence");
    setup.fails(&["silence", "add", "site", "--for", "1h", "--comment", "c"], 1, "no matcher");
    setup.fails(&["silence", "add", "a=b", "--comment", "c"], 1, "say when it ends");
    setup.fails(&["silence", "add", "a=b", "--for", "1h"], 2, "--comment");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_watched_until_the_server_stops_which_is_at_once() {
    let setup = Setup::start().await;
    setup.json(&["module", "add", text(&threshold())]);
    call(setup.http(), "PUT", "/rules/hot?wait=true", Some(hot())).await;
    let mut tail = setup.command(&["rule", "tail", "hot", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let (sender, mut received) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            let _ = sender.blocking_send(line);
        }
    });
    let mut client = setup.mqtt().await;
    let mut value = 90.0;
    let event: Value = wait_for("an event", async || {
        // The command may not have begun to watch when the first reading came.
        value = 180.0 - value;
        assert!(client.temperature("press-1", value).await);
        let line = tokio::time::timeout(Duration::from_millis(200), received.recv()).await.ok()??;
        Some(serde_json::from_str(&line).unwrap())
    })
    .await;
    assert!(matches!(event["event"].as_str(), Some("trigger" | "clear")), "{event}");
    let begun = Instant::now();
    setup.server.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "the stop took {:?}", begun.elapsed());
    wait_for("the end of the command", async || tail.try_wait().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_alerts_go_on_where_a_reader_left() {
    let setup = Setup::start().await;
    setup.json(&["module", "add", text(&threshold())]);
    call(setup.http(), "PUT", "/rules/hot?wait=true", Some(hot())).await;
    let mut client = setup.mqtt().await;
    assert!(client.temperature("press-1", 90.0).await);
    assert!(client.temperature("press-2", 90.0).await);
    let read = async |last: &str, count: usize| {
        let path = format!("http://{}/api/v1/alerts/events", setup.http());
        let request = reqwest::Client::new().get(path).header("last-event-id", last);
        let mut stream = request.send().await.unwrap().bytes_stream();
        let mut seen = String::new();
        let all = async {
            while seen.matches("\n\n").count() < count {
                seen += std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("events");
        let ids = seen.lines().filter_map(|line| line.strip_prefix("id:")).map(|id| id.trim().to_string());
        ids.collect::<Vec<String>>()
    };
    let all = read("0", 2).await;
    assert_eq!(all.len(), 2);
    // The connection broke after the first: the second comes again, the first does not.
    assert_eq!(read(&all[0], 1).await, [all[1].clone()]);
    assert!(client.temperature("press-1", 20.0).await);
    let later = read(&all[1], 1).await;
    assert!(!all.contains(&later[0]));
    setup.server.stop().await.unwrap();
}

/// The real binary, with what it logs.
struct Engine {
    child: std::process::Child,
    http: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    async fn start(config: &Path) -> Self {
        let mut command = watchfire();
        let mut child =
            command.args(["serve", "--config"]).arg(config).stderr(Stdio::piped()).spawn().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let kept = lines.clone();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line));
        });
        let http = wait_for("the engine", async || {
            let lines = lines.lock().unwrap();
            let runs = lines.iter().find(|line| line.contains("watchfire runs"))?;
            let line: Value = serde_json::from_str(runs).unwrap();
            line["http"].as_str().unwrap().parse().ok()
        })
        .await;
        Self { child, http, lines }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    fn logged(&self, what: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(what))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_engine_takes_over_receivers_and_its_log_level() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("watchfire.toml");
    let write = |receivers: &[&str], more: &str| {
        let one = |name: &&str| {
            format!("[[receiver]]\nname = {name:?}\nwebhook = {{ url = \"http://127.0.0.1:9/\" }}\n")
        };
        let text = format!(
            "data = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n[telemetry]\n\
             format = \"json\"\n{more}\n[route]\nreceiver = {:?}\n{}",
            folder.path().join("data"),
            receivers[0],
            receivers.iter().map(one).collect::<String>()
        );
        std::fs::write(&path, text).unwrap();
    };
    write(&["day"], "");
    let engine = Engine::start(&path).await;
    let names = async || {
        let found = call(engine.http, "GET", "/receivers", None).await["items"].clone();
        let names = found.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["day"]);
    write(&["day", "night"], "");
    engine.signal("-HUP");
    wait_for("the new receiver", async || (names().await == ["day", "night"]).then_some(())).await;
    // A configuration that cannot be used changes nothing.
    write(&["nobody"], "levle = \"info\"");
    engine.signal("-HUP");
    wait_for("the refusal", async || engine.logged("the configuration stays as it was").then_some(())).await;
    assert_eq!(names().await, ["day", "night"]);

    // The level: nothing of a request is logged, then it is.
    assert!(!engine.logged("\"answered\""));
    let level = json!({"filter": "info,watchfire_api=debug"});
    assert_eq!(call(engine.http, "PUT", "/log-level", Some(level.clone())).await, level);
    wait_for("a line of a request", async || {
        names().await;
        engine.logged("\"answered\"").then_some(())
    })
    .await;
    engine.signal("-TERM");
    let mut engine = engine;
    let ended = wait_for("the end", async || engine.child.try_wait().unwrap()).await;
    assert!(ended.success());

    // What stands in the folder, for programs.
    let data = folder.path().join("data");
    let run = |arguments: &[&str]| -> Value {
        let output = watchfire().args(arguments).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let listed = run(&["log", "ls", "--data", text(&data)]);
    assert!(!listed["segments"].as_array().unwrap().is_empty() && listed["epoch"] == 1, "{listed}");
    assert!(run(&["log", "verify", "--data", text(&data)])["groups"].as_u64().unwrap() > 0);
    write(&["day"], "");
    assert_eq!(run(&["check-config", "--config", text(&path)])["ok"], true);
    write(&["day"], "levle = \"info\"");
    let wrong = watchfire().args(["check-config", "--json", "--config", text(&path)]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&wrong.stdout).unwrap();
    assert!(said["ok"] == false && said["error"].as_str().unwrap().contains("did you mean"), "{said}");
}
