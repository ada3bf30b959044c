//! Messages for subscribers: who hears what, what is retained, and the sessions of those who are away.
//!
//! A message goes from the task of its publisher into the [`Session`]s that hear it, and leaves nothing behind where
//! nobody does. Everything that stays is bounded, and so is the part of it that one publisher can take
//! ([`Ledger`], [`Retained`]): no device can take from others what it does not use itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use rumqttd::protocol::{Filter, RetainForwardRule};
use watchfire_telemetry::metrics;

use super::ledger::{Ledger, Publisher};
use super::retained::Retained;
use super::session::{Delivery, Session};
use super::topic;
use super::tree::{Grant, Hearer, Tree};

/// Filters of all sessions together: each takes some hundred bytes.
const FILTERS: usize = 1_000_000;

/// Bounds of what is kept for subscribers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of messages that wait for somebody or are retained; half of them may be retained.
    pub(crate) bytes: usize,
    /// Sessions of clients that are away.
    pub(crate) sessions: usize,
    /// The same of one owner.
    pub(crate) sessions_each: usize,
}

/// The way to subscribers.
#[derive(Clone)]
pub(crate) struct Fanout(Arc<Shared>);

struct Shared {
    bounds: Bounds,
    ledger: Arc<Ledger>,
    /// Filters that match more than commands.
    hearing: AtomicUsize,
    /// Never held across an await. A subscription and what is retained change under one lock, so that a subscriber
    /// hears a retained message once: either as it comes, or with its subscription.
    state: RwLock<State>,
}

struct State {
    tree: Tree,
    retained: Retained,
    sessions: HashMap<Box<str>, Arc<Session>>,
    next: u64,
    /// Sessions of clients that are away, in all and by owner.
    away: usize,
    away_by: HashMap<Arc<str>, usize>,
}

/// A session that a connection has. Dropped, the client is away.
pub(crate) struct Attached {
    pub(crate) session: Arc<Session>,
    fanout: Fanout,
    /// How long the session is kept then.
    pub(crate) expiry: Duration,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.fanout.leave(&self.session, self.expiry);
    }
}

/// The message was not taken: there is no room for it.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("too many messages are held for subscribers")]
pub struct FanoutFull;

/// There are as many filters as there may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyFilters;

impl Fanout {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let state = State {
            tree: Tree::default(),
            retained: Retained::new(bounds.bytes / 2),
            sessions: HashMap::new(),
            next: 0,
            away: 0,
            away_by: HashMap::new(),
        };
        Self(Arc::new(Shared {
            bounds,
            ledger: Ledger::new(bounds.bytes),
            hearing: AtomicUsize::new(0),
            state: RwLock::new(state),
        }))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody subscribed to more than commands, away or not.
    pub(crate) fn is_heard(&self) -> bool {
        self.0.hearing.load(Ordering::Relaxed) > 0
    }

    /// Publishes a message to whoever subscribed. The topic must be well-formed. `own`: the session of the publisher.
    pub(crate) fn publish(
        &self,
        from: &Publisher,
        own: Option<u64>,
        topic: &str,
        payload: &[u8],
        qos: u8,
        retain: bool,
    ) -> Result<(), FanoutFull> {
        let lost = |_| {
            metrics().intake.fanout_lost.inc();
            FanoutFull
        };
        if retain {
            self.publish_retained(from, own, topic, payload, qos).map_err(lost)
        } else {
            let hearers = self.read().tree.hearers(topic);
            self.hand_out(from, own, topic, payload, qos, hearers, None).map_err(lost)
        }
    }

    fn publish_retained(
        &self,
        from: &Publisher,
        own: Option<u64>,
        topic: &str,
        payload: &[u8],
        qos: u8,
    ) -> Result<(), FanoutFull> {
        let mut state = self.write();
        let hearers = state.tree.hearers(topic);
        if payload.is_empty() {
            // An empty one takes away what was retained (section 3.3.1.3).
            state.retained.remove(topic);
            drop(state);
            return self.hand_out(from, own, topic, payload, qos, hearers, None);
        }
        let message = self.0.ledger.message(from, topic, payload, qos).ok_or(FanoutFull)?;
        let kept = state.retained.set(&message, from);
        drop(state);
        self.hand_out(from, own, topic, payload, qos, hearers, Some(message))?;
        kept.then_some(()).ok_or(FanoutFull)
    }

    #[allow(clippy::too_many_arguments, reason = "a message has as many properties")]
    fn hand_out(
        &self,
        from: &Publisher,
        own: Option<u64>,
        topic: &str,
        payload: &[u8],
        qos: u8,
        mut hearers: Vec<Hearer>,
        retained: Option<Arc<super::ledger::Message>>,
    ) -> Result<(), FanoutFull> {
        hearers.retain(|hearer| !hearer.grant.no_local || Some(hearer.session.id) != own);
        if hearers.is_empty() {
            return Ok(());
        }
        let retain = retained.is_some();
        let message = match retained {
            Some(message) => message,
            None => self.0.ledger.message(from, topic, payload, qos).ok_or(FanoutFull)?,
        };
        for Hearer { session, grant } in hearers {
            let qos = qos.min(grant.qos);
            let retain = retain && grant.keep_retain;
            if !session.push(Delivery { message: message.clone(), qos, retain }) {
                metrics().intake.fanout_lost.inc();
            }
        }
        Ok(())
    }

    /// The session that a client goes on with; `None`: there is none. With `clean` one that is there is forgotten, and
    /// so is one with a filter that the client may not subscribe to any more: what waits there is no longer for it.
    pub(crate) fn resume(
        &self,
        key: &str,
        clean: bool,
        expiry: Duration,
        allowed: impl Fn(&str) -> bool,
    ) -> Option<Attached> {
        let mut state = self.write();
        let session = state.sessions.get(key)?.clone();
        if clean || session.is_over(Instant::now()) || !session.filters_all(allowed) {
            self.end(&mut state, &session);
            return None;
        }
        state.no_longer_away(&session);
        drop(state);
        session.resume();
        Some(Attached { session, fanout: self.clone(), expiry })
    }

    /// A new session.
    pub(crate) fn begin(&self, key: &str, owner: Arc<str>, expiry: Duration) -> Attached {
        let mut state = self.write();
        state.next += 1;
        let session = Session::new(state.next, key, owner);
        if let Some(before) = state.sessions.get(key).cloned() {
            self.end(&mut state, &before);
        }
        state.sessions.insert(key.into(), session.clone());
        drop(state);
        Attached { session, fanout: self.clone(), expiry }
    }

    /// Whether a client of this owner may have a session that outlives its connection.
    pub(crate) fn has_room(&self, owner: &str) -> bool {
        let (state, bounds) = (self.read(), &self.0.bounds);
        state.away < bounds.sessions
            && state.away_by.get(owner).is_none_or(|count| *count < bounds.sessions_each)
    }

    /// Subscribes a session: what is retained comes at once.
    pub(crate) fn subscribe(&self, session: &Arc<Session>, filter: &Filter) -> Result<(), TooManyFilters> {
        let grant =
            Grant { qos: filter.qos as u8, no_local: filter.nolocal, keep_retain: filter.preserve_retain };
        let mut state = self.write();
        if state.tree.len() >= FILTERS && !session.has_filter(&filter.path) {
            return Err(TooManyFilters);
        }
        let new = session.add_filter(&filter.path);
        if new && topic::hears_telemetry(&filter.path) {
            self.0.hearing.fetch_add(1, Ordering::Relaxed);
        }
        state.tree.insert(&filter.path, Hearer { session: session.clone(), grant });
        let wanted = match filter.retain_forward_rule {
            RetainForwardRule::OnEverySubscribe => true,
            RetainForwardRule::OnNewSubscribe => new,
            RetainForwardRule::Never => false,
        };
        if wanted {
            let delivery = |message: &Arc<super::ledger::Message>| Delivery {
                message: message.clone(),
                qos: message.qos.min(grant.qos),
                retain: true,
            };
            let retained: Vec<Delivery> = state.retained.matching(&filter.path).map(delivery).collect();
            if !retained.is_empty() {
                metrics().intake.fanout_lost.inc_by(session.push_retained(retained) as u64);
            }
        }
        Ok(())
    }

    /// Says whether the filter was there.
    pub(crate) fn unsubscribe(&self, session: &Session, filter: &str) -> bool {
        let mut state = self.write();
        let known = session.remove_filter(filter);
        if known {
            self.forget_filter(&mut state, session, filter);
        }
        known
    }

    fn forget_filter(&self, state: &mut State, session: &Session, filter: &str) {
        state.tree.remove(filter, session.id);
        if topic::hears_telemetry(filter) {
            self.0.hearing.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn end(&self, state: &mut State, session: &Arc<Session>) {
        state.no_longer_away(session);
        for filter in session.take_filters() {
            self.forget_filter(state, session, &filter);
        }
        if state.sessions.get(&session.key).is_some_and(|there| there.id == session.id) {
            state.sessions.remove(&session.key);
        }
    }

    fn leave(&self, session: &Arc<Session>, expiry: Duration) {
        let room = expiry > Duration::ZERO && session.filter_count() > 0 && self.has_room(&session.owner);
        let mut state = self.write();
        if !room {
            return self.end(&mut state, session);
        }
        session.rest(Instant::now() + expiry);
        state.away += 1;
        *state.away_by.entry(session.owner.clone()).or_default() += 1;
    }

    /// Ends sessions whose time is over.
    pub(crate) fn sweep(&self) -> usize {
        let now = Instant::now();
        let over: Vec<Arc<Session>> =
            self.read().sessions.values().filter(|session| session.is_over(now)).cloned().collect();
        for session in &over {
            let mut state = self.write();
            // Its client may have come back in between.
            if session.is_over(now) {
                self.end(&mut state, session);
            }
        }
        over.len()
    }

    /// Sessions that are kept for clients that are away.
    pub(crate) fn away(&self) -> usize {
        self.read().away
    }
}

impl State {
    fn no_longer_away(&mut self, session: &Session) {
        if !session.is_away() {
            return;
        }
        self.away -= 1;
        if let Some(count) = self.away_by.get_mut(&session.owner) {
            *count -= 1;
            if *count == 0 {
                self.away_by.remove(&session.owner);
            }
        }
    }
}
