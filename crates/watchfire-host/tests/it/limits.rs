//! Guests that misbehave: each is stopped, told apart, and leaves nothing behind.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use watchfire_host::build;
use watchfire_model::call::{
    AlertEffect, Callback, FailureKind, Level, Module, Modules, Outcome, SilentDevice, TimerEffect,
};
use watchfire_model::state::Blobs;
use watchfire_model::time;
use watchfire_model::{DeviceHandle, Limits, Timestamp, Value};

use crate::drive::{Bench, host};

pub fn guest(name: &str) -> Vec<u8> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests");
    std::fs::read(build::component_of(&workspace, name).unwrap()).unwrap()
}

fn misbehaving() -> Arc<dyn Module> {
    let report = host().add(&guest("misbehaving")).unwrap();
    host().get(report.digest).unwrap()
}

fn bench(mode: &str, limits: Limits) -> Bench {
    Bench::with_limits(misbehaving(), json!({ "mode": mode }), 3, limits)
}

fn batch(bench: &mut Bench) -> Outcome {
    let rows = bench.rows(&[(0, 1.0, vec![("x", 1.0)]), (1, 1.0, vec![("x", 2.0)])]);
    bench.outcome(Callback::Batch(rows))
}

/// A batch of two rows in this mode fails like this, and the instance is dead afterwards.
fn check(mode: &str, limits: Limits, kind: FailureKind, text: &str) {
    let mut bench = bench(mode, limits);
    bench.state.set(7, DeviceHandle(2), b"kept");
    let failure = batch(&mut bench).result.unwrap_err();
    assert_eq!(failure.kind, kind, "{mode}: {failure}");
    assert!(failure.message.starts_with("rule test, batch of 2 rows: "), "{mode}: {failure}");
    assert!(failure.message.contains(text), "{mode}: {failure}");
    assert_eq!(bench.state.get(7, DeviceHandle(2)), b"kept", "the state that was lent came back");
    let again = batch(&mut bench).result.unwrap_err();
    assert!(again.message.contains("dead"), "{mode}: {again}");
    bench.replace_instance();
}

#[test]
fn calls_against_the_contract_trap_and_say_why() {
    for (mode, text) in [
        ("bad-handle", "alerts.trigger: no device of this partition has the handle 4711"),
        ("bad-handle-state", "state.load: no device of this partition has the handle 4711"),
        ("bad-handle-timer", "timers.set: no device"),
        ("bad-handle-name", "devices.name: no device"),
        ("bad-row", "alerts.trigger: row 2 is not there, the batch has 2 rows"),
        ("bad-row-clear", "alerts.clear: row 4294967295 is not there"),
        ("long-key", "alerts.clear: a key of 257 bytes, 256 are allowed"),
        ("keep-length", "output.keep: 3 entries for a batch of 2 rows"),
        ("keep-twice", "output.keep: it was called before"),
        ("derive-length", "output.derive: 0 entries for a batch of 2 rows"),
        ("derive-infinite", "output.derive: x has an infinite value"),
        ("store-lengths", "state.store: 1 devices, 2 lengths"),
        ("store-data", "must add up to the 3 bytes"),
        ("store-twice", "state.store: device 1 is there twice"),
    ] {
        check(mode, Limits::default(), FailureKind::Trapped, text);
    }
}

#[test]
fn a_panic_keeps_its_text_and_its_place() {
    check("panic", Limits::default(), FailureKind::Trapped, "fell over: in a batch");
    check("panic", Limits::default(), FailureKind::Trapped, "fall_over");
    check("trap", Limits::default(), FailureKind::Trapped, "unreachable");
}

#[test]
fn every_limit_stops_and_names_itself() {
    let limits = Limits { time: time::Duration::from_millis(50), ..Limits::default() };
    let begun = Instant::now();
    check("endless", limits.clone(), FailureKind::Time, "time limit of 0.05 s");
    let endless = Limits { host_calls: u32::MAX, ..limits.clone() };
    check("endless-host", endless, FailureKind::Time, "time limit of 0.05 s");
    // A loaded machine takes its time; a call that was not stopped would never end.
    assert!(begun.elapsed() < Duration::from_secs(20));
    check("endless", Limits { fuel: Some(1_000_000), ..Limits::default() }, FailureKind::Fuel, "1000000");
    check("endless-host", Limits::default(), FailureKind::Output, "more than 1000000 host calls");
    check("memory", Limits::default(), FailureKind::Memory, "its limit is 67108864");
    check("deep", Limits::default(), FailureKind::Stack, "stack limit of 512 KiB");
    check("output", Limits { output: 1 << 16, ..Limits::default() }, FailureKind::Output, "65536 bytes");
    check("big-state", Limits::default(), FailureKind::Output, "33554432 bytes");
    check("effects", Limits::default(), FailureKind::Output, "more than 100000 effects");
    check("emits", Limits::default(), FailureKind::Output, "more than 100000 effects");
}

#[test]
fn one_thing_asked_for_many_times_is_not_gathered() {
    let mut bench = bench("load-many", Limits::default());
    bench.state.set(0, DeviceHandle(0), &vec![1; 1 << 20]);
    let failure = batch(&mut bench).result.unwrap_err();
    let text = "rule test, batch of 2 rows: state.load: it asked for more at once than the 67108864 bytes of its \
                memory limit";
    assert!(failure.message.starts_with(text), "{failure}");
    assert_eq!(failure.kind, FailureKind::Memory);
    // A device has no type here; each answer still takes its place.
    let limits = Limits { memory: 20 << 20, ..Limits::default() };
    check("attribute-many", limits, FailureKind::Memory, "devices.attribute: it asked for more at once");
    let limits = Limits { effects: 1000, ..Limits::default() };
    check("derive-names", limits, FailureKind::Output, "more than 1000 effects");
    check("details", Limits::default(), FailureKind::Output, "33554432 bytes");
}

#[test]
fn what_a_rule_keeps_is_bounded_over_calls() {
    let stored = |limits: Limits| {
        let mut bench = bench("hoard", limits);
        for call in 0.. {
            let outcome = batch(&mut bench);
            let size = bench.state.size();
            match outcome.result {
                Ok(effects) => {
                    for (slot, devices, blobs) in &effects.stores {
                        bench.state.set_many(*slot, devices, blobs);
                    }
                }
                Err(failure) => {
                    assert_eq!(bench.state.size(), size, "it leaves nothing behind");
                    assert_eq!(failure.kind, FailureKind::Output);
                    assert!(batch(&mut bench).result.unwrap_err().message.contains("dead"));
                    return (call, failure.message);
                }
            }
        }
        unreachable!()
    };
    // A call keeps 500 and 100 bytes, and twice 64.
    let (calls, text) = stored(Limits { state: 8000, ..Limits::default() });
    let expected = "rule test, batch of 2 rows: it would keep 8008 bytes of state, its limit (state) is 8000";
    assert_eq!((calls, text.as_str()), (10, expected));
    let (calls, text) = stored(Limits { slots: 20, ..Limits::default() });
    let expected = "rule test, batch of 2 rows: it would keep 21 slots of state, its limit (slots) is 20";
    assert_eq!((calls, text.as_str()), (20, expected));
    // A rule over a limit that was lowered may still keep less.
    let mut bench = bench("shrink", Limits { state: 100, ..Limits::default() });
    bench.state.set(1, DeviceHandle(0), &[0; 500]);
    bench.state.set(1, DeviceHandle(1), &[0; 500]);
    batch(&mut bench).result.unwrap();
}

#[test]
fn a_column_that_is_derived_again_is_replaced() {
    let effects = batch(&mut bench("derive-twice", Limits::default())).result.unwrap();
    assert_eq!(effects.derived, [("x".to_string(), vec![3.0, 3.0]), ("y".to_string(), vec![2.0, 2.0])]);
}

#[test]
fn fuel_is_counted_and_always_the_same() {
    let spent = || {
        let mut bench = bench("capabilities", Limits { fuel: Some(10_000_000), ..Limits::default() });
        let outcome = batch(&mut bench);
        outcome.result.unwrap();
        outcome.cost.fuel
    };
    let first = spent();
    assert!(first > 100);
    assert_eq!(first, spent());
}

#[test]
fn an_error_is_told_and_the_instance_goes_on_without_what_it_stored() {
    let mut one = bench("error-once", Limits::default());
    let failure = batch(&mut one).result.unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::Refused, "rule test, batch of 2 rows: once")
    );
    // The rule was made anew: it fails once more, as a fresh instance would.
    assert_eq!(batch(&mut one).result.unwrap_err().kind, FailureKind::Refused);
    let failure = batch(&mut bench("error", Limits::default())).result.unwrap_err();
    assert!(failure.message.ends_with("row 3 makes no sense"), "{failure}");
}

#[test]
fn a_load_sees_what_the_callback_stored() {
    let mut bench = bench("own-stores", Limits::default());
    bench.state.set(7, DeviceHandle(0), b"old");
    bench.state.set(7, DeviceHandle(2), b"same");
    let effects = batch(&mut bench).result.unwrap();
    assert_eq!(effects.stores.len(), 2);
    assert_eq!(bench.state.get(7, DeviceHandle(0)), b"old", "applying is the loop's business");
}

#[test]
fn one_of_each_effect_comes_back() {
    let mut bench = bench("capabilities", Limits::default());
    let outcome = batch(&mut bench);
    let effects = outcome.result.unwrap();
    assert_eq!(effects.keep, Some(vec![1, 1]));
    assert_eq!(effects.derived, [("rows".to_string(), vec![2.0, 2.0])]);
    assert!(matches!(effects.timers[..], [TimerEffect::Set(_), TimerEffect::Cancel(_)]));
    let [AlertEffect::Trigger { details, row: Some(0), .. }] = &effects.alerts[..] else {
        panic!("{effects:?}")
    };
    // JSON has no NaN.
    assert_eq!(details[0].value, Value::Text("NaN".into()));
    assert!(outcome.cost.host_calls >= 12 && bench.instance.memory() >= 1 << 20);
}

#[test]
fn log_messages_are_cut_and_counted() {
    let mut bench = bench("log", Limits::default());
    let outcome = batch(&mut bench);
    outcome.result.unwrap();
    let bytes: usize = outcome.messages.iter().map(|message| message.text.len()).sum();
    assert!(bytes < 17 << 10, "{bytes}");
    let last = outcome.messages.last().unwrap();
    assert_eq!(last.level, Level::Warn);
    assert!(last.text.contains("bytes of log messages were cut: the limit is 16384"), "{}", last.text);
}

#[test]
fn start_may_refuse_and_may_not_look_around() {
    let start = |mode: &str| {
        let limits = Limits { time: time::Duration::from_millis(50), ..Limits::default() };
        let setup = watchfire_model::call::Setup {
            rule: "test".into(),
            parameters: Arc::new(json!({ "mode": mode })),
            limits,
            replay: false,
        };
        misbehaving().start(&setup).map(|(_, subscription)| subscription)
    };
    let failed = |mode: &str| start(mode).unwrap_err();
    let error = failed("start-error");
    assert_eq!(
        (error.kind, error.message.as_str()),
        (FailureKind::Refused, "rule test, start: these parameters will not do")
    );
    assert!(failed("start-panic").message.contains("no start"));
    assert!(failed("start-state").message.contains("state.load must not be called in start"));
    assert!(failed("start-clock").message.contains("clock.now must not be called in start"));
    assert_eq!(failed("start-loop").kind, FailureKind::Time);
    let text = "rule test, start: it subscribes to 2000 metrics, the limit is 1024";
    assert_eq!(failed("start-patterns").message, text);
    let text = "rule test, start: its subscription has a text of 300 bytes, the limit is 256";
    assert_eq!(failed("start-pattern").message, text);
    assert!(start("start-config").is_ok());
}

#[test]
fn outside_of_a_batch_there_are_no_rows() {
    let silent =
        || Callback::Silence(vec![SilentDevice { device: DeviceHandle(0), last: Some(Timestamp(5)) }]);
    bench("none", Limits::default()).outcome(silent()).result.unwrap();
    let failure = |mode| bench(mode, Limits::default()).outcome(silent()).result.unwrap_err().message;
    assert!(failure("keep-in-silence").contains("output.keep must not be called in on-silence"));
    assert!(failure("rows-in-silence").contains("row 0 is not there, the batch has 0 rows"));
    assert!(failure("rows-in-silence").starts_with("rule test, silence of 1 devices: "));
}

#[test]
fn migration_answers_with_as_many_states() {
    let module = misbehaving();
    let states = || Blobs { lengths: vec![1, 2], data: vec![1, 2, 3] };
    let migrate = |version, slot| module.migrate(&Limits::default(), version, slot, states());
    assert_eq!(migrate(1, 0).unwrap(), states());
    assert!(migrate(1, 1).unwrap_err().message.contains("as many states"));
    assert!(migrate(1, 2).unwrap_err().message.contains("clock.now must not be called in migrate"));
    assert!(migrate(9, 0).unwrap_err().message.contains("no way from 9"));
}
