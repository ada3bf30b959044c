//! What people do to alerts, with the real binary's commands against a running server.

use serde_json::json;

use crate::commands::Setup;
use crate::mqtt::Client;
use crate::{call, hot, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_shelved_confirmed_assigned_and_taken_out_of_service() {
    let setup = Setup::start().await;
    setup.json(&["module", "add", crate::commands::text(&crate::commands::threshold())]);
    call(setup.http(), "PUT", "/rules/hot?wait=true", Some(hot())).await;
    setup.json(&["device", "add", "press-1", "--type", "press"]);
    let mut client: Client = setup.mqtt().await;
    assert!(client.temperature("press-1", 95.5).await);
    let alert =
        wait_for("the alert", async || setup.json(&["alert", "ls"])[0]["id"].as_str().map(String::from))
            .await;
    // The rule says the same of the same, byte for byte, whatever came since.
    let again = setup.json(&["alert", "rerun", &alert]);
    assert_eq!((&again["outcome"], &again["again"]), (&json!("confirmed"), &again["verdict"]), "{again}");
    assert!(again["verdict"]["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{again}");
    assert!(setup.says(&["alert", "rerun", &alert]).starts_with("confirmed: the same came of the call"));
    setup.fails(&["alert", "rerun", "none"], 1, "none");
    let until = setup.json(&["alert", "ack", &alert, "--for", "4h"]);
    assert!(until["acknowledged_until"].is_string(), "{until}");
    assert_eq!(setup.json(&["alert", "ls", "--acknowledged"])[0]["id"], alert.as_str());
    setup.json(&["alert", "unack", &alert, "--comment", "not mine"]);
    setup.json(&["alert", "confirm", &alert, "--comment", "new seal"]);
    setup.json(&["alert", "assign", &alert, "anna"]);
    assert_eq!(setup.json(&["alert", "ls", "--assigned-to", "anna"])[0]["id"], alert.as_str());
    assert!(setup.says(&["alert", "ls"]).contains("confirmed, of anna"));
    assert!(setup.says(&["alert", "assign", &alert]).contains("is nobody's"));

    setup.fails(&["alert", "shelve", &alert, "--for", "1h"], 2, "--reason");
    setup.fails(&["alert", "shelve", &alert, "--reason", "works"], 1, "says when the alert is told again");
    setup.fails(&["alert", "shelve", &alert, "--for", "25h", "--reason", "works"], 1, "1d at most");
    setup.json(&["alert", "shelve", &alert, "--for", "1h", "--reason", "works"]);
    let shelves = setup.json(&["alert", "shelves"]);
    assert_eq!((&shelves[0]["device"], &shelves[0]["reason"]), (&json!("press-1"), &json!("works")));
    setup.json(&["alert", "unshelve", &alert]);
    assert_eq!(setup.json(&["alert", "shelves"]), json!([]));
    setup.json(&["alert", "shelve", &alert, "--one-shot", "--reason", "works"]);
    assert_eq!(setup.json(&["alert", "ls", "--shelved"])[0]["shelve_one_shot"], true);

    setup.fails(&["alert", "service", "out", "--reason", "bearing"], 2, "--device");
    let out = ["alert", "service", "out", "--device", "press-1", "--reason", "bearing", "--for", "2d"];
    assert_eq!(setup.json(&out)["kind"], "out_of_service");
    assert_eq!(setup.json(&["alert", "service", "ls"])[0]["reason"], "bearing");
    assert_eq!(setup.json(&["alert", "ls", "--suppressed"])[0]["id"], alert.as_str());
    setup.json(&["alert", "service", "in", "--device", "press-1", "--comment", "done"]);
    setup.fails(&["alert", "service", "in", "--device", "press-1"], 1, "there is no");
    assert_eq!(setup.json(&["alert", "service", "ls"]), json!([]));

    let stats = setup.json(&["alert", "stats"]);
    assert_eq!((&stats["raised"]["count"], &stats["shelved"]), (&json!(1), &json!(1)), "{stats}");
    let said = setup.says(&["alert", "stats", "--since", "1h", "--rule", "hot"]);
    assert!(said.contains("raised 1:") && said.contains("by device"), "{said}");
    setup.fails(&["alert", "stats", "--since", "32d"], 1, "not longer than");
    let shown = setup.json(&["alert", "show", &alert]);
    let kinds: Vec<_> = shown["history"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(
        kinds,
        [
            "raised",
            "acknowledged",
            "unacknowledged",
            "confirmed",
            "assigned",
            "unassigned",
            "shelved",
            "unshelved",
            "shelved",
            "suppressed",
            "unsuppressed"
        ]
    );
    setup.server.stop().await.unwrap();
}
