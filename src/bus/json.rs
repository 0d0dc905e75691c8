//! JSON as the server of the bus reads and prints it: numbers become 64-bit integers or doubles, of equal keys the last
//! value counts at the place of the first.

use std::borrow::Cow;
use std::collections::HashMap;
use std::num::ParseIntError;

use serde::ser::{Serialize, Serializer};

/// How deep arrays and objects may be nested in what is read.
pub(super) const MAX_READ_DEPTH: usize = 1_024;
/// How deep they may be nested in a value that is printed.
pub(super) const MAX_PRINTED_DEPTH: usize = 253;
/// The number of members from which the keys of an object are looked up by their hash.
const MANY_MEMBERS: usize = 16;

/// A value that was read.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    /// Finite.
    Float(f64),
    Text(Cow<'a, str>),
    Array(Vec<Self>),
    /// In their order, each key once.
    Object(Vec<(Cow<'a, str>, Self)>),
}

/// The reason why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {reason}")]
pub struct JsonError {
    at: usize,
    reason: &'static str,
}

impl Value<'_> {
    /// Whether Python takes it for false.
    pub(super) fn is_falsy(&self) -> bool {
        match self {
            Self::Null | Self::Bool(false) | Self::Signed(0) | Self::Unsigned(0) => true,
            Self::Float(number) => *number == 0.0,
            Self::Text(text) => text.is_empty(),
            Self::Array(items) => items.is_empty(),
            Self::Object(members) => members.is_empty(),
            Self::Bool(true) | Self::Signed(_) | Self::Unsigned(_) => false,
        }
    }

    /// Whether arrays and objects are nested deeper than `limit` in it, itself included.
    pub(super) fn is_deeper_than(&self, limit: usize) -> bool {
        match self {
            Self::Array(items) => limit == 0 || items.iter().any(|item| item.is_deeper_than(limit - 1)),
            Self::Object(members) => limit == 0 || members.iter().any(|(_, value)| value.is_deeper_than(limit - 1)),
            _ => false,
        }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Signed(number) => serializer.serialize_i64(*number),
            Self::Unsigned(number) => serializer.serialize_u64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Object(members) => serializer.collect_map(members.iter().map(|(key, value)| (key, value))),
        }
    }
}

/// Reads a text that is one value.
pub(super) fn parse(text: &str) -> Result<Value<'_>, JsonError> {
    let mut parser = Parser { text, at: 0 };
    // A stack of its own: the text decides how deep it is.
    let mut open: Vec<Open<'_>> = Vec::new();
    loop {
        let mut value = match parser.begin()? {
            Begun::Value(value) => value,
            Begun::Open(_) if open.len() == MAX_READ_DEPTH => return Err(parser.error("is nested too deep")),
            Begun::Open(container) if parser.take(container.end()) => container.close(),
            Begun::Open(mut container) => {
                container.read_key(&mut parser)?;
                open.push(container);
                continue;
            }
        };
        loop {
            let Some(mut container) = open.pop() else {
                return if parser.peek().is_none() { Ok(value) } else { Err(parser.error("there is more after it")) };
            };
            container.add(value);
            if parser.take(b',') {
                container.read_key(&mut parser)?;
                open.push(container);
                break;
            }
            if !parser.take(container.end()) {
                return Err(parser.error("expected a comma or the end of an array or object"));
            }
            value = container.close();
        }
    }
}

/// What the beginning of a value says.
enum Begun<'a> {
    Value(Value<'a>),
    Open(Open<'a>),
}

/// An array or object of which the end was not read.
enum Open<'a> {
    Array(Vec<Value<'a>>),
    /// `key` is that of the value that comes next.
    Object {
        members: Members<'a>,
        key: Cow<'a, str>,
    },
}

impl<'a> Open<'a> {
    fn end(&self) -> u8 {
        match self {
            Self::Array(_) => b']',
            Self::Object { .. } => b'}',
        }
    }

    /// Reads what stands before a value: the key in an object, nothing in an array.
    fn read_key(&mut self, parser: &mut Parser<'a>) -> Result<(), JsonError> {
        let Self::Object { key, .. } = self else { return Ok(()) };
        if parser.peek() != Some(b'"') {
            return Err(parser.error("expected a key"));
        }
        *key = parser.text()?;
        if parser.take(b':') { Ok(()) } else { Err(parser.error("expected a colon")) }
    }

    fn add(&mut self, value: Value<'a>) {
        match self {
            Self::Array(items) => items.push(value),
            Self::Object { members, key } => members.insert(std::mem::take(key), value),
        }
    }

    fn close(self) -> Value<'a> {
        match self {
            Self::Array(items) => Value::Array(items),
            Self::Object { members, .. } => Value::Object(members.list),
        }
    }
}

/// The members of an object that is being read.
#[derive(Default)]
struct Members<'a> {
    list: Vec<(Cow<'a, str>, Value<'a>)>,
    /// Where each key is in `list`; empty while there are few.
    places: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Members<'a> {
    fn insert(&mut self, key: Cow<'a, str>, value: Value<'a>) {
        if self.list.len() == MANY_MEMBERS && self.places.is_empty() {
            self.places = self.list.iter().map(|(key, _)| key.clone()).zip(0..).collect();
        }
        let place = if self.places.is_empty() {
            self.list.iter().position(|(other, _)| *other == key)
        } else {
            self.places.get(&key).copied()
        };
        if let Some(place) = place {
            self.list[place].1 = value;
            return;
        }
        if !self.places.is_empty() {
            self.places.insert(key.clone(), self.list.len());
        }
        self.list.push((key, value));
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, reason: &'static str) -> JsonError {
        JsonError { at: self.at, reason }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The next byte that is no space, which is left unread.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.rest().as_bytes();
        let spaces = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count();
        self.at += spaces;
        rest.get(spaces).copied()
    }

    fn take(&mut self, token: u8) -> bool {
        let is_next = self.peek() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    fn begin(&mut self) -> Result<Begun<'a>, JsonError> {
        let value = match self.peek() {
            Some(b'[') => {
                self.at += 1;
                return Ok(Begun::Open(Open::Array(Vec::new())));
            }
            Some(b'{') => {
                self.at += 1;
                return Ok(Begun::Open(Open::Object { members: Members::default(), key: Cow::default() }));
            }
            Some(b'"') => Value::Text(self.text()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.literal()?,
        };
        Ok(Begun::Value(value))
    }

    fn literal(&mut self) -> Result<Value<'a>, JsonError> {
        let literals = [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))];
        let found = literals.into_iter().find(|(word, _)| self.rest().starts_with(word));
        let (word, value) = found.ok_or_else(|| self.error("expected a value"))?;
        self.at += word.len();
        Ok(value)
    }

    /// Reads a text from its first quote on.
    fn text(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let inside = &self.rest().as_bytes()[1..];
        let mut length = 0;
        let mut is_plain = true;
        loop {
            let rest = inside.get(length..).unwrap_or_default();
            let Some(found) = memchr::memchr2(b'"', b'\\', rest) else { return Err(self.error("a text has no end")) };
            length += found;
            if rest[found] == b'"' {
                break;
            }
            is_plain = false;
            length += 2;
        }
        if inside[..length].iter().any(|byte| *byte < b' ') {
            return Err(self.error("a control character in a text"));
        }
        let quoted = &self.rest()[..length + 2];
        let text = if is_plain {
            Cow::Borrowed(&quoted[1..=length])
        } else {
            Cow::Owned(serde_json::from_str(quoted).map_err(|_| self.error("an escape in a text is none"))?)
        };
        self.at += quoted.len();
        Ok(text)
    }

    fn number(&mut self) -> Result<Value<'a>, JsonError> {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = self.rest().bytes().take_while(|byte| is_part(byte)).count();
        let digits = &self.rest()[..length];
        let is_integer = is_number(digits).ok_or_else(|| self.error("a number is none"))?;
        let value = if is_integer { integer(digits).ok() } else { None };
        let value = match value {
            Some(value) => value,
            None => Value::Float(
                digits
                    .parse()
                    .ok()
                    .filter(|number: &f64| number.is_finite())
                    .ok_or_else(|| self.error("a number is beyond a double"))?,
            ),
        };
        self.at += length;
        Ok(value)
    }
}

fn integer(digits: &str) -> Result<Value<'static>, ParseIntError> {
    if digits.starts_with('-') { digits.parse().map(Value::Signed) } else { digits.parse().map(Value::Unsigned) }
}

/// Whether `text` is a number without fraction and exponent; `None` if it is no number of JSON.
fn is_number(text: &str) -> Option<bool> {
    let after_digits = |text: &str| text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let rest = &unsigned[unsigned.len() - after_digits(unsigned)..];
    let whole = &unsigned[..unsigned.len() - rest.len()];
    if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    let after_point = match rest.strip_prefix('.') {
        Some(fraction) if after_digits(fraction) == fraction.len() => return None,
        Some(fraction) => &fraction[fraction.len() - after_digits(fraction)..],
        None => rest,
    };
    match after_point.strip_prefix(['e', 'E']) {
        Some(exponent) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            (!exponent.is_empty() && after_digits(exponent) == 0).then_some(false)
        }
        None => after_point.is_empty().then_some(rest.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed(text: &str) -> Result<String, JsonError> {
        parse(text).map(|value| serde_json::to_string(&value).unwrap())
    }

    #[test]
    fn numbers_are_printed_as_they_were_understood() {
        for (given, shown) in [
            ("12.50", "12.5"),
            ("1E5", "100000.0"),
            ("1e+5", "100000.0"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551616", "1.8446744073709552e+19"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("-9223372036854775809", "-9.223372036854776e+18"),
            ("-0.0", "-0.0"),
            ("-0", "0"),
            ("-0e0", "-0.0"),
            ("1e-7", "1e-7"),
            ("100000000000000000000000", "1e+23"),
            ("0.1", "0.1"),
            ("1e-400", "0.0"),
            ("9007199254740993.0", "9007199254740992.0"),
        ] {
            assert_eq!(printed(given).as_deref(), Ok(shown), "{given}");
        }
        for given in ["1e400", "-1e400", &"9".repeat(400)] {
            assert!(printed(given).is_err(), "{given}");
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts_at_the_place_of_the_first() {
        assert_eq!(printed(r#"{"a":1,"b":2,"\u0061":3}"#).unwrap(), r#"{"a":3,"b":2}"#);
        let keys = |last: &str| (0..40).map(|n| format!("\"k{n}\":0")).collect::<Vec<_>>().join(",") + last;
        let many = printed(&format!("{{{}}}", keys(",\"k3\":1,\"k39\":2,\"new\":3"))).unwrap();
        assert!(many.starts_with(r#"{"k0":0,"k1":0,"k2":0,"k3":1,"k4":0"#), "{many}");
        assert!(many.ends_with(r#""k38":0,"k39":2,"new":3}"#), "{many}");
    }

    #[test]
    fn texts_are_unescaped_as_far_as_json_allows() {
        assert_eq!(printed(r#""\u00e9\/\ud83d\ude00\u0007\b\u007f""#).unwrap(), "\"é/😀\\u0007\\b\u{7f}\"");
        for given in [r#""\ud800""#, r#""\ud800\u0041""#, r#""\x""#, r#""\u12""#, "\"a\nb\"", "\"a", "\"\\", "\"\\\""] {
            assert!(printed(given).is_err(), "{given}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for given in [
            "",
            " ",
            "nope",
            "NaN",
            "Infinity",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "[1 2]",
            "[}",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "1e+",
            "--1",
            "1-1",
            "[",
            "{",
            "{\"a\":",
            "1 1",
            "[]]",
            "\u{feff}{}",
            "tru",
            "nullx",
        ] {
            assert!(printed(given).is_err(), "{given:?}");
        }
        assert_eq!(printed(" [ 1 , { } , [ ] ,\t\"\"\r\n] ").unwrap(), r#"[1,{},[],""]"#);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(&nested(MAX_READ_DEPTH)).is_ok());
        assert!(parse(&nested(MAX_READ_DEPTH + 1)).is_err());
        let deep = nested(MAX_PRINTED_DEPTH);
        assert!(!parse(&deep).unwrap().is_deeper_than(MAX_PRINTED_DEPTH));
        assert!(parse(&deep).unwrap().is_deeper_than(MAX_PRINTED_DEPTH - 1));
        assert!(!parse("1").unwrap().is_deeper_than(0));
    }

    proptest! {
        #[test]
        fn whatever_json_there_is_is_read_and_printed_the_same(value in some_json()) {
            let text = value.to_string();
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&printed(&text).unwrap()).unwrap(), value);
        }

        #[test]
        fn the_parser_takes_what_another_takes(text in r#"[\[\]{}:,"\\ a01.eE+\-tn]{0,12}"#) {
            let other = serde_json::from_str::<serde_json::Value>(&text);
            prop_assert_eq!(parse(&text).is_ok(), other.is_ok(), "{:?}", text);
        }
    }

    fn some_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<u64>().prop_map(serde_json::Value::from),
            (-1000_i32..1000).prop_map(|n| serde_json::Value::from(f64::from(n) / 8.0)),
            ".{0,8}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
