//! The condition machine: what lies between a rule's triggers and clears and the alerts that people see.
//! A plain value without I/O or clock: time is an argument, so a replay gives the same transitions.
//!
//! One [`Condition`] stands for one (rule, device, key). The names are those of ISA-18.2 and OPC UA Part 9:
//!
//! ```text
//!              trigger            on-delay over, minimum repeat reached
//!  inactive ------------> pending ------------> active <-----------.
//!     ^  ^---- clear -------'                     | clear          | trigger
//!     |                                           v                |
//!     |<---- off-delay over (not latched) ---- clearing -----------|
//!     |                                           | off-delay over (latched)
//!     '---- operator resets ------------------ latched ------------'
//! ```
//!
//! Delays run on the clock of the device, of which whoever drives the machine keeps track: see [`Moment`].

mod condition;
#[cfg(test)]
mod properties;

pub use condition::{Condition, Moment, Phase, Step, Trigger};
