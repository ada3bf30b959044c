//! Any order of what the loop, people and time do, with restarts in between: what holds all the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use watchfire_model::alert::{ResolveReason, TransitionKind};
use watchfire_model::{AlertId, Duration, Severity, Timestamp, Value};
use watchfire_store::{
    Act, AlertFilter, AlertRow, AlertState, EventRow, ServiceRow, ShelvePolicy, ShelveUntil, StoreError,
    SuppressedAs,
};

use crate::plant::{Plant, START, is_active};

const RULES: [&str; 2] = ["hot", "cold"];
const DEVICES: [&str; 2] = ["press-1", "press-2"];
const POLICY: ShelvePolicy = ShelvePolicy { max: Duration::from_secs(600), notice: Duration::from_secs(60) };

/// Which condition: a rule and a device.
type Condition = (usize, usize);

#[derive(Clone, Debug)]
enum Step {
    Raise(Condition),
    Severity(Condition, u8),
    Clear(Condition),
    Resolve(Condition),
    /// To the latest alert of a condition, whether it is active or not.
    Act(Condition, u8, u64),
    /// Device, rule, or both; for so many seconds, 0: for good.
    Out(Option<usize>, Option<usize>, u64),
    In(Option<usize>, Option<usize>),
    Sweep,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<(i64, Step)>> {
    let condition = || (0..RULES.len(), 0..DEVICES.len());
    let place = || {
        prop_oneof![
            (0..2_usize).prop_map(|device| (Some(device), None)),
            (0..2_usize).prop_map(|rule| (None, Some(rule))),
            (0..2_usize, 0..2_usize).prop_map(|(device, rule)| (Some(device), Some(rule))),
        ]
    };
    let step = prop_oneof![
        5 => condition().prop_map(Step::Raise),
        1 => (condition(), 0..5_u8).prop_map(|(condition, severity)| Step::Severity(condition, severity)),
        1 => condition().prop_map(Step::Clear),
        3 => condition().prop_map(Step::Resolve),
        9 => (condition(), 0..10_u8, 1..700_u64).prop_map(|(condition, act, span)| Step::Act(condition, act, span)),
        2 => (place(), prop_oneof![Just(0), 1..500_u64]).prop_map(|((device, rule), span)| Step::Out(device, rule, span)),
        1 => place().prop_map(|(device, rule)| Step::In(device, rule)),
        3 => Just(Step::Sweep),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec((0..200_i64, step), 1..60)
}

fn act(number: u8, span: u64, now: Timestamp) -> Result<Act, StoreError> {
    let until = now + Duration::from_secs(span);
    let comment = Some("a remark".to_string());
    Ok(match number {
        0 => Act::Acknowledge { until: None, comment },
        1 | 2 => Act::Acknowledge { until: Some(until), comment },
        3 => Act::Unacknowledge { comment },
        4 => Act::Confirm { comment },
        5 => POLICY.shelve(ShelveUntil::Time(until), "known", now)?,
        6 => POLICY.shelve(ShelveUntil::Resolved, "known", now)?,
        7 => Act::Unshelve { comment },
        8 => Act::Assign { to: span.is_multiple_of(3).then(|| "bert".into()), comment },
        _ => Act::Comment { comment: "a remark".into() },
    })
}

/// The flags of an alert: what its history adds up to.
#[derive(Debug, Default, PartialEq)]
struct Flags {
    acknowledged: Option<(Timestamp, String)>,
    acknowledged_until: Option<String>,
    confirmed: Option<(Timestamp, String)>,
    shelved: Option<(Timestamp, String, String, bool)>,
    suppressed: Option<(Timestamp, String)>,
    assigned: Option<(Timestamp, String)>,
    resolved: bool,
}

impl Flags {
    fn of(history: &[EventRow]) -> Self {
        let mut flags = Self::default();
        for event in history {
            let who = || (event.at, event.actor.clone().unwrap_or_default());
            let detail =
                |name: &str| event.details.iter().find(|detail| detail.name == name).map(|it| &it.value);
            let text = |name: &str| match detail(name) {
                Some(Value::Text(text)) => Some(text.clone()),
                _ => None,
            };
            match event.kind.as_str() {
                "acknowledged" => {
                    (flags.acknowledged, flags.acknowledged_until) = (Some(who()), text("until"))
                }
                "unacknowledged" => (flags.acknowledged, flags.acknowledged_until) = (None, None),
                "confirmed" => flags.confirmed = Some(who()),
                "shelved" => {
                    let one_shot = detail("one_shot") == Some(&Value::Boolean(true));
                    flags.shelved = Some((event.at, who().1, text("until").unwrap(), one_shot));
                }
                "unshelved" => flags.shelved = None,
                "suppressed" => flags.suppressed = Some(who()),
                "unsuppressed" => flags.suppressed = None,
                "assigned" => flags.assigned = Some((event.at, text("assigned_to").unwrap())),
                "unassigned" => flags.assigned = None,
                "resolved" => {
                    (flags.acknowledged_until, flags.shelved, flags.suppressed) = (None, None, None);
                    flags.resolved = true;
                }
                _ => {}
            }
        }
        flags
    }

    fn row(row: &AlertRow) -> Self {
        let response = row.response.clone();
        let text = |time: Option<Timestamp>| time.map(|time| time.to_string());
        Self {
            acknowledged: row.acknowledged_at.zip(row.acknowledged_by.clone()),
            acknowledged_until: text(response.acknowledged_until),
            confirmed: response.confirmed_at.zip(response.confirmed_by),
            shelved: response.shelved_at.map(|at| {
                let until = text(response.shelved_until).unwrap();
                (at, response.shelved_by.unwrap(), until, response.shelve_one_shot)
            }),
            suppressed: response.suppressed_at.zip(response.suppressed_by),
            assigned: response.assigned_at.zip(response.assigned_to),
            resolved: row.state == AlertState::Resolved,
        }
    }
}

const CONDITION: [&str; 5] = ["raised", "severity_changed", "cleared", "realarmed", "resolved"];
const TOLD: [&str; 10] = [
    "raised",
    "severity_changed",
    "resolved",
    "acknowledged",
    "unacknowledged",
    "shelved",
    "shelve_expiring",
    "unshelved",
    "suppressed",
    "unsuppressed",
];

/// What holds at any time.
async fn check(plant: &Plant) {
    let all = AlertFilter { limit: 1000, ..AlertFilter::default() };
    let rows = plant.store.alerts(&all).await.unwrap().items;
    let mut active = BTreeSet::new();
    for row in rows.iter().filter(|row| is_active(row)) {
        assert!(active.insert((&row.rule, &row.device, &row.key)), "two active alerts of {}", row.id);
    }
    let shelves = plant.store.shelves(None, 1000).await.unwrap().items;
    for row in &rows {
        let history = plant.history(&AlertId(row.id.clone())).await;
        assert_eq!(Flags::of(&history), Flags::row(row), "{history:#?}");
        assert_eq!(history[0].kind, "raised");
        assert!(history.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
        assert!(history.windows(2).all(|pair| pair[0].recorded_at <= pair[1].recorded_at), "{history:#?}");
        let end = history.iter().position(|event| event.kind == "resolved");
        let behind = end.map_or(&[][..], |end| &history[end + 1..]);
        assert!(behind.iter().all(|event| !CONDITION.contains(&event.kind.as_str())), "{history:#?}");
        for event in &history {
            let condition = CONDITION.contains(&event.kind.as_str());
            let by_itself = event.reason.as_deref() == Some("expired") || event.kind == "shelve_expiring";
            assert_eq!(event.actor.is_none(), condition || by_itself, "{event:?}");
        }
        // A condition is shelved for a time exactly where its active alert is.
        let shelf = shelves.iter().find(|shelf| (&shelf.rule, &shelf.device) == (&row.rule, &row.device));
        if is_active(row) {
            let timed = row.response.shelved_until.filter(|_| !row.response.shelve_one_shot);
            assert_eq!(shelf.map(|shelf| shelf.until), timed, "{history:#?}");
        } else {
            assert_eq!((row.response.shelved_at, row.response.suppressed_at), (None, None));
        }
    }
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(plant.file()).read_only(true);
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let (ids, different): (i64, i64) =
        sqlx::query_as("SELECT count(id), count(DISTINCT id) FROM transitions")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(ids, different);
    let told: Vec<(i64, Option<String>, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT o.transition, t.kind, t.alert, t.id FROM outbox AS o LEFT JOIN transitions AS t \
         ON t.sequence = o.transition ORDER BY o.sequence",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    pool.close().await;
    let (mut seen, mut suppressed) = (BTreeSet::new(), HashMap::new());
    for (transition, kind, alert, id) in &told {
        let kind = kind.as_deref().expect("a row of the outbox without its transition");
        assert!(TOLD.contains(&kind), "{kind} is told");
        assert!(seen.insert(transition), "{id:?} is told twice");
        // As whoever routes folds it: an alert that is suppressed from its beginning is so at its raise.
        match kind {
            "suppressed" => drop(suppressed.insert(alert.clone(), true)),
            "unsuppressed" => drop(suppressed.remove(alert)),
            "raised" => {
                let born = told.iter().any(|other| {
                    other.3.as_deref() == Some(&*format!("{}/suppressed", id.as_deref().unwrap()))
                });
                assert_eq!(suppressed.contains_key(alert), born);
            }
            _ => {}
        }
    }
}

/// What holds once somebody looked for what is over.
async fn check_swept(plant: &Plant, now: Timestamp) {
    let out = plant.store.out_of_service(None, None, None, 1000).await.unwrap().items;
    assert!(out.iter().all(|row| row.until.is_none_or(|until| until > now)), "{out:?}");
    let all = AlertFilter { state: Some(AlertState::Active), limit: 1000, ..AlertFilter::default() };
    for row in plant.store.alerts(&all).await.unwrap().items {
        let covered = out.iter().any(|it| {
            it.device.as_ref().is_none_or(|device| *device == row.device)
                && it.rule.as_ref().is_none_or(|rule| *rule == row.rule)
        });
        assert_eq!(row.response.suppressed_at.is_some(), covered, "{row:?} {out:?}");
        for time in
            [row.response.acknowledged_until, row.response.shelved_until, row.response.shelve_notice_at]
        {
            assert!(time.is_none_or(|time| time > now), "{row:?} at {now}");
        }
    }
    assert!(plant.store.shelves(None, 1000).await.unwrap().items.iter().all(|shelf| shelf.until > now));
}

async fn play(steps: Vec<(i64, Step)>) {
    let mut plant = Plant::new().await;
    let mut latest: BTreeMap<Condition, AlertId> = BTreeMap::new();
    let mut now = START;
    for (seconds, step) in steps {
        now = now + Duration::from_secs(seconds as u64);
        let name = |index: Option<usize>, names: [&str; 2]| index.map(|index| names[index].to_string());
        let names = |(rule, device): Condition| (RULES[rule], DEVICES[device]);
        let change = |plant: &mut Plant, condition, kind, severity| {
            let alert: Option<AlertId> = latest.get(&condition).cloned();
            alert.map(|alert| plant.make(Some(&alert), names(condition), kind, severity, now))
        };
        match step {
            Step::Raise(condition) => {
                let (rule, device) = names(condition);
                // The loop raises what is not raised; where the store still has one, that one is superseded.
                latest.insert(condition, plant.raise(rule, device, now).await);
            }
            Step::Severity(condition, severity) => {
                let severity = Severity::ALL[usize::from(severity)];
                let kind = TransitionKind::SeverityChanged { from: Severity::Major };
                if is_standing(&plant, latest.get(&condition)).await {
                    let made = change(&mut plant, condition, kind, severity);
                    plant.hand_over(made.into_iter().collect()).await;
                }
            }
            Step::Clear(condition) => {
                if is_standing(&plant, latest.get(&condition)).await {
                    let made = change(&mut plant, condition, TransitionKind::Cleared, Severity::Major);
                    plant.hand_over(made.into_iter().collect()).await;
                }
            }
            Step::Resolve(condition) => {
                let kind = TransitionKind::Resolved { reason: ResolveReason::Cleared };
                if is_standing(&plant, latest.get(&condition)).await {
                    let made = change(&mut plant, condition, kind, Severity::Major);
                    plant.hand_over(made.into_iter().collect()).await;
                }
            }
            Step::Act(condition, number, span) => {
                if let (Some(alert), Ok(act)) = (latest.get(&condition), act(number, span, now)) {
                    match plant.store.respond(&alert.0, &act, "anna", now).await {
                        Ok(_) | Err(StoreError::Refused(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Step::Out(device, rule, span) => {
                let row = ServiceRow {
                    device: name(device, DEVICES),
                    rule: name(rule, RULES),
                    kind: SuppressedAs::ByDesign,
                    reason: format!("for {span}"),
                    created_by: "anna".into(),
                    created_at: now,
                    until: (span > 0).then(|| now + Duration::from_secs(span)),
                };
                plant.store.take_out_of_service(&row).await.unwrap();
            }
            Step::In(device, rule) => {
                let (device, rule) = (name(device, DEVICES), name(rule, RULES));
                plant
                    .store
                    .bring_into_service(device.as_deref(), rule.as_deref(), "bert", None)
                    .await
                    .unwrap();
            }
            Step::Sweep => {
                plant.sweep(now).await;
                check_swept(&plant, now).await;
            }
            Step::Restart => {
                plant.restart().await;
                check(&plant).await;
            }
        }
    }
    check(&plant).await;
    plant.sweep(now).await;
    check(&plant).await;
    check_swept(&plant, now).await;
    plant.store.close().await;
}

async fn is_standing(plant: &Plant, alert: Option<&AlertId>) -> bool {
    match alert {
        Some(alert) => is_active(&plant.row(alert).await),
        None => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn flags_are_what_the_history_says_whatever_comes_in_which_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(steps));
    }
}
