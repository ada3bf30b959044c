//! Programs with pages that speak to an Alertmanager: karma, where the machine has it, and the requests of karma and of
//! Grafana, made as their sources make them, with the members of the answers that they cannot do without.

use std::collections::BTreeMap;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use watchfire_model::Timestamp;
use watchfire_services::{Karma, amtool, or_skip};
use watchfire_store::Role;

use crate::alertmanager::{Amtool, Place};
use crate::wait_for;

/// What a client shows to be let in.
#[derive(Clone)]
enum Shown {
    Bearer(String),
    Password(String),
}

/// Who asks as one of these programs does.
struct Asking {
    client: reqwest::Client,
    base: String,
    shown: Shown,
}

impl Asking {
    fn new(base: String, shown: Shown) -> Self {
        Self { client: reqwest::Client::new(), base, shown }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.asked(method, path, &[])
    }

    fn asked(&self, method: Method, path: &str, query: &[(&str, &str)]) -> RequestBuilder {
        let mut url: reqwest::Url = format!("{}{path}", self.base).parse().unwrap();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client.request(method, url);
        match &self.shown {
            Shown::Bearer(token) => request.bearer_auth(token),
            Shown::Password(token) => request.basic_auth("any", Some(token)),
        }
    }

    async fn status(&self, method: Method, path: &str) -> StatusCode {
        self.request(method, path).send().await.unwrap().status()
    }

    /// What is there; 200 and JSON are not enough for clients that say which type they were told.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        read(self.request(Method::GET, path), path).await
    }
}

async fn read<T: DeserializeOwned>(request: RequestBuilder, what: &str) -> T {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_string());
    let text = answer.text().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{what}: {text}");
    assert_eq!(kind.as_deref(), Some("application/json"), "{what}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {error}: {text}"))
}

/// An alert, told by somebody else with the operator's token.
async fn say(place: &Place, token: &str, labels: Value) {
    let alerts = json!([{"labels": labels, "annotations": {"summary": "it is down"}}]);
    let asking = Asking::new(place.url(), Shown::Bearer(token.into()));
    let answer = asking.request(Method::POST, "/api/v2/alerts").json(&alerts).send().await.unwrap();
    assert!(answer.status().is_success());
}

/// Our own API, with a token.
async fn ours(place: &Place, token: &str, method: Method, path: &str, body: Value) -> Value {
    let url = format!("http://{}/api/v1{path}", place.server.addresses.http);
    let request = reqwest::Client::new().request(method, url).bearer_auth(token).json(&body);
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{path}: {status}: {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

/// A silence as pages send it: times of JavaScript, and every member of a matcher.
fn silence(name: &str, value: &str, comment: &str) -> Value {
    let now = jiff::Timestamp::now();
    let time = |span| format!("{:.3}", now + jiff::SignedDuration::from_mins(span));
    json!({
        "matchers": [{"name": name, "value": value, "isRegex": false, "isEqual": true}],
        "startsAt": time(0), "endsAt": time(60), "createdBy": "anna", "comment": comment,
    })
}

/// What karma needs of a group (its `internal/mapper/v017/api.go`): every member of the type that is said here.
#[derive(Deserialize)]
struct Group {
    labels: BTreeMap<String, String>,
    receiver: Name,
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// What karma and Grafana need of an alert.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: Timestamp,
    ends_at: Timestamp,
    updated_at: Timestamp,
    fingerprint: String,
    receivers: Vec<Name>,
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    state: String,
    silenced_by: Vec<String>,
    inhibited_by: Vec<String>,
}

/// What karma and Grafana need of a silence.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Silence {
    id: String,
    status: State,
    starts_at: Timestamp,
    ends_at: Timestamp,
    updated_at: Timestamp,
    created_by: String,
    comment: String,
    matchers: Vec<Matcher>,
}

#[derive(Deserialize)]
struct State {
    state: String,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Matcher {
    name: String,
    value: String,
    is_regex: bool,
    is_equal: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    #[serde(rename = "silenceID")]
    silence_id: String,
}

/// A karma in front of ours.
struct Dashboard {
    karma: Karma,
    client: reqwest::Client,
}

impl Dashboard {
    /// `server`: the members of the one server that are not the same always.
    fn start(server: &str) -> Result<Self, watchfire_services::Failure> {
        let configuration = format!(
            "alertmanager:\n  interval: 1s\n  servers:\n  - name: watchfire\n    proxy: true\n    {server}\n"
        );
        Ok(Self { karma: Karma::start(&configuration)?, client: reqwest::Client::new() })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.karma.address())
    }

    /// What its page asks for.
    async fn shown(&self) -> Value {
        let asked = json!({"filters": [], "gridLabel": "", "gridLimits": {}, "gridSortReverse": false,
            "sortOrder": "", "sortLabel": "", "sortReverse": false, "defaultGroupLimit": 10, "groupLimits": {}});
        let answer = self.client.post(self.url("/alerts.json")).json(&asked).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", self.karma.said());
        answer.json().await.unwrap()
    }

    /// The group with an alert of this name, once something holds of it.
    async fn group(&self, alertname: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let label = json!({"name": "alertname", "value": alertname});
        wait_for(what, async || {
            let shown = self.shown().await;
            let groups = shown["grids"][0]["alertGroups"].as_array()?;
            let of = |group: &&Value| group["labels"].as_array().is_some_and(|all| all.contains(&label));
            groups.iter().find(of).filter(|group| holds(group)).cloned()
        })
        .await
    }

    /// What its page sends through it.
    fn proxied(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(&format!("/proxy/alertmanager/watchfire/api/v2{path}")))
    }

    /// It has no error, and never had one.
    async fn is_content(&self) {
        let upstream = &self.shown().await["upstreams"];
        assert_eq!(upstream["counters"], json!({"total": 1, "healthy": 1, "failed": 0}), "{upstream}");
        let instance = &upstream["instances"][0];
        // Only a version that it finds is not taken for the newest that it knows of.
        assert_eq!((&instance["error"], &instance["version"]), (&json!(""), &json!("0.34.0")));
        let metrics = self.client.get(self.url("/metrics")).send().await.unwrap().text().await.unwrap();
        for line in [
            "karma_alertmanager_up{alertmanager=\"watchfire\"} 1",
            "karma_alertmanager_errors_total{alertmanager=\"watchfire\",endpoint=\"alerts\"} 0",
            "karma_alertmanager_errors_total{alertmanager=\"watchfire\",endpoint=\"silences\"} 0",
        ] {
            assert!(metrics.lines().any(|other| other == line), "no {line} in\n{metrics}");
        }
        assert!(!self.karma.said().contains("level=ERROR"), "{}", self.karma.said());
    }
}

fn suppressed(group: &Value) -> bool {
    group["stateCount"]["suppressed"] == 1
}

fn active(group: &Value) -> bool {
    group["stateCount"]["active"] == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn karma_shows_what_stands_and_silences_it() {
    let place = Place::start("").await;
    let operator = place.token(Role::Operator).await;
    say(&place, &operator, json!({"alertname": "Down", "device": "press-1", "severity": "critical"})).await;
    let server = format!("uri: {}\n    headers:\n      Authorization: Bearer {operator}", place.url());
    let Some(karma) = or_skip("karma", Dashboard::start(&server)) else { return };

    let group = karma.group("Down", "the alert", active).await;
    assert_eq!((&group["receiver"], &group["totalAlerts"]), (&json!("hook"), &json!(1)));
    let by = json!([{"name": "alertname", "value": "Down"}, {"name": "device", "value": "press-1"}]);
    assert_eq!(group["labels"], by);
    let alert = &group["alerts"][0]["alertmanager"][0];
    assert_eq!((&alert["state"], &alert["silencedBy"]), (&json!("active"), &json!([])));
    let known = ours(&place, &operator, Method::GET, "/alerts?state=active", Value::Null).await;
    let id = known["items"][0]["id"].as_str().unwrap().to_string();

    // A silence from its page: made, changed, ended.
    let mut wanted = silence("device", "press-1", "works");
    let made: Made = read(karma.proxied(Method::POST, "/silences").json(&wanted), "a silence").await;
    let asking = Asking::new(place.url(), Shown::Bearer(operator.clone()));
    let path = format!("/api/v2/silence/{}", made.silence_id);
    let kept: Silence = asking.get(&path).await;
    assert_eq!((kept.created_by.as_str(), kept.comment.as_str()), ("anna", "works"));
    karma.group("Down", "it is silenced", suppressed).await;
    wanted["id"] = made.silence_id.clone().into();
    wanted["comment"] = "more works".into();
    let again: Made = read(karma.proxied(Method::POST, "/silences").json(&wanted), "a change").await;
    assert_eq!(again.silence_id, made.silence_id, "only the comment is another one");
    wait_for("what it shows of the silence", async || {
        let shown = karma.shown().await;
        (shown["silences"]["watchfire"][&made.silence_id]["comment"] == "more works").then_some(())
    })
    .await;
    let ended = karma.proxied(Method::DELETE, &format!("/silence/{}", made.silence_id)).send().await;
    assert_eq!(ended.unwrap().status(), StatusCode::OK);
    karma.group("Down", "the silence is over", active).await;
    assert_eq!(asking.get::<Silence>(&path).await.status.state, "expired");
    // A refusal reaches whoever fills in the form.
    let refused = karma.proxied(Method::POST, "/silences").json(&silence("device", "", "all")).send().await;
    let refused = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(refused.text().await.unwrap().contains("must not match the empty string"));

    // What people do here is seen there: as amtool sees it, where that is there too.
    let acknowledge = format!("/alerts/{id}/acknowledge");
    ours(&place, &operator, Method::POST, &acknowledge, json!({"comment": "on my way"})).await;
    let told = |group: &Value| group.to_string().contains("on my way") && active(group);
    karma.group("Down", "the acknowledgement", told).await;
    let shelve = format!("/alerts/{id}/shelve");
    ours(&place, &operator, Method::POST, &shelve, json!({"for": "1h", "reason": "works"})).await;
    let group = karma.group("Down", "it is shelved", suppressed).await;
    let by = json!([format!("shelved:{id}")]);
    assert_eq!(group["alerts"][0]["alertmanager"][0]["silencedBy"], by);
    if let Some(program) = or_skip("amtool", amtool()) {
        let url = place.url().replace("http://", &format!("http://any:{operator}@"));
        let silenced = Amtool { program, url }.json(&["alert", "query", "--silenced"]).await;
        assert_eq!(silenced[0]["status"]["silencedBy"], by);
    }
    karma.is_content().await;

    // With a token that only reads, as the password in the address.
    let viewer = place.token(Role::Viewer).await;
    let uri = place.url().replace("http://", &format!("http://any:{viewer}@"));
    let looking = or_skip("karma", Dashboard::start(&format!("uri: {uri}"))).unwrap();
    looking.group("Down", "it is seen", suppressed).await;
    let refused = looking.proxied(Method::POST, "/silences").json(&silence("a", "b", "c")).send().await;
    assert_eq!(refused.unwrap().status(), StatusCode::FORBIDDEN);
    looking.is_content().await;
    place.server.stop().await.unwrap();
}

/// What a karma asks for each time, for machines that have none.
#[tokio::test(flavor = "multi_thread")]
async fn what_karma_asks_for_is_answered_as_it_needs_it() {
    let place = Place::start("").await;
    let operator = place.token(Role::Operator).await;
    say(&place, &operator, json!({"alertname": "Down", "device": "press-1"})).await;
    for shown in [Shown::Bearer(operator.clone()), Shown::Password(operator.clone())] {
        let asking = Asking::new(place.url(), shown);
        // Its parser of metrics wants each family once, and finds the version there.
        let metrics = asking.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("version=\"0.34.0\""), "{metrics}");
        let mut families: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let all = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!(families.len(), all, "{metrics}");

        let groups = wait_for("the group", async || {
            let groups: Vec<Group> = asking.get("/api/v2/alerts/groups").await;
            (!groups.is_empty()).then_some(groups)
        })
        .await;
        let [group] = &groups[..] else { panic!("{} groups", groups.len()) };
        assert_eq!((group.receiver.name.as_str(), group.labels["device"].as_str()), ("hook", "press-1"));
        let alert = &group.alerts[0];
        assert_eq!((alert.status.state.as_str(), alert.fingerprint.len()), ("active", 16));
        assert_eq!((alert.status.silenced_by.len(), alert.status.inhibited_by.len()), (0, 0));
        assert_eq!((&*alert.labels["alertname"], &*alert.annotations["summary"]), ("Down", "it is down"));
        assert!(alert.starts_at > Timestamp(0));
        let silences: Vec<Silence> = asking.get("/api/v2/silences").await;
        assert!(silences.iter().all(|silence| silence.status.state == "expired"));

        // The page through its proxy; the address is what the browser asked for.
        let wanted = silence("device", "press-1", "works");
        let origin = format!("http://{}", place.server.addresses.http);
        let post = asking.request(Method::POST, "/api/v2/silences").header("origin", &origin);
        let made: Made = read(post.header("x-forwarded-for", "192.0.2.7").json(&wanted), "a silence").await;
        let groups: Vec<Group> = asking.get("/api/v2/alerts/groups").await;
        assert_eq!(groups[0].alerts[0].status.state, "suppressed");
        assert_eq!(groups[0].alerts[0].status.silenced_by, [made.silence_id.as_str()]);
        let path = format!("/api/v2/silence/{}", made.silence_id);
        assert_eq!(asking.status(Method::DELETE, &path).await, StatusCode::OK);
    }
    place.server.stop().await.unwrap();
}

/// What Grafana needs of a status; the routes of a data source of the implementation "Prometheus" come from its text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AlertmanagerStatus {
    cluster: Cluster,
    config: Original,
    uptime: Timestamp,
    version_info: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Cluster {
    status: String,
    peers: Vec<Value>,
}

#[derive(Deserialize)]
struct Original {
    original: String,
}

/// The requests of a data source of the kind Alertmanager: of its page when it is saved
/// (`public/app/plugins/datasource/alertmanager/DataSource.ts`), of its pages of alerting
/// (`public/app/features/alerting/unified/api`), as its server passes them on (`pkg/services/ngalert/api/lotex_am.go`),
/// and of what sends its own alerts there (`pkg/services/ngalert/sender`).
#[tokio::test(flavor = "multi_thread")]
async fn what_grafana_asks_for_is_answered_as_it_needs_it() {
    let place = Place::start("[[route.routes]]\nmatchers = ['severity=\"critical\"']\n").await;
    let (viewer, operator) = (place.token(Role::Viewer).await, place.token(Role::Operator).await);
    say(&place, &operator, json!({"alertname": "Down", "device": "press-1", "severity": "critical"})).await;
    say(&place, &operator, json!({"alertname": "Slow", "my label": "a\"b", "device": "press-2"})).await;
    // A user and a password, or a header of its own.
    for shown in [Shown::Password(operator.clone()), Shown::Bearer(operator.clone())] {
        let asking = Asking::new(place.url(), shown.clone());
        // Its check: what would be there with the other implementation must not be, nor what Mimir says of itself.
        for (path, there) in [
            ("/api/v1/status/buildinfo", false),
            ("/alertmanager/api/v2/status", false),
            ("/api/v2/status", true),
        ] {
            assert_eq!(asking.status(Method::GET, path).await == StatusCode::OK, there, "{path}");
        }
        // Where nobody chose it is "Mimir", whose address is one step further up.
        let up = Asking::new(place.url().replace("/alertmanager", ""), shown.clone());
        assert_ne!(up.status(Method::GET, "/api/v2/status").await, StatusCode::OK);
        assert_eq!(up.status(Method::GET, "/alertmanager/api/v2/status").await, StatusCode::OK);

        let status: AlertmanagerStatus = asking.get("/api/v2/status").await;
        assert_eq!((status.cluster.status.as_str(), status.cluster.peers.len()), ("disabled", 0));
        assert!(status.uptime > Timestamp(0));
        for member in ["branch", "buildDate", "buildUser", "goVersion", "revision", "version"] {
            assert!(status.version_info.contains_key(member), "{member}");
        }
        let routes: Value = serde_saphyr::from_str(&status.config.original).unwrap();
        assert_eq!(routes["route"]["receiver"], "hook");
        assert_eq!(routes["route"]["routes"][0]["matchers"], json!(["severity=\"critical\""]));
        assert_eq!(routes["receivers"][0]["name"], "hook");

        let named = |alerts: &[Alert]| {
            let names = alerts.iter().map(|alert| alert.labels["alertname"].clone());
            names.collect::<Vec<_>>()
        };
        let alerts = wait_for("both alerts", async || {
            let alerts: Vec<Alert> = asking.get("/api/v2/alerts").await;
            (alerts.len() == 2).then_some(alerts)
        })
        .await;
        for alert in &alerts {
            assert!(alert.starts_at <= alert.updated_at && alert.updated_at < alert.ends_at);
            assert_eq!(alert.receivers[0].name, "hook");
        }
        // Matchers as it writes them: values have quotes always, names where they need them.
        let query = async |query: &[(&str, &str)]| {
            let request = asking.asked(Method::GET, "/api/v2/alerts", query);
            named(&read::<Vec<Alert>>(request, &format!("{query:?}")).await)
        };
        let all = [("silenced", "true"), ("active", "true"), ("inhibited", "true"), ("unprocessed", "true")];
        assert_eq!(query(&all).await.len(), 2);
        assert_eq!(query(&[("filter", "alertname=\"Down\""), ("silenced", "false")]).await, ["Down"]);
        assert_eq!(query(&[("filter", "\"my label\"=\"a\\\"b\"")]).await, ["Slow"]);
        assert_eq!(
            query(&[("filter", "alertname=~\"D.*|S.*\""), ("filter", "severity!=\"critical\"")]).await,
            ["Slow"]
        );
        let asked = [("receiver", "hook"), ("active", "true"), ("silenced", "false"), ("inhibited", "false")];
        let request = asking.asked(Method::GET, "/api/v2/alerts/groups", &asked);
        let groups: Vec<Group> = read(request, "groups").await;
        assert_eq!(groups.len(), 2);

        // Its server writes the body anew, and passes on what its page asks of its own Alertmanager.
        let post =
            asking.request(Method::POST, "/api/v2/silences").json(&silence("device", "press-1", "works"));
        let made: Made = read(post, "a silence").await;
        let asked = "?ruleMetadata=true&accesscontrol=true";
        let silences: Vec<Silence> = asking.get(&format!("/api/v2/silences{asked}")).await;
        let path = format!("/api/v2/silence/{}", made.silence_id);
        let one: Silence = asking.get(&format!("{path}{asked}")).await;
        assert!(silences.iter().any(|silence| silence.id == one.id && silence.status.state == "active"));
        assert!(one.starts_at < one.ends_at && one.updated_at >= one.starts_at);
        assert_eq!((one.created_by.as_str(), one.comment.as_str()), ("anna", "works"));
        let matcher =
            Matcher { name: "device".into(), value: "press-1".into(), is_regex: false, is_equal: true };
        assert_eq!(one.matchers, [matcher]);
        assert_eq!(query(&[("silenced", "false")]).await, ["Slow"]);
        assert_eq!(query(&[("active", "false")]).await, ["Down"]);
        assert_eq!(asking.status(Method::DELETE, &path).await, StatusCode::OK);
        assert_eq!(asking.get::<Silence>(&path).await.status.state, "expired");
        let unknown = "/api/v2/silence/01234567-89ab-4cde-8f01-23456789abcd";
        assert_eq!(asking.status(Method::GET, unknown).await, StatusCode::NOT_FOUND);
    }
    let looking = Asking::new(place.url(), Shown::Password(viewer));
    assert_eq!(looking.get::<Vec<Alert>>("/api/v2/alerts").await.len(), 2);
    let post = looking.request(Method::POST, "/api/v2/silences").json(&silence("a", "b", "c"));
    assert_eq!(post.send().await.unwrap().status(), StatusCode::FORBIDDEN);

    // Its own alerts, for which it has labels and annotations that are not for people, and how they end.
    let asking = Asking::new(place.url(), Shown::Password(operator));
    let labels = json!({"alertname": "Full", "__alert_rule_uid__": "u1", "grafana_folder": "plant"});
    let say = async |ends: i64| {
        let now = jiff::Timestamp::now();
        let alerts = json!([{
            "labels": labels, "annotations": {"__orgId__": "1", "__value_string__": "[ var='A' ]", "summary": "s"},
            "startsAt": now - jiff::SignedDuration::from_mins(1),
            "endsAt": now + jiff::SignedDuration::from_secs(ends),
            "generatorURL": "http://grafana:3000/alerting/grafana/u1/view?orgId=1",
        }]);
        let post = asking.request(Method::POST, "/api/v2/alerts").json(&alerts);
        assert_eq!(post.send().await.unwrap().status(), StatusCode::OK);
    };
    let full = async || {
        let request = asking.asked(Method::GET, "/api/v2/alerts", &[("filter", "alertname=\"Full\"")]);
        read::<Vec<Alert>>(request, "its own").await
    };
    say(240).await;
    let alert = wait_for("its own alert", async || full().await.pop()).await;
    assert_eq!(json!(alert.labels), labels);
    assert_eq!(alert.annotations["__orgId__"], "1");
    say(-1).await;
    wait_for("its end", async || full().await.is_empty().then_some(())).await;
    place.server.stop().await.unwrap();
}
