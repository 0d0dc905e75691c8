//! Patterns of the bus. Any text is one, and any text is a topic: [`crate::topic`] is stricter.

/// Whether `pattern` matches `topic`. Both are tokens with dots between, and tokens may be empty.
///
/// `*` stands for one token that is not empty. `>` stands for one or more tokens, empty ones included, and ends the
/// pattern wherever it is. All other tokens stand for themselves.
#[must_use]
pub fn matches(pattern: &str, topic: &str) -> bool {
    let mut found = topic.split('.');
    for wanted in pattern.split('.') {
        let Some(token) = found.next() else { return false };
        match wanted {
            ">" => return true,
            "*" if token.is_empty() => return false,
            "*" => {}
            literal if literal == token => {}
            _ => return false,
        }
    }
    found.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_they_do_on_the_bus() {
        for (pattern, topic, is_match) in [
            ("a.b", "a.b", true),
            ("a.b", "a.B", false),
            ("a.b", "a.b.c", false),
            ("a.b.c", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a.", false),
            ("a.*", "a.b.c", false),
            ("*.b", ".b", false),
            ("a.*x", "a.bx", false),
            ("a.*x", "a.*x", true),
            ("a.>", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a.", true),
            ("a.>", "a", false),
            ("a.>.b", "a.c", true),
            (">.x", "a.b", true),
            (">", "a", true),
            (">", "", true),
            ("a..b", "a..b", true),
            ("a.*.b", "a..b", false),
            ("a.b>", "a.bc", false),
            ("a b", "a b", true),
            ("", "a", false),
            ("a.*", "a.*", true),
        ] {
            assert_eq!(matches(pattern, topic), is_match, "{pattern:?} and {topic:?}");
        }
    }
}
