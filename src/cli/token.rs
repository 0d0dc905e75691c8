//! `postrider token`: who may do what.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::output::{self, NAME, Output, QUIET, STRONG};
use super::remote::Connection;
use crate::clock::{Clock, SystemClock};
use crate::config::parse_span;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider token create --name 'honeypot fleet' --scope publish")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a token and print it, this once
    #[command(after_help = "Example: postrider token create --name 'honeypot fleet' --scope publish --expires-in 90d")]
    Create {
        /// Say whose it is
        #[arg(long)]
        name: String,
        /// What it may do (repeatable)
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
        /// Let it end after this time [default: never]
        #[arg(long, value_name = "DURATION", value_parser = parse_span)]
        expires_in: Option<Duration>,
    },
    /// List the tokens
    #[command(after_help = "Example: postrider token list")]
    List,
    /// Revoke a token, at once
    #[command(after_help = "Example: postrider token revoke 0191f6c0-7a2e-7c3d-9c1b-2f6d8a4e5b10")]
    Revoke {
        /// The token's UUID, as the list shows it
        #[arg(value_name = "TOKEN_UUID")]
        uuid: String,
    },
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Scope {
    /// Everything in every tenant, and the tenants themselves
    Operator,
    /// Everything in its tenant, tokens and the audit log included
    Admin,
    /// Send events
    Publish,
    /// See everything but secrets, tokens and the audit log
    Read,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    match args.command {
        Command::Create { name, scopes, expires_in } => {
            let expires_at = expires_in.map(|lifetime| SystemClock.now().after(lifetime).to_string());
            let body = json!({ "name": name, "scopes": scopes, "expires_at": expires_at });
            let answer = remote.post(&["tokens"], &body).await?;
            if !output.answer(&answer)? {
                output.line(output.paint(NAME, output::text(&answer.value, "token")))?;
                output.note("\nThe token is shown this once: keep it now. Its holder sets POSTRIDER_TOKEN to it.");
            }
        }
        Command::List => {
            let answer = remote.all(&["tokens"], &[]).await?;
            if !output.answer(&answer)? {
                let rows = answer.value.as_array().into_iter().flatten().map(|token| {
                    vec![
                        output.paint(STRONG, output::text(token, "name")),
                        output::text(token, "scopes"),
                        output::moment(token, "created_at"),
                        output::moment(token, "expires_at"),
                        output::moment(token, "last_used_at"),
                        output.paint(QUIET, output::text(token, "uuid")),
                    ]
                });
                output.table(
                    &["name", "scopes", "created (utc)", "expires (utc)", "last used (utc)", "uuid"],
                    rows.collect(),
                )?;
            }
        }
        Command::Revoke { uuid } => {
            let answer = remote.delete(&["tokens", &uuid]).await?;
            if !output.answer(&answer)? {
                output.line(format_args!("revoked {uuid}"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
