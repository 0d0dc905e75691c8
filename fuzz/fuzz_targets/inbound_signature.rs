//! A request of another sender at an inlet: it is verified before it is read, and what is made of it is an event. Input: the
//! settings of the inlet as JSON; the body; the path with the query; then headers, one a part, as `name: value`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::inlet::{Incoming, InletPatch, InletSettings};
use postrider_fuzz::{NOW, assert_canonical, parts};

fuzz_target!(|input: &[u8]| {
    let mut parts = parts(input);
    let Ok(patch) = serde_json::from_slice::<InletPatch>(parts.next().unwrap_or_default()) else { return };
    let Ok(settings) = InletSettings::create(&patch) else { return };
    let stored = serde_json::to_vec(&settings.stored()).expect("JSON");
    let again: InletPatch = serde_json::from_slice(&stored).expect("what is stored is taken");
    assert_eq!(InletSettings::create(&again).as_ref(), Ok(&settings));

    let body = parts.next().unwrap_or_default();
    let target = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = http::HeaderMap::new();
    for line in parts.take(16) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = http::HeaderName::from_bytes(&line[..colon]);
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let incoming = Incoming { method: "POST", path, query, headers: &headers, body };
    let verified = settings.verify(&incoming, &target, NOW);
    if verified.is_ok() && !settings.sender.secrets().is_empty() {
        // Nobody signs an empty head.
        let bare = http::HeaderMap::new();
        assert!(settings.verify(&Incoming { headers: &bare, ..incoming }, &target, NOW).is_err());
    }
    if let Some(challenge) = settings.challenge(&incoming) {
        assert!(challenge.len() <= body.len());
    }
    if let Ok(event) = settings.event(&incoming, NOW) {
        assert_canonical(event.body());
        assert_eq!(settings.event(&incoming, NOW).expect("the same again").topic(), event.topic());
    }
});
