//! What fuzz targets share. Inputs are text where that is possible, so that seeds can be read and mutations stay near
//! to what a parser expects; where a target needs several, they stand one after the other with [`SEPARATOR`] between.

use std::sync::LazyLock;

use postrider::clock::UnixMicros;
use postrider::shape::Context;
use serde_json::Value;
use serde_json::value::RawValue;

/// Between the parts of an input: ASCII's record separator, which JSON has only escaped.
pub const SEPARATOR: u8 = 0x1e;

/// The present of every target.
pub const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

static NO_METADATA: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();

/// What a template knows beside the event.
pub const CONTEXT: Context<'static> = Context {
    webhook_metadata: &NO_METADATA,
    webhook_name: "soc",
    webhook_id: "0191f6c0-0000-7000-8000-000000000001",
    tenant: "default",
    delivery_id: "d_1",
    attempt: 1,
    now: NOW,
};

/// The parts of an input.
pub fn parts(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|byte| *byte == SEPARATOR)
}

/// The first two parts; the second is empty if there is none.
pub fn two_parts(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == SEPARATOR) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}

/// Asserts that `body` is in canonical form as far as another JSON parser sees it.
pub fn assert_canonical(body: &[u8]) {
    let text = std::str::from_utf8(body).expect("a body is UTF-8");
    let value: Box<RawValue> = serde_json::from_str(text).expect("a body is JSON to others too");
    // Of ASCII's control characters JSON has no word about the last, DEL, which stands for itself.
    assert!(value.get().bytes().all(|byte| byte >= b' '), "control characters are escaped");
    // Numbers too large for a double are JSON, and serde_json cannot hold them; what it can hold is sorted.
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        assert_eq!(value.is_object(), text.starts_with('{'));
    }
    assert_eq!(postrider::event::canonical_json(body).as_deref(), Ok(text), "canonical is what it was before");
}

/// A runtime for targets that wait; one thread, so that a run is the same each time as far as possible.
pub static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));
