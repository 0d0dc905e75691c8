//! `postrider audit`: who did what.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::listing::{Page, Query, Range, more};
use super::output::{self, Output, QUIET, STRONG};
use super::remote::Connection;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider audit list --action webhook")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List who did what, newest first; an operator sees all tenants
    #[command(after_help = "Example: postrider audit list --action webhook.delete --since 2026-11-01T00:00:00Z")]
    List(List),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only this action, as in `webhook.create`, or all of a kind, as in `webhook`
    #[arg(long)]
    action: Option<String>,
    /// Only by this token: its UUID or name, or `environment`
    #[arg(long)]
    actor: Option<String>,
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    page: Page,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    let Command::List(args) = args.command;
    let mut query = Query::new();
    let filters = [("action", args.action), ("actor", args.actor)];
    query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value?))));
    args.range.add_to(&mut query);
    args.page.add_to(&mut query);
    let answer = remote.page("audit", &query).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let items = answer.value["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        output.note("nothing matches");
        return Ok(ExitCode::SUCCESS);
    }
    let rows = items.iter().map(|entry| {
        vec![
            output.paint(QUIET, output::moment(entry, "at")),
            output::text(entry, "tenant"),
            output::text(&entry["actor"], "name"),
            output::text(entry, "address"),
            output.paint(STRONG, output::text(entry, "action")),
            target(entry),
            output.paint(QUIET, output::text(entry, "fields")),
        ]
    });
    output.table(&["at (utc)", "tenant", "actor", "address", "action", "target", "fields"], rows.collect())?;
    more(&answer.value, output);
    Ok(ExitCode::SUCCESS)
}

/// The name of the target, or else its id.
fn target(entry: &Value) -> String {
    output::text(entry, if entry["target_name"].is_null() { "target" } else { "target_name" })
}
