//! Settings of the server: durations and sizes, and a whole configuration file.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use postrider::config::{Config, RawConfig, Size, Span, parse_span};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(span) = text.parse::<Span>() {
        assert_eq!(parse_span(text), Ok(span.0));
        // What is shown has no less than milliseconds.
        let shown: Span = span.to_string().parse().expect("what is shown parses");
        let to_ms = Duration::from_millis(u64::try_from(span.0.as_millis()).expect("as many as fit"));
        assert_eq!(shown.0, to_ms, "{text:?} is shown as {span}");
        assert_eq!(shown.to_string(), span.to_string());
    }
    if let Ok(size) = text.parse::<Size>() {
        assert_eq!(size.to_string().parse(), Ok(size), "{text:?} is shown as {size}");
    }
    let Ok(raw) = toml::from_str::<RawConfig>(text) else { return };
    let written = toml::to_string(&raw).expect("it is TOML");
    let read: RawConfig = toml::from_str(&written).expect("it comes back");
    assert_eq!(toml::to_string(&read).as_ref(), Ok(&written));
    match Config::builtin(&raw) {
        Ok(config) => assert!(!config.shown.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
