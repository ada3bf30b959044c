use watchfire_model::alert::{AlertChanges, Recovered, Transition};
use watchfire_model::{Duration, PartitionId};
use watchfire_store::{Act, AlertFilter, AlertState, Expired, ShelvePolicy, ShelveUntil, StoreError};

use crate::plant::{Plant, START, after};

fn shelve(until: ShelveUntil, at: watchfire_model::Timestamp) -> Act {
    ShelvePolicy::default().shelve(until, "valve is being replaced", at).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_for_a_time_is_over_by_itself() {
    let mut plant = Plant::new().await;
    let alert = plant.raise("hot", "press-1", START).await;
    let until = |until| Act::Acknowledge { until, comment: Some("on my way".into()) };
    let past = plant.store.respond(&alert.0, &until(Some(START)), "anna", START).await;
    assert!(matches!(past, Err(StoreError::Refused(_))), "{past:?}");
    plant.store.respond(&alert.0, &until(Some(after(60))), "anna", after(1)).await.unwrap();
    assert_eq!(plant.sweep(after(59)).await, Expired::default());
    // Saying it for longer counts, and saying the same again does not.
    for _ in 0..2 {
        let row = plant.store.respond(&alert.0, &until(Some(after(90))), "bert", after(2)).await.unwrap();
        assert_eq!(row.response.acknowledged_until, Some(after(90)));
    }
    assert_eq!(plant.sweep(after(60)).await, Expired::default());
    plant.restart().await;
    assert_eq!(plant.sweep(after(90)).await, Expired { unacknowledged: 1, ..Expired::default() });
    let row = plant.row(&alert).await;
    assert_eq!(
        (row.acknowledged_at, row.acknowledged_by, row.response.acknowledged_until),
        (None, None, None)
    );
    let kinds = plant.kinds(&alert).await;
    assert_eq!(kinds, ["raised", "acknowledged", "acknowledged", "unacknowledged expired"]);
    assert_eq!(plant.outbox().await.len(), 4);
    // One that is over by itself has no actor; an acknowledgement of a resolved alert needs no end.
    assert_eq!(plant.history(&alert).await[3].actor, None);
    plant.resolve(&alert, after(100)).await;
    plant.store.respond(&alert.0, &until(Some(after(200))), "anna", after(101)).await.unwrap();
    assert_eq!(plant.sweep(after(1000)).await, Expired::default());
    assert_eq!(plant.outbox().await.len(), 5, "nobody is told of an acknowledgement of what is over");
    plant.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shelving_has_a_reason_a_bound_a_notice_and_an_end() {
    let policy = ShelvePolicy { max: Duration::from_secs(3600), notice: Duration::from_secs(900) };
    for (until, reason) in
        [(ShelveUntil::Resolved, " "), (ShelveUntil::Time(START), "x"), (ShelveUntil::Time(after(3601)), "x")]
    {
        assert!(matches!(policy.shelve(until, reason, START), Err(StoreError::Refused(_))), "{until:?}");
    }
    let mut plant = Plant::new().await;
    let alert = plant.raise("hot", "press-1", START).await;
    let act = policy.shelve(ShelveUntil::Time(after(3600)), "valve", START).unwrap();
    plant.store.respond(&alert.0, &act, "anna", START).await.unwrap();
    let row = plant.row(&alert).await;
    assert_eq!(row.response.shelve_reason.as_deref(), Some("valve"));
    assert_eq!((row.response.shelved_until, row.response.shelve_one_shot), (Some(after(3600)), false));
    assert_eq!(plant.sweep(after(2699)).await, Expired::default());
    assert_eq!(plant.sweep(after(2700)).await.expiring, 1);
    assert_eq!(plant.sweep(after(2701)).await, Expired::default(), "told once");
    assert_eq!(plant.sweep(after(3600)).await.unshelved, 1);
    assert!(plant.store.shelves(None, 0).await.unwrap().items.is_empty());
    let kinds = plant.kinds(&alert).await;
    assert_eq!(kinds, ["raised", "shelved", "shelve_expiring", "unshelved expired"]);
    // Where both are due at once, only the end is told.
    let long = policy.shelve(ShelveUntil::Time(after(7000)), "valve", after(4000)).unwrap();
    plant.store.respond(&alert.0, &long, "anna", after(4000)).await.unwrap();
    let expired = plant.sweep(after(9000)).await;
    assert_eq!((expired.expiring, expired.unshelved), (0, 1));
    // Where it is shelved for less than the notice there is none.
    let short = policy.shelve(ShelveUntil::Time(after(9400)), "valve", after(9000)).unwrap();
    plant.store.respond(&alert.0, &short, "anna", after(9000)).await.unwrap();
    assert_eq!(plant.sweep(after(9399)).await, Expired::default());
    plant.resolve(&alert, after(9399)).await;
    let refused = plant.store.respond(&alert.0, &act, "anna", after(9399)).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))));
    plant.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_shot_ends_with_the_alert_and_a_time_goes_over_to_the_next() {
    let mut plant = Plant::new().await;
    let first = plant.raise("hot", "press-1", START).await;
    plant.store.respond(&first.0, &shelve(ShelveUntil::Resolved, START), "anna", START).await.unwrap();
    plant.resolve(&first, after(10)).await;
    assert_eq!(plant.row(&first).await.response.shelved_at, None);
    let second = plant.raise("hot", "press-1", after(20)).await;
    assert_eq!(plant.row(&second).await.response.shelved_at, None);
    let act = shelve(ShelveUntil::Time(after(7200)), after(21));
    plant.store.respond(&second.0, &act, "anna", after(21)).await.unwrap();
    plant.resolve(&second, after(30)).await;
    assert_eq!(plant.row(&second).await.response.shelved_at, None);
    plant.restart().await;
    let shelves = plant.store.shelves(None, 0).await.unwrap().items;
    assert_eq!((shelves.len(), shelves[0].alert.as_str(), shelves[0].until), (1, &*second.0, after(7200)));
    let other = plant.raise("hot", "press-2", after(40)).await;
    assert_eq!(plant.row(&other).await.response.shelved_at, None);
    let third = plant.raise("hot", "press-1", after(40)).await;
    let response = plant.row(&third).await.response;
    assert_eq!((response.shelved_by.as_deref(), response.shelved_until), (Some("anna"), Some(after(7200))));
    assert_eq!(plant.kinds(&third).await, ["raised", "shelved continued"]);
    // Whoever routes knows of it before it hears of the raise.
    let told: Vec<_> = plant.outbox().await.into_iter().filter(|(_, alert)| *alert == third.0).collect();
    assert_eq!(told.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), ["shelved", "raised"]);
    // By the alert that was shelved it cannot be ended any more, as that one is over.
    let unshelve = Act::Unshelve { comment: None };
    let refused = plant.store.respond(&second.0, &unshelve, "anna", after(50)).await.unwrap_err();
    assert!(refused.to_string().contains(&third.0), "{refused}");
    plant.resolve(&third, after(60)).await;
    plant.store.respond(&third.0, &unshelve, "anna", after(70)).await.unwrap();
    assert!(plant.store.shelves(None, 0).await.unwrap().items.is_empty());
    assert_eq!(plant.kinds(&third).await.last().unwrap(), "unshelved");
    let fourth = plant.raise("hot", "press-1", after(80)).await;
    assert_eq!(plant.kinds(&fourth).await, ["raised"]);
    plant.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_do_is_listed_found_and_done_to_many() {
    let mut plant = Plant::new().await;
    let mut alerts = Vec::new();
    for i in 0..6 {
        alerts.push(plant.raise("hot", &format!("press-{i}"), after(i)).await);
    }
    let act = async |index: usize, act: Act| {
        plant.store.respond(&alerts[index].0, &act, "anna", after(10)).await.unwrap()
    };
    let confirmed = act(0, Act::Confirm { comment: Some("oil".into()) }).await;
    assert_eq!(confirmed.response.confirmed_by.as_deref(), Some("anna"));
    assert_eq!(confirmed.acknowledged_at, None, "the flags do not depend on each other");
    act(1, Act::Assign { to: Some("bert".into()), comment: None }).await;
    act(1, Act::Assign { to: Some("bert".into()), comment: None }).await;
    act(2, shelve(ShelveUntil::Resolved, after(10))).await;
    let ids: Vec<String> = alerts[3..].iter().map(|alert| alert.0.clone()).chain(["none".into()]).collect();
    let all = Act::Acknowledge { until: None, comment: None };
    let done = plant.store.respond_all(&ids, &all, "anna", after(11)).await.unwrap();
    assert_eq!((done.changed.len(), done.unchanged), (3, 1));
    let again = plant.store.respond_all(&ids, &all, "anna", after(12)).await.unwrap();
    assert_eq!((again.changed.len(), again.unchanged), (0, 4));
    let count = async |filter: AlertFilter| plant.store.alerts(&filter).await.unwrap().items.len();
    let any = AlertFilter::default;
    assert_eq!(count(AlertFilter { acknowledged: Some(true), ..any() }).await, 3);
    assert_eq!(count(AlertFilter { acknowledged: Some(false), ..any() }).await, 3);
    assert_eq!(count(AlertFilter { shelved: Some(true), ..any() }).await, 1);
    assert_eq!(count(AlertFilter { shelved: Some(false), suppressed: Some(false), ..any() }).await, 5);
    assert_eq!(count(AlertFilter { suppressed: Some(true), ..any() }).await, 0);
    assert_eq!(count(AlertFilter { assigned_to: Some("bert".into()), ..any() }).await, 1);
    act(1, Act::Assign { to: None, comment: Some("on leave".into()) }).await;
    assert_eq!(count(AlertFilter { assigned_to: Some("bert".into()), ..any() }).await, 0);
    let events = plant.history(&alerts[1]).await;
    assert_eq!(
        events.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>(),
        ["raised", "assigned", "unassigned"]
    );
    assert_eq!(events[1].details[0].value, watchfire_model::Value::Text("bert".into()));
    act(3, Act::Unacknowledge { comment: Some("cannot".into()) }).await;
    assert_eq!(plant.row(&alerts[3]).await.acknowledged_at, None);
    plant.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_that_a_repair_ends_or_brings_back_keeps_no_flag_of_before() {
    let mut plant = Plant::new().await;
    let alert = plant.raise("hot", "press-1", START).await;
    let raise = plant.told[0].clone();
    let acknowledge = Act::Acknowledge { until: Some(after(500)), comment: None };
    plant.store.respond(&alert.0, &acknowledge, "anna", after(1)).await.unwrap();
    plant.store.respond(&alert.0, &shelve(ShelveUntil::Resolved, after(1)), "anna", after(1)).await.unwrap();
    let recover = async |offset: i64, active: Vec<Transition>| {
        let recovered = Some(Recovered { partition: PartitionId(0), at: after(offset), active });
        let keeper = plant.store.keeper();
        tokio::task::spawn_blocking(move || {
            let number = keeper.submit(AlertChanges { recovered, ..AlertChanges::default() });
            assert!(keeper.wait_committed(number, std::time::Duration::from_secs(10)) >= number);
        })
        .await
        .unwrap();
    };
    recover(2, Vec::new()).await;
    let row = plant.row(&alert).await;
    assert_eq!(
        (row.state, row.response.shelved_at, row.response.acknowledged_until),
        (AlertState::Resolved, None, None)
    );
    assert!(row.acknowledged_at.is_some(), "who knew of it stays");
    recover(3, vec![Transition { id: "recovered/1".into(), ..raise }]).await;
    let row = plant.row(&alert).await;
    assert_eq!((row.state, row.acknowledged_at), (AlertState::Active, None), "people are told again");
    assert_eq!(plant.sweep(after(10_000)).await, Expired::default());
    plant.store.close().await;
}
