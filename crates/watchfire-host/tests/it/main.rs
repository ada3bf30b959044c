//! The rule host against real components.

// All of this is a test; clippy sees that of functions with the attribute only.
#![allow(clippy::unwrap_used)]

mod drive;
mod limits;
mod shipped;
mod upload;
