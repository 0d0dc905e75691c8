//! The only place that writes to the terminal: text for people, tables, and JSON for programs.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::remote::Answer;
use crate::clock::UnixMicros;
use crate::config::Environment;

pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
pub(super) const NAME: Style = AnsiColor::Cyan.on_default();
pub(super) const QUIET: Style = Style::new().dimmed();
pub(super) const STRONG: Style = Style::new().bold();

/// How this run speaks: answers on standard output, everything said about them on standard error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// One JSON document, or one a line for streams.
    pub json: bool,
    stdout: Stream,
    stderr: Stream,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    is_terminal: bool,
    colour: bool,
}

#[expect(clippy::unused_self, reason = "whoever may print has an Output")]
impl Output {
    pub(super) fn new(json: bool, environment: &Environment) -> Self {
        let stream = |is_terminal| Stream { is_terminal, colour: is_terminal && !environment.forbids_colour() };
        Self { json, stdout: stream(io::stdout().is_terminal()), stderr: stream(io::stderr().is_terminal()) }
    }

    /// A line of the answer. `Err` when the reader has gone.
    pub(super) fn line(self, text: impl Display) -> io::Result<()> {
        self.verbatim(gated(&text.to_string(), self.stdout.colour))
    }

    /// As [`Self::line`], for what programs read: JSON and scripts.
    pub(super) fn verbatim(self, text: impl Display) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// A line about the answer, on standard error. Nobody needs it to go on, so a reader that has gone is no error.
    pub(super) fn note(self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{}", gated(&text.to_string(), self.stderr.colour));
    }

    /// One JSON document on one line.
    pub(super) fn json(self, document: &impl Serialize) -> io::Result<()> {
        self.verbatim(serde_json::to_string(document)?)
    }

    /// A server's answer as it came, if JSON is wanted; says whether that is so.
    pub(super) fn answer(self, answer: &Answer) -> io::Result<bool> {
        if self.json {
            self.verbatim(answer.text.trim_end())?;
        }
        Ok(self.json)
    }

    /// `text` made [`visible`], and in colour if standard output is a terminal that wants it.
    pub(super) fn paint(self, style: Style, text: impl Display) -> String {
        paint(self.stdout.colour, style, text)
    }

    /// As [`Self::paint`], for [`Self::note`].
    pub(super) fn paint_note(self, style: Style, text: impl Display) -> String {
        paint(self.stderr.colour, style, text)
    }

    pub(super) fn notes_in_colour(self) -> bool {
        self.stderr.colour
    }

    /// Whether a person can be asked.
    pub(super) fn can_ask(self) -> bool {
        self.stderr.is_terminal && io::stdin().is_terminal()
    }

    /// Asks a question that `y` answers with yes; anything else is no.
    pub(super) fn confirm(self, question: &str) -> io::Result<bool> {
        write!(io::stderr().lock(), "{question} [y/N] ")?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// Rows under headings, in columns.
    pub(super) fn table(self, headings: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
        let heading = |text: &&str| {
            let cell = Cell::new(text.to_uppercase());
            if self.stdout.colour { cell.add_attribute(Attribute::Dim) } else { cell }
        };
        let mut table = columns();
        table.set_header(headings.iter().map(heading).collect::<Vec<_>>()).add_rows(rows);
        self.print_table(table)
    }

    /// Names and what they stand for, one a line.
    pub(super) fn fields(self, fields: &[(&str, String)]) -> io::Result<()> {
        let mut table = columns();
        for (name, value) in fields {
            let name = Cell::new(name);
            let name = if self.stdout.colour { name.add_attribute(Attribute::Dim) } else { name };
            table.add_row(vec![name, Cell::new(value)]);
        }
        self.print_table(table)
    }

    fn print_table(self, mut table: Table) -> io::Result<()> {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        if let Some(last) = table.column_count().checked_sub(1).and_then(|last| table.column_mut(last)) {
            last.set_padding((0, 0));
        }
        if self.stdout.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Progress over `length` steps, on standard error if that is a terminal; `None`: the length is not known.
    pub(super) fn progress(self, length: Option<u64>, unit: &str) -> ProgressBar {
        let target = if self.stderr.is_terminal && !self.json {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let template = match (length, unit) {
            (Some(_), "bytes") => "{bar:32.cyan/dim} {bytes}/{total_bytes}  {msg}  {eta:.dim} left",
            (Some(_), _) => "{bar:32.cyan/dim} {human_pos}/{human_len}  {msg}  {eta:.dim} left",
            (None, _) => "{spinner:.cyan} {msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::with_draw_target(length, target).with_style(style.progress_chars("━━─"))
    }

    /// `true` and `false` in words and colour.
    pub(super) fn yes_no(self, yes: bool) -> String {
        if yes { self.paint(GOOD, "yes") } else { self.paint(QUIET, "no") }
    }

    /// A delivery's state in its colour.
    pub(super) fn state(self, state: &str) -> String {
        let style = match state {
            "delivered" => GOOD,
            "pending" => WARN,
            "dead" => BAD,
            _ => QUIET,
        };
        self.paint(style, state)
    }
}

fn paint(colour: bool, style: Style, text: impl Display) -> String {
    let text = visible(&text.to_string());
    if colour { format!("{style}{text}{style:#}") } else { text }
}

/// One line of text that others wrote, as a terminal may show it. What it would obey (control characters: C0, DEL,
/// C1), and what would show letters in another order than they have (Unicode UAX #9, explicit embeddings, overrides
/// and isolates), is spelt out: `\u{1b}`, `\n`.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            shown.extend(character.escape_debug());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// As [`visible`], for text of several lines.
pub(super) fn visible_lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

/// What goes to a stream: nothing that a terminal obeys but line ends and, on a stream that has them, colours.
fn gated(text: &str, colour: bool) -> String {
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

/// A table without lines, flush left, columns two spaces apart. Cells are never broken: ids are there to be copied.
fn columns() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// A field of an answer as text: strings bare, `null` and absent as `-`.
pub(super) fn text(document: &Value, field: &str) -> String {
    plain(&document[field])
}

/// A value as a person writes it: strings bare and [`visible`], lists with commas, `null` and absent as `-`.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => visible(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => visible(&other.to_string()),
    }
}

/// An RFC 3339 moment of an answer, to the second and in UTC: `2026-11-23 18:00:00`.
pub(super) fn moment(document: &Value, field: &str) -> String {
    let text = text(document, field);
    match text.parse::<jiff::Timestamp>() {
        Ok(timestamp) => timestamp.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => text,
    }
}

/// The time of day in UTC with milliseconds: `18:00:00.000`.
pub(super) fn time_of_day(at: UnixMicros) -> String {
    jiff::Timestamp::from_microsecond(at.0)
        .map_or_else(|_| at.to_string(), |at| at.strftime("%H:%M:%S%.3f").to_string())
}

/// Milliseconds with as many digits as matter: `0.4 ms`, `12 ms`, `1.3 s`.
pub(super) fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clears the screen, sets the window's title (C0 and C1), hides text, deletes, turns the order around.
    const HOSTILE: &str = "a\x1b[2J\x1b]0;pwned\x07\u{9d}0;x\u{9c}\x1b[8m\r\n\x7f\u{202e}b\u{2066}ä✓";
    const SPELT_OUT: &str =
        "a\\u{1b}[2J\\u{1b}]0;pwned\\u{7}\\u{9d}0;x\\u{9c}\\u{1b}[8m\\r\\n\\u{7f}\\u{202e}b\\u{2066}ä✓";

    fn output(colour: bool) -> Output {
        let stream = Stream { is_terminal: colour, colour };
        Output { json: false, stdout: stream, stderr: stream }
    }

    #[test]
    fn what_others_wrote_cannot_speak_to_the_terminal() {
        assert_eq!(visible(HOSTILE), SPELT_OUT);
        assert_eq!(visible_lines("a\tb\nc"), "a\\tb\nc");
        let document = serde_json::json!({ "a": HOSTILE, "b": [HOSTILE, { "c": "\u{9b}2J" }] });
        assert_eq!(text(&document, "a"), SPELT_OUT);
        assert_eq!(moment(&document, "a"), SPELT_OUT);
        assert_eq!(text(&document, "b"), format!("{SPELT_OUT}, {{\"c\":\"\\u{{9b}}2J\"}}"));
        assert_eq!(output(false).paint(BAD, HOSTILE), SPELT_OUT);
        assert_eq!(output(true).state(HOSTILE), format!("\x1b[2m{SPELT_OUT}\x1b[0m"));
    }

    #[test]
    fn a_stream_lets_colours_pass_and_nothing_else() {
        let painted = output(true).paint(GOOD, "fine");
        assert_eq!(painted, "\x1b[32mfine\x1b[0m");
        assert_eq!(gated(&format!("{painted}\n{painted}"), true), format!("{painted}\n{painted}"));
        assert_eq!(gated(&painted, false), "\\u{1b}[32mfine\\u{1b}[0m");
        let slipped = HOSTILE.replace("\x1b[8m", "").replace('\n', "");
        assert_eq!(gated(&slipped, true), SPELT_OUT.replace("\\u{1b}[8m", "").replace("\\n", ""));
        assert_eq!(gated("\x1b[1;2", true), "\\u{1b}[1;2");
    }
}
