//! Settings of an inlet as a user gives them, and as a store keeps them.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type as SchemaType};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::keep::KeepInput;
use super::sender::{BEARER, NONE};
use crate::signing::{Profile, SignatureInput, profiles};
use crate::webhook::whole;

/// Settings of an inlet: whole to create one, in part to change one. `null` is like not given.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InletInput, example = json!({
    "name": "github", "signature": "github", "secrets": ["It's a Secret to Everybody"],
    "topic": "github.{header.X-GitHub-Event}"
}))]
pub struct InletPatch {
    /// Unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub name: Option<String>,
    /// How its sender signs (docs/inlets.md).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<InletSignature>,
    /// The sender's secrets, one or, while it changes, two; in the form that its signature has. `…` in place of one stands for
    /// a present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 2)]
    pub secrets: Option<Vec<String>>,
    /// How far a signed time may be from now, in seconds; 300 by default.
    #[serde(default, deserialize_with = "whole::optional", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub tolerance_s: Option<u64>,
    /// A template of the topic: text with `{/json/pointer}`, `{header.NAME}`, `{query.NAME}`, `{method}` and `{path}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 512)]
    pub topic: Option<String>,
    /// A template of the type. Empty: what the sender is known to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512)]
    pub r#type: Option<String>,
    /// A template of the id: what comes again with the same is a duplicate. Empty: what the sender is known to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512)]
    pub id: Option<String>,
    /// What of a request is kept beside its body; replaced as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<KeepInput>,
    /// While it is off, it is not there for senders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl fmt::Debug for InletPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InletPatch").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The name of a known profile, `bearer`, `none`, or a profile of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InletSignature(pub SignatureInput);

impl PartialSchema for InletSignature {
    fn schema() -> RefOr<Schema> {
        let names = profiles().map(|plan| plan.profile().name.to_string());
        let names = names.chain([BEARER, NONE].map(str::to_owned));
        let names = ObjectBuilder::new().schema_type(SchemaType::String).enum_values(Some(names));
        OneOfBuilder::new().item(names).item(Ref::from_schema_name(Profile::name())).into()
    }
}

impl ToSchema for InletSignature {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Profile::name().into_owned(), Profile::schema()));
        Profile::schemas(schemas);
    }
}
