//! `postrider sign`: the headers of a delivery, to try a receiver with.

use std::convert::Infallible;
use std::process::ExitCode;

use anyhow::bail;
use secrecy::SecretString;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::UsageError;
use super::keys::{STANDARD_INPUT, parsed, plan, read_body};
use super::output::{NAME, Output};
use crate::clock::{Clock, SystemClock, UnixMicros};
use crate::signing::{
    Ed25519Key, KeyKind, Secret, Signing, SigningKeys, StandardKey, decnet_signature, ed25519_signature, header,
    standard_signature,
};

/// The longest webhook-id, in bytes.
const MAX_ID_BYTES: usize = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 export POSTRIDER_SECRET=correct-horse-battery\n\
    \x20 postrider sign body.json\n\
    \x20 postrider sign body.json --curl http://127.0.0.1:9000/hook | sh\n\
    \x20 postrider sign body.json --profile github\n\n\
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
    /// Sign as another sender does, as `stripe` or `github`, or by a profile of your own as JSON, with the key of its kind
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// The method of the request, for profiles that sign it
    #[arg(long, value_name = "METHOD", default_value = "POST")]
    method: String,
    /// The path and query of the request, for profiles that sign them; with --curl those of the address
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
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

/// The keys that are given.
struct Keys {
    secret: Option<Secret>,
    standard: Option<StandardKey>,
    pair: Option<Ed25519Key>,
}

pub(super) async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let keys = Keys {
        secret: parsed(
            args.secret.as_ref(),
            if args.profile.is_some() { Secret::parse_foreign } else { Secret::parse },
        )?,
        standard: parsed(args.standard_secret.as_ref(), StandardKey::parse)?,
        pair: parsed(args.private_key.as_ref(), Ed25519Key::parse)?,
    };
    let Keys { secret, standard: key, pair } = &keys;
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
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    match &args.profile {
        None => headers.extend(own(&keys, &id, timestamp_s, &body)),
        Some(profile) => {
            let url = args.curl.as_deref().and_then(|url| url.parse::<http::Uri>().ok());
            let of_url = url.as_ref().and_then(|url| url.path_and_query()).map(http::uri::PathAndQuery::as_str);
            let signing = Signing {
                method: &args.method,
                path: args.path.as_deref().or(of_url).unwrap_or("/"),
                id: &id,
                now: UnixMicros(timestamp_s.saturating_mul(1_000_000)),
                body: &body,
                event_id: &id,
                kind: "",
                topic: None,
            };
            headers.extend(by_profile(&keys, profile, &signing)?);
        }
    }
    if output.json && args.curl.is_some() {
        bail!(UsageError("--curl and --json exclude each other".to_owned()));
    }
    if output.json {
        let document: Map<String, Value> = headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        output.json(&document)?;
    } else if let Some(url) = args.curl {
        output.verbatim(format_args!("{}\n", curl(&args.method, &url, &headers, &args.file)))?;
    } else {
        for (name, value) in headers {
            output.line(format_args!("{}: {value}", output.paint(NAME, &name)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The headers of DECNET's signatures and of those of Standard Webhooks.
fn own(keys: &Keys, id: &str, timestamp_s: i64, body: &[u8]) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let mut push = |name: &str, value: String| headers.push((name.to_owned(), value));
    if let Some(secret) = &keys.secret {
        push(header::DECNET_SIGNATURE, decnet_signature(secret, body));
        push(header::DECNET_TIMESTAMP, timestamp_s.to_string());
    }
    let hmac = keys.standard.iter().map(|key| standard_signature(key, id, timestamp_s, body));
    let ed25519 = keys.pair.iter().map(|pair| ed25519_signature(pair, id, timestamp_s, body));
    let signatures: Vec<String> = hmac.chain(ed25519).collect();
    if !signatures.is_empty() {
        push(header::WEBHOOK_ID, id.to_owned());
        push(header::WEBHOOK_TIMESTAMP, timestamp_s.to_string());
        push(header::WEBHOOK_SIGNATURE, signatures.join(" "));
    }
    headers
}

/// The headers of a profile's signature.
fn by_profile(keys: &Keys, profile: &str, signing: &Signing<'_>) -> anyhow::Result<Vec<(String, String)>> {
    let plan = plan(profile)?;
    let name = &plan.profile().name;
    if !plan.signs() {
        bail!(UsageError(format!("{name} is verified alone: requests are not signed by it")));
    }
    let (is_given, variable) = match plan.profile().key {
        KeyKind::Secret => (keys.secret.is_some(), "POSTRIDER_SECRET"),
        KeyKind::Standard => (keys.standard.is_some(), "POSTRIDER_STANDARD_SECRET"),
        KeyKind::Ed25519 => (keys.pair.is_some(), "POSTRIDER_PRIVATE_KEY"),
    };
    if !is_given {
        bail!(UsageError(format!("nothing to sign {name} with: set {variable}")));
    }
    // The others are not used.
    let secret = keys.secret.clone().unwrap_or_else(Secret::generate);
    let standard = keys.standard.clone().unwrap_or_else(StandardKey::generate);
    let keys = SigningKeys { ed25519: keys.pair.clone(), ..SigningKeys::new(secret, standard) };
    let mut headers = Vec::new();
    let mut push = |name: &str, value: &[u8]| {
        headers.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
        Ok::<(), Infallible>(())
    };
    let Ok(()) = plan.sign(&keys, signing, &mut push);
    let Ok(()) = plan.describe(signing, &mut push);
    Ok(headers)
}

fn curl(method: &str, url: &str, headers: &[(String, String)], file: &str) -> String {
    let mut words = vec!["curl".to_owned(), format!("--request {}", shell_word(method))];
    words.extend(headers.iter().map(|(name, value)| format!("--header {}", quoted(&format!("{name}: {value}")))));
    // Not --data, which takes out line breaks.
    words.push(format!("--data-binary {}", quoted(&format!("@{file}"))));
    words.push(quoted(url));
    words.join(" \\\n  ")
}

/// A word that needs no quotes as it is.
fn shell_word(word: &str) -> String {
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        word.to_owned()
    } else {
        quoted(word)
    }
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
