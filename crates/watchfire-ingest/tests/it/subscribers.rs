//! Subscriptions, retained messages, commands, wills and sessions.

use watchfire_ingest::contract::Revocation;

use crate::setup::{Raw, Rig, Settings, connect, packet, publish, subscribe, until};

/// Topic and payload of a PUBLISH, and its packet id.
fn message(packet: &[u8], v5: bool) -> (String, Vec<u8>, u16) {
    assert_eq!(packet[0] >> 4, 3, "{packet:?}");
    let header = 1 + packet[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let length = usize::from(u16::from_be_bytes([packet[header], packet[header + 1]]));
    let topic = String::from_utf8(packet[header + 2..header + 2 + length].to_vec()).unwrap();
    let mut at = header + 2 + length;
    let mut id = 0;
    if packet[0] & 6 != 0 {
        id = u16::from_be_bytes([packet[at], packet[at + 1]]);
        at += 2;
    }
    if v5 {
        at += 1 + usize::from(packet[at]);
    }
    (topic, packet[at..].to_vec(), id)
}

async fn subscribed(client: &mut Raw, filters: &[&str]) -> Vec<u8> {
    let bytes = subscribe(client.v5, 77, filters);
    client.send(&bytes).await;
    let ack = client.read().await.unwrap();
    assert_eq!(ack[0], 0x90);
    ack[if client.v5 { 5 } else { 4 }..].to_vec()
}

#[tokio::test]
async fn devices_hear_their_commands_and_nothing_else() {
    let rig = Rig::with(Settings { authenticates: true, ..Settings::default() }).await;
    for v5 in [false, true] {
        let mut device = Raw::login(rig.mqtt, v5, "d", "a", "secret").await;
        let no = if v5 { 0x87 } else { 0x80 };
        let codes = subscribed(&mut device, &["devices/a/commands/#", "devices/b/commands/#", "#"]).await;
        assert_eq!(codes, [1, no, no]);
        rig.broker.publish_command("b", "open", b"0").unwrap();
        rig.broker.publish_command("a", "open", b"1").unwrap();
        let (topic, payload, id) = message(&device.read().await.unwrap(), v5);
        assert_eq!((topic.as_str(), &payload[..]), ("devices/a/commands/open", &b"1"[..]));
        device.send(&packet(0x40, &id.to_be_bytes())).await;
        let mut operator = Raw::login(rig.mqtt, v5, "o", "token", "operator").await;
        operator.publish(1, "devices/a/commands/close", b"2").await;
        assert_eq!(operator.puback().await.0, 1);
        assert_eq!(message(&device.read().await.unwrap(), v5).1, b"2");
        drop(device);
    }
    assert!(rig.broker.publish_command("a/+", "x", b"").is_err());
}

#[tokio::test]
async fn retained_messages_come_with_the_subscription() {
    let rig = Rig::start().await;
    for v5 in [false, true] {
        let mut speaker = Raw::connected(rig.mqtt, v5, "speaker").await;
        let bytes = publish(v5, 0x33, 1, b"devices/a/status", b"up");
        speaker.send(&bytes).await;
        assert_eq!(speaker.puback().await.0, 1);
        let mut hearer = Raw::connected(rig.mqtt, v5, "hearer").await;
        assert_eq!(subscribed(&mut hearer, &["devices/+/status"]).await, [1]);
        let packet = hearer.read().await.unwrap();
        assert_eq!(message(&packet, v5).1, b"up");
        assert_eq!(packet[0] & 1, 1, "retained");
    }
}

#[tokio::test]
async fn telemetry_is_handed_to_whoever_subscribed() {
    let rig = Rig::start().await;
    let mut hearer = rig.client("hearer").await;
    subscribed(&mut hearer, &["devices/+/telemetry"]).await;
    let mut device = Raw::connected(rig.mqtt, true, "device").await;
    device.publish(1, "devices/a/telemetry", b"{\"t\":1}").await;
    assert_eq!(device.puback().await, (1, 0));
    let (topic, payload, _) = message(&hearer.read().await.unwrap(), false);
    assert_eq!((topic.as_str(), &payload[..]), ("devices/a/telemetry", &b"{\"t\":1}"[..]));
    // Refused ones are not.
    device.publish(2, "devices/a/telemetry", b"{\"t\":[]}").await;
    assert_eq!(device.puback().await, (2, 0x99));
    hearer.hears_nothing().await;
    let bytes = packet(0xa2, b"\x00\x09\x00\x13devices/+/telemetry");
    hearer.send(&bytes).await;
    assert_eq!(hearer.read().await.unwrap(), [0xb0, 2, 0, 9]);
    device.publish(3, "devices/a/telemetry", b"{\"t\":3}").await;
    device.puback().await;
    hearer.hears_nothing().await;
}

#[tokio::test]
async fn acknowledgements_in_any_order_keep_messages_coming() {
    let rig = Rig::start().await;
    let mut hearer = rig.client("hearer").await;
    subscribed(&mut hearer, &["proof/#"]).await;
    let mut expected = 0;
    // The router has 100 packet ids: far more messages than that.
    for _ in 0..20 {
        for i in 0..30 {
            rig.broker.publish("proof/x", format!("{}", expected + i).as_bytes(), false).unwrap();
        }
        let mut ids = Vec::new();
        for _ in 0..30 {
            let (_, payload, id) = message(&hearer.read().await.unwrap(), false);
            assert_eq!(String::from_utf8(payload).unwrap(), expected.to_string());
            expected += 1;
            ids.push(id);
        }
        ids.reverse();
        for id in ids {
            hearer.send(&packet(0x40, &id.to_be_bytes())).await;
        }
    }
}

#[tokio::test]
async fn a_session_is_gone_on_with() {
    let rig = Rig::start().await;
    for (v5, flags, properties) in [(false, 0, &[][..]), (true, 0, &[0x11, 0, 0, 1, 0][..])] {
        let id = if v5 { b"five" } else { b"four" };
        let hello = connect(v5, id, flags, 60, None, properties);
        let (mut client, ack) = Raw::connecting(rig.mqtt, v5, hello.clone()).await;
        assert_eq!(ack.unwrap()[2..4], [0, 0], "no session yet");
        subscribed(&mut client, &["proof/#"]).await;
        client.send(&packet(0xe0, &[])).await;
        client.ends().await;
        until("it left", || rig.broker.connections() == 0).await;
        rig.broker.publish("proof/x", b"while it was away", false).unwrap();
        let (mut client, ack) = Raw::connecting(rig.mqtt, v5, hello.clone()).await;
        assert_eq!(ack.unwrap()[2..4], [1, 0], "the session is there");
        let (_, payload, id) = message(&client.read().await.unwrap(), v5);
        assert_eq!(payload, b"while it was away");
        client.send(&packet(0x40, &id.to_be_bytes())).await;
        client.send(&packet(0xe0, &[])).await;
        client.ends().await;
        until("it left", || rig.broker.connections() == 0).await;
        // A clean start forgets it.
        let clean = connect(v5, if v5 { b"five" } else { b"four" }, 2, 60, None, &[]);
        let (mut client, ack) = Raw::connecting(rig.mqtt, v5, clean).await;
        assert_eq!(ack.unwrap()[2..4], [0, 0]);
        rig.broker.publish("proof/x", b"2", false).unwrap();
        client.hears_nothing().await;
        drop(client);
        until("it left", || rig.broker.connections() == 0).await;
    }
}

#[tokio::test]
async fn a_will_is_published_when_the_connection_breaks() {
    let rig = Rig::start().await;
    let mut hearer = rig.client("hearer").await;
    subscribed(&mut hearer, &["devices/+/status"]).await;
    let hello = packet(0x10, b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01w\x00\x10devices/a/status\x00\x04gone");
    for goodbye in [true, false] {
        let (mut client, _) = Raw::connecting(rig.mqtt, false, hello.clone()).await;
        if goodbye {
            client.send(&packet(0xe0, &[])).await;
            client.ends().await;
            hearer.hears_nothing().await;
        } else {
            drop(client);
            let (topic, payload, _) = message(&hearer.read().await.unwrap(), false);
            assert_eq!((topic.as_str(), &payload[..]), ("devices/a/status", &b"gone"[..]));
        }
    }
}

#[tokio::test]
async fn filters_are_bounded() {
    let mut settings = Settings::default();
    settings.mqtt.subscriptions = 3;
    let rig = Rig::with(settings).await;
    let mut client = Raw::connected(rig.mqtt, true, "c").await;
    let codes = subscribed(&mut client, &["a", "b", "a", "c", "d", "a/#/b"]).await;
    assert_eq!(codes, [1, 1, 1, 1, 0x97, 0x8f]);
}

#[tokio::test]
async fn a_session_that_is_gone_on_with_hears_without_subscribing_again() {
    let mut settings = Settings::default();
    settings.mqtt.subscriptions = 1;
    let rig = Rig::with(settings).await;
    for (v5, properties) in [(false, &[][..]), (true, &[0x11, 0, 0, 1, 0][..])] {
        let hello = connect(v5, format!("{v5}").as_bytes(), 0, 60, None, properties);
        let mut device = Raw::connected(rig.mqtt, v5, "device").await;
        let (mut client, _) = Raw::connecting(rig.mqtt, v5, hello.clone()).await;
        assert_eq!(subscribed(&mut client, &["devices/+/telemetry"]).await, [1]);
        for round in 1..3 {
            client.send(&packet(0xe0, &[])).await;
            client.ends().await;
            until("it left", || rig.broker.sessions_kept() == 1).await;
            // While it is away, and while it is there again.
            device.publish(1, "devices/a/telemetry", format!("{{\"t\":{round}1}}").as_bytes()).await;
            device.puback().await;
            let (back, ack) = Raw::connecting(rig.mqtt, v5, hello.clone()).await;
            assert_eq!(ack.unwrap()[2..4], [1, 0], "the session is there");
            client = back;
            device.publish(2, "devices/a/telemetry", format!("{{\"t\":{round}2}}").as_bytes()).await;
            device.puback().await;
            for t in [1, 2] {
                let (_, payload, id) = message(&client.read().await.unwrap(), v5);
                assert_eq!(payload, format!("{{\"t\":{round}{t}}}").as_bytes());
                client.send(&packet(0x40, &id.to_be_bytes())).await;
            }
            // Its filters count.
            let codes = subscribed(&mut client, &["more", "devices/+/telemetry"]).await;
            assert_eq!(codes, [if v5 { 0x97 } else { 0x80 }, 1]);
        }
        let clean = connect(v5, format!("{v5}").as_bytes(), 2, 60, None, &[]);
        drop(Raw::connecting(rig.mqtt, v5, clean).await);
        until("it is forgotten", || rig.broker.sessions_kept() == 0).await;
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again() {
    let rig = Rig::start().await;
    let hello = connect(false, b"c", 0, 60, None, &[]);
    let (mut client, _) = Raw::connecting(rig.mqtt, false, hello.clone()).await;
    subscribed(&mut client, &["proof/#"]).await;
    rig.broker.publish("proof/x", b"1", false).unwrap();
    let first = client.read().await.unwrap();
    drop(client);
    until("it left", || rig.broker.sessions_kept() == 1).await;
    let (mut client, _) = Raw::connecting(rig.mqtt, false, hello).await;
    let again = client.read().await.unwrap();
    assert_eq!((again[0], &again[1..]), (first[0] | 8, &first[1..]), "the same, marked as a duplicate");
}

#[tokio::test]
async fn sessions_end_when_their_time_is_over() {
    let mut settings = Settings::default();
    (settings.mqtt.sweep_seconds, settings.mqtt.sessions) = (1, 1);
    let rig = Rig::with(settings).await;
    let hello = |id: &str| connect(true, id.as_bytes(), 0, 60, None, &[0x11, 0, 0, 0, 1]);
    let (mut client, _) = Raw::connecting(rig.mqtt, true, hello("a")).await;
    subscribed(&mut client, &["proof/#"]).await;
    drop(client);
    until("it left", || rig.broker.sessions_kept() == 1).await;
    // There is room for one: a second one ends with its connection, and is told so.
    let (_, ack) = Raw::connecting(rig.mqtt, true, hello("b")).await;
    assert!(ack.unwrap().windows(5).any(|window| window == [0x11, 0, 0, 0, 0]));
    until("it is over", || rig.broker.sessions_kept() == 0).await;
    let (_, ack) = Raw::connecting(rig.mqtt, true, hello("a")).await;
    assert_eq!(ack.unwrap()[2..4], [0, 0], "nothing is left of it");
}

#[tokio::test]
async fn topics_of_one_device_leave_room_for_others() {
    let mut settings = Settings { authenticates: true, ..Settings::default() };
    (settings.mqtt.held_bytes, settings.mqtt.held_bytes_per_device) = (1 << 20, 1 << 16);
    let rig = Rig::with(settings).await;
    let mut greedy = Raw::login(rig.mqtt, true, "g", "greedy", "secret").await;
    // More topics than any table would have: nobody hears them.
    let mut burst = Vec::new();
    for i in 0..210_000 {
        burst.extend(publish(true, 0x30, 0, format!("devices/greedy/{i}").as_bytes(), b"x"));
    }
    greedy.send(&burst).await;
    // What it retains is bounded, and it is told.
    let mut codes = std::collections::BTreeSet::new();
    for i in 0..500 {
        greedy.send(&publish(true, 0x33, 1, format!("devices/greedy/{i}").as_bytes(), &[b'x'; 100])).await;
        codes.insert(greedy.puback().await.1);
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [0, 0x97]);
    // Others retain, and have commands.
    let mut other = Raw::login(rig.mqtt, true, "o", "other", "secret").await;
    other.send(&publish(true, 0x33, 1, b"devices/other/status", b"up")).await;
    assert_eq!(other.puback().await, (1, 0));
    subscribed(&mut other, &["devices/other/commands/#"]).await;
    rig.broker.publish_command("other", "never-seen-before", b"1").unwrap();
    assert_eq!(message(&other.read().await.unwrap(), true).1, b"1");
}

#[tokio::test]
async fn a_device_hears_its_commands_while_others_fill_what_may_be_held() {
    let mut settings = Settings { authenticates: true, ..Settings::default() };
    (settings.mqtt.held_bytes, settings.mqtt.held_bytes_per_device) = (1 << 16, 1 << 16);
    let rig = Rig::with(settings).await;
    let mut deaf = Raw::login(rig.mqtt, true, "v", "token", "viewer").await;
    subscribed(&mut deaf, &["#"]).await;
    let mut device = Raw::login(rig.mqtt, true, "o", "other", "secret").await;
    subscribed(&mut device, &["devices/other/commands/#"]).await;
    let mut greedy = Raw::login(rig.mqtt, true, "g", "greedy", "secret").await;
    let mut last = 0;
    for id in 1..=1000 {
        greedy.publish(id, "devices/greedy/status", &[b'x'; 1000]).await;
        last = greedy.puback().await.1;
    }
    assert_eq!(last, 0x97);
    rig.broker.publish_command("other", "open", b"1").unwrap();
    assert_eq!(message(&device.read().await.unwrap(), true).1, b"1");
}

#[tokio::test]
async fn a_revoked_credential_ends_its_connections() {
    let rig = Rig::with(Settings { authenticates: true, ..Settings::default() }).await;
    let mut revoked = Raw::login(rig.mqtt, true, "c", "a", "secret").await;
    let mut other = Raw::login(rig.mqtt, true, "c", "ab", "secret").await;
    let mut user = Raw::login(rig.mqtt, true, "u", "token", "operator").await;
    let of = |name: &str| Revocation::Of(name.into());
    rig.revocations.send(of("device:a")).unwrap();
    assert_eq!(revoked.ends().await, Some(0x87));
    other.publish(1, "devices/ab/telemetry", b"{\"t\":1}").await;
    assert_eq!(other.puback().await.0, 1);
    rig.revocations.send(of("user:otto")).unwrap();
    assert_eq!(user.ends().await, Some(0x87));
    rig.revocations.send(Revocation::Unknown).unwrap();
    assert_eq!(other.ends().await, Some(0x87));
    rig.others_go_on_as("b", "secret").await;
}
