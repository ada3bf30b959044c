//! A chunk as events, and which of them make a request.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::events::Events;

/// Cuts the events at these places into requests of at most so many events and bytes: ranges of `places`.
pub(super) fn cut(encoded: &Events, places: &[usize], rows: usize, bytes: usize) -> Vec<Range<usize>> {
    let mut requests = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (at, place) in places.iter().enumerate() {
        let length = encoded.line(*place).len();
        if at > start && (at - start >= rows || size + length > bytes) {
            requests.push(start..at);
            (start, size) = (at, 0);
        }
        size += length;
    }
    if start < places.len() {
        requests.push(start..places.len());
    }
    requests
}

/// The body of a request (<https://github.com/ndjson/ndjson-spec>), and its id: of the same events always the same.
pub(super) fn body(encoded: &Events, places: &[usize]) -> (Vec<u8>, String) {
    let mut body = Vec::with_capacity(places.iter().map(|place| encoded.line(*place).len()).sum());
    for place in places {
        body.extend_from_slice(encoded.line(*place));
    }
    let digest = Sha256::digest(&body);
    let id = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    (body, id)
}
