//! What receivers get from each shape, and what a hostile template cannot do.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

static METADATA: BTreeMap<String, String> = BTreeMap::new();

const CONTEXT: Context<'static> = Context {
    webhook_metadata: &METADATA,
    webhook_name: "soc",
    webhook_id: "0191f6c0-0000-7000-8000-000000000001",
    tenant: "default",
    delivery_id: "d_1",
    attempt: 1,
    now: NOW,
};

#[test]
fn a_template_knows_the_webhook_s_metadata() {
    let metadata = BTreeMap::from([("team".to_owned(), "blue \"7\"".to_owned()), ("a b".to_owned(), "c".to_owned())]);
    let context = Context { webhook_metadata: &metadata, ..CONTEXT };
    let text = r#"{{ webhook.metadata.team|tojson }} {{ webhook.metadata["a b"] }} {{ webhook.metadata.none|default("-") }}
        {%- for pair in webhook.metadata|items %} {{ pair[0] }}{% endfor %}"#;
    let body = template(text).unwrap().render(&with_payload("{}"), &context).unwrap();
    assert_eq!(String::from_utf8_lossy(&body), r#""blue \"7\"" c - a b team"#);
}

fn event(json: &str) -> Event {
    Event::from_json(json.as_bytes(), NOW).unwrap()
}

/// An event of the topic `t` with this payload.
fn with_payload(payload: &str) -> Event {
    event(&format!(r#"{{"id":"e-1","topic":"t","ts":"2026-09-21T14:13:20+00:00","payload":{payload}}}"#))
}

fn builtin(name: &str) -> Shape {
    Shape::parse(&ShapeInput::Name(name.to_owned())).unwrap()
}

fn template(text: &str) -> Result<Shape, ShapeError> {
    let input = TemplateInput { template: text.to_owned(), content_type: "text/plain".to_owned() };
    Shape::parse(&ShapeInput::Template(input))
}

fn try_render(text: &str, event: &Event) -> Result<String, String> {
    let shape = template(text).map_err(|error| error.to_string())?;
    let body = shape.render(event, &CONTEXT).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// What a template makes of a payload.
#[track_caller]
fn rendered(text: &str, payload: &str) -> String {
    try_render(text, &with_payload(payload)).unwrap()
}

fn shaped(name: &str, event: &Event) -> String {
    let body = builtin(name).render(event, &CONTEXT).unwrap_or_else(|error| panic!("{name}: {error}"));
    String::from_utf8(body.to_vec()).unwrap()
}

// --- built-in shapes ---

#[test]
fn decnet_is_the_stored_body_itself() {
    let event = event(sample());
    let body = Shape::default().render(&event, &CONTEXT).unwrap();
    assert_eq!(body.as_ptr(), event.body().as_ptr(), "nothing is copied");
    assert_eq!(Shape::default(), builtin("decnet"));
    assert_eq!(Shape::default().content_type(), "application/json");
}

#[test]
fn each_shape_of_the_sample_is_the_one_that_was_reviewed() {
    for found in builtins() {
        insta::assert_snapshot!(found.name, shaped(found.name, &event(sample())));
    }
}

/// Events that are hard on a shape: as long as may be, empty, hostile.
fn hard_events() -> Vec<Event> {
    let long = "a.".repeat(127) + "b";
    let id = "i".repeat(128);
    let kind = "\u{1F980}".repeat(63);
    let hostile = r#"\"}]}<!channel>@everyone ``` \\ ] </script>{{ 1 }} \u0000\u0001\n\r\t"#;
    let text = "\\\"&<\u{1F980}".repeat(2_000);
    vec![
        event(sample()),
        event(r#"{"topic":"t"}"#),
        event(r#"{"topic":"t","ts":"yesterday","payload":[1,2]}"#),
        event(r#"{"topic":"t","type":"\u00a0\n\u0085 ","ts":" \t ","payload":null}"#),
        event(r#"{"topic":"t","type":" ","payload":0}"#),
        event(r#"{"topic":"t","type":"a\u0001b\u009fc","payload":""}"#),
        event(r#"{"topic":"t","ts":-60000000000,"payload":"text"}"#),
        event(r#"{"topic":"t","ts":"1e300","payload":{"severity":{"a":[]},"ip":"999.1.1.1","attacker_ip":["x"]}}"#),
        event(r#"{"topic":"t","payload":{"severity":9e300,"attacker_ip":"::ffff:203.0.113.7"}}"#),
        event(&json!({"topic": long, "id": id, "type": kind, "ts": text, "payload": {"a": text}}).to_string()),
        event(&format!(r#"{{"topic":"t","type":"{hostile}","ts":"{hostile}","payload":{{"{hostile}":"{hostile}"}}}}"#)),
        event(&format!(r#"{{"topic":"t","payload":{}{}}}"#, "[".repeat(127), "]".repeat(127))),
        with_payload(&format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_EVENT_BYTES - 200))),
        with_payload(&format!("[{}0]", "0,".repeat(MAX_EVENT_BYTES / 2 - 200))),
    ]
}

fn as_json(text: &str) -> Value {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Value>()
        .next()
        .unwrap()
        .unwrap_or_else(|error| panic!("{error}: {}", &text[..text.len().min(500)]))
}

fn chars(value: &Value) -> usize {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).chars().count()
}

/// Deep events are no `Value` of `serde_json`; the check of the shape itself reads them.
fn shallow_events() -> impl Iterator<Item = Event> {
    hard_events().into_iter().filter(|event| !event.body().windows(9).any(|bytes| bytes == b"[[[[[[[[["))
}

#[test]
fn no_receiver_gets_a_blank_field_or_a_control_character_that_it_forbids() {
    for event in shallow_events() {
        let discord = as_json(&shaped("discord", &event));
        let slack = as_json(&shaped("slack", &event));
        let thehive = as_json(&shaped("thehive_alert", &event));
        let cloudevents = as_json(&shaped("cloudevents", &event));
        let fields = discord["embeds"][0]["fields"].as_array().unwrap().iter().map(|field| &field["value"]);
        let elements = slack["blocks"][2]["elements"].as_array().unwrap().iter().map(|element| &element["text"]);
        let others = [
            &discord["embeds"][0]["title"],
            &discord["embeds"][0]["footer"]["text"],
            &slack["text"],
            &thehive["type"],
            &thehive["title"],
            &thehive["sourceRef"],
        ];
        for value in fields.chain(elements).chain(others) {
            assert!(!value.as_str().unwrap().trim().is_empty(), "{:?}", event.body());
        }
        for attribute in ["id", "source", "type", "subject"] {
            let value = cloudevents[attribute].as_str().unwrap();
            assert!(!value.is_empty() && !value.chars().any(char::is_control), "{attribute}: {value:?}");
        }
    }
}

#[test]
fn an_index_gets_one_kind_of_payload() {
    let payload =
        |payload: &str| as_json(&shaped("elastic_ecs", &with_payload(payload)))["postrider"]["payload"].take();
    assert_eq!(payload(r#"{"a": 1}"#), json!({"a": 1}));
    for other in ["null", "0", "[1,2]", "\"text\"", "true"] {
        assert_eq!(payload(other), json!({"value": serde_json::from_str::<Value>(other).unwrap()}));
    }
}

#[test]
fn filters_differ_from_jinja2_where_the_documentation_says_so() {
    for (text, ours) in [
        ("{{ 2.5|round }}", "3.0"),
        ("{{ -2.5|round }}", "-3.0"),
        ("{{ 2.345|round(2) }}", "2.35"),
        ("{{ ['a', 'A', 'a']|unique|join(',') }}", "a,A"),
        ("{{ 'abc'|reverse|join(',') }}", "c,b,a"),
        ("{{ 'o-neil mcDONALD'|title }}", "O-neil Mcdonald"),
        ("{{ 'a<b'|e|e }}", "a&amp;lt;b"),
        ("{{ '<&>'|tojson }}", "\"<&>\""),
        ("{{ event.payload.a.b.c }}", ""),
    ] {
        assert_eq!(rendered(text, "{}"), ours, "{text}");
    }
}

#[test]
fn every_shape_takes_every_event() {
    for event in hard_events() {
        for found in builtins() {
            let body = shaped(found.name, &event);
            assert!(body.len() <= MAX_SHAPED_BYTES, "{}", found.name);
        }
    }
}

#[test]
fn cloudevents_has_what_the_specification_requires() {
    for event in shallow_events() {
        let shaped = as_json(&shaped("cloudevents", &event));
        assert_eq!(shaped["specversion"], "1.0");
        for required in ["id", "source", "type"] {
            assert!(chars(&shaped[required]) > 0, "{required}");
        }
        assert_eq!(shaped["source"], "urn:postrider:default");
        if let Some(time) = shaped.get("time") {
            time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        }
        // Attribute names: lower-case letters and digits.
        for name in shaped.as_object().unwrap().keys() {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{name}");
        }
        let payload: Value = serde_json::from_slice(&event.payload_json()).unwrap();
        assert_eq!(shaped["data"], payload);
    }
}

#[test]
fn slack_stays_within_the_limits_of_its_blocks() {
    for event in shallow_events() {
        let shaped = as_json(&shaped("slack", &event));
        assert!(chars(&shaped["text"]) <= 4_000);
        let blocks = shaped["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50);
        for block in blocks {
            match block["type"].as_str().unwrap() {
                "header" => assert!((1..=150).contains(&chars(&block["text"]["text"]))),
                "section" => {
                    let text = block["text"]["text"].as_str().unwrap();
                    assert!((1..=3_000).contains(&text.chars().count()), "{}", text.len());
                    assert!(!text.contains(['<', '>']) && text.matches("```").count() == 2, "{text}");
                }
                "context" => {
                    let elements = block["elements"].as_array().unwrap();
                    assert!((1..=10).contains(&elements.len()));
                    assert!(elements.iter().all(|element| chars(&element["text"]) > 0));
                }
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn discord_stays_within_the_limits_of_an_embed_and_mentions_nobody() {
    // Counted as JavaScript does, which is the most.
    let units = |value: &Value| value.as_str().unwrap().encode_utf16().count();
    for event in shallow_events() {
        let shaped = as_json(&shaped("discord", &event));
        assert_eq!(shaped["allowed_mentions"], json!({"parse": []}));
        let embed = &shaped["embeds"][0];
        assert!(units(&embed["title"]) <= 256 && units(&embed["description"]) <= 4_096);
        assert!(units(&embed["footer"]["text"]) <= 2_048 && embed["color"].as_u64().unwrap() <= 0xff_ffff);
        let mut total = units(&embed["title"]) + units(&embed["description"]) + units(&embed["footer"]["text"]);
        for field in embed["fields"].as_array().unwrap() {
            assert!((1..=256).contains(&units(&field["name"])) && (1..=1_024).contains(&units(&field["value"])));
            total += units(&field["name"]) + units(&field["value"]);
        }
        assert!(total <= 6_000, "{total}");
        assert_eq!(embed["description"].as_str().unwrap().matches("```").count(), 2);
    }
}

#[test]
fn teams_gets_a_card_of_at_most_28_kb() {
    for event in shallow_events() {
        let text = shaped("teams", &event);
        assert!(text.len() <= 28 * 1024, "{} bytes", text.len());
        let shaped = as_json(&text);
        assert_eq!(shaped["type"], "message");
        let attachment = &shaped["attachments"][0];
        assert_eq!(attachment["contentType"], "application/vnd.microsoft.card.adaptive");
        let card = &attachment["content"];
        assert_eq!((&card["type"], &card["version"]), (&json!("AdaptiveCard"), &json!("1.4")));
        for block in card["body"].as_array().unwrap() {
            assert_eq!(block["type"], "RichTextBlock", "a TextBlock would be read as Markdown");
            assert!(block["inlines"].as_array().unwrap().iter().all(|run| run["text"].is_string()));
        }
    }
}

#[test]
fn splunk_gets_an_event_with_the_time_as_seconds() {
    for event in shallow_events() {
        let shaped = as_json(&shaped("splunk_hec", &event));
        let known = ["time", "host", "source", "sourcetype", "index", "fields", "event"];
        assert!(shaped.as_object().unwrap().keys().all(|name| known.contains(&name.as_str())));
        assert!(shaped.get("time").is_none_or(Value::is_number));
        assert!(shaped["fields"].as_object().unwrap().values().all(|value| !value.as_str().unwrap().is_empty()));
        assert_eq!(shaped["event"], serde_json::from_slice::<Value>(event.body()).unwrap());
    }
    assert_eq!(as_json(&shaped("splunk_hec", &event(sample())))["time"], 1_790_000_000.25);
}

#[test]
fn elastic_gets_a_document_of_the_common_schema() {
    for event in shallow_events() {
        let shaped = as_json(&shaped("elastic_ecs", &event));
        shaped["@timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!(shaped["ecs"]["version"].is_string());
        assert_eq!(shaped["event"]["kind"], "event");
        assert!(shaped["labels"].as_object().unwrap().values().all(Value::is_string), "labels are not nested");
        if let Some(source) = shaped.get("source") {
            source["ip"].as_str().unwrap().parse::<std::net::IpAddr>().unwrap();
        }
        if let Some(original) = shaped["event"].get("original") {
            assert_eq!(original.as_str().unwrap().as_bytes(), event.body());
        }
    }
}

#[test]
fn thehive_gets_what_an_alert_requires() {
    for event in shallow_events() {
        let shaped = as_json(&shaped("thehive_alert", &event));
        for (field, most) in
            [("type", 32), ("source", 64), ("sourceRef", 128), ("title", 512), ("description", 1_048_576)]
        {
            assert!((1..=most).contains(&chars(&shaped[field])), "{field}");
        }
        assert!((1..=4).contains(&shaped["severity"].as_u64().unwrap()));
        assert!(shaped["tlp"].as_u64().unwrap() <= 4 && shaped["pap"].as_u64().unwrap() <= 3);
        assert!(shaped.get("date").is_none_or(Value::is_i64), "{}", shaped["date"]);
        assert!(shaped["tags"].as_array().unwrap().iter().all(|tag| (1..=128).contains(&chars(tag))));
        for observable in shaped["observables"].as_array().into_iter().flatten() {
            assert_eq!(observable["dataType"], "ip");
            observable["data"].as_str().unwrap().parse::<std::net::IpAddr>().unwrap();
        }
    }
}

#[test]
fn wazuh_gets_one_text_of_at_most_64_kib_that_is_json() {
    for event in shallow_events() {
        let shaped = as_json(&shaped("wazuh", &event));
        assert_eq!(shaped.as_object().unwrap().len(), 1);
        let events = shaped["events"].as_array().unwrap();
        assert_eq!(events.len(), 1);
        let text = events[0].as_str().unwrap();
        assert!(text.len() < 64 * 1024 && !text.contains('\n'), "{} bytes", text.len());
        let inner = as_json(text);
        assert_eq!(inner["integration"], "postrider");
        assert_eq!(inner["postrider"]["id"], event.id());
    }
}

/// The parts of RFC 5424's SYSLOG-MSG: PRI, TIMESTAMP, HOSTNAME, APP-NAME, PROCID, MSGID, parameters, MSG.
fn parse_syslog(line: &str) -> (u16, String, Vec<(String, String)>, String) {
    let (priority, rest) = line.strip_prefix('<').unwrap().split_once(">1 ").unwrap();
    let header: Vec<&str> = rest.splitn(6, ' ').collect();
    let [time, host, app, process, message_id, rest] = header.try_into().unwrap();
    for (field, most) in [(host, 255), (app, 48), (process, 128), (message_id, 32)] {
        assert!((1..=most).contains(&field.len()) && field.bytes().all(|byte| byte.is_ascii_graphic()), "{field}");
    }
    let (sd_id, mut rest) = rest.strip_prefix('[').unwrap().split_once(' ').unwrap();
    assert!(sd_id.len() <= 32 && !sd_id.contains(['=', ']', '"']));
    let mut parameters = Vec::new();
    loop {
        let (name, value) = rest.split_once("=\"").unwrap();
        let mut unescaped = String::new();
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => unescaped.push(chars.next().unwrap().1),
                (_, ']') => panic!("a bracket that is not escaped: {value}"),
                (_, plain) => unescaped.push(plain),
            }
        };
        parameters.push((name.trim().to_owned(), unescaped));
        rest = &value[end + 1..];
        if let Some(message) = rest.strip_prefix("] ") {
            return (priority.parse().unwrap(), time.to_owned(), parameters, message.to_owned());
        }
    }
}

#[test]
fn syslog_is_a_line_of_rfc_5424() {
    for event in hard_events() {
        let line = shaped("syslog", &event);
        assert!(!line.contains(['\n', '\r', '\0']));
        let (priority, time, parameters, message) = parse_syslog(&line);
        assert!((128..=135).contains(&priority), "{priority}");
        if time != "-" {
            assert!(time.ends_with('Z') && time.contains('T') && time.len() <= 27, "{time}");
            time.parse::<jiff::Timestamp>().unwrap();
        }
        assert_eq!(parameters[0], ("id".to_owned(), event.id().to_owned()));
        assert_eq!(parameters[1], ("topic".to_owned(), event.topic().to_string()));
        assert_eq!(message.as_bytes(), event.payload_json());
    }
}

// --- templates ---

#[test]
fn a_template_sees_the_event_and_its_delivery() {
    let text = "{{ event.id }} {{ event.topic }} {{ event.type }}|{{ event.ts }}|{{ event.v }} {{ webhook.name }} \
        {{ webhook.id }} {{ delivery.id }} {{ tenant }} {{ now }} {{ event.payload.a[1].b }} {{ event.payload['a b'] }}";
    assert_eq!(
        rendered(text, r#"{"a":[0,{"b":"x"}],"a b":"y"}"#),
        "e-1 t |2026-09-21T14:13:20+00:00|1 soc 0191f6c0-0000-7000-8000-000000000001 d_1 default \
        2026-09-21T14:13:20.000000Z x y"
    );
    let event = with_payload(r#"{"b":[1.10,{"":"\u0000"}],"a":{}}"#);
    for text in ["{{ body }}", "{{ event|tojson }}", "{{ event }}"] {
        assert_eq!(try_render(text, &event).unwrap().as_bytes(), event.body(), "{text}");
    }
}

#[test]
fn what_is_not_there_prints_as_nothing() {
    assert_eq!(rendered("[{{ event.payload.a.b.c }}{{ nothing }}{{ event.payload.list[9] }}]", r#"{"list":[]}"#), "[]");
    assert_eq!(rendered("{{ event.payload.a.b|tojson }} {{ event.payload.a.b|default('x') }}", "{}"), "null x");
    assert_eq!(rendered("{% for x in event.payload.a.b %}x{% else %}none{% endfor %}", "{}"), "none");
}

#[test]
fn numbers_keep_their_digits() {
    for number in [
        "0",
        "-0",
        "1.10",
        "1.0",
        "1e5",
        "1E-7",
        "12345678901234567890",
        "123456789012345678901234567890123456789012",
        "0.1000000000000000055511151231257827",
        "3.14159265358979323846",
        "1e400",
        "-1.50e+10",
        "9007199254740993",
    ] {
        let payload = format!(r#"{{"n":{number},"l":[{number}]}}"#);
        let text =
            "{{ event.payload.n }} {{ event.payload.n|tojson }} {{ event.payload.l }} {{ event.payload.l[0]|string }}";
        assert_eq!(rendered(text, &payload), format!("{number} {number} [{number}] {number}"));
    }
    // And can be compared and calculated with.
    assert_eq!(rendered("{{ event.payload.n > 1 and event.payload.n < 1.2 }}", r#"{"n":1.10}"#), "true");
    assert_eq!(rendered("{{ event.payload.n + 1 }}", r#"{"n":41}"#), "42");
    assert_eq!(rendered("{{ (event.payload.n|float * 100)|round|int }}", r#"{"n":0.50}"#), "50");
}

#[test]
fn filters_do_what_the_documentation_says() {
    let payload =
        r#"{"s":"a,B c","l":[3,1,3],"m":{"y":1,"x":2},"o":[{"a":{"b":1}},{"a":{}}],"t":1713916800.5,"e":[0,"",1]}"#;
    for (expression, expected) in [
        ("payload.s|upper", "A,B C"),
        ("payload.s|split(',')|join('+')", "a+B c"),
        ("payload.s|replace('a', 'z')|lower|title", "Z,b C"),
        ("payload.s|truncate(3)", "a,…"),
        ("payload.s|take(3)", "a,B"),
        ("payload.s|first", "a"),
        ("payload.s|length", "5"),
        ("'é'|size", "2"),
        ("payload.l|sort", "[1,3,3]"),
        ("payload.l|unique|reverse", "[1,3]"),
        ("payload.l|take(2)", "[3,1]"),
        ("payload.l|last", "3"),
        ("payload.e|reject_empty", "[1]"),
        ("payload.m|items", r#"[["x",2],["y",1]]"#),
        ("payload.o|pluck('a.b')", "[1,null]"),
        ("payload.t|date('%Y-%m-%d')", "2024-04-24"),
        ("payload.t|rfc3339", "2024-04-24T00:00:00.5Z"),
        ("payload.t|epoch_ms", "1713916800500"),
        ("ts|epoch", "1790000000"),
        ("payload.s|epoch", ""),
        ("'Warn'|severity", "medium"),
        ("payload.m|severity", ""),
        ("' 203.0.113.7 '|ip", "203.0.113.7"),
        ("'203.0.113'|ip", ""),
        ("'b'|lookup({'a': 1, 'b': 2})", "2"),
        ("'c'|lookup({'a': 1}, 0)", "0"),
        ("'7'|int", "7"),
        ("'x'|int(3)", "3"),
        ("'7.5'|float", "7.5"),
        ("2.345|round(2)", "2.35"),
        ("'a b&'|urlencode", "a%20b%26"),
        ("'<a>'|e", "&lt;a&gt;"),
        ("payload.m|tojson|tojson", r#""{\"x\":2,\"y\":1}""#),
    ] {
        let text = format!("{{% set payload = event.payload %}}{{% set ts = event.ts %}}{{{{ {expression} }}}}");
        assert_eq!(rendered(&text, payload), expected, "{expression}");
    }
}

#[test]
fn every_filter_and_test_that_is_named_is_there() {
    for name in filters::FILTERS {
        let arguments = match name {
            "date" | "pluck" | "split" => "('a')",
            "lookup" => "({'a': 1})",
            "replace" => "('a', 'b')",
            _ => "",
        };
        let found = try_render(&format!("{{{{ event.payload|{name}{arguments} }}}}"), &with_payload("{}"));
        assert!(!found.as_ref().is_err_and(|reason| reason.contains("unknown")), "{name}: {found:?}");
    }
    for name in filters::TESTS {
        let found = try_render(&format!("{{{{ 1 is {name} }}}}"), &with_payload("{}"));
        assert!(!found.as_ref().is_err_and(|reason| reason.contains("unknown")), "{name}: {found:?}");
    }
}

#[test]
fn the_documentation_has_every_filter_test_and_limit() {
    let document = include_str!("../../docs/shapes.md");
    for name in filters::FILTERS.iter().chain(&filters::TESTS) {
        let is_there = [format!("`{name}`"), format!("`{name}(")].iter().any(|text| document.contains(text));
        assert!(is_there, "{name}");
    }
    let thousands = |number: u64| format!("{},{:03}", number / 1_000, number % 1_000);
    for limit in [
        format!("{} KiB, {MAX_TAG_TOKENS} tokens a tag, {MAX_ELIFS} `elif`", MAX_TEMPLATE_BYTES / 1024),
        format!("1 MiB and {} KiB", (MAX_SHAPED_BYTES - MAX_EVENT_BYTES) / 1024),
        format!("{} steps, and {} for each KiB", thousands(template::BASE_FUEL), template::FUEL_PER_KIB),
    ] {
        assert!(document.contains(&limit), "{limit}");
    }
}

#[test]
fn a_shape_is_a_name_or_a_template_and_goes_back_as_it_came() {
    for text in [r#""slack""#, r#""decnet""#, r#"{"template":"{{ body }}","content_type":"application/json"}"#] {
        let input: ShapeInput = serde_json::from_str(text).unwrap();
        let shape = Shape::parse(&input).unwrap();
        assert_eq!(serde_json::to_string(&shape.raw()).unwrap(), text);
        assert_eq!(shape, Shape::parse(&shape.raw()).unwrap());
    }
    let input: ShapeInput = serde_json::from_str(r#"{"template":""}"#).unwrap();
    assert_eq!(Shape::parse(&input).unwrap().content_type(), "application/json");
    for wrong in ["1", "[]", "null", r#"{"template":1}"#, "{}", r#"{"template":"","x":1}"#] {
        assert!(serde_json::from_str::<ShapeInput>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_wrong_shape_is_refused_with_the_reason_and_the_place() {
    let unknown = Shape::parse(&ShapeInput::Name("slak".to_owned())).unwrap_err().to_string();
    assert!(
        unknown.contains("\"slak\"") && unknown.contains("decnet, payload, forward, cloudevents, slack"),
        "{unknown}"
    );
    for (text, expected) in [
        ("a\n{{ event.id }", "line 2"),
        ("{% if a %}", "line 1"),
        ("{{ a|nothing }}", "line 1, column 6: there is no filter `nothing`"),
        ("\n\n{{ a is nothing }}", "line 3, column 9: there is no test `nothing`"),
        ("{% include 'x' %}", "line 1"),
        ("{% import 'x' as x %}", "line 1"),
        ("{% macro m() %}{% endmacro %}", "line 1"),
        ("{{ debug() }}", "nothing can be called"),
        ("{{ range(9) }}", "nothing can be called"),
        ("{{ event.payload.pop() }}", "nothing can be called"),
        ("{{ [event] }}", "only be made of constants"),
        ("{{ {'a': event} }}", "only be made of constants"),
        ("{% set a = event, event %}", "only be made of constants"),
        ("{{ a + b }}", "needs a number on one side"),
        ("{{ 'a' * 9 }}", "needs numbers on both sides"),
        ("{{ a * 9 }}", "needs numbers on both sides"),
        ("{{ a[1:] }}", "slices are not available"),
        ("{{ a[b] }}", "an index must be"),
        ("{{ a[-1] }}", "an index must be"),
        ("{{ a|truncate(*b) }}", "arguments are not available"),
        ("{% for x in a recursive %}{% endfor %}", "not available"),
        ("{% set a.b = 1 %}", "line 1"),
        ("{% autoescape true %}{% endautoescape %}", "not available"),
    ] {
        let error = template(text).unwrap_err().to_string();
        assert!(error.starts_with("the template does not parse: line ") && error.contains(expected), "{text}: {error}");
    }
    let long = template(&"x".repeat(MAX_TEMPLATE_BYTES + 1)).unwrap_err();
    assert_eq!(long.to_string(), "the template is 65537 bytes long, the limit is 65536");
    assert!(template(&"x".repeat(MAX_TEMPLATE_BYTES)).is_ok());
    for content_type in ["", "json", "a/b\r\nX: y", "a/", "/b", "ä/b", "text/plain; \u{7f}", &"a/".repeat(200)] {
        let input = TemplateInput { template: String::new(), content_type: content_type.to_owned() };
        let error = Shape::parse(&ShapeInput::Template(input)).unwrap_err();
        assert!(error.to_string().starts_with("content_type: "), "{error}");
    }
}

#[test]
fn an_error_at_delivery_names_the_line() {
    let event = with_payload(r#"{"a":"x","l":[1]}"#);
    for (text, expected) in [
        ("a\n\n{{ event.payload.a - 1 }}", "shape: line 3: "),
        ("{{ event.payload.a|date }}", "shape: line 1: "),
        ("\n{{ event.ts|date('%!') }}", "shape: line 2: date: "),
    ] {
        let error = try_render(text, &event).unwrap_err();
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }
    let long = RenderError::new(Some(3), "ä".repeat(1_000)).to_string();
    assert!(long.starts_with("shape: line 3: ä") && long.len() <= MAX_RENDER_ERROR_BYTES, "{}", long.len());
}

#[test]
fn a_template_of_json_that_makes_none_is_an_error_with_the_place() {
    let shape = |text: &str, content_type: &str| {
        let input = TemplateInput { template: text.to_owned(), content_type: content_type.to_owned() };
        Shape::parse(&ShapeInput::Template(input)).unwrap()
    };
    let event = with_payload(r#"{"a":"\",\"admin\":true,\""}"#);
    let wrong = shape("{\n  \"a\": {{ event.payload.a }}\n}", "application/problem+json; charset=utf-8");
    let error = wrong.render(&event, &CONTEXT).unwrap_err().to_string();
    assert!(error.starts_with("shape: the result is no JSON: ") && error.contains("in line 2, column "), "{error}");
    assert!(shape("no json", "text/plain").render(&event, &CONTEXT).is_ok());
    assert!(shape("", "application/json").render(&event, &CONTEXT).is_err());
    let right = shape("{\"a\": {{ event.payload.a|tojson }}}", "application/json").render(&event, &CONTEXT).unwrap();
    let right: Value = serde_json::from_slice(&right).unwrap();
    assert_eq!(right, json!({"a": "\",\"admin\":true,\""}));
}

// --- attacks ---

/// The stack of a worker of tokio.
const STACK_BYTES: usize = 2 << 20;

/// Renders in a thread with the stack of a worker; how it ended, and in what time.
fn attack(text: &str, event: &Event) -> (Result<String, String>, Duration) {
    std::thread::scope(|scope| {
        let run = || {
            let started = Instant::now();
            (try_render(text, event), started.elapsed())
        };
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run).unwrap().join().unwrap()
    })
}

#[test]
fn long_chains_and_deep_nests_are_refused_before_they_end_the_stack() {
    let chain = |before: &str, link: &str, after: &str| {
        let links = (MAX_TEMPLATE_BYTES - before.len() - after.len()) / link.len();
        format!("{before}{}{after}", link.repeat(links))
    };
    for (before, link, after) in [
        ("{{ 1", "+1", " }}"),
        ("{{ 1", "~a", " }}"),
        ("{{ a", "|e", " }}"),
        ("{{ a", ".a", " }}"),
        ("{{ a", "[0]", " }}"),
        ("{{ a", "()", " }}"),
        ("{{ 1", "**1", " }}"),
        ("{{ ", "not ", "a }}"),
        ("{{ ", "-", "a }}"),
        ("{{ ", "(", " }}"),
        ("{{ ", "[", " }}"),
        ("{{ ", "{1:", " }}"),
        ("{{ a ", "if a else a ", "}}"),
        ("{{ a ", "and a ", "}}"),
        ("{{ a ", "is number ", "}}"),
        ("{% if a %}", "{% elif a %}", "{% endif %}"),
        ("", "{% if a %}", ""),
        ("", "{% if a %}{% else %}", ""),
        ("", "{% for x in a %}", ""),
        ("", "{% filter e %}", ""),
        ("", "{% set a %}", ""),
        ("", "{% with a=1 %}", ""),
    ] {
        let (result, took) = attack(&chain(before, link, after), &with_payload("{}"));
        assert!(result.is_err(), "{link}");
        assert!(took < Duration::from_secs(1), "{link}: {took:?}");
    }
}

/// Every template, and what its error must say; `""`: it may also end well.
fn attacks() -> Vec<(String, &'static str)> {
    let loops = "{% for a in event.payload.l %}{% for b in event.payload.l %}{% for c in event.payload.l %}";
    let ends = "{% endfor %}{% endfor %}{% endfor %}";
    let doubling = "{% set s = s ~ s %}".repeat(60);
    vec![
        (format!("{loops}{{{{ a }}}}{ends}"), "does too much"),
        (format!("{loops}{ends}"), "does too much"),
        (format!("{{% set s = 'x' %}}{doubling}"), "does too much"),
        (format!("{{% set s = event.payload %}}{doubling}"), "does too much"),
        ("{% set s = 'x' %}{% for a in event.payload.l %}{% set s = s ~ s ~ 'x' %}{% endfor %}{{ s }}".into(), ""),
        (
            "{% set s = 'x' %}".to_owned() + &"{% set t %}{{ s }}{{ s }}{% endset %}{% set s = t %}".repeat(60),
            "does too much",
        ),
        (
            "{% set s = event.payload.s %}".to_owned() + &"{% set s = s|replace('x', 'xxxx') %}".repeat(60),
            "does too much",
        ),
        ("{% set s = event.payload.s %}".to_owned() + &"{% set s = s|split('x')|join(s) %}".repeat(60), ""),
        ("{% set s = event.payload.s %}".to_owned() + &"{% set s = s|tojson %}".repeat(200), ""),
        ("{% set s = event.payload %}".to_owned() + &"{% set s = s|items %}".repeat(200), ""),
        ("{% set s = event.payload.l %}".to_owned() + &"{% set s = s|reverse %}".repeat(2_000) + "{{ s }}", ""),
        (
            "{% set s = event.payload.l %}".to_owned()
                + &"{% set s = s|sort|unique|take(9)|pluck('a') %}".repeat(1_000)
                + "{{ s }}",
            "",
        ),
        (format!("{loops}{{% if event.payload.s == event.payload.r %}}{{% endif %}}{ends}"), "does too much"),
        (
            format!(
                "{{% set x = event.payload.r %}}{{% set y = event.payload.s %}}{loops}{{% if y{} %}}{{% endif %}}{ends}",
                " <= x >= y".repeat(45)
            ),
            "does too much",
        ),
        (format!("{loops}{{% if event.payload == event %}}{{% endif %}}{ends}"), "does too much"),
        (format!("{loops}{{% if event.payload in 'x' %}}{{% endif %}}{ends}"), "does too much"),
        (format!("{loops}{{% if 'zz' in event.payload.s %}}{{% endif %}}{ends}"), "does too much"),
        (
            format!("{loops}{{% if event.payload.s is startingwith(event.payload.s) %}}{{% endif %}}{ends}"),
            "does too much",
        ),
        (format!("{loops}{{% set x = event.payload.s[999] %}}{ends}"), "does too much"),
        (format!("{loops}{{% set x = body|truncate(1) %}}{ends}"), "does too much"),
        (format!("{loops}{{% set x = event.payload|truncate(1) %}}{ends}"), "does too much"),
        (format!("{loops}{{% set x = event|pretty(1) %}}{ends}"), "does too much"),
        (format!("{loops}{{% set x = event.payload.l|take(9_999)|sort %}}{ends}"), "does too much"),
        (format!("{loops}{{% for x in event.payload.s if false %}}{{% endfor %}}{ends}"), ""),
        ("{{ event.payload.s|truncate(99999999999) }}{{ event.payload|pretty(99999999999) }}".into(), ""),
        ("{{ 2 ** 9999999999 }}".into(), "shape: line 1: "),
        ("{{ 10 ** 38 * 10 ** 38 }}".into(), "shape: line 1: "),
        ("{{ 1.5|round(4000000000) }}".into(), ""),
        ("{{ event.ts|date('%255Y%255Y%255Y%255Y%255Y%255Y') }}".into(), ""),
        ("{% set event = 1 %}{% set loop = 1 %}{{ event.payload }}{{ loop.index }}".into(), ""),
        ("{{ loop }}{{ self }}{{ super }}{{ caller }}{{ __class__ }}".into(), ""),
    ]
}

/// Events as small as most are, and as large as may be.
fn attacked_events() -> [Event; 2] {
    let list = |length: usize| vec!["[0]"; length].join(",");
    let payload = |length: usize, text: usize| {
        let (text, l) = ("x".repeat(text), list(length));
        with_payload(&format!(r#"{{"l":[{l}],"s":"{text}y","r":"{text}z"}}"#))
    };
    [payload(300, 1_000), payload(20_000, 450_000)]
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[test]
fn a_hostile_template_costs_bounded_time_and_memory() {
    // Test builds are slow, and share the machine; the documentation has figures of a release build.
    const MOST: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];
    const MOST_KIB: usize = 256 * 1024;
    for (event, most) in attacked_events().iter().zip(MOST) {
        for (text, expected) in attacks() {
            let (result, took) = attack(&text, event);
            let shown = &text[..text.len().min(200)];
            assert!(took < most, "{took:?} {shown}");
            match result {
                Ok(body) => assert!(expected.is_empty() && body.len() <= MAX_SHAPED_BYTES, "{shown}: {}", body.len()),
                Err(reason) => assert!(reason.contains(expected), "{shown}: {reason}"),
            }
        }
    }
    let resident = resident_kib();
    assert!(resident < MOST_KIB, "{resident} KiB were in use");
}

#[test]
fn a_result_that_is_too_long_is_cut_off_while_it_is_written() {
    let event = with_payload(&format!(r#"{{"s":"{}"}}"#, "x".repeat(600 * 1024)));
    let error = try_render("{{ body }}{{ body }}{{ body }}", &event).unwrap_err();
    assert_eq!(error, format!("shape: the result is longer than {MAX_SHAPED_BYTES} bytes"));
}

proptest! {
    /// Not a panic, whatever the text is; parts of the language make it likely that some of it is understood.
    #[test]
    fn no_template_panics(parts in prop::collection::vec(prop_oneof![
        Just("{{ ".to_owned()), Just(" }}".to_owned()), Just("{% ".to_owned()), Just(" %}".to_owned()),
        Just("{% for x in event.payload %}".to_owned()), Just("{% endfor %}".to_owned()), Just("{% if ".to_owned()),
        Just("{% endif %}".to_owned()), Just("{% set x = ".to_owned()), Just("event".to_owned()), Just("x".to_owned()),
        Just(".payload".to_owned()), Just(".ts".to_owned()), Just("|tojson".to_owned()), Just("|date('%Y')".to_owned()),
        Just("|sort".to_owned()), Just("|take(2)".to_owned()), Just("|pretty(5)".to_owned()), Just("|int".to_owned()),
        Just(" ~ ".to_owned()), Just(" + 1".to_owned()), Just(" - 1".to_owned()), Just(" // 0".to_owned()),
        Just(" % 0".to_owned()), Just(" ** 2".to_owned()), Just("['a']".to_owned()), Just("[0]".to_owned()),
        Just(" is odd".to_owned()), Just(" in ".to_owned()), Just("[1, 'a']".to_owned()), Just("|items".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()), "[ -~]{0,6}", "\\PC{0,3}",
    ], 0..24), payload in "[\\[\\]{}:,\"a0.e-]{0,12}") {
        let text = parts.concat();
        let event = event(&json!({"topic": "t", "payload": {"a": payload, "b": [1, null, {"c": 1.50}]}}).to_string());
        if let Ok(shape) = template(&text) {
            let result = shape.render(&event, &CONTEXT);
            prop_assert!(!result.is_err_and(|error| error.reason.contains("engine failed")), "{}", text);
        }
    }

    /// Whatever a payload is, a template that prints it prints the canonical form.
    #[test]
    fn a_payload_prints_as_it_is_stored(value in json_value()) {
        let event = event(&json!({"topic": "t", "payload": {"v": value}}).to_string());
        let payload = event.payload_json();
        let expected = std::str::from_utf8(&payload).unwrap();
        let expected = expected.strip_prefix("{\"v\":").and_then(|rest| rest.strip_suffix('}')).unwrap();
        let walked = "{% for key in event.payload %}{{ event.payload[key|string]|tojson }}{% endfor %}";
        prop_assert_eq!(&try_render("{{ event.payload.v|tojson }}", &event).unwrap(), expected);
        prop_assert_eq!(&try_render(walked, &event).unwrap(), expected);
        if value.is_array() {
            let items = "[{% for item in event.payload.v %}{{ item|tojson }}{% if not loop.last %},{% endif %}{% endfor %}]";
            prop_assert_eq!(&try_render(items, &event).unwrap(), expected);
        }
        let body = builtin("cloudevents").render(&event, &CONTEXT).unwrap();
        prop_assert!(serde_json::from_slice::<Value>(&body).is_ok());
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "[\"\\\\\\[\\]{}:,\n]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("\\PC{0,4}", inner, 0..4)
                .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
        ]
    })
}

#[test]
fn a_sort_has_one_order_whatever_the_items_lack() {
    let item = |n: u32| {
        if n.is_multiple_of(3) { "{}".to_owned() } else { format!(r#"{{"b":{{"a":{}}}}}"#, n * 7_919 % 100_003) }
    };
    let payload = format!(r#"{{"l":[{}]}}"#, (0..200).map(item).collect::<Vec<_>>().join(","));
    let sorted = |options: &str| -> Vec<Option<u32>> {
        let text = format!("{{{{ event.payload.l|sort({options})|pluck('b.a')|tojson }}}}");
        serde_json::from_str(&rendered(&text, &payload)).unwrap()
    };
    let found = sorted("attribute='b.a'");
    assert!(found.len() == 200 && found.is_sorted(), "{found:?}");
    let backwards: Vec<_> = sorted("attribute='b.a', reverse=true").into_iter().rev().collect();
    assert_eq!(backwards, found);
    let texts = r#"{"l":["b","C","a"]}"#;
    assert_eq!(rendered("{{ event.payload.l|sort|join }}", texts), "abC");
    assert_eq!(rendered("{{ event.payload.l|sort(case_sensitive=true)|join }}", texts), "Cab");
    let deep = format!("{{{{ event.payload.l|sort(attribute='{}a') }}}}", "a.".repeat(16));
    assert!(try_render(&deep, &with_payload(texts)).unwrap_err().contains("more than 16 steps"));
}

#[test]
fn a_sort_that_compares_too_much_says_so() {
    for seed in 0..20_usize {
        let item = |n: usize| {
            let n = (n * 7_919 + seed * 104_729) % 100_003;
            format!(r#"{{"a":"{}{n:06}"}}"#, "x".repeat(1_000 - n % 97))
        };
        let payload = format!(r#"{{"l":[{}]}}"#, (0..960).map(item).collect::<Vec<_>>().join(","));
        let error = try_render("{{ event.payload.l|sort|length }}", &with_payload(&payload)).unwrap_err();
        assert!(error.contains("line 1: the template does too much"), "{seed}: {error}");
    }
}

// --- events that cost the most to read ---

/// Bytes of the payload that an event of the greatest size may have.
const MOST_BYTES: usize = MAX_EVENT_BYTES - 1_024;

/// As many of `item(0)`, `item(1)`, … as an event of the greatest size holds, within `around`.
fn filled(around: [&str; 2], item: impl Fn(usize) -> String) -> Event {
    let mut payload = around[0].to_owned();
    for at in 0.. {
        let next = item(at);
        if payload.len() + next.len() + around[1].len() + 1 > MOST_BYTES {
            break;
        }
        if at > 0 {
            payload.push(',');
        }
        payload.push_str(&next);
    }
    with_payload(&(payload + around[1]))
}

#[test]
fn forty_thousand_keys_are_read_once() {
    let event = filled(["{", "}"], |at| format!(r#""ключ{at:06}":"é{at}""#));
    let shown = "{{ event.payload|length }} {{ event.payload['ключ000007'] }}";
    assert_eq!(try_render(shown, &event).unwrap(), "39209 é7");
}

/// Events of the greatest size, each the worst of its kind to read.
fn large_events() -> [(&'static str, Event); 7] {
    // Objects and lists in turn, as deep as may be, with something to pass over at each level.
    let nested = |levels: usize, inside: &str, padding: usize| {
        let level = |at: usize| format!(r#"{{"a":[{}"{}","#, "0,".repeat(9), "x".repeat(padding / levels + at % 2));
        let opened: String = (0..levels).map(level).collect();
        format!("{opened}{inside}{}", "]}".repeat(levels))
    };
    [
        ("keys", filled(["{", "}"], |at| format!(r#""é{at:06}":{at}"#))),
        ("long keys", filled(["{", "}"], |at| format!(r#""{}{at:03}":0"#, "x".repeat(10_000)))),
        ("numbers", filled(["[", "]"], |_| "0".to_owned())),
        ("spelt numbers", filled(["[", "]"], |at| format!("{at}.50"))),
        ("containers", filled(["[", "]"], |_| "[]".to_owned())),
        ("escapes", filled(["[", "]"], |_| format!(r#""{}""#, r"\n\u0000".repeat(100)))),
        ("depth", with_payload(&nested(60, "1", 900_000))),
    ]
}

/// A template that goes down so many levels of the deep one.
fn down(levels: usize, then: &str) -> String {
    format!("{{% set deep = event.payload %}}{}{then}", "{% set deep = deep.a[10] %}".repeat(levels))
}

#[test]
fn what_costs_the_most_to_read_is_read_once_and_within_the_time() {
    let walk = "{% for a in event.payload %}{% endfor %}";
    let templates = [
        "{{ event.payload|length }}".to_owned(),
        walk.repeat(2),
        "{{ event.payload|items|length }}{{ event.payload|take(9000)|sort|unique|length }}".to_owned(),
        "{% for a in event.payload %}{% for b in event.payload %}{{ a == b }}{% endfor %}{% endfor %}".to_owned(),
        "{% for a in event.payload %}{{ event.payload[a|string]|tojson }}{{ event|pretty(1) }}{% endfor %}".to_owned(),
        down(60, "{{ deep|string|length }}"),
        "{{ event.payload|tojson }}".to_owned(),
        "{{ event.payload ~ event.payload ~ event.payload }}".to_owned(),
    ];
    for (name, event) in large_events() {
        for text in &templates {
            let (result, _) = attack(text, &event);
            let shown = result.as_ref().map_or_else(Clone::clone, |body| format!("{} bytes", body.len()));
            let is_named = |reason: &String| {
                ["does too much", "has more than 10000 items", "items: needs a map", "is longer than"]
                    .iter()
                    .any(|known| reason.contains(known))
            };
            assert!(result.as_ref().err().is_none_or(is_named), "{name}: {shown}");
        }
        assert!(try_render(&templates[0], &event).is_ok(), "{name}");
        assert!(
            try_render("{{ event.payload|tojson }}", &event).is_ok_and(|body| body.len() > MOST_BYTES / 2),
            "{name}"
        );
    }
}

#[test]
fn a_value_at_the_bottom_of_a_large_event_is_found() {
    let (_, deep) = large_events().into_iter().next_back().unwrap();
    assert_eq!(try_render(&down(60, "{{ deep }}"), &deep).unwrap(), "1");
}

#[test]
fn reading_is_paid_for_before_it_is_done() {
    let event = filled(["[", "]"], |_| "[0]".to_owned());
    let source = |fuel| {
        let deadline = Instant::now() + MAX_RENDERING_TIME;
        std::sync::Arc::new(source::Source::new(event.body(), source::Limits { fuel, deadline }))
    };
    let poor = source(100);
    assert!(poor.root().get_attr("payload").is_err() || poor.is_exhausted());
    assert!(poor.containers().is_err(), "nothing was read");
    let rich = source(100_000);
    assert_eq!(rich.root().get_attr("payload").unwrap().len(), Some(261_887));
}

#[test]
fn a_rendering_ends_when_its_time_is_over() {
    let event = with_payload(r#"{"l":[1,2,3],"n":1e999,"s":"text"}"#);
    for text in [
        "{{ event.topic }}",
        "{{ event.payload.l|length }}",
        "{% for x in event.payload.l %}{% endfor %}",
        "{% if event.payload.l == event.payload.l %}{% endif %}",
        "{{ 'constant' }}",
        "{{ (event.payload.l ~ '')|upper }}",
    ] {
        let compiled = template::Template::compile(text).unwrap();
        let late = compiled.render_until(Instant::now(), &event, &CONTEXT).unwrap_err();
        assert!(late.took_too_long, "{text}: {late}");
        assert!(late.to_string().contains("the rendering took longer than 2s"), "{text}: {late}");
        assert!(compiled.render(&event, &CONTEXT).is_ok(), "{text}");
    }
}
