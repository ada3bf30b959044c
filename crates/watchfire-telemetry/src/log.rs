//! The log and its readers.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The log and its readers.
#[derive(Debug, Default)]
pub struct LogMetrics {
    /// Groups synced.
    pub groups: Counter,
}

impl LogMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("log_groups", "Groups synced", self.groups.clone());
    }
}
