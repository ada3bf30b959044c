//! What the partitions said of a site: kept as text, a line each, since how many there are is not known before.

/// What one partition said last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// Which.
    pub name: String,
    /// When it counted, in microseconds.
    pub time: i64,
    pub devices: f64,
    pub silent: f64,
    /// As on the stream.
    pub names: String,
}

/// Between the fields of a line. Ids of devices have no control characters.
const TAB: char = '\t';

/// The parts in a text. What cannot be read is nothing: it is of another layout.
pub fn read(bytes: &[u8]) -> Vec<Part> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    text.lines().filter_map(part).collect()
}

fn part(line: &str) -> Option<Part> {
    let mut fields = line.split(TAB);
    Some(Part {
        name: fields.next()?.into(),
        time: fields.next()?.parse().ok()?,
        devices: fields.next()?.parse().ok()?,
        silent: fields.next()?.parse().ok()?,
        names: fields.next()?.into(),
    })
}

/// The text of parts.
pub fn write(parts: &[Part]) -> Vec<u8> {
    let mut text = String::new();
    for Part { name, time, devices, silent, names } in parts {
        let fields = [name.as_str(), &time.to_string(), &devices.to_string(), &silent.to_string(), names];
        text.push_str(&fields.join(&*TAB.to_string()));
        text.push('\n');
    }
    text.into_bytes()
}
