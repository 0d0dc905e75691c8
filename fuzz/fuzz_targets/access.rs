//! How a webhook is reached, as JSON: what is accepted can be sent, and what is shown has no secret and cannot come back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider::delivery::access::{Access, RawAccess, SHOWN_SECRET};
use postrider::delivery::guard::Destination;
use serde_json::{Value, from_slice, from_value, to_value};

fuzz_target!(|input: &[u8]| {
    let Ok(raw) = from_slice::<RawAccess>(input) else { return };
    // A store keeps it as JSON.
    let stored = to_value(&raw).expect("it is JSON");
    assert_eq!(from_value::<RawAccess>(stored.clone()).expect("it comes back"), raw);
    let shown = to_value(raw.shown()).expect("it is JSON");
    let secrets = [
        "/auth/password",
        "/auth/token",
        "/auth/client_secret",
        "/client_certificate/key",
        "/headers/authorization",
        "/headers/Authorization",
    ];
    for pointer in secrets {
        assert!(shown.pointer(pointer).is_none_or(|secret| secret == SHOWN_SECRET), "{pointer}: {shown}");
    }
    assert!(!format!("{raw:?}").is_empty());
    match Access::new(raw.clone()) {
        Ok(access) => {
            assert_eq!(access.raw(), &raw);
            assert_eq!(access.is_default(), raw == RawAccess::default());
            let destination = Destination::parse("http://example.com/").expect("a URL");
            assert!(access.warnings(&destination).iter().all(|warning| warning.contains(": ")));
            // A form that is sent back as it was shown overwrites no secret.
            if secrets.iter().any(|pointer| shown.pointer(pointer).is_some_and(Value::is_string)) {
                assert!(Access::new(raw.shown()).is_err(), "the sign for a secret was taken for one: {shown}");
            }
        }
        Err(errors) => {
            let fields = ["headers", "content_type", "auth", "ca", "server_name", "client_certificate", "proxy"];
            assert!(!errors.is_empty());
            for error in errors {
                assert!(fields.contains(&error.field) && !error.to_string().is_empty());
                for pointer in secrets {
                    // A short secret may be a word of the sentence.
                    let secret = stored.pointer(pointer).and_then(Value::as_str).filter(|secret| secret.len() >= 16);
                    assert!(!secret.is_some_and(|secret| error.reason.contains(secret)), "{pointer}: {error}");
                }
            }
        }
    }
});
