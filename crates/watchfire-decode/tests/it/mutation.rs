//! Mutated bytes: never a panic, and everything that [`oracle`] says.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::oracle;

#[test]
fn mutated_payloads_are_rows_or_refusals() {
    let seeds: [&[u8]; 6] = [
        br#"{"device":"press-0042","time":"2026-01-01T00:00:00.000Z","metrics":{"temperature":71.4,"pressure":3.2}}"#,
        br#"[{"device":"a","metrics":{"t":1}},{"metrics":{"x":{"y":"\u00e4\ud83d\ude00"}},"device":"b"},{"device":"a","metrics":{"t":-1.5e-7,"b":true}}]"#,
        b"{\"device\":\"a\",\"metrics\":{\"t\":1}}\n{\"device\":\"b\",\"time\":1767225600000,\"metrics\":{\"t\":null,\"u\":false}}\n",
        br#"{"temperature":71.4,"m":{"a":{"b":[1,2]}},"time":null}"#,
        br#"{"ts":1767225600001,"dev":{"id":"a"},"v":[4,{"x/y":"on"}]}"#,
        b"71.4",
    ];
    let words: [&[u8]; 14] = [
        b"\"", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\ud800", b"null", b"1e999", b"\xff", b"\n{",
        b"NaN",
    ];
    let mut rng = StdRng::seed_from_u64(7);
    let (mut rows, mut refusals) = (0, 0);
    for _ in 0..60_000 {
        let mut bytes = seeds[rng.random_range(0..seeds.len())].to_vec();
        for _ in 0..rng.random_range(1..5) {
            let at = rng.random_range(0..=bytes.len());
            match rng.random_range(0..5) {
                0 if at < bytes.len() => bytes[at] = rng.random(),
                1 => bytes.truncate(at),
                2 => drop(bytes.splice(at..at, words[rng.random_range(0..words.len())].iter().copied())),
                3 if at < bytes.len() => drop(bytes.remove(at)),
                _ => {
                    let end = rng.random_range(at..=bytes.len());
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
        bytes.insert(0, rng.random());
        let (accepted, refused) = oracle::check(&bytes);
        rows += accepted;
        refusals += refused;
    }
    // Mutations that all miss, or all hit, would prove nothing.
    assert!(rows > 5_000 && refusals > 20_000, "{rows} rows, {refusals} refusals");
}
