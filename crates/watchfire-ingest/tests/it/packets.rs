//! What holds for the packets in any bytes. The seeded mutations of these tests and the fuzz target `mqtt` both ask it.
//!
//! - Packets are found where they are, whichever way the bytes are cut, and never before they are whole.
//! - A PUBLISH is what a second, plainer reader says, and its parts are those of the packet and nothing else.
//! - What is answered is read back.

use bytes::BytesMut;

#[allow(dead_code)]
#[path = "../../src/mqtt/packet.rs"]
mod packet;

use packet::{Broken, Frame, Publish};

/// Takes packet after packet from `input` behind its first byte, which chooses version and bound. Gives how many there
/// were, and whether the rest breaks the protocol.
pub fn check(input: &[u8]) -> (usize, bool) {
    let Some((&choice, mut bytes)) = input.split_first() else { return (0, false) };
    let v5 = choice & 1 == 1;
    let most = if choice & 2 == 2 { 40 } else { 256 * 1024 };
    let mut packets = 0;
    loop {
        match packet::frame(bytes, most) {
            Ok(Some(frame)) => {
                is_whole(frame, bytes, most);
                if frame.kind == packet::PUBLISH && publish(frame, bytes, v5).is_err() {
                    return (packets, true);
                }
                answer(frame, bytes, v5);
                bytes = &bytes[frame.total..];
                packets += 1;
            }
            Ok(None) => {
                // Whatever has come of it may still become a packet: zeros end every length.
                let more = [bytes, &[0; 5]].concat();
                assert!(bytes.is_empty() || length(&more[1..]).is_some(), "{bytes:?}");
                return (packets, false);
            }
            Err(broken) => {
                // It is not mended by what comes behind.
                assert!(broken.0 >= 0x80 && !broken.1.is_empty(), "{broken:?}");
                assert_eq!(packet::frame(&[bytes, &[0; 5]].concat(), most), Err(broken));
                return (packets, true);
            }
        }
    }
}

/// A variable byte integer, and the bytes that it takes.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let last = bytes.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    let value = bytes[..=last].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    Some((value, last + 1))
}

fn is_whole(frame: Frame, bytes: &[u8], most: usize) {
    let (value, used) = length(&bytes[1..]).expect("a packet has a length");
    assert_eq!((frame.kind, frame.flags), (bytes[0] >> 4, bytes[0] & 15));
    assert_eq!((frame.header, frame.total), (1 + used, 1 + used + value));
    assert!(frame.total <= most && frame.total <= bytes.len());
    for cut in [0, 1, frame.header, frame.total / 2, frame.total - 1] {
        assert!(cut >= frame.total || packet::frame(&bytes[..cut], most) == Ok(None), "{cut}");
    }
    assert_eq!(packet::frame(&bytes[..frame.total], most), Ok(Some(frame)));
}

/// As the standard says it (section 3.3), without a thought for speed.
fn plain(frame: Frame, mut body: &[u8], v5: bool) -> Option<Publish<'_>> {
    let mut take = |count: usize| {
        let (taken, rest) = body.split_at_checked(count)?;
        body = rest;
        Some(taken)
    };
    let number = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let qos = frame.flags >> 1 & 3;
    let topic = take(2).map(number)?;
    let topic = std::str::from_utf8(take(topic.into())?).ok()?;
    let packet_id = if qos > 0 { take(2).map(number)? } else { 0 };
    if v5 {
        let (value, used) = length(body)?;
        body = body.get(used + value..)?;
    }
    let fits = qos < 3 && (qos == 0) == (packet_id == 0);
    fits.then_some(Publish { qos, retain: frame.flags & 1 == 1, topic, packet_id, payload: body })
}

fn publish(frame: Frame, bytes: &[u8], v5: bool) -> Result<(), Broken> {
    let body = &bytes[frame.header..frame.total];
    let read = packet::publish(frame, bytes, v5);
    assert_eq!(read.ok(), plain(frame, body, v5), "{body:?}");
    let message = read?;
    if !v5 {
        let id = message.packet_id.to_be_bytes();
        let id = if message.qos > 0 { &id[..] } else { &[] };
        let topic = message.topic.as_bytes();
        let written = [&(topic.len() as u16).to_be_bytes(), topic, id, message.payload].concat();
        assert_eq!(written, body);
    }
    Ok(())
}

/// Answers to what stands in the packet are packets, with the same number.
fn answer(frame: Frame, bytes: &[u8], v5: bool) {
    let body = &bytes[frame.header..frame.total];
    let id = packet::packet_id(frame, bytes);
    assert_eq!(id, body.first_chunk().map(|id| u16::from_be_bytes(*id)));
    let Some(id) = id else { return };
    let (text, code) = (String::from_utf8_lossy(body), body[0]);
    let mut out = BytesMut::new();
    packet::write_puback(&mut out, v5, id, code, (code & 1 == 1).then_some(&*text));
    let puback = packet::frame(&out, usize::MAX).ok().flatten().expect("a packet");
    assert_eq!((puback.kind, puback.total), (packet::PUBACK, out.len()));
    assert_eq!(packet::packet_id(puback, &out), Some(id));
    for kind in [packet::SUBSCRIBE, packet::UNSUBSCRIBE] {
        let mut out = BytesMut::new();
        packet::write_suback(&mut out, v5, kind, id, body);
        let suback = packet::frame(&out, usize::MAX).ok().flatten().expect("a packet");
        assert_eq!((suback.kind, suback.total), (kind + 1, out.len()));
        assert_eq!(packet::packet_id(suback, &out), Some(id));
    }
}
