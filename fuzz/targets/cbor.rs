//! CBOR of devices: whatever the bytes are, JSON comes of them, or a refusal; and the decoder takes that JSON.

#![no_main]

#[path = "../../crates/watchfire-decode/tests/it/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok((json, _)) = watchfire_decode::cbor::to_json(input) {
        assert!(json.len() <= input.len() * 7 + 20);
        oracle::check(&[&[0], json.as_bytes()].concat());
    }
});
