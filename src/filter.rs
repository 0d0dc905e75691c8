//! Filters: which events of its topics a webhook wants, as an event pattern in the syntax of Amazon EventBridge
//! over the whole event. Pure. `docs/filters.md` has the syntax for users.
//!
//! Rules that the published documentation leaves open are those of the open-source Event Ruler, on which
//! EventBridge rests, but for four: a field's name with a dot in it is one name and no path; a field wanted both
//! outside and inside of `$or` must be as both want it; `exists: false` does not depend on the order of names; and the
//! host part of a `cidr` is ignored.

mod compile;
pub(crate) mod document;
mod index;
mod matching;
mod predicate;
mod value;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::value::RawValue;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use self::compile::{Compiled, compile};
use self::document::Document;
pub use self::index::FilterIndex;

/// The longest filter, in bytes as given. EventBridge's own limit is 2,048 characters unless raised.
pub const MAX_FILTER_BYTES: usize = 16 * 1024;
/// The deepest nesting of fields and `$or` in a filter.
pub const MAX_FILTER_DEPTH: usize = 32;
/// The most alternatives and listed values in a filter.
pub const MAX_FILTER_VALUES: usize = 2_000;
/// The longest value in a filter, in bytes without quotes and escapes.
pub const MAX_OPERAND_BYTES: usize = 1_024;
/// The most combinations that the `$or`s of a filter make, as in EventBridge.
pub const MAX_OR_COMBINATIONS: usize = 1_000;
/// The most fields of a filter, counted once for each combination of `$or` that they are in.
pub const MAX_CONDITIONS: usize = 8_192;
/// The most asterisks in the wildcards of a filter.
pub const MAX_WILDCARDS: usize = 64;

/// An event pattern, parsed. Cheap to clone.
///
/// ```
/// use postrider::filter::Filter;
///
/// let filter = Filter::parse(r#"{"payload": {"user": ["root", {"prefix": "admin-"}], "tries": [{"numeric": [">", 3]}]}}"#)?;
/// assert!(filter.matches(br#"{"payload": {"user": "admin-7", "tries": 4}}"#));
/// assert!(!filter.matches(br#"{"payload": {"user": "admin-7", "tries": 3}}"#));
/// # Ok::<(), postrider::filter::FilterError>(())
/// ```
#[derive(Clone)]
pub struct Filter(Arc<Parsed>);

/// A filter as JSON, for the API's document: see [`Filter::parse`].
pub struct EventPattern;

impl PartialSchema for EventPattern {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .min_properties(Some(1))
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(true)))
            .description(Some(
                "An event pattern in the syntax of Amazon EventBridge: by the name of a field the list of what it may be, \
                 or a pattern for the object in it.",
            ))
            .into()
    }
}

impl ToSchema for EventPattern {}

struct Parsed {
    text: Box<str>,
    compiled: Compiled,
}

/// The reason why a text is no filter. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("is {length} bytes long, the limit is {MAX_FILTER_BYTES}")]
    TooLong { length: usize },
    /// The text is not JSON (RFC 8259).
    #[error("line {line} column {column}: invalid JSON: {reason}")]
    Json { line: usize, column: usize, reason: String },
    /// JSON, but no event pattern; `path` is the field, as in `payload.user`, or empty for the whole filter.
    #[error("line {line} column {column}{}: {reason}", Place(.path))]
    Pattern { line: usize, column: usize, path: String, reason: String },
}

/// A field in an error.
struct Place<'a>(&'a str);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

impl Filter {
    /// Parses a filter: a JSON object, which may have spaces and line breaks.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > MAX_FILTER_BYTES {
            return Err(FilterError::TooLong { length: text.len() });
        }
        let document = Document::parse(text).map_err(|invalid| {
            let (line, column) = line_and_column(text, invalid.at);
            FilterError::Json { line, column, reason: invalid.reason }
        })?;
        let compiled = compile(&document).map_err(|wrong| {
            let (line, column) = line_and_column(text, wrong.at);
            FilterError::Pattern { line, column, path: wrong.path, reason: wrong.reason }
        })?;
        Ok(Self(Arc::new(Parsed { text: compact(text), compiled })))
    }

    /// The filter as compact JSON, to store and to show: as it was given, without spaces around values.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The filter as a JSON value: see [`Filter::as_str`].
    pub fn to_raw_value(&self) -> serde_json::Result<Box<RawValue>> {
        RawValue::from_string(self.as_str().to_owned())
    }

    /// Whether the filter matches an event, given its canonical body. Bodies that are no JSON object do not match.
    ///
    /// [`FilterIndex`] is for many filters.
    #[must_use]
    pub fn matches(&self, body: &[u8]) -> bool {
        Document::of_event(body).is_some_and(|event| self.wants(&event))
    }

    fn wants(&self, event: &Document<'_>) -> bool {
        let Compiled { conditions, branches } = &self.0.compiled;
        branches.iter().any(|branch| matching::meets_all(event, conditions, branch))
    }

    fn compiled(&self) -> &Compiled {
        &self.0.compiled
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.as_str()).finish()
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// JSON without the spaces outside of strings.
fn compact(json: &str) -> Box<str> {
    let (mut is_inside, mut is_escaped) = (false, false);
    let is_kept = |c: &char| {
        let is_quote = *c == '"' && !is_escaped;
        is_escaped = is_inside && *c == '\\' && !is_escaped;
        is_inside ^= is_quote;
        is_inside || !matches!(c, ' ' | '\n' | '\r' | '\t')
    };
    json.chars().filter(is_kept).collect::<String>().into()
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests;
