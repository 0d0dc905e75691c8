//! Messages as a stream stores them. The client cannot read each message that a stream can have: it ends the connection over
//! some of them, whenever they come. Here they are read in another way, as JSON. Pure.

use async_nats::jetstream::stream::RawMessage;
use async_nats::{HeaderMap, HeaderName, HeaderValue, Message as NatsMessage, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Place, message};
use crate::sources::{Message, UNREADABLE};

/// The attribute of a message with headers that cannot be read: their text.
const HEADERS: &str = "headers";
/// How headers begin.
const VERSION: &str = "NATS/1.0";

/// The question for a message.
#[derive(Debug, Serialize)]
pub(super) struct Question<'a> {
    /// The first place that it may have.
    pub(super) seq: u64,
    /// Its subject, with wildcards.
    pub(super) next_by_subj: &'a str,
}

/// The answer.
#[derive(Debug, Deserialize)]
pub(super) struct Stored {
    message: RawMessage,
}

impl Stored {
    pub(super) fn sequence(&self) -> u64 {
        self.message.sequence
    }

    /// Whether one of the filters is for it. None at all is for all.
    pub(super) fn is_wanted(&self, filters: &[String]) -> bool {
        filters.is_empty() || filters.iter().any(|filter| matches(filter, &self.message.subject))
    }

    /// The message, and what acknowledges it: the server finds a delivery by the place in the stream.
    pub(super) fn read(self, source: &str, stream: &str, consumer: &str) -> Result<(Message, NatsMessage), String> {
        let RawMessage { subject, sequence, payload, headers, time } = self.message;
        let decode = |text: String| STANDARD.decode(text).map_err(|error| error.to_string());
        let (payload, headers) = (decode(payload)?, headers.map(decode).transpose()?.unwrap_or_default());
        let place = Place { source, stream: stream.to_owned(), sequence, stored_at: time.unix_timestamp_nanos() };
        let parsed = parse(&subject, &headers);
        let received = NatsMessage {
            reply: Some(format!("$JS.ACK.{stream}.{consumer}.1.{sequence}.{sequence}.{}.0", place.stored_at).into()),
            subject: subject.into(),
            headers: parsed.as_ref().ok().cloned(),
            payload: payload.into(),
            status: None,
            description: None,
            length: 0,
        };
        let mut message = message(received.clone(), Some(&place));
        if let Err(reason) = parsed {
            message.attributes.push((UNREADABLE.to_owned(), reason.to_owned()));
            message.attributes.push((HEADERS.to_owned(), String::from_utf8_lossy(&headers).into_owned()));
        }
        Ok((message, received))
    }
}

/// The headers as the client reads them, or the reason why it cannot read the message.
fn parse(subject: &str, headers: &[u8]) -> Result<HeaderMap, &'static str> {
    let mut map = HeaderMap::new();
    // The server's JSON has it so.
    if subject.contains(char::REPLACEMENT_CHARACTER) {
        return Err("the subject is no text in UTF-8");
    }
    if headers.is_empty() {
        return Ok(map);
    }
    if subject.contains(char::is_whitespace) {
        return Err("the subject has white space");
    }
    let text = std::str::from_utf8(headers).map_err(|_| "the headers are no text in UTF-8")?;
    let mut lines = text.lines().peekable();
    let version = lines.next().and_then(|line| line.strip_prefix(VERSION));
    let status = version.ok_or("the headers do not begin with NATS/1.0")?.trim();
    let status = status.split_once(' ').map_or(status, |(status, _)| status);
    if !status.is_empty() && status.parse::<StatusCode>().is_err() {
        return Err("the headers have a status that is no number of three digits");
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or("a line of the headers has no colon")?;
        let name: HeaderName = name.parse().map_err(|_| "the name of a header is not of visible ASCII")?;
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        let value: HeaderValue = value.trim_end().parse().map_err(|_| "a header has a carriage return")?;
        map.append(name, value);
    }
    Ok(map)
}

/// Whether a subject is one that the filter is for.
fn matches(filter: &str, subject: &str) -> bool {
    let (mut wanted, mut tokens) = (filter.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMicros;
    use crate::sources::mapped::{RawMapped, read as settings};

    fn stored(subject: &str, headers: &[u8], body: &[u8]) -> Stored {
        let message = serde_json::json!({"subject": subject, "seq": 7, "time": "2026-01-02T03:04:05.000000006Z",
            "hdrs": STANDARD.encode(headers), "data": STANDARD.encode(body)});
        serde_json::from_value(serde_json::json!({"type": "…", "message": message})).unwrap()
    }

    #[test]
    fn a_message_is_read_as_the_client_reads_it() {
        let headers = b"NATS/1.0\r\nce-type: made \r\nlong: a\r\n b\r\nNats-Msg-Id:m-1\r\n\r\n";
        let (message, received) = stored("orders.made", headers, b"{}").read("shop", "ORDERS", "postrider").unwrap();
        for (name, value) in [
            ("subject", Some("orders.made")),
            ("stream", Some("ORDERS")),
            ("sequence", Some("7")),
            ("stored_at", Some("1767323045000000006")),
            ("header.ce-type", Some("made")),
            ("header.long", Some("a b")),
            (UNREADABLE, None),
        ] {
            assert_eq!(message.attribute(name), value, "{name}");
        }
        assert_eq!((message.origin_id.as_deref(), &*message.body), (Some("m-1"), &b"{}"[..]));
        assert_eq!(&**received.reply.as_ref().unwrap(), "$JS.ACK.ORDERS.postrider.1.7.7.1767323045000000006.0");
        let (plain, _) = stored("orders.a b", b"", b"1").read("shop", "ORDERS", "postrider").unwrap();
        assert_eq!((plain.attribute(UNREADABLE), &*plain.body), (None, &b"1"[..]));
    }

    #[test]
    fn what_the_client_cannot_read_is_no_event_and_says_why() {
        for (subject, headers, expected) in [
            ("a.\u{fffd}", &b""[..], "the subject is no text in UTF-8"),
            ("a.\u{a0}", b"NATS/1.0\r\n\r\n", "the subject has white space"),
            ("a", b"NATS/1.0\r\nX: \xff\r\n\r\n", "the headers are no text in UTF-8"),
            ("a", b"HTTP/1.0\r\n\r\n", "the headers do not begin with NATS/1.0"),
            ("a", b"NATS/1.0 much\r\n\r\n", "the headers have a status that is no number of three digits"),
            ("a", b"NATS/1.0\r\nno colon\r\n\r\n", "a line of the headers has no colon"),
            ("a", b"NATS/1.0\r\na b: c\r\n\r\n", "the name of a header is not of visible ASCII"),
            ("a", b"NATS/1.0\r\na: b\rc\r\n\r\n", "a header has a carriage return"),
        ] {
            let (message, received) = stored(subject, headers, b"{}").read("shop", "ORDERS", "postrider").unwrap();
            assert_eq!(message.attribute(UNREADABLE), Some(expected));
            assert_eq!(received.headers, None);
            let raw: RawMapped = settings(toml::from_str("topic = 'a'").unwrap()).unwrap();
            let error = raw.validated("a", |_| true).unwrap().event(&message, UnixMicros(0)).unwrap_err();
            assert_eq!(error, expected);
        }
        let (message, _) =
            stored("a", b"NATS/1.0 503\r\n: x\r\n\r\n", b"").read("shop", "ORDERS", "postrider").unwrap();
        assert_eq!(message.attribute(UNREADABLE), None);
    }

    #[test]
    fn filters_are_those_of_the_server() {
        for (filter, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.>", "a.b.c", true),
            ("*.b", "a.c", false),
            ("a.>", "a", false),
            ("a.*", "a.b.c", false),
        ] {
            assert_eq!(stored(subject, b"", b"").is_wanted(&[filter.to_owned()]), expected, "{filter} {subject}");
        }
        assert!(stored("a", b"", b"").is_wanted(&[]));
    }
}
