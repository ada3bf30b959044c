//! The partition loop with native rules and a log in memory.

mod determinism;
mod engine;
mod semantics;
mod swap;
mod world;
