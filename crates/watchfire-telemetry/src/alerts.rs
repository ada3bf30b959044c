//! Alerts and deliveries.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Alerts and deliveries.
#[derive(Debug, Default)]
pub struct AlertMetrics {
    /// Transitions committed.
    pub transitions: Counter,
}

impl AlertMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("alert_transitions", "Transitions committed", self.transitions.clone());
    }
}
