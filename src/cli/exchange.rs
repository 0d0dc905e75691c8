//! What was exchanged in an attempt, on a terminal: where its time went, the request, the answer, and the request again.

use serde_json::Value;

use super::UsageError;
use super::output::{self, BAD, GOOD, NAME, Output, QUIET, STRONG};

/// The columns of a waterfall.
const WATERFALL_COLUMNS: u8 = 24;
/// The phases of an attempt in their order: the field of the API, the mark of a waterfall, the words of its legend.
const PHASES: [(&str, char, &str); 6] = [
    ("slot_ms", '·', "slot"),
    ("dns_ms", '░', "dns"),
    ("connect_ms", '▒', "connect"),
    ("tls_ms", '▓', "tls"),
    ("first_byte_ms", '█', "first byte"),
    ("body_ms", '▄', "body"),
];

/// Which parts of an exchange are wanted.
#[derive(Debug, clap::Args)]
pub(super) struct Parts {
    /// Show the request as it was sent, without its credentials
    #[arg(long)]
    request: bool,
    /// Show the answer whole
    #[arg(long)]
    response: bool,
    /// Print a command that makes the same request again; `…` stands for what is not kept
    #[arg(long, conflicts_with_all = ["request", "response"])]
    curl: bool,
}

impl Parts {
    pub(super) fn is_any(&self) -> bool {
        self.request || self.response || self.curl
    }

    /// Shows the wanted parts of an attempt with its exchange, or of a test.
    pub(super) fn show(&self, exchange: &Value, output: Output) -> anyhow::Result<()> {
        if self.curl {
            let Some(curl) = exchange["curl"].as_str() else { return Err(unknown(exchange).into()) };
            output.line(output::visible_lines(curl))?;
            if curl.contains('…') {
                output.note(output.paint_note(QUIET, "… stands for values that are not kept: put them in"));
            }
            return Ok(());
        }
        if self.request {
            let request = &exchange["request"];
            if request.is_null() {
                return Err(unknown(exchange).into());
            }
            message(request, output)?;
            if request["body_cut"] == true {
                let whole = output::text(request, "body_bytes");
                output.note(output.paint_note(QUIET, format_args!("\nthe beginning of {whole} bytes")));
            } else if request["body"].is_null() {
                let whole = output::text(request, "body_bytes");
                output.note(output.paint_note(QUIET, format_args!("\nthe body, {whole} bytes, is not kept")));
            }
        }
        if self.request && self.response {
            output.line("")?;
        }
        if self.response {
            let answer = &exchange["answer"];
            if answer.is_null() && exchange["captured"] == false && exchange["status_code"].is_u64() {
                return Err(unknown(exchange).into());
            }
            if answer.is_null() {
                output.note(format_args!("there was no answer: {}", output::text(exchange, "error")));
                return Ok(());
            }
            message(answer, output)?;
        }
        Ok(())
    }
}

/// Why a part cannot be shown.
fn unknown(exchange: &Value) -> UsageError {
    if exchange["captured"] == false {
        let hint = "`postrider webhook update NAME --capture all` keeps those of successes as well";
        return UsageError(format!("the exchange of this attempt is not kept; {hint}"));
    }
    if exchange["request"].is_null() {
        return UsageError(format!("no request was made: {}", output::text(exchange, "error")));
    }
    UsageError(
        "the request is not known whole: its body is not kept, or it is for those who may see the URL".to_owned(),
    )
}

/// A head and a body.
fn message(message: &Value, output: Output) -> anyhow::Result<()> {
    let head = message["head"].as_str().unwrap_or_default();
    let mut lines = head.lines();
    output.line(output.paint(STRONG, output::visible(lines.next().unwrap_or_default())))?;
    for line in lines.filter(|line| !line.is_empty()) {
        match line.split_once(':') {
            Some((name, value)) => {
                let name = output.paint(NAME, output::visible(name));
                output.line(format_args!("{name}:{}", output::visible(value)))?;
            }
            None => output.line(output::visible(line))?,
        }
    }
    if let Some(body) = message["body"].as_str().filter(|body| !body.is_empty()) {
        output.line("")?;
        output.line(output::visible_lines(body.trim_end_matches('\n')))?;
    }
    Ok(())
}

/// The result of an attempt: its status, or its error.
pub(super) fn result(attempt: &Value, output: Output) -> String {
    match attempt["error"].as_str() {
        None => output.paint(GOOD, output::text(attempt, "status_code")),
        Some(error) => output.paint(BAD, output::visible(error)),
    }
}

/// Where the time of an attempt went, of which `scale_ms` fill the columns; empty if that is not known.
pub(super) fn waterfall(timings: &Value, scale_ms: f64) -> String {
    let mut bar = String::new();
    let (mut passed_ms, mut drawn) = (0.0, 0);
    for (field, mark, _) in PHASES {
        passed_ms += timings[field].as_f64().unwrap_or_default();
        let end = columns(passed_ms, scale_ms);
        bar.extend(std::iter::repeat_n(mark, end.saturating_sub(drawn)));
        drawn = drawn.max(end);
    }
    bar
}

/// The milliseconds of all phases together.
pub(super) fn phases_ms(timings: &Value) -> f64 {
    PHASES.iter().filter_map(|(field, ..)| timings[*field].as_f64()).sum()
}

/// What the marks of waterfalls mean, of the phases that some attempt had.
pub(super) fn legend(timings: &[&Value]) -> String {
    let was = |field: &str| timings.iter().any(|timings| timings[field].as_f64().is_some_and(|ms| ms > 0.0));
    let shown: Vec<_> =
        PHASES.iter().filter(|(field, ..)| was(field)).map(|(_, mark, words)| format!("{mark} {words}")).collect();
    shown.join("  ")
}

/// Each phase with its time, as in `dns 2.0 ms, tls 24 ms`.
pub(super) fn phases(timings: &Value) -> String {
    let shown: Vec<_> = PHASES
        .iter()
        .filter_map(|(field, _, words)| Some(format!("{words} {}", output::milliseconds(timings[*field].as_f64()?))))
        .collect();
    shown.join(", ")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the columns of a waterfall")]
fn columns(ms: f64, scale_ms: f64) -> usize {
    if scale_ms <= 0.0 {
        return 0;
    }
    let all = f64::from(WATERFALL_COLUMNS);
    (ms / scale_ms * all).round().clamp(0.0, all) as usize
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_waterfall_shows_each_phase_after_the_one_before() {
        let fresh = json!({"slot_ms": 0.1, "dns_ms": 10.0, "connect_ms": 20.0, "tls_ms": null, "first_byte_ms": 60.0, "body_ms": 6.0});
        assert_eq!(waterfall(&fresh, 96.1), "░░░▒▒▒▒▒███████████████▄");
        let reused = json!({"slot_ms": 0.0, "first_byte_ms": 24.0});
        assert_eq!(waterfall(&reused, 96.0), "██████");
        assert_eq!(waterfall(&Value::Null, 96.0), "");
        assert_eq!(waterfall(&reused, 0.0), "");
        assert_eq!(legend(&[&fresh, &reused]), "· slot  ░ dns  ▒ connect  █ first byte  ▄ body");
        assert_eq!(phases(&reused), "slot 0.0 ms, first byte 24 ms");
    }
}
