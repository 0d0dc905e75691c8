//! Settings of an inlet, validated.

use std::ops::RangeInclusive;

use super::keep::Keep;
use super::patch::{InletPatch, InletSignature};
use super::sender::Sender;
use crate::mapping::{MappingError, Template};

/// The longest name of an inlet, in characters.
pub const MAX_INLET_NAME_CHARS: usize = 64;
/// How far a signed time may be from now by default, in seconds.
pub const DEFAULT_INLET_TOLERANCE_S: u64 = 300;
/// The range of an inlet's tolerance, in seconds.
pub const INLET_TOLERANCE_S: RangeInclusive<u64> = 1..=86_400;

/// A setting that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InletFault {
    pub field: &'static str,
    pub reason: String,
}

/// What an inlet takes, and what it makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InletSettings {
    pub name: String,
    pub enabled: bool,
    pub sender: Sender,
    pub tolerance_s: u64,
    pub topic: Template,
    /// `None`: what the sender is known to say.
    pub kind: Option<Template>,
    /// `None`: what the sender is known to say.
    pub id: Option<Template>,
    pub keep: Keep,
}

impl InletSettings {
    /// Of a new inlet. The error has all faults.
    pub fn create(patch: &InletPatch) -> Result<Self, Vec<InletFault>> {
        Self::checked(patch, None)
    }

    /// With what is given in place of what was. The error has all faults.
    pub fn patched(&self, patch: &InletPatch) -> Result<Self, Vec<InletFault>> {
        let present = self.stored();
        // Another signature has other secrets.
        let keeps_secrets = patch.signature.as_ref().is_none_or(|given| given.0 == self.sender.signature());
        let whole = InletPatch {
            name: patch.name.clone().or_else(|| present.name.clone()),
            signature: patch.signature.clone().or_else(|| present.signature.clone()),
            secrets: patch.secrets.clone().or_else(|| present.secrets.clone().filter(|_| keeps_secrets)),
            tolerance_s: patch.tolerance_s.or(present.tolerance_s),
            topic: patch.topic.clone().or_else(|| present.topic.clone()),
            r#type: patch.r#type.clone().or_else(|| present.r#type.clone()),
            id: patch.id.clone().or_else(|| present.id.clone()),
            keep: patch.keep.clone().or_else(|| present.keep.clone()),
            enabled: patch.enabled.or(present.enabled),
        };
        Self::checked(&whole, keeps_secrets.then_some(self))
    }

    fn checked(patch: &InletPatch, present: Option<&Self>) -> Result<Self, Vec<InletFault>> {
        let mut faults = Vec::new();
        let mut wrong = |field, reason: String| faults.push(InletFault { field, reason });
        let name = patch.name.clone().unwrap_or_default();
        if !(1..=MAX_INLET_NAME_CHARS).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            let reason = format!("must have 1 to {MAX_INLET_NAME_CHARS} characters, none of them a control character");
            wrong("name", reason);
        }
        let secrets = patch.secrets.as_deref().unwrap_or_default();
        let signature = patch.signature.as_ref().map(|InletSignature(signature)| signature);
        let present = present.map_or(&[][..], |present| present.sender.secrets());
        let sender = signature.map(|signature| Sender::parse(signature, secrets, present));
        let sender = match sender {
            Some(Ok(sender)) => Some(sender),
            Some(Err((field, reason))) => {
                wrong(field, reason);
                None
            }
            None => {
                wrong("signature", "is required; `none` takes requests of anyone who knows the URL".to_owned());
                None
            }
        };
        let tolerance_s = patch.tolerance_s.unwrap_or(DEFAULT_INLET_TOLERANCE_S);
        if !INLET_TOLERANCE_S.contains(&tolerance_s) {
            let (least, most) = (INLET_TOLERANCE_S.start(), INLET_TOLERANCE_S.end());
            wrong("tolerance_s", format!("is {tolerance_s}, must be {least} to {most}"));
        }
        let mut template = |field, text: Option<&str>| match text.map(parse).transpose() {
            Ok(template) => template,
            Err(error) => {
                wrong(field, error.to_string());
                None
            }
        };
        let topic = template("topic", Some(patch.topic.as_deref().unwrap_or_default()));
        let not_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let kind = template("type", not_empty(&patch.r#type).as_deref());
        let id = template("id", not_empty(&patch.id).as_deref());
        if let Some(error) = topic.as_ref().and_then(|topic| topic.check_topic().err()) {
            wrong("topic", error.to_string());
        }
        let keep = Keep::parse(&patch.keep.clone().unwrap_or_default()).unwrap_or_else(|reason| {
            wrong("keep", reason);
            Keep::default()
        });
        let enabled = patch.enabled.unwrap_or(true);
        match (sender, topic) {
            (Some(sender), Some(topic)) if faults.is_empty() => {
                Ok(Self { name, enabled, sender, tolerance_s, topic, kind, id, keep })
            }
            _ => Err(faults),
        }
    }

    /// As a patch that brings it back, secrets included.
    #[must_use]
    pub fn stored(&self) -> InletPatch {
        let text = |template: &Option<Template>| template.as_ref().map(|template| template.as_str().to_owned());
        let secrets = self.sender.secrets().iter().map(|(text, _)| text.to_string()).collect();
        InletPatch {
            name: Some(self.name.clone()),
            signature: Some(InletSignature(self.sender.signature())),
            secrets: Some(secrets),
            tolerance_s: Some(self.tolerance_s),
            topic: Some(self.topic.as_str().to_owned()),
            r#type: text(&self.kind),
            id: text(&self.id),
            keep: Some(self.keep.input()),
            enabled: Some(self.enabled),
        }
    }
}

/// A template whose attributes a request may have.
fn parse(text: &str) -> Result<Template, MappingError> {
    let template = Template::parse(text)?;
    let is_attribute = |name: &str| {
        let of_header = |name: &str| http::HeaderName::from_bytes(name.as_bytes()).is_ok();
        matches!(name, "method" | "path")
            || name.strip_prefix("header.").is_some_and(of_header)
            || name.strip_prefix("query.").is_some_and(|name| !name.is_empty())
    };
    let unknown = template.attributes().find(|name| !is_attribute(name)).map(str::to_owned);
    match unknown {
        Some(part) => Err(MappingError::Unknown { part, known: "header.NAME, query.NAME, method and path" }),
        None => Ok(template),
    }
}
