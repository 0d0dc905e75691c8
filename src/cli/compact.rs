//! `postrider compact`: gives the free space of a stopped server's database back.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::output::Output;
use crate::config::{Config, Environment, RawConfig, Size};
use crate::store::sqlite::SqliteStore;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider compact --data /var/lib/postrider\n\n\
    A server gives space back by itself. A large database of an earlier version has to be compacted once for that; its server says so.")]
pub(super) struct Args {
    /// The data folder of a server that is stopped [default: ./postrider-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Read settings from this file [default: postrider.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn run(args: Args, output: Output, environment: &Environment) -> anyhow::Result<ExitCode> {
    let flags = RawConfig { data: args.data, ..RawConfig::default() };
    let folder = Config::load(args.config.as_deref(), environment, &flags)?.data_dir().to_owned();
    let compacted = tokio::task::spawn_blocking(move || SqliteStore::compact(&folder)).await??;
    if output.json {
        output.json(&json!({ "bytes_before": compacted.bytes_before, "bytes_after": compacted.bytes_after }))?;
    } else {
        let (before, after) = (Size::Bytes(compacted.bytes_before), Size::Bytes(compacted.bytes_after));
        output.line(format_args!("{before} before, {after} now"))?;
    }
    Ok(ExitCode::SUCCESS)
}
