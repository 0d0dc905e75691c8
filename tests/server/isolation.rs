//! Every route of the OpenAPI document, with what is another's: what a tenant has is not there for others, what needs a
//! token or a scope is shut without it, and what is done leaves a line in the audit log.
//!
//! The routes are those of the document. A new one whose path or body needs something new fails here until it is said
//! in [`Things::parameter`] or [`body`].

use std::time::{Duration, Instant};

use postrider::serve::ServeSettings;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};

use crate::sources::source;
use crate::support::receiver::TestReceiver;
use crate::support::server::{Answer, TestServer, settings};

/// What needs no token, and that is all of it.
const OPEN: [&str; 5] = ["/api/v1/openapi.json", "/healthz", "/in/{inlet}", "/metrics", "/readyz"];

/// The source of the server.
const SOURCE: &str = "bus";

/// The id of the event of `default`.
const EVENT: &str = "event-of-ours";

#[derive(Clone, Debug)]
struct Route {
    method: String,
    /// As in the document.
    path: String,
    has_body: bool,
    is_open: bool,
    query: Vec<String>,
}

impl Route {
    /// Of the resource: `webhooks` of `/api/v1/webhooks/{uuid}`.
    fn resource(&self) -> &str {
        self.path.trim_start_matches("/api/v1/").split('/').next().unwrap_or_default()
    }

    /// The scope that it needs. A route that is another way round is said here.
    fn scope(&self) -> &'static str {
        match (self.resource(), self.method.as_str(), self.path.as_str()) {
            ("tenants" | "nodes" | "clock" | "sources", ..) | (.., "/api/v1/webhooks/import") => "operator",
            ("tokens" | "audit", ..) => "admin",
            (_, "GET", _) | (_, _, "/api/v1/shapes/preview" | "/api/v1/filters/preview") => "read",
            (_, "POST", "/api/v1/events" | "/api/v1/events/batch") => "publish",
            _ => "admin",
        }
    }

    /// Whether its path or its body names something of a tenant's.
    fn names_a_thing(&self) -> bool {
        self.path.contains('{') || self.path.ends_with("/preview")
    }
}

/// Every route of the document, those that destroy last.
fn routes() -> Vec<Route> {
    let document: Value = serde_json::to_value(postrider::api::openapi()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
            let query = parameters.iter().filter(|parameter| parameter["in"] == "query");
            routes.push(Route {
                method: method.to_uppercase(),
                path: path.clone(),
                has_body: operation.get("requestBody").is_some(),
                is_open: operation["security"].is_array(),
                query: query.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect(),
            });
        }
    }
    assert!(routes.len() >= 25, "{routes:?}");
    routes.sort_by_key(|route| (route.method == "DELETE", route.path.clone()));
    routes
}

/// A body that the route takes; `receiver` is somewhere to deliver to.
fn body(route: &Route, receiver: &str) -> String {
    let body = match (route.method.as_str(), route.path.as_str()) {
        ("POST", "/api/v1/events") => json!({"topic": "other.seen"}),
        ("POST", "/api/v1/events/batch") => json!([{"topic": "other.seen"}]),
        ("POST", "/api/v1/webhooks") => json!({"name": "another", "url": receiver, "topic_patterns": ["another"]}),
        ("POST", "/api/v1/webhooks/import") => json!({"webhooks": [{
            "uuid": uuid::Uuid::from_u128(1), "settings": {"name": "imported", "url": receiver, "topic_patterns": ["imported"]},
        }]}),
        ("PATCH", "/api/v1/webhooks/{uuid}" | "/api/v1/tenants/{tenant}") => json!({"description": "changed"}),
        ("POST", "/api/v1/deliveries/{id}/discard") => json!({"reason": "changed"}),
        ("POST", "/api/v1/webhooks/{uuid}/rotate-secret") => json!({"overlap_s": 60}),
        ("POST", "/api/v1/deliveries/discard") => json!({"reason": "changed", "topic": "nothing.at.all"}),
        ("POST", "/api/v1/deliveries/retry") => json!({"topic": "nothing.at.all"}),
        ("POST", "/api/v1/webhooks/{uuid}/replay") => json!({"states": ["dead"]}),
        ("POST", "/api/v1/events/{id}/resend" | "/api/v1/webhooks/{uuid}/test") => json!({}),
        ("POST", "/api/v1/shapes/preview") => json!({"shape": "slack", "event_id": EVENT}),
        ("POST", "/api/v1/filters/preview") => json!({"filter": {"topic": ["other.seen"]}, "event_id": EVENT}),
        ("POST", "/api/v1/tokens") => json!({"name": "another", "scopes": ["read"]}),
        ("POST", "/api/v1/tenants") => json!({"name": "another"}),
        ("POST", "/api/v1/inlets") => json!({"name": "another", "signature": "none", "topic": "other.seen"}),
        ("PATCH", "/api/v1/inlets/{uuid}") => json!({"tolerance_s": 60}),
        // The same each time, so that it changes nothing.
        ("POST", "/in/{inlet}") => json!({"id": "came-in"}),
        (method, path) => {
            assert!(!route.has_body, "say in `body` what {method} {path} takes");
            return String::new();
        }
    };
    body.to_string()
}

/// What one tenant has.
#[derive(Clone, Debug)]
struct Things {
    webhook: String,
    event: String,
    delivery: String,
    token: String,
    tenant: String,
    /// Of a sender without a signature.
    inlet: String,
    /// A job that has ended.
    replay: String,
    /// The server, which belongs to nobody.
    node: String,
    /// A message that a source brought.
    rejected: String,
}

impl Things {
    /// The id of the thing that a path parameter names, after a segment of the path.
    fn parameter(&self, segment: &str, parameter: &str) -> &str {
        match (segment, parameter) {
            ("webhooks", "{uuid}") => &self.webhook,
            ("events", "{id}") => &self.event,
            ("deliveries", "{id}") => &self.delivery,
            ("tokens", "{uuid}") => &self.token,
            ("tenants", "{tenant}") => &self.tenant,
            ("replays", "{uuid}") => &self.replay,
            ("inlets", "{uuid}") | ("in", "{inlet}") => &self.inlet,
            ("nodes", "{uuid}") => &self.node,
            ("sources", "{name}") => SOURCE,
            ("rejected", "{uuid}") => &self.rejected,
            ("attempts", "{number}") => "1",
            (segment, parameter) => panic!("say in `Things::parameter` what {segment}/{parameter} names"),
        }
    }

    fn path(&self, route: &Route) -> String {
        let mut filled: Vec<&str> = Vec::new();
        for segment in route.path.split('/') {
            let before = filled.last().copied().unwrap_or_default();
            filled.push(if segment.starts_with('{') { self.parameter(before, segment) } else { segment });
        }
        filled.join("/")
    }

    fn all(&self) -> [&str; 6] {
        [&self.webhook, &self.event, &self.delivery, &self.token, &self.inlet, &self.replay]
    }
}

/// A server with a tenant beside `default`, and things of `default`.
struct World {
    _folder: tempfile::TempDir,
    _bus: (UnixListener, UnixStream),
    server: TestServer,
    receiver: TestReceiver,
    /// Of the tenant `default`.
    things: Things,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("bus.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let sources = source(&format!("name = '{SOURCE}'\nkind = 'decnet-bus'\nsocket = '{}'", socket.display()));
        let server = TestServer::start_with(ServeSettings { sources, ..settings(folder.path()) }).await;
        let (mut bus, _) = listener.accept().await.unwrap();
        bus.write_all(b"EVT not a topic\n\0\0\0\x02{}").await.unwrap();
        server.wait_for("/api/v1/sources", |sources| sources[0]["kept_rejected"] == 1).await;
        let rejected = server.get(&format!("/api/v1/sources/{SOURCE}/rejected")).await.expect(200);
        let receiver = TestReceiver::start(|_, _| 404.into()).await;
        server.post("/api/v1/tenants", r#"{"name":"others"}"#).await.expect(201);
        server.post("/api/v1/tenants", r#"{"name":"spare"}"#).await.expect(201);
        let webhook = server.webhook("siem", &receiver.url("/"), "attacker.>").await;
        server.post("/api/v1/events", &json!({"id": EVENT, "topic": "attacker.seen"}).to_string()).await.expect(202);
        let dead = server.wait_for("/api/v1/deliveries?state=dead", |page| page["items"][0].is_object()).await;
        let token = server.post("/api/v1/tokens", r#"{"name":"ours","scopes":["read"]}"#).await.expect(201);
        let inlet = json!({"name": "ours", "signature": "none", "topic": "came.in", "id": "/id"}).to_string();
        let inlet = server.post("/api/v1/inlets", &inlet).await.expect(201);
        server.post(inlet["path"].as_str().unwrap(), r#"{"id": "came-in"}"#).await.expect(202);
        let nothing = json!({"reason": "x", "topic": "nothing.at.all"}).to_string();
        let job = server.post("/api/v1/deliveries/discard", &nothing).await.expect(202);
        let path = format!("/api/v1/replays/{}", job["uuid"].as_str().unwrap());
        server.wait_for(&path, |job| job["state"] == "done").await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let nodes = server.get("/api/v1/nodes").await.expect(200);
        assert_eq!((nodes[0]["is_this"].clone(), nodes[0]["state"].clone()), (json!(true), json!("alive")));
        assert_eq!((nodes[1].clone(), nodes[0]["shards"].as_array().unwrap().len()), (Value::Null, 256));
        let things = Things {
            webhook: text(&webhook["uuid"]),
            event: EVENT.to_owned(),
            delivery: text(&dead["items"][0]["id"]),
            token: text(&token["uuid"]),
            tenant: "spare".to_owned(),
            inlet: text(&inlet["uuid"]),
            replay: text(&job["uuid"]),
            node: text(&nodes[0]["uuid"]),
            rejected: text(&rejected["items"][0]["uuid"]),
        };
        Self { _folder: folder, _bus: (listener, bus), server, receiver, things }
    }

    /// Makes a token; `tenant` is one that the operator names, or nothing.
    async fn token(&self, tenant: &str, scopes: &[&str]) -> String {
        let body = json!({"name": "a token", "scopes": scopes}).to_string();
        let headers = if tenant.is_empty() { String::new() } else { format!("X-Postrider-Tenant: {tenant}\r\n") };
        let answer = self.request("POST", "/api/v1/tokens", &self.server.admin, &headers, &body).await;
        answer.expect(201)["token"].as_str().unwrap().to_owned()
    }

    async fn request(&self, method: &str, path: &str, token: &str, headers: &str, body: &str) -> Answer {
        let content = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let token = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        self.server.request(method, path, &format!("{token}{content}{headers}"), body.as_bytes()).await
    }

    async fn call(&self, route: &Route, token: &str, headers: &str) -> Answer {
        let body = body(route, &self.receiver.url("/"));
        self.request(&route.method, &self.things.path(route), token, headers, &body).await
    }

    /// Everything that the tenant `default` has, as it is now.
    async fn state(&self) -> Vec<Value> {
        let mut state = Vec::new();
        for path in [
            format!("/api/v1/webhooks/{}", self.things.webhook),
            "/api/v1/webhooks".to_owned(),
            "/api/v1/events".to_owned(),
            format!("/api/v1/deliveries/{}", self.things.delivery),
            "/api/v1/deliveries".to_owned(),
        ] {
            state.push(self.server.get(&path).await.expect(200));
        }
        let tokens = self.server.get("/api/v1/tokens").await.expect(200);
        state.extend(tokens.as_array().unwrap().iter().map(|token| token["uuid"].clone()));
        state
    }

    async fn acts(&self) -> Vec<Value> {
        self.server.get("/api/v1/audit?limit=500").await.expect(200)["items"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn what_a_tenant_has_is_not_there_for_another() {
    let world = World::new().await;
    let theirs = world.token("others", &["admin", "publish", "read"]).await;
    let before = world.state().await;
    for route in routes().iter().filter(|route| !route.is_open) {
        let named = format!("{} {}", route.method, route.path);
        let answer = world.call(route, &theirs, "").await;
        if route.scope() == "operator" {
            assert_eq!(answer.status, 403, "{named}: it is the operator's");
        } else if route.names_a_thing() {
            assert_eq!(answer.status, 404, "{named}: {}", answer.body);
        } else {
            assert!((200..300).contains(&answer.status), "{named}: {}", answer.body);
            let found = world.things.all().into_iter().find(|thing| answer.body.contains(thing));
            assert_eq!(found, None, "{named}: {}", answer.body);
        }
        // What filters a listing by the id of a thing finds nothing either.
        for filter in route.query.iter().filter(|name| ["webhook", "event"].contains(&name.as_str())) {
            let thing = if filter == "webhook" { &world.things.webhook } else { &world.things.event };
            let path = format!("{}?{filter}={thing}", route.path);
            if route.path == "/api/v1/figures" {
                assert_eq!(world.request("GET", &path, &theirs, "", "").await.status, 404, "{path}");
                continue;
            }
            let listed = world.request("GET", &path, &theirs, "", "").await.expect(200);
            assert_eq!(listed["items"], json!([]), "{path}");
        }
        for tenant in
            ["default", "spare", "nobody", "*"].into_iter().filter(|_| route.query.iter().any(|name| name == "tenant"))
        {
            let path = format!("{}?tenant={tenant}", route.path);
            assert_eq!(world.request("GET", &path, &theirs, "", "").await.status, 403, "{path}");
        }
        for tenant in ["default", "spare", "nobody"] {
            let header = format!("X-Postrider-Tenant: {tenant}\r\n");
            assert_eq!(world.call(route, &theirs, &header).await.status, 403, "{named} for {tenant}");
        }
    }
    // Nor can an event be directed to a webhook of another tenant.
    let directed = json!({"topic": "other.seen", "webhooks": [world.things.webhook]}).to_string();
    for path in ["/api/v1/events", "/api/v1/events?dry_run=true"] {
        assert_eq!(world.request("POST", path, &theirs, "", &directed).await.status, 422, "{path}");
    }
    assert_eq!(world.state().await, before, "nothing of ours was changed");
    assert_eq!(world.receiver.received_count(), 1, "nothing was tested or sent again");
    world.server.stop().await;
}

#[tokio::test]
async fn without_a_token_every_route_is_shut_but_those_that_show_nothing() {
    let world = World::new().await;
    let before = world.state().await;
    let routes = routes();
    let open: Vec<_> = routes.iter().filter(|route| route.is_open).map(|route| route.path.as_str()).collect();
    assert_eq!(open, OPEN);
    for route in &routes {
        let status = world.call(route, "", "").await.status;
        let open = if route.path == "/in/{inlet}" { 202 } else { 200 };
        assert_eq!(status, if route.is_open { open } else { 401 }, "{} {}", route.method, route.path);
        let made_up = world.call(route, &format!("pr_{}", "A".repeat(43)), "").await.status;
        // Whoever sends so many is slowed down.
        let is_shut = if route.is_open { made_up == status } else { matches!(made_up, 401 | 429) };
        assert!(is_shut, "{} {} with a token that is none: {made_up}", route.method, route.path);
    }
    assert_eq!(world.state().await, before);
    world.server.stop().await;
}

#[tokio::test]
async fn a_token_opens_what_its_scope_says_and_nothing_else() {
    let world = World::new().await;
    for (scope, permitted) in
        [("read", &["read"][..]), ("publish", &["publish"]), ("admin", &["admin", "publish", "read"])]
    {
        let token = world.token("", &[scope]).await;
        for route in routes().iter().filter(|route| !route.is_open) {
            let named = format!("{} {} with {scope}", route.method, route.path);
            if permitted.contains(&route.scope()) {
                // Only looking: what changes things is tried elsewhere.
                if route.method == "GET" {
                    assert_eq!(world.call(route, &token, "").await.status, 200, "{named}");
                }
            } else {
                assert_eq!(world.call(route, &token, "").await.status, 403, "{named}");
            }
        }
    }
    world.server.stop().await;
}

#[tokio::test]
async fn every_act_leaves_one_line_and_looking_leaves_none() {
    let world = World::new().await;
    let operator = world.server.admin.clone();
    for route in routes().iter().filter(|route| !route.is_open) {
        let named = format!("{} {}", route.method, route.path);
        let before = world.acts().await;
        let answer = world.call(route, &operator, "").await;
        let is_refused = match route.resource() {
            "nodes" | "sources" => route.method == "POST",
            _ => route.path.ends_with("/cancel"),
        };
        if is_refused {
            assert_eq!(answer.status, 409, "{named}: the job has ended, the server is alone, the message is no event");
            assert_eq!(world.acts().await, before, "{named}: what is refused is no act");
            continue;
        }
        assert!((200..300).contains(&answer.status), "{named}: {} {}", answer.status, answer.body);
        let after = world.acts().await;
        let is_act = route.method != "GET" && ["admin", "operator"].contains(&route.scope());
        assert_eq!(after.len() - before.len(), usize::from(is_act), "{named}: {after:?}");
        if is_act {
            let line = &after[0];
            assert_eq!((&line["actor"]["name"], &line["address"]), (&json!("admin"), &json!("127.0.0.1")), "{named}");
            assert!(line["action"].as_str().unwrap().contains('.') && line["target"].is_string(), "{named}: {line}");
        }
    }
    world.server.stop().await;
}

#[tokio::test]
async fn every_act_of_a_tenant_counts_against_its_rate_before_anything_is_done() {
    /// The next act is let through after twice this time, and later.
    const HALF: Duration = Duration::from_millis(500 / postrider::tenants::ACTS_PER_S as u64);
    let world = World::new().await;
    let theirs = world.token("others", &["admin", "publish"]).await;
    let nothing = format!("/api/v1/tokens/{}", uuid::Uuid::nil());
    // Until an act is refused, and one more has been let through right after. Returns from when on the rate counts again.
    let use_up = async || {
        let mut refused_at: Option<Instant> = None;
        for _ in 0..5_000 {
            let asked_at = Instant::now();
            if world.request("DELETE", &nothing, &theirs, "", "").await.status == 429 {
                refused_at = Some(asked_at);
            } else if refused_at.take().is_some_and(|refused_at| refused_at.elapsed() < HALF / 2) {
                return asked_at;
            }
        }
        panic!("acts have no rate");
    };
    use_up().await;
    let (before, mut lines, mut acts) = (world.state().await, world.acts().await.len(), 0);
    for route in routes().iter().filter(|route| !route.is_open) {
        let named = format!("{} {}", route.method, route.path);
        let is_act = route.method != "GET" && route.scope() == "admin";
        let answer = loop {
            let used_up_at = use_up().await;
            let answer = world.call(route, &theirs, "").await;
            if !is_act || answer.status == 429 || used_up_at.elapsed() < HALF {
                break answer;
            }
            // The machine was busy for so long that it was let through.
            lines = world.acts().await.len();
        };
        if is_act {
            assert_eq!(answer.status, 429, "{named}: {}", answer.body);
            assert_eq!(answer.header("retry-after"), Some("1"), "{named}");
            assert_eq!(answer.json()["type"], "urn:postrider:problem:too-many-acts", "{named}");
            acts += 1;
        } else {
            assert_ne!(answer.status, 429, "{named}: {}", answer.body);
        }
    }
    assert!(acts >= 10, "{acts} acts were tried");
    assert_eq!((world.state().await, world.acts().await.len()), (before, lines), "nothing was done");
    world.server.stop().await;
}
