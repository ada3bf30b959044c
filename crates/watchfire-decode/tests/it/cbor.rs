//! CBOR means what the same document means as JSON; mutated bytes never panic, and what comes of them is JSON.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use watchfire_decode::{Framing, Shape, Summary, cbor};

use crate::decode;
use crate::differential::item;

/// Of each item: whether it is a row, and the code where it is refused.
fn codes(summary: &Summary) -> (u32, Vec<(Option<u32>, &'static str)>) {
    (summary.accepted, summary.rejected.iter().map(|rejected| (rejected.index, rejected.code)).collect())
}

#[test]
fn random_documents_mean_the_same() {
    let mut rng = StdRng::seed_from_u64(11);
    let mut accepted = 0;
    for round in 0..4000 {
        let items: Vec<Value> =
            (0..rng.random_range(1..5)).map(|_| serde_json::from_str(&item(&mut rng)).unwrap()).collect();
        let mut bytes = Vec::new();
        let text = if round % 2 == 0 {
            items.iter().for_each(|item| ciborium::into_writer(item, &mut bytes).unwrap());
            items.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
        } else {
            ciborium::into_writer(&items, &mut bytes).unwrap();
            serde_json::to_string(&items).unwrap()
        };
        let (json, framing) = cbor::to_json(&bytes).unwrap();
        let plain = if framing == Framing::Ndjson { Framing::Ndjson } else { Framing::Json };
        let (expected, summary) = decode(text.as_bytes(), &Shape::Event, plain);
        let (rows, of_cbor) = decode(json.as_bytes(), &Shape::Event, framing);
        assert_eq!(codes(&of_cbor), codes(&summary), "{text}\n{json}");
        // As texts: NaN, where a row lacks a metric, is not equal to itself.
        assert_eq!(format!("{rows:?}"), format!("{expected:?}"), "{text}\n{json}");
        accepted += summary.accepted;
    }
    assert!(accepted > 1000, "{accepted}");
}

#[test]
fn mutated_bytes_are_json_or_refused() {
    let mut rng = StdRng::seed_from_u64(12);
    let mut whole = 0;
    for _ in 0..40_000 {
        let value: Value = serde_json::from_str(&item(&mut rng)).unwrap();
        let mut bytes = Vec::new();
        ciborium::into_writer(&value, &mut bytes).unwrap();
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(0..bytes.len().max(1));
            match rng.random_range(0..3) {
                0 if at < bytes.len() => bytes[at] = rng.random(),
                1 => bytes.truncate(at),
                _ => bytes.insert(at.min(bytes.len()), rng.random()),
            }
        }
        let Ok((json, _)) = cbor::to_json(&bytes) else { continue };
        whole += 1;
        assert!(json.len() <= bytes.len() * 7 + 20, "{} bytes of {}", json.len(), bytes.len());
        for line in json.lines().filter(|line| !line.contains("NaN") && !line.contains("Infinity")) {
            assert!(serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok(), "{line}");
        }
    }
    assert!(whole > 5_000, "{whole}");
}
