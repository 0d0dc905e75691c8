//! `/metrics`: figures for Prometheus, gathered when they are asked for.

mod process;
mod snapshot;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::{MatchedPath, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::IntoResponse;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use self::snapshot::Snapshot;
use super::App;
use super::incoming::InletCounts;
use super::problem::Problem;

const OPENMETRICS: &str = "application/openmetrics-text";
const CONTENT_TYPE_OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The format that every scraper reads.
const CONTENT_TYPE_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Requests answered, by route and status.
#[derive(Clone, Default)]
pub(super) struct Requests(Family<RequestLabels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

impl Requests {
    pub(super) fn count(&self, method: &Method, route: Option<&MatchedPath>, status: StatusCode) {
        let route = route.map_or("unmatched", MatchedPath::as_str).to_owned();
        let labels = RequestLabels { method: method_name(method), route, status: status.as_u16() };
        self.0.get_or_create(&labels).inc();
    }
}

/// The label of a method. Unknown methods share one, since clients can make up any number.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Connections of clients.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    pub open: AtomicU64,
    /// Idle connections that were ended because their places were needed.
    pub let_go: AtomicU64,
    /// Connections that were closed at once for lack of a place.
    pub refused: AtomicU64,
}

/// Figures for Prometheus
///
/// In the format that `Accept` prefers, and without one in that which every scraper reads.
#[utoipa::path(get, path = "/metrics", tag = "operation", security(()), responses(
    (status = 200, description = "OpenMetrics 1.0 or Prometheus text 0.0.4.", content(
        (String = "text/plain"), (String = "application/openmetrics-text"),
    )),
))]
pub(super) async fn exposition(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<impl IntoResponse, Problem> {
    let snapshot = Snapshot::of(&app).await;
    let body = openmetrics(&app.requests, &app.inlets, snapshot);
    let body = body.map_err(|error| Problem::internal(error.to_string()))?;
    Ok(if prefers_openmetrics(&headers) {
        ([(CONTENT_TYPE, CONTENT_TYPE_OPENMETRICS)], body)
    } else {
        ([(CONTENT_TYPE, CONTENT_TYPE_TEXT)], prometheus_text(&body))
    })
}

fn openmetrics(requests: &Requests, inlets: &InletCounts, snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("postrider");
    registry.register("http_requests", "Requests answered", requests.0.clone());
    registry.register(
        "inlet_requests",
        "Requests of other senders, by what has become of them",
        inlets.requests.clone(),
    );
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Whether `Accept` names OpenMetrics, and no other text before it (RFC 9110, section 12.5.1).
fn prefers_openmetrics(headers: &HeaderMap) -> bool {
    let (mut openmetrics, mut plain) = (0.0, 0.0);
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse).unwrap_or(0.0_f64);
        if media_type.eq_ignore_ascii_case(OPENMETRICS) {
            openmetrics = weight.max(openmetrics);
        } else if media_type.eq_ignore_ascii_case("text/plain") {
            plain = weight.max(plain);
        }
    }
    openmetrics > 0.0 && openmetrics >= plain
}

/// Turns OpenMetrics text into Prometheus text 0.0.4: a counter's samples have its whole name, and there are no units
/// and no end mark.
fn prometheus_text(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                text.extend(["# HELP ", name, suffix, " ", words, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of a table, one for each metric of the exposition.
    fn rows(exposition: &str) -> Vec<String> {
        let lines: Vec<&str> = exposition.lines().collect();
        let families = lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix("# HELP ")?)));
        let row = |(at, family): (usize, &str)| {
            let (name, help) = family.split_once(' ').unwrap();
            let kind = lines[at + 1].rsplit(' ').next().unwrap();
            let labels = lines[at + 2].split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let labels: Vec<String> = labels
                .split(',')
                .filter_map(|label| label.split_once('='))
                .filter(|(label, _)| *label != "le")
                .map(|(label, _)| format!("`{label}`"))
                .collect();
            format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
        };
        families.map(row).collect()
    }

    #[test]
    fn the_document_lists_each_metric() {
        let (requests, inlets) = (Requests::default(), InletCounts::default());
        requests.count(&Method::GET, None, StatusCode::OK);
        inlets.count("accepted");
        let text = prometheus_text(&openmetrics(&requests, &inlets, Snapshot::with_everything()).unwrap());
        let document = include_str!("../../docs/metrics.md");
        let listed: Vec<&str> = document.lines().filter(|line| line.starts_with("| `postrider_")).collect();
        let rows = rows(&text);
        assert!(listed == rows, "docs/metrics.md is to have these rows:\n{}", rows.join("\n"));
    }

    #[test]
    fn buckets_end_with_the_infinite_one_and_add_up() {
        let snapshot = Snapshot::with_everything();
        let text = openmetrics(&Requests::default(), &InletCounts::default(), snapshot).unwrap();
        let sample = |name: &str| {
            let line =
                text.lines().find_map(|line| line.strip_prefix(&format!("postrider_attempt_duration_seconds_{name} ")));
            line.unwrap_or_else(|| panic!("no {name} in\n{text}")).to_owned()
        };
        let bounds = [("0.0005", "1"), ("0.001", "1"), ("0.002", "1"), ("0.004", "2"), ("+Inf", "3")];
        for (bound, count) in bounds {
            assert_eq!(sample(&format!("bucket{{le=\"{bound}\"}}")), count, "{bound}");
        }
        assert_eq!((sample("count"), sample("sum")), ("3".to_owned(), "172800.0032".to_owned()));
        assert_eq!(text.matches("postrider_attempt_duration_seconds_bucket").count(), 28);
    }

    #[test]
    fn the_format_is_the_one_that_accept_prefers() {
        let prefers =
            |accept: &'static str| prefers_openmetrics(&[(ACCEPT, accept.parse().unwrap())].into_iter().collect());
        // The `Accept` of Prometheus 2 and 3.
        assert!(prefers(
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        ));
        assert!(!prefers("text/plain;version=0.0.4;q=0.5, application/openmetrics-text;q=0.4, */*;q=0.1"));
        assert!(!prefers("application/openmetrics-text;q=0, text/html"));
        assert!(!prefers("*/*"), "curl");
        assert!(!prefers_openmetrics(&HeaderMap::new()));
    }
}
