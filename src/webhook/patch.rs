//! Settings of a webhook as a user gives them.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Capture;
use super::statuses::StatusItem;
use super::whole::{self, whole};
use crate::delivery::access::{RawAccess, RawAuth, RawClientCertificate, RawProxy, SecretText};
use crate::delivery::receiver::Method;
use crate::delivery::statuses::StatusSpan;
use crate::event::MAX_EVENT_BYTES;
use crate::filter::EventPattern;
use crate::shape::{BatchFormat, ShapeInput};
use crate::signing::SignatureInput;

/// The bodies of a batch together, by default and at most, in bytes.
pub const DEFAULT_BATCH_BYTES: u64 = MAX_EVENT_BYTES as u64;

/// Settings of a webhook: whole to create one, in part to change one. `null` is like not given, but where it is said
/// to be a value.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookInput, example = json!({
    "name": "siem",
    "url": "https://siem.example.com/hooks/decnet",
    "topic_patterns": ["attacker.>", "decky.*.state"]
}))]
pub struct WebhookPatch {
    /// Unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub description: Option<String>,
    /// Where to POST to, `https` or `http`; an address within the network is refused. Where scheme, host or port change,
    /// `headers` and `auth` must be given again. A user name and password before the host become `auth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = "uri")]
    pub url: Option<String>,
    /// `POST`, the default, `PUT` or `PATCH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Method>)]
    pub method: Option<String>,
    /// Topics wanted: `*` stands for one token, a last `>` for one or more. Empty texts are passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256)]
    pub topic_patterns: Option<Vec<String>>,
    /// Names that stand for patterns and add to them: `AttackerDetail`, `DeckyStatus`, `SystemStatus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<SimpleEvent>>)]
    pub simple_events: Option<Vec<String>>,
    /// The key of `X-DECNET-Signature`, and of other signatures that use its text; without it a new webhook gets 32 random
    /// bytes. At least 16 characters with a DECNET signature.
    #[serde(skip_serializing)]
    #[schema(min_length = 1, max_length = 256, write_only)]
    pub secret: Option<String>,
    /// The key of `webhook-signature`, `whsec_` and base64 of 24 to 64 bytes; without it a new webhook gets 32 random bytes.
    #[serde(skip_serializing)]
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]+=*$", write_only)]
    pub standard_secret: Option<String>,
    /// How requests are signed (docs/signatures.md): names of known profiles, and profiles of your own; `decnet` and `standard`
    /// by default. A key pair is made where one is needed and there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 8)]
    pub signatures: Option<Vec<SignatureInput>>,
    /// While it is off, its events are skipped. Turning it on closes the circuit.
    #[serde(default, deserialize_with = "switch", skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// While it is on, deliveries wait: events are accepted and owed, and all go out when it is turned off again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// For the whole attempt; 10 by default.
    #[serde(default, deserialize_with = "whole::optional", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60)]
    pub timeout_s: Option<u64>,
    /// Attempts under way at once; 32 by default.
    #[serde(default, deserialize_with = "whole::optional", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1024)]
    pub max_in_flight: Option<u32>,
    /// Delays between attempts in seconds; `null` is the server's default, `[]` a single attempt.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64, value_type = Option<Vec<f64>>)]
    pub retry_schedule: Option<Option<Vec<f64>>>,
    /// Statuses that are tried again, beside 429 and those from 500 on, as in `[408, "5xx", "520-530"]`; not 410. A status
    /// may be in one of the three lists. What none of them has, the server's lists say, and then the table of answers in
    /// docs/delivery.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64, value_type = Option<Vec<StatusItem>>)]
    pub retry_on: Option<Vec<StatusSpan>>,
    /// Statuses that end a delivery as dead and say nothing against the receiver, beside 400, 409, 411, 413, 414, 415, 422 and
    /// 431.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64, value_type = Option<Vec<StatusItem>>)]
    pub final_on: Option<Vec<StatusSpan>>,
    /// Statuses that are a success, beside 2xx.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64, value_type = Option<Vec<StatusItem>>)]
    pub success_on: Option<Vec<StatusSpan>>,
    /// An event pattern over the answer, `{"status", "headers", "body", "text"}`: an answer with the status of a success is
    /// one only if this matches it, as in `{"body": {"ok": [true]}}`. `null`: what the shape brings, if it brings one.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<EventPattern>)]
    pub success_when: Option<Option<Box<RawValue>>>,
    /// A delivery that is older, counted from the acceptance or the `deliver_at` of its event, is attempted no more and ends as
    /// dead, whatever keeps it waiting; `null` is the server's default, which is none.
    #[serde(default, deserialize_with = "whole::given", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000, value_type = Option<u32>)]
    pub max_age_s: Option<Option<u32>>,
    /// The most attempts a second; `null` is none, the default.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RawRateLimit>)]
    pub rate_limit: Option<Option<RawRateLimit>>,
    /// Deliver in the order of acceptance: each delivery waits until the one before it has ended. One attempt at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordered: Option<bool>,
    /// Send several events in one request; `null` is one each, the default.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RawBatching>)]
    pub batch: Option<Option<RawBatching>>,
    /// Your own notes: up to 32 keys of 64 characters with values of 512; they replace those before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Turn it off for good after so many days without one success while attempts fail; `null` is never, the default.
    #[serde(default, deserialize_with = "whole::given", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 365, value_type = Option<u32>)]
    pub disable_after_days: Option<Option<u32>>,
    /// An event pattern over the whole event, in the syntax of Amazon EventBridge (docs/filters.md), as in
    /// `{"payload": {"score": [{"numeric": [">=", 7]}]}}`; others are skipped. `null`: all events of the topics.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<EventPattern>)]
    pub filter: Option<Option<Box<RawValue>>>,
    /// What the receiver gets (docs/shapes.md): the name of a built-in shape, as `"slack"`, or a template,
    /// `{"template": "…", "content_type": "application/json"}`. `null`: `decnet`, the event as it is.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ShapeInput>)]
    pub shape: Option<Option<ShapeInput>>,
    /// What is kept of attempts beside status, error and times: `failures`, the whole exchange of those that failed, `all` or
    /// `none`; `null` is the server's default. Credentials and the values of `headers` are never kept.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Capture>)]
    pub capture: Option<Option<Capture>>,
    /// Headers beside those that Postrider sets, by name; they replace those before. Values are not shown again; `…`, which
    /// is shown instead, is the value of before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    pub headers: Option<BTreeMap<String, SecretText>>,
    /// `null`: what the shape says, which is `application/json` by default.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub content_type: Option<Option<String>>,
    /// How requests are authorised: `{"type": "basic", "username", "password"}`, `{"type": "bearer", "token"}` or
    /// `{"type": "oauth2", "token_url", "client_id", "client_secret", "scopes", "audience", "resource", "auth_style", "private_key",
    /// "key_id"}`, or `{"type": "login", "url", "method", "username", "password", "body", "token", "lifetime_s", "header"}`; `null`:
    /// not at all.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RawAuth>)]
    pub auth: Option<Option<RawAuth>>,
    /// Certificate authorities in PEM, trusted for this webhook beside the server's; the receiver's own certificate will do.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ca: Option<Option<String>>,
    /// The name that the receiver's certificate must have, and that SNI says; `null`: the host of `url`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 253)]
    pub server_name: Option<Option<String>>,
    /// Mutual TLS: `{"certificate", "key"}` in PEM.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RawClientCertificate>)]
    pub client_certificate: Option<Option<RawClientCertificate>>,
    /// `{"url": "http://…", "https://…" or "socks5://…", "resolve": "here" or "proxy"}`; `here`, the default, keeps the guard over addresses.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RawProxy>)]
    pub proxy: Option<Option<RawProxy>>,
}

/// A rate limit as a user gives it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RateLimit)]
pub struct RawRateLimit {
    /// Attempts per second, also less than one, as in 0.5.
    #[schema(example = 10, maximum = 100_000)]
    pub per_s: f64,
    /// Attempts that may begin at once after a pause; 1 by default, which spaces them evenly.
    #[serde(default = "one", deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 100_000)]
    pub burst: u32,
}

/// Batching as a user gives it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Batching)]
pub struct RawBatching {
    /// A batch is sent when it has so many events.
    #[serde(deserialize_with = "whole")]
    #[schema(example = 100, minimum = 2, maximum = 1000)]
    pub max_events: u32,
    /// Or when its first event has waited so long, in milliseconds.
    #[serde(deserialize_with = "whole")]
    #[schema(example = 500, maximum = 60000)]
    pub max_wait_ms: u64,
    /// Or when another event would make it larger than this; 1 MiB by default. Counted are the events' bodies.
    #[serde(default = "default_batch_bytes", deserialize_with = "whole")]
    #[schema(minimum = 1024, maximum = 1_048_576)]
    pub max_bytes: u64,
    /// How the bodies of a shape become one (docs/delivery.md): `array` or `lines`; what the shape's receivers take, if it is not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<BatchFormat>,
}

/// A name that stands for patterns.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the names of `simple_event_patterns`")]
enum SimpleEvent {
    AttackerDetail,
    DeckyStatus,
    SystemStatus,
}

fn one() -> u32 {
    1
}

fn default_batch_bytes() -> u64 {
    DEFAULT_BATCH_BYTES
}

/// Called where the field is given.
#[expect(clippy::option_option, reason = "as the fields have it")]
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A switch, also in the spellings that clients of the original may use: 1 and 0, and words as `"false"`.
fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    struct Switch;
    impl Visitor<'_> for Switch {
        type Value = bool;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }
        fn visit_bool<E: serde::de::Error>(self, is_on: bool) -> Result<bool, E> {
            Ok(is_on)
        }
        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<bool, E> {
            match number {
                0 => Ok(false),
                1 => Ok(true),
                other => Err(E::invalid_value(Unexpected::Unsigned(other), &self)),
            }
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
            match &*text.to_ascii_lowercase() {
                "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
                "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
                _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
            }
        }
    }
    struct Given(bool);
    impl<'de> Deserialize<'de> for Given {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Switch).map(Self)
        }
    }
    Ok(Option::<Given>::deserialize(deserializer)?.map(|Given(is_on)| is_on))
}

impl WebhookPatch {
    /// `access` with what this names over it, and what is masked as before; `None`: it names nothing of it.
    pub(super) fn access_over(&self, access: &RawAccess) -> Option<RawAccess> {
        let mut changed = access.clone();
        let mut is_named = false;
        let mut set = |is_given: bool| is_named |= is_given;
        set(self.headers.as_ref().map(|headers| changed.headers.clone_from(headers)).is_some());
        set(self.content_type.as_ref().map(|given| changed.content_type.clone_from(given)).is_some());
        set(self.auth.as_ref().map(|given| changed.auth.clone_from(given)).is_some());
        set(self.ca.as_ref().map(|given| changed.ca.clone_from(given)).is_some());
        set(self.server_name.as_ref().map(|given| changed.server_name.clone_from(given)).is_some());
        set(self.client_certificate.as_ref().map(|given| changed.client_certificate.clone_from(given)).is_some());
        set(self.proxy.as_ref().map(|given| changed.proxy.clone_from(given)).is_some());
        is_named.then(|| changed.unmasked(access))
    }

    /// This patch, which also brings `access` back when it is put over the default.
    pub(super) fn with_access(self, access: &RawAccess) -> Self {
        let RawAccess { headers, content_type, auth, ca, server_name, client_certificate, proxy } = access.clone();
        Self {
            headers: (!headers.is_empty()).then_some(headers),
            content_type: content_type.map(Some),
            auth: auth.map(Some),
            ca: ca.map(Some),
            server_name: server_name.map(Some),
            client_certificate: client_certificate.map(Some),
            proxy: proxy.map(Some),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_a_boolean_or_what_the_original_takes_for_one() {
        let read = |value: &str| {
            serde_json::from_str::<WebhookPatch>(&format!(r#"{{"enabled": {value}}}"#)).map(|patch| patch.enabled)
        };
        for on in ["true", "1", r#""true""#, r#""True""#, r#""on""#, r#""yes""#, r#""1""#] {
            assert_eq!(read(on).unwrap(), Some(true), "{on}");
        }
        for off in ["false", "0", r#""false""#, r#""FALSE""#, r#""off""#, r#""no""#, r#""0""#] {
            assert_eq!(read(off).unwrap(), Some(false), "{off}");
        }
        assert_eq!(read("null").unwrap(), None);
        assert_eq!(serde_json::from_str::<WebhookPatch>("{}").unwrap().enabled, None);
        for other in ["2", "-1", "0.5", r#""""#, r#""maybe""#, "[]", "{}"] {
            let error = read(other).unwrap_err().to_string();
            assert!(error.contains("expected true or false"), "{other}: {error}");
        }
    }
}
