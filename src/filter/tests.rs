//! The answers of the published examples, and that nothing goes beyond its limits.

pub(in crate::filter) mod consistency;
mod examples;

use proptest::prelude::*;

use super::*;

pub(in crate::filter) fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn refused(text: &str) -> String {
    Filter::parse(text).unwrap_err().to_string()
}

#[test]
fn a_filter_is_kept_as_it_was_given_but_for_spaces() {
    let given = "{ \"b c\" : [ \" x \\\" y \" ,\n 1.0 ],\t\"a\": [ { \"exists\": true } ] }";
    assert_eq!(filter(given).as_str(), r#"{"b c":[" x \" y ",1.0],"a":[{"exists":true}]}"#);
    assert_eq!(filter(filter(given).as_str()), filter(given));
    assert_eq!(filter(r#"{"a\\":["\\"]}"#).to_string(), r#"{"a\\":["\\"]}"#);
}

#[test]
fn an_error_says_where_and_why() {
    assert_eq!(refused("{\"type\": [\"a\"\n  \"b\"]}"), "line 2 column 3: invalid JSON: expected ',' or ']'");
    assert_eq!(refused(""), "line 1 column 1: invalid JSON: the text ends, expected a value");
    assert_eq!(refused("[]"), "line 1 column 1: a filter is a JSON object, such as {\"type\": [\"login\"]}");
    assert_eq!(
        refused(r#"{"payload": {"user": "root"}}"#),
        "line 1 column 22 (payload.user): must be an array of alternatives, [\"…\"], or an object with fields"
    );
    assert_eq!(
        refused(r#"{"é": {"é": [{"prefix": 1}]}}"#),
        "line 1 column 25 (é.é): prefix must be a string",
        "columns count characters"
    );
    let unknown = refused(r#"{"a": [{"regex": "x"}]}"#);
    assert!(unknown.starts_with("line 1 column 18 (a): \"regex\" is no operator here; there are anything-but, cidr,"));
}

#[test]
fn what_event_bridge_refuses_is_refused() {
    let wrong = [
        ("{}", "is empty; name at least one field"),
        (r#"{"a": {}}"#, "is empty; name at least one field"),
        (r#"{"a": []}"#, "is empty; give at least one alternative"),
        (r#"{"a": [[1]]}"#, "an array of alternatives holds no array"),
        (r#"{"a": [1], "a": [2]}"#, "the object has the key \"a\" already"),
        (r#"{"a": [{}]}"#, "is empty; an operator is wanted"),
        (r#"{"a": [{"prefix": "a", "suffix": "b"}]}"#, "an object has one operator"),
        (r#"{"a": [{"exists": "true"}]}"#, "exists must be true or false"),
        (r#"{"a": [{"prefix": {"suffix": "x"}}]}"#, "prefix must be a string or {\"equals-ignore-case\""),
        (r#"{"a": [{"wildcard": "a**b"}]}"#, "two asterisks in a row"),
        (r#"{"a": [{"wildcard": "a\\b"}]}"#, "a backslash in a wildcard stands before an asterisk"),
        (r#"{"a": [{"wildcard": "a\\"}]}"#, "a backslash in a wildcard stands before an asterisk"),
        (r#"{"a": [{"anything-but": [1, "x"]}]}"#, "either strings or numbers"),
        (r#"{"a": [{"anything-but": []}]}"#, "is empty; give at least one value"),
        (r#"{"a": [{"anything-but": null}]}"#, "anything-but has strings or numbers"),
        (r#"{"a": [{"anything-but": {"prefix": ""}}]}"#, "every string has the empty prefix"),
        (r#"{"a": [{"anything-but": {"suffix": ["x", ""]}}]}"#, "every string has the empty suffix"),
        (r#"{"a": [{"anything-but": {"numeric": ["=", 1]}}]}"#, "\"numeric\" is no operator here"),
        (r#"{"a": [{"numeric": ">"}]}"#, "numeric must be an array"),
        (r#"{"a": [{"numeric": [">"]}]}"#, "numeric must be an array"),
        (r#"{"a": [{"numeric": [">", "1"]}]}"#, "numeric must be an array"),
        (r#"{"a": [{"numeric": ["==", 1]}]}"#, "a comparison is one of"),
        (r#"{"a": [{"numeric": ["<", 1, ">", 0]}]}"#, "a range begins with"),
        (r#"{"a": [{"numeric": ["=", 1, "<", 2]}]}"#, "a range begins with"),
        (r#"{"a": [{"numeric": [">", 1, "=", 2]}]}"#, "a range ends with"),
        (r#"{"a": [{"numeric": [">", 2, "<", 1]}]}"#, "no number is in this range"),
        (r#"{"a": [{"numeric": [">", 1, "<=", 1.0]}]}"#, "no number is in this range"),
        (r#"{"a": [{"numeric": [">", true]}]}"#, "numeric must be an array"),
        (r#"{"a": [{"cidr": "10.0.0.0"}]}"#, "cidr must be a network"),
        (r#"{"a": [{"cidr": "10.0.0.0/33"}]}"#, "cidr must be a network"),
        (r#"{"$or": {"a": [1]}}"#, "$or must be an array of at least two objects"),
        (r#"{"$or": [{"a": [1]}]}"#, "$or must be an array of at least two objects"),
        (r#"{"$or": [{"a": [1]}, 2]}"#, "an alternative of $or must be an object"),
        (r#"{"$or": [{"a": [1]}, {}]}"#, "is empty; name at least one field"),
        (r#"{"$or": [{"a": [1]}, {"prefix": ["x"]}]}"#, "\"prefix\" is an operator and no field"),
    ];
    for (text, reason) in wrong {
        let error = refused(text);
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn every_limit_is_kept() {
    let accepted_and_refused = |accepted: String, too_much: String, limit: usize| {
        filter(&accepted);
        let error = refused(&too_much);
        assert!(error.contains(&limit.to_string()), "{error}");
    };
    let padded = |length: usize| format!("{{\"a\":[1]{}}}", " ".repeat(length - 9));
    accepted_and_refused(padded(MAX_FILTER_BYTES), padded(MAX_FILTER_BYTES + 1), MAX_FILTER_BYTES);
    let nested = |depth: usize| "{\"a\":".repeat(depth) + "{\"a\":[1]}" + &"}".repeat(depth);
    accepted_and_refused(nested(MAX_FILTER_DEPTH), nested(MAX_FILTER_DEPTH + 1), MAX_FILTER_DEPTH);
    let values = |count: usize| format!("{{\"a\":[{}]}}", vec!["1"; count].join(","));
    accepted_and_refused(values(MAX_FILTER_VALUES), values(MAX_FILTER_VALUES + 1), MAX_FILTER_VALUES);
    let listed = |count: usize| format!("{{\"a\":[{{\"anything-but\":[{}]}}]}}", vec!["1"; count].join(","));
    accepted_and_refused(listed(MAX_FILTER_VALUES - 1), listed(MAX_FILTER_VALUES), MAX_FILTER_VALUES);
    let long = |length: usize| format!("{{\"a\":[\"{}\"]}}", "x".repeat(length));
    accepted_and_refused(long(MAX_OPERAND_BYTES), long(MAX_OPERAND_BYTES + 1), MAX_OPERAND_BYTES);
    let wild = |count: usize| format!("{{\"a\":[{{\"wildcard\":\"{}\"}}]}}", "x*".repeat(count));
    accepted_and_refused(wild(MAX_WILDCARDS), wild(MAX_WILDCARDS + 1), MAX_WILDCARDS);
    // Three `$or` of ten alternatives are the thousand combinations that EventBridge takes.
    let or = |count: usize| {
        let alternatives: Vec<_> = (0..count).map(|number| format!("{{\"b\":[{number}]}}")).collect();
        format!("\"$or\":[{}]", alternatives.join(","))
    };
    let ors = |last: usize| format!("{{{},\"x\":{{{},\"y\":{{{}}}}}}}", or(10), or(10), or(last));
    accepted_and_refused(ors(10), ors(11), MAX_OR_COMBINATIONS);
    let wide = |fields: usize| {
        let fields: Vec<_> = (0..fields).map(|number| format!("\"f{number}\":[1],")).collect();
        ors(10).replacen('{', &format!("{{{}", fields.concat()), 1)
    };
    // A thousand combinations of three fields and these.
    accepted_and_refused(wide(5), wide(6), MAX_CONDITIONS);
}

#[test]
fn a_wildcard_does_not_go_back() {
    // With backtracking, each further asterisk would multiply the time.
    let wildcard = filter(&format!("{{\"a\":[{{\"wildcard\":\"{}b\"}}]}}", "a*".repeat(60)));
    let event = format!("{{\"a\":\"{}\"}}", "a".repeat(1_000_000));
    assert!(!wildcard.matches(event.as_bytes()));
    assert!(wildcard.matches(event.replace("a\"}", "ab\"}").as_bytes()));
}

#[test]
fn what_is_no_event_is_not_wanted() {
    let any = filter(r#"{"a": [{"exists": false}]}"#);
    assert!(any.matches(b"{}"));
    for body in [&b""[..], b"{", b"[]", b"[{}]", b"\"a\"", b"null", b"{\"b\":\"\xff\"}", b"{\"b\":1}{"] {
        assert!(!any.matches(body), "{body:?}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in any::<String>()) {
        let _ = Filter::parse(&text);
    }

    #[test]
    fn nothing_like_a_filter_makes_parsing_or_matching_panic(
        parts in prop::collection::vec(prop::sample::select(&[
            "{", "}", "[", "]", ":", ",", "\"a\"", "\"$or\"", "\"prefix\"", "\"suffix\"", "\"wildcard\"", "\"anything-but\"",
            "\"numeric\"", "\"exists\"", "\"cidr\"", "\"equals-ignore-case\"", "\">\"", "\"=\"", "1", "-1e999", "0.1", "true",
            "null", "\"*a\\\\\"", "\"::/0\"", "\"\\ud83d\\ude00\"", "{\"a\":[", "{\"a\":[{\"", "]}", "}]}",
        ][..]), 0..20),
        body in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let text = parts.concat();
        if let Ok(filter) = Filter::parse(&text) {
            prop_assert_eq!(&Filter::parse(filter.as_str()).unwrap(), &filter);
            let _ = (filter.matches(&body), filter.matches(text.as_bytes()));
        }
    }
}
