//! What an error of the brokers means to a lane.

use rdkafka::error::KafkaError;
use watchfire_outbound::kafka::fault;
pub(super) use watchfire_outbound::kafka::{Class, class};

use crate::contract::Failure;

/// As a failure that is tried again.
pub(super) fn failure(error: &KafkaError) -> Failure {
    fault(error).into()
}
