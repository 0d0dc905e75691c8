//! The signatures of other senders, on real requests: by this library's `verify`, and by the vendors' own libraries.

#[path = "vendors/run.rs"]
mod run;

use std::collections::BTreeMap;
use std::time::Duration;

use postrider::clock::{Clock, SystemClock};
use postrider::delivery::access::{Access, RawAccess};
use postrider::delivery::attempt::{Message, attempt};
use postrider::delivery::client::{Client, ClientOptions, Roots};
use postrider::signing::{
    Head, KeyKind, Profile, ReceiverKey, Secret, SignatureInput, Signatures, SigningKeys, StandardKey, profile,
    profiles, verify,
};
use postrider::webhook::Webhook;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::receivers::{Received, Receiver, client, event, read_request, webhook, write};

const EVENT: &str = r#"{"topic": "orders.7", "type": "order.paid", "id": "evt_1", "payload": {"größe": 22}}"#;

async fn receiving() -> (Receiver, UnboundedReceiver<Received>) {
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream| {
        let seen = seen.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                seen.send(request).unwrap();
                write(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    (receiver, requests)
}

fn signed_by(url: &str, keys: SigningKeys, names: &[&str]) -> Webhook {
    let given: Vec<SignatureInput> = names.iter().map(|name| (*name).into()).collect();
    let signatures = Signatures::parse(&given).unwrap();
    Webhook { signatures, keys, ..webhook(url, Duration::from_secs(5)) }
}

fn keys(secret: &str) -> SigningKeys {
    let mut keys = SigningKeys::new(Secret::parse_foreign(secret).unwrap(), StandardKey::generate());
    keys.need_ed25519();
    keys
}

fn receiver_keys(keys: &SigningKeys) -> [ReceiverKey; 3] {
    let public = keys.ed25519.as_ref().unwrap().public();
    [
        ReceiverKey::Secret(keys.decnet.clone()),
        ReceiverKey::Standard(keys.standard.clone()),
        ReceiverKey::Ed25519(public),
    ]
}

async fn deliver(client: &Client, webhook: &Webhook) {
    let event = event(EVENT);
    let outcome = attempt(client, &mut None, webhook, &Message::of(&event), "msg_1", &SystemClock).await;
    assert!(outcome.is_success(), "{outcome:?}");
}

#[tokio::test]
async fn every_profile_goes_out_in_its_vendor_s_spelling_and_verifies() {
    let (receiver, mut requests) = receiving().await;
    let client = client(Roots::WebPki);
    let url = format!("{}?tenant=a%20b", receiver.url());
    for (name, own) in [
        ("svix", &["svix-id", "svix-timestamp", "svix-signature"][..]),
        ("github", &["X-Hub-Signature-256", "X-GitHub-Event", "X-GitHub-Delivery"]),
        ("stripe", &["Stripe-Signature"]),
        (
            "shopify",
            &[
                "X-Shopify-Hmac-Sha256",
                "X-Shopify-Topic",
                "X-Shopify-Webhook-Id",
                "X-Shopify-Event-Id",
                "X-Shopify-Triggered-At",
            ],
        ),
        ("slack", &["X-Slack-Request-Timestamp", "X-Slack-Signature"]),
        ("convoy", &["X-Convoy-Signature"]),
        ("convoy_simple", &["X-Convoy-Signature"]),
        ("outpost", &["x-outpost-signature", "x-outpost-event-id", "x-outpost-topic", "x-outpost-timestamp"]),
        ("hook0", &["X-Hook0-Signature", "X-Event-Id", "X-Event-Type"]),
        ("standard", &["webhook-id", "webhook-timestamp", "webhook-signature"]),
        ("ed25519", &["webhook-id", "webhook-timestamp", "webhook-signature"]),
    ] {
        // Short secrets of other senders are taken as they are.
        let webhook = signed_by(&url, keys("whsec_x"), &[name]);
        deliver(&client, &webhook).await;
        let request = requests.recv().await.unwrap();
        let mut expected = vec!["Host", "Accept", "Accept-Encoding", "Content-Type", "User-Agent"];
        expected.extend(own);
        expected.push("Content-Length");
        assert_eq!(request.header_names, expected, "{name}: these headers and no others, in this order and spelling");
        assert_eq!(request.headers["user-agent"], concat!("Postrider/", env!("CARGO_PKG_VERSION")));
        let path = request.request_line.split(' ').nth(1).unwrap();
        let head = Head { method: "POST", path, headers: &request.headers };
        let (plan, keys) = (profile(name).unwrap(), receiver_keys(&webhook.keys));
        let verified = |body: &[u8]| verify(plan, &keys, head, body, SystemClock.now(), 300);
        assert!(verified(&request.body).is_ok(), "{name}: {:?}", verified(&request.body));
        assert!(verified(&[&*request.body, b" "].concat()).is_err(), "{name}");
    }
    assert_eq!(
        profiles().filter(|plan| plan.signs()).count(),
        12,
        "with `decnet`, of which tests/library/deliver.rs has more"
    );
}

#[tokio::test]
async fn several_signatures_stand_side_by_side_and_own_headers_replace_those_that_are_not_signed() {
    let (receiver, mut requests) = receiving().await;
    let headers = [("X-GitHub-Event".to_owned(), "push".into()), ("User-Agent".to_owned(), "Octo/1".into())];
    let access = Access::new(RawAccess { headers: headers.into(), ..RawAccess::default() }).unwrap();
    let names = ["decnet", "standard", "github", "outpost"];
    let webhook = Webhook { access, ..signed_by(&receiver.url(), keys("0123456789abcdef"), &names) };
    let options = ClientOptions {
        policy: client(Roots::WebPki).policy().clone(),
        user_agent: Some("Acme-Hooks/2".parse().unwrap()),
        ..ClientOptions::default()
    };
    let client = Client::new(options).unwrap();
    deliver(&client, &webhook).await;
    let request = requests.recv().await.unwrap();
    assert_eq!(request.headers.get_all("x-github-event").iter().collect::<Vec<_>>(), ["push"]);
    assert_eq!(request.headers.get_all("user-agent").iter().collect::<Vec<_>>(), ["Octo/1"]);
    for name in names {
        let head = Head { method: "POST", path: "/hook", headers: &request.headers };
        let keys = receiver_keys(&webhook.keys);
        verify(profile(name).unwrap(), &keys, head, &request.body, SystemClock.now(), 300).unwrap();
    }
    // The client's own goes before the original's.
    let webhook = Webhook { access: Access::default(), ..webhook };
    deliver(&client, &webhook).await;
    assert_eq!(requests.recv().await.unwrap().headers["user-agent"], "Acme-Hooks/2");
}

#[test]
fn headers_of_signatures_collide_with_nothing() {
    let faults = |given: &[SignatureInput], headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let access = Access::new(RawAccess { headers, ..RawAccess::default() }).unwrap();
        access.signature_faults(&Signatures::parse(given).unwrap())
    };
    let own = |header: &'static str, timestamp: Option<&'static str>| {
        SignatureInput::Profile(Box::new(Profile {
            name: "acme".into(),
            header: header.into(),
            timestamp_header: timestamp.map(Into::into),
            ..profile("github").unwrap().profile().clone()
        }))
    };
    assert!(faults(&["decnet".into(), "standard".into(), "ed25519".into(), "svix".into()], &[]).is_empty());
    assert!(faults(&[own("Authorization", None)], &[("X-Hub-Signature-256", "x")]).is_empty());
    for name in [
        "Host",
        "content-length",
        "Content_Type",
        "X-DECNET-Signature",
        "webhook-signature",
        "Postrider-Hops",
        "User-Agent",
        "accept",
        "Proxy-Authorization",
        "Transfer-Encoding",
    ] {
        let found = faults(&[own(name, None)], &[]);
        assert_eq!(found, [format!("\"acme\": header: {name:?} is set by Postrider itself")]);
    }
    for (given, headers, expected) in [
        (vec!["stripe".into()], vec![("stripe-signature", "x")], "\"Stripe-Signature\" is set by `headers` or `auth`"),
        (vec![own("X-A", None)], vec![("x-a", "x")], "\"X-A\" is set by `headers`"),
        (vec![own("X-A", Some("x-a"))], vec![], "timestamp_header: \"x-a\" is set by another signature"),
        (vec!["convoy".into(), "convoy_simple".into()], vec![], "\"X-Convoy-Signature\" is set by another signature"),
        (vec!["github".into(), own("x-hub-signature-256", None)], vec![], "is set by another signature"),
    ] {
        let found = faults(&given, &headers);
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
    }
}

// --- the vendors' own libraries ---

/// Which library verifies a profile, in which language, and whether it takes a request after a rotation with the newest key
/// and with that before.
const LIBRARIES: [(&str, &str, &str, [bool; 2]); 11] = [
    ("stripe", "node", "stripe", [true, true]),
    ("github", "node", "octokit", [true, false]),
    ("shopify", "node", "shopify", [false, true]),
    ("svix", "node", "svix", [true, true]),
    ("standard", "node", "standardwebhooks", [true, true]),
    ("stripe", "python", "stripe", [true, true]),
    ("slack", "python", "slack", [true, false]),
    ("convoy_simple", "python", "convoy_simple", [true, false]),
    ("hook0", "python", "hook0", [true, false]),
    ("svix", "python", "svix", [true, true]),
    ("standard", "python", "standardwebhooks", [true, true]),
];

fn secret_of(keys: &SigningKeys, kind: KeyKind) -> String {
    match kind {
        KeyKind::Secret => keys.decnet.expose().to_owned(),
        _ => keys.standard.expose().to_string(),
    }
}

#[tokio::test]
#[ignore = "needs the vendors' libraries: scripts/test --vendors"]
async fn the_vendors_own_libraries_take_our_requests_and_none_that_was_changed() {
    let (receiver, mut requests) = receiving().await;
    let client = client(Roots::WebPki);
    // What Shopify's library wants beside what Postrider knows.
    let headers = [("X-Shopify-Shop-Domain", "shop.example"), ("X-Shopify-API-Version", "2026-01")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.into()));
    let access = Access::new(RawAccess { headers: headers.into(), ..RawAccess::default() }).unwrap();
    let old = keys("whsec_text_of_its_own");
    let new = old.rotated(keys("another-secret"), Duration::from_mins(1), SystemClock.now()).unwrap();
    let mut cases: BTreeMap<&str, Vec<(Value, bool, String)>> = BTreeMap::new();
    for (name, language, library, after_rotation) in LIBRARIES {
        let kind = profile(name).unwrap().profile().key;
        let mut add = |request: &Received, secrets: &[&SigningKeys], change: &str, expected: bool| {
            let secrets: Vec<_> = secrets.iter().map(|keys| secret_of(keys, kind)).collect();
            let headers =
                request.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
            let headers: serde_json::Map<String, Value> = headers.collect();
            let body = format!("{}{change}", String::from_utf8(request.body.clone()).unwrap());
            let case = json!({"library": library, "secrets": secrets, "headers": headers, "body": body});
            let what = format!("{language} {name}, {} keys, changed by {change:?}", secrets.len());
            cases.entry(language).or_default().push((case, expected, what));
        };
        let webhook = Webhook { access: access.clone(), ..signed_by(&receiver.url(), old.clone(), &[name]) };
        deliver(&client, &webhook).await;
        let request = requests.recv().await.unwrap();
        add(&request, &[&old], "", true);
        add(&request, &[&old], " ", false);
        add(&request, &[&new], "", false);
        let webhook = Webhook { keys: new.clone(), ..webhook };
        deliver(&client, &webhook).await;
        let request = requests.recv().await.unwrap();
        let [with_new, with_old] = after_rotation;
        add(&request, &[&new], "", with_new);
        add(&request, &[&old], "", with_old);
        // Most libraries know one key; a receiver with both asks twice, as Octokit's does by itself.
        if library == "octokit" {
            add(&request, &[&new, &old], "", true);
            add(&request, &[&old, &new], "", true);
        }
        add(&request, &[&new], " ", false);
        add(&request, &[&old], " ", false);
    }
    for (language, cases) in cases {
        let given: Vec<Value> = cases.iter().map(|(case, ..)| case.clone()).collect();
        let results = run::run("verify", language, &given);
        assert_eq!(results.len(), cases.len());
        for ((_, expected, what), result) in cases.iter().zip(results) {
            assert_eq!(result["ok"], *expected, "{what}: {result}");
        }
    }
}
