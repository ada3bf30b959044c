//! Retained messages: the last one of a topic, for whoever subscribes later.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::ledger::{Message, Publisher};
use super::tree;

/// What is retained, within bounds of bytes: in all, and for each publisher half of what it may hold.
pub(crate) struct Retained {
    most: usize,
    bytes: usize,
    /// By topic: a filter that begins with names looks at what begins with them only.
    by_topic: BTreeMap<Box<str>, Arc<Message>>,
    by_publisher: HashMap<Arc<str>, usize>,
}

impl Retained {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, bytes: 0, by_topic: BTreeMap::new(), by_publisher: HashMap::new() }
    }

    /// Retains a message in place of the one before. `false`: there is no room, and nothing changed.
    pub(crate) fn set(&mut self, message: &Arc<Message>, from: &Publisher) -> bool {
        let before = self.by_topic.get(&message.topic);
        let own = self.by_publisher.get(&from.name).copied().unwrap_or(0);
        let freed = before.map_or(0, |before| before.size());
        let own_freed = before.filter(|b| *b.publisher() == from.name).map_or(0, |b| b.size());
        let size = message.size();
        if self.bytes - freed + size > self.most || own - own_freed + size > from.most / 2 {
            return false;
        }
        self.remove(&message.topic);
        self.bytes += size;
        *self.by_publisher.entry(from.name.clone()).or_default() += size;
        self.by_topic.insert(message.topic.clone(), message.clone());
        true
    }

    pub(crate) fn remove(&mut self, topic: &str) {
        let Some(message) = self.by_topic.remove(topic) else { return };
        self.bytes -= message.size();
        if let Some(own) = self.by_publisher.get_mut(message.publisher()) {
            *own -= message.size();
            if *own == 0 {
                self.by_publisher.remove(message.publisher());
            }
        }
    }

    /// What a filter matches.
    pub(crate) fn matching<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = &'a Arc<Message>> {
        let wild = filter.find(['+', '#']).unwrap_or(filter.len());
        // `a/#` matches `a` as well.
        let prefix = filter[..wild].trim_end_matches('/');
        self.by_topic
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(topic, _)| topic.starts_with(prefix))
            .filter(move |(topic, _)| tree::matches(filter, topic))
            .map(|(_, message)| message)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ledger;
    use super::*;

    #[test]
    fn the_last_of_a_topic_within_bounds() {
        let ledger = Ledger::new(1 << 20);
        let a = Publisher { name: "a".into(), most: 4000, reserve: false };
        let b = Publisher { name: "b".into(), ..a.clone() };
        let mut retained = Retained::new(3000);
        let mut set = |from: &Publisher, topic: &str, bytes: usize| {
            let message = ledger.message(from, topic, &vec![b'x'; bytes], 1).unwrap();
            retained.set(&message, from)
        };
        assert!(set(&a, "d/1", 700));
        assert!(set(&a, "d/1", 800), "in place of the one before");
        assert!(set(&a, "d", 700));
        assert!(!set(&a, "d/2", 700), "half of what a may hold");
        assert!(set(&b, "d/1", 1500), "in place of that of a");
        assert!(set(&a, "e/2", 100));
        assert!(!set(&b, "e/3", 700), "in all");
        let found = |filter| retained.matching(filter).map(|m| &*m.topic).collect::<Vec<_>>();
        assert_eq!(found("d/#"), ["d", "d/1"]);
        assert_eq!(found("#"), ["d", "d/1", "e/2"]);
        assert_eq!(found("+/2"), ["e/2"]);
        assert_eq!(found("d/1"), ["d/1"]);
        for topic in ["d", "d/1", "e/2", "f"] {
            retained.remove(topic);
        }
        assert!(retained.bytes == 0 && retained.by_publisher.is_empty());
        assert_eq!(ledger.bytes(), 0);
    }
}
