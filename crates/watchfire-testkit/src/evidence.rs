//! What an alert keeps of its verdict.

use std::collections::BTreeMap;

use watchfire_model::alert::Evidence;
use watchfire_model::{Digest, Position, Timestamp};

/// The evidence of a callback for a batch without rows, of a rule with the limit 90.
pub fn evidence(position: Position, now: Timestamp) -> Evidence {
    Evidence {
        module: Digest::of(b"module"),
        parameters: serde_json::json!({"limit": 90}),
        position,
        callback: "batch".into(),
        now,
        device: None,
        state_before: BTreeMap::new(),
        state_left_out: Vec::new(),
        stream: "readings".into(),
        rows: Vec::new(),
        rows_left_out: 0,
        row: None,
        timers: Vec::new(),
        last_reading: None,
        verdict: None,
    }
}
