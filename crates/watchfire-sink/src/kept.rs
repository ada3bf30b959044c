//! The place of lanes whose service has nowhere to keep one: it stands in our store, and is moved once the service has
//! everything before it. A crash between the two writes a chunk again, under the same ids.

use watchfire_model::Epoch;
use watchfire_store::{Store, StoreError};

use crate::chunk::Chunk;
use crate::contract::{Failure, LaneId, Place};

/// Where one lane is.
pub(crate) struct Kept {
    store: Store,
    sink: &'static str,
    lane: LaneId,
    epoch: Epoch,
}

impl Kept {
    /// `epoch` is the life of the log that goes on.
    pub fn new(store: Store, sink: &'static str, lane: LaneId, epoch: Epoch) -> Self {
        Self { store, sink, lane, epoch }
    }

    fn key(&self) -> String {
        format!("sink/{}/{}/place", self.sink, self.lane.number())
    }

    /// How far the lane is written.
    pub async fn place(&self) -> Result<Option<Place>, Failure> {
        let text = self.store.setting(&self.key()).await.map_err(failure)?;
        let Some(text) = text else { return Ok(None) };
        let place = parse(&text).ok_or_else(|| {
            Failure::retry("store", format!("{text:?} is no place: {} was changed by hand", self.key()))
        })?;
        Ok(Some(match self.lane {
            LaneId::Partition(_) => place,
            // The store numbers transitions, and a restore brings both back together: nothing has to be told again.
            LaneId::Alerts => Place { epoch: self.epoch, ..place },
        }))
    }

    /// The service has the chunk. What is missing before it is written down first.
    pub async fn advance(&self, chunk: &Chunk) -> Result<(), Failure> {
        if let Some(gap) = &chunk.gap {
            let key = format!("sink/{}/{}/gap/{}", self.sink, self.lane.number(), written(gap.to));
            let value = format!("{} {} {}", written(gap.from), written(gap.to), gap.reason);
            self.store.set_setting(&key, Some(&value)).await.map_err(failure)?;
        }
        self.store.set_setting(&self.key(), Some(&written(chunk.to))).await.map_err(failure)
    }
}

fn written(place: Place) -> String {
    format!("{}/{}", place.epoch.0, place.next)
}

fn parse(text: &str) -> Option<Place> {
    let (epoch, next) = text.split_once('/')?;
    Some(Place { epoch: Epoch(epoch.parse().ok()?), next: next.parse().ok()? })
}

fn failure(error: StoreError) -> Failure {
    Failure::retry("store", error.chain())
}
