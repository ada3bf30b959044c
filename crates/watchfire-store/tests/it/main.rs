//! The store against a real file.

mod alerts;
mod tables;
