//! Cross-origin requests (CORS, <https://fetch.spec.whatwg.org/#http-cors-protocol>) of pages whose origins are named.
//!
//! A page sends its token in `Authorization`, and no cookie or password of the browser opens the API, so credentials in
//! CORS's sense are never allowed.

use std::fmt;
use std::str::FromStr;

use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The routes that pages of other origins may use.
const SHARED_ROUTES: &str = "/api/v1/";
/// The most origins that may be named.
pub const MAX_CORS_ORIGINS: usize = 64;
/// The time for which a browser need not ask again, in seconds. Chromium's own limit is 7,200.
const PREFLIGHT_MAX_AGE_S: u32 = 600;
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PATCH, DELETE");
/// Headers of requests that the API reads, but for those that a browser sets or always allows.
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, Idempotency-Key, X-Postrider-Tenant");
/// Headers of answers that a page could not read otherwise.
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static("Allow, Location, Retry-After, WWW-Authenticate");

/// The origin of web pages as browsers send it, as in `https://console.example` or `http://localhost:8080`: lower case,
/// ASCII, without a port that the scheme implies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebOrigin(String);

impl FromStr for WebOrigin {
    type Err = String;

    /// Other spellings of an origin, as `HTTPS://Console.Example:443/`, are understood.
    fn from_str(text: &str) -> Result<Self, String> {
        let given = text.trim();
        let refused = |reason: &str| Err(format!("{given:?} {reason}"));
        if given == "*" {
            return refused(
                "would let every page that somebody opens try tokens and addresses from inside the network; name the \
                 origins, as in https://console.example",
            );
        }
        if given == "null" {
            return refused("is the origin of sandboxed pages and files of anybody; serve the page from an origin");
        }
        let Ok(url) = Url::parse(given) else {
            return refused("is no origin, which has a scheme and a host, as in https://console.example");
        };
        if !matches!(url.scheme(), "http" | "https") {
            return refused("has another scheme than http and https");
        }
        let has_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
        if has_more || !url.username().is_empty() || url.password().is_some() {
            return refused("has more than scheme, host and port; an origin has no path");
        }
        if matches!(url.host(), Some(Host::Domain(name)) if name.contains('*')) {
            return refused("has a wildcard; name each origin");
        }
        Ok(Self(url.origin().ascii_serialization()))
    }
}

impl TryFrom<String> for WebOrigin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<WebOrigin> for String {
    fn from(origin: WebOrigin) -> Self {
        origin.0
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The named origins; none: answers have no header of CORS.
#[derive(Default)]
pub struct Cors(Vec<HeaderValue>);

/// What an answer says to the browser.
pub(super) enum Consent {
    /// Nothing: no origin is named, or the route is not shared.
    None,
    /// Only that the answer depends on the origin, and this one is not named.
    Withheld,
    Given(HeaderValue),
}

impl Cors {
    #[must_use]
    pub fn new(origins: &[WebOrigin]) -> Self {
        // An origin is ASCII without control characters.
        Self(origins.iter().filter_map(|origin| HeaderValue::from_str(&origin.0).ok()).collect())
    }

    pub(super) fn consent(&self, request: &Request) -> Consent {
        if self.0.is_empty() || !request.uri().path().starts_with(SHARED_ROUTES) {
            return Consent::None;
        }
        let mut given = request.headers().get_all(ORIGIN).iter();
        match (given.next(), given.next()) {
            (Some(origin), None) if self.0.contains(origin) => Consent::Given(origin.clone()),
            _ => Consent::Withheld,
        }
    }
}

impl Consent {
    /// The answer to a browser that asks whether a page may send a request. The request itself brings the token.
    pub(super) fn to_preflight(&self, request: &Request) -> Option<Response> {
        let is_preflight =
            request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight || !matches!(self, Self::Given(_)) {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_MAX_AGE_S));
        Some(response)
    }

    /// Lets the page read the answer with these headers.
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        match self {
            Self::None => {}
            Self::Withheld => {
                headers.append(VARY, HeaderValue::from_static("Origin"));
            }
            Self::Given(origin) => {
                headers.append(VARY, HeaderValue::from_static("Origin"));
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for (text, origin) in [
            ("https://console.example", "https://console.example"),
            ("HTTPS://Console.Example:443/", "https://console.example"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            (" https://bücher.example ", "https://xn--bcher-kva.example"),
        ] {
            assert_eq!(text.parse::<WebOrigin>().unwrap().to_string(), origin, "{text}");
        }
        for (text, reason) in [
            ("*", "name the origins"),
            ("null", "sandboxed"),
            ("console.example", "no origin"),
            ("localhost:8080", "scheme"),
            ("", "no origin"),
            ("file:///console.html", "scheme"),
            ("https://*.example", "wildcard"),
            ("https://console.example/app", "no path"),
            ("https://console.example?a", "no path"),
            ("https://console.example#a", "no path"),
            ("https://me@console.example", "no path"),
            ("https://a.example,https://b.example", "no"),
        ] {
            let error = text.parse::<WebOrigin>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
