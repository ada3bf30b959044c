//! The steps from a transition to the deliveries that tell of it. Each is a pure function of alerts,
//! configuration and time: none reads a clock or the store.
//!
//! ```text
//! notice -> route -> group -> hold (silence, inhibit, interval, storm) -> cap -> message
//!                      '-> escalation, repetition
//! ```

pub mod cap;
pub mod digest;
pub mod escalation;
pub mod fleet;
pub mod group;
pub mod hold;
pub mod inhibit;
pub mod interval;
pub mod notice;
pub mod plan;
pub mod route;
pub mod silence;
pub mod storm;
