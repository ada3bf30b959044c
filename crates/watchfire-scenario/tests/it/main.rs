//! Scenarios: those of the shipped rules, cases that must fail with the right words, and files with mistakes.

// Helpers of tests fail as tests do; clippy knows only the functions marked as tests.
#![allow(clippy::unwrap_used)]

mod cases;
mod failing;
mod file;
mod kept;
mod made;
mod modes;
mod native;
mod shipped;
mod told;
