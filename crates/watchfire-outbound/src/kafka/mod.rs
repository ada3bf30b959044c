//! What all clients of Apache Kafka have in common: how they log in, what topics are called, and what errors mean.

mod meaning;
mod security;

use std::collections::BTreeMap;

pub use meaning::{Class, class, fault};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
pub use security::{Secrets, Security, SecurityProtocol};

/// What the name of a topic is.
pub const IS_TOPIC: &str = "1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-'";

/// Whether a character may be in the name of a topic.
pub fn is_topic_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Whether a topic can have this name.
pub fn is_topic(name: &str) -> bool {
    (1..=249).contains(&name.len()) && name.chars().all(is_topic_character) && name != "." && name != ".."
}

/// What a producer says by itself, for who looks closer: what counts is said by whoever writes with it.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(facility, message, "librdkafka");
        }
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}

/// Says which property of a client, such as one of these options, librdkafka does not take. Connects to nothing.
pub fn check_properties(client: &ClientConfig, options: &BTreeMap<String, String>) -> Result<(), String> {
    client.create_native_config().map(drop).map_err(|error| match error {
        // Not the value, and not what is said of it: it may be a password.
        KafkaError::ClientConfig(_, _, property, _) if !options.contains_key(&property) => {
            format!("{property}: librdkafka does not take what the section says")
        }
        KafkaError::ClientConfig(_, said, property, _) if said.starts_with("No such") => {
            format!("{property}: librdkafka has no such property")
        }
        KafkaError::ClientConfig(_, _, property, _) => {
            format!("{property}: librdkafka does not take this value")
        }
        error => error.to_string(),
    })
}
