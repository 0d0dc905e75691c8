//! JSON read once into a flat list of nodes: filters, the events that they are asked about, and what mappings look into.
//!
//! A node says where its key and its text lie, so nothing is copied but strings with escapes. The
//! nodes of an array or object follow it; its `end` is the index after the last of them. Memory is
//! bounded by the text: a node needs at least two bytes of it.

use std::iter;

use super::value::Value;
use crate::event::MAX_DEPTH;
use crate::hex;

/// A JSON text with its nodes.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    text: &'a str,
    /// The texts of strings with escapes, one after another.
    unescaped: String,
    nodes: Vec<Node>,
}

/// The place and the reason why a text is no JSON.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// In bytes from the start.
    pub(crate) at: usize,
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    /// A number, `true`, `false` or `null`.
    Bare,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    kind: Kind,
    /// Empty if the node is no member of an object.
    key: Span,
    /// A string without its quotes, or the characters of any other value.
    value: Span,
    /// Where the value begins, in bytes.
    at: u32,
    /// The index after the last node inside.
    end: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
    /// The span is in `unescaped`, not in `text`.
    is_unescaped: bool,
}

/// The index of a node.
pub(crate) type NodeAt = u32;

/// The node of the whole text.
pub(crate) const ROOT: NodeAt = 0;

impl<'a> Document<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Invalid> {
        if u32::try_from(text.len()).is_err() {
            return Err(Invalid { at: 0, reason: "is too long".to_owned() });
        }
        let nodes = Vec::with_capacity((text.len() / 16).clamp(4, 1_024));
        let document = Document { text, unescaped: String::new(), nodes };
        let mut parser = Parser { document, at: 0, depth: 0 };
        parser.value(Span::default())?;
        if parser.peek().is_some() {
            return Err(parser.invalid("there is more after the value"));
        }
        Ok(parser.document)
    }

    /// As [`Self::parse`], of bytes; `None`: the bytes are not JSON.
    pub(super) fn of_event(body: &'a [u8]) -> Option<Self> {
        Self::parse(std::str::from_utf8(body).ok()?).ok()
    }

    pub(crate) fn kind(&self, at: NodeAt) -> Kind {
        self.node(at).kind
    }

    /// The member's key, without escapes.
    pub(crate) fn key(&self, at: NodeAt) -> &str {
        self.span(self.node(at).key)
    }

    /// A string without quotes and escapes, or the characters of any other value.
    pub(crate) fn text(&self, at: NodeAt) -> &str {
        self.span(self.node(at).value)
    }

    /// The characters of a value as they stand in the text.
    pub(crate) fn json(&self, at: NodeAt) -> &'a str {
        let Node { kind, value, at, .. } = self.node(at);
        let start = at as usize;
        let end = match kind {
            Kind::String if value.is_unescaped => string_end(self.text.as_bytes(), start),
            Kind::String => value.end as usize + 1,
            _ => value.end as usize,
        };
        &self.text[start..end]
    }

    /// Where the value begins, in bytes.
    pub(super) fn position(&self, at: NodeAt) -> usize {
        self.node(at).at as usize
    }

    /// The value of a leaf; `None` for arrays and objects.
    pub(super) fn value(&self, at: NodeAt) -> Option<Value<'_>> {
        match self.kind(at) {
            Kind::String => Some(Value::Text(self.text(at))),
            Kind::Bare => Some(Value::bare(self.text(at))),
            Kind::Object | Kind::Array => None,
        }
    }

    /// The members of an object or elements of an array, in order.
    pub(crate) fn children(&self, at: NodeAt) -> impl Iterator<Item = NodeAt> {
        let end = self.node(at).end;
        let first = Some(at + 1).filter(|first| *first < end);
        iter::successors(first, move |child| Some(self.node(*child).end).filter(|next| *next < end))
    }

    /// The value itself, or the elements of an array, with nested arrays flattened: leaves and objects.
    pub(super) fn opened(&self, at: NodeAt) -> impl Iterator<Item = NodeAt> {
        let end = self.node(at).end;
        let mut next = at;
        iter::from_fn(move || {
            while next < end {
                let here = next;
                if self.kind(here) == Kind::Array {
                    next += 1;
                } else {
                    next = self.node(here).end;
                    return Some(here);
                }
            }
            None
        })
    }

    fn node(&self, at: NodeAt) -> Node {
        self.nodes[at as usize]
    }

    fn span(&self, span: Span) -> &str {
        let text = if span.is_unescaped { &self.unescaped } else { self.text };
        &text[span.start as usize..span.end as usize]
    }
}

struct Parser<'a> {
    document: Document<'a>,
    /// The offset of the next byte.
    at: usize,
    depth: usize,
}

/// An offset within a text whose length fits.
#[expect(clippy::cast_possible_truncation, reason = "`parse` refuses longer texts")]
fn offset(at: usize) -> u32 {
    at as u32
}

impl Parser<'_> {
    fn invalid(&self, reason: &str) -> Invalid {
        Invalid { at: self.at, reason: reason.to_owned() }
    }

    fn byte(&self) -> Option<u8> {
        self.document.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no space, which is left unread.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    fn take(&mut self, token: u8) -> bool {
        let is_next = self.peek() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, token: u8, wanted: &str) -> Result<(), Invalid> {
        if self.take(token) {
            return Ok(());
        }
        let found = if self.byte().is_some() { "expected" } else { "the text ends, expected" };
        Err(self.invalid(&format!("{found} {wanted}")))
    }

    fn value(&mut self, key: Span) -> Result<(), Invalid> {
        let first = self.peek();
        let (at, here) = (self.at, self.document.nodes.len());
        let kind = match first {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            _ => Kind::Bare,
        };
        let node = Node { kind, key, value: Span::default(), at: offset(at), end: offset(here + 1) };
        self.document.nodes.push(node);
        let value = match kind {
            Kind::Object | Kind::Array => {
                self.inside(kind)?;
                Span { start: offset(at), end: offset(self.at), is_unescaped: false }
            }
            Kind::String => self.string()?,
            Kind::Bare => self.bare()?,
        };
        let end = offset(self.document.nodes.len());
        self.document.nodes[here] = Node { value, end, ..node };
        Ok(())
    }

    /// The members of an object or the elements of an array.
    fn inside(&mut self, kind: Kind) -> Result<(), Invalid> {
        if self.depth == MAX_DEPTH {
            return Err(self.invalid(&format!("is nested deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        self.at += 1;
        let (close, wanted) = if kind == Kind::Object { (b'}', "',' or '}'") } else { (b']', "',' or ']'") };
        if !self.take(close) {
            loop {
                let key = if kind == Kind::Object { self.key()? } else { Span::default() };
                self.value(key)?;
                if self.take(close) {
                    break;
                }
                self.expect(b',', wanted)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn key(&mut self) -> Result<Span, Invalid> {
        if self.peek() != Some(b'"') {
            return Err(self.invalid("expected a key in quotes"));
        }
        let key = self.string()?;
        self.expect(b':', "':'")?;
        Ok(key)
    }

    fn string(&mut self) -> Result<Span, Invalid> {
        self.at += 1;
        let first = self.at;
        let buffered = self.document.unescaped.len();
        let mut is_unescaped = false;
        loop {
            let from = self.at;
            let rest = &self.document.text.as_bytes()[from..];
            let Some(length) = memchr::memchr2(b'"', b'\\', rest) else {
                self.at = self.document.text.len();
                return Err(self.invalid("the text ends within a string"));
            };
            if let Some(control) = rest[..length].iter().position(|byte| *byte < b' ') {
                self.at += control;
                return Err(self.invalid("a control character in a string must be escaped"));
            }
            let is_end = rest[length] == b'"';
            let to = from + length;
            self.at = to + 1;
            if is_end && !is_unescaped {
                return Ok(Span { start: offset(first), end: offset(to), is_unescaped });
            }
            is_unescaped = true;
            self.document.unescaped.push_str(&self.document.text[from..to]);
            if is_end {
                let end = offset(self.document.unescaped.len());
                return Ok(Span { start: offset(buffered), end, is_unescaped });
            }
            let character = self.escape()?;
            self.document.unescaped.push(character);
        }
    }

    /// Reads an escape after its backslash.
    fn escape(&mut self) -> Result<char, Invalid> {
        let byte = self.byte();
        let character = match byte {
            Some(b'"' | b'\\' | b'/') => byte.map_or('/', char::from),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.invalid("expected one of \" \\ / b f n r t u after a backslash")),
        };
        self.at += 1;
        Ok(character)
    }

    fn unicode(&mut self) -> Result<char, Invalid> {
        let first = self.hex()?;
        let code = if (0xD800..0xDC00).contains(&first) && self.document.text[self.at..].starts_with("\\u") {
            self.at += 2;
            let second = self.hex()?;
            if !(0xDC00..0xE000).contains(&second) {
                return Err(self.invalid("a lone surrogate is no character"));
            }
            0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.invalid("a lone surrogate is no character"))
    }

    fn hex(&mut self) -> Result<u32, Invalid> {
        let digits = self.document.text.as_bytes().get(self.at..self.at + 4);
        let code = digits.and_then(hex::number).ok_or_else(|| self.invalid("expected four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }

    /// A number, `true`, `false` or `null`.
    fn bare(&mut self) -> Result<Span, Invalid> {
        let start = self.at;
        let rest = &self.document.text[start..];
        let length = match self.byte() {
            Some(b'-' | b'0'..=b'9') => number_length(rest.as_bytes()).unwrap_or(0),
            _ => ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word)).map_or(0, str::len),
        };
        self.at += length;
        let is_cut = self.byte().is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-'));
        if length == 0 || is_cut {
            self.at = start;
            let reason = if rest.is_empty() { "the text ends, expected a value" } else { "expected a value" };
            return Err(self.invalid(reason));
        }
        Ok(Span { start: offset(start), end: offset(self.at), is_unescaped: false })
    }
}

/// Just after the closing quote of the string that begins at `start`.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(length) = memchr::memchr2(b'"', b'\\', &text[at.min(text.len())..]) {
        at += length;
        if text[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    text.len()
}

/// The length of the number (RFC 8259) that `text` begins with.
fn number_length(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| text[from.min(text.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && text[at] == b'0') {
        return None;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        at += 1 + Some(fraction).filter(|digits| *digits > 0)?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        at += 1 + sign + Some(exponent).filter(|digits| *digits > 0)?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> (usize, String) {
        let invalid = Document::parse(text).unwrap_err();
        (invalid.at, invalid.reason)
    }

    #[test]
    fn a_document_is_walked_by_members_and_elements() {
        let text = r#"{"a": [1, [true, "x\u0041\n"], {"b": null}], "\"k\"": -0.5e+3, "e": [], "o": {}}"#;
        let document = Document::parse(text).unwrap();
        let keys: Vec<_> = document.children(ROOT).map(|at| document.key(at)).collect();
        assert_eq!(keys, ["a", "\"k\"", "e", "o"]);
        let members: Vec<_> = document.children(ROOT).collect();
        let opened: Vec<_> = document.opened(members[0]).map(|at| (document.kind(at), document.text(at))).collect();
        let wanted = [(Kind::Bare, "1"), (Kind::Bare, "true"), (Kind::String, "xA\n"), (Kind::Object, "{\"b\": null}")];
        assert_eq!(opened, wanted);
        assert_eq!(document.text(members[1]), "-0.5e+3");
        assert_eq!(document.position(members[1]), text.find("-0.5").unwrap());
        let texts: Vec<_> = document.opened(members[0]).map(|at| document.json(at)).collect();
        assert_eq!(texts, ["1", "true", r#""x\u0041\n""#, r#"{"b": null}"#]);
        assert_eq!([ROOT, members[0]].map(|at| document.json(at)), [text, r#"[1, [true, "x\u0041\n"], {"b": null}]"#]);
        assert_eq!(document.children(members[2]).count() + document.opened(members[2]).count(), 0);
        assert_eq!(document.children(members[3]).count(), 0);
        assert_eq!(document.opened(members[3]).count(), 1);
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        assert_eq!(refused(""), (0, "the text ends, expected a value".to_owned()));
        assert_eq!(refused("{\"a\" 1}"), (5, "expected ':'".to_owned()));
        assert_eq!(refused("[1 2]"), (3, "expected ',' or ']'".to_owned()));
        assert_eq!(refused("{a:1}"), (1, "expected a key in quotes".to_owned()));
        assert_eq!(refused("[1]x"), (3, "there is more after the value".to_owned()));
        assert_eq!(refused("\"a\tb\""), (2, "a control character in a string must be escaped".to_owned()));
        assert_eq!(refused("\"\\x\"").0, 2);
        assert_eq!(refused("\"\\ud800\"").1, "a lone surrogate is no character");
        assert_eq!(refused("\"\\ud800\\u0041\"").1, "a lone surrogate is no character");
        for number in ["01", "1.", ".5", "1e", "+1", "-", "1.5.2", "0x1", "nul", "nulll"] {
            assert_eq!(refused(number), (0, "expected a value".to_owned()), "{number}");
        }
        assert!(Document::parse(&("[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH))).is_ok());
        assert!(Document::parse(&("[".repeat(MAX_DEPTH + 1) + &"]".repeat(MAX_DEPTH + 1))).is_err());
    }

    proptest! {
        #[test]
        fn it_takes_what_another_parser_takes(text in r#"[\[\]{}",:0-9eE.+\-\\u truefalsn]{0,24}"#) {
            // Except for numbers beyond `f64`, which that parser refuses.
            let other = serde_json::from_str::<serde_json::Value>(&text);
            if !other.as_ref().is_err_and(|error| error.to_string().contains("out of range")) {
                prop_assert_eq!(Document::parse(&text).is_ok(), other.is_ok(), "{}", text);
            }
        }

        #[test]
        fn strings_stand_for_what_another_parser_says(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let document = Document::parse(&json).unwrap();
            prop_assert_eq!(document.text(ROOT), &text);
        }
    }
}
