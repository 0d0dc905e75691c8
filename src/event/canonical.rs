//! The canonical form of JSON: no spaces, keys sorted by their UTF-8 bytes at every depth, only
//! the escapes that JSON demands, numbers with the digits they came with.
//!
//! One pass over the input appends the canonical form to one buffer. An object whose keys came
//! out of order has its members, which lie one after another in that buffer, copied into order
//! when it ends. So an object that is in order costs nothing more, and each byte is copied at most
//! once for each object around it.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::{EventError, MAX_DEPTH};
use crate::hex;

/// Reads JSON texts one after another and writes the canonical form of each.
pub(super) struct Canonicaliser<'a> {
    input: &'a str,
    at: usize,
    depth: usize,
    canonical: String,
    /// The members of the open objects, outermost first. Each object's members begin at an index of its own.
    members: Vec<Member>,
    reordered: String,
}

/// Where one member of an object lies in the canonical text: `"key":value`.
#[derive(Clone, Copy)]
struct Member {
    start: usize,
    /// Just after the key's closing quote.
    key_end: usize,
    end: usize,
    is_key_escaped: bool,
    /// The key's offset in the input.
    key_at: usize,
}

impl Member {
    fn key(self, canonical: &str) -> &str {
        &canonical[self.start + 1..self.key_end - 1]
    }

    fn cmp_key(self, other: Self, canonical: &str) -> Ordering {
        let (own, others) = (self.key(canonical), other.key(canonical));
        if self.is_key_escaped || other.is_key_escaped {
            // An escape sorts as its character. Code points sort as their UTF-8.
            unescaped(own).cmp(unescaped(others))
        } else {
            own.as_bytes().cmp(others.as_bytes())
        }
    }
}

fn invalid(at: usize, reason: &str) -> EventError {
    EventError::Json { at, reason: reason.to_owned() }
}

impl<'a> Canonicaliser<'a> {
    /// Refuses invalid UTF-8.
    pub(super) fn new(input: &'a [u8]) -> Result<Self, EventError> {
        let input = std::str::from_utf8(input).map_err(|e| invalid(e.valid_up_to(), "is not UTF-8"))?;
        if input.starts_with('\u{feff}') {
            return Err(invalid(0, "a byte order mark is not JSON"));
        }
        let canonical = String::with_capacity(input.len().min(super::MAX_EVENT_BYTES));
        let members = Vec::with_capacity(32);
        Ok(Self { input, at: 0, depth: 0, canonical, members, reordered: String::new() })
    }

    /// Counts `depth` arrays and objects as open around the text.
    pub(super) fn inside(mut self, depth: usize) -> Self {
        self.depth = depth;
        self
    }

    /// The offset of the next byte to read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next byte that is no space, which is left unread.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let rest = &self.input.as_bytes()[self.at..];
        let spaces = rest.iter().take_while(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t')).count();
        self.at += spaces;
        rest.get(spaces).copied()
    }

    /// Reads `token` if it comes next, after spaces.
    pub(super) fn take(&mut self, token: u8) -> bool {
        let is_next = self.peek() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    /// The error for input that is not `wanted`.
    pub(super) fn unexpected(&mut self, wanted: &str) -> EventError {
        let found = if self.peek().is_some() { "expected" } else { "the text ends, expected" };
        invalid(self.at, &format!("{found} {wanted}"))
    }

    /// Refuses anything but spaces after the last text.
    pub(super) fn finish(&mut self) -> Result<(), EventError> {
        self.peek().map_or(Ok(()), |_| Err(invalid(self.at, "there is more after the value")))
    }

    /// Reads one text and forgets the one before it.
    pub(super) fn read(&mut self) -> Result<(), EventError> {
        self.canonical.clear();
        self.members.clear();
        self.value()
    }

    /// As [`Self::read`], and keeps an object's members for [`Self::members`]. Returns whether the text was an object.
    pub(super) fn read_object(&mut self) -> Result<bool, EventError> {
        self.canonical.clear();
        self.members.clear();
        if self.peek() != Some(b'{') {
            return self.value().map(|()| false);
        }
        self.object_members()?;
        Ok(true)
    }

    /// The canonical form of the text read last, unless it was read by [`Self::read_object`].
    pub(super) fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The members of the object read by [`Self::read_object`], in order: the key between its
    /// quotes and the value, both in their canonical form.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        let text = &self.canonical;
        self.members.iter().map(move |member| (member.key(text), &text[member.key_end + 1..member.end]))
    }

    fn value(&mut self) -> Result<(), EventError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn literal(&mut self, literal: &str) -> Result<(), EventError> {
        if !self.input[self.at..].starts_with(literal) {
            return Err(invalid(self.at, "expected a value"));
        }
        self.canonical.push_str(literal);
        self.at += literal.len();
        Ok(())
    }

    fn open(&mut self, bracket: char) -> Result<(), EventError> {
        if self.depth == MAX_DEPTH {
            return Err(invalid(self.at, &format!("is nested deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        self.at += 1;
        self.canonical.push(bracket);
        Ok(())
    }

    fn close(&mut self, bracket: char) {
        self.depth -= 1;
        self.canonical.push(bracket);
    }

    fn array(&mut self) -> Result<(), EventError> {
        self.open('[')?;
        if !self.take(b']') {
            loop {
                self.value()?;
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.unexpected("',' or ']'"));
                }
                self.canonical.push(',');
            }
        }
        self.close(']');
        Ok(())
    }

    fn object(&mut self) -> Result<(), EventError> {
        let first = self.members.len();
        let start = self.canonical.len() + 1;
        if !self.object_members()? {
            self.reorder(first, start);
        }
        self.members.truncate(first);
        Ok(())
    }

    /// Reads an object and leaves its sorted members on the stack. Returns whether they were sorted in the input.
    fn object_members(&mut self) -> Result<bool, EventError> {
        self.open('{')?;
        let first = self.members.len();
        let mut is_sorted = true;
        if !self.take(b'}') {
            loop {
                let member = self.member()?;
                if let Some(previous) = self.members[first..].last() {
                    is_sorted &= previous.cmp_key(member, &self.canonical) == Ordering::Less;
                }
                self.members.push(member);
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.unexpected("',' or '}'"));
                }
                self.canonical.push(',');
            }
        }
        self.close('}');
        if !is_sorted {
            self.sort(first)?;
        }
        Ok(is_sorted)
    }

    fn member(&mut self) -> Result<Member, EventError> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key in quotes"));
        }
        let (start, key_at) = (self.canonical.len(), self.at);
        let is_key_escaped = self.string()?;
        let key_end = self.canonical.len();
        if !self.take(b':') {
            return Err(self.unexpected("':'"));
        }
        self.canonical.push(':');
        self.value()?;
        Ok(Member { start, key_end, end: self.canonical.len(), is_key_escaped, key_at })
    }

    fn sort(&mut self, first: usize) -> Result<(), EventError> {
        let canonical = &self.canonical;
        let members = &mut self.members[first..];
        members.sort_unstable_by(|a, b| a.cmp_key(*b, canonical).then(a.key_at.cmp(&b.key_at)));
        let duplicates = members.windows(2).filter(|pair| pair[0].key(canonical) == pair[1].key(canonical));
        let first_duplicate = duplicates.map(|pair| pair[1].key_at).min();
        first_duplicate.map_or(Ok(()), |at| Err(invalid(at, "the object has this key already")))
    }

    /// Writes the members of the object that has just ended in the order they have on the stack.
    fn reorder(&mut self, first: usize, start: usize) {
        self.reordered.clear();
        for member in &self.members[first..] {
            self.reordered.push_str(&self.canonical[member.start..member.end]);
            self.reordered.push(',');
        }
        self.reordered.pop();
        self.canonical.truncate(start);
        self.canonical.push_str(&self.reordered);
        self.canonical.push('}');
    }

    /// RFC 8259, section 6.
    fn number(&mut self) -> Result<(), EventError> {
        let bytes = self.input.as_bytes();
        let start = self.at;
        self.at += usize::from(bytes[start] == b'-');
        if bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = bytes.get(self.at) {
            self.at += 1;
            self.at += usize::from(matches!(bytes.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
        }
        self.canonical.push_str(&self.input[start..self.at]);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), EventError> {
        let digits = self.input.as_bytes()[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return Err(invalid(self.at, "a number needs a digit here"));
        }
        self.at += digits;
        Ok(())
    }

    /// Reads a string; returns whether its canonical form has escapes.
    fn string(&mut self) -> Result<bool, EventError> {
        let bytes = self.input.as_bytes();
        let start = self.canonical.len();
        // The part that is copied unchanged, the opening quote included.
        let mut run = self.at;
        self.at += 1;
        let mut has_escapes = false;
        loop {
            self.at += plain_bytes(&bytes[self.at..]);
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.canonical.push_str(&self.input[run..self.at]);
                    let escaped = self.escape()?;
                    push_escaped(&mut self.canonical, escaped);
                    has_escapes = true;
                    run = self.at;
                }
                Some(_) => return Err(invalid(self.at, "a control character in a string must be escaped")),
                None => return Err(invalid(self.at, "the text ends inside a string")),
            }
        }
        self.at += 1;
        self.canonical.push_str(&self.input[run..self.at]);
        Ok(has_escapes && self.canonical[start..].contains('\\'))
    }

    /// Reads an escape, surrogate pairs included, to the character that it stands for.
    fn escape(&mut self) -> Result<char, EventError> {
        let start = self.at;
        self.at += 2;
        Ok(match self.input.as_bytes().get(start + 1) {
            Some(quoted @ (b'"' | b'\\' | b'/')) => char::from(*quoted),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex_digits(start)?;
                let is_pair = (0xd800..0xdc00).contains(&first) && self.input[self.at..].starts_with("\\u");
                let second = if is_pair { self.low_surrogate(start)? } else { 0 };
                let code = if is_pair { 0x1_0000 + ((first - 0xd800) << 10) + second } else { first };
                char::from_u32(code).ok_or_else(|| invalid(start, LONE_SURROGATE))?
            }
            _ => return Err(invalid(start, "no such escape")),
        })
    }

    fn low_surrogate(&mut self, pair_at: usize) -> Result<u32, EventError> {
        let start = self.at;
        self.at += 2;
        let code = self.hex_digits(start)?;
        let is_low = (0xdc00..0xe000).contains(&code);
        if is_low { Ok(code - 0xdc00) } else { Err(invalid(pair_at, LONE_SURROGATE)) }
    }

    fn hex_digits(&mut self, escape_at: usize) -> Result<u32, EventError> {
        let digits = self.input.as_bytes().get(self.at..self.at + 4);
        let code = digits.and_then(hex::number);
        self.at += 4;
        code.ok_or_else(|| invalid(escape_at, "\\u needs four hexadecimal digits"))
    }
}

const LONE_SURROGATE: &str = "half of a surrogate pair is no character";

/// The number of bytes before the first quote, backslash or control character.
pub(super) fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES << 7;
    // A byte's high bit is set where it is below `n` (at most 128). A borrow may also set bits of
    // later bytes, which does not matter: only the first is used.
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let special =
            below(word, 0x20) | below(word ^ (ONES * u64::from(b'"')), 1) | below(word ^ (ONES * u64::from(b'\\')), 1);
        if special != 0 {
            return index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let is_plain = |byte: &&u8| **byte >= 0x20 && !matches!(byte, b'"' | b'\\');
    words.len() * 8 + rest.iter().take_while(is_plain).count()
}

/// Writes a text as a JSON string, with quotes.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    text.chars().for_each(|c| push_escaped(&mut quoted, c));
    quoted.push('"');
    quoted
}

fn push_escaped(text: &mut String, c: char) {
    match c {
        '"' => text.push_str("\\\""),
        '\\' => text.push_str("\\\\"),
        '\u{8}' => text.push_str("\\b"),
        '\u{c}' => text.push_str("\\f"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        // Writing to a string cannot fail.
        ..' ' => _ = write!(text, "\\u{:04x}", u32::from(c)),
        _ => text.push(c),
    }
}

/// The characters of the inside of a canonical string, without escapes.
pub(super) fn unescaped(inside: &str) -> impl Iterator<Item = char> {
    let mut chars = inside.chars();
    std::iter::from_fn(move || match chars.next()? {
        '\\' => Some(match chars.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let code = chars.by_ref().take(4).try_fold(0, |code, digit| Some(code << 4 | digit.to_digit(16)?))?;
                char::from_u32(code)?
            }
            quoted => quoted,
        }),
        plain => Some(plain),
    })
}
