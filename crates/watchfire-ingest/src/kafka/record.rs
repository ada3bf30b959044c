//! From a record to a payload of the intake, or the reason why it is none.

use rdkafka::message::{Headers as _, Message};
use watchfire_decode::{Framing, cbor, code};

use super::options::{DeviceFrom, KafkaMapping, KafkaOptions, ValueFormat, shape};
use crate::intake::{Content, Payload};

/// A record without a value: it deletes its key where the topic is compacted, and says nothing about a device.
pub(super) const TOMBSTONE: &str = "tombstone";
/// A value that is larger than what is decoded.
pub(super) const TOO_LARGE: &str = "record-too-large";

/// What a record became, so far as it has to be kept somewhere.
pub(super) struct Prepared<'m> {
    address: String,
    bytes: &'m [u8],
    /// Of CBOR: the JSON that it stands for.
    json: Option<(String, Framing)>,
    device: Option<&'m str>,
    topic: &'m str,
    refused: Option<(&'static str, String)>,
}

impl<'m> Prepared<'m> {
    /// Looks at a record.
    pub(super) fn new(message: &'m impl Message, options: &KafkaOptions) -> Self {
        let topic = message.topic();
        let mut prepared = Self {
            // Which record it was can be said to whoever wrote it, and it can be fetched again.
            address: format!("{topic}/{}/{}", message.partition(), message.offset()),
            bytes: &[],
            json: None,
            device: None,
            topic,
            refused: None,
        };
        prepared.refused = prepared.read(message, options).err();
        prepared
    }

    fn read(
        &mut self,
        message: &'m impl Message,
        options: &KafkaOptions,
    ) -> Result<(), (&'static str, String)> {
        let bytes = message.payload();
        let Some(bytes) = bytes else { return Err((TOMBSTONE, "the record has no value".into())) };
        self.bytes = &bytes[..bytes.len().min(options.record_bytes)];
        if bytes.len() > options.record_bytes {
            let (length, kept) = (bytes.len(), self.bytes.len());
            let reason =
                format!("{length} bytes, at most {kept} are decoded and kept here; the rest lies in Kafka");
            return Err((TOO_LARGE, reason));
        }
        let named = match options.device {
            DeviceFrom::Field => None,
            DeviceFrom::Key => Some((message.key(), "key".to_string())),
            DeviceFrom::Header => {
                let header = message
                    .headers()
                    .and_then(|headers| headers.iter().find(|header| header.key == options.device_header));
                Some((header.and_then(|header| header.value), format!("header {:?}", options.device_header)))
            }
        };
        if let Some((device, place)) = named {
            let device = device.ok_or_else(|| (code::NO_DEVICE, format!("the record has no {place}")))?;
            let text = std::str::from_utf8(device);
            self.device =
                Some(text.map_err(|_| (code::DEVICE_INVALID, format!("the {place} is not UTF-8")))?);
        }
        if options.format == ValueFormat::Cbor && !bytes.is_empty() {
            let json = cbor::to_json(bytes);
            self.json =
                Some(json.map_err(|fault| (fault.code, format!("{} (byte {})", fault.what, fault.at)))?);
        }
        Ok(())
    }

    /// As the intake takes it.
    pub(super) fn payload<'a>(&'a self, mappings: &'a [KafkaMapping]) -> Payload<'a> {
        let (bytes, framing) = match &self.json {
            Some((json, framing)) => (json.as_bytes(), *framing),
            None => (self.bytes, Framing::Auto),
        };
        let content = match &self.refused {
            Some((code, reason)) => Content::Refused { code, reason: reason.clone() },
            None => Content::Items(shape(mappings, self.topic, self.device), framing),
        };
        Payload { address: &self.address, bytes, content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage, Timestamp};
    use watchfire_decode::Shape;

    fn message(value: Option<&[u8]>, key: Option<&[u8]>) -> OwnedMessage {
        let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some("press-9") });
        OwnedMessage::new(
            value.map(<[u8]>::to_vec),
            key.map(<[u8]>::to_vec),
            "plant".into(),
            Timestamp::NotAvailable,
            3,
            42,
            Some(headers),
        )
    }

    fn refused(options: &KafkaOptions, value: Option<&[u8]>, key: Option<&[u8]>) -> Option<&'static str> {
        let message = message(value, key);
        let prepared = Prepared::new(&message, options);
        let payload = prepared.payload(&[]);
        assert_eq!(payload.address, "plant/3/42");
        match payload.content {
            Content::Refused { code, .. } => Some(code),
            Content::Items(..) => None,
        }
    }

    #[test]
    fn what_no_record_can_be_read_from_has_a_code() {
        let options = KafkaOptions { record_bytes: 8, ..KafkaOptions::default() };
        assert_eq!(refused(&options, None, None), Some("tombstone"));
        assert_eq!(refused(&options, Some(b"123456789"), None), Some("record-too-large"));
        assert_eq!(refused(&options, Some(b"{}"), None), None);
        assert_eq!(refused(&options, Some(b""), None), None, "the decoder says that it is empty");
        let key = KafkaOptions { device: DeviceFrom::Key, ..options.clone() };
        assert_eq!(refused(&key, Some(b"{}"), None), Some("no-device"));
        assert_eq!(refused(&key, Some(b"{}"), Some(b"\xff")), Some("device-invalid"));
        assert_eq!(refused(&key, Some(b"{}"), Some(b"a")), None);
        let cbor = KafkaOptions { format: ValueFormat::Cbor, ..options.clone() };
        assert_eq!(refused(&cbor, Some(b"{}"), None), Some("not-cbor"));
        assert_eq!(refused(&cbor, Some(b"\xa0"), None), None);
        let header = KafkaOptions { device: DeviceFrom::Header, ..options };
        assert_eq!(refused(&header, Some(b"{}"), None), Some("no-device"));
    }

    #[test]
    fn the_device_comes_from_where_it_is_said_to_be() {
        let device = |options: &KafkaOptions| {
            let message = message(Some(b"\xa0"), Some(b"press-7"));
            let prepared = Prepared::new(&message, options);
            match prepared.payload(&[]).content {
                Content::Items(Shape::Device(device), framing) => Some((device.to_string(), framing)),
                _ => None,
            }
        };
        let key =
            KafkaOptions { device: DeviceFrom::Key, format: ValueFormat::Cbor, ..KafkaOptions::default() };
        assert_eq!(device(&key), Some(("press-7".into(), Framing::Json)));
        let header = KafkaOptions { device: DeviceFrom::Header, device_header: "id".into(), ..key.clone() };
        assert_eq!(device(&header).unwrap().0, "press-9");
        assert_eq!(device(&KafkaOptions { device: DeviceFrom::Field, ..key }), None);
    }
}
