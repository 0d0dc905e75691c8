//! The bus of DECNET: events in passing, over a Unix socket. What nobody reads at the time is lost.
//!
//! [`frame`] and [`pattern`] are what both ends agree on, [`socket`] says where the server is. [`server`] is the server,
//! on a place that [`claim`] takes: each client has a task (`connection.rs`), and all share the `Hub`, which knows who
//! wants what and has a queue for each.

pub mod claim;
mod connection;
pub mod event;
pub mod frame;
mod hub;
mod json;
pub mod pattern;
pub mod server;
pub mod socket;
