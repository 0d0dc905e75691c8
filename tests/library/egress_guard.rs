//! The network inside is out of reach: every range, every spelling, every trick with names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use postrider::delivery::End;
use postrider::delivery::client::{CONFIRM_AFTER, Client, ClientOptions};
use postrider::delivery::guard::{
    Destination, DestinationError, EgressPolicy, METADATA_NETWORKS, Resolve, SharedResolver, SystemResolver,
};

use postrider::signing::SigningKeys;
use postrider::webhook::Webhook;

use crate::receivers::{Names, Receiver, read_request};

/// The ranges as they were handed down, read anew and judged by other code than the guard's.
struct Ranges {
    denied: Vec<IpNet>,
    allowed_only: Vec<IpNet>,
}

impl Ranges {
    fn read() -> Self {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("vectors/egress_ranges.json")).unwrap();
        let nets = |key: &str| -> Vec<IpNet> {
            vectors[key].as_array().unwrap().iter().map(|net| net.as_str().unwrap().parse().unwrap()).collect()
        };
        let denied = ["v4_deny", "v6_deny_inside", "v6_denied_by_allow_only_but_test_each"].map(nets).concat();
        Self { denied, allowed_only: nets("v6_allow_only") }
    }

    fn allows(&self, ip: IpAddr) -> bool {
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        !within(&self.denied) && (ip.is_ipv4() || within(&self.allowed_only))
    }
}

/// The addresses beside a range, where there are any.
fn neighbours(net: &IpNet) -> Vec<IpAddr> {
    let both = match (net.network(), net.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => [u32::from(first).checked_sub(1), u32::from(last).checked_add(1)]
            .map(|ip| ip.map(|ip| IpAddr::V4(ip.into()))),
        (IpAddr::V6(first), IpAddr::V6(last)) => [u128::from(first).checked_sub(1), u128::from(last).checked_add(1)]
            .map(|ip| ip.map(|ip| IpAddr::V6(ip.into()))),
        _ => unreachable!("a network has one family"),
    };
    both.into_iter().flatten().collect()
}

fn allows(policy: &EgressPolicy, ip: IpAddr) -> bool {
    policy.check(SocketAddr::new(ip, 443)).is_ok()
}

fn opening(nets: &[&str]) -> EgressPolicy {
    let allow_private = nets.iter().map(|net| net.parse().unwrap()).collect();
    EgressPolicy { allow_private, ..EgressPolicy::default() }
}

#[test]
fn every_range_is_closed_from_its_first_address_to_its_last_and_no_further() {
    let ranges = Ranges::read();
    let strict = EgressPolicy::default();
    let mut open_neighbours = 0;
    for net in &ranges.denied {
        for inside in [net.network(), net.broadcast()] {
            assert!(!allows(&strict, inside), "{inside} of {net}");
        }
        for beside in neighbours(net) {
            assert_eq!(allows(&strict, beside), ranges.allows(beside), "{beside} beside {net}");
            open_neighbours += usize::from(ranges.allows(beside));
        }
    }
    for net in &ranges.allowed_only {
        for ip in [net.network(), net.broadcast()].into_iter().chain(neighbours(net)) {
            assert_eq!(allows(&strict, ip), ranges.allows(ip), "{ip} at the edge of {net}");
        }
    }
    assert!(open_neighbours > 20, "the ranges have open neighbours, only {open_neighbours} were seen");
    for public in ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"] {
        assert!(allows(&strict, public.parse().unwrap()), "{public}");
    }
}

#[test]
fn an_ipv4_address_in_ipv6_clothes_is_never_more_permissive_than_either() {
    let ranges = Ranges::read();
    let v4_ends =
        ranges.denied.iter().flat_map(|net| [net.network(), net.broadcast()].into_iter().chain(neighbours(net)));
    let v4_ends: Vec<Ipv4Addr> =
        v4_ends.filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }).collect();
    let opened = opening(&["::ffff:0:0/96", "64:ff9b::/96"]);
    for v4 in v4_ends {
        let nat64: IpAddr = format!("64:ff9b::{v4}").parse().unwrap();
        for v6 in [v4.to_ipv6_mapped().into(), nat64] {
            assert!(!allows(&EgressPolicy::default(), v6), "{v6} without opening");
            assert!(!allows(&opening(&["0.0.0.0/0"]), v6), "{v6} where only IPv4 is open");
            assert_eq!(allows(&opened, v6), ranges.allows(v4.into()), "{v6} where its prefix is open");
        }
    }
}

#[test]
fn opening_a_network_opens_that_network_alone() {
    let policy = opening(&["10.1.0.0/16", "fd00::/8"]);
    for (ip, open) in
        [("10.1.2.3", true), ("10.2.0.1", false), ("127.0.0.1", false), ("fd12::1", true), ("fe80::1", false)]
    {
        assert_eq!(allows(&policy, ip.parse().unwrap()), open, "{ip}");
    }
}

#[test]
fn cloud_metadata_stays_closed_unless_its_one_address_is_named() {
    let everything = EgressPolicy { allow_all_private: true, ..opening(&["0.0.0.0/0", "::/0"]) };
    for (net, _) in METADATA_NETWORKS {
        // All but one address of it is no naming one by one.
        let halves = net.subnets(net.max_prefix_len().min(net.prefix_len() + 1)).unwrap();
        let halves: Vec<_> = halves.filter(|half| half.prefix_len() < half.max_prefix_len()).collect();
        let most = EgressPolicy { allow_private: halves, ..everything.clone() };
        for ip in [net.network(), net.broadcast()] {
            assert!(!allows(&everything, ip) && !allows(&most, ip), "{ip}");
            let named = EgressPolicy { allow_private: vec![ip.into()], ..EgressPolicy::default() };
            assert!(allows(&named, ip), "{ip} named");
        }
    }
    for (cloud, ip) in [
        ("AWS EC2", "169.254.169.254"),
        ("AWS EC2", "fd00:ec2::254"),
        ("any", "169.254.0.0"),
        ("any", "169.254.255.255"),
        ("any", "fe80::1"),
        ("any", "febf:ffff::1"),
        ("AWS EC2", "fd00:ec2::253"),
        ("Oracle", "192.0.0.192"),
        ("Scaleway", "fd00:42::42"),
        ("OpenStack", "fe80::a9fe:a9fe"),
        ("AWS ECS", "169.254.170.2"),
        ("AWS EKS", "169.254.170.23"),
        ("AWS EKS", "fd00:ec2::23"),
        ("Google", "fd20:ce::254"),
        ("Azure", "168.63.129.16"),
        ("Alibaba", "100.100.100.200"),
    ] {
        assert!(!allows(&everything, ip.parse().unwrap()), "{ip} of {cloud}");
    }
    for disguised in [
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.1.1",
        "64:ff9b:1:a9fe:a9:fe00::",
        "2002:a9fe:a9fe::",
        "::169.254.169.254",
        "::ffff:192.0.0.192",
    ] {
        assert!(!allows(&everything, disguised.parse().unwrap()), "{disguised}");
    }
    assert!(allows(&everything, "10.0.0.1".parse().unwrap()));
    for name in ["http://metadata.google.internal/", "http://metadata.google.internal./", "http://METADATA.goog/"] {
        let refused = everything.check_destination(&Destination::parse(name).unwrap());
        assert!(matches!(refused, Err(DestinationError::Forbidden(_))), "{name}");
    }
}

#[test]
fn the_own_listeners_are_refused_where_private_networks_are_open() {
    let listening_on = |own: &str| EgressPolicy {
        allow_all_private: true,
        own_listeners: vec![own.parse().unwrap()],
        ..EgressPolicy::default()
    };
    let cases = [
        ("127.0.0.1:4665", "127.0.0.1:4665", false),
        ("127.0.0.1:4665", "127.0.0.1:4666", true),
        ("127.0.0.1:4665", "[::ffff:127.0.0.1]:4665", false),
        ("127.0.0.1:4665", "0.0.0.0:4665", false),
        ("127.0.0.1:4665", "10.0.0.1:4665", true),
        ("0.0.0.0:4665", "127.9.9.9:4665", false),
        ("0.0.0.0:4665", "[::1]:4665", false),
        ("[::]:4665", "127.0.0.1:4665", false),
        ("[::]:4665", "0.0.0.0:4665", false),
        ("10.0.0.7:4665", "10.0.0.7:4665", false),
        ("10.0.0.7:4665", "10.0.0.8:4665", true),
    ];
    for (own, target, open) in cases {
        assert_eq!(listening_on(own).check(target.parse().unwrap()).is_ok(), open, "{target} from a listener on {own}");
    }
}

#[test]
fn a_connection_that_has_not_left_the_machine_does_not_reach_its_own_listeners() {
    let check = |own: &str, local: &str, peer: &str| {
        let policy = EgressPolicy { own_listeners: vec![own.parse().unwrap()], ..EgressPolicy::default() };
        policy.check_connected(local.parse().unwrap(), peer.parse().unwrap()).is_ok()
    };
    for (own, local, peer, open) in [
        ("0.0.0.0:4665", "10.0.0.7:50000", "10.0.0.7:4665", false),
        ("[::]:4665", "10.0.0.7:50000", "10.0.0.7:4665", false),
        ("[::]:4665", "[fd00::7]:50000", "[fd00::7]:4665", false),
        ("0.0.0.0:4665", "[::ffff:10.0.0.7]:50000", "[::ffff:10.0.0.7]:4665", false),
        ("0.0.0.0:4665", "10.0.0.7:50000", "10.0.0.8:4665", true),
        ("0.0.0.0:4665", "10.0.0.7:50000", "10.0.0.7:4666", true),
        ("127.0.0.1:4665", "10.0.0.7:50000", "10.0.0.7:4665", true),
    ] {
        assert_eq!(check(own, local, peer), open, "{local} → {peer} with a listener on {own}");
    }
}

#[tokio::test]
async fn the_own_listener_on_every_address_is_refused_at_the_machine_s_address_in_its_network() {
    // Nothing is sent; the system says which address it would send from. Without a network it has none.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let lan = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|addr| addr.ip());
    let Ok(lan) = lan else { return eprintln!("passed over: this machine is in no network") };
    let own = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = own.local_addr().unwrap().port();
    let names = Names::default();
    names.set(&[&lan.to_string()]);
    let policy = EgressPolicy {
        allow_all_private: true,
        own_listeners: vec![own.local_addr().unwrap()],
        ..EgressPolicy::default()
    };
    let client =
        Client::new(ClientOptions { policy, resolver: Some(names.resolver()), ..ClientOptions::default() }).unwrap();
    let blocked = async |url: String| match get(&client, &Destination::parse(&url).unwrap()).await {
        Err(End::Blocked(reason)) => reason,
        other => panic!("{url}: {other:?}"),
    };
    let itself = format!("{lan} port {port} is this server itself");
    assert_eq!(blocked(format!("http://{lan}:{port}/")).await, itself);
    let end = get(&client, &Destination::parse(&format!("http://lan.example:{port}/")).unwrap()).await.unwrap_err();
    assert_eq!(end, unresolved("lan.example", &format!("lan.example: {itself}")));
}

#[test]
fn an_address_is_judged_after_every_spelling_is_undone() {
    let strict = EgressPolicy::default();
    let spellings = [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://１２７.０.０.１/",
        "http://127。0。0。1/",
        "http://①②⑦.0.0.1/",
        "http://127.0.0.1./",
        "http://0/",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "https://10.0.0.1:8443/hook",
        "http://0xa9fea9fe/latest/meta-data/",
        "HTTP://192.168.0.1/",
    ];
    for url in spellings {
        let refused = strict.check_destination(&Destination::parse(url).unwrap());
        assert!(matches!(refused, Err(DestinationError::Forbidden(_))), "{url}: {refused:?}");
        assert!(refused.unwrap_err().to_string().starts_with("egress_blocked: "), "{url}");
    }
}

#[test]
fn names_of_this_machine_and_of_private_zones_are_blocked() {
    let check = |policy: &EgressPolicy, url: &str| policy.check_destination(&Destination::parse(url).unwrap());
    let private = [
        "http://localhost/",
        "http://LOCALHOST./",
        "http://a.localhost/",
        "http://db.corp.internal:8080/",
        "http://x.internal./",
    ];
    for url in private {
        assert!(check(&EgressPolicy::default(), url).is_err(), "{url}");
        assert!(
            check(&opening(&["127.0.0.0/8"]), url).is_ok(),
            "{url} is the address's question once something is open"
        );
    }
    for url in
        ["https://example.com/", "https://internal.example.com/", "https://notlocalhost/", "https://localhost.example/"]
    {
        assert!(check(&EgressPolicy::default(), url).is_ok(), "{url}");
    }
    for port in [22, 25, 53, 6667, 10080] {
        assert!(check(&EgressPolicy::default(), &format!("http://example.com:{port}/")).is_err(), "port {port}");
    }
}

#[test]
fn urls_that_parsers_disagree_about_are_refused() {
    let too_long = format!("https://example.com/{}", "a".repeat(2_083));
    let too_long_as_sent = format!("https://example.com/{}", "ä".repeat(500));
    let refused = [
        ("", "begin with"),
        ("example.com", "begin with"),
        ("ftp://example.com/", "begin with"),
        ("http:example.com", "begin with"),
        ("file:///etc/passwd", "begin with"),
        ("javascript://x/", "begin with"),
        ("http://", "no host"),
        ("http:///example.com", "no host"),
        ("http://:80/", "no host"),
        ("http://./", "no host"),
        ("http://?x", "no host"),
        ("http://exa\tmple.com/", "character"),
        ("http://example.com/\n", "character"),
        (" http://example.com", "character"),
        ("http://example.com/\0", "character"),
        ("http://example.com/\u{7f}", "character"),
        ("http://a b/", "character"),
        ("http://example.com\\@10.0.0.1/", "character"),
        ("http:\\\\example.com", "character"),
        ("http://user@example.com/", "user name"),
        ("http://u:p@example.com/", "user name"),
        ("http://@example.com/", "user name"),
        ("http://example.com#@10.0.0.1/", "fragment"),
        ("http://example.com/#", "fragment"),
        ("http://127.0.0.1%2f@x/", "user name"),
        ("http://ex%61mple.com/", "%"),
        ("http://[fe80::1%25eth0]/", "%"),
        ("http://[fe80::1%eth0]/", "%"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:65536/", "malformed"),
        ("http://example.com:http/", "malformed"),
        ("http://[::1/", "malformed"),
        ("http://256.0.0.1/", "malformed"),
        ("http://exa<mple.com/", "malformed"),
        (&too_long, "limit"),
        (&too_long_as_sent, "limit"),
    ];
    for (url, reason) in refused {
        match Destination::parse(url) {
            Err(DestinationError::Invalid(text)) => assert!(text.contains(reason), "{url}: {text}"),
            other => panic!("{url}: {other:?}"),
        }
    }
    let normalised = [
        ("HTTPS://EXAMPLE.com", "https://example.com/"),
        ("http://example.com:80/a%2Fb?c=%20#".trim_end_matches('#'), "http://example.com/a%2Fb?c=%20"),
        ("https://bücher.example/ä?ö", "https://xn--bcher-kva.example/%C3%A4?%C3%B6"),
        ("http://my_service:8080", "http://my_service:8080/"),
        ("https://example.com/@user:x", "https://example.com/@user:x"),
    ];
    for (url, normal) in normalised {
        assert_eq!(Destination::parse(url).unwrap().as_str(), normal);
    }
}

fn client_that_asks(names: &Names) -> Client {
    let policy = opening(&["127.0.0.0/8"]);
    Client::new(ClientOptions { policy, resolver: Some(names.resolver()), ..ClientOptions::default() }).unwrap()
}

async fn get(client: &Client, destination: &Destination) -> Result<u16, End> {
    let request = http::Request::new(Bytes::new());
    client.request(destination, request, 1_024, Duration::from_secs(5)).await.map(|answer| answer.status().as_u16())
}

async fn answering() -> Receiver {
    Receiver::start(async |mut stream| {
        while read_request(&mut stream).await.is_some() {
            crate::receivers::write(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_name_that_moves_inside_is_blocked_from_then_on() {
    let receiver = answering().await;
    let names = Names::default();
    let client = client_that_asks(&names);
    let destination = Destination::parse(&format!("http://rebinding.example:{}/", receiver.addr.port())).unwrap();

    names.set(&["127.0.0.1"]);
    assert_eq!(get(&client, &destination).await, Ok(204));

    // Also the connection that is still open is not used once the name is asked again.
    names.set(&["10.0.0.1"]);
    tokio::time::pause();
    tokio::time::advance(CONFIRM_AFTER * 2).await;
    tokio::time::resume();
    let detail = "rebinding.example: 10.0.0.1 is a forbidden address (private)";
    assert_eq!(get(&client, &destination).await.unwrap_err(), unresolved("rebinding.example", detail));
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 1);
}

/// What an attempt comes to whose name has no address that may be contacted; `detail` is for the log.
fn unresolved(name: &str, detail: &str) -> End {
    let reason = format!("{name} is not there, or has a forbidden address");
    End::Dns { reason, detail: detail.to_owned() }
}

#[tokio::test]
async fn nobody_can_tell_a_name_that_leads_inside_from_one_that_is_not_there() {
    let names = Names::default();
    let client = client_that_asks(&names);
    let destination = Destination::parse("http://guess.example:8080/").unwrap();
    let webhook = Webhook::new(destination.as_str(), SigningKeys::generate()).unwrap();
    let mut seen = Vec::new();
    for answer in [&[][..], &["10.0.0.1"], &["127.0.0.1", "169.254.169.254"], &["fd00::1"]] {
        names.set(answer);
        client.vet(&webhook).unwrap();
        let end = get(&client, &destination).await.unwrap_err();
        seen.push((end.error_text(), end.counts_as_failure()));
    }
    let text = "dns: guess.example is not there, or has a forbidden address";
    assert_eq!(seen, vec![(Some(text.to_owned()), true); 4]);
}

#[test]
fn ports_of_other_services_are_shut_unless_each_is_allowed() {
    let check = |policy: &EgressPolicy, port: u16| {
        let destination = Destination::parse(&format!("http://example.com:{port}/")).unwrap();
        let by_address = policy.check(SocketAddr::new("8.8.8.8".parse().unwrap(), port)).is_ok();
        assert_eq!(policy.check_destination(&destination).is_ok(), by_address, "port {port}");
        by_address
    };
    let open = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
    for port in [25, 465, 587, 1433, 1521, 2375, 2379, 3306, 5432, 5984, 6379, 9042, 9200, 10250, 11211, 27017] {
        assert!(!check(&EgressPolicy::default(), port) && !check(&open, port), "port {port}");
        let allowed = EgressPolicy { allow_ports: vec![port], ..EgressPolicy::default() };
        assert!(check(&allowed, port) && !check(&allowed, 6380), "port {port}");
    }
    for port in [80, 443, 3000, 3128, 5000, 5601, 8000, 8080, 8086, 8088, 8123, 8443, 9000, 9090, 9999] {
        assert!(check(&EgressPolicy::default(), port), "port {port}");
    }
}

#[tokio::test]
async fn one_private_address_among_public_ones_blocks_them_all() {
    let receiver = answering().await;
    let names = Names::default();
    let client = client_that_asks(&names);
    let destination = Destination::parse(&format!("http://half.example:{}/", receiver.addr.port())).unwrap();
    for answer in [["127.0.0.1", "10.0.0.1"], ["::ffff:10.0.0.1", "127.0.0.1"], ["127.0.0.1", "169.254.169.254"]] {
        names.set(&answer);
        let End::Dns { detail, .. } = get(&client, &destination).await.unwrap_err() else { panic!("{answer:?}") };
        assert!(detail.contains("half.example: "), "{detail}");
    }
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 0);
}

#[test]
fn a_name_that_is_allowed_lifts_the_ban_of_a_site_s_networks_and_no_other() {
    let named = |hosts: &[&str]| EgressPolicy {
        allow_hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        own_listeners: vec!["10.0.0.9:4665".parse().unwrap()],
        ..EgressPolicy::default()
    };
    let policy = named(&["*.svc.cluster.local", "db.internal", "*.googleapis.internal", "*.internal"]);
    let check = |name: &str, addr: &str| policy.check_named(name, addr.parse().unwrap()).is_ok();
    for addr in ["10.0.0.1:80", "172.16.0.1:80", "192.168.1.1:443", "100.64.0.1:80", "[fd12::1]:80", "8.8.8.8:80"] {
        assert!(check("a.ns.svc.cluster.local", addr) && check("a.svc.cluster.local.", addr), "{addr}");
        let outside = addr.starts_with("8.");
        for name in ["svc.cluster.local", "asvc.cluster.local", "a.svc.cluster.local.evil.example", "evil.example", ""]
        {
            assert_eq!(check(name, addr), outside, "{name} {addr}");
        }
    }
    // Whoever controls the zone reaches neither this machine nor what has credentials for all.
    let shut = [
        "127.0.0.1:80",
        "[::1]:80",
        "0.0.0.0:80",
        "[::]:80",
        "169.254.169.254:80",
        "169.254.1.1:80",
        "100.100.100.200:80",
        "168.63.129.16:80",
        "[fd00:ec2::254]:80",
        "[fd20:ce::254]:80",
        "[fe80::1]:80",
        "[::ffff:10.0.0.1]:80",
        "[::ffff:127.0.0.1]:80",
        "[64:ff9b::a00:1]:80",
        "224.0.0.1:80",
        "240.0.0.1:80",
        "198.51.100.1:80",
        "10.0.0.1:6379",
        "10.0.0.1:25",
        "10.0.0.9:4665",
    ];
    for addr in shut {
        assert!(!check("a.svc.cluster.local", addr), "{addr}");
    }
    let register = |url: &str| policy.check_destination(&Destination::parse(url).unwrap());
    for url in ["http://db.internal/", "http://DB.Internal.:8080/", "http://a.svc.cluster.local/"] {
        assert_eq!(register(url), Ok(()), "{url}");
    }
    for url in [
        "http://10.0.0.1/",
        "http://metadata.google.internal/",
        "http://instance-data.ec2.internal./",
        "http://localhost/",
        "http://a.localhost/",
        "http://db.internal:6379/",
    ] {
        assert!(register(url).is_err(), "{url}");
    }
    // A proxy that resolves the name could go anywhere.
    let delegating = EgressPolicy { allow_proxy_resolution: true, ..policy.clone() };
    assert!(delegating.check_delegated(&Destination::parse("http://db.internal/").unwrap(), false).is_err());
}

#[tokio::test]
async fn a_name_that_is_allowed_is_reached_inside_and_an_alias_of_it_is_not() {
    let names = Names::default();
    let policy = EgressPolicy { allow_hosts: vec!["*.cluster.local".parse().unwrap()], ..EgressPolicy::default() };
    let options = ClientOptions {
        policy,
        resolver: Some(names.resolver()),
        connect_timeout: Duration::from_millis(200),
        ..ClientOptions::default()
    };
    let client = Client::new(options).unwrap();
    names.set(&["10.255.255.254"]);
    let allowed = get(&client, &Destination::parse("http://a.cluster.local/").unwrap()).await;
    assert!(!matches!(allowed, Err(End::Dns { .. } | End::Blocked(_))), "it was tried, and may be there: {allowed:?}");
    let ended = async |url: &str| get(&client, &Destination::parse(url).unwrap()).await.unwrap_err();
    let alias = ended("http://alias.example/").await;
    assert_eq!(alias, unresolved("alias.example", "alias.example: 10.255.255.254 is a forbidden address (private)"));
    names.set(&["10.255.255.254", "127.0.0.1"]);
    let half = ended("http://b.cluster.local/").await;
    let detail = "b.cluster.local: 127.0.0.1 is a forbidden address (loopback)";
    assert_eq!(half, unresolved("b.cluster.local", detail), "every address must be allowed");
}

#[tokio::test]
async fn every_address_of_a_name_has_its_turn_over_the_attempts() {
    let receiver = tokio::net::TcpListener::bind("127.0.0.10:0").await.unwrap();
    let port = receiver.local_addr().unwrap().port();
    let names = Names::default();
    let addresses: Vec<_> = (1..=10).map(|last| format!("127.0.0.{last}")).collect();
    names.set(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let client = client_that_asks(&names);
    let destination = Destination::parse(&format!("http://ten.example:{port}/")).unwrap();
    for attempt in 1..=2 {
        let end = client.connect(&destination).await.map(|_| ()).unwrap_err();
        assert!(matches!(end, End::Connect(_)), "attempt {attempt} tries four others: {end:?}");
    }
    assert!(client.connect(&destination).await.is_ok(), "the third tries the last");
    assert!(client.connect(&destination).await.is_ok(), "and it is first from then on");
}

#[tokio::test]
async fn what_this_machine_cannot_reach_at_all_hides_no_refusal() {
    let names = Names::default();
    // Nobody listens at the first, and no machine has a way to the second from loopback.
    names.set(&["127.0.0.1", "2001:db8::1"]);
    let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
    let client = Client::new(ClientOptions { policy, resolver: Some(names.resolver()), ..ClientOptions::default() });
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let options = Destination::parse(&format!("http://dual.example:{port}/")).unwrap();
    let end = get(&client.unwrap(), &options).await.unwrap_err();
    if std::net::UdpSocket::bind("[::]:0").and_then(|socket| socket.connect("[2001:db8::1]:9")).is_err() {
        assert!(end.error_text().unwrap().contains("refused"), "{end:?}");
    }
}

#[tokio::test]
async fn a_name_whose_first_address_is_dead_is_reached_at_its_next() {
    let receiver = answering().await;
    let names = Names::default();
    names.set(&["127.0.0.2", "127.0.0.1"]);
    let destination = Destination::parse(&format!("http://two.example:{}/", receiver.addr.port())).unwrap();
    assert_eq!(get(&client_that_asks(&names), &destination).await, Ok(204));
}

#[tokio::test]
async fn localhost_is_this_machine_whoever_resolves() {
    let receiver = answering().await;
    let destination = Destination::parse(&format!("http://localhost:{}/", receiver.addr.port())).unwrap();
    let resolvers: [Option<SharedResolver>; 2] = [None, Some(Arc::new(SystemResolver))];
    for resolver in resolvers {
        let policy = opening(&["127.0.0.0/8", "::1/128"]);
        let client = Client::new(ClientOptions { policy, resolver, ..ClientOptions::default() }).unwrap();
        assert_eq!(get(&client, &destination).await, Ok(204));
    }
    // The C library finds nothing for `localhost.`: it is the hosts file that is read.
    let found = SystemResolver.resolve("localhost.").await.unwrap();
    assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
}

#[tokio::test]
async fn localhost_is_refused_where_loopback_is_not_allowed_whoever_resolves() {
    let receiver = answering().await;
    let destination = Destination::parse(&format!("http://localhost:{}/", receiver.addr.port())).unwrap();
    let resolvers: [Option<SharedResolver>; 2] = [None, Some(Arc::new(SystemResolver))];
    for resolver in resolvers {
        // A private network that is open lets the name pass, and not its address.
        let policy = opening(&["10.0.0.0/8"]);
        let client = Client::new(ClientOptions { policy, resolver, ..ClientOptions::default() }).unwrap();
        let end = get(&client, &destination).await.unwrap_err();
        let End::Dns { detail, .. } = &end else { panic!("{end:?}") };
        assert!(detail.ends_with(" is a forbidden address (loopback)"), "{detail}");
    }
    assert_eq!(receiver.connections.load(Ordering::SeqCst), 0);
}
