//! Requests to the API, on a real store: none is answered with a server error, all problems are described as such.
//! Input: the path with its query; the body of a preview of a shape; a name of a tenant, which is also an idempotency key.
#![no_main]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use libfuzzer_sys::fuzz_target;
use postrider::api::auth::{Auth, TENANT_HEADER, hash_token, new_token};
use postrider::api::cors::Cors;
use postrider::api::{App, service};
use postrider::clock::SystemClock;
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::retry::Schedule;
use postrider::delivery::statuses::StatusLists;
use postrider::dispatcher::{CircuitSettings, DispatcherSettings};
use postrider::engine::Engine;
use postrider::event::Event;
use postrider::sources::Sources;
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{SqliteOptions, SqliteStore};
use postrider::webhook::{Capture, DEFAULT_TENANT};
use postrider_fuzz::{NOW, RUNTIME, parts};
use secrecy::ExposeSecret;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// The largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

struct Setup {
    service: BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>,
    authorization: String,
    _folder: tempfile::TempDir,
}

/// A server with some events and no webhook: nothing is delivered, and no request below makes a webhook.
static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let token = new_token().expect("a token");
    let app = RUNTIME.block_on(async {
        let store = SqliteStore::open(folder.path(), &MasterKey::new([3; 32]), SqliteOptions::default());
        let store = Arc::new(store.expect("the store opens"));
        let client = Client::new(ClientOptions::default()).expect("a client");
        let settings = DispatcherSettings {
            max_in_flight: 1,
            max_lane_deliveries: 1,
            max_memory_bytes: 1024 * 1024,
            retry_schedule: Schedule::once(),
            max_age: None,
            capture: Capture::Failures,
            statuses: StatusLists::default(),
            circuit: CircuitSettings {
                threshold: 5,
                cool_down: Duration::from_secs(30),
                max_cool_down: Duration::from_secs(3_600),
            },
        };
        let engine = Engine::start(Arc::clone(&store) as _, client, Arc::new(SystemClock), settings).await;
        let engine = engine.expect("the engine starts");
        let events = (0..20).map(|n| format!(r#"{{"id": "e-{n}", "topic": "a.b{}"}}"#, n % 3));
        let events = events.map(|json| Event::from_json(json.as_bytes(), NOW).expect("an event")).collect();
        engine.publish(DEFAULT_TENANT, events).await.expect("events are accepted");
        let auth = Auth::new(store, Some(hash_token(&token)), None).expect("no DECNET");
        let sources = Sources::start(&engine, Vec::new());
        App::new(engine, sources, auth, Cors::default(), SocketAddr::from(([127, 0, 0, 1], 4665)))
    });
    let service = BoxCloneSyncService::new(service(&app, postrider::dashboard::routes()));
    Setup { service, authorization: format!("Bearer {}", token.expose_secret()), _folder: folder }
});

async fn ask(setup: &Setup, request: Request<Body>) {
    let shown = format!("{} {}", request.method(), request.uri());
    let Ok(answer) = setup.service.clone().oneshot(request).await;
    let (head, body) = answer.into_parts();
    assert!(!head.status.is_server_error(), "{shown}: {}", head.status);
    let body = to_bytes(body, MAX_ANSWER_BYTES).await.expect("an answer of some size");
    let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    if content_type.ends_with(b"json") {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok(), "{shown}: no JSON");
    }
    if head.status.is_client_error() {
        assert_eq!(content_type, b"application/problem+json", "{shown}: {}", head.status);
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem is JSON");
        assert_eq!(problem["status"], head.status.as_u16(), "{shown}");
        assert_ne!(head.status, StatusCode::UNAUTHORIZED, "{shown}");
    }
}

fuzz_target!(|input: &[u8]| {
    let setup = &*SETUP;
    let mut parts = parts(input);
    let (path, body, value) = (parts.next(), parts.next(), parts.next());
    let request = |method: &str, uri: Uri, body: Vec<u8>| {
        let request = Request::builder().method(method).uri(uri);
        let request = request.header(header::AUTHORIZATION, &setup.authorization);
        request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body)).expect("a request")
    };
    let value = value.and_then(|value| HeaderValue::from_bytes(value).ok());
    RUNTIME.block_on(async {
        if let Ok(uri) = Uri::try_from([b"/api/v1/", path.unwrap_or_default()].concat()) {
            let mut asked = request("GET", uri, Vec::new());
            if let Some(value) = value.clone() {
                asked.headers_mut().insert(TENANT_HEADER, value);
            }
            ask(setup, asked).await;
        }
        if let Some(body) = body.filter(|body| !body.is_empty()) {
            ask(setup, request("POST", Uri::from_static("/api/v1/shapes/preview"), body.to_vec())).await;
        }
        if let Some(value) = value {
            // Refused after its key was read, so that nothing is stored.
            let mut asked = request("POST", Uri::from_static("/api/v1/events"), b"{".to_vec());
            asked.headers_mut().insert("idempotency-key", value);
            ask(setup, asked).await;
        }
    });
});
