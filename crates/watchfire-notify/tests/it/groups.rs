//! Routing decisions as plain functions, over random sequences.

use std::collections::HashMap;

use proptest::prelude::*;
use watchfire_model::{Duration, Severity, Timestamp};
use watchfire_notify::stages::plan::{Groups, Settings};
use watchfire_notify::stages::route::Router;
use watchfire_store::{LabelSet, Outbox};

fn outbox(sequence: i64, device: u8, firing: bool, now: Timestamp) -> Outbox {
    let device = format!("d-{device}");
    let labels: LabelSet = [("alertname", "hot"), ("device", device.as_str()), ("severity", "major")]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into();
    Outbox {
        sequence,
        transition: format!("t/{sequence}"),
        kind: if firing { "raised" } else { "resolved" }.into(),
        alert: device,
        labels,
        severity: Severity::Major,
        from_severity: None,
        from_since: None,
        reason: None,
        summary: "hot".into(),
        details: Vec::new(),
        at: now,
        recorded_at: now,
        raised_at: now,
        rule: "hot".into(),
        rule_version: 1,
        generator_url: None,
    }
}

fn settings(wait: u64, interval: u64, max_alerts: usize) -> Settings {
    let text = format!(
        "[[receiver]]\nname = \"hook\"\nwebhook = {{ url = \"http://h/\" }}\n[route]\ngroup_by = [\"alertname\"]\n\
         group_wait = {wait}\ngroup_interval = {interval}\nrepeat_interval = 0"
    );
    Settings {
        router: Router::new(&toml::from_str(&text).unwrap()).unwrap(),
        public_url: None,
        max_alerts: HashMap::from([("hook".into(), max_alerts)]),
    }
}

proptest! {
    /// Whatever comes when, and however often it is restarted: each device's story as told is its story as
    /// it happened, no two deliveries share an id, and no message is longer than it may be.
    #[test]
    fn every_story_is_told_whole_and_in_order(
        steps in proptest::collection::vec((0_u8..4, 0_u64..20, any::<bool>()), 1..60),
        wait in 0_u64..30, interval in 0_u64..30, max_alerts in 1_usize..5,
    ) {
        let settings = settings(wait, interval, max_alerts);
        let mut groups = Groups::default();
        let mut now = Timestamp(1_000_000_000);
        let mut active: HashMap<u8, bool> = HashMap::new();
        let mut happened: HashMap<String, Vec<&str>> = HashMap::new();
        let mut told: HashMap<String, Vec<String>> = HashMap::new();
        let mut ids = std::collections::HashSet::new();
        let mut kept = HashMap::new();
        let mut sequence = 0;
        let end = steps.len();
        for (i, (device, pass, restart)) in steps.into_iter().enumerate() {
            let firing = !active.get(&device).copied().unwrap_or(false);
            active.insert(device, firing);
            sequence += 1;
            let status = if firing { "firing" } else { "resolved" };
            happened.entry(format!("d-{device}")).or_default().push(status);
            let item = outbox(sequence, device, firing, now);
            let mut items = vec![item];
            // The last turn waits until nothing is due any more.
            loop {
                let plan = groups.plan(&settings, &items, now);
                items.clear();
                for delivery in &plan.flush.deliveries {
                    prop_assert!(ids.insert(delivery.id.clone()));
                    let body: serde_json::Value = serde_json::from_str(&delivery.payload).unwrap();
                    let alerts = body["alerts"].as_array().unwrap();
                    prop_assert!(alerts.len() <= max_alerts);
                    for alert in &alerts[..delivery.alerts.len()] {
                        let device = alert["labels"]["device"].as_str().unwrap().to_string();
                        told.entry(device).or_default().push(alert["status"].as_str().unwrap().into());
                    }
                }
                for row in &plan.flush.groups {
                    kept.insert((row.receiver.clone(), row.group_key.clone()), row.clone());
                }
                for id in &plan.flush.ended {
                    kept.remove(id);
                }
                groups.accept(plan);
                match groups.next() {
                    Some(next) if i + 1 == end => now = now.max(next),
                    _ => break,
                }
            }
            if restart {
                let rows: Vec<_> = kept.values().cloned().collect();
                let (restored, damaged) = Groups::restore(&rows);
                prop_assert!(damaged.is_empty());
                prop_assert_eq!(restored.next(), groups.next());
                groups = restored;
            }
            now = now + Duration::from_secs(pass);
        }
        for (device, happened) in happened {
            prop_assert_eq!(told.remove(&device).unwrap_or_default(), happened);
        }
    }
}

#[test]
fn a_group_without_changes_is_told_again_and_the_repetition_gives_way() {
    let mut settings = settings(0, 0, 10);
    let text =
        "[[receiver]]\nname = \"hook\"\nwebhook = { url = \"http://h/\" }\n[route]\nrepeat_interval = \"1h\"";
    settings.router = Router::new(&toml::from_str(text).unwrap()).unwrap();
    let mut groups = Groups::default();
    let start = Timestamp(1_000_000_000);
    let plan = groups.plan(&settings, &[outbox(1, 0, true, start)], start);
    groups.accept(plan);
    let hour = Duration::from_secs(3600);
    assert_eq!(groups.next(), Some(start + hour));
    let plan = groups.plan(&settings, &[], start + hour);
    assert_eq!(plan.flush.deliveries[0].reason, "repeat interval elapsed");
    let repetition = plan.flush.deliveries[0].id.clone();
    groups.accept(plan);
    let plan = groups.plan(&settings, &[outbox(2, 0, false, start + hour)], start + hour);
    assert_eq!(plan.flush.superseded, [repetition]);
    assert_eq!(plan.flush.deliveries[0].reason, "all alerts resolved");
    assert_eq!(plan.flush.ended.len(), 1);
    groups.accept(plan);
    assert!(groups.is_empty() && groups.next().is_none());
}

#[test]
fn a_resolve_goes_to_those_who_were_told_whatever_the_routes_say_by_now() {
    let before = settings(0, 0, 10);
    let mut groups = Groups::default();
    let now = Timestamp(1_000_000_000);
    // Never told: nobody hears of its end.
    let plan = groups.plan(&before, &[outbox(1, 1, false, now)], now);
    assert_eq!((plan.flush.deliveries.len(), plan.flush.routed.len()), (0, 1));
    let plan = groups.plan(&before, &[outbox(2, 0, true, now)], now);
    groups.accept(plan);
    let after = Settings { router: Router::new(&Default::default()).unwrap(), ..before };
    let plan = groups.plan(&after, &[outbox(3, 0, false, now)], now);
    assert_eq!(plan.flush.deliveries[0].receiver, "hook");
    assert_eq!(plan.flush.deliveries[0].status, "resolved");
}
