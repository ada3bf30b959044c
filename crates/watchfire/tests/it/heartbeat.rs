//! Somebody outside hears while everything advances, and nothing once a part of it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use watchfire::config::Config;
use watchfire::heartbeat::{Parts as _, Running};
use watchfire::serve::Server;
use watchfire_engine::{Engine, EngineOptions};
use watchfire_host::{Host, HostOptions};
use watchfire_log::{EmbeddedLog, Log, LogOptions, SystemClock};
use watchfire_notify::{Notifier, NotifyConfig};
use watchfire_store::Store;

use crate::wait_for;

const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_stands_still_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let clock = Arc::new(SystemClock);
    let (log, _) = EmbeddedLog::open(&path("log"), LogOptions::default(), clock.clone()).unwrap();
    let spine: Arc<dyn Log> = log.clone();
    let store = Store::open(&path("watchfire.db"), clock.clone()).await.unwrap();
    let host = Arc::new(Host::new(HostOptions::default()).unwrap());
    let options = EngineOptions::new(path("state"));
    let engine = Arc::new(Engine::start(spine.clone(), host, store.keeper(), options).unwrap());
    let notifier = Arc::new(Notifier::start(store.clone(), NotifyConfig::default(), clock).await.unwrap());
    let parts = Running { log: spine, engine: engine.clone(), notifier: notifier.clone() };
    for _ in 0..3 {
        assert_eq!(parts.standing(PATIENCE).await, None);
    }
    let stopping = engine.clone();
    tokio::task::spawn_blocking(move || stopping.abort()).await.unwrap();
    let standing = parts.standing(Duration::from_millis(200)).await.unwrap();
    assert_eq!(standing.part, "partition", "{standing}");
    tokio::task::spawn_blocking(move || log.close()).await.unwrap();
    let standing = parts.standing(PATIENCE).await.unwrap();
    assert_eq!(standing.part, "log", "{standing}");
    notifier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_engine_beats() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let beats = Arc::new(AtomicUsize::new(0));
    let heard = beats.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                while let Ok(1..) = stream.read(&mut bytes).await {
                    heard.fetch_add(usize::from(bytes.starts_with(b"POST /beat ")), Ordering::Relaxed);
                    bytes.fill(0);
                    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                }
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "data = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\n\
         [heartbeat]\nurl = \"http://{address}/beat\"\ninterval = \"1s\"\n",
        folder.path().join("data")
    );
    let config = Config::read(&text, "test", []).unwrap();
    let server = Server::start(config, Arc::new(SystemClock)).await.unwrap();
    wait_for("two beats", async || (beats.load(Ordering::Relaxed) >= 2).then_some(())).await;
    server.stop().await.unwrap();
    let after = beats.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(beats.load(Ordering::Relaxed), after, "it ends with the engine");
}
