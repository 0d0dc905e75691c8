//! A resolver of our own, with the feature `dns`.

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::timeout;

use super::hosts::{HOSTS_FILE, Hosts};
use super::resolver::{Resolve, ResolveError};

/// The longest time for which a missing name is cached, so that a corrected zone is seen soon.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// How long the second family of addresses is waited for after the first has some (RFC 8305, section 3, "Resolution
/// Delay").
pub const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// How often, at most, lookups look whether the system's configuration has changed.
pub const CONFIGURATION_CHECK: Duration = Duration::from_secs(1);

/// A built-in resolver. It queries the name servers of the system's configuration for IPv4 and IPv6 in parallel, reads
/// the hosts file, and caches answers for their TTL. A slow zone delays no other names.
///
/// Names are absolute: the system's search list is not used. Changes of the configuration and of the hosts file are
/// followed, and what cannot be used leaves the last that could in force.
pub struct HickoryResolver {
    source: Source,
    state: Mutex<State>,
}

/// Where the configuration comes from.
struct Source {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    /// Of the name servers, which `resolv.conf` cannot say.
    port: u16,
    check_every: Duration,
}

impl Source {
    fn system() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: HOSTS_FILE.into(),
            port: 53,
            check_every: CONFIGURATION_CHECK,
        }
    }
}

struct State {
    checked_at: Instant,
    /// The texts that were read last, usable or not.
    seen: Files,
    current: Arc<Current>,
}

#[derive(PartialEq, Eq)]
struct Files {
    /// `None`: it cannot be read, or the system has another configuration than this file.
    resolv_conf: Option<Vec<u8>>,
    hosts: Option<Vec<u8>>,
}

struct Current {
    dns: TokioResolver,
    hosts: Hosts,
}

impl HickoryResolver {
    /// Reads the system's configuration; the error is for people.
    pub fn from_system() -> Result<Self, String> {
        Self::of(Source::system())
    }

    fn of(source: Source) -> Result<Self, String> {
        let seen = Files::read(&source);
        let current = Arc::new(seen.used(&source)?);
        Ok(Self { state: Mutex::new(State { checked_at: Instant::now(), seen, current }), source })
    }

    /// As the configuration is now, or was at most [`CONFIGURATION_CHECK`] ago.
    fn current(&self) -> Arc<Current> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked_at.elapsed() >= self.source.check_every {
            state.checked_at = Instant::now();
            let files = Files::read(&self.source);
            if files != state.seen {
                match files.used(&self.source) {
                    Ok(current) => {
                        tracing::info!("the system's resolver configuration has changed");
                        state.current = Arc::new(current);
                    }
                    Err(error) => tracing::warn!(error, "the system's new resolver configuration cannot be used"),
                }
                state.seen = files;
            }
        }
        Arc::clone(&state.current)
    }
}

impl Files {
    fn read(source: &Source) -> Self {
        Self { resolv_conf: fs::read(&source.resolv_conf).ok(), hosts: fs::read(&source.hosts).ok() }
    }

    fn used(&self, source: &Source) -> Result<Current, String> {
        let (config, mut options) = self.configuration().map_err(|error| error.to_string())?;
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        // The file is read here: hickory's reader knows no underscore, and asks name servers for what the file leaves out.
        options.use_hosts_file = ResolveHosts::Never;
        let (_, _, mut servers) = config.into_parts();
        for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
            connection.port = source.port;
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let dns = builder.with_options(options).build().map_err(|error| error.to_string())?;
        let hosts = self.hosts.as_deref().map(|bytes| Hosts::parse(&String::from_utf8_lossy(bytes)));
        Ok(Current { dns, hosts: hosts.unwrap_or_default() })
    }

    #[cfg(all(unix, not(any(target_os = "android", target_vendor = "apple"))))]
    fn configuration(&self) -> Result<(ResolverConfig, ResolverOpts), NetError> {
        match &self.resolv_conf {
            Some(bytes) => hickory_resolver::system_conf::parse_resolv_conf(bytes),
            None => Err(NetError::from(io::Error::from(io::ErrorKind::NotFound))),
        }
    }

    #[cfg(not(all(unix, not(any(target_os = "android", target_vendor = "apple")))))]
    fn configuration(&self) -> Result<(ResolverConfig, ResolverOpts), NetError> {
        hickory_resolver::system_conf::read_system_conf()
    }
}

#[async_trait::async_trait]
impl Resolve for HickoryResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let current = self.current();
        if let Some(found) = current.hosts.find(host) {
            return Ok(found.to_vec());
        }
        // Not by `FromStr`, which applies IDNA again and refuses underscores.
        let name = Name::from_ascii(host).map(|mut name| {
            name.set_fqdn(true);
            name
        });
        let name = name.map_err(|error| ResolveError::NotFound(format!("{host} is no name of DNS: {error}")))?;
        let (v4, v6) = (ask(&current.dns, name.clone(), RecordType::A), ask(&current.dns, name, RecordType::AAAA));
        let (v4, v6) = first_and_soon(v4, v6).await;
        let mut found = Vec::new();
        let mut errors = Vec::new();
        for answer in [v4, v6].into_iter().flatten() {
            match answer {
                Ok(addresses) => found.extend(addresses),
                Err(error) => errors.push(error),
            }
        }
        if found.is_empty() { Err(reason(host, &errors)) } else { Ok(found) }
    }
}

type Answer = Result<Vec<IpAddr>, NetError>;

async fn ask(dns: &TokioResolver, name: Name, kind: RecordType) -> Answer {
    let found = dns.lookup(name, kind).await?;
    Ok(found.answers().iter().filter_map(|record| record.data.ip_addr()).collect())
}

/// Both answers. As soon as one of them has addresses, the other has [`RESOLUTION_DELAY`] to come.
async fn first_and_soon<F: Future<Output = Answer>>(one: F, other: F) -> (Option<Answer>, Option<Answer>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (first, is_one) = tokio::select! {
        biased;
        answer = &mut one => (answer, true),
        answer = &mut other => (answer, false),
    };
    let rest = if is_one { other } else { one };
    let second = if first.as_ref().is_ok_and(|addresses| !addresses.is_empty()) {
        timeout(RESOLUTION_DELAY, rest).await.ok()
    } else {
        Some(rest.await)
    };
    if is_one { (Some(first), second) } else { (second, Some(first)) }
}

/// Why neither family has addresses. A name that does not exist does so in both; of the rest a failure says more than that
/// there is nothing.
fn reason(host: &str, errors: &[NetError]) -> ResolveError {
    if errors.iter().any(NetError::is_nx_domain) {
        return ResolveError::NotFound(format!("{host} does not exist (NXDOMAIN)"));
    }
    let Some(error) = errors.iter().find(|error| !error.is_no_records_found()) else {
        return ResolveError::NotFound(format!("{host} has no address"));
    };
    ResolveError::Failed(match error {
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => {
            format!("the name servers could not find an answer for {host} (SERVFAIL)")
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => {
            format!("the name servers refuse to answer for {host} (REFUSED)")
        }
        NetError::Dns(DnsError::ResponseCode(code)) => {
            format!("the name servers answered for {host} with code {}", u16::from(*code))
        }
        NetError::Timeout => format!("no name server answered in time for {host}"),
        NetError::Io(_) | NetError::NoConnections | NetError::Busy => {
            format!("no name server could be asked for {host}")
        }
        _ => format!("the name servers' answer for {host} cannot be used"),
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::Request;
    use tempfile::TempDir;
    use tokio::net::UdpSocket;

    use super::*;
    use crate::delivery::client::{Client, ClientOptions};
    use crate::delivery::guard::{Destination, EgressPolicy};

    const A: u16 = 1;
    const AAAA: u16 = 28;
    const SOON: Duration = Duration::from_secs(3);

    /// What a name server says: a code and addresses. `None`: nothing.
    type Said = Option<(u8, &'static [&'static str])>;
    /// Names with the types that they were asked for.
    type Questions = Arc<Mutex<Vec<(String, u16)>>>;

    /// A name server in this process. It hears of what it is asked and says what it is told to, over UDP.
    struct NameServer {
        address: SocketAddr,
        questions: Questions,
    }

    impl NameServer {
        async fn start(address: &str, answer: impl Fn(&str, u16) -> Said + Send + 'static) -> Self {
            let socket = UdpSocket::bind(address).await.unwrap();
            let address = socket.local_addr().unwrap();
            let questions = Questions::default();
            let heard = Arc::clone(&questions);
            tokio::spawn(async move {
                let mut query = [0; 1_500];
                loop {
                    let (_, from) = socket.recv_from(&mut query).await.unwrap();
                    let (name, kind, end) = question(&query);
                    heard.lock().unwrap().push((name.clone(), kind));
                    if let Some((code, addresses)) = answer(&name, kind) {
                        socket.send_to(&said(&query[..end], kind, code, addresses), from).await.unwrap();
                    }
                }
            });
            Self { address, questions }
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = self.questions.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
            names.sort();
            names.dedup();
            names
        }
    }

    /// Name, type, and where the question ends.
    fn question(query: &[u8]) -> (String, u16, usize) {
        let (mut at, mut name) = (12, String::new());
        while query[at] > 0 {
            let label = &query[at + 1..=at + usize::from(query[at])];
            name.push_str(std::str::from_utf8(label).unwrap());
            name.push('.');
            at += label.len() + 1;
        }
        (name, u16::from_be_bytes([query[at + 1], query[at + 2]]), at + 5)
    }

    fn said(query: &[u8], kind: u16, code: u8, addresses: &[&str]) -> Vec<u8> {
        let count = u8::try_from(addresses.len()).unwrap();
        let mut message = [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0], &query[12..]].concat();
        for address in addresses {
            let bytes = match address.parse().unwrap() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            message.extend([0xc0, 12, 0, u8::try_from(kind).unwrap(), 0, 1, 0, 0, 0, 60, 0]);
            message.push(u8::try_from(bytes.len()).unwrap());
            message.extend(bytes);
        }
        message
    }

    /// A resolver with files of its own, which asks on `port`.
    fn resolver(folder: &TempDir, resolv_conf: &str, hosts: &str, port: u16) -> HickoryResolver {
        let (conf, hosts_file) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
        fs::write(&conf, resolv_conf).unwrap();
        fs::write(&hosts_file, hosts).unwrap();
        let source = Source { resolv_conf: conf, hosts: hosts_file, port, check_every: Duration::ZERO };
        HickoryResolver::of(source).unwrap()
    }

    fn asking(server: &NameServer) -> (TempDir, HickoryResolver) {
        let folder = tempfile::tempdir().unwrap();
        let resolver =
            resolver(&folder, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", "", server.address.port());
        (folder, resolver)
    }

    fn of(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_family_that_is_never_answered_costs_no_attempt() {
        let server = NameServer::start("127.0.0.1:0", |name, kind| match (name, kind) {
            ("four.example.", A) => Some((0, &["192.0.2.1"])),
            ("both.example.", A) => Some((0, &["192.0.2.1", "192.0.2.2"])),
            ("six.example." | "both.example.", AAAA) => Some((0, &["2001:db8::1"])),
            _ => None,
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        // Far beyond the patience of this test.
        let conf = "nameserver 127.0.0.1\noptions timeout:30 attempts:3\n";
        let resolver = resolver(&folder, conf, "", server.address.port());
        for (name, found) in [
            ("four.example", of(&["192.0.2.1"])),
            ("six.example", of(&["2001:db8::1"])),
            ("both.example", of(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])),
        ] {
            let answer = timeout(SOON, resolver.resolve(name)).await.expect("nobody waits for the silent family");
            assert_eq!(answer, Ok(found), "{name}");
        }
    }

    #[tokio::test]
    async fn a_slow_family_is_waited_for_if_the_other_has_nothing() {
        let (one, other) = (std::future::ready(Ok(Vec::new())), async {
            tokio::time::sleep(RESOLUTION_DELAY * 4).await;
            Ok(of(&["2001:db8::1"]))
        });
        let boxed = |future: std::pin::Pin<Box<dyn Future<Output = Answer>>>| future;
        let (one, other) = first_and_soon(boxed(Box::pin(one)), boxed(Box::pin(other))).await;
        assert!(one.unwrap().unwrap().is_empty());
        assert_eq!(other.unwrap().unwrap(), of(&["2001:db8::1"]));
    }

    #[tokio::test]
    async fn no_search_list_makes_other_names_of_a_name() {
        let server = NameServer::start("127.0.0.1:0", |name, kind| match (name, kind) {
            ("receiver.", A) => Some((0, &["192.0.2.1"])),
            (name, A) if name.ends_with("evil.example.") => Some((0, &["192.0.2.66"])),
            _ => Some((3, &[])),
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let conf =
            "search evil.example\ndomain evil.example\nsearch evil.example\nnameserver 127.0.0.1\noptions ndots:5\n";
        let resolver = resolver(&folder, conf, "", server.address.port());
        assert_eq!(resolver.resolve("receiver").await, Ok(of(&["192.0.2.1"])));
        for name in ["hooks.other.example", "hooks.other.example.", "short"] {
            assert!(matches!(resolver.resolve(name).await, Err(ResolveError::NotFound(_))), "{name}");
        }
        assert_eq!(server.names(), ["hooks.other.example.", "receiver.", "short."]);
    }

    #[tokio::test]
    async fn another_configuration_is_followed_and_a_broken_one_is_not() {
        let one =
            NameServer::start("127.0.0.1:0", |_, kind| Some((0, if kind == A { &["192.0.2.1"] } else { &[] }))).await;
        let port = one.address.port();
        let other = format!("127.0.0.2:{port}");
        let _other = NameServer::start(&other, |_, kind| Some((0, if kind == A { &["192.0.2.2"] } else { &[] }))).await;
        let folder = tempfile::tempdir().unwrap();
        let resolver = resolver(&folder, "nameserver 127.0.0.1\n", "", port);
        assert_eq!(resolver.resolve("a.example").await, Ok(of(&["192.0.2.1"])));
        for broken in ["", "nameserver nowhere\n"] {
            fs::write(folder.path().join("resolv.conf"), broken).unwrap();
            assert_eq!(resolver.resolve("a.example").await, Ok(of(&["192.0.2.1"])), "{broken:?}");
        }
        fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.2\n").unwrap();
        assert_eq!(resolver.resolve("a.example").await, Ok(of(&["192.0.2.2"])), "and nothing is kept of the old one");
        fs::write(folder.path().join("hosts"), "192.0.2.3 a.example\n2001:db8::3 A.example\n").unwrap();
        assert_eq!(resolver.resolve("a.example").await, Ok(of(&["192.0.2.3", "2001:db8::3"])));
        fs::remove_file(folder.path().join("resolv.conf")).unwrap();
        assert_eq!(resolver.resolve("b.example").await, Ok(of(&["192.0.2.2"])), "the last that could be used");
    }

    #[tokio::test]
    async fn a_name_of_the_hosts_file_is_not_asked_for() {
        let server = NameServer::start("127.0.0.1:0", |_, _| Some((0, &[]))).await;
        let folder = tempfile::tempdir().unwrap();
        let hosts = "192.0.2.9 my_host other.example\n";
        let resolver = resolver(&folder, "nameserver 127.0.0.1\n", hosts, server.address.port());
        for name in ["my_host", "my_host.", "other.example"] {
            assert_eq!(resolver.resolve(name).await, Ok(of(&["192.0.2.9"])), "{name}");
        }
        assert!(server.names().is_empty());
    }

    #[tokio::test]
    async fn each_failure_of_name_servers_has_words_of_its_own_in_the_attempt_s_error() {
        let server = NameServer::start("127.0.0.1:0", |name, _| match name {
            "servfail.example." => Some((2, &[])),
            "nxdomain.example." => Some((3, &[])),
            "refused.example." => Some((5, &[])),
            "notimp.example." => Some((4, &[])),
            "nodata.example." => Some((0, &[])),
            "inside.example." => Some((0, &["10.0.0.1"])),
            _ => None,
        })
        .await;
        let (_folder, resolver) = asking(&server);
        let client =
            Client::new(ClientOptions { resolver: Some(Arc::new(resolver)), ..ClientOptions::default() }).unwrap();
        for (name, expected) in [
            ("servfail", "dns: the name servers could not find an answer for servfail.example (SERVFAIL)"),
            ("refused", "dns: the name servers refuse to answer for refused.example (REFUSED)"),
            ("notimp", "dns: the name servers answered for notimp.example with code 4"),
            ("silent", "dns: no name server answered in time for silent.example"),
            // These are one: nobody learns which names there are inside.
            ("nxdomain", "dns: nxdomain.example is not there, or has a forbidden address"),
            ("nodata", "dns: nodata.example is not there, or has a forbidden address"),
            ("inside", "dns: inside.example is not there, or has a forbidden address"),
        ] {
            let destination = Destination::parse(&format!("http://{name}.example/")).unwrap();
            let end = client.request(&destination, Request::default(), 0, SOON * 4).await.unwrap_err();
            assert_eq!(end.error_text().as_deref(), Some(expected), "{end:?}");
        }
    }

    #[tokio::test]
    async fn an_underscore_is_a_letter_like_others() {
        let server = NameServer::start("127.0.0.1:0", |name, kind| match (name, kind) {
            ("my_receiver.example." | "_a.example.", A) => Some((0, &["127.0.0.1"])),
            _ => Some((3, &[])),
        })
        .await;
        let (_folder, resolver) = asking(&server);
        assert_eq!(resolver.resolve("my_receiver.example").await, Ok(of(&["127.0.0.1"])));
        assert_eq!(resolver.resolve("_a.example").await, Ok(of(&["127.0.0.1"])));
    }

    #[tokio::test]
    async fn localhost_is_this_machine_whatever_name_servers_say() {
        let server = NameServer::start("127.0.0.1:0", |_, _| Some((0, &["192.0.2.66"]))).await;
        let (_folder, resolver) = asking(&server);
        let receiver = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = receiver.local_addr().unwrap().port();
        let policy = EgressPolicy { allow_private: vec!["127.0.0.0/8".parse().unwrap()], ..EgressPolicy::default() };
        let resolver: Option<super::super::SharedResolver> = Some(Arc::new(resolver));
        let client = Client::new(ClientOptions { policy, resolver, ..ClientOptions::default() }).unwrap();
        for name in ["localhost", "LOCALHOST.", "a.localhost"] {
            let destination = Destination::parse(&format!("http://{name}:{port}/")).unwrap();
            assert!(client.connect(&destination).await.is_ok(), "{name}: IPv4 is allowed and IPv6 is not");
        }
        assert!(server.names().is_empty());
    }
}
