//! Uploads by their `Idempotency-Key`: one that is sent again is answered as it was, and nothing is appended. The
//! memory is of this process and bounded; after a restart, exact repeats are still known reading by reading.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use bytes::Bytes;

/// Bytes of all answers that are remembered: one may list a thousand rejected items.
const BYTES: usize = 32 << 20;

/// The answers given.
#[derive(Debug)]
pub(super) struct Answers {
    most: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    by_key: HashMap<u128, Entry>,
    /// Answered keys, oldest first.
    order: VecDeque<u128>,
    /// Bytes of all answers.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    body: u128,
    answer: Option<(StatusCode, Bytes)>,
}

/// What is known of a key.
pub(super) enum Before {
    /// Nothing: it is taken, until the answer or until this is dropped.
    Nothing(Begun),
    /// It is being taken.
    Underway,
    /// It was answered.
    Answered(StatusCode, Bytes),
    /// It came with another body.
    Other,
}

/// An upload that is being taken. Dropped without an answer, its key is free again: nothing of it was taken, or
/// nobody knows, and its readings are known one by one.
pub(super) struct Begun {
    key: u128,
    most: usize,
    table: Arc<Mutex<Table>>,
    answered: bool,
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answers {
    pub(super) fn new(most: usize) -> Self {
        Self { most, table: Arc::default() }
    }

    pub(super) fn begin(&self, key: u128, body: u128) -> Before {
        let mut table = lock(&self.table);
        match table.by_key.get(&key) {
            Some(entry) if entry.body != body => Before::Other,
            Some(Entry { answer: Some((status, body)), .. }) => Before::Answered(*status, body.clone()),
            Some(Entry { answer: None, .. }) => Before::Underway,
            None => {
                table.by_key.insert(key, Entry { body, answer: None });
                Before::Nothing(Begun { key, most: self.most, table: self.table.clone(), answered: false })
            }
        }
    }
}

impl Begun {
    pub(super) fn answered(mut self, status: StatusCode, body: Bytes) {
        self.answered = true;
        let mut table = lock(&self.table);
        table.bytes += body.len();
        if let Some(entry) = table.by_key.get_mut(&self.key) {
            entry.answer = Some((status, body));
        }
        table.order.push_back(self.key);
        while table.order.len() > self.most || table.bytes > BYTES {
            let Some(oldest) = table.order.pop_front() else { break };
            if let Some(Entry { answer: Some((_, body)), .. }) = table.by_key.remove(&oldest) {
                table.bytes -= body.len();
            }
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.answered {
            lock(&self.table).by_key.remove(&self.key);
        }
    }
}
