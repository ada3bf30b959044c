//! One reading of one JSON object.

use watchfire_model::{BatchBuilder, DeviceHandle, PartitionId, Timestamp};

use crate::code;
use crate::decoder::{Bounds, Context, PartitionRows};
use crate::json::{Cursor, Fault, Text};
use crate::time;

/// Buffers that are used again from item to item.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) key: String,
    pub(crate) text: String,
    pub(crate) path: String,
}

/// Why an item is not a row.
#[derive(Debug)]
pub(crate) enum Refusal {
    Fault(Fault),
    Unknown(String),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Who an item is of, by its address.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) id: &'a str,
    pub(crate) place: Option<(PartitionId, DeviceHandle)>,
}

/// A row that is being written; it is taken back unless it is committed.
pub(crate) struct OpenRow<'b> {
    rows: &'b mut PartitionRows,
    device: DeviceHandle,
    committed: bool,
}

impl<'b> OpenRow<'b> {
    pub(crate) fn begin(
        partitions: &'b mut [PartitionRows],
        (partition, device): (PartitionId, DeviceHandle),
        now: Timestamp,
    ) -> Self {
        let rows = &mut partitions[usize::from(partition.0)];
        rows.builder.begin(device, now);
        Self { rows, device, committed: false }
    }

    pub(crate) fn builder(&mut self) -> &mut BatchBuilder {
        &mut self.rows.builder
    }

    pub(crate) fn commit(mut self, time: Option<Timestamp>, at: usize) -> Result<(), Fault> {
        if self.rows.builder.values_of_row() == 0 {
            return Err(Fault::new(code::NO_METRIC, at, "the reading has no metric with a value"));
        }
        match time {
            Some(time) => self.rows.builder.set_origin(self.device, time),
            None => self.rows.untimed.push(self.rows.builder.rows() as u32 - 1),
        }
        self.rows.builder.commit();
        self.committed = true;
        Ok(())
    }
}

impl Drop for OpenRow<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.rows.builder.abort();
        }
    }
}

/// Reads the event form, and on a device's own address the flat form as well.
pub(crate) fn read(
    cursor: &mut Cursor<'_>,
    scope: Option<Scope<'_>>,
    last: bool,
    context: &Context<'_>,
    partitions: &mut [PartitionRows],
    scratch: &mut Scratch,
) -> Result<(), Refusal> {
    let start = cursor.at();
    if cursor.peek() != Some(b'{') {
        let fault = cursor.unexpected("an object");
        let code =
            if cursor.clone().skip(context.bounds.depth).is_ok() { code::NOT_AN_OBJECT } else { fault.code };
        return Err(Fault { code, ..fault }.into());
    }
    cursor.expect(b'{')?;
    let mut place = match scope {
        Some(Scope { place: None, id }) => return Err(Refusal::Unknown(id.into())),
        Some(Scope { place, .. }) => place,
        None => None,
    };
    let (mut named, mut event, mut flat) = (false, false, false);
    let mut time: Option<Option<Timestamp>> = None;
    let mut deferred = None;
    let mut row: Option<OpenRow<'_>> = None;
    // `partitions` is borrowed by the open row from the first metric on.
    let mut free = Some(partitions);

    let mut first = true;
    loop {
        match cursor.peek() {
            Some(b'}') if first => {
                cursor.expect(b'}')?;
                break;
            }
            Some(b'"') if first => {}
            _ if first => return Err(cursor.unexpected("a field name").into()),
            Some(b'}') => {
                cursor.expect(b'}')?;
                break;
            }
            Some(b',') => {
                cursor.expect(b',')?;
                cursor.peek();
            }
            _ => return Err(cursor.unexpected("',' or '}'").into()),
        }
        first = false;
        let at = cursor.at();
        let key = cursor.text(&mut scratch.key)?;
        cursor.expect(b':')?;
        match key.get(&scratch.key) {
            "device" => {
                if named {
                    return Err(twice(at, "device").into());
                }
                named = true;
                cursor.peek();
                let value_at = cursor.at();
                let id = device_id(cursor, &mut scratch.text)?;
                let id = id.get(&scratch.text);
                match scope {
                    Some(scope) if scope.id != id => {
                        let what = format!("the address is that of {:?}, the payload names {id:?}", scope.id);
                        return Err(Fault::new(code::DEVICE_MISMATCH, value_at, what).into());
                    }
                    Some(_) => {}
                    None => place = Some(find(context, id, value_at)?),
                }
            }
            "time" => {
                if time.is_some() {
                    return Err(twice(at, "time").into());
                }
                time = Some(read_time(cursor, context, &mut scratch.text)?);
            }
            "metrics" if scope.is_none() || cursor.peek() == Some(b'{') => {
                if event {
                    return Err(twice(at, "metrics").into());
                }
                if flat {
                    let what = "\"metrics\" stands beside metrics of the flat form";
                    return Err(Fault::new(code::UNKNOWN_FIELD, at, what).into());
                }
                event = true;
                match (place, free.take()) {
                    (Some(place), Some(partitions)) => {
                        let row = row.insert(OpenRow::begin(partitions, place, context.now));
                        read_metrics(cursor, row.builder(), context.bounds, scratch, &[], 0)?;
                    }
                    // Who it is of comes later: its end is found now, its values are read then.
                    (_, partitions) => {
                        free = partitions;
                        cursor.peek();
                        deferred = Some(cursor.at());
                        cursor.skip(context.bounds.depth)?;
                    }
                }
            }
            name if scope.is_none() || event => {
                let what = format!("{:?} is no field of an event: device, time, metrics", cut(name));
                return Err(Fault::new(code::UNKNOWN_FIELD, at, what).into());
            }
            _ => {
                flat = true;
                if let (Some(place), Some(partitions)) = (place, free.take()) {
                    row = Some(OpenRow::begin(partitions, place, context.now));
                }
                if let Some(row) = &mut row {
                    read_member(cursor, row.builder(), key, context.bounds, scratch, &[], 0)?;
                }
            }
        }
    }
    let end = cursor.at();
    check_end(cursor, last)?;
    let Some(place) = place else {
        return Err(Fault::new(code::NO_DEVICE, start, "no field \"device\" names the device").into());
    };
    if let (Some(at), Some(partitions)) = (deferred, free.take()) {
        let row = row.insert(OpenRow::begin(partitions, place, context.now));
        cursor.seek(at);
        read_metrics(cursor, row.builder(), context.bounds, scratch, &[], 0)?;
        cursor.seek(end);
    }
    match row {
        Some(row) => Ok(row.commit(time.flatten(), start)?),
        None => Err(Fault::new(code::NO_METRIC, start, "the reading has no metric").into()),
    }
}

/// Where the item is the whole text, nothing stands behind it.
pub(crate) fn check_end(cursor: &mut Cursor<'_>, last: bool) -> Result<(), Fault> {
    if last && cursor.peek().is_some() {
        return Err(Fault::new(code::TRAILING, cursor.at(), "something stands behind the end of the JSON"));
    }
    Ok(())
}

fn twice(at: usize, field: &str) -> Fault {
    Fault::new(code::FIELD_TWICE, at, format!("field {field:?} came twice"))
}

/// So much of a name as an error shows.
pub(crate) fn cut(text: &str) -> &str {
    match text.char_indices().nth(64) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

pub(crate) fn device_id<'a>(cursor: &mut Cursor<'a>, scratch: &mut String) -> Result<Text<'a>, Fault> {
    match cursor.peek() {
        Some(b'"') => cursor.text(scratch),
        Some(b'{' | b'[' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => {
            Err(Fault::new(code::DEVICE_INVALID, cursor.at(), "field \"device\" is no text"))
        }
        _ => Err(cursor.unexpected("a text")),
    }
}

pub(crate) fn find(
    context: &Context<'_>,
    id: &str,
    at: usize,
) -> Result<(PartitionId, DeviceHandle), Refusal> {
    if context.allowed.is_some_and(|allowed| !allowed(id)) {
        let what = format!("whoever is connected here may not speak for device {:?}", cut(id));
        return Err(Fault::new(code::NOT_AUTHORISED, at, what).into());
    }
    if let Some(place) = context.registries.find(id) {
        return Ok(place);
    }
    match watchfire_model::DeviceSpec::check_id(id) {
        Ok(()) => Err(Refusal::Unknown(id.into())),
        Err(what) => Err(Fault::new(code::DEVICE_INVALID, at, what).into()),
    }
}

/// Takes a time: RFC 3339, integer milliseconds since the epoch, or null for none.
pub(crate) fn read_time(
    cursor: &mut Cursor<'_>,
    context: &Context<'_>,
    scratch: &mut String,
) -> Result<Option<Timestamp>, Fault> {
    let byte = cursor.peek();
    let at = cursor.at();
    let invalid = |what: String| Fault::new(code::TIME_INVALID, at, what);
    let time = match byte {
        Some(b'"') => {
            let text = cursor.text(scratch)?;
            let text = text.get(scratch);
            time::parse(text).ok_or_else(|| {
                invalid(format!("{:?} is no RFC 3339 time such as 2026-01-01T00:00:00Z", cut(text)))
            })?
        }
        Some(b'-' | b'0'..=b'9') => {
            let number = cursor.number()?;
            // Above 2^53 doubles are not exact, and so far from today that the window refuses them anyway.
            let whole = number.fract() == 0.0 && number.abs() <= (1_u64 << 53) as f64;
            whole.then_some(number as i64).and_then(Timestamp::from_millis).ok_or_else(|| {
                invalid(format!("{number} is no whole number of milliseconds since the epoch"))
            })?
        }
        Some(b'n') => {
            cursor.word("null")?;
            return Ok(None);
        }
        Some(b'{' | b'[' | b't' | b'f') => {
            return Err(invalid("field \"time\" is neither text nor number".into()));
        }
        _ => return Err(cursor.unexpected("a time")),
    };
    let window = &context.window;
    if time < context.now - window.back || time > context.now + window.ahead {
        let side = if time > context.now { ("ahead", window.ahead) } else { ("back", window.back) };
        let mut what =
            format!("{time} lies more than {} {} of the receive time {}", side.1, side.0, context.now);
        // Seconds where milliseconds are expected is the commonest mistake, and looks like January 1970.
        if byte != Some(b'"') && time.0 > 0 && time.0 < 10_000_000_000_000 {
            what.push_str(" (a number is milliseconds since the epoch)");
        }
        return Err(Fault::new(code::TIME_OUT_OF_WINDOW, at, what));
    }
    Ok(Some(time))
}

/// Takes an object of metrics. `passed` are the places of values that are none.
pub(crate) fn read_metrics(
    cursor: &mut Cursor<'_>,
    builder: &mut BatchBuilder,
    bounds: &Bounds,
    scratch: &mut Scratch,
    passed: &[usize],
    depth: usize,
) -> Result<(), Fault> {
    if depth >= bounds.depth {
        return Err(Fault::new(
            code::TOO_DEEP,
            cursor.at(),
            format!("{}: nested deeper than {} levels", cut(&scratch.path), bounds.depth),
        ));
    }
    if !matches!(cursor.peek(), Some(b'{')) {
        let fault = cursor.unexpected("an object of metrics");
        let value = cursor.clone().skip(bounds.depth).is_ok();
        return Err(Fault { code: if value { code::NOT_AN_OBJECT } else { fault.code }, ..fault });
    }
    cursor.expect(b'{')?;
    if cursor.peek() == Some(b'}') {
        return cursor.expect(b'}');
    }
    loop {
        let key = cursor.text(&mut scratch.key)?;
        cursor.expect(b':')?;
        read_member(cursor, builder, key, bounds, scratch, passed, depth)?;
        match cursor.peek() {
            Some(b',') => cursor.expect(b',')?,
            Some(b'}') => return cursor.expect(b'}'),
            _ => return Err(cursor.unexpected("',' or '}'")),
        }
    }
}

/// Takes the value of a member whose name was just taken: a metric, or an object of metrics.
#[inline]
pub(crate) fn read_member(
    cursor: &mut Cursor<'_>,
    builder: &mut BatchBuilder,
    key: Text<'_>,
    bounds: &Bounds,
    scratch: &mut Scratch,
    passed: &[usize],
    depth: usize,
) -> Result<(), Fault> {
    let Scratch { key: unescaped, text, path } = scratch;
    let base = path.len();
    let byte = cursor.peek();
    if !passed.is_empty() && passed.contains(&cursor.at()) {
        return cursor.skip(bounds.depth);
    }
    let key_name = key.get(unescaped);
    let nested = byte == Some(b'{');
    if base > 0 {
        path.push('.');
        path.push_str(key_name);
    } else if nested {
        path.push_str(key_name);
    }
    if nested {
        read_metrics(cursor, builder, bounds, scratch, passed, depth + 1)?;
        scratch.path.truncate(base);
        return Ok(());
    }
    let name = if base > 0 { path.as_str() } else { key_name };
    read_value(cursor, builder, name, bounds, text)?;
    path.truncate(base);
    Ok(())
}

/// Takes one value that is no object.
#[inline]
pub(crate) fn read_value(
    cursor: &mut Cursor<'_>,
    builder: &mut BatchBuilder,
    name: &str,
    bounds: &Bounds,
    scratch: &mut String,
) -> Result<(), Fault> {
    let byte = cursor.peek();
    let at = cursor.at();
    let fault = |code, what: &str| Fault::new(code, at, format!("{}: {what}", cut(name)));
    if name.is_empty() || name.len() > bounds.name_bytes || name.bytes().any(|byte| byte < 0x20) {
        let what = format!("a name has 1 to {} bytes and no control character", bounds.name_bytes);
        return Err(fault(code::METRIC_NAME, &what));
    }
    let added = match byte {
        // Only behind a sign can a word stand that is no number.
        Some(b'-' | b'0'..=b'9') if byte != Some(b'-') || cursor.not_a_number().is_none() => {
            let number = cursor.number()?;
            if !number.is_finite() {
                return Err(fault(code::METRIC_NOT_FINITE, "the number does not fit a double"));
            }
            builder.number(name, number)
        }
        Some(b'"') => {
            let text = cursor.text(scratch)?;
            let text = text.get(scratch);
            if text.len() > bounds.text_bytes {
                let what = format!("a text of {} bytes; {} are allowed", text.len(), bounds.text_bytes);
                return Err(fault(code::TEXT_TOO_LONG, &what));
            }
            builder.text(name, text)
        }
        Some(b't') => {
            cursor.word("true")?;
            builder.boolean(name, true)
        }
        Some(b'f') => {
            cursor.word("false")?;
            builder.boolean(name, false)
        }
        Some(b'[') => return Err(fault(code::METRIC_ARRAY, "an array is no metric")),
        Some(b'n') if cursor.not_a_number().is_none() => {
            cursor.word("null")?;
            return Ok(());
        }
        _ if cursor.not_a_number().is_some() => {
            return Err(fault(code::METRIC_NOT_FINITE, "a number must be finite"));
        }
        _ => return Err(cursor.unexpected("a value")),
    };
    if added.is_err() {
        return Err(fault(code::METRIC_TWICE, "the metric came twice in this reading"));
    }
    if builder.values_of_row() > bounds.metrics {
        return Err(fault(code::TOO_MANY_METRICS, &format!("more than {} metrics", bounds.metrics)));
    }
    if builder.columns() > bounds.columns {
        let what = format!("more than {} different metrics in one upload", bounds.columns);
        return Err(fault(code::TOO_MANY_METRICS, &what));
    }
    Ok(())
}
