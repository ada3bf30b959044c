//! Dead letters: what is replayed, by whom, and what a replay leaves behind.

use std::sync::Arc;

use serde_json::{Value, json};
use watchfire_log::record::Skipped;
use watchfire_log::{Breaker, BreakerChange, Log, MissedRange, Record, Redo, Reject, Slice};
use watchfire_model::call::FailureKind;
use watchfire_model::value::Kind;
use watchfire_model::{
    Actor, BatchBuilder, DeviceHandle, Epoch, Offset, PartitionId, Position, Timestamp, Values,
};

use crate::calls::{ok, problem, upload};
use crate::server::Server;

fn reject(code: &str, payload: &[u8]) -> Reject {
    Reject {
        source: "mqtt".into(),
        address: "devices/press-1/telemetry".into(),
        device: Some("press-1".into()),
        sender: Some("device:press-1".into()),
        index: None,
        code: code.into(),
        reason: "no good".into(),
        payload: payload.to_vec(),
    }
}

async fn paths(server: &Server, query: &str) -> Vec<String> {
    let list = server.call("GET", &format!("/api/v1/dead-letters{query}"), Value::Null).await;
    let items = ok(&list, 200)["items"].as_array().unwrap().clone();
    let id = |item: &Value| item["id"].as_str().unwrap().replace('/', "-");
    items.iter().map(|item| format!("/api/v1/dead-letters/{}", id(item))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_callers_never_use_a_letter_twice() {
    let server = Server::start().await;
    server.append(vec![(0, Record::Rejects(vec![reject("not-json", b"slow")]))]).await;
    let path = format!("{}/replay", paths(&server, "").await[0]);
    let (one, two) =
        tokio::join!(server.call("POST", &path, Value::Null), server.call("POST", &path, Value::Null));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{} {}", one.json, two.json);
    {
        let resubmitted = server.fake.resubmitted.lock().unwrap();
        assert_eq!((resubmitted.len(), resubmitted[0].sender.as_deref()), (1, Some("device:press-1")));
    }
    problem(&server.call("POST", &path, Value::Null).await, 409, "replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_sender_was_not_allowed_to_say_is_not_replayed() {
    let server = Server::start().await;
    server.append(vec![(0, Record::Rejects(vec![reject("not-authorised", b"{}")]))]).await;
    let path = paths(&server, "").await.remove(0);
    let refused = server.call("POST", &format!("{path}/replay"), Value::Null).await;
    problem(&refused, 422, "not-replayable");
    assert!(server.fake.resubmitted.lock().unwrap().is_empty());
    assert!(ok(&server.call("GET", &path, Value::Null).await, 200)["replayed_at"].is_null());
}

/// A rule that failed on rows of two devices of one partition: the server, both devices, and the offset of the record.
struct Failed {
    server: Server,
    devices: [String; 2],
    handles: [DeviceHandle; 2],
    partition: PartitionId,
    offset: Offset,
}

const NUMBERS: [f64; 3] = [0.1 + 0.2, -0.0, 1e23];

fn skipped(offset: Offset, callback: &str, rows: Vec<u32>) -> Record {
    Record::Skipped(Box::new(Skipped {
        rule: "hot".into(),
        version: 1,
        offset,
        callback: 0,
        callback_name: callback.into(),
        rows,
        rows_at: None,
        kind: FailureKind::Refused,
        reason: "divided by zero".into(),
        state_before: Vec::new(),
    }))
}

impl Failed {
    async fn new() -> Self {
        let server = Server::start().await;
        upload(&server, "component").await;
        ok(&server.call("PUT", "/api/v1/rules/hot", json!({"module": "threshold"})).await, 201);
        let one = PartitionId(1);
        let mut names = (1..).map(|i| format!("press-{i}")).filter(|id| PartitionId::of(id, 2) == one);
        let devices: [String; 2] = std::array::from_fn(|_| names.next().unwrap());
        for device in &devices {
            ok(&server.call("PUT", &format!("/api/v1/devices/{device}"), json!({})).await, 201);
        }
        let handles = [0, 1].map(|i| server.control.registries().find(&devices[i]).unwrap().1);
        let mut batch = BatchBuilder::new();
        for row in 0..6_usize {
            batch.begin(handles[row % 2], Timestamp(1_767_225_600_000_001 + row as i64));
            batch.number("temperature", NUMBERS[row / 2]).unwrap();
            batch.text("mode", "a\nb").unwrap();
            batch.commit();
        }
        let batch = batch.finish().into();
        let readings = Record::Readings { stream: "readings".into(), origin: None, batch };
        let offset = server.log.range(one).1;
        let failed = [readings, skipped(offset, "batch", vec![1, 2, 5]), skipped(offset, "timers", vec![])];
        server.append(failed.map(|record| (1, record)).into()).await;
        Self { server, devices, handles, partition: one, offset }
    }

    /// The last record of the log of the partition, and how many records there are in both.
    fn last(&self) -> (Record, [Offset; 2]) {
        let ends = [0, 1].map(|p| self.server.log.range(PartitionId(p)).1);
        let mut reader = self.server.log.reader(self.partition, ends[1] - 1).unwrap();
        (reader.next().unwrap().unwrap().record.clone(), ends)
    }

    async fn letter(&self, query: &str) -> String {
        paths(&self.server, query).await.into_iter().next().unwrap()
    }

    async fn replay(&self, path: &str) -> crate::server::Answer {
        self.server.call("POST", &format!("{path}/replay"), Value::Null).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_a_rule_is_whole_and_those_of_timers_are_not_replayed() {
    let failed = Failed::new().await;
    let server = &failed.server;
    let letters = paths(server, "?rule=hot").await;
    let [timer, rows] = &letters[..] else { panic!("{letters:?}") };
    let refused = failed.replay(timer).await;
    problem(&refused, 422, "not-replayable");
    assert!(refused.json["detail"].as_str().unwrap().contains("timers"), "{}", refused.json);
    let shown = server.call("GET", rows, Value::Null).await;
    let shown = ok(&shown, 200);
    assert_eq!(
        (&shown["rows"], &shown["source"], &shown["device"]),
        (&json!(3), &json!("readings"), &Value::Null)
    );
    let lines: Vec<Value> =
        shown["payload"].as_str().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |device: usize, microsecond: i64, x: f64| {
        json!({
            "device": failed.devices[device],
            "time": format!("2026-01-01T00:00:00.00000{microsecond}Z"),
            "metrics": {"temperature": x, "mode": "a\nb"},
        })
    };
    assert_eq!(lines, [line(1, 2, NUMBERS[0]), line(0, 3, NUMBERS[1]), line(1, 6, NUMBERS[2])]);
    // It is found by each of its devices.
    for (device, count) in [(&*failed.devices[0], 1), (&*failed.devices[1], 1), ("press", 0)] {
        let found = paths(server, &format!("?rule=hot&device={device}")).await;
        assert_eq!(found.len(), count, "{device}");
    }
    // A rule that fails on its rows says nothing of how the device is heard.
    let path = format!("/api/v1/devices/{}/why", failed.devices[0]);
    let why = server.call("GET", &path, Value::Null).await;
    assert!(ok(&why, 200)["last_reject"].is_null(), "{}", why.json);
    let reject = Reject { device: Some(failed.devices[0].clone()), ..reject("not-json", b"x") };
    server.append(vec![(1, Record::Rejects(vec![reject]))]).await;
    assert_eq!(ok(&server.call("GET", &path, Value::Null).await, 200)["last_reject"]["code"], "not-json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redo_stands_in_one_partition_with_its_rows_and_can_fail_again() {
    let failed = Failed::new().await;
    let server = &failed.server;
    let first = paths(server, "?rule=hot").await.remove(1);
    // Retention has taken the record long since.
    let ends = failed.last().1;
    server.log.drop_before(failed.partition, ends[1]);
    let redone = failed.replay(&first).await;
    let at = format!("1/1/{}", ends[1]);
    assert_eq!((&ok(&redone, 200)["outcome"], &redone.json["positions"]), (&json!("redo"), &json!([at])));
    problem(&failed.replay(&first).await, 409, "replayed");
    let (record, after) = failed.last();
    assert_eq!(after, [ends[0], ends[1] + 1]);
    let Record::Redo(redo) = &record else { panic!("{record:?}") };
    assert_eq!((&*redo.rule, &*redo.stream, redo.failed.offset), ("hot", "readings", failed.offset));
    assert_eq!(redo.failed.partition, failed.partition);
    let [a, b] = failed.handles;
    assert_eq!(redo.batch.devices, [b, a, b]);
    assert_eq!(redo.batch.times, [2, 3, 6].map(|at| Timestamp(1_767_225_600_000_000 + at)));
    let column = redo.batch.column("temperature", Kind::Number).unwrap();
    let Values::Numbers(numbers) = &column.values else { panic!() };
    assert_eq!([0, 1, 2].map(|i| numbers[i].to_bits()), NUMBERS.map(f64::to_bits));

    // It fails again: a letter with the rows of the redo, which is replayed in its turn.
    server.append(vec![(1, skipped(ends[1], "batch", vec![0, 1, 2]))]).await;
    let second = failed.letter("?rule=hot&replayed=false").await;
    let of = async |path: &str| ok(&server.call("GET", path, Value::Null).await, 200).clone();
    let (old, new) = (of(&first).await, of(&second).await);
    assert_eq!((&new["payload"], &new["rows"], &new["position"]), (&old["payload"], &json!(3), &json!(at)));
    server.log.drop_before(failed.partition, ends[1] + 2);
    ok(&failed.replay(&second).await, 200);
    let (record, _) = failed.last();
    let Record::Redo(again) = &record else { panic!("{record:?}") };
    assert_eq!((&again.batch, again.failed.to_string()), (&redo.batch, at));
    problem(&failed.replay(&second).await, 409, "replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_used_once_also_when_the_process_ends_before_it_is_marked() {
    let failed = Failed::new().await;
    let letter = paths(&failed.server, "?rule=hot").await.remove(1);
    let id = ok(&failed.server.call("GET", &letter, Value::Null).await, 200)["id"].clone();
    // What a process had appended that ended then.
    ok(&failed.replay(&letter).await, 200);
    let Record::Redo(redo) = failed.last().0 else { panic!() };
    assert_eq!(json!(redo.upto), id);
    let other = Failed::new().await;
    let letter = paths(&other.server, "?rule=hot").await.remove(1);
    let upto =
        ok(&other.server.call("GET", &letter, Value::Null).await, 200)["id"].as_str().map(String::from);
    let failed = watchfire_model::Position { offset: other.offset, ..redo.failed };
    let redo = watchfire_log::Redo { upto, failed, ..*redo };
    other.server.append(vec![(1, Record::Redo(Box::new(redo)))]).await;
    problem(&other.replay(&letter).await, 409, "replayed");
    let letter = ok(&other.server.call("GET", &letter, Value::Null).await, 200).clone();
    assert!(letter["replayed_at"].is_string() && letter["replayed_by"].is_string(), "{letter}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redo_that_would_do_nothing_is_refused_and_the_letter_stays() {
    let failed = Failed::new().await;
    let server = &failed.server;
    let letter = paths(server, "?rule=hot").await.remove(1);
    let rule = async |method: &str, path: &str, body: Value| {
        let answer = server.call(method, &format!("/api/v1/rules/hot{path}"), body).await;
        assert!(answer.status.is_success(), "{}", answer.json);
    };
    rule("POST", "/pause", json!({})).await;
    let refused = failed.replay(&letter).await;
    problem(&refused, 409, "paused");
    assert!(refused.json["detail"].as_str().unwrap().contains("\"hot\" is paused"), "{}", refused.json);
    rule("POST", "/resume", json!({})).await;
    rule("PUT", "", json!({"module": "threshold", "input": "smooth"})).await;
    problem(&failed.replay(&letter).await, 409, "other-stream");
    rule("PUT", "", json!({"module": "threshold", "select": {"devices": ["none"]}})).await;
    problem(&failed.replay(&letter).await, 409, "no-device");
    rule("DELETE", "", Value::Null).await;
    problem(&failed.replay(&letter).await, 404, "not-found");
    let records = server.log.records();
    assert!(!records.iter().any(|entry| matches!(entry.record, Record::Redo(_))));
    assert!(ok(&server.call("GET", &letter, Value::Null).await, 200)["replayed_at"].is_null());

    // Once it is there again, of the devices that still are: one that was registered anew is another one.
    rule("PUT", "", json!({"module": "threshold"})).await;
    let device = format!("/api/v1/devices/{}", failed.devices[1]);
    ok(&server.call("DELETE", &device, Value::Null).await, 204);
    ok(&server.call("PUT", &device, json!({})).await, 201);
    ok(&failed.replay(&letter).await, 200);
    let (record, _) = failed.last();
    let Record::Redo(redo) = &record else { panic!("{record:?}") };
    assert_eq!(redo.batch.devices, failed.handles[..1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_evaluated_for_a_device_that_only_has_the_name() {
    let failed = Failed::new().await;
    let letter = paths(&failed.server, "?rule=hot").await.remove(1);
    for device in failed.devices.iter().map(|id| format!("/api/v1/devices/{id}")) {
        ok(&failed.server.call("DELETE", &device, Value::Null).await, 204);
        ok(&failed.server.call("PUT", &device, json!({})).await, 201);
    }
    problem(&failed.replay(&letter).await, 409, "no-device");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_whose_record_is_gone_is_told_and_cannot_be_replayed() {
    let failed = Failed::new().await;
    failed.server.log.drop_before(failed.partition, failed.last().1[1] - 1);
    // A record that was, and one that never had such rows.
    for offset in [0, failed.last().1[1] - 1] {
        failed.server.append(vec![(1, skipped(offset, "batch", vec![70, 71]))]).await;
        let letter = failed.letter("?rule=hot").await;
        let shown = failed.server.call("GET", &letter, Value::Null).await;
        assert_eq!((&ok(&shown, 200)["rows"], &shown.json["size"]), (&json!(2), &json!(0)));
        problem(&failed.replay(&letter).await, 409, "not-kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_rule_are_replayed_in_slices_each_once() {
    let failed = Failed::new().await;
    let server = &failed.server;
    for row in 0..4 {
        server.append(vec![(1, skipped(failed.offset, "batch", vec![row]))]).await;
    }
    paths(server, "?rule=hot").await;
    let before = failed.last().1[1];
    let bulk = async |query: &str| {
        ok(&server.call("POST", &format!("/api/v1/dead-letters:replay?{query}"), Value::Null).await, 200)
            .clone()
    };
    assert_eq!(bulk("rule=cold").await["letters"], 0);
    assert_eq!(bulk("rule=hot&code=time").await["letters"], 0);
    // All letters of one record are used together by the first of them: the second of the slice went with it, and
    // the three behind the slice are not there any more. That of the timers is no input, and never listed.
    let counts =
        |answer: &Value| ["letters", "replayed", "refused"].map(|name| answer[name].as_u64().unwrap());
    let first = bulk("rule=hot&code=refused&limit=2").await;
    assert_eq!(counts(&first), [2, 2, 0]);
    let next = first["next"].as_str().expect("a full slice goes on");
    // What fails again meanwhile is another letter, for another time.
    server.append(vec![(1, skipped(failed.offset, "batch", vec![3]))]).await;
    let second = bulk(&format!("rule=hot&code=refused&limit=2&cursor={next}")).await;
    assert_eq!((counts(&second), second.get("next")), ([0, 0, 0], None));
    assert_eq!(failed.last().1[1], before + 2, "one redo, and the failure since");
    assert_eq!(counts(&bulk("rule=hot").await), [1, 1, 0]);
    assert_eq!(counts(&bulk("rule=hot").await), [0, 0, 0], "nothing is used twice");
    problem(&server.call("POST", "/api/v1/dead-letters:replay?cursor=x", Value::Null).await, 400, "query");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_rule_was_out_is_kept_with_what_came_of_it() {
    let failed = Failed::new().await;
    let server = &failed.server;
    let breaker = |change| Record::Breaker(Box::new(Breaker { rule: "hot".into(), version: 1, change }));
    let (kind, wait) = (FailureKind::Trapped, watchfire_model::Duration::from_secs(10));
    let opened = BreakerChange::Opened {
        offset: failed.offset,
        callback: 0,
        why: "20 of 20".into(),
        kind,
        reason: "unreachable".into(),
        wait,
    };
    let stays = BreakerChange::StaysOpen { kind, reason: "still".into(), wait };
    let lost = |from, next, taken_back| BreakerChange::Lost { range: MissedRange { from, next, taken_back } };
    let all = [opened, stays, lost(4, 9, false), BreakerChange::Closed];
    server.append(all.map(|change| (1, breaker(change))).into()).await;
    let rows_with = async |member: &str| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let answer = server.call("GET", "/api/v1/rules/hot/outages", Value::Null).await;
            let rows = ok(&answer, 200)["items"].clone();
            if !rows[0][member].is_null() {
                return rows;
            }
            assert!(std::time::Instant::now() < deadline, "{rows}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let rows = rows_with("closed_by").await;
    let row = &rows[0];
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(
        (&row["partition"], &row["why"], &row["reason"]),
        (&json!(1), &json!("20 of 20"), &json!("still"))
    );
    assert_eq!(
        (&row["closed_by"], &row["lost_from"], &row["lost_to"]),
        (&json!("tried"), &json!(4), &json!(9))
    );
    // What it missed later, because a version was taken back that ran meanwhile, is no part of that.
    let slice = |from, next, taken_back| {
        Record::Redo(Box::new(Redo {
            rule: "hot".into(),
            stream: "readings".into(),
            failed: Position { epoch: Epoch(1), partition: PartitionId(1), offset: from },
            missed: Some(Slice { from, next, as_of: next, taken_back }),
            upto: None,
            by: Actor::default(),
            batch: Arc::new(BatchBuilder::new().finish()),
        }))
    };
    let later = [breaker(lost(70, 80, true)), slice(80, 90, true), slice(9, 20, false)];
    server.append(later.map(|record| (1, record)).into()).await;
    let rows = rows_with("caught_up_to").await;
    assert_eq!(
        (&rows[0]["missed_from"], &rows[0]["caught_up_to"], &rows[0]["lost_to"]),
        (&json!(9), &json!(20), &json!(9))
    );
    // The loop says that it is not out now: there is nothing to choose.
    for what in ["catch-up", "skip-missed"] {
        let path = format!("/api/v1/rules/hot/{what}");
        problem(&server.call("POST", &path, json!({})).await, 409, "not-out");
    }
    problem(&server.call("GET", "/api/v1/rules/cold/outages", Value::Null).await, 404, "not-found");
    let body = json!({"module": "threshold", "breaker": {"failures": 2}});
    let refused = server.call("PUT", "/api/v1/rules/hot", body).await;
    problem(&refused, 422, "breaker");
    assert_eq!(refused.json["pointer"], "/breaker/failures");
}
