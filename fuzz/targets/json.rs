//! Payloads of devices: `crates/watchfire-decode/tests/it/oracle.rs` says what must hold.

#![no_main]

#[path = "../../crates/watchfire-decode/tests/it/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    oracle::check(input);
});
