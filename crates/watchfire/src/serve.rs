//! Everything, assembled on one page, in the order in which data flows; and taken down in the other order.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watchfire_api::alertmanager::{ActiveAlerts, follow_silences};
use watchfire_api::control::{ControlPlane, Snapshot};
use watchfire_api::links::SignedLinks;
use watchfire_api::projector::Projector;
use watchfire_api::{ApiOptions, Services};
use watchfire_engine::{Engine, EngineOptions};
use watchfire_host::{Host, HostOptions};
use watchfire_ingest::http::HttpOptions;
use watchfire_ingest::intake::{IntakeOptions, Source, UnknownDevices};
use watchfire_ingest::mqtt::Broker;
use watchfire_ingest::tls::ServerTls;
use watchfire_ingest::{Intake, listen};
use watchfire_log::{Clock, EmbeddedLog, Log};
use watchfire_notify::{Links, Notifier, Prepared};
use watchfire_sink::Surroundings;
use watchfire_store::{Store, Tidying};

use crate::adapters::{EngineAdapter, HostAdapter, NotifierAdapter, StoredModules};
use crate::authenticator::StoreAuthenticator;
use crate::backups::Backups;
use crate::config::Config;
use crate::replay::IntakeAdapter;
use crate::sinks::RunningSinks;
use crate::sources::RunningSources;
use crate::{shipped, telemetry};

/// How often the memory of repeats is written. What came since is read from the log at a start, some million rows a
/// second.
const SAVE_REPEATS: Duration = Duration::from_secs(60);

/// Where a server can be reached.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// API and telemetry.
    pub http: SocketAddr,
    /// MQTT.
    pub mqtt: Option<SocketAddr>,
    /// MQTT over TLS.
    pub mqtt_tls: Option<SocketAddr>,
}

/// The running engine.
pub struct Server {
    /// Where it can be reached.
    pub addresses: Addresses,
    log: Arc<EmbeddedLog>,
    store: Store,
    projector: Projector,
    engine: Arc<Engine>,
    notifier: Arc<Notifier>,
    links: Arc<SignedLinks>,
    sinks: Arc<RunningSinks>,
    broker: Option<Arc<Broker>>,
    sources: Arc<RunningSources>,
    certificates: Vec<Arc<ServerTls>>,
    stop: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
    tidying: Tidying,
    intake: Arc<Intake>,
    repeats: PathBuf,
    saving: JoinHandle<()>,
    /// Of the data folder; held until everything else is gone.
    _lock: File,
}

impl Server {
    /// Starts everything. Returns once readings are taken; what the log holds from before is evaluated
    /// meanwhile (`/-/ready` says when that is done).
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::start_with(config, clock, None).await
    }

    /// As [`Server::start`], with the program that compiles modules ([`HostOptions::compiler`]).
    pub async fn start_with(
        config: Config,
        clock: Arc<dyn Clock>,
        compiler: Option<PathBuf>,
    ) -> Result<Self> {
        config.check()?;
        let data = &config.data;
        let lock = lock_folder(data)?;

        // The log: nothing else decides what happened.
        let restored = data.join(crate::restore::MARK);
        let (log, report) = {
            let (folder, clock) = (data.join("log"), clock.clone());
            let mut options = config.log.options();
            if let Some(partitions) = existing_partitions(&folder, config.log.partitions)? {
                options.partitions = partitions;
            }
            // A restored folder begins a new epoch, so that no id is used twice.
            options.new_epoch = restored.is_file();
            blocking(move || EmbeddedLog::open(&folder, options, clock)).await?.context("the log")?
        };
        tracing::info!(?report, "the log is open");
        if restored.is_file() {
            std::fs::remove_file(&restored).context("the mark of a restore")?;
        }
        let spine: Arc<dyn Log> = log.clone();

        // The store, and the host with the modules that lie there.
        let store = Store::open(&data.join("watchfire.db"), clock.clone()).await.context("the store")?;
        let host = Host::new(HostOptions {
            cache_folder: Some(data.join("cache")),
            bytes: Some(Arc::new(StoredModules(store.clone()))),
            compiler,
            ..HostOptions::default()
        })?;
        let works = Arc::new(HostAdapter(host.clone()));

        // The control plane: what all control records add up to, and the tables that people look at.
        let snapshot = Snapshot::load(&store, spine.partitions()).await.context("registry and rules")?;
        let control = {
            let (log, works, host, snapshot) = (spine.clone(), works.clone(), host.clone(), snapshot.clone());
            blocking(move || ControlPlane::start(log, works, Arc::new(host), snapshot)).await??
        };
        let projector = Projector::start(spine.clone(), store.clone(), control.clone(), snapshot).await?;
        if let Some(folder) = shipped::folder(config.rules.as_deref()) {
            shipped::register(&folder, &*works, &store, &control, clock.wall()).await?;
        }

        // Modules that were deleted while the log still needed them.
        let swept = store.sweep_modules(|digest| control.needs_module(*digest)).await;
        if swept.context("the folder of modules")? > 0 {
            tracing::info!("the bytes of deleted modules that no record needs any more are gone");
        }

        // The partition loop, which hands alerts to the store, from where people are told.
        let engine = {
            let (log, host, keeper) = (spine.clone(), Arc::new(host.clone()), store.keeper());
            let mut options = EngineOptions::new(data.join("state"));
            options.shards = config.engine.shards;
            options.checkpoint = config.engine.checkpoint();
            Arc::new(blocking(move || Engine::start(log, host, keeper, options)).await??)
        };
        let tidying = {
            let log = log.clone();
            store.keep_tidy(config.store.retention(), Arc::new(move |partition| log.range(partition).0))
        };
        let notify = config.notify();
        let links = {
            let base = notify.public_url.clone();
            Arc::new(SignedLinks::open(&store, base, config.alerts.links(), clock.clone()).await?)
        };
        let notifier = {
            let links: Arc<dyn Links> = links.clone();
            Arc::new(Notifier::start_with_links(store.clone(), notify, clock.clone(), Some(links)).await?)
        };

        // Started before anything comes in: a rule may be out from before.
        let stop = CancellationToken::new();
        crate::breakers::watch(engine.clone(), notifier.clone(), stop.clone());
        if let Some(heartbeat) = &config.heartbeat {
            let (log, engine, notifier) = (spine.clone(), engine.clone(), notifier.clone());
            let parts = crate::heartbeat::Running { log, engine, notifier };
            crate::heartbeat::start(heartbeat, parts, clock.clone(), stop.clone())
                .map_err(|fault| anyhow::anyhow!("heartbeat: {fault}"))?;
        }

        // Where results flow to: readers of the log, each as far as its service is.
        let sinks = {
            let control = control.clone();
            let surroundings = Surroundings {
                log: spine.clone(),
                store: store.clone(),
                directory: Arc::new(move || control.registries()),
                clock: clock.clone(),
            };
            Arc::new(RunningSinks::start(&config.sink, surroundings).await?)
        };
        sinks.watch(notifier.clone(), clock.clone());

        // The way in, opened last: what comes is acknowledged from here on.
        let options = IntakeOptions { repeats_per_device: config.ingest.repeats, ..IntakeOptions::default() };
        let intake = Intake::new(spine.clone(), control.directory(), control.clone(), options);
        let repeats = data.join("repeats");
        {
            let (intake, file) = (intake.clone(), repeats.clone());
            blocking(move || intake.restore_repeats(&file)).await?.context("the last readings")?;
        }
        let saving = tokio::spawn(save_repeats(intake.clone(), repeats.clone()));
        let source = |name: &str, unknown| {
            let mut source = Source::new(name, unknown);
            (source.window.back, source.window.ahead) =
                (config.ingest.window_back, config.ingest.window_ahead);
            source
        };
        let mqtt_source = source("mqtt", config.mqtt_unknown());
        let http_source = source("http", config.http_unknown());
        let sources = Arc::new(RunningSources::start(&config.source, source, &intake)?);
        sources.watch(notifier.clone(), clock.clone());
        let (mut listeners, mut certificates) = (Vec::new(), Vec::new());
        let mut addresses = Addresses { http: config.http.listen, mqtt: None, mqtt_tls: None };
        let mut broker = None;
        if config.mqtt.enabled {
            let registers = config.mqtt_unknown() == UnknownDevices::Register;
            let authenticator = Arc::new(StoreAuthenticator::new(
                store.clone(),
                control.clone(),
                !config.mqtt_authenticates(),
                registers,
            ));
            let started = Broker::start(
                config.mqtt.limits.clone(),
                mqtt_source.clone(),
                config.mappings()?,
                intake.clone(),
                authenticator,
            )
            .context("the MQTT broker")?;
            let (listener, address) = bind("mqtt", config.mqtt.listen).await?;
            addresses.mqtt = Some(address);
            listeners.push(tokio::spawn(started.clone().serve(listener, None)));
            if let (Some(listen), Some(tls)) = (config.mqtt.listen_tls, &config.mqtt.tls) {
                let tls = ServerTls::load(tls.clone(), &[]).context("the certificate of MQTT")?;
                let (listener, address) = bind("mqtt over TLS", listen).await?;
                addresses.mqtt_tls = Some(address);
                certificates.push(tls.clone());
                listeners.push(tokio::spawn(started.clone().serve(listener, Some(tls))));
            }
            broker = Some(started);
        }
        let registers = config.http_unknown() == UnknownDevices::Register;
        let anonymous = !config.http_authenticates();
        let authenticator =
            Arc::new(StoreAuthenticator::new(store.clone(), control.clone(), anonymous, registers));
        let limits = HttpOptions {
            anonymous_remote: config.http.allow_anonymous_remote,
            ..config.http.limits.clone()
        };
        let ingest = watchfire_ingest::http::router(
            limits,
            http_source.clone(),
            config.http_mappings()?,
            intake.clone(),
            authenticator,
        );
        let active = Arc::new(ActiveAlerts::new(store.clone()));
        let following = {
            let notifier = notifier.clone();
            let settings = move || notifier.settings();
            follow_silences(store.clone(), active.clone(), settings, clock.clone(), stop.clone())
        };
        listeners.push(tokio::spawn(following));
        let api = watchfire_api::router(Services {
            control,
            store: store.clone(),
            log: spine,
            engine: EngineAdapter::new(engine.clone()),
            works,
            intake: Arc::new(IntakeAdapter {
                intake: intake.clone(),
                mqtt: (mqtt_source, config.mappings()?),
                http: (http_source, config.http_mappings()?),
                subscriber: {
                    let options = &config.source.mqtt;
                    (
                        source(watchfire_ingest::mqtt_source::NAME, options.unknown_devices),
                        options.mappings()?,
                    )
                },
                kafka: {
                    let options = config.source.kafka.clone();
                    let mappings = options.mappings()?;
                    (source(watchfire_ingest::kafka::NAME, options.unknown_devices), options, mappings)
                },
            }),
            receivers: Arc::new(NotifierAdapter(notifier.clone())),
            active,
            links: links.clone(),
            sources: {
                let sources = sources.clone();
                Arc::new(move || sources.list())
            },
            sinks: sinks.clone(),
            log_level: telemetry::level(),
            archiver: Arc::new(Backups {
                store: store.clone(),
                log: log.clone(),
                engine: engine.clone(),
                data: data.clone(),
                reserve_bytes: config.log.reserve_bytes,
            }),
            projection: projector.projection(),
            clock,
            stop: stop.clone(),
            options: ApiOptions {
                anonymous: config.http.anonymous,
                scratch: data.join("scratch"),
                ready_lag: if config.engine.ready_lag == 0 { 10_000 } else { config.engine.ready_lag },
                resolve_timeout: config.alertmanager.resolve_timeout,
                shelve: config.alerts.shelve(),
            },
        });
        let tls = config.http.tls.clone().map(|tls| ServerTls::load(tls, &["h2", "http/1.1"])).transpose();
        let tls = tls.context("the certificate of HTTP")?;
        certificates.extend(tls.clone());
        let (listener, address) = bind("http", config.http.listen).await?;
        addresses.http = address;
        // Both routers have fallbacks of their own: addresses of telemetry are told apart before.
        let router = axum::Router::new().merge(ingest).fallback_service(api);
        let serving = listen::serve(listener, router, tls, config.http.connections.clone(), stop.clone());
        listeners.push(tokio::spawn(serving));
        watchfire_telemetry::metrics().api.config_in_force.set(1);
        tracing::info!(http = %addresses.http, mqtt = ?addresses.mqtt, mqtt_tls = ?addresses.mqtt_tls, "watchfire runs");
        Ok(Self {
            addresses,
            log,
            store,
            projector,
            engine,
            notifier,
            links,
            sinks,
            broker,
            sources,
            certificates,
            stop,
            listeners,
            tidying,
            intake,
            repeats,
            saving,
            _lock: lock,
        })
    }

    /// The partition loop.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes over receivers, routes, certificates and the level of the log from a configuration; the rest of it
    /// counts from the next start. Where one of them cannot be used, all of them stay as they were.
    pub fn reload(&self, config: &Config) -> Result<()> {
        config.check()?;
        let prepared = Prepared::new(config.notify())?;
        let fresh: Vec<_> = self.certificates.iter().map(|tls| tls.prepare()).collect::<Result<_, _>>()?;
        // Everything could be built: from here on nothing fails.
        self.certificates.iter().zip(fresh).for_each(|(tls, fresh)| tls.swap(fresh));
        self.links.set_base(config.notify().public_url);
        self.notifier.apply(prepared);
        // Where somebody else holds the subscriber of the process there is no level to set.
        let _ = telemetry::level().set(&config.telemetry.level);
        watchfire_telemetry::metrics().api.config_in_force.set(1);
        Ok(())
    }

    /// Takes everything down: each step ends once the one before it sends nothing more.
    pub async fn stop(self) -> Result<()> {
        tracing::info!("stopping: no more readings are taken");
        if let Some(broker) = &self.broker {
            broker.stop().await;
        }
        self.sources.stop().await;
        self.stop.cancel();
        for listener in self.listeners {
            let _ = listener.await;
        }
        self.saving.abort();
        if let Err(error) = self.intake.save_repeats(&self.repeats).await {
            tracing::warn!(%error, "the memory of repeats could not be written: the next start reads more of the log");
        }
        // Everything that was taken is durable now: it was acknowledged. The loop evaluates it.
        // From here on a database that takes nothing does not hold the loop up.
        self.store.ending();
        let engine = self.engine.clone();
        blocking(move || engine.stop()).await?;
        self.projector.stop().await;
        self.sinks.stop().await;
        self.notifier.stop().await;
        let log = self.log.clone();
        blocking(move || log.close()).await?;
        drop(self.tidying);
        self.store.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// `watchfire serve`: runs until SIGTERM or SIGINT, then drains; a second signal ends at once. SIGHUP reads
/// the configuration again, for what can change while running. `compiler` as in [`Server::start_with`].
pub async fn run(
    load: impl Fn() -> Result<Config>,
    clock: Arc<dyn Clock>,
    compiler: Option<PathBuf>,
) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let server = Server::start_with(load()?, clock, compiler).await?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // What is in the log is evaluated by the process that comes next.
            said = server.engine().failed() => bail!("a thread of the partition loop has panicked: {said}"),
            _ = hang_up.recv() => match load().and_then(|config| server.reload(&config)) {
                Ok(()) => tracing::info!("receivers, routes, certificates and the level of the log are as configured now"),
                Err(error) => {
                    watchfire_telemetry::metrics().api.config_in_force.set(0);
                    tracing::error!(error = format!("{error:#}"), "the configuration stays as it was");
                }
            },
        }
    }
    tokio::select! {
        stopped = server.stop() => stopped,
        _ = terminate.recv() => bail!("ended by a second signal, without a checkpoint"),
        _ = interrupt.recv() => bail!("ended by a second signal, without a checkpoint"),
    }
}

async fn save_repeats(intake: Arc<Intake>, file: PathBuf) {
    loop {
        tokio::time::sleep(SAVE_REPEATS).await;
        if let Err(error) = intake.save_repeats(&file).await {
            tracing::warn!(%error, "the memory of repeats could not be written; it is tried again");
        }
    }
}

/// Makes the data folder, closed to others, and takes it for this process.
fn lock_folder(folder: &Path) -> Result<File> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("the data folder {} cannot be made", folder.display()))?;
    let path = folder.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("{} cannot be written", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("the data folder {} is in use by another process", folder.display())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} cannot be locked", path.display()))
        }
    }
}

/// The partitions of a log that is there: it keeps them when it moves to a machine with other cores.
fn existing_partitions(folder: &Path, wanted: u16) -> Result<Option<u16>> {
    let path = folder.join("FORMAT");
    if wanted != 0 || !path.is_file() {
        return Ok(None);
    }
    // What else is wrong with it the log says itself.
    let format: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?).unwrap_or_default();
    Ok(format["partitions"].as_u64().and_then(|count| u16::try_from(count).ok()))
}

async fn bind(what: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("{what} cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}
