//! How deliveries to a webhook are made, beyond the basics: what is tried again, how fast, in which order, how many at once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;

use super::Capture;
use super::patch::{DEFAULT_BATCH_BYTES, RawBatching, RawRateLimit, WebhookPatch};
use crate::delivery::statuses::{StatusKind, StatusLists, Statuses};
use crate::event::MAX_BATCH_EVENTS;
use crate::filter::Filter;
use crate::fit::fit;
use crate::shape::{BatchForm, BatchFormat, HeaderTemplates, MAX_MERGED_EVENTS, Shape};

/// The slowest and the fastest rate limit, in attempts per second: from one a day to more than one lane makes.
pub const RATE_PER_S: std::ops::RangeInclusive<f64> = 1.0 / 86_400.0..=100_000.0;
/// How many attempts a rate limit may let through at once.
pub const RATE_BURST: std::ops::RangeInclusive<u32> = 1..=100_000;
/// How many events a batch may have at most.
pub const BATCH_EVENTS: std::ops::RangeInclusive<u32> = 2..=1_000;
/// The longest that a batch may wait for more events, in milliseconds.
pub const MAX_BATCH_WAIT_MS: u64 = 60_000;
/// The most keys in `metadata`.
pub const MAX_METADATA_ENTRIES: usize = 32;
/// The longest key in `metadata`, in characters.
pub const MAX_METADATA_KEY_CHARS: usize = 64;
/// The longest value in `metadata`, in characters.
pub const MAX_METADATA_VALUE_CHARS: usize = 512;
/// After how many days without a success a webhook may be turned off.
pub const DISABLE_AFTER_DAYS: std::ops::RangeInclusive<u32> = 1..=365;

/// How old a delivery may become, in seconds, up to a year.
pub const MAX_AGE_S: std::ops::RangeInclusive<u32> = 1..=31_536_000;

const _: () = assert!(*BATCH_EVENTS.end() as usize <= MAX_BATCH_EVENTS);

/// How deliveries to a webhook are made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Deliveries wait in the store; unlike those of a webhook that is turned off, they are owed.
    pub paused: bool,
    /// What statuses mean, before the server's lists.
    pub statuses: StatusLists,
    /// Which answers with the status of a success are one; `None`: what the shape brings.
    pub success_when: Option<Filter>,
    /// What is older is attempted no more; `None`: what the server says.
    pub max_age: Option<Duration>,
    pub rate_limit: Option<RateLimit>,
    /// Each delivery waits until the one accepted before it has ended.
    pub ordered: bool,
    pub batch: Option<Batching>,
    pub metadata: BTreeMap<String, String>,
    pub disable_after_days: Option<u32>,
    /// Events of the webhook's topics that it does not want are skipped.
    pub filter: Option<Filter>,
    /// What the receiver gets instead of the canonical body.
    pub shape: Shape,
    /// What is kept of the exchanges; `None`: what the server says.
    pub capture: Option<Capture>,
    /// The receiver's headers whose values are templates. They are stored as given, with the others.
    pub header_templates: HeaderTemplates,
}

/// At most `burst + per_s × t` attempts begin within any time `t`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    pub per_s: f64,
    pub burst: u32,
}

/// Several events in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    pub max_events: usize,
    /// How long the first event of a batch waits for others.
    pub max_wait: Duration,
    /// Of the events' bodies together; one larger event goes alone.
    pub max_bytes: usize,
    /// `None`: as the shape has it.
    pub format: Option<BatchFormat>,
}

/// One setting that is wrong.
pub(super) struct PolicyError {
    pub(super) field: &'static str,
    pub(super) reason: String,
}

impl Policy {
    /// Takes over what `patch` names; what is wrong with it is returned and not taken over.
    pub(super) fn apply(&mut self, patch: &WebhookPatch) -> Vec<PolicyError> {
        let mut wrong = Wrong(Vec::new());
        let lists = [&patch.retry_on, &patch.final_on, &patch.success_on];
        for (kind, spans) in StatusKind::ALL.into_iter().zip(lists) {
            if let Some(spans) = spans {
                *self.statuses.list_mut(kind) = Statuses::new(spans.clone());
            }
        }
        if let Err((kind, reason)) = self.statuses.check() {
            wrong.add(kind.name(), reason);
        }
        if let Some(pattern) = &patch.success_when {
            self.success_when = wrong.filter("success_when", pattern.as_deref());
        }
        if let Some(seconds) = patch.max_age_s {
            if let Some(seconds) = seconds {
                wrong.check_range("max_age_s", &seconds, &MAX_AGE_S);
            }
            self.max_age = seconds.map(|seconds| Duration::from_secs(seconds.into()));
        }
        if let Some(limit) = &patch.rate_limit {
            self.rate_limit = limit.map(|limit| wrong.rate_limit(limit));
        }
        if let Some(paused) = patch.paused {
            self.paused = paused;
        }
        if let Some(ordered) = patch.ordered {
            self.ordered = ordered;
        }
        if let Some(batch) = &patch.batch {
            self.batch = batch.map(|batch| wrong.batching(batch));
        }
        if let Some(metadata) = &patch.metadata {
            wrong.check_metadata(metadata);
            self.metadata.clone_from(metadata);
        }
        if let Some(days) = patch.disable_after_days {
            if let Some(days) = days {
                wrong.check_range("disable_after_days", &days, &DISABLE_AFTER_DAYS);
            }
            self.disable_after_days = days;
        }
        if let Some(filter) = &patch.filter {
            self.filter = wrong.filter("filter", filter.as_deref());
        }
        if let Some(shape) = &patch.shape {
            match shape.as_ref().map_or_else(|| Ok(Shape::default()), Shape::parse) {
                Ok(shape) => self.shape = shape,
                Err(error) => wrong.add("shape", error.to_string()),
            }
        }
        if let Some(capture) = patch.capture {
            self.capture = capture;
        }
        match self.batch_form() {
            Some(Err(reason)) => wrong.add("batch.format", reason),
            Some(Ok(BatchForm::Merged)) if self.batch.is_some_and(|batch| batch.max_events > MAX_MERGED_EVENTS) => {
                wrong.add("batch.max_events", format!("is more than the {MAX_MERGED_EVENTS} that Wazuh takes at once"));
            }
            _ => {}
        }
        if self.batch.is_some() && !self.header_templates.is_empty() {
            let reason =
                "goes with fixed values of `headers` only: a batch has no one event that a template could show";
            wrong.add("batch", reason.to_owned());
        }
        wrong.0
    }

    /// How its batches are put together, if it has any; an error says why they cannot be.
    pub(crate) fn batch_form(&self) -> Option<Result<BatchForm, String>> {
        self.batch.map(|batch| self.shape.batch_form(batch.format))
    }

    /// The patch that makes this policy of a default one.
    pub(super) fn to_patch(&self) -> WebhookPatch {
        let default = Self::default();
        let spans = |kind| Some(self.statuses.list(kind).spans().to_vec()).filter(|spans| !spans.is_empty());
        WebhookPatch {
            paused: self.paused.then_some(true),
            retry_on: spans(StatusKind::Retry),
            final_on: spans(StatusKind::Final),
            success_on: spans(StatusKind::Success),
            success_when: self.success_when.as_ref().map(|pattern| pattern.to_raw_value().ok()),
            max_age_s: self.max_age.map(|age| Some(fit(age.as_secs(), u32::MAX))),
            rate_limit: self.rate_limit.map(|limit| Some(limit.to_raw())),
            ordered: self.ordered.then_some(true),
            batch: self.batch.map(|batch| Some(batch.to_raw())),
            metadata: (self.metadata != default.metadata).then(|| self.metadata.clone()),
            disable_after_days: self.disable_after_days.map(Some),
            shape: (self.shape != default.shape).then(|| Some(self.shape.raw())),
            filter: self.filter.as_ref().map(|filter| filter.to_raw_value().ok()),
            capture: self.capture.map(Some),
            ..WebhookPatch::default()
        }
    }
}

impl RateLimit {
    #[must_use]
    pub fn to_raw(self) -> RawRateLimit {
        RawRateLimit { per_s: self.per_s, burst: self.burst }
    }
}

impl Batching {
    #[must_use]
    pub fn to_raw(self) -> RawBatching {
        RawBatching {
            max_events: fit(self.max_events, u32::MAX),
            max_wait_ms: fit(self.max_wait.as_millis(), u64::MAX),
            max_bytes: self.max_bytes as u64,
            format: self.format,
        }
    }
}

/// Collects what is wrong.
struct Wrong(Vec<PolicyError>);

impl Wrong {
    fn add(&mut self, field: &'static str, reason: String) {
        self.0.push(PolicyError { field, reason });
    }

    fn check_range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        field: &'static str,
        value: &T,
        range: &std::ops::RangeInclusive<T>,
    ) {
        if !range.contains(value) {
            self.add(field, format!("is {value}, must be {} to {}", range.start(), range.end()));
        }
    }

    fn filter(&mut self, field: &'static str, given: Option<&RawValue>) -> Option<Filter> {
        Filter::parse(given?.get()).map_err(|error| self.add(field, error.to_string())).ok()
    }

    fn rate_limit(&mut self, RawRateLimit { per_s, burst }: RawRateLimit) -> RateLimit {
        self.check_range("rate_limit.per_s", &per_s, &RATE_PER_S);
        self.check_range("rate_limit.burst", &burst, &RATE_BURST);
        RateLimit { per_s, burst }
    }

    fn batching(&mut self, raw: RawBatching) -> Batching {
        self.check_range("batch.max_events", &raw.max_events, &BATCH_EVENTS);
        self.check_range("batch.max_wait_ms", &raw.max_wait_ms, &(0..=MAX_BATCH_WAIT_MS));
        self.check_range("batch.max_bytes", &raw.max_bytes, &(1_024..=DEFAULT_BATCH_BYTES));
        Batching {
            max_events: raw.max_events as usize,
            max_wait: Duration::from_millis(raw.max_wait_ms),
            max_bytes: usize::try_from(raw.max_bytes).unwrap_or(usize::MAX),
            format: raw.format,
        }
    }

    fn check_metadata(&mut self, metadata: &BTreeMap<String, String>) {
        if metadata.len() > MAX_METADATA_ENTRIES {
            self.add("metadata", format!("has {} keys, the limit is {MAX_METADATA_ENTRIES}", metadata.len()));
        }
        for (key, value) in metadata {
            if key.is_empty() || key.chars().count() > MAX_METADATA_KEY_CHARS {
                self.add("metadata", format!("the key {key:?} must have 1 to {MAX_METADATA_KEY_CHARS} characters"));
            }
            if value.chars().count() > MAX_METADATA_VALUE_CHARS {
                self.add(
                    "metadata",
                    format!("the value of {key:?} has more than {MAX_METADATA_VALUE_CHARS} characters"),
                );
            }
            if key.chars().chain(value.chars()).any(char::is_control) {
                self.add("metadata", format!("{key:?} must not have control characters"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(patch: &str) -> Vec<String> {
        let patch: WebhookPatch = serde_json::from_str(patch).unwrap();
        Policy::default().apply(&patch).into_iter().map(|wrong| format!("{}: {}", wrong.field, wrong.reason)).collect()
    }

    #[test]
    fn a_policy_comes_back_from_its_patch() {
        let patch = r#"{"paused": true, "retry_on": [425, "408", 408.0], "final_on": ["500-503"], "success_on": [409, "3xx"],
            "success_when": {"body": {"ok": [true]}}, "max_age_s": 3600, "rate_limit": {"per_s": 0.5, "burst": 3}, "ordered": true,
            "batch": {"max_events": 10, "max_wait_ms": 250, "max_bytes": 2048, "format": "lines"}, "metadata": {"team": "soc"},
            "disable_after_days": 5, "filter": {"payload": {"score": [{"numeric": [">", 5]}]}},
            "shape": "decnet", "capture": "all"}"#;
        let mut policy = Policy::default();
        assert!(policy.apply(&serde_json::from_str(patch).unwrap()).is_empty());
        assert_eq!(serde_json::to_value(policy.to_patch().retry_on).unwrap(), serde_json::json!([408, 425]));
        let stored = serde_json::to_string(&policy.to_patch()).unwrap();
        let mut again = Policy::default();
        assert!(again.apply(&serde_json::from_str(&stored).unwrap()).is_empty());
        assert_eq!(again, policy);
        assert_eq!(serde_json::to_string(&Policy::default().to_patch()).unwrap(), "{}");
        // null takes a setting back.
        let nothing = r#"{"paused": false, "retry_on": [], "final_on": [], "success_on": [], "success_when": null, "max_age_s": null, "rate_limit": null, "ordered": false, "batch": null, "metadata": {},
            "disable_after_days": null, "filter": null, "capture": null}"#;
        assert!(again.apply(&serde_json::from_str(nothing).unwrap()).is_empty());
        assert_eq!(again, Policy::default());
    }

    #[test]
    fn every_limit_is_kept() {
        let cases = [
            (r#"{"retry_on": ["4xx"], "final_on": [409]}"#, "final_on: 409 is in retry_on as well"),
            (r#"{"final_on": ["500-503"], "success_on": [503]}"#, "success_on: 503 is in final_on as well"),
            (r#"{"success_when": {"status": 200}}"#, "success_when: line 1 column"),
            (r#"{"retry_on": [410]}"#, "turns the webhook off"),
            (r#"{"max_age_s": 0}"#, "max_age_s: is 0, must be 1 to 31536000"),
            (r#"{"rate_limit": {"per_s": 0}}"#, "rate_limit.per_s: is 0"),
            (r#"{"rate_limit": {"per_s": 1e6}}"#, "rate_limit.per_s"),
            (r#"{"rate_limit": {"per_s": 1, "burst": 0}}"#, "rate_limit.burst: is 0"),
            (r#"{"batch": {"max_events": 1, "max_wait_ms": 5}}"#, "batch.max_events: is 1, must be 2 to 1000"),
            (r#"{"batch": {"max_events": 2, "max_wait_ms": 60001}}"#, "batch.max_wait_ms"),
            (r#"{"batch": {"max_events": 2, "max_wait_ms": 5, "max_bytes": 9}}"#, "batch.max_bytes"),
            (r#"{"disable_after_days": 366}"#, "disable_after_days: is 366"),
            (r#"{"filter": {"payload": {"score": [{"numeric": [">"]}]}}}"#, "filter: line 1 column"),
            (r#"{"shape": "slak"}"#, "there is no shape \"slak\""),
            (r#"{"shape": {"template": "a\n{{ event.id"}}"#, "shape: the template does not parse: line 2"),
            (
                r#"{"shape": "slack", "batch": {"max_events": 2, "max_wait_ms": 5}}"#,
                "batch.format: the receivers of slack take one event",
            ),
            (
                r#"{"shape": "wazuh", "batch": {"max_events": 101, "max_wait_ms": 5}}"#,
                "batch.max_events: is more than the 100 that Wazuh takes at once",
            ),
            (
                r#"{"shape": "syslog", "batch": {"max_events": 2, "max_wait_ms": 5, "format": "array"}}"#,
                "batch.format: \"array\" is for bodies of JSON",
            ),
            (r#"{"filter": []}"#, "filter: line 1 column 1"),
            (r#"{"metadata": {"": "x"}}"#, "must have 1 to 64"),
            (r#"{"metadata": {"a": "x\u0000"}}"#, "control characters"),
        ];
        for (patch, reason) in cases {
            let found = refusals(patch);
            assert!(found.iter().any(|text| text.contains(reason)), "{patch}: {found:?}");
        }
        let long = "x".repeat(513);
        assert_eq!(refusals(&format!(r#"{{"metadata": {{"a": "{long}"}}}}"#)).len(), 1);
        let many: BTreeMap<_, _> = (0..33).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(refusals(&serde_json::json!({ "metadata": many }).to_string()).len(), 1);
        assert_eq!(refusals(&serde_json::json!({ "retry_on": (400..465).filter(|status| *status != 410).chain([500]).collect::<Vec<_>>() }).to_string()).len(), 1);
    }
}
