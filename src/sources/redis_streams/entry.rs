//! An entry of a stream → a message.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value as Json};

use super::{ADDED_AT, ENTRY, FIELD, STREAM};
use crate::sources::mapped::MAX_HEADER_BYTES;
use crate::sources::{Message, id_by_place};

/// The value of the setting `field` for a whole entry.
const WHOLE: &str = "*";
/// The attribute that says which field the body of a message is.
const BODY: &str = "body";
/// The attribute with the name of a field that stands in a whole entry as base64, since it is no text.
const NO_TEXT: &str = "no_text";

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: String,
    /// Names and values, in their order; `None`: the entry was deleted.
    pub(super) fields: Option<Vec<(Bytes, Bytes)>>,
}

/// What of an entry is the body of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Field(String),
    /// An object of JSON, whose values are texts.
    Whole,
}

impl Body {
    pub(super) fn of(setting: &str) -> Result<Self, String> {
        match setting {
            "" => Err("field: must not be empty; `*` is the whole entry".to_owned()),
            WHOLE => Ok(Self::Whole),
            name => Ok(Self::Field(name.to_owned())),
        }
    }

    /// An entry without the field becomes a message with the whole of it, so that all of it is kept when it is rejected.
    pub(super) fn message(&self, source: &str, stream: &str, id: &str, fields: &[(Bytes, Bytes)]) -> Message {
        let mut attributes = vec![
            (STREAM.to_owned(), stream.to_owned()),
            (ENTRY.to_owned(), id.to_owned()),
            (ADDED_AT.to_owned(), id.split('-').next().unwrap_or_default().to_owned()),
        ];
        let place = match self {
            Self::Field(wanted) => fields.iter().position(|(name, _)| *name == wanted.as_bytes()),
            Self::Whole => None,
        };
        let (body, is) = if let (Self::Field(name), Some(place)) = (self, place) {
            (fields[place].1.clone(), &**name)
        } else {
            let (body, no_text) = whole(fields);
            attributes.extend(no_text.map(|name| (NO_TEXT.to_owned(), name)));
            (body, WHOLE)
        };
        attributes.push((BODY.to_owned(), is.to_owned()));
        let mut bytes = 0;
        let beside = fields.iter().enumerate().filter(|(index, _)| Some(*index) != place);
        for (_, (name, value)) in beside {
            // Values that are no text are for the body alone.
            let (name, Ok(value)) = (String::from_utf8_lossy(name), std::str::from_utf8(value)) else { continue };
            if bytes + name.len() + value.len() > MAX_HEADER_BYTES {
                continue;
            }
            bytes += name.len() + value.len();
            attributes.push((format!("{FIELD}{name}"), value.to_owned()));
        }
        Message { origin_id: Some(id_by_place(source, format_args!("{stream}-{id}"))), attributes, body }
    }

    /// The message with the body that these settings want: it may have been made with others.
    pub(super) fn of_message<'a>(&self, message: &'a Message) -> Result<Cow<'a, Message>, String> {
        let is_whole = message.attribute(BODY) == Some(WHOLE);
        match self {
            Self::Whole => match message.attribute(NO_TEXT) {
                Some(name) if is_whole => Err(format!("the field {name:?} is no text in UTF-8")),
                _ => Ok(Cow::Borrowed(message)),
            },
            Self::Field(_) if !is_whole => Ok(Cow::Borrowed(message)),
            Self::Field(wanted) => {
                let object: Option<Map<String, Json>> = serde_json::from_slice(&message.body).ok();
                match object.as_ref().and_then(|object| object.get(wanted)) {
                    Some(Json::String(text)) => {
                        Ok(Cow::Owned(Message { body: text.clone().into(), ..message.clone() }))
                    }
                    _ => Err(format!("the entry has no field {wanted:?}")),
                }
            }
        }
    }
}

/// An entry as an object, and the first field whose value is no text. Of a field that is there twice the last one counts.
fn whole(fields: &[(Bytes, Bytes)]) -> (Bytes, Option<String>) {
    let mut no_text = None;
    let mut object = Map::new();
    for (name, value) in fields {
        let name = String::from_utf8_lossy(name).into_owned();
        let value = if let Ok(text) = std::str::from_utf8(value) {
            text.to_owned()
        } else {
            no_text.get_or_insert_with(|| name.clone());
            STANDARD.encode(value)
        };
        object.insert(name, value.into());
    }
    (Json::from(object).to_string().into(), no_text)
}
