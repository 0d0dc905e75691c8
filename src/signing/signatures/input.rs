//! A signature as JSON: a name, or a profile.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type as SchemaType};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::SignatureInput;
use crate::signing::profile::Profile;
use crate::signing::profiles::profiles;

impl<'de> Deserialize<'de> for SignatureInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = SignatureInput;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a signature or {\"name\": …, \"header\": …, \"content\": …}")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<SignatureInput, E> {
                Ok(SignatureInput::Name(name.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SignatureInput, A::Error> {
                let profile = Profile::deserialize(MapAccessDeserializer::new(map))?;
                Ok(SignatureInput::Profile(Box::new(profile)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl PartialSchema for SignatureInput {
    fn schema() -> RefOr<Schema> {
        let names = profiles().filter(|plan| plan.signs()).map(|plan| plan.profile().name.to_string());
        let names = ObjectBuilder::new().schema_type(SchemaType::String).enum_values(Some(names));
        let profile = utoipa::openapi::Ref::from_schema_name(Profile::name());
        OneOfBuilder::new().item(names).item(profile).into()
    }
}

impl ToSchema for SignatureInput {
    fn name() -> std::borrow::Cow<'static, str> {
        "Signature".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Profile::name().into_owned(), Profile::schema()));
        Profile::schemas(schemas);
    }
}
