//! The way to a broker: a host, a port and TLS.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::SourceError;
use super::tls::{RawTls, TlsSettings};
use crate::sources::secret::Surroundings;

/// The time for TCP and TLS.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest message that a broker may announce, in bytes, as RabbitMQ and Redis have it themselves. What is too large for
/// an event is read and dropped; a larger one ends the connection.
pub(super) const MAX_CLAIMED_BYTES: u64 = 512 << 20;

/// A connection, whatever is below it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How the URLs of a kind of brokers look.
pub(super) struct Scheme {
    pub(super) plain: &'static str,
    pub(super) plain_port: u16,
    pub(super) tls: &'static str,
    pub(super) tls_port: u16,
}

/// Where a broker is.
#[derive(Clone, Debug)]
pub(super) struct Address {
    scheme: &'static str,
    /// An address in IPv6 has no brackets.
    host: String,
    port: u16,
    /// `None`: without TLS.
    tls: Option<TlsSettings>,
}

impl Address {
    /// The errors have no part of the URL, since a part of it may be a password.
    pub(super) fn parse(
        url: &str,
        scheme: &Scheme,
        tls: Option<RawTls>,
        surroundings: &Surroundings,
    ) -> Result<Self, String> {
        let wrong = || format!("url: expected {}://host:port or {}://host:port", scheme.plain, scheme.tls);
        let parsed = Url::parse(url).map_err(|_| wrong())?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err("url: the user and the password are settings of their own, and no part of a URL".to_owned());
        }
        let has_more = !matches!(parsed.path(), "" | "/") || parsed.query().is_some() || parsed.fragment().is_some();
        let host = parsed.host_str().filter(|host| !host.is_empty() && !has_more).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = parsed.scheme() == scheme.tls;
        if !is_tls && parsed.scheme() != scheme.plain {
            return Err(wrong());
        }
        let tls = match (is_tls, tls) {
            (false, None) => None,
            (false, Some(_)) => return Err(format!("tls: the URL must begin with {}://", scheme.tls)),
            (true, None) => Some(TlsSettings::default()),
            (true, Some(tls)) => match tls.within(surroundings)? {
                TlsSettings { is_required: false, .. } => {
                    return Err(format!("tls.required: a URL with {}:// demands TLS", scheme.tls));
                }
                tls => Some(tls),
            },
        };
        let (scheme, port) = if is_tls { (scheme.tls, scheme.tls_port) } else { (scheme.plain, scheme.plain_port) };
        Ok(Self { scheme, host, port: parsed.port().unwrap_or(port), tls })
    }

    pub(super) fn connect_error(&self, reason: impl std::fmt::Display) -> SourceError {
        SourceError::new(&format!("cannot connect to {self}"), reason)
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, SourceError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await {
            Ok(opened) => opened.map_err(|reason| self.connect_error(reason)),
            Err(_) => Err(self.connect_error(format_args!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    async fn open(&self) -> Result<Box<dyn Stream>, String> {
        let tcp = TcpStream::connect((&*self.host, self.port)).await.map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::new(tls.config()?));
        Ok(Box::new(connector.connect(name, tcp).await.map_err(|error| format!("TLS: {error}"))?))
    }
}

/// As in the settings.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scheme, host, port, .. } = self;
        if host.contains(':') { write!(f, "{scheme}://[{host}]:{port}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEME: Scheme = Scheme { plain: "redis", plain_port: 6379, tls: "rediss", tls_port: 6380 };

    fn parsed(url: &str) -> Result<Address, String> {
        Address::parse(url, &SCHEME, None, &Surroundings::default())
    }

    #[test]
    fn a_broker_is_a_host_and_a_port() {
        for (url, expected) in [
            ("redis://host", "redis://host:6379"),
            ("rediss://host/", "rediss://host:6380"),
            ("redis://[::1]:7000", "redis://[::1]:7000"),
            ("redis://127.0.0.1:7000", "redis://127.0.0.1:7000"),
        ] {
            assert_eq!(parsed(url).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn wrong_ones_are_refused_and_nothing_of_them_is_repeated() {
        for (url, expected) in [
            ("hunter2", "url: expected redis://host:port"),
            ("http://host/hunter2", "url: expected redis://host:port"),
            ("redis://host/hunter2", "url: expected redis://host:port"),
            ("redis://host?p=hunter2", "url: expected redis://host:port"),
            ("redis:///hunter2", "url: expected redis://host:port"),
            ("redis://u:hunter2@host", "url: the user and the password are settings of their own"),
            ("redis://:hunter2@host", "url: the user and the password are settings of their own"),
        ] {
            let error = parsed(url).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("hunter2"), "{url}: {error}");
        }
        let tls: RawTls = toml::from_str("").unwrap();
        let error = Address::parse("redis://host", &SCHEME, Some(tls), &Surroundings::default()).unwrap_err();
        assert_eq!(error, "tls: the URL must begin with rediss://");
    }
}
