use std::sync::LazyLock;

use watchfire_model::Duration;
use watchfire_store::LabelSet;

use super::*;
use crate::config::NotifyConfig;
use crate::stages::route::Router;

/// The configuration that a file becomes, which must pass our check, and what was not carried. Our check reads secrets
/// that stand in files, so the files of the text are there.
fn import(yaml: &str) -> (NotifyConfig, Vec<String>) {
    static SECRETS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        for (name, secret) in [("key", "s3cret"), ("pager", "http://hooks/pager?key=s3cret")] {
            std::fs::write(folder.path().join(name), secret).unwrap();
        }
        folder
    });
    let yaml = yaml.replace("/run/secrets", SECRETS.path().to_str().unwrap());
    let imported = alertmanager(&yaml).unwrap();
    let config: NotifyConfig =
        toml::from_str(&imported.toml).unwrap_or_else(|error| panic!("{error}\n{}", imported.toml));
    assert_eq!(config.check(), Ok(()), "{}", imported.toml);
    (config, imported.notes.iter().map(ToString::to_string).collect())
}

fn refused(yaml: &str, expected: &str) {
    let fault = alertmanager(yaml).unwrap_err().to_string();
    assert!(fault.contains(expected), "{fault:?} does not say {expected:?}");
}

fn labels(text: &str) -> LabelSet {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

const TREE: &str = r#"
global:
  resolve_timeout: 10m
route:
  receiver: default
  group_by: [alertname, cluster]
  group_interval: 1m30s
  routes:
    - matchers: ['severity=~"page|warn"', '{team="a",env!="dev"}']
      receiver: pager
      continue: true
      active_time_intervals: [office]
      routes:
        - match: { service: db, shard: 7 }
          match_re: { host: 'db-[0-9]+' }
          group_by: ['...']
          repeat_interval: 1w
    - matchers: [alertname=Watchdog]
      receiver: 'null'
      labels: { runbook: none }
inhibit_rules:
  - name: critical over warning
    source_matchers: [severity="critical"]
    target_match: { severity: warning }
    equal: [alertname, cluster]
  - source_match_re: { alertname: 'Down.*' }
receivers:
  - name: default
    webhook_configs:
      - url: http://hooks/default?key=s3cret
        max_alerts: 20
        timeout: 5s
        send_resolved: false
        http_config:
          authorization: { credentials: s3cret }
          http_headers: { X-Plant: { values: [lyon] }, X-Key: { files: [/run/secrets/key] } }
          follow_redirects: false
          proxy_url: http://proxy
  - name: pager
    webhook_configs:
      - url_file: /run/secrets/pager
      - url: http://hooks/second
        http_config: { basic_auth: { username: u, password: s3cret } }
    opsgenie_configs:
      - api_key: s3cret
    labels: { team: a }
  - name: 'null'
time_intervals:
  - name: office
    time_intervals:
      - weekdays: ['monday:friday']
        times: [{ start_time: 09:00, end_time: '17:00' }]
        location: Europe/Oslo
      - days_of_month: [1, '-3:-1']
        months: [may, 12]
        years: [2026]
mute_time_intervals:
  - name: always
    time_intervals: [{}]
  - name: never
    time_intervals: []
templates: ['/etc/*.tmpl']
tracing: { endpoint: x }
"#;

#[test]
fn a_tree_decides_the_same() {
    let (config, _) = import(TREE);
    let router = Router::new(&config).unwrap();
    let check = |text: &str, expected: &[&str]| {
        let targets = router.route(&labels(text));
        let found: Vec<_> = targets.iter().map(|target| target.receiver.as_str()).collect();
        assert_eq!(found, expected, "{text}");
        targets
    };
    let default = check("alertname=x cluster=c host=h", &["default"]);
    let timers = default[0].timers;
    let seconds = Duration::from_secs;
    assert_eq!((timers.wait, timers.interval, timers.repeat), (seconds(30), seconds(90), seconds(14_400)));
    assert_eq!(default[0].group_labels, labels("alertname=x cluster=c"));
    let both = ["pager-webhook", "pager-webhook-2"];
    let paged = check("severity=page team=a", &both);
    assert_eq!(paged[0].times.active, ["office"]);
    check("severity=page team=a env=dev", &["default"]);
    let deep = check("severity=warn team=a service=db shard=7 host=db-12", &both);
    assert_eq!(deep[1].timers.repeat, Duration::from_secs(7 * 86_400));
    assert_eq!(deep[1].group_labels.len(), 5);
    // Below, the intervals of the route above do not hold.
    assert!(deep[0].times.is_always());
    check("severity=warn team=a service=db shard=7 host=web-1", &both);
    // The first route goes on, and the second tells nobody.
    check("severity=page team=a alertname=Watchdog", &both);
    check("alertname=Watchdog", &[]);

    let receiver = |name: &str| config.receivers.iter().find(|one| one.name == name).unwrap();
    let default = receiver("default");
    assert_eq!(default.max_alerts, 20);
    let webhook = default.webhook.as_ref().unwrap();
    assert_eq!(webhook.timeout, seconds(5));
    assert_eq!(webhook.url.read().unwrap(), "http://hooks/default?key=s3cret");
    assert_eq!(webhook.headers["Authorization"].read().unwrap(), "Bearer s3cret");
    assert_eq!(webhook.headers["X-Plant"].read().unwrap(), "lyon");
    assert!(webhook.headers["X-Key"].file().unwrap().ends_with("key"));
    let pager = receiver("pager-webhook").webhook.as_ref().unwrap();
    assert!(pager.url.file().unwrap().ends_with("pager"));
    let second = receiver("pager-webhook-2").webhook.as_ref().unwrap();
    assert_eq!(second.headers["Authorization"].read().unwrap(), "Basic dTpzM2NyZXQ=");

    assert_eq!(config.inhibit[0].target_matchers, ["severity=\"warning\""]);
    assert_eq!(config.inhibit[0].equal, ["alertname", "cluster"]);
    assert_eq!(config.inhibit[1].source_matchers, ["alertname=~\"Down.*\""]);
    assert_eq!(config.inhibit[1].target_matchers, ["alertname=~\".*\""]);
    let names: Vec<_> = config.time_intervals.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["always", "never", "office"]);
    assert_eq!(config.time_intervals[2].any.len(), 2);
}

#[test]
fn everything_that_is_not_carried_is_named() {
    let (_, notes) = import(TREE);
    let places: Vec<&str> =
        notes.iter().filter_map(|note| note.split_once(": ")).map(|(place, _)| place).collect();
    let mut expected = vec![
        "receivers[0].webhook_configs[0].http_config.follow_redirects",
        "receivers[0].webhook_configs[0].http_config.proxy_url",
        "receivers[0].webhook_configs[0].send_resolved",
        "receivers[1].opsgenie_configs",
        "receivers[1].labels",
        "receivers[2]",
        "route.routes[1].labels",
        "inhibit_rules[1].target_matchers",
        "mute_time_intervals[0].time_intervals[0]",
        "mute_time_intervals[1].time_intervals",
        "global.resolve_timeout",
        "templates",
        "tracing",
    ];
    let mut found = places.clone();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "{notes:#?}");
    assert!(!notes.join("\n").contains("s3cret"), "{notes:#?}");
}

/// What a receiver becomes, of a channel that the check may not know yet.
fn channel(global: &str, receiver: &str) -> (toml::Table, Vec<String>) {
    let yaml = format!(
        "global: {global}\nroute: {{ receiver: r }}\nreceivers:\n- name: r\n  {}\n",
        receiver.replace('\n', "\n  ")
    );
    let imported = alertmanager(&yaml).unwrap();
    let table: toml::Table = toml::from_str(&imported.toml).unwrap();
    let receiver = table["receiver"][0].as_table().unwrap().clone();
    // What is written is what is read.
    let read: crate::ReceiverConfig = receiver.clone().try_into().unwrap();
    assert_eq!(read.name, "r");
    (receiver, imported.notes.into_iter().map(|note| note.place).collect())
}

fn becomes(global: &str, receiver: &str, expected: &str, not_carried: &[&str]) {
    let (mut found, notes) = channel(global, receiver);
    found.remove("name");
    assert_eq!(found, toml::from_str::<toml::Table>(expected).unwrap(), "{receiver}");
    assert_eq!(notes, not_carried, "{receiver}");
}

#[test]
fn each_kind_of_receiver() {
    becomes(
        "{ smtp_smarthost: 'mail:587', smtp_from: w@x, smtp_auth_username: u, smtp_auth_password_file: /p, smtp_hello: h }",
        "email_configs:\n- to: 'a@x, b@x'\n  html: '<b>'\n  headers: { Subject: s }",
        "email = { host = 'mail', port = 587, tls = 'starttls', from = 'w@x', to = ['a@x', 'b@x'], hello = 'h', \
         username = 'u', password = { file = '/p' } }",
        &[
            "receivers[0].email_configs[0].send_resolved",
            "receivers[0].email_configs[0].headers",
            "receivers[0].email_configs[0].html",
        ],
    );
    becomes(
        "{ smtp_from: w@x, smtp_smarthost: 'other:25', smtp_auth_secret: s, smtp_require_tls: false }",
        "email_configs:\n- { to: a@x, smarthost: '[::1]:465', send_resolved: true }",
        "email = { host = '::1', port = 465, tls = 'implicit', from = 'w@x', to = ['a@x'] }",
        &["global.smtp_auth_secret"],
    );
    becomes(
        "{ slack_api_url: 'https://hooks/x' }",
        "slack_configs:\n- { channel: '#ops', send_resolved: true, title: t }",
        "slack = { url = 'https://hooks/x', channel = '#ops' }",
        &["receivers[0].slack_configs[0].title"],
    );
    becomes(
        "{ slack_app_token_file: /token }",
        "slack_configs:\n- { channel: '#ops', send_resolved: true }",
        "slack = { token = { file = '/token' }, channel = '#ops' }",
        &[],
    );
    becomes(
        "{}",
        "pagerduty_configs:\n- { routing_key_file: /key, url: 'https://events.eu.pagerduty.com/v2/enqueue' }",
        "pagerduty = { routing_key = { file = '/key' }, url = 'https://events.eu.pagerduty.com/v2/enqueue' }",
        &[],
    );
    becomes(
        "{}",
        "pagerduty_configs:\n- { service_key: k, severity: critical }",
        "pagerduty = { routing_key = 'k' }",
        &["receivers[0].pagerduty_configs[0].service_key", "receivers[0].pagerduty_configs[0].severity"],
    );
    becomes(
        "{ telegram_bot_token: t }",
        "telegram_configs:\n- { chat_id: -1001, message_thread_id: 7, parse_mode: HTML }",
        "telegram = { token = 't', chat_id = '-1001', message_thread_id = 7 }",
        &["receivers[0].telegram_configs[0].parse_mode"],
    );
    becomes("{}", "msteamsv2_configs:\n- { webhook_url_file: /u }", "teams = { url = { file = '/u' } }", &[]);
}

#[test]
fn chats_become_webhooks_with_a_body() {
    let (discord, _) = channel("{}", "discord_configs:\n- { webhook_url: 'https://discord/x' }");
    let body = discord["webhook"]["body"].as_str().unwrap();
    assert!(body.ends_with("{\"content\": {{ text | tojson }}}"), "{body}");
    let (mattermost, notes) = channel(
        "{ mattermost_webhook_url: 'https://mm/x' }",
        "mattermost_configs:\n- { channel: 'a \"{{b', username: 'w \"{% x' }",
    );
    let body = mattermost["webhook"]["body"].as_str().unwrap();
    // A template of Go is not carried; what only looks like one of ours is none.
    assert!(body.contains(r#"{"username": "w \"\u007b% x", "text": {{ text | tojson }}}"#), "{body}");
    assert_eq!(notes, ["receivers[0].mattermost_configs[0].channel"]);
    let (rocket, _) = channel(
        "{ rocketchat_token_file: /t, rocketchat_token_id: id }",
        "rocketchat_configs:\n- { api_url: 'https://rc/', channel: '#ops', send_resolved: true }",
    );
    assert_eq!(rocket["webhook"]["url"].as_str(), Some("https://rc/api/v1/chat.postMessage"));
    assert_eq!(rocket["webhook"]["headers"]["X-Auth-Token"]["file"].as_str(), Some("/t"));
    assert_eq!(rocket["webhook"]["headers"]["X-User-Id"].as_str(), Some("id"));
}

#[test]
fn names_do_not_meet() {
    let yaml = "route: { receiver: a }\nreceivers:\n- name: a\n  webhook_configs: [{url: 'http://h/1'}, {url: 'http://h/2'}]\n\
                - name: a-webhook\n  webhook_configs: [{url: 'http://h/3'}]\n";
    let (config, _) = import(yaml);
    let names: Vec<_> = config.receivers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a-webhook-2", "a-webhook-3", "a-webhook"]);
    assert_eq!(config.route.receivers, Some(vec!["a-webhook-2".to_string(), "a-webhook-3".into()]));
    // Everything in one group, as Alertmanager has it where nothing is said.
    assert_eq!(config.route.group_by, Some(vec![]));
}

#[test]
fn what_would_change_who_is_told_is_refused() {
    let with = |route: &str| format!("route:\n  receiver: r\n  {route}\nreceivers: [{{name: r}}]\n");
    refused("", "route: is missing");
    refused("- a", "is no configuration");
    refused("a: [", "is no YAML");
    refused("route: {}\nreceivers: [{name: r}]", "route.receiver: is missing");
    refused("route: { receiver: x }\nreceivers: [{name: r}]", "route.receiver: there is no receiver \"x\"");
    refused("route: { receiver: r }\nreceivers: [{name: r}, {name: r}]", "the same name");
    refused(&with("routes: [{ matchers: ['a=~\"(\"'] }]"), "route.routes[0].matchers[0]: ");
    refused(&with("routes: [{ match_re: { a: '(' } }]"), "route.routes[0].match_re.a: ");
    refused(&with("routes: [{ matchers: a=b }]"), "route.routes[0].matchers: is no list");
    refused(
        "route: { receiver: r }\nreceivers: [{name: r, webhook_configs: [{url: <secret>}]}]",
        "receivers[0].webhook_configs[0].url: the secret itself is not in the file",
    );
    refused(&with("group_wait: 5 parsecs"), "route.group_wait: \"5 parsecs\" is no span of time");
    refused(&with("group_wait: 1s1m"), "is no span of time");
    refused(&with("continue: maybe"), "route.continue: is neither true nor false");
    refused(
        &format!("{}inhibit_rules: [{{ source_matchers: [a] }}]", with("")),
        "inhibit_rules[0].source_matchers[0]: ",
    );
    refused(
        &format!("{}time_intervals: [{{ name: x, time_intervals: [{{ weekdays: [] }}] }}]", with("")),
        "time_intervals[0].time_intervals[0].weekdays: is an empty list",
    );
}

#[test]
fn spans_of_time_are_those_of_prometheus() {
    for (text, milliseconds) in [
        ("0", 0),
        ("30s", 30_000),
        ("1h30m", 5_400_000),
        ("1y2w3d", 33_004_800_000),
        ("1s5ms", 1005),
        ("0s", 0),
    ] {
        let yaml = format!("route: {{ receiver: r, group_wait: {text} }}\nreceivers: [{{name: r}}]");
        let (config, _) = import(&yaml);
        assert_eq!(config.route.group_wait, Some(Duration::from_millis(milliseconds)), "{text}");
    }
}
