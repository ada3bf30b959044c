//! A rule whose state changes its layout, deployed and undone while devices stream: what the commands say, and what
//! is there afterwards.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::commands::{Setup, text};
use crate::{call, wait_for};

pub fn guest(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests");
    watchfire_host::build::component_of(&workspace, name).unwrap()
}

/// So many readings of a device, the first of which is number `from`.
async fn send(setup: &Setup, device: &str, from: i64, count: i64) {
    let now = jiff::Timestamp::now().as_millisecond() - 100_000;
    let line = |i: i64| json!({"device": device, "time": now + i, "metrics": {"n": i}}).to_string();
    let lines: Vec<String> = (from..from + count).map(line).collect();
    let url = format!("http://{}/ingest/v1/telemetry", setup.http());
    let request = reqwest::Client::new().post(url).header("content-type", "application/x-ndjson");
    let answer = request.body(lines.join("\n")).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    setup.server.engine().wait_level().await.unwrap();
}

/// What the rule keeps, in the order of devices of each partition.
async fn state(setup: &Setup) -> Vec<Vec<u8>> {
    let dump = setup.server.engine().dump().await;
    // As checkpoints hold it: 8 is state.
    let blobs = dump.into_values().flatten().filter(|(key, _)| key[0] == 8).map(|(_, blob)| blob);
    let mut blobs: Vec<_> = blobs.collect();
    blobs.sort();
    blobs
}

async fn active(http: SocketAddr) -> Vec<String> {
    let alerts = call(http, "GET", "/alerts?state=active", None).await;
    let devices = alerts["items"].as_array().unwrap().iter().map(|alert| alert["device"].as_str().unwrap());
    let mut devices: Vec<String> = devices.map(String::from).collect();
    devices.sort();
    devices
}

async fn until_active(http: SocketAddr, expected: &[&str]) {
    wait_for("the alerts", async || (active(http).await == expected).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_tried_deployed_and_undone_and_its_state_is_as_before() {
    let setup = Setup::start().await;
    let (one, two) = (guest("tally-one"), guest("tally-two"));
    let first = setup.says(&["rule", "deploy", text(&one), "--wait", "--reason", "count what comes"]);
    assert!(first.contains("rule tally: version 1 (active); a new rule"), "{first}");
    send(&setup, "press-1", 1, 2).await;
    send(&setup, "press-2", 1, 13).await;
    until_active(setup.http(), &["press-2"]).await;
    let counted = state(&setup).await;
    assert_eq!(counted, [2_u32.to_le_bytes(), 13_u32.to_le_bytes()]);

    // The next version has something against one device: a dry run says so, a deployment is refused.
    let next = ["rule", "deploy", text(&two), "--wait", "--reason", "add up what comes"];
    let dry = [&next[..], &["--dry-run"]].concat();
    let refused = setup.output(&dry);
    let (said, why) = (String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert_eq!(refused.status.code(), Some(1), "{why}");
    assert!(why.contains("for device press-2 in slot 0"), "{why}");
    assert!(
        said.contains("migrate was tried on copies of 2 blobs of 2 devices")
            && said.matches("13 is no count").count() == 1,
        "{said}"
    );
    assert_eq!(setup.json(&["module", "ls"]).as_array().unwrap().len(), 1, "it was only looked at");
    setup.fails(&next, 1, "for device press-2 in slot 0");
    assert_eq!(setup.json(&["rule", "show", "tally"])["version"], 1);
    assert_eq!(state(&setup).await, counted);

    // One reading later it has not.
    send(&setup, "press-2", 14, 1).await;
    let before = state(&setup).await;
    let said = setup.says(&dry);
    for expected in [
        "rule tally: update of version 1",
        "tally@1.0.0 (sha256:",
        "-> tally@2.0.0 (sha256:",
        "most: 3",
        "the module migrates the state from layout 1 to 2",
        "2 blobs of 8 bytes",
        "32 bytes came of it",
        "none would be resolved",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in\n{said}");
    }
    let said = setup.says(&next);
    assert!(said.contains("version 2 (active); the module migrates the state"), "{said}");
    send(&setup, "press-1", 3, 1).await;
    until_active(setup.http(), &["press-1", "press-2"]).await;
    let sums = state(&setup).await;
    assert!(sums.len() == 2 && sums.iter().all(|blob| blob.len() == 16), "{sums:?}");

    // Undone: first only asked for.
    let said = setup.says(&["rule", "rollback", "tally", "--dry-run"]);
    assert!(
        said.contains("rollback from version 2 to 1") && said.contains("the state of version 1 as of"),
        "{said}"
    );
    assert!(said.contains("1 would be resolved, which did not stand then"), "{said}");
    assert_eq!(state(&setup).await, sums);
    let said = setup.says(&["rule", "rollback", "tally", "--wait", "--reason", "the totals are wrong"]);
    assert!(said.contains("version 3 (active); the state of version 1 as of"), "{said}");
    assert_eq!(state(&setup).await, before);
    until_active(setup.http(), &["press-2"]).await;
    send(&setup, "press-1", 4, 1).await;
    until_active(setup.http(), &["press-1", "press-2"]).await;

    // What happened is listed, and what differs is said.
    let versions = setup.json(&["rule", "versions", "tally"]);
    let reasons: Vec<&Value> =
        versions.as_array().unwrap().iter().map(|version| &version["reason"]).collect();
    assert_eq!(
        reasons,
        [&json!("the totals are wrong"), &json!("add up what comes"), &json!("count what comes")]
    );
    assert!(versions[1]["state_kept_as_of"].is_string(), "{versions}");
    let said = setup.says(&["rule", "versions", "tally", "--diff", "1", "2"]);
    assert!(
        said.contains("module: tally@1.0.0 -> tally@2.0.0") && said.contains(": add up what comes"),
        "{said}"
    );
    assert!(setup.says(&["rule", "versions", "tally", "--diff", "1", "3"]).contains("nothing differs"));

    // Forward again with the state that the second version had, or without any.
    let said = setup.says(&["rule", "rollback", "tally", "--to", "2", "--wait"]);
    assert!(said.contains("the state of version 2 as of"), "{said}");
    assert_eq!(state(&setup).await, sums);
    setup.fails(&["rule", "rollback", "tally", "--to", "1", "--keep-state"], 1, "does not migrate");
    setup.says(&["rule", "rollback", "tally", "--to", "1", "--discard-state", "--wait"]);
    assert!(state(&setup).await.is_empty());

    // A selector that loses a device ends its alert.
    let narrow =
        ["rule", "deploy", "tally@1.0.0", "--name", "tally", "--select", "device=press-1", "--dry-run"];
    let said = setup.says(&narrow);
    assert!(
        said.contains("1 lost: press-2")
            && said.contains("1 would be resolved with their devices: press-2 many (info)"),
        "{said}"
    );
    setup.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_looked_at_whole_before_anything_of_it_is_done() {
    let setup = Setup::start().await;
    let folder = setup.folder.path().join("rules");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(guest("tally-one"), folder.join("tally.wasm")).unwrap();
    for name in ["count", "other"] {
        std::fs::write(folder.join(format!("{name}.toml")), "module = \"tally.wasm\"\n").unwrap();
    }
    let folder = text(&folder).to_string();
    setup.json(&["apply", &folder, "--reason", "from git"]);
    assert_eq!(setup.json(&["rule", "versions", "count"])[0]["reason"], "from git");
    send(&setup, "press-1", 1, 13).await;
    std::fs::copy(guest("tally-two"), Path::new(&folder).join("tally.wasm")).unwrap();
    let refused = setup.output(&["apply", &folder, "--dry-run"]);
    let (said, why) = (String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("rule count: update") && said.contains("rule other: update"), "{said}");
    assert!(why.contains("rule count would be refused") && why.contains("press-1"), "{why}");
    setup.fails(&["apply", &folder], 1, "would be refused");
    assert_eq!(setup.json(&["rule", "show", "other"])["version"], 1, "nothing of it was done");
    assert_eq!(setup.json(&["module", "ls"]).as_array().unwrap().len(), 1);
    send(&setup, "press-1", 14, 1).await;
    let planned = setup.json(&["apply", &folder, "--dry-run"]);
    assert_eq!(planned["plans"][0]["plan"]["state"]["fate"], "migrated");
    assert_eq!(setup.json(&["apply", &folder])["changed"], json!(["count", "other"]));
    assert_eq!(setup.json(&["rule", "show", "other"])["version"], 2);
    setup.server.stop().await.unwrap();
}
