//! Shapes as users meet them: listed and previewed over HTTP, on the command line, and in the documentation.

use std::collections::BTreeMap;
use std::process::Output;

use postrider::clock::UnixMicros;
use postrider::event::Event;
use postrider::shape::{Context, Shape, ShapeInput, TemplateInput, builtins};
use serde_json::{Value, json};

use crate::support::receiver::TestReceiver;
use crate::support::server;
use crate::support::server::TestServer;

const EVENT: &str = r#"{"id":"e-1","topic":"attacker.seen","type":"seen","ts":"t","payload":{"n":1.10}}"#;

async fn preview(server: &TestServer, body: &Value) -> server::Answer {
    server.post("/api/v1/shapes/preview", &body.to_string()).await
}

#[tokio::test]
async fn the_shapes_are_listed_with_their_templates() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let shapes = server.get("/api/v1/shapes").await.expect(200);
    let shapes = shapes.as_array().unwrap();
    assert_eq!(shapes.len(), builtins().len());
    assert_eq!((&shapes[0]["name"], &shapes[0]["template"]), (&json!("decnet"), &Value::Null));
    for shape in shapes.iter().filter(|shape| shape["template"].is_string()) {
        // What is listed can be taken as one's own, and makes the same.
        let name = &shape["name"];
        let event = json!({"topic": "t", "id": "e", "ts": "2026-09-21T00:00:00Z"});
        let built_in = preview(&server, &json!({"shape": name, "event": event})).await.expect(200);
        let own = json!({"template": shape["template"], "content_type": shape["content_type"]});
        let own = preview(&server, &json!({"shape": own, "event": event})).await.expect(200);
        assert_eq!(own, built_in, "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_preview_is_of_a_sample_a_given_event_or_a_stored_one() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let sample = preview(&server, &json!({"shape": "cloudevents"})).await.expect(200);
    assert_eq!(sample["content_type"], "application/cloudevents+json; charset=utf-8");
    let body: Value = serde_json::from_str(sample["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["subject"], "attacker.session.started");

    let template = json!({"template": "{{ event.payload.n }} {{ event.id }}", "content_type": "text/plain"});
    let given = format!(r#"{{"shape":{template},"event":{EVENT}}}"#);
    let given = server.post("/api/v1/shapes/preview", &given).await.expect(200);
    assert_eq!(given, json!({"content_type": "text/plain", "body": "1.10 e-1"}));

    let stored = json!({"shape": template, "event_id": "e-1"});
    assert_eq!(preview(&server, &stored).await.status, 404);
    server.post("/api/v1/events", EVENT).await.expect(202);
    assert_eq!(preview(&server, &stored).await.expect(200)["body"], "1.10 e-1");
    server.stop().await;
}

#[tokio::test]
async fn a_preview_says_what_is_wrong_and_where() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let refused = |body: Value| {
        let server = &server;
        async move { preview(server, &body).await }
    };
    refused(json!({"shape": "slak"})).await.expect_refusal(422, "shape", "there is no shape \"slak\"");
    let wrong = json!({"shape": {"template": "\n{{ event.id }"}});
    refused(wrong).await.expect_refusal(422, "shape", "does not parse: line 2");
    let no_json = json!({"shape": {"template": "{{ event.id }}"}});
    refused(no_json).await.expect_refusal(422, "shape", "the result is no JSON: ");
    let endless = "{% for a in event.payload.l %}{% for b in event.payload.l %}{% for c in event.payload.l %}{{ a }}\
        {% endfor %}{% endfor %}{% endfor %}";
    let endless = json!({"shape": {"template": endless}, "event": {"topic": "t", "payload": {"l": vec![0; 1_000]}}});
    refused(endless).await.expect_refusal(422, "shape", "line 1: the template does too much");
    let both = json!({"shape": "slack", "event": {"topic": "t"}, "event_id": "e"});
    refused(both).await.expect_refusal(422, "event_id", "one of them is enough");
    refused(json!({"shape": "slack", "event": {}})).await.expect_refusal(422, "topic", "is required");
    refused(json!({"shape": 1})).await.expect_refusal(422, "shape", "the name of a shape or");
    refused(json!({})).await.expect_refusal(422, "body", "missing field `shape`");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_s_previews_end_in_429_and_another_tenant_s_delivery_arrives_between_them() {
    let (_folder, server) = TestServer::in_new_folder().await;
    server.post("/api/v1/tenants", r#"{"name":"flood"}"#).await.expect(201);
    let as_flood = format!(
        "Authorization: Bearer {}\r\nX-Postrider-Tenant: flood\r\nContent-Type: application/json\r\n",
        server.admin
    );
    let text = "x".repeat(400_000);
    let large = format!(r#"{{"id":"large","topic":"t","payload":{{"a":"{text}a","b":"{text}b"}}}}"#);
    server.request("POST", "/api/v1/events", &as_flood, large.as_bytes()).await.expect(202);
    // It uses up its fuel by comparing long texts, for as long as can be.
    let template = "{% set a = event.payload.a %}{% set b = event.payload.b %}{% for c in body %}{% if a < b > a < b > a < b \
        > a < b > a < b > a %}{% endif %}{% endfor %}";
    let asked = json!({"shape": {"template": template}, "event_id": "large"}).to_string();

    let receiver = TestReceiver::healthy().await;
    let shaped = json!({"name": "quiet", "url": receiver.url("/"), "topic_patterns": ["t"], "shape": "slack"});
    server.post("/api/v1/webhooks", &shaped.to_string()).await.expect(201);
    let ask = || server.request("POST", "/api/v1/shapes/preview", &as_flood, asked.as_bytes());
    let round = || async {
        let eight = tokio::join!(ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask());
        <[server::Answer; 8]>::from(eight)
    };
    let publishing = async {
        server.post("/api/v1/events", EVENT.replace("attacker.seen", "t").as_str()).await.expect(202);
        receiver.wait_for(1).await
    };
    let (answers, arrived) = tokio::join!(round(), publishing);
    assert!(arrived[0].body.starts_with(b"{"), "{arrived:?}");
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty() && refused.len() < answers.len(), "{} were refused", refused.len());
    for answer in &answers {
        if answer.status == 429 {
            assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.head);
            assert_eq!(answer.json()["type"], "urn:postrider:problem:too-many-previews");
        } else {
            let problem = answer.json();
            assert!(problem["detail"].as_str().unwrap().contains("does too much"), "{problem}");
        }
    }
    // Filters have the same place, and the other tenant its own share of it.
    let filter = json!({"filter": {"payload": {"n": [1]}}, "event_id": "e-1"}).to_string();
    let (_, tried) = tokio::join!(round(), server.post("/api/v1/filters/preview", &filter));
    assert_eq!(tried.expect(200), json!({"matches": false}));
    server.stop().await;
}

async fn command(server: &TestServer, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(arguments).env_clear();
    command.env("POSTRIDER_SERVER", format!("http://{}", server.address)).env("POSTRIDER_TOKEN", &server.admin);
    command.output().await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_command_line_lists_and_previews() {
    let (folder, server) = TestServer::in_new_folder().await;
    let listed = command(&server, &["shape", "list"]).await;
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    for shape in builtins() {
        assert!(text(&listed.stdout).contains(shape.name), "{}", text(&listed.stdout));
    }

    let shown = command(&server, &["shape", "preview", "syslog"]).await;
    assert!(text(&shown.stdout).starts_with("<131>1 2026-09-21T14:13:20.25Z - postrider - "), "{shown:?}");
    assert!(text(&shown.stderr).contains("text/plain"), "{shown:?}");

    let (template, event) = (folder.path().join("mine.j2"), folder.path().join("event.json"));
    std::fs::write(&template, "{{ event.id }}: {{ event.payload.n }}").unwrap();
    std::fs::write(&event, EVENT).unwrap();
    let (template, event) = (format!("@{}", template.display()), format!("@{}", event.display()));
    let mine = ["shape", "preview", "--template", &template, "--content-type", "text/plain", "--event", &event];
    let shown = command(&server, &mine).await;
    assert_eq!(text(&shown.stdout), "e-1: 1.10\n", "{shown:?}");

    server.post("/api/v1/events", EVENT).await.expect(202);
    let stored = command(&server, &["shape", "preview", "decnet", "--event-id", "e-1", "--json"]).await;
    let stored: Value = serde_json::from_slice(&stored.stdout).unwrap();
    assert!(stored["body"].as_str().unwrap().contains(r#""payload":{"n":1.10}"#), "{stored}");

    for (arguments, code, reason) in [
        (&["shape", "preview", "slak"][..], 1, "there is no shape"),
        (&["shape", "preview", "slack", "--event", "{"], 2, "the event is no JSON"),
        (&["shape", "preview", "--template", "@nowhere"], 1, "cannot read the template from nowhere"),
        (&["shape", "preview"], 2, "required"),
    ] {
        let refused = command(&server, arguments).await;
        assert_eq!(refused.status.code(), Some(code), "{refused:?}");
        assert!(text(&refused.stderr).contains(reason), "{refused:?}");
    }
    server.stop().await;
}

// --- the documentation ---

const DOCUMENT: &str = include_str!("../../docs/shapes.md");

fn block(language: &str) -> &'static str {
    let opening = format!("```{language}\n");
    let start = DOCUMENT.find(&opening).unwrap() + opening.len();
    DOCUMENT[start..].split_once("```").unwrap().0
}

#[test]
fn the_example_of_the_documentation_makes_what_it_promises() {
    let template = TemplateInput { template: block("jinja").to_owned(), content_type: "application/json".to_owned() };
    let shape = Shape::parse(&ShapeInput::Template(template)).unwrap();
    let context = Context {
        webhook_name: "w",
        webhook_id: "i",
        webhook_metadata: &BTreeMap::new(),
        tenant: "t",
        delivery_id: "d",
        attempt: 1,
        now: UnixMicros(0),
    };
    let render = |event: &str| -> Value {
        let event = Event::from_json(event.as_bytes(), UnixMicros(0)).unwrap();
        serde_json::from_slice(&shape.render(&event, &context).unwrap()).unwrap()
    };
    let event =
        r#"{"topic":"attacker.seen","ts":0,"payload":{"attacker_ip":"203.0.113.7","port":22,"severity":"high"}}"#;
    let expected = json!({
        "summary": "attacker.seen from 203.0.113.7", "priority": 2, "at": "1970-01-01T00:00:00Z", "port": 22,
        "details": ["attacker_ip: 203.0.113.7", "port: 22", "severity: high"]
    });
    assert_eq!(render(event), expected);
    let expected = json!({
        "summary": "t from nowhere", "priority": 4, "at": "1970-01-01T00:00:00.000000Z", "details": []
    });
    assert_eq!(render(r#"{"topic":"t","ts":"some time"}"#), expected);
}

#[test]
fn the_documentation_names_every_shape_and_no_other() {
    let mut named: Vec<&str> = Vec::new();
    let section = DOCUMENT.split_once("## Built-in shapes").unwrap().1.split_once("\n## ").unwrap().0;
    for line in section.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `shape`")) {
        named.push(line.split('`').nth(1).unwrap());
    }
    let there: Vec<&str> = builtins().iter().map(|shape| shape.name).collect();
    assert_eq!(named, there);
}
