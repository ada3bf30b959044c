//! The embedded log from outside: on a real folder and on simulated disks.

// Helpers of tests fail as tests do; clippy knows only the functions marked as tests.
#![allow(clippy::unwrap_used)]

mod append;
mod clock;
mod codec;
mod crash;
mod help;
mod inspect;
mod mutation;
mod oracle;
mod retention;
mod trouble;
