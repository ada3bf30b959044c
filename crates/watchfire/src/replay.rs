//! Dead letters on their way back in.

use std::sync::Arc;

use watchfire_api::contract::{BoxFuture, RawInput, Resubmit, ResubmitError};
use watchfire_decode::{Framing, Shape};
use watchfire_ingest::intake::{Content, Payload};
use watchfire_ingest::kafka::{self, KafkaMapping, KafkaOptions};
use watchfire_ingest::mqtt::{self, TopicMapping};
use watchfire_ingest::{Intake, Principal, Source};

/// The address of uploads whose items name their devices.
const EVENTS: &str = "/ingest/v1/telemetry";

/// The intake, for what came once already.
pub struct IntakeAdapter {
    /// The way in.
    pub intake: Arc<Intake>,
    /// MQTT, with its mappings as they are now: a letter of a topic that was mapped wrongly is replayed once the
    /// mapping is right.
    pub mqtt: (Source, Vec<TopicMapping>),
    /// HTTP, with its mappings likewise.
    pub http: (Source, Vec<TopicMapping>),
    /// Topics of another broker likewise.
    pub subscriber: (Source, Vec<TopicMapping>),
    /// Kafka likewise.
    pub kafka: (Source, KafkaOptions, Vec<KafkaMapping>),
}

fn rejected(code: &str, reason: String) -> ResubmitError {
    ResubmitError::Rejected { code: code.into(), reason }
}

impl IntakeAdapter {
    /// Whoever sent it, and what that one may now: a gateway whose grant was taken back speaks for nobody in a replay
    /// either. Letters of an open listener, and of users that may send for every device, say nobody.
    fn principal(&self, sender: Option<&str>) -> Principal {
        match sender.and_then(|sender| sender.split_once(':')) {
            Some(("device", id)) => Principal::device(&self.intake.registries(), id),
            _ => Principal::Anonymous,
        }
    }

    /// The source that received it, and what its payload looks like there.
    fn route<'a>(
        &'a self,
        principal: &Principal,
        input: &'a RawInput,
    ) -> Result<(&'a Source, Content<'a>), ResubmitError> {
        let brokers = [&self.mqtt, &self.subscriber];
        if let Some((source, mappings)) = brokers.into_iter().find(|(source, _)| input.source == source.name)
        {
            let content = mqtt::content(principal, mappings, &input.address).ok_or_else(|| {
                let reason = format!("topic {:?} carries no telemetry: no mapping matches it", input.address);
                rejected("no-mapping", reason)
            })?;
            return Ok((source, content));
        }
        let (source, mappings) = &self.http;
        if input.source == source.name {
            let rest = input.address.strip_prefix("/ingest/v1/").unwrap_or_default();
            let own = rest == "telemetry" || (rest.starts_with("devices/") && rest.ends_with("/telemetry"));
            let mapped = || mappings.iter().find_map(|mapping| mapping.shape(rest));
            if let Some(shape) = (!own).then(mapped).flatten() {
                return Ok((source, Content::Items(shape, Framing::Auto)));
            }
            let shape = match (&*input.address, &input.device) {
                (EVENTS, _) => Shape::Event,
                (address, _) if !own => {
                    return Err(rejected("no-mapping", format!("no mapping knows {address:?}")));
                }
                // The device as it was decoded: in the address it is percent-encoded.
                (_, Some(device)) => Shape::Device(device),
                (address, None) => {
                    return Err(rejected("no-device", format!("{address:?} names no device")));
                }
            };
            return Ok((source, Content::Items(shape, Framing::Auto)));
        }
        let (source, options, mappings) = &self.kafka;
        if input.source == source.name {
            return Ok((source, kafka::content(options, mappings, &input.address, input.device.as_deref())));
        }
        Err(rejected("no-source", format!("there is no source {:?} any more", input.source)))
    }
}

impl Resubmit for IntakeAdapter {
    fn resubmit(&self, input: RawInput) -> BoxFuture<'_, Result<u64, ResubmitError>> {
        Box::pin(async move {
            let principal = self.principal(input.sender.as_deref());
            let (source, content) = self.route(&principal, &input)?;
            let payload = Payload { address: &input.address, bytes: &input.payload, content };
            let unavailable = |error: &dyn std::error::Error| ResubmitError::Unavailable(error.to_string());
            let submitted = self.intake.resubmit(source, &principal, payload).await;
            let submitted = submitted.map_err(|error| unavailable(&error))?;
            submitted.durable().await.map_err(|error| unavailable(&error))?;
            let verdict = submitted.verdicts.into_iter().next().unwrap_or_default();
            match verdict.rejected.into_iter().next() {
                Some(item) => Err(rejected(item.code, item.reason)),
                None => Ok(u64::from(verdict.accepted)),
            }
        })
    }
}
