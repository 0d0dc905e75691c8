//! Changes of settings, which may be given back whole, as they were shown.

use std::fmt;
use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::App;
use super::body::read_body;
use super::input::{Given, JSON, MAX_SETTINGS_BYTES, media_type, refuse_query};
use super::problem::{FieldError, Problem};

/// Settings that a change may give, beside what is only shown of a thing.
pub(super) trait Changes: DeserializeOwned {
    /// Names of what is shown and cannot be set. A change may give each as it is.
    const READ_ONLY: &'static [&'static str];
    /// Those of them that change by themselves, and are passed over therefore.
    const MOVING: &'static [&'static str];
}

/// A change of settings, and what was given of the fields that are only shown.
pub(super) struct Change<T> {
    pub(super) given: Given<T>,
    shown: Vec<(String, Box<RawValue>)>,
}

impl<T: Changes> Change<T> {
    /// Whether the field, which is only shown, is given.
    pub(super) fn shows(&self, field: &str) -> bool {
        self.shown.iter().any(|(name, _)| name == field)
    }

    /// Refuses what would change a field that is only shown; `current` is the thing as it is shown now.
    pub(super) fn checked(self, current: &impl Serialize) -> Result<Given<T>, Problem> {
        let current = serde_json::to_value(current).map_err(|error| Problem::internal(error.to_string()))?;
        let mut errors = Vec::new();
        for (field, given) in self.shown.iter().filter(|(field, _)| !T::MOVING.contains(&&**field)) {
            let is = &current[field.as_str()];
            if serde_json::from_str::<Value>(given.get()).ok().as_ref() != Some(is) {
                errors.push(FieldError { field: field.clone(), reason: format!("cannot be set; it is {is}") });
            }
        }
        if errors.is_empty() { Ok(self.given) } else { Err(Problem::fields(errors)) }
    }
}

impl<T: Changes> FromRequest<Arc<App>> for Change<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        refuse_query(&request)?;
        media_type(request.headers(), &[JSON])?;
        let received = read_body(&app.bodies, request, MAX_SETTINGS_BYTES).await?;
        // What is no object is refused below, in the words that it always is.
        let Members(members) = serde_json::from_slice(&received.bytes).unwrap_or_default();
        let (shown, settable): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|(name, _)| T::READ_ONLY.contains(&&**name));
        if shown.is_empty() {
            return Ok(Self { given: Given::parse(&received.bytes)?, shown });
        }
        let rest = serde_json::to_vec(&Members(settable)).map_err(|error| Problem::internal(error.to_string()))?;
        Ok(Self { given: Given::parse(&zeroize::Zeroizing::new(rest))?, shown })
    }
}

/// The members of an object in their order, also those that are given twice.
#[derive(Default)]
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
