//! Pages of other origins: only those that are named may use the API, and they can read its errors, too.

use postrider::api::cors::MAX_CORS_ORIGINS;
use postrider::config::{Config, Environment, RawConfig};
use postrider::serve::ServeSettings;
use tempfile::TempDir;

use crate::support::server::{Answer, TestServer, settings};

const CONSOLE: &str = "https://console.example";

async fn server_for(origins: &[&str]) -> (TempDir, TestServer) {
    let folder = tempfile::tempdir().unwrap();
    let cors_origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
    let server = TestServer::start_with(ServeSettings { cors_origins, ..settings(folder.path()) }).await;
    (folder, server)
}

async fn preflight(server: &TestServer, path: &str, origin: &str) -> Answer {
    let asked = "Access-Control-Request-Method: PATCH\r\nAccess-Control-Request-Headers: authorization,content-type";
    server.request("OPTIONS", path, &format!("Origin: {origin}\r\n{asked}\r\n"), b"").await
}

#[track_caller]
fn assert_not_shared(answer: &Answer) {
    assert!(!answer.head.to_ascii_lowercase().contains("access-control-"), "{}", answer.head);
}

#[tokio::test]
async fn a_page_of_a_named_origin_may_use_the_api_and_read_its_errors() {
    let (_folder, server) = server_for(&["http://localhost:8080", CONSOLE]).await;
    // The browser asks without the token, and remembers the leave.
    let leave = preflight(&server, "/api/v1/webhooks", CONSOLE).await;
    assert_eq!((leave.status, &*leave.body), (204, ""), "{}", leave.head);
    assert_eq!(leave.header("access-control-allow-origin"), Some(CONSOLE));
    assert_eq!(leave.header("access-control-allow-methods"), Some("GET, HEAD, POST, PATCH, DELETE"));
    let headers = "Authorization, Content-Type, Idempotency-Key, X-Postrider-Tenant";
    assert_eq!(leave.header("access-control-allow-headers"), Some(headers));
    assert_eq!(leave.header("access-control-max-age"), Some("600"));
    assert_eq!(leave.header("vary"), Some("Origin"));
    // No cookie and no password of the browser is ever wanted.
    assert_eq!(leave.header("access-control-allow-credentials"), None);

    let from = format!("Origin: {CONSOLE}\r\n");
    let token = format!("{from}Authorization: Bearer {}\r\n", server.admin);
    let json = format!("{token}Content-Type: application/json\r\n");
    for (method, path, headers, body, status) in [
        ("GET", "/api/v1/webhooks", &token, "", 200),
        ("GET", "/api/v1/webhooks", &from, "", 401),
        ("GET", "/api/v1/webhooks/nope", &token, "", 404),
        ("GET", "/api/v1/nope", &token, "", 404),
        ("PUT", "/api/v1/webhooks", &token, "", 405),
        ("POST", "/api/v1/webhooks", &token, "{}", 415),
        ("POST", "/api/v1/webhooks", &json, "{}", 422),
        // Its head is refused before any route is asked.
        ("GET", "/api/v1/webhooks", &format!("{token}Host: other\r\n"), "", 400),
    ] {
        let answer = server.request(method, path, headers, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert_eq!(answer.header("access-control-allow-origin"), Some(CONSOLE), "{}", answer.head);
        let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
        assert!(exposed.contains("Retry-After"), "{}", answer.head);
        assert_eq!(answer.header("vary"), Some("Origin"), "{}", answer.head);
    }
    // OPTIONS that is no preflight is a method like others.
    let options = server.request("OPTIONS", "/api/v1/webhooks", &from, b"").await;
    assert_eq!(options.status, 405);
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_another_origin_gets_no_leave_whatever_it_looks_like() {
    let (_folder, server) = server_for(&[CONSOLE]).await;
    for origin in [
        "https://console.example.evil.example",
        "https://evil.example",
        "https://console.example:8443",
        "http://console.example",
        "https://CONSOLE.example",
        "https://console.example/",
        "null",
        "*",
    ] {
        let refused = preflight(&server, "/api/v1/webhooks", origin).await;
        assert_eq!(refused.status, 405, "{origin}");
        assert_not_shared(&refused);
        let headers = format!("Origin: {origin}\r\nAuthorization: Bearer {}\r\n", server.admin);
        let answer = server.request("GET", "/api/v1/webhooks", &headers, b"").await;
        assert_eq!(answer.status, 200, "CORS is a rule of browsers: it takes nothing from who has a token");
        assert_not_shared(&answer);
        assert_eq!(answer.header("vary"), Some("Origin"), "a cache must not give it to a named origin");
    }
    let twice = format!("Origin: {CONSOLE}\r\nOrigin: https://evil.example\r\n");
    assert_not_shared(&server.request("GET", "/api/v1/webhooks", &twice, b"").await);
    server.stop().await;
}

#[tokio::test]
async fn only_the_api_is_shared_and_nothing_without_the_setting() {
    let (_folder, server) = server_for(&[CONSOLE]).await;
    for path in ["/", "/healthz", "/readyz", "/metrics", "/nope"] {
        let answer = server.request("GET", path, &format!("Origin: {CONSOLE}\r\n"), b"").await;
        assert_not_shared(&answer);
        assert_eq!(answer.header("vary"), None, "{path}");
        assert_not_shared(&preflight(&server, path, CONSOLE).await);
    }
    server.stop().await;

    let (_folder, server) = server_for(&[]).await;
    let refused = preflight(&server, "/api/v1/webhooks", CONSOLE).await;
    assert_eq!(refused.status, 405);
    assert_not_shared(&refused);
    assert_eq!(refused.header("vary"), None);
    server.stop().await;
}

#[test]
fn the_number_of_origins_is_limited() {
    let origins = |count: usize| {
        let named = (0..count).map(|n| format!("https://{n}.console.example").parse().unwrap());
        Config::load(
            None,
            &Environment::default(),
            &RawConfig { cors_origins: Some(named.collect()), ..RawConfig::default() },
        )
    };
    assert!(origins(MAX_CORS_ORIGINS).is_ok());
    let error = origins(MAX_CORS_ORIGINS + 1).err().unwrap().to_string();
    assert_eq!(error, "cors_origins (flag): has 65 origins, must have at most 64");
}
