//! `postrider node`: the servers that share a database, and which of them deliver.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{self, Output, QUIET, STRONG};
use super::remote::{Connection, Remote};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider node list\n\nThese commands need a token with the scope `operator`.")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the servers, and how many of the 256 shards of all webhooks each has
    #[command(after_help = "Example: postrider node list --json | jq -r '.[].name'")]
    List,
    /// Let a server give its shards to the others, and take none
    #[command(after_help = "Example: postrider node drain db2b2a9e-6c58-4c5f-9d3d-6a1f0c1f7f2b\n\n\
        A server that is stopped by SIGTERM does this by itself.")]
    Drain(Named),
    /// Let a drained server take shards again
    #[command(after_help = "Example: postrider node resume db2b2a9e-6c58-4c5f-9d3d-6a1f0c1f7f2b")]
    Resume(Named),
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The server's UUID, as `postrider node list` shows it
    #[arg(value_name = "UUID")]
    uuid: String,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    match args.command {
        Command::List => list(&remote, output).await?,
        Command::Drain(Named { uuid }) => {
            ask(&remote, &uuid, "drain", "gives its shards to the others", output).await?;
        }
        Command::Resume(Named { uuid }) => ask(&remote, &uuid, "resume", "takes shards again", output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(remote: &Remote, output: Output) -> anyhow::Result<()> {
    let answer = remote.get(&["nodes"], &[]).await?;
    if output.answer(&answer)? {
        return Ok(());
    }
    let rows = answer.value.as_array().into_iter().flatten().map(|node| {
        vec![
            output.paint(STRONG, output::text(node, "name")),
            output::text(node, "state"),
            node["shards"].as_array().map_or(0, Vec::len).to_string(),
            output::text(node, "address"),
            output::text(node, "version"),
            output::moment(node, "started_at"),
            output.paint(QUIET, output::text(node, "uuid")),
        ]
    });
    output.table(&["name", "state", "shards", "address", "version", "started (utc)", "uuid"], rows.collect())?;
    Ok(())
}

async fn ask(remote: &Remote, uuid: &str, what: &str, done: &str, output: Output) -> anyhow::Result<()> {
    let answer = remote.post(&["nodes", uuid, what], &json!({})).await?;
    if !output.answer(&answer)? {
        let node: &Value = &answer.value;
        output.line(format_args!("{} {done}", output::text(node, "name")))?;
    }
    Ok(())
}
