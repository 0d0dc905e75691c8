//! Text that others wrote, as a terminal may show it.

use std::fmt::Write as _;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

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

/// A text for a stream, without anything that a terminal obeys, except for line ends and, on a stream with colours,
/// colours.
pub(crate) fn gated(text: &str, colour: bool) -> String {
    let mut parts = text.split("\x1b[");
    let mut passed = visible_lines(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.trim_start_matches(|character: char| character.is_ascii_digit() || character == ';');
        let is_colour = colour && digits.starts_with('m');
        passed += if is_colour { "\x1b[" } else { "\\u{1b}[" };
        passed += &visible_lines(part);
    }
    passed
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

/// Makes writers that let each line of the log through as [`gated`] does. A line comes in one write, and has one end.
pub(super) struct Gate<M> {
    pub(super) inner: M,
    pub(super) colour: bool,
}

pub(super) struct GatedWriter<W> {
    inner: W,
    colour: bool,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Gate<M> {
    type Writer = GatedWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        GatedWriter { inner: self.inner.make_writer(), colour: self.colour }
    }
}

impl<W: Write> Write for GatedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        // A line end within would begin a line that nobody wrote.
        let line = gated(line, self.colour).replace('\n', "\\n");
        self.inner.write_all(format!("{line}{end}").as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
