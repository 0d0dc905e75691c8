//! Header fields: what names and values consist of, and the fields of an answer.

use memchr::memchr;

/// Whether it is a token (RFC 9110, section 5.6.2), such as the name of a field.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Whether no value may have the byte: a control character other than the tab.
pub(super) fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// The header fields of an answer, as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerFields(Vec<u8>);

impl AnswerFields {
    /// Of lines.
    pub(super) fn of(lines: Vec<u8>) -> Self {
        Self(lines)
    }

    /// The value of the first field of that name, without the spaces around it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The lines of the head after the first, as they came.
    pub(super) fn lines(&self) -> &[u8] {
        &self.0
    }

    /// All fields that have a name, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.split(|byte| *byte == b'\n').filter_map(|line| {
            let colon = memchr(b':', line)?;
            let name = line[..colon].trim_ascii_end();
            (!name.is_empty() && !name[0].is_ascii_whitespace()).then(|| (name, line[colon + 1..].trim_ascii()))
        })
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for AnswerFields {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(fields: I) -> Self {
        Self(fields.into_iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"].concat().into_bytes()).collect())
    }
}
