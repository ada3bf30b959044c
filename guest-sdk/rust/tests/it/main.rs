//! What of the SDK needs no host: layouts, helpers, parameters.

mod helpers;
mod migration;
mod parameters;
mod state;
