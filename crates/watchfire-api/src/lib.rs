//! The control API: axum handlers over the control plane, which validates, logs and projects every change.

pub mod auth;
pub mod contract;
pub mod control;
pub mod problem;
mod readings;
pub mod secret;
