//! What decoding made of the payloads of one append: rows, dead letters, and what their senders are told.

use std::collections::BTreeSet;
use std::ops::Range;

use watchfire_decode::{Decoder, Shape, code};
use watchfire_log::Reject;
use watchfire_model::PartitionId;
use watchfire_model::device::Registries;

use crate::intake::{Content, Payload, RejectedItem, Source, UnknownDevices, Verdict};

/// Items of one payload that become a dead letter each. A letter takes some hundred bytes beside its item, so that
/// a payload of `[1,1,1,...]` would take a hundred times its size from the queue before the disk. What is wrong
/// beyond these shares a letter with all that is wrong in the same way: nothing is lost, and a replay reads it.
const LETTERS: usize = 100;

/// Rejected items of one payload that its sender is told one by one; all are counted.
pub const REJECTED_LISTED: usize = 1000;

/// The code of dead letters that wait for their device to be registered.
pub const QUARANTINED: &str = "quarantined";

/// Bytes whose decoding is short enough for a thread of the runtime that serves others: some hundred microseconds.
const INLINE: usize = 128 * 1024;

/// Does work on these bytes; where they are many, other tasks of this thread go on elsewhere meanwhile.
pub(crate) fn beside_others<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let handle = tokio::runtime::Handle::try_current();
    let several = handle.is_ok_and(|h| h.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if bytes > INLINE && several { tokio::task::block_in_place(work) } else { work() }
}

/// What is said of items of unknown devices.
pub(crate) enum UnknownAnswer {
    Collect,
    Quarantine,
    Refuse(String),
}

impl UnknownAnswer {
    pub(crate) fn of(policy: UnknownDevices) -> Self {
        match policy {
            UnknownDevices::Register => Self::Collect,
            UnknownDevices::Quarantine => Self::Quarantine,
            UnknownDevices::Refuse => Self::Refuse(String::new()),
        }
    }
}

/// A dead letter, and how many items it holds.
pub(crate) struct Letter {
    pub(crate) partition: PartitionId,
    pub(crate) code: &'static str,
    pub(crate) items: u64,
    pub(crate) reject: Reject,
}

#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) rows: Vec<(PartitionId, watchfire_model::Batch, Vec<u32>)>,
    pub(crate) rejects: Vec<Letter>,
    pub(crate) unknown: BTreeSet<String>,
}

impl Draft {
    pub(crate) fn payload(
        &mut self,
        payload: &Payload<'_>,
        source: &Source,
        registries: &Registries,
        decoder: &mut Decoder<'_>,
        answer: &UnknownAnswer,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let mut letters = Letters::new(payload, source, registries, &mut self.rejects);
        let (shape, framing) = match &payload.content {
            Content::Items(shape, framing) => (shape, *framing),
            Content::Refused { code, reason } => {
                letters.add(None, code, reason.clone(), None, 0..payload.bytes.len());
                verdict.reject(None, code, reason.clone());
                return verdict;
            }
        };
        let summary = decoder.decode(payload.bytes, shape, framing);
        verdict.accepted = summary.accepted;
        for item in summary.rejected {
            letters.add(item.index, item.code, item.reason.clone(), None, item.bytes);
            verdict.reject(item.index, item.code, item.reason);
        }
        for item in summary.unknown {
            let mut reason = format!("device {:?} is not registered", item.device);
            match answer {
                UnknownAnswer::Collect => {
                    self.unknown.insert(item.device);
                }
                UnknownAnswer::Quarantine => {
                    letters.add(item.index, QUARANTINED, reason, Some(item.device), item.bytes);
                    verdict.accepted += 1;
                    verdict.quarantined += 1;
                }
                UnknownAnswer::Refuse(why) => {
                    if !why.is_empty() {
                        reason.push_str(": ");
                        reason.push_str(why);
                    }
                    let code = code::UNKNOWN_DEVICE;
                    letters.add(item.index, code, reason.clone(), Some(item.device), item.bytes);
                    verdict.reject(item.index, code, reason);
                }
            }
        }
        letters.finish();
        verdict
    }
}

impl Verdict {
    fn reject(&mut self, index: Option<u32>, code: &'static str, reason: String) {
        self.rejected_in_all += 1;
        if self.rejected.len() < REJECTED_LISTED {
            self.rejected.push(RejectedItem { index, reason, code });
        }
    }
}

/// The dead letters of one payload.
struct Letters<'p> {
    payload: &'p Payload<'p>,
    source: &'p Source,
    registries: &'p Registries,
    /// The device that the address names.
    addressed: Option<&'p str>,
    out: &'p mut Vec<Letter>,
    single: usize,
    /// What shares a letter, one for each code.
    shared: Vec<Shared>,
}

struct Shared {
    code: &'static str,
    index: Option<u32>,
    reason: String,
    /// Of all of them, if it is the same.
    device: Option<String>,
    items: Vec<Range<usize>>,
}

impl<'p> Letters<'p> {
    fn new(
        payload: &'p Payload<'p>,
        source: &'p Source,
        registries: &'p Registries,
        out: &'p mut Vec<Letter>,
    ) -> Self {
        let addressed = match &payload.content {
            Content::Items(Shape::Device(device), _) => Some(*device),
            Content::Items(Shape::Mapped { device, .. }, _) => *device,
            _ => None,
        };
        Self { payload, source, registries, addressed, out, single: 0, shared: Vec::new() }
    }

    fn add(
        &mut self,
        index: Option<u32>,
        code: &'static str,
        reason: String,
        device: Option<String>,
        bytes: Range<usize>,
    ) {
        if self.single < LETTERS {
            self.single += 1;
            return self.write(index, code, reason, device, self.payload.bytes[bytes].to_vec(), 1);
        }
        match self.shared.iter_mut().find(|shared| shared.code == code) {
            Some(shared) => {
                if shared.device != device {
                    shared.device = None;
                }
                shared.items.push(bytes);
            }
            None => self.shared.push(Shared { code, index, reason, device, items: vec![bytes] }),
        }
    }

    fn finish(mut self) {
        for Shared { code, index, reason, device, items } in std::mem::take(&mut self.shared) {
            let reason = match items.len() {
                1 => reason,
                count => format!("{count} items, the first of them: {reason}"),
            };
            let bytes = join(self.payload.bytes, &items);
            self.write(index, code, reason, device, bytes, items.len() as u64);
        }
    }

    fn write(
        &mut self,
        index: Option<u32>,
        code: &'static str,
        reason: String,
        device: Option<String>,
        payload: Vec<u8>,
        items: u64,
    ) {
        let device = device.or_else(|| self.addressed.map(Into::into));
        let partition = device.as_deref().map_or(PartitionId(0), |d| self.registries.partition_of(d));
        let reject = Reject {
            source: self.source.name.clone(),
            address: self.payload.address.into(),
            device,
            // The intake knows it.
            sender: None,
            index,
            code: code.into(),
            reason,
            payload,
        };
        self.out.push(Letter { partition, code, items, reject });
    }
}

/// Items in one text that is read as these items again: a line each, or an array where some have more than one.
fn join(payload: &[u8], items: &[Range<usize>]) -> Vec<u8> {
    let parts: Vec<&[u8]> = items.iter().map(|range| &payload[range.clone()]).collect();
    match parts.as_slice() {
        [one] => one.to_vec(),
        parts if parts.iter().any(|part| part.contains(&b'\n')) => {
            [&b"["[..], &parts.join(&b","[..]), b"]"].concat()
        }
        parts => parts.join(&b"\n"[..]),
    }
}
