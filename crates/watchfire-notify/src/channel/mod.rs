//! How somebody is told: one file for each channel. A channel makes one attempt and says what came of it;
//! when and how often is the business of the [`lane`](crate::lane).

pub mod payload;
pub mod signature;
pub mod webhook;

pub use watchfire_outbound::{Outcome, Retry};
