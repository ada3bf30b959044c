//! The rule host against real components.

mod drive;
mod shipped;
