//! What stands before the first handler: ambiguous requests, peers that guess tokens, and what a crash leaves.

use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use postrider::api::auth::{AUTH_FAILURES, new_token};
use postrider::delivery::guard::{Resolve, ResolveError};
use postrider::log_rate::MAX_LOG_LINES;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::program::Program;
use crate::support::server::{TestServer, settings};

const EVENT: &str = r#"{"topic": "a.b", "payload": 1}"#;

/// All that the server says to these bytes before it closes the connection, which it must do by itself.
async fn said(server: &TestServer, bytes: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.ok();
    let mut said = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await;
    ended.unwrap_or_else(|_| panic!("the connection stays open: {bytes:?}, {}", String::from_utf8_lossy(&said))).ok();
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn a_request_that_readers_may_read_otherwise_is_refused_and_nothing_behind_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let token = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", server.admin);
    let length = EVENT.len();
    let post = |head: &str, body: &str| format!("POST /api/v1/events HTTP/1.1\r\n{token}{head}\r\n{body}");
    let plain = format!("Content-Length: {length}\r\n");
    let chunked = "Host: a\r\nTransfer-Encoding: chunked\r\n";
    let chunks = |size: &str, end: &str| format!("{length:x}{size}{EVENT}{end}0\r\n\r\n");
    let good = [
        post(&format!("Host: a\r\n{plain}"), EVENT),
        post(chunked, &chunks("\r\n", "\r\n")),
        post(chunked, &chunks(";a=b\r\n", "\r\n")),
        post(&format!("Host: a\r\nContent-Encoding: identity\r\n{plain}"), EVENT),
    ];
    for request in &good {
        let said =
            said(&server, &format!("{request}GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(said.starts_with("HTTP/1.1 202 "), "{request}: {said}");
        assert_eq!(said.matches("HTTP/1.1 200 ").count(), 1, "the next is answered too: {said}");
    }
    let accepted = server.get("/api/v1/stats").await.expect(200);
    let wrong = [
        ("no Host", post(&plain, EVENT)),
        ("two Hosts", post(&format!("Host: a\r\nHost: a\r\n{plain}"), EVENT)),
        ("no host in Host", post(&format!("Host: a, b\r\n{plain}"), EVENT)),
        ("a bare LF after the request line", post(&format!("Host: a\r\n{plain}"), EVENT).replacen("\r\n", "\n", 1)),
        ("a bare LF after a field", post(&format!("Host: a\n{plain}"), EVENT)),
        ("a bare LF after the head", format!("POST /api/v1/events HTTP/1.1\r\n{token}Host: a\r\n{plain}\n{EVENT}")),
        ("a space after a chunk's size", post(chunked, &chunks(" \r\n", "\r\n"))),
        ("a tab after a chunk's size", post(chunked, &chunks("\t\r\n", "\r\n"))),
        ("a bare LF after a chunk's size", post(chunked, &chunks("\n", "\r\n"))),
        ("a bare LF after a chunk", post(chunked, &chunks("\r\n", "\n"))),
        ("two lengths", post(&format!("{chunked}{plain}"), &chunks("\r\n", "\r\n"))),
        ("the same length twice", post(&format!("Host: a\r\n{plain}{plain}"), EVENT)),
        (
            "two Content-Encodings",
            post(&format!("Host: a\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n{plain}"), EVENT),
        ),
        ("two Content-Types", post(&format!("Host: a\r\nContent-Type: text/plain\r\n{plain}"), EVENT)),
        ("two tokens", post(&format!("Host: a\r\nAuthorization: Bearer x\r\n{plain}"), EVENT)),
        ("no Host on a route without a token", "GET /healthz HTTP/1.1\r\n\r\n".to_owned()),
        ("no Host on no route", "GET /nothing HTTP/1.1\r\n\r\n".to_owned()),
    ];
    for (what, request) in wrong {
        let said = said(&server, &format!("{request}GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{what}: {said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{what}: {said}");
    }
    let after = server.get("/api/v1/stats").await.expect(200);
    assert_eq!(after["events"], accepted["events"], "none of them was accepted");
    server.stop().await;
}

/// Knows one name, which leads inside.
struct Inside;

#[async_trait::async_trait]
impl Resolve for Inside {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if host == "is-inside.example" {
            return Ok(vec![[10, 0, 0, 1].into()]);
        }
        Err(ResolveError::NotFound(format!("{host} does not exist")))
    }
}

#[tokio::test]
async fn a_tenant_learns_nothing_about_names_inside_and_the_log_says_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.client.resolver = Some(Arc::new(Inside));
    let server = TestServer::start_with(settings).await;
    let mut seen = Vec::new();
    for name in ["is-inside", "not-there"] {
        let url = format!("https://{name}.example/");
        let body = json!({"name": name, "url": url, "topic_patterns": [name]}).to_string();
        let created = server.post("/api/v1/webhooks", &body).await;
        let status = created.status;
        let path = format!("/api/v1/webhooks/{}", created.expect(201)["uuid"].as_str().unwrap());
        let tested = server.post(&format!("{path}/test"), "").await.expect(200);
        assert!(tested["timings"]["dns_ms"].is_number(), "{tested}");
        let event = json!({"topic": name, "payload": {}}).to_string();
        server.post("/api/v1/events", &event).await.expect(202);
        let ended = server.wait_for(&path, |webhook| webhook["consecutive_failures"] == 1).await;
        assert_eq!(tested["error"], ended["last_error"]);
        seen.push((status, ended["last_error"].as_str().unwrap().replace(name, "name")));
    }
    assert_eq!(seen[0], seen[1]);
    let log = server.log.text();
    let led: Vec<_> = log.lines().filter(|line| line.contains("leads to an address that may not be")).collect();
    assert!(!led.is_empty() && led.iter().all(|line| line.contains("is-inside.example") && line.contains("10.0.0.1")));
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_guesses_tokens_is_slowed_down_and_good_tokens_there_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let environment = SecretString::from("an-operator-s-token");
    let mut settings = settings(folder.path());
    settings.admin_token = Some(environment.clone());
    let server = TestServer::start_with(settings).await;
    let make = async |name: &str| {
        let wanted = format!(r#"{{"name": "{name}", "scopes": ["read"]}}"#);
        let made = server.call("POST", "/api/v1/tokens", environment.expose_secret(), &wanted).await.expect(201);
        (made["token"].as_str().unwrap().to_owned(), made["uuid"].as_str().unwrap().to_owned())
    };
    let ((known, _), (revoked, uuid)) = (make("known").await, make("revoked").await);
    let ask = async |token: &str| server.call("GET", "/api/v1/webhooks", token, "").await;
    ask(&known).await.expect(200);
    ask(&revoked).await.expect(200);
    let mut slowed = 0;
    for number in 0..2 * AUTH_FAILURES {
        // Well formed or not: both are guesses.
        let guess = if number % 2 == 0 { new_token().unwrap().expose_secret().to_owned() } else { "guess".to_owned() };
        let answer = ask(&guess).await;
        match answer.status {
            401 => assert!(slowed <= 2, "once it is slowed it stays so, but for a guess every few seconds"),
            429 => {
                slowed += 1;
                assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1, "{}", answer.head);
            }
            other => panic!("{other}"),
        }
    }
    assert!(slowed > AUTH_FAILURES / 2, "only {slowed} of {} were refused without a look-up", 2 * AUTH_FAILURES);
    // From the same address, as behind one proxy: those that were good are, also when they are asked for anew.
    ask(&known).await.expect(200);
    let path = format!("/api/v1/tokens/{uuid}");
    assert_eq!(server.call("DELETE", &path, environment.expose_secret(), "").await.status, 200);
    ask(&known).await.expect(200);
    assert_eq!(ask(&revoked).await.status, 401, "a revocation takes effect at once");
    let log = server.log.text();
    let lines = |status: &str| {
        log.lines().filter(|line| line.contains("a request was refused") && line.contains(status)).count()
    };
    assert!((1..=MAX_LOG_LINES as usize).contains(&lines("status=401")), "{}", lines("status=401"));
    assert!(lines("status=429") >= 1);
    assert!(log.contains("peer=127.0.0.1"), "who it was");
    server.stop().await;
}

#[tokio::test]
async fn a_crash_leaves_no_copy_of_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[], Stdio::null());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let limits: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(limits, ["0", "0"], "{core}");
    server.kill();
}
