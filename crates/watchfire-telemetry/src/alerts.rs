//! Alerts and deliveries.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::{Labels, seconds};

/// Seconds that people take: from one to eighteen hours.
const ACKNOWLEDGE: [f64; 9] = [1.0, 10.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14_400.0, 64_800.0];

/// Alerts and deliveries.
#[derive(Debug)]
pub struct AlertMetrics {
    /// Transitions committed.
    pub transitions: Counter,
    /// Transitions that did not fit the store and were repaired.
    pub repaired: Counter,
    /// Commits of alerts that failed and were tried again.
    pub store_failures: Counter,
    /// How long a commit of alerts takes.
    pub commit_seconds: Histogram,
    /// Alerts that are active, by `severity`.
    pub active: Family<Labels<1>, Gauge>,
    /// Alerts that have been active for more than a day.
    pub standing: Gauge,
    /// Alerts that are shelved.
    pub shelved: Gauge,
    /// Alerts that are suppressed: by design, or because something is out of service.
    pub suppressed: Gauge,
    /// Alerts that were raised in the last ten minutes.
    pub raised_lately: Gauge,
    /// What people did to alerts, and what of it ended by itself, by `kind`.
    pub responses: Family<Labels<1>, Counter>,
    /// From when a raise became known to its first acknowledgement.
    pub acknowledge_seconds: Histogram,
    /// Dead letters that the bounds of their table dropped.
    pub dead_letters_dropped: Counter,
    /// Rows of history that grew too old or too many and were removed, by `kind`.
    pub history_removed: Family<Labels<1>, Counter>,
    /// Outbox rows routed.
    pub routed: Counter,
    /// Deliveries that came to an end, by `receiver` and `state`.
    pub deliveries: Family<Labels<2>, Counter>,
    /// Attempts to deliver, by `receiver` and `outcome`.
    pub attempts: Family<Labels<2>, Counter>,
    /// From the creation of a delivery to its success, by `receiver`.
    pub delivery_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    /// The whole way: from the receipt of the reading, by the log, to a delivery that tells of it, by `receiver`.
    pub reading_to_delivered: Family<Labels<1>, Histogram, fn() -> Histogram>,
    /// Deliveries that were made for another receiver because one took nothing, by `receiver` and `to`.
    pub given_over: Family<Labels<2>, Counter>,
    /// Deliveries that wait, by `receiver`.
    pub pending: Family<Labels<1>, Gauge>,
    /// Age of the oldest delivery that waits, in seconds, by `receiver`.
    pub undelivered_age: Family<Labels<1>, Gauge>,
}

impl Default for AlertMetrics {
    fn default() -> Self {
        Self {
            transitions: Counter::default(),
            repaired: Counter::default(),
            store_failures: Counter::default(),
            commit_seconds: seconds(),
            active: Family::default(),
            standing: Gauge::default(),
            shelved: Gauge::default(),
            suppressed: Gauge::default(),
            raised_lately: Gauge::default(),
            responses: Family::default(),
            acknowledge_seconds: Histogram::new(ACKNOWLEDGE),
            dead_letters_dropped: Counter::default(),
            history_removed: Family::default(),
            routed: Counter::default(),
            deliveries: Family::default(),
            attempts: Family::default(),
            delivery_seconds: Family::new_with_constructor(seconds),
            reading_to_delivered: Family::new_with_constructor(seconds),
            pending: Family::default(),
            given_over: Family::default(),
            undelivered_age: Family::default(),
        }
    }
}

impl AlertMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("alert_transitions", "Transitions committed", self.transitions.clone());
        registry.register(
            "alert_transitions_repaired",
            "Transitions that did not fit the store and were repaired",
            self.repaired.clone(),
        );
        registry.register(
            "alert_store_failures",
            "Commits of alerts that failed and were tried again",
            self.store_failures.clone(),
        );
        registry.register(
            "alert_commit_seconds",
            "How long a commit of alerts takes",
            self.commit_seconds.clone(),
        );
        registry.register("alerts_active", "Alerts that are active", self.active.clone());
        registry.register(
            "alerts_standing",
            "Alerts that have been active for more than a day",
            self.standing.clone(),
        );
        registry.register("alerts_shelved", "Alerts that are shelved", self.shelved.clone());
        registry.register(
            "alerts_suppressed",
            "Alerts that are suppressed by design or because something is out of service",
            self.suppressed.clone(),
        );
        registry.register(
            "alerts_raised_lately",
            "Alerts that were raised in the last ten minutes",
            self.raised_lately.clone(),
        );
        registry.register(
            "alert_responses",
            "What people did to alerts, and what of it ended by itself",
            self.responses.clone(),
        );
        registry.register(
            "alert_acknowledge_seconds",
            "From when a raise became known to its first acknowledgement",
            self.acknowledge_seconds.clone(),
        );
        registry.register(
            "dead_letters_dropped",
            "Dead letters that the bounds of their table dropped",
            self.dead_letters_dropped.clone(),
        );
        registry.register(
            "history_removed",
            "Rows of history that grew too old or too many and were removed",
            self.history_removed.clone(),
        );
        registry.register("notices_routed", "Transitions that went through routing", self.routed.clone());
        registry.register("deliveries", "Deliveries that came to an end", self.deliveries.clone());
        registry.register("delivery_attempts", "Attempts to deliver", self.attempts.clone());
        registry.register(
            "delivery_seconds",
            "From the creation of a delivery to its success",
            self.delivery_seconds.clone(),
        );
        registry.register(
            "reading_to_delivered_seconds",
            "From the receipt of a reading to the delivery that tells of it",
            self.reading_to_delivered.clone(),
        );
        registry.register(
            "deliveries_given_over",
            "Deliveries that were made for another receiver because one took nothing",
            self.given_over.clone(),
        );
        registry.register("deliveries_pending", "Deliveries that wait", self.pending.clone());
        registry.register(
            "delivery_undelivered_age_seconds",
            "Age of the oldest delivery that waits",
            self.undelivered_age.clone(),
        );
    }
}
