//! The control API: axum handlers over the control plane, which validates, logs and projects every change.
//!
//! [`control`] holds what all control records add up to and is the only writer of them; [`projector`] writes
//! what people look at to the store; [`router`] is everything under `/api/v1`, and under `/alertmanager` the API of
//! Alertmanager ([`alertmanager`]). What the API needs of the
//! engine, the rule host and the notifier are the small traits of [`contract`].

pub mod alertmanager;
pub mod auth;
pub mod backup;
pub mod contract;
pub mod control;
pub mod difference;
mod http;
pub mod links;
pub mod problem;
pub mod projector;
mod readings;

pub use http::{ApiOptions, Services, openapi, router};
