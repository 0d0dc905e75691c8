//! How an attempt differs from the one before it.

use std::collections::BTreeMap;

use super::{Captured, KeptExchange, SentBody};
use crate::store::AttemptRecord;

/// Parts of names of request headers that differ with each attempt: times, and signatures over them.
const EVER_NEW: [&str; 3] = ["signature", "timestamp", "-time"];
/// Headers of answers that differ with each answer.
const EVER_NEW_IN_ANSWERS: [&str; 5] = ["age", "date", "expires", "set-cookie", "x-request-id"];

impl AttemptRecord {
    /// What is otherwise than in the attempt `before`, in a few words each, what says most first: status, error, the answer,
    /// the address, the request. What is new each time is left out.
    #[must_use]
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut differ = |is_so: bool, what: String| differences.extend(is_so.then_some(what));
        let status =
            |attempt: &Self| attempt.status_code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
        differ(self.status_code != before.status_code, format!("status: {} → {}", status(before), status(self)));
        let has_words = self.status_code.is_none() && before.status_code.is_none();
        differ(has_words && self.error != before.error, "error".to_owned());
        differ(self.status_code.is_some() && self.response != before.response, "answer's body".to_owned());
        let (now, then) = (self.exchange.read(), before.exchange.read());
        let address = |exchange: &KeptExchange| exchange.link.and_then(|link| link.address);
        differ(address(&now).is_some() && address(&now) != address(&then), "address".to_owned());
        if let (Some(now), Some(then)) = (&now.captured, &then.captured) {
            let is_new = |name: &str| EVER_NEW_IN_ANSWERS.contains(&name);
            for name in differing(&then.answer.bytes, &now.answer.bytes, is_new) {
                differ(true, format!("answer's header {name}"));
            }
            let is_new = |name: &str| EVER_NEW.iter().any(|part| name.contains(part));
            for name in differing(&then.request.bytes, &now.request.bytes, is_new) {
                differ(true, format!("request's header {name}"));
            }
            differ(first_line(now) != first_line(then), "request's line".to_owned());
            differ(bodies_differ(&then.body, &now.body), "request's body".to_owned());
        }
        differences
    }
}

fn bodies_differ(then: &SentBody, now: &SentBody) -> bool {
    // Batches have other members each time.
    !matches!((then, now), (SentBody::Batch(_), SentBody::Batch(_))) && then != now
}

fn first_line(captured: &Captured) -> Option<&[u8]> {
    captured.request.bytes.split(|byte| *byte == b'\n').next()
}

/// The names, in lower case, of the fields whose values differ.
fn differing(then: &[u8], now: &[u8], is_ever_new: impl Fn(&str) -> bool) -> Vec<String> {
    let (then, now) = (fields(then), fields(now));
    let names = then.keys().chain(now.keys().filter(|name| !then.contains_key(*name)));
    names.filter(|name| then.get(*name) != now.get(*name) && !is_ever_new(name)).cloned().collect()
}

/// The values of each field of a head, by its name in lower case.
fn fields(head: &[u8]) -> BTreeMap<String, Vec<&[u8]>> {
    let mut fields: BTreeMap<String, Vec<&[u8]>> = BTreeMap::new();
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        if let Some(colon) = memchr::memchr(b':', line) {
            let name = String::from_utf8_lossy(line[..colon].trim_ascii()).to_ascii_lowercase();
            fields.entry(name).or_default().push(line[colon + 1..].trim_ascii());
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::UnixMicros;
    use crate::store::ExchangeBlob;
    use crate::store::exchange::Part;

    fn attempt(status: Option<u16>, answer: &'static str, request: &'static str, body: &'static str) -> AttemptRecord {
        let captured = Captured {
            request: Part::of(&Bytes::from(request)),
            body: SentBody::Event,
            answer: Part::of(&Bytes::from(answer)),
        };
        AttemptRecord {
            number: 1,
            started_at: UnixMicros(0),
            duration_us: 0,
            status_code: status,
            error: Some("it failed".to_owned()),
            response: Bytes::from(body),
            exchange: KeptExchange { captured: Some(captured), ..KeptExchange::default() }.to_blob(),
        }
    }

    #[test]
    fn what_is_new_each_time_is_no_difference() {
        let request = "POST / HTTP/1.1\r\nwebhook-signature: v1,a\r\nX-DECNET-Timestamp: 1\r\nX-A: 1\r\n\r\n";
        let later = "POST / HTTP/1.1\r\nwebhook-signature: v1,b\r\nX-DECNET-Timestamp: 2\r\nX-A: 1\r\n\r\n";
        let first = attempt(Some(503), "HTTP/1.1 503\r\nDate: now\r\n\r\n", request, "busy");
        let same = attempt(Some(503), "HTTP/1.1 503\r\nDate: then\r\n\r\n", later, "busy");
        assert_eq!(same.differences(&first), [""; 0]);
    }

    #[test]
    fn a_difference_is_named() {
        let first = attempt(
            Some(503),
            "HTTP/1.1 503\r\nServer: a\r\nRetry-After: 5\r\n\r\n",
            "POST /a HTTP/1.1\r\nX-A: 1\r\n",
            "",
        );
        let next =
            attempt(Some(422), "HTTP/1.1 422\r\nServer: b\r\nX-B: 1\r\n\r\n", "POST /b HTTP/1.1\r\nX-A: 2\r\n", "no");
        let expected = [
            "status: 503 → 422",
            "answer's body",
            "answer's header retry-after",
            "answer's header server",
            "answer's header x-b",
            "request's header x-a",
            "request's line",
        ];
        assert_eq!(next.differences(&first), expected);
        let silent = AttemptRecord { status_code: None, exchange: ExchangeBlob::default(), ..next.clone() };
        assert_eq!(silent.differences(&next), ["status: 422 → no answer"]);
        let otherwise = AttemptRecord { error: Some("timeout".to_owned()), ..silent.clone() };
        assert_eq!(otherwise.differences(&silent), ["error"]);
    }
}
