//! The sources from outside: real clients and abusive ones, over real sockets.

mod abuse;
mod http;
mod intake;
mod mqtt;
mod mutation;
mod setup;
mod subscribers;
mod tls;
