use watchfire_model::{Duration, Severity, TransitionKind};
use watchfire_store::{Act, Flush, NewDelivery, QualityFilter, ShelvePolicy, ShelveUntil};

use crate::plant::{Plant, START, after};

const HOUR: i64 = 3600;

fn over(from: i64, to: i64) -> QualityFilter {
    QualityFilter {
        from: after(from),
        to: after(to),
        site: None,
        rule: None,
        fleeting: Duration::from_secs(30),
        top: 3,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measures_are_those_that_are_counted_by_hand() {
    let mut plant = Plant::new().await;
    let old = plant.raise("cold", "freezer", START).await;
    // Twelve in one window of ten minutes, of twelve devices; two days later, so that the first one stands.
    let day = 48 * HOUR;
    let mut raised = Vec::new();
    for i in 0..12 {
        raised.push(plant.raise("hot", &format!("press-{i}"), after(day + 60 + i)).await);
    }
    // One that chatters: raised three times within a minute, each time for ten seconds.
    for i in 0..3 {
        let alert = plant.raise("flap", "valve", after(day + HOUR + i * 20)).await;
        plant.resolve(&alert, after(day + HOUR + i * 20 + 10)).await;
    }
    let critical = plant.make(
        None,
        ("hot", "press-99"),
        TransitionKind::Raised,
        Severity::Critical,
        after(day + 5 * HOUR),
    );
    plant.hand_over(vec![critical]).await;
    // Acknowledged after 10, 20 and 40 seconds; the second time does not count.
    for (i, seconds) in [10, 20, 40].into_iter().enumerate() {
        let at = after(day + 60 + i as i64 + seconds);
        plant.store.acknowledge(&raised[i].0, "anna", None, at).await.unwrap();
    }
    let (id, later) = (&raised[0].0, after(day + HOUR));
    plant.store.respond(id, &Act::Unacknowledge { comment: None }, "anna", later).await.unwrap();
    plant.store.acknowledge(id, "anna", None, after(day + 2 * HOUR)).await.unwrap();
    plant.store.acknowledge(&old.0, "anna", None, later).await.unwrap();
    let act = ShelvePolicy::default().shelve(ShelveUntil::Resolved, "known", later).unwrap();
    plant.store.respond(&raised[4].0, &act, "anna", later).await.unwrap();
    let delivery = |i: usize| NewDelivery {
        id: format!("d{i}"),
        receiver: "ops".into(),
        group_key: "g".into(),
        status: "firing".into(),
        reason: String::new(),
        payload: "{}".into(),
        alerts: Vec::new(),
        caused_at: None,
    };
    let flush = |range: std::ops::Range<usize>| Flush {
        deliveries: range.map(delivery).collect(),
        ..Flush::default()
    };
    plant.store.apply_flush(&flush(0..2), START).await.unwrap();
    plant.store.apply_flush(&flush(2..13), later).await.unwrap();

    let quality = plant.store.quality(&over(day, day + 24 * HOUR)).await.unwrap();
    let rate = &quality.raised;
    assert_eq!((rate.count, rate.peak, rate.peak_at), (16, 12, Some(after(day))));
    assert!((rate.average - 16.0 / 144.0).abs() < 1e-9, "{rate:?}");
    assert!((rate.flood_share - 1.0 / 144.0).abs() < 1e-9, "{rate:?}");
    let rules: Vec<_> = quality.rules.iter().map(|share| (share.name.as_str(), share.count)).collect();
    assert_eq!(rules, [("hot", 13), ("flap", 3)]);
    assert!((quality.rules[0].share - 13.0 / 16.0).abs() < 1e-9);
    assert_eq!(
        (quality.devices[0].name.as_str(), quality.devices[0].count, quality.devices.len()),
        ("valve", 3, 3)
    );
    assert_eq!((quality.sites[0].name.as_str(), quality.sites[0].count), ("lyon", 16));
    let spread: Vec<_> = quality.severities.iter().map(|share| share.count).collect();
    assert_eq!(spread, [0, 0, 0, 15, 1]);
    assert_eq!((quality.chattering_conditions, quality.chattering[0].raises), (1, 3));
    assert_eq!(quality.chattering[0].device, "valve");
    assert_eq!(quality.fleeting, 3);
    assert_eq!((quality.active, quality.standing, quality.unacknowledged), (14, 1, 10));
    assert_eq!((quality.shelved, quality.suppressed), (1, 0));
    assert_eq!(quality.acknowledged, 3, "one of before the span is none of it");
    assert_eq!(quality.acknowledge_median, Some(Duration::from_secs(20)));
    assert_eq!(quality.acknowledge_p95, Some(Duration::from_secs(40)));
    let receivers = quality.receivers.unwrap();
    assert_eq!((receivers.len(), receivers[0].messages.count, receivers[0].messages.peak), (1, 11, 11));

    let narrow = QualityFilter { rule: Some("flap".into()), ..over(day, day + 24 * HOUR) };
    let quality = plant.store.quality(&narrow).await.unwrap();
    assert_eq!((quality.raised.count, quality.active, quality.receivers), (3, 0, None));
    let elsewhere = QualityFilter { site: Some("oslo".into()), ..over(day, day + 24 * HOUR) };
    let quality = plant.store.quality(&elsewhere).await.unwrap();
    assert_eq!((quality.raised.count, quality.acknowledged, quality.acknowledge_median), (0, 0, None));

    let counts = plant.store.standing_counts(after(day + 65)).await.unwrap();
    assert_eq!((counts.standing, counts.shelved, counts.suppressed), (1, 1, 0));
    assert_eq!(plant.store.standing_counts(after(day + HOUR + 60)).await.unwrap().raised_lately, 4);
    plant.store.close().await;
}

/// Each query says by itself which index it needs, or has only one that it could use: none reads a whole table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_each_second_reads_indexes_alone() {
    let plant = Plant::new().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(plant.file()).read_only(true);
    let pool = sqlx::sqlite::SqlitePoolOptions::new().connect_with(options).await.unwrap();
    for (sql, index) in [
        ("SELECT 1 FROM alerts WHERE acknowledged_until <= 1", "alerts_acknowledged_until"),
        ("SELECT 1 FROM alerts WHERE shelved_until <= 1", "alerts_shelved_until"),
        ("SELECT 1 FROM alerts WHERE shelve_notice_at <= 1", "alerts_shelve_notice"),
        ("SELECT 1 FROM shelves WHERE until <= 1", "shelves_until"),
        ("SELECT 1 FROM out_of_service WHERE phase <> 'in_force'", "out_of_service_changing"),
        ("SELECT 1 FROM out_of_service WHERE until <= 1", "out_of_service_until"),
        ("SELECT count(*) FROM alerts WHERE shelved_at IS NOT NULL", "alerts_shelved"),
        ("SELECT count(*) FROM alerts WHERE suppressed_at IS NOT NULL", "alerts_suppressed"),
        (
            "SELECT severity, count(*) AS n FROM alerts WHERE state = 'active' GROUP BY severity",
            "COVERING INDEX alerts_severity",
        ),
        (
            "SELECT * FROM alerts WHERE sequence < 9 AND assigned_to = 'x' ORDER BY sequence DESC",
            "alerts_assigned",
        ),
        (
            "SELECT * FROM alerts WHERE sequence < 9 AND state = 'active' AND shelved_at IS NOT NULL \
             ORDER BY sequence DESC LIMIT 9",
            "alerts_s",
        ),
    ] {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .fetch_all(&pool)
                .await
                .unwrap();
        assert!(plan.iter().any(|line| line.3.contains(index)), "{sql}: {plan:?}");
    }
    pool.close().await;
    plant.store.close().await;
}
