//! Patterns of host names, as an operator gives them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A name, or every name below one: `files.corp.example`, `*.svc.cluster.local`.
///
/// It is compared label by label and in lower case; a dot at the end of either makes no difference, and letters beyond
/// ASCII are encoded as they are in URLs. `*.` stands for one label or more, so `*.a.example` is neither `a.example` nor
/// `xa.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "server",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct HostPattern {
    /// ASCII, lower case, without a dot at its end.
    name: Box<str>,
    is_below: bool,
}

impl HostPattern {
    /// `host`: ASCII in lower case, as of a [`Destination`](super::Destination).
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        if self.is_below { is_below(host, &self.name) } else { host == &*self.name }
    }
}

/// Whether `host` has labels before those of `zone`; both without a dot at the end.
pub(in crate::delivery) fn is_below(host: &str, zone: &str) -> bool {
    host.strip_suffix(zone).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty())
}

/// `text` as URLs have host names, without a dot at its end; `None`: it is no name.
pub(in crate::delivery) fn ascii_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    match url::Host::parse(text) {
        Ok(url::Host::Domain(name)) if !name.split('.').any(str::is_empty) && !name.contains('*') => Some(name),
        _ => None,
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let given = text.trim();
        if given == "*" || given == "*." {
            return Err("\"*\" is every name; allow_private_destinations opens every private address".to_owned());
        }
        if given.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || given.parse::<ipnet::IpNet>().is_ok() {
            return Err(format!("{given:?} is no name; addresses and networks belong into allow_private"));
        }
        let zone = given.strip_prefix("*.");
        let name = ascii_name(zone.unwrap_or(given))
            .ok_or_else(|| format!("{given:?} is no name of a host; write host.example or *.zone.example"))?;
        if name == "localhost" || is_below(&name, "localhost") {
            return Err(format!("{given:?} is this machine; 127.0.0.0/8 and ::1/128 in allow_private open it"));
        }
        Ok(Self { name: name.into(), is_below: zone.is_some() })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_below { "*." } else { "" }, self.name)
    }
}

impl TryFrom<String> for HostPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(given: HostPattern) -> Self {
        given.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_labels_in_any_spelling_of_itself() {
        let cases: [(&str, &[&str], &[&str]); 5] = [
            (
                "*.svc.cluster.local",
                &["a.svc.cluster.local", "a.ns.svc.cluster.local", "a.svc.cluster.local.", "my_a.svc.cluster.local"],
                &[
                    "svc.cluster.local",
                    ".svc.cluster.local",
                    "xsvc.cluster.local",
                    "a.svc.cluster.local.evil.example",
                    "a.svc.cluster.local..",
                    "a-svc.cluster.local",
                    "",
                    ".",
                ],
            ),
            ("*.SVC.Cluster.LOCAL.", &["a.svc.cluster.local"], &["svc.cluster.local"]),
            ("receiver", &["receiver", "receiver."], &["a.receiver", "receiver.example", "xreceiver"]),
            ("*.bücher.example", &["a.xn--bcher-kva.example"], &["a.bucher.example"]),
            ("Files.corp.", &["files.corp"], &["a.files.corp"]),
        ];
        for (text, matching, others) in cases {
            let pattern: HostPattern = text.parse().unwrap();
            assert!(matching.iter().all(|host| pattern.matches(host)), "{text}");
            assert!(others.iter().all(|host| !pattern.matches(host)), "{text}");
            assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
        for (text, reason) in [
            ("*", "every name"),
            ("*.", "every name"),
            ("10.0.0.1", "allow_private"),
            ("0x0a000001", "no name"),
            ("10.0.0.0/8", "allow_private"),
            ("[::1]", "allow_private"),
            ("*.*.example", "no name"),
            ("a*.example", "no name"),
            ("**.example", "no name"),
            (".example", "no name"),
            ("a..example", "no name"),
            ("http://a.example", "no name"),
            ("a.example:80", "no name"),
            ("", "no name"),
            ("localhost", "this machine"),
            ("*.LOCALHOST.", "this machine"),
        ] {
            let refused = text.parse::<HostPattern>().unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
