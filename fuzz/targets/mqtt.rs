//! Packets of MQTT clients: `crates/watchfire-ingest/tests/it/packets.rs` says what must hold.

#![no_main]

#[path = "../../crates/watchfire-ingest/tests/it/packets.rs"]
mod packets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    packets::check(input);
});
