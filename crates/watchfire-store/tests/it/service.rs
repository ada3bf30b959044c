use watchfire_model::Timestamp;
use watchfire_store::{Expired, ServiceRow, StoreError, SuppressedAs};

use crate::plant::{Plant, START, after};

fn out(device: Option<&str>, rule: Option<&str>, at: Timestamp, until: Option<Timestamp>) -> ServiceRow {
    ServiceRow {
        device: device.map(Into::into),
        rule: rule.map(Into::into),
        kind: SuppressedAs::OutOfService,
        reason: format!("maintenance of {device:?} {rule:?}"),
        created_by: "anna".into(),
        created_at: at,
        until,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_out_of_service_marks_its_alerts_and_nothing_else() {
    let mut plant = Plant::new().await;
    let before = plant.raise("hot", "press-1", START).await;
    let other = plant.raise("hot", "press-2", START).await;
    for bad in [out(None, None, START, None), out(Some("a"), None, START, Some(START))] {
        assert!(matches!(plant.store.take_out_of_service(&bad).await, Err(StoreError::Refused(_))));
    }
    let device = out(Some("press-1"), None, after(1), None);
    plant.store.take_out_of_service(&device).await.unwrap();
    // Raised before anybody settled what stands: it has the flag from its beginning, and whoever routes knows first.
    let born = plant.raise("cold", "press-1", after(2)).await;
    assert_eq!(plant.kinds(&born).await, ["raised", "suppressed out_of_service"]);
    let told: Vec<_> = plant.outbox().await.into_iter().filter(|(_, alert)| *alert == born.0).collect();
    assert_eq!(told.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), ["suppressed", "raised"]);
    plant.restart().await;
    assert_eq!(plant.sweep(after(3)).await, Expired { service: 1, ..Expired::default() });
    let row = plant.row(&before).await;
    assert_eq!(row.response.suppressed_as, Some(SuppressedAs::OutOfService));
    assert_eq!(row.response.suppress_reason, Some(device.reason.clone()));
    assert_eq!(plant.row(&other).await.response.suppressed_at, None);
    // A second reason stays when the first goes.
    plant.store.take_out_of_service(&out(None, Some("hot"), after(4), Some(after(100)))).await.unwrap();
    assert_eq!(plant.sweep(after(5)).await.service, 1);
    assert!(plant.store.bring_into_service(Some("press-1"), None, "bert", Some("done")).await.unwrap());
    assert!(!plant.store.bring_into_service(Some("press-1"), None, "bert", None).await.unwrap());
    assert_eq!(plant.sweep(after(6)).await.service, 2);
    let row = plant.row(&before).await;
    assert!(row.response.suppress_reason.unwrap().contains("hot"));
    let events = plant.history(&born).await;
    let last = events.last().unwrap();
    assert_eq!((last.kind.as_str(), last.actor.as_deref()), ("unsuppressed", Some("bert")));
    assert_eq!(last.comment.as_deref(), Some("done"));
    assert_eq!(plant.store.out_of_service(None, None, None, 0).await.unwrap().items.len(), 1);
    // Its time is over.
    plant.resolve(&other, after(50)).await;
    assert_eq!(plant.row(&other).await.response.suppressed_at, None);
    assert_eq!(plant.sweep(after(100)).await.service, 1);
    assert_eq!(plant.kinds(&before).await.last().unwrap(), "unsuppressed expired");
    assert!(plant.store.out_of_service(None, None, None, 0).await.unwrap().items.is_empty());
    plant.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_alerts_take_the_flag_part_by_part_over_a_restart() {
    let mut plant = Plant::new().await;
    let raises: Vec<_> = (0..1200)
        .map(|i| {
            let (kind, severity) =
                (watchfire_model::TransitionKind::Raised, watchfire_model::Severity::Minor);
            plant.make(None, ("hot", &format!("press-{i}")), kind, severity, START)
        })
        .collect();
    plant.hand_over(raises).await;
    plant.store.take_out_of_service(&out(None, Some("hot"), START, None)).await.unwrap();
    assert_eq!(plant.store.settle_service(after(1)).await.unwrap(), (500, true));
    plant.restart().await;
    // Brought back before all of them had it: those that had it lose it, and no other is touched.
    assert_eq!(plant.store.settle_service(after(2)).await.unwrap(), (500, true));
    plant.store.bring_into_service(None, Some("hot"), "anna", None).await.unwrap();
    assert_eq!(plant.sweep(after(3)).await.service, 1000);
    let filter = watchfire_store::AlertFilter { suppressed: Some(true), ..Default::default() };
    assert!(plant.store.alerts(&filter).await.unwrap().items.is_empty());
    assert_eq!(plant.store.settle_service(after(4)).await.unwrap(), (0, false));
    plant.store.close().await;
}
