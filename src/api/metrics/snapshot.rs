//! The figures of a moment as metrics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::ConnectionCounts;
use super::process::ProcessUse;
use crate::api::App;
use crate::dispatcher::{Figures, Latencies, ShardFigures};
use crate::figures::Durations;
use crate::sources::{Status, Traffic};
use crate::store::Stats;

#[derive(Debug)]
pub(super) struct Snapshot {
    figures: Figures,
    latencies: Latencies,
    shards: Vec<ShardFigures>,
    stats: Option<Stats>,
    is_clock_doubted: bool,
    uptime_s: f64,
    connections: Arc<ConnectionCounts>,
    sources: Vec<SourceFigures>,
    process: Option<ProcessUse>,
}

impl Snapshot {
    /// The figures are of all tenants together, since the metrics need no token and must not show the tenants. Without the
    /// store the other metrics are still shown.
    pub(super) async fn of(app: &App) -> Self {
        Self {
            figures: app.engine.figures(),
            latencies: app.engine.latencies(),
            shards: app.engine.shard_figures(),
            stats: app.engine.store().total_stats().await.ok(),
            is_clock_doubted: app.engine.is_clock_doubted(),
            uptime_s: app.uptime().as_secs_f64(),
            connections: Arc::clone(&app.connections),
            sources: app.sources.statuses().map(SourceFigures::of).collect(),
            process: ProcessUse::read(),
        }
    }
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
        durations(&mut encoder, &self.latencies)?;
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

/// Histograms of how long things took since the start.
fn durations(encoder: &mut DescriptorEncoder, latencies: &Latencies) -> fmt::Result {
    let Latencies { accepts, waits, attempts, deliveries, settlements } = latencies;
    for (name, help, durations) in [
        ("accept_duration", "Storing the events of a call, the commit included", accepts),
        ("wait_duration", "From the acceptance of an event, or when it was to be sent, until the first attempt", waits),
        ("attempt_duration", "Attempts, failed ones too", attempts),
        (
            "delivery_duration",
            "From the acceptance of an event, or when it was to be sent, until it arrived",
            deliveries,
        ),
        ("settle_duration", "Storing the outcomes of attempts, the commit included", settlements),
    ] {
        let metric = Classic(durations);
        metric.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), metric.metric_type())?)?;
    }
    Ok(())
}

/// A histogram with the buckets of figures.
#[derive(Debug)]
struct Classic<'a>(&'a Durations);

impl EncodeMetric for Classic<'_> {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let Durations { histogram, sum } = self.0;
        let mut buckets: Vec<_> = histogram.buckets().map(|(bound, count)| (bound.as_secs_f64(), count)).collect();
        if let Some((bound, _)) = buckets.last_mut() {
            // What took longer is in it, too.
            *bound = f64::INFINITY;
        }
        encoder.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), histogram.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
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

#[cfg(test)]
impl Snapshot {
    /// With each metric that there is.
    pub(super) fn with_everything() -> Self {
        let attempts = crate::figures::DurationCounter::default();
        for duration_us in [100, 3_100, 2 * 24 * 3_600_000_000] {
            attempts.add_us(duration_us);
        }
        let shard = crate::store::Shard::from_number(7);
        let shard = ShardFigures { shard, epoch: 1, lanes: 0, circuits_open: 0, in_flight: 0, queued: 0 };
        let source = SourceFigures { name: "orders".to_owned(), is_in_trouble: false, traffic: Traffic::default() };
        Self {
            figures: Figures::default(),
            latencies: Latencies { attempts: attempts.read(), ..Latencies::default() },
            shards: vec![shard],
            stats: Some(Stats::default()),
            is_clock_doubted: false,
            uptime_s: 1.0,
            connections: Arc::default(),
            sources: vec![source],
            process: Some(ProcessUse { cpu_s: 1.0, resident_bytes: 1 }),
        }
    }
}
