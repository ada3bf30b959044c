//! Where a lane is, in the topic of cursors.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use watchfire_model::Epoch;

use super::config::{KafkaConfig, Secrets};
use super::producer::GivenUp;
use super::retry;
use crate::chunk::Gap;
use crate::contract::{Failure, LaneId, Place};

/// The partition that all cursors are in.
pub(super) const PARTITION: i32 = 0;

/// How long a broker may take to say something.
const ANSWER: Duration = Duration::from_secs(10);

/// How long transactions of others that are under way are waited for: longer than brokers let them live.
const SETTLED: Duration = Duration::from_secs(45);

/// Messages at the end that are read first. Each time that the cursor is not among them, eight times as many.
const TAIL: i64 = 256;

/// The value of a cursor.
pub(super) fn value(place: Place) -> Vec<u8> {
    json!({ "epoch": place.epoch.0, "next": place.next }).to_string().into_bytes()
}

/// What is said of a part of the log that the lane never saw, under a key that no cursor has: compaction keeps it.
pub(super) fn gap_key(cursor: &str, gap: &Gap) -> String {
    format!("{cursor}/gap/{}/{}", gap.from.epoch, gap.from.next)
}

/// And its value.
pub(super) fn gap_value(gap: &Gap) -> Vec<u8> {
    let place = |place: Place| json!({ "epoch": place.epoch.0, "next": place.next });
    json!({ "from": place(gap.from), "to": place(gap.to), "reason": gap.reason }).to_string().into_bytes()
}

fn parse(value: &[u8]) -> Option<Place> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    let epoch = Epoch(u32::try_from(value["epoch"].as_u64()?).ok()?);
    Some(Place { epoch, next: value["next"].as_u64()? })
}

/// The last cursor of a lane. Blocks.
pub(super) fn find(
    config: &KafkaConfig,
    lane: LaneId,
    secrets: &Secrets,
    given_up: &GivenUp,
) -> Result<Option<Place>, Failure> {
    let failed = |error: KafkaError| retry::failure(&error);
    let topic = config.cursors_topic();
    let key = config.cursor_key(lane);
    let reader: BaseConsumer = config.reader("read_committed", secrets).create().map_err(failed)?;
    let (low, mut end) = reader.fetch_watermarks(&topic, PARTITION, ANSWER).map_err(failed)?;
    // With `read_committed` the end is where the first transaction begins that is under way. Ours are not: the producer,
    // which is there already, has ended them.
    let plain: BaseConsumer = config.reader("read_uncommitted", secrets).create().map_err(failed)?;
    let (_, written) = plain.fetch_watermarks(&topic, PARTITION, ANSWER).map_err(failed)?;
    drop(plain);
    let (began, mut told) = (Instant::now(), false);
    while end < written {
        if !told && began.elapsed() > ANSWER {
            told = true;
            tracing::warn!(sink = super::NAME, %lane, "waits for a transaction of another lane that nobody has ended");
        }
        if given_up.is_over() || began.elapsed() > SETTLED {
            return Err(Failure::retry("slow", "a transaction of another lane is under way"));
        }
        std::thread::sleep(Duration::from_millis(20));
        end = reader.fetch_watermarks(&topic, PARTITION, ANSWER).map_err(failed)?.1;
    }
    let (mut tail, mut known) = (TAIL, end);
    while known > low {
        let from = (end - tail).max(low);
        let place = read(&reader, &topic, key.as_bytes(), from, given_up)?;
        if place.is_some() {
            return Ok(place);
        }
        (known, tail) = (from, tail * 8);
    }
    Ok(None)
}

fn read(
    reader: &BaseConsumer,
    topic: &str,
    key: &[u8],
    from: i64,
    given_up: &GivenUp,
) -> Result<Option<Place>, Failure> {
    let failed = |error: KafkaError| retry::failure(&error);
    let mut assigned = TopicPartitionList::new();
    assigned.add_partition_offset(topic, PARTITION, Offset::Offset(from)).map_err(failed)?;
    reader.assign(&assigned).map_err(failed)?;
    let (mut place, mut heard) = (None, Instant::now());
    loop {
        // It returns early after other events.
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                if message.key() == Some(key) {
                    // What is no cursor of ours, a tombstone too, says that there is none.
                    place = message.payload().and_then(parse);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(place),
            // No group is joined: who may not ask for one needs not.
            Some(Err(error))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {}
            Some(Err(error)) => return Err(failed(error)),
            None if given_up.is_over() || heard.elapsed() > ANSWER => {
                return Err(Failure::retry("unreachable", "the topic of cursors could not be read in time"));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_anything_else_is_none() {
        let place = Place { epoch: Epoch(3), next: 1 << 60 };
        assert_eq!(parse(&value(place)), Some(place));
        for other in
            ["", "{}", r#"{"epoch":-1,"next":2}"#, r#"{"epoch":1}"#, r#"{"epoch":4294967296,"next":1}"#]
        {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }
}
