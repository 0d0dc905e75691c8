//! Writers of the log that let nothing through that a terminal obeys.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use crate::visible::visible_lines;

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
