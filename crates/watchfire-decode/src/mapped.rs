//! Payloads of other shapes: where device, time and metrics stand is said by JSON pointers (RFC 6901).

use watchfire_model::{DeviceHandle, PartitionId};

use crate::code;
use crate::decoder::{Context, PartitionRows};
use crate::item::{self, OpenRow, Refusal, Scratch};
use crate::json::{Cursor, Fault};

/// A JSON pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// A text that is no JSON pointer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no JSON pointer: it is empty or starts with '/'")]
pub struct MappingError(String);

impl std::str::FromStr for Pointer {
    type Err = MappingError;
    fn from_str(text: &str) -> Result<Self, MappingError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let rest = text.strip_prefix('/').ok_or_else(|| MappingError(text.into()))?;
        Ok(Self(rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect()))
    }
}

/// Where things stand in an item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The device id; `None`: the address names the device.
    pub device: Option<Pointer>,
    /// The time; `None`, or nothing there: the receive time.
    pub time: Option<Pointer>,
    /// The metrics: an object, which is flattened, less device and time where they stand in it; or one value,
    /// whose name the address gives.
    pub metrics: Pointer,
    /// Single metrics by name, beside or instead of `metrics`.
    pub named: Vec<(String, Pointer)>,
}

impl Pointer {
    /// The byte at which the value stands.
    fn find(&self, cursor: &Cursor<'_>, depth: usize, scratch: &mut String) -> Result<Option<usize>, Fault> {
        let mut cursor = cursor.clone();
        'parts: for part in &self.0 {
            let (close, mut place) = match cursor.peek() {
                Some(b'{') => (b'}', None),
                Some(b'[') => (b']', Some(0_usize)),
                _ => return Ok(None),
            };
            cursor.seek(cursor.at() + 1);
            if cursor.peek() == Some(close) {
                return Ok(None);
            }
            loop {
                let found = match &mut place {
                    None => {
                        let key = cursor.text(scratch)?;
                        let found = key.get(scratch) == part;
                        cursor.expect(b':')?;
                        found
                    }
                    Some(place) => {
                        *place += 1;
                        part.parse() == Ok(*place - 1)
                    }
                };
                if found {
                    cursor.peek();
                    continue 'parts;
                }
                cursor.skip(depth)?;
                if cursor.peek() != Some(b',') {
                    return Ok(None);
                }
                cursor.expect(b',')?;
                cursor.peek();
            }
        }
        cursor.peek();
        Ok(Some(cursor.at()))
    }
}

/// Reads one item by a mapping. `device` and `metric` are what the address gave.
pub(crate) fn read(
    cursor: &mut Cursor<'_>,
    mapping: &Mapping,
    (device, metric): (Option<&str>, Option<&str>),
    last: bool,
    context: &Context<'_>,
    partitions: &mut [PartitionRows],
    scratch: &mut Scratch,
) -> Result<(), Refusal> {
    let bounds = context.bounds;
    cursor.peek();
    let start = cursor.clone();
    // Checked as a whole first: what the pointers do not name must be JSON as well.
    cursor.skip(bounds.depth)?;
    item::check_end(cursor, last)?;
    let mut passed = Vec::new();
    let (place, device_at) = find_device(&start, mapping, device, context, scratch)?;
    passed.extend(device_at);
    let mut time = None;
    if let Some(pointer) = &mapping.time
        && let Some(at) = pointer.find(&start, bounds.depth, &mut scratch.text)?
    {
        let mut there = start.clone();
        there.seek(at);
        time = item::read_time(&mut there, context, &mut scratch.text)?;
        passed.push(at);
    }
    let mut row = OpenRow::begin(partitions, place, context.now);
    for (name, pointer) in &mapping.named {
        let Some(at) = pointer.find(&start, bounds.depth, &mut scratch.text)? else { continue };
        let mut there = start.clone();
        there.seek(at);
        value(&mut there, &mut row, Some(name), context, scratch, &[])?;
        passed.push(at);
    }
    if mapping.named.is_empty()
        && let Some(at) = mapping.metrics.find(&start, bounds.depth, &mut scratch.text)?
    {
        let mut there = start.clone();
        there.seek(at);
        value(&mut there, &mut row, metric, context, scratch, &passed)?;
    }
    Ok(row.commit(time, start.at())?)
}

fn find_device(
    start: &Cursor<'_>,
    mapping: &Mapping,
    device: Option<&str>,
    context: &Context<'_>,
    scratch: &mut Scratch,
) -> Result<((PartitionId, DeviceHandle), Option<usize>), Refusal> {
    let no_device = |what: &str| Refusal::from(Fault::new(code::NO_DEVICE, start.at(), what));
    let Some(pointer) = &mapping.device else {
        let id = device.ok_or_else(|| no_device("neither the address nor the mapping names the device"))?;
        return Ok((item::find(context, id, start.at())?, None));
    };
    let at = pointer
        .find(start, context.bounds.depth, &mut scratch.text)?
        .ok_or_else(|| no_device("nothing stands where the mapping says that the device is named"))?;
    let mut there = start.clone();
    there.seek(at);
    let id = item::device_id(&mut there, &mut scratch.text)?;
    let id = id.get(&scratch.text);
    if device.is_some_and(|device| device != id) {
        let what =
            format!("the address is that of {:?}, the payload names {id:?}", device.unwrap_or_default());
        return Err(Fault::new(code::DEVICE_MISMATCH, at, what).into());
    }
    Ok((item::find(context, id, at)?, Some(at)))
}

fn value(
    there: &mut Cursor<'_>,
    row: &mut OpenRow<'_>,
    name: Option<&str>,
    context: &Context<'_>,
    scratch: &mut Scratch,
    passed: &[usize],
) -> Result<(), Fault> {
    scratch.path.clear();
    match (there.peek(), name) {
        (Some(b'{'), name) => {
            scratch.path.push_str(name.unwrap_or_default());
            let result = item::read_metrics(there, row.builder(), context.bounds, scratch, passed, 0);
            scratch.path.clear();
            result
        }
        (_, Some(name)) => item::read_value(there, row.builder(), name, context.bounds, &mut scratch.text),
        (_, None) => Err(Fault::new(
            code::NOT_AN_OBJECT,
            there.at(),
            "a single value has no name: neither address nor mapping gives one",
        )),
    }
}
