//! Finds alerts by a label with a value: what asks for some of a hundred thousand must not look at all of them.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use watchfire_notify::matcher::Matcher;
use watchfire_store::LabelSet;

use super::active::ActiveAlert;

/// Places of alerts by the hash of a name and a value. What it gives is to be looked at: two pairs may share a hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    hasher: RandomState,
    /// Ascending. Some may be free by now.
    by_pair: HashMap<u64, Vec<u32>>,
    /// No place is used twice: free ones go when there are many.
    places: Vec<Option<Arc<ActiveAlert>>>,
    free: usize,
}

impl Index {
    /// Takes an alert in, and gives its place.
    pub fn add(&mut self, alert: Arc<ActiveAlert>) -> u32 {
        let place = self.places.len() as u32;
        for (name, value) in &alert.labels {
            let pair = self.hasher.hash_one((name, value));
            self.by_pair.entry(pair).or_default().push(place);
        }
        self.places.push(Some(alert));
        place
    }

    /// Frees a place.
    pub fn remove(&mut self, place: u32) {
        if self.places.get_mut(place as usize).and_then(Option::take).is_some() {
            self.free += 1;
        }
    }

    /// Whether half of it is free: then it is to be made anew.
    pub fn is_sparse(&self) -> bool {
        self.free > 1000 && self.free > self.places.len() / 2
    }

    /// Alerts among which all are that these matchers take, in no order; `None`: none of them narrows it down.
    pub fn candidates(&self, matchers: &[Matcher]) -> Option<Vec<&Arc<ActiveAlert>>> {
        let places = |matcher: &Matcher| {
            let pairs =
                matcher.values()?.into_iter().map(|value| self.hasher.hash_one((matcher.name(), value)));
            let found: Vec<&Vec<u32>> = pairs.filter_map(|pair| self.by_pair.get(&pair)).collect();
            Some((found.iter().map(|places| places.len()).sum::<usize>(), found))
        };
        let (_, found) = matchers.iter().filter_map(places).min_by_key(|(count, _)| *count)?;
        let mut all: Vec<u32> = found.into_iter().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        Some(all.into_iter().filter_map(|place| self.places.get(place as usize)?.as_ref()).collect())
    }
}

/// Whether all matchers take it.
pub(super) fn fits(matchers: &[Matcher], labels: &LabelSet) -> bool {
    matchers.iter().all(|matcher| matcher.matches(labels))
}
