//! The log and its readers.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The log and its readers.
#[derive(Debug)]
pub struct LogMetrics {
    /// Groups synced.
    pub groups: Counter,
    /// Records synced.
    pub records: Counter,
    /// Bytes synced.
    pub bytes: Counter,
    /// How long a sync takes.
    pub sync: Histogram,
    /// From the first append to a group until the group is synced.
    pub append_wait: Histogram,
    /// Bytes appended and not synced yet.
    pub queued: Gauge,
    /// Appends refused: queue full, disk full, clock not trusted, writing failed.
    pub refused: Counter,
    /// Writes and syncs that failed.
    pub write_failures: Counter,
    /// Groups read from the disk because memory did not hold them any more.
    pub disk_reads: Counter,
    /// Segments kept.
    pub segments: Gauge,
    /// Bytes of the segments kept.
    pub kept: Gauge,
    /// Bytes free on the disk of the log.
    pub free: Gauge,
    /// 1 while intake is paused.
    pub paused: Gauge,
    /// Readers detached because they held more than they may.
    pub detached: Counter,
    /// Readers that were detached and lost a part of the log: to be alarmed on, until they are removed.
    pub detached_readers: Gauge,
}

impl Default for LogMetrics {
    fn default() -> Self {
        Self {
            groups: Counter::default(),
            records: Counter::default(),
            bytes: Counter::default(),
            sync: crate::seconds(),
            append_wait: crate::seconds(),
            queued: Gauge::default(),
            refused: Counter::default(),
            write_failures: Counter::default(),
            disk_reads: Counter::default(),
            segments: Gauge::default(),
            kept: Gauge::default(),
            free: Gauge::default(),
            paused: Gauge::default(),
            detached: Counter::default(),
            detached_readers: Gauge::default(),
        }
    }
}

impl LogMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("log_groups", "Groups synced", self.groups.clone());
        registry.register("log_records", "Records synced", self.records.clone());
        registry.register_with_unit("log_written", "Bytes synced", Unit::Bytes, self.bytes.clone());
        registry.register_with_unit("log_sync", "How long a sync takes", Unit::Seconds, self.sync.clone());
        registry.register_with_unit(
            "log_append_wait",
            "From the first append to a group until the group is synced",
            Unit::Seconds,
            self.append_wait.clone(),
        );
        registry.register_with_unit(
            "log_queued",
            "Appended and not synced yet",
            Unit::Bytes,
            self.queued.clone(),
        );
        registry.register("log_refused_appends", "Appends refused", self.refused.clone());
        registry.register("log_write_failures", "Writes and syncs that failed", self.write_failures.clone());
        registry.register(
            "log_disk_reads",
            "Groups read from the disk because memory did not hold them any more",
            self.disk_reads.clone(),
        );
        registry.register("log_segments", "Segments kept", self.segments.clone());
        registry.register_with_unit("log_kept", "Size of the segments kept", Unit::Bytes, self.kept.clone());
        registry.register_with_unit(
            "log_free",
            "Free on the disk of the log",
            Unit::Bytes,
            self.free.clone(),
        );
        registry.register("log_paused", "1 while intake is paused", self.paused.clone());
        registry.register(
            "log_readers_lacking",
            "Readers that were detached and lost a part of the log",
            self.detached_readers.clone(),
        );
        registry.register(
            "log_detached_readers",
            "Readers detached because they held more than they may",
            self.detached.clone(),
        );
    }
}
