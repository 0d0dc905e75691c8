//! The operator's own proxy, for all webhooks that name none.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::Client;
use super::route::{Proxy, Target};
use crate::delivery::guard::{Destination, Host, ascii_name, is_below, is_localhost};

/// A proxy for all that has none of its own, and what goes directly nevertheless.
pub struct ServerProxy {
    proxy: Proxy,
    no_proxy: Vec<NoProxy>,
}

/// Hosts that are reached without the server's proxy, as in the variable `NO_PROXY` of other programs:
///
/// - `*`: all;
/// - `host.example`: this name and all below it;
/// - `.zone.example` or `*.zone.example`: all names below it;
/// - `10.1.2.3`, `fd00::1`, `10.0.0.0/8`: the address of a URL, or the network that it is in. Names are not resolved for
///   this;
/// - each of them but the networks with a port, as in `host.example:8080` or `[fd00::1]:443`, for this port alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct NoProxy {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    Network(IpNet),
    /// ASCII, lower case, without a dot at its end.
    Name(Box<str>),
    Below(Box<str>),
}

/// The proxy of a connection.
#[derive(Clone, Copy)]
pub(in crate::delivery) struct Via<'a> {
    pub(in crate::delivery) proxy: &'a Proxy,
    /// Whether it is the operator's, and not the webhook's.
    pub(in crate::delivery) is_own: bool,
}

impl Client {
    /// The proxy on the way to `target`: the webhook's, or the server's.
    pub(in crate::delivery) fn via<'a>(&'a self, target: Target<'a>) -> Option<Via<'a>> {
        if let Some(proxy) = target.proxy() {
            return Some(Via { proxy, is_own: false });
        }
        let server = self.inner.proxy.as_ref()?;
        server.leads_to(target.destination).then_some(Via { proxy: &server.proxy, is_own: true })
    }
}

impl ServerProxy {
    pub(in crate::delivery) fn new(proxy: Proxy, no_proxy: Vec<NoProxy>) -> Self {
        Self { proxy, no_proxy }
    }

    /// This machine is never reached by way of the proxy, which would go to itself.
    fn leads_to(&self, destination: &Destination) -> bool {
        let is_here = match destination.host() {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Domain(name) => is_localhost(name),
        };
        !is_here && !self.no_proxy.iter().any(|rule| rule.matches(destination))
    }
}

impl NoProxy {
    fn matches(&self, destination: &Destination) -> bool {
        if self.port.is_some_and(|port| port != destination.port()) {
            return false;
        }
        match (&self.hosts, destination.host()) {
            (Hosts::All, _) => true,
            (Hosts::Network(net), Host::Ip(ip)) => net.contains(ip) || net.contains(&ip.to_canonical()),
            (Hosts::Network(_), Host::Domain(_)) | (_, Host::Ip(_)) => false,
            (Hosts::Name(name), Host::Domain(host)) => bare(host) == &**name || is_below(bare(host), name),
            (Hosts::Below(zone), Host::Domain(host)) => is_below(bare(host), zone),
        }
    }
}

fn bare(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl FromStr for NoProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let network = |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        if let Some(network) = network(text) {
            return Ok(Self { hosts: Hosts::Network(network), port: None });
        }
        let wrong = || format!("{text:?} is no host; write host.example, .zone.example, 10.0.0.0/8 or *");
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?)),
            None => (text, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let hosts = if host == "*" {
            Hosts::All
        } else if let Ok(ip) = host.parse::<IpAddr>() {
            Hosts::Network(ip.into())
        } else if let Some(zone) = host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
            Hosts::Below(ascii_name(zone).ok_or_else(wrong)?.into())
        } else {
            Hosts::Name(ascii_name(host).ok_or_else(wrong)?.into())
        };
        Ok(Self { hosts, port })
    }
}

impl fmt::Display for NoProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.hosts, self.port) {
            (Hosts::All, _) => f.write_str("*")?,
            (Hosts::Network(net), None) => write!(f, "{net}")?,
            (Hosts::Network(IpNet::V6(net)), Some(_)) => write!(f, "[{}]", net.addr())?,
            (Hosts::Network(net), Some(_)) => write!(f, "{}", net.addr())?,
            (Hosts::Name(name), _) => f.write_str(name)?,
            (Hosts::Below(zone), _) => write!(f, ".{zone}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl TryFrom<String> for NoProxy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<NoProxy> for String {
    fn from(given: NoProxy) -> Self {
        given.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_written_as_in_other_programs() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            ("*", &["http://a.example", "http://8.8.8.8", "http://[2001:db8::1]"], &[]),
            ("*:8080", &["http://a.example:8080"], &["http://a.example"]),
            (
                "Corp.Example.",
                &["http://corp.example", "http://a.b.corp.example.", "https://CORP.example:1"],
                &["http://xcorp.example", "http://corp.example.evil.test", "http://example"],
            ),
            (".corp.example", &["http://a.corp.example"], &["http://corp.example", "http://xcorp.example"]),
            ("*.corp.example", &["http://a.corp.example"], &["http://corp.example", "http://xcorp.example"]),
            ("my_host:8080", &["http://my_host:8080"], &["http://my_host", "http://my_host:80"]),
            (
                "10.0.0.0/8",
                &["http://10.1.2.3:99", "http://[::ffff:10.1.2.3]"],
                &["http://11.0.0.1", "http://a.example"],
            ),
            ("192.0.2.1:443", &["https://192.0.2.1"], &["http://192.0.2.1", "https://192.0.2.2"]),
            ("[fd00::1]:443", &["https://[fd00::1]"], &["http://[fd00::1]", "https://[fd00::2]"]),
        ];
        for (text, matching, others) in cases {
            let rule: NoProxy = text.parse().unwrap();
            let matches = |url: &&str| rule.matches(&Destination::parse(url).unwrap());
            for url in matching {
                assert!(matches(url), "{text} {url}");
            }
            for url in others {
                assert!(!matches(url), "{text} {url}");
            }
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        for text in ["", "http://a.example", "a*.example", "a..b", "a.example:", "a.example:0", "10.0.0.0/33", "a b"] {
            let refused = text.parse::<NoProxy>().unwrap_err();
            assert!(refused.contains("is no host"), "{text}: {refused}");
        }
    }
}
