//! The settings of a webhook, validated, and the record that a server keeps of it.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::credentials::{needed_again, out_of_url};
use super::error::WebhookError;
use super::patch::WebhookPatch;
use super::policy::{Policy, PolicyError};
use super::{TIMEOUT_S, TenantSeq};
use crate::clock::UnixMicros;
use crate::delivery::access::{Access, SHOWN_SECRET};
use crate::delivery::guard::Destination;
use crate::delivery::id::WebhookSeq;
use crate::delivery::receiver::{DEFAULT_TIMEOUT, Method, Webhook};
use crate::delivery::retry::Schedule;
use crate::event::Event;
use crate::shape::HeaderTemplates;
use crate::signing::{KeyKind, SECRET_CHARS, Scheme, Secret, SignatureInput, Signatures, SigningKeys, StandardKey};
use crate::topic::Pattern;

/// The longest webhook name, in characters.
pub const MAX_NAME_CHARS: usize = 64;
/// The longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 1_024;
/// The most patterns of one webhook.
pub const MAX_PATTERNS: usize = 256;
/// Attempts under way at once for one webhook, by default.
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 32;
/// The values of a webhook's `max_in_flight`.
pub const MAX_IN_FLIGHT: std::ops::RangeInclusive<u32> = 1..=1_024;

/// A webhook as a server keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookRecord {
    pub seq: WebhookSeq,
    pub uuid: Uuid,
    pub tenant: TenantSeq,
    /// The number of changes of the settings, from 1. The newer of two records has the higher version.
    pub version: i64,
    pub settings: WebhookSettings,
    pub health: WebhookHealth,
    /// Set if the server has turned the webhook off; `enabled` is `false` then.
    pub switched_off: Option<SwitchedOff>,
    pub created_at: UnixMicros,
    pub updated_at: UnixMicros,
}

/// A user's settings, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSettings {
    /// 1 to [`MAX_NAME_CHARS`] characters, unique within the tenant.
    pub name: String,
    pub description: String,
    pub receiver: Webhook,
    /// 1 to [`MAX_PATTERNS`], each once.
    pub topic_patterns: Vec<Pattern>,
    pub enabled: bool,
    pub max_in_flight: u32,
    /// `None`: the server's default schedule.
    pub retry_schedule: Option<Schedule>,
    pub policy: Policy,
}

/// The reason and the time of a switch-off by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchedOff {
    /// `gone`, `receiver asked to stop`, or `no success for N days`.
    pub reason: String,
    pub at: UnixMicros,
}

/// The recent results of deliveries to a webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookHealth {
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    pub last_success_at: Option<UnixMicros>,
    pub last_failure_at: Option<UnixMicros>,
    pub last_error: Option<String>,
    /// The time at which the circuit opened; `None`: it is closed.
    pub auto_disabled_at: Option<UnixMicros>,
    /// With an open circuit: the time of the next probe. With a closed one: the end of the rest that the receiver has asked
    /// for, if it has.
    pub probe_at: Option<UnixMicros>,
    /// With an open circuit: the present cool-down, which doubles with each failed probe.
    pub cool_down: Duration,
}

/// The patterns behind DECNET's names for groups of events.
#[must_use]
pub fn simple_event_patterns(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "AttackerDetail" => Some(&["attacker.>"]),
        "DeckyStatus" => Some(&["decky.*.state", "decky.*.traffic"]),
        "SystemStatus" => Some(&["system.>"]),
        _ => None,
    }
}

impl WebhookSettings {
    /// Settings of a new webhook. `name`, `url` and a pattern are required; keys that are not given are generated.
    pub fn create(patch: WebhookPatch) -> Result<Self, Vec<WebhookError>> {
        Self::made(patch, Rules::New)
    }

    /// As [`WebhookSettings::create`], for a webhook that another sender has sent to until now. What its receiver knows is
    /// taken as it is: a secret that is short for its signature or has control characters. It may have no pattern.
    pub fn import(patch: WebhookPatch) -> Result<Self, Vec<WebhookError>> {
        Self::made(patch, Rules::Imported)
    }

    fn made(patch: WebhookPatch, rules: Rules) -> Result<Self, Vec<WebhookError>> {
        let patch = out_of_url(patch).map_err(|error| vec![error])?;
        let mut errors = Vec::new();
        for (field, is_missing) in [("name", patch.name.is_none()), ("url", patch.url.is_none())] {
            if is_missing {
                errors.push(WebhookError::Field { field, reason: "is required".to_owned() });
            }
        }
        if patch.topic_patterns.is_none() && patch.simple_events.is_none() {
            errors.push(WebhookError::NoPattern);
        }
        let mut checked = Checked { errors, rules };
        let url = patch.url.as_deref().and_then(|url| checked.destination(url));
        let keys = SigningKeys::new(
            checked.secret(patch.secret.as_deref()).unwrap_or_else(Secret::generate),
            checked.standard_secret(patch.standard_secret.as_deref()).unwrap_or_else(StandardKey::generate),
        );
        let Some(destination) = url else { return Err(checked.errors) };
        let blank = Self {
            name: String::new(),
            description: String::new(),
            receiver: Webhook {
                destination,
                method: Method::default(),
                keys,
                signatures: Signatures::default(),
                timeout: DEFAULT_TIMEOUT,
                access: Access::default(),
            },
            topic_patterns: Vec::new(),
            enabled: true,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            retry_schedule: None,
            policy: Policy::default(),
        };
        let settings =
            checked.apply(blank, &WebhookPatch { url: None, secret: None, standard_secret: None, ..patch })?;
        signing_faults(&settings.receiver, rules).map(|()| settings)
    }

    /// Whether an event matches these settings. Replay jobs with `include_unmatched` ask this for events that are not
    /// owed to the webhook.
    pub(crate) fn wants(&self, event: &Event) -> bool {
        let is_operational = event.topic().is_operational();
        let mut patterns = self.topic_patterns.iter().filter(|pattern| pattern.is_operational() == is_operational);
        patterns.any(|pattern| pattern.matches(event.topic()))
            && self.policy.filter.as_ref().is_none_or(|filter| filter.matches(event.body()))
    }

    /// The settings that a store keeps as one text, from which [`WebhookSettings::patched`] restores them.
    #[must_use]
    pub fn policy_patch(&self) -> WebhookPatch {
        let (method, signatures) = (self.receiver.method, &self.receiver.signatures);
        WebhookPatch {
            method: (method != Method::default()).then(|| method.as_str().to_owned()),
            // The column has the names, which say all of the schemes.
            signatures: (!signatures.others().is_empty()).then(|| signatures.inputs()),
            ..self.policy.to_patch().with_access(self.receiver.access.raw())
        }
    }

    /// The names of the fields that differ in `new`, as in the API; ascending.
    #[must_use]
    pub fn changed_fields(&self, new: &Self) -> Vec<String> {
        let (receiver, others) = (&self.receiver, &new.receiver);
        let columns = [
            ("name", self.name != new.name),
            ("description", self.description != new.description),
            ("url", receiver.destination != others.destination),
            ("topic_patterns", self.topic_patterns != new.topic_patterns),
            ("secret", receiver.keys.decnet != others.keys.decnet),
            ("standard_secret", receiver.keys.standard != others.keys.standard),
            ("signatures", receiver.signatures != others.signatures),
            ("enabled", self.enabled != new.enabled),
            ("timeout_s", receiver.timeout != others.timeout),
            ("max_in_flight", self.max_in_flight != new.max_in_flight),
            ("retry_schedule", self.retry_schedule != new.retry_schedule),
        ];
        let mut changed: Vec<_> =
            columns.into_iter().filter(|(_, is_other)| *is_other).map(|(name, _)| name.to_owned()).collect();
        // Fields of a stored patch that only one side has, or whose values differ.
        let fields = |settings: &Self| serde_json::to_value(settings.policy_patch()).unwrap_or_default();
        if let (Value::Object(old), Value::Object(new)) = (fields(self), fields(new)) {
            changed
                .extend(old.iter().filter(|(name, value)| new.get(*name) != Some(value)).map(|(name, _)| name.clone()));
            changed.extend(new.keys().filter(|name| !old.contains_key(*name)).cloned());
        }
        changed.sort_unstable();
        // The signatures are compared above, too.
        changed.dedup();
        changed
    }

    /// These settings with `patch` applied. The error has all faults.
    pub fn patched(&self, patch: &WebhookPatch) -> Result<Self, Vec<WebhookError>> {
        let patch = out_of_url(patch.clone()).map_err(|error| vec![error])?;
        Checked { errors: Vec::new(), rules: Rules::New }.apply(self.clone(), &patch)
    }

    /// The settings that a store has kept: these with what [`Self::policy_patch`] has made. What they are together is not
    /// judged again, since it may be from before a rule.
    pub(crate) fn restored(&self, kept: &WebhookPatch) -> Result<Self, Vec<WebhookError>> {
        Checked { errors: Vec::new(), rules: Rules::Kept }.apply(self.clone(), kept)
    }
}

/// Where settings come from, which decides the rules for them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// A user.
    New,
    /// Another sender, whose receiver must notice nothing.
    Imported,
    /// A store, which may have kept them from before a rule.
    Kept,
}

/// Collects all errors, so that a user sees them together.
struct Checked {
    errors: Vec<WebhookError>,
    rules: Rules,
}

impl Checked {
    fn ok<T, E: Into<WebhookError>>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.errors.push(error.into())).ok()
    }

    fn field(&mut self, field: &'static str, reason: String) {
        self.errors.push(WebhookError::Field { field, reason });
    }

    fn destination(&mut self, url: &str) -> Option<Destination> {
        // Otherwise the sign would be taken for a path.
        if url.ends_with(SHOWN_SECRET) {
            self.field("url", "has the sign that stands for its path; give the URL itself".to_owned());
            return None;
        }
        self.ok(Destination::parse(url))
    }

    fn secret(&mut self, text: Option<&str>) -> Option<Secret> {
        let parse = if self.rules == Rules::Imported { Secret::parse_imported } else { Secret::parse_foreign };
        text.and_then(|text| self.ok(parse(text).map_err(WebhookError::Secret)))
    }

    fn standard_secret(&mut self, text: Option<&str>) -> Option<StandardKey> {
        text.and_then(|text| self.ok(StandardKey::parse(text).map_err(WebhookError::StandardSecret)))
    }

    fn apply(
        mut self,
        mut settings: WebhookSettings,
        patch: &WebhookPatch,
    ) -> Result<WebhookSettings, Vec<WebhookError>> {
        if let Some(name) = &patch.name {
            settings.name = self.text("name", name, 1, MAX_NAME_CHARS);
        }
        if let Some(description) = &patch.description {
            settings.description = self.text("description", description, 0, MAX_DESCRIPTION_CHARS);
        }
        let before = settings.receiver.clone();
        let url = patch.url.as_deref().filter(|url| *url != before.destination.masked());
        if let Some(destination) = url.and_then(|url| self.destination(url)) {
            settings.receiver.destination = destination;
        }
        if let Some(method) = &patch.method {
            match Method::ALL.into_iter().find(|known| known.as_str() == method) {
                Some(method) => settings.receiver.method = method,
                None => self.field("method", format!("is {method:?}, must be POST, PUT or PATCH")),
            }
        }
        let is_given = |secret: &&str| *secret != SHOWN_SECRET;
        if let Some(secret) = self.secret(patch.secret.as_deref().filter(is_given)) {
            settings.receiver.keys.decnet = secret;
        }
        if let Some(key) = self.standard_secret(patch.standard_secret.as_deref().filter(is_given)) {
            settings.receiver.keys.standard = key;
        }
        if patch.topic_patterns.is_some() || patch.simple_events.is_some() {
            let patterns = patch.topic_patterns.as_deref().unwrap_or_default();
            settings.topic_patterns = self.patterns(patterns, patch.simple_events.as_deref().unwrap_or_default());
        }
        if let Some(signatures) = patch.signatures.as_deref().and_then(|given| self.signatures(given)) {
            if signatures.need_ed25519() {
                settings.receiver.keys.need_ed25519();
            }
            settings.receiver.signatures = signatures;
        }
        if let Some(enabled) = patch.enabled {
            settings.enabled = enabled;
        }
        if let Some(seconds) = patch.timeout_s {
            self.range("timeout_s", &seconds, &TIMEOUT_S);
            settings.receiver.timeout = Duration::from_secs(seconds);
        }
        if let Some(limit) = patch.max_in_flight {
            self.range("max_in_flight", &limit, &MAX_IN_FLIGHT);
            settings.max_in_flight = limit;
        }
        if let Some(schedule) = &patch.retry_schedule {
            settings.retry_schedule = schedule.as_deref().and_then(|seconds| self.ok(Schedule::from_seconds(seconds)));
        }
        self.reach(&mut settings, patch);
        self.errors.extend(needed_again(&before, &settings.receiver, patch));
        let wrong = settings.policy.apply(patch);
        self.errors
            .extend(wrong.into_iter().map(|PolicyError { field, reason }| WebhookError::Field { field, reason }));
        if self.errors.is_empty() { Ok(settings) } else { Err(self.errors) }
    }

    fn range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        field: &'static str,
        value: &T,
        range: &std::ops::RangeInclusive<T>,
    ) {
        if !range.contains(value) {
            self.field(field, format!("is {value}, must be {} to {}", range.start(), range.end()));
        }
    }

    fn text(&mut self, field: &'static str, text: &str, least: usize, most: usize) -> String {
        let chars = text.chars().count();
        if chars < least || chars > most {
            self.field(field, format!("has {chars} characters, must have {least} to {most}"));
        } else if text.chars().any(char::is_control) {
            self.field(field, "must not have control characters".to_owned());
        } else if least > 0 && text.trim().is_empty() {
            self.field(field, "must not be blank".to_owned());
        }
        text.to_owned()
    }

    fn patterns(&mut self, given: &[String], simple_events: &[String]) -> Vec<Pattern> {
        // The original lists those of the names first.
        let mut texts: Vec<&str> = Vec::new();
        for name in simple_events {
            match simple_event_patterns(name) {
                Some(patterns) => texts.extend(patterns),
                None => self.field(
                    "simple_events",
                    format!("{name:?} is none of AttackerDetail, DeckyStatus and SystemStatus"),
                ),
            }
        }
        // Clients of the original send the empty lines of their forms along.
        texts.extend(given.iter().map(String::as_str).filter(|text| !text.is_empty()));
        if texts.is_empty() && simple_events.is_empty() && self.rules != Rules::Imported {
            self.errors.push(WebhookError::NoPattern);
        }
        if texts.len() > MAX_PATTERNS {
            self.field("topic_patterns", format!("has {} patterns, the limit is {MAX_PATTERNS}", texts.len()));
            return Vec::new();
        }
        let mut patterns = Vec::with_capacity(texts.len());
        for text in texts {
            match Pattern::parse(text) {
                Ok(pattern) if patterns.contains(&pattern) => {}
                Ok(pattern) => patterns.push(pattern),
                Err(error) => self.errors.push(WebhookError::Pattern { pattern: text.to_owned(), error }),
            }
        }
        patterns
    }

    /// How the receiver is reached, and whether signatures, keys and headers go together.
    fn reach(&mut self, settings: &mut WebhookSettings, patch: &WebhookPatch) {
        if let Some(access) = patch.access_over(settings.receiver.access.raw()) {
            match Access::new(access) {
                Ok(access) => {
                    settings.policy.header_templates = self.header_templates(&access);
                    settings.receiver.access = access;
                }
                Err(errors) => self.errors.extend(errors.into_iter().map(WebhookError::from)),
            }
        }
        if self.rules != Rules::Kept {
            self.unused_keys(&settings.receiver.signatures, patch);
        }
        let names_signing = patch.signatures.is_some() || patch.secret.is_some() || patch.standard_secret.is_some();
        if self.rules != Rules::Kept && (names_signing || patch.headers.is_some() || patch.auth.is_some()) {
            self.errors.extend(signing_faults(&settings.receiver, self.rules).err().unwrap_or_default());
        }
    }

    /// Refuses keys that nothing signs with: a user who gives one believes that it does.
    fn unused_keys(&mut self, signatures: &Signatures, patch: &WebhookPatch) {
        let given = [
            ("secret", &patch.secret, KeyKind::Secret, "standard_secret"),
            ("standard_secret", &patch.standard_secret, KeyKind::Standard, "secret"),
        ];
        for (field, value, key, other) in given {
            let is_given = value.as_deref().is_some_and(|value| value != SHOWN_SECRET);
            let names: Vec<&str> = signatures.profiles().map(|profile| &*profile.name).collect();
            if is_given && !names.is_empty() && signatures.profiles().all(|profile| profile.key != key) {
                let names = names.join(", ");
                self.field(field, format!("signs nothing here: `signatures` are {names}; theirs is `{other}`"));
            }
        }
    }

    fn header_templates(&mut self, access: &Access) -> HeaderTemplates {
        let headers = access.raw().headers.iter().map(|(name, value)| (&**name, value.expose()));
        HeaderTemplates::compile(headers).unwrap_or_else(|errors| {
            // A value that was kept from before there were templates is sent as it is.
            if self.rules != Rules::Kept {
                for error in errors {
                    self.field("headers", error.to_string());
                }
            }
            HeaderTemplates::default()
        })
    }

    fn signatures(&mut self, given: &[SignatureInput]) -> Option<Signatures> {
        let parsed = Signatures::parse(given);
        parsed.map_err(|errors| errors.iter().for_each(|error| self.field("signatures", error.to_string()))).ok()
    }
}

/// Checks signatures and keys together, and the headers that the signatures use. The error has all faults.
pub(crate) fn check_signing(receiver: &Webhook) -> Result<(), Vec<WebhookError>> {
    signing_faults(receiver, Rules::New)
}

fn signing_faults(receiver: &Webhook, rules: Rules) -> Result<(), Vec<WebhookError>> {
    let Webhook { signatures, keys, access, .. } = receiver;
    let field = |field, reason| WebhookError::Field { field, reason };
    let mut faults = Vec::new();
    if rules == Rules::New && signatures.contains(Scheme::Decnet) && !keys.decnet.is_long_enough() {
        let reason = format!(
            "has {} characters; a DECNET signature takes one of {} to {}: give another, or leave `decnet` out of `signatures`",
            keys.decnet.expose().chars().count(),
            SECRET_CHARS.start(),
            SECRET_CHARS.end(),
        );
        faults.push(field("secret", reason));
    }
    faults.extend(signatures.check_keys(keys).err().map(|error| field("signatures", error.to_string())));
    faults.extend(access.signature_faults(signatures).into_iter().map(|reason| field("signatures", reason)));
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}
