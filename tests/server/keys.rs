//! Keys end to end: rotation while deliveries flow, under a clock that is set, and over restarts; the master key;
//! `sign` and `verify`. What counts is what a receiver with one of the keys can verify.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider::clock::{Clock, ManualClock, SystemClock, UnixMicros};
use postrider::delivery::client::{Client, ClientOptions};
use postrider::delivery::guard::EgressPolicy;
use postrider::engine::{Engine, GivenKeys};
use postrider::event::Event;
use postrider::signing::{
    DEFAULT_OVERLAP, DEFAULT_TOLERANCE_S, Ed25519PublicKey, MAX_OVERLAP, Secret, StandardKey, header, verify_decnet,
    verify_ed25519, verify_standard,
};
use postrider::store::Store;
use postrider::store::seal::MasterKey;
use postrider::store::sqlite::{SqliteOptions, SqliteStore};
use postrider::topic::Topic;
use postrider::webhook::{DEFAULT_TENANT, WebhookPatch};
use serde_json::{Value, json};

use crate::support::receiver::{Answer, Received, TestReceiver};
use crate::support::server;
use crate::support::server::{TestServer, settings};

const WEBHOOKS: &str = "/api/v1/webhooks";
const EVENTS: &str = "/api/v1/events";
const HOUR: Duration = Duration::from_hours(1);

/// What a receiver knows: the keys of one generation.
struct Known {
    secret: Secret,
    standard: StandardKey,
    public: Ed25519PublicKey,
}

impl Known {
    /// From the answer to a creation or a rotation.
    fn from(answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().unwrap();
        Self {
            secret: Secret::parse(text("secret")).unwrap(),
            standard: StandardKey::parse(text("standard_secret")).unwrap(),
            public: Ed25519PublicKey::parse(text("public_key")).unwrap(),
        }
    }

    /// How many of the three signatures verify.
    fn verified(&self, request: &Received) -> usize {
        self.verified_at(request, SystemClock.now())
    }

    fn verified_at(&self, request: &Received, now: UnixMicros) -> usize {
        let (headers, body) = (&request.headers, &request.body);
        let results = [
            verify_decnet(&self.secret, headers, body),
            verify_standard(&self.standard, headers, body, now, DEFAULT_TOLERANCE_S),
            verify_ed25519(&self.public, headers, body, now, DEFAULT_TOLERANCE_S),
        ];
        results.iter().filter(|result| result.is_ok()).count()
    }
}

/// How many generations of keys have signed.
fn generations(request: &Received) -> usize {
    let signatures = request.header("webhook-signature").split(' ').count();
    assert_eq!(signatures % 2, 0, "one of each version: {}", request.header("webhook-signature"));
    assert_eq!(request.headers.contains_key(header::DECNET_SIGNATURE_PREVIOUS), signatures > 2);
    signatures / 2
}

async fn webhook(server: &TestServer, url: &str) -> Value {
    let body = json!({
        "name": "siem", "url": url, "topic_patterns": [">"], "signatures": ["decnet", "standard", "ed25519"],
        "retry_schedule": [0.05, 0.05],
    });
    server.post(WEBHOOKS, &body.to_string()).await.expect(201)
}

async fn rotate(server: &TestServer, webhook: &Value, body: &str) -> server::Answer {
    let uuid = webhook["uuid"].as_str().unwrap();
    server.post(&format!("{WEBHOOKS}/{uuid}/rotate-secret"), body).await
}

async fn publish(server: &TestServer, id: &str) {
    server.post(EVENTS, &json!({"topic": "a.b", "id": id}).to_string()).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_with_the_old_or_the_new_keys_verify_all_while_deliveries_flow() {
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(TestServer::start(folder.path()).await);
    let receiver = TestReceiver::start(|_, _| Answer(200, Duration::from_millis(2))).await;
    let webhook = webhook(&server, &receiver.url("/")).await;
    let old = Known::from(&webhook);

    let stop = Arc::new(AtomicBool::new(false));
    let publishing = {
        let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                publish(&server, &format!("flow-{count}")).await;
                count += 1;
            }
            count
        })
    };
    receiver.wait_for(20).await;
    let rotated = rotate(&server, &webhook, "").await.expect(200);
    let new = Known::from(&rotated);
    publish(&server, "after").await;
    let seen = receiver.received_count();
    receiver.wait_for(seen + 30).await;
    stop.store(true, Ordering::Relaxed);
    let count = publishing.await.unwrap() + 1;
    let requests = receiver.wait_for(count).await;

    let (before, after): (Vec<_>, Vec<_>) = requests.iter().partition(|request| generations(request) == 1);
    assert!(before.len() >= 20 && after.len() >= 30, "{} before, {} after", before.len(), after.len());
    assert!(after.iter().any(|request| request.event_id() == "after"));
    for request in &requests {
        assert_eq!(old.verified(request), 3, "the old keys: {:?}", request.headers);
    }
    for request in after {
        assert_eq!((generations(request), new.verified(request)), (2, 3), "the new keys: {:?}", request.headers);
    }
    for request in before {
        assert_eq!(new.verified(request), 0);
    }
    Arc::try_unwrap(server).ok().unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_under_way_ends_with_its_keys_and_the_next_has_the_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let receiver = TestReceiver::start(|n, _| match n {
        0 => Answer(503, Duration::from_millis(500)),
        _ => 200.into(),
    })
    .await;
    let webhook = webhook(&server, &receiver.url("/")).await;
    publish(&server, "one").await;
    receiver.wait_for(1).await;
    let rotated = rotate(&server, &webhook, r#"{"overlap_s": 3600}"#).await.expect(200);
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"), "the same delivery");
    assert_eq!((generations(&requests[0]), generations(&requests[1])), (1, 2));
    for known in [Known::from(&webhook), Known::from(&rotated)] {
        assert_eq!(known.verified(&requests[1]), 3);
    }
    server.wait_for("/api/v1/stats", |stats| stats["delivered"] == 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::healthy().await;
    let server = TestServer::start(folder.path()).await;
    let webhook = webhook(&server, &receiver.url("/")).await;
    let mut known = vec![Known::from(&webhook)];
    for _ in 0..2 {
        known.push(Known::from(&rotate(&server, &webhook, "{}").await.expect(200)));
    }
    let admin = server.admin.clone();
    server.stop().await;

    let mut server = TestServer::start(folder.path()).await;
    server.admin = admin;
    publish(&server, "one").await;
    let request = &receiver.wait_for(1).await[0];
    assert_eq!(generations(request), 3);
    // Of three secrets the two newest have a header.
    let verified: Vec<_> = known.iter().map(|known| known.verified(request)).collect();
    assert_eq!(verified, [2, 3, 3]);
    server.stop().await;
}

#[tokio::test]
async fn the_api_shows_generations_without_their_secrets_and_refuses_what_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let webhook = webhook(&server, "http://127.0.0.1:8123/").await;
    let uuid = webhook["uuid"].as_str().unwrap();
    assert_eq!(webhook["keys"].as_array().unwrap().len(), 1);
    assert_eq!(webhook["keys"][0]["valid_until"], Value::Null);
    assert_eq!(webhook["keys"][0]["created_at"], webhook["created_at"]);

    let given = json!({"overlap_s": 60, "secret": "a secret of my own choice", "standard_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
    let rotated = rotate(&server, &webhook, &given.to_string()).await.expect(200);
    assert_eq!((&rotated["secret"], &rotated["standard_secret"]), (&given["secret"], &given["standard_secret"]));
    let shown = server.get(&format!("{WEBHOOKS}/{uuid}")).await;
    for secret in ["secret", "standard_secret"] {
        for answer in [&webhook, &rotated] {
            assert!(!shown.body.contains(answer[secret].as_str().unwrap()));
        }
    }
    let shown = shown.expect(200);
    assert_eq!(shown["keys"], rotated["keys"]);
    assert_eq!(shown["keys"][0]["public_key"], rotated["public_key"]);
    assert_eq!(shown["keys"][1]["public_key"], webhook["public_key"]);
    assert_eq!(shown["keys"][1]["valid_until"], rotated["previous_valid_until"]);

    rotate(&server, &webhook, r#"{"overlap_s": 604801}"#).await.expect_refusal(422, "overlap_s", "7 days");
    rotate(&server, &webhook, r#"{"secret": "short"}"#).await.expect_refusal(422, "secret", "16 to 256");
    rotate(&server, &webhook, r#"{"standard_secret": "x"}"#).await.expect_refusal(422, "standard_secret", "whsec_");
    rotate(&server, &webhook, &given.to_string()).await.expect_refusal(422, "secret", "leave it out");
    rotate(&server, &webhook, r#"{"overlap": 1}"#).await.expect_refusal(422, "overlap", "unknown field");
    rotate(&server, &json!({"uuid": uuid::Uuid::nil()}), "").await.expect(404);
    let token = server.token(r#"["read", "publish"]"#).await;
    server.call("POST", &format!("{WEBHOOKS}/{uuid}/rotate-secret"), &token, "").await.expect(403);

    for _ in 0..2 {
        rotate(&server, &webhook, r#"{"overlap_s": 604800}"#).await.expect(200);
    }
    let refused = rotate(&server, &webhook, "").await.expect(409);
    assert_eq!(refused["type"], "urn:postrider:problem:too-many-keys");
    assert!(refused["detail"].as_str().unwrap().contains(rotated["previous_valid_until"].as_str().unwrap()));
    let ended = rotate(&server, &webhook, r#"{"overlap_s": 0}"#).await.expect(200);
    assert_eq!((&ended["previous_valid_until"], ended["keys"].as_array().unwrap().len()), (&Value::Null, 1));
    server.stop().await;
}

#[tokio::test]
async fn the_key_pair_is_made_when_it_is_first_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let webhook = server.webhook("plain", "http://127.0.0.1:8123/", "a.b").await;
    assert_eq!((&webhook["public_key"], &webhook["keys"][0]["public_key"]), (&Value::Null, &Value::Null));
    let route = format!("{WEBHOOKS}/{}", webhook["uuid"].as_str().unwrap());
    let patch = |body: &'static str| server.call("PATCH", &route, &server.admin, body);
    let changed = patch(r#"{"signatures": ["ed25519"]}"#).await.expect(200);
    let public = changed["keys"][0]["public_key"].clone();
    assert!(public.as_str().unwrap().starts_with("whpk_"));
    // Not made anew by the next change, nor lost when it is not asked for.
    patch(r#"{"signatures": ["decnet"]}"#).await.expect(200);
    assert_eq!(patch(r#"{"signatures": ["ed25519"]}"#).await.expect(200)["keys"][0]["public_key"], public);
    patch(r#"{"signatures": ["rsa"]}"#).await.expect_refusal(422, "signatures", "ed25519");
    server.stop().await;
}

// --- the clock ---

async fn engine(folder: &Path, clock: &Arc<ManualClock>) -> Arc<Engine> {
    let store = SqliteStore::open(folder, &MasterKey::new([3; 32]), SqliteOptions::default()).unwrap();
    let policy = EgressPolicy { allow_all_private: true, ..EgressPolicy::default() };
    let client = Client::new(ClientOptions { policy, ..ClientOptions::default() }).unwrap();
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    Engine::start(Arc::new(store), client, clock, settings(folder).dispatcher).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn which_keys_sign_is_up_to_the_clock_of_the_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let start = UnixMicros(1_790_000_000_000_000);
    let clock = Arc::new(ManualClock::at(start));
    let engine = engine(folder.path(), &clock).await;
    let receiver = TestReceiver::healthy().await;
    let patch = WebhookPatch {
        name: Some("siem".to_owned()),
        url: Some(receiver.url("/")),
        topic_patterns: Some(vec![">".to_owned()]),
        signatures: Some(["decnet", "standard", "ed25519"].map(Into::into).to_vec()),
        ..WebhookPatch::default()
    };
    let webhook = engine.create_webhook(DEFAULT_TENANT, patch).await.unwrap();
    let old = &webhook.settings.receiver.keys;
    let rotated = |overlap| engine.rotate_keys(DEFAULT_TENANT, webhook.uuid, GivenKeys::default(), overlap);
    rotated(DEFAULT_OVERLAP).await.unwrap();

    let mut sent = 0;
    let mut deliver_at = async |now: UnixMicros| {
        clock.set(now);
        let event = Event::new(Topic::parse("a.b").unwrap(), "", "{}", now).unwrap();
        engine.publish(DEFAULT_TENANT, vec![event]).await.unwrap();
        sent += 1;
        receiver.wait_for(sent).await.pop().unwrap()
    };
    let (end, ten_years) = (start.after(DEFAULT_OVERLAP), Duration::from_hours(24 * 3_653));
    for (now, expected) in [
        (UnixMicros(end.0 - 1), 2),
        (end, 1),
        // An hour back: the old keys sign again.
        (UnixMicros(end.0 - 3_600_000_000), 2),
        // Ten years forward: they have ended.
        (start.after(ten_years), 1),
        (start, 2),
    ] {
        let request = deliver_at(now).await;
        assert_eq!(generations(&request), expected, "at {now}");
        let known = Known {
            secret: old.decnet.clone(),
            standard: old.standard.clone(),
            public: old.ed25519.as_ref().unwrap().public(),
        };
        assert_eq!(known.verified_at(&request, now), if expected == 2 { 3 } else { 0 }, "at {now}");
    }
    // A rotation ten years ahead; then the clock is set right: the next rotation cuts that overlap to a week.
    clock.set(start.after(ten_years));
    rotated(HOUR).await.unwrap();
    clock.set(start);
    let record = rotated(HOUR).await.unwrap();
    let untils: Vec<_> = record.settings.receiver.keys.older.iter().map(|keys| keys.until).collect();
    assert_eq!(untils, [start.after(HOUR), start.after(MAX_OVERLAP)]);
    assert_eq!(engine.drain(Duration::from_secs(10)).await, 0);
}

// --- commands ---

fn postrider(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

#[track_caller]
fn run(mut command: Command, code: i32) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, notes) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{out}{notes}");
    out + &notes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_rotated_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(folder.path()).await;
    let created = webhook(&server, "http://127.0.0.1:8123/").await;
    let command = |arguments: &[&str]| {
        let mut command = postrider(folder.path(), arguments);
        command.env("POSTRIDER_SERVER", format!("http://{}", server.address)).env("POSTRIDER_TOKEN", &server.admin);
        command
    };
    let mut given = command(&["webhook", "rotate-secret", "siem", "--overlap", "2h", "--json"]);
    given.env("POSTRIDER_SECRET", "a secret from outside");
    let rotated: Value = serde_json::from_str(&run(given, 0)).unwrap();
    assert_eq!(rotated["secret"], "a secret from outside");
    assert_ne!(rotated["standard_secret"], created["standard_secret"]);

    let printed = run(command(&["webhook", "rotate-secret", "siem"]), 0);
    assert!(printed.contains("whsec_") && printed.contains("whpk_") && printed.contains("old keys until"), "{printed}");
    let printed = run(command(&["webhook", "show", "siem"]), 0);
    assert_eq!(printed.matches("whpk_").count(), 3, "{printed}");
    let printed = run(command(&["webhook", "rotate-secret", "siem", "--overlap", "0s"]), 0);
    assert!(printed.contains("do not sign any more") && !printed.contains("old keys until"), "{printed}");
    let printed = run(command(&["webhook", "rotate-secret", "siem", "--overlap", "8d"]), 1);
    assert!(printed.contains("at most 7 days"), "{printed}");
    run(command(&["webhook", "rotate-secret", "siem", "--overlap", "1500ms"]), 2);
    server.stop().await;
}

#[test]
fn what_sign_makes_verify_confirms_and_explains() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let body = folder.join("body.json");
    std::fs::write(&body, r#"{"b":1,"a":"it's"}"#).unwrap();
    let pair = postrider::signing::Ed25519Key::generate();
    let (secret, key) = (Secret::generate(), StandardKey::generate());
    let sign = |more: &[&str]| {
        let mut command = postrider(folder, &["sign", "body.json"]);
        command.args(more).env("POSTRIDER_SECRET", secret.expose());
        command.env("POSTRIDER_STANDARD_SECRET", &*key.expose()).env("POSTRIDER_PRIVATE_KEY", &*pair.expose());
        command
    };
    std::fs::write(folder.join("headers"), run(sign(&[]), 0)).unwrap();
    let verify = |more: &[&str]| {
        let mut command = postrider(folder, &["verify", "body.json", "--headers", "headers"]);
        command.args(more).env("POSTRIDER_SECRET", secret.expose());
        command.env("POSTRIDER_STANDARD_SECRET", &*key.expose());
        command.env("POSTRIDER_PUBLIC_KEY", pair.public().to_string());
        command
    };
    assert_eq!(run(verify(&[]), 0), "✓ decnet\n✓ standard\n✓ ed25519\n");
    let seen: Value = serde_json::from_str(&run(verify(&["--json"]), 0)).unwrap();
    assert_eq!((&seen["verified"], &seen["signatures"]["ed25519"]["key"]), (&json!(true), &json!("newest")));

    // One that matches is enough for the exit code.
    let printed = run(verify(&["--secret", "another secret than that"]), 0);
    assert!(printed.starts_with("✗ decnet\n  other key: ") && printed.contains("✓ standard"), "{printed}");
    std::fs::write(&body, "{\"a\": \"it's\", \"b\": 1}\n").unwrap();
    let printed = run(verify(&["--tolerance", "1h"]), 1);
    assert!(printed.contains("✗ ed25519"), "{printed}");
    std::fs::write(&body, "{\"b\": 1, \"a\": \"it's\"}\n").unwrap();
    let seen: Value = serde_json::from_str(&run(verify(&["--json"]), 1)).unwrap();
    assert_eq!(seen["verified"], false);
    for scheme in ["decnet", "standard", "ed25519"] {
        assert_eq!(seen["signatures"][scheme]["causes"][0]["kind"], "body", "{seen}");
    }

    let signed: Value = serde_json::from_str(&run(sign(&["--json", "--id", "msg_1", "--timestamp", "7"]), 0)).unwrap();
    assert_eq!((&signed["webhook-id"], &signed["webhook-timestamp"]), (&json!("msg_1"), &json!("7")));
    assert_eq!(signed["webhook-signature"].as_str().unwrap().split(' ').count(), 2);

    for (command, reason) in [
        (postrider(folder, &["sign", "body.json"]), "nothing to sign with"),
        (postrider(folder, &["verify", "body.json"]), "nothing to verify with"),
        (sign(&["--id", "a b"]), "visible ASCII"),
        (sign(&["--private-key", "whpk_x"]), "does not begin with whsk_"),
        (sign(&["--curl", "http://a", "--json"]), "exclude each other"),
        (verify(&["-H", "nonsense"]), "is no header"),
        (postrider(folder, &["verify", "--headers", "-", "--secret", "0123456789abcdef"]), "standard input"),
    ] {
        let printed = run(command, 2);
        assert!(printed.contains(reason), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_curl_command_of_sign_delivers_what_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = TestReceiver::healthy().await;
    let secret = Secret::generate();
    // Line breaks that a curl without --data-binary takes out, and a name that a shell takes apart.
    std::fs::write(folder.path().join("it's a body"), "{\n\"a\": 1\n}\n").unwrap();
    let mut sign = postrider(folder.path(), &["sign", "it's a body", "--curl", &receiver.url("/hook?a=1&b=2")]);
    let command = run(std::mem::replace(sign.env("POSTRIDER_SECRET", secret.expose()), Command::new("true")), 0);
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).current_dir(folder.path());
    let output = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
    let request = &receiver.wait_for(1).await[0];
    assert_eq!(verify_decnet(&secret, &request.headers, &request.body), Ok(()));
}

/// The commands of a document, one after the other, print what it says.
#[test]
fn the_documents_on_keys_and_signatures_are_true() {
    for (document, least) in [(include_str!("../../docs/keys.md"), 7), (include_str!("../../docs/signatures.md"), 4)] {
        is_true(document, least);
    }
}

fn is_true(document: &str, least: usize) {
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_postrider")).parent().unwrap();
    let blocks = document.split("```console\n").skip(1).map(|rest| rest.split("```\n").next().unwrap());
    let lines: Vec<&str> = blocks.flat_map(str::lines).collect();
    let script = lines.iter().filter_map(|line| line.strip_prefix("$ ")).collect::<Vec<_>>();
    assert!(script.len() >= least, "{script:?}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script.join("\n")]).current_dir(folder.path()).stdin(Stdio::null());
    shell.env_clear().env("PATH", format!("{}:/usr/bin:/bin", program.display()));
    let output = shell.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let expected: Vec<&str> = lines.into_iter().filter(|line| !line.starts_with("$ ")).collect();
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn other_senders_requests_are_signed_and_verified_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("body"), "{}").unwrap();
    let run = |arguments: &[&str], secret: Option<&str>| {
        let mut command = postrider(folder.path(), arguments);
        if let Some(secret) = secret {
            command.env("POSTRIDER_SECRET", secret);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let own = r#"{"name": "acme", "header": "X-Acme", "content": "{method} {path} {body}"}"#;
    let sign = ["--json", "sign", "body", "--profile", own, "--method", "PUT", "--path", "/a?b=1"];
    let (code, signed, _) = run(&sign, Some("short"));
    let signed: Value = serde_json::from_str(&signed).unwrap();
    assert_eq!(code, 0);
    let header = format!("X-Acme: {}", signed["X-Acme"].as_str().unwrap());
    let verify = |path: &str, secret| {
        let arguments =
            ["--json", "verify", "body", "-H", &header, "--profile", own, "--method", "PUT", "--path", path];
        let (code, printed, _) = run(&arguments, Some(secret));
        (code, serde_json::from_str::<Value>(&printed).unwrap())
    };
    let good = json!({"verified": true, "signatures": {"acme": {"ok": true, "key": "newest"}}});
    assert_eq!(verify("/a?b=1", "short"), (0, good));
    for (path, secret) in [("/a", "short"), ("/a?b=1", "other")] {
        let (code, found) = verify(path, secret);
        assert_eq!((code, &found["signatures"]["acme"]["causes"][0]["kind"]), (1, &json!("key")));
    }
    for (arguments, secret, expected) in [
        (
            &["verify", "body", "--profile", "strype"][..],
            Some("x"),
            "there are decnet, standard, ed25519, svix, github",
        ),
        (&["verify", "body", "--profile", "{}"], Some("x"), "missing field `name`"),
        (&["verify", "body", "--profile", "stripe"], None, "nothing to verify stripe with: set POSTRIDER_SECRET"),
        (
            &["verify", "body", "--profile", "svix"],
            Some("x"),
            "nothing to verify svix with: set POSTRIDER_STANDARD_SECRET",
        ),
        (&["sign", "body", "--profile", "svix"], Some("x"), "nothing to sign svix with: set POSTRIDER_STANDARD_SECRET"),
        (&["sign", "body", "--profile", "gitlab"], Some("x"), "gitlab is verified alone"),
        (&["sign", "body"], Some("short"), "16 to 256"),
    ] {
        let (code, _, error) = run(arguments, secret);
        assert!(code == 2 && error.contains(expected), "{arguments:?}: {code} {error}");
    }
}

// --- the master key ---

/// `postrider serve` until it listens; and its address.
fn serve(folder: &Path, key: Option<&str>) -> (std::process::Child, Value) {
    use std::io::BufRead as _;
    let mut command =
        postrider(folder, &["--json", "serve", "--listen", "127.0.0.1:0", "--data", "data", "--log", "error"]);
    command.env("POSTRIDER_ADMIN_TOKEN", "a-token-of-the-operators-choice");
    if let Some(key) = key {
        command.env("POSTRIDER_MASTER_KEY", key);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap_or_default())
}

fn client(folder: &Path, started: &Value, arguments: &[&str]) -> Command {
    let mut command = postrider(folder, arguments);
    command.env("POSTRIDER_SERVER", started["url"].as_str().unwrap());
    command.env("POSTRIDER_TOKEN", "a-token-of-the-operators-choice");
    command
}

fn end(mut child: std::process::Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_master_key_is_changed_by_a_command_while_the_server_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let printed = run(postrider(folder, &["master-key", "rotate", "--data", "data"]), 1);
    assert!(printed.contains("has no database") && printed.contains("--data"), "{printed}");
    let (child, started) = serve(folder, None);
    let create = ["webhook", "create", "--name", "a", "--url", "https://a.example/", "--topic", "a", "--json"];
    run(client(folder, &started, &create), 0);
    let printed = run(postrider(folder, &["master-key", "rotate", "--data", "data"]), 1);
    assert!(printed.contains("in use") && printed.contains("Stop the server"), "{printed}");
    end(child);

    let key_file = folder.join("data/master.key");
    let old = std::fs::read_to_string(&key_file).unwrap();
    let printed = run(postrider(folder, &["master-key", "rotate", "--data", "data"]), 0);
    assert!(printed.contains("sealed 3 texts"), "{printed}");
    assert_ne!(std::fs::read_to_string(&key_file).unwrap(), old);
    let (child, started) = serve(folder, None);
    run(client(folder, &started, &["webhook", "show", "a"]), 0);
    end(child);

    // From here on the key comes from the environment, and files are not written.
    let present = std::fs::read_to_string(&key_file).unwrap();
    std::fs::remove_file(&key_file).unwrap();
    let rotate = |new: Option<&str>| {
        let mut command = postrider(folder, &["master-key", "rotate", "--data", "data"]);
        command.env("POSTRIDER_MASTER_KEY", &present);
        if let Some(new) = new {
            command.env("POSTRIDER_NEW_MASTER_KEY", new);
        }
        command
    };
    assert!(run(rotate(None), 2).contains("POSTRIDER_NEW_MASTER_KEY"));
    assert!(run(rotate(Some("nonsense")), 2).contains("openssl rand"));
    let new = "ab".repeat(32);
    assert!(run(rotate(Some(&new)), 0).contains("sealed 3 texts"));
    assert!(run(rotate(Some(&new)), 0).contains("nothing to do"));
    assert!(!key_file.exists());
    let (child, started) = serve(folder, Some(&new));
    run(client(folder, &started, &["webhook", "show", "a"]), 0);
    end(child);
}

/// Kills the command at random moments; whatever it had done, the folder opens and all keys are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_leaves_a_folder_that_opens() {
    const WEBHOOKS: usize = 200;
    const ROUNDS: u32 = 30;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let open = || -> Arc<dyn Store> {
        let key = MasterKey::load_or_create(&data).unwrap();
        Arc::new(SqliteStore::open(&data, &key, SqliteOptions::default()).unwrap())
    };
    let before = {
        let store = open();
        for n in 0..WEBHOOKS {
            let patch = WebhookPatch {
                name: Some(format!("w{n}")),
                url: Some("https://a.example/".to_owned()),
                topic_patterns: Some(vec![">".to_owned()]),
                ..WebhookPatch::default()
            };
            let settings = postrider::webhook::WebhookSettings::create(patch).unwrap();
            store.create_webhook(DEFAULT_TENANT, settings, UnixMicros(0)).await.unwrap();
        }
        let records = store.webhooks(DEFAULT_TENANT).await.unwrap();
        store.close().await;
        records
    };
    let key_file = data.join("master.key");
    let began_at = std::time::Instant::now();
    run(postrider(folder.path(), &["master-key", "rotate", "--data", "data"]), 0);
    let whole = began_at.elapsed();
    let mut changes = 0;
    for round in 0..ROUNDS {
        let key = std::fs::read(&key_file).unwrap();
        let mut command = postrider(folder.path(), &["master-key", "rotate", "--data", "data"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * round / ROUNDS);
        child.kill().unwrap();
        child.wait().unwrap();

        let store = open();
        assert_eq!(store.webhooks(DEFAULT_TENANT).await.unwrap(), before, "round {round}");
        store.close().await;
        assert!(!data.join("master.key.new").exists(), "round {round}");
        changes += u32::from(std::fs::read(&key_file).unwrap() != key);
    }
    // Killed early it has done nothing, killed late everything; more cannot be said of chance.
    assert!(changes < ROUNDS, "no round was killed early");
    run(postrider(folder.path(), &["master-key", "rotate", "--data", "data"]), 0);
}
