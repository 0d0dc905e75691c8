//! Texts as receivers want them: escapes, each for one grammar, and cuts to a length.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const ELLIPSIS: char = '…';

/// Replaces each character for which `escaped` gives a text.
fn mapped(text: &str, escaped: impl Fn(char) -> Option<&'static str>) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        match escaped(character) {
            Some(escaped) => result.push_str(escaped),
            None => result.push(character),
        }
    }
    result
}

/// Cut to `chars` characters, an ellipsis included.
pub(super) fn truncated(text: &str, chars: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(chars) else { return text.to_owned() };
    let Some(kept) = chars.checked_sub(1) else { return String::new() };
    let cut = text[..end].char_indices().nth(kept).map_or(0, |(at, _)| at);
    let mut result = text[..cut].to_owned();
    result.push(ELLIPSIS);
    result
}

pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect())
}

/// For HTML and XML, attributes included.
pub(super) fn markup(text: &str) -> String {
    mapped(text, |character| match character {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&#x27;"),
        _ => None,
    })
}

/// For Slack's `mrkdwn`. Its three entities prevent mentions (`<!channel>`) and links. At most `chars` characters,
/// escapes counted, without cutting an escape.
pub(super) fn slack(text: &str, chars: usize) -> String {
    let mut result = String::with_capacity(text.len().min(chars.saturating_mul(4)));
    let (mut count, mut rest) = (0, text.chars());
    while let Some(character) = rest.next() {
        let mut buffer = [0; 4];
        let escaped = match character {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            _ => &*character.encode_utf8(&mut buffer),
        };
        let length = escaped.chars().count();
        let is_last = rest.as_str().is_empty();
        // Leaves room for the ellipsis, unless this is the end.
        if count + length + usize::from(!is_last) > chars {
            if count < chars {
                result.push(ELLIPSIS);
            }
            return result;
        }
        result.push_str(escaped);
        count += length;
    }
    result
}

/// For the Markdown of Discord, Teams and `TheHive`: escapes formatting, links and mentions.
pub(super) fn markdown(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(
            character,
            '\\' | '`'
                | '*'
                | '_'
                | '{'
                | '}'
                | '['
                | ']'
                | '('
                | ')'
                | '<'
                | '>'
                | '#'
                | '+'
                | '-'
                | '!'
                | '|'
                | '~'
                | '@'
                | '.'
        ) {
            result.push('\\');
        }
        result.push(character);
    }
    result
}

/// For a PARAM-VALUE of RFC 5424, section 6.3.3; control characters, which would end a line, become spaces.
pub(super) fn syslog(text: &str) -> String {
    mapped(text, |character| match character {
        '"' => Some("\\\""),
        '\\' => Some("\\\\"),
        ']' => Some("\\]"),
        character if character.is_control() => Some(" "),
        _ => None,
    })
}

/// For a MSGID, APP-NAME or HOSTNAME of RFC 5424: visible ASCII, 1 to 32 characters, `-` for none.
pub(super) fn msgid(text: &str) -> String {
    const MAX_MSGID_CHARS: usize = 32;
    let visible: String = text.chars().filter(char::is_ascii_graphic).take(MAX_MSGID_CHARS).collect();
    if visible.is_empty() { "-".to_owned() } else { visible }
}

/// Control characters, including line ends, become spaces.
pub(super) fn oneline(text: &str) -> String {
    mapped(text, |character| character.is_control().then_some(" "))
}

/// Characters beyond ASCII become `?`.
pub(super) fn ascii(text: &str) -> String {
    mapped(text, |character| (!character.is_ascii()).then_some("?"))
}

/// For a part of a URL: all but the unreserved characters of RFC 3986 as `%XX`.
pub(super) fn url(text: &str) -> String {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Compact JSON with a member a line and two spaces a level, cut to `chars` characters.
pub(super) fn pretty(json: &str, chars: usize) -> String {
    let mut result = String::new();
    let (mut count, mut depth, mut in_string, mut escaped) = (0, 0_usize, false, false);
    let mut rest = json.chars().peekable();
    let line = |depth: usize| format!("\n{}", "  ".repeat(depth));
    while let Some(character) = rest.next() {
        let mut piece = String::from(character);
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else {
            match character {
                '"' => in_string = true,
                '{' | '[' if !matches!(rest.peek(), Some('}' | ']')) => {
                    depth += 1;
                    piece += &line(depth);
                }
                '{' | '[' => piece.extend(rest.next()),
                '}' | ']' => {
                    depth = depth.saturating_sub(1);
                    piece = format!("{}{character}", line(depth));
                }
                ',' => piece += &line(depth),
                ':' => piece.push(' '),
                _ => {}
            }
        }
        let length = piece.chars().count();
        let is_last = rest.peek().is_none();
        if count + length + usize::from(!is_last) > chars {
            if count < chars {
                result.push(ELLIPSIS);
            }
            return result;
        }
        result += &piece;
        count += length;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_counts_characters_and_its_own_ellipsis() {
        for (text, chars, expected) in
            [("äöü", 3, "äöü"), ("äöü", 2, "ä…"), ("abc", 1, "…"), ("abc", 0, ""), ("", 0, ""), ("", 5, "")]
        {
            assert_eq!(truncated(text, chars), expected, "{text} {chars}");
        }
    }

    #[test]
    fn an_escape_for_slack_is_whole_or_not_there() {
        assert_eq!(slack("<!channel> & co", usize::MAX), "&lt;!channel&gt; &amp; co");
        for chars in 0..12 {
            let cut = slack("a&b<c", chars);
            assert!(cut.chars().count() <= chars, "{chars}: {cut}");
            assert!(cut.replace("&amp;", "").replace("&lt;", "").chars().all(|c| c != '&'), "{chars}: {cut}");
        }
        assert_eq!(slack("a&b<c", 12), "a&amp;b&lt;c");
    }

    #[test]
    fn each_grammar_has_its_escape() {
        assert_eq!(markdown("*[x](y)* @everyone"), "\\*\\[x\\]\\(y\\)\\* \\@everyone");
        assert_eq!(syslog("a\"b\\c]d\ne"), "a\\\"b\\\\c\\]d e");
        assert_eq!(msgid("attacker.seen with spaces and a long tail behind"), "attacker.seenwithspacesandalongt");
        assert_eq!(msgid("ä"), "-");
        assert_eq!(markup("<a href='\"&'>"), "&lt;a href=&#x27;&quot;&amp;&#x27;&gt;");
        assert_eq!(url("a b/ä~"), "a%20b%2F%C3%A4~");
        assert_eq!(oneline("a\r\nb\u{85}c"), "a  b c");
        assert_eq!(ascii("naïve"), "na?ve");
        assert_eq!(capitalized("éCOLE"), "École");
    }

    #[test]
    fn pretty_json_is_the_same_json_until_it_is_cut() {
        let json = r#"{"a":[1,{"b":"x,{\"]"}],"c":{},"d":[]}"#;
        let shown = pretty(json, 1_000);
        assert_eq!(
            shown,
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x,{\\\"]\"\n    }\n  ],\n  \"c\": {},\n  \"d\": []\n}"
        );
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&shown), read(json));
        for chars in 0..shown.chars().count() {
            assert!(pretty(json, chars).chars().count() <= chars, "{chars}");
        }
    }
}
