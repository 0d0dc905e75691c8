//! A webhook of a vendor while it is translated: settings, state, and all that cannot be carried over.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::found::{Found, place, usable_name, uuid_of};
use crate::clock::UnixMicros;
use crate::signing::{KeyKind, profile};
use crate::store::MAX_TENANT_NAME_CHARS;
use crate::topic::Topic;
use crate::webhook::{
    MAX_METADATA_ENTRIES, MAX_METADATA_KEY_CHARS, MAX_METADATA_VALUE_CHARS, RATE_BURST, RATE_PER_S, TIMEOUT_S,
};

/// A webhook that becomes a [`Found`].
pub(super) struct Draft {
    vendor: &'static str,
    id: String,
    url: String,
    tenant: Option<String>,
    settings: Map<String, Value>,
    state: Map<String, Value>,
    notes: Vec<String>,
    /// Why it cannot be carried over.
    faults: Vec<String>,
}

impl Draft {
    /// The events' payloads alone are sent, as all vendors do. The name is the vendor's id, which nothing else has.
    pub(super) fn new(vendor: &'static str, id: &Value, url: &Value, tenant: Option<&str>) -> Self {
        let (mut notes, mut faults) = (Vec::new(), Vec::new());
        let mut text = |what, value: &Value| {
            value.as_str().map_or_else(
                || {
                    faults.push(format!("its {what} is missing"));
                    String::new()
                },
                str::to_owned,
            )
        };
        let (id, url) = (text("id", id), text("URL", url));
        let mut settings = Map::new();
        settings.insert("name".to_owned(), usable_name(&id, "-", &mut notes).into());
        settings.insert("url".to_owned(), url.as_str().into());
        settings.insert("shape".to_owned(), "payload".into());
        Self { vendor, id, url, tenant: tenant.map(str::to_owned), settings, state: Map::new(), notes, faults }
    }

    pub(super) fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.settings.insert(field.to_owned(), value.into());
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(super) fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    pub(super) fn describe(&mut self, description: &Value) {
        if let Some(text) = description.as_str().filter(|text| !text.trim().is_empty()) {
            let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            self.set("description", plain);
        }
    }

    /// Signs by a known profile with the vendor's key.
    pub(super) fn sign(&mut self, name: &str, key: &Value) {
        let Some(known) = profile(name) else { return self.fault(format!("there is no signature {name:?}")) };
        let field = match known.profile().key {
            KeyKind::Secret => "secret",
            KeyKind::Standard => "standard_secret",
            KeyKind::Ed25519 => return self.fault(format!("{name:?} has no key that is imported")),
        };
        self.set("signatures", json!([name]));
        self.key(field, key);
    }

    pub(super) fn key(&mut self, field: &str, key: &Value) {
        match key.as_str() {
            Some(key) => self.set(field, key),
            None => self.fault("its secret is not shown"),
        }
    }

    /// What its types of events are as topics; `None`: all.
    pub(super) fn topics(&mut self, types: Option<&[Value]>) {
        let Some(types) = types else { return self.set("topic_patterns", json!([">"])) };
        let mut topics: Vec<&str> = Vec::new();
        for kind in types {
            match kind.as_str().map(|kind| (kind, Topic::parse(kind))) {
                Some((kind, Ok(_))) if topics.contains(&kind) => {}
                Some((kind, Ok(_))) => topics.push(kind),
                Some((kind, Err(_))) if kind.contains('*') => {
                    self.faults.push(format!("the wildcard {kind:?} is not carried over"));
                }
                Some((kind, Err(error))) => {
                    self.notes.push(format!("the type {kind:?} is left out, as no topic: it {error}"));
                }
                None => self.notes.push(format!("the type {kind} is left out, as it is no text")),
            }
        }
        if topics.is_empty() {
            self.notes.push("it has no type of event that is a topic, and gets no event".to_owned());
        }
        self.set("topic_patterns", topics);
    }

    /// Adds headers, whose values are texts.
    pub(super) fn headers<'a>(&mut self, headers: impl IntoIterator<Item = (String, &'a Value)>) {
        for (name, value) in headers {
            let Some(value) = value.as_str() else {
                self.fault(format!("its header {name:?} has no single value"));
                continue;
            };
            if ["{{", "{%", "{#"].iter().any(|tag| value.contains(tag)) {
                self.fault(format!("the value of its header {name:?} would be taken for a template"));
                continue;
            }
            if name.eq_ignore_ascii_case("content-type") {
                self.set("content_type", value);
                continue;
            }
            let headers = self.settings.entry("headers").or_insert_with(|| json!({}));
            headers[name] = value.into();
        }
    }

    pub(super) fn metadata(&mut self, metadata: &Value) {
        let mut kept = Map::new();
        for (key, value) in metadata.as_object().into_iter().flatten() {
            let fits = value.as_str().is_some_and(|value| value.chars().count() <= MAX_METADATA_VALUE_CHARS)
                && key.chars().count() <= MAX_METADATA_KEY_CHARS
                && kept.len() < MAX_METADATA_ENTRIES;
            if fits {
                kept.insert(key.clone(), value.clone());
            } else {
                self.note(format!("its metadata {key:?} is left out, which is no text or too much"));
            }
        }
        if !kept.is_empty() {
            self.set("metadata", kept);
        }
    }

    /// So many requests within so many seconds; 0 is no limit.
    pub(super) fn rate(&mut self, requests: &Value, within: Duration) {
        let requests = requests.as_u64().and_then(|requests| u32::try_from(requests).ok()).unwrap_or(0);
        if requests == 0 || within.is_zero() {
            return;
        }
        let per_s = f64::from(requests) / within.as_secs_f64();
        if RATE_PER_S.contains(&per_s) && RATE_BURST.contains(&requests) {
            self.set("rate_limit", json!({"per_s": per_s, "burst": requests}));
        } else {
            self.note(format!("its rate limit of {requests} in {} s is left out", within.as_secs()));
        }
    }

    pub(super) fn timeout(&mut self, seconds: &Value) {
        let Some(seconds) = seconds.as_u64().filter(|seconds| *seconds > 0) else { return };
        let most = *TIMEOUT_S.end();
        if seconds > most {
            self.note(format!("its timeout of {seconds} s becomes {most} s"));
        }
        self.set("timeout_s", seconds.min(most));
    }

    pub(super) fn created_at(&mut self, at: &Value) {
        if let Some(at) = moment(at) {
            self.state.insert("created_at".to_owned(), at.into());
        }
    }

    /// It is off; `why` is given if the vendor has turned it off, and not its owner.
    pub(super) fn turn_off(&mut self, why: Option<&str>, at: &Value) {
        self.set("enabled", false);
        let Some(why) = why else { return };
        self.state.insert("disabled_reason".to_owned(), why.into());
        if let Some(at) = moment(at) {
            self.state.insert("disabled_at".to_owned(), at.into());
        }
        self.note(format!("{why}; it stays off until it is turned on"));
    }

    pub(super) fn finish(self) -> Found {
        let (name, place) = (self.id.clone(), place(&self.url));
        if !self.faults.is_empty() {
            return Found::refused(&name, &place, self.faults.join("; "));
        }
        let row = json!({
            "uuid": uuid::Uuid::try_parse(&self.id).unwrap_or_else(|_| uuid_of(self.vendor, &self.id)),
            "tenant": self.tenant,
            "settings": self.settings,
            "state": self.state,
        });
        Found { name, place, row: Ok(row), notes: self.notes }
    }
}

/// A moment of RFC 3339, as it was.
fn moment(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| text.parse::<UnixMicros>().is_ok())
}

/// The name of the tenant for a vendor's id: of small letters, digits and `-`.
pub(super) fn tenant_of(id: &Value) -> Option<String> {
    let id = id.as_str().filter(|id| !id.is_empty())?;
    // A name is no UUID, so that each of the two names one tenant.
    let prefix = if uuid::Uuid::try_parse(id).is_ok() { "t-" } else { "" };
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    Some(prefix.chars().chain(id.chars().map(plain)).take(MAX_TENANT_NAME_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_a_name_that_it_may_have() {
        assert_eq!(tenant_of(&json!("app_1srOrx2")).unwrap(), "app-1srorx2");
        let uuid = "7d5a6f9e-2f67-4d27-8f1c-0f3b8f6f3f10";
        assert_eq!(tenant_of(&json!(uuid)).unwrap(), format!("t-{uuid}"));
        assert_eq!((tenant_of(&json!("")), tenant_of(&Value::Null)), (None, None));
    }

    #[test]
    fn what_cannot_be_carried_over_is_a_fault_or_a_note() {
        let mut draft = Draft::new("svix", &json!("ep_1"), &json!("https://h.example/a"), Some("blue"));
        draft.topics(Some(&[json!("a.b"), json!("a.b"), json!("a b"), json!(5)]));
        draft.rate(&json!(60), Duration::from_mins(1));
        draft.rate(&json!(0), Duration::ZERO);
        draft.timeout(&json!(90));
        draft.metadata(&json!({"a": "b", "c": 5}));
        draft.describe(&json!("two\nlines"));
        draft.sign("outpost", &json!("secret"));
        draft.headers([("content-type".to_owned(), &json!("application/vnd.shop+json"))]);
        let found = draft.finish();
        assert_eq!(found.notes.len(), 4, "{:?}", found.notes);
        let row = found.row.unwrap();
        assert_eq!(row["settings"]["topic_patterns"], json!(["a.b"]));
        assert_eq!(row["settings"]["rate_limit"], json!({"per_s": 1.0, "burst": 60}));
        assert_eq!((&row["settings"]["secret"], &row["settings"]["timeout_s"]), (&json!("secret"), &json!(60)));
        assert_eq!(row["settings"]["description"], "two lines");
        assert_eq!(row["settings"]["content_type"], "application/vnd.shop+json");

        let mut draft = Draft::new("svix", &Value::Null, &json!(5), None);
        draft.sign("svix", &Value::Null);
        draft.headers([("X-A".to_owned(), &json!("{{ event }}")), ("X-B".to_owned(), &json!(["a", "b"]))]);
        draft.topics(Some(&[json!("user.*")]));
        let reason = draft.finish().row.unwrap_err();
        assert_eq!(reason.split("; ").count(), 6, "{reason}");
    }
}
