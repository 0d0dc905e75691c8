//! Published vectors of vendors, what profiles may be, and which may share a key.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::*;
use crate::clock::UnixMicros;
use crate::signing::{
    DEFAULT_TOLERANCE_S, Ed25519Key, MAX_SIGNATURES, Secret, SigningKeys, StandardKey, decnet_signature, header,
    profile, profiles, verify_decnet, verify_ed25519, verify_standard,
};

const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);
const BODY: &[u8] = br#"{"a":1}"#;

fn keys_of(secret: &str) -> SigningKeys {
    let mut keys = SigningKeys::new(Secret::parse_foreign(secret).unwrap(), StandardKey::generate());
    keys.need_ed25519();
    keys
}

fn request(at: UnixMicros, body: &[u8]) -> Signing<'_> {
    Signing {
        method: "POST",
        path: "/hook?a=1",
        id: "msg_1",
        now: at,
        body,
        event_id: "evt_1",
        kind: "order.paid",
        topic: Some("orders.7"),
    }
}

fn pairs(plan: &Plan, keys: &SigningKeys, at: UnixMicros, body: &[u8]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let signing = request(at, body);
    let mut push = |name: &str, value: &[u8]| {
        pairs.push((name.to_owned(), String::from_utf8(value.to_vec()).unwrap()));
        Ok::<(), ()>(())
    };
    plan.sign(keys, &signing, &mut push).unwrap();
    plan.describe(&signing, &mut push).unwrap();
    pairs
}

fn map(pairs: &[(String, String)]) -> HeaderMap {
    let parsed =
        |(name, value): &(String, String)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    pairs.iter().map(parsed).collect()
}

fn receiver_keys(keys: &SigningKeys) -> Vec<ReceiverKey> {
    vec![
        ReceiverKey::Secret(keys.decnet.clone()),
        ReceiverKey::Standard(keys.standard.clone()),
        ReceiverKey::Ed25519(keys.ed25519.as_ref().unwrap().public()),
    ]
}

fn verified(plan: &Plan, keys: &[ReceiverKey], headers: &HeaderMap, body: &[u8]) -> Result<Verified, Unverified> {
    let head = Head { method: "POST", path: "/hook?a=1", headers };
    verify(plan, keys, head, body, NOW, DEFAULT_TOLERANCE_S)
}

/// The pages of GitHub and Slack on verification, and the vectors in the repositories of Convoy and Hook0.
#[test]
fn published_vectors_come_out_and_verify() {
    let convoy =
        (1_700_000_000, "convoy-webhook-secret", r#"{"event":"charge.success","amount":1000,"currency":"NGN"}"#);
    let slack = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
        &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
        &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
        &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    for (name, (at, secret, body), header, expected) in [
        (
            "github",
            (0, "It's a Secret to Everybody", "Hello, World!"),
            "X-Hub-Signature-256",
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        ),
        (
            "slack",
            (1_531_420_618, "8f742231b10e8888abcd99yyyzzz85a5", slack),
            "X-Slack-Signature",
            "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        ),
        (
            "convoy_simple",
            convoy,
            "X-Convoy-Signature",
            "244449b7f48cbc2709060c9dcdc2b3aa47a78f540430579015c579fb12defbb4",
        ),
        (
            "convoy",
            convoy,
            "X-Convoy-Signature",
            "t=1700000000,v1=77b8b9269f25a199846a55a2bd25b3fba151c70fdae60bb1dcd87fbbc943c55c",
        ),
        (
            "hook0",
            (1_800_000_000, "a-subscription-secret", r#"{"event":"user.created"}"#),
            "X-Hook0-Signature",
            "t=1800000000,v0=d17d66b66fca89390c5b967c45e8928fc732db07a0aabe8167b1e98213081ffe",
        ),
    ] {
        let (plan, keys, at) = (profile(name).unwrap(), keys_of(secret), UnixMicros(at * 1_000_000));
        let pairs = pairs(plan, &keys, at, body.as_bytes());
        let value = &pairs.iter().find(|(name, _)| name == header).unwrap().1;
        assert_eq!(value, expected, "{name}");
        let headers = map(&pairs);
        let head = Head { method: "GET", path: "/", headers: &headers };
        let keys = receiver_keys(&keys);
        assert!(verify(plan, &keys, head, body.as_bytes(), at, 0).is_ok(), "{name}");
        assert_eq!(verify(plan, &keys, head, b"{}", at, 0), Err(Unverified::NoMatch), "{name}");
    }
}

/// The other hashes and base64, of Convoy's vectors.
#[test]
fn published_vectors_of_other_hashes_and_encodings_come_out() {
    let body = r#"{"event":"charge.success","amount":1000,"currency":"NGN"}"#;
    for (hash, encoding, expected) in [
        (Hash::Sha256, Encoding::Base64, "t=1700000000,v1=d7i5Jp8loZmEalWivSWz+6FRxw/a5gux3Nh/u8lDxVw="),
        (
            Hash::Sha512,
            Encoding::Hex,
            "t=1700000000,v1=b2122e252cd2582cf225cb2b8d4ceede9e34329e2fe95c02619c3ed5d4a3d9a73e6beaf2dff8e76d71a693ae198cee40685eed12ad4ee2e033dc2d0399ede057",
        ),
        (
            Hash::Sha512,
            Encoding::Base64,
            "t=1700000000,v1=shIuJSzSWCzyJcsrjUzu3p40Mp4v6VwCYZw+1dSj2ac+a+ry3/jnbXGmk64ZjO5AaF7tEq1O4uAz3C0Dme3gVw==",
        ),
    ] {
        let plan = Plan::new(Profile { hash, encoding, ..profile("convoy").unwrap().profile().clone() }).unwrap();
        let pairs = pairs(&plan, &keys_of("convoy-webhook-secret"), UnixMicros(1_700_000_000_000_000), body.as_bytes());
        assert_eq!(pairs[0].1, expected, "{hash:?} {encoding:?}");
    }
}

/// The refusals of Convoy's and Hook0's vectors.
#[test]
fn what_vendors_refuse_is_refused() {
    let (convoy, body) =
        (profile("convoy").unwrap(), br#"{"event":"charge.success","amount":1000,"currency":"NGN"}"#.as_slice());
    let keys = [ReceiverKey::Secret(Secret::parse("convoy-webhook-secret").unwrap())];
    let (good, other) = (
        "77b8b9269f25a199846a55a2bd25b3fba151c70fdae60bb1dcd87fbbc943c55c",
        "449623e4897bbde05e35358293f97b8c2f697367ffa3e7466e98178dfba44d19",
    );
    let malformed = Err(Unverified::Malformed("X-Convoy-Signature".to_owned()));
    let too_late = Err(Unverified::OutsideTolerance { distance_s: 301, tolerance_s: 300 });
    let matching = |signature| Ok(Verified { key: 0, signature, timestamp: Some(1_700_000_000), id: None });
    for (value, late_s, expected) in [
        (format!("t=1700000000,v1={good}"), 300, matching(0)),
        (format!("v1={good},t=1700000000"), 0, matching(0)),
        (format!("t=1700000000,v1={other},v1={good}"), 0, matching(1)),
        (format!("t=1700000000, v2={good}, v1={good}"), 0, matching(0)),
        (format!("t=1700000000,v1={}0", &good[..63]), 0, Err(Unverified::NoMatch)),
        (format!("t=1700000000,v1={other}"), 0, Err(Unverified::NoMatch)),
        ("t=1700000000,v1=1234567890".to_owned(), 0, Err(Unverified::NoMatch)),
        (format!("t=1700000000,v1={good}"), 301, too_late.clone()),
        (format!("t=1700000000,v1={good}"), -301, too_late),
        (format!("t=Infinity,v1={good}"), 0, malformed.clone()),
        (format!("t=+1700000000,v1={good}"), 0, malformed.clone()),
        (format!("v1={good},v2={good}"), 0, malformed.clone()),
        ("t=1700000000".to_owned(), 0, malformed.clone()),
        (String::new(), 0, malformed),
    ] {
        let headers = map(&[("x-convoy-signature".to_owned(), value.clone())]);
        let head = Head { method: "POST", path: "/", headers: &headers };
        let now = UnixMicros((1_700_000_000 + late_s) * 1_000_000);
        assert_eq!(verify(convoy, &keys, head, body, now, 300), expected, "{value}");
    }
}

#[test]
fn every_profile_verifies_what_it_signs_and_nothing_that_was_changed() {
    for plan in profiles().filter(|plan| plan.signs()) {
        let (keys, name) = (keys_of("0123456789abcdef"), &plan.profile().name);
        let pairs = pairs(plan, &keys, NOW, BODY);
        let (headers, receiver) = (map(&pairs), receiver_keys(&keys));
        let found = verified(plan, &receiver, &headers, BODY).unwrap();
        assert_eq!(found.signature, 0, "{name}");
        assert_eq!(verified(plan, &receiver, &headers, b"{}"), Err(Unverified::NoMatch), "{name}");
        let others = receiver_keys(&keys_of("0123456789abcdeg"));
        assert_eq!(verified(plan, &others, &headers, BODY), Err(Unverified::NoMatch), "{name}");
        assert_eq!(verified(plan, &[], &headers, BODY), Err(Unverified::NoKey), "{name}");
        for (field, header) in plan.profile().named_headers().filter(|(field, _)| *field != "previous_header") {
            let mut without = headers.clone();
            without.remove(header);
            assert_eq!(
                verified(plan, &receiver, &without, BODY),
                Err(Unverified::Missing(header.to_owned())),
                "{name} {field}"
            );
            let mut twice = headers.clone();
            twice.append(HeaderName::from_bytes(header.as_bytes()).unwrap(), headers[header].clone());
            let expected = Err(Unverified::Malformed(header.to_owned()));
            assert_eq!(verified(plan, &receiver, &twice, BODY), expected, "{name} {field}");
        }
    }
}

#[test]
fn the_rows_of_decnet_and_standard_webhooks_say_what_their_own_code_does() {
    let keys = keys_of("0123456789abcdef");
    let headers = |name: &str| map(&pairs(profile(name).unwrap(), &keys, NOW, BODY));
    let decnet = headers("decnet");
    assert_eq!(decnet[header::DECNET_SIGNATURE], decnet_signature(&keys.decnet, BODY));
    verify_decnet(&keys.decnet, &decnet, BODY).unwrap();
    verify_standard(&keys.standard, &headers("standard"), BODY, NOW, 0).unwrap();
    let public = keys.ed25519.as_ref().map(Ed25519Key::public).unwrap();
    verify_ed25519(&public, &headers("ed25519"), BODY, NOW, 0).unwrap();
    for (name, schemes) in
        [("standard", crate::signing::Scheme::Standard), ("ed25519", crate::signing::Scheme::Ed25519)]
    {
        let own = keys.webhook_signature(&[schemes], "msg_1", NOW, BODY).unwrap();
        assert_eq!(headers(name)[header::WEBHOOK_SIGNATURE], own);
    }
}

#[test]
fn during_a_rotation_keys_show_as_the_profile_says() {
    let first = keys_of("first-secret-of-it");
    let hour = Duration::from_hours(1);
    let second = first.rotated(keys_of("second-secret-of-it"), hour, NOW).unwrap();
    let third = second.rotated(keys_of("third-secret-of-it"), hour, NOW).unwrap();
    for plan in profiles().filter(|plan| plan.signs()) {
        let name = &plan.profile().name;
        let headers = map(&pairs(plan, &third, NOW, BODY));
        let position =
            |keys: &SigningKeys| verified(plan, &receiver_keys(keys), &headers, BODY).ok().map(|found| found.signature);
        let found = [&third, &second, &first].map(position);
        let expected = match plan.profile().rotation {
            Rotation::Append | Rotation::List => [Some(0), Some(1), Some(2)],
            Rotation::Header => [Some(0), Some(1), None],
            Rotation::Newest => [Some(0), None, None],
            Rotation::Oldest => [None, None, Some(0)],
        };
        assert_eq!(found, expected, "{name}");
        let after = map(&pairs(plan, &third, NOW.after(hour), BODY));
        let head = Head { method: "POST", path: "/hook?a=1", headers: &after };
        let late = NOW.after(hour);
        assert!(verify(plan, &receiver_keys(&third), head, BODY, late, 0).is_ok(), "{name}");
        assert!(verify(plan, &receiver_keys(&second), head, BODY, late, 0).is_err(), "{name}");
    }
    let value = |name: &str, header: &str| {
        let pairs = pairs(profile(name).unwrap(), &second, NOW, BODY);
        pairs.into_iter().find(|(name, _)| name == header).unwrap().1
    };
    let shape = |value: String| value.replace(|c: char| c.is_ascii_hexdigit() && c != 'v', "");
    assert_eq!(value("stripe", "Stripe-Signature").matches("v1=").count(), 2);
    assert_eq!(shape(value("outpost", "x-outpost-signature")), "v=,");
}

#[test]
fn a_profile_of_one_s_own_may_cover_method_and_path_and_have_text_around() {
    let plan = Plan::new(Profile {
        name: "acme".into(),
        header: "X-Acme".into(),
        hash: Hash::Sha512,
        encoding: Encoding::Base64,
        content: "{method}\n{path}\n{id}\n{timestamp}\n{body}".into(),
        value: "keyId=a; ts={timestamp}; sig=\"{signature}\"".into(),
        separator: "; ".into(),
        id_header: Some("X-Acme-Id".into()),
        key: KeyKind::Standard,
        ..profile("stripe").unwrap().profile().clone()
    })
    .unwrap();
    let keys = keys_of("s");
    let pairs = pairs(&plan, &keys, NOW, BODY);
    assert_eq!(pairs[0], ("X-Acme-Id".to_owned(), "msg_1".to_owned()));
    assert!(pairs[1].1.starts_with("keyId=a; ts=1790000000; sig=\"") && pairs[1].1.ends_with("==\""), "{pairs:?}");
    let (headers, keys) = (map(&pairs), receiver_keys(&keys));
    let head = Head { method: "POST", path: "/hook?a=1", headers: &headers };
    let found = verify(&plan, &keys, head, BODY, NOW, 0).unwrap();
    assert_eq!((found.id.as_deref(), found.timestamp, found.key), (Some("msg_1"), Some(1_790_000_000), 1));
    for head in [Head { method: "PUT", ..head }, Head { path: "/hook", ..head }] {
        assert_eq!(verify(&plan, &keys, head, BODY, NOW, 0), Err(Unverified::NoMatch));
    }
}

#[test]
fn a_token_is_verified_and_never_sent() {
    let plan = profile("gitlab").unwrap();
    let keys = keys_of("sEcr3t");
    assert!(pairs(plan, &keys, NOW, BODY).is_empty());
    let headers = |token: &str| map(&[("X-Gitlab-Token".to_owned(), token.to_owned())]);
    assert!(verified(plan, &receiver_keys(&keys), &headers("sEcr3t"), b"anything").is_ok());
    for token in ["sEcr3", "sEcr3t ", "secr3t", "sEcr3t,x"] {
        let expected = if token.ends_with(' ') { Ok(()) } else { Err(Unverified::NoMatch) };
        let found = verified(plan, &receiver_keys(&keys), &headers(token.trim()), BODY).map(drop);
        assert_eq!(found, expected, "{token}");
    }
}

#[test]
fn other_people_s_types_and_topics_are_sent_so_that_no_line_is_broken() {
    let plan = profile("github").unwrap();
    let mut sent = Vec::new();
    let signing = Signing { kind: "größe 50%\r\nX: y", ..request(NOW, BODY) };
    let push = |_: &str, value: &[u8]| {
        sent.push(String::from_utf8(value.to_vec()).unwrap());
        Ok::<(), ()>(())
    };
    plan.describe(&signing, push).unwrap();
    assert_eq!(sent, ["gr%C3%B6%C3%9Fe%2050%25%0D%0AX:%20y", "msg_1"]);
}

#[test]
fn the_number_of_signatures_that_are_looked_at_is_bounded() {
    let (plan, keys) = (profile("outpost").unwrap(), keys_of("0123456789abcdef"));
    let good = pairs(plan, &keys, NOW, BODY)[0].1["v0=".len()..].to_owned();
    let with = |before: usize| {
        let value = format!("v0={}{good}", "00,".repeat(before));
        verified(plan, &receiver_keys(&keys), &map(&[("x-outpost-signature".to_owned(), value)]), BODY).is_ok()
    };
    assert!(with(0) && with(MAX_SIGNATURES - 1) && !with(MAX_SIGNATURES));
    let pieces = |before: usize| {
        let value = format!("{}v0={good}", "x,".repeat(before));
        verified(plan, &receiver_keys(&keys), &map(&[("x-outpost-signature".to_owned(), value)]), BODY).is_ok()
    };
    assert!(pieces(MAX_VALUE_PIECES - 1) && !pieces(MAX_VALUE_PIECES));
}

#[test]
fn text_of_a_value_is_neither_time_nor_signature() {
    let keys = keys_of("correct-horse-battery");
    for value in [
        "4,{timestamp},{signature}",
        "{timestamp},{signature},v1",
        "a,b,a,b,1,2,3,4,5,6,7,8,9,x,{timestamp}, {signature}",
    ] {
        let own = profile("stripe").unwrap().profile().clone();
        let plan = Plan::new(Profile { name: "acme".into(), value: value.into(), ..own }).unwrap();
        let headers = map(&pairs(&plan, &keys, NOW, BODY));
        assert!(verified(&plan, &receiver_keys(&keys), &headers, BODY).is_ok(), "{value}: {headers:?}");
    }
}

#[test]
fn what_cannot_be_a_profile_is_refused_with_the_reason() {
    let own = Profile { name: "acme".into(), ..profile("stripe").unwrap().profile().clone() };
    let reason = |profile: Profile| Plan::new(profile).unwrap_err().to_string();
    let long = "x".repeat(129);
    let own = || own.clone();
    for (profile, expected) in [
        (Profile { name: "".into(), ..own() }, "name: must be 1 to 64"),
        (Profile { name: "A".into(), ..own() }, "name: must be 1 to 64"),
        (Profile { name: "x".repeat(65).into(), ..own() }, "name: must be 1 to 64"),
        (Profile { header: "X Acme".into(), ..own() }, "header: \"X Acme\" is no header name"),
        (Profile { header: "X-A\r\nB".into(), ..own() }, "is no header name"),
        (Profile { header: long.clone().into(), ..own() }, "is no header name of at most 128"),
        (Profile { id_header: Some("".into()), ..own() }, "id_header: \"\" is no header name"),
        (Profile { content: format!("{{body}}{long}").into(), ..own() }, "content: has 135 bytes, the limit is 128"),
        (Profile { value: format!("{long}{{signature}}").into(), ..own() }, "value: has 140 bytes"),
        (Profile { content: "{timestamp}".into(), ..own() }, "content: must have {body} once"),
        (Profile { content: "{body}{body}".into(), ..own() }, "content: must have {body} once"),
        (
            Profile { content: "{payload}".into(), ..own() },
            "content: \"{payload}\" is no placeholder; {id}, {timestamp}",
        ),
        (Profile { content: "{body".into(), ..own() }, "\"{body\" is no placeholder"),
        (Profile { content: "body}".into(), ..own() }, "\"}\" is no placeholder"),
        (Profile { content: "{body}\r".into(), ..own() }, "content: has the character '\\r'"),
        (Profile { content: "{id}.{body}".into(), ..own() }, "has {id}, which the request does not say: set id_header"),
        (
            Profile { value: "{signature}".into(), ..own() },
            "has {timestamp}, which the request does not say: set timestamp_header, or put",
        ),
        (Profile { timestamp_header: Some("X-Time".into()), ..own() }, "timestamp_header: value has {timestamp}, too"),
        (Profile { value: "t={timestamp}".into(), ..own() }, "value: must have {signature} once"),
        (Profile { value: "{timestamp}.{signature}".into(), ..own() }, "with a separator between"),
        (Profile { value: "{signature},{signature}".into(), ..own() }, "value: must have {signature} once"),
        (Profile { value: " {signature}".into(), ..own() }, "value: must have {signature} once"),
        (Profile { value: format!("{}{{signature}}", "a,".repeat(32)).into(), ..own() }, "and at most 32 parts"),
        (Profile { value: "{signature}\n".into(), ..own() }, "value: has the character '\\n'"),
        (Profile { value: "ü{signature}".into(), ..own() }, "value: has the character 'ü'"),
        (Profile { value: "{secret}".into(), content: "{body}".into(), ..own() }, "\"{secret}\" is no placeholder"),
        (Profile { separator: "".into(), ..own() }, "separator: must be 1 to 4"),
        (Profile { separator: "a".into(), ..own() }, "separator: must be 1 to 4"),
        (Profile { separator: "=".into(), ..own() }, "separator: must be 1 to 4"),
        (Profile { separator: ",,,,,".into(), ..own() }, "separator: must be 1 to 4"),
        (Profile { rotation: Rotation::Header, ..own() }, "previous_header: goes with the rotation"),
        (Profile { previous_header: Some("X-B".into()), ..own() }, "previous_header: goes with the rotation"),
    ] {
        let found = reason(profile.clone());
        assert!(found.contains(expected), "{profile:?}: {found}");
    }
    let at_limit = Profile { content: format!("{{body}}{}", "x".repeat(122)).into(), ..own() };
    assert!(Plan::new(at_limit).is_ok());
}

#[test]
fn contents_that_may_be_the_same_bytes_are_known() {
    let plan = |content: &str| {
        let own = profile("slack").unwrap().profile().clone();
        Plan::new(Profile { content: content.to_owned().into(), id_header: Some("X-Id".into()), ..own }).unwrap()
    };
    for (one, other, expected) in [
        // A body may be anything.
        ("{body}", "{timestamp}.{body}", true),
        ("{body}", "v0:{timestamp}:{body}", true),
        ("{body}", "{body}", false),
        ("{timestamp}.{body}", "{timestamp}.{body}", false),
        // The id of one is the time of the other.
        ("{id}.{timestamp}.{body}", "{timestamp}.{body}", true),
        ("{timestamp}.{body}", "{timestamp},{body}", false),
        ("{timestamp}.{body}", "v0:{timestamp}:{body}", false),
        ("{timestamp}.{body}", "{timestamp}{body}", true),
        ("{method} {path} {body}", "{timestamp}.{body}", false),
        ("{method}{path}{body}", "v0:{timestamp}:{body}", false),
        ("{method}{path}{body}", "POST{body}", true),
        ("a{body}", "{body}b", true),
        ("a{timestamp}c{body}", "b{timestamp}c{body}", false),
    ] {
        assert_eq!(plan(one).may_be_confused_with(&plan(other)), expected, "{one} {other}");
        assert_eq!(plan(other).may_be_confused_with(&plan(one)), expected, "{other} {one}");
    }
}
