//! One record: a kind, and what the kind says.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watchfire_model::{Actor, Offset, Position, RuleVersion, Timestamp};

use super::{CodecError, Input, batch, put_bytes};
use crate::record::{Consumed, GapReason, Record, Redo, Slice};

const READINGS: u8 = 1;
const REJECTS: u8 = 2;
const TICK: u8 = 3;
const CONTROL: u8 = 4;
const ACTIVATED: u8 = 5;
const REFUSED: u8 = 6;
const SKIPPED: u8 = 7;
const GAP: u8 = 8;
const CHECKPOINT_MARK: u8 = 9;
const REDO: u8 = 10;
const CONSUMED: u8 = 11;
const BREAKER: u8 = 12;
const EXTERNAL: u8 = 13;

#[derive(Serialize, Deserialize)]
struct ActivatedBody {
    rule: String,
    version: RuleVersion,
    offset: Offset,
}

#[derive(Serialize, Deserialize)]
struct RefusedBody {
    rule: String,
    version: RuleVersion,
    offset: Offset,
    reason: String,
}

/// What stands before the batch of a redo.
#[derive(Serialize, Deserialize)]
struct RedoHead {
    rule: String,
    stream: String,
    failed: Position,
    by: Actor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missed: Option<Slice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upto: Option<String>,
}

/// The kind of a record as it is written.
pub fn kind(record: &Record) -> u8 {
    match record {
        Record::Readings { .. } => READINGS,
        Record::Rejects(_) => REJECTS,
        Record::Tick => TICK,
        Record::Control(_) => CONTROL,
        Record::Activated { .. } => ACTIVATED,
        Record::Refused { .. } => REFUSED,
        Record::Skipped(_) => SKIPPED,
        Record::Gap { .. } => GAP,
        Record::CheckpointMark => CHECKPOINT_MARK,
        Record::Redo(_) => REDO,
        Record::Consumed(_) => CONSUMED,
        Record::Breaker(_) => BREAKER,
        Record::External(_) => EXTERNAL,
    }
}

/// Whether a record is written as JSON: such a one is rare, and is checked before it is accepted.
pub fn is_json(record: &Record) -> bool {
    matches!(kind(record), CONTROL | ACTIVATED | REFUSED | SKIPPED | BREAKER | EXTERNAL)
}

/// Appends the bytes of a record, without its kind. It fails only where something is no JSON.
pub fn encode(record: &Record, out: &mut Vec<u8>) -> Result<(), CodecError> {
    match record {
        Record::Readings { stream, origin, batch } => {
            put_bytes(out, stream.as_bytes());
            match origin {
                None => put_bytes(out, &[]),
                Some(origin) => put_bytes(out, &json(origin)?),
            }
            batch::encode(batch, out);
        }
        Record::Rejects(rejects) => {
            out.extend_from_slice(&(rejects.len() as u32).to_le_bytes());
            for reject in rejects {
                put_bytes(out, &json(reject)?);
                put_bytes(out, &reject.payload);
            }
        }
        Record::Tick | Record::CheckpointMark => {}
        Record::Control(control) => out.extend_from_slice(&json(control)?),
        Record::Activated { rule, version, offset } => {
            let body = ActivatedBody { rule: rule.clone(), version: *version, offset: *offset };
            out.extend_from_slice(&json(&body)?);
        }
        Record::Refused { rule, version, offset, reason } => {
            let (rule, reason) = (rule.clone(), reason.clone());
            let body = RefusedBody { rule, version: *version, offset: *offset, reason };
            out.extend_from_slice(&json(&body)?);
        }
        Record::Skipped(skipped) => out.extend_from_slice(&json(skipped)?),
        Record::Breaker(breaker) => out.extend_from_slice(&json(breaker)?),
        Record::External(external) => out.extend_from_slice(&json(external)?),
        Record::Redo(redo) => {
            let Redo { rule, stream, failed, missed, upto, by, batch } = &**redo;
            let (rule, stream, by, upto) = (rule.clone(), stream.to_string(), by.clone(), upto.clone());
            put_bytes(out, &json(&RedoHead { rule, stream, failed: *failed, by, missed: *missed, upto })?);
            batch::encode(batch, out);
        }
        Record::Gap { from, to, reason } => {
            out.extend_from_slice(&from.0.to_le_bytes());
            out.extend_from_slice(&to.0.to_le_bytes());
            out.push(match reason {
                GapReason::Stopped => 0,
                GapReason::DiskFull => 1,
                GapReason::ClockStep => 2,
                GapReason::WriteFailed => 3,
            });
        }
        Record::Consumed(all) => {
            out.extend_from_slice(&(all.len() as u32).to_le_bytes());
            for Consumed { source, topic, partition, from, next, anew } in all {
                put_bytes(out, source.as_bytes());
                put_bytes(out, topic.as_bytes());
                out.extend_from_slice(&partition.to_le_bytes());
                out.extend_from_slice(&from.to_le_bytes());
                out.extend_from_slice(&next.to_le_bytes());
                out.push((*anew).into());
            }
        }
    }
    Ok(())
}

/// Reads a record. Bytes that are left over are an error.
pub fn decode(kind: u8, bytes: &[u8]) -> Result<Record, CodecError> {
    let mut input = Input(bytes);
    let record = match kind {
        READINGS => {
            let stream = input.text("the name of a stream")?.into();
            let origin = match input.bytes("an origin")? {
                [] => None,
                bytes => Some(Box::new(parse(bytes, "an origin")?)),
            };
            Record::Readings { stream, origin, batch: Arc::new(batch::decode(&mut input)?) }
        }
        REJECTS => {
            let count = input.count(8, "rejects")?;
            let mut rejects = Vec::with_capacity(count);
            for _ in 0..count {
                let mut reject: crate::record::Reject = parse(input.bytes("a reject")?, "a reject")?;
                reject.payload = input.bytes("the payload of a reject")?.to_vec();
                rejects.push(reject);
            }
            Record::Rejects(rejects)
        }
        TICK => Record::Tick,
        CHECKPOINT_MARK => Record::CheckpointMark,
        CONTROL => Record::Control(Box::new(parse(rest(&mut input), "a control record")?)),
        ACTIVATED => {
            let ActivatedBody { rule, version, offset } = parse(rest(&mut input), "an activation")?;
            Record::Activated { rule, version, offset }
        }
        REFUSED => {
            let RefusedBody { rule, version, offset, reason } = parse(rest(&mut input), "a refusal")?;
            Record::Refused { rule, version, offset, reason }
        }
        SKIPPED => Record::Skipped(Box::new(parse(rest(&mut input), "a skipped call")?)),
        EXTERNAL => Record::External(Box::new(parse(rest(&mut input), "alerts of others")?)),
        BREAKER => Record::Breaker(Box::new(parse(rest(&mut input), "a breaker")?)),
        REDO => {
            let head = parse(input.bytes("the head of a redo")?, "the head of a redo")?;
            let RedoHead { rule, stream, failed, by, missed, upto } = head;
            let batch = Arc::new(batch::decode(&mut input)?);
            Record::Redo(Box::new(Redo { rule, stream: stream.into(), failed, missed, upto, by, batch }))
        }
        GAP => Record::Gap {
            from: Timestamp(input.i64("a gap")?),
            to: Timestamp(input.i64("a gap")?),
            reason: match input.u8("the reason of a gap")? {
                0 => GapReason::Stopped,
                1 => GapReason::DiskFull,
                2 => GapReason::ClockStep,
                3 => GapReason::WriteFailed,
                _ => return Err(CodecError::Invalid("a gap of no known reason")),
            },
        },
        CONSUMED => {
            let what = "what was consumed";
            let count = input.count(29, what)?;
            let mut all = Vec::with_capacity(count);
            for _ in 0..count {
                all.push(Consumed {
                    source: input.text(what)?.into(),
                    topic: input.text(what)?.into(),
                    partition: input.u32(what)? as i32,
                    from: input.i64(what)?,
                    next: input.i64(what)?,
                    anew: match input.u8(what)? {
                        0 => false,
                        1 => true,
                        _ => return Err(CodecError::Invalid("a flag that is neither 0 nor 1")),
                    },
                });
            }
            Record::Consumed(all)
        }
        _ => return Err(CodecError::Invalid("a record of no known kind")),
    };
    if input.0.is_empty() { Ok(record) } else { Err(CodecError::Invalid("bytes behind the end of a record")) }
}

fn rest<'a>(input: &mut Input<'a>) -> &'a [u8] {
    std::mem::take(&mut input.0)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(value).map_err(|error| CodecError::Unkeepable(error.to_string()))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, CodecError> {
    serde_json::from_slice(bytes).map_err(|error| CodecError::Json(what, error.to_string()))
}
