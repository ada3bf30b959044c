//! `[source.kafka]`: readings from the topics of a Kafka cluster.
//!
//! Our log is the truth about what was read: how far it got stands in the same group as the rows that came of it
//! ([`crate::places`]), so after any crash it goes on exactly where the log ends. The group's offsets are committed to
//! Kafka as well, after the append, for tools that show lag and for another node that takes a partition over.
//!
//! - [`options`]: what can be configured.
//! - [`record`]: from a record to a payload of the intake, or the reason why it is none.
//! - [`errors`]: what each error of librdkafka means for us.
//! - [`client`]: where partitions begin that we are given, and what is done before one is taken away.
//! - [`shared`]: what the two share, and what statistics say.
//! - [`run`]: the thread that reads, appends and commits.

mod options;

#[cfg(feature = "kafka")]
mod client;
#[cfg(feature = "kafka")]
mod errors;
#[cfg(feature = "kafka")]
mod record;
#[cfg(feature = "kafka")]
mod run;
#[cfg(feature = "kafka")]
mod shared;

pub use options::{
    DeviceFrom, KafkaConfigError, KafkaMapping, KafkaOptions, KafkaSasl, KafkaTls, Start, ValueFormat,
};
#[cfg(feature = "kafka")]
pub use run::KafkaSource;

use crate::intake::Content;
use watchfire_decode::Framing;

/// The name of the source, as it stands in dead letters, metrics and the log.
pub const NAME: &str = "kafka";

/// What the payload of a dead letter of this source looks like, by its address `topic/partition/offset`. CBOR was kept
/// as the JSON that it stands for.
pub fn content<'a>(
    options: &KafkaOptions,
    mappings: &'a [KafkaMapping],
    address: &str,
    device: Option<&'a str>,
) -> Content<'a> {
    let topic = address.rsplitn(3, '/').nth(2).unwrap_or(address);
    let device = device.filter(|_| options.device != DeviceFrom::Field);
    Content::Items(options::shape(mappings, topic, device), Framing::Auto)
}
