//! What the process says about itself: the log on standard error.

pub(crate) mod visible;

use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The filter and the format of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetrySettings {
    pub format: LogFormat,
    /// Directives of `tracing`'s `EnvFilter`, as in `info,postrider=debug`.
    pub filter: String,
    /// Whether text is coloured.
    pub colour: bool,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned(), colour: false }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter {filter:?} is invalid: {reason}")]
    Filter { filter: String, reason: String },
    #[error("a log is set up already")]
    AlreadySetUp,
}

/// Sends the log of the whole process to standard error.
pub fn init(settings: &TelemetrySettings) -> Result<(), TelemetryError> {
    subscriber(settings, std::io::stderr)?.try_init().map_err(|_| TelemetryError::AlreadySetUp)
}

/// What the clients of brokers say, which the sources say themselves, at a limited rate. A filter that names them counts.
const QUIET: [&str; 2] = ["async_nats=off", "lapin=off"];

/// The filter of comma-separated directives. Spaces around a directive are removed here, because `EnvFilter` finds the
/// parts of a directive in the trimmed text, but cuts them out of the untrimmed one, which gives wrong parts or, within
/// a character, a panic.
pub fn parse_filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(QUIET.into_iter().chain(directives.split(',').map(str::trim)).collect::<Vec<_>>().join(","))
}

/// Makes a subscriber that writes the log to `writer`.
pub fn subscriber<W>(
    settings: &TelemetrySettings,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = parse_filter(&settings.filter)
        .map_err(|error| TelemetryError::Filter { filter: settings.filter.clone(), reason: error.to_string() })?;
    let colour = settings.colour;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour);
    Ok(match settings.format {
        LogFormat::Text => Box::new(builder.with_writer(visible::Gate { inner: writer, colour }).finish()),
        LogFormat::Json => Box::new(builder.with_writer(writer).json().flatten_event(true).finish()),
    })
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is neither text nor json")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(settings: &TelemetrySettings) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(settings, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(webhook = "siem", "circuit opened");
            tracing::debug!("not shown");
        });
        let bytes = lines.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_of_json_has_its_fields_at_the_top() {
        let log = logged(&TelemetrySettings { format: LogFormat::Json, ..TelemetrySettings::default() });
        let line: serde_json::Value = serde_json::from_str(&log).expect("one line of JSON");
        assert_eq!((&line["message"], &line["webhook"]), (&"circuit opened".into(), &"siem".into()));
    }

    #[test]
    fn text_is_plain_and_filtered() {
        let log = logged(&TelemetrySettings::default());
        assert!(log.contains("circuit opened webhook=\"siem\""), "{log}");
        assert!(!log.contains("not shown") && !log.contains('\x1b'), "{log}");
    }

    #[test]
    fn what_others_wrote_cannot_speak_to_the_terminal_or_begin_a_line() {
        for colour in [false, true] {
            let lines = Lines::default();
            let writer = lines.clone();
            let settings = TelemetrySettings { colour, ..TelemetrySettings::default() };
            let subscriber = subscriber(&settings, move || writer.clone()).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                let hostile =
                    "a\u{200b}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{61c}\u{feff}\x1b[2J\nb";
                tracing::info!(display = %hostile, debug = hostile, "{hostile}");
            });
            let log = String::from_utf8(lines.0.lock().clone()).unwrap();
            assert_eq!(log.lines().count(), 1, "{log}");
            let plain = log.strip_suffix('\n').unwrap().replace("\x1b[0m", "").replace("\x1b[2m", "");
            let plain = plain.replace("\x1b[32m", "").replace("\x1b[3m", "");
            assert!(!plain.contains(crate::visible::is_spelt_out), "{plain:?}");
            assert_eq!(plain.matches("\\u{202e}").count(), 3, "{plain}");
        }
    }

    #[test]
    fn spaces_around_the_directives_of_a_filter_mean_nothing() {
        let filter = " warn , postrider::telemetry=info\n".to_owned();
        assert!(logged(&TelemetrySettings { filter, ..TelemetrySettings::default() }).contains("circuit opened"));
        assert!(parse_filter("  res\u{feff}[ info").is_err());
    }

    #[test]
    fn clients_of_brokers_are_quiet_unless_they_are_named() {
        let logged = |filter: &str| {
            let lines = Lines::default();
            let writer = lines.clone();
            let settings = TelemetrySettings { filter: filter.to_owned(), ..TelemetrySettings::default() };
            let subscriber = subscriber(&settings, move || writer.clone()).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(target: "lapin::io_loop", "parse error");
                tracing::info!(target: "async_nats", "event: connected");
            });
            String::from_utf8(lines.0.lock().clone()).unwrap().lines().count()
        };
        assert_eq!((logged("debug"), logged("info,lapin=info"), logged("async_nats=info,lapin=error")), (0, 1, 2));
    }

    #[test]
    fn a_filter_that_means_nothing_is_refused() {
        let settings = TelemetrySettings { filter: "postrider=loud".to_owned(), ..TelemetrySettings::default() };
        assert!(matches!(init(&settings), Err(TelemetryError::Filter { .. })));
    }
}
