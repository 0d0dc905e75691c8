//! Postrider delivers events to other people's servers as signed HTTP POSTs (webhooks), durably.
//!
//! Features:
//!
//! - `server`, on by default: everything beyond [`delivery::deliver`] and what that needs: store, dispatcher, API, command
//!   line. It turns `dns` on.
//! - `dns`: names are resolved by hickory, which keeps answers for their TTL. Without it the C library resolves. Either
//!   way each address passes the [guard](delivery::guard).

pub mod clock;
#[cfg(feature = "server")]
mod fair;
mod fit;
mod hex;
pub mod log_rate;
#[cfg(feature = "server")]
mod rate;
pub mod topic;
#[cfg(feature = "server")]
mod visible;

#[cfg(feature = "server")]
pub mod bus;
pub mod delivery;
pub mod event;
#[cfg(feature = "server")]
pub mod figures;
#[cfg(feature = "server")]
pub mod filter;
#[cfg(feature = "server")]
pub mod inlet;
#[cfg(feature = "server")]
pub mod mapping;
#[cfg(feature = "server")]
pub mod shape;
pub mod signing;
pub mod webhook;

#[cfg(feature = "server")]
pub mod store;

#[cfg(feature = "server")]
pub mod dispatcher;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod ingest;
#[cfg(feature = "server")]
pub mod tenants;

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod dashboard;
#[cfg(feature = "server")]
pub mod sources;

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod serve;
#[cfg(feature = "server")]
pub mod telemetry;

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
