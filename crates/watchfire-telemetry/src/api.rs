//! The control API.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The control API.
#[derive(Debug, Default)]
pub struct ApiMetrics {
    /// Requests answered.
    pub requests: Counter,
}

impl ApiMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("api_requests", "Requests answered", self.requests.clone());
    }
}
