//! A proxy between this server and a receiver: HTTP `CONNECT` (RFC 9110, section 9.3.6) or SOCKS5 (RFC 1928).

use http::HeaderValue;
use zeroize::Zeroizing;

use super::credential::basic;
use super::secret::SHOWN_SECRET;
use super::user_info::percent_decoded;
use super::{AccessError, SecretText};
use crate::delivery::client::{Credentials, NoProxy, Proxy, ProxyKind, ServerProxy};
use crate::delivery::guard::{Destination, MAX_URL_BYTES};

/// The longest user name and the longest password for a proxy, in bytes (RFC 1929, section 2).
const MAX_CREDENTIAL_BYTES: usize = 255;

const BEGINNINGS: &str = "url must begin with http://, https:// or socks5://";

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(deny_unknown_fields),
    schema(as = Proxy)
)]
pub struct RawProxy {
    /// `http://user:password@proxy.example:3128`, `https://…` (TLS to the proxy itself) or `socks5://…`; user, password and what is in them
    /// percent-encoded. May hold a password.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub url: SecretText,
    #[cfg_attr(feature = "server", serde(default))]
    pub resolve: Resolution,
}

/// Who turns the receiver's name into an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema),
    serde(rename_all = "lowercase")
)]
pub enum Resolution {
    /// This server, which checks every address and names one of them to the proxy.
    #[default]
    Here,
    /// The proxy, which then decides what may be contacted. The operator must have allowed it.
    Proxy,
}

impl Resolution {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Proxy => "proxy",
        }
    }
}

fn wrong(reason: impl std::fmt::Display) -> AccessError {
    AccessError::new("proxy", reason)
}

/// Scheme, what is before the `@`, and host with port.
fn parts(url: &str) -> Option<(&str, Option<&str>, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    Some(match rest.rsplit_once('@') {
        Some((user_info, host)) => (scheme, Some(user_info), host),
        None => (scheme, None, rest),
    })
}

impl RawProxy {
    /// With the user's name, without the password.
    pub(super) fn shown(&self) -> Self {
        let url = match parts(self.url.expose()) {
            Some((_, None, _)) => self.url.clone(),
            Some((scheme, Some(user_info), host)) => {
                let username = user_info.split(':').next().unwrap_or_default();
                format!("{scheme}://{username}:{SHOWN_SECRET}@{host}").into()
            }
            None => SecretText::placeholder(),
        };
        Self { url, resolve: self.resolve }
    }

    /// As the server's own, for all that have none and are not in `no_proxy`. The error does not repeat the URL.
    pub fn for_server(&self, no_proxy: Vec<NoProxy>) -> Result<ServerProxy, AccessError> {
        self.check().map(|proxy| ServerProxy::new(proxy, no_proxy))
    }

    pub(super) fn check(&self) -> Result<Proxy, AccessError> {
        let url = self.url.expose();
        if url.len() > MAX_URL_BYTES {
            return Err(wrong(format_args!("url has {} bytes, the limit is {MAX_URL_BYTES}", url.len())));
        }
        if url.contains(SHOWN_SECRET) {
            return Err(wrong("url has the sign that stands for a secret; give the password itself"));
        }
        if let Some((at, _)) = url.char_indices().find(|(_, c)| !c.is_ascii_graphic()) {
            return Err(wrong(format_args!("url has a character at byte {at} that is not visible ASCII")));
        }
        let Some((scheme, user_info, host)) = parts(url) else {
            return Err(wrong(BEGINNINGS));
        };
        if host.contains(['/', '?', '#']) || user_info.is_some_and(|info| info.contains(['/', '?', '#'])) {
            return Err(wrong("url has more than a host and a port (in a password, / ? # are %2F %3F %23)"));
        }
        let port = host.rsplit_once(':').map(|(_, port)| port).unwrap_or_default();
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong("url must name the port, as in http://proxy.example:3128"));
        }
        let credentials = user_info.map(credentials).transpose()?;
        let scheme = scheme.to_ascii_lowercase();
        let kind = match &*scheme {
            "http" | "https" => {
                ProxyKind::Http { authorization: credentials.map(|pair| authorization(&pair)).transpose()? }
            }
            "socks5" => ProxyKind::Socks5 { credentials },
            "socks5h" => return Err(wrong("url: write socks5:// and \"resolve\": \"proxy\" instead of socks5h://")),
            _ => return Err(wrong(BEGINNINGS)),
        };
        let scheme = if scheme == "https" { "https" } else { "http" };
        let address =
            Destination::parse(&format!("{scheme}://{host}/")).map_err(|error| wrong(format_args!("url: {error}")))?;
        Ok(Proxy { address, kind, resolves: self.resolve == Resolution::Proxy })
    }
}

fn credentials(user_info: &str) -> Result<Credentials, AccessError> {
    let (username, password) = user_info.split_once(':').ok_or_else(|| wrong("url has a user name and no password"))?;
    let text = |name: &str, encoded: &str| match percent_decoded(encoded) {
        Some(text) if text.is_empty() || text.len() > MAX_CREDENTIAL_BYTES => {
            let length = text.len();
            Err(wrong(format_args!("the {name} in the url has {length} bytes, must have 1 to {MAX_CREDENTIAL_BYTES}")))
        }
        Some(text) if text.chars().any(char::is_control) => {
            Err(wrong(format_args!("the {name} in the url has a control character")))
        }
        Some(text) => Ok(Zeroizing::new(text)),
        None => Err(wrong(format_args!("the {name} in the url is not percent-encoded UTF-8 (a % is %25)"))),
    };
    Ok(Credentials { username: text("user name", username)?, password: text("password", password)? })
}

fn authorization(pair: &Credentials) -> Result<HeaderValue, AccessError> {
    if pair.username.contains(':') {
        return Err(wrong("the user name in the url has a colon, which HTTP's basic credentials cannot have"));
    }
    basic(&pair.username, &pair.password).ok_or_else(|| wrong("the credentials in the url cannot be sent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str) -> Result<Proxy, String> {
        RawProxy { url: url.into(), resolve: Resolution::Here }.check().map_err(|error| error.reason)
    }

    fn refused(url: &str) -> String {
        check(url).map(|_| ()).unwrap_err()
    }

    #[test]
    fn both_kinds_are_read_with_their_credentials() {
        let proxy = check("http://us%40er:p%3Ass%2F@proxy.example:3128/").unwrap();
        assert_eq!(proxy.address.as_str(), "http://proxy.example:3128/");
        let ProxyKind::Http { authorization } = proxy.kind else { panic!("not HTTP") };
        // us@er:p:ss/
        assert_eq!(authorization.unwrap(), "Basic dXNAZXI6cDpzcy8=");
        let proxy = check("SOCKS5://a:b@[2001:db8::1]:1080").unwrap();
        assert_eq!(proxy.address.port(), 1080);
        let ProxyKind::Socks5 { credentials: Some(pair) } = proxy.kind else { panic!("not SOCKS5") };
        assert_eq!((&**pair.username, &**pair.password), ("a", "b"));
        assert_eq!(check("HTTPS://a:b@proxy.example:443").unwrap().address.as_str(), "https://proxy.example/");
        assert!(matches!(check("http://10.0.0.1:80").unwrap().kind, ProxyKind::Http { authorization: None }));
    }

    #[test]
    fn what_is_no_proxy_is_refused_with_the_way_out_and_without_the_password() {
        let cases = [
            ("proxy.example:3128", "must begin with http://, https:// or socks5://"),
            ("ftp://a:geheim@proxy.example:3128", "must begin with http://, https:// or socks5://"),
            ("https://a:geheim@proxy.example", "must name the port"),
            ("socks5h://proxy.example:1080", "\"resolve\": \"proxy\""),
            ("http://proxy.example", "must name the port"),
            ("http://[::1]", "must name the port"),
            ("http://proxy.example:", "must name the port"),
            ("http://proxy.example:0", "port 0"),
            ("http://proxy.example:99999", "malformed"),
            ("http://:3128", "no host"),
            ("http://a:geheim/x@proxy.example:3128", "%2F"),
            ("http://proxy.example:3128/path", "more than a host"),
            ("http://user@proxy.example:3128", "no password"),
            ("http://a:@proxy.example:3128", "must have 1 to 255"),
            ("http://a:geheim%0d%0ax@proxy.example:3128", "control character"),
            ("http://a:geheim%zz@proxy.example:3128", "percent-encoded"),
            ("http://a:geheim%f@proxy.example:3128", "percent-encoded"),
            ("http://a:%ff@proxy.example:3128", "percent-encoded"),
            ("http://a%3Ab:geheim@proxy.example:3128", "colon"),
            ("http://a:…@proxy.example:3128", "give the password itself"),
            ("http://a:geheim\r\n@proxy.example:3128", "visible ASCII"),
        ];
        for (url, expected) in cases {
            let reason = refused(url);
            assert!(reason.contains(expected) && !reason.contains("geheim"), "{url}: {reason}");
        }
        assert!(refused(&format!("http://{}:1", "a".repeat(MAX_URL_BYTES))).contains("limit is 2083"));
        assert!(refused(&format!("http://a:{}@p.example:1", "b".repeat(256))).contains("must have 1 to 255"));
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = |url: &str| RawProxy { url: url.into(), resolve: Resolution::Here }.shown();
        assert_eq!(shown("http://me:geheim@p.example:1").url.expose(), "http://me:…@p.example:1");
        assert_eq!(shown("http://me:ge@heim@p.example:1/").url.expose(), "http://me:…@p.example:1");
        assert_eq!(shown("socks5://p.example:1").url.expose(), "socks5://p.example:1");
        assert_eq!(shown("geheim").url.expose(), "…");
        assert!(
            !format!("{:?}", RawProxy { url: "http://a:geheim@b:1".into(), resolve: Resolution::Here })
                .contains("geheim")
        );
    }
}
