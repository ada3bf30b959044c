//! Rules as WebAssembly components: inspect, compile, instantiate, call, limit. The only crate that knows
//! wasmtime and WIT; the partition loop sees the traits of [`watchfire_model::call`] alone.
//!
//! The life of a module: [`inspect`] refuses by name what it imports beyond the contract, before anything
//! is compiled; [`Host::add`] compiles it in the background (once, however many ask) and asks it what it is;
//! `Modules::get` finds it again, from the cache of compiled code or by compiling it anew; `Module::start`
//! makes an instance; `Instance::call` runs one callback within its limits.
//!
//! Guests see no clock, randomness, files, network or environment: no WASI is linked. What they compute is
//! the same on every machine: NaNs are canonical, relaxed SIMD is deterministic, there are no threads.

mod apart;
mod bindings;
pub mod build;
mod cache;
mod check;
mod compile;
pub mod component;
mod data;
mod engine;
mod failure;
mod host;
mod imports;
mod instance;
mod module;
mod pace;
mod parameters;
mod parts;
mod thread;

pub use apart::{compile_module, this_program};
pub use check::{Inspection, RefusalError, inspect};
pub use compile::Pending;
pub use host::{Host, HostError, HostOptions, ModuleBytes, ModuleReport};
pub use parameters::{Problem, validate as validate_parameters};
