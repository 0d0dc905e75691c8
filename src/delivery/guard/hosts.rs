//! The hosts file, whose names are not looked up elsewhere (hosts(5)).

#[cfg(feature = "dns")]
use std::collections::HashMap;
use std::net::IpAddr;

/// Where it is.
pub(super) const HOSTS_FILE: &str = "/etc/hosts";

/// Addresses by name, in lower case and without a dot at the end.
#[cfg(feature = "dns")]
#[derive(Default)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

#[cfg(feature = "dns")]
impl Hosts {
    pub(super) fn parse(text: &str) -> Self {
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for (name, ip) in entries(text) {
            let addresses = hosts.entry(name.to_ascii_lowercase()).or_default();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        Self(hosts)
    }

    pub(super) fn find(&self, host: &str) -> Option<&[IpAddr]> {
        self.0.get(bare(host)).map(Vec::as_slice)
    }
}

/// The addresses of `host` in the text of a hosts file.
pub(super) fn addresses_of(host: &str, text: &str) -> Vec<IpAddr> {
    let host = bare(host);
    entries(text).filter(|(name, _)| name.eq_ignore_ascii_case(host)).map(|(_, ip)| ip).collect()
}

/// Without the dot that makes a name absolute.
fn bare(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Lines that are not understood are passed over, as the C library does.
fn entries(text: &str) -> impl Iterator<Item = (&str, IpAddr)> {
    text.lines().flat_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let ip = words.next().and_then(|word| word.parse().ok());
        words.filter_map(move |name| Some((bare(name), ip?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_read_as_the_c_library_reads_it() {
        let text = "127.0.0.1 localhost\n10.0.0.7\tDB.corp  my_host # a comment 10.0.0.8\n\n# 10.0.0.9 not\n\
                    fe80::1%lo0 zoned\n::7 my_host\n10.0.0.7 my_host\nnonsense here\n10.0.0.10";
        let of = |texts: &[&str]| texts.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let unknown = ["zoned", "not", "here", "corp", "10.0.0.8", ""];
        assert_eq!(addresses_of("db.corp.", text), of(&["10.0.0.7"]));
        assert!(unknown.iter().all(|name| addresses_of(name, text).is_empty()));
        #[cfg(feature = "dns")]
        {
            let hosts = Hosts::parse(text);
            assert_eq!(hosts.find("my_host"), Some(&*of(&["10.0.0.7", "::7"])));
            assert_eq!(hosts.find("db.corp."), Some(&*of(&["10.0.0.7"])));
            assert!(unknown.iter().all(|name| hosts.find(name).is_none()));
        }
    }
}
