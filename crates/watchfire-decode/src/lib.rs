//! JSON to columns: no map per reading, no clock, no I/O.
//!
//! A [`Decoder`] takes payloads one after the other. Each item becomes a row of the
//! [`BatchBuilder`](watchfire_model::BatchBuilder) of its device's partition, or a [`Rejected`] that says what is
//! wrong and where; the good items of a payload pass whatever the others hold. A device that the registry does
//! not know is reported as such, and what becomes of it is the caller's policy.
//!
//! [`json`] reads bytes, [`cbor`] rewrites CBOR as JSON, [`time`] reads times, [`item`] makes one reading of one JSON object, [`mapped`] does so
//! for payloads of other shapes by JSON pointers, and [`decoder`] finds the items of a payload.

pub mod cbor;
pub mod decoder;
mod item;
pub mod json;
mod mapped;
mod time;

pub use decoder::{
    Bounds, Context, Decoder, Framing, PartitionRows, Rejected, Shape, Summary, UnknownDevice, Window,
};
pub use mapped::{Mapping, MappingError, Pointer};

/// Stable codes of what is wrong with an item, as they stand in dead letters and metric labels.
pub mod code {
    /// The bytes are not JSON.
    pub const NOT_JSON: &str = "not-json";
    /// The bytes are not CBOR, or CBOR that our JSON has no form for.
    pub const NOT_CBOR: &str = "not-cbor";
    /// A text is not UTF-8.
    pub const NOT_UTF8: &str = "not-utf8";
    /// JSON, but no object where a reading was expected.
    pub const NOT_AN_OBJECT: &str = "not-an-object";
    /// Something stands behind the end of the JSON.
    pub const TRAILING: &str = "trailing-bytes";
    /// Nested deeper than allowed.
    pub const TOO_DEEP: &str = "too-deep";
    /// The payload has more items than allowed; the rest of it was not read.
    pub const TOO_MANY_ITEMS: &str = "too-many-items";
    /// The payload is empty.
    pub const EMPTY: &str = "empty-payload";
    /// The reading has no metric.
    pub const NO_METRIC: &str = "no-metric";
    /// The reading, or the payload in all, has more metrics than allowed.
    pub const TOO_MANY_METRICS: &str = "too-many-metrics";
    /// A metric's name is empty or too long.
    pub const METRIC_NAME: &str = "metric-name";
    /// A metric came twice in one reading.
    pub const METRIC_TWICE: &str = "metric-twice";
    /// A metric is an array.
    pub const METRIC_ARRAY: &str = "metric-array";
    /// A number is not finite or does not fit a double.
    pub const METRIC_NOT_FINITE: &str = "metric-not-finite";
    /// A text is longer than allowed.
    pub const TEXT_TOO_LONG: &str = "text-too-long";
    /// A field came twice.
    pub const FIELD_TWICE: &str = "field-twice";
    /// A field that an event does not have.
    pub const UNKNOWN_FIELD: &str = "unknown-field";
    /// No device is named.
    pub const NO_DEVICE: &str = "no-device";
    /// What names the device is no device id.
    pub const DEVICE_INVALID: &str = "device-invalid";
    /// The payload names another device than its address.
    pub const DEVICE_MISMATCH: &str = "device-mismatch";
    /// Who sent it may not speak for the device.
    pub const NOT_AUTHORISED: &str = "not-authorised";
    /// The device is not registered.
    pub const UNKNOWN_DEVICE: &str = "unknown-device";
    /// The time cannot be read.
    pub const TIME_INVALID: &str = "time-invalid";
    /// The time lies outside of the window that is accepted.
    pub const TIME_OUT_OF_WINDOW: &str = "time-out-of-window";
}
