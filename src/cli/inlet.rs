//! `postrider inlet`: where other senders' webhooks come in.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Subcommand, ValueEnum};
use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::UsageError;
use super::output::{self, NAME, Output, QUIET, STRONG};
use super::remote::{Connection, Remote};
use crate::config::{Span, parse_span};
use crate::inlet::MAX_INLET_SECRETS;
use crate::signing::SHOWN_SECRET;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider inlet list\n\nINLET is an inlet's name or its UUID.")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the inlets
    #[command(after_help = "Example: postrider inlet list --json | jq -r '.[].path'")]
    List,
    /// Create an inlet and print where its sender sends to
    #[command(after_help = "Example: postrider inlet create --name github --signature github --secret s3cret \
        --topic 'github.{header.X-GitHub-Event}'\n\n\
        The process list shows flags, and no environment: secrets are better given there.")]
    Create(Create),
    /// Show an inlet
    #[command(after_help = "Example: postrider inlet show github")]
    Show(Named),
    /// Change settings of an inlet; what is not given stays
    #[command(after_help = "Example: postrider inlet update github --add-secret n3w")]
    Update(Update),
    /// Delete an inlet; events that came in by it stay
    #[command(after_help = "Example: postrider inlet delete github --yes")]
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The inlet's name or UUID
    #[arg(value_name = "INLET")]
    inlet: String,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Call it so; unique
    #[arg(long)]
    name: String,
    /// Verify requests like this, `github`, `stripe`, `slack`, `standard`, … or a profile of your own as JSON; `bearer` for
    /// a token of this server, `none` for not at all
    #[arg(long, value_name = "NAME")]
    signature: String,
    /// The sender's secret (twice while it changes)
    #[arg(long = "secret", value_name = "SECRET", env = "POSTRIDER_SECRET", hide_env_values = true)]
    secrets: Vec<SecretString>,
    /// Make the topic like this, as in 'stripe.{/type}' or 'github.{header.X-GitHub-Event}'
    #[arg(long, value_name = "TEMPLATE")]
    topic: String,
    #[command(flatten)]
    settings: Settings,
    /// Create it turned off
    #[arg(long)]
    disabled: bool,
}

#[derive(Debug, clap::Args)]
struct Update {
    #[command(flatten)]
    named: Named,
    /// Call it so; unique
    #[arg(long)]
    name: Option<String>,
    /// Verify requests like this from now on
    #[arg(long, value_name = "NAME")]
    signature: Option<String>,
    /// The sender's secret from now on, in place of those before
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<SecretString>,
    /// The sender's new secret, beside the present one
    #[arg(long, value_name = "SECRET", conflicts_with_all = ["secrets", "drop_old_secret"])]
    add_secret: Option<SecretString>,
    /// Let the newest secret alone be good
    #[arg(long, conflicts_with = "secrets")]
    drop_old_secret: bool,
    /// Make the topic like this
    #[arg(long, value_name = "TEMPLATE")]
    topic: Option<String>,
    #[command(flatten)]
    settings: Settings,
    /// Turn it on
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Turn it off: it is not there for its sender
    #[arg(long)]
    disable: bool,
}

#[derive(Debug, clap::Args)]
struct Delete {
    #[command(flatten)]
    named: Named,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What both creating and changing may set.
#[derive(Debug, clap::Args)]
struct Settings {
    /// Make the type like this; empty for what the sender is known to say
    #[arg(long = "type", value_name = "TEMPLATE")]
    kind: Option<String>,
    /// Make the id like this: what comes again with the same is a duplicate; empty for what the sender is known to say
    #[arg(long, value_name = "TEMPLATE")]
    id: Option<String>,
    /// Take signed times that are this far from now [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    tolerance: Option<Duration>,
    /// Keep this of a request beside its body, as in bytes,query; `none` for nothing
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    keep: Vec<Part>,
    /// Keep this header (repeatable)
    #[arg(long = "keep-header", value_name = "NAME")]
    headers: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The method
    Method,
    /// What follows the inlet in the path
    Path,
    /// The query
    Query,
    /// The exact bytes of the body
    Bytes,
    /// Nothing
    None,
}

impl Settings {
    /// The request's fields, as far as they were given.
    fn fields(self) -> Map<String, Value> {
        let mut fields = Map::new();
        let texts = [("type", self.kind), ("id", self.id)];
        fields.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
        fields.extend(self.tolerance.map(|tolerance| ("tolerance_s".to_owned(), tolerance.as_secs().into())));
        if !self.keep.is_empty() || !self.headers.is_empty() {
            let keeps = |part| self.keep.contains(&part);
            let keep = json!({
                "headers": self.headers,
                "method": keeps(Part::Method),
                "path": keeps(Part::Path),
                "query": keeps(Part::Query),
                "bytes": keeps(Part::Bytes),
            });
            fields.insert("keep".to_owned(), keep);
        }
        fields
    }
}

/// A name, or a profile as JSON.
fn signature(text: &str) -> anyhow::Result<Value> {
    if !text.trim_start().starts_with('{') {
        return Ok(text.into());
    }
    serde_json::from_str(text)
        .map_err(|error| UsageError(format!("--signature: the profile is no JSON: {error}")).into())
}

fn exposed(secrets: &[SecretString]) -> Value {
    secrets.iter().map(|secret| Value::from(secret.expose_secret())).collect()
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    match args.command {
        Command::List => list(&remote, output).await?,
        Command::Create(create) => create_inlet(&remote, create, output).await?,
        Command::Show(Named { inlet }) => {
            let uuid = remote.inlet(&inlet).await?;
            let answer = remote.get(&["inlets", &uuid], &[]).await?;
            if !output.answer(&answer)? {
                show(&answer.value, output)?;
            }
        }
        Command::Update(update) => update_inlet(&remote, update, output).await?,
        Command::Delete(delete) => return delete_inlet(&remote, delete, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(remote: &Remote, output: Output) -> anyhow::Result<()> {
    let answer = remote.all(&["inlets"], &[]).await?;
    if output.answer(&answer)? {
        return Ok(());
    }
    let inlets = answer.value.as_array().map_or(&[][..], Vec::as_slice);
    if inlets.is_empty() {
        output.note("no inlets yet; `postrider inlet create --help` shows how to make one");
        return Ok(());
    }
    let rows = inlets.iter().map(|inlet| {
        vec![
            output.paint(STRONG, output::text(inlet, "name")),
            output.yes_no(inlet["enabled"] == true),
            named(&inlet["signature"]),
            output::text(inlet, "topic"),
            output.paint(QUIET, output::text(inlet, "path")),
        ]
    });
    output.table(&["name", "enabled", "signature", "topic", "path"], rows.collect())?;
    Ok(())
}

/// The name of a signature.
fn named(signature: &Value) -> String {
    output::plain(signature.get("name").unwrap_or(signature))
}

fn show(inlet: &Value, output: Output) -> anyhow::Result<()> {
    let keep = &inlet["keep"];
    let parts = ["method", "path", "query", "bytes"].into_iter().filter(|part| keep[*part] == true).map(str::to_owned);
    let headers = keep["headers"].as_array().into_iter().flatten().map(output::plain);
    let kept = parts.chain(headers).collect::<Vec<_>>().join(", ");
    let tolerance = inlet["tolerance_s"].as_u64().map(|s| Span(Duration::from_secs(s)).to_string());
    output.fields(&[
        ("name", output.paint(STRONG, output::text(inlet, "name"))),
        ("path", output.paint(NAME, output::text(inlet, "path"))),
        ("enabled", output.yes_no(inlet["enabled"] == true)),
        ("signature", named(&inlet["signature"])),
        ("secrets", output::text(inlet, "secrets")),
        ("tolerance", tolerance.unwrap_or_else(|| "-".to_owned())),
        ("topic", output::text(inlet, "topic")),
        ("type", output::text(inlet, "type")),
        ("id", output::text(inlet, "id")),
        ("keeps", if kept.is_empty() { "-".to_owned() } else { kept }),
        ("created", output::moment(inlet, "created_at")),
        ("updated", output::moment(inlet, "updated_at")),
    ])?;
    Ok(())
}

async fn create_inlet(remote: &Remote, create: Create, output: Output) -> anyhow::Result<()> {
    let mut fields = create.settings.fields();
    fields.insert("name".to_owned(), create.name.into());
    fields.insert("signature".to_owned(), signature(&create.signature)?);
    fields.insert("topic".to_owned(), create.topic.into());
    if !create.secrets.is_empty() {
        fields.insert("secrets".to_owned(), exposed(&create.secrets));
    }
    if create.disabled {
        fields.insert("enabled".to_owned(), false.into());
    }
    let answer = remote.post(&["inlets"], &fields.into()).await?;
    if !output.answer(&answer)? {
        show(&answer.value, output)?;
        output.note("\nIts sender sends to that path at this server's address, as others reach it.");
    }
    Ok(())
}

async fn update_inlet(remote: &Remote, update: Update, output: Output) -> anyhow::Result<()> {
    let mut fields = update.settings.fields();
    let texts = [("name", update.name), ("topic", update.topic)];
    fields.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
    if let Some(text) = &update.signature {
        fields.insert("signature".to_owned(), signature(text)?);
    }
    let uuid = remote.inlet(&update.named.inlet).await?;
    if update.add_secret.is_some() {
        check_room_for_secret(remote, &update.named.inlet, &uuid).await?;
    }
    let secrets = match &update.add_secret {
        Some(new) => Some(json!([new.expose_secret(), SHOWN_SECRET])),
        None if update.drop_old_secret => Some(json!([SHOWN_SECRET])),
        None if update.secrets.is_empty() => None,
        None => Some(exposed(&update.secrets)),
    };
    fields.extend(secrets.map(|secrets| ("secrets".to_owned(), secrets)));
    if update.enable || update.disable {
        fields.insert("enabled".to_owned(), update.enable.into());
    }
    if fields.is_empty() {
        bail!(UsageError("nothing to change; `postrider inlet update --help` shows what can be".to_owned()));
    }
    let answer = remote.send(Method::PATCH, &["inlets", &uuid], &fields.into()).await?;
    if !output.answer(&answer)? {
        show(&answer.value, output)?;
    }
    Ok(())
}

/// A secret beside two others would push the oldest out, with which the sender may sign still.
async fn check_room_for_secret(remote: &Remote, name: &str, uuid: &str) -> anyhow::Result<()> {
    let present = remote.get(&["inlets", uuid], &[]).await?.value;
    if present["secrets"].as_array().is_some_and(|secrets| secrets.len() >= MAX_INLET_SECRETS) {
        bail!(
            "{name:?} has {MAX_INLET_SECRETS} secrets already; once its sender signs with the newest, let it alone be good: \
             postrider inlet update {name} --drop-old-secret"
        );
    }
    Ok(())
}

async fn delete_inlet(remote: &Remote, delete: Delete, output: Output) -> anyhow::Result<ExitCode> {
    let name = &delete.named.inlet;
    let uuid = remote.inlet(name).await?;
    if !delete.yes {
        if !output.can_ask() {
            bail!(UsageError(format!("to delete {name:?} without being asked, give --yes")));
        }
        if !output.confirm(&format!("Delete {name:?}, so that its sender can send no more?"))? {
            output.note("nothing was deleted");
            return Ok(ExitCode::FAILURE);
        }
    }
    let answer = remote.delete(&["inlets", &uuid]).await?;
    if !output.answer(&answer)? {
        output.line(format_args!("deleted {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
