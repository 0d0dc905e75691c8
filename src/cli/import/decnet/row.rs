//! A row of DECNET's table, and the webhook that it becomes.

use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::found::{Found, place, usable_name, uuid_of};
use super::patterns;
use crate::clock::UnixMicros;
use crate::signing::SECRET_CHARS;

/// The values of a row. Texts may be missing or something else, since SQLite does not check.
pub(super) struct Row {
    uuid: Text,
    name: Text,
    url: Text,
    secret: Text,
    topic_patterns: Text,
    enabled: bool,
    consecutive_failures: u32,
    last_success_at: Text,
    last_failure_at: Text,
    last_error: Text,
    auto_disabled_at: Text,
    created_at: Text,
}

/// A text, or what stands in its place.
type Text = Result<String, &'static str>;

impl Row {
    /// Of the columns in the order in which they are asked for.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let text = |column| Ok::<_, rusqlite::Error>(text(row.get_ref(column)?));
        let number = |column| {
            Ok::<_, rusqlite::Error>(match row.get_ref(column)? {
                ValueRef::Integer(number) => number,
                _ => 0,
            })
        };
        Ok(Self {
            uuid: text(0)?,
            name: text(1)?,
            url: text(2)?,
            secret: text(3)?,
            topic_patterns: text(4)?,
            enabled: number(5)? != 0,
            consecutive_failures: u32::try_from(number(6)?.max(0)).unwrap_or(u32::MAX),
            last_success_at: text(7)?,
            last_failure_at: text(8)?,
            last_error: text(9)?,
            auto_disabled_at: text(10)?,
            created_at: text(11)?,
        })
    }

    pub(super) fn found(&self) -> Found {
        let (name, url) = (self.name.as_deref().unwrap_or("?"), self.url.as_deref().unwrap_or_default());
        let mut notes = Vec::new();
        match self.translated(&mut notes) {
            Ok(row) => Found { name: name.to_owned(), place: place(url), row: Ok(row), notes },
            Err(reason) => Found::refused(name, &place(url), reason),
        }
    }

    fn translated(&self, notes: &mut Vec<String>) -> Result<Value, String> {
        let needed = |column: &'static str, text: &Text| text.clone().map_err(|is| format!("its {column} is {is}"));
        let (id, name) = (needed("uuid", &self.uuid)?, needed("name", &self.name)?);
        let (url, secret) = (needed("url", &self.url)?, needed("secret", &self.secret)?);
        let topic_patterns = patterns::translated(&needed("topic_patterns", &self.topic_patterns)?, notes)?;
        let uuid = Uuid::try_parse(&id).unwrap_or_else(|_| {
            let uuid = uuid_of("decnet", &id);
            notes.push(format!("its id {id:?} is no UUID and becomes {uuid}"));
            uuid
        });
        let (url, fragment) = url.split_once('#').map_or((&*url, None), |(url, fragment)| (url, Some(fragment)));
        if fragment.is_some() {
            notes.push("its URL's fragment is left out, which is never sent".to_owned());
        }
        if has_user_info(url) {
            notes.push("its URL's user name and password become `auth`, which sends the same header".to_owned());
        }
        if secret.chars().any(char::is_control) {
            notes.push("its secret has control characters, and is taken as it is".to_owned());
        }
        if secret.chars().count() < *SECRET_CHARS.start() {
            notes.push(
                "its secret is short and easy to find, and is taken as it is; change it with its receiver".to_owned(),
            );
        }
        Ok(json!({
            "uuid": uuid,
            "settings": {
                "name": usable_name(&name, &format!("decnet {uuid}"), notes),
                "url": url,
                "secret": secret,
                "topic_patterns": topic_patterns,
                "signatures": ["decnet"],
                "enabled": self.enabled,
            },
            "state": self.state(notes),
        }))
    }

    fn state(&self, notes: &mut Vec<String>) -> Value {
        let mut time = |column: &str, text: &Text| {
            let text = text.as_ref().ok()?;
            let time = moment(text);
            if time.is_none() {
                notes.push(format!("its {column} {text:?} is no time and is left out"));
            }
            time.map(|at| at.to_string())
        };
        let mut state = json!({
            "consecutive_failures": self.consecutive_failures,
            "last_success_at": time("last_success_at", &self.last_success_at),
            "last_failure_at": time("last_failure_at", &self.last_failure_at),
            "last_error": self.last_error.as_ref().ok(),
            "created_at": time("created_at", &self.created_at),
        });
        // DECNET turns off what fails too often, and waits for an admin. It sets nothing when an admin does.
        if let Some(at) = time("auto_disabled_at", &self.auto_disabled_at).filter(|_| !self.enabled) {
            state["disabled_reason"] = "DECNET turned it off after failures".into();
            state["disabled_at"] = at.clone().into();
            state["auto_disabled_at"] = at.into();
            notes.push("DECNET has turned it off after failures; it stays off until it is turned on".to_owned());
        }
        state
    }
}

fn text(value: ValueRef<'_>) -> Text {
    match value {
        ValueRef::Text(bytes) => String::from_utf8(bytes.to_vec()).map_err(|_| "no UTF-8"),
        ValueRef::Null => Err("missing"),
        ValueRef::Integer(_) | ValueRef::Real(_) => Err("a number and no text"),
        ValueRef::Blob(_) => Err("bytes and no text"),
    }
}

fn has_user_info(url: &str) -> bool {
    url::Url::parse(url.trim()).is_ok_and(|url| !url.username().is_empty() || url.password().is_some())
}

/// A moment as `SQLAlchemy` writes it: `2026-05-01 08:09:00.123456`, in UTC without saying so.
fn moment(text: &str) -> Option<UnixMicros> {
    let text = text.trim().replacen(' ', "T", 1);
    text.parse::<jiff::Timestamp>()
        .or_else(|_| format!("{text}Z").parse::<jiff::Timestamp>())
        .ok()
        .map(|at| UnixMicros(at.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_a_fraction_or_none_and_is_in_utc() {
        for (text, expected) in [
            ("2026-05-01 08:09:00.123456", Some("2026-05-01T08:09:00.123456Z")),
            ("2026-05-03 00:00:00", Some("2026-05-03T00:00:00.000000Z")),
            ("2026-05-03T02:00:00+02:00", Some("2026-05-03T00:00:00.000000Z")),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(moment(text).map(|at| at.to_string()).as_deref(), expected, "{text}");
        }
    }
}
