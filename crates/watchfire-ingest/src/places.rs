//! How far sources have read what they consume: of each partition of a topic, the offset that comes next.
//!
//! The log is the truth: [`Consumed`] stands in the same group as the rows it speaks for. What is kept here is what these
//! records add up to, brought up to date at a start from a file and the log behind it ([`crate::remember`]). Appends that
//! are on their way do not count before they are durable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use watchfire_log::Consumed;

use crate::flight::Flight;

/// A partition of a topic, by source.
pub type Key = (String, String, i32);

/// How far one partition of a topic was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Everything before it was read, since the topic was made.
    pub next: i64,
    /// What was read beyond: from and to before. Appends are made in order, so there is some only where one failed and
    /// the next did not.
    pub beyond: BTreeMap<i64, i64>,
}

impl Place {
    /// Whether the record at an offset was read already.
    pub fn has(&self, offset: i64) -> bool {
        offset < self.next || self.has_beyond(offset)
    }

    pub(crate) fn has_beyond(&self, offset: i64) -> bool {
        self.beyond.range(..=offset).next_back().is_some_and(|(_, to)| offset < *to)
    }

    fn add(&mut self, from: i64, next: i64) {
        if from > self.next {
            let to = self.beyond.entry(from).or_insert(next);
            *to = next.max(*to);
            return;
        }
        self.next = self.next.max(next);
        while let Some(first) = self.beyond.first_entry().filter(|first| *first.key() <= self.next) {
            self.next = self.next.max(first.remove());
        }
    }
}

/// How far all sources have read.
#[derive(Debug, Default)]
pub struct Places(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    places: BTreeMap<Key, Place>,
    flights: Vec<Arc<Flight>>,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a record of the log says.
    pub fn observe(&self, consumed: &[Consumed]) {
        let mut state = self.lock();
        for Consumed { source, topic, partition, from, next, anew } in consumed {
            let place = state.places.entry((source.clone(), topic.clone(), *partition));
            let known = matches!(place, std::collections::btree_map::Entry::Occupied(_));
            let place = place.or_default();
            if *anew || !known {
                *place = Place { next: *next, beyond: BTreeMap::new() };
            } else {
                place.add(*from, *next);
            }
        }
    }

    /// An append is on its way.
    pub fn begin(&self, flight: &Arc<Flight>) {
        self.lock().flights.push(flight.clone());
    }

    /// It has an outcome. Call this before it lands.
    pub fn settle(&self, flight: &Arc<Flight>, consumed: &[Consumed], durable: bool) {
        self.lock().flights.retain(|known| !Arc::ptr_eq(known, flight));
        if durable {
            self.observe(consumed);
        }
    }

    /// Every append that is on its way now.
    pub fn flights(&self) -> Vec<Arc<Flight>> {
        self.lock().flights.clone()
    }

    /// How far a partition of a topic was read, if it ever was.
    pub fn of(&self, source: &str, topic: &str, partition: i32) -> Option<Place> {
        self.lock().places.get(&(source.into(), topic.into(), partition)).cloned()
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<Key, Place> {
        self.lock().places.clone()
    }

    /// Takes these instead of what there is.
    pub fn restore(&self, places: BTreeMap<Key, Place>) {
        self.lock().places = places;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumed(from: i64, next: i64, anew: bool) -> Vec<Consumed> {
        vec![Consumed { source: "kafka".into(), topic: "t".into(), partition: 0, from, next, anew }]
    }

    fn place(records: &[(i64, i64, bool)]) -> (i64, Vec<(i64, i64)>) {
        let places = Places::default();
        records.iter().for_each(|(from, next, anew)| places.observe(&consumed(*from, *next, *anew)));
        let place = places.of("kafka", "t", 0).unwrap();
        (place.next, place.beyond.into_iter().collect())
    }

    #[test]
    fn records_add_up() {
        // The first says where it began.
        assert_eq!(place(&[(100, 110, false)]), (110, vec![]));
        assert_eq!(place(&[(0, 10, true), (10, 20, false)]), (20, vec![]));
        // Records may be missing in a topic: a batch begins where the one before ended.
        assert_eq!(place(&[(0, 10, true), (10, 30, false), (10, 20, false)]), (30, vec![]));
        // One append failed and the next did not.
        assert_eq!(place(&[(0, 10, true), (20, 30, false), (30, 40, false)]), (10, vec![(20, 30), (30, 40)]));
        assert_eq!(place(&[(0, 10, true), (20, 30, false), (30, 40, false), (10, 20, false)]), (40, vec![]));
        assert_eq!(place(&[(0, 500, true), (0, 10, true)]), (10, vec![]), "the topic was made anew");
    }

    #[test]
    fn what_was_read_beyond_is_known() {
        let places = Places::default();
        for (from, next) in [(0, 10), (20, 30)] {
            places.observe(&consumed(from, next, false));
        }
        let place = places.of("kafka", "t", 0).unwrap();
        let has: Vec<bool> = [9, 10, 19, 20, 29, 30].into_iter().map(|offset| place.has(offset)).collect();
        assert_eq!(has, [true, false, false, true, true, false]);
        assert_eq!(places.of("kafka", "t", 1), None);
    }

    #[test]
    fn an_append_that_failed_does_not_count() {
        let places = Places::default();
        let (first, second) = (Flight::begin(), Flight::begin());
        places.begin(&first);
        places.begin(&second);
        assert_eq!(places.flights().len(), 2);
        places.settle(&first, &consumed(0, 10, true), false);
        places.settle(&second, &consumed(10, 20, true), true);
        assert_eq!(places.flights().len(), 0);
        assert_eq!(places.of("kafka", "t", 0).unwrap().next, 20);
    }
}
