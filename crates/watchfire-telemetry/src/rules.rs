//! The partition loop and the rules.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::{Labels, seconds};

/// The partition loop and the rules.
#[derive(Debug)]
pub struct RuleMetrics {
    /// Records evaluated.
    pub records: Counter,
    /// Rows of them.
    pub rows: Counter,
    /// Callbacks made, by rule.
    pub calls: Family<Labels<1>, Counter>,
    /// Rows that rules saw, by rule.
    pub rule_rows: Family<Labels<1>, Counter>,
    /// Seconds in callbacks, by rule.
    pub call_seconds: Family<Labels<1>, Counter<f64, AtomicU64>>,
    /// Callbacks that failed, by kind of failure.
    pub failures: Family<Labels<1>, Counter>,
    /// How the breaker of a rule stands, by partition and rule: 0 closed, 1 open, 2 closed and catching up.
    pub breaker: Family<Labels<2>, Gauge>,
    /// Breakers that opened, by rule.
    pub breaker_opened: Family<Labels<1>, Counter>,
    /// Rows that a rule did not see when they came, because it was out or catching up, by rule.
    pub missed_rows: Family<Labels<1>, Counter>,
    /// Rows of those that it was given since, by rule.
    pub caught_up_rows: Family<Labels<1>, Counter>,
    /// Records of which nobody knows what a rule missed of them, because they are not kept any more, by rule.
    pub missed_lost: Family<Labels<1>, Counter>,
    /// Readings that rules emitted for devices which are not registered: dropped.
    pub emitted_unknown: Counter,
    /// Records that are not evaluated yet, by partition.
    pub lag: Family<Labels<1>, Gauge>,
    /// Partitions that stand still: 1 until the engine is started again.
    pub standing: Family<Labels<1>, Gauge>,
    /// Seconds from the append of a record to its evaluation.
    pub append_to_evaluated: Histogram,
    /// Seconds that writing a checkpoint took.
    pub checkpoint_seconds: Histogram,
    /// Checkpoints that could not be written.
    pub checkpoint_failures: Counter,
    /// Ticks appended because something was due and nothing came.
    pub ticks: Counter,
    /// Modules compiled.
    pub modules_compiled: Counter,
    /// Seconds spent on that, in the background.
    pub module_compile_seconds: Counter<f64, AtomicU64>,
    /// Modules found compiled on disk.
    pub module_cache_hits: Counter,
}

impl Default for RuleMetrics {
    fn default() -> Self {
        Self {
            records: Default::default(),
            rows: Default::default(),
            calls: Default::default(),
            rule_rows: Default::default(),
            call_seconds: Default::default(),
            failures: Default::default(),
            breaker: Default::default(),
            breaker_opened: Default::default(),
            missed_rows: Default::default(),
            caught_up_rows: Default::default(),
            missed_lost: Default::default(),
            emitted_unknown: Default::default(),
            lag: Default::default(),
            standing: Default::default(),
            append_to_evaluated: seconds(),
            checkpoint_seconds: seconds(),
            checkpoint_failures: Default::default(),
            ticks: Default::default(),
            modules_compiled: Default::default(),
            module_compile_seconds: Default::default(),
            module_cache_hits: Default::default(),
        }
    }
}

impl RuleMetrics {
    /// Counts a failed callback.
    pub fn failed(&self, kind: impl std::fmt::Debug) {
        self.failures.get_or_create(&[("kind", format!("{kind:?}").to_lowercase())]).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("records", "Records evaluated by the partition loop", self.records.clone());
        registry.register("rows", "Rows of those records", self.rows.clone());
        registry.register("rule_calls", "Callbacks made", self.calls.clone());
        registry.register("rule_rows", "Rows that rules saw", self.rule_rows.clone());
        registry.register("rule_call_seconds", "Seconds in callbacks", self.call_seconds.clone());
        registry.register("rule_failures", "Callbacks that failed", self.failures.clone());
        registry.register(
            "rule_breaker",
            "How the breaker of a rule stands: 0 closed, 1 open, 2 closed and catching up",
            self.breaker.clone(),
        );
        registry.register("rule_breaker_opened", "Breakers that opened", self.breaker_opened.clone());
        registry.register(
            "rule_missed_rows",
            "Rows that a rule did not see when they came, because it was out or catching up",
            self.missed_rows.clone(),
        );
        registry.register(
            "rule_caught_up_rows",
            "Rows that a rule had missed and was given since",
            self.caught_up_rows.clone(),
        );
        registry.register(
            "rule_missed_lost_records",
            "Records that were not kept until a rule could catch up with them",
            self.missed_lost.clone(),
        );
        registry.register(
            "emitted_unknown",
            "Readings that rules emitted for unknown devices",
            self.emitted_unknown.clone(),
        );
        registry.register("engine_lag", "Records not evaluated yet", self.lag.clone());
        registry.register("partition_standing", "Partitions that stand still", self.standing.clone());
        registry.register(
            "append_to_evaluated_seconds",
            "Seconds from the append of a record to its evaluation",
            self.append_to_evaluated.clone(),
        );
        registry.register(
            "checkpoint_seconds",
            "Seconds that writing a checkpoint took",
            self.checkpoint_seconds.clone(),
        );
        registry.register(
            "checkpoint_failures",
            "Checkpoints that could not be written",
            self.checkpoint_failures.clone(),
        );
        registry.register("ticks", "Ticks appended because something was due", self.ticks.clone());
        registry.register("modules_compiled", "Modules compiled", self.modules_compiled.clone());
        registry.register(
            "module_compile_seconds",
            "Seconds spent compiling modules, in the background",
            self.module_compile_seconds.clone(),
        );
        registry.register(
            "module_cache_hits",
            "Modules found compiled on disk",
            self.module_cache_hits.clone(),
        );
    }
}
