//! What holds for any bytes. The seeded mutations of these tests and the fuzz target `json` both ask it.
//!
//! - Each item is a row or a refusal, and none is both or neither.
//! - An accepted item is JSON to serde_json as well, and its row says what serde_json reads.
//! - Rows that are written as JSON and decoded again are the same rows.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;
use watchfire_decode::{Bounds, Context, Decoder, Framing, Mapping, Shape, Summary, Window, code};
use watchfire_model::device::Registries;
use watchfire_model::{DeviceSpec, Timestamp, Values};

/// 2026-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_767_225_600_000_000);

static REGISTRIES: LazyLock<Registries> = LazyLock::new(|| {
    let mut registries = Registries::new(2);
    for id in ["press-0042", "a", "b", "Größe"] {
        let partition = registries.partition_of(id);
        let spec = DeviceSpec { id: id.into(), ..DeviceSpec::default() };
        registries.0[usize::from(partition.0)].put(spec);
    }
    registries
});

static MAPPING: LazyLock<Mapping> = LazyLock::new(|| Mapping {
    device: "/dev/id".parse().ok(),
    time: "/ts".parse().ok(),
    metrics: "/v/1".parse().unwrap_or_default(),
    named: Vec::new(),
});

static SCALAR: LazyLock<Mapping> = LazyLock::new(Mapping::default);

/// Small, so that short payloads meet each of them.
const BOUNDS: Bounds =
    Bounds { metrics: 8, columns: 40, name_bytes: 30, text_bytes: 40, depth: 6, items: 50 };

/// One row; numbers are compared by their bits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    device: String,
    /// `None`: it had no time of its own.
    time: Option<Timestamp>,
    metrics: BTreeMap<String, Said>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Number(u64),
    Text(String),
    Flag(bool),
}

/// JSON as serde_json reads it, with members that come twice: `Value` keeps the last one only.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> serde::Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> serde::de::Visitor<'de> for Reader {
            type Value = Json;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, flag: bool) -> Result<Json, E> {
                Ok(Json::Flag(flag))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
                Ok(Json::Number(number as f64))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
                Ok(Json::Number(number as f64))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
                Ok(Json::Number(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Json, E> {
                Ok(Json::Text(text.into()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = from.next_element()? {
                    items.push(item);
                }
                Ok(Json::Array(items))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = from.next_entry()? {
                    members.push(member);
                }
                Ok(Json::Object(members))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Decodes `input` behind its first byte, in the shape and framing which that one chooses, and checks what holds.
/// Gives the number of rows, and of refusals.
pub fn check(input: &[u8]) -> (usize, usize) {
    let Some((&choice, payload)) = input.split_first() else { return (0, 0) };
    let shape = match choice & 3 {
        0 => Shape::Event,
        1 => Shape::Device("a"),
        2 => Shape::Mapped { mapping: &MAPPING, device: None, metric: None },
        _ => Shape::Mapped { mapping: &SCALAR, device: Some("a"), metric: Some("m") },
    };
    let framing = [Framing::Auto, Framing::Ndjson, Framing::Json][usize::from(choice >> 2) % 3];
    let (rows, summary) = decode(payload, &shape, framing);
    account(payload, &rows, &summary);
    if matches!(shape, Shape::Event | Shape::Device(_)) {
        match framing {
            Framing::Ndjson => lines(payload, &shape, &rows, &summary),
            Framing::Json => text(payload, &shape, &rows, &summary),
            Framing::Auto => {}
        }
    }
    again(&rows);
    (summary.accepted as usize, summary.rejected.len() + summary.unknown.len())
}

/// The rows of each partition, in their order.
fn decode(payload: &[u8], shape: &Shape<'_>, framing: Framing) -> (Vec<Vec<Row>>, Summary) {
    let context = Context {
        registries: &REGISTRIES,
        now: NOW,
        window: Window::default(),
        bounds: &BOUNDS,
        allowed: None,
    };
    let mut decoder = Decoder::new(context);
    let summary = decoder.decode(payload, shape, framing);
    let mut partitions = vec![Vec::new(); 2];
    for (partition, batch, untimed) in decoder.finish() {
        assert_eq!(batch.devices.len(), batch.times.len());
        let registry = &REGISTRIES.0[usize::from(partition.0)];
        let mut rows: Vec<Row> = (0..batch.rows())
            .map(|row| Row {
                device: registry.get(batch.devices[row]).expect("a registered device").spec.id.clone(),
                time: (!untimed.contains(&(row as u32))).then_some(batch.times[row]),
                metrics: BTreeMap::new(),
            })
            .collect();
        for column in &batch.columns {
            for at in 0..column.values.len() {
                let row = column.rows.as_ref().map_or(at, |rows| rows[at] as usize);
                let said = match &column.values {
                    Values::Numbers(n) if n[at].is_nan() => continue,
                    Values::Numbers(n) => Said::Number(n[at].to_bits()),
                    Values::Texts(t) if t.codes[at] == u32::MAX => continue,
                    Values::Texts(t) => Said::Text(t.dictionary[t.codes[at] as usize].to_string()),
                    Values::Booleans(b) if b[at] == 255 => continue,
                    Values::Booleans(b) => Said::Flag(b[at] == 1),
                };
                let before = rows[row].metrics.insert(column.metric.to_string(), said);
                assert!(before.is_none(), "{} stands twice in a row", column.metric);
            }
        }
        partitions[usize::from(partition.0)] = rows;
    }
    (partitions, summary)
}

/// The refusals of a payload in the order of its items: index, code (`None`: the device is not registered), bytes.
fn refusals(summary: &Summary) -> Vec<(Option<u32>, Option<&'static str>, std::ops::Range<usize>)> {
    let rejected = summary.rejected.iter().map(|r| (r.index, Some(r.code), r.bytes.clone()));
    let unknown = summary.unknown.iter().map(|u| (u.index, None, u.bytes.clone()));
    let mut all: Vec<_> = rejected.chain(unknown).collect();
    // One of the payload as a whole stands behind its items.
    all.sort_by_key(|(index, ..)| index.unwrap_or(u32::MAX));
    all
}

fn account(payload: &[u8], rows: &[Vec<Row>], summary: &Summary) {
    let decoded: usize = rows.iter().map(Vec::len).sum();
    assert_eq!(decoded, summary.accepted as usize, "rows and the count of them");
    let refusals = refusals(summary);
    assert!(decoded + refusals.len() > 0, "something became of the payload");
    let indexed = refusals.iter().filter_map(|(index, ..)| *index).collect::<Vec<_>>();
    assert!(indexed.is_sorted_by(|a, b| a < b), "no item is refused twice: {summary:?}");
    assert!(indexed.last().is_none_or(|&last| (last as usize) < decoded + indexed.len()), "{summary:?}");
    assert!(refusals.is_sorted_by(|(_, _, a), (_, _, b)| a.end <= b.start), "bytes overlap: {summary:?}");
    for (_, _, bytes) in &refusals {
        assert!(payload.get(bytes.clone()).is_some(), "{bytes:?} of {}", payload.len());
    }
    for reject in &summary.rejected {
        let place = reject.reason.rsplit_once(" (byte ").and_then(|(_, rest)| rest.strip_suffix(')'));
        let place: Option<usize> = place.and_then(|place| place.parse().ok());
        assert!(place.is_some_and(|place| place <= payload.len()), "it says where: {reject:?}");
        assert!(reject.reason.len() < 1000, "{reject:?}");
    }
    for unknown in &summary.unknown {
        assert_eq!(DeviceSpec::check_id(&unknown.device), Ok(()));
    }
    for row in rows.iter().flatten() {
        assert!((1..=BOUNDS.metrics).contains(&row.metrics.len()), "{row:?}");
        for (name, said) in &row.metrics {
            assert!((1..=BOUNDS.name_bytes).contains(&name.len()), "{name:?}");
            match said {
                Said::Number(bits) => assert!(f64::from_bits(*bits).is_finite(), "{row:?}"),
                Said::Text(text) => assert!(text.len() <= BOUNDS.text_bytes, "{row:?}"),
                Said::Flag(_) => {}
            }
        }
        let (earliest, latest) = (NOW - Window::default().back, NOW + Window::default().ahead);
        assert!(row.time.is_none_or(|time| (earliest..=latest).contains(&time)), "{row:?}");
    }
}

/// Without the white space of JSON around it.
fn trim(bytes: &[u8]) -> &[u8] {
    let is_solid = |byte: &u8| !b" \t\r\n".contains(byte);
    let (first, last) = (bytes.iter().position(is_solid), bytes.iter().rposition(is_solid));
    first.zip(last).map_or(&[], |(first, last)| &bytes[first..=last])
}

/// Lines that were accepted are what serde_json reads from them.
fn lines(payload: &[u8], shape: &Shape<'_>, rows: &[Vec<Row>], summary: &Summary) {
    let refusals = refusals(summary);
    let mut rows: Vec<_> = rows.iter().map(|rows| rows.iter()).collect();
    let lines = payload.split(|&byte| byte == b'\n').filter(|line| !trim(line).is_empty());
    for (index, line) in (0..).zip(lines) {
        match refusals.iter().find(|(refused, ..)| *refused == Some(index)) {
            Some((_, Some(code::TOO_MANY_ITEMS), _)) => return,
            Some((_, _, bytes)) => assert_eq!(&payload[bytes.clone()], trim(line), "its bytes"),
            None => {
                next_is(&serde_json::from_slice(line).expect("accepted, so it is JSON"), shape, &mut rows)
            }
        }
    }
}

/// Where the payload is JSON, its items are accounted for one by one.
fn text(payload: &[u8], shape: &Shape<'_>, rows: &[Vec<Row>], summary: &Summary) {
    let refusals = refusals(summary);
    let items = match serde_json::from_slice(payload) {
        Ok(Json::Array(items)) => items,
        Ok(item) => vec![item],
        Err(_) => {
            let array = trim(payload).starts_with(b"[");
            assert!(array || summary.accepted == 0, "accepted, so it is JSON");
            return;
        }
    };
    let mut rows: Vec<_> = rows.iter().map(|rows| rows.iter()).collect();
    for (index, item) in (0..).zip(&items) {
        match refusals.iter().find(|(refused, ..)| *refused == Some(index)) {
            Some((_, Some(code::TOO_MANY_ITEMS), _)) => return,
            Some((_, _, bytes)) => {
                let bytes = trim(&payload[bytes.clone()]);
                assert_eq!(serde_json::from_slice::<Json>(bytes).as_ref().ok(), Some(item), "its bytes");
            }
            None => next_is(item, shape, &mut rows),
        }
    }
    let indexed = refusals.iter().filter(|(index, ..)| index.is_some()).count();
    assert_eq!(summary.accepted as usize + indexed, items.len(), "{summary:?}");
    let whole = refusals.iter().any(|(index, ..)| index.is_none());
    assert_eq!(whole, items.is_empty(), "{summary:?}");
}

/// The next row of the device's partition says what the item says.
fn next_is(item: &Json, shape: &Shape<'_>, rows: &mut [std::slice::Iter<'_, Row>]) {
    let Json::Object(members) = item else { panic!("a reading is an object: {item:?}") };
    let field = |name: &str| {
        let mut all = members.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        let first = all.next();
        assert_eq!(all.next(), None, "{name} came twice");
        first
    };
    let named = field("device").map(|id| match id {
        Json::Text(id) => id.as_str(),
        other => panic!("a text names a device: {other:?}"),
    });
    let device = match shape {
        Shape::Device(id) => id,
        _ => named.expect("a reading names its device"),
    };
    assert!(named.is_none_or(|named| named == device));
    let (partition, _) = REGISTRIES.find(device).expect("it is registered");
    let time = match field("time") {
        None | Some(Json::Null) => None,
        Some(Json::Text(text)) => Some(text.parse().expect("a time")),
        Some(Json::Number(millis)) if millis.fract() == 0.0 => Timestamp::from_millis(*millis as i64),
        Some(other) => panic!("no time: {other:?}"),
    };
    let is_event = |(name, value): &(String, Json)| name == "metrics" && matches!(value, Json::Object(_));
    let mut metrics = BTreeMap::new();
    for (name, value) in members.iter().filter(|(name, _)| name != "device" && name != "time") {
        match value {
            Json::Object(inner) if name == "metrics" => flatten("", inner, &mut metrics),
            _ => {
                // What an address may leave out it may not mix.
                assert!(matches!(shape, Shape::Device(_)) && !members.iter().any(is_event), "{item:?}");
                flatten("", std::slice::from_ref(&(name.clone(), value.clone())), &mut metrics);
            }
        }
    }
    let expected = Row { device: device.to_string(), time, metrics };
    assert_eq!(rows[usize::from(partition.0)].next(), Some(&expected));
}

fn flatten(prefix: &str, members: &[(String, Json)], to: &mut BTreeMap<String, Said>) {
    for (key, value) in members {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let said = match value {
            Json::Object(inner) => {
                flatten(&name, inner, to);
                continue;
            }
            Json::Null => continue,
            Json::Array(_) => panic!("{name}: an array is no metric"),
            Json::Flag(flag) => Said::Flag(*flag),
            Json::Number(n) => Said::Number(n.to_bits()),
            Json::Text(text) => Said::Text(text.clone()),
        };
        assert!(to.insert(name, said).is_none(), "a metric twice");
    }
}

/// Rows as events, a line each, are the same rows once more.
fn again(rows: &[Vec<Row>]) {
    let mut payload = String::new();
    for row in rows.iter().flatten() {
        let metrics: serde_json::Map<String, Value> = row
            .metrics
            .iter()
            .map(|(name, said)| {
                let value = match said {
                    Said::Number(bits) => Value::from(f64::from_bits(*bits)),
                    Said::Text(text) => Value::from(text.as_str()),
                    Said::Flag(flag) => Value::from(*flag),
                };
                (name.clone(), value)
            })
            .collect();
        let mut event = serde_json::json!({"device": row.device, "metrics": metrics});
        if let Some(time) = row.time {
            event["time"] = time.to_string().into();
        }
        payload.push_str(&event.to_string());
        payload.push('\n');
    }
    if !payload.is_empty() {
        let (back, summary) = decode(payload.as_bytes(), &Shape::Event, Framing::Ndjson);
        assert_eq!(back, rows, "{payload}{summary:?}");
    }
}
