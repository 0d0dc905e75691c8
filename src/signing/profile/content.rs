//! The content that is signed, as a template.

use super::ProfileError;

/// A part of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(Box<str>),
    Id,
    Timestamp,
    Body,
    Method,
    Path,
}

/// The parts of a request, for a content.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) id: &'a str,
    /// As it stands in the request.
    pub(super) timestamp: &'a str,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) body: &'a [u8],
}

impl Parts<'_> {
    /// The pieces of a content, one after the other.
    pub(super) fn of<'a>(self, content: &'a [Part]) -> impl Iterator<Item = &'a [u8]>
    where
        Self: 'a,
    {
        content.iter().map(move |part| match part {
            Part::Text(text) => text.as_bytes(),
            Part::Id => self.id.as_bytes(),
            Part::Timestamp => self.timestamp.as_bytes(),
            Part::Body => self.body,
            Part::Method => self.method.as_bytes(),
            Part::Path => self.path.as_bytes(),
        })
    }
}

/// The parts of `template`.
pub(super) fn parse(template: &str) -> Result<Vec<Part>, ProfileError> {
    const FIELD: &str = "content";
    let mut parts = Vec::new();
    for piece in pieces(template) {
        parts.push(match piece {
            Piece::Placeholder("{id}") => Part::Id,
            Piece::Placeholder("{timestamp}") => Part::Timestamp,
            Piece::Placeholder("{body}") => Part::Body,
            Piece::Placeholder("{method}") => Part::Method,
            Piece::Placeholder("{path}") => Part::Path,
            Piece::Placeholder(found) => {
                return Err(ProfileError::Placeholder { field: FIELD, found: found.to_owned() });
            }
            Piece::Text(text) => {
                if let Some(found) = text.chars().find(|c| c.is_control() && *c != '\n') {
                    return Err(ProfileError::Character { field: FIELD, found });
                }
                Part::Text(text.into())
            }
        });
    }
    Ok(parts)
}

/// A piece of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Text(&'a str),
    /// With its braces.
    Placeholder(&'a str),
}

/// The pieces of a template. A brace is always one of a placeholder.
pub(super) fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (text, placeholder) = rest.split_at(at);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        let end = if placeholder.starts_with('{') { placeholder.find('}').map(|end| end + 1) } else { Some(1) };
        let (placeholder, after) = placeholder.split_at(end.unwrap_or(placeholder.len()));
        pieces.push(Piece::Placeholder(placeholder));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}
