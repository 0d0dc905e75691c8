use proptest::prelude::*;

use super::*;

/// A request of GitHub's.
struct Push(&'static [u8]);

impl Lookup for Push {
    fn attribute(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            "header.X-GitHub-Event" => Some(Cow::Borrowed("pull request*")),
            "query.long" => Some(Cow::Owned("x".repeat(MAX_MAPPED_BYTES))),
            "method" => Some(Cow::Borrowed("POST")),
            _ => None,
        }
    }

    fn body(&self) -> &[u8] {
        self.0
    }
}

const BODY: &[u8] = br#"{"a/b": {"m~n": [1.50, true, null, "x\ny", {"k": 1}]}, "": "empty", "twice": 1, "twice": 2, "ref": "refs.main"}"#;

fn rendered(template: &str) -> Result<String, String> {
    let template = Template::parse(template).map_err(|error| error.to_string())?;
    template.render(&Push(BODY)).map_err(|error| error.to_string())
}

#[test]
fn a_template_is_text_with_values_of_the_message() {
    for (template, text) in [
        ("plain", "plain"),
        ("github.{header.X-GitHub-Event}", "github.pull request*"),
        ("{method}:{/ref}", "POST:refs.main"),
        ("/a~1b/m~0n/0", "1.50"),
        ("/a~1b/m~0n/1", "true"),
        ("/a~1b/m~0n/3", "x\ny"),
        ("/a~1b/m~0n/4/k", "1"),
        ("/", "empty"),
    ] {
        assert_eq!(rendered(template).as_deref(), Ok(text), "{template}");
    }
}

#[test]
fn what_a_message_lacks_is_named() {
    for (template, error) in [
        ("a.{header.X-Other}", "header.X-Other is missing"),
        ("{/ref/0}", "/ref/0 is missing"),
        ("/a~1b/m~0n/2", "/a~1b/m~0n/2 is missing"),
        ("/a~1b/m~0n/01", "/a~1b/m~0n/01 is missing"),
        ("/a~1b/m~0n/-", "/a~1b/m~0n/- is missing"),
        ("/a~1b", "/a~1b is an object, must be a string, a number, true or false"),
        ("/a~1b/m~0n", "/a~1b/m~0n is an array, must be a string, a number, true or false"),
        ("/twice", "/twice is there more than once"),
        ("x{query.long}", "query.long makes the text longer than 1024 bytes"),
    ] {
        assert_eq!(rendered(template).unwrap_err(), error, "{template}");
    }
    let no_json = Template::parse("/a").unwrap().render(&Push(b"a=1")).unwrap_err();
    assert_eq!(no_json.to_string(), "the body is no JSON, and /a looks into it: byte 0: expected a value");
    let no_text = Template::parse("/a").unwrap().render(&Push(b"\"\xff\"")).unwrap_err();
    assert_eq!(no_text.to_string(), "the body is no JSON, and /a looks into it: byte 1: is not UTF-8");
    assert_eq!(Template::parse("{method}").unwrap().render(&Push(b"a=1")).as_deref(), Ok("POST"));
}

#[test]
fn what_is_no_template_is_refused_with_its_place() {
    for (template, error) in [
        ("", "must not be empty"),
        ("a{b", "has a brace at byte 1 that belongs to no placeholder; a placeholder is {/pointer} or {attribute}"),
        ("a}b", "has a brace at byte 1 that belongs to no placeholder; a placeholder is {/pointer} or {attribute}"),
        ("{}", "\"\" is no attribute; it must be visible ASCII without braces"),
        ("{a b}", "\"a b\" is no attribute; it must be visible ASCII without braces"),
        ("{a{b}", "\"a{b\" is no attribute; it must be visible ASCII without braces"),
        ("{/a~2}", "\"/a~2\" is no JSON pointer: a tilde must be ~0, and a slash ~1"),
        ("/a~", "\"/a~\" is no JSON pointer: a tilde must be ~0, and a slash ~1"),
    ] {
        assert_eq!(Template::parse(template).unwrap_err().to_string(), error, "{template}");
    }
    assert_eq!(
        Template::parse(&"x".repeat(MAX_MAPPING_BYTES + 1)),
        Err(MappingError::TooLong { length: MAX_MAPPING_BYTES + 1 })
    );
    assert!(Template::parse(&"x".repeat(MAX_MAPPING_BYTES)).is_ok());
    assert!(Template::parse(&"{a}".repeat(MAX_MAPPING_PARTS)).is_ok());
    assert_eq!(Template::parse(&"{a}".repeat(MAX_MAPPING_PARTS + 1)), Err(MappingError::TooManyParts));
    assert_eq!(Pointer::parse("a").unwrap_err().to_string(), "\"a\" is no JSON pointer: it must begin with a slash");
}

#[test]
fn values_are_made_fit_for_a_topic_and_texts_are_checked_before() {
    let topic = |template: &str| Template::parse(template).unwrap().topic(&Push(BODY)).map(|topic| topic.to_string());
    assert_eq!(topic("github.{header.X-GitHub-Event}.{/ref}").as_deref(), Ok("github.pull_request_.refs.main"));
    assert_eq!(topic("{/a~1b/m~0n/3}").as_deref(), Ok("x_y"));
    assert!(matches!(topic("a.{/ref}."), Err(MappingError::Topic { .. })));
    let is_for_topics = |template: &str| Template::parse(template).unwrap().check_topic().is_ok();
    assert!(is_for_topics("a.{b}") && is_for_topics("/a"));
    assert!(!is_for_topics("a b.{c}") && !is_for_topics("a.{b}.") && !is_for_topics("*.{b}"));
}

#[test]
fn a_part_of_the_body_keeps_its_digits() {
    let part = |pointer: &str| {
        let bytes = payload_of(&Pointer::parse(pointer).unwrap(), &Bytes::from_static(BODY));
        bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    };
    assert_eq!(part("/a~1b/m~0n").as_deref(), Ok(r#"[1.50, true, null, "x\ny", {"k": 1}]"#));
    assert_eq!(part("/a~1b/m~0n/3").as_deref(), Ok(r#""x\ny""#));
    assert_eq!(part("/ref").as_deref(), Ok(r#""refs.main""#));
    assert_eq!(part("/a~1b/m~0n/2").as_deref(), Ok("null"));
    assert_eq!(part("").unwrap().as_bytes(), BODY);
    assert_eq!(part("/x").unwrap_err().to_string(), "/x is missing");
}

proptest! {
    #[test]
    fn no_text_makes_it_stumble(template in r"[a/~{}.0 é]{0,12}", body in r#"[\[\]{}",:0a ]{0,16}"#) {
        struct Any(String);
        impl Lookup for Any {
            fn attribute(&self, name: &str) -> Option<Cow<'_, str>> {
                Some(Cow::Owned(name.to_owned()))
            }
            fn body(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }
        if let Ok(parsed) = Template::parse(&template) {
            prop_assert_eq!(parsed.as_str(), &template);
            if let Ok(text) = parsed.render(&Any(body)) {
                prop_assert!(text.len() <= MAX_MAPPED_BYTES);
            }
        }
    }
}
