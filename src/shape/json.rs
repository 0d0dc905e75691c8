//! An event's JSON as a template sees it: parsed only where the template looks, and printed with the digits and
//! the escapes that came in.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use minijinja::value::{DynObject, Enumerator, Object, ObjectExt, ObjectRepr, ValueKind};
use minijinja::{State, Value};
use parking_lot::Mutex;

use super::number::Number;

/// How many bytes of containers one rendering may turn into text beside what the engine charges for: it charges
/// nothing where a container is joined with `~`, searched or compared.
const MAX_PRINTED_BYTES: usize = 8 * 1024 * 1024;

/// What one unit of fuel pays for, as the engine counts.
pub(super) const BYTES_PER_FUEL: usize = 64;

/// Under this name a filter finds the [`Source`]; no template can name or hide it, since it has a space.
pub(super) const SOURCE: &str = "event source";

/// What the values of one rendering share.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// How the event spells numbers that would print differently, by the bits of their value.
    spellings: Mutex<HashMap<u64, Box<str>>>,
    printed_bytes: AtomicUsize,
}

impl Source {
    /// Counts bytes turned into text; `false` when that was too many.
    fn may_print(&self, bytes: usize) -> bool {
        self.printed_bytes.fetch_add(bytes, Relaxed).saturating_add(bytes) <= MAX_PRINTED_BYTES
    }

    /// Whether something was not printed, so that the result is not to be used.
    pub(super) fn is_exhausted(&self) -> bool {
        self.printed_bytes.load(Relaxed) > MAX_PRINTED_BYTES
    }

    fn spelling(&self, number: f64) -> Option<Box<str>> {
        self.spellings.lock().get(&number.to_bits()).cloned()
    }

    /// The value of canonical JSON.
    pub(super) fn value(self: &Arc<Self>, json: Bytes) -> Value {
        let text = std::str::from_utf8(&json).unwrap_or_default();
        match text.bytes().next() {
            Some(b'{' | b'[') => {
                Value::from_object(Json { source: Arc::clone(self), text: json, children: OnceLock::new() })
            }
            Some(b'"') => Value::from(unquoted(text)),
            Some(b't') => Value::from(true),
            Some(b'f') => Value::from(false),
            Some(b'-' | b'0'..=b'9') => self.number(text),
            _ => Value::from(()),
        }
    }

    fn number(&self, text: &str) -> Value {
        match Number::of(text) {
            Number::Integer(number) => Value::from(number),
            Number::Float { value, is_spelt_otherwise } => {
                if is_spelt_otherwise {
                    self.spellings.lock().entry(value.to_bits()).or_insert_with(|| text.into());
                }
                Value::from(value)
            }
            Number::Beyond => Value::from_object(Digits(text.into())),
        }
    }
}

/// The [`Source`] of the rendering under way.
fn source(state: &State<'_, '_>) -> Option<Arc<Source>> {
    state.lookup(SOURCE)?.downcast_object::<SourceHandle>().map(|handle| Arc::clone(&handle.0))
}

/// Carries the [`Source`] among the variables.
#[derive(Debug)]
pub(super) struct SourceHandle(pub(super) Arc<Source>);

impl Object for SourceHandle {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// A number that neither a 128-bit integer nor a double holds without changing its value: it prints as it came.
#[derive(Debug)]
pub(super) struct Digits(pub(super) Box<str>);

impl Object for Digits {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An array or an object of the event.
pub(super) struct Json {
    source: Arc<Source>,
    /// Canonical: no spaces, keys in order.
    text: Bytes,
    children: OnceLock<Children>,
}

enum Children {
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Json {
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    fn children(&self) -> &Children {
        self.children.get_or_init(|| {
            let slices = members(&self.text);
            let value = |range: std::ops::Range<usize>| self.source.value(self.text.slice(range));
            if self.text.starts_with(b"{") {
                let key = |range| Value::from(unquoted(self.as_str().get(range).unwrap_or_default()));
                Children::Map(slices.into_iter().map(|member| (key(member.key), value(member.value))).collect())
            } else {
                Children::List(slices.into_iter().map(|member| value(member.value)).collect())
            }
        })
    }
}

impl Object for Json {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if self.text.starts_with(b"{") { ObjectRepr::Map } else { ObjectRepr::Seq }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match self.children() {
            Children::List(items) => items.get(key.as_usize()?).cloned(),
            Children::Map(members) => {
                let key = key.as_str()?;
                let at = members.binary_search_by(|(name, _)| name.as_str().unwrap_or_default().cmp(key)).ok()?;
                members.get(at).map(|(_, value)| value.clone())
            }
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.children() {
            Children::List(items) => Enumerator::Seq(items.len()),
            Children::Map(_) => self.mapped_enumerator(|json| match json.children() {
                Children::Map(members) => Box::new(members.iter().map(|(name, _)| name.clone())),
                Children::List(items) => Box::new(items.iter().cloned()),
            }),
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(match self.children() {
            Children::List(items) => items.len(),
            Children::Map(members) => members.len(),
        })
    }

    /// By the text, which is the same for equal values but for the spelling of their numbers.
    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        let is_allowed = self.source.may_print(self.text.len().min(other.text.len()));
        Some(if is_allowed { self.text.cmp(&other.text) } else { self.text.len().cmp(&other.text.len()) })
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An error would be a panic in `to_string`; the rendering fails at its end instead.
        if self.source.may_print(self.text.len()) { f.write_str(self.as_str()) } else { Ok(()) }
    }
}

/// Where a member of a container lies in its text; `key` with its quotes, empty in an array.
struct Member {
    key: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

/// The members of the canonical array or object `text`.
fn members(text: &[u8]) -> Vec<Member> {
    let is_object = text.starts_with(b"{");
    let (mut found, mut at) = (Vec::new(), 1);
    while at + 1 < text.len() {
        let key = at..if is_object { value_end(text, at) } else { at };
        let start = if is_object { key.end + 1 } else { at };
        let end = value_end(text, start).min(text.len());
        if end <= start {
            break;
        }
        found.push(Member { key, value: start..end });
        // Past the comma, or past the end.
        at = end + 1;
    }
    found
}

/// Where the canonical JSON value that begins at `start` ends.
fn value_end(text: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = string_end(text, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b'}' | b']' => return at,
            b',' | b':' if depth == 0 => return at,
            _ => at += 1,
        }
        if depth == 0 && matches!(text.get(at - 1), Some(b'"' | b'}' | b']')) {
            return at;
        }
    }
    at
}

/// Just after the closing quote of the string that begins at `start`.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if text[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    text.len()
}

/// What a canonical JSON string stands for.
fn unquoted(json: &str) -> Cow<'_, str> {
    let inside = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
    if inside.contains('\\') {
        Cow::Owned(serde_json::from_str(json).unwrap_or_default())
    } else {
        Cow::Borrowed(inside)
    }
}

/// Writes `value` as a template's `{{ … }}` prints it: strings as they are, nothing for what is not there, and all
/// else as JSON has it.
pub(super) fn write_text(value: &Value, state: &State<'_, '_>, out: &mut dyn fmt::Write) -> fmt::Result {
    if value.is_undefined() {
        return Ok(());
    }
    match value.as_str() {
        Some(text) => out.write_str(text),
        None => write_json(value, state, out),
    }
}

/// Writes `value` as JSON, without spaces.
pub(super) fn write_json(value: &Value, state: &State<'_, '_>, out: &mut dyn fmt::Write) -> fmt::Result {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.write_str("null"),
        ValueKind::Bool => out.write_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(value, state, out),
        ValueKind::String => out.write_str(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => match value.downcast_object_ref::<Json>() {
            Some(json) => out.write_str(json.as_str()),
            None => write_container(value, state, out),
        },
        _ => match value.downcast_object_ref::<Digits>() {
            Some(digits) => out.write_str(&digits.0),
            None => out.write_str(&quoted(&value.to_string())),
        },
    }
}

/// Containers that the template made: they are shallow, since `subset.rs` lets no template nest what it was given.
fn write_container(value: &Value, state: &State<'_, '_>, out: &mut dyn fmt::Write) -> fmt::Result {
    let is_map = value.kind() == ValueKind::Map;
    out.write_str(if is_map { "{" } else { "[" })?;
    for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
        if index > 0 {
            out.write_str(",")?;
        }
        if is_map {
            let name = item.as_str().map_or_else(|| Cow::Owned(item.to_string()), Cow::Borrowed);
            out.write_str(&quoted(&name))?;
            out.write_str(":")?;
            write_json(&value.get_item(&item).unwrap_or_default(), state, out)?;
        } else {
            write_json(&item, state, out)?;
        }
    }
    out.write_str(if is_map { "}" } else { "]" })
}

fn write_number(value: &Value, state: &State<'_, '_>, out: &mut dyn fmt::Write) -> fmt::Result {
    if value.is_integer() {
        return write!(out, "{value}");
    }
    let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    match source(state).and_then(|source| source.spelling(number)) {
        Some(spelling) => out.write_str(&spelling),
        None => out.write_str(&super::number::printed(number)),
    }
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// `value` as text, counted as the engine counts the strings that filters work on.
pub(super) fn text<'a>(value: &'a Value, state: &State<'_, '_>) -> Result<Cow<'a, str>, minijinja::Error> {
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    _ = write_text(value, state, &mut text);
    state.consume_fuel((text.len() / BYTES_PER_FUEL) as u64)?;
    Ok(Cow::Owned(text))
}
