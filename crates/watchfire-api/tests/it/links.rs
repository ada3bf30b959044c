//! Links that act without a login.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;
use watchfire_api::links::{LinkFault, LinkOptions, SignedLinks};
use watchfire_log::clock::{Clock as _, SystemClock};
use watchfire_model::{Duration, Severity};
use watchfire_notify::Links as _;

use crate::alertmanager::{raise, resolve};
use crate::calls::ok;
use crate::server::{Answer, Server};

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.bytes.clone()).unwrap()
}

/// The form of a page.
fn form(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"form\" value=\"").expect("a form");
    rest.split_once('"').unwrap().0.to_string()
}

async fn post(server: &Server, path: &str, body: String) -> Answer {
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    server.request(&headers, "POST", path, "10.0.0.7:9", body.into_bytes()).await
}

async fn page(server: &Server, path: &str) -> Answer {
    server.send("GET", path, None, Some("10.0.0.7:9"), Vec::new()).await
}

async fn alert(server: &Server, id: &str) -> Value {
    ok(&server.call("GET", &format!("/api/v1/alerts/{id}"), Value::Null).await, 200).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_shows_the_alert_to_everybody_and_acts_only_by_its_form() {
    let server = Server::start().await;
    let raised = raise(&server, "hot", "<b>press</b>", Severity::Major).await;
    let id = &raised.alert.0;
    let link = server.links.acknowledge(id, "night shift").unwrap();
    let path = link.strip_prefix("https://plant.example").expect("the public address").to_string();

    let shown = page(&server, &path).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert!(shown.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    assert_eq!(
        (&shown.headers["cache-control"], &shown.headers["referrer-policy"]),
        (&"no-store".parse().unwrap(), &"no-referrer".parse().unwrap())
    );
    let html = text(&shown);
    assert!(
        html.contains("too hot") && html.contains("&lt;b&gt;press&lt;/b&gt;") && !html.contains("<b>press")
    );
    assert_eq!(page(&server, &path).await.status, StatusCode::OK);
    assert_eq!(alert(&server, id).await["history"].as_array().unwrap().len(), 1, "looking changes nothing");

    // What follows links has no form; what has another one is no better off.
    let other = server.links.token(id, "ops").unwrap();
    for bad in [
        "action=acknowledge".to_string(),
        format!("action=acknowledge&form={}", server.links.form(&other).unwrap()),
    ] {
        assert!(post(&server, &path, bad).await.status.is_client_error());
    }
    let good = format!("form={}&action=acknowledge&name=Anna+B&comment=on+my+way", form(&html));
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "cross-site")];
    let elsewhere = server.request(&headers, "POST", &path, "10.0.0.7:9", good.clone().into_bytes()).await;
    assert_eq!(elsewhere.status, StatusCode::FORBIDDEN);
    assert!(alert(&server, id).await["acknowledged_at"].is_null());

    for _ in 0..2 {
        let done = post(&server, &path, good.clone()).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER);
        assert_eq!(done.headers["location"], path.strip_prefix("/a/").unwrap());
    }
    let now = alert(&server, id).await;
    assert_eq!(now["acknowledged_by"], "link:night shift (Anna B)");
    let history = now["history"].as_array().unwrap();
    assert_eq!(history.len(), 2, "pressed twice is pressed once");
    assert_eq!((&history[1]["kind"], &history[1]["comment"]), (&"acknowledged".into(), &"on my way".into()));
    let audit = server.call("GET", "/api/v1/audit?action=alert", Value::Null).await;
    assert_eq!(ok(&audit, 200)["items"][0]["actor"], "link:night shift (Anna B)");
    let html = text(&page(&server, &path).await);
    assert!(html.contains("by link:night shift (Anna B)") && !html.contains("value=\"acknowledge\""));

    let shelve = format!("form={}&action=shelve", form(&html));
    assert_eq!(post(&server, &path, shelve.clone()).await.status, StatusCode::SEE_OTHER);
    assert_eq!(alert(&server, id).await["shelved_by"], "link:night shift");
    let delete = format!("form={}&action=delete", form(&html));
    assert_eq!(post(&server, &path, delete).await.status, StatusCode::FORBIDDEN);
    resolve(&server, raised.clone()).await;
    let html = text(&page(&server, &path).await);
    assert!(html.contains("resolved") && !html.contains("<form"));
    assert_eq!(post(&server, &path, shelve).await.status, StatusCode::SEE_OTHER, "it is over anyway");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_old_wrong_or_too_many_say_so() {
    let server = Server::start().await;
    let raised = raise(&server, "hot", "press-1", Severity::Major).await;
    let id = &raised.alert.0;
    let token = server.links.token(id, "ops").unwrap();
    for at in 0..token.len() {
        let mut wrong = token.clone().into_bytes();
        wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
        let wrong = String::from_utf8(wrong).unwrap();
        assert_eq!(server.links.read(&wrong), Err(LinkFault::Wrong), "character {at}");
    }
    let wrong = page(&server, "/a/bm90aGluZw").await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    assert!(text(&wrong).contains("This link is not good"));
    assert!(wrong.headers["content-type"].to_str().unwrap().starts_with("text/html"));

    // Whoever has the same keys and makes links that end at once.
    let options = LinkOptions { lifetime: Duration::ZERO, shelve: false };
    let clock = Arc::new(SystemClock);
    let brief = SignedLinks::open(&server.store, None, options, clock.clone()).await.unwrap();
    assert_eq!(brief.acknowledge(id, "ops"), None, "nothing is reached from outside");
    let old = brief.token(id, "ops").unwrap();
    let gone = page(&server, &format!("/a/{old}")).await;
    assert_eq!(gone.status, StatusCode::GONE);
    assert!(text(&gone).contains("too old"));
    let unknown = server.links.token("0000000000000000", "ops").unwrap();
    assert_eq!(page(&server, &format!("/a/{unknown}")).await.status, StatusCode::GONE);

    // One change of keys is survived, two are not.
    let age = Duration::ZERO;
    let keys = server.store.link_keys(clock.wall(), age).await.unwrap();
    assert_eq!(keys.len(), 2);
    let open =
        async || SignedLinks::open(&server.store, None, LinkOptions::default(), clock.clone()).await.unwrap();
    assert_eq!(open().await.read(&token).unwrap().receiver, "ops");
    server.store.link_keys(clock.wall(), age).await.unwrap();
    assert_eq!(open().await.read(&token), Err(LinkFault::Wrong));

    let path = format!("/a/{token}");
    let mut last = page(&server, &path).await;
    for _ in 0..60 {
        last = page(&server, &path).await;
    }
    assert_eq!(last.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(last.headers["retry-after"], "60");
}
