//! The steps from a transition to the deliveries that tell of it. Each is a pure function of alerts,
//! configuration and time: none reads a clock or the store.

pub mod group;
pub mod inhibit;
pub mod interval;
pub mod notice;
pub mod plan;
pub mod route;
pub mod silence;
