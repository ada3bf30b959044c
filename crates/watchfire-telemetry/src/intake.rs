//! Sources and decode.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Sources and decode.
#[derive(Debug, Default)]
pub struct IntakeMetrics {
    /// Readings appended durably and acknowledged.
    pub readings: Counter,
    /// Items that became dead letters.
    pub rejects: Counter,
    /// Exact repeats that were recognised.
    pub repeats: Counter,
}

impl IntakeMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("readings", "Readings appended durably", self.readings.clone());
        registry.register("rejects", "Items that became dead letters", self.rejects.clone());
        registry.register("repeats", "Exact repeats that were recognised", self.repeats.clone());
    }
}
