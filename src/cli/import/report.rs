//! What an import has made, or would make, as a table and as JSON.

use std::io;

use serde_json::{Value, json};

use super::found::Found;
use crate::cli::output::{self, BAD, GOOD, Output, QUIET, STRONG, WARN};

/// The widest cells of a name and of a place, so that the table has less than 80 columns.
const MAX_CELL_CHARS: usize = 32;
/// The widest line of a reason.
const MAX_LINE_CHARS: usize = 78;

pub(super) struct Report {
    is_dry_run: bool,
    is_done: bool,
    tenants: Value,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    place: String,
    /// As the API shows it, with `notes`.
    document: Value,
}

impl Line {
    fn outcome(&self) -> &str {
        self.document["outcome"].as_str().unwrap_or_default()
    }

    /// Why it is refused, or what differs.
    fn reasons(&self) -> Vec<String> {
        let errors = self.document["errors"].as_array().into_iter().flatten();
        let errors = errors.map(|error| format!("{}: {}", output::text(error, "field"), output::text(error, "reason")));
        let differing = &self.document["differing"];
        let differing = differing.is_array().then(|| format!("is there with another {}", output::plain(differing)));
        errors.chain(differing).collect()
    }

    fn notes(&self) -> Vec<String> {
        self.document["notes"].as_array().into_iter().flatten().map(output::plain).collect()
    }
}

impl Report {
    /// Of what was found, and the server's answer about the rows among it, in their order.
    pub(super) fn new(found: Vec<Found>, mut answer: Value, is_dry_run: bool) -> Self {
        let mut answered = match answer["webhooks"].take() {
            Value::Array(answered) => answered,
            _ => Vec::new(),
        }
        .into_iter();
        let lines = found.into_iter().map(|Found { name, place, row, notes }| {
            let mut document = match row {
                Ok(_) => answered.next().unwrap_or_default(),
                Err(reason) => json!({
                    "uuid": null, "name": name, "tenant": null, "outcome": "refused",
                    "errors": [{"field": "webhook", "reason": reason}],
                }),
            };
            document["notes"] = notes.into();
            Line { name, place, document }
        });
        let lines = lines.collect();
        Self { is_dry_run, is_done: answer["done"] == true, tenants: answer["tenants"].take(), lines }
    }

    fn count(&self, outcome: &str) -> usize {
        self.lines.iter().filter(|line| line.outcome() == outcome).count()
    }

    pub(super) fn is_anything_refused(&self) -> bool {
        self.count("refused") > 0
    }

    pub(super) fn print(&self, output: Output) -> io::Result<()> {
        if output.json {
            let webhooks: Vec<&Value> = self.lines.iter().map(|line| &line.document).collect();
            return output.json(&json!({
                "dry_run": self.is_dry_run,
                "done": self.is_done,
                "new": self.count("new"),
                "same": self.count("same"),
                "differs": self.count("differs"),
                "refused": self.count("refused"),
                "tenants": self.tenants,
                "webhooks": webhooks,
            }));
        }
        if self.lines.is_empty() {
            output.note("there is no webhook to import");
            return Ok(());
        }
        let rows = self.lines.iter().map(|line| {
            let style = match line.outcome() {
                "new" => GOOD,
                "differs" => WARN,
                "refused" => BAD,
                _ => QUIET,
            };
            let name = output.paint(STRONG, short(&line.name));
            vec![name, output.paint(QUIET, short(&line.place)), output.paint(style, line.outcome())]
        });
        output.table(&["webhook", "delivers to", "outcome"], rows.collect())?;
        self.list(output, "refused", "\nThese cannot be made:", Line::reasons)?;
        self.hint(output)?;
        self.list(
            output,
            "differs",
            "\nThese are there with other settings, and are left as they are:",
            Line::reasons,
        )?;
        self.list(output, "new", "\nNotes:", Line::notes)?;
        output.line(format_args!("\n{}", self.summary()))
    }

    /// What an operator can do about destinations that are shut.
    fn hint(&self, output: Output) -> io::Result<()> {
        let reasons: Vec<String> = self.lines.iter().flat_map(Line::reasons).collect();
        let is_any = |word: &str| reasons.iter().any(|reason| reason.contains(word));
        if is_any("egress_blocked: port ") {
            output.line("  A server that runs with --allow-ports lets webhooks reach such ports.")?;
        }
        if is_any("forbidden address") {
            output.line("  A server that runs with --allow-private CIDR lets webhooks reach a network.")?;
        }
        if is_any("there is no tenant") {
            output.line("  --create-tenants makes the tenants, and --tenant puts all into one that is there.")?;
        }
        Ok(())
    }

    /// What is to be said of webhooks with that outcome.
    fn list(
        &self,
        output: Output,
        outcome: &str,
        heading: &str,
        texts: impl Fn(&Line) -> Vec<String>,
    ) -> io::Result<()> {
        let mut is_first = true;
        for line in self.lines.iter().filter(|line| line.outcome() == outcome) {
            let texts = texts(line);
            if texts.is_empty() {
                continue;
            }
            if std::mem::take(&mut is_first) {
                output.line(heading)?;
            }
            output.line(format_args!("  {}", output.paint(STRONG, short(&line.name))))?;
            for text in texts {
                for part in wrapped(&text) {
                    output.line(format_args!("    {part}"))?;
                }
            }
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let [new, same, differs, refused] = ["new", "same", "differs", "refused"].map(|outcome| self.count(outcome));
        let mut parts = vec![match (self.is_done, self.is_dry_run) {
            (true, _) => format!("{new} made"),
            (false, true) => format!("{new} would be made"),
            (false, false) => format!("nothing made of {new} that could be"),
        }];
        parts.push(format!("{same} there already"));
        if differs > 0 {
            parts.push(format!("{differs} there with other settings"));
        }
        if refused > 0 {
            parts.push(format!("{refused} refused"));
        }
        let mut text = parts.join(", ");
        if !self.is_done && refused > 0 {
            text += "\nAs long as one is refused nothing is made, unless --skip-refused is given.";
        }
        text
    }
}

/// A text for a cell.
fn short(text: &str) -> String {
    let text = output::visible(text);
    if text.chars().count() <= MAX_CELL_CHARS {
        return if text.trim().is_empty() { format!("{text:?}") } else { text };
    }
    text.chars().take(MAX_CELL_CHARS - 1).chain(['…']).collect()
}

/// Lines of words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| line.chars().count() + word.chars().count() + 5 <= MAX_LINE_CHARS);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => line.extend([" ", word]),
            None => lines.push(word.to_owned()),
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}
