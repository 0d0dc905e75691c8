//! What the vendors' own libraries make, at our doors: requests to inlets, and CloudEvents.

#[path = "../library/vendors/run.rs"]
mod run;

use serde_json::{Value, json};

use crate::support::receiver::TestReceiver;
use crate::support::server::{Answer, TestServer};

const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Which library makes requests of a signature, in which language.
const SENDERS: [(&str, &str, &str); 8] = [
    ("stripe", "node", "stripe"),
    ("github", "node", "octokit"),
    ("standard", "node", "standardwebhooks"),
    ("svix", "node", "svix"),
    ("stripe", "python", "stripe"),
    ("slack", "python", "slack"),
    ("standard", "python", "standardwebhooks"),
    ("svix", "python", "svix"),
];

async fn send(server: &TestServer, path: &str, request: &Value, more: &str, change: &str) -> Answer {
    let headers = request["headers"].as_object().unwrap();
    let lines = headers.iter().flat_map(|(name, value)| [name, ": ", value.as_str().unwrap(), "\r\n"]);
    let lines: String = lines.collect();
    let body = format!("{}{change}", request["body"].as_str().unwrap());
    server.request("POST", path, &format!("{lines}{more}"), body.as_bytes()).await
}

#[tokio::test]
#[ignore = "needs the vendors' libraries: scripts/test --vendors"]
async fn what_the_vendors_own_libraries_sign_comes_in_and_what_was_changed_does_not() {
    let (_folder, server) = TestServer::in_new_folder().await;
    for (signature, language, library) in SENDERS {
        let named = format!("{library}-{language}");
        let secret = if matches!(signature, "standard" | "svix") { STANDARD_SECRET } else { "whsec_text_of_its_own" };
        let inlet =
            json!({"name": named, "signature": signature, "secrets": [secret], "topic": format!("from.{named}")});
        let inlet = server.post("/api/v1/inlets", &inlet.to_string()).await.expect(201);
        let at = inlet["path"].as_str().unwrap();
        let body = json!({"id": named, "type": "made", "größe": 22}).to_string();
        let case = json!({"library": library, "secret": secret, "id": named, "body": body});
        let request = run::run("make", language, &[case]).remove(0);
        assert_eq!(send(&server, at, &request, "", " ").await.status, 401, "{named}");
        let receipt = send(&server, at, &request, "", "").await.expect(202);
        if signature != "slack" {
            assert_eq!(receipt["id"], named);
        }
        let stored = server.get(&format!("/api/v1/events?topic=from.{named}")).await.expect(200);
        assert_eq!(stored["items"][0]["payload"].to_string(), body);
    }
    server.stop().await;
}

#[tokio::test]
#[ignore = "needs the vendors' libraries: scripts/test --vendors"]
async fn cloudevents_of_their_own_libraries_come_in_and_go_on() {
    let (_folder, server) = TestServer::in_new_folder().await;
    let receiver = TestReceiver::healthy().await;
    let webhook = json!({"name": "on", "url": receiver.url("/"), "topic_patterns": [">"], "shape": "cloudevents"});
    server.post("/api/v1/webhooks", &webhook.to_string()).await.expect(201);
    let token = format!("Authorization: Bearer {}\r\n", server.admin);
    for (at, (language, mode)) in
        [("node", "structured"), ("node", "binary"), ("python", "structured"), ("python", "binary")]
            .into_iter()
            .enumerate()
    {
        let data = json!({"n": 1.5, "text": "größe"});
        let library = format!("cloudevents_{mode}");
        let case = json!({"library": library, "secret": "", "id": mode, "body": data.to_string()});
        let request = run::run("make", language, &[case]).remove(0);
        let receipt = send(&server, "/api/v1/events", &request, &token, "").await.expect(202);
        assert_eq!(receipt["id"], format!("/{language}#{mode}"), "{request}");
        let on: Value = serde_json::from_slice(&receiver.wait_for(at + 1).await[at].body).unwrap();
        for (name, value) in [
            ("specversion", "1.0"),
            ("type", "com.example.made"),
            ("source", &format!("/{language}")),
            ("subject", "größe 1"),
            ("comexampleextension", "a \"b\" %"),
        ] {
            assert_eq!(on[name], value, "{language} {mode}: {request}");
        }
        assert_eq!(on["data"], data, "{language} {mode}");
        assert!(on["time"].as_str().unwrap().starts_with("2026-09-21T14:13:20"), "{on}");
    }
    server.stop().await;
}
