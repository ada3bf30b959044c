//! Walking through a file so that nothing of it is passed over, and writing TOML in an order that people can follow.

use serde_json::{Map, Value};

use super::{ImportError, Note, error};

/// What was not carried over, so far.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<Note>);

impl Notes {
    pub(super) fn add(&mut self, place: impl Into<String>, why: impl Into<String>) {
        let note = Note { place: place.into(), why: why.into() };
        // What `global` says is met with each receiver that it holds for.
        if !self.0.contains(&note) {
            self.0.push(note);
        }
    }

    pub(super) fn finish(self) -> Vec<Note> {
        self.0
    }
}

/// A value and its place in the file.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    value: &'a Value,
    pub(super) place: String,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, place: String::new() }
    }

    /// What stands there, as it would be read where a text is expected.
    pub(super) fn text(&self) -> Result<String, ImportError> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(flag) => Ok(flag.to_string()),
            Value::Null => Ok(String::new()),
            Value::Array(_) | Value::Object(_) => Err(error(&self.place, "is no text")),
        }
    }

    pub(super) fn fields(&self) -> Result<Fields<'a>, ImportError> {
        match self.value {
            Value::Object(map) => Ok(Fields { place: self.place.clone(), left: keys(map) }),
            Value::Null => Ok(Fields::none(&self.place)),
            _ if self.place.is_empty() => Err(error("the file", "is no configuration")),
            _ => Err(error(&self.place, "is no mapping")),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<Node<'a>>, ImportError> {
        match self.value {
            Value::Array(all) => Ok(all
                .iter()
                .enumerate()
                .map(|(i, value)| Node { value, place: format!("{}[{i}]", self.place) })
                .collect()),
            Value::Null => Ok(Vec::new()),
            _ => Err(error(&self.place, "is no list")),
        }
    }
}

fn keys(map: &Map<String, Value>) -> Vec<(&str, &Value)> {
    map.iter().map(|(key, value)| (key.as_str(), value)).collect()
}

/// The keys of a mapping that nobody has asked for yet.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    pub(super) place: String,
    left: Vec<(&'a str, &'a Value)>,
}

impl<'a> Fields<'a> {
    /// A mapping that is not there.
    pub(super) fn none(place: &str) -> Self {
        Self { place: place.into(), left: Vec::new() }
    }

    /// The place of a key.
    pub(super) fn within(&self, key: &str) -> String {
        if self.place.is_empty() { key.into() } else { format!("{}.{key}", self.place) }
    }

    /// Whether a key is there, with something in it or with an empty list.
    pub(super) fn has(&self, key: &str) -> bool {
        self.left.iter().any(|(name, value)| *name == key && !value.is_null())
    }

    /// The value of a key; `None` where it is missing or empty. Nobody finds it again.
    pub(super) fn take(&mut self, key: &str) -> Option<Node<'a>> {
        let at = self.left.iter().position(|(name, _)| *name == key)?;
        let place = self.within(key);
        let (_, value) = self.left.remove(at);
        (!value.is_null()).then_some(Node { value, place })
    }

    /// As [`Fields::take`], but others find it as well.
    pub(super) fn look(&self, key: &str) -> Option<Node<'a>> {
        let (_, value) = self.left.iter().find(|(name, value)| *name == key && !value.is_null())?;
        Some(Node { value, place: self.within(key) })
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, ImportError> {
        self.take(key).map(|node| node.text()).transpose()
    }

    pub(super) fn list(&mut self, key: &str) -> Result<Vec<Node<'a>>, ImportError> {
        self.take(key).map_or(Ok(Vec::new()), |node| node.list())
    }

    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>, ImportError> {
        self.list(key)?.iter().map(Node::text).collect()
    }

    /// A flag; `None` where it is not said.
    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, ImportError> {
        let Some(node) = self.take(key) else { return Ok(None) };
        node.value.as_bool().map(Some).ok_or_else(|| error(node.place, "is neither true nor false"))
    }

    /// All that is left, by key.
    pub(super) fn all(self) -> Vec<(&'a str, Node<'a>)> {
        let node = |(key, value)| (key, Node { value, place: self.within(key) });
        self.left.iter().copied().map(node).collect()
    }

    /// Notes all that is left as not carried over.
    pub(super) fn rest(self, notes: &mut Notes, why: impl Fn(&str) -> String) {
        for (key, node) in self.all() {
            if !node.value.is_null() {
                notes.add(node.place, why(key));
            }
        }
    }
}

/// TOML, written from the top.
#[derive(Debug, Default)]
pub(super) struct Lines(String);

impl Lines {
    pub(super) fn comment(&mut self, text: &str) {
        self.0.push_str(&format!("# {text}\n"));
    }

    /// The header of a table, behind an empty line.
    pub(super) fn section(&mut self, header: &str) {
        self.0.push_str(&format!("\n{header}\n"));
    }

    pub(super) fn key(&mut self, name: &str, value: impl Into<toml::Value>) {
        self.0.push_str(&format!("{name} = {}\n", value.into()));
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// A span of time as Prometheus writes it: `1h30m`, `2w`, `0` (prometheus/common, `model.ParseDuration`).
pub(super) fn duration(node: &Node<'_>) -> Result<watchfire_model::Duration, ImportError> {
    const UNITS: [(&str, u64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let text = node.text()?;
    let fault = || error(&node.place, format!("{text:?} is no span of time such as 1h30m"));
    if text == "0" {
        return Ok(watchfire_model::Duration::ZERO);
    }
    let mut rest = text.as_str();
    let mut milliseconds = 0_u64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
        let number: u64 = rest[..digits].parse().map_err(|_| fault())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        // Larger units come first, each once.
        let (_, size) = units.find(|(unit, _)| *unit == &rest[..letters]).ok_or_else(fault)?;
        milliseconds =
            number.checked_mul(*size).and_then(|more| milliseconds.checked_add(more)).ok_or_else(fault)?;
        rest = &rest[letters..];
    }
    let microseconds = milliseconds.checked_mul(1000).filter(|_| !text.is_empty()).ok_or_else(fault)?;
    Ok(watchfire_model::Duration(microseconds))
}
