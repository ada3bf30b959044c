//! The control API.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The control API and the projector behind it.
#[derive(Debug, Default)]
pub struct ApiMetrics {
    /// Requests answered, by the class of the status.
    requests: Family<[(&'static str, &'static str); 1], Counter>,
    /// Control records appended.
    pub commands: Counter,
    /// Records of the log that the store's tables lack.
    pub projector_lag: Gauge,
    /// Dead letters that were written to the store.
    pub dead_letters: Counter,
    /// 1: the configuration that was read last is in force; 0: it could not be used, and the one before it is.
    pub config_in_force: Gauge,
    /// What others said of their alerts, by `status`: `firing` or `resolved`.
    pub external_received: Family<[(&'static str, &'static str); 1], Counter>,
    /// What others said of their alerts and made no sense.
    pub external_invalid: Counter,
    /// What others said again of their alerts without need for a record.
    pub external_unchanged: Counter,
    /// Heartbeats, by `outcome`: `sent`, `failed`, or `withheld` because a part stands still.
    pub heartbeats: Family<[(&'static str, &'static str); 1], Counter>,
}

impl ApiMetrics {
    /// Counts an answered request.
    pub fn count(&self, status: u16) {
        let class = match status {
            ..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&[("class", class)]).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("api_requests", "Requests answered", self.requests.clone());
        registry.register("heartbeats", "Heartbeats to somebody outside", self.heartbeats.clone());
        registry.register("api_commands", "Control records appended", self.commands.clone());
        registry.register(
            "projector_lag_records",
            "Records of the log that the store's tables lack",
            self.projector_lag.clone(),
        );
        registry.register(
            "config_in_force",
            "Whether the configuration that was read last is in force",
            self.config_in_force.clone(),
        );
        registry.register(
            "external_alerts_received",
            "What others said of their alerts",
            self.external_received.clone(),
        );
        registry.register(
            "external_alerts_invalid",
            "What others said of their alerts and made no sense",
            self.external_invalid.clone(),
        );
        registry.register(
            "external_alerts_unchanged",
            "What others said again of their alerts without need for a record",
            self.external_unchanged.clone(),
        );
        registry.register(
            "dead_letters_stored",
            "Dead letters written to the store",
            self.dead_letters.clone(),
        );
    }
}
