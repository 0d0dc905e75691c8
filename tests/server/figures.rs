//! Figures over time: what a server counts, who sees it, and what of it outlives the server.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use postrider::clock::{ManualClock, UnixMicros};
use postrider::engine::figures::{FigureSettings, FiguresKept};
use postrider::engine::retention::RetentionSettings;
use postrider::engine::{Engine, EngineSettings};
use postrider::figures::{Span, Step};
use postrider::serve::ServeSettings;
use postrider::store::figures::FigureOf;
use postrider::webhook::{DEFAULT_TENANT, WebhookPatch};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::engine;
use crate::support::postgres_server::Cluster;
use crate::support::program::{Caller, Program};
use crate::support::receiver::{Answer, TestReceiver};
use crate::support::server::{TestServer, settings};

const DATABASE: &str = "hooks";
/// Longer than a server counts without writing.
const PATIENCE: Duration = Duration::from_secs(40);

/// Accepted, delivered, failed, dead, skipped.
fn counts(figure: &Value) -> [u64; 5] {
    ["accepted", "delivered", "failed", "dead", "skipped"].map(|name| figure[name].as_u64().unwrap())
}

/// The counts of all points together.
fn sum(series: &Value) -> [u64; 5] {
    let points = series["points"].as_array().unwrap();
    points.iter().map(counts).fold([0; 5], |sum, counts| std::array::from_fn(|at| sum[at] + counts[at]))
}

/// A server with a webhook that gets everything and one that gives everything up, after three events.
async fn busy(server: &TestServer, fine: &TestReceiver, refusing: &TestReceiver) -> [String; 2] {
    let fine = server.webhook("fine", &fine.url("/"), "a.>").await["uuid"].as_str().unwrap().to_owned();
    let refusing = json!({
        "name": "refusing", "url": refusing.url("/"), "topic_patterns": ["a.b"], "filter": {"payload": {"n": [1, 2]}},
    });
    let refusing = server.post("/api/v1/webhooks", &refusing.to_string()).await.expect(201);
    for (topic, n) in [("a.b", 1), ("a.b", 2), ("a.b", 3), ("nobody.listens", 4)] {
        let event = json!({"topic": topic, "payload": {"n": n}}).to_string();
        server.post("/api/v1/events", &event).await.expect(202);
    }
    server.wait_for("/api/v1/figures", |series| counts(&series["total"]) == [4, 3, 2, 2, 1]).await;
    [fine, refusing["uuid"].as_str().unwrap().to_owned()]
}

#[tokio::test]
async fn what_happened_is_shown_by_minute_webhook_and_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let fine = TestReceiver::start(|_, _| Answer(200, Duration::from_secs(1))).await;
    let refusing = TestReceiver::start(|_, _| 404.into()).await;
    let [uuid_fine, uuid_refusing] = busy(&server, &fine, &refusing).await;

    let series = server.get("/api/v1/figures").await.expect(200);
    assert_eq!((series["step"].as_str(), sum(&series)), (Some("minute"), [4, 3, 2, 2, 1]));
    let points = series["points"].as_array().unwrap();
    assert!((60..=61).contains(&points.len()), "one for each minute, the empty ones too: {}", points.len());
    assert_eq!((points[0]["at"].clone(), counts(&points[0])), (series["from"].clone(), [0; 5]));
    assert_eq!(
        points[0]["attempts"],
        json!({"count": 0, "p50_ms": null, "p90_ms": null, "p99_ms": null, "p99_9_ms": null})
    );
    let total = &series["total"];
    assert_eq!((&total["attempts"]["count"], &total["deliveries"]["count"]), (&json!(5), &json!(3)));
    let p99_ms = total["deliveries"]["p99_ms"].as_f64().unwrap();
    assert!((500.0..60_000.0).contains(&p99_ms), "the receiver takes a second: {p99_ms}");

    let of = async |query: &str| server.get(&format!("/api/v1/figures?{query}")).await.expect(200);
    assert_eq!(counts(&of(&format!("webhook={uuid_fine}")).await["total"]), [3, 3, 0, 0, 0]);
    assert_eq!(counts(&of(&format!("webhook={uuid_refusing}")).await["total"]), [2, 0, 2, 2, 1]);
    assert_eq!(counts(&of("tenant=*").await["total"]), [4, 3, 2, 2, 1]);
    assert_eq!(counts(&of("tenant=default&step=hour").await["total"]), [4, 3, 2, 2, 1]);
    let days = of("from=2026-01-01T00:00:00Z").await;
    assert_eq!((days["step"].as_str(), sum(&days)), (Some("day"), [4, 3, 2, 2, 1]));
    assert_eq!(sum(&of("from=2026-01-01T00:00:00Z&to=2026-01-01T06:00:00Z").await), [0; 5]);

    for (sort, first) in [("delivered", "fine"), ("failed", "refusing"), ("dead", "refusing"), ("latency", "fine")] {
        let ranks = server.get(&format!("/api/v1/figures/webhooks?sort={sort}&limit=1")).await.expect(200);
        assert_eq!((&ranks["items"][0]["name"], &ranks["sort"]), (&json!(first), &json!(sort)));
        assert_eq!((&ranks["items"][0]["tenant"], &ranks["is_partial"]), (&json!("default"), &json!(false)));
        assert_eq!(ranks["items"].as_array().unwrap().len(), 1);
    }
    let dead = server.get("/api/v1/figures/webhooks?sort=dead&tenant=*").await.expect(200);
    assert_eq!(dead["items"].as_array().unwrap().len(), 1, "the other has none: {dead}");
    assert_eq!((&dead["items"][0]["webhook"], counts(&dead["items"][0])), (&json!(uuid_refusing), [2, 0, 2, 2, 1]));
    server.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_reason() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let limit = "the limit is 1500";
    for (query, field, reason) in [
        ("from=2026-01-02&to=2026-01-01T00:00:00Z", "from", "RFC 3339"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from", "must be before `to`"),
        ("from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from", "must be before `to`"),
        ("step=week", "step", "must be one of `minute`, `hour`, `day`"),
        ("from=2026-01-01T00:00:00Z&to=2026-01-02T01:01:00Z&step=minute", "step", "makes 1501 points"),
        ("from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z&step=hour", "step", limit),
        ("from=0", "from", limit),
        ("webhook=siem", "webhook", "is no UUID"),
        ("webhook=00000000-0000-0000-0000-000000000000&tenant=*", "webhook", "is of one tenant"),
        ("since=1", "since", "is not a parameter"),
    ] {
        server.get(&format!("/api/v1/figures?{query}")).await.expect_refusal(422, field, reason);
    }
    for (query, field, reason) in [
        ("sort=name", "sort", "must be one of `delivered`, `failed`, `dead`, `latency`"),
        ("limit=101", "limit", "must be 1 to 100"),
        ("limit=0", "limit", "must be 1 to 100"),
        ("from=0", "from", limit),
    ] {
        server.get(&format!("/api/v1/figures/webhooks?{query}")).await.expect_refusal(422, field, reason);
    }
    server.get("/api/v1/figures?from=2026-01-01T00:00:00Z&to=2026-01-02T01:00:00Z&step=minute").await.expect(200);
    assert_eq!(server.get("/api/v1/figures?webhook=00000000-0000-0000-0000-000000000000").await.status, 404);
    assert_eq!(server.get("/api/v1/figures?tenant=nobody").await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn a_tenant_sees_its_own_figures_and_an_operator_all() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let webhook = server.webhook("ours", &receiver.url("/"), "a.>").await;
    server.post("/api/v1/tenants", r#"{"name":"blue"}"#).await.expect(201);
    let headers = |token: &str| format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    let operator = format!("{}X-Postrider-Tenant: blue\r\n", headers(&server.admin));
    let scopes = br#"{"name":"t","scopes":["publish","read"]}"#;
    let token = server.request("POST", "/api/v1/tokens", &operator, scopes).await.expect(201);
    let theirs = headers(token["token"].as_str().unwrap());
    server.post("/api/v1/events", r#"{"topic":"a.b"}"#).await.expect(202);
    for _ in 0..2 {
        server.request("POST", "/api/v1/events", &theirs, br#"{"topic":"a.b"}"#).await.expect(202);
    }
    server.wait_for("/api/v1/figures?tenant=*", |series| counts(&series["total"])[..2] == [3, 1]).await;

    let get = async |path: &str, headers: &str| server.request("GET", path, headers, b"").await;
    for (path, headers) in [
        ("/api/v1/figures", &theirs),
        ("/api/v1/figures?tenant=blue", &theirs),
        ("/api/v1/figures", &operator),
        ("/api/v1/figures?tenant=blue", &headers(&server.admin)),
    ] {
        assert_eq!(counts(&get(path, headers).await.expect(200)["total"]), [2, 0, 0, 0, 0], "{path}");
    }
    assert_eq!(counts(&server.get("/api/v1/figures").await.expect(200)["total"]), [1, 1, 0, 0, 0]);
    let ours = webhook["uuid"].as_str().unwrap();
    assert_eq!(get(&format!("/api/v1/figures?webhook={ours}"), &theirs).await.status, 404);
    let ranks = get("/api/v1/figures/webhooks", &theirs).await.expect(200);
    assert_eq!(ranks["items"], json!([]));
    for tenant in ["*", "default", "nobody"] {
        for path in ["/api/v1/figures", "/api/v1/figures/webhooks"] {
            let answer = get(&format!("{path}?tenant={tenant}"), &theirs).await;
            assert_eq!(answer.status, 403, "{path} of {tenant}: {}", answer.body);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn figures_can_be_turned_off() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::healthy().await;
    let off = FigureSettings { is_on: false, flush_interval: Duration::from_millis(10) };
    let server = TestServer::start_with(ServeSettings { figures: off, ..settings(folder.path()) }).await;
    let token = server.admin.clone();
    server.webhook("w", &receiver.url("/"), "a.>").await;
    server.post("/api/v1/events", r#"{"topic":"a.b"}"#).await.expect(202);
    server.wait_for("/api/v1/stats", |stats| stats["delivered"] == 1).await;
    // The stop would write what was counted.
    server.stop().await;
    let server = TestServer::start(folder.path()).await;
    let series = server.call("GET", "/api/v1/figures", &token, "").await.expect(200);
    assert_eq!(sum(&series), [0; 5]);
    server.stop().await;
}

/// Hours are made, and minutes go that are not kept, while a day passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_makes_hours_and_days_and_forgets_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(UnixMicros(1_790_000_000_000_000)));
    let from = Step::Day.floor(UnixMicros(1_790_000_000_000_000));
    let figures = FiguresKept { minutes: Some(Duration::ZERO), hours: Some(Duration::ZERO), days: None };
    let retention = RetentionSettings { figures, interval: Duration::from_millis(20), ..RetentionSettings::FOREVER };
    let flush_interval = Duration::from_millis(20);
    let settings = EngineSettings {
        retention,
        figures: FigureSettings { is_on: true, flush_interval },
        ..engine::settings().into()
    };
    let engine = engine::start_at(folder.path(), settings, Arc::clone(&clock) as _).await;
    let receiver = TestReceiver::healthy().await;
    let patch = WebhookPatch {
        name: Some("w".to_owned()),
        url: Some(receiver.url("/")),
        topic_patterns: Some(vec!["a.>".to_owned()]),
        ..WebhookPatch::default()
    };
    let webhook = engine.create_webhook(DEFAULT_TENANT, patch).await.unwrap();
    engine::publish(&engine, "a.b", 3).await;
    let of = FigureOf { tenant: DEFAULT_TENANT, webhook: webhook.seq };
    let delivered = async |step: Step| {
        let span = Span { step, from, to: UnixMicros(from.0 + 3 * Step::Day.length_us()) };
        engine.store().figures(of, span).await.unwrap().values().map(|figure| figure.delivered).sum::<u64>()
    };
    wait(async || delivered(Step::Minute).await == 3).await;
    clock.advance(Duration::from_hours(2));
    confirm_clock(&engine).await;
    wait(async || delivered(Step::Minute).await == 0).await;
    assert_eq!((delivered(Step::Hour).await, delivered(Step::Day).await), (3, 3), "the hour has them");
    clock.advance(Duration::from_hours(24));
    confirm_clock(&engine).await;
    wait(async || delivered(Step::Hour).await == 0).await;
    assert_eq!(delivered(Step::Day).await, 3, "so has the day, though nothing more happened");
    engine::publish(&engine, "a.b", 4).await;
    wait(async || delivered(Step::Minute).await == 4).await;
    clock.advance(Duration::from_hours(2));
    confirm_clock(&engine).await;
    wait(async || delivered(Step::Minute).await == 0).await;
    assert_eq!(
        (delivered(Step::Hour).await, delivered(Step::Day).await),
        (4, 7),
        "a day that has not ended has its hours"
    );
    engine.drain(Duration::from_secs(5)).await;
}

async fn wait(is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it becomes so in time");
}

/// Waits until the clock's jump is noticed, and says that it is right.
async fn confirm_clock(engine: &Engine) {
    wait(async || engine.is_clock_doubted()).await;
    assert!(engine.confirm_clock(DEFAULT_TENANT).await.unwrap());
}

// --- what outlives a server ---

async fn publish(caller: &Caller, count: usize) {
    let events: Vec<Value> = (0..count).map(|n| json!({"topic": "a.b", "payload": {"n": n}})).collect();
    let (status, answer) = caller.call(Method::POST, "/api/v1/events/batch", &Value::from(events)).await;
    assert_eq!(status, 202, "{answer}");
}

async fn figures(caller: &Caller) -> [u64; 5] {
    let (status, series) = caller.get("/api/v1/figures").await;
    assert_eq!(status, 200, "{series}");
    assert_eq!(sum(&series), counts(&series["total"]));
    counts(&series["total"])
}

async fn delivered(caller: &Caller, count: u64) {
    wait(async || caller.get("/api/v1/stats").await.1["delivered"] == count).await;
}

async fn subscribe(caller: &Caller, name: &str, receiver: &TestReceiver) {
    let webhook = json!({"name": name, "url": receiver.url("/"), "topic_patterns": ["a.>"]});
    assert_eq!(caller.call(Method::POST, "/api/v1/webhooks", &webhook).await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_survives_a_crash_and_a_stop_writes_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::healthy().await;
    let server = Program::start(folder.path(), &["--log", "warn"], Stdio::inherit());
    subscribe(&server.caller, "w", &receiver).await;
    publish(&server.caller, 7).await;
    let all = [7, 7, 0, 0, 0];
    wait(async || figures(&server.caller).await == all).await;
    server.kill();

    let mut server = Program::start(folder.path(), &["--log", "warn"], Stdio::inherit());
    assert_eq!(figures(&server.caller).await, all);
    publish(&server.caller, 5).await;
    delivered(&server.caller, 12).await;
    server.signal(Signal::TERM);
    assert!(server.child.wait().unwrap().success());

    let server = Program::start(folder.path(), &["--log", "warn"], Stdio::inherit());
    assert_eq!(figures(&server.caller).await, [12, 12, 0, 0, 0], "in the same rows, added up");
    server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_of_two_nodes_add_up() {
    let (cluster, folder) = (Cluster::with_database(DATABASE).await, tempfile::tempdir().unwrap());
    let store = cluster.url(DATABASE);
    let receiver = TestReceiver::healthy().await;
    let options = ["--store", &store, "--lease", "2s", "--log", "warn"];
    let first = Program::start(folder.path(), &options, Stdio::inherit());
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join("data")).unwrap();
    std::fs::copy(folder.path().join("data/master.key"), other.path().join("data/master.key")).unwrap();
    let second = Program::start(other.path(), &options, Stdio::inherit());
    // Enough that both nodes own some.
    let webhooks = 8;
    for number in 0..webhooks {
        subscribe(&first.caller, &format!("w{number}"), &receiver).await;
    }
    for caller in [&first.caller, &second.caller] {
        publish(caller, 5).await;
    }
    let all = [10, 10 * webhooks, 0, 0, 0];
    for caller in [&first.caller, &second.caller] {
        wait(async || figures(caller).await == all).await;
    }
    let writers = "SELECT count(DISTINCT node) FROM figure WHERE step = 0 AND tenant = 0 AND accepted > 0";
    let writers: i64 = cluster.connect(DATABASE).await.query_one(writers, &[]).await.unwrap().get(0);
    assert_eq!(writers, 2, "each has its own rows");
    second.kill();
    assert_eq!(figures(&first.caller).await, all, "of a node that has gone, too");
}
