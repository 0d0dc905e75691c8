//! Answers of Redis (RESP2) on their way to the client, which takes whatever a server announces. A text that is too large for
//! an event comes through with its beginning alone, and an answer that is too large ends the connection. Pure.

use crate::sources::dial::MAX_CLAIMED_BYTES;
use crate::sources::mapped::MAX_BODY_BYTES;

/// The most bytes of texts in one answer, without what is cut off.
pub(super) const MAX_ANSWER_BYTES: usize = 256 << 20;
/// The most texts, numbers and arrays in one answer.
pub(super) const MAX_ANSWER_VALUES: u64 = 1 << 20;
/// The most arrays that stand one in another. Answers to what is asked for have five.
const MAX_ANSWER_DEPTH: usize = 8;
/// The longest line: an error, or a length.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// What the client gets of a text that is too large for an event. It is none with that, either.
const CUT_TEXT_BYTES: usize = MAX_BODY_BYTES + 1;
const END: &[u8] = b"\r\n";

/// What a server sent ends the connection: it is no RESP2, or more than is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the server announced a text of {0} bytes, the limit is {MAX_CLAIMED_BYTES}")]
    Claimed(u64),
    #[error("the server sent an answer of more than {MAX_ANSWER_BYTES} bytes or {MAX_ANSWER_VALUES} values")]
    TooLarge,
    #[error("the server sent what is no RESP2")]
    NoAnswer,
}

/// What a server sends.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// What the client gets next.
    ready: Vec<u8>,
    given: usize,
    part: Part,
    /// The values that are still to come in the present array and in those around it.
    open: Vec<u64>,
    /// Of the present answer.
    bytes: usize,
    values: u64,
}

/// What comes next.
#[derive(Debug)]
enum Part {
    /// A line that says what a value is, as far as it has come.
    Line(Vec<u8>),
    /// A text.
    Text { passing: usize, dropping: usize },
    /// The end of its line, as far as it has come.
    End(Vec<u8>),
}

impl Default for Part {
    fn default() -> Self {
        Self::Line(Vec::new())
    }
}

impl Answers {
    pub(super) fn has_ready(&self) -> bool {
        self.given < self.ready.len()
    }

    /// Gives the client what is ready, at most so much.
    pub(super) fn give(&mut self, most: usize) -> &[u8] {
        let from = self.given;
        self.given = self.ready.len().min(from + most);
        &self.ready[from..self.given]
    }

    /// Takes in what the server sent. What was ready is given out by then.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), AnswerError> {
        self.ready.clear();
        self.given = 0;
        while !bytes.is_empty() {
            match std::mem::take(&mut self.part) {
                Part::Line(mut line) => match rest_of_line(&mut line, &mut bytes)? {
                    Some(whole) => self.value(whole)?,
                    None => self.part = Part::Line(line),
                },
                Part::End(mut line) => match rest_of_line(&mut line, &mut bytes)? {
                    Some(b"") => {
                        self.ready.extend_from_slice(END);
                        self.ended();
                    }
                    Some(_) => return Err(AnswerError::NoAnswer),
                    None => self.part = Part::End(line),
                },
                Part::Text { passing, dropping } => {
                    let passed = first(&mut bytes, passing);
                    self.ready.extend_from_slice(passed);
                    let dropped = first(&mut bytes, dropping).len();
                    self.part = match (passing - passed.len(), dropping - dropped) {
                        (0, 0) => Part::End(Vec::new()),
                        (passing, dropping) => Part::Text { passing, dropping },
                    };
                }
            }
        }
        Ok(())
    }

    /// A line that says what a value is.
    fn value(&mut self, line: &[u8]) -> Result<(), AnswerError> {
        self.values += 1;
        let (kind, text) = line.split_first().ok_or(AnswerError::NoAnswer)?;
        let number = || std::str::from_utf8(text).ok()?.parse::<i64>().ok();
        let length = match kind {
            b'+' | b'-' | b':' => None,
            b'$' | b'*' => match number().ok_or(AnswerError::NoAnswer)? {
                -1 => None,
                length => Some(u64::try_from(length).map_err(|_| AnswerError::NoAnswer)?),
            },
            _ => return Err(AnswerError::NoAnswer),
        };
        match length {
            Some(length) if *kind == b'$' => return self.begin_text(length),
            Some(length) if length > 0 => {
                let values: u64 = self.open.iter().sum::<u64>().saturating_add(length);
                if self.values.saturating_add(values) > MAX_ANSWER_VALUES || self.open.len() == MAX_ANSWER_DEPTH {
                    return Err(AnswerError::TooLarge);
                }
                self.open.push(length);
            }
            _ => {}
        }
        self.ready.extend_from_slice(line);
        self.ready.extend_from_slice(END);
        self.bytes += line.len();
        if !matches!(length, Some(1..)) {
            self.ended();
        }
        Ok(())
    }

    fn begin_text(&mut self, length: u64) -> Result<(), AnswerError> {
        if length > MAX_CLAIMED_BYTES {
            return Err(AnswerError::Claimed(length));
        }
        let whole = usize::try_from(length).map_err(|_| AnswerError::Claimed(length))?;
        let kept = if whole > MAX_BODY_BYTES { CUT_TEXT_BYTES } else { whole };
        self.bytes += kept;
        if self.bytes > MAX_ANSWER_BYTES {
            return Err(AnswerError::TooLarge);
        }
        self.ready.extend_from_slice(format!("${kept}\r\n").as_bytes());
        self.part = Part::Text { passing: kept, dropping: whole - kept };
        Ok(())
    }

    /// A value has ended, and with the last one of an array the array.
    fn ended(&mut self) {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return;
            }
            self.open.pop();
        }
        (self.bytes, self.values) = (0, 0);
    }
}

/// Takes the rest of a line from `bytes`. `None`: it has not ended.
fn rest_of_line<'a>(line: &'a mut Vec<u8>, bytes: &mut &[u8]) -> Result<Option<&'a [u8]>, AnswerError> {
    let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
    line.extend_from_slice(first(bytes, end));
    if line.len() > MAX_LINE_BYTES {
        return Err(AnswerError::NoAnswer);
    }
    Ok(line.strip_suffix(END))
}

/// At most so many of the first bytes, which are taken.
fn first<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(sent: &[u8]) -> Result<Vec<u8>, AnswerError> {
        let whole = passed_by(sent, sent.len().max(1))?;
        assert_eq!(passed_by(sent, 7).as_deref(), Ok(&whole[..]), "it does not matter where a read ends");
        Ok(whole)
    }

    fn passed_by(sent: &[u8], step: usize) -> Result<Vec<u8>, AnswerError> {
        let (mut answers, mut out) = (Answers::default(), Vec::new());
        for part in sent.chunks(step) {
            answers.take(part)?;
            while answers.has_ready() {
                out.extend_from_slice(answers.give(13));
            }
        }
        Ok(out)
    }

    #[test]
    fn answers_come_through_as_they_are() {
        let entries = b"*1\r\n*2\r\n$6\r\norders\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*4\r\n$1\r\na\r\n$0\r\n\r\n$1\r\n\n\r\n$2\r\n\r\n\r\n";
        for answer in [&entries[..], b"+OK\r\n", b"-ERR no\r\n", b":-7\r\n", b"$-1\r\n*-1\r\n*0\r\n"] {
            assert_eq!(passed(answer).unwrap(), answer);
        }
        assert_eq!(passed(&entries.repeat(3)).unwrap(), entries.repeat(3));
    }

    #[test]
    fn of_a_text_that_is_too_large_the_beginning_comes_through() {
        let text = |length: usize| [format!("${length}\r\n").as_bytes(), &vec![b'x'; length], b"\r\n"].concat();
        assert_eq!(passed_by(&text(MAX_BODY_BYTES), 100_000).unwrap(), text(MAX_BODY_BYTES));
        let sent = [&b"*2\r\n"[..], &text(MAX_BODY_BYTES + 100), &text(3)].concat();
        let expected = [&b"*2\r\n"[..], &text(MAX_BODY_BYTES + 1), &text(3)].concat();
        assert_eq!(passed_by(&sent, 100_000).unwrap(), expected);
    }

    #[test]
    fn more_than_is_taken_is_told() {
        for (sent, expected) in [
            ("$536870913\r\n".to_owned(), AnswerError::Claimed((512 << 20) + 1)),
            ("$9223372036854775807\r\n".to_owned(), AnswerError::Claimed(i64::MAX as u64)),
            ("*9223372036854775807\r\n".to_owned(), AnswerError::TooLarge),
            ("*1048577\r\n".to_owned(), AnswerError::TooLarge),
            ("*1048500\r\n*100\r\n".to_owned(), AnswerError::TooLarge),
            ("*1\r\n".repeat(MAX_ANSWER_DEPTH + 1), AnswerError::TooLarge),
            ("$-2\r\n".to_owned(), AnswerError::NoAnswer),
            ("*x\r\n".to_owned(), AnswerError::NoAnswer),
            ("$1\r\nab\r\n".to_owned(), AnswerError::NoAnswer),
            ("HTTP/1.1 400\r\n".to_owned(), AnswerError::NoAnswer),
            ("x".repeat(MAX_LINE_BYTES + 1), AnswerError::NoAnswer),
            ("\r\n".to_owned(), AnswerError::NoAnswer),
        ] {
            assert_eq!(passed(sent.as_bytes()), Err(expected), "{sent:.40}");
        }
        // Each answer has these bounds, not all of them together.
        let answer = [&b"*1048575\r\n"[..], &b":1\r\n".repeat(1_048_575)].concat();
        assert_eq!(passed_by(&answer.repeat(2), 65_536).map(|out| out.len()), Ok(2 * answer.len()));
        let large =
            [&b"*17\r\n"[..], &[b"$16777216\r\n", &vec![b'x'; 1 << 24][..], b"\r\n"].concat().repeat(17)].concat();
        assert_eq!(passed_by(&large, 1 << 20), Err(AnswerError::TooLarge));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answers_or_an_error(bytes in "([*$+:-](0|[1-9][0-9]{0,2})?\\r\\n|[a-z\\r\\n]{0,9}){0,20}") {
            let (whole, parts) = (passed_by(bytes.as_bytes(), bytes.len().max(1)), passed_by(bytes.as_bytes(), 3));
            proptest::prop_assert_eq!(whole.is_ok(), parts.is_ok());
            if let Ok(out) = whole {
                proptest::prop_assert!(bytes.as_bytes().starts_with(&out));
            }
        }
    }
}
