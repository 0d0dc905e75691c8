//! Text that others wrote, as a terminal or a page may show it.

use std::fmt::Write as _;

/// Whether a character is spelt out: what a terminal would obey (control characters: C0, DEL, C1), what would show letters
/// in another order than they have (Unicode UAX #9: marks, embeddings, overrides and isolates), and what nobody sees
/// (zero-width characters, the line and paragraph separators, the byte order mark), so that two names that look alike are
/// alike.
pub(crate) fn is_spelt_out(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

/// One line of text, in which characters that [`is_spelt_out`] selects are written as in Rust: `\u{1b}`, `\n`.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_spelt_out(character) {
            match character {
                '\n' | '\r' | '\t' | '\0' => shown.extend(character.escape_debug()),
                _ => shown.extend(character.escape_unicode()),
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// As [`visible`], for text of several lines.
pub(crate) fn visible_lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

/// JSON of which nothing speaks to a terminal: only a string has such characters, and there they may be written as escapes.
pub(crate) fn visible_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_spelt_out(character) && !matches!(character, '\n' | '\r' | '\t') {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(character);
        }
    }
    shown
}
