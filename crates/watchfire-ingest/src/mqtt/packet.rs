//! The packets on the hot path, read in place: fixed header, PUBLISH and PUBACK. All others go through rumqttd's
//! codecs ([`super::connect`], [`super::connection`]).

use bytes::{BufMut, BytesMut};

pub(crate) const CONNECT: u8 = 1;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const PUBREL: u8 = 6;
pub(crate) const PUBCOMP: u8 = 7;
pub(crate) const SUBSCRIBE: u8 = 8;
pub(crate) const UNSUBSCRIBE: u8 = 10;
pub(crate) const PINGREQ: u8 = 12;
pub(crate) const DISCONNECT: u8 = 14;

/// Reason codes of MQTT 5, section 2.4.
pub(crate) mod reason {
    pub(crate) const SUCCESS: u8 = 0x00;
    pub(crate) const NO_SUBSCRIPTION: u8 = 0x11;
    pub(crate) const UNSPECIFIED: u8 = 0x80;
    pub(crate) const MALFORMED: u8 = 0x81;
    pub(crate) const PROTOCOL_ERROR: u8 = 0x82;
    pub(crate) const CLIENT_ID: u8 = 0x85;
    pub(crate) const BAD_CREDENTIAL: u8 = 0x86;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const UNAVAILABLE: u8 = 0x88;
    pub(crate) const SHUTTING_DOWN: u8 = 0x8b;
    pub(crate) const KEEP_ALIVE: u8 = 0x8d;
    pub(crate) const TAKEN_OVER: u8 = 0x8e;
    pub(crate) const FILTER_INVALID: u8 = 0x8f;
    pub(crate) const TOPIC_INVALID: u8 = 0x90;
    pub(crate) const TOO_LARGE: u8 = 0x95;
    pub(crate) const QUOTA: u8 = 0x97;
    pub(crate) const PAYLOAD_FORMAT: u8 = 0x99;
    pub(crate) const QOS: u8 = 0x9b;
    pub(crate) const SHARED: u8 = 0x9e;
}

/// Where a packet stands in what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// Bytes before the variable header.
    pub(crate) header: usize,
    /// Bytes in all.
    pub(crate) total: usize,
}

/// The client does not keep to the protocol: the connection ends, with this reason in MQTT 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) u8, pub(crate) &'static str);

/// The packet at the start of `bytes`; `None`: not all of it is there. A packet that is too large is refused as soon
/// as its length is known, before it is buffered.
pub(crate) fn frame(bytes: &[u8], most: usize) -> Result<Option<Frame>, Broken> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, used)) = variable(rest)? else { return Ok(None) };
    let frame = Frame { kind: first >> 4, flags: first & 15, header: 1 + used, total: 1 + used + length };
    if frame.total > most {
        return Err(Broken(reason::TOO_LARGE, "packet-too-large"));
    }
    // PUBREL, SUBSCRIBE and UNSUBSCRIBE have flags 2, all others but PUBLISH have 0 (section 2.1.3).
    let flags = if matches!(frame.kind, PUBREL | SUBSCRIBE | UNSUBSCRIBE) { 2 } else { 0 };
    if frame.kind != PUBLISH && frame.flags != flags {
        return Err(Broken(reason::MALFORMED, "malformed"));
    }
    Ok((bytes.len() >= frame.total).then_some(frame))
}

/// A variable byte integer (section 1.5.5) and how many bytes it takes; `None`: more is to come.
fn variable(bytes: &[u8]) -> Result<Option<(usize, usize)>, Broken> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    if bytes.len() >= 4 { Err(Broken(reason::MALFORMED, "malformed")) } else { Ok(None) }
}

/// A PUBLISH, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: &'a str,
    /// 0 with QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) payload: &'a [u8],
}

/// Reads a whole PUBLISH. Properties of MQTT 5 are passed over: none of them says anything about telemetry, and topic
/// aliases are not offered.
pub(crate) fn publish(frame: Frame, bytes: &[u8], v5: bool) -> Result<Publish<'_>, Broken> {
    let malformed = Broken(reason::MALFORMED, "malformed");
    let qos = (frame.flags >> 1) & 3;
    if qos == 3 {
        return Err(malformed);
    }
    let body = bytes.get(frame.header..frame.total).ok_or(malformed)?;
    let (length, rest) = body.split_first_chunk::<2>().ok_or(malformed)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (topic, mut rest) = rest.split_at_checked(length).ok_or(malformed)?;
    let topic = std::str::from_utf8(topic).map_err(|_| malformed)?;
    let mut packet_id = 0;
    if qos > 0 {
        let (id, behind) = rest.split_first_chunk::<2>().ok_or(malformed)?;
        packet_id = u16::from_be_bytes(*id);
        rest = behind;
        if packet_id == 0 {
            return Err(Broken(reason::PROTOCOL_ERROR, "malformed"));
        }
    }
    if v5 {
        let (length, used) = variable(rest)?.ok_or(malformed)?;
        rest = rest.get(used + length..).ok_or(malformed)?;
    }
    Ok(Publish { qos, retain: frame.flags & 1 == 1, topic, packet_id, payload: rest })
}

/// The packet id at the start of a PUBACK.
pub(crate) fn packet_id(frame: Frame, bytes: &[u8]) -> Option<u16> {
    let id = bytes.get(frame.header..frame.total)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*id))
}

fn put_variable(out: &mut BytesMut, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        out.put_u8(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return;
        }
    }
}

/// Writes a PUBLISH, without properties. `flags` as in section 3.3.1; `packet_id` counts with QoS 1 only.
pub(crate) fn write_publish(
    out: &mut BytesMut,
    v5: bool,
    flags: u8,
    topic: &str,
    packet_id: u16,
    payload: &[u8],
) {
    let qos = flags >> 1 & 3;
    let length = 2 + topic.len() + if qos > 0 { 2 } else { 0 } + usize::from(v5) + payload.len();
    out.reserve(5 + length);
    out.put_u8(PUBLISH << 4 | flags);
    put_variable(out, length);
    // Topics are bounded far below.
    out.put_u16(topic.len() as u16);
    out.put_slice(topic.as_bytes());
    if qos > 0 {
        out.put_u16(packet_id);
    }
    if v5 {
        out.put_u8(0);
    }
    out.put_slice(payload);
}

/// Writes a PUBACK. Reason and text exist in MQTT 5 only.
pub(crate) fn write_puback(out: &mut BytesMut, v5: bool, packet_id: u16, code: u8, text: Option<&str>) {
    if !v5 || (code == reason::SUCCESS && text.is_none()) {
        out.put_u8(PUBACK << 4);
        out.put_u8(2);
        out.put_u16(packet_id);
        return;
    }
    // Short enough for a length of one byte: 2 + 1 + 1 + 3 + 116 < 128.
    let text = text.map(|text| cut(text, 116));
    let properties = text.map_or(0, |text| 3 + text.len() as u8);
    out.put_u8(PUBACK << 4);
    out.put_u8(4 + properties);
    out.put_u16(packet_id);
    out.put_u8(code);
    out.put_u8(properties);
    if let Some(text) = text {
        out.put_u8(0x1f);
        out.put_u16(text.len() as u16);
        out.put_slice(text.as_bytes());
    }
}

/// Writes a SUBACK or UNSUBACK. In MQTT 3.1.1 every refusal of a filter is 0x80, and UNSUBACK has no codes.
pub(crate) fn write_suback(out: &mut BytesMut, v5: bool, kind: u8, packet_id: u16, codes: &[u8]) {
    let with_codes = v5 || kind == SUBSCRIBE;
    let length = 2 + usize::from(v5) + if with_codes { codes.len() } else { 0 };
    out.put_u8((kind + 1) << 4);
    put_variable(out, length);
    out.put_u16(packet_id);
    if v5 {
        out.put_u8(0);
    }
    if with_codes {
        codes.iter().for_each(|code| out.put_u8(if !v5 && *code > 2 { 0x80 } else { *code }));
    }
}

/// So much of a text as fits, cut between characters.
fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_before_they_are_whole() {
        assert_eq!(frame(&[], 100), Ok(None));
        assert_eq!(frame(&[0x30], 100), Ok(None));
        assert_eq!(frame(&[0x30, 0x80], 100), Ok(None));
        assert_eq!(frame(&[0x30, 5, 0], 100), Ok(None));
        assert_eq!(frame(&[0xc0, 0, 9], 100), Ok(Some(Frame { kind: 12, flags: 0, header: 2, total: 2 })));
        assert_eq!(frame(&[0x30, 0xff, 0xff, 0xff, 0x7f], 100).unwrap_err().0, reason::TOO_LARGE);
        assert!(frame(&[0x30, 0xff, 0xff, 0xff, 0xff], 100).is_err());
        assert!(frame(&[0x80, 0], 100).is_err(), "SUBSCRIBE has flags 2");
    }

    #[test]
    fn publish_is_read_in_place() {
        let bytes = b"\x32\x09\x00\x03a/b\x00\x07{}";
        let found = frame(bytes, 100).unwrap().unwrap();
        let expected = Publish { qos: 1, retain: false, topic: "a/b", packet_id: 7, payload: b"{}" };
        assert_eq!(publish(found, bytes, false), Ok(expected));
        let v5 = b"\x33\x0d\x00\x03a/b\x00\x07\x03\x23\x00\x01{}";
        let found = frame(v5, 100).unwrap().unwrap();
        assert_eq!(publish(found, v5, true), Ok(Publish { retain: true, ..expected }));
        for broken in [
            &b"\x32\x02\x00\x03"[..],
            b"\x32\x05\x00\x03a/b",
            b"\x32\x07\x00\x03a/b\x00\x00",
            b"\x36\x00",
            b"\x30\x04\x00\x02\xff\xff",
        ] {
            let found = frame(broken, 100).unwrap().unwrap();
            assert!(publish(found, broken, false).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn a_publish_is_written_as_it_is_read() {
        for (v5, flags, payload) in [(false, 0, &b"x"[..]), (true, 3, b""), (true, 0b1010, &[7; 300])] {
            let mut out = BytesMut::new();
            write_publish(&mut out, v5, flags, "a/b", 9, payload);
            let found = frame(&out, 1000).unwrap().unwrap();
            assert_eq!((found.total, found.flags), (out.len(), flags));
            let read = publish(found, &out, v5).unwrap();
            let qos = flags >> 1 & 3;
            let packet_id = if qos > 0 { 9 } else { 0 };
            let retain = flags & 1 == 1;
            assert_eq!(read, Publish { qos, retain, topic: "a/b", packet_id, payload });
        }
    }

    #[test]
    fn acknowledgements_have_their_length() {
        let mut out = BytesMut::new();
        write_puback(&mut out, true, 7, reason::PAYLOAD_FORMAT, Some(&"ü".repeat(100)));
        let found = frame(&out, 1000).unwrap().unwrap();
        assert_eq!((found.total, packet_id(found, &out)), (out.len(), Some(7)));
        let mut out = BytesMut::new();
        write_suback(&mut out, true, SUBSCRIBE, 7, &[1; 300]);
        assert_eq!(frame(&out, 1000).unwrap().unwrap().total, out.len());
    }
}
