//! A message that several templates look into: its body is parsed once, and only if a pointer is about it.

use std::borrow::Cow;
use std::cell::OnceCell;

use super::{Lookup, MAX_MAPPED_BYTES, MappingError, Part, Pointer, Template, topic_of};
use crate::filter::document::{Document, Invalid, Kind};
use crate::topic::Topic;

/// A message while its event is made.
pub struct Reading<'a, L> {
    message: &'a L,
    document: OnceCell<Result<Document<'a>, Invalid>>,
}

/// A body without attributes.
pub(super) struct Body<'a>(pub(super) &'a [u8]);

impl Lookup for Body<'_> {
    fn attribute(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }

    fn body(&self) -> &[u8] {
        self.0
    }
}

impl<'a, L: Lookup> Reading<'a, L> {
    pub fn new(message: &'a L) -> Self {
        Self { message, document: OnceCell::new() }
    }

    /// The text that the template makes.
    pub fn render(&self, template: &Template) -> Result<String, MappingError> {
        self.text(template, String::push_str)
    }

    /// The topic that the template makes. In a value, each character that no topic may have is an underscore; its dots are
    /// dots of the topic.
    pub fn topic(&self, template: &Template) -> Result<Topic, MappingError> {
        let is_fit = |c: char| c.is_ascii_graphic() && !matches!(c, '*' | '>');
        let push = |text: &mut String, value: &str| text.extend(value.chars().map(|c| if is_fit(c) { c } else { '_' }));
        topic_of(self.text(template, push)?)
    }

    /// The JSON text of a part of the body, as it stands there.
    pub fn json(&self, pointer: &Pointer) -> Result<&'a str, MappingError> {
        let document = self.document(pointer)?;
        Ok(document.json(pointer.find(document)?))
    }

    fn text(&self, template: &Template, push: impl Fn(&mut String, &str)) -> Result<String, MappingError> {
        let mut text = String::new();
        for part in &template.parts {
            let (value, name) = match part {
                Part::Text(literal) => {
                    text.push_str(literal);
                    (Cow::Borrowed(""), &**literal)
                }
                Part::Pointer(pointer) => (Cow::Borrowed(self.scalar(pointer)?), pointer.as_str()),
                Part::Attribute(name) => {
                    let missing = || MappingError::Missing { part: name.to_string() };
                    (self.message.attribute(name).ok_or_else(missing)?, &**name)
                }
            };
            if text.len() + value.len() > MAX_MAPPED_BYTES {
                return Err(MappingError::TextTooLong { part: name.to_owned() });
            }
            push(&mut text, &value);
        }
        Ok(text)
    }

    /// A string without quotes, or the characters of a number, of `true` or of `false`.
    fn scalar(&self, pointer: &Pointer) -> Result<&str, MappingError> {
        let document = self.document(pointer)?;
        let at = pointer.find(document)?;
        let part = || pointer.to_string();
        match document.kind(at) {
            Kind::Object => Err(MappingError::NoText { part: part(), found: "an object" }),
            Kind::Array => Err(MappingError::NoText { part: part(), found: "an array" }),
            Kind::Bare if document.text(at) == "null" => Err(MappingError::Missing { part: part() }),
            Kind::String | Kind::Bare => Ok(document.text(at)),
        }
    }

    /// `pointer` is named in the error of a body that is no JSON.
    fn document(&self, pointer: &Pointer) -> Result<&Document<'a>, MappingError> {
        let document = self.document.get_or_init(|| {
            let body: &'a [u8] = self.message.body();
            let no_text =
                |error: std::str::Utf8Error| Invalid { at: error.valid_up_to(), reason: "is not UTF-8".to_owned() };
            Document::parse(std::str::from_utf8(body).map_err(no_text)?)
        });
        document.as_ref().map_err(|Invalid { at, reason }| MappingError::NoJson {
            part: pointer.to_string(),
            at: *at,
            reason: reason.clone(),
        })
    }
}
