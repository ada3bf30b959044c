//! The API over a real store, a log in memory, and stand-ins for the engine, the host and the notifier.

mod calls;
mod server;
