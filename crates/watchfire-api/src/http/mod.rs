//! The handlers: parse, call, convert. One file for each noun.

mod alerts;
mod audit;
mod backup;
mod breakers;
mod bulk;
mod clock;
mod dead_letters;
mod deliveries;
mod devices;
pub(crate) mod envelope;
pub(crate) mod extract;
pub(crate) mod health;
mod links;
mod modules;
mod page;
mod plan;
mod quality;
mod receivers;
mod recorded;
mod rerun;
mod responses;
mod rules;
mod service;
mod silences;
mod sinks;
mod streams;
mod tokens;
mod why;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi as OpenApiDocument;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use watchfire_log::clock::Clock;
use watchfire_model::{Duration, Timestamp, chain};
use watchfire_store::Store;

use crate::alertmanager::ActiveAlerts;
use crate::alertmanager::post::Said;
use crate::alertmanager::silenced::Silences;
use crate::auth::{Anonymous, Caller};
use crate::contract::{Archiver, EngineView, LogLevel, ModuleWorks, Receivers, Resubmit, Sinks, SourceInfo};
use crate::control::ControlPlane;
use crate::links::SignedLinks;
use crate::problem::Problem;
use crate::projector::Projection;

/// Bytes of a body at most, where a call says nothing else.
const BODY: usize = 1 << 20;

/// Bytes of a component at most: the largest runtime in use takes 18 MB.
const MODULE: usize = 128 << 20;

/// Bytes of a list of devices at most: about half a million.
const IMPORT: usize = 64 << 20;

/// Event streams that are open at the same time, at most.
const EVENT_STREAMS: usize = 256;

/// What the handlers work with.
pub struct Services {
    /// The only way to change registry and rules.
    pub control: Arc<ControlPlane>,
    /// Alerts, deliveries, dead letters, tokens, the audit trail.
    pub store: Store,
    /// For live streams.
    pub log: Arc<dyn watchfire_log::Log>,
    /// The partition loop.
    pub engine: Arc<dyn EngineView>,
    /// The rule host.
    pub works: Arc<dyn ModuleWorks>,
    /// Where dead letters go once more.
    pub intake: Arc<dyn Resubmit>,
    /// Who is notified.
    pub receivers: Arc<dyn Receivers>,
    /// The alerts that are active.
    pub active: Arc<ActiveAlerts>,
    /// What signs the links of messages.
    pub links: Arc<SignedLinks>,
    /// The sources that connect to services by themselves.
    pub sources: Arc<dyn Fn() -> Vec<SourceInfo> + Send + Sync>,
    /// Where results flow to.
    pub sinks: Arc<dyn Sinks>,
    /// The level of the process's log.
    pub log_level: Arc<dyn LogLevel>,
    /// Makes backups.
    pub archiver: Arc<dyn Archiver>,
    /// How far the store follows the log.
    pub projection: Projection,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The server ends: event streams, which have no end of their own, end with it.
    pub stop: CancellationToken,
    /// What the operator chose.
    pub options: ApiOptions,
}

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Who may come without a token.
    pub anonymous: Anonymous,
    /// Where a backup is put together before it is sent. It is emptied at each backup.
    pub scratch: PathBuf,
    /// `/-/ready` says no while a partition is further behind than this many records.
    pub ready_lag: u64,
    /// An alert of others that says no end is over so long after it was said last.
    pub resolve_timeout: Duration,
    /// For how long alerts may be shelved.
    pub shelve: watchfire_store::ShelvePolicy,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            anonymous: Anonymous::default(),
            scratch: std::env::temp_dir(),
            ready_lag: 10_000,
            resolve_timeout: Duration::from_secs(300),
            shelve: watchfire_store::ShelvePolicy::default(),
        }
    }
}

pub(crate) struct State {
    services: Services,
    pub(crate) silences: Silences,
    /// What was said of alerts of others and is in the log.
    pub(crate) said: Said,
    /// Who follows links how often.
    visitors: links::Visitors,
    /// Since when the API is there.
    pub(crate) started: Timestamp,
    event_streams: Arc<Semaphore>,
    /// Dead letters that are being replayed at this moment.
    replaying: Mutex<BTreeSet<String>>,
    /// Where the log ended at the start, by partition: up to there the tables must be before a letter is used, since it
    /// may have been just before the process ended.
    ended: Vec<u64>,
    /// One backup at a time: each is a copy of everything.
    backup: Arc<Semaphore>,
    /// Who reads the log from the disk.
    reading_log: Arc<Semaphore>,
    openapi: std::sync::OnceLock<OpenApiDocument>,
}

impl std::ops::Deref for State {
    type Target = Services;
    fn deref(&self) -> &Services {
        &self.services
    }
}

impl State {
    /// Writes down who did what; `refused` says why it came to nothing. What was done is done: a trail that
    /// cannot be written is an error in the log, and the answer stands.
    pub(crate) async fn audit(&self, caller: &Caller, action: &str, subject: &str, refused: Option<String>) {
        let outcome = if refused.is_some() { "refused" } else { "done" };
        let entry = watchfire_store::AuditRow {
            sequence: 0,
            at: self.clock.wall(),
            actor: caller.name.clone(),
            action: action.to_string(),
            subject: subject.to_string(),
            request: Some(caller.request.clone()),
            outcome: outcome.to_string(),
            detail: refused,
        };
        if let Err(error) = self.store.add_audit(&entry).await {
            tracing::error!(action, subject, error = chain(&error), "the audit trail could not be written");
        }
        tracing::info!(actor = caller.name, action, subject, outcome, "a command");
    }
}

pub(crate) type AppState = Arc<State>;

/// A body that says why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Reason {
    /// Why; kept with what was done.
    pub(crate) reason: Option<String>,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Watchfire",
    description = "Rules and alerts for device fleets. Errors are problem documents (RFC 9457) with the \
                   request id. Times are RFC 3339 in UTC; on input also integer milliseconds since the epoch."
))]
struct Document;

/// Everything under `/api/v1` and `/alertmanager`, the pages behind links, and `/metrics`, `/-/healthy`, `/-/ready` beside it.
pub fn router(services: Services) -> Router {
    let log = &services.log;
    let state = Arc::new(State {
        ended: (0..log.partitions())
            .map(|partition| log.range(watchfire_model::PartitionId(partition)).1)
            .collect(),
        silences: Silences::new(services.store.clone()),
        said: Said::default(),
        visitors: links::Visitors::default(),
        started: services.clock.wall(),
        services,
        event_streams: Arc::new(Semaphore::new(EVENT_STREAMS)),
        replaying: Mutex::default(),
        backup: Arc::new(Semaphore::new(1)),
        reading_log: Arc::new(Semaphore::new(recorded::AT_ONCE)),
        openapi: std::sync::OnceLock::new(),
    });
    let (router, document) = describe().split_for_parts();
    let _ = state.openapi.set(document);
    router
        .nest(crate::alertmanager::BASE, crate::alertmanager::router())
        .merge(links::router(&state))
        .fallback(async |uri: axum::http::Uri| Problem::not_found("address", uri.path()))
        .method_not_allowed_fallback(async || {
            Problem::new(
                axum::http::StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "this address does not take this method",
            )
        })
        .layer(axum::middleware::from_fn(crate::alertmanager::cross_origin))
        .layer(axum::middleware::from_fn_with_state(state.clone(), envelope::envelope))
        .with_state(state)
}

/// The OpenAPI document, generated from the handlers that the router calls.
pub fn openapi() -> OpenApiDocument {
    describe().split_for_parts().1
}

/// Each handler is named once, for the router and the document alike.
fn describe() -> OpenApiRouter<AppState> {
    let uploads = OpenApiRouter::new()
        .routes(routes!(modules::list_modules, modules::add_module))
        .layer(DefaultBodyLimit::max(MODULE));
    let imports =
        OpenApiRouter::new().routes(routes!(devices::import_devices)).layer(DefaultBodyLimit::max(IMPORT));
    let api = OpenApiRouter::new()
        .routes(routes!(modules::get_module, modules::delete_module))
        .routes(routes!(rules::list_rules))
        .routes(routes!(rules::get_rule, rules::put_rule, rules::delete_rule))
        .routes(routes!(rules::list_rule_versions))
        .routes(routes!(rules::rule_difference))
        .routes(routes!(rules::roll_back_rule))
        .routes(routes!(rules::pause_rule))
        .routes(routes!(rules::resume_rule))
        .routes(routes!(breakers::list_outages))
        .routes(routes!(breakers::catch_up_rule))
        .routes(routes!(breakers::skip_missed_of_rule))
        .routes(routes!(rules::tail_rule))
        .routes(routes!(devices::list_devices))
        .routes(routes!(devices::get_device, devices::put_device, devices::delete_device))
        .routes(routes!(devices::device_state))
        .routes(routes!(devices::device_why))
        .routes(routes!(recorded::device_readings))
        .routes(routes!(devices::list_credentials, devices::add_credential))
        .routes(routes!(devices::delete_credential))
        .routes(routes!(alerts::list_alerts))
        .routes(routes!(alerts::alert_events))
        .routes(routes!(alerts::get_alert))
        .routes(routes!(quality::alert_statistics))
        .routes(routes!(responses::acknowledge_alert))
        .routes(routes!(responses::unacknowledge_alert))
        .routes(routes!(responses::confirm_alert))
        .routes(routes!(responses::shelve_alert))
        .routes(routes!(responses::unshelve_alert))
        .routes(routes!(responses::assign_alert))
        .routes(routes!(responses::comment_alert))
        .routes(routes!(responses::acknowledge_alerts))
        .routes(routes!(responses::shelve_alerts))
        .routes(routes!(responses::list_shelves))
        .routes(routes!(
            service::list_out_of_service,
            service::put_out_of_service,
            service::delete_out_of_service
        ))
        .routes(routes!(alerts::reset_alert))
        .routes(routes!(why::alert_why))
        .routes(routes!(rerun::rerun_alert))
        .routes(routes!(silences::list_silences, silences::set_silence))
        .routes(routes!(silences::forgotten_silences))
        .routes(routes!(silences::get_silence, silences::expire_silence))
        .routes(routes!(streams::list_streams))
        .routes(routes!(streams::tail_stream))
        .routes(routes!(dead_letters::list_dead_letters))
        .routes(routes!(dead_letters::get_dead_letter, dead_letters::delete_dead_letter))
        .routes(routes!(dead_letters::replay_dead_letter))
        .routes(routes!(bulk::replay_dead_letters))
        .routes(routes!(deliveries::list_deliveries))
        .routes(routes!(deliveries::get_delivery))
        .routes(routes!(receivers::list_receivers))
        .routes(routes!(receivers::test_receiver))
        .routes(routes!(sinks::list_sinks))
        .routes(routes!(sinks::device_history))
        .routes(routes!(tokens::list_tokens, tokens::add_token))
        .routes(routes!(tokens::revoke_token))
        .routes(routes!(audit::list_audit))
        .routes(routes!(health::get_log_level, health::put_log_level))
        .routes(routes!(health::status))
        .routes(routes!(clock::confirm_clock))
        .routes(routes!(health::openapi_json))
        .routes(routes!(backup::backup))
        .layer(DefaultBodyLimit::max(BODY))
        .merge(uploads)
        .merge(imports);
    OpenApiRouter::with_openapi(Document::openapi())
        .nest("/api/v1", api)
        .routes(routes!(health::metrics))
        .routes(routes!(health::healthy))
        .routes(routes!(health::ready))
}

/// What went wrong in the store, in outside words.
impl From<crate::contract::Busy> for Problem {
    fn from(busy: crate::contract::Busy) -> Self {
        Self::unavailable("engine-busy", busy.0)
    }
}

impl From<watchfire_store::StoreError> for Problem {
    fn from(error: watchfire_store::StoreError) -> Self {
        use watchfire_store::StoreError;
        match error {
            StoreError::NotFound { what, id } => Self::not_found(what, &id),
            StoreError::Refused(detail) => Self::conflict("refused", detail),
            error @ StoreError::Cursor(_) => {
                Self::bad_request("query", error.to_string()).with("parameter", "cursor")
            }
            StoreError::DiskFull { .. } => Self::unavailable("disk-full", "the disk is full"),
            error => Self::internal(&error),
        }
    }
}
