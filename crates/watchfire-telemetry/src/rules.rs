//! The partition loop and the rules.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The partition loop and the rules.
#[derive(Debug, Default)]
pub struct RuleMetrics {
    /// Records evaluated.
    pub records: Counter,
    /// Modules compiled.
    pub modules_compiled: Counter,
    /// Seconds spent on that, in the background.
    pub module_compile_seconds: Counter<f64, AtomicU64>,
    /// Modules found compiled on disk.
    pub module_cache_hits: Counter,
}

impl RuleMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("records", "Records evaluated by the partition loop", self.records.clone());
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
