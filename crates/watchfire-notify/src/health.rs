//! How a receiver does, for whoever looks.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use watchfire_model::{Duration, Timestamp};
use watchfire_store::DeliveryState;
use watchfire_store::deliveries::Attempted;

/// How a receiver does, since the engine started or its configuration changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReceiverHealth {
    /// Attempts that failed since the last one that was taken.
    pub failures: u32,
    /// When the last attempt ended; `None`: there was none.
    pub last_attempt: Option<Timestamp>,
    /// How long that took.
    pub took: Option<Duration>,
    /// When something was taken last.
    pub last_delivered: Option<Timestamp>,
    /// What the last attempt that failed said.
    pub last_error: Option<String>,
    /// Nothing is sent before then: it asked for rest, or is only tried now and then.
    pub rests_until: Option<Timestamp>,
}

/// Shared by the worker, which writes it, and those who look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<Mutex<ReceiverHealth>>);

impl Health {
    pub fn note(&self, attempted: &Attempted, failures: u32, rests_until: Option<Timestamp>) {
        let mut health = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        health.failures = failures;
        health.last_attempt = Some(attempted.at);
        health.took = Some(attempted.took);
        health.rests_until = rests_until.filter(|until| *until > attempted.at);
        if attempted.state == DeliveryState::Delivered {
            health.last_delivered = Some(attempted.at);
        }
        if let Some(error) = &attempted.error {
            health.last_error = Some(error.clone());
        }
    }

    pub fn look(&self) -> ReceiverHealth {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
