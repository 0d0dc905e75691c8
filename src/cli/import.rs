//! `postrider import`: webhooks of other senders become webhooks here, so that no receiver notices.

mod convoy;
mod decnet;
mod draft;
mod found;
mod hook0;
mod outpost;
mod report;
mod svix;
mod vendor;

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use serde_json::{Value, json};

use self::found::Found;
use self::vendor::Origin;
use super::UsageError;
use super::output::Output;
use super::remote::Connection;
use crate::engine::import::MAX_IMPORTED_WEBHOOKS;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider import decnet /opt/decnet/decnet.db --dry-run\n\n\
    All is made or nothing: where one webhook cannot be made, none is, unless --skip-refused is given. What is there already \
    is left as it is, so that an import may be repeated.")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    how: How,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Show what would be made and what cannot be, and make nothing
    #[arg(long, global = true)]
    dry_run: bool,
    /// Make the others where one cannot be made
    #[arg(long, global = true)]
    skip_refused: bool,
    /// Make the tenants that are needed and not there
    #[arg(long, global = true)]
    create_tenants: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take over the webhooks of DECNET, from its SQLite database
    #[command(after_help = "Example: postrider import decnet /opt/decnet --tenant blue-team --dry-run\n\n\
        DECNET may run meanwhile. Stop `decnet webhook` before Postrider delivers: both at once deliver twice.")]
    Decnet(decnet::Args),
    /// Take over the endpoints of Svix
    #[command(
        after_help = "Example: postrider import svix --url https://api.eu.svix.com --token-file svix.token --dry-run\n\n\
        Each application becomes a tenant; with --tenant all become one."
    )]
    Svix(Origin),
    /// Take over the subscriptions of Convoy with their endpoints
    #[command(
        after_help = "Example: postrider import convoy --url https://convoy.example --token-file convoy.key --from 01H… \
        --create-tenants\n\nEach project becomes a tenant; with --tenant all become one."
    )]
    Convoy(Origin),
    /// Take over the webhook destinations of Outpost
    #[command(
        after_help = "Example: postrider import outpost --url http://127.0.0.1:3333 --token-file outpost.key --dry-run\n\n\
        Each tenant becomes a tenant; with --tenant all become one."
    )]
    Outpost(Origin),
    /// Take over the subscriptions of Hook0
    #[command(
        after_help = "Example: postrider import hook0 --url https://app.hook0.com --token-file hook0.token --dry-run\n\n\
        Each application becomes a tenant; with --tenant all become one."
    )]
    Hook0(Origin),
}

impl Command {
    /// What there is. With `with_tenants` each part of a vendor has a tenant of its own.
    async fn found(self, with_tenants: bool) -> anyhow::Result<Vec<Found>> {
        match self {
            Self::Decnet(args) => decnet::read(&args),
            Self::Svix(origin) => svix::found(&origin.document(svix::fetch).await?, &origin, with_tenants),
            Self::Convoy(origin) => convoy::found(&origin.document(convoy::fetch).await?, &origin, with_tenants),
            Self::Outpost(origin) => outpost::found(&origin.document(outpost::fetch).await?, &origin, with_tenants),
            Self::Hook0(origin) => hook0::found(&origin.document(hook0::fetch).await?, &origin, with_tenants),
        }
    }
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let with_tenants = !args.connection.names_tenant();
    let remote = args.connection.open()?;
    let found = args.command.found(with_tenants).await?;
    if found.len() > MAX_IMPORTED_WEBHOOKS {
        bail!(UsageError(format!(
            "there are {} webhooks; {MAX_IMPORTED_WEBHOOKS} can be imported together, and part of them is not",
            found.len()
        )));
    }
    let How { dry_run, skip_refused, create_tenants } = args.how;
    // What is refused here counts as what the server refuses: nothing is made then.
    let is_refused = found.iter().any(|found| found.row.is_err());
    let rows: Vec<&Value> = found.iter().filter_map(|found| found.row.as_ref().ok()).collect();
    let body = json!({
        "dry_run": dry_run || (is_refused && !skip_refused),
        "skip_refused": skip_refused,
        "create_tenants": create_tenants,
        "webhooks": rows,
    });
    let answer = remote.post(&["webhooks", "import"], &body).await?;
    let report = report::Report::new(found, answer.value, dry_run);
    report.print(output)?;
    Ok(if report.is_anything_refused() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
