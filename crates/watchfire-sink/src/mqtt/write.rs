//! Publishes the events of a chunk, and what is active at the devices in it, and moves the cursor of the lane once the
//! broker has acknowledged all of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng as _;
use watchfire_outbound::mqtt::{Connection, NotTaken};
use watchfire_store::{AlertFilter, AlertState, Store};

use super::config::MqttSinkConfig;
use super::encode;
use crate::chunk::{Chunk, Row};
use crate::contract::{Failure, Lane, LaneId, Place, Refusal};
use crate::events::{EventEncoder, Events};
use crate::feed::Directory;
use crate::kept::Kept;

/// Devices whose alerts are read before they are published.
const STATES: usize = 50;

/// Active alerts of a device that its state gives: what the store gives at once.
const ACTIVE: u32 = 1000;

/// One lane, with a connection of its own.
pub struct MqttLane {
    id: LaneId,
    config: Arc<MqttSinkConfig>,
    store: Store,
    directory: Directory,
    kept: Kept,
    in_force: Arc<Mutex<Option<String>>>,
    connection: Option<Connection>,
    /// Of the chunk that is being written: which making, and how many of its first events the broker has. It outlives a
    /// connection.
    taken: (u64, usize),
}

impl MqttLane {
    pub(super) fn new(
        id: LaneId,
        config: Arc<MqttSinkConfig>,
        store: Store,
        directory: Directory,
        kept: Kept,
        in_force: Arc<Mutex<Option<String>>>,
    ) -> Self {
        Self { id, config, store, directory, kept, in_force, connection: None, taken: (0, 0) }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        // A name that nobody else has: a broker ends the connection of an older client with the same one.
        let lane = match self.id {
            LaneId::Partition(partition) => partition.to_string(),
            LaneId::Alerts => "alerts".into(),
        };
        let client_id = format!("{}-{lane}-{:08x}", self.config.client_id, rand::rng().random::<u32>());
        let mut connection =
            Connection::open(&self.config.broker(), client_id, self.config.in_flight).await?;
        if self.tells_states() {
            // A broker may have lost what it retained: ours does whenever the engine ends.
            let devices = self.active_devices().await?;
            self.states(&mut connection, &devices).await?;
        }
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("MQTT 5, {}", self.config.url));
        Ok(connection)
    }

    fn tells_states(&self) -> bool {
        self.id == LaneId::Alerts && !self.config.state_topic.is_empty()
    }

    /// The devices with something active that the sink takes.
    async fn active_devices(&self) -> Result<Vec<Arc<str>>, Failure> {
        let (takes, registries) = (self.config.takes(), (self.directory)());
        let mut devices = BTreeSet::new();
        let mut filter =
            AlertFilter { state: Some(AlertState::Active), limit: ACTIVE, ..AlertFilter::default() };
        loop {
            let page = self.store.alerts(&filter).await;
            let page = page.map_err(|error| Failure::retry("store", error.chain()))?;
            let taken = page.items.iter().filter(|alert| takes.alerts_of(&alert.device, &registries));
            devices.extend(taken.map(|alert| Arc::<str>::from(alert.device.as_str())));
            match page.next {
                Some(next) => filter.cursor = Some(next),
                None => return Ok(devices.into_iter().collect()),
            }
        }
    }

    async fn events(
        &mut self,
        connection: &mut Connection,
        encoded: &Events,
        without: &BTreeSet<Row>,
    ) -> Result<(), Failure> {
        if self.taken.0 != encoded.serial {
            self.taken = (encoded.serial, 0);
        }
        let places: Vec<usize> = (self.taken.1..encoded.events.len())
            .filter(|place| !without.contains(&encoded.events[*place].row))
            .collect();
        let config = &self.config;
        let row = |place: usize| encoded.events[place].row;
        let too_large: Vec<Refusal> = places
            .iter()
            .map(|place| (*place, encode::event(config, encoded, *place).size()))
            .filter(|(_, size)| *size > connection.largest)
            .map(|(place, size)| {
                let reason = format!("{size} bytes; the broker takes {}", connection.largest);
                Refusal { row: row(place), reason }
            })
            .collect();
        if !too_large.is_empty() {
            return Err(Failure::Refused(too_large));
        }
        let known = &mut self.taken.1;
        let published = connection.publish(
            places.len(),
            |at| encode::event(config, encoded, places[at]),
            |first| *known = places.get(first).copied().unwrap_or(encoded.events.len()),
        );
        published.await.map_err(|NotTaken { refused, fault }| match refused {
            Some(at) => Failure::Refused(vec![Refusal { row: row(places[at]), reason: fault.reason }]),
            None => fault.into(),
        })
    }

    /// What is active at these devices, as it is now: what changes meanwhile is a transition of a later chunk.
    async fn states(&self, connection: &mut Connection, devices: &[Arc<str>]) -> Result<(), Failure> {
        for devices in devices.chunks(STATES) {
            let mut states = Vec::new();
            for device in devices {
                let filter = AlertFilter {
                    state: Some(AlertState::Active),
                    device: Some(device.to_string()),
                    limit: ACTIVE,
                    ..AlertFilter::default()
                };
                let page = self.store.alerts(&filter).await;
                let page = page.map_err(|error| Failure::retry("store", error.chain()))?;
                let more = page.next.is_some();
                states.push(encode::state(&self.config, device, &page.items, more, connection.largest));
            }
            let published = connection.publish(states.len(), |at| states[at].clone(), |_| ()).await;
            published.map_err(|not_taken| not_taken.fault)?;
        }
        Ok(())
    }
}

impl Lane for MqttLane {
    type Encoder = EventEncoder;
    type Encoded = Events;

    fn encoder(&self) -> EventEncoder {
        EventEncoder::new(self.config.takes())
    }

    async fn open(&mut self) -> Result<Option<Place>, Failure> {
        self.connection = None;
        self.connection = Some(self.connect().await?);
        self.kept.place().await
    }

    async fn write(
        &mut self,
        chunk: &Chunk,
        encoded: &Events,
        _after: Option<Place>,
        without: &BTreeSet<Row>,
    ) -> Result<(), Failure> {
        // Taken out: a future that is dropped half way leaves no connection with messages of its own behind.
        let mut connection = match self.connection.take() {
            // It broke while there was nothing to say: that is no failure yet.
            Some(connection) if !connection.is_broken() => connection,
            _ => self.connect().await?,
        };
        self.events(&mut connection, encoded, without).await?;
        if self.tells_states() {
            let devices: BTreeSet<_> = encoded.events.iter().map(|event| event.device.clone()).collect();
            let devices: Vec<_> = devices.into_iter().collect();
            self.states(&mut connection, &devices).await?;
        }
        self.kept.advance(chunk).await?;
        self.connection = Some(connection);
        Ok(())
    }
}
