//! Taking modules: what is refused and how it is named, the cache, the background.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use watchfire_host::{Host, HostOptions, ModuleBytes, RefusalError, build};
use watchfire_model::call::{Modules, Setup};
use watchfire_model::{Digest, Limits};

use crate::drive::host;
use crate::limits::guest;

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let (mut bytes, mut found) = (bytes.to_vec(), false);
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            found = true;
        }
    }
    assert!(found, "{from}");
    bytes
}

fn threshold() -> Vec<u8> {
    std::fs::read(build::shipped("threshold").unwrap()).unwrap()
}

#[test]
fn a_module_says_what_it_is() {
    let report = host().add(&threshold()).unwrap();
    assert_eq!((report.name.as_str(), report.language.as_str()), ("threshold", "Rust"));
    assert_eq!(report.digest, Digest::of(&threshold()));
    for import in ["alerts.trigger", "alerts.clear", "state.load", "readings.numbers", "devices.version"] {
        assert!(report.imports.iter().any(|name| name == import), "{import}: {:?}", report.imports);
    }
    for import in &report.imports {
        assert!(!import.starts_with("output.") && !import.starts_with("timers."), "{import}");
    }
    assert!(report.exports.iter().any(|name| name == "handler"), "{:?}", report.exports);
    assert_eq!(report.parameters["properties"]["deadband"]["default"], json!(0));
    assert!(report.size < 200 << 10, "{} bytes", report.size);
}

#[test]
fn what_is_outside_of_the_contract_is_named_before_it_is_compiled() {
    let refused = |bytes: &[u8]| watchfire_host::inspect(bytes).unwrap_err();
    let RefusalError::Imports { names } = refused(&guest("foreign")) else { panic!("taken") };
    assert_eq!(names, ["wasi:clocks/wall-clock@0.2.0", "test:foreign/files@0.1.0"]);
    let good = threshold();
    let later = replaced(&good, "watchfire:rule/handler@0.1.0", "watchfire:rule/handler@0.2.0");
    assert!(
        matches!(refused(&later), RefusalError::ContractVersion { name } if name.ends_with("handler@0.2.0"))
    );
    let without = replaced(&good, "watchfire:rule/handler@0.1.0", "watchfire:rule/hondler@0.1.0");
    assert!(matches!(refused(&without), RefusalError::NoHandler));
    let unknown = replaced(&good, "selected", "selectee");
    let RefusalError::Function { interface, function } = refused(&unknown) else { panic!("taken") };
    assert_eq!((interface.as_str(), function.as_str()), ("watchfire:rule/devices@0.1.0", "selectee"));
    assert!(matches!(refused(&good[..good.len() / 2]), RefusalError::Malformed(_)));
}

#[test]
fn describe_must_stand_on_its_own() {
    let nosy = guest("nosy");
    let error = host().add(&nosy).unwrap_err().to_string();
    assert!(error.contains("state.load must not be called in describe"), "{error}");
    let schema = replaced(&nosy, "describe-asks-for-state", "describe-schema-is-none");
    let error = host().add(&schema).unwrap_err().to_string();
    assert!(error.contains("manifest is no good"), "{error}");
    let good = replaced(&nosy, "describe-asks-for-state", "describes-what-it-is-ok");
    let digest = host().add(&good).unwrap().digest;
    let start = |parameters| {
        let setup = Setup {
            rule: "n".into(),
            parameters: Arc::new(parameters),
            limits: Limits::default(),
            replay: false,
        };
        host().try_start(digest, &setup)
    };
    assert!(start(json!({})).is_ok());
    assert!(start(json!({"silence": true})).unwrap_err().message.contains("silence-handler"));
    assert!(start(json!({"schedule": true})).unwrap_err().message.contains("schedule-handler"));
}

struct Stored(HashMap<Digest, Vec<u8>>);

impl ModuleBytes for Stored {
    fn bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.get(&digest).cloned())
    }
}

fn with_cache(folder: &Path, stored: Option<HashMap<Digest, Vec<u8>>>) -> Host {
    let bytes = stored.map(|stored| Arc::new(Stored(stored)) as Arc<dyn ModuleBytes>);
    Host::new(HostOptions { cache_folder: Some(folder.into()), bytes, ..HostOptions::default() }).unwrap()
}

#[test]
fn compiled_code_is_kept_checked_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("compiled");
    let bytes = threshold();
    let digest = with_cache(&cache, None).add(&bytes).unwrap().digest;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cache), 0o700);
    let file = || std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).next();
    let path = file().unwrap();
    assert_eq!(mode(&path), 0o600);
    let good = std::fs::read(&path).unwrap();

    // Nothing stored: it can only come from the cache.
    with_cache(&cache, Some(HashMap::new())).get(digest).unwrap();
    // Damaged, cut short, or writable by others: not run, thrown away, and made again from the bytes.
    let damage: [&dyn Fn(); 3] = [
        &|| {
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 1;
            std::fs::write(&path, bad).unwrap();
        },
        &|| std::fs::write(&path, &good[..40]).unwrap(),
        &|| {
            std::fs::write(&path, &good).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        },
    ];
    for damage in damage {
        damage();
        let error = with_cache(&cache, Some(HashMap::new())).get(digest).err().unwrap();
        assert!(error.message.contains("no module"), "{error}");
        assert!(file().is_none(), "the bad file is gone");
        with_cache(&cache, Some([(digest, bytes.clone())].into())).get(digest).unwrap();
        assert!(file().is_some());
    }
    // Bytes that are not what was asked for are not compiled.
    std::fs::remove_file(&path).unwrap();
    let error = with_cache(&cache, Some([(digest, guest("nosy"))].into())).get(digest).err().unwrap();
    assert!(error.message.contains("are not those"), "{error}");
    let host = with_cache(&cache, None);
    host.add(&bytes).unwrap();
    host.remove(digest);
    assert!(file().is_none() && host.get(digest).is_err());
}

#[test]
fn a_module_is_compiled_in_the_background_and_once() {
    let host = Host::new(HostOptions::default()).unwrap();
    let bytes: Arc<[u8]> = threshold().into();
    let before = watchfire_telemetry::metrics().rules.modules_compiled.get();
    let first = host.compile(bytes.clone()).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (host, bytes) = (host.clone(), bytes.clone());
            std::thread::spawn(move || host.add(&bytes).map(|report| report.name))
        })
        .collect();
    first.wait().unwrap();
    assert!(first.is_done());
    for thread in threads {
        assert_eq!(thread.join().unwrap().unwrap(), "threshold");
    }
    // Others of this process may compile meanwhile, but not five times.
    assert!(watchfire_telemetry::metrics().rules.modules_compiled.get() - before < 5 + 3);
    host.prepare(Digest::of(&bytes), &Limits { fuel: Some(1), ..Limits::default() }).unwrap();
}

/// Compiling must not delay the partitions: it is one thread, and that gives way to all others.
#[cfg(target_os = "linux")]
#[test]
fn the_thread_that_compiles_gives_way() {
    let host = Host::new(HostOptions::default()).unwrap();
    host.add(&threshold()).unwrap();
    // Hosts of other tests may have started a thread just now: it lowers its priority as its first step.
    within("threads that compile have a low priority", || {
        loop {
            let nice = compilers();
            if !nice.is_empty() && nice.iter().all(|nice| *nice == 15) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    drop(host);
}

/// Nice values of the threads of this process that compile: field 19 of proc_pid_stat(5).
#[cfg(target_os = "linux")]
fn compilers() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        // A thread may end between the list and the look at it.
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok())
        .filter_map(|stat| {
            let (name, fields) = stat.rsplit_once(") ")?;
            // The name is in brackets and may hold any; what follows it is field 3.
            name.ends_with("(rule-compiler").then(|| fields.split(' ').nth(16)?.parse().ok())?
        })
        .collect()
}

/// Does it on a thread of its own: a host that hangs is told from one that is slow, and one that panics from both.
fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || done.send(work()));
    outcome.recv_timeout(Duration::from_secs(120)).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// XorShift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// Mostly what tells of others: the beginning, and the end, where a component says how its parts hang together.
    fn place(&mut self, length: usize) -> usize {
        match self.below(3) {
            0 => self.below(length.min(2048)),
            1 => length - 1 - self.below(length.min(8192)),
            _ => self.below(length),
        }
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.place(bytes.len());
            match self.below(8) {
                0..3 => bytes[at] ^= 1 << self.below(8),
                3 => bytes[at] = self.below(256) as u8,
                // A number as large as it can be written.
                4 => bytes.iter_mut().skip(at).zip([0xff, 0xff, 0xff, 0xff, 0x0f]).for_each(|(b, n)| *b = n),
                5 => drop(bytes.remove(at)),
                6 => {
                    let end = at + self.below(256).min(bytes.len() - at);
                    let copy = bytes[at..end].to_vec();
                    let to = self.place(bytes.len());
                    bytes.splice(to..to, copy);
                }
                _ if self.below(8) == 0 => bytes.truncate(at.max(1)),
                _ => bytes[at] = bytes[at].wrapping_add(1),
            }
        }
    }
}

#[test]
fn damaged_uploads_are_refused_with_a_reason_or_load() {
    let good = threshold();
    let host = Host::new(HostOptions::default()).unwrap();
    let limits = json!([{"metric": "t", "high": 80, "severity": "minor", "deadband": 5}]);
    let parameters = Arc::new(json!({"severity": "minor", "deadband": 0, "limits": limits}));
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let (mut refused, mut compiled, mut started) = (0, 0, 0);
    for round in 0..3000 {
        let mut bytes = good.clone();
        random.mutate(&mut bytes);
        let what = format!("round {round}");
        let inspected = {
            let bytes = bytes.clone();
            within(&what, move || watchfire_host::inspect(&bytes))
        };
        let error = match inspected {
            Err(error) => error,
            // Compiling takes a while: some of those that look well are tried to the end.
            Ok(_) if compiled < 60 => {
                compiled += 1;
                let (host, parameters) = (host.clone(), parameters.clone());
                let outcome = within(&what, move || {
                    let digest = host.add(&bytes)?.digest;
                    let setup =
                        Setup { rule: "n".into(), parameters, limits: Limits::default(), replay: false };
                    let instance = host.try_start(digest, &setup).map(drop);
                    host.remove(digest);
                    Ok(instance.is_ok())
                });
                match outcome {
                    Ok(runs) => {
                        started += u32::from(runs);
                        continue;
                    }
                    Err(error) => error,
                }
            }
            Ok(_) => continue,
        };
        refused += 1;
        let reason = error.to_string();
        assert!((10..4000).contains(&reason.len()), "{what}: {reason}");
        assert!(!matches!(error, RefusalError::Busy(_) | RefusalError::Unknown(_)), "{what}: {reason}");
    }
    assert!(
        refused > 1000 && compiled > 10 && started > 3,
        "{refused} refused, {compiled} compiled, {started} ran"
    );
    // The host is none the worse for it.
    assert_eq!(host.add(&good).unwrap().name, "threshold");
}

#[test]
fn the_sdk_carries_the_contract_of_this_host() {
    let read =
        |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    assert_eq!(read("../../guest-sdk/rust/wit/rule.wit"), read("../../wit/rule.wit"));
}
