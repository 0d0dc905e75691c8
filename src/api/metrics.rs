//! `/metrics`: figures for Prometheus, gathered when they are asked for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{MatchedPath, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::App;
use super::problem::Problem;
use crate::dispatcher::{Figures, ShardFigures};
use crate::sources::{Status, Traffic};
use crate::store::Stats;

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
    // The figures are of all tenants together, since the metrics need no token and must not show the tenants. Without
    // the store the other metrics are still shown.
    let stats = app.engine.store().total_stats().await.ok();
    let snapshot = Snapshot {
        figures: app.engine.figures(),
        shards: app.engine.shard_figures(),
        stats,
        is_clock_doubted: app.engine.is_clock_doubted(),
        uptime_s: app.uptime().as_secs_f64(),
        connections: Arc::clone(&app.connections),
        sources: app.sources.statuses().map(SourceFigures::of).collect(),
        process: ProcessUse::read(),
    };
    let mut registry = Registry::with_prefix("postrider");
    registry.register("http_requests", "Requests answered", app.requests.0.clone());
    registry.register(
        "inlet_requests",
        "Requests of other senders, by what has become of them",
        app.inlets.requests.clone(),
    );
    registry.register_collector(Box::new(snapshot));
    let mut body = String::new();
    text::encode(&mut body, &registry).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(if prefers_openmetrics(&headers) {
        ([(CONTENT_TYPE, CONTENT_TYPE_OPENMETRICS)], body)
    } else {
        ([(CONTENT_TYPE, CONTENT_TYPE_TEXT)], prometheus_text(&body))
    })
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

#[derive(Debug)]
struct Snapshot {
    figures: Figures,
    shards: Vec<ShardFigures>,
    stats: Option<Stats>,
    is_clock_doubted: bool,
    uptime_s: f64,
    connections: Arc<ConnectionCounts>,
    sources: Vec<SourceFigures>,
    process: Option<ProcessUse>,
}

/// What one source has done.
#[derive(Debug)]
struct SourceFigures {
    name: String,
    is_in_trouble: bool,
    traffic: Traffic,
}

impl SourceFigures {
    fn of(status: &Status) -> Self {
        let is_in_trouble = status.state().0.trouble().is_some();
        Self { name: status.name().to_owned(), is_in_trouble, traffic: status.traffic() }
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let figures = &self.figures;
        let connections = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("events_accepted", "Events stored since the start", figures.events_accepted),
            ("events_duplicate", "Events refused as sent before, since the start", figures.events_duplicate),
            ("attempts_succeeded", "Attempts answered 2xx since the start", figures.attempts_succeeded),
            ("attempts_failed", "Attempts failed since the start", figures.attempts_failed),
            ("deliveries_delivered", "Deliveries delivered since the start", figures.deliveries_delivered),
            ("deliveries_dead", "Deliveries given up since the start", figures.deliveries_dead),
            (
                "deliveries_damaged",
                "Deliveries given up because their stored event was damaged",
                figures.deliveries_damaged,
            ),
            ("settlements_stale", "Outcomes that came when another node owned the webhook", figures.settlements_stale),
            (
                "connections_let_go",
                "Connections ended before a request, because places were short",
                connections(&self.connections.let_go),
            ),
            ("connections_refused", "Connections for which there was no place", connections(&self.connections.refused)),
        ] {
            counter(&mut encoder, name, help, None, value)?;
        }
        for (name, help, value) in [
            ("connections_open", "Connections of clients", connections(&self.connections.open)),
            ("lanes", "Webhooks with a lane", figures.lanes),
            ("shards_owned", "Shards that this node owns, of 256", figures.shards),
            ("circuits_open", "Webhooks whose circuit is open", figures.circuits_open),
            ("attempts_in_flight", "Attempts under way", figures.in_flight),
            ("deliveries_queued", "Deliveries waiting in memory", figures.queued),
            ("purge_held", "1: nothing is purged, because the clock jumped", u64::from(self.is_clock_doubted)),
        ] {
            gauge(&mut encoder, name, help, None, value)?;
        }
        gauge(&mut encoder, "lanes_memory", "Event bodies in memory", Some(&Unit::Bytes), figures.memory_bytes)?;
        gauge(&mut encoder, "uptime", "Since the start", Some(&Unit::Seconds), self.uptime_s)?;
        by_shard(&mut encoder, &self.shards)?;
        by_source(&mut encoder, &self.sources)?;
        if let Some(stats) = &self.stats {
            stored(&mut encoder, stats)?;
        }
        if let Some(process) = &self.process {
            counter(&mut encoder, "process_cpu", "CPU time used", Some(&Unit::Seconds), process.cpu_s)?;
            gauge(&mut encoder, "process_resident_memory", "Memory used", Some(&Unit::Bytes), process.resident_bytes)?;
        }
        Ok(())
    }
}

/// Gauges by shard of this node; empty if no other node shares the store.
fn by_shard(encoder: &mut DescriptorEncoder, shards: &[ShardFigures]) -> fmt::Result {
    type Figure = fn(&ShardFigures) -> u64;
    if shards.is_empty() {
        return Ok(());
    }
    let figures: [(&str, &str, Figure); 5] = [
        ("shard_epoch", "How often the shard has had a new owner", |figures| figures.epoch.unsigned_abs()),
        ("shard_lanes", "Webhooks with a lane, by shard", |figures| figures.lanes),
        ("shard_circuits_open", "Webhooks whose circuit is open, by shard", |figures| figures.circuits_open),
        ("shard_attempts_in_flight", "Attempts under way, by shard", |figures| figures.in_flight),
        ("shard_deliveries_queued", "Deliveries waiting in memory, by shard", |figures| figures.queued),
    ];
    for (name, help, figure) in figures {
        let metric_type = MetricType::Gauge;
        let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
        for of_shard in shards {
            let labels = [("shard", of_shard.shard.number())];
            ConstGauge::new(figure(of_shard)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Figures by source; their number is bounded by the settings.
fn by_source(encoder: &mut DescriptorEncoder, sources: &[SourceFigures]) -> fmt::Result {
    type Figure = fn(&SourceFigures) -> u64;
    if sources.is_empty() {
        return Ok(());
    }
    let help = "Messages of sources since the start, by what became of them";
    let mut family = encoder.encode_descriptor("source_messages", help, None, MetricType::Counter)?;
    for SourceFigures { name, traffic, .. } in sources {
        let results = [
            ("accepted", traffic.accepted),
            ("duplicate", traffic.duplicates),
            ("rejected", traffic.rejected),
            ("lost", traffic.lost),
        ];
        for (result, count) in results {
            let labels = [("source", name.as_str()), ("result", result)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    let gauges: [(&str, &str, Figure); 2] = [
        ("source_trouble", "1: the source fails, or cannot hand over what it has", |of| u64::from(of.is_in_trouble)),
        ("source_queued", "Messages that were read and wait for their commit", |of| of.traffic.queued),
    ];
    for (name, help, figure) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for source in sources {
            let labels = [("source", source.name.as_str())];
            ConstGauge::new(figure(source)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Counters of the store, since the installation.
fn stored(encoder: &mut DescriptorEncoder, stats: &Stats) -> fmt::Result {
    gauge(encoder, "store_events", "Events in the store", None, stats.events)?;
    gauge(encoder, "store_attempts", "Attempts in the store", None, stats.attempts)?;
    let by_state = [
        ("pending", stats.pending),
        ("delivered", stats.delivered),
        ("dead", stats.dead),
        ("skipped", stats.skipped),
        ("discarded", stats.discarded),
    ];
    let metric_type = MetricType::Gauge;
    let mut family =
        encoder.encode_descriptor("store_deliveries", "Deliveries in the store by state", None, metric_type)?;
    for (state, count) in by_state {
        ConstGauge::new(count).encode(family.encode_family(&[("state", state)])?)?;
    }
    Ok(())
}

fn counter<N>(encoder: &mut DescriptorEncoder, name: &str, help: &str, unit: Option<&Unit>, value: N) -> fmt::Result
where
    ConstCounter<N>: EncodeMetric,
{
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

fn gauge<N>(encoder: &mut DescriptorEncoder, name: &str, help: &str, unit: Option<&Unit>, value: N) -> fmt::Result
where
    ConstGauge<N>: EncodeMetric,
{
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

/// The resources used by the process, from `/proc/self/stat` (`proc_pid_stat(5)`); `None` on other systems.
#[derive(Debug, PartialEq)]
struct ProcessUse {
    cpu_s: f64,
    resident_bytes: u64,
}

impl ProcessUse {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
        Self::parse(&stat, rustix::param::clock_ticks_per_second(), page_bytes)
    }

    fn parse(stat: &str, ticks_per_s: u64, page_bytes: u64) -> Option<Self> {
        // The second field is the program's name in brackets and may have spaces; the rest begins at field 3.
        let rest: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let field = |number: usize| rest.get(number - 3)?.parse::<u32>().ok();
        let ticks = f64::from(field(14)?) + f64::from(field(15)?);
        let ticks_per_s = f64::from(u32::try_from(ticks_per_s).ok()?);
        Some(Self { cpu_s: ticks / ticks_per_s, resident_bytes: u64::from(field(24)?) * page_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_use_of_a_process_with_an_odd_name_is_read() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 3 0 99 2000000 512 18446744073709551615 0";
        let used = ProcessUse { cpu_s: 4.0, resident_bytes: 512 * 4096 };
        assert_eq!(ProcessUse::parse(stat, 100, 4096), Some(used));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        assert!(ProcessUse::read().unwrap().resident_bytes > 100_000);
    }
}
