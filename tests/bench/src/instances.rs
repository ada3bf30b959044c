//! What a component and its instances take: bytes, time to compile and to start, memory. Against the component in Rust.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::json;
use watchfire_host::{Host, HostOptions};
use watchfire_model::call::{Module, Modules};
use watchfire_model::{Digest, KeyedState};

use crate::call::{self, Fleet, Rule, rows};
use crate::figure::{Figure, cpu, median};
use crate::guests::METRIC;
use crate::{disk, event};

/// Starts from the cache, of which the median counts.
const STARTS: usize = 9;
/// Instances whose memory is measured together: what the allocator keeps for itself is shared by so many.
const INSTANCES: usize = 12;
/// Readings of each device before the memory is looked at again.
const TIMES: usize = 2;

/// What is known of a language's component.
struct Taken {
    bytes: f64,
    compile: f64,
    start: f64,
    further: f64,
    empty: f64,
    full: f64,
    linear: u64,
}

/// Measures the components of languages, Rust first.
pub fn run(components: &[(&'static str, &[u8])], figures: &mut Vec<Figure>) -> Result<()> {
    let mut rust = None;
    for &(language, bytes) in components {
        let taken = measure(bytes).with_context(|| language)?;
        push(language, &taken, rust.as_ref(), figures);
        if language == "rust" {
            rust = Some(taken);
        }
    }
    Ok(())
}

fn push(language: &str, taken: &Taken, rust: Option<&Taken>, figures: &mut Vec<Figure>) {
    let mut figure = |what: String, unit, of: fn(&Taken) -> f64| {
        let (value, reference) = (of(taken), rust.map(of));
        let ratio = reference.map(|reference| value / reference);
        let figure = format!("{language}: {what}, against that in Rust");
        let (goal, met) = ("report", None);
        figures.push(Figure { bench: "guests", figure, unit, value, reference, ratio, goal, met });
    };
    figure("size of the component".into(), "KiB", |taken| taken.bytes / 1024.0);
    figure("compiled for this machine, CPU".into(), "s", |taken| taken.compile);
    figure("start of the first instance from the cache".into(), "ms", |taken| taken.start * 1e3);
    figure("start of a further instance".into(), "ms", |taken| taken.further * 1e3);
    figure("an instance, pages of its own".into(), "KiB", |taken| taken.empty / 1024.0);
    let linear = taken.linear / 1024;
    let what = format!("the same with the state of 15 000 devices (linear memory {linear} KiB)");
    figure(what, "KiB", |taken| taken.full / 1024.0);
}

fn measure(bytes: &[u8]) -> Result<Taken> {
    let cache = disk::folder()?;
    let options = || HostOptions { cache_folder: Some(cache.path().join("cache")), ..HostOptions::default() };
    let host = Host::new(options())?;
    let began = cpu();
    host.add(bytes)?;
    let compile = cpu() - began;
    drop(host);

    let digest = Digest::of(bytes);
    let get = |host: &Host| host.get(digest).map_err(|failure| anyhow!("{failure}"));
    let (mut starts, mut furthers) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        // It never saw the bytes of the component: what it has is from the cache.
        let host = Host::new(options())?;
        let began = Instant::now();
        let module = get(&host)?;
        let first = start(&module)?;
        starts.push(began.elapsed().as_secs_f64());
        let began = Instant::now();
        let further = start(&module)?;
        furthers.push(began.elapsed().as_secs_f64());
        drop((first, further));
    }

    let host = Host::new(options())?;
    let module = get(&host)?;
    let fleet = Fleet::new();
    // What the host itself needs for such calls is allocated now, and not counted.
    fill(&fleet, &mut start(&module)?)?;
    let nothing = own_memory()?;
    let mut rules = (0..INSTANCES).map(|_| start(&module)).collect::<Result<Vec<_>>>()?;
    let started = own_memory()?;
    for rule in &mut rules {
        fill(&fleet, rule)?;
    }
    let filled = own_memory()?;
    ensure!(filled > started && started > nothing, "{nothing}, {started}, {filled} bytes of memory");
    Ok(Taken {
        bytes: bytes.len() as f64,
        compile,
        start: median(&mut starts),
        further: median(&mut furthers),
        empty: (started - nothing) / INSTANCES as f64,
        full: (filled - nothing) / INSTANCES as f64,
        linear: rules[0].instance.memory(),
    })
}

fn start(module: &Arc<dyn Module>) -> Result<Rule> {
    call::rule(module, json!({"case": "ewma-batch"}))
}

/// Gives an instance readings of every device.
fn fill(fleet: &Fleet, rule: &mut Rule) -> Result<()> {
    for seed in 1..=TIMES as u64 {
        for batch in event::sweep(1024, seed) {
            fleet.call(rule, &rows(&batch, &[METRIC]))?;
            // What it stored is not memory of the instance.
            rule.state = KeyedState::new();
        }
    }
    Ok(())
}

/// Bytes of memory that are this process's own: pages that instances share with each other, those of a component that
/// were never written to, are not.
fn own_memory() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kilobytes.context("/proc does not say how much memory is this process's own")? * 1024.0)
}
