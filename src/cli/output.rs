//! The only place that writes to the terminal: text for people, tables, and JSON for programs.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::answer::Answer;
use crate::clock::UnixMicros;
use crate::config::Environment;
use crate::telemetry::visible::gated;
use crate::visible::visible_json;
pub(super) use crate::visible::{visible, visible_lines};

pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
pub(super) const NAME: Style = AnsiColor::Cyan.on_default();
pub(super) const QUIET: Style = Style::new().dimmed();
pub(super) const STRONG: Style = Style::new().bold();

/// The output of a run: answers on standard output, remarks about them on standard error.
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

    /// A line of the answer. `Err`: the reader has gone.
    pub(super) fn line(self, text: impl Display) -> io::Result<()> {
        self.verbatim(gated(&text.to_string(), self.stdout.colour))
    }

    /// As [`Self::line`], for programs: JSON and scripts.
    pub(super) fn verbatim(self, text: impl Display) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// Goes back to the beginning of an emptied screen; what is no terminal gets an empty line.
    pub(super) fn redraw(self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(if self.stdout.is_terminal { b"\x1b[H\x1b[2J" } else { b"\n" })?;
        stdout.flush()
    }

    /// A remark on standard error. A reader that has gone is no error, since remarks are not needed.
    pub(super) fn note(self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{}", gated(&text.to_string(), self.stderr.colour));
    }

    /// One JSON document on one line.
    pub(super) fn json(self, document: &impl Serialize) -> io::Result<()> {
        self.document(&serde_json::to_string(document)?)
    }

    /// Unchanged JSON, except for characters that a terminal would obey or hide.
    fn document(self, json: &str) -> io::Result<()> {
        if self.stdout.is_terminal { self.verbatim(visible_json(json)) } else { self.verbatim(json) }
    }

    /// Prints a server's unchanged answer with `--json`; returns whether it did.
    pub(super) fn answer(self, answer: &Answer) -> io::Result<bool> {
        if self.json {
            self.document(answer.text.trim_end())?;
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

    /// Names and values, one pair a line.
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

/// A table without lines, flush left, columns two spaces apart. Cells are never broken, so that ids can be copied.
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
    fn what_nobody_sees_is_spelt_out() {
        let hidden = (0x200b..=0x200f).chain(0x2028..=0x202e).chain(0x2060..=0x2069).chain([0x61c, 0xfeff]);
        for hidden in hidden.map(|code| char::from_u32(code).unwrap()) {
            let shown = format!("a\\u{{{:x}}}b", u32::from(hidden));
            assert_eq!(visible(&format!("a{hidden}b")), shown);
            assert_eq!(gated(&format!("a{hidden}b"), true), shown);
            let json = serde_json::json!({ "a": format!("{hidden}\u{7f}\n") });
            let escaped = visible_json(&json.to_string());
            assert!(!escaped.contains(crate::visible::is_spelt_out), "{escaped:?}");
            assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap(), json, "a program reads the same");
        }
        assert_eq!(visible("naïve ✓ 日本 \u{301}"), "naïve ✓ 日本 \u{301}");
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
