//! Alerts that others send: Prometheus, vmalert, Grafana and whatever else speaks to an Alertmanager.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::alert::{Detail, Severity};
use crate::control::Actor;
use crate::time::{Duration, Timestamp};
use crate::value::Value;

/// Alerts of others, as they came in one call. A record of the partition that their fingerprints lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAlerts {
    /// Who sent them.
    pub by: Actor,
    /// In the order in which they came.
    pub alerts: Vec<ExternalAlert>,
}

/// What somebody says of an alert of theirs. It is active until its end, which they move on by saying it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAlert {
    /// Of the labels, as Alertmanager computes it: what it is known by.
    pub fingerprint: String,
    /// As they were given, less empty ones.
    pub labels: BTreeMap<String, String>,
    /// As they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where it leads; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub generator_url: String,
    /// Since when; `None`: since this is in the log, or its end where that is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Timestamp>,
    /// Until when; in the past: it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
    /// Where no end is given, it is over so long after this is in the log.
    pub resolve_timeout: Duration,
}

/// What is known of an alert of others with each of its transitions: nothing of it is in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// As they were given.
    pub labels: BTreeMap<String, String>,
    /// Where it leads; may be empty.
    pub generator_url: String,
}

impl ExternalAlert {
    /// What stands in the place of a rule: the label `alertname`.
    pub fn rule(&self) -> &str {
        self.labels.get("alertname").map_or("", String::as_str)
    }

    /// The device that it is of: the label `device`, or else `instance`; empty without both.
    pub fn device(&self) -> &str {
        let label = |name: &str| self.labels.get(name).map(String::as_str);
        label("device").or_else(|| label("instance")).unwrap_or("")
    }

    /// The label `severity` in our words. Others have no list of them: what is neither ours nor widely used is a
    /// warning.
    pub fn severity(&self) -> Severity {
        let said = self.labels.get("severity").map(|text| text.to_ascii_lowercase()).unwrap_or_default();
        match said.as_str() {
            "critical" | "page" | "emergency" | "fatal" | "disaster" => Severity::Critical,
            "major" | "error" | "high" => Severity::Major,
            "minor" | "average" | "medium" => Severity::Minor,
            "info" | "information" | "informational" | "none" | "low" | "debug" => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// For people: the annotation `summary`, or what comes nearest to it.
    pub fn summary(&self) -> String {
        let annotations = ["summary", "title", "message", "description"]
            .iter()
            .filter_map(|name| self.annotations.get(*name));
        let told = annotations.chain(self.labels.get("alertname")).find(|text| !text.trim().is_empty());
        told.cloned().unwrap_or_else(|| format!("alert {}", self.fingerprint))
    }

    /// The annotations, each a text by its name.
    pub fn details(&self) -> Vec<Detail> {
        let detail = |(name, text): (&String, &String)| Detail {
            name: name.clone(),
            value: Value::Text(text.clone()),
        };
        self.annotations.iter().map(detail).collect()
    }

    /// What goes along with its transitions.
    pub fn external(&self) -> External {
        External { labels: self.labels.clone(), generator_url: self.generator_url.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> ExternalAlert {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        ExternalAlert {
            fingerprint: "0123456789abcdef".into(),
            labels: map(labels),
            annotations: map(annotations),
            generator_url: String::new(),
            starts_at: None,
            ends_at: None,
            resolve_timeout: Duration::from_secs(300),
        }
    }

    #[test]
    fn labels_of_others_are_understood_as_far_as_they_can_be() {
        let check = |labels: &[(&str, &str)], rule: &str, device: &str, severity: Severity| {
            let alert = alert(labels, &[]);
            assert_eq!(
                (alert.rule(), alert.device(), alert.severity()),
                (rule, device, severity),
                "{labels:?}"
            );
        };
        check(&[("alertname", "Down"), ("instance", "a:9100")], "Down", "a:9100", Severity::Warning);
        check(
            &[("device", "press-1"), ("instance", "a"), ("severity", "Page")],
            "",
            "press-1",
            Severity::Critical,
        );
        check(&[("severity", "major")], "", "", Severity::Major);
        check(&[("severity", "none")], "", "", Severity::Info);
        check(&[("severity", "purple")], "", "", Severity::Warning);
    }

    #[test]
    fn every_alert_says_something_to_people() {
        let check = |annotations: &[(&str, &str)], expected: &str| {
            assert_eq!(alert(&[("alertname", "Down")], annotations).summary(), expected);
        };
        check(&[("summary", "it is down"), ("description", "long")], "it is down");
        check(&[("summary", " "), ("description", "long")], "long");
        check(&[], "Down");
        assert_eq!(alert(&[("a", "b")], &[]).summary(), "alert 0123456789abcdef");
    }
}
