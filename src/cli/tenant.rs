//! `postrider tenant`: who has webhooks, events and tokens here, and how many.

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use super::UsageError;
use super::output::{self, Output, QUIET, STRONG};
use super::remote::{Connection, Remote};
use crate::config::Size;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: postrider tenant list\n\nTENANT is a tenant's name or its UUID. These commands need a \
    token with the scope `operator`."
)]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a tenant
    #[command(after_help = "Example: postrider tenant create blue-team --max-webhooks 20 --max-events-per-s 500 \
        --max-stored-bytes 1GiB\n\nA quota that is not given is the server's default for new tenants (`new_tenant_…`).\n\n\
        Then make a token for it: postrider token create --tenant blue-team --name admin --scope admin")]
    Create {
        /// Call it so: 1 to 64 characters of a-z, 0-9 and -; unique
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// List the tenants
    #[command(after_help = "Example: postrider tenant list --json | jq -r '.[].name'")]
    List,
    /// Show a tenant, and what it uses of its quotas
    #[command(after_help = "Example: postrider tenant show blue-team")]
    Show(Named),
    /// Change a tenant; what is not given stays
    #[command(after_help = "Example: postrider tenant update blue-team --max-pending unlimited")]
    Update {
        #[command(flatten)]
        named: Named,
        /// Call it so from now on
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a tenant and revoke its tokens
    #[command(after_help = "Example: postrider tenant delete blue-team --force --yes")]
    Delete {
        #[command(flatten)]
        named: Named,
        /// Also if it has webhooks or pending deliveries: they are deleted and discarded
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The tenant's name or UUID
    #[arg(value_name = "TENANT")]
    which: String,
}

/// What both creating and changing may set.
#[derive(Debug, clap::Args)]
struct Settings {
    /// Say what it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Let it have at most this many webhooks, or `unlimited`; the server has defaults for these quotas
    #[arg(long, value_name = "COUNT", value_parser = parse_quota)]
    max_webhooks: Option<Quota>,
    /// Accept at most this many events a second from it, or `unlimited`
    #[arg(long, value_name = "COUNT", value_parser = parse_quota)]
    max_events_per_s: Option<Quota>,
    /// Let at most this many deliveries of it be pending, or `unlimited`
    #[arg(long, value_name = "COUNT", value_parser = parse_quota)]
    max_pending: Option<Quota>,
    /// Let it have at most this many tokens, or `unlimited`
    #[arg(long, value_name = "COUNT", value_parser = parse_quota)]
    max_tokens: Option<Quota>,
    /// Keep at most so much of its events, as in `10GiB`, or `unlimited`
    #[arg(long, value_name = "SIZE")]
    max_stored_bytes: Option<Size>,
}

/// `None`: unlimited.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Quota(Option<u32>);

fn parse_quota(text: &str) -> Result<Quota, String> {
    match text {
        "unlimited" => Ok(Quota(None)),
        count => count.parse().map(|count| Quota(Some(count))).map_err(|_| "a number or `unlimited` is needed".into()),
    }
}

impl Settings {
    /// The request's fields, as far as they were given.
    fn fields(self) -> Map<String, Value> {
        let mut fields = Map::new();
        if let Some(description) = self.description {
            fields.insert("description".to_owned(), description.into());
        }
        let mut quotas: Map<_, _> = [
            ("max_webhooks", self.max_webhooks),
            ("max_events_per_s", self.max_events_per_s),
            ("max_pending", self.max_pending),
            ("max_tokens", self.max_tokens),
        ]
        .into_iter()
        .filter_map(|(name, quota)| Some((name.to_owned(), json!(quota?.0))))
        .collect();
        quotas.extend(self.max_stored_bytes.map(|size| ("max_stored_bytes".to_owned(), json!(size.bytes()))));
        if !quotas.is_empty() {
            fields.insert("quotas".to_owned(), quotas.into());
        }
        fields
    }
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    match args.command {
        Command::Create { name, settings } => {
            let mut fields = settings.fields();
            fields.insert("name".to_owned(), name.into());
            let answer = remote.post(&["tenants"], &fields.into()).await?;
            if !output.answer(&answer)? {
                show(&answer.value, output)?;
            }
        }
        Command::List => list(&remote, output).await?,
        Command::Show(Named { which }) => {
            let answer = remote.get(&["tenants", &which], &[]).await?;
            if !output.answer(&answer)? {
                show(&answer.value, output)?;
            }
        }
        Command::Update { named, name, settings } => {
            let mut fields = settings.fields();
            fields.extend(name.map(|name| ("name".to_owned(), name.into())));
            if fields.is_empty() {
                bail!(UsageError("nothing to change; `postrider tenant update --help` shows what can be".to_owned()));
            }
            let answer = remote.send(Method::PATCH, &["tenants", &named.which], &fields.into()).await?;
            if !output.answer(&answer)? {
                show(&answer.value, output)?;
            }
        }
        Command::Delete { named, force, yes } => return delete(&remote, &named.which, force, yes, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(remote: &Remote, output: Output) -> anyhow::Result<()> {
    let answer = remote.all(&["tenants"], &[]).await?;
    if output.answer(&answer)? {
        return Ok(());
    }
    let rows = answer.value.as_array().into_iter().flatten().map(|tenant| {
        vec![
            output.paint(STRONG, output::text(tenant, "name")),
            quota(tenant, "max_webhooks"),
            quota(tenant, "max_events_per_s"),
            quota(tenant, "max_pending"),
            quota(tenant, "max_tokens"),
            size(&tenant["quotas"]["max_stored_bytes"]),
            output::moment(tenant, "created_at"),
            output.paint(QUIET, output::text(tenant, "uuid")),
        ]
    });
    let columns = ["name", "webhooks", "events/s", "pending", "tokens", "stored", "created (utc)", "uuid"];
    output.table(&columns, rows.collect())?;
    Ok(())
}

fn quota(tenant: &Value, name: &str) -> String {
    let quota = &tenant["quotas"][name];
    if quota.is_null() { "unlimited".to_owned() } else { output::plain(quota) }
}

/// A number of bytes; `null` is unlimited.
fn size(bytes: &Value) -> String {
    bytes.as_u64().map_or(Size::Unlimited, Size::Bytes).to_string()
}

fn show(tenant: &Value, output: Output) -> anyhow::Result<()> {
    // The usage is known if a tenant is shown, but not after a change.
    let used_of = |used: &str, name: &str| match &tenant[used] {
        Value::Null => quota(tenant, name),
        used => format!("{} of {}", output::plain(used), quota(tenant, name)),
    };
    let stored = match &tenant["stored_bytes"] {
        Value::Null => size(&tenant["quotas"]["max_stored_bytes"]),
        used => format!("{} of {}", size(used), size(&tenant["quotas"]["max_stored_bytes"])),
    };
    output.fields(&[
        ("name", output.paint(STRONG, output::text(tenant, "name"))),
        ("uuid", output::text(tenant, "uuid")),
        ("description", output::text(tenant, "description")),
        ("webhooks", used_of("webhooks", "max_webhooks")),
        ("events/s", quota(tenant, "max_events_per_s")),
        ("pending", used_of("pending", "max_pending")),
        ("tokens", used_of("tokens", "max_tokens")),
        ("stored", stored),
        ("created", output::moment(tenant, "created_at")),
    ])?;
    Ok(())
}

async fn delete(remote: &Remote, name: &str, force: bool, yes: bool, output: Output) -> anyhow::Result<ExitCode> {
    if !yes {
        if !output.can_ask() {
            bail!(UsageError(format!("to delete {name:?} without being asked, give --yes")));
        }
        let what = if force { "with its webhooks and what they are still owed" } else { "and revoke its tokens" };
        if !output.confirm(&format!("Delete {name:?} {what}?"))? {
            output.note("nothing was deleted");
            return Ok(ExitCode::FAILURE);
        }
    }
    let query = [("force", "true".to_owned())];
    let answer = remote.delete_with(&["tenants", name], if force { &query } else { &[] }).await?;
    if !output.answer(&answer)? {
        output.line(format_args!("deleted {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::{Quota, parse_quota};

    #[test]
    fn a_quota_is_a_number_or_unlimited() {
        assert_eq!(parse_quota("unlimited"), Ok(Quota(None)));
        assert_eq!(parse_quota("0"), Ok(Quota(Some(0))));
        for text in ["", "-1", "many", "1.5", "99999999999"] {
            assert!(parse_quota(text).is_err(), "{text}");
        }
    }
}
