//! URLs of webhooks: what the guard has looked at is what is contacted, and the guard lets nothing private through.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use postrider::delivery::guard::{Destination, EgressPolicy, Host, MAX_URL_BYTES};

/// A coarse view of its own of what is never public.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_unique_local()
                || ip.is_unspecified()
                || ip.is_multicast()
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let policy = EgressPolicy::default();
    // As an address, whatever it is as a URL.
    if let Ok(octets) = <[u8; 16]>::try_from(input) {
        let address = SocketAddr::new(IpAddr::from(octets), 443);
        assert!(!(is_private(address.ip()) && policy.check(address).is_ok()), "{address} was let through");
    }
    let Ok(url) = std::str::from_utf8(input) else { return };
    let Ok(destination) = Destination::parse(url) else { return };
    assert!(url.len() <= MAX_URL_BYTES && destination.port() > 0);
    let shown = destination.as_str();
    assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{shown:?} goes into a request as it is");
    assert_eq!(destination.is_tls(), shown.starts_with("https://"));
    let again = Destination::parse(shown).expect("what was normalised parses");
    assert_eq!(again, destination);
    assert!(again.same_origin(&destination));
    // Another parser sees the same host.
    let uri: http::Uri = shown.parse().expect("HTTP's parser takes it");
    assert!(uri.authority().is_some_and(|authority| !authority.as_str().contains('@')), "{shown} has a user");
    let host = uri.host().expect("a host").trim_matches(['[', ']']);
    match destination.host() {
        Host::Ip(ip) => {
            assert_eq!(host.parse::<IpAddr>().ok(), Some(*ip));
            assert!(!(is_private(*ip) && policy.check_destination(&destination).is_ok()), "{shown} was let through");
        }
        Host::Domain(name) => {
            assert_eq!(host, &**name);
            assert!(host.parse::<IpAddr>().is_err(), "{host} is an address");
            assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
        }
    }
});
