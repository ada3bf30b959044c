//! Bytes of messages that are held for subscribers, and who published them.
//!
//! A message is held once, however many sessions wait for it, and counts until the last of them has got it. One
//! publisher may hold so much, all together so much; what operators and the engine itself publish has room beyond
//! that, so that no fleet of devices keeps a command from being sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Bytes that a message takes beside topic and payload.
const OVERHEAD: usize = 200;

/// Who publishes.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    /// What is counted together.
    pub(crate) name: Arc<str>,
    /// Bytes that it may hold.
    pub(crate) most: usize,
    /// May use what is set aside.
    pub(crate) reserve: bool,
}

/// A message for subscribers.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Box<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
    ledger: Arc<Ledger>,
    publisher: Arc<str>,
}

impl Message {
    pub(crate) fn size(&self) -> usize {
        self.topic.len() + self.payload.len() + OVERHEAD
    }

    pub(crate) fn publisher(&self) -> &Arc<str> {
        &self.publisher
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let size = self.size();
        self.ledger.give_back(&self.publisher, size);
    }
}

/// What is held.
#[derive(Debug)]
pub(crate) struct Ledger {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    by_publisher: HashMap<Arc<str>, usize>,
}

impl Ledger {
    /// `most`: bytes in all; half as much again is set aside for operators and the engine.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message that is held until it is dropped; `None`: there is no room for it.
    pub(crate) fn message(
        self: &Arc<Self>,
        from: &Publisher,
        topic: &str,
        payload: &[u8],
        qos: u8,
    ) -> Option<Arc<Message>> {
        let size = topic.len() + payload.len() + OVERHEAD;
        {
            let mut held = self.lock();
            let most = if from.reserve { self.most + self.most / 2 } else { self.most };
            let own = held.by_publisher.get(&from.name).copied().unwrap_or(0);
            if held.bytes + size > most || own + size > from.most {
                return None;
            }
            held.bytes += size;
            *held.by_publisher.entry(from.name.clone()).or_default() += size;
        }
        Some(Arc::new(Message {
            topic: topic.into(),
            payload: Bytes::copy_from_slice(payload),
            qos,
            ledger: self.clone(),
            publisher: from.name.clone(),
        }))
    }

    fn give_back(&self, publisher: &Arc<str>, size: usize) {
        let mut held = self.lock();
        held.bytes -= size;
        if let Some(own) = held.by_publisher.get_mut(publisher) {
            *own -= size;
            if *own == 0 {
                held.by_publisher.remove(publisher);
            }
        }
    }

    /// Bytes held now.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_cannot_hold_what_is_for_others() {
        let ledger = Ledger::new(10_000);
        let publisher = |name: &str, reserve| Publisher { name: name.into(), most: 4000, reserve };
        let (a, b, c) = (publisher("a", false), publisher("b", false), publisher("c", false));
        let operator = Publisher { most: usize::MAX, ..publisher("o", true) };
        let fill = |from: &Publisher| {
            std::iter::from_fn(|| ledger.message(from, "t", &[0; 799], 1)).collect::<Vec<_>>()
        };
        let mut of_a = fill(&a);
        assert_eq!(of_a.len(), 4);
        let (of_b, of_c) = (fill(&b), fill(&c));
        assert_eq!((of_b.len(), of_c.len()), (4, 2));
        assert_eq!(fill(&operator).len(), 5);
        // What is given back is there again, and nothing of it stays.
        of_a.pop();
        assert_eq!(fill(&c).len(), 1);
        drop((of_a, of_b, of_c));
        assert_eq!(ledger.bytes(), 0);
        assert!(ledger.lock().by_publisher.is_empty());
    }
}
