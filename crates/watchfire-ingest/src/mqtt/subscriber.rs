//! The side of a connection that hears: its session, its subscriptions, and what is written to it.

use rumqttd::protocol::{LastWill, QoS, Subscribe, Unsubscribe};
use watchfire_telemetry::metrics;

use super::connect::Hello;
use super::connection::{Connection, End};
use super::fanout::Attached;
use super::packet::{self, Broken, reason};
use super::session::Outgoing;
use super::topic::{self, Route};

/// Bytes that are written to a client at once: more only wait in our memory instead of in its session.
const WRITE_BYTES: usize = 64 * 1024;

/// The next message for a client; one without a session has none.
pub(super) async fn next(attached: &Option<Attached>, window: usize) -> Outgoing {
    match attached {
        Some(attached) => attached.session.next(window).await,
        None => std::future::pending().await,
    }
}

impl Connection<'_> {
    /// Finds the session that the client wants to go on with. One that is new begins with the first subscription.
    pub(super) fn open_session(&mut self, hello: &mut Hello) -> bool {
        let broker = self.broker;
        if hello.expiry > 0 && !broker.fanout.has_room(&broker.owner(&self.principal, &self.key)) {
            // As many as there may be: this one ends with its connection. MQTT 5 is told, and it is counted.
            broker.refused("sessions");
            hello.expiry = 0;
        }
        self.expiry = std::time::Duration::from_secs(hello.expiry.into());
        let allowed = |filter: &str| topic::may_subscribe(&self.principal, filter);
        self.session = broker.fanout.resume(&self.key, hello.clean, self.expiry, allowed);
        self.session.is_some()
    }

    pub(super) fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        if subscribe.pkid == 0 {
            return Err(Broken(reason::PROTOCOL_ERROR, "malformed").into());
        }
        let broker = self.broker;
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for mut filter in subscribe.filters {
            if filter.qos == QoS::ExactlyOnce {
                filter.qos = QoS::AtLeastOnce;
            }
            let code = if filter.path.starts_with("$share") {
                reason::SHARED
            } else if !topic::is_filter(&filter.path) {
                reason::FILTER_INVALID
            } else if !topic::may_subscribe(&self.principal, &filter.path) {
                reason::NOT_AUTHORIZED
            } else {
                let (key, expiry) = (&self.key, self.expiry);
                let begin = || broker.fanout.begin(key, broker.owner(&self.principal, key), expiry);
                let session = &self.session.get_or_insert_with(begin).session;
                let room =
                    session.has_filter(&filter.path) || session.filter_count() < broker.options.subscriptions;
                match room && broker.fanout.subscribe(session, &filter).is_ok() {
                    true => filter.qos as u8,
                    false => reason::QUOTA,
                }
            };
            if code > 2 {
                broker.refused("filter");
            }
            codes.push(code);
        }
        packet::write_suback(&mut self.out, self.v5, packet::SUBSCRIBE, subscribe.pkid, &codes);
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let (attached, fanout) = (&self.session, &self.broker.fanout);
        let known = |filter: &String| {
            attached.as_ref().is_some_and(|attached| fanout.unsubscribe(&attached.session, filter))
        };
        let code = |filter: &String| if known(filter) { reason::SUCCESS } else { reason::NO_SUBSCRIPTION };
        let codes: Vec<u8> = unsubscribe.filters.iter().map(code).collect();
        packet::write_suback(&mut self.out, self.v5, packet::UNSUBSCRIBE, unsubscribe.pkid, &codes);
    }

    /// Writes a message, and what else may be written with it.
    pub(super) fn forward(&mut self, first: Outgoing) {
        let Some(Attached { session, .. }) = &self.session else { return };
        let mut next = Some(first);
        while let Some(Outgoing { delivery, packet_id, again }) = next {
            let flags = u8::from(again) << 3 | delivery.qos << 1 | u8::from(delivery.retain);
            let start = self.out.len();
            let message = &delivery.message;
            packet::write_publish(&mut self.out, self.v5, flags, &message.topic, packet_id, &message.payload);
            if self.out.len() - start > self.packet_bytes {
                // It said that it takes none so large: for it, this message does not exist (section 3.1.2.11.4).
                self.out.truncate(start);
                metrics().intake.fanout_lost.inc();
                if delivery.qos > 0 {
                    session.acknowledge(packet_id);
                }
            }
            next = if self.out.len() < WRITE_BYTES { session.take(self.receive_maximum) } else { None };
        }
    }

    /// Publishes the will, where the connection did not end as its client wanted.
    pub(super) fn finish(&mut self, end: &End, will: Option<LastWill>) {
        let Some(will) = will.filter(|_| !matches!(end, End::Disconnected)) else { return };
        let own = self.session.as_ref().map(|attached| attached.session.id);
        let (broker, qos) = (self.broker, (will.qos as u8).min(1));
        if let Ok(topic) = std::str::from_utf8(&will.topic)
            && topic::is_topic(topic)
            && matches!(topic::route(&self.principal, &broker.mappings, topic), Route::Fanout)
        {
            // Where too many messages are held, it is given up and counted.
            let _ = broker.fanout.publish(&self.publisher, own, topic, &will.message, qos, will.retain);
        }
    }
}
