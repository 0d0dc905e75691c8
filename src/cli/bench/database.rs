//! The PostgreSQL server under test: a database of its own on it, and what it costs.

use std::time::Duration;

use anyhow::Context;
use secrecy::SecretString;

use super::process;
use super::report::{Figure, Report};
use crate::delivery::client::Roots;
use crate::store::postgres::{Counted, PostgresOptions, Scratch};

/// The name of the server's processes.
const PROGRAM: &str = "postgres";

/// A database for this benchmark.
pub(super) struct Database {
    scratch: Scratch,
    /// The server's first process, where it runs on this machine.
    postmaster: Option<u32>,
}

/// The server's usage so far.
#[derive(Clone, Copy)]
pub(super) struct Usage {
    counted: Counted,
    cpu: Option<Duration>,
}

impl Database {
    pub(super) async fn create(url: SecretString, allow_unsafe: bool) -> anyhow::Result<Self> {
        let options =
            PostgresOptions { roots: Roots::Native, allow_unsafe_server: allow_unsafe, ..PostgresOptions::new(url) };
        let scratch = Scratch::create(&options).await.context("cannot make a database for the benchmark")?;
        let backend = u32::try_from(scratch.counted().await?.backend)?;
        // On another machine that number belongs to another process, or to none.
        let postmaster = process::name(backend).filter(|name| name == PROGRAM).and_then(|_| process::parent(backend));
        Ok(Self { scratch, postmaster })
    }

    pub(super) fn url(&self) -> &SecretString {
        &self.scratch.url
    }

    /// The user of the connection.
    pub(super) async fn user(&self) -> anyhow::Result<String> {
        Ok(self.scratch.user().await?)
    }

    pub(super) async fn execute(&self, statements: &str) -> anyhow::Result<()> {
        Ok(self.scratch.execute(statements).await?)
    }

    pub(super) async fn usage(&self) -> anyhow::Result<Usage> {
        let cpu = self.postmaster.map(process::family_cpu).transpose()?;
        Ok(Usage { counted: self.scratch.counted().await?, cpu })
    }

    pub(super) async fn give_back(self) -> anyhow::Result<()> {
        Ok(self.scratch.drop_database().await?)
    }
}

/// Adds the server's cost of each of `events`. Work of other clients counts, too, except for statements.
#[expect(clippy::cast_precision_loss, reason = "figures are for people and have three digits")]
pub(super) fn report(report: &mut Report, before: Usage, after: Usage, events: u64) {
    let each = |before: i64, after: i64| (after - before) as f64 / events as f64;
    let (b, a) = (before.counted, after.counted);
    if let (Some(before), Some(after)) = (before.cpu, after.cpu) {
        let cpu_us = after.saturating_sub(before).as_secs_f64() * 1e6 / events as f64;
        report.add(Figure::new("  CPU of PostgreSQL a delivered event", "µs", cpu_us));
    }
    report.add(Figure::new("  WAL a delivered event", "bytes", each(b.wal_bytes, a.wal_bytes)));
    let of_thousand = |before: i64, after: i64| 1e3 * each(before, after);
    report.add(Figure::new("  transactions a 1,000 of them", "", of_thousand(b.transactions, a.transactions)));
    if let (Some(before), Some(after)) = (b.statements, a.statements) {
        report.add(Figure::new("  statements a 1,000 of them", "", of_thousand(before, after)));
    }
}
