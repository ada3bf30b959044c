//! What Watchfire says of itself. Every metric is a field of one of the structs below, so the list of
//! names is closed and a typing error does not compile. One file for each step of the path.
//!
//! Metrics are process-wide: [`metrics`] gives the one set there is.

use std::sync::OnceLock;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

mod alerts;
mod api;
mod intake;
mod log;
mod rules;
mod sinks;
mod sources;

pub use alerts::AlertMetrics;
pub use api::ApiMetrics;
pub use intake::IntakeMetrics;
pub use log::LogMetrics;
pub use rules::RuleMetrics;
pub use sinks::SinkMetrics;
pub use sources::SourceMetrics;

/// Labels of one name.
pub type Labels<const N: usize> = [(&'static str, String); N];

/// All metrics.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Sources and decode.
    pub intake: IntakeMetrics,
    /// Sources that connect to a service by themselves.
    pub sources: SourceMetrics,
    /// The log and its readers.
    pub log: LogMetrics,
    /// The partition loop and the rules.
    pub rules: RuleMetrics,
    /// Alerts and deliveries.
    pub alerts: AlertMetrics,
    /// Sinks.
    pub sinks: SinkMetrics,
    /// The control API.
    pub api: ApiMetrics,
}

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(Metrics::default)
}

/// All metrics in the Prometheus text format (OpenMetrics 1.0).
pub fn render() -> String {
    let mut registry = Registry::with_prefix("watchfire");
    let all = metrics();
    all.intake.register(&mut registry);
    all.sources.register(&mut registry);
    all.log.register(&mut registry);
    all.rules.register(&mut registry);
    all.alerts.register(&mut registry);
    all.sinks.register(&mut registry);
    all.api.register(&mut registry);
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

/// A histogram of seconds, from 10 microseconds to about 40 seconds, each bucket twice the one before.
pub fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(10e-6, 2.0, 23))
}
