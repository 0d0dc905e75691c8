//! The server, from its API down to its files and its databases.

#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one says what it measured"
)]

mod api;
mod batches;
mod both_stores;
mod bus;
mod cli;
mod cloudevents;
#[cfg(target_os = "linux")]
mod cluster;
mod connections;
mod contract;
mod crash;
mod cross_origin;
mod damaged;
mod data_folder;
mod decnet;
mod decnet_users;
mod delivery_options;
mod descriptors;
mod disk;
mod edges;
mod engine;
mod exchanges;
#[cfg(target_os = "linux")]
mod failing_disk;
mod features;
mod figures;
#[cfg(target_os = "linux")]
mod full_disk;
mod import;
mod inlets;
mod isolation;
mod keys;
mod loops;
mod migrate_store;
mod openapi;
mod ordered;
mod policies;
mod postgres_nodes;
mod postgres_opening;
mod postgres_serving;
mod postgres_store;
mod readme;
mod replay;
mod retention;
mod shapes;
mod shutdown;
mod signatures;
mod sources;
mod spans;
mod sqlite_store;
mod store_conformance;
mod support;
mod vendors;
mod verdicts;
mod webhook_tests;
