//! Requests that no handler should see, and what the log says of refusals.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::log_rate::LogRate;

/// Fields that decide the meaning of a request. If one is given twice, another server may read the other value.
static ONCE: [HeaderName; 4] = [HOST, CONTENT_ENCODING, CONTENT_TYPE, AUTHORIZATION];

/// The refusal of a request whose head other servers may read differently (RFC 9112, section 3.2). The connection is
/// closed after it.
pub(super) fn of_head(request: &Request) -> Option<Response> {
    let detail = fault(request.version(), request.headers())?;
    let mut response = Problem::new(StatusCode::BAD_REQUEST, "malformed-request", detail).into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

fn fault(version: Version, headers: &HeaderMap) -> Option<String> {
    // Equal numbers of values and names mean that nothing is given twice, the usual case.
    if headers.len() != headers.keys_len()
        && let Some(name) = ONCE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some())
    {
        return Some(format!("`{name}` is given more than once"));
    }
    match headers.get(HOST) {
        // HTTP/1.0 needs no `Host`.
        None if version < Version::HTTP_11 => None,
        None => Some("`Host` is missing".to_owned()),
        Some(host) if host.as_bytes().iter().any(|byte| !byte.is_ascii_graphic() || b"/?#@\\,".contains(byte)) => {
            Some("`Host` is no host".to_owned())
        }
        Some(_) => None,
    }
}

/// Writes refusals to the log, with a rate limit for each kind.
#[derive(Default)]
pub(super) struct Refusals {
    unauthorized: LogRate,
    forbidden: LogRate,
    too_many: LogRate,
    malformed: LogRate,
}

impl Refusals {
    /// Notes the answer to a request of `peer`, if it is a refusal that an operator should know of.
    pub(super) fn note(&self, status: StatusCode, method: &Method, route: &str, peer: Option<IpAddr>) {
        let rate = match status {
            StatusCode::UNAUTHORIZED => &self.unauthorized,
            StatusCode::FORBIDDEN => &self.forbidden,
            StatusCode::TOO_MANY_REQUESTS => &self.too_many,
            _ => return,
        };
        let Some(left_out) = rate.admit(Instant::now()) else { return };
        let (status, peer) = (status.as_u16(), peer.map(tracing::field::display));
        if status == StatusCode::TOO_MANY_REQUESTS.as_u16() {
            tracing::info!(status, %method, route, peer, left_out, "a request was refused");
        } else {
            tracing::warn!(status, %method, route, peer, left_out, "a request was refused");
        }
    }

    /// Notes a request that [`of_head`] refused.
    pub(super) fn note_malformed(&self, peer: Option<IpAddr>) {
        if let Some(left_out) = self.malformed.admit(Instant::now()) {
            tracing::info!(peer = peer.map(tracing::field::display), left_out, "a malformed request was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(version: Version, fields: &[(&'static str, &'static str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        fault(version, &headers)
    }

    #[test]
    fn a_head_says_once_whom_it_is_for_and_what_comes() {
        for host in ["a", "a.example:4665", "[::1]:80", ""] {
            assert_eq!(found(Version::HTTP_11, &[("host", host), ("accept", "a"), ("accept", "b")]), None, "{host}");
        }
        assert_eq!(found(Version::HTTP_10, &[]), None);
        assert_eq!(found(Version::HTTP_11, &[]).unwrap(), "`Host` is missing");
        for host in ["a b", "a,b", "u@a", "a/b", "a?", "a\\b", "ä"] {
            assert_eq!(found(Version::HTTP_10, &[("host", host)]).unwrap(), "`Host` is no host", "{host}");
        }
        for name in ["host", "content-encoding", "content-type", "authorization"] {
            let twice = found(Version::HTTP_11, &[("host", "a"), (name, "a"), (name, "a")]);
            assert_eq!(twice.unwrap(), format!("`{name}` is given more than once"));
        }
    }
}
