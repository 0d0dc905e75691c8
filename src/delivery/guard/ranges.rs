//! Tables and their sources: networks that are never public, networks of metadata services, and ports shut to webhooks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ports that belong to protocols in which a POST could pass for commands.
/// Source: WHATWG Fetch, "bad port", <https://fetch.spec.whatwg.org/#port-blocking>; ascending.
const BAD_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

/// Ports of services that execute a POST, or lines of one, as commands, and of services that are never receivers of
/// webhooks. [`super::EgressPolicy::allow_ports`] allows receivers that use HTTP on one of them. Sources: IANA Service
/// Name and Port Number Registry, and each vendor's manual. 8086 (`InfluxDB`), 8123 (`ClickHouse`, Home Assistant),
/// 9000 and 9100 stay open: they are common ports of receivers. Ascending.
const SERVICE_PORTS: [(u16, &str); 41] = [
    // Mail, beside the ports in `BAD_PORTS`.
    (24, "LMTP"),
    (1433, "SQL Server"),
    (1434, "SQL Server"),
    (1521, "Oracle Database"),
    // Command lines as text.
    (2181, "ZooKeeper"),
    // Every client can start containers.
    (2375, "Docker"),
    (2376, "Docker"),
    (2377, "Docker Swarm"),
    (2379, "etcd"),
    (2380, "etcd"),
    // Mail again: the port of submission where 25 and 587 are shut.
    (2525, "SMTP"),
    (3050, "Firebird"),
    (3306, "MySQL"),
    // Lines of text.
    (4222, "NATS"),
    (4369, "Erlang port mapper"),
    (5432, "PostgreSQL"),
    (5433, "PostgreSQL"),
    (5439, "Redshift"),
    (5672, "AMQP"),
    // A POST writes documents.
    (5984, "CouchDB"),
    // Lines of text, which a body can have.
    (6379, "Redis"),
    (6380, "Redis"),
    (6432, "PgBouncer"),
    (7687, "Neo4j"),
    // Without a token of its own a POST registers checks, which are commands.
    (8500, "Consul"),
    (8529, "ArangoDB"),
    (9042, "Cassandra"),
    (9092, "Kafka"),
    (9160, "Cassandra"),
    // A POST writes, searches and deletes. A receiver of events, too: `_bulk`.
    (9200, "Elasticsearch"),
    (9300, "Elasticsearch"),
    // A POST runs commands in containers.
    (10250, "Kubernetes node agent"),
    (10255, "Kubernetes node agent"),
    // Lines of text, which a body can have.
    (11211, "memcached"),
    (16379, "Redis"),
    (26257, "CockroachDB"),
    (26379, "Redis Sentinel"),
    (27017, "MongoDB"),
    (27018, "MongoDB"),
    (27019, "MongoDB"),
    (61613, "STOMP"),
];

/// Addresses at which clouds serve credentials to every client on the machine. Only a network of that single address
/// allows one. Sources: AWS EC2 user guide, "instance metadata" (`169.254.169.254`, `fd00:ec2::254`), ECS developer
/// guide, "task IAM role" (`169.254.170.2`), EKS user guide, "EKS Pod Identity" (`169.254.170.23`, `fd00:ec2::23`);
/// Google Compute Engine, "metadata server" (`fd20:ce::254`); Azure `WireServer` (`168.63.129.16`); Alibaba Cloud ECS
/// metadata (`100.100.100.200`); Oracle Cloud Classic (`192.0.0.192`); Scaleway (`169.254.42.42`, `fd00:42::42`);
/// `OpenStack` (`fe80::a9fe:a9fe`); Tencent Cloud (`169.254.0.23`). Other clouds share AWS's IPv4 address. All other
/// link-local addresses are included, since no receiver has one, and services of further clouds may.
pub const METADATA_NETWORKS: [(IpNet, &str); 8] = [
    (IpNet::V4(v4(169, 254, 0, 0, 16)), "link-local"),
    (IpNet::V4(v4(168, 63, 129, 16, 32)), "Azure"),
    (IpNet::V4(v4(100, 100, 100, 200, 32)), "Alibaba Cloud"),
    (IpNet::V4(v4(192, 0, 0, 192, 32)), "Oracle Cloud"),
    (IpNet::V6(v6(0xfe80, 0, 0, 10)), "link-local"),
    (IpNet::V6(v6(0xfd00, 0xec2, 0, 32)), "AWS"),
    (IpNet::V6(v6(0xfd20, 0xce, 0, 32)), "Google Cloud"),
    (IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128)), "Scaleway"),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix_bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_bits)
}

const fn v6(a: u16, b: u16, c: u16, prefix_bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix_bits)
}

/// Source: IANA IPv4 Special-Purpose Address Registry, multicast and reserved space, and Azure's `WireServer`.
const DENIED_V4: [(Ipv4Net, &str); 19] = [
    (v4(0, 0, 0, 0, 8), "this host"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 31, 196, 0, 24), "AS112"),
    (v4(192, 52, 193, 0, 24), "AMT"),
    (v4(192, 88, 99, 0, 24), "6to4 relays"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(192, 175, 48, 0, 24), "AS112"),
    (v4(198, 18, 0, 0, 15), "benchmarks"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
    (v4(168, 63, 129, 16, 32), "cloud platform"),
];

/// The only IPv6 space that IANA allocates as global unicast. Everything outside is denied.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Inside of [`GLOBAL_V6`]. Source: IANA IPv6 Special-Purpose Address Registry, and the returned 6bone space.
const DENIED_V6: [(Ipv6Net, &str); 6] = [
    (v6(0x2001, 0, 0, 23), "protocol assignments"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation"),
    (v6(0x2002, 0, 0, 16), "6to4"),
    (v6(0x2620, 0x4f, 0x8000, 48), "AS112"),
    (v6(0x3ffe, 0, 0, 16), "6bone"),
    (v6(0x3fff, 0, 0, 20), "documentation"),
];

/// The service of a port that is not for webhooks.
pub(super) fn port_owner(port: u16) -> Option<&'static str> {
    if BAD_PORTS.binary_search(&port).is_ok() {
        return Some("another protocol than HTTP");
    }
    let found = SERVICE_PORTS.binary_search_by_key(&port, |(port, _)| *port).ok()?;
    Some(SERVICE_PORTS[found].1)
}

/// The metadata service at an address.
pub(super) fn metadata(ip: IpAddr) -> Option<&'static str> {
    METADATA_NETWORKS.iter().find(|(net, _)| net.contains(&ip)).map(|(_, name)| *name)
}

/// The denied range that contains `ip`.
pub(super) fn denied_range(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => DENIED_V4.iter().find(|(net, _)| net.contains(&ip)).map(|(_, name)| *name),
        IpAddr::V6(ip) if ip.is_loopback() => Some("loopback"),
        IpAddr::V6(ip) if !GLOBAL_V6.contains(&ip) => Some("outside of 2000::/3"),
        IpAddr::V6(ip) => DENIED_V6.iter().find(|(net, _)| net.contains(&ip)).map(|(_, name)| *name),
    }
}

/// Networks of machines that a site numbers by itself. Sources: RFC 1918, RFC 6598, RFC 4193.
const SITE_NETWORKS: [IpNet; 5] = [
    IpNet::V4(v4(10, 0, 0, 0, 8)),
    IpNet::V4(v4(172, 16, 0, 0, 12)),
    IpNet::V4(v4(192, 168, 0, 0, 16)),
    IpNet::V4(v4(100, 64, 0, 0, 10)),
    IpNet::V6(v6(0xfc00, 0, 0, 7)),
];

/// Whether the address is one of a site's own machines, and neither of this machine nor of special use.
pub(super) fn is_of_a_site(ip: IpAddr) -> bool {
    SITE_NETWORKS.iter().any(|net| net.contains(&ip))
}

/// The IPv4 addresses inside of a mapped (RFC 4291), compatible (RFC 4291), translated (RFC 7915), NAT64 (RFC 6052, RFC
/// 8215) or 6to4 (RFC 3056) address. A NAT64 of one's own (RFC 8215) may have the address at any of the places that RFC
/// 6052, section 2.2, gives for a prefix of 48, 56, 64 or 96 bits.
pub(super) fn carried_v4(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let segments = match ip {
        IpAddr::V6(ip) => ip.segments(),
        IpAddr::V4(_) => [0; 8],
    };
    let of = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        Some(Ipv4Addr::new(a, b, c, d))
    };
    let carried = match segments {
        // Not `::`, `::1` and their neighbours, which are IPv6 addresses proper.
        [0, 0, 0, 0, 0, 0, high, low] if high > 0xff => [of(high, low), None, None, None],
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, _, _, _, high, low]
        | [0x2002, high, low, ..] => [of(high, low), None, None, None],
        // The byte after the first 64 bits is not part of the address. Unused bits are zeros.
        [0x64, 0xff9b, 1, s3, s4, s5, s6, s7] => [
            of(s6, s7),
            of(s3, (s4 << 8) | (s5 >> 8)),
            of((s3 << 8) | (s4 & 0xff), s5),
            of((s4 << 8) | (s5 >> 8), (s5 << 8) | (s6 >> 8)),
        ]
        .map(|carried| carried.filter(|ip| !v4(0, 0, 0, 0, 8).contains(ip))),
        _ => [None; 4],
    };
    carried.into_iter().flatten().map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_bisection() {
        assert!(BAD_PORTS.is_sorted() && SERVICE_PORTS.is_sorted_by_key(|(port, _)| *port));
        assert!(SERVICE_PORTS.iter().all(|(port, _)| !BAD_PORTS.contains(port)), "each port has one reason");
        assert_eq!((port_owner(6379), port_owner(443), port_owner(25).is_some()), (Some("Redis"), None, true));
    }

    #[test]
    fn a_nat64_of_ones_own_carries_an_address_wherever_its_prefix_ends() {
        let metadata: IpAddr = "169.254.169.254".parse().unwrap();
        for text in [
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:aaa9:fe:a9fe::",
            "64:ff9b:1:aaaa:a9:fea9:fe00:0",
            "64:ff9b:1::a9fe:a9fe",
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert!(carried_v4(ip).any(|carried| carried == metadata), "{text}");
        }
        let public: IpAddr = "64:ff9b:1::8.8.8.8".parse().unwrap();
        assert_eq!(
            carried_v4(public).collect::<Vec<_>>(),
            [IpAddr::from([8, 8, 8, 8])],
            "and nothing that is not there"
        );
    }
}
