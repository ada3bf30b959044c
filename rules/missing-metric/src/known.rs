//! What is kept of a device: the metrics that it reports. How many there are is different from device to device, so
//! this is a list of bytes: of each metric the length of its name, the name, and the fields of [`Known`] in their order,
//! little-endian.

/// A metric that a device has reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    pub metric: String,
    /// In how many readings it was, up to what counts.
    pub seen: u32,
    /// How many readings in a row came without it, up to what counts.
    pub missed: u32,
    /// The event time of the first of them.
    pub since: i64,
    /// Its alert stands.
    pub raised: bool,
}

/// Bytes behind a name.
const FIELDS: usize = 4 + 4 + 8 + 1;

/// What bytes say. What cannot be read is nothing: it is of another layout.
pub fn read(bytes: &[u8]) -> Vec<Known> {
    let (mut all, mut rest) = (Vec::new(), bytes);
    while let Some((known, others)) = one(rest) {
        all.push(known);
        rest = others;
    }
    all
}

fn one(bytes: &[u8]) -> Option<(Known, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    let (fields, others) = rest.split_at_checked(FIELDS)?;
    let (seen, fields) = fields.split_first_chunk()?;
    let (missed, fields) = fields.split_first_chunk()?;
    let (since, raised) = fields.split_first_chunk()?;
    let known = Known {
        metric: std::str::from_utf8(name).ok()?.into(),
        seen: u32::from_le_bytes(*seen),
        missed: u32::from_le_bytes(*missed),
        since: i64::from_le_bytes(*since),
        raised: raised != [0],
    };
    Some((known, others))
}

/// The bytes of a list.
pub fn write(all: &[Known]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(all.iter().map(|known| 2 + known.metric.len() + FIELDS).sum());
    for known in all {
        // Names of metrics have 128 bytes at most.
        bytes.extend((known.metric.len() as u16).to_le_bytes());
        bytes.extend(known.metric.as_bytes());
        bytes.extend(known.seen.to_le_bytes());
        bytes.extend(known.missed.to_le_bytes());
        bytes.extend(known.since.to_le_bytes());
        bytes.push(known.raised.into());
    }
    bytes
}
