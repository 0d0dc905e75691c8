//! What went over the wire in one attempt, beside the answer: times, the connection, and the request.

#[cfg(feature = "server")]
pub(crate) mod curl;

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

/// What stands for a secret in a head that is shown.
const MASK: &[u8] = "…".as_bytes();

/// What is known of the wire after an attempt. By default: nothing was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    pub timings: Timings,
    /// The connection that the request was made on; `None`: there was none.
    pub link: Option<Link>,
    /// The last request that was made, or begun; `None`: none was.
    pub request: Option<SentRequest>,
}

/// Where the time of an attempt went. `None`: the phase was not needed or not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// The wait for one of the node's slots, before the attempt began.
    pub slot: Option<Duration>,
    pub dns: Option<Duration>,
    pub connect: Option<Duration>,
    pub tls: Option<Duration>,
    /// From the request's first byte out to the response's head in.
    pub first_byte: Option<Duration>,
    /// From there to the end of the answer, as far as it is read.
    pub body: Option<Duration>,
}

/// The connection of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The receiver's; `None`: a proxy resolved its name.
    pub address: Option<SocketAddr>,
    /// It was made for an earlier attempt.
    pub is_reused: bool,
    pub is_tls: bool,
}

/// A request as it was sent. Its secrets (credentials, and the values of the webhook's own headers) are shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct SentRequest {
    head: Vec<u8>,
    /// Where the secrets are, in their order.
    secrets: Vec<Range<usize>>,
    body: Bytes,
}

impl SentRequest {
    pub(super) fn new(head: Vec<u8>, secrets: Vec<Range<usize>>, body: Bytes) -> Self {
        debug_assert!(secrets.is_sorted_by_key(|secret| secret.start), "a later secret stands later");
        Self { head, secrets, body }
    }

    /// Request line and fields, up to and with the empty line; `…` stands for each secret.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let mut masked = Vec::with_capacity(self.head.len());
        let mut shown_to = 0;
        for secret in &self.secrets {
            masked.extend_from_slice(&self.head[shown_to..secret.start]);
            masked.extend_from_slice(MASK);
            shown_to = secret.end;
        }
        masked.extend_from_slice(&self.head[shown_to..]);
        masked
    }

    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

impl fmt::Debug for SentRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentRequest")
            .field("head", &String::from_utf8_lossy(&self.head()))
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let head = b"POST / HTTP/1.1\r\nAuthorization: Bearer abc\r\nA: b\r\nX-Key: k\r\n\r\n".to_vec();
        let place = |text: &str| {
            let at = memchr::memmem::find(&head, text.as_bytes()).unwrap();
            at..at + text.len()
        };
        let secrets = vec![place("Bearer abc"), place("k\r").start..place("k\r").end - 1];
        let sent = SentRequest::new(head.clone(), secrets, Bytes::from_static(b"{}"));
        let shown = "POST / HTTP/1.1\r\nAuthorization: …\r\nA: b\r\nX-Key: …\r\n\r\n";
        assert_eq!(String::from_utf8(sent.head()).unwrap(), shown);
        assert!(!format!("{sent:?}").contains("abc"));
    }
}
