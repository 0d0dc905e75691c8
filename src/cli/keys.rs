//! Shared by `listen`, `sign` and `verify`: keys as flags, bodies from files, and findings as text.

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::UsageError;
use super::output::{BAD, GOOD, Output, WARN};
use crate::event::MAX_BATCH_BYTES;
use crate::signing::{Ed25519PublicKey, Finding, KeyError, Match, ReceiverKeys, Secret, StandardKey};

/// The largest body that is signed or verified, in bytes.
const MAX_BODY_BYTES: usize = MAX_BATCH_BYTES;
/// Stands for standard input where a file is named.
pub(super) const STANDARD_INPUT: &str = "-";

/// The keys of a receiver.
#[derive(Debug, clap::Args)]
pub(super) struct ReceiverFlags {
    /// Verify X-DECNET-Signature with this secret
    #[arg(long, value_name = "SECRET", env = "POSTRIDER_SECRET", hide_env_values = true)]
    secret: Option<SecretString>,
    /// Verify webhook-signature (Standard Webhooks) with this key
    #[arg(long, value_name = "WHSEC", env = "POSTRIDER_STANDARD_SECRET", hide_env_values = true)]
    standard_secret: Option<SecretString>,
    /// Verify the v1a signatures of webhook-signature with this public key
    #[arg(long, value_name = "WHPK", env = "POSTRIDER_PUBLIC_KEY")]
    public_key: Option<String>,
}

impl ReceiverFlags {
    pub(super) fn keys(&self) -> anyhow::Result<ReceiverKeys> {
        Ok(ReceiverKeys {
            decnet: parsed(self.secret.as_ref(), Secret::parse)?,
            standard: parsed(self.standard_secret.as_ref(), StandardKey::parse)?,
            ed25519: self.public_key.as_deref().map(Ed25519PublicKey::parse).transpose().map_err(usage)?,
        })
    }
}

pub(super) fn parsed<T>(
    given: Option<&SecretString>,
    parse: impl FnOnce(&str) -> Result<T, KeyError>,
) -> anyhow::Result<Option<T>> {
    Ok(given.map(|text| parse(text.expose_secret())).transpose().map_err(usage)?)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn usage(error: KeyError) -> UsageError {
    UsageError(error.to_string())
}

/// The unchanged bytes of a file or of standard input.
pub(super) async fn read_body(file: &str) -> anyhow::Result<Vec<u8>> {
    if file == STANDARD_INPUT {
        return read_bounded(tokio::io::stdin(), "standard input").await;
    }
    let opened = tokio::fs::File::open(file).await.with_context(|| format!("cannot read {file}"))?;
    read_bounded(opened, file).await
}

async fn read_bounded(reader: impl AsyncRead + Unpin, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_BODY_BYTES as u64;
    reader.take(limit + 1).read_to_end(&mut bytes).await.with_context(|| format!("cannot read {name}"))?;
    if bytes.len() > MAX_BODY_BYTES {
        bail!(UsageError(format!("{name} is larger than {MAX_BODY_BYTES} bytes")));
    }
    Ok(bytes)
}

/// `✓ decnet`, `✗ standard (why not)`
pub(super) fn mark(finding: &Finding, output: Output) -> String {
    let scheme = finding.scheme;
    match &finding.result {
        Ok(Match::Newest) => output.paint(GOOD, format_args!("✓ {scheme}")),
        Ok(Match::Older) => output.paint(WARN, format_args!("✓ {scheme} (an older key: take the new one)")),
        Err(diagnosis) => output.paint(BAD, format_args!("✗ {scheme} ({diagnosis})")),
    }
}

/// A finding for programs.
pub(super) fn document(finding: &Finding) -> Value {
    match &finding.result {
        Ok(found) => json!({ "ok": true, "key": if *found == Match::Newest { "newest" } else { "older" } }),
        Err(diagnosis) => {
            let causes = diagnosis.causes.iter();
            let causes = causes.map(|cause| json!({ "kind": cause.kind(), "reason": cause.to_string() }));
            json!({ "ok": false, "causes": causes.collect::<Vec<_>>() })
        }
    }
}
