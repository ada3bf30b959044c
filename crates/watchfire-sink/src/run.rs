//! Sees the chunks of every lane through: connect, ask how far it is, write, try again, for as long as it takes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watchfire_log::{Clock, Log};
use watchfire_model::{PartitionId, chain};
use watchfire_store::{NewDeadLetter, Store, StoreError};
use watchfire_telemetry::metrics;

use crate::chunk::{Interests, NOT_KEPT, Takes};
use crate::contract::{Failure, Lane, LaneId, Place, Refusal, Sink};
use crate::feed::{AHEAD, AlertFeed, Directory, Parcel, PartitionFeed, Sizes};
use crate::status::{Board, LaneState, SinkStatus};

/// Between two attempts, at first and at most. Each wait is drawn between half of it and all of it, so that the lanes of
/// many engines do not come back together.
const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_SLOWEST: Duration = Duration::from_secs(30);

/// How long an attempt to write may take. A connection that nobody answers any more is found by this.
const WRITE_LIMIT: Duration = Duration::from_secs(120);

/// How often the store notes where a lane is, so that a start whose service is down keeps what it needs of the log.
const NOTE_EVERY: Duration = Duration::from_secs(5);

/// How many records a lane that keeps up is behind.
const LEVEL: u64 = 1000;

/// What a sink works on.
#[derive(Clone)]
pub struct Surroundings {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The store: transitions of alerts, and dead letters.
    pub store: Store,
    /// The names of devices.
    pub directory: Directory,
    /// The time of messages and states.
    pub clock: Arc<dyn Clock>,
}

/// How a sink reads.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Its name: of its cursor, its metrics and its dead letters.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
    /// And beside that.
    pub interests: Interests,
    /// How large chunks become.
    pub sizes: Sizes,
    /// A lane that begins does so with what comes from now on, not with what the log still holds.
    pub from_now: bool,
}

/// A running sink.
pub struct Running {
    name: String,
    takes: Takes,
    board: Board,
    in_force: Box<dyn Fn() -> Option<String> + Send + Sync>,
    log: Arc<dyn Log>,
    store: Store,
    stop: CancellationToken,
    lanes: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The name of a sink's cursor, in log and store.
pub fn reader_name(sink: &str) -> String {
    format!("sink:{sink}")
}

/// Starts every lane of a sink. What it still needs of the log is kept from here on.
pub async fn start<S: Sink>(
    sink: Arc<S>,
    reading: Reading,
    surroundings: Surroundings,
) -> Result<Running, StoreError> {
    let reader = reader_name(&reading.name);
    // What was noted last is not later than where the service is: enough to keep what it needs until it says so itself.
    for (partition, next) in surroundings.store.cursors(&reader).await? {
        if partition.0 < surroundings.log.partitions() {
            surroundings.log.set_cursor(&reader, partition, next);
        }
    }
    let board = Board::default();
    let stop = CancellationToken::new();
    let mut ids: Vec<LaneId> =
        (0..surroundings.log.partitions()).map(|p| LaneId::Partition(PartitionId(p))).collect();
    if reading.takes.alerts {
        ids.push(LaneId::Alerts);
    }
    let lanes = ids.into_iter().map(|id| {
        board.set(id, |_| ());
        let driver = Driver {
            id,
            lane: sink.lane(id),
            reader: reader.clone(),
            reading: reading.clone(),
            around: surroundings.clone(),
            board: board.clone(),
            stop: stop.clone(),
            noted: Instant::now(),
            backoff: BACKOFF,
        };
        tokio::spawn(driver.run())
    });
    let lanes = Mutex::new(lanes.collect());
    Ok(Running {
        name: reading.name,
        takes: reading.takes,
        board,
        in_force: Box::new(move || sink.in_force()),
        log: surroundings.log,
        store: surroundings.store,
        stop,
        lanes,
    })
}

impl Running {
    /// How it does. Also brings its metrics up to date.
    pub fn status(&self) -> SinkStatus {
        let mut lanes = Vec::new();
        for (id, mut lane) in self.board.lanes() {
            lane.behind = match id {
                LaneId::Partition(partition) => {
                    let nothing = &lane.nothing;
                    let next =
                        if nothing.start <= lane.next { nothing.end.max(lane.next) } else { lane.next };
                    self.log.range(partition).1.saturating_sub(next)
                }
                LaneId::Alerts => {
                    let last = (*self.store.subscribe().borrow()).max(0) as u64;
                    last.saturating_sub(lane.next.saturating_sub(1))
                }
            };
            if lane.state == LaneState::Running && lane.behind > LEVEL {
                lane.state = LaneState::CatchingUp;
            }
            lanes.push(lane);
        }
        let behind: u64 = lanes.iter().map(|lane| lane.behind).sum();
        let labels = [("sink", self.name.clone())];
        metrics().sinks.behind.get_or_create(&labels).set(behind as i64);
        let down = lanes.iter().any(|lane| lane.state == LaneState::Retrying);
        metrics().sinks.down.get_or_create(&labels).set(down.into());
        SinkStatus {
            name: self.name.clone(),
            in_force: (self.in_force)(),
            streams: self.takes.streams.clone(),
            lanes,
        }
    }

    /// Ends the lanes. What is being written is finished or given up; the next start asks the service which.
    pub async fn stop(&self) {
        self.stop.cancel();
        let lanes = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
        for lane in lanes {
            if lane.await.is_err() {
                tracing::error!(sink = self.name, "a lane had failed");
            }
        }
    }
}

/// One lane.
struct Driver<L: Lane> {
    id: LaneId,
    lane: L,
    reader: String,
    reading: Reading,
    around: Surroundings,
    board: Board,
    stop: CancellationToken,
    noted: Instant,
    backoff: Duration,
}

/// Why a lane begins anew at what the service says.
enum Again {
    /// The service is somewhere else than it was thought to be, or the feed ended.
    Reopen,
    /// The process ends.
    Stop,
}

impl<L: Lane> Driver<L> {
    async fn run(mut self) {
        loop {
            let Ok(after) = self.open().await else { break };
            // One that is not asked, and was down before a start, may be down still.
            let reached = self.lane.asks() || !self.waits(after);
            self.passed(after, reached).await;
            match self.follow(after).await {
                Again::Reopen => {}
                Again::Stop => break,
            }
        }
        self.board.set(self.id, |lane| lane.state = LaneState::Stopped);
    }

    /// Whether there is something to write behind this place.
    fn waits(&self, after: Option<Place>) -> bool {
        let next = after.map_or(0, |place| place.next);
        match self.id {
            LaneId::Partition(partition) => self.around.log.range(partition).1 > next,
            LaneId::Alerts => {
                (*self.around.store.subscribe().borrow()).max(0) as u64 > next.saturating_sub(1)
            }
        }
    }

    /// Asks the service where it is, until it says so.
    async fn open(&mut self) -> Result<Option<Place>, Again> {
        loop {
            let opened = tokio::select! {
                () = self.stop.cancelled() => return Err(Again::Stop),
                opened = tokio::time::timeout(WRITE_LIMIT, self.lane.open()) => opened,
            };
            let failure = match opened {
                Ok(Ok(after)) => return Ok(after),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::retry("unreachable", "no answer"),
            };
            self.failed(&failure).await?;
        }
    }

    /// Writes what comes, from `after` on.
    async fn follow(&mut self, mut after: Option<Place>) -> Again {
        let (mut parcels, feeding, feed_stop) = self.feed(after);
        let again = loop {
            let parcel = tokio::select! {
                () = self.stop.cancelled() => break Again::Stop,
                parcel = parcels.recv() => parcel,
            };
            let Some(parcel) = parcel else {
                // It ended by an error, which it has told. The log may be read again later.
                let failure = Failure::retry("log", "the log or the store could not be read");
                break self.failed(&failure).await.err().unwrap_or(Again::Reopen);
            };
            match self.write(&parcel, after).await {
                Ok(()) => after = Some(parcel.chunk.to),
                Err(again) => break again,
            }
        };
        feed_stop.cancel();
        drop(parcels);
        let _ = feeding.await;
        again
    }

    fn feed(
        &self,
        after: Option<Place>,
    ) -> (mpsc::Receiver<Parcel<L::Encoded>>, JoinHandle<()>, CancellationToken) {
        let (sender, parcels) = mpsc::channel(AHEAD);
        let stop = self.stop.child_token();
        let (around, reading) = (self.around.clone(), self.reading.clone());
        let (encoder, name, id, stopping) =
            (self.lane.encoder(), reading.name.clone(), self.id, stop.clone());
        let said = move |ended: Result<(), crate::feed::FeedError>| {
            if let Err(error) = ended {
                tracing::error!(sink = name, lane = %id, error = chain(&error), "what is to be written cannot be read");
            }
        };
        let task = match self.id {
            LaneId::Partition(partition) => {
                let feed = PartitionFeed {
                    log: around.log,
                    directory: around.directory,
                    partition,
                    after,
                    from_now: reading.from_now,
                    takes: reading.takes,
                    interests: reading.interests,
                    sizes: reading.sizes,
                    encoder,
                    parcels: sender,
                    board: self.board.clone(),
                    stop: stopping,
                };
                tokio::task::spawn_blocking(move || said(feed.run()))
            }
            LaneId::Alerts => {
                let feed = AlertFeed {
                    epoch: around.log.epoch(),
                    store: around.store,
                    directory: around.directory,
                    after,
                    from_now: reading.from_now,
                    takes: reading.takes,
                    sizes: reading.sizes,
                    encoder,
                    parcels: sender,
                    stop: stopping,
                };
                tokio::spawn(async move { said(feed.run().await) })
            }
        };
        (parcels, task, stop)
    }

    /// Writes one chunk, whatever it takes.
    async fn write(&mut self, parcel: &Parcel<L::Encoded>, after: Option<Place>) -> Result<(), Again> {
        let chunk = &parcel.chunk;
        let mut without = BTreeSet::new();
        loop {
            let began = Instant::now();
            let written = tokio::select! {
                // Whether it was committed is asked at the next start.
                () = self.stop.cancelled() => return Err(Again::Stop),
                written = tokio::time::timeout(
                    WRITE_LIMIT,
                    self.lane.write(chunk, &parcel.encoded, after, &without),
                ) => written.unwrap_or_else(|_| Err(Failure::retry("slow", "no answer in time"))),
            };
            match written {
                Ok(()) => {
                    self.written(parcel, without.len(), began).await;
                    return Ok(());
                }
                Err(Failure::Refused(refusals)) => {
                    // First they are kept, then passed over: a crash between the two keeps them twice under one id.
                    if let Err(error) = self.keep(parcel, &refusals).await {
                        self.failed(&Failure::retry("store", error)).await?;
                        continue;
                    }
                    let before = without.len();
                    without.extend(refusals.into_iter().map(|refusal| refusal.row));
                    if without.len() == before {
                        // It refuses what it did not get: something else is wrong.
                        self.failed(&Failure::retry("refused", "the same rows are refused again")).await?;
                    }
                }
                Err(failure) => {
                    self.failed(&failure).await?;
                    // What was being written may be there.
                    let place = self.open().await?;
                    if place == Some(chunk.to) {
                        self.written(parcel, without.len(), began).await;
                        return Ok(());
                    }
                    if place != after {
                        tracing::warn!(sink = self.reading.name, lane = %self.id, ?place, ?after, "the service is somewhere else than it was left");
                        return Err(Again::Reopen);
                    }
                }
            }
        }
    }

    async fn written(&mut self, parcel: &Parcel<L::Encoded>, without: usize, began: Instant) {
        self.backoff = BACKOFF;
        let chunk = &parcel.chunk;
        let rows = chunk.rows().saturating_sub(without) as u64;
        let labels = [("sink", self.reading.name.clone())];
        let sinks = &metrics().sinks;
        sinks.rows.get_or_create(&labels).inc_by(rows);
        sinks.write_seconds.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
        if let Some(gap) = &chunk.gap {
            sinks.gaps.get_or_create(&labels).inc();
            tracing::error!(sink = self.reading.name, lane = %self.id, ?gap, "a part of the log is missing at the service, and noted there");
        }
        if chunk.items() > 0 {
            let age = self.around.clock.wall().since(parcel.newest);
            sinks.lag_seconds.get_or_create(&labels).observe(age.as_secs_f64());
        }
        let lost = chunk.gap.as_ref().filter(|gap| gap.reason == NOT_KEPT).map(|_| self.around.clock.wall());
        let gaps = u64::from(chunk.gap.is_some());
        self.board.set(self.id, |lane| {
            lane.rows += rows;
            lane.gaps += gaps;
            lane.lost_at = lane.lost_at.or(lost);
        });
        self.passed(Some(chunk.to), true).await;
    }

    /// The service has everything before this place. A lane that starts does so until its service is reached.
    async fn passed(&mut self, place: Option<Place>, reached: bool) {
        self.board.set(self.id, |lane| {
            if reached || lane.state != LaneState::Starting {
                lane.state = LaneState::Running;
            }
            lane.next = place.map_or(lane.next, |place| place.next);
            (lane.code, lane.reason, lane.since) = (None, None, None);
        });
        let Some(place) = place else { return };
        let LaneId::Partition(partition) = self.id else { return };
        if place.epoch != self.around.log.epoch() {
            return;
        }
        self.around.log.set_cursor(&self.reader, partition, place.next);
        if self.noted.elapsed() >= NOTE_EVERY {
            self.noted = Instant::now();
            // Without the note a start keeps a little more of the log than is needed.
            if let Err(error) = self.around.store.set_cursor(&self.reader, partition, place.next).await {
                tracing::warn!(sink = self.reading.name, %error, "the place of a sink could not be noted");
            }
        }
    }

    /// Says what is wrong, and waits before the next attempt.
    async fn failed(&mut self, failure: &Failure) -> Result<(), Again> {
        let (code, reason) = match failure {
            Failure::Retry { code, reason } => (*code, reason.clone()),
            Failure::Refused(rows) => ("refused", format!("{} rows are refused", rows.len())),
        };
        let now = self.around.clock.wall();
        let mut begins = false;
        self.board.set(self.id, |lane| {
            begins = lane.code != Some(code);
            lane.state = LaneState::Retrying;
            lane.code = Some(code);
            lane.reason = Some(reason.clone());
            lane.since.get_or_insert(now);
        });
        if begins {
            // One that says something else is on its way back, and is not waited for as long as one that stays away.
            self.backoff = BACKOFF;
            tracing::warn!(sink = self.reading.name, lane = %self.id, code, reason, "the service takes nothing; it is tried again");
        }
        metrics()
            .sinks
            .failures
            .get_or_create(&[("sink", self.reading.name.clone()), ("code", code.into())])
            .inc();
        let wait = self.backoff.mul_f64(rand::rng().random_range(0.5..1.0));
        let wait = wait.max(self.lane.pause().unwrap_or_default());
        self.backoff = (self.backoff * 2).min(BACKOFF_SLOWEST);
        tokio::select! {
            () = self.stop.cancelled() => Err(Again::Stop),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// Keeps rows that the service refuses as dead letters.
    async fn keep(&self, parcel: &Parcel<L::Encoded>, refusals: &[Refusal]) -> Result<(), StoreError> {
        let chunk = &parcel.chunk;
        let name = &self.reading.name;
        let letters: Vec<NewDeadLetter> = refusals
            .iter()
            .map(|refusal| {
                let (at, position) = chunk.origin(refusal.row);
                NewDeadLetter {
                    id: format!("{name}/{}", chunk.row_id(refusal.row)),
                    at,
                    kind: "sink".into(),
                    source: name.clone(),
                    address: chunk.source_of(refusal.row).into(),
                    device: chunk.device_of(refusal.row),
                    code: "refused-by-sink".into(),
                    reason: refusal.reason.clone(),
                    payload: serde_json::to_vec(&chunk.show(refusal.row)).unwrap_or_default(),
                    position: position.map(|position| position.to_string()).unwrap_or_default(),
                    ..NewDeadLetter::default()
                }
            })
            .collect();
        self.around.store.add_dead_letters(&letters).await?;
        let refused = letters.len() as u64;
        metrics().sinks.refused.get_or_create(&[("sink", name.clone())]).inc_by(refused);
        self.board.set(self.id, |lane| lane.refused += refused);
        Ok(())
    }
}
