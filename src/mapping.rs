//! Mappings: how an origin's message becomes an event. A template takes a topic, a type or an id from a message of a broker
//! or a request of a sender, and a pointer takes the payload. Pure.
//!
//! A template is text with placeholders, as in `orders.{subject}` or `stripe.{/type}`. A placeholder that begins with `/` is
//! a JSON pointer (RFC 6901) into the body, and any other is an attribute, whose names are the origin's. A text that begins
//! with `/` is a pointer as a whole.

mod pointer;
mod reading;

use std::borrow::Cow;

use bytes::Bytes;

pub use self::pointer::Pointer;
pub use self::reading::Reading;
use crate::topic::{Topic, TopicError};

/// The longest template or pointer, in bytes.
pub const MAX_MAPPING_BYTES: usize = 512;
/// The most texts and placeholders in a template.
pub const MAX_MAPPING_PARTS: usize = 32;
/// The longest text that a template makes, in bytes.
pub const MAX_MAPPED_BYTES: usize = 1_024;

/// What a template looks into: a message with its attributes, such as `subject` or `header.X-GitHub-Event`.
pub trait Lookup {
    /// The attribute of that name; `None`: the message has none.
    fn attribute(&self, name: &str) -> Option<Cow<'_, str>>;
    /// The body, which pointers are about. It need not be JSON unless a pointer looks into it.
    fn body(&self) -> &[u8];
}

/// The reason why a text is no template, or why a message gives it no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    #[error("must not be empty")]
    Empty,
    #[error("is {length} bytes long, the limit is {MAX_MAPPING_BYTES}")]
    TooLong { length: usize },
    #[error("has more than {MAX_MAPPING_PARTS} parts")]
    TooManyParts,
    #[error("has a brace at byte {at} that belongs to no placeholder; a placeholder is {{/pointer}} or {{attribute}}")]
    Brace { at: usize },
    #[error("{part:?} is no JSON pointer: {reason}")]
    Pointer { part: String, reason: &'static str },
    #[error("{part:?} is no attribute; it must be visible ASCII without braces")]
    Attribute { part: String },
    /// For an origin that knows which attributes there are.
    #[error("there is no attribute {part:?}; there are {known}")]
    Unknown { part: String, known: &'static str },
    /// Of a message, as are all that follow.
    #[error("{part} is missing")]
    Missing { part: String },
    #[error("{part} is {found}, must be a string, a number, true or false")]
    NoText { part: String, found: &'static str },
    #[error("{part} is there more than once")]
    Twice { part: String },
    #[error("the body is no JSON, and {part} looks into it: byte {at}: {reason}")]
    NoJson { part: String, at: usize, reason: String },
    #[error("{part} makes the text longer than {MAX_MAPPED_BYTES} bytes")]
    TextTooLong { part: String },
    #[error("{text:?} is no topic: {error}")]
    Topic { text: String, error: TopicError },
}

/// A text with placeholders, parsed.
///
/// ```
/// use std::borrow::Cow;
/// use postrider::mapping::{Lookup, MappingError, Template};
///
/// struct Message;
///
/// impl Lookup for Message {
///     fn attribute(&self, name: &str) -> Option<Cow<'_, str>> {
///         (name == "subject").then_some(Cow::Borrowed("orders.created"))
///     }
///     fn body(&self) -> &[u8] {
///         br#"{"order": {"id": 17, "tags": ["new customer"]}}"#
///     }
/// }
///
/// assert_eq!(Template::parse("shop.{subject}")?.render(&Message)?, "shop.orders.created");
/// assert_eq!(Template::parse("/order/id")?.render(&Message)?, "17");
/// assert_eq!(Template::parse("{subject}.{/order/tags/0}")?.topic(&Message)?.as_str(), "orders.created.new_customer");
/// assert_eq!(Template::parse("/order/name")?.render(&Message).unwrap_err().to_string(), "/order/name is missing");
/// # Ok::<(), MappingError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Pointer(Pointer),
    Attribute(Box<str>),
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, MappingError> {
        check_length(text)?;
        let mut parts = Vec::new();
        let mut rest = if text.starts_with('/') {
            parts.push(Part::Pointer(Pointer::parse(text)?));
            ""
        } else {
            text
        };
        while !rest.is_empty() {
            if parts.len() == MAX_MAPPING_PARTS {
                return Err(MappingError::TooManyParts);
            }
            let part = if let Some(inside) = rest.strip_prefix('{') {
                let stray = || MappingError::Brace { at: text.len() - rest.len() };
                let (inside, after) = inside.split_once('}').ok_or_else(stray)?;
                rest = after;
                placeholder(inside)?
            } else {
                let (literal, after) = rest.split_at(rest.find(['{', '}']).unwrap_or(rest.len()));
                if literal.is_empty() {
                    return Err(MappingError::Brace { at: text.len() - rest.len() });
                }
                rest = after;
                Part::Text(literal.into())
            };
            parts.push(part);
        }
        Ok(Self { text: text.into(), parts })
    }

    /// The template as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of its attributes, for an origin that knows which there are.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Attribute(name) => Some(&**name),
            Part::Text(_) | Part::Pointer(_) => None,
        })
    }

    /// Whether what stands between its placeholders can be in a topic.
    pub fn check_topic(&self) -> Result<(), MappingError> {
        let text: String = self.parts.iter().map(|part| if let Part::Text(text) = part { text } else { "x" }).collect();
        topic_of(text).map(drop)
    }

    /// The text that the message gives. [`Reading`] is for several templates over one message.
    pub fn render(&self, message: &impl Lookup) -> Result<String, MappingError> {
        Reading::new(message).render(self)
    }

    /// The topic that the message gives, as [`Reading::topic`] says.
    pub fn topic(&self, message: &impl Lookup) -> Result<Topic, MappingError> {
        Reading::new(message).topic(self)
    }
}

/// The part of `body` to which `pointer` leads, as it stands there.
///
/// ```
/// use postrider::mapping::{MappingError, Pointer, payload_of};
///
/// let body = br#"{"after": {"total": 1.50, "id": 12345678901234567890}}"#[..].into();
/// assert_eq!(payload_of(&Pointer::parse("/after")?, &body)?, r#"{"total": 1.50, "id": 12345678901234567890}"#);
/// # Ok::<(), MappingError>(())
/// ```
pub fn payload_of(pointer: &Pointer, body: &Bytes) -> Result<Bytes, MappingError> {
    let part = reading::Body(body);
    let json = Reading::new(&part).json(pointer)?;
    Ok(body.slice_ref(json.as_bytes()))
}

fn check_length(text: &str) -> Result<(), MappingError> {
    match text.len() {
        0 => Err(MappingError::Empty),
        1..=MAX_MAPPING_BYTES => Ok(()),
        length => Err(MappingError::TooLong { length }),
    }
}

fn placeholder(inside: &str) -> Result<Part, MappingError> {
    if inside.starts_with('/') {
        return Pointer::parse(inside).map(Part::Pointer);
    }
    let is_name = !inside.is_empty() && inside.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'{');
    if is_name { Ok(Part::Attribute(inside.into())) } else { Err(MappingError::Attribute { part: inside.to_owned() }) }
}

fn topic_of(text: String) -> Result<Topic, MappingError> {
    Topic::parse(&text).map_err(|error| MappingError::Topic { text, error })
}

#[cfg(test)]
mod tests;
