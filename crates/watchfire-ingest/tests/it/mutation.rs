//! Mutated MQTT packets: everything that [`packets`] says; every connection ends or goes on, and others go on.

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{Packet, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::packets;
use crate::setup::{Raw, Rig, connect, packet, publish, subscribe};

/// One packet of each kind that a client sends.
fn seeds(v5: bool) -> Vec<Vec<u8>> {
    vec![
        connect(v5, b"id", 2, 60, Some(("user", "password")), &[0x11, 0, 0, 0, 9, 0x21, 0, 5]),
        packet(
            0x10,
            b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01w\x05\x18\x00\x00\x00\x01\x00\x06status\x00\x04gone",
        ),
        publish(v5, 0x32, 7, b"devices/a/telemetry", b"{\"t\":1}"),
        publish(v5, 0x31, 7, b"devices/a/status", b"up"),
        subscribe(v5, 3, &["devices/+/telemetry", "proof/#"]),
        packet(0xa2, b"\x00\x09\x00\x07proof/#"),
        packet(0x40, b"\x00\x01"),
        packet(0xe0, b"\x04\x00"),
        vec![0xc0, 0],
    ]
}

/// Some bytes of a packet are others, are gone, or are new.
fn mutate(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] = rng.random(),
            1 => bytes.insert(at, rng.random()),
            2 if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => bytes[at] ^= 1 << rng.random_range(0..8),
        }
    }
}

#[test]
fn mutated_packets_are_read_as_the_standard_says() {
    let mut rng = StdRng::seed_from_u64(12);
    let (mut whole, mut broken) = (0, 0);
    for _ in 0..60_000 {
        let v5 = rng.random_bool(0.5);
        // Version, and mostly the wide bound.
        let mut bytes = vec![u8::from(v5) + if rng.random_bool(0.1) { 2 } else { 0 }];
        for _ in 0..rng.random_range(1..4) {
            let mut seeds = seeds(v5);
            let mut seed = seeds.swap_remove(rng.random_range(0..seeds.len()));
            mutate(&mut rng, &mut seed);
            bytes.extend(seed);
        }
        let (packets, ended) = packets::check(&bytes);
        whole += packets;
        broken += usize::from(ended);
    }
    assert!(whole > 20_000 && broken > 5_000, "{whole} packets, {broken} broken");
}

#[test]
fn mutated_packets_that_are_rare_are_read_without_a_panic() {
    let mut rng = StdRng::seed_from_u64(13);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..60_000 {
        let v5 = rng.random_bool(0.5);
        let mut seeds = seeds(v5);
        let seed = seeds.swap_remove([0, 1, 4, 5][rng.random_range(0..4)]);
        // All of these are shorter than 128 bytes. The length is right, so that what stands in it is reached.
        let mut body = seed[2..].to_vec();
        mutate(&mut rng, &mut body);
        let mut bytes = BytesMut::from(&packet(seed[0], &body)[..]);
        let most = bytes.len();
        match if v5 { V5.read_mut(&mut bytes, most) } else { V4.read_mut(&mut bytes, most) } {
            Ok(Packet::Subscribe(subscribe, _)) => {
                assert!(subscribe.filters.iter().all(|filter| filter.path.len() <= body.len()));
                read += 1;
            }
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read > 5_000 && refused > 5_000, "{read} read, {refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_packets_hurt_only_their_sender() {
    let rig = Rig::start().await;
    let mut rng = StdRng::seed_from_u64(11);
    for round in 0..1500 {
        let v5 = rng.random_bool(0.5);
        let mut seeds = seeds(v5);
        let mut bytes = Vec::new();
        if rng.random_bool(0.7) {
            bytes.extend(connect(v5, format!("m{}", round % 7).as_bytes(), 2, 60, None, &[]));
        }
        for _ in 0..rng.random_range(1..4) {
            let mut seed = seeds.swap_remove(rng.random_range(0..seeds.len()));
            mutate(&mut rng, &mut seed);
            bytes.extend(seed);
        }
        let mut client = Raw::open(rig.mqtt, v5).await;
        client.send(&bytes).await;
        // Half of them leave without a word.
        let _ = client.stream.shutdown().await;
        if rng.random_bool(0.5) {
            let mut rest = Vec::new();
            let read = client.stream.read_to_end(&mut rest);
            let _ = tokio::time::timeout(crate::setup::PATIENCE, read).await.expect("the connection ends");
        }
    }
    rig.others_go_on().await;
    // The router lives as well.
    let mut hearer = rig.client("hearer").await;
    hearer.send(&subscribe(false, 1, &["alive/#"])).await;
    hearer.read().await.unwrap();
    rig.broker.publish("alive/x", b"1", false).unwrap();
    assert!(hearer.read().await.unwrap().ends_with(b"1"));
}
