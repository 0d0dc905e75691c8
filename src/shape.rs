//! Shapes: what turns an event into the body that a receiver expects.
//!
//! A shape is `decnet`, the canonical body itself; one of the built-in ones, each a template in `shape/templates`;
//! or a template of one's own. Templates are Jinja, less what cannot be bounded (`shape/subset.rs`). Each is compiled once,
//! when its webhook is validated. A rendering costs at most fuel for its event's size and takes a bounded time, its result
//! is cut off by the writer, and an error names the line.

mod batch;
mod builtin;
mod escape;
mod filters;
mod forward;
mod headers;
mod json;
mod moment;
mod number;
mod source;
mod subset;
mod template;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Type as SchemaType};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

pub use self::batch::MAX_MERGED_EVENTS;
pub(crate) use self::batch::{BatchForm, Member};
use self::builtin::Answers;
pub use self::builtin::{Builtin, builtins, sample};
pub(crate) use self::forward::{Header, Whole};
pub use self::headers::{
    HeaderTemplateError, HeaderTemplates, MAX_HEADER_TEMPLATES, MAX_RENDERED_HEADER_BYTES, is_header_template,
};
pub use self::subset::{MAX_ELIFS, MAX_TAG_TOKENS};
use self::template::Template;
use crate::clock::UnixMicros;
use crate::delivery::statuses::StatusLists;
use crate::event::media::is_json;
use crate::event::{Event, MAX_EVENT_BYTES};
use crate::filter::Filter;

/// The longest template, in bytes of UTF-8.
pub const MAX_TEMPLATE_BYTES: usize = 64 * 1024;
/// The longest content type of a template, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;
/// The largest body that a shape makes, in bytes: the largest event, with room for text around it.
pub const MAX_SHAPED_BYTES: usize = MAX_EVENT_BYTES + 64 * 1024;
/// The timeout of a rendering. It takes effect beside the fuel if the machine is busy, or if an instruction costs more
/// than its fuel suggests.
pub const MAX_RENDERING_TIME: Duration = Duration::from_secs(2);
/// The longest text of a [`RenderError`], in bytes, as of an attempt's error.
pub const MAX_RENDER_ERROR_BYTES: usize = 512;
/// The name of the shape that sends the event as the original does.
pub const DECNET: &str = "decnet";
/// The name of the shape that sends the payload alone.
pub const PAYLOAD: &str = "payload";
/// The name of the shape that sends on what came in at an inlet.
pub const FORWARD: &str = "forward";
/// The media type of bodies whose shape names no other.
pub const JSON: &str = "application/json";

/// A shape as a user gives it: the name of a built-in one, or a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Shape)]
pub enum ShapeInput {
    #[schema(value_type = ShapeName)]
    Name(String),
    Template(TemplateInput),
}

/// How the bodies of a batch are put together, where the shape leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchFormat {
    /// `[…,…]`, for bodies of JSON.
    Array,
    /// Each body in a line of its own.
    Lines,
}

/// A template of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ShapeTemplate)]
pub struct TemplateInput {
    /// Jinja, at most 64 KiB; what of it may be used is in the documentation of shapes.
    #[schema(max_length = 65536)]
    pub template: String,
    /// `application/json` if it is not given; a result that is JSON by this is checked to be.
    #[serde(default = "default_content_type", deserialize_with = "content_type_or_default")]
    #[schema(max_length = 255, value_type = Option<String>)]
    pub content_type: String,
}

fn content_type_or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(default_content_type))
}

/// The name of a built-in shape.
struct ShapeName;

impl PartialSchema for ShapeName {
    fn schema() -> RefOr<Schema> {
        let names = builtins().iter().map(|builtin| builtin.name);
        ObjectBuilder::new().schema_type(SchemaType::String).enum_values(Some(names)).into()
    }
}

impl ToSchema for ShapeName {}

fn default_content_type() -> String {
    JSON.to_owned()
}

impl<'de> Deserialize<'de> for ShapeInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ShapeInput;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a shape or {\"template\": …, \"content_type\": …}")
            }
            fn visit_str<E>(self, name: &str) -> Result<ShapeInput, E> {
                Ok(ShapeInput::Name(name.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ShapeInput, A::Error> {
                TemplateInput::deserialize(MapAccessDeserializer::new(map)).map(ShapeInput::Template)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The reason why a shape was refused. Answered with 422.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("there is no shape {0:?}; there are {names}, and templates of your own", names = builtin::names())]
    Unknown(String),
    #[error("the template is {length} bytes long, the limit is {MAX_TEMPLATE_BYTES}")]
    TooLong { length: usize },
    #[error("the template does not parse: {0}")]
    Template(TemplateError),
    #[error("content_type: {0:?} is no media type; it looks like application/json")]
    ContentType(String),
}

/// An error of a template that does not parse, or uses a part of the language that is not allowed. Lines and columns
/// count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    pub line: usize,
    pub column: Option<usize>,
    pub reason: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "line {}, column {column}: {}", self.line, self.reason),
            None => write!(f, "line {}: {}", self.line, self.reason),
        }
    }
}

/// The reason why the rendering of an event failed. The text begins with `shape: `, or with `headers: ` and the name of the
/// header, and has at most [`MAX_RENDER_ERROR_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderError {
    /// The template's line, from 1; `None`: the result as a whole is at fault.
    pub line: Option<usize>,
    pub reason: String,
    /// The timeout ended the rendering, which may succeed when the machine is less busy.
    pub took_too_long: bool,
    /// The header whose template it is; `None`: it is the shape's.
    pub header: Option<Box<str>>,
}

impl RenderError {
    pub(crate) fn new(line: Option<usize>, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into(), took_too_long: false, header: None }
    }

    pub(crate) fn of_header(self, name: &str) -> Self {
        Self { header: Some(name.into()), ..self }
    }
}

impl fmt::Display for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.header.as_ref().map_or_else(|| "shape".to_owned(), |name| format!("headers: {name}"));
        let text = match self.line {
            Some(line) => format!("{place}: line {line}: {}", self.reason),
            None => format!("{place}: {}", self.reason),
        };
        f.write_str(&text[..text.floor_char_boundary(MAX_RENDER_ERROR_BYTES)])
    }
}

impl std::error::Error for RenderError {}

/// The values for a template beside the event.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub webhook_name: &'a str,
    pub webhook_id: &'a str,
    /// The webhook's own notes.
    pub webhook_metadata: &'a BTreeMap<String, String>,
    pub tenant: &'a str,
    pub delivery_id: &'a str,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The present moment, for receivers that want one if the event's `ts` is no moment.
    pub now: UnixMicros,
}

/// A shape, which turns an event into a body. Clones are cheap; it is compiled once.
#[derive(Clone)]
pub struct Shape(Kind);

#[derive(Clone)]
enum Kind {
    Decnet,
    Payload,
    Forward,
    Builtin(&'static Builtin),
    Custom(Arc<Custom>),
}

struct Custom {
    input: TemplateInput,
    content_type: HeaderValue,
    template: Template,
}

impl Default for Shape {
    fn default() -> Self {
        Self(Kind::Decnet)
    }
}

/// Shapes are equal if their inputs are equal.
impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        self.raw() == other.raw()
    }
}

impl Eq for Shape {}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shape").field(&self.raw()).finish()
    }
}

impl Shape {
    /// Validates and compiles.
    ///
    /// ```
    /// use postrider::shape::{Shape, ShapeError, ShapeInput};
    ///
    /// let shape = Shape::parse(&ShapeInput::Name("slack".to_owned()))?;
    /// assert_eq!(shape.content_type(), "application/json");
    /// # Ok::<(), ShapeError>(())
    /// ```
    pub fn parse(input: &ShapeInput) -> Result<Self, ShapeError> {
        match input {
            ShapeInput::Name(name) if name == DECNET => Ok(Self(Kind::Decnet)),
            ShapeInput::Name(name) if name == PAYLOAD => Ok(Self(Kind::Payload)),
            ShapeInput::Name(name) if name == FORWARD => Ok(Self(Kind::Forward)),
            ShapeInput::Name(name) => {
                // The longest part of an unknown name in an error, in characters.
                const SHOWN_CHARS: usize = 64;
                let unknown = || ShapeError::Unknown(name.chars().take(SHOWN_CHARS).collect());
                builtin::find(name).map(|builtin| Self(Kind::Builtin(builtin))).ok_or_else(unknown)
            }
            ShapeInput::Template(input) => {
                let length = input.template.len();
                if length > MAX_TEMPLATE_BYTES {
                    return Err(ShapeError::TooLong { length });
                }
                let content_type = parse_content_type(&input.content_type)?;
                let template = Template::compile(&input.template).map_err(ShapeError::Template)?;
                Ok(Self(Kind::Custom(Arc::new(Custom { input: input.clone(), content_type, template }))))
            }
        }
    }

    /// Whether the canonical body is sent unchanged.
    #[must_use]
    pub fn is_decnet(&self) -> bool {
        matches!(self.0, Kind::Decnet)
    }

    /// The name of a built-in shape, or `template`.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Decnet => DECNET,
            Kind::Payload => PAYLOAD,
            Kind::Forward => FORWARD,
            Kind::Builtin(builtin) => builtin.name,
            Kind::Custom(_) => "template",
        }
    }

    /// The shape as it was given, to store and to show.
    #[must_use]
    pub fn raw(&self) -> ShapeInput {
        match &self.0 {
            Kind::Custom(custom) => ShapeInput::Template(custom.input.clone()),
            _ => ShapeInput::Name(self.name().to_owned()),
        }
    }

    /// What statuses mean that its receivers answer with.
    #[must_use]
    pub fn statuses(&self) -> &'static StatusLists {
        &Answers::of(self.name()).statuses
    }

    /// Which of its receivers' answers with the status of a success are one.
    #[must_use]
    pub fn success_when(&self) -> Option<&'static Filter> {
        Answers::of(self.name()).success_when.as_ref()
    }

    /// The `Content-Type` of the bodies that it makes; of `forward` unless the event has another.
    #[must_use]
    pub fn content_type(&self) -> HeaderValue {
        match &self.0 {
            Kind::Decnet | Kind::Payload | Kind::Forward => HeaderValue::from_static(JSON),
            Kind::Builtin(builtin) => HeaderValue::from_static(builtin.content_type),
            Kind::Custom(custom) => custom.content_type.clone(),
        }
    }

    /// The event's body, with the content type and the headers that belong to it.
    pub(crate) fn render_whole(&self, event: &Event, context: &Context<'_>) -> Result<Whole, RenderError> {
        match self.0 {
            Kind::Forward => Ok(forward::forwarded(event)),
            _ => {
                Ok(Whole { body: self.render(event, context)?, content_type: self.content_type(), headers: Vec::new() })
            }
        }
    }

    /// Renders the event's body. `decnet` copies nothing.
    ///
    /// A rendering usually takes some microseconds, and is always bounded: see the limits in `docs/shapes.md`.
    pub fn render(&self, event: &Event, context: &Context<'_>) -> Result<Bytes, RenderError> {
        let (template, content_type) = match &self.0 {
            Kind::Decnet => return Ok(event.decnet_body()),
            Kind::Payload => return Ok(event.payload_json()),
            Kind::Forward => return Ok(forward::forwarded(event).body),
            Kind::Builtin(builtin) => (builtin.template()?, builtin.content_type),
            Kind::Custom(custom) => (&custom.template, custom.input.content_type.as_str()),
        };
        let body = template.render(event, context)?;
        if is_json(content_type) {
            serde_json::from_slice::<serde::de::IgnoredAny>(&body).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or_default();
                let reason = format!("the result is no JSON: {what}, in line {line}, column {column} of the result");
                RenderError::new(None, reason)
            })?;
        }
        Ok(body)
    }
}

/// Renders an event for people: the content type, and the body as text.
pub fn preview(shape: &Shape, event: &Event, context: &Context<'_>) -> Result<(HeaderValue, String), RenderError> {
    let Whole { body, content_type, .. } = shape.render_whole(event, context)?;
    Ok((content_type, String::from_utf8_lossy(&body).into_owned()))
}

/// A media type with its parameters, as a header takes it.
fn parse_content_type(text: &str) -> Result<HeaderValue, ShapeError> {
    let refused = || ShapeError::ContentType(text.chars().take(MAX_CONTENT_TYPE_BYTES).collect());
    let is_token = |part: &str| {
        let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !part.is_empty() && part.bytes().all(is_token_byte)
    };
    let media_type = text.split(';').next().unwrap_or_default().trim_end();
    let is_media_type = media_type.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    let is_printable = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if text.len() > MAX_CONTENT_TYPE_BYTES || !is_media_type || !is_printable {
        return Err(refused());
    }
    HeaderValue::from_str(text).map_err(|_| refused())
}

#[cfg(test)]
mod tests;
