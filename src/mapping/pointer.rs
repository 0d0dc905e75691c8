//! JSON pointers (RFC 6901).

use std::fmt;

use super::{MAX_MAPPING_BYTES, MappingError};
use crate::filter::document::{Document, Kind, NodeAt, ROOT};

/// Where in a JSON text a value is: `/order/items/0`. The empty pointer is the whole text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    text: Box<str>,
    /// Without escapes.
    tokens: Vec<Box<str>>,
}

impl Pointer {
    pub fn parse(text: &str) -> Result<Self, MappingError> {
        let refused = |reason| MappingError::Pointer { part: text.to_owned(), reason };
        if text.len() > MAX_MAPPING_BYTES {
            return Err(MappingError::TooLong { length: text.len() });
        }
        let mut tokens = text.split('/');
        if tokens.next() != Some("") {
            return Err(refused("it must begin with a slash"));
        }
        let tokens = tokens.map(|token| unescaped(token).ok_or_else(|| refused("a tilde must be ~0, and a slash ~1")));
        Ok(Self { tokens: tokens.collect::<Result<_, _>>()?, text: text.into() })
    }

    /// The pointer as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The value's node. A key that an object has twice leads nowhere, since readers disagree on which of them counts.
    pub(super) fn find(&self, document: &Document<'_>) -> Result<NodeAt, MappingError> {
        let mut here = ROOT;
        for token in &self.tokens {
            let mut found = match document.kind(here) {
                Kind::Object => {
                    let mut members = document.children(here).filter(|member| document.key(*member) == &**token);
                    let found = members.next();
                    if members.next().is_some() {
                        return Err(MappingError::Twice { part: self.to_string() });
                    }
                    found
                }
                Kind::Array => index(token).and_then(|index| document.children(here).nth(index)),
                Kind::String | Kind::Bare => None,
            };
            here = found.take().ok_or_else(|| MappingError::Missing { part: self.to_string() })?;
        }
        Ok(here)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.text.is_empty() { "the whole body" } else { &self.text })
    }
}

/// `None`: a tilde is no escape.
fn unescaped(token: &str) -> Option<Box<str>> {
    let mut pieces = token.split('~');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (stands_for, rest) = match piece.as_bytes().first()? {
            b'0' => ('~', &piece[1..]),
            b'1' => ('/', &piece[1..]),
            _ => return None,
        };
        plain.push(stands_for);
        plain.push_str(rest);
    }
    Some(plain.into())
}

/// An index of an array: digits without zeros before them.
fn index(token: &str) -> Option<usize> {
    let is_index = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    token.parse().ok().filter(|_| is_index)
}
