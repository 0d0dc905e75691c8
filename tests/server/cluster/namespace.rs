//! A network namespace with two cables to the one of the test: to the API and receivers, and to the database. Each can be
//! cut without either end's being told.

use std::net::Ipv4Addr;
use std::process::Command;

/// The address that a cut cable leads to.
const NOBODY: &str = "02:00:00:00:00:01";

pub(crate) struct Namespace {
    name: String,
    api: Cable,
    database: Cable,
}

/// A pair of interfaces.
pub(crate) struct Cable {
    pub inside: Ipv4Addr,
    pub outside: Ipv4Addr,
    interfaces: (String, String),
}

impl Namespace {
    /// Where all addresses are from: RFC 2544 keeps these for tests.
    pub(crate) const ALL: &str = "198.18.0.0/15";

    /// Takes root.
    pub(crate) fn make() -> Self {
        let number = fastrand::u16(..);
        let name = format!("postrider-{number:04x}");
        let cable = |kind: char, network: u8| {
            let [high, low] = number.to_be_bytes();
            let ip = |host| Ipv4Addr::new(198, 18 + network, high, (low & 0xfc) + host);
            let interface = |end: char| format!("pr{number:04x}{kind}{end}");
            Cable { inside: ip(2), outside: ip(1), interfaces: (interface('i'), interface('o')) }
        };
        let namespace = Self { name, api: cable('a', 0), database: cable('d', 1) };
        ip(&["netns", "add", namespace.name()]);
        namespace.inside(&["link", "set", "lo", "up"]);
        for Cable { inside, outside, interfaces: (inner, outer) } in [&namespace.api, &namespace.database] {
            ip(&["link", "add", outer, "type", "veth", "peer", "name", inner, "netns", namespace.name()]);
            ip(&["address", "add", &format!("{outside}/30"), "dev", outer]);
            ip(&["link", "set", outer, "up"]);
            namespace.inside(&["address", "add", &format!("{inside}/30"), "dev", inner]);
            namespace.inside(&["link", "set", inner, "up"]);
        }
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn api(&self) -> &Cable {
        &self.api
    }

    pub(crate) fn database(&self) -> &Cable {
        &self.database
    }

    fn inside(&self, arguments: &[&str]) {
        ip(&[&["-netns", self.name()][..], arguments].concat());
    }

    /// From now on what is sent by this cable, either way, goes to nobody: no error, no end of a connection, nothing.
    pub(crate) fn cut(&self, cable: &Cable) {
        let Cable { inside, outside, interfaces: (inner, outer) } = cable;
        let (inside, outside) = (inside.to_string(), outside.to_string());
        let to_nobody =
            |interface, ip| ["neighbour", "replace", ip, "lladdr", NOBODY, "dev", interface, "nud", "permanent"];
        ip(&to_nobody(outer, &inside));
        self.inside(&to_nobody(inner, &outside));
    }

    pub(crate) fn mend(&self, cable: &Cable) {
        let Cable { inside, outside, interfaces: (inner, outer) } = cable;
        ip(&["neighbour", "delete", &inside.to_string(), "dev", outer]);
        self.inside(&["neighbour", "delete", &outside.to_string(), "dev", inner]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cables go with it.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().expect("`ip` is missing: install iproute2");
    assert!(done.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr));
}

/// Whether the program `ip` is there.
pub(crate) fn has_ip() -> bool {
    Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success())
}
