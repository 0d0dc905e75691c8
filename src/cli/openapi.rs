//! `postrider openapi`: the API's description.

use std::process::ExitCode;

use super::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider openapi > openapi.json")]
pub(super) struct Args {}

pub(super) fn run(_: &Args, output: Output) -> anyhow::Result<ExitCode> {
    output.verbatim(serde_json::to_string_pretty(&crate::api::openapi())?)?;
    Ok(ExitCode::SUCCESS)
}
