//! Recorded readings: what `watchfire simulate --replay` sends again, what a case reads from beside it, and what a
//! server gives of its log.

mod csv;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchfire_model::{DeviceSpec, Timestamp};

/// A recording cannot be used, and where it cannot.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file.
    #[error("{file} cannot be read")]
    File {
        /// As it was given.
        file: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A line.
    #[error("{file}, line {line}: {message}")]
    Line {
        /// As it was given.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// There is nothing in it.
    #[error("{0} has no readings")]
    Empty(String),
}

/// A reading, as telemetry is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Who said it.
    pub device: String,
    /// When it was measured.
    pub time: Timestamp,
    /// When the log received it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Timestamp>,
    /// What it said.
    pub metrics: Map<String, Value>,
}

impl Recorded {
    /// When it came: where nothing else is known, when it was measured.
    pub fn came(&self) -> Timestamp {
        self.received.unwrap_or(self.time)
    }
}

/// Recorded readings in the order in which they came.
#[derive(Clone, Debug)]
pub struct Recording(Vec<Recorded>);

impl Recording {
    /// Reads NDJSON, `{"device","time","metrics"}` a line, perhaps with `received`; or CSV where the file is named so: its
    /// first line names the columns, `device`, `time` and a metric each; an empty cell is no metric.
    pub fn read(file: &Path) -> Result<Self, RecordingError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|source| RecordingError::File { file: name.clone(), source })?;
        if file.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("csv")) {
            return Self::from_csv(&text, &name);
        }
        Self::from_ndjson(&text, &name)
    }

    /// `{"device","time","metrics"}` a line. `name` is what errors call it.
    pub fn from_ndjson(text: &str, name: &str) -> Result<Self, RecordingError> {
        let mut all = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let read = serde_json::from_str::<Recorded>(line).map_err(|error| error.to_string());
            let read = read.and_then(|recorded| DeviceSpec::check_id(&recorded.device).map(|()| recorded));
            all.push(read.map_err(|message| fault(name, number + 1, message))?);
        }
        Self::of(all, name)
    }

    fn from_csv(text: &str, name: &str) -> Result<Self, RecordingError> {
        let mut rows = csv::rows(text).into_iter();
        let columns = rows.next().map(|(_, columns)| columns).unwrap_or_default();
        let place = |wanted: &str| {
            let found = columns.iter().position(|column| column.trim() == wanted);
            found.ok_or_else(|| fault(name, 1, format!("there is no column {wanted:?}")))
        };
        let (device, time) = (place("device")?, place("time")?);
        let mut all = Vec::new();
        for (line, cells) in rows {
            let at = |message: String| fault(name, line, message);
            if cells.len() != columns.len() {
                return Err(at(format!("{} cells, but {} columns", cells.len(), columns.len())));
            }
            DeviceSpec::check_id(&cells[device]).map_err(at)?;
            let text = cells[time].trim();
            // Milliseconds since the epoch stand in a table as a number.
            let when = match text.parse::<i64>() {
                Ok(milliseconds) => Timestamp::from_millis(milliseconds),
                Err(_) => text.parse().ok(),
            };
            let metrics = columns.iter().zip(&cells).enumerate();
            let metrics =
                metrics.filter(|(i, (_, cell))| *i != device && *i != time && !cell.trim().is_empty());
            all.push(Recorded {
                device: cells[device].clone(),
                time: when.ok_or_else(|| at(format!("{text:?} is no time")))?,
                received: None,
                metrics: metrics
                    .map(|(_, (name, cell))| (name.trim().to_string(), csv::value(cell)))
                    .collect(),
            });
        }
        Self::of(all, name)
    }

    fn of(mut all: Vec<Recorded>, name: &str) -> Result<Self, RecordingError> {
        if all.is_empty() {
            return Err(RecordingError::Empty(name.into()));
        }
        // Stable: what came at one time stays in its order.
        all.sort_by_key(Recorded::came);
        Ok(Self(all))
    }

    /// All of it.
    pub fn all(&self) -> &[Recorded] {
        &self.0
    }

    /// When it begins.
    pub fn first(&self) -> Timestamp {
        self.0[0].came()
    }

    /// When it ends.
    pub fn last(&self) -> Timestamp {
        self.0[self.0.len() - 1].came()
    }

    /// Who reports.
    pub fn devices(&self) -> Vec<&str> {
        let mut devices: Vec<_> = self.0.iter().map(|recorded| recorded.device.as_str()).collect();
        devices.sort_unstable();
        devices.dedup();
        devices
    }
}

fn fault(file: &str, line: usize, message: String) -> RecordingError {
    RecordingError::Line { file: file.into(), line, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Recording, String> {
        let read = if name.ends_with("csv") { Recording::from_csv } else { Recording::from_ndjson };
        read(text, name).map_err(|error| error.to_string())
    }

    #[test]
    fn a_table_is_a_recording() {
        let table = "device,time,temperature,door,note\r\n\
                     press-2,2026-01-01T00:00:01Z,71.5,,\"a, b\"\r\n\
                     press-1,1767225600000,,true,\r\n";
        let recording = read("r.csv", table).unwrap();
        let shown: Vec<_> = recording
            .all()
            .iter()
            .map(|e| format!("{} {}", e.device, serde_json::json!(e.metrics)))
            .collect();
        assert_eq!(shown, ["press-1 {\"door\":true}", "press-2 {\"note\":\"a, b\",\"temperature\":71.5}"]);
        assert_eq!(recording.first(), "2026-01-01T00:00:00Z".parse().unwrap());
        for (text, expected) in [
            ("device,temperature\na,1\n", "bad.csv, line 1: there is no column \"time\""),
            ("device,time\na\n", "bad.csv, line 2: 1 cells"),
            ("device,time\na,soon\n", "bad.csv, line 2: \"soon\" is no time"),
            ("device,time\na/b,0\n", "bad.csv, line 2: device id"),
            ("device,time\n", "bad.csv has no readings"),
            ("", "bad.csv, line 1: there is no column \"device\""),
        ] {
            assert!(read("bad.csv", text).unwrap_err().starts_with(expected), "{text:?}");
        }
    }

    #[test]
    fn lines_are_ordered_by_when_they_came() {
        let lines = r#"{"device":"a","time":"2026-01-01T00:00:05Z","metrics":{"x":1}}

{"device":"b","time":"2026-01-01T00:00:09Z","received":"2026-01-01T00:00:01Z","metrics":{}}
"#;
        let recording = read("r.ndjson", lines).unwrap();
        assert_eq!(recording.devices(), ["a", "b"]);
        assert_eq!(recording.all()[0].device, "b");
        assert_eq!(recording.last(), "2026-01-01T00:00:05Z".parse().unwrap());
        let bad = lines.replace("\"b\"", "\"b/c\"");
        assert!(read("r.ndjson", &bad).unwrap_err().starts_with("r.ndjson, line 3: device id"));
    }
}
