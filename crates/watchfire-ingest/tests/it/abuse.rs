//! Clients that misbehave, each followed by proof that others go on. The first nine kill rumqttd's own front.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use watchfire_ingest::mqtt::MqttOptions;

use crate::setup::{Raw, Rig, Settings, connect, packet, publish, subscribe, until};

fn options() -> Settings {
    let mqtt = MqttOptions {
        connect_seconds: 1,
        connections: 30,
        connections_per_address: 20,
        packet_bytes: 64 * 1024,
        ..MqttOptions::default()
    };
    Settings { mqtt, ..Settings::default() }
}

#[tokio::test]
async fn one_a_topic_that_does_not_begin_with_ascii() {
    let rig = Rig::start().await;
    for v5 in [false, true] {
        let mut client = Raw::connected(rig.mqtt, v5, "c").await;
        client.send(&subscribe(v5, 1, &["Übung/#"])).await;
        assert_eq!(client.read().await.unwrap().last(), Some(&1));
        client.publish(1, "Übung/x", b"x").await;
        let mut seen = vec![client.read().await.unwrap()[0], client.read().await.unwrap()[0]];
        seen.sort_unstable();
        assert_eq!(seen, [0x32, 0x40], "its message, and the acknowledgement");
        rig.others_go_on().await;
    }
    subscribers_are_served(&rig).await;
}

/// A message goes from one client to another.
async fn subscribers_are_served(rig: &Rig) {
    let mut hearer = rig.client("hearer").await;
    hearer.send(&subscribe(false, 1, &["proof/#"])).await;
    assert_eq!(hearer.read().await.unwrap(), [0x90, 3, 0, 1, 1]);
    let mut speaker = rig.client("speaker").await;
    speaker.publish(1, "proof/of/life", b"x").await;
    assert_eq!(speaker.puback().await.0, 1);
    let message = hearer.read().await.unwrap();
    assert!(message.ends_with(b"x"), "{message:?}");
}

#[tokio::test]
async fn two_the_last_member_of_a_share_leaves() {
    let rig = Rig::start().await;
    let (mut client, ack) =
        Raw::connecting(rig.mqtt, true, connect(true, b"c", 0, 60, None, &[0x11, 0, 0, 1, 0])).await;
    assert_eq!(ack.unwrap()[3], 0);
    client.send(&subscribe(true, 1, &["$share/g/proof/#"])).await;
    assert_eq!(client.read().await.unwrap().last(), Some(&0x9e));
    rig.broker.publish("proof/x", b"1", false).unwrap();
    drop(client);
    rig.others_go_on().await;
    subscribers_are_served(&rig).await;
}

#[tokio::test]
async fn three_a_reset_before_the_connack_and_the_same_id_again() {
    let rig = Rig::start().await;
    for _ in 0..20 {
        let mut client = Raw::open(rig.mqtt, false).await;
        client.send(&connect(false, b"same", 0, 60, None, &[])).await;
        client.stream.set_zero_linger().unwrap();
        drop(client);
    }
    let mut client = rig.client("same").await;
    client.publish(1, "devices/a/telemetry", b"{\"t\":1}").await;
    assert_eq!(client.puback().await.0, 1);
    rig.others_go_on().await;
    subscribers_are_served(&rig).await;
}

#[tokio::test]
async fn four_more_connections_than_there_may_be() {
    let rig = Rig::with(options()).await;
    let mut clients = Vec::new();
    for i in 0..20 {
        clients.push(rig.client(&format!("c{i}")).await);
    }
    for _ in 0..20 {
        let mut refused = Raw::open(rig.mqtt, false).await;
        refused.send(&connect(false, b"late", 2, 60, None, &[])).await;
        assert_eq!(refused.read().await, None);
    }
    clients[3].publish(1, "devices/a/telemetry", b"{\"t\":1}").await;
    assert_eq!(clients[3].puback().await.0, 1);
    drop(clients);
    until("places are given back", || rig.broker.connections() == 0).await;
    rig.others_go_on().await;
}

#[tokio::test]
async fn five_client_ids_with_characters_of_topics() {
    let rig = Rig::start().await;
    for _ in 0..2 {
        for id in ["a+b", "a#", "$a", "a/b", "a\u{1}"] {
            for (v5, code) in [(false, 2), (true, 0x85)] {
                let (_, ack) =
                    Raw::connecting(rig.mqtt, v5, connect(v5, id.as_bytes(), 2, 60, None, &[])).await;
                assert_eq!(ack.unwrap()[3], code, "{id}");
            }
        }
    }
    rig.others_go_on().await;
    subscribers_are_served(&rig).await;
}

#[tokio::test]
async fn six_properties_on_their_way_to_an_older_client() {
    let rig = Rig::start().await;
    let mut hearer = rig.client("hearer").await;
    hearer.send(&subscribe(false, 1, &["proof/#"])).await;
    hearer.read().await.unwrap();
    let mut client = Raw::connected(rig.mqtt, true, "c").await;
    // Payload format indicator, a user property, content type.
    let mut body = b"\x00\x07proof/x\x00\x01".to_vec();
    let properties = b"\x01\x01\x26\x00\x01k\x00\x01v\x03\x00\x01j";
    body.push(properties.len() as u8);
    body.extend(properties);
    body.extend(b"hello");
    client.send(&packet(0x32, &body)).await;
    assert_eq!(client.puback().await.0, 1);
    assert!(hearer.read().await.unwrap().ends_with(b"hello"));
    rig.others_go_on().await;
}

#[tokio::test]
async fn seven_packets_that_only_servers_send() {
    let rig = Rig::start().await;
    for v5 in [false, true] {
        for first in [0x20, 0x90, 0xb0, 0xd0, 0x00, 0x50, 0x62, 0x70, 0xf0] {
            let mut client = Raw::connected(rig.mqtt, v5, "c").await;
            client.send(&packet(first, &[0, 1, 0])).await;
            let reason = client.ends().await;
            assert!(reason.is_some() == v5, "{first:x} {reason:?}");
        }
        // A second CONNECT as well.
        let mut client = Raw::connected(rig.mqtt, v5, "c").await;
        client.send(&connect(v5, b"c", 2, 60, None, &[])).await;
        client.ends().await;
    }
    rig.others_go_on().await;
    subscribers_are_served(&rig).await;
}

#[tokio::test]
async fn eight_silence_instead_of_a_connect() {
    let rig = Rig::with(options()).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(Raw::open(rig.mqtt, false).await);
    }
    // One that says it byte by byte, too slowly.
    let mut slow = Raw::open(rig.mqtt, false).await;
    let dripping = tokio::spawn(async move {
        for byte in connect(false, b"slow", 2, 60, None, &[]) {
            slow.send(&[byte]).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        slow.ends().await
    });
    rig.others_go_on().await;
    for mut client in silent {
        assert_eq!(client.read().await, None);
    }
    assert_eq!(dripping.await.unwrap(), None);
    until("places are given back", || rig.broker.connections() == 0).await;
}

#[tokio::test]
async fn nine_the_client_id_of_somebody_else() {
    let rig = Rig::start().await;
    let mut first = Raw::connected(rig.mqtt, true, "same").await;
    first.send(&subscribe(true, 1, &["proof/#"])).await;
    first.read().await.unwrap();
    let mut second = Raw::connected(rig.mqtt, false, "same").await;
    assert_eq!(first.ends().await, Some(0x8e), "taken over");
    second.publish(1, "devices/a/telemetry", b"{\"t\":1}").await;
    assert_eq!(second.puback().await.0, 1);
    for id in ["router-0", "watchfire", "watchfire-0000000000000000"] {
        drop(rig.client(id).await);
    }
    rig.others_go_on().await;
    subscribers_are_served(&rig).await;
}

#[tokio::test]
async fn garbage_and_lengths_that_lie() {
    let rig = Rig::with(options()).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x10\xff\xff\xff\xff",
        b"\x10\xff\xff\xff\x7f",
        b"\x10\x00",
        b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x3c\x00\x00",
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\xff\xff",
        b"\x10\x0a\x00\x04MQTT\x05\x02\x00\x3c",
        &[0; 1000],
        &[0xff; 1000],
    ] {
        let mut client = Raw::open(rig.mqtt, false).await;
        client.send(bytes).await;
        assert_eq!(client.read().await, None, "{bytes:?}");
    }
    // A packet that says it is huge is refused before it comes.
    for v5 in [false, true] {
        let mut client = Raw::connected(rig.mqtt, v5, "huge").await;
        client.send(b"\x32\xff\xff\xff\x7f").await;
        assert_eq!(client.ends().await, v5.then_some(0x95));
    }
    // One that ends in the middle, and one that comes byte by byte.
    let mut half = rig.client("half").await;
    let whole = publish(false, 0x32, 1, b"devices/half/telemetry", b"{\"t\":1}");
    half.send(&whole[..whole.len() - 1]).await;
    half.stream.shutdown().await.unwrap();
    half.ends().await;
    let mut slow = rig.client("slow").await;
    for byte in publish(false, 0x32, 7, b"devices/slow/telemetry", b"{\"t\":1}") {
        slow.send(&[byte]).await;
    }
    assert_eq!(slow.puback().await.0, 7);
    rig.others_go_on().await;
}

#[tokio::test]
async fn good_messages_before_a_bad_one_are_taken() {
    let rig = Rig::start().await;
    let mut client = Raw::connected(rig.mqtt, true, "c").await;
    let mut burst = publish(true, 0x32, 1, b"devices/a/telemetry", b"{\"t\":1}");
    burst.extend(publish(true, 0x32, 2, b"devices/+/telemetry", b"{\"t\":1}"));
    client.send(&burst).await;
    until("the good one", || rig.rows() == 1).await;
    assert_eq!(client.ends().await, Some(0x90));
    rig.others_go_on().await;
}

#[tokio::test]
async fn keep_alive_is_enforced() {
    let rig = Rig::start().await;
    let (mut silent, _) = Raw::connecting(rig.mqtt, true, connect(true, b"c", 2, 1, None, &[])).await;
    // One that says something in time, and one without keep-alive, stay.
    let (mut pinging, _) = Raw::connecting(rig.mqtt, true, connect(true, b"p", 2, 1, None, &[])).await;
    let (mut patient, _) = Raw::connecting(rig.mqtt, true, connect(true, b"n", 2, 0, None, &[])).await;
    let begun = std::time::Instant::now();
    let pinged = tokio::spawn(async move {
        while begun.elapsed() < Duration::from_millis(3200) {
            pinging.send(&[0xc0, 0]).await;
            assert_eq!(pinging.read().await, Some(vec![0xd0, 0]));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        pinging
    });
    assert_eq!(silent.ends().await, Some(0x8d));
    assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());
    rig.others_go_on().await;
    for mut client in [pinged.await.unwrap(), {
        patient.send(&[0xc0, 0]).await;
        patient.read().await;
        patient
    }] {
        client.publish(1, "devices/a/telemetry", b"{\"t\":1}").await;
        assert_eq!(client.puback().await.0, 1);
    }
}

#[tokio::test]
async fn the_limit_of_all_connections_holds_across_addresses() {
    let mut settings = options();
    settings.mqtt.connections = 25;
    let rig = Rig::with(settings).await;
    // All of 127.0.0.0/8 is this machine: two addresses, neither at its own limit.
    let from = |last: u8| async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("127.0.0.{last}:0").parse().unwrap()).unwrap();
        socket.connect(rig.mqtt).await
    };
    let mut clients = Vec::new();
    for i in 0..25_u8 {
        let Ok(stream) = from(2 + i % 2).await else {
            eprintln!("SKIPPED: this machine has one loopback address");
            return;
        };
        let mut client = Raw { stream, v5: false };
        client.send(&connect(false, format!("c{i}").as_bytes(), 2, 60, None, &[])).await;
        assert_eq!(client.read().await.unwrap()[3], 0);
        clients.push(client);
    }
    for last in [2, 3, 4] {
        let mut refused = Raw { stream: from(last).await.unwrap(), v5: false };
        assert_eq!(refused.read().await, None);
    }
    for client in &mut clients {
        client.publish(1, "devices/a/telemetry", b"{\"t\":1}").await;
        assert_eq!(client.puback().await.0, 1);
    }
    drop(clients);
    until("places are given back", || rig.broker.connections() == 0).await;
    rig.others_go_on().await;
}

#[tokio::test]
async fn one_device_cannot_have_all_connections() {
    let mqtt = MqttOptions { connections_per_device: 3, ..MqttOptions::default() };
    let rig = Rig::with(Settings { mqtt, authenticates: true, ..Settings::default() }).await;
    let mut clients = Vec::new();
    for i in 0..3 {
        clients.push(Raw::login(rig.mqtt, true, &format!("c{i}"), "a", "secret").await);
    }
    let hello = connect(true, b"c4", 2, 60, Some(("a", "secret")), &[]);
    let (_, ack) = Raw::connecting(rig.mqtt, true, hello.clone()).await;
    assert_eq!(ack.unwrap()[3], 0x88);
    // Taking over one of its own is no further one.
    clients.push(Raw::login(rig.mqtt, true, "c0", "a", "secret").await);
    drop(Raw::login(rig.mqtt, true, "c0", "b", "secret").await);
    drop(clients);
    until("places are given back", || rig.broker.connections() == 0).await;
    let (_, ack) = Raw::connecting(rig.mqtt, true, hello).await;
    assert_eq!(ack.unwrap()[3], 0);
}

#[tokio::test]
async fn bad_items_do_not_keep_others_from_the_log() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    let payload = format!("[{}1]", "1,".repeat(120_000));
    for id in 1..=4 {
        client.publish(id, "devices/a/telemetry", payload.as_bytes()).await;
    }
    for id in 1..=4 {
        assert_eq!(client.puback().await.0, id);
    }
    let letters: usize = rig.rejects().iter().map(|letter| letter.payload.len() + 250).sum();
    assert!(letters < 6 * payload.len(), "{letters}");
    rig.others_go_on().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_hurts_only_itself() {
    let mqtt = MqttOptions { write_seconds: 1, ..MqttOptions::default() };
    let rig = Rig::with(Settings { mqtt, ..Settings::default() }).await;
    let mut client = rig.client("deaf").await;
    client.send(&subscribe(false, 1, &["proof/#"])).await;
    let payload = vec![b'x'; 60_000];
    let mut sent = 0;
    until("it is disconnected", || {
        let _ = rig.broker.publish("proof/x", &payload, false);
        sent += 1;
        sent > 50 && rig.broker.connections() == 0
    })
    .await;
    rig.others_go_on().await;
}
