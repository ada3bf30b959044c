//! What one subscriber has to be told, also while it is away.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::ledger::Message;
use super::topic;

/// Messages that wait for one session, commands apart from all others: a dashboard that also hears commands does not
/// lose them in a flood of telemetry.
const WAITING: usize = 1000;
/// Bytes of these.
const WAITING_BYTES: usize = 4 << 20;
/// Retained messages that come with a subscription wait as well. They are held anyway, so only their number counts.
const WITH_RETAINED: usize = 200_000;

/// A subscriber. It is there from its first subscription until its connection ends, or until its expiry after that.
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) key: Box<str>,
    /// Whose sessions are counted together.
    pub(crate) owner: Arc<str>,
    inbox: Mutex<Inbox>,
    news: Notify,
}

#[derive(Default)]
struct Inbox {
    filters: HashSet<Box<str>>,
    waiting: VecDeque<Delivery>,
    /// Messages and bytes that wait, of commands and of others.
    counted: [(usize, usize); 2],
    /// Sent with QoS 1 and not acknowledged, oldest first.
    sent: VecDeque<(u16, Delivery)>,
    /// How many of these, from the first on, have to be sent again: the client came back.
    again: usize,
    last_id: u16,
    /// When it ends; `None`: its client is connected.
    until: Option<Instant>,
}

/// A message on its way to a session.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
}

impl Delivery {
    fn class(&self) -> usize {
        usize::from(topic::is_command(&self.message.topic))
    }
}

/// A message to be written now.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) delivery: Delivery,
    /// 0 with QoS 0.
    pub(crate) packet_id: u16,
    /// It was sent before.
    pub(crate) again: bool,
}

impl Session {
    pub(crate) fn new(id: u64, key: &str, owner: Arc<str>) -> Arc<Self> {
        Arc::new(Self { id, key: key.into(), owner, inbox: Mutex::default(), news: Notify::new() })
    }

    #[cfg(test)]
    pub(crate) fn for_test(id: u64) -> Arc<Self> {
        Self::new(id, "", "".into())
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a filter; says whether it is new.
    pub(crate) fn add_filter(&self, filter: &str) -> bool {
        self.lock().filters.insert(filter.into())
    }

    /// Forgets a filter; says whether it was there.
    pub(crate) fn remove_filter(&self, filter: &str) -> bool {
        self.lock().filters.remove(filter)
    }

    pub(crate) fn has_filter(&self, filter: &str) -> bool {
        self.lock().filters.contains(filter)
    }

    /// Whether all its filters are of this kind.
    pub(crate) fn filters_all(&self, holds: impl Fn(&str) -> bool) -> bool {
        self.lock().filters.iter().all(|filter| holds(filter))
    }

    pub(crate) fn filter_count(&self) -> usize {
        self.lock().filters.len()
    }

    pub(crate) fn take_filters(&self) -> HashSet<Box<str>> {
        std::mem::take(&mut self.lock().filters)
    }

    /// Puts a message in; `false`: too many wait, this one is given up.
    pub(crate) fn push(&self, delivery: Delivery) -> bool {
        {
            let mut inbox = self.lock();
            if inbox.until.is_some() && delivery.qos == 0 {
                // Nobody is there, and nobody was promised it (section 4.3.1).
                return true;
            }
            let (class, size) = (delivery.class(), delivery.message.size());
            let (messages, bytes) = &mut inbox.counted[class];
            if *messages >= WAITING || *bytes + size > WAITING_BYTES {
                return false;
            }
            *messages += 1;
            *bytes += size;
            inbox.waiting.push_back(delivery);
        }
        self.news.notify_one();
        true
    }

    /// Puts in what was retained. What of it does not fit is given up: gives how many.
    pub(crate) fn push_retained(&self, retained: Vec<Delivery>) -> usize {
        let mut lost = 0;
        {
            let mut inbox = self.lock();
            for delivery in retained {
                if inbox.waiting.len() >= WITH_RETAINED {
                    lost += 1;
                    continue;
                }
                let counted = &mut inbox.counted[delivery.class()];
                counted.0 += 1;
                counted.1 += delivery.message.size();
                inbox.waiting.push_back(delivery);
            }
        }
        self.news.notify_one();
        lost
    }

    /// The next message, where one may be sent now: `window` of QoS 1 may be unacknowledged.
    pub(crate) fn take(&self, window: usize) -> Option<Outgoing> {
        let mut inbox = self.lock();
        if inbox.again > 0 {
            let at = inbox.sent.len().checked_sub(inbox.again)?;
            inbox.again -= 1;
            let (packet_id, delivery) = inbox.sent.get(at)?.clone();
            return Some(Outgoing { delivery, packet_id, again: true });
        }
        let qos = inbox.waiting.front()?.qos;
        if qos > 0 && inbox.sent.len() >= window {
            return None;
        }
        let delivery = inbox.waiting.pop_front()?;
        let counted = &mut inbox.counted[delivery.class()];
        counted.0 -= 1;
        counted.1 -= delivery.message.size();
        let packet_id = if qos > 0 { inbox.next_id() } else { 0 };
        if qos > 0 {
            inbox.sent.push_back((packet_id, delivery.clone()));
        }
        Some(Outgoing { delivery, packet_id, again: false })
    }

    /// Waits for [`Session::take`] to give something.
    pub(crate) async fn next(&self, window: usize) -> Outgoing {
        loop {
            let news = self.news.notified();
            if let Some(outgoing) = self.take(window) {
                return outgoing;
            }
            news.await;
        }
    }

    /// The client has a message.
    pub(crate) fn acknowledge(&self, packet_id: u16) {
        {
            let mut inbox = self.lock();
            let Some(at) = inbox.sent.iter().position(|(id, _)| *id == packet_id) else { return };
            inbox.sent.remove(at);
            // One that was not sent again yet.
            if at >= inbox.sent.len() + 1 - inbox.again {
                inbox.again -= 1;
            }
        }
        self.news.notify_one();
    }

    /// The client is there again: what it did not acknowledge is sent again, in the order of the first time.
    pub(crate) fn resume(&self) {
        let mut inbox = self.lock();
        inbox.until = None;
        inbox.again = inbox.sent.len();
        drop(inbox);
        self.news.notify_one();
    }

    /// The client is away, and the session ends then.
    pub(crate) fn rest(&self, until: Instant) {
        let mut inbox = self.lock();
        inbox.until = Some(until);
        inbox.waiting.retain(|delivery| delivery.qos > 0);
        inbox.counted = Default::default();
        let Inbox { waiting, counted, .. } = &mut *inbox;
        for delivery in waiting {
            let counted = &mut counted[delivery.class()];
            counted.0 += 1;
            counted.1 += delivery.message.size();
        }
    }

    /// Whether its client is away, and its time over.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.lock().until.is_some_and(|until| until <= now)
    }

    pub(crate) fn is_away(&self) -> bool {
        self.lock().until.is_some()
    }
}

impl Inbox {
    /// A packet id that is not in use: there are 65 535, and a window has far fewer.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.sent.iter().any(|(id, _)| *id == self.last_id) {
                return self.last_id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ledger::{Ledger, Publisher};
    use super::*;

    fn delivery(topic: &str, number: usize) -> Delivery {
        let from = Publisher { name: "p".into(), most: usize::MAX, reserve: false };
        let message =
            Ledger::new(usize::MAX / 2).message(&from, topic, number.to_string().as_bytes(), 1).unwrap();
        Delivery { message, qos: 1, retain: false }
    }

    fn payload(outgoing: &Outgoing) -> usize {
        std::str::from_utf8(&outgoing.delivery.message.payload).unwrap().parse().unwrap()
    }

    #[test]
    fn what_was_not_acknowledged_comes_again() {
        let session = Session::for_test(1);
        for number in 0..10 {
            assert!(session.push(delivery("a", number)));
        }
        let sent: Vec<Outgoing> = std::iter::from_fn(|| session.take(4)).collect();
        assert_eq!(sent.iter().map(payload).collect::<Vec<_>>(), [0, 1, 2, 3]);
        session.acknowledge(sent[2].packet_id);
        session.acknowledge(sent[2].packet_id);
        session.rest(Instant::now() + Duration::from_secs(60));
        assert!(session.push(Delivery { qos: 0, ..delivery("a", 99) }));
        session.resume();
        let first = session.take(4).unwrap();
        assert!(first.again && first.packet_id == sent[0].packet_id && payload(&first) == 0);
        // Acknowledged before it was sent again: late news of the connection before.
        session.acknowledge(sent[1].packet_id);
        let rest: Vec<usize> = std::iter::from_fn(|| session.take(100)).map(|o| payload(&o)).collect();
        assert_eq!(rest, [3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_flood_leaves_room_for_commands() {
        let session = Session::for_test(1);
        let taken = (0..2 * WAITING).filter(|n| session.push(delivery("devices/a/telemetry", *n))).count();
        assert_eq!(taken, WAITING);
        assert!(session.push(delivery("devices/a/commands/open", 1)));
    }

    #[test]
    fn packet_ids_in_use_are_passed_over() {
        let session = Session::for_test(1);
        assert!(session.push(delivery("a", 0)));
        assert_eq!(session.take(10).unwrap().packet_id, 1);
        session.lock().last_id = u16::MAX;
        assert!(session.push(delivery("a", 1)));
        assert_eq!(session.take(10).unwrap().packet_id, 2);
    }
}
