//! Changes of settings, which may be given back whole, as they were shown.

use std::fmt;
use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::App;
use super::body::read_body;
use super::input::{Given, JSON, MAX_SETTINGS_BYTES, media_type, refuse_query};
use super::problem::{FieldError, Problem};

/// The settings of a resource that can be changed, beside its read-only fields.
pub(super) trait Changes: DeserializeOwned {
    /// Names of read-only fields. A change may give each with its present value.
    const READ_ONLY: &'static [&'static str];
    /// Read-only fields that change by themselves, and are therefore ignored.
    const MOVING: &'static [&'static str];
}

/// Documents `T` for a new resource: these fields are needed.
pub(super) fn new_schema<T: ToSchema>(needed: &[&str], description: &str) -> RefOr<Schema> {
    let needed = needed.iter().fold(ObjectBuilder::new(), |object, field| object.required(*field));
    AllOfBuilder::new().item(Ref::from_schema_name(T::name())).item(needed).description(Some(description)).into()
}

/// The schemas that [`new_schema`] refers to.
pub(super) fn new_schemas<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

/// Documents `T` for a resource that is there: what is shown of it, as `Shown`, is taken back.
pub(super) fn change_schema<T: Changes + PartialSchema, Shown: PartialSchema>() -> RefOr<Schema> {
    let (mut change, shown) = (T::schema(), Shown::schema());
    if let (RefOr::T(Schema::Object(change)), RefOr::T(Schema::Object(shown))) = (&mut change, shown) {
        let fields = shown.properties.into_iter();
        change.properties.extend(fields.filter(|(name, _)| T::READ_ONLY.contains(&name.as_str())));
    }
    change
}

/// A change of settings, with the given read-only fields.
pub(super) struct Change<T> {
    pub(super) given: Given<T>,
    shown: Vec<(String, Box<RawValue>)>,
}

impl<T: Changes> Change<T> {
    /// Whether a read-only field is given.
    pub(super) fn shows(&self, field: &str) -> bool {
        self.shown.iter().any(|(name, _)| name == field)
    }

    /// Refuses changes of read-only fields. `current` is the resource as it is shown now.
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
        // A body that is no object is refused below, with the usual error.
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

/// The members of an object in their order, duplicates included.
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
