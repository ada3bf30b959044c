//! The partition loop with native rules and a log in memory.

// Helpers of tests fail as tests do; clippy knows only the functions marked as tests.
#![allow(clippy::unwrap_used)]

mod breaker;
mod determinism;
mod engine;
mod external;
mod poison;
mod semantics;
mod swap;
mod versions;
mod world;
