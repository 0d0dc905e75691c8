//! A webhook of another sender, in the form in which it is imported.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::Value;
use url::{Position, Url};
use uuid::{Builder, Uuid};

use crate::webhook::MAX_NAME_CHARS;

/// A webhook that was found at another sender.
pub(super) struct Found {
    /// As its sender shows it.
    pub(super) name: String,
    /// Where it delivers to, without what may be secret.
    pub(super) place: String,
    /// A row of the API's import, or why there is none.
    pub(super) row: Result<Value, String>,
    /// What becomes something else.
    pub(super) notes: Vec<String>,
}

impl Found {
    /// One that cannot be imported.
    pub(super) fn refused(name: &str, place: &str, reason: impl Into<String>) -> Self {
        Self { name: name.to_owned(), place: place.to_owned(), row: Err(reason.into()), notes: Vec::new() }
    }
}

/// Host and port of a URL.
pub(super) fn place(url: &str) -> String {
    let parsed = Url::parse(url.trim()).ok();
    parsed.map_or_else(|| "-".to_owned(), |url| url[Position::BeforeHost..Position::AfterPort].to_owned())
}

/// The UUID of a thing of a sender whose ids are none: the same each time (RFC 9562, version 5).
pub(super) fn uuid_of(sender: &str, id: &str) -> Uuid {
    let name = format!("postrider:import:{sender}:{id}");
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[Uuid::NAMESPACE_URL.as_bytes(), name.as_bytes()].concat());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    Builder::from_sha1_bytes(bytes).into_uuid()
}

/// A name that a webhook may have here; one that may be is as it was. `or` is for one of which nothing is left.
pub(super) fn usable_name(name: &str, or: &str, notes: &mut Vec<String>) -> String {
    let plain: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_NAME_CHARS).collect();
    let usable = if plain.trim().is_empty() { or.to_owned() } else { plain };
    if usable != name {
        notes.push(format!("its name becomes {usable:?}: a name is not blank, has no control characters and at most {MAX_NAME_CHARS} others"));
    }
    usable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_each_time_and_another_for_each_sender() {
        // By Python: uuid.uuid5(uuid.NAMESPACE_URL, "postrider:import:svix:ep_1")
        assert_eq!(uuid_of("svix", "ep_1").to_string(), "68cc68dd-7605-5990-989a-346d6bc3ca16");
        assert_ne!(uuid_of("svix", "ep_1"), uuid_of("convoy", "ep_1"));
    }

    #[test]
    fn a_name_that_cannot_be_is_changed_and_said() {
        let mut notes = Vec::new();
        for name in ["plain", "plain ", "unicode é 日本"] {
            assert_eq!(usable_name(name, "or", &mut notes), name);
        }
        assert!(notes.is_empty());
        assert_eq!(usable_name("a\nb", "or", &mut notes), "a b");
        assert_eq!(usable_name(" \t", "or", &mut notes), "or");
        assert_eq!(usable_name(&"x".repeat(65), "or", &mut notes), "x".repeat(64));
        assert_eq!(notes.len(), 3);
    }

    #[test]
    fn a_place_has_no_password_and_no_path() {
        assert_eq!(place("https://me:pw@h.example:8443/token?x"), "h.example:8443");
        assert_eq!(place("nonsense"), "-");
    }
}
