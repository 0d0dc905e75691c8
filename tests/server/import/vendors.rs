//! Svix, Convoy, Outpost and Hook0, by servers that answer as their published OpenAPI documents have it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use base64::Engine as _;
use postrider::clock::{Clock, SystemClock};
use postrider::signing::{Head, ReceiverKey, Secret, StandardKey, profile, verify};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Said, import, outcomes};
use crate::support::receiver::{Received, TestReceiver};
use crate::support::server::TestServer;

const TOKEN: &str = "a-token-of-the-vendor";
const STANDARD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// An API that answers what a test says to a path with its query.
struct Fake {
    url: String,
    folder: TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Fake {
    async fn start(answer: impl Fn(&str) -> Option<Value> + Send + Sync + 'static) -> Self {
        Self::start_saying(move |path| answer(path).map(|answer| answer.to_string())).await
    }

    async fn start_saying(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        let api = Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
            let answer = Arc::clone(&answer);
            async move {
                if headers["authorization"] != format!("Bearer {TOKEN}") {
                    return (StatusCode::UNAUTHORIZED, "{}".to_owned()).into_response();
                }
                match answer(uri.path_and_query().unwrap().as_str()) {
                    // As Hook0 has it: the next page is named beside the body.
                    Some(body) if body.contains("\"link\"") => {
                        let page: Value = serde_json::from_str(&body).unwrap();
                        let link = format!(
                            "<https://elsewhere.example/?pagination_cursor={}&limit=1>; rel=\"next\"",
                            page["link"].as_str().unwrap()
                        );
                        (StatusCode::OK, [("link", link)], page["page"].to_string()).into_response()
                    }
                    Some(body) => (StatusCode::OK, body).into_response(),
                    None => (StatusCode::NOT_FOUND, "{}".to_owned()).into_response(),
                }
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, api).await.unwrap() });
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        Self { url, folder, task }
    }

    fn token(&self) -> String {
        self.folder.path().join("token").to_str().unwrap().to_owned()
    }

    async fn import(&self, server: &TestServer, vendor: &str, more: &[&str]) -> Said {
        let token = self.token();
        let arguments = [&[vendor, "--url", &self.url, "--token-file", &token, "--json"], more].concat();
        import(server, &arguments).await
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of the webhook that its vendor calls so.
#[track_caller]
fn told<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = report["webhooks"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("nothing of {name}: {report}"))
}

#[track_caller]
fn expect_refused(report: &Value, name: &str, reason: &str) {
    let row = told(report, name);
    assert!(row["outcome"] == "refused" && row["errors"].to_string().contains(reason), "{row}");
}

async fn shown(server: &TestServer, tenant: &str, name: &str) -> Value {
    let headers = format!("Authorization: Bearer {}\r\nX-Postrider-Tenant: {tenant}\r\n", server.admin);
    let all = server.request("GET", "/api/v1/webhooks", &headers, b"").await.expect(200);
    let found = all.as_array().unwrap().iter().find(|webhook| webhook["name"] == name).cloned();
    found.unwrap_or_else(|| panic!("no {name} in {tenant}: {all}"))
}

async fn publish(server: &TestServer, tenant: &str, topic: &str) {
    let headers = format!(
        "Authorization: Bearer {}\r\nX-Postrider-Tenant: {tenant}\r\nContent-Type: application/json\r\n",
        server.admin
    );
    let event = format!(r#"{{"topic": "{topic}", "payload": {{"total": 1.50}}}}"#);
    server.request("POST", "/api/v1/events", &headers, event.as_bytes()).await.expect(202);
}

/// The first request, which its receiver verifies as the vendor's.
async fn verified(receiver: &TestReceiver, name: &str, key: ReceiverKey) -> Received {
    let request = receiver.wait_for(1).await.swap_remove(0);
    let head = Head { method: &request.method, path: &request.path, headers: &request.headers };
    verify(profile(name).unwrap(), &[key], head, &request.body, SystemClock.now(), 300).unwrap();
    assert_eq!(&request.body[..], br#"{"total":1.50}"#, "the payload alone");
    request
}

fn secret(text: &str) -> ReceiverKey {
    ReceiverKey::Secret(Secret::parse_foreign(text).unwrap())
}

fn svix(path: &str, url: &str) -> Option<Value> {
    let page = |data: Value, iterator: Option<&str>| json!({"data": data, "iterator": iterator, "prevIterator": null, "done": iterator.is_none()});
    let endpoint = |id: &str, more: Value| {
        let mut endpoint = json!({
            "id": id, "url": format!("{url}{id}"), "version": 1, "description": "of the shop", "disabled": false,
            "filterTypes": ["shop.paid"], "channels": null, "rateLimit": 50, "uid": null, "metadata": {"team": "blue"},
            "createdAt": "2026-05-01T08:09:00Z", "updatedAt": "2026-05-01T08:09:00Z",
        });
        endpoint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        endpoint
    };
    Some(match path {
        "/api/v1/app?limit=250" => page(json!([{"id": "app_1A", "uid": null, "name": "one"}]), Some("app_1A")),
        "/api/v1/app?limit=250&iterator=app_1A" => page(json!([{"id": "app_2", "uid": "Shop_2", "name": "two"}]), None),
        "/api/v1/app/app_1A/endpoint?limit=250" => {
            page(json!([endpoint("ep_1", json!({})), endpoint("ep_2", json!({"disabled": true}))]), Some("ep_2"))
        }
        "/api/v1/app/app_1A/endpoint?limit=250&iterator=ep_2" => page(
            json!([
                endpoint("ep_3", json!({"channels": ["a"]})),
                endpoint("ep_4", json!({})),
                endpoint("ep_5", json!({})),
                endpoint("ep_6", json!({})),
            ]),
            None,
        ),
        "/api/v1/app/app_2/endpoint?limit=250" => page(json!([endpoint("ep_7", json!({"filterTypes": null}))]), None),
        "/api/v1/app/app_1A/endpoint/ep_1/headers" => json!({"headers": {"X-Team": "blue"}, "sensitive": []}),
        "/api/v1/app/app_1A/endpoint/ep_4/headers" => json!({"headers": {}, "sensitive": ["X-Key"]}),
        "/api/v1/app/app_1A/endpoint/ep_5/transformation" => json!({"code": "function handler(w) {}", "enabled": true}),
        "/api/v1/app/app_1A/endpoint/ep_6/secret" => json!({"key": "whsk_abc"}),
        path if path.ends_with("/secret") => json!({"key": STANDARD}),
        _ => return None,
    })
}

#[tokio::test]
async fn endpoints_of_svix_are_taken_over() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let url = receiver.url("/");
    let fake = Fake::start(move |path| svix(path, &url)).await;

    let said = fake.import(&server, "svix", &["--skip-refused"]).await;
    let report = said.json();
    expect_refused(&report, "ep_1", "there is no tenant");
    let said = fake.import(&server, "svix", &["--create-tenants"]).await;
    assert_eq!((said.code, &said.json()["done"]), (Some(1), &json!(false)), "{said:?}");
    assert_eq!(server.get("/api/v1/tenants/app-1a").await.status, 404, "nothing was made");

    let said = fake.import(&server, "svix", &["--create-tenants", "--skip-refused"]).await;
    let report = said.json();
    assert_eq!((&report["done"], &report["new"], &report["refused"]), (&json!(true), &json!(3), &json!(4)), "{report}");
    assert_eq!(report["tenants"], json!(["app-1a", "shop-2"]));
    expect_refused(&report, "ep_3", "channels");
    expect_refused(&report, "ep_4", "X-Key");
    expect_refused(&report, "ep_5", "transformation");
    expect_refused(&report, "ep_6", "asymmetric");
    let one = shown(&server, "app-1a", "ep_1").await;
    assert_eq!((&one["topic_patterns"], &one["shape"]), (&json!(["shop.paid"]), &json!("payload")));
    assert_eq!(one["rate_limit"], json!({"per_s": 50.0, "burst": 50}));
    assert_eq!((&one["description"], &one["metadata"]), (&json!("of the shop"), &json!({"team": "blue"})));
    assert_eq!(one["created_at"], "2026-05-01T08:09:00.000000Z");
    assert_eq!(shown(&server, "app-1a", "ep_2").await["enabled"], false);
    assert_eq!(shown(&server, "shop-2", "ep_7").await["topic_patterns"], json!([">"]));

    let key = ReceiverKey::Standard(StandardKey::parse(STANDARD).unwrap());
    publish(&server, "app-1a", "shop.paid").await;
    let request = verified(&receiver, "svix", key).await;
    assert_eq!((request.path.as_str(), request.header("x-team")), ("/ep_1", "blue"));
    assert!(request.header("svix-id").len() > 1 && request.header("webhook-signature").is_empty(), "{request:?}");

    let again = fake.import(&server, "svix", &["--create-tenants", "--skip-refused"]).await.json();
    assert_eq!((&again["new"], &again["same"]), (&json!(0), &json!(3)), "{again}");
    // All into one tenant: the ids are known already, and belong to others.
    let said = fake.import(&server, "svix", &["--tenant", "default", "--from", "app_9"]).await;
    assert!(said.code == Some(1) && said.err.contains("has no app/app_9"), "{said:?}");
    server.stop().await;
}

fn convoy(path: &str, url: &str) -> Option<Value> {
    let page = |content: Value, next: Option<&str>| {
        json!({"status": true, "message": "fetched", "data": {"content": content, "pagination": {
            "per_page": 100, "has_next_page": next.is_some(), "next_page_cursor": next.unwrap_or("end"), "prev_page_cursor": "",
        }}})
    };
    let endpoint = |uid: &str, more: Value| {
        let mut endpoint = json!({
            "uid": uid, "project_id": "p1", "url": format!("{url}{uid}"), "name": uid, "description": "", "status": "active",
            "secrets": [{"value": "older secret", "expires_at": "2026-01-01T00:00:00Z"}, {"value": "a secret of Convoy's"}],
            "advanced_signatures": true, "http_timeout": 90, "rate_limit": 100, "rate_limit_duration": 60,
            "created_at": "2026-05-01T08:09:00Z", "updated_at": "2026-05-03T00:00:00Z", "authentication": null,
        });
        endpoint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        endpoint
    };
    let subscription = |uid: &str, endpoint: &str, types: Value, filter: Value| {
        json!({
            "uid": uid, "name": uid, "type": "api", "status": "active", "endpoint_metadata": {"uid": endpoint},
            "filter_config": {"event_types": types, "filter": {"headers": {}, "body": filter}}, "function": null,
            "created_at": "2026-05-01T08:09:00Z",
        })
    };
    Some(match path {
        "/api/v1/projects/p1" => json!({"status": true, "message": "", "data": {
            "uid": "p1", "name": "shop", "type": "outgoing",
            "config": {"signature": {"header": "X-Convoy-Signature", "versions": [{"hash": "SHA256", "encoding": "hex"}]}},
        }}),
        "/api/v1/projects/p1/endpoints?perPage=100&direction=next" => page(
            json!([endpoint(
                "e1",
                json!({
                    "authentication": {"type": "api_key", "api_key": {"header_name": "X-Api-Key", "header_value": "k"}},
                })
            )]),
            Some("e1"),
        ),
        "/api/v1/projects/p1/endpoints?perPage=100&direction=next&next_page_cursor=e1" => page(
            json!([
                endpoint("e2", json!({"status": "inactive", "advanced_signatures": false})),
                endpoint("e3", json!({"authentication": {"type": "oauth2"}})),
                endpoint("e4", json!({})),
            ]),
            None,
        ),
        "/api/v1/projects/p1/subscriptions?perPage=100&direction=next" => page(
            json!([
                subscription("s1", "e1", json!(["shop.paid"]), json!({})),
                subscription("s2", "e2", json!(["*"]), json!({})),
                subscription("s3", "e3", json!(["*"]), json!({})),
                subscription("s5", "e1", json!(["*"]), json!({"total": {"$gt": 5}})),
                subscription("s6", "e9", json!(["*"]), json!({})),
            ]),
            None,
        ),
        _ => return None,
    })
}

#[tokio::test]
async fn subscriptions_of_convoy_are_taken_over() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let url = receiver.url("/");
    let fake = Fake::start(move |path| convoy(path, &url)).await;
    let said = fake.import(&server, "convoy", &[]).await;
    assert!(said.code == Some(2) && said.err.contains("--from"), "{said:?}");

    let report =
        fake.import(&server, "convoy", &["--from", "p1", "--tenant", "default", "--skip-refused"]).await.json();
    assert_eq!((&report["new"], &report["refused"]), (&json!(3), &json!(3)), "{report}");
    expect_refused(&report, "s3", "oauth2");
    expect_refused(&report, "s5", "filter");
    expect_refused(&report, "s6", "its endpoint is not among");
    let one = shown(&server, "default", "s1").await;
    assert_eq!(
        (&one["signatures"], &one["timeout_s"], &one["description"]),
        (&json!(["convoy"]), &json!(60), &json!("e1"))
    );
    let off = shown(&server, "default", "s2").await;
    assert_eq!((&off["enabled"], &off["signatures"]), (&json!(false), &json!(["convoy_simple"])));
    assert_eq!(off["disabled_reason"], "Convoy turned it off after failures");
    assert_eq!(shown(&server, "default", "e4").await["topic_patterns"], json!([]), "nothing subscribes for it");
    publish(&server, "default", "shop.paid").await;
    let request = verified(&receiver, "convoy", secret("a secret of Convoy's")).await;
    assert_eq!((request.path.as_str(), request.header("x-api-key")), ("/e1", "k"));
    server.stop().await;
}

#[tokio::test]
async fn a_project_of_convoy_that_signs_in_its_own_way_goes_on_to() {
    let (folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let document = json!({"projects": [{
        "uid": "p2", "type": "outgoing",
        "config": {"signature": {"header": "X-Shop-Signature", "versions": [{"hash": "SHA512", "encoding": "base64"}]}},
        "endpoints": [{"uid": "e1", "target_url": receiver.url("/own"), "secrets": [{"value": "key"}], "rate_limit_duration": "1m0s"}],
        "subscriptions": [{"uid": "s1", "endpoint_metadata": {"uid": "e1"}, "filter_config": {"event_types": ["shop.paid"]}}],
    }]});
    let path = folder.path().join("convoy.json");
    fs::write(&path, document.to_string()).unwrap();
    let said = import(&server, &["convoy", "--export", path.to_str().unwrap(), "--tenant", "default"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    publish(&server, "default", "shop.paid").await;
    let request = receiver.wait_for(1).await.swap_remove(0);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA512, b"key");
    let code = aws_lc_rs::hmac::sign(&key, &request.body);
    let expected = base64::engine::general_purpose::STANDARD.encode(code.as_ref());
    assert_eq!(request.header("x-shop-signature"), expected);
    server.stop().await;
}

fn outpost(path: &str, url: &str) -> Option<Value> {
    let destination = |id: &str, more: Value| {
        let mut destination = json!({
            "id": id, "type": "webhook", "topics": ["shop.paid"], "filter": null, "disabled_at": null,
            "created_at": "2026-05-01T08:09:00Z", "updated_at": "2026-05-01T08:09:00Z",
            "config": {"url": format!("{url}{id}"), "custom_headers": "{\"x-team\":\"blue\"}"},
            "credentials": {"secret": "a secret of Outpost's"},
            "delivery_metadata": {"region": "eu"}, "metadata": {"team": "blue"}, "target": "h",
        });
        destination.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        destination
    };
    Some(match path {
        "/api/v1/tenants?limit=100" => json!({
            "models": [{"id": "Tenant 1", "destinations_count": 5}], "pagination": {"next": "MQ==", "prev": null}, "count": 2,
        }),
        "/api/v1/tenants?limit=100&next=MQ%3D%3D" => json!({
            "models": [{"id": "t2", "destinations_count": 0}], "pagination": {"next": null, "prev": "MA=="}, "count": 2,
        }),
        "/api/v1/tenants/Tenant%201/destinations" => json!([
            destination("des_1", json!({})),
            destination("des_2", json!({"topics": "*", "disabled_at": "2026-05-03T00:00:00Z"})),
            destination("des_3", json!({"type": "aws_sqs", "config": {"queue_url": "https://sqs.example/q"}})),
            destination("des_4", json!({"filter": {"data": {"amount": {"$gte": 100}}}})),
            destination("des_5", json!({"config": {"url": "https://h.example/", "custom_headers": "no json"}})),
        ]),
        "/api/v1/tenants/t2/destinations" => json!([]),
        _ => return None,
    })
}

#[tokio::test]
async fn destinations_of_outpost_are_taken_over() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let url = receiver.url("/");
    let fake = Fake::start(move |path| outpost(path, &url)).await;
    let report = fake.import(&server, "outpost", &["--create-tenants", "--skip-refused"]).await.json();
    assert_eq!((&report["new"], &report["tenants"]), (&json!(2), &json!(["tenant-1"])), "{report}");
    expect_refused(&report, "des_3", "aws_sqs");
    expect_refused(&report, "des_4", "filter");
    expect_refused(&report, "des_5", "custom_headers");
    let off = shown(&server, "tenant-1", "des_2").await;
    assert_eq!((&off["disabled_at"], &off["topic_patterns"]), (&json!("2026-05-03T00:00:00.000000Z"), &json!([">"])));
    publish(&server, "tenant-1", "shop.paid").await;
    let request = verified(&receiver, "outpost", secret("a secret of Outpost's")).await;
    assert_eq!((request.header("x-team"), request.header("x-outpost-region")), ("blue", "eu"));
    assert_eq!(request.header("x-outpost-topic"), "shop.paid");
    server.stop().await;
}

fn hook0(path: &str, url: &str) -> Option<Value> {
    const ORGANIZATION: &str = "9a1d1b0c-0000-4000-8000-000000000001";
    const ONE: &str = "9a1d1b0c-0000-4000-8000-00000000000a";
    const TWO: &str = "9a1d1b0c-0000-4000-8000-00000000000b";
    let subscription = |number: u128, labels: Value, more: Value| {
        let id = uuid::Uuid::from_u128(number);
        let mut subscription = json!({
            "application_id": ONE, "subscription_id": id, "is_enabled": true, "event_types": ["shop.order.paid"],
            "description": null, "secret": "c2b0f0aa-0000-4000-8000-000000000001", "metadata": {}, "labels": labels,
            "target": {"type": "http", "method": "PUT", "url": format!("{url}{number}"), "headers": {"x-team": ["blue"]}},
            "created_at": "2026-05-01T08:09:00Z", "updated_at": "2026-05-01T08:09:00Z", "dedicated_workers": [],
            "retry_schedule_id": null,
        });
        subscription.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        subscription
    };
    let all = || json!({"all": "yes"});
    Some(match path {
        "/api/v1/organizations" => json!([{"organization_id": ORGANIZATION, "name": "o"}]),
        path if path == format!("/api/v1/applications?organization_id={ORGANIZATION}") => {
            json!([{"application_id": ONE, "name": "one"}, {"application_id": TWO, "name": "two"}])
        }
        path if path == format!("/api/v1/subscriptions?application_id={ONE}") => json!({
            "page": [subscription(1, all(), json!({}))], "link": "a%3D",
        }),
        path if path == format!("/api/v1/subscriptions?application_id={ONE}&pagination_cursor=a%3D") => {
            json!([subscription(2, all(), json!({"is_enabled": false, "retry_schedule_id": ORGANIZATION})),])
        }
        path if path == format!("/api/v1/subscriptions?application_id={TWO}") => {
            json!([subscription(3, json!({"who": "a"}), json!({})), subscription(4, json!({"who": "b"}), json!({}))])
        }
        _ => return None,
    })
}

#[tokio::test]
async fn subscriptions_of_hook0_are_taken_over() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let url = receiver.url("/");
    let fake = Fake::start(move |path| hook0(path, &url)).await;
    let report = fake.import(&server, "hook0", &["--create-tenants", "--skip-refused"]).await.json();
    assert_eq!(outcomes(&report), ["new", "new", "refused", "refused"], "{report}");
    let name = |number: u128| uuid::Uuid::from_u128(number).to_string();
    expect_refused(&report, &name(3), "its labels");
    assert!(told(&report, &name(1))["notes"].to_string().contains("its labels"), "{report}");
    let tenant = "t-9a1d1b0c-0000-4000-8000-00000000000a";
    let one = shown(&server, tenant, &name(1)).await;
    assert_eq!((&one["uuid"], &one["method"]), (&json!(name(1)), &json!("PUT")), "it keeps its id");
    assert_eq!(shown(&server, tenant, &name(2)).await["enabled"], false);
    publish(&server, tenant, "shop.order.paid").await;
    let request = verified(&receiver, "hook0", secret("c2b0f0aa-0000-4000-8000-000000000001")).await;
    assert_eq!((request.method.as_str(), request.header("x-team")), ("PUT", "blue"));
    server.stop().await;
}

#[tokio::test]
async fn an_api_that_is_none_or_has_no_end_is_said_to_be() {
    let (folder, server) = TestServer::in_new_folder().await;
    let html = Fake::start_saying(|_| Some("<html>Sign in</html>".to_owned())).await;
    let strange = Fake::start(|_| Some(json!({"data": "none"}))).await;
    let endless = Fake::start(|path| {
        let number: u32 = path.rsplit_once('=').and_then(|(_, number)| number.parse().ok()).unwrap_or(0);
        Some(json!({"data": [], "iterator": (number + 1).to_string(), "done": false}))
    })
    .await;
    let full = Fake::start(|path| {
        let items: Vec<Value> = (0..2_000).map(|_| json!({})).collect();
        Some(json!({"data": items, "iterator": path, "done": false}))
    })
    .await;
    let circle = Fake::start(|_| Some(json!({"data": [], "iterator": "same", "done": false}))).await;
    for (fake, reason) in [
        (&html, "did not answer in JSON"),
        (&strange, "in another form than was expected"),
        (&endless, "more than 1000 pages"),
        (&full, "has more than 10000 app"),
        (&circle, "gives the same page of app again and again"),
    ] {
        let said = fake.import(&server, "svix", &[]).await;
        assert!(said.code == Some(1) && said.err.contains(reason), "{reason}: {said:?}");
    }
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, "another token").unwrap();
    let said = import(&server, &["svix", "--url", &html.url, "--token-file", wrong.to_str().unwrap()]).await;
    assert!(said.err.contains("does not let the token of --token-file in (401"), "{said:?}");
    assert!(!said.err.contains("another token"), "{said:?}");
    let said = import(&server, &["svix", "--url", "http://127.0.0.1:1", "--token-file", wrong.to_str().unwrap()]).await;
    assert!(said.code == Some(1) && said.err.contains("cannot reach"), "{said:?}");
    let export = |text: &str| {
        let path: &Path = &folder.path().join("export.json");
        fs::write(path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (text, reason) in [
        ("no json", "cannot read"),
        ("{}", "the document has no \"applications\""),
        (r#"{"applications": {}}"#, "is no list"),
        (r#"{"applications": [{}]}"#, "the document has no \"endpoints\""),
    ] {
        let said = import(&server, &["svix", "--export", &export(text)]).await;
        assert!(said.code == Some(1) && said.err.contains(reason), "{text}: {said:?}");
    }
    let said = import(
        &server,
        &["svix", "--export", &export(r#"{"applications": [{"endpoints": [5, {"id": "e"}]}]}"#), "--json"],
    )
    .await;
    assert_eq!(outcomes(&said.json()), ["refused", "refused"], "{said:?}");
    server.stop().await;
}
