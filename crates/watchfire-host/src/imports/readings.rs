//! `readings`, linked by hand: the columns are lowered straight from what all rules of a selection share;
//! the generated trait would ask for a `Vec` of our own each time.

use std::sync::Arc;

use wasmtime::component::{ComponentType, Linker, Lower, WasmStr};
use wasmtime::{Result, StoreContextMut};
use watchfire_model::value::Kind;

use crate::bindings::readings as generated;
use crate::data::{Data, Need};

#[derive(ComponentType, Lower)]
#[component(record)]
struct TextColumn {
    dictionary: Vec<Arc<str>>,
    codes: Vec<u32>,
}

/// The interface as the linker knows it. Guests of any 0.1 version find it there.
const NAME: &str = "watchfire:rule/readings@0.1.0";

pub(super) fn link(linker: &mut Linker<Data>) -> Result<()> {
    type Store<'a> = StoreContextMut<'a, Data>;
    let mut readings = linker.instance(NAME)?;
    readings.func_wrap("stream-name", |mut store: Store<'_>, (): ()| {
        store.data_mut().enter("readings.stream-name", Need::Callback)?;
        Ok((store.data().rows.as_ref().map_or_else(String::new, |rows| rows.stream().to_string()),))
    })?;
    readings.func_wrap("rows", |mut store: Store<'_>, (): ()| {
        store.data_mut().enter("readings.rows", Need::Callback)?;
        Ok((store.data().rows.as_ref().map_or(0, |rows| rows.len() as u32),))
    })?;
    readings.func_wrap("columns", |mut store: Store<'_>, (): ()| {
        store.data_mut().enter("readings.columns", Need::Callback)?;
        let columns = store.data().rows.as_ref().map_or_else(Vec::new, |rows| rows.columns());
        let column = |(metric, kind): (Arc<str>, Kind)| generated::Column {
            metric: metric.to_string(),
            kind: match kind {
                Kind::Number => generated::Kind::Number,
                Kind::Text => generated::Kind::Text,
                Kind::Boolean => generated::Kind::Boolean,
            },
        };
        Ok((columns.into_iter().map(column).collect::<Vec<_>>(),))
    })?;
    readings.func_wrap("devices", |mut store: Store<'_>, (): ()| {
        store.data_mut().enter("readings.devices", Need::Callback)?;
        let rows = store.data().rows.as_ref();
        Ok((rows.map_or_else(Vec::new, |rows| {
            rows.devices().iter().map(|device| device.0).collect::<Vec<u32>>()
        }),))
    })?;
    readings.func_wrap("times", |mut store: Store<'_>, (): ()| {
        store.data_mut().enter("readings.times", Need::Callback)?;
        let rows = store.data().rows.as_ref();
        Ok((rows.map_or_else(Vec::new, |rows| rows.times().iter().map(|time| time.0).collect::<Vec<i64>>()),))
    })?;
    readings.func_wrap("numbers", |mut store: Store<'_>, (metric,): (WasmStr,)| {
        store.data_mut().enter("readings.numbers", Need::Callback)?;
        let metric = metric.to_str(&store)?;
        let rows = store.data().rows.as_ref();
        Ok((rows.map_or_else(Arc::default, |rows| rows.numbers(&metric)),))
    })?;
    readings.func_wrap("texts", |mut store: Store<'_>, (metric,): (WasmStr,)| {
        store.data_mut().enter("readings.texts", Need::Callback)?;
        let metric = metric.to_str(&store)?;
        let texts = store.data().rows.as_ref().map_or_else(Arc::default, |rows| rows.texts(&metric));
        Ok((TextColumn { dictionary: texts.dictionary.clone(), codes: texts.codes.clone() },))
    })?;
    readings.func_wrap("booleans", |mut store: Store<'_>, (metric,): (WasmStr,)| {
        store.data_mut().enter("readings.booleans", Need::Callback)?;
        let metric = metric.to_str(&store)?;
        let rows = store.data().rows.as_ref();
        Ok((rows.map_or_else(Arc::default, |rows| rows.booleans(&metric)),))
    })
}
