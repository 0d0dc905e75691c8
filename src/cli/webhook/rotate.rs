//! `postrider webhook rotate-secret`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::super::UsageError;
use super::super::output::{self, NAME, Output, STRONG};
use super::super::remote::Remote;
use super::{Named, keys, signing};
use crate::config::{Span, parse_span};

#[derive(Debug, clap::Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    named: Named,
    /// Sign with the keys of before too for this long, 0s to 7d; 0s ends all of them at once [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    overlap: Option<Duration>,
    /// The new secret of `decnet`, `github`, `stripe` and others; 1 to 256 characters, with `decnet` 16 or more
    /// [default: made by the server]
    #[arg(long, env = "POSTRIDER_SECRET", hide_env_values = true)]
    secret: Option<SecretString>,
    /// The new key of `standard` and `svix` [default: made by the server]
    #[arg(long, value_name = "WHSEC", env = "POSTRIDER_STANDARD_SECRET", hide_env_values = true)]
    standard_secret: Option<SecretString>,
}

pub(super) async fn run(remote: &Remote, rotate: Rotate, output: Output) -> anyhow::Result<ExitCode> {
    let mut fields: Map<String, Value> = keys(rotate.secret, rotate.standard_secret).collect();
    if let Some(overlap) = rotate.overlap {
        if overlap.subsec_nanos() > 0 {
            bail!(UsageError(format!("--overlap {}: must be whole seconds", Span(overlap))));
        }
        fields.insert("overlap_s".to_owned(), overlap.as_secs().into());
    }
    let uuid = remote.webhook(&rotate.named.webhook).await?;
    let webhook = remote.get(&["webhooks", &uuid], &[]).await?.value;
    let answer = remote.post(&["webhooks", &uuid, "rotate-secret"], &fields.into()).await?;
    if output.answer(&answer)? {
        return Ok(ExitCode::SUCCESS);
    }
    let rotated = &answer.value;
    let mut shown = vec![("webhook", output.paint(STRONG, &rotate.named.webhook))];
    shown.extend(signing::keys_in_use(&webhook, rotated, output));
    if !rotated["public_key"].is_null() {
        shown.push(("public key", output.paint(NAME, output::text(rotated, "public_key"))));
    }
    let overlaps = !rotated["previous_valid_until"].is_null();
    if overlaps {
        shown.push(("old keys until", output::moment(rotated, "previous_valid_until")));
    }
    output.fields(&shown)?;
    output.note("\nThese keys are new, and are shown this once.");
    if overlaps {
        for line in signing::advice(&webhook) {
            output.note(line);
        }
    } else {
        output.note("The old keys do not sign any more: give receivers the new ones now.");
    }
    Ok(ExitCode::SUCCESS)
}
