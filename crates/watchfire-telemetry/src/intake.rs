//! Sources and decode.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::{Labels, seconds};

/// Sources and decode.
#[derive(Debug)]
pub struct IntakeMetrics {
    /// Readings appended durably and acknowledged.
    pub readings: Counter,
    /// Bytes of payloads received, by source.
    pub bytes: Family<Labels<1>, Counter>,
    /// Items that became dead letters, by code.
    pub rejects: Family<Labels<1>, Counter>,
    /// Exact repeats that were recognised.
    pub repeats: Counter,
    /// Devices registered because they sent something.
    pub registered: Counter,
    /// Open connections, by source.
    pub connections: Family<Labels<1>, Gauge>,
    /// Connections and requests that were refused or ended by us, by source and reason.
    pub refused: Family<Labels<2>, Counter>,
    /// Times that a source stopped reading because the log took nothing, by reason.
    pub stalls: Family<Labels<1>, Counter>,
    /// Messages to subscribers that were given up because somebody read too slowly.
    pub fanout_lost: Counter,
    /// Readings of QoS 0 that were given up because the log took nothing.
    pub unpromised_lost: Counter,
    /// From a payload's receipt to its being durable.
    pub ack_seconds: Histogram,
    /// Decoding what was read at once.
    pub decode_seconds: Histogram,
}

impl Default for IntakeMetrics {
    fn default() -> Self {
        Self {
            readings: Counter::default(),
            bytes: Family::default(),
            rejects: Family::default(),
            repeats: Counter::default(),
            registered: Counter::default(),
            connections: Family::default(),
            refused: Family::default(),
            stalls: Family::default(),
            fanout_lost: Counter::default(),
            unpromised_lost: Counter::default(),
            ack_seconds: seconds(),
            decode_seconds: seconds(),
        }
    }
}

impl IntakeMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("readings", "Readings appended durably", self.readings.clone());
        registry.register("intake_bytes", "Bytes of payloads received", self.bytes.clone());
        registry.register("rejects", "Items that became dead letters", self.rejects.clone());
        registry.register("repeats", "Exact repeats that were recognised", self.repeats.clone());
        registry.register(
            "devices_registered_on_contact",
            "Devices registered because they sent something",
            self.registered.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register("refused", "Connections and requests refused or ended by us", self.refused.clone());
        registry.register(
            "intake_stalls",
            "Times that a source stopped reading because the log took nothing",
            self.stalls.clone(),
        );
        registry.register(
            "fanout_lost",
            "Messages to subscribers given up because somebody read too slowly",
            self.fanout_lost.clone(),
        );
        registry.register(
            "unpromised_lost",
            "Readings of QoS 0 given up because the log took nothing",
            self.unpromised_lost.clone(),
        );
        registry.register("ack_seconds", "From receipt to durable", self.ack_seconds.clone());
        registry.register("decode_seconds", "Decoding what was read at once", self.decode_seconds.clone());
    }
}
