//! The library as a program uses it that embeds it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one says what it measured"
)]

mod answers;
mod client_policy;
mod deliver;
mod egress_guard;
mod examples;
mod misbehaving_receiver;
mod receivers;
mod signatures;
mod vectors;
