//! `postrider sign`: the headers of a delivery, to try a receiver with.

use std::process::ExitCode;

use anyhow::bail;
use secrecy::SecretString;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::UsageError;
use super::keys::{STANDARD_INPUT, parsed, read_body};
use super::output::{NAME, Output};
use crate::clock::{Clock, SystemClock};
use crate::signing::{
    Ed25519Key, Secret, StandardKey, decnet_signature, ed25519_signature, header, standard_signature,
};

/// The longest webhook-id, in bytes.
const MAX_ID_BYTES: usize = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 export POSTRIDER_SECRET=correct-horse-battery\n\
    \x20 postrider sign body.json\n\
    \x20 postrider sign body.json --curl http://127.0.0.1:9000/hook | sh\n\n\
    The bytes are signed as they are, a line break at the end included.\n\
    The process list shows flags, and no environment: secrets are better given there, as POSTRIDER_SECRET,\n\
    POSTRIDER_STANDARD_SECRET and POSTRIDER_PRIVATE_KEY.")]
pub(super) struct Args {
    /// The body, or - for standard input
    #[arg(value_name = "FILE", default_value = STANDARD_INPUT)]
    file: String,
    /// Make X-DECNET-Signature with this secret
    #[arg(long, value_name = "SECRET", env = "POSTRIDER_SECRET", hide_env_values = true)]
    secret: Option<SecretString>,
    /// Make a v1 signature (Standard Webhooks) with this key
    #[arg(long, value_name = "WHSEC", env = "POSTRIDER_STANDARD_SECRET", hide_env_values = true)]
    standard_secret: Option<SecretString>,
    /// Make a v1a signature (Standard Webhooks, Ed25519) with this key
    #[arg(long, value_name = "WHSK", env = "POSTRIDER_PRIVATE_KEY", hide_env_values = true)]
    private_key: Option<SecretString>,
    /// Sign for this webhook-id [default: a random one]
    #[arg(long)]
    id: Option<String>,
    /// Sign for this time, in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    timestamp: Option<i64>,
    /// Print a curl command that sends the body to this address
    #[arg(long, value_name = "URL")]
    curl: Option<String>,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let secret = parsed(args.secret.as_ref(), Secret::parse)?;
    let key = parsed(args.standard_secret.as_ref(), StandardKey::parse)?;
    let pair = parsed(args.private_key.as_ref(), Ed25519Key::parse)?;
    if secret.is_none() && key.is_none() && pair.is_none() {
        bail!(UsageError(
            "nothing to sign with: set POSTRIDER_SECRET, POSTRIDER_STANDARD_SECRET or POSTRIDER_PRIVATE_KEY".to_owned()
        ));
    }
    let id = match args.id {
        Some(id) if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_graphic()) => {
            bail!(UsageError(format!("--id {id:?}: must be 1 to {MAX_ID_BYTES} visible ASCII characters")))
        }
        Some(id) => id,
        None => Uuid::now_v7().to_string(),
    };
    let timestamp_s = args.timestamp.unwrap_or_else(|| SystemClock.now().seconds());
    let body = read_body(&args.file).await?;
    let mut headers = vec![("content-type", "application/json".to_owned())];
    if let Some(secret) = &secret {
        headers.push((header::DECNET_SIGNATURE, decnet_signature(secret, &body)));
        headers.push((header::DECNET_TIMESTAMP, timestamp_s.to_string()));
    }
    let hmac = key.iter().map(|key| standard_signature(key, &id, timestamp_s, &body));
    let ed25519 = pair.iter().map(|pair| ed25519_signature(pair, &id, timestamp_s, &body));
    let signatures: Vec<String> = hmac.chain(ed25519).collect();
    if !signatures.is_empty() {
        headers.push((header::WEBHOOK_ID, id));
        headers.push((header::WEBHOOK_TIMESTAMP, timestamp_s.to_string()));
        headers.push((header::WEBHOOK_SIGNATURE, signatures.join(" ")));
    }
    if output.json && args.curl.is_some() {
        bail!(UsageError("--curl and --json exclude each other".to_owned()));
    }
    if output.json {
        let document: Map<String, Value> =
            headers.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        output.json(&document)?;
    } else if let Some(url) = args.curl {
        output.verbatim(format_args!("{}\n", curl(&url, &headers, &args.file)))?;
    } else {
        for (name, value) in headers {
            output.line(format_args!("{}: {value}", output.paint(NAME, name)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn curl(url: &str, headers: &[(&str, String)], file: &str) -> String {
    let mut words = vec!["curl".to_owned(), "--request POST".to_owned()];
    words.extend(headers.iter().map(|(name, value)| format!("--header {}", quoted(&format!("{name}: {value}")))));
    // Not --data, which takes out line breaks.
    words.push(format!("--data-binary {}", quoted(&format!("@{file}"))));
    words.push(quoted(url));
    words.join(" \\\n  ")
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_takes_a_quoted_word_as_it_is() {
        assert_eq!(quoted("a b$(c)"), "'a b$(c)'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
