//! The spine: one ordered, durable log. Everything that can influence a verdict is a record in it, and
//! everything else is a reader of it with a cursor of its own.
//!
//! [`record`] says what stands in the log, [`contract`] how it is appended to and read. [`embedded`] is the
//! log as segment files: [`codec`] is how they look as bytes, [`disk`] what they are made on, and
//! [`inspect`] looks into a folder that nobody has open.

pub mod clock;
pub mod codec;
pub mod contract;
pub mod disk;
pub mod embedded;
pub mod inspect;
pub mod record;

pub use clock::{Clock, ManualClock, ScaledClock, SystemClock};
pub use contract::{Append, AppendError, Log, LogError, LogReader, Ticket};
pub use embedded::{EmbeddedLog, LogOptions, OpenReport};
pub use record::{Breaker, BreakerChange, Consumed, Entry, MissedRange, Origin, Record, Redo, Reject, Slice};
