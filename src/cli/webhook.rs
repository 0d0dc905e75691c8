//! `postrider webhook`: who gets which events.

mod rotate;
mod settings;
mod signing;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use self::settings::Settings;
use super::UsageError;
use super::exchange::{self, Parts};
use super::output::{self, BAD, GOOD, NAME, Output, QUIET, STRONG, WARN};
use super::remote::{Connection, Remote};
use super::shape;
use crate::config::Span;
use crate::store::MAX_COUNTED_WAITING;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: postrider webhook list\n\nWEBHOOK is a webhook's name or its UUID.")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the webhooks
    #[command(after_help = "Example: postrider webhook list --json | jq -r '.[].name'")]
    List,
    /// Create a webhook and print its keys, this once
    #[command(after_help = "Example: postrider webhook create --name siem --url https://siem.example/hook \
        --topic 'attacker.>' --topic 'decky.*.state'\n\n\
        The process list shows flags, and no environment: secrets are better given there.")]
    Create(Create),
    /// Show a webhook
    #[command(after_help = "Example: postrider webhook show siem")]
    Show(Named),
    /// Change settings of a webhook; what is not given stays
    #[command(after_help = "Example: postrider webhook update siem --timeout 20s --enable")]
    Update(Update),
    /// Let new keys take over; the old ones sign beside them for a while
    #[command(after_help = "Example: postrider webhook rotate-secret siem --overlap 24h\n\n\
        The process list shows flags, and no environment: secrets are better given there.")]
    RotateSecret(rotate::Rotate),
    /// Delete a webhook; what it is still owed is discarded
    #[command(after_help = "Example: postrider webhook delete siem --yes")]
    Delete(Delete),
    /// Send a test event now, once, and say what came of it
    #[command(after_help = "Examples:\n  postrider webhook test siem\n  \
        postrider webhook test siem --event @order.json --request --response")]
    Test(Test),
    /// Attempt now what it is owed, although it failed or asked for time
    #[command(after_help = "Example: postrider webhook resume siem")]
    Resume(Named),
}

#[derive(Debug, clap::Args)]
struct Test {
    /// The webhook's name or UUID
    #[arg(value_name = "WEBHOOK")]
    webhook: String,
    /// An event as JSON, or @FILE to read it from, or - for standard input [default: a synthetic one]
    #[arg(long, value_name = "JSON", conflicts_with = "event_id")]
    event: Option<String>,
    /// A stored event
    #[arg(long, value_name = "EVENT")]
    event_id: Option<String>,
    #[command(flatten)]
    parts: Parts,
}

/// The body of a request for a test.
#[derive(Serialize)]
struct TestRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The webhook's name or UUID
    #[arg(value_name = "WEBHOOK")]
    webhook: String,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Call it so; unique
    #[arg(long)]
    name: String,
    /// Deliver to this address
    #[arg(long)]
    url: String,
    /// The secret of `decnet`, `github`, `stripe` and others; 1 to 256 characters, with `decnet` 16 or more
    /// [default: made by the server]
    #[arg(long, env = "POSTRIDER_SECRET", hide_env_values = true)]
    secret: Option<SecretString>,
    /// Sign webhook-signature (Standard Webhooks) with this key [default: made by the server]
    #[arg(long, value_name = "WHSEC", env = "POSTRIDER_STANDARD_SECRET", hide_env_values = true)]
    standard_secret: Option<SecretString>,
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
    /// Deliver to this address
    #[arg(long)]
    url: Option<String>,
    // Not from the environment: a change of keys is asked for, or it does not happen.
    /// The secret of `decnet`, `github`, `stripe` and others from now on; 1 to 256 characters, with `decnet` 16 or more
    #[arg(long)]
    secret: Option<SecretString>,
    /// Sign webhook-signature (Standard Webhooks) with this key from now on
    #[arg(long, value_name = "WHSEC")]
    standard_secret: Option<SecretString>,
    #[command(flatten)]
    settings: Settings,
    /// Turn it on, and close its circuit
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Turn it off: its events are skipped
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

/// The request's fields for keys, as far as they were given.
fn keys(secret: Option<SecretString>, standard_secret: Option<SecretString>) -> impl Iterator<Item = (String, Value)> {
    let given = [("secret", secret), ("standard_secret", standard_secret)];
    given.into_iter().filter_map(|(name, key)| Some((name.to_owned(), key?.expose_secret().into())))
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let remote = args.connection.open()?;
    match args.command {
        Command::List => list(&remote, output).await,
        Command::Create(create) => create_webhook(&remote, create, output).await,
        Command::Show(Named { webhook }) => {
            let uuid = remote.webhook(&webhook).await?;
            let answer = remote.get(&["webhooks", &uuid], &[]).await?;
            if !output.answer(&answer)? {
                show(&answer.value, output)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Update(update) => update_webhook(&remote, update, output).await,
        Command::RotateSecret(rotate) => rotate::run(&remote, rotate, output).await,
        Command::Delete(delete) => delete_webhook(&remote, delete, output).await,
        Command::Test(args) => test(&remote, args, output).await,
        Command::Resume(Named { webhook }) => resume(&remote, &webhook, output).await,
    }
}

async fn list(remote: &Remote, output: Output) -> anyhow::Result<ExitCode> {
    let answer = remote.all(&["webhooks"], &[]).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let webhooks = answer.value.as_array().map_or(&[][..], Vec::as_slice);
    if webhooks.is_empty() {
        output.note("no webhooks yet; `postrider webhook create --help` shows how to make one");
        return Ok(ExitCode::SUCCESS);
    }
    let rows = webhooks.iter().map(|webhook| {
        vec![
            output.paint(STRONG, output::text(webhook, "name")),
            health(webhook, output),
            waiting(webhook, output),
            output::text(webhook, "topic_patterns"),
            output::text(webhook, "url"),
            output.paint(QUIET, output::text(webhook, "uuid")),
        ]
    });
    output.table(&["name", "health", "waiting", "topics", "url", "uuid"], rows.collect())?;
    Ok(ExitCode::SUCCESS)
}

/// How many deliveries wait, and since when the oldest does.
fn waiting(webhook: &Value, output: Output) -> String {
    match webhook["waiting"].as_u64() {
        None | Some(0) => "-".to_owned(),
        Some(count) => {
            let more = if count >= MAX_COUNTED_WAITING.into() { "+" } else { "" };
            let since = output.paint(QUIET, format_args!("since {}", output::moment(webhook, "waiting_since")));
            format!("{count}{more} {since}")
        }
    }
}

/// A webhook's health in one word.
fn health(webhook: &Value, output: Output) -> String {
    if webhook["enabled"] == false {
        output.paint(QUIET, "off")
    } else if webhook["paused"] == true {
        output.paint(WARN, "paused")
    } else if !webhook["auto_disabled_at"].is_null() {
        output.paint(BAD, "waiting for recovery")
    } else if webhook["waiting_for"] == "receiver_asked" {
        output.paint(WARN, "receiver asked for time")
    } else {
        match webhook["consecutive_failures"].as_u64() {
            None | Some(0) => match webhook["last_error"].as_str() {
                None => output.paint(GOOD, "ok"),
                // It says nothing against the receiver: a refused event, or a login that fails.
                Some(error) => output.paint(WARN, format_args!("last: {}", output::plain(&error.into()))),
            },
            Some(1) => output.paint(WARN, "1 failure"),
            Some(failures) => output.paint(WARN, format_args!("{failures} failures")),
        }
    }
}

fn show(webhook: &Value, output: Output) -> anyhow::Result<()> {
    let schedule = webhook["retry_schedule"].as_array().map(|delays| {
        let spans = delays.iter().filter_map(Value::as_f64).filter_map(|s| Duration::try_from_secs_f64(s).ok());
        let spans: Vec<String> = spans.map(|delay| Span(delay).to_string()).collect();
        if spans.is_empty() { "once".to_owned() } else { spans.join(", ") }
    });
    output.fields(&[
        ("name", output.paint(STRONG, output::text(webhook, "name"))),
        ("uuid", output::text(webhook, "uuid")),
        ("url", output::text(webhook, "url")),
        ("topics", output::text(webhook, "topic_patterns")),
        ("description", output::text(webhook, "description")),
        ("enabled", output.yes_no(webhook["enabled"] == true)),
        ("health", health(webhook, output)),
        ("turned off", output::text(webhook, "disabled_reason")),
        ("next probe", output::moment(webhook, "next_probe_at")),
        ("waiting for", output::text(webhook, "waiting_for")),
        ("waiting until", output::moment(webhook, "waiting_until")),
        ("waiting", waiting(webhook, output)),
        ("circuit open since", output::moment(webhook, "auto_disabled_at")),
        ("last success", output::moment(webhook, "last_success_at")),
        ("last failure", output::moment(webhook, "last_failure_at")),
        ("last error", output::text(webhook, "last_error")),
        ("signatures", signatures(webhook)),
        ("keys", keys_shown(webhook)),
        ("timeout", format!("{}s", output::text(webhook, "timeout_s"))),
        ("max in flight", output::text(webhook, "max_in_flight")),
        ("retry schedule", schedule.unwrap_or_else(|| "the server's".to_owned())),
        ("retry on", output::text(webhook, "retry_on")),
        ("final on", output::text(webhook, "final_on")),
        ("success on", output::text(webhook, "success_on")),
        ("success when", compact(&webhook["success_when"])),
        (
            "max age",
            webhook["max_age_s"].as_u64().map_or_else(|| "-".to_owned(), |s| Span(Duration::from_secs(s)).to_string()),
        ),
        ("capture", output::text(webhook, "capture")),
        ("rate limit", settings::rate_shown(&webhook["rate_limit"])),
        ("paused", output.yes_no(webhook["paused"] == true)),
        ("method", output::text(webhook, "method")),
        ("ordered", output.yes_no(webhook["ordered"] == true)),
        ("batch", settings::batch_shown(&webhook["batch"])),
        ("filter", compact(&webhook["filter"])),
        ("shape", settings::shape_shown(&webhook["shape"])),
        ("headers", compact(&webhook["headers"])),
        ("content type", output::text(webhook, "content_type")),
        ("auth", compact(&webhook["auth"])),
        ("proxy", compact(&webhook["proxy"])),
        ("metadata", compact(&webhook["metadata"])),
        (
            "turn off after",
            webhook["disable_after_days"].as_u64().map_or_else(|| "-".to_owned(), |days| format!("{days}d")),
        ),
        ("created", output::moment(webhook, "created_at")),
        ("updated", output::moment(webhook, "updated_at")),
    ])?;
    warn(webhook, output);
    Ok(())
}

/// The names of its signatures.
fn signatures(webhook: &Value) -> String {
    let given = webhook["signatures"].as_array().into_iter().flatten();
    let names: Vec<_> = given.map(|given| output::plain(given.get("name").unwrap_or(given))).collect();
    names.join(", ")
}

/// One line for each generation of keys, the newest first: its start, its end, and the public key if there is one.
fn keys_shown(webhook: &Value) -> String {
    let lines = webhook["keys"].as_array().into_iter().flatten().map(|keys| {
        let mut line = format!("since {}", output::moment(keys, "created_at"));
        for (field, text) in
            [("valid_until", output::moment(keys, "valid_until")), ("public_key", output::text(keys, "public_key"))]
        {
            if !keys[field].is_null() {
                line.extend([if field == "valid_until" { ", until " } else { ", " }, &text]);
            }
        }
        line
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A setting as JSON in one line; `-`: there is none.
fn compact(value: &Value) -> String {
    let is_nothing = value.is_null() || value.as_object().is_some_and(Map::is_empty);
    if is_nothing { "-".to_owned() } else { output::visible(&value.to_string()) }
}

fn warn(webhook: &Value, output: Output) {
    for warning in webhook["warnings"].as_array().into_iter().flatten() {
        output.note(format_args!("{} {}", output.paint_note(WARN, "warning:"), output::plain(warning)));
    }
}

async fn create_webhook(remote: &Remote, create: Create, output: Output) -> anyhow::Result<ExitCode> {
    let mut fields = create.settings.fields()?;
    fields.insert("name".to_owned(), create.name.into());
    fields.insert("url".to_owned(), create.url.into());
    fields.extend(keys(create.secret, create.standard_secret));
    if create.disabled {
        fields.insert("enabled".to_owned(), false.into());
    }
    let answer = remote.post(&["webhooks"], &fields.into()).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let webhook = &answer.value;
    let mut shown = vec![
        ("name", output.paint(STRONG, output::text(webhook, "name"))),
        ("uuid", output::text(webhook, "uuid")),
        ("url", output::text(webhook, "url")),
        ("topics", output::text(webhook, "topic_patterns")),
    ];
    shown.extend(signing::keys_in_use(webhook, webhook, output));
    if !webhook["public_key"].is_null() {
        shown.push(("public key", output.paint(NAME, output::text(webhook, "public_key"))));
    }
    output.fields(&shown)?;
    output.note("\nThe receiver verifies deliveries with these secrets. They are shown this once: keep them now.");
    warn(webhook, output);
    Ok(ExitCode::SUCCESS)
}

async fn update_webhook(remote: &Remote, update: Update, output: Output) -> anyhow::Result<ExitCode> {
    let mut fields = update.settings.fields()?;
    let given = [("name", update.name), ("url", update.url)];
    fields.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
    fields.extend(keys(update.secret, update.standard_secret));
    if update.enable || update.disable {
        fields.insert("enabled".to_owned(), update.enable.into());
    }
    if fields.is_empty() {
        bail!(UsageError("nothing to change; `postrider webhook update --help` shows what can be".to_owned()));
    }
    let uuid = remote.webhook(&update.named.webhook).await?;
    let answer = remote.send(Method::PATCH, &["webhooks", &uuid], &fields.into()).await?;
    if !output.answer(&answer)? {
        show(&answer.value, output)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete_webhook(remote: &Remote, delete: Delete, output: Output) -> anyhow::Result<ExitCode> {
    let name = &delete.named.webhook;
    let uuid = remote.webhook(name).await?;
    if !delete.yes {
        if !output.can_ask() {
            bail!(UsageError(format!("to delete {name:?} without being asked, give --yes")));
        }
        if !output.confirm(&format!("Delete {name:?} and discard what it is still owed?"))? {
            output.note("nothing was deleted");
            return Ok(ExitCode::FAILURE);
        }
    }
    let answer = remote.delete(&["webhooks", &uuid]).await?;
    if !output.answer(&answer)? {
        output.line(format_args!("deleted {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn resume(remote: &Remote, name: &str, output: Output) -> anyhow::Result<ExitCode> {
    let uuid = remote.webhook(name).await?;
    let answer = remote.post(&["webhooks", &uuid, "resume"], &json!({})).await?;
    if !output.answer(&answer)? {
        let name = output.paint(STRONG, output::text(&answer.value, "name"));
        output.line(format_args!("an attempt is made now of what {name} is owed"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn test(remote: &Remote, args: Test, output: Output) -> anyhow::Result<ExitCode> {
    let event = shape::read_event(args.event).await?;
    let uuid = remote.webhook(&args.webhook).await?;
    let request = serde_json::to_vec(&TestRequest { event, event_id: args.event_id })?;
    let answer = remote.post_bytes(&["webhooks", &uuid, "test"], "application/json", request.into()).await?;
    let result = &answer.value;
    let delivered = result["delivered"] == true;
    if !output.answer(&answer)? {
        let took = result["duration_ms"].as_f64().map(output::milliseconds).unwrap_or_default();
        let phases = Some(exchange::phases(&result["timings"])).filter(|phases| !phases.is_empty());
        let phases = phases.map(|phases| format!("  {}", output.paint(QUIET, format_args!("({phases})"))));
        let phases = phases.unwrap_or_default();
        if delivered {
            let status = output::text(result, "status_code");
            output.line(format_args!("{} {status} in {took}{phases}", output.paint(GOOD, "✓ delivered")))?;
        } else {
            let error = output::text(result, "error");
            output.line(format_args!("{} {error} after {took}{phases}", output.paint(BAD, "✗ not delivered:")))?;
        }
        if args.parts.is_any() {
            output.line("")?;
            args.parts.show(result, output)?;
        }
    }
    Ok(if delivered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
