//! Settings of a webhook as the API gets them: what is accepted can be stored, brought back and changed.
//! Input: the settings, then a change of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::webhook::{MAX_PATTERNS, WebhookError, WebhookPatch, WebhookSettings};
use postrider_fuzz::two_parts;

fn patch(json: &[u8]) -> Option<WebhookPatch> {
    serde_json::from_slice(json).ok()
}

fn check(settings: &WebhookSettings) {
    assert!(!settings.name.trim().is_empty() && (1..=MAX_PATTERNS).contains(&settings.topic_patterns.len()));
    assert!(settings.receiver.signatures.profiles().next().is_some());
    // As a store keeps and reads it.
    let stored = serde_json::to_string(&settings.policy_patch()).expect("it is JSON");
    let blank = r#"{"name": "blank", "url": "https://example.com/", "topic_patterns": ["a"]}"#;
    let blank = WebhookSettings::create(patch(blank.as_bytes()).expect("settings")).expect("settings");
    let read = blank.patched(&patch(stored.as_bytes()).expect("it comes back")).expect("it is still accepted");
    assert_eq!(read.policy, settings.policy);
    assert_eq!(read.receiver.access, settings.receiver.access);
    // To change nothing changes nothing.
    assert_eq!(settings.patched(&WebhookPatch::default()).as_ref(), Ok(settings));
}

fn check_errors(errors: &[WebhookError]) {
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|error| !error.field().is_empty() && !error.to_string().is_empty()));
}

fuzz_target!(|input: &[u8]| {
    let (first, second) = two_parts(input);
    let Some(given) = patch(first) else { return };
    let settings = match WebhookSettings::create(given) {
        Ok(settings) => settings,
        Err(errors) => return check_errors(&errors),
    };
    check(&settings);
    let Some(change) = patch(second) else { return };
    match settings.patched(&change) {
        Ok(changed) => check(&changed),
        Err(errors) => check_errors(&errors),
    }
});
