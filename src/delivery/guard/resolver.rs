//! From a name to its addresses, none of which is checked yet.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::{fs, io, thread};

use tokio::sync::{Semaphore, oneshot};

use super::hosts::{HOSTS_FILE, addresses_of};

/// Turns a host name into addresses.
#[async_trait::async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// Every address of `host`, an absolute domain name in ASCII, with or without a dot at its end.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// Why a name has no addresses, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such name, or it has no address. The text is for the log alone: owners of webhooks get the same error
    /// as for names that lead inside.
    #[error("{0}")]
    NotFound(String),
    /// The name servers did not say whether there is. The text is shown to owners of webhooks, too.
    #[error("{0}")]
    Failed(String),
}

/// The resolver of a client.
pub type SharedResolver = Arc<dyn Resolve>;

/// The most concurrent lookups of the C library, in the whole process.
pub const MAX_SYSTEM_LOOKUPS: usize = 256;

/// The C library's resolver, which also finds names of NSS modules (mDNS, LDAP). It caches nothing.
///
/// It is asked for absolute names, which end with a dot, because it has a search list for others. Most modules take such
/// names; the module of the hosts file does not, so that file is read here, and first.
///
/// A lookup has a thread of its own until the C library ends it, even after its caller's timeout. So there are at most
/// [`MAX_SYSTEM_LOOKUPS`], and many names of slow zones delay others.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait::async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let host = host.strip_suffix('.').unwrap_or(host).to_owned();
        in_a_thread(&PLACES, move || {
            let hosts = fs::read(HOSTS_FILE).unwrap_or_default();
            let found = addresses_of(&host, &String::from_utf8_lossy(&hosts));
            if found.is_empty() { look_up(&format!("{host}.")) } else { Ok(found) }
        })
        .await
    }
}

/// The C library's resolver with its search list, as a person at this machine expects it of a command.
#[cfg(feature = "server")]
pub(crate) struct SearchingResolver;

#[cfg(feature = "server")]
#[async_trait::async_trait]
impl Resolve for SearchingResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let host = host.to_owned();
        in_a_thread(&PLACES, move || look_up(&host)).await
    }
}

static PLACES: Semaphore = Semaphore::const_new(MAX_SYSTEM_LOOKUPS);

fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// Not a blocking thread of the runtime: file access needs these, and the runtime waits for them when it ends.
async fn in_a_thread(
    places: &'static Semaphore,
    look_up: impl FnOnce() -> io::Result<Vec<IpAddr>> + Send + 'static,
) -> Result<Vec<IpAddr>, ResolveError> {
    let lacking = |error: &dyn std::fmt::Display| ResolveError::Failed(format!("names cannot be looked up: {error}"));
    let place = places.acquire().await.map_err(|error| lacking(&error))?;
    let (answer, answered) = oneshot::channel();
    let run = move || {
        let found = look_up();
        drop(place);
        // The caller may have timed out.
        let _ = answer.send(found);
    };
    thread::Builder::new().name("resolver".to_owned()).spawn(run).map_err(|error| lacking(&error))?;
    match answered.await {
        Ok(found) => found.map_err(|error| of_library(&error)),
        Err(_) => Err(ResolveError::Failed("the system's resolver gave no answer".to_owned())),
    }
}

/// `EAI_AGAIN` stands for SERVFAIL and for silence. Only its text tells it apart: std keeps no code of `getaddrinfo`. A text
/// that is not known is taken for a name that is not there, of which less is shown.
fn of_library(error: &io::Error) -> ResolveError {
    /// Of glibc and of musl.
    const AGAIN: [&str; 2] = ["Temporary failure in name resolution", "Try again"];
    let text = error.to_string();
    if AGAIN.iter().any(|again| text.ends_with(again)) {
        return ResolveError::Failed("the name servers did not answer, or could not (EAI_AGAIN)".to_owned());
    }
    ResolveError::NotFound(text)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::delivery::End;
    use crate::delivery::client::{Client, ClientOptions};
    use crate::delivery::guard::{Destination, EgressPolicy};

    const SOON: Duration = Duration::from_millis(200);

    /// A C library that finds these addresses, or hangs.
    struct Library(Option<Vec<IpAddr>>);

    #[async_trait::async_trait]
    impl Resolve for Library {
        async fn resolve(&self, _host: &str) -> Result<Vec<IpAddr>, ResolveError> {
            static PLACES: Semaphore = Semaphore::const_new(8);
            let found = self.0.clone();
            in_a_thread(&PLACES, move || Ok(found.unwrap_or_else(|| hang()))).await
        }
    }

    fn hang() -> ! {
        loop {
            thread::park();
        }
    }

    fn of(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    /// The end of a request to a receiver on 127.0.0.1, whose name the library resolves to `found`.
    async fn asked(found: Option<Vec<IpAddr>>) -> Result<u16, End> {
        let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = receiver.local_addr().unwrap().port();
        let policy = EgressPolicy { allow_private: vec!["127.0.0.0/8".parse().unwrap()], ..EgressPolicy::default() };
        let resolver: Option<SharedResolver> = Some(Arc::new(Library(found)));
        let client = Client::new(ClientOptions { policy, resolver, ..ClientOptions::default() }).unwrap();
        let destination = Destination::parse(&format!("http://receiver.example:{port}/")).unwrap();
        let answering = async {
            let (mut stream, _) = receiver.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        };
        let request = client.request(&destination, Request::default(), 0, SOON * 10);
        tokio::select! {
            answer = request => answer.map(|answer| answer.status().as_u16()),
            () = answering => unreachable!("a receiver does not end"),
        }
    }

    #[tokio::test]
    async fn what_the_c_library_finds_goes_through_the_guard() {
        assert_eq!(asked(Some(of(&["127.0.0.1"]))).await, Ok(204));
        assert_eq!(asked(Some(of(&["127.0.0.2", "127.0.0.1"]))).await, Ok(204), "the first that takes a connection");
        let inside = "receiver.example: 10.0.0.1 is a forbidden address (private)";
        for addresses in [&["10.0.0.1"] as &[&str], &["127.0.0.1", "10.0.0.1"]] {
            let end = asked(Some(of(addresses))).await.unwrap_err();
            assert!(matches!(&end, End::Dns { detail, .. } if detail == inside), "{addresses:?}: {end:?}");
        }
        let end = asked(None).await.unwrap_err();
        assert_eq!(end.error_text().unwrap(), "timeout: dns (limit 2 s)");
    }

    #[tokio::test]
    async fn a_lookup_keeps_its_place_until_the_c_library_gives_up_whoever_waits() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let (give_up, end) = mpsc::channel::<()>();
        let slow = in_a_thread(&ONE, move || {
            let _ = end.recv();
            Err(io::Error::other("no server answers"))
        });
        assert!(timeout(SOON, slow).await.is_err(), "nobody waits any more");
        assert!(timeout(SOON, in_a_thread(&ONE, || Ok(Vec::new()))).await.is_err(), "its thread is there still");
        drop(give_up);
        assert_eq!(in_a_thread(&ONE, || Ok(of(&["192.0.2.1"]))).await, Ok(of(&["192.0.2.1"])));
        let failed = in_a_thread(&ONE, || Err(io::Error::other("no server answers"))).await;
        assert_eq!(failed, Err(ResolveError::NotFound("no server answers".to_owned())));
        let again = "failed to lookup address information: Temporary failure in name resolution";
        let failed = in_a_thread(&ONE, move || Err(io::Error::other(again))).await;
        assert!(matches!(&failed, Err(ResolveError::Failed(words)) if words.contains("EAI_AGAIN")), "{failed:?}");
    }
}
