//! `POST /webhooks/{uuid}/test`, and what bounds it: a cap of the tenant, and the limits that the webhook's deliveries have.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::receiver::{Answer, TestReceiver};
use crate::support::server;
use crate::support::server::TestServer;

/// A webhook with these settings beside the usual ones; the path of its test.
async fn testable(server: &TestServer, url: &str, settings: Value) -> String {
    let mut body = json!({"name": "tested", "url": url, "topic_patterns": ["t"]});
    body.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let created = server.post("/api/v1/webhooks", &body.to_string()).await.expect(201);
    format!("/api/v1/webhooks/{}/test", created["uuid"].as_str().unwrap())
}

#[track_caller]
fn refused(answer: &server::Answer, kind: &str) -> u64 {
    assert_eq!(answer.status, 429, "{}", answer.body);
    assert_eq!(answer.json()["type"], format!("urn:postrider:problem:{kind}"));
    answer.header("retry-after").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_tenant_has_a_few_tests_under_way_and_the_next_is_told_to_wait() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    server.post("/api/v1/tenants", r#"{"name":"others"}"#).await.expect(201);
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(700))).await;
    let path = testable(&server, &receiver.url("/"), json!({})).await;
    let test = || server.post(&path, "");
    let six: [server::Answer; 6] = tokio::join!(test(), test(), test(), test(), test(), test()).into();
    let (made, others): (Vec<_>, Vec<_>) = six.iter().partition(|answer| answer.status == 200);
    assert_eq!((made.len(), others.len()), (4, 2));
    assert!(made.iter().all(|answer| answer.json()["delivered"] == true));
    assert!(others.iter().all(|answer| refused(answer, "too-many-tests") == 1));
    assert_eq!(receiver.received_count(), 4);
    // What has ended makes room.
    assert_eq!(test().await.expect(200)["delivered"], true);
    server.stop().await;
}

#[tokio::test]
async fn a_test_counts_among_the_attempts_that_the_webhook_may_have_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(50))).await;
    let path = testable(&server, &receiver.url("/"), json!({"max_in_flight": 1})).await;
    for _ in 0..10 {
        server.post("/api/v1/events", r#"{"topic":"t"}"#).await.expect(202);
    }
    let test = || server.post(&path, "");
    let three: [server::Answer; 3] = tokio::join!(test(), test(), test()).into();
    for answer in three {
        assert_eq!(answer.expect(200)["delivered"], true);
    }
    // The deliveries that made room for tests go on after them.
    receiver.wait_for(13).await;
    assert_eq!(receiver.peak(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_test_waits_for_the_rate_limit_or_says_how_long_that_would_be() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let hourly = json!({"rate_limit": {"per_s": 1.0 / 3_600.0}});
    let path = testable(&server, &receiver.url("/"), hourly).await;
    let wait = refused(&server.post(&path, "").await, "webhook-rate-limit");
    assert!((3_500..=3_601).contains(&wait), "{wait}");
    assert_eq!(receiver.received_count(), 0);

    let webhook = path.trim_end_matches("/test");
    server.call("PATCH", webhook, &server.admin, r#"{"rate_limit": {"per_s": 5}}"#).await.expect(200);
    assert_eq!(server.post(&path, "").await.expect(200)["delivered"], true);
    // One has taken the turn; after it the next is an hour away again.
    server.call("PATCH", webhook, &server.admin, r#"{"rate_limit": {"per_s": 0.01, "burst": 1}}"#).await.expect(200);
    assert!(refused(&server.post(&path, "").await, "webhook-rate-limit") > 10);
    assert_eq!(receiver.received_count(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_test_of_a_webhook_that_is_off_is_made_and_carries_the_server_s_hop() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let path = testable(&server, &receiver.url("/"), json!({"enabled": false, "shape": "slack"})).await;
    assert_eq!(server.post(&path, "").await.expect(200)["delivered"], true);
    let request = &receiver.wait_for(1).await[0];
    assert!(request.header("postrider-hops").starts_with("1; via="));
    assert!(request.body.starts_with(b"{"));
    server.stop().await;
}
