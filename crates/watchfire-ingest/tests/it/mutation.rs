//! Mutated MQTT packets: every connection ends or goes on, and others go on.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::setup::{Raw, Rig, connect, packet, publish, subscribe};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_packets_hurt_only_their_sender() {
    let rig = Rig::start().await;
    let mut rng = StdRng::seed_from_u64(11);
    for round in 0..1500 {
        let v5 = rng.random_bool(0.5);
        let mut seeds = vec![
            connect(v5, b"id", 2, 60, Some(("user", "password")), &[0x11, 0, 0, 0, 9, 0x21, 0, 5]),
            packet(0x10, b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01w\x05\x18\x00\x00\x00\x01\x00\x06status\x00\x04gone"),
            publish(v5, 0x32, 7, b"devices/a/telemetry", b"{\"t\":1}"),
            publish(v5, 0x31, 7, b"devices/a/status", b"up"),
            subscribe(v5, 3, &["devices/+/telemetry", "proof/#"]),
            packet(0xa2, b"\x00\x09\x00\x07proof/#"),
            packet(0x40, b"\x00\x01"),
            packet(0xe0, b"\x04\x00"),
            vec![0xc0, 0],
        ];
        let mut bytes = Vec::new();
        if rng.random_bool(0.7) {
            bytes.extend(connect(v5, format!("m{}", round % 7).as_bytes(), 2, 60, None, &[]));
        }
        for _ in 0..rng.random_range(1..4) {
            let mut seed = seeds.swap_remove(rng.random_range(0..seeds.len()));
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(0..seed.len());
                match rng.random_range(0..4) {
                    0 => seed[at] = rng.random(),
                    1 => seed.insert(at, rng.random()),
                    2 if seed.len() > 1 => drop(seed.remove(at)),
                    _ => seed[at] ^= 1 << rng.random_range(0..8),
                }
            }
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
