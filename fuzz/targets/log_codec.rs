//! Records, groups and pages of segments: `crates/watchfire-log/tests/it/oracle.rs` says what must hold.

#![no_main]

// Of the oracle each target uses its part.
#[allow(dead_code)]
#[path = "../../crates/watchfire-log/tests/it/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    oracle::codec(input);
});
