//! What one node has answered, the others know.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::cluster::nodes::{self, DATABASE, LEASE};
use crate::cluster::{PATIENCE, under_load, until};
use crate::support::postgres_server::Cluster;
use crate::support::program::Caller;
use crate::support::receiver::{Answer, TestReceiver};

const ROUNDS: usize = 60;
const SWITCHED_OFF: usize = 20;
const BACKLOG: usize = 300;

async fn receiver() -> TestReceiver {
    TestReceiver::start(|_, _| Answer(200, Duration::ZERO)).await
}

async fn create(caller: &Caller, name: &str, url: &str) -> String {
    let webhook = json!({"name": name, "url": url, "topic_patterns": [name], "max_in_flight": 1});
    let (status, answer) = caller.call(Method::POST, "/api/v1/webhooks", &webhook).await;
    assert_eq!(status, 201, "{answer}");
    answer["uuid"].as_str().unwrap().to_owned()
}

async fn patch(caller: &Caller, path: &str, change: &Value) {
    let (status, answer) = caller.call(Method::PATCH, path, change).await;
    assert_eq!(status, 200, "{answer}");
}

async fn publish(caller: &Caller, id: &str, topic: &str) -> Value {
    let event = json!({"id": id, "topic": topic, "type": "t", "payload": {}});
    let (status, answer) = caller.call(Method::POST, "/api/v1/events", &event).await;
    assert_eq!(status, 202, "{answer}");
    answer["deliveries"].clone()
}

async fn nothing_pends(cluster: &Cluster) {
    let client = cluster.connect(DATABASE).await;
    until("nothing is pending", PATIENCE, async || {
        client.query_one("SELECT count(*) FROM pending", &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_at_another_node_right_after_the_answer_goes_to_the_new_webhook() {
    let receiver = receiver().await;
    let (cluster, nodes) = nodes::start(2, &receiver).await;
    let (one, two) = (nodes.caller(0), nodes.caller(1));
    let (mut missed, mut waited) = (0, Duration::ZERO);
    for n in 0..ROUNDS {
        let name = format!("new.n{n}");
        let began = Instant::now();
        create(&one, &name, &receiver.url("/new")).await;
        waited += began.elapsed();
        missed += usize::from(publish(&two, &format!("e-{n}"), &name).await != 1);
    }
    println!("{:?} for a new webhook, with two nodes", waited / u32::try_from(ROUNDS).unwrap());
    assert_eq!(missed, 0, "of {ROUNDS} events right after the answer");
    nothing_pends(&cluster).await;
    let arrived: BTreeSet<String> =
        receiver.received().iter().map(crate::support::receiver::Received::event_id).collect();
    assert_eq!(arrived.len(), ROUNDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_out_to_a_webhook_once_another_node_has_answered_that_it_is_off() {
    let receiver = receiver().await;
    let (cluster, nodes) = nodes::start(2, &receiver).await;
    let (one, two) = (nodes.caller(0), nodes.caller(1));
    for n in 0..SWITCHED_OFF {
        let name = format!("off.n{n}");
        let uuid = create(&one, &name, &receiver.url("/off")).await;
        assert_eq!(publish(&two, &format!("before-{n}"), &name).await, 1);
        patch(&one, &format!("/api/v1/webhooks/{uuid}"), &json!({"enabled": false})).await;
        publish(&two, &format!("after-{n}"), &name).await;
        publish(&one, &format!("late-{n}"), &name).await;
    }
    // Whatever would go out goes out at once.
    under_load(Duration::from_millis(500)).await;
    let sent: Vec<String> = receiver
        .received()
        .iter()
        .map(crate::support::receiver::Received::event_id)
        .filter(|id| !id.starts_with("before"))
        .collect();
    assert!(sent.is_empty(), "sent to webhooks that were off: {sent:?}");
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_begins_after_another_node_has_answered_that_the_webhook_is_off() {
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(2))).await;
    let (cluster, nodes) = nodes::start(2, &receiver).await;
    // Of each node some webhooks, each with a backlog, switched off at the node that does not own it.
    for (owner, other) in [(0, 1), (1, 0)] {
        let owned = nodes.webhooks_of(&cluster, owner).await;
        let webhooks = nodes.caller(0).get("/api/v1/webhooks").await.1;
        for name in owned.iter().take(4) {
            let found = webhooks.as_array().unwrap().iter().find(|webhook| webhook["name"] == **name).unwrap();
            let path = format!("/api/v1/webhooks/{}", found["uuid"].as_str().unwrap());
            patch(&nodes.caller(owner), &path, &json!({"max_in_flight": 1})).await;
            let topic = format!("load.{name}");
            let event = |n: usize| json!({"id": format!("{n}.{name}"), "topic": topic, "payload": {}});
            let events = Value::from((0..BACKLOG).map(event).collect::<Vec<_>>());
            let (status, answer) = nodes.caller(owner).call(Method::POST, "/api/v1/events/batch", &events).await;
            assert_eq!(status, 202, "{answer}");
            let before = receiver.received_count();
            until("it delivers", PATIENCE, async || receiver.received_count() > before).await;
            patch(&nodes.caller(other), &path, &json!({"enabled": false})).await;
            let answered = Instant::now();
            under_load(Duration::from_millis(100)).await;
            let is_late =
                |received: &&crate::support::receiver::Received| received.path[1..] == **name && received.at > answered;
            let late = receiver.received().iter().filter(is_late).count();
            assert!(late <= 1, "{late} attempts of {name} after the answer, and one may have been under way");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_one_node_has_revoked_is_refused_by_the_others_at_once() {
    let receiver = receiver().await;
    let (_cluster, nodes) = nodes::start(3, &receiver).await;
    for n in 0..10 {
        let token = json!({"name": "t", "scopes": ["publish", "read"]});
        let (status, made) = nodes.caller(0).call(Method::POST, "/api/v1/tokens", &token).await;
        assert_eq!(status, 201, "{made}");
        let (uuid, token) = (made["uuid"].as_str().unwrap(), made["token"].as_str().unwrap());
        let bearer = format!("Bearer {token}");
        let statuses = async || {
            let mut statuses = Vec::new();
            for place in 0..3 {
                let event = json!({"id": format!("e-{n}-{place}"), "topic": "a.b", "payload": {}});
                for (method, path, body) in
                    [(Method::POST, "/api/v1/events", &event), (Method::GET, "/api/v1/webhooks", &Value::Null)]
                {
                    let headers = [("authorization", &*bearer)];
                    let answer = nodes.caller(place).try_call_with(method, path, &headers, body).await.unwrap();
                    statuses.push(answer.status().as_u16());
                }
            }
            statuses
        };
        assert_eq!(statuses().await, [202, 200, 202, 200, 202, 200]);
        let revoked = nodes.caller(n % 3).call(Method::DELETE, &format!("/api/v1/tokens/{uuid}"), &Value::Null).await;
        assert_eq!(revoked.0, 200, "{revoked:?}");
        assert_eq!(statuses().await, [401; 6]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_quotas_that_one_node_has_answered_hold_at_the_others() {
    let receiver = receiver().await;
    let (_cluster, nodes) = nodes::start(2, &receiver).await;
    let (one, two) = (nodes.caller(0), nodes.caller(1));
    for n in 0..20 {
        let (name, path) = (format!("t{n}"), format!("/api/v1/tenants/t{n}"));
        let made = one.call(Method::POST, "/api/v1/tenants", &json!({"name": name})).await;
        assert_eq!(made.0, 201, "{made:?}");
        let bearer = format!("Bearer {}", crate::support::program::TOKEN);
        let headers = [("authorization", &*bearer), ("x-postrider-tenant", &*name)];
        let event = |n: usize| json!({"id": format!("e-{n}"), "topic": "a.b", "payload": {}});
        let batch = Value::from((0..3).map(event).collect::<Vec<_>>());
        let publish = async || {
            let answer = two.try_call_with(Method::POST, "/api/v1/events/batch", &headers, &batch).await.unwrap();
            answer.status().as_u16()
        };
        assert_eq!(publish().await, 202);
        patch(&one, &path, &json!({"quotas": {"max_events_per_s": 1}})).await;
        assert_eq!(publish().await, 429);
    }
}

/// A node that does not come back is waited for as long as it may still act; one that was stopped does not go on with what
/// it knew.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_is_waited_for_until_its_lease_is_over_and_then_knows() {
    let receiver = receiver().await;
    let (_cluster, mut nodes) = nodes::start(3, &receiver).await;
    let began = Instant::now();
    nodes.pause(2);
    create(&nodes.caller(0), "new.late", &receiver.url("/new")).await;
    assert!(began.elapsed() < LEASE * 4, "{:?}", began.elapsed());
    nodes.resume(2);
    assert_eq!(publish(&nodes.caller(2), "e-1", "new.late").await, 1);
}
