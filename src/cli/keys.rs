//! Shared by `listen`, `sign` and `verify`: keys as flags, bodies from files, and findings as text.

use std::sync::Arc;

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::UsageError;
use super::output::{BAD, GOOD, Output, WARN};
use crate::clock::UnixMicros;
use crate::event::MAX_BATCH_BYTES;
use crate::signing::{
    self, Ed25519PublicKey, Head, KeyError, KeyKind, Match, Plan, ReceiverKey, ReceiverKeys, Secret, StandardKey,
};

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
    /// Verify another sender's signature, as `stripe` or `github`, or a profile of your own as JSON, with the key of its kind
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

/// What verifies the requests of a receiver.
pub(super) enum Verifier {
    /// DECNET's signatures and those of Standard Webhooks, each with what is wrong with it.
    Known(ReceiverKeys),
    Profile(Arc<Plan>, [ReceiverKey; 1]),
}

/// The result about a signature of this name.
pub(super) struct Judged {
    pub(super) name: String,
    pub(super) result: Result<Match, Vec<Why>>,
}

/// One cause of a failure: its kind in one word, and the text.
pub(super) struct Why {
    kind: &'static str,
    pub(super) text: String,
}

impl ReceiverFlags {
    pub(super) fn verifier(&self) -> anyhow::Result<Verifier> {
        let ed25519 = self.public_key.as_deref().map(Ed25519PublicKey::parse).transpose().map_err(usage)?;
        let standard = parsed(self.standard_secret.as_ref(), StandardKey::parse)?;
        let Some(profile) = &self.profile else {
            let decnet = parsed(self.secret.as_ref(), Secret::parse)?;
            return Ok(Verifier::Known(ReceiverKeys { decnet, standard, ed25519 }));
        };
        let plan = plan(profile)?;
        let secret = parsed(self.secret.as_ref(), Secret::parse_foreign)?;
        let (key, variable) = match plan.profile().key {
            KeyKind::Secret => (secret.map(ReceiverKey::Secret), "POSTRIDER_SECRET"),
            KeyKind::Standard => (standard.map(ReceiverKey::Standard), "POSTRIDER_STANDARD_SECRET"),
            KeyKind::Ed25519 => (ed25519.map(ReceiverKey::Ed25519), "POSTRIDER_PUBLIC_KEY"),
        };
        let name = &plan.profile().name;
        let key = key.ok_or_else(|| UsageError(format!("nothing to verify {name} with: set {variable}")))?;
        Ok(Verifier::Profile(plan, [key]))
    }
}

/// The profile of that name, or of that JSON.
pub(super) fn plan(text: &str) -> anyhow::Result<Arc<Plan>> {
    if text.starts_with('{') {
        let profile = serde_json::from_str(text).map_err(|error| UsageError(format!("--profile: {error}")))?;
        return Ok(Arc::new(Plan::new(profile).map_err(|error| UsageError(format!("--profile: {error}")))?));
    }
    let names = || signing::profiles().map(|plan| &*plan.profile().name).collect::<Vec<_>>().join(", ");
    let unknown = || UsageError(format!("--profile {text:?}: there are {}, and profiles of your own as JSON", names()));
    Ok(Arc::clone(signing::profile(text).ok_or_else(unknown)?))
}

impl Verifier {
    /// Whether there is nothing to verify with.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Known(keys) if keys.is_empty())
    }

    /// One for each signature to verify.
    pub(super) fn judge(&self, head: Head<'_>, body: &[u8], now: UnixMicros, tolerance_s: u64) -> Vec<Judged> {
        match self {
            Self::Known(keys) => {
                let findings = signing::diagnose(keys, head.headers, body, now, tolerance_s);
                let judged = findings.into_iter().map(|finding| Judged {
                    name: finding.scheme.to_string(),
                    result: finding.result.map_err(|diagnosis| {
                        let causes = diagnosis.causes.into_iter();
                        causes.map(|cause| Why { kind: cause.kind(), text: cause.to_string() }).collect()
                    }),
                });
                judged.collect()
            }
            Self::Profile(plan, keys) => {
                let verified = signing::verify(plan, keys, head, body, now, tolerance_s);
                let position = |signature| if signature == 0 { Match::Newest } else { Match::Older };
                let result = verified.map(|verified| position(verified.signature));
                let why = |error: signing::Unverified| vec![Why { kind: error.kind(), text: error.to_string() }];
                vec![Judged { name: plan.profile().name.to_string(), result: result.map_err(why) }]
            }
        }
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
pub(super) fn mark(judged: &Judged, output: Output) -> String {
    let name = &judged.name;
    match &judged.result {
        Ok(Match::Newest) => output.paint(GOOD, format_args!("✓ {name}")),
        Ok(Match::Older) => output.paint(WARN, format_args!("✓ {name} (an older key: take the new one)")),
        Err(causes) => output.paint(BAD, format_args!("✗ {name} ({})", reason(causes))),
    }
}

/// The causes with semicolons between.
pub(super) fn reason(causes: &[Why]) -> String {
    causes.iter().map(|why| &*why.text).collect::<Vec<_>>().join("; ")
}

/// The same for programs.
pub(super) fn document(judged: &Judged) -> Value {
    match &judged.result {
        Ok(found) => json!({ "ok": true, "key": if *found == Match::Newest { "newest" } else { "older" } }),
        Err(causes) => {
            let causes = causes.iter().map(|why| json!({ "kind": why.kind, "reason": why.text }));
            json!({ "ok": false, "causes": causes.collect::<Vec<_>>() })
        }
    }
}
