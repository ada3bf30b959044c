//! The embedded log from outside: on a real folder and on simulated disks.

mod append;
mod clock;
mod codec;
mod crash;
mod help;
mod inspect;
mod retention;
mod trouble;
