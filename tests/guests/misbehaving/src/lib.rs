//! Does one wrong thing, chosen by the parameter `mode`.

use watchfire_rule::bindings::watchfire::rule::types::Blobs;
use watchfire_rule::bindings::watchfire::rule::{alerts, clock, config, readings, state};
use watchfire_rule::output::{self, Reading};
use watchfire_rule::prelude::*;
use watchfire_rule::{Value, devices, log, timers};

#[derive(Deserialize)]
#[serde(crate = "watchfire_rule::serde")]
struct Parameters {
    mode: String,
}

struct Misbehaving {
    mode: String,
    calls: u32,
}

#[unsafe(no_mangle)]
#[inline(never)]
fn dig(depth: u64) -> u64 {
    // Nothing on the stack in linear memory, which would be at its end first: that is a plain trap.
    if depth == u64::MAX { depth } else { dig(depth + 1).wrapping_mul(3) ^ depth }
}

#[unsafe(no_mangle)]
#[inline(never)]
fn fall_over(text: &str) {
    panic!("fell over: {text}");
}

fn alert(device: u32, row: Option<u32>) -> alerts::Alert {
    alerts::Alert {
        device,
        key: "k".into(),
        severity: Severity::Info,
        summary: "s".into(),
        details: vec![],
        row,
        extra: None,
    }
}

fn blobs(lengths: &[u32], data: usize) -> Blobs {
    Blobs { lengths: lengths.to_vec(), data: vec![1; data] }
}

impl Rule for Misbehaving {
    type Parameters = Parameters;

    const MANIFEST: Manifest = Manifest {
        name: "misbehaving",
        version: "0.1.0",
        description: "Does one wrong thing.",
        parameters: r#"{"type":"object","properties":{"mode":{"type":"string","default":"none"}}}"#,
        state_version: 2,
    };

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        match parameters.mode.as_str() {
            "start-error" => return Err("these parameters will not do".into()),
            "start-panic" => panic!("no start"),
            "start-state" => drop(state::load(0, &[0])),
            "start-clock" => drop(clock::now()),
            "start-patterns" => {
                let patterns = (0..2000).map(|i| i.to_string());
                return Ok((Self { mode: String::new(), calls: 0 }, Subscription::metrics(patterns)));
            }
            "start-pattern" => {
                let pattern = "x".repeat(300);
                return Ok((Self { mode: String::new(), calls: 0 }, Subscription::metrics([pattern])));
            }
            "start-config" => drop(config::get("mode")),
            "start-loop" => loop {
                std::hint::black_box(());
            },
            _ => {}
        }
        Ok((Self { mode: parameters.mode, calls: 0 }, Subscription::everything().silence(Silence::After(1))))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        self.calls += 1;
        let rows = batch.rows();
        match self.mode.as_str() {
            "endless" => loop {
                std::hint::black_box(());
            },
            "endless-host" => loop {
                std::hint::black_box(clock::now());
            },
            "memory" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1_u8; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            "panic" => fall_over("in a batch"),
            "trap" => std::process::abort(),
            "deep" => drop(std::hint::black_box(dig(0))),
            "output" => loop {
                output::derive("x", &vec![0.0; rows]);
            },
            "big-state" => loop {
                state::store(0, &[0], &blobs(&[1 << 20], 1 << 20));
            },
            // One thing, asked for again and again in one call.
            "load-many" => drop(state::load(0, &[0; 200])),
            "attribute-many" => drop(devices::attribute("type", &vec![0; 1 << 20])),
            "derive-twice" => {
                output::derive("x", &vec![1.0; rows]);
                output::derive("y", &vec![2.0; rows]);
                output::derive("x", &vec![3.0; rows]);
            }
            "derive-names" => {
                for i in 0_u64.. {
                    output::derive(&i.to_string(), &vec![0.0; rows]);
                }
            }
            "details" => {
                let detail = watchfire_rule::Detail { name: String::new(), value: Value::Boolean(true) };
                let mut alert = alert(0, None);
                alert.details = vec![detail; 100_000];
                loop {
                    alerts::trigger(&alert);
                }
            }
            // A little more with each call.
            "hoard" => {
                let slot = self.calls;
                state::store(slot, &[0, 1], &blobs(&[500, 500], 1000));
                // What is replaced within a call, and what is removed, does not count.
                state::store(slot, &[1], &blobs(&[100], 100));
                state::store(slot + 1000, &[0], &blobs(&[500], 500));
                state::store(slot + 1000, &[0], &blobs(&[0], 0));
            }
            "shrink" => state::store(self.calls, &[0, 1], &blobs(&[1, 0], 1)),
            "effects" => loop {
                alerts::clear(0, "k", None);
            },
            "emits" => {
                let reading =
                    Reading { device: "d0".into(), time: 0, metric: "m".into(), value: Value::Boolean(true) };
                loop {
                    output::emit(&vec![reading.clone(); 1000]);
                }
            }
            "log" => {
                for i in 0..10_000 {
                    log::write(log::Level::Info, &format!("line {i} ü"));
                }
            }
            "bad-handle" => alerts::trigger(&alert(4711, None)),
            "bad-handle-state" => drop(state::load(0, &[0, 4711])),
            "bad-handle-timer" => timers::set(&[Timer { device: 4711, tag: 0, at: 0 }]),
            "bad-handle-name" => drop(devices::name(4711)),
            "bad-row" => alerts::trigger(&alert(0, Some(rows as u32))),
            "bad-row-clear" => alerts::clear(0, "k", Some(u32::MAX)),
            "long-key" => alerts::clear(0, &"k".repeat(257), None),
            "keep-length" => output::keep(&vec![1; rows + 1]),
            "keep-twice" => {
                output::keep(&vec![1; rows]);
                output::keep(&vec![1; rows]);
            }
            "derive-length" => output::derive("x", &[]),
            "derive-infinite" => output::derive("x", &vec![f64::INFINITY; rows]),
            "store-lengths" => state::store(0, &[0], &blobs(&[2, 1], 3)),
            "store-data" => state::store(0, &[0], &blobs(&[2], 3)),
            "store-twice" => state::store(0, &[1, 0, 1], &blobs(&[1, 1, 1], 3)),
            "own-stores" => {
                state::store(7, &[1], &blobs(&[3], 3));
                state::store(7, &[0, 1], &blobs(&[2, 0], 2));
                let seen = state::load(7, &[0, 1, 2]);
                if seen.lengths != [2, 0, 4] {
                    return Err(format!("load answered {:?}", seen.lengths));
                }
            }
            "error" => return Err("row 3 makes no sense".into()),
            "error-once" if self.calls == 1 => {
                state::store(0, &[0], &blobs(&[1], 1));
                return Err("once".into());
            }
            "capabilities" => {
                // One of each: what the import list of the component says.
                let all = (readings::stream_name(), readings::columns().len(), batch.times().len());
                drop(all);
                let selected = devices::selected(None, 10);
                output::derive("rows", &vec![rows as f64; rows]);
                output::keep(&vec![1; rows]);
                drop((devices::find("d0"), devices::attribute("type", &selected), devices::version()));
                timers::set(&[Timer { device: 0, tag: 1, at: clock::now() + 1 }]);
                timers::cancel(&[Timer { device: 0, tag: 1, at: 0 }]);
                let mut first = alert(0, Some(0));
                first.details =
                    vec![watchfire_rule::Detail { name: "nan".into(), value: Value::Number(f64::NAN) }];
                alerts::trigger(&first);
            }
            _ => {}
        }
        Ok(())
    }

    fn on_silence(&mut self, devices: &[SilentDevice]) -> Result<(), String> {
        match self.mode.as_str() {
            "keep-in-silence" => output::keep(&[]),
            "rows-in-silence" => alerts::trigger(&alert(devices[0].device, Some(0))),
            _ if readings::rows() > 0
                || !readings::devices().is_empty()
                || !readings::numbers("x").is_empty() =>
            {
                return Err("there are rows".into());
            }
            _ => {}
        }
        Ok(())
    }

    fn migrate(old_version: u32, slot: u32, mut states: Blobs) -> Result<Blobs, String> {
        match (old_version, slot) {
            (1, 0) => Ok(states),
            (1, 1) => {
                states.lengths.pop();
                Ok(states)
            }
            (1, 2) => {
                clock::now();
                Ok(states)
            }
            _ => Err(format!("no way from {old_version}")),
        }
    }
}

watchfire_rule::export_rule!(Misbehaving);
