//! The event as a template sees it: read where a template looks, and printed with the digits and
//! the escapes that came in.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use minijinja::value::{DynObject, Enumerator, Object, ObjectExt, ObjectRepr, ValueKind};
use minijinja::{Error, State, Value};

use super::number::Number;
use super::source::{Source, afford, charge, source, string_end};

/// The look-up of a key up to this length costs no fuel beside the instruction's.
const CHEAP_KEY_BYTES: usize = 64;

/// A number that neither a 128-bit integer nor a double holds exactly. It is printed with its own digits.
pub(super) struct Digits {
    source: Arc<Source>,
    range: Range<usize>,
}

impl Digits {
    pub(super) fn new(source: Arc<Source>, range: Range<usize>) -> Self {
        Self { source, range }
    }

    pub(super) fn as_str(&self) -> &str {
        self.source.slice(self.range.clone())
    }
}

impl fmt::Debug for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Object for Digits {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        Some(compared(&self.source, self.as_str(), other.as_str()))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printed(&self.source, self.as_str(), f)
    }
}

/// An array or an object of the event: canonical, without spaces, keys in order.
pub(super) struct Json {
    source: Arc<Source>,
    range: Range<usize>,
    /// The index among the containers of the source.
    number: usize,
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
    pub(super) fn new(source: Arc<Source>, range: Range<usize>, number: usize) -> Self {
        Self { source, range, number, children: OnceLock::new() }
    }

    pub(super) fn as_str(&self) -> &str {
        self.source.slice(self.range.clone())
    }

    fn is_map(&self) -> bool {
        self.as_str().starts_with('{')
    }

    /// The children, which are charged for and read at the first use.
    fn children(&self) -> Result<&Children, Error> {
        if let Some(children) = self.children.get() {
            return Ok(children);
        }
        let own_bytes = self.source.containers()?.get(self.number).map_or(0, |container| container.own_bytes);
        self.source.pay(own_bytes)?;
        let children = self.read()?;
        Ok(self.children.get_or_init(|| children))
    }

    fn read(&self) -> Result<Children, Error> {
        if !self.is_map() {
            let mut items = Vec::new();
            self.read_members(|_, value| items.push(value))?;
            return Ok(Children::List(items));
        }
        let mut members = Vec::new();
        self.read_members(|key, value| members.push((Value::from(unquoted(self.source.slice(key))), value)))?;
        Ok(Children::Map(members))
    }

    /// Calls `found` with the range of each key, quotes included (empty in an array), and the value.
    fn read_members(&self, mut found: impl FnMut(Range<usize>, Value)) -> Result<(), Error> {
        let (containers, text) = (self.source.containers()?, self.source.text().as_bytes());
        let (is_map, end) = (self.is_map(), self.range.end.saturating_sub(1));
        let (mut at, mut number) = (self.range.start + 1, self.number + 1);
        while at < end {
            self.source.look_at_time()?;
            let key = at..if is_map { string_end(text, at) } else { at };
            // Past the colon.
            let start = key.end + usize::from(is_map);
            let (value, value_end) = match text.get(start) {
                Some(b'{' | b'[') => {
                    let Some(container) = containers.get(number) else { break };
                    let value = self.source.container(start..container.end, number);
                    number = container.next;
                    (value, container.end)
                }
                first => {
                    let rest = text.get(start..end).unwrap_or_default();
                    let to_comma = || memchr::memchr(b',', rest).map_or(end, |length| start + length);
                    let value_end = if first == Some(&b'"') { string_end(text, start) } else { to_comma() };
                    (self.source.scalar(start..value_end), value_end)
                }
            };
            found(key, value);
            // Past the comma, or past the end.
            at = value_end + 1;
        }
        Ok(())
    }

    /// The members of an object; `None`: it is an array.
    pub(super) fn members(&self) -> Result<Option<&[(Value, Value)]>, Error> {
        Ok(match self.children()? {
            Children::Map(members) => Some(members),
            Children::List(_) => None,
        })
    }

    fn find(&self, key: &Value) -> Result<Option<Value>, Error> {
        Ok(match self.children()? {
            Children::List(items) => key.as_usize().and_then(|at| items.get(at)).cloned(),
            Children::Map(members) => {
                let Some(key) = key.as_str() else { return Ok(None) };
                if key.len() > CHEAP_KEY_BYTES {
                    self.source
                        .pay(key.len().saturating_mul(members.len().checked_ilog2().unwrap_or(0) as usize + 1))?;
                }
                let at = members.binary_search_by(|(name, _)| name.as_str().unwrap_or_default().cmp(key));
                at.ok().and_then(|at| members.get(at)).map(|(_, value)| value.clone())
            }
        })
    }
}

/// The values of the event, for a template.
impl Source {
    /// The whole event.
    pub(super) fn root(self: &Arc<Self>) -> Value {
        self.container(0..self.text().len(), 0)
    }

    fn container(self: &Arc<Self>, range: Range<usize>, number: usize) -> Value {
        Value::from_object(Json::new(Arc::clone(self), range, number))
    }

    /// The value of a string, a number, a boolean or `null`.
    fn scalar(self: &Arc<Self>, range: Range<usize>) -> Value {
        let json = self.slice(range.clone());
        match json.bytes().next() {
            Some(b'"') => Value::from(unquoted(json)),
            Some(b't') => Value::from(true),
            Some(b'f') => Value::from(false),
            Some(b'-' | b'0'..=b'9') => match Number::of(json) {
                Number::Integer(number) => Value::from(number),
                Number::Float { value, is_spelt_otherwise } => {
                    if is_spelt_otherwise {
                        self.note_spelling(value, json);
                    }
                    Value::from(value)
                }
                Number::Beyond => Value::from_object(Digits::new(Arc::clone(self), range)),
            },
            _ => Value::from(()),
        }
    }
}

impl Object for Json {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if self.is_map() { ObjectRepr::Map } else { ObjectRepr::Seq }
    }

    /// An error is returned as a value that makes the engine stop.
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.find(key).unwrap_or_else(|error| Some(Value::from(error)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.children() {
            Err(error) => Enumerator::Values(vec![Value::from(error)]),
            Ok(Children::List(items)) => Enumerator::Seq(items.len()),
            Ok(Children::Map(_)) => self.mapped_enumerator(|json| match json.children() {
                Ok(Children::Map(members)) => Box::new(members.iter().map(|(name, _)| name.clone())),
                _ => Box::new(std::iter::empty()),
            }),
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(match self.children() {
            // The error itself.
            Err(_) => 1,
            Ok(Children::List(items)) => items.len(),
            Ok(Children::Map(members)) => members.len(),
        })
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.range.len() > "{}".len()
    }

    /// Compares the texts, which are equal for equal values, except for spellings of numbers.
    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        Some(compared(&self.source, self.as_str(), other.as_str()))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printed(&self.source, self.as_str(), f)
    }
}

/// Compares only lengths after too much was compared; the rendering then fails.
fn compared(source: &Source, a: &str, b: &str) -> Ordering {
    if source.may_print(a.len().min(b.len())) { a.cmp(b) } else { a.len().cmp(&b.len()) }
}

/// Prints nothing after too much was printed. An error here would be a panic in `to_string`, so the rendering fails at
/// its end instead.
fn printed(source: &Source, text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if source.may_print(text.len()) { f.write_str(text) } else { Ok(()) }
}

/// The text of a canonical JSON string.
pub(super) fn unquoted(json: &str) -> Cow<'_, str> {
    let inside = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
    if inside.contains('\\') {
        Cow::Owned(serde_json::from_str(json).unwrap_or_default())
    } else {
        Cow::Borrowed(inside)
    }
}

/// Writes `value` as a template's `{{ … }}` prints it: strings bare, nothing for undefined values, everything else as
/// JSON.
pub(super) fn write_text(value: &Value, state: &State<'_, '_>, out: &mut dyn fmt::Write) -> Result<(), Error> {
    if value.is_undefined() {
        return Ok(());
    }
    match value.as_str() {
        Some(text) => Ok(out.write_str(text)?),
        None => write_json(value, state, out),
    }
}

/// Writes `value` as JSON, without spaces.
pub(super) fn write_json(value: &Value, state: &State<'_, '_>, out: &mut dyn fmt::Write) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.write_str("null")?,
        ValueKind::Bool => out.write_str(if value.is_true() { "true" } else { "false" })?,
        ValueKind::Number => write_number(value, state, out)?,
        ValueKind::String => write_quoted(value.as_str().unwrap_or_default(), state, out)?,
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => match value.downcast_object_ref::<Json>() {
            Some(json) => write_part(json.as_str(), state, out)?,
            None => write_container(value, state, out)?,
        },
        _ => match value.downcast_object_ref::<Digits>() {
            Some(digits) => write_part(digits.as_str(), state, out)?,
            None => write_quoted(&value.to_string(), state, out)?,
        },
    }
    Ok(())
}

/// Writes a part of the event, if its fuel is left.
fn write_part(text: &str, state: &State<'_, '_>, out: &mut dyn fmt::Write) -> Result<(), Error> {
    afford(state, text.len())?;
    Ok(out.write_str(text)?)
}

/// As [`write_part`], for a text as a JSON string, which is at least as long.
fn write_quoted(text: &str, state: &State<'_, '_>, out: &mut dyn fmt::Write) -> Result<(), Error> {
    afford(state, text.len())?;
    Ok(out.write_str(&quoted(text))?)
}

/// Writes a container that the template made. Such containers are shallow, since `subset.rs` lets no template nest its
/// input.
fn write_container(value: &Value, state: &State<'_, '_>, out: &mut dyn fmt::Write) -> Result<(), Error> {
    let is_map = value.kind() == ValueKind::Map;
    out.write_str(if is_map { "{" } else { "[" })?;
    for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
        if index > 0 {
            out.write_str(",")?;
        }
        if is_map {
            let name = item.as_str().map_or_else(|| Cow::Owned(item.to_string()), Cow::Borrowed);
            write_quoted(&name, state, out)?;
            out.write_str(":")?;
            write_json(&value.get_item(&item).unwrap_or_default(), state, out)?;
        } else {
            write_json(&item, state, out)?;
        }
    }
    Ok(out.write_str(if is_map { "}" } else { "]" })?)
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

/// `value` as text, charged as the engine charges for strings of filters.
pub(super) fn text<'a>(value: &'a Value, state: &State<'_, '_>) -> Result<Cow<'a, str>, Error> {
    super::source::settle(state)?;
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    if let Some(part) = part(value) {
        charge(state, part.len())?;
        return Ok(Cow::Borrowed(part));
    }
    let mut text = String::new();
    write_text(value, state, &mut text)?;
    charge(state, text.len())?;
    Ok(Cow::Owned(text))
}

/// The text of a part of the event; `None`: the value is no such part.
pub(super) fn part(value: &Value) -> Option<&str> {
    match value.downcast_object_ref::<Json>() {
        Some(json) => Some(json.as_str()),
        None => value.downcast_object_ref::<Digits>().map(Digits::as_str),
    }
}
