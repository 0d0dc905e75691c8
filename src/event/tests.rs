//! What publishers send, and what becomes of it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// 2026-11-23T15:04:20.319007Z
const NOW: UnixMicros = UnixMicros(1_795_446_260_319_007);

fn event(json: &str) -> Event {
    Event::from_json(json.as_bytes(), NOW).unwrap()
}

fn body(json: &str) -> String {
    String::from_utf8(event(json).body().to_vec()).unwrap()
}

fn refusal(json: impl AsRef<[u8]>) -> EventError {
    Event::from_json(json.as_ref(), NOW).unwrap_err()
}

/// Where and why a text is not the JSON that Postrider takes.
fn invalid(json: impl AsRef<[u8]>) -> (usize, String) {
    match refusal(json) {
        EventError::Json { at, reason } => (at, reason),
        other => panic!("{other:?}"),
    }
}

fn with_payload(payload: &str) -> String {
    format!(r#"{{"id":"e","ts":"t","topic":"a","payload":{payload}}}"#)
}

/// The canonical form of a payload.
fn canonical(payload: &str) -> String {
    String::from_utf8(event(&with_payload(payload)).payload_json().to_vec()).unwrap()
}

#[test]
fn absent_fields_are_filled_in() {
    let made = event(r#"{"topic":"door.opened"}"#);
    let id = Uuid::parse_str(made.id()).unwrap();
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(id.get_timestamp().unwrap().to_unix(), (1_795_446_260, 319_000_000));
    assert_eq!(
        made.body(),
        &format!(
            r#"{{"id":"{id}","payload":{{}},"topic":"door.opened","ts":"2026-11-23T15:04:20.319007+00:00","type":"","v":1}}"#
        )
    );
    let empty = event(r#"{"topic":"door.opened","id":"","ts":"","type":""}"#);
    let null = event(r#"{"topic":"door.opened","id":null,"ts":null,"type":null,"payload":{}}"#);
    for other in [empty, null] {
        assert_ne!(other.id(), made.id());
        assert_eq!(other.body()[45..], made.body()[45..]);
    }
}

#[test]
fn an_event_has_the_values_of_its_fields() {
    let made = event(r#"{"v":1,"type":"a\"\u00e9","id":"\"\\","ts":"any\ntext","topic":"t.\u0061.\\","payload":[1]}"#);
    assert_eq!((made.kind(), made.id(), made.topic().as_str()), ("a\"é", "\"\\", "t.a.\\"));
    assert_eq!(made.body(), r#"{"id":"\"\\","payload":[1],"topic":"t.a.\\","ts":"any\ntext","type":"a\"é","v":1}"#);
    assert_eq!(made.payload_json(), "[1]");
}

#[test]
fn every_payload_is_kept_as_it_came_and_sent_as_the_original_does() {
    let sent = |payload: &str| {
        let made = event(&with_payload(payload));
        let before = String::from_utf8(made.body().to_vec()).unwrap();
        let sent = String::from_utf8(made.decnet_body().to_vec()).unwrap();
        let [mut before, mut sent] = [before, sent].map(|text| serde_json::from_str::<Value>(&text).unwrap());
        let payload = sent["payload"].take();
        before["payload"].take();
        assert_eq!(sent, before, "all else is the same");
        payload.to_string()
    };
    for empty in ["null", "false", "0", "-0", "0.0", "-0.00E+7", "0e5", "\"\"", "[]", "{}"] {
        assert_eq!(canonical(empty), empty);
        assert_eq!(sent(empty), "{}", "{empty}");
    }
    assert_eq!((canonical("[ ]"), canonical("{ }")), ("[]".to_owned(), "{}".to_owned()));
    for full in ["true", "1", "0.1", "10", "\"0\"", "\" \"", "[0]", "[[]]", r#"{"a":0}"#] {
        assert_eq!(canonical(full), full);
        assert_eq!(sent(full), full);
    }
    let tiny = event(&with_payload("1e-400"));
    assert_eq!(&tiny.decnet_body(), tiny.body());
}

#[test]
fn an_event_with_the_same_id_is_the_same_if_only_its_ts_differs() {
    let one = event(r#"{"topic":"a","id":"e","type":"t","payload":{"x":1,"y":2},"ts":1}"#);
    for same in [
        r#"{"topic":"a","id":"e","type":"t","payload":{"y":2,"x":1}}"#,
        r#"{"topic":"a","id":"e","type":"t","payload":{"y":2,"x":1},"ts":"later"}"#,
    ] {
        assert!(one.has_same_content(&event(same)), "{same}");
    }
    for other in [
        r#"{"topic":"b","id":"e","type":"t","payload":{"x":1,"y":2},"ts":1}"#,
        r#"{"topic":"a","id":"e","payload":{"x":1,"y":2},"ts":1}"#,
        r#"{"topic":"a","id":"e","type":"t","payload":{"x":1.0,"y":2},"ts":1}"#,
        r#"{"topic":"a","id":"e","type":"t","ts":1}"#,
    ] {
        assert!(!one.has_same_content(&event(other)), "{other}");
    }
}

#[test]
fn numbers_keep_their_digits() {
    let numbers = "[-0,1.0,1.10,1E5,1e+05,123456789012345678901234567890,0.1000000000000000055511151231257827,1e400]";
    assert_eq!(canonical(numbers), numbers);
}

#[test]
fn strings_have_only_the_escapes_that_json_demands() {
    assert_eq!(canonical(r#""\"\\\/\b\f\n\r\t""#), r#""\"\\/\b\f\n\r\t""#);
    assert_eq!(canonical(r#""\u0000\u0008\u000A\u001F\u007f""#), "\"\\u0000\\b\\n\\u001f\u{7f}\"");
    assert_eq!(canonical(r#""\u00e9\uD83E\udd80\u2028é🦀""#), "\"é🦀\u{2028}é🦀\"");
}

#[test]
fn keys_are_sorted_as_what_they_stand_for() {
    assert_eq!(
        canonical(r#"{ "b" : { "z":1, "y":{"k":[ {"d":0,"c":0} ]} }, "a":2, "aa":3, "":4 }"#),
        r#"{"":4,"a":2,"aa":3,"b":{"y":{"k":[{"c":0,"d":0}]},"z":1}}"#
    );
    // A line feed sorts before a space, although its escape begins with a backslash.
    assert_eq!(
        canonical(r#"{"a^":1,"a]":2,"a\\":3,"a[":4,"a ":5,"a\n":6,"a\u001f":7}"#),
        r#"{"a\n":6,"a\u001f":7,"a ":5,"a[":4,"a\\":3,"a]":2,"a^":1}"#
    );
    // By code point, which is not the order of UTF-16.
    assert_eq!(canonical("{\"\u{1f980}\":1,\"\u{ff5e}\":2}"), "{\"\u{ff5e}\":2,\"\u{1f980}\":1}");
}

#[test]
fn duplicate_keys_are_refused_at_the_second() {
    let reason = || "the object has this key already".to_owned();
    assert_eq!(invalid(r#"{"topic":"a","topic":"a"}"#), (13, reason()));
    assert_eq!(invalid(r#"{"topic":"a","t\u006fpic":"a"}"#), (13, reason()));
    assert_eq!(invalid(r#"{"topic":"a","payload":[{"b":{"é":1,"z":2,"a":3,"\u00E9":1}}]}"#), (49, reason()));
    assert_eq!(invalid(r#"{"x":{"b":1,"a":1,"b":2,"a":2}}"#), (18, reason()));
}

#[test]
fn what_is_not_json_is_refused_at_its_byte() {
    for (json, at) in [
        ("", 0),
        ("  ", 2),
        ("{", 1),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("{,}", 1),
        (r#"{"a"}"#, 4),
        (r#"{"a":}"#, 5),
        (r#"{"a":1,}"#, 7),
        (r#"{"a":1 "b":2}"#, 7),
        (r#"{"a":1]"#, 6),
        ("{a:1}", 1),
        ("{'a':1}", 1),
        ("[1", 2),
        ("[tru]", 1),
        ("[NaN]", 1),
        ("[Infinity]", 1),
        ("[+1]", 1),
        ("[.5]", 1),
        ("[1.]", 3),
        ("[1.e1]", 3),
        ("[01]", 2),
        ("[-]", 2),
        ("[-a]", 2),
        ("[1e]", 3),
        ("[1e+]", 4),
        ("[0x1]", 2),
        ("[\"a\nb\"]", 3),
        ("[\"a\u{0}b\"]", 3),
        ("[\"long enough for a word\u{1f}b\"]", 24),
        (r#"["abc"#, 5),
        (r#"["a\x"]"#, 3),
        (r#"["a\"#, 3),
        (r#"["a\u12"]"#, 3),
        (r#"["a\u12g4"]"#, 3),
        (r#"["a\u+123"]"#, 3),
        (r#"["a\u12é"]"#, 3),
        ("{}//", 2),
        (r#"{"topic":"a"} {}"#, 14),
        ("\u{a0}{}", 0),
    ] {
        assert_eq!(invalid(json).0, at, "{json}");
    }
}

#[test]
fn half_a_surrogate_pair_is_refused() {
    for (json, at) in [
        (r#"["\ud800"]"#, 2),
        (r#"["ab\udc00"]"#, 4),
        (r#"["\ud800\ud800"]"#, 2),
        (r#"["\ud83e\u0041"]"#, 2),
        (r#"["\ud83ex"]"#, 2),
        (r#"["\udd80\ud83e"]"#, 2),
    ] {
        assert_eq!(invalid(json), (at, "half of a surrogate pair is no character".to_owned()), "{json}");
    }
}

#[test]
fn what_is_not_utf_8_is_refused_at_its_byte() {
    assert_eq!(invalid(b"{\"a\":\"\xff\"}"), (6, "is not UTF-8".to_owned()));
    // A surrogate, an overlong form, and a character cut short.
    assert_eq!(invalid(b"[\"\xed\xa0\x80\"]").0, 2);
    assert_eq!(invalid(b"[\"\xc0\xaf\"]").0, 2);
    assert_eq!(invalid(b"[\"a\xf0\x9f\xa6").0, 3);
    assert_eq!(invalid("\u{feff}{}"), (0, "a byte order mark is not JSON".to_owned()));
}

#[test]
fn nesting_is_limited_the_event_included() {
    let nested = |depth: usize| with_payload(&format!("{}1{}", "[".repeat(depth), "]".repeat(depth)));
    let before = with_payload("").len() - 1;
    assert_eq!(event(&nested(127)).payload_json().len(), 255);
    assert_eq!(invalid(nested(128)), (before + 127, "is nested deeper than 128".to_owned()));
    assert_eq!(invalid("[".repeat(MAX_EVENT_BYTES)).0, 128);
    assert_eq!(invalid(r#"{"":"#.repeat(100_000)).0, 4 * 128);
    let in_batch = format!("[{}]", nested(127));
    assert_eq!(Event::batch_from_json(in_batch.as_bytes(), NOW).unwrap().len(), 1);
    let topic = Topic::parse("a").unwrap();
    let payload = format!("{}{}", "[".repeat(128), "]".repeat(128));
    let refused = Event::new(topic, "", &payload, NOW).unwrap_err();
    assert_eq!(refused, EventError::Json { at: 127, reason: "is nested deeper than 128".to_owned() });
}

#[test]
fn a_field_out_of_its_limits_is_refused_by_name() {
    let long_id = format!(r#"{{"topic":"a","id":"{}"}}"#, "i".repeat(129));
    let long_type = format!(r#"{{"topic":"a","type":"{}é"}}"#, "t".repeat(254));
    for (json, field, reason) in [
        ("[]", "event", "must be a JSON object"),
        ("1", "event", "must be a JSON object"),
        ("{}", "topic", "is required"),
        (r#"{"topic":null}"#, "topic", "must be a string"),
        (r#"{"topic":["a"]}"#, "topic", "must be a string"),
        (r#"{"topic":"a","type":1}"#, "type", "must be a string"),
        (&long_type, "type", "is 256 bytes long, the limit is 255"),
        (r#"{"topic":"a","id":1}"#, "id", "must be a string"),
        (r#"{"topic":"a","id":"a b"}"#, "id", "must be visible ASCII without spaces: it travels in a header"),
        (r#"{"topic":"a","id":"\n"}"#, "id", "must be visible ASCII without spaces: it travels in a header"),
        (r#"{"topic":"a","id":"\u007f"}"#, "id", "must be visible ASCII without spaces: it travels in a header"),
        (r#"{"topic":"a","id":"é"}"#, "id", "must be visible ASCII without spaces: it travels in a header"),
        (&long_id, "id", "is 129 bytes long, the limit is 128"),
        (r#"{"topic":"a","ts":true}"#, "ts", "must be a string or a number"),
        (r#"{"topic":"a","ts":{}}"#, "ts", "must be a string or a number"),
        (r#"{"topic":"a","ts":253402300800}"#, "ts", "is outside the years 1 to 9999"),
        (r#"{"topic":"a","ts":-1e300}"#, "ts", "is outside the years 1 to 9999"),
        (r#"{"topic":"a","v":2}"#, "v", "must be 1"),
        (r#"{"topic":"a","v":"1"}"#, "v", "must be 1"),
        (r#"{"topic":"a","Payload":1}"#, "Payload", "unknown field"),
        (r#"{"topic":"a","new\nline":1}"#, "new\nline", "unknown field"),
    ] {
        let expected = EventError::Field { field: field.to_owned(), reason: reason.to_owned() };
        assert_eq!(refusal(json), expected, "{json}");
    }
    assert_eq!(refusal(r#"{"topic":"a..b"}"#), EventError::Topic(TopicError::EmptyToken { at: 2 }));
    assert_eq!(refusal(r#"{"topic":""}"#), EventError::Topic(TopicError::Empty));
}

#[test]
fn the_error_named_first_is_size_then_syntax_then_fields() {
    let mut json = format!(r#"{{"unknown":"{}"}}"#, "a".repeat(MAX_EVENT_BYTES - 14));
    assert_eq!(json.len(), MAX_EVENT_BYTES);
    assert!(matches!(refusal(&json), EventError::Field { .. }));
    json.push('x');
    let too_large = EventError::TooLarge { length: MAX_EVENT_BYTES + 1, limit: MAX_EVENT_BYTES };
    assert_eq!(refusal(&json), too_large);
    json.truncate(MAX_EVENT_BYTES - 1);
    assert_eq!(invalid(&json).0, MAX_EVENT_BYTES - 1);
    assert_eq!(invalid("{}x").0, 2);
}

#[test]
fn an_event_made_in_this_process_is_as_one_received() {
    let topic = Topic::parse("back\\slash.\"").unwrap();
    let made = Event::new(topic, "a \"type\"\n", r#" {"b":1, "a":2} "#, NOW).unwrap();
    let received = Event::from_json(made.body(), UnixMicros(0)).unwrap();
    assert_eq!(received, made);
    assert_eq!(made.payload_json(), r#"{"a":2,"b":1}"#);
    let new = |kind: &str, payload: &str| Event::new(Topic::parse("a").unwrap(), kind, payload, NOW);
    assert_eq!(new("", "null").unwrap().payload_json(), "null");
    assert!(matches!(new(&"k".repeat(256), "{}"), Err(EventError::Field { field, .. }) if field == "type"));
    assert!(matches!(new("", "{} {}"), Err(EventError::Json { at: 3, .. })));
    assert!(matches!(new("", &" ".repeat(MAX_EVENT_BYTES + 1)), Err(EventError::TooLarge { .. })));
}

#[test]
fn a_batch_is_refused_whole_with_the_first_bad_event() {
    let json = |batch: &str| Event::batch_from_json(batch.as_bytes(), NOW).unwrap_err();
    let good = r#"{"topic":"a"}"#;
    let at = |error: &EventError| if let EventError::Json { at, .. } = error { *at } else { panic!("{error}") };
    for (batch, offset) in [("", 0), (good, 0), ("[", 1), (&*format!("[{good}"), 14), (&format!("[{good}]]"), 15)] {
        match json(batch) {
            BatchError::NotAnArray(error) | BatchError::Event { error, .. } => {
                assert_eq!(at(&error), offset, "{batch}");
            }
            other => panic!("{other}"),
        }
    }
    assert!(matches!(json(&format!("[{good} {good}]")), BatchError::NotAnArray(error) if at(&error) == 15));
    assert!(matches!(json(&format!("[{good},]")), BatchError::Event { index: 1, error } if at(&error) == 15));
    assert!(matches!(
        json(&format!("[{good},{{}},1]")),
        BatchError::Event { index: 1, error: EventError::Field { .. } }
    ));
    assert_eq!(json("[ ]"), BatchError::Empty);
    let many = vec![good; MAX_BATCH_EVENTS + 1];
    assert_eq!(json(&format!("[{}]", many.join(","))), BatchError::TooManyEvents { limit: MAX_BATCH_EVENTS });
    let most = format!("[{}]", many[1..].join(","));
    assert_eq!(Event::batch_from_json(most.as_bytes(), NOW).unwrap().len(), MAX_BATCH_EVENTS);
    let large = with_payload(&format!("\"{}\"", "a".repeat(MAX_EVENT_BYTES)));
    let refused =
        BatchError::Event { index: 1, error: EventError::TooLarge { length: large.len(), limit: MAX_EVENT_BYTES } };
    assert_eq!(json(&format!("[{good}, {large} ]")), refused);
    assert!(matches!(json(&" ".repeat(MAX_BATCH_BYTES + 1)), BatchError::TooLarge { .. }));

    let lines = |batch: &str| Event::batch_from_ndjson(batch.as_bytes(), NOW);
    assert_eq!(lines(&format!("\n{good}\r\n \t\n{good}")).unwrap().len(), 2);
    assert!(
        matches!(lines(&format!("\n{good}\n\n[,")), Err(BatchError::Event { index: 1, error }) if at(&error) == 17)
    );
    assert_eq!(lines(&format!("{good}\n{large}\n")), Err(refused));
    assert_eq!(lines(" \n\n"), Err(BatchError::Empty));
    assert_eq!(lines(&many.join("\n")), Err(BatchError::TooManyEvents { limit: MAX_BATCH_EVENTS }));
    assert!(matches!(lines(&" ".repeat(MAX_BATCH_BYTES + 1)), Err(BatchError::TooLarge { .. })));
}

/// Any JSON value whose numbers survive a reader that keeps them as `f64`.
fn some_json() -> impl Strategy<Value = Value> {
    let text = || prop_oneof!["[a-c\"\\\\/\n\u{0}\u{1f}\u{7f}é🦀\u{ffff}]{0,4}", any::<String>()];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1_000_000..1_000_000).prop_map(|n| Value::from(f64::from(n) / 64.0)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..8)
                .prop_map(|members: BTreeMap<_, _>| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Another spelling of the same JSON: members in another order, spaces, characters as escapes.
fn respelled(value: &Value, dice: &mut impl FnMut(u32) -> u32) -> String {
    let space = |dice: &mut dyn FnMut(u32) -> u32| ["", "", " ", "\r\n\t"][dice(4) as usize];
    let mut parts: Vec<String> = match value {
        Value::String(text) => {
            let unit = |unit: &u16| format!("\\u{unit:04X}");
            let escaped = |c: char| c.encode_utf16(&mut [0; 2]).iter().map(unit).collect::<Vec<_>>().concat();
            let plain = |c: char| json!(c).to_string().trim_matches('"').to_owned();
            let spelled = |c: char| if c == '"' || dice(3) == 0 { escaped(c) } else { plain(c) };
            return format!("\"{}\"", text.chars().map(spelled).collect::<String>());
        }
        Value::Array(items) => items.iter().map(|item| respelled(item, dice)).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| {
                let key = respelled(&json!(key), dice);
                format!("{key}{}:{}{}", space(dice), space(dice), respelled(value, dice))
            })
            .collect(),
        scalar => return scalar.to_string(),
    };
    let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
    if value.is_object() {
        for last in (1..parts.len()).rev() {
            parts.swap(last, dice(u32::try_from(last).unwrap() + 1) as usize);
        }
    }
    let comma = format!("{},{}", space(dice), space(dice));
    format!("{open}{}{}{close}", space(dice), parts.join(&comma))
}

proptest! {
    #[test]
    fn the_canonical_form_means_the_same_and_is_its_own(payload in some_json()) {
        let sent = with_payload(&payload.to_string());
        let made = event(&sent);
        let read: Value = serde_json::from_slice(made.body()).unwrap();
        prop_assert_eq!(&read["payload"], &payload);
        prop_assert_eq!(made.payload_json().to_vec(), read["payload"].to_string().into_bytes());
        prop_assert_eq!(Event::from_json(made.body(), UnixMicros(0)).unwrap(), made);
    }

    #[test]
    fn every_spelling_of_an_event_has_one_body(payload in some_json(), seed in any::<u64>()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let sent = json!({"topic": "a.b", "id": "e", "ts": "t", "type": "é\n", "payload": payload, "v": 1});
        let respelled = respelled(&sent, &mut |sides| random.u32(0..sides));
        prop_assert_eq!(body(&respelled), body(&sent.to_string()), "{}", respelled);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"{}[]\",:\\u0dD8eE+-. tn"[..])], 0..200),
    ) {
        let _ = Event::from_json(&bytes, NOW);
        let _ = Event::batch_from_json(&bytes, NOW);
        let _ = Event::batch_from_ndjson(&bytes, NOW);
        let _ = Event::from_json(&[&br#"{"topic":"a","payload":"#[..], &bytes, b"}"].concat(), NOW);
    }

    /// An event with one byte changed is taken exactly when another JSON parser takes it too.
    #[test]
    fn what_is_json_is_what_others_call_json(payload in some_json(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = format!("[{payload}]").into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let Ok(mut reader) = Canonicaliser::new(&bytes) else {
            prop_assert!(std::str::from_utf8(&bytes).is_err());
            return Ok(());
        };
        match reader.read().and_then(|()| reader.finish()) {
            Ok(()) => match serde_json::from_slice::<Value>(&bytes) {
                Ok(others) => prop_assert_eq!(serde_json::from_str::<Value>(reader.canonical()).unwrap(), others),
                // Others refuse numbers beyond f64, and let duplicate keys pass.
                Err(error) => prop_assert!(error.to_string().contains("number out of range"), "{error}"),
            },
            Err(EventError::Json { reason, .. }) if reason.contains("already") => {}
            Err(_) => prop_assert!(serde_json::from_slice::<Value>(&bytes).is_err()),
        }
    }

    #[test]
    fn plain_bytes_end_where_a_slow_search_ends(bytes in prop::collection::vec(
        prop_oneof![9 => 0x20_u8..=0xff, 1 => any::<u8>()], 0..64,
    )) {
        let special = bytes.iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\'));
        prop_assert_eq!(canonical::plain_bytes(&bytes), special.unwrap_or(bytes.len()));
    }
}
