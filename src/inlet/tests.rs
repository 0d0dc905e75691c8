use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::event::Event;
use crate::signing::Unverified;

const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

fn patch(json: &str) -> InletPatch {
    serde_json::from_str(json).unwrap()
}

fn settings(json: &str) -> InletSettings {
    InletSettings::create(&patch(json)).unwrap()
}

fn faults(json: &str) -> Vec<String> {
    let faults = InletSettings::create(&patch(json)).unwrap_err();
    faults.iter().map(ToString::to_string).collect()
}

fn headers(given: &[(&str, &str)]) -> HeaderMap {
    let parsed = given
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
    let mut map = HeaderMap::new();
    parsed.for_each(|(name, value)| _ = map.append(name, value));
    map
}

fn incoming<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Incoming<'a> {
    Incoming { method: "POST", path: "/orders", query: "shop=b%C3%BCro&n=1", headers, body }
}

fn event(settings: &InletSettings, given: &[(&str, &str)], body: &[u8]) -> Result<Event, String> {
    settings.event(&incoming(&headers(given), body), NOW).map_err(|error| error.to_string())
}

fn payload(event: &Event) -> String {
    String::from_utf8(event.payload_json().to_vec()).unwrap()
}

const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

#[test]
fn a_sender_is_known_to_say_type_and_id() {
    let github = settings(
        r#"{"name": "g", "signature": "github", "secrets": ["s"], "topic": "github.{header.x-github-event}"}"#,
    );
    let given = [JSON, ("x-github-event", "pull_request"), ("x-github-delivery", "72d3162e")];
    let pulled = event(&github, &given, br#"{ "number": 1.0 }"#).unwrap();
    assert_eq!(
        (pulled.id(), pulled.kind(), pulled.topic().as_str()),
        ("72d3162e", "pull_request", "github.pull_request")
    );
    assert_eq!(payload(&pulled), r#"{"number":1.0}"#);
    // Without them it is an event with an id of ours.
    let stripe = settings(r#"{"name": "s", "signature": "stripe", "secrets": ["s"], "topic": "stripe"}"#);
    let paid = event(&stripe, &[JSON], br#"{"id": "evt_1", "type": "charge.succeeded"}"#).unwrap();
    assert_eq!((paid.id(), paid.kind()), ("evt_1", "charge.succeeded"));
    let odd = event(&stripe, &[("content-type", "text/plain")], b"hello").unwrap();
    assert_eq!((odd.id().len(), odd.kind()), (36, ""));
}

#[test]
fn what_is_asked_for_must_be_there() {
    let inlet = settings(
        r#"{"name": "i", "signature": "none", "topic": "a.{/kind}", "type": "{method} {query.shop}", "id": "/n"}"#,
    );
    let made = event(&inlet, &[JSON], br#"{"kind": "x y", "n": 12345678901234567890}"#).unwrap();
    assert_eq!((made.id(), made.kind(), made.topic().as_str()), ("i/12345678901234567890", "POST büro", "a.x_y"));
    let refused = |body: &[u8]| event(&inlet, &[JSON], body).unwrap_err();
    assert_eq!(refused(br#"{"n": 1}"#), "topic: /kind is missing");
    assert_eq!(refused(br#"{"kind": "a"}"#), "id: /n is missing");
    assert_eq!(refused(br#"{"kind": "a", "n": ""}"#), "id: must not be empty");
    assert_eq!(
        refused(br#"{"kind": {}, "n": 1}"#),
        "topic: /kind is an object, must be a string, a number, true or false"
    );
    assert!(refused(b"{").starts_with("topic: the body is no JSON, and /kind looks into it"));
    let long = event(&inlet, &[JSON], format!(r#"{{"kind": "a", "n": "{}"}}"#, "x".repeat(129)).as_bytes()).unwrap();
    assert!(long.id().starts_with("sha256:") && long.id().len() == 71, "{}", long.id());
}

#[test]
fn what_is_kept_stands_beside_the_body() {
    let of = |keep: &str, given: &[(&str, &str)], body: &[u8]| {
        let json = format!(r#"{{"name": "i", "signature": "none", "topic": "t", "keep": {keep}}}"#);
        payload(&event(&settings(&json), given, body).unwrap())
    };
    let body = br#"{"b": 1.50,  "a": "\u00e4"}"#;
    assert_eq!(of("{}", &[JSON], body), r#"{"a":"ä","b":1.50}"#);
    assert_eq!(
        of(r#"{"method": true, "path": true, "query": true}"#, &[JSON], body),
        r#"{"body":{"a":"ä","b":1.50},"content_type":"application/json; charset=utf-8","method":"POST","path":"/orders","query":"shop=b%C3%BCro&n=1"}"#
    );
    assert_eq!(
        of(r#"{"headers": ["X-A", "X-None"], "bytes": true}"#, &[JSON, ("x-a", "1"), ("x-a", "2")], b"{}"),
        r#"{"body_base64":"e30=","content_type":"application/json; charset=utf-8","headers":{"x-a":"1, 2"}}"#
    );
    assert_eq!(
        of("{}", &[("content-type", "text/plain")], b"\xff"),
        r#"{"body_base64":"/w==","content_type":"text/plain"}"#
    );
    assert_eq!(of("{}", &[], b""), r#"{"body_base64":""}"#);
    // What is no JSON does not reach out of its place.
    let keep = r#"{"name": "i", "signature": "none", "topic": "t", "keep": {"path": true}}"#;
    for body in [&b"1,\"method\":\"x\""[..], b"{} {}", b"", b"{\"a\":1,\"a\":2}"] {
        assert!(event(&settings(keep), &[JSON], body).unwrap_err().starts_with("invalid JSON"), "{body:?}");
    }
}

#[test]
fn slack_is_answered_and_nobody_else() {
    let challenge = |signature: &str, body: &[u8]| {
        let json = format!(r#"{{"name": "i", "signature": "{signature}", "secrets": ["s"], "topic": "t"}}"#);
        settings(&json).challenge(&incoming(&HeaderMap::new(), body))
    };
    let body = br#"{"token": "x", "challenge": "3eZb\u0072z40pa", "type": "url_verification"}"#;
    assert_eq!(challenge("slack", body).as_deref(), Some("3eZbrz40pa"));
    assert_eq!(challenge("github", body), None);
    assert_eq!(challenge("slack", br#"{"type": "event_callback", "event": {"text": "url_verification"}}"#), None);
    assert_eq!(challenge("slack", br#"{"type": "url_verification", "challenge": {}}"#), None);
    assert_eq!(challenge("slack", b"url_verification"), None);
}

#[test]
fn two_secrets_are_good_while_one_is_changed() {
    let old = settings(r#"{"name": "i", "signature": "gitlab", "secrets": ["old"], "topic": "t"}"#);
    let verified = |settings: &InletSettings, token: &str| {
        settings.verify(&incoming(&headers(&[("x-gitlab-token", token)]), b""), "/", NOW)
    };
    let both = old.patched(&patch(r#"{"secrets": ["new", "…"]}"#)).unwrap();
    assert_eq!((verified(&both, "old"), verified(&both, "new")), (Ok(()), Ok(())));
    assert_eq!(both.patched(&patch(r#"{"secrets": ["…", "…"], "topic": "u"}"#)).unwrap().sender, both.sender);
    assert_eq!(both.patched(&patch(r#"{"topic": "u"}"#)).unwrap().sender, both.sender);
    let new = both.patched(&patch(r#"{"secrets": ["…"]}"#)).unwrap();
    assert_eq!((verified(&new, "old"), verified(&new, "new")), (Err(Unverified::NoMatch), Ok(())));
    let moved = new.patched(&patch(r#"{"signature": "github"}"#)).unwrap_err();
    assert_eq!(moved[0].to_string(), "secrets: has 0, must have 1 or 2");
    let none = new.patched(&patch(r#"{"signature": "none"}"#)).unwrap();
    assert_eq!(verified(&none, "anything"), Ok(()));
    // As it is stored it comes back.
    for settings in [&old, &both, &none] {
        let stored = serde_json::to_string(&settings.stored()).unwrap();
        assert_eq!(&InletSettings::create(&patch(&stored)).unwrap(), settings);
        assert!(!format!("{settings:?}{:?}", settings.stored()).contains("old"), "no secret is shown");
    }
}

#[test]
fn wrong_settings_are_refused_with_their_fields() {
    assert_eq!(
        faults("{}"),
        [
            "name: must have 1 to 64 characters, none of them a control character",
            "signature: is required; `none` takes requests of anyone who knows the URL",
            "topic: must not be empty",
        ]
    );
    let fault = |fields: &str| {
        let mut all = r#"{"name": "i", "signature": "none", "topic": "t"}"#.parse::<serde_json::Value>().unwrap();
        let given: serde_json::Value = serde_json::from_str(fields).unwrap();
        all.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        let mut faults = faults(&all.to_string());
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    };
    let many = vec!["X-A"; MAX_KEPT_HEADERS + 1];
    for (fields, expected) in [
        (r#"{"signature": "hubgit", "secrets": ["s"]}"#, "signature: there is no signature \"hubgit\""),
        (r#"{"secrets": ["s"]}"#, "secrets: are for a signature alone"),
        (r#"{"signature": "bearer", "secrets": ["s"]}"#, "secrets: are for a signature alone"),
        (r#"{"signature": "github"}"#, "secrets: has 0, must have 1 or 2"),
        (r#"{"signature": "github", "secrets": ["a", "b", "c"]}"#, "secrets: has 3, must have 1 or 2"),
        (r#"{"signature": "github", "secrets": ["…"]}"#, "secrets: … is the sign that stands for a secret"),
        (r#"{"signature": "standard", "secrets": ["abc"]}"#, "secrets: a Standard Webhooks key is whsec_"),
        (r#"{"signature": "ed25519", "secrets": ["abc"]}"#, "secrets: an Ed25519 public key is whpk_"),
        (r#"{"signature": {"name": "a", "header": "X-A", "content": "{id}"}, "secrets": ["s"]}"#, "signature: "),
        (r#"{"tolerance_s": 0}"#, "tolerance_s: is 0, must be 1 to 86400"),
        (r#"{"tolerance_s": 86401}"#, "tolerance_s: is 86401, must be 1 to 86400"),
        (r#"{"topic": "a b"}"#, "topic: \"a b\" is no topic"),
        (r#"{"topic": "{subject}"}"#, "topic: there is no attribute \"subject\"; there are header.NAME"),
        (r#"{"type": "{header.}"}"#, "type: there is no attribute \"header.\""),
        (r#"{"id": "{/a~2}"}"#, "id: \"/a~2\" is no JSON pointer"),
        (r#"{"keep": {"headers": ["Authorization"]}}"#, "keep: \"Authorization\" is a credential"),
        (r#"{"keep": {"headers": ["X A"]}}"#, "keep: \"X A\" is no name of a header"),
        (&serde_json::json!({"keep": {"headers": many}}).to_string(), "keep: has 33 headers, the limit is 32"),
        (&serde_json::json!({"name": "n".repeat(65)}).to_string(), "name: must have 1 to 64"),
    ] {
        let found = fault(fields);
        assert!(found.starts_with(expected), "{fields}: {found}");
    }
}
