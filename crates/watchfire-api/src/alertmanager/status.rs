//! Status and receivers.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use watchfire_model::Duration;
use watchfire_notify::matcher::Matcher;
use watchfire_notify::{NotifyConfig, RouteConfig};

use super::{API_LEVEL, Asked, Failure, answer, time};
use crate::http::AppState;
use crate::http::extract::Viewer;
use crate::problem::Problem;

/// Who is told where there is no receiver: Alertmanager's tree cannot be without one.
const NOBODY: &str = "nobody";

pub(super) async fn status(_: Viewer, State(state): State<AppState>) -> Result<Response, Failure> {
    answer(&json!({
        // One process alone, which is what Alertmanager calls a cluster that is disabled.
        "cluster": { "status": "disabled", "peers": [] },
        "versionInfo": {
            "version": API_LEVEL,
            "revision": concat!("watchfire ", env!("CARGO_PKG_VERSION")),
            "branch": "watchfire",
            "buildUser": "",
            "buildDate": "",
            "goVersion": "",
        },
        "config": { "original": config_yaml(&state.receivers.config()) },
        "uptime": time(state.started),
    }))
}

pub(super) async fn receivers(
    _: Viewer,
    State(state): State<AppState>,
    Asked(asked): Asked,
) -> Result<Response, Failure> {
    let shown = asked.receivers_match()?;
    let config = state.receivers.config();
    let all = config.receivers.iter().filter(|_| shown);
    let all: Vec<_> = all.map(|receiver| json!({ "name": receiver.name, "labels": {} })).collect();
    answer(&all)
}

/// Alertmanager's word for it is OK.
pub(super) async fn ready(state: State<AppState>) -> Result<&'static str, Problem> {
    crate::http::health::ready(state).await.map(|_| "OK")
}

/// The tree of routes as a configuration of Alertmanager, for programs that show or walk it. Receivers have their names
/// and nothing else.
pub(super) fn config_yaml(config: &NotifyConfig) -> String {
    let only = match &config.receivers[..] {
        [only] => only.name.as_str(),
        _ => NOBODY,
    };
    let root = config.route.receiver.as_deref().unwrap_or(only);
    let mut text = String::from("route:\n");
    // What our root says by default is not what Alertmanager's does.
    let defaults = RouteConfig {
        receiver: Some(root.into()),
        group_by: Some(vec!["alertname".into(), "device".into()]),
        group_wait: Some(Duration::ZERO),
        group_interval: Some(Duration::ZERO),
        repeat_interval: Some(Duration::from_secs(4 * 3600)),
        ..RouteConfig::default()
    };
    let route = &config.route;
    let root_route = RouteConfig {
        receiver: defaults.receiver,
        group_by: route.group_by.clone().or(defaults.group_by),
        group_wait: route.group_wait.or(defaults.group_wait),
        group_interval: route.group_interval.or(defaults.group_interval),
        repeat_interval: route.repeat_interval.or(defaults.repeat_interval),
        routes: route.routes.clone(),
        ..RouteConfig::default()
    };
    route_yaml(&root_route, 1, &mut text);
    text.push_str("receivers:\n");
    let mut names: Vec<&str> = config.receivers.iter().map(|receiver| receiver.name.as_str()).collect();
    if !names.contains(&root) {
        names.push(root);
    }
    for name in names {
        text.push_str(&format!("- name: {}\n", quoted(name)));
    }
    text
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// Alertmanager knows no zero here, and no "never": the least and the most that it can say.
fn span(span: Duration, zero: &str) -> String {
    match span.0.div_ceil(1000) {
        0 => zero.into(),
        milliseconds if milliseconds % 1000 == 0 => format!("{}s", milliseconds / 1000),
        milliseconds => format!("{milliseconds}ms"),
    }
}

fn route_yaml(route: &RouteConfig, depth: usize, text: &mut String) {
    let pad = "  ".repeat(depth);
    let mut lines = Vec::new();
    if let Some(receiver) = &route.receiver {
        lines.push(format!("receiver: {}", quoted(receiver)));
    }
    if !route.matchers.is_empty() {
        lines.push("matchers:".into());
        let matchers = route.matchers.iter().filter_map(|text| text.parse::<Matcher>().ok());
        lines.extend(matchers.map(|matcher| format!("- {}", quoted(&matcher.to_string()))));
    }
    if let Some(labels) = &route.group_by {
        let labels: Vec<String> = labels.iter().map(|label| quoted(label)).collect();
        lines.push(format!("group_by: [{}]", labels.join(", ")));
    }
    lines.extend(route.group_wait.map(|wait| format!("group_wait: {}", span(wait, "0s"))));
    lines.extend(route.group_interval.map(|interval| format!("group_interval: {}", span(interval, "1ms"))));
    lines.extend(route.repeat_interval.map(|repeat| format!("repeat_interval: {}", span(repeat, "100y"))));
    if route.r#continue {
        lines.push("continue: true".into());
    }
    for line in lines {
        text.push_str(&format!("{pad}{line}\n"));
    }
    if !route.routes.is_empty() {
        text.push_str(&format!("{pad}routes:\n"));
        for child in &route.routes {
            let mut inner = String::new();
            route_yaml(child, depth + 1, &mut inner);
            // The first line of an item carries its dash.
            let inner = inner.replacen(&"  ".repeat(depth + 1), &format!("{pad}- "), 1);
            text.push_str(if inner.is_empty() { "" } else { &inner });
            if inner.is_empty() {
                text.push_str(&format!("{pad}- {{}}\n"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_told_in_alertmanagers_words() {
        let route = RouteConfig {
            receiver: Some("ops".into()),
            routes: vec![
                RouteConfig {
                    receiver: Some("night".into()),
                    matchers: vec!["severity=~\"major|critical\"".into(), "site=oslo".into()],
                    r#continue: true,
                    group_wait: Some(Duration::from_millis(1500)),
                    repeat_interval: Some(Duration::ZERO),
                    ..RouteConfig::default()
                },
                RouteConfig::default(),
            ],
            ..RouteConfig::default()
        };
        let config = NotifyConfig { route, ..NotifyConfig::default() };
        assert_eq!(
            config_yaml(&config),
            "route:\n  receiver: \"ops\"\n  group_by: [\"alertname\", \"device\"]\n  group_wait: 0s\n  \
             group_interval: 1ms\n  repeat_interval: 14400s\n  routes:\n  - receiver: \"night\"\n    matchers:\n    \
             - \"severity=~\\\"major|critical\\\"\"\n    - \"site=\\\"oslo\\\"\"\n    group_wait: 1500ms\n    \
             repeat_interval: 100y\n    continue: true\n  - {}\nreceivers:\n- name: \"ops\"\n"
        );
    }

    #[test]
    fn without_receivers_the_tree_still_has_one() {
        let text = config_yaml(&NotifyConfig::default());
        assert!(text.contains("receiver: \"nobody\"") && text.ends_with("- name: \"nobody\"\n"), "{text}");
    }
}
