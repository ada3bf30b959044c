//! Sources: they authenticate, receive, bound, hand over to the log, and acknowledge what is durable.
//!
//! The contract ([`contract`]) says what a source needs from the rest of the engine. [`intake`] is the way that all
//! sources share: decode, policy for unknown devices, exact repeats ([`repeats`], kept over restarts by [`remember`]), one append. There is one folder
//! for each protocol: [`mqtt`], [`http`], [`kafka`], [`mqtt_source`]. [`places`] says how far sources have read what
//! they consume. [`listen`] serves HTTP connections, those of the control API included, [`tls`] holds certificates, and
//! [`certificate`] reads those of clients.

pub mod board;
pub mod certificate;
pub mod contract;
mod draft;
pub mod flight;
pub mod http;
pub mod intake;
pub mod kafka;
pub mod listen;
pub mod local;
pub mod mapping;
pub mod mqtt;
pub mod mqtt_source;
pub mod places;
pub mod remember;
pub mod repeats;
pub mod tls;

pub use contract::{
    Authenticator, Credential, Denied, Principal, RegisterError, Registrar, Role, check_listener,
};
pub use intake::{Directory, Intake, IntakeOptions, Source, Submitted, UnknownDevices};
