//! What tests are made of: [`MemoryLog`], a log in memory whose clock moves by hand; [`RecordingKeeper`],
//! a keeper of alerts that remembers; and [`NativeModule`], rules written in Rust closures, so that the
//! partition loop is tested without WebAssembly.

mod evidence;
mod keeper;
mod log;
mod module;

pub use evidence::evidence;
pub use keeper::RecordingKeeper;
pub use log::MemoryLog;
pub use module::{Guest, NativeModule, NativeModules};
