//! JSON to columns, with the time read and the device looked up, against serde_json into a struct.

use anyhow::{Result, ensure};
use watchfire_decode::{Bounds, Context, Decoder, Framing, Shape, Window};
use watchfire_model::Duration;

use crate::event::{self, BEGIN, Event};
use crate::figure::{Figure, alternate, cpu};

const EVENTS: usize = 200_000;
/// Events that one record has at a good load.
const RECORD: usize = 1024;

pub fn run(figures: &mut Vec<Figure>) -> Result<()> {
    let payloads = event::payloads(EVENTS, 1);
    let bytes = payloads.iter().map(Vec::len).sum::<usize>() / EVENTS;
    let registries = event::registries();
    let bounds = Bounds::default();
    let mut rows = 0;
    let per_event = |seconds: f64| seconds * 1e9 / EVENTS as f64;
    let pair = alternate(
        7,
        || {
            let began = cpu();
            rows = 0;
            for record in payloads.chunks(RECORD) {
                let context = Context {
                    registries: &registries,
                    now: BEGIN + Duration::from_secs(120),
                    window: Window::default(),
                    bounds: &bounds,
                    allowed: None,
                };
                let mut decoder = Decoder::new(context);
                for payload in record {
                    decoder.decode(payload, &Shape::Event, Framing::Auto);
                }
                rows += decoder.finish().map(|(_, batch, _)| batch.rows()).sum::<usize>();
            }
            per_event(cpu() - began)
        },
        || {
            let began = cpu();
            for payload in &payloads {
                let event = serde_json::from_slice::<Event<'_>>(payload);
                std::hint::black_box(event.is_ok());
            }
            per_event(cpu() - began)
        },
    );
    ensure!(rows == EVENTS, "{rows} rows of {EVENTS} events");
    let figure = format!("JSON to columns, {bytes} bytes, against serde_json into a struct");
    figures.push(Figure::against("decode", figure, "ns/reading", pair, "<= 1.2x", |_, ratio| {
        Some(ratio <= 1.2)
    }));
    Ok(())
}
