//! Sends the events of a chunk, and moves the cursor of the lane once the service has all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use watchfire_log::Clock;
use watchfire_outbound::Sender;

use super::config::HttpSinkConfig;
use super::encode::{body, cut};
use super::retry::{Answer, answer};
use crate::chunk::{Chunk, Row};
use crate::contract::{Failure, Lane, Place, Refusal};
use crate::events::{EventEncoder, Events};
use crate::kept::Kept;

/// NDJSON.
const CONTENT_TYPE: &str = "application/x-ndjson";

/// A service that refused so many rows of a chunk and took none does not speak of rows, whatever it answers: they are
/// kept back and its operator is told, so that a wrong address does not turn a plant's readings into dead letters.
const EVERYTHING: usize = 64;

/// How far the chunk that is being written is. It outlives an attempt: what the service has is not sent again, and what it
/// refused is not asked again.
#[derive(Default)]
struct Progress {
    /// Which making of a chunk.
    serial: u64,
    /// By event: the service has it.
    taken: Vec<bool>,
    /// By event: why the service will never take it.
    refused: BTreeMap<usize, String>,
    /// Those of them that were refused before anything was taken: a service that refused everything for a while would have
    /// refused them too, so they are asked once more.
    unsure: BTreeSet<usize>,
    /// How often a service that refuses everything was asked for one event.
    probes: usize,
}

/// One lane.
pub struct HttpLane {
    config: Arc<HttpSinkConfig>,
    sender: Sender,
    kept: Kept,
    clock: Arc<dyn Clock>,
    progress: Progress,
    /// The service asked for patience until then.
    not_before: Option<Instant>,
}

impl HttpLane {
    pub(super) fn new(
        config: Arc<HttpSinkConfig>,
        sender: Sender,
        kept: Kept,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { config, sender, kept, clock, progress: Progress::default(), not_before: None }
    }

    /// Sends events as one request.
    async fn request(&mut self, encoded: &Events, places: &[usize]) -> Result<Option<String>, Failure> {
        let (body, id) = body(encoded, places);
        match answer(self.sender.post(&id, CONTENT_TYPE, &[], body, self.clock.wall()).await) {
            Answer::Taken => {
                for place in places {
                    self.progress.taken[*place] = true;
                }
                Ok(None)
            }
            Answer::Refused(reason) => Ok(Some(reason)),
            Answer::Later(failure, after) => {
                self.not_before = after.map(|after| Instant::now() + after);
                Err(failure)
            }
        }
    }

    /// Sends what the service does not have yet, and finds what it refuses for itself by halves.
    async fn send(&mut self, encoded: &Events, without: &BTreeSet<Row>) -> Result<(), Failure> {
        if self.progress.serial != encoded.serial {
            let taken = vec![false; encoded.events.len()];
            self.progress = Progress { serial: encoded.serial, taken, ..Progress::default() };
        }
        if let Some(reason) = self.everything(without) {
            // One event, each time another, tells whether that has changed.
            let all: Vec<usize> = self.progress.refused.keys().copied().collect();
            let probe = all[self.progress.probes % all.len()];
            self.progress.probes += 1;
            if self.request(encoded, &[probe]).await?.is_some() {
                return Err(Failure::retry("refuses-everything", reason));
            }
            self.progress.refused.clear();
            self.progress.unsure.clear();
        }
        let places: Vec<usize> = (0..encoded.events.len())
            .filter(|place| {
                !self.progress.taken[*place]
                    && !self.progress.refused.contains_key(place)
                    && !without.contains(&encoded.events[*place].row)
            })
            .collect();
        let mut requests = cut(encoded, &places, self.config.request_rows, self.config.request_bytes);
        // The first is the last of the stack.
        requests.reverse();
        while let Some(request) = requests.pop() {
            let Some(reason) = self.request(encoded, &places[request.clone()]).await? else { continue };
            if request.len() == 1 {
                let place = places[request.start];
                self.progress.refused.insert(place, reason);
                if !self.progress.taken.contains(&true) {
                    self.progress.unsure.insert(place);
                }
            } else {
                let middle = request.start + request.len() / 2;
                requests.push(middle..request.end);
                requests.push(request.start..middle);
            }
        }
        if let Some(reason) = self.everything(without) {
            return Err(Failure::retry("refuses-everything", reason));
        }
        if self.progress.taken.contains(&true) {
            while let Some(place) = self.progress.unsure.first().copied() {
                if self.request(encoded, &[place]).await?.is_none() {
                    self.progress.refused.remove(&place);
                }
                self.progress.unsure.remove(&place);
            }
        }
        let refused = std::mem::take(&mut self.progress.refused);
        if refused.is_empty() {
            return Ok(());
        }
        let refusal = |(place, reason): (usize, String)| Refusal { row: encoded.events[place].row, reason };
        Err(Failure::Refused(refused.into_iter().map(refusal).collect()))
    }

    /// What the service said, where it refused so much of this chunk, and took nothing, that it does not speak of rows.
    fn everything(&self, without: &BTreeSet<Row>) -> Option<String> {
        let Progress { taken, refused, .. } = &self.progress;
        let reason = refused.values().next()?;
        let all = refused.len() + without.len();
        (all >= EVERYTHING && all == taken.len()).then(|| format!("refuses everything: {reason}"))
    }
}

impl Lane for HttpLane {
    type Encoder = EventEncoder;
    type Encoded = Events;

    fn encoder(&self) -> EventEncoder {
        EventEncoder::new(self.config.takes())
    }

    fn asks(&self) -> bool {
        false
    }

    async fn open(&mut self) -> Result<Option<Place>, Failure> {
        self.not_before = None;
        self.kept.place().await
    }

    async fn write(
        &mut self,
        chunk: &Chunk,
        encoded: &Events,
        _after: Option<Place>,
        without: &BTreeSet<Row>,
    ) -> Result<(), Failure> {
        self.not_before = None;
        self.send(encoded, without).await?;
        self.kept.advance(chunk).await
    }

    fn pause(&self) -> Option<Duration> {
        self.not_before.map(|until| until.saturating_duration_since(Instant::now()))
    }
}
