//! The exchange with a receiver against hyper's client: CPU of one POST, plain and over TLS, in one run, in turns.
//!
//! ```sh
//! cargo bench --bench exchange
//! ```
//!
//! Both sign the same body and post it on connections of their own, again and again, to a receiver in another process.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first surprise and prints, and one process of it is the receiver"
)]

use std::env;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postrider::delivery::client::{AnswerReader, Client, ClientOptions, Connection, RequestHead, Roots};
use postrider::delivery::guard::{Destination, EgressPolicy};
use postrider::signing::{Secret, decnet_signature};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Tells a process that it is the receiver.
const RECEIVER: &str = "POSTRIDER_BENCH_RECEIVER";
const ROUNDS: usize = 3;
const LASTING: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 16;
const MAX_ANSWER_BYTES: usize = 1_024;

#[derive(Clone, Copy, Debug)]
enum Way {
    Hyper,
    Own,
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if env::var_os(RECEIVER).is_some() {
        runtime.block_on(receive());
        return;
    }
    let receiver = Receiver::start();
    println!("{:8} {:7} {:>12} {:>14}", "", "", "POSTs/s", "CPU µs/POST");
    for is_tls in [false, true] {
        let (mut hyper_us, mut own_us) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for (way, all) in [(Way::Hyper, &mut hyper_us), (Way::Own, &mut own_us)] {
                let (rate, cpu_us) = runtime.block_on(run(way, &receiver, is_tls));
                let name = if is_tls { "TLS" } else { "plain" };
                println!("{name:8} {:7} {rate:>12.0} {cpu_us:>14.2}", format!("{way:?}").to_lowercase());
                all.push(cpu_us);
            }
        }
        let median = |all: &mut Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let saved = 100.0 * (1.0 - median(&mut own_us) / median(&mut hyper_us));
        println!("own against hyper, of the medians: {saved:.1} % less CPU\n");
    }
}

/// A process that answers 200 to everything, on a port without TLS and one with it.
struct Receiver {
    process: Child,
    plain: SocketAddr,
    tls: SocketAddr,
    certificate: CertificateDer<'static>,
}

impl Receiver {
    fn start() -> Self {
        let program = env::current_exe().unwrap();
        let mut process =
            Command::new(program).env(RECEIVER, "1").stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let (plain, tls) = (lines.next().unwrap().parse().unwrap(), lines.next().unwrap().parse().unwrap());
        let certificate = BASE64_STANDARD.decode(lines.next().unwrap()).unwrap().into();
        Self { process, plain, tls, certificate }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

async fn receive() {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}\n{}", plain.local_addr().unwrap(), tls.local_addr().unwrap());
    println!("{}", BASE64_STANDARD.encode(authority.der()));
    loop {
        tokio::select! {
            accepted = plain.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream));
            }
            accepted = tls.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move { serve(acceptor.accept(stream).await.unwrap()).await });
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service = hyper::service::service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
        request.into_body().collect().await?;
        Ok::<_, hyper::Error>(hyper::Response::new(Full::new(Bytes::from_static(b"ok"))))
    });
    // The posting side ends by closing its connections.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// POSTs a second, and microseconds of this process's CPU for each.
async fn run(way: Way, receiver: &Receiver, is_tls: bool) -> (f64, f64) {
    let (scheme, address) = if is_tls { ("https", receiver.tls) } else { ("http", receiver.plain) };
    let host = address.to_string();
    let destination = Destination::parse(&format!("{scheme}://{host}/hook")).unwrap();
    let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
    let options = ClientOptions { policy, roots: Roots::Custom(receiver.roots()), ..ClientOptions::default() };
    let client = Client::new(options).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(receiver.roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let mut posting: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    let posts = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + LASTING;
    let post = Arc::new(Post { host, body: body(), secret: Secret::generate(), until, posts: Arc::clone(&posts) });
    for _ in 0..CONNECTIONS {
        let post = Arc::clone(&post);
        posting.push(match way {
            Way::Own => Box::pin(post_own(client.connect(&destination).await.unwrap(), post)),
            Way::Hyper => {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                if is_tls {
                    let name = address.ip().into();
                    Box::pin(post_hyper(connector.connect(name, stream).await.unwrap(), post))
                } else {
                    Box::pin(post_hyper(stream, post))
                }
            }
        });
    }
    let (cpu_before, began_at) = (cpu(), Instant::now());
    let tasks: Vec<_> = posting.into_iter().map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let posts = posts.load(Ordering::Relaxed) as f64;
    (posts / began_at.elapsed().as_secs_f64(), cpu().saturating_sub(cpu_before).as_secs_f64() * 1e6 / posts)
}

/// What is posted, and until when.
struct Post {
    host: String,
    body: Bytes,
    secret: Secret,
    until: Instant,
    posts: Arc<AtomicU64>,
}

impl Post {
    fn is_over(&self) -> bool {
        self.posts.fetch_add(1, Ordering::Relaxed);
        Instant::now() >= self.until
    }
}

async fn post_own(mut connection: Connection, post: Arc<Post>) {
    while !post.is_over() {
        let mut head = RequestHead::of("POST", "/hook", post.host.as_bytes());
        head.field("Content-Type", b"application/json").unwrap();
        head.field("X-DECNET-Signature", decnet_signature(&post.secret, &post.body).as_bytes()).unwrap();
        let mut answer = AnswerReader::of_at_most(MAX_ANSWER_BYTES);
        connection.exchange(&mut head.with_body(post.body.clone()), &mut answer, || {}).await.unwrap();
        assert_eq!(answer.status(), Some(200));
        assert_eq!(&*answer.into_body(), b"ok");
    }
}

async fn post_hyper(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, post: Arc<Post>) {
    let (mut sender, mut driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    while !post.is_over() {
        let request = hyper::Request::post("/hook")
            .header("host", &post.host)
            .header("content-type", "application/json")
            .header("x-decnet-signature", decnet_signature(&post.secret, &post.body))
            .body(Full::new(post.body.clone()))
            .unwrap();
        let answered = async { sender.send_request(request).await.unwrap().into_body().collect().await.unwrap() };
        let answer = tokio::select! {
            biased;
            answer = answered => answer,
            ended = &mut driver => panic!("the connection ended: {ended:?}"),
        };
        assert_eq!(&*answer.to_bytes(), b"ok");
    }
}

fn body() -> Bytes {
    format!(r#"{{"payload":{{"filler":"{}"}},"topic":"bench.node-0.auth"}}"#, "x".repeat(500)).into()
}

/// CPU of this process so far, in user space and in the kernel.
fn cpu() -> Duration {
    const TICKS_PER_S: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_S)
}
