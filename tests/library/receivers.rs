//! Receivers on loopback that behave as a test tells them to.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use postrider::clock::{Clock, SystemClock};
use postrider::delivery::client::{Client, ClientOptions, Roots};
use postrider::delivery::guard::{EgressPolicy, Resolve, ResolveError, SharedResolver};
use postrider::event::Event;
use postrider::signing::SigningKeys;
use postrider::webhook::Webhook;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Treats every connection with the behaviour it was started with, until it is dropped.
pub(crate) struct Receiver {
    pub addr: SocketAddr,
    /// How many connections were accepted.
    pub connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start<F, B>(behave: F) -> Self
    where
        F: Fn(TcpStream) -> B + Send + 'static,
        B: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut behaving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                behaving.spawn(behave(stream));
            }
        });
        Self { addr, connections, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.addr)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub request_line: String,
    pub headers: HeaderMap,
    /// Names as they were on the wire, in their order.
    pub header_names: Vec<String>,
    pub body: Vec<u8>,
}

impl Received {
    /// The target of the request.
    pub(crate) fn path(&self) -> &str {
        self.request_line.split(' ').nth(1).unwrap_or_default()
    }
}

/// The next request on a connection, or `None` when the peer has closed it.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Received> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let request_line = lines.next().unwrap().to_owned();
    let mut headers = HeaderMap::new();
    let mut header_names = Vec::new();
    for (name, value) in lines.map(|line| line.split_once(": ").unwrap()) {
        header_names.push(name.to_owned());
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let length = headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Received { request_line, headers, header_names, body })
}

/// Writes what can be written; the peer may have left.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
}

/// A resolver that gives every name the same addresses, until it is told others.
#[derive(Clone, Default)]
pub(crate) struct Names(Arc<Mutex<Vec<IpAddr>>>);

impl Names {
    pub(crate) fn set(&self, addresses: &[&str]) {
        *self.0.lock().unwrap() = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    }
    pub(crate) fn resolver(&self) -> SharedResolver {
        Arc::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Resolve for Names {
    async fn resolve(&self, _host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Ok(self.0.lock().unwrap().clone())
    }
}

/// A client that trusts `roots` and may contact loopback.
pub(crate) fn client(roots: Roots) -> Client {
    client_asking(roots, Arc::new(Names::default()))
}

/// A client that may contact loopback and asks `resolver` for names.
pub(crate) fn client_asking(roots: Roots, resolver: SharedResolver) -> Client {
    let policy = EgressPolicy { allow_private: vec!["127.0.0.0/8".parse().unwrap()], ..EgressPolicy::default() };
    Client::new(ClientOptions { policy, resolver: Some(resolver), roots, ..ClientOptions::default() }).unwrap()
}

/// A webhook with fresh keys that signs both ways.
pub(crate) fn webhook(url: &str, timeout: Duration) -> Webhook {
    let keys = SigningKeys::generate();
    Webhook { timeout, ..Webhook::new(url, keys).unwrap() }
}

/// An event as a publisher sends it.
pub(crate) fn event(json: &str) -> Event {
    Event::from_json(json.as_bytes(), SystemClock.now()).unwrap()
}
