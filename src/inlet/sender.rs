//! Who sends to an inlet, and how a request shows it.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::signing::{
    Ed25519PublicKey, KeyError, KeyKind, Plan, ReceiverKey, SHOWN_SECRET, Secret, SignatureInput, StandardKey, profile,
};

/// The most secrets of a sender that are good at once.
pub const MAX_INLET_SECRETS: usize = 2;
/// The signature of senders that have a token of this server.
pub const BEARER: &str = "bearer";
/// The signature of senders that have none.
pub const NONE: &str = "none";
/// The longest part of an unknown name in an error, in characters.
const SHOWN_CHARS: usize = 64;

/// How a request shows from whom it is.
#[derive(Clone)]
pub enum Sender {
    /// Whoever knows the URL may send.
    Anyone,
    /// By a token of this server that may publish in the inlet's tenant.
    Bearer,
    /// By a signature with one of the secrets.
    Signing { plan: Arc<Plan>, secrets: Vec<(Zeroizing<String>, ReceiverKey)> },
}

/// What names a profile that is known or one's own, and its default templates.
struct Known {
    profile: &'static str,
    kind: Option<&'static str>,
    id: Option<&'static str>,
}

const fn known(profile: &'static str, kind: Option<&'static str>, id: Option<&'static str>) -> Known {
    Known { profile, kind, id }
}

/// What senders are known to say: the type of an event, and an id that is the same when it is sent again. The sources are
/// those of `src/signing/profiles.rs`; for GitLab "Webhooks", delivery headers, and for Slack "The Events API".
const KNOWN: [Known; 10] = [
    known("decnet", Some("/type"), Some("{header.X-DECNET-Event-Id}")),
    known("standard", Some("/type"), Some("{header.webhook-id}")),
    known("ed25519", Some("/type"), Some("{header.webhook-id}")),
    known("svix", Some("/type"), Some("{header.svix-id}")),
    known("github", Some("{header.X-GitHub-Event}"), Some("{header.X-GitHub-Delivery}")),
    known("stripe", Some("/type"), Some("/id")),
    known("shopify", Some("{header.X-Shopify-Topic}"), Some("{header.X-Shopify-Webhook-Id}")),
    known("slack", Some("/event/type"), Some("/event_id")),
    known("outpost", Some("{header.x-outpost-topic}"), Some("{header.x-outpost-event-id}")),
    known("gitlab", Some("{header.X-Gitlab-Event}"), Some("{header.Idempotency-Key}")),
];

impl Sender {
    /// `present` are the secrets that a masked one stands for.
    pub(super) fn parse(
        signature: &SignatureInput,
        given: &[String],
        present: &[(Zeroizing<String>, ReceiverKey)],
    ) -> Result<Self, (&'static str, String)> {
        let without_secrets = |sender| match given {
            [] => Ok(sender),
            _ => Err(("secrets", "are for a signature alone; this inlet has none".to_owned())),
        };
        let plan = match signature {
            SignatureInput::Name(name) if name == NONE => return without_secrets(Self::Anyone),
            SignatureInput::Name(name) if name == BEARER => return without_secrets(Self::Bearer),
            SignatureInput::Name(name) => Arc::clone(profile(name).ok_or_else(|| {
                let name: String = name.chars().take(SHOWN_CHARS).collect();
                ("signature", format!("there is no signature {name:?}; docs/inlets.md has those that there are"))
            })?),
            // Where one ends and the next begins must show: otherwise a signature is good for other requests, too.
            SignatureInput::Profile(own) if own.content.contains("}{") => {
                let reason = "content: two parts need a character between them, as in `{id}.{body}`";
                return Err(("signature", reason.to_owned()));
            }
            SignatureInput::Profile(own) => {
                Arc::new(Plan::new((**own).clone()).map_err(|error| ("signature", error.to_string()))?)
            }
        };
        if given.is_empty() || given.len() > MAX_INLET_SECRETS {
            return Err(("secrets", format!("has {}, must have 1 or {MAX_INLET_SECRETS}", given.len())));
        }
        let (mut present, mut secrets) = (present.iter(), Vec::with_capacity(given.len()));
        for text in given {
            let text = if text == SHOWN_SECRET {
                let (text, _) = present.next().ok_or_else(|| ("secrets", KeyError::SecretMasked.to_string()))?;
                text.clone()
            } else {
                Zeroizing::new(text.clone())
            };
            let key = key(plan.profile().key, &text).map_err(|error| ("secrets", error.to_string()))?;
            secrets.push((text, key));
        }
        Ok(Self::Signing { plan, secrets })
    }

    /// As it is shown and stored.
    #[must_use]
    pub fn signature(&self) -> SignatureInput {
        match self {
            Self::Anyone => NONE.into(),
            Self::Bearer => BEARER.into(),
            Self::Signing { plan, .. } => match profile(&plan.profile().name) {
                Some(known) if Arc::ptr_eq(known, plan) => SignatureInput::Name(plan.profile().name.to_string()),
                _ => SignatureInput::Profile(Box::new(plan.profile().clone())),
            },
        }
    }

    /// The secrets, the first as the first of those given.
    #[must_use]
    pub fn secrets(&self) -> &[(Zeroizing<String>, ReceiverKey)] {
        match self {
            Self::Signing { secrets, .. } => secrets,
            Self::Anyone | Self::Bearer => &[],
        }
    }

    /// The template of the type that it is known to say.
    pub(super) fn known_kind(&self) -> Option<&'static str> {
        self.known().and_then(|known| known.kind)
    }

    /// The template of the id that it is known to say.
    pub(super) fn known_id(&self) -> Option<&'static str> {
        self.known().and_then(|known| known.id)
    }

    /// Whether it is Slack, which asks before it sends.
    pub(super) fn is_slack(&self) -> bool {
        self.known().is_some_and(|known| known.profile == "slack")
    }

    fn known(&self) -> Option<&'static Known> {
        let SignatureInput::Name(name) = self.signature() else { return None };
        KNOWN.iter().find(|known| known.profile == name)
    }
}

fn key(kind: KeyKind, text: &str) -> Result<ReceiverKey, KeyError> {
    match kind {
        KeyKind::Secret => Secret::parse_foreign(text).map(ReceiverKey::Secret),
        KeyKind::Standard => StandardKey::parse(text).map(ReceiverKey::Standard),
        KeyKind::Ed25519 => Ed25519PublicKey::parse(text).map(ReceiverKey::Ed25519),
    }
}

/// By what was given.
impl PartialEq for Sender {
    fn eq(&self, other: &Self) -> bool {
        let texts = |sender: &Self| sender.secrets().iter().map(|(text, _)| text.clone()).collect::<Vec<_>>();
        self.signature() == other.signature() && texts(self) == texts(other)
    }
}

impl Eq for Sender {}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str(NONE),
            Self::Bearer => f.write_str(BEARER),
            Self::Signing { plan, .. } => f.write_str(&plan.profile().name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::profile as known;

    #[test]
    fn where_a_part_of_the_content_ends_must_show() {
        let own = |content: &'static str| {
            let profile = known("stripe").unwrap().profile().clone();
            let own = crate::signing::Profile { name: "acme".into(), content: content.into(), ..profile };
            Sender::parse(&SignatureInput::Profile(Box::new(own)), &["a secret".to_owned()], &[]).map(|_| ())
        };
        assert_eq!(own("{timestamp}.{body}"), Ok(()));
        assert_eq!(own("v1{timestamp}:{body}"), Ok(()));
        let (field, reason) = own("{timestamp}{body}").unwrap_err();
        assert!(field == "signature" && reason.contains("need a character between them"), "{reason}");
    }
}
