//! The decoder from outside: each rule, random documents against serde_json, and mutated bytes.

mod cbor;
mod differential;
mod mutation;
mod oracle;
mod rules;

use watchfire_decode::{Bounds, Context, Decoder, Framing, Shape, Summary, Window};
use watchfire_model::device::Registries;
use watchfire_model::{Batch, DeviceSpec, Timestamp};

// 2026-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_767_225_600_000_000);

fn registries() -> Registries {
    let mut registries = Registries::new(1);
    for id in ["press-0042", "a", "b", "Größe"] {
        registries.0[0].put(DeviceSpec { id: id.into(), ..DeviceSpec::default() });
    }
    registries
}

/// Decodes one payload; gives its rows, those without a time, and what became of each item.
fn decode(payload: &[u8], shape: &Shape<'_>, framing: Framing) -> (Option<(Batch, Vec<u32>)>, Summary) {
    let registries = registries();
    let bounds = Bounds { text_bytes: 40, metrics: 8, name_bytes: 30, items: 50, ..Bounds::default() };
    let context = Context {
        registries: &registries,
        now: NOW,
        window: Window::default(),
        bounds: &bounds,
        allowed: None,
    };
    let mut decoder = Decoder::new(context);
    let summary = decoder.decode(payload, shape, framing);
    let rows = decoder.finish().next().map(|(_, batch, untimed)| (batch, untimed));
    let count = rows.as_ref().map_or(0, |(batch, _)| batch.rows());
    assert_eq!(count, summary.accepted as usize, "rows and the count of them");
    (rows, summary)
}
