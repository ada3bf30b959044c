//! Telemetry over MQTT: what is acknowledged, when, and with which code.

use std::time::Duration;

use watchfire_ingest::UnknownDevices;
use watchfire_ingest::mqtt::MqttOptions;
use watchfire_log::AppendError;

use crate::setup::{Raw, Rig, Settings, connect, packet, publish, until};

#[tokio::test]
async fn puback_follows_the_durable_append_in_order() {
    let rig = Rig::start().await;
    for v5 in [false, true] {
        let mut client = Raw::connected(rig.mqtt, v5, "c").await;
        client.publish(9, "devices/warm/telemetry", b"{\"t\":0}").await;
        assert_eq!(client.puback().await, (9, 0));
        rig.log.hold();
        let mut burst = Vec::new();
        for id in 1..=50 {
            let payload = format!("{{\"t\":{id}}}");
            burst.extend(publish(
                v5,
                0x32,
                id,
                format!("devices/press-{}/telemetry", id % 3).as_bytes(),
                payload.as_bytes(),
            ));
        }
        let before = rig.rows();
        client.send(&burst).await;
        until("the append", || rig.log.held() > 0).await;
        client.hears_nothing().await;
        assert_eq!(rig.rows(), before);
        assert!(rig.log.held() < 10, "many messages are few appends: {}", rig.log.held());
        rig.log.release();
        for id in 1..=50 {
            assert_eq!(client.puback().await, (id, 0));
        }
        assert_eq!(rig.rows(), before + 50);
        // A ping is answered, and QoS 0 is taken without an answer.
        client.send(&publish(v5, 0x30, 0, b"devices/a/telemetry", b"{\"t\":1}")).await;
        client.send(&[0xc0, 0]).await;
        assert_eq!(client.read().await, Some(vec![0xd0, 0]));
        until("QoS 0", || rig.rows() == before + 51).await;
    }
}

#[tokio::test]
async fn refused_payloads_become_dead_letters_and_are_answered() {
    let rig = Rig::with(Settings { unknown: UnknownDevices::Refuse, ..Settings::default() }).await;
    let mut v5 = Raw::connected(rig.mqtt, true, "five").await;
    let mut v4 = Raw::connected(rig.mqtt, false, "four").await;
    v5.publish(1, "devices/a/telemetry", b"{\"t\":").await;
    assert_eq!(v5.puback().await, (1, 0x99));
    v5.publish(2, "devices/a/telemetry", b"{\"t\":1}").await;
    assert_eq!(v5.puback().await, (2, 0x87));
    rig.log.hold();
    v4.publish(3, "devices/a/telemetry", b"nonsense").await;
    until("the append", || rig.log.held() > 0).await;
    v4.hears_nothing().await;
    rig.log.release();
    assert_eq!(v4.puback().await, (3, 0));
    let rejects = rig.rejects();
    let seen: Vec<(&str, &[u8])> = rejects.iter().map(|r| (r.code.as_str(), &r.payload[..])).collect();
    assert_eq!(
        seen,
        [("not-json", &b"{\"t\":"[..]), ("unknown-device", b"{\"t\":1}"), ("not-json", b"nonsense"),]
    );
    assert_eq!(rejects[0].address, "devices/a/telemetry");
    assert_eq!(rejects[0].device.as_deref(), Some("a"));
    assert_eq!(rig.rows(), 0);
}

#[tokio::test]
async fn while_the_log_takes_nothing_the_socket_is_not_read_and_nothing_is_lost() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.publish(1, "devices/a/telemetry", b"{\"t\":0}").await;
    assert_eq!(client.puback().await.0, 1);
    for refusal in [AppendError::Full, AppendError::DiskFull] {
        let before = rig.rows();
        rig.log.refuse(Some(refusal));
        for id in 1..=5 {
            client.publish(id, "devices/a/telemetry", format!("{{\"t\":{id}}}").as_bytes()).await;
        }
        client.hears_nothing().await;
        rig.log.refuse(None);
        for id in 1..=5 {
            assert_eq!(client.puback().await.0, id);
        }
        assert_eq!(rig.rows(), before + 5);
    }
    // A group that was not written: whoever was in it sends again.
    rig.log.hold();
    client.publish(6, "devices/a/telemetry", b"{\"t\":6,\"time\":1767225600000}").await;
    until("the append", || rig.log.held() > 0).await;
    rig.log.fail("the disk is on fire");
    client.ends().await;
    rig.log.release();
    let before = rig.rows();
    let mut client = rig.client("c").await;
    client.publish(6, "devices/a/telemetry", b"{\"t\":6,\"time\":1767225600000}").await;
    assert_eq!(client.puback().await.0, 6);
    assert_eq!(rig.rows(), before + 1, "what failed is no original of a repeat");
}

#[tokio::test]
async fn a_repeat_is_acknowledged_with_its_original() {
    let rig = Rig::start().await;
    let reading = b"{\"t\":1,\"time\":1767225600000}";
    let (mut first, mut second) = (rig.client("1").await, rig.client("2").await);
    first.publish(1, "devices/a/telemetry", b"{\"t\":0}").await;
    first.puback().await;
    rig.log.hold();
    first.publish(2, "devices/a/telemetry", reading).await;
    until("the append", || rig.log.held() == 1).await;
    second.publish(7, "devices/a/telemetry", reading).await;
    second.hears_nothing().await;
    rig.log.release();
    assert_eq!((first.puback().await.0, second.puback().await.0), (2, 7));
    second.publish(8, "devices/a/telemetry", reading).await;
    assert_eq!(second.puback().await.0, 8);
    assert_eq!(rig.rows(), 2);
}

#[tokio::test]
async fn mapped_topics() {
    let mappings = "
        [[mapping]]
        topic = 'plant/{device}/{metric}'
        [[mapping]]
        topic = 'lines/+/data'
        device = '/id'
        time = '/ts'
        metrics = '/values'
    ";
    let rig = Rig::with(Settings { mappings, ..Settings::default() }).await;
    let mut client = rig.client("c").await;
    client.publish(1, "plant/p1/temperature", b"71.4").await;
    client.publish(2, "lines/3/data", b"{\"id\":\"p2\",\"ts\":1767225600001,\"values\":{\"x\":1}}").await;
    client.publish(3, "lines/3/data", b"{\"ts\":1}").await;
    for id in 1..=3 {
        assert_eq!(client.puback().await.0, id);
    }
    assert_eq!((rig.rows(), rig.rejects()[0].code.as_str()), (2, "no-device"));
}

#[tokio::test]
async fn who_is_let_in_and_what_they_may_send() {
    let rig = Rig::with(Settings { authenticates: true, ..Settings::default() }).await;
    for (v5, login, code) in [
        (false, None, 4),
        (false, Some(("a", "wrong")), 4),
        (true, Some(("a", "wrong")), 0x86),
        (true, Some(("token", "wrong")), 0x86),
    ] {
        let (mut client, ack) = Raw::connecting(rig.mqtt, v5, connect(v5, b"x", 2, 60, login, &[])).await;
        assert_eq!(ack.unwrap()[3], code, "{login:?}");
        client.ends().await;
    }
    let mut device = Raw::login(rig.mqtt, true, "x", "a", "secret").await;
    device.publish(1, "devices/a/telemetry", b"{\"t\":1}").await;
    assert_eq!(device.puback().await, (1, 0));
    device.publish(2, "devices/b/telemetry", b"{\"t\":1}").await;
    assert_eq!(device.puback().await, (2, 0x87));
    device.publish(3, "devices/a/telemetry", b"{\"device\":\"b\",\"metrics\":{\"t\":1}}").await;
    assert_eq!(device.puback().await, (3, 0x87));
    device.publish(4, "elsewhere", b"x").await;
    assert_eq!(device.puback().await, (4, 0x87));
    let mut gateway = Raw::login(rig.mqtt, true, "g", "gateway", "secret").await;
    gateway.publish(1, "devices/gw-7/telemetry", b"{\"t\":1}").await;
    assert_eq!(gateway.puback().await, (1, 0));
    gateway.publish(2, "devices/a/telemetry", b"{\"t\":2}").await;
    assert_eq!(gateway.puback().await, (2, 0x87));
    gateway.publish(3, "devices/gateway/telemetry", b"{\"t\":2}").await;
    assert_eq!(gateway.puback().await, (3, 0));
    let mut viewer = Raw::login(rig.mqtt, true, "v", "token", "viewer").await;
    viewer.publish(1, "devices/a/telemetry", b"{\"t\":3}").await;
    assert_eq!(viewer.puback().await, (1, 0x87));
    assert_eq!(rig.rows(), 3);
    let codes: Vec<String> = rig.rejects().into_iter().map(|r| r.code).collect();
    assert_eq!(
        codes,
        ["not-authorised", "device-mismatch", "not-authorised", "not-authorised", "not-authorised"]
    );
    // Two devices with the same client id do not evict each other.
    let mut other = Raw::login(rig.mqtt, true, "x", "b", "secret").await;
    other.publish(1, "devices/b/telemetry", b"{\"t\":1}").await;
    assert_eq!(other.puback().await, (1, 0));
    device.publish(5, "devices/a/telemetry", b"{\"t\":5}").await;
    assert_eq!(device.puback().await, (5, 0));
}

#[tokio::test]
async fn unknown_devices_are_quarantined_or_refused_by_the_registry() {
    let rig = Rig::with(Settings { unknown: UnknownDevices::Quarantine, ..Settings::default() }).await;
    let mut client = Raw::connected(rig.mqtt, true, "c").await;
    client.publish(1, "devices/a/telemetry", b"{\"t\":1}").await;
    assert_eq!(client.puback().await, (1, 0));
    assert_eq!((rig.rows(), rig.rejects()[0].code.as_str()), (0, "quarantined"));
    let rig = Rig::start().await;
    let mut client = Raw::connected(rig.mqtt, true, "c").await;
    client.publish(1, "devices/forbidden/telemetry", b"{\"t\":1}").await;
    assert_eq!(client.puback().await, (1, 0x87));
    assert!(rig.rejects()[0].reason.contains("as many devices as there may be"));
}

#[tokio::test]
async fn what_mqtt_5_clients_are_told() {
    let rig = Rig::start().await;
    // No client id: one is assigned.
    let (_, ack) = Raw::connecting(rig.mqtt, true, connect(true, b"", 2, 60, None, &[])).await;
    let ack = ack.unwrap();
    let has = |needle: &[u8]| ack.windows(needle.len()).any(|window| window == needle);
    assert!(has(&[0x24, 1]), "maximum QoS 1: {ack:?}");
    assert!(has(&[0x12, 0, 21]), "assigned client identifier: {ack:?}");
    assert!(has(&[0x2a, 0]), "no shared subscriptions: {ack:?}");
    let mut client = Raw::connected(rig.mqtt, true, "c").await;
    client.send(&publish(true, 0x34, 1, b"devices/a/telemetry", b"{}")).await;
    assert_eq!(client.ends().await, Some(0x9b));
    // MQTT 3.1.1 needs a clean session for that, and MQTT 3.1 is not spoken.
    let (_, ack) = Raw::connecting(rig.mqtt, false, connect(false, b"", 0, 60, None, &[])).await;
    assert_eq!(ack.unwrap()[3], 2);
    let old = packet(0x10, b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a");
    let (_, ack) = Raw::connecting(rig.mqtt, false, old).await;
    assert_eq!(ack.unwrap()[3], 1);
}

#[tokio::test]
async fn a_stop_acknowledges_what_was_received() {
    let rig = Rig::start().await;
    let mut client = Raw::connected(rig.mqtt, true, "c").await;
    client.publish(1, "devices/a/telemetry", b"{\"t\":0}").await;
    client.puback().await;
    rig.log.hold();
    client.publish(2, "devices/a/telemetry", b"{\"t\":1}").await;
    until("the append", || rig.log.held() == 1).await;
    let broker = rig.broker.clone();
    let stopped = tokio::spawn(async move { broker.stop().await });
    client.hears_nothing().await;
    rig.log.release();
    assert_eq!(client.puback().await.0, 2);
    assert_eq!(client.ends().await, Some(0x8b));
    stopped.await.unwrap();
    assert_eq!(rig.broker.connections(), 0);
}

#[tokio::test]
async fn rumqttc_publishes_in_both_versions() {
    let rig = Rig::with(Settings {
        mqtt: MqttOptions { receive_maximum: 20, ..MqttOptions::default() },
        ..Settings::default()
    })
    .await;
    let count = 300;
    {
        use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
        let mut options = MqttOptions::new("four", rig.mqtt.ip().to_string(), rig.mqtt.port());
        options.set_inflight(100);
        let (client, mut events) = AsyncClient::new(options, 10);
        tokio::spawn(async move {
            for i in 0..count {
                let payload = format!("{{\"i\":{i}}}");
                client.publish("devices/four/telemetry", QoS::AtLeastOnce, false, payload).await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
        let mut acks = 0;
        while acks < count {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
                acks += 1;
            }
        }
    }
    {
        use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
        use rumqttc::v5::{AsyncClient, Event, MqttOptions};
        let options = MqttOptions::new("five", rig.mqtt.ip().to_string(), rig.mqtt.port());
        let (client, mut events) = AsyncClient::new(options, 10);
        tokio::spawn(async move {
            for i in 0..count {
                let payload = format!("{{\"i\":{i}}}");
                client.publish("devices/five/telemetry", QoS::AtLeastOnce, false, payload).await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
        let mut acks = 0;
        while acks < count {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
                acks += 1;
            }
        }
    }
    assert_eq!(rig.rows(), 2 * count);
}
