//! What others answer on the wire, over real sockets of this machine: receivers, token endpoints, HTTP and SOCKS5
//! proxies. Whatever it is, the attempt ends in time with a bounded outcome that shows no secret.
//!
//! Input: the first byte chooses the way; after it, what is answered, a part each time that something was asked.
#![no_main]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use postrider::clock::ManualClock;
use postrider::delivery::access::{Access, RawAccess};
use postrider::delivery::attempt::{MAX_RESPONSE_BYTES, Message, attempt};
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::EgressPolicy;
use postrider::delivery::retry::{MAX_DELAY, Next, Schedule, next};
use postrider::delivery::{End, MAX_ERROR_BYTES, Outcome};
use postrider::event::Event;
use postrider::signing::{Secret, SigningKeys, StandardKey};
use postrider::topic::Topic;
use postrider::webhook::Webhook;
use postrider_fuzz::{NOW, RUNTIME, parts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// All that answers end before: they end with their parts, not by the clock.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long whoever was answered may take to ask again before the connection ends, as after a part of a head.
const PATIENCE: Duration = Duration::from_millis(5);
const CLIENT_SECRET: &str = "a-client-secret";
const PROXY_PASSWORD: &str = "a-proxy-password";

/// What is still to be answered.
static ANSWERS: Mutex<VecDeque<Vec<u8>>> = Mutex::new(VecDeque::new());

struct Setup {
    client: Client,
    event: Event,
    keys: SigningKeys,
    port: u16,
}

static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let policy = EgressPolicy {
        allow_private: vec!["127.0.0.0/8".parse().expect("a network")],
        allow_proxy_resolution: true,
        ..EgressPolicy::default()
    };
    let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).expect("a client");
    let topic = Topic::parse("a.b").expect("a topic");
    let event = Event::new(topic, "seen", r#"{"n":1}"#, NOW).expect("an event");
    let keys = SigningKeys::new(
        Secret::parse("correct-horse-battery").expect("a secret"),
        StandardKey::parse("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("a key"),
    );
    let port = RUNTIME.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        port
    });
    Setup { client, event, keys, port }
});

/// Answers each time that something arrives, and hangs up when there is nothing left to say.
async fn answer(mut stream: TcpStream) {
    let mut asked = vec![0; 16 * 1024];
    let mut patience = TIMEOUT;
    while let Ok(Ok(1..)) = timeout(patience, stream.read(&mut asked)).await {
        patience = PATIENCE;
        let part = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(part) = part else { return };
        if stream.write_all(&part).await.is_err() {
            return;
        }
        if ANSWERS.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return;
        }
    }
}

/// The next address of this machine: each run has its own, so that the ports of connections past do not run out.
fn next_address() -> Ipv4Addr {
    static LAST: Mutex<u32> = Mutex::new(0);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    *last = *last % 0xff_fff0 + 1;
    Ipv4Addr::from_bits(0x7f00_0000 | *last)
}

/// How the receiver is reached: directly, through proxies, with a token, or all of it.
fn access(way: u8, at: SocketAddr) -> Access {
    let proxy = |scheme: &str| format!(r#"{{"url": "{scheme}://user:{PROXY_PASSWORD}@{at}", "resolve": "proxy"}}"#);
    let token = format!(
        r#"{{"type": "oauth2", "token_url": "http://{at}/token", "client_id": "us", "client_secret": "{CLIENT_SECRET}"}}"#
    );
    let json = match way % 6 {
        0 => "{}".to_owned(),
        1 => format!(r#"{{"proxy": {}}}"#, proxy("http")),
        2 => format!(r#"{{"proxy": {}}}"#, proxy("socks5")),
        3 => format!(r#"{{"proxy": {{"url": "socks5://{at}"}}}}"#),
        4 => format!(r#"{{"auth": {token}}}"#),
        _ => format!(r#"{{"auth": {token}, "proxy": {}}}"#, proxy("http")),
    };
    let raw: RawAccess = serde_json::from_str(&json).expect("settings");
    Access::new(raw).expect("settings that are accepted")
}

fn check(outcome: &Outcome, took: Duration) {
    assert!(took < TIMEOUT, "{outcome:?} took {took:?}");
    assert!(outcome.response.len() <= MAX_RESPONSE_BYTES);
    let text = outcome.error_text().unwrap_or_default();
    assert!(text.len() <= MAX_ERROR_BYTES);
    assert!(!text.contains(CLIENT_SECRET) && !text.contains(PROXY_PASSWORD), "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?} goes into logs");
    assert!(
        !matches!(outcome.end, End::Blocked { .. } | End::Local(_) | End::Dns { .. } | End::Timeout(_)),
        "{outcome:?}"
    );
    if let End::Status(status) = outcome.end {
        assert!((100..1000).contains(&status));
    }
    if let Next::RetryAt { at, .. } = next(1, outcome, &Schedule::server(), NOW, 1.0) {
        assert!(at.since(NOW) >= Duration::from_secs(1) && at.since(NOW) <= MAX_DELAY);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((way, answers)) = input.split_first() else { return };
    let Setup { client, event, keys, port } = &*SETUP;
    let at = SocketAddr::from((next_address(), *port));
    // A string of parts is as good as none: each is a round trip.
    *ANSWERS.lock().unwrap_or_else(PoisonError::into_inner) = parts(answers).take(8).map(<[u8]>::to_vec).collect();
    let mut webhook = Webhook::new(&format!("http://{at}/hook"), keys.clone()).expect("a webhook");
    webhook.timeout = TIMEOUT;
    webhook.access = access(*way, at);
    let clock = ManualClock::at(NOW);
    let began_at = Instant::now();
    let outcome = RUNTIME.block_on(async {
        let mut slot = None;
        attempt(client, &mut slot, &webhook, &Message::of(event), "m-1", &clock).await
    });
    check(&outcome, began_at.elapsed());
});
