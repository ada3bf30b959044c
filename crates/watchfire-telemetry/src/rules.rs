//! The partition loop and the rules.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The partition loop and the rules.
#[derive(Debug, Default)]
pub struct RuleMetrics {
    /// Records evaluated.
    pub records: Counter,
}

impl RuleMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("records", "Records evaluated by the partition loop", self.records.clone());
    }
}
