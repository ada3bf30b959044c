//! A broker that speaks MQTT 5, and messages published to it with QoS 1.
//!
//! MQTT 5 and not 3.1.1: there a broker that permits something not acknowledges it all the same.

mod answer;
mod broker;
mod connection;
mod topic;

pub use broker::{Address, Broker, check_client_id};
pub use connection::{Connection, Message, NotTaken};
pub use topic::{check_topic, level};
