//! Admins of DECNET use the API with their tokens of DECNET.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use jsonwebtoken::{EncodingKey, Header};
use postrider::api::auth::{DecnetSettings, MAX_DECNET_JWT_BYTES};
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::{Destination, EgressPolicy};
use postrider::serve::ServeSettings;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::server::{TestServer, settings};

const SECRET: &str = "a secret of at least 32 characters!";
/// Made with Python's `hmac`, with the claims of an admin of the original, until 2100.
const ADMIN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1dWlkIjoiM2YwZjRkNGUtOGE2MS00ZDBjLTljMGUtNmY1ZjZmMWEyYjNjIiwianRpIjoiMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCJleHAiOjQxMDI0NDQ4MDAsImlhdCI6MTc5MDAwMDAwMCwiaXNzIjoiZGVjbmV0IiwiYXVkIjoiZGVjbmV0LWRhc2hib2FyZCIsInR5cCI6ImFjY2VzcyJ9.fl9EjlCPmQoJJsfL3OUFXBjJOLPlZzSewFsB8x8MHro";
const ADMIN_UUID: &str = "3f0f4d4e-8a61-4d0c-9c0e-6f5f6f1a2b3c";

/// The API of a DECNET, as far as it is asked: it knows a user by the token.
#[derive(Default)]
struct Decnet {
    asked: AtomicUsize,
    users: Vec<(String, StatusCode, Value)>,
}

impl Decnet {
    /// Its users' answers are those that the original was recorded with.
    async fn start(users: Vec<(String, StatusCode, Value)>) -> (Arc<Self>, String) {
        let decnet = Arc::new(Self { users, ..Self::default() });
        let app = axum::Router::new().route("/api/v1/webhooks/", get(answer)).with_state(Arc::clone(&decnet));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, app).await });
        (decnet, base)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn answer(State(decnet): State<Arc<Decnet>>, headers: HeaderMap) -> (StatusCode, Json<Value>) {
    decnet.asked.fetch_add(1, Ordering::Relaxed);
    let token = headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
    let user = decnet.users.iter().find(|(of, ..)| of == token);
    let unknown = || (StatusCode::UNAUTHORIZED, json!({"detail": "Could not validate credentials"}));
    let (status, body) = user.map_or_else(unknown, |(_, status, body)| (*status, body.clone()));
    (status, Json(body))
}

async fn server_beside(api: &str) -> (TempDir, TestServer) {
    let folder = tempfile::tempdir().unwrap();
    let decnet = Some(DecnetSettings { api: api.parse().unwrap(), secret: SECRET.into() });
    let server = TestServer::start_with(ServeSettings { decnet, ..settings(folder.path()) }).await;
    (folder, server)
}

/// A token with the claims of `ADMIN`, but for these.
fn token(claims: &Value) -> String {
    signed(&Header::default(), claims, SECRET)
}

fn signed(header: &Header, changed: &Value, secret: &str) -> String {
    let mut claims = json!({
        "uuid": ADMIN_UUID, "jti": "0123", "exp": 4_102_444_800_u64, "iat": 1_790_000_000, "iss": "decnet",
        "aud": "decnet-dashboard", "typ": "access",
    });
    for (name, value) in changed.as_object().unwrap() {
        claims[name] = value.clone();
    }
    jsonwebtoken::encode(header, &claims, &EncodingKey::from_secret(secret.as_bytes()).unwrap()).unwrap()
}

async fn list(server: &TestServer, token: &str) -> (u16, String) {
    let answer = server.call("GET", "/api/v1/webhooks/", token, "").await;
    let detail = serde_json::from_str::<Value>(&answer.body).unwrap()["detail"].as_str().unwrap_or_default().to_owned();
    (answer.status, detail)
}

#[tokio::test]
async fn an_admin_of_decnet_manages_webhooks_with_the_token_of_decnet() {
    let (decnet, api) = Decnet::start(vec![(ADMIN.to_owned(), StatusCode::OK, json!([]))]).await;
    let (_folder, server) = server_beside(&api).await;
    assert_eq!(list(&server, ADMIN).await.0, 200);
    let new = json!({"name": "siem", "url": "https://siem.example/", "topic_patterns": ["attacker.>"]}).to_string();
    assert_eq!(server.call("POST", "/api/v1/webhooks/", ADMIN, &new).await.status, 201);
    assert_eq!(decnet.asked(), 1, "the answer is good for a while");
    let audit = server.get("/api/v1/audit").await.expect(200);
    let by = json!({"token": ADMIN_UUID, "name": format!("decnet:{ADMIN_UUID}")});
    assert!(audit["items"].as_array().unwrap().iter().any(|entry| entry["actor"] == by), "{audit}");
    // An admin there is no operator here.
    assert_eq!(server.call("GET", "/api/v1/tenants", ADMIN, "").await.status, 403);
    // Tokens of this server are good beside.
    assert_eq!(server.get("/api/v1/webhooks").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn what_decnet_says_of_a_user_is_said() {
    let viewer = token(&json!({"uuid": "00000000-0000-4000-8000-000000000001"}));
    let newcomer = token(&json!({"uuid": "00000000-0000-4000-8000-000000000002"}));
    let gone = token(&json!({"uuid": "00000000-0000-4000-8000-000000000003"}));
    let broken = token(&json!({"uuid": "00000000-0000-4000-8000-000000000004"}));
    let change = "Password change required before accessing this resource";
    let (decnet, api) = Decnet::start(vec![
        (viewer.clone(), StatusCode::FORBIDDEN, json!({"detail": "Insufficient permissions"})),
        (newcomer.clone(), StatusCode::FORBIDDEN, json!({"detail": change})),
        (broken.clone(), StatusCode::INTERNAL_SERVER_ERROR, json!({"detail": "database is locked"})),
    ])
    .await;
    let (_folder, server) = server_beside(&api).await;
    let told = |status: u16, detail: &str| (status, detail.to_owned());
    assert_eq!(list(&server, &viewer).await, told(403, "Insufficient permissions"));
    assert_eq!(list(&server, &newcomer).await, told(403, change));
    assert_eq!(list(&server, &gone).await, told(401, "Could not validate credentials"));
    // A page logs out after a 401, so a DECNET that fails is none.
    let (status, _) = list(&server, &broken).await;
    assert_eq!(status, 503);
    assert_eq!(decnet.asked(), 4);
    let log = server.log.text();
    assert!(log.contains("DECNET does not say") && log.contains("database is locked"), "{log}");
    server.stop().await;
}

#[tokio::test]
async fn decnet_is_not_asked_about_tokens_that_it_has_not_signed() {
    let (decnet, api) = Decnet::start(Vec::new()).await;
    let (_folder, server) = server_beside(&api).await;
    let (header, rest) = ADMIN.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    for bad in [
        token(&json!({"exp": 1_700_000_000})),
        token(&json!({"iss": "other"})),
        token(&json!({"aud": "other"})),
        token(&json!({"typ": "refresh"})),
        token(&json!({"uuid": "admin"})),
        token(&json!({"exp": "never"})),
        token(&json!({"more": "x".repeat(MAX_DECNET_JWT_BYTES)})),
        signed(&Header::default(), &json!({}), "another secret of 32 characters!!"),
        signed(&Header::new(jsonwebtoken::Algorithm::HS512), &json!({}), SECRET),
        // `alg: none`, with and without the signature.
        format!("eyJhbGciOiJub25lIn0.{claims}.{signature}"),
        format!("eyJhbGciOiJub25lIn0.{claims}."),
        format!("{header}.{claims}."),
        format!("{header}.{claims}"),
        "..".to_owned(),
    ] {
        let (status, detail) = list(&server, &bad).await;
        assert_eq!(status, 401, "{bad}: {detail}");
    }
    assert_eq!(decnet.asked(), 0);
    let log = server.log.text();
    assert!(log.contains("InvalidSignature") && log.contains("it has expired"), "{log}");
    server.stop().await;
}

#[tokio::test]
async fn an_api_that_is_away_or_leads_back_keeps_only_users_of_decnet_out() {
    let (_folder, server) = server_beside("http://127.0.0.1:1").await;
    assert_eq!(list(&server, ADMIN).await.0, 503);
    assert_eq!(server.get("/api/v1/webhooks").await.status, 200);
    server.stop().await;

    // A proxy in front of both, which leads the question to who asks it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let folder = tempfile::tempdir().unwrap();
    let decnet = Some(DecnetSettings { api: format!("http://{address}").parse().unwrap(), secret: SECRET.into() });
    let server = TestServer::start_with(ServeSettings { decnet, listen: address, ..settings(folder.path()) }).await;
    assert_eq!(list(&server, ADMIN).await.0, 503);
    let log = server.log.text();
    assert!(log.contains("leads back to this server"), "{log}");
    server.stop().await;
}

/// A proxy with the settings of the documents: `part` of its blocks.
struct Proxy {
    child: std::process::Child,
    folder: TempDir,
    address: std::net::SocketAddr,
}

impl Proxy {
    async fn start(part: usize, server: &TestServer, api: &str, token: &str) -> Self {
        let text = include_str!("../../docs/decnet.md");
        let block = text.split("```nginx\n").nth(part).unwrap().split("```").next().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let block = block
            .replace("listen 8080", &format!("listen {address}"))
            .replace("http://127.0.0.1:4665", &format!("http://{}", server.address))
            .replace("http://127.0.0.1:8000", api)
            .replace("pr_TOKEN", token);
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths = paths.map(|kind| format!("{kind}_temp_path {at}/{kind};")).concat();
        let file = folder.path().join("nginx.conf");
        let whole = format!(
            "daemon off; pid {at}/pid; error_log {at}/log; events {{}} http {{ access_log off; {paths} {block} }}"
        );
        std::fs::write(&file, whole).unwrap();
        // Debian keeps it out of PATH.
        let child =
            std::process::Command::new("/usr/sbin/nginx").args(["-e", "stderr", "-c"]).arg(&file).spawn().unwrap();
        let proxy = Self { child, folder, address };
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(!proxy.log().contains("[emerg]"), "{}", proxy.log());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        proxy
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The status of the answer and its body.
    async fn call(&self, method: &str, path: &str, token: &str, json: &str) -> (u16, String) {
        let client = Client::new(ClientOptions {
            policy: EgressPolicy { allow_all_private: true, ..EgressPolicy::default() },
            ..ClientOptions::default()
        })
        .unwrap();
        let request = axum::http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(json.to_owned().into())
            .unwrap();
        let destination = Destination::parse(&format!("http://{}/", self.address)).unwrap();
        let answer = client.request(&destination, request, 1 << 20, std::time::Duration::from_secs(10)).await.unwrap();
        (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_proxy_leads_the_pages_of_decnet_to_both_servers() {
    let viewer = token(&json!({"uuid": "00000000-0000-4000-8000-000000000001"}));
    let (_decnet, api) = Decnet::start(vec![
        (ADMIN.to_owned(), StatusCode::OK, json!([])),
        (viewer.clone(), StatusCode::FORBIDDEN, json!({"detail": "Insufficient permissions"})),
    ])
    .await;
    let (_folder, server) = server_beside(&api).await;
    let own = server.token("[\"admin\"]").await;
    let new = |name: &str| {
        json!({"name": name, "url": "https://siem.example/", "topic_patterns": ["attacker.>"]}).to_string()
    };
    for (part, name) in [(1, "asked by the server"), (2, "asked by the proxy")] {
        let proxy = Proxy::start(part, &server, &api, &own).await;
        let (status, body) = proxy.call("POST", "/api/v1/webhooks/", ADMIN, &new(name)).await;
        assert_eq!(status, 201, "{body} {}", proxy.log());
        assert_eq!(proxy.call("POST", "/api/v1/webhooks/", &viewer, &new("by a viewer")).await.0, 403);
        assert_eq!(proxy.call("GET", "/api/v1/webhooks/", "e30.e30.e30", "").await.0, 401);
        assert_eq!(proxy.call("GET", "/admin-of-decnet", ADMIN, "").await.0, 404, "it is no page");
    }
    let webhooks = server.get("/api/v1/webhooks").await.expect(200);
    let names: Vec<_> = webhooks.as_array().unwrap().iter().map(|webhook| &webhook["name"]).collect();
    assert_eq!(names, ["asked by the server", "asked by the proxy"]);
    server.stop().await;
}
