//! The words of Watchfire, as types: who measured what and when ([`batch`], [`device`]), what is
//! watched ([`rule`], [`selector`]), what came of it ([`alert`]), and where in the log it stands
//! ([`id`]). Two contracts live here because both of their sides would otherwise depend on each
//! other: the one between the partition loop and the rule host ([`call`]), and the one between the
//! loop and whoever keeps alerts ([`alert::Transition`]).
//!
//! Nothing in this crate reads a clock or knows a client library, and nothing does I/O but a [`Secret`] that stands in a
//! file.

pub mod alert;
pub mod batch;
pub mod breaker;
pub mod call;
pub mod control;
pub mod device;
pub mod error;
pub mod external;
pub mod id;
mod index;
pub mod rule;
pub mod secret;
pub mod selector;
pub mod state;
pub mod time;
pub mod value;

pub use alert::{AlertId, ConditionOptions, Evidence, Severity, Transition, TransitionKind};
pub use batch::{Batch, BatchBuilder, Column, Values};
pub use breaker::{BreakerOptions, OnRecovery};
pub use control::{Actor, Control, RollbackState};
pub use device::{Device, DeviceSpec, Registry};
pub use error::chain;
pub use id::{DeviceHandle, Digest, Epoch, Offset, PartitionId, Position, RuleVersion};
pub use rule::{Limits, RuleSpec};
pub use secret::Secret;
pub use selector::Selector;
pub use state::KeyedState;
pub use time::{Duration, Timestamp};
pub use value::Value;

/// The stream of what devices sent. Rules publish further streams by name.
pub const READINGS: &str = "readings";
