//! Events that would go in circles: servers that deliver to each other, or to themselves. The egress guard refuses a
//! server's own listener; an address before it, as a load balancer has, leads there all the same.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use postrider::delivery::retry::Schedule;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::receiver::{Received, TestReceiver};
use crate::support::server;
use crate::support::server::TestServer;

const LOOP: &str = "http 508 (loop: the event has been at the receiver before, or at too many servers)";

/// An address that leads to another: what a load balancer is. Ends when it is dropped.
struct Forwarder {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Forwarder {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let current = Arc::clone(&target);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let target = *current.lock().unwrap();
                connections.spawn(async move {
                    let Ok(mut target) = TcpStream::connect(target).await else { return };
                    tokio::io::copy_bidirectional(&mut stream, &mut target).await.ok();
                });
            }
        });
        Self { address, target, task }
    }

    fn events(&self) -> String {
        format!("http://{}/api/v1/events", self.address)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A webhook that publishes at `url` what it gets, each time as another event.
async fn republishing(server: &TestServer, name: &str, url: &str, token: &str) -> Value {
    let body = json!({
        "name": name, "url": url, "topic_patterns": ["round.>"], "auth": {"type": "bearer", "token": token},
        "shape": {"template": r#"{"topic": {{ event.topic|tojson }}, "payload": {{ event.payload|tojson }}}"#},
    });
    server.post("/api/v1/webhooks", &body.to_string()).await.expect(201)
}

const EVENT: &str = r#"{"id": "first", "topic": "round.and.round", "payload": {"n": 1}}"#;

async fn deliveries(server: &TestServer, count: usize) -> Vec<Value> {
    let has_ended = |page: &Value| {
        let items = page["items"].as_array().unwrap();
        items.len() == count && items.iter().all(|delivery| delivery["state"] != "pending")
    };
    server.wait_for("/api/v1/deliveries", has_ended).await["items"].as_array().unwrap().clone()
}

fn hops(request: &Received) -> (u8, Vec<String>) {
    let (count, via) = request.header("postrider-hops").split_once("; via=").expect("every attempt says where it was");
    (count.parse().unwrap(), via.split(", ").map(str::to_owned).collect())
}

#[tokio::test]
async fn two_webhooks_that_lead_back_to_their_server_make_one_event_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let outside = Forwarder::to(server.address).await;
    republishing(&server, "one", &outside.events(), &server.admin).await;
    republishing(&server, "other", &outside.events(), &server.admin).await;
    server.post("/api/v1/events", EVENT).await.expect(202);

    let ended = deliveries(&server, 2).await;
    for delivery in &ended {
        assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("dead"), &json!(LOOP)), "{delivery}");
    }
    let shown = server.get(&format!("/api/v1/deliveries/{}", ended[0]["id"].as_str().unwrap())).await.expect(200);
    let attempt = &shown["attempt_log"][0];
    assert_eq!((&attempt["status_code"], &attempt["error"]), (&json!(508), &json!(LOOP)), "{attempt}");
    assert!(attempt["response"].as_str().unwrap().contains("passed through this server before"), "{attempt}");
    let events = server.get("/api/v1/events").await.expect(200);
    assert_eq!(events["items"].as_array().unwrap().len(), 1, "{events}");
    server.stop().await;
}

async fn started_again(folder: &Path, token: &str) -> TestServer {
    let mut server = TestServer::start(folder).await;
    token.clone_into(&mut server.admin);
    server
}

#[tokio::test]
async fn a_circle_of_two_servers_ends_where_it_began_also_after_a_restart() {
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, mut b) = (TestServer::start(near.path()).await, TestServer::start(far.path()).await);
    let receiver = TestReceiver::healthy().await;
    let (to_a, to_b) = (Forwarder::to(a.address).await, Forwarder::to(b.address).await);
    republishing(&a, "to b", &to_b.events(), &b.admin).await;
    let back = republishing(&b, "to a", &to_a.events(), &a.admin).await;
    let seen = json!({"name": "seen", "url": receiver.url("/"), "topic_patterns": ["round.>"]});
    let seen = b.post("/api/v1/webhooks", &seen.to_string()).await.expect(201);
    let paths = [&back, &seen].map(|webhook| format!("/api/v1/webhooks/{}", webhook["uuid"].as_str().unwrap()));
    for path in &paths {
        b.call("PATCH", path, &b.admin, r#"{"paused": true}"#).await.expect(200);
    }

    a.post("/api/v1/events", EVENT).await.expect(202);
    assert_eq!(deliveries(&a, 1).await[0]["state"], "delivered");
    // What b knows of the way is in its store alone now.
    let token = b.admin.clone();
    b.stop().await;
    b = started_again(far.path(), &token).await;
    *to_b.target.lock().unwrap() = b.address;
    for path in &paths {
        b.call("PATCH", path, &b.admin, r#"{"paused": false}"#).await.expect(200);
    }
    let states: Vec<_> =
        deliveries(&b, 2).await.iter().map(|one| (one["state"].clone(), one["reason"].clone())).collect();
    assert!(states.contains(&(json!("dead"), json!(LOOP))), "{states:?}");
    let (count, via) = hops(&receiver.wait_for(1).await[0]);
    assert_eq!((count, via.len()), (2, 2), "a, then b");

    // An event of b's own comes from b alone, under the name that b had before.
    b.post("/api/v1/events", &EVENT.replace("first", "own")).await.expect(202);
    let own = hops(&receiver.wait_for(2).await[1]);
    assert_eq!(own, (1, vec![via[1].clone()]));
    assert!(deliveries(&b, 4).await.iter().any(|one| one["event_id"] == "own" && one["state"] == "delivered"));
    assert_eq!(deliveries(&a, 2).await[0]["reason"], LOOP, "what came from b does not go back there");
    let events = a.get("/api/v1/events").await.expect(200);
    assert_eq!(events["items"].as_array().unwrap().len(), 2, "b's own event arrives at a, and no more: {events}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_request_that_has_been_at_too_many_servers_is_refused_and_what_is_accepted_counts_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let receiver = TestReceiver::healthy().await;
    let publish = |path: &'static str, hops: String, body: String| {
        let headers = format!(
            "Authorization: Bearer {}\r\nContent-Type: application/json\r\nPostrider-Hops: {hops}\r\n",
            server.admin
        );
        let server = &server;
        async move { server.request("POST", path, &headers, body.as_bytes()).await }
    };
    let via = |count: u32| {
        let names: Vec<String> = (0..count).map(|n| format!("{n:016x}")).collect();
        format!("{count}; via={}", names.join(", "))
    };
    let batch = json!({"name": "batch", "url": receiver.url("/"), "topic_patterns": ["b.>"],
        "batch": {"max_events": 2, "max_wait_ms": 60_000}});
    server.post("/api/v1/webhooks", &batch.to_string()).await.expect(201);
    for (path, body) in [
        ("/api/v1/events", r#"{"topic": "t"}"#),
        ("/api/v1/events?dry_run=true", r#"{"topic": "t"}"#),
        ("/api/v1/events/batch", r#"[{"topic": "t"}]"#),
    ] {
        let refused = publish(path, via(6), body.to_owned()).await;
        assert_eq!((refused.status, refused.header("content-type")), (508, Some("application/problem+json")));
        let problem = refused.json();
        assert_eq!(problem["type"], "urn:postrider:problem:loop");
        assert!(problem["detail"].as_str().unwrap().contains("more than 5 servers"), "{problem}");
        let wrong = publish(path, "yes".to_owned(), body.to_owned()).await;
        wrong.expect_refusal(400, "Postrider-Hops", "is not of the form");
    }
    assert_eq!(server.get("/api/v1/events").await.expect(200)["items"], json!([]));

    publish("/api/v1/events", via(1), r#"{"id": "x", "topic": "b.x"}"#.to_owned()).await.expect(202);
    publish("/api/v1/events/batch", via(5), r#"[{"id": "y", "topic": "b.y"}]"#.to_owned()).await.expect(202);
    let (count, names) = hops(&receiver.wait_for(1).await[0]);
    assert_eq!((count, names.len()), (6, 6), "the most of both, and all servers of both: {names:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_loop_is_tried_again_as_any_failure_of_a_receiver_and_no_header_of_a_webhook_can_hide_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = server::settings(folder.path());
    settings.dispatcher.retry_schedule = Schedule::from_seconds(&[0.0]).unwrap();
    let server = TestServer::start_with(settings).await;
    let outside = Forwarder::to(server.address).await;
    republishing(&server, "one", &outside.events(), &server.admin).await;
    server.post("/api/v1/events", EVENT).await.expect(202);
    let ended = deliveries(&server, 1).await;
    assert_eq!((&ended[0]["attempts"], &ended[0]["reason"]), (&json!(2), &json!(LOOP)));
    for name in ["Postrider-Hops", "postrider_hops"] {
        let hiding = json!({"name": "hiding", "url": outside.events(), "topic_patterns": ["t"],
            "headers": {name: "1; via=0000000000000000"}});
        let refused = server.post("/api/v1/webhooks", &hiding.to_string()).await;
        refused.expect_refusal(422, "headers", "is set by Postrider itself");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_circle_through_an_inlet_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let outside = Forwarder::to(server.address).await;
    let inlet = json!({"name": "in", "signature": "none", "topic": "round.again"}).to_string();
    let inlet = server.post("/api/v1/inlets", &inlet).await.expect(201);
    let url = format!("http://{}{}", outside.address, inlet["path"].as_str().unwrap());
    server.webhook("to itself", &url, "round.>").await;
    server.post("/api/v1/events", EVENT).await.expect(202);
    let ended = deliveries(&server, 1).await;
    assert_eq!((&ended[0]["state"], &ended[0]["reason"]), (&json!("dead"), &json!(LOOP)));
    server.stop().await;
}
