//! Sinks.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::{Labels, seconds};

/// Sinks, each by its name as the label `sink`.
#[derive(Debug)]
pub struct SinkMetrics {
    /// Readings, transitions and other records written.
    pub rows: Family<Labels<1>, Counter>,
    /// Rows that the service refused for themselves: dead letters.
    pub refused: Family<Labels<1>, Counter>,
    /// Attempts that failed, by `code`.
    pub failures: Family<Labels<2>, Counter>,
    /// Parts of the log that the service never got.
    pub gaps: Family<Labels<1>, Counter>,
    /// Records that the service does not have yet.
    pub behind: Family<Labels<1>, Gauge>,
    /// 1 while a lane gets nothing through.
    pub down: Family<Labels<1>, Gauge>,
    /// How long a chunk takes to be committed.
    pub write_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    /// From the receipt by the log to the commit at the service, of the newest record of each chunk.
    pub lag_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
}

impl Default for SinkMetrics {
    fn default() -> Self {
        Self {
            rows: Family::default(),
            refused: Family::default(),
            failures: Family::default(),
            gaps: Family::default(),
            behind: Family::default(),
            down: Family::default(),
            write_seconds: Family::new_with_constructor(seconds),
            lag_seconds: Family::new_with_constructor(seconds),
        }
    }
}

impl SinkMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("sink_rows", "Readings, transitions and other records written", self.rows.clone());
        registry.register(
            "sink_refused_rows",
            "Rows that the service refused for themselves",
            self.refused.clone(),
        );
        registry.register("sink_failures", "Attempts to write that failed", self.failures.clone());
        registry.register("sink_gaps", "Parts of the log that the service never got", self.gaps.clone());
        registry.register(
            "sink_behind_records",
            "Records that the service does not have yet",
            self.behind.clone(),
        );
        registry.register("sink_down", "1 while a lane gets nothing through", self.down.clone());
        registry.register(
            "sink_write_seconds",
            "How long a chunk takes to be committed",
            self.write_seconds.clone(),
        );
        registry.register(
            "sink_lag_seconds",
            "From the receipt by the log to the commit at the service",
            self.lag_seconds.clone(),
        );
    }
}
