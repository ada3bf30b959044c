//! Sources that connect to a service by themselves.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::Labels;

/// Sources that connect to a service by themselves.
#[derive(Debug, Default)]
pub struct SourceMetrics {
    /// 1 while it reads, 0 while it waits or is stopped, by source.
    pub up: Family<Labels<1>, Gauge>,
    /// Records or messages read, by source.
    pub records: Family<Labels<1>, Counter>,
    /// Records that lie there and are not durable here, by source and topic.
    pub lag: Family<Labels<2>, Gauge>,
    /// Partitions that this node reads, by source.
    pub partitions: Family<Labels<1>, Gauge>,
    /// Errors, by source and code.
    pub errors: Family<Labels<2>, Counter>,
    /// Records that were deleted there before they were read, by source.
    pub lost: Family<Labels<1>, Counter>,
}

impl SourceMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("source_up", "1 while the source reads", self.up.clone());
        registry.register("source_records", "Records or messages read", self.records.clone());
        registry.register("source_lag", "Records that are not durable here yet", self.lag.clone());
        registry.register("source_partitions", "Partitions that this node reads", self.partitions.clone());
        registry.register("source_errors", "Errors of the service or the way to it", self.errors.clone());
        registry.register(
            "source_lost",
            "Records that were deleted there before they were read",
            self.lost.clone(),
        );
    }
}
