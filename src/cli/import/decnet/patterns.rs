//! DECNET's patterns of topics: what they match there, in patterns of Postrider. Pure.

use std::collections::HashSet;

use serde_json::Value;

use crate::topic::Pattern;

/// The most characters of a pattern that a note repeats.
const MAX_NOTED_CHARS: usize = 40;

/// The patterns of a webhook, from the text that its column has, in their order and each once. `Err`: it is not known what
/// DECNET makes of the text.
pub(super) fn translated(column: &str, notes: &mut Vec<String>) -> Result<Vec<String>, String> {
    let texts: Vec<String> = match serde_json::from_str(column) {
        Ok(Value::Array(items)) => {
            let all = items.len();
            let texts: Vec<_> = items.into_iter().filter_map(text).collect();
            if texts.len() < all {
                notes.push(format!("{} of its patterns are no text; DECNET passes them over, too", all - texts.len()));
            }
            texts
        }
        Ok(Value::Object(members)) => {
            notes.push("its patterns are the keys of a JSON object; DECNET reads the keys".to_owned());
            members.into_iter().map(|(key, _)| key).collect()
        }
        Ok(Value::String(_)) => return Err("its patterns are one JSON text, and no list".to_owned()),
        Ok(_) | Err(_) => {
            notes.push("its patterns are no JSON list; DECNET finds none in it".to_owned());
            Vec::new()
        }
    };
    let mut patterns: Vec<String> = Vec::new();
    let mut known = HashSet::new();
    for text in texts {
        let pattern = until_rest(&text);
        if let Err(error) = Pattern::parse(&pattern) {
            notes.push(format!("the pattern {:?} is left out, as no topic matches it: it {error}", cut(&text)));
            continue;
        }
        if pattern != text {
            notes.push(format!("the pattern {:?} becomes {:?}, as DECNET reads it", cut(&text), cut(&pattern)));
        }
        if known.insert(pattern.clone()) {
            patterns.push(pattern);
        }
    }
    if patterns.is_empty() {
        notes.push("it has no pattern and gets no event, as at DECNET".to_owned());
    }
    Ok(patterns)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The beginning of a pattern, for a note.
fn cut(pattern: &str) -> String {
    let mut cut: String = pattern.chars().take(MAX_NOTED_CHARS).collect();
    if cut.len() < pattern.len() {
        cut.push('…');
    }
    cut
}

/// The pattern up to its first `>` that is a token: what follows counts for nothing at DECNET.
fn until_rest(text: &str) -> String {
    let mut tokens: Vec<&str> = Vec::new();
    for token in text.split('.') {
        tokens.push(token);
        if token == ">" {
            break;
        }
    }
    tokens.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_what_it_matched() {
        for (column, expected, noted) in [
            (r#"["attacker.>", "decky.*.state"]"#, &["attacker.>", "decky.*.state"][..], 0),
            (r#"["a.>.b", ">.x"]"#, &["a.>", ">"], 2),
            (r#"["a.>.b", "a.>"]"#, &["a.>"], 1),
            (r#"["a b", "a..b", "a.", "*x", "é", " ", "", "attacker.>"]"#, &["attacker.>"], 7),
            (r#"["attacker.>", 5, null, ["a"]]"#, &["attacker.>"], 1),
            (r#"{"a": 1}"#, &["a"], 1),
            ("not-json", &[], 2),
            ("5", &[], 2),
            ("null", &[], 2),
            ("[]", &[], 1),
            ("", &[], 2),
        ] {
            let mut notes = Vec::new();
            assert_eq!(translated(column, &mut notes).unwrap(), expected, "{column}");
            assert_eq!(notes.len(), noted, "{column}: {notes:?}");
        }
        let long = format!(r#"["{}", "b"]"#, "x".repeat(256));
        assert_eq!(translated(&long, &mut Vec::new()).unwrap(), ["b"]);
        translated(r#""attacker.>""#, &mut Vec::new()).unwrap_err();
    }
}
