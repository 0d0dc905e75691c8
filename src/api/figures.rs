//! `/figures`: what happened over time, and to which webhooks the most.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::auth::FigureReader;
use super::input::Params;
use super::problem::Problem;
use super::views::{Time, millis};
use crate::clock::UnixMicros;
use crate::figures::{Figure, Histogram, MAX_POINTS, Span, Step};
use crate::store::figures::{ALL_TENANTS, FigureOf, MAX_RANKED, RankBy};
use crate::webhook::TenantSeq;

/// The span that is shown if nobody says from when.
const DEFAULT_SPAN_US: i64 = 3_600_000_000;
/// The default number of webhooks of a ranking.
const DEFAULT_RANKED: u32 = 10;
/// The value of `tenant` for all tenants together.
const EVERY_TENANT: &str = "*";

/// The length of a step of time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StepName {
    Minute,
    Hour,
    Day,
}

/// By what webhooks are ranked.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SortName {
    Delivered,
    Failed,
    Dead,
    Latency,
}

/// How long something took, in milliseconds. Quantiles are estimates from buckets, each twice as wide as the one before.
#[derive(Serialize, ToSchema)]
pub(super) struct Durations {
    count: u64,
    #[schema(required)]
    p50_ms: Option<f64>,
    #[schema(required)]
    p90_ms: Option<f64>,
    #[schema(required)]
    p99_ms: Option<f64>,
    #[schema(required)]
    p99_9_ms: Option<f64>,
}

/// What happened.
#[derive(Serialize, ToSchema)]
pub(super) struct Counts {
    /// With `webhook`: events that it is to get. Otherwise events, whether a webhook matches or not.
    accepted: u64,
    /// Deliveries that arrived.
    delivered: u64,
    /// Attempts that failed.
    failed: u64,
    /// Deliveries that were given up.
    dead: u64,
    /// Deliveries that were not to be made: filtered, or the webhook was off.
    skipped: u64,
    /// Each attempt, the failed ones too.
    attempts: Durations,
    /// Each delivery that arrived: from its acceptance, or the time that it was to wait for, to its arrival.
    deliveries: Durations,
}

/// What happened in a step of time.
#[derive(Serialize, ToSchema)]
pub(super) struct Point {
    /// When the step begins.
    at: Time,
    #[serde(flatten)]
    counts: Counts,
}

/// What happened over time.
#[derive(Serialize, ToSchema)]
pub(super) struct Series {
    /// The beginning of the first step.
    from: Time,
    /// The end of the last step.
    to: Time,
    step: StepName,
    /// All steps together.
    total: Counts,
    /// Every step, the empty ones too.
    points: Vec<Point>,
}

/// A webhook, and what happened to its deliveries.
#[derive(Serialize, ToSchema)]
pub(super) struct RankedWebhook {
    webhook: Uuid,
    name: String,
    /// The name of its tenant.
    tenant: String,
    #[serde(flatten)]
    counts: Counts,
}

/// Webhooks by rank.
#[derive(Serialize, ToSchema)]
pub(super) struct Ranks {
    /// The beginning of the first step that was looked at.
    from: Time,
    /// The end of the last step that was looked at.
    to: Time,
    sort: SortName,
    /// There was too much to look at: the oldest part of the span was left out.
    is_partial: bool,
    items: Vec<RankedWebhook>,
}

impl From<Step> for StepName {
    fn from(step: Step) -> Self {
        match step {
            Step::Minute => Self::Minute,
            Step::Hour => Self::Hour,
            Step::Day => Self::Day,
        }
    }
}

impl From<RankBy> for SortName {
    fn from(by: RankBy) -> Self {
        match by {
            RankBy::Delivered => Self::Delivered,
            RankBy::Failed => Self::Failed,
            RankBy::Dead => Self::Dead,
            RankBy::Latency => Self::Latency,
        }
    }
}

impl From<&Histogram> for Durations {
    fn from(histogram: &Histogram) -> Self {
        let at = |p| histogram.quantile(p).map(millis_of_any);
        Self { count: histogram.count(), p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), p99_9_ms: at(0.999) }
    }
}

/// As [`millis`], which ends at an hour; beyond it microseconds mean nothing.
fn millis_of_any(duration: std::time::Duration) -> f64 {
    if duration.as_secs() < 3_600 { millis(duration) } else { (duration.as_secs_f64() * 1e3).round() }
}

impl From<&Figure> for Counts {
    fn from(figure: &Figure) -> Self {
        Self {
            accepted: figure.accepted,
            delivered: figure.delivered,
            failed: figure.failed,
            dead: figure.dead,
            skipped: figure.skipped,
            attempts: (&figure.attempts).into(),
            deliveries: (&figure.deliveries).into(),
        }
    }
}

/// The time that is asked for, in whole steps.
#[derive(Clone, Copy)]
struct Asked {
    from: UnixMicros,
    to: UnixMicros,
}

impl Asked {
    fn of(app: &App, params: &mut Params) -> Self {
        let to = params.time("to");
        let from = params.time("from");
        let to = to.unwrap_or_else(|| app.engine.now());
        Self { from: from.unwrap_or(UnixMicros(to.0.saturating_sub(DEFAULT_SPAN_US))), to }
    }

    fn checked(self) -> Result<Self, Problem> {
        if self.from < self.to { Ok(self) } else { Err(Problem::field("from", "must be before `to`")) }
    }

    /// In steps of this length, within bounds.
    fn in_steps(self, step: Step) -> Result<Span, Problem> {
        let span = Span::around(step, self.from, self.to);
        let (points, name) = (span.points(), step.name());
        if points <= MAX_POINTS {
            return Ok(span);
        }
        let reason =
            format!("`{name}` makes {points} points of this span, the limit is {MAX_POINTS}; take a longer step");
        Err(Problem::field(if step == Step::Day { "from" } else { "step" }, reason))
    }
}

/// The tenant that is asked for; [`ALL_TENANTS`]: all together.
fn tenant(app: &App, caller: &FigureReader, given: Option<&str>) -> Result<TenantSeq, Problem> {
    match given {
        None => Ok(caller.tenant),
        Some(EVERY_TENANT) if caller.is_operator => Ok(ALL_TENANTS),
        Some(EVERY_TENANT) => Err(Problem::forbidden("the token is for its own tenant alone; `tenant` names all")),
        Some(name) => caller.may_see(app.engine.tenants().find(name).map(|record| record.seq)),
    }
}

/// Show what happened over time
///
/// Counts and durations by minute, hour or day of UTC: of a webhook, of a tenant or, for operators, of all tenants together. They
/// come up to ten seconds after what they count, and a crash of a server costs as much of them. Minutes are kept for two days,
/// hours for 90 days, days for two years, unless the settings `retention_figures_…` say otherwise.
#[utoipa::path(get, path = "/figures", tag = "figures", params(
    ("from" = Option<String>, Query, description = "RFC 3339 or unix seconds; an hour before `to` by default."),
    ("to" = Option<String>, Query, description = "RFC 3339 or unix seconds; now by default."),
    ("step" = Option<StepName>, Query, description = "By default minutes for up to six hours, hours for up to 14 days, \
        otherwise days; longer ones for a time of which the shorter are not kept. At most 1,500 steps."),
    ("webhook" = Option<Uuid>, Query, description = "Of this webhook alone."),
    ("tenant" = Option<String>, Query, description = "For operators: a tenant by name or UUID, or `*` for all together. By \
        default the request's."),
), responses(
    (status = 200, body = Series),
    (status = 404, description = "There is no such webhook or tenant."),
    (status = 422, description = "A parameter is invalid or unknown, or there would be too many steps."),
))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    caller: FigureReader,
    mut params: Params,
) -> Result<Json<Series>, Problem> {
    let asked = Asked::of(&app, &mut params);
    let step = params.take("step", |name| {
        Step::by_name(name).ok_or_else(|| format!("is {name:?}, must be one of {}", names(Step::ALL.map(Step::name))))
    });
    let webhook = params.take("webhook", |text| text.parse::<Uuid>().map_err(|_| format!("{text:?} is no UUID")));
    let named = params.text("tenant");
    params.finish()?;
    let asked = asked.checked()?;
    let step = step.unwrap_or_else(|| app.engine.figure_step(Step::for_span(asked.to.since(asked.from)), asked.from));
    let span = asked.in_steps(step)?;
    let mut of = FigureOf::tenant(tenant(&app, &caller, named.as_deref())?);
    if let Some(uuid) = webhook {
        if of == FigureOf::ALL {
            return Err(Problem::field("webhook", "is of one tenant; leave out `tenant` or name that one"));
        }
        let record = app.engine.store().webhook(of.tenant, uuid).await?;
        of.webhook = record.ok_or_else(|| Problem::not_found("webhook"))?.seq;
    }
    let figures = app.engine.store().figures(of, span).await?;
    Ok(Json(series(span, &figures)))
}

fn series(span: Span, figures: &BTreeMap<UnixMicros, Figure>) -> Series {
    let (mut total, nothing) = (Figure::default(), Figure::default());
    for figure in figures.values() {
        total.merge(figure);
    }
    let point = |at| Point { at: Time(at), counts: figures.get(&at).unwrap_or(&nothing).into() };
    Series {
        from: Time(span.from),
        to: Time(span.to),
        step: span.step.into(),
        total: (&total).into(),
        points: span.steps().map(point).collect(),
    }
}

/// Rank the webhooks
///
/// Those with the most deliveries, failed attempts or dead deliveries, or the longest attempts (`latency`, the time that 99 of
/// 100 did not exceed), over a span of time; with what happened to their deliveries. Webhooks that have nothing of what they are
/// ranked by are left out, and so are deleted ones.
#[utoipa::path(get, path = "/figures/webhooks", tag = "figures", params(
    ("from" = Option<String>, Query, description = "RFC 3339 or unix seconds; an hour before `to` by default."),
    ("to" = Option<String>, Query, description = "RFC 3339 or unix seconds; now by default."),
    ("sort" = Option<SortName>, Query, description = "`delivered` by default."),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "10 by default."),
    ("tenant" = Option<String>, Query, description = "For operators: a tenant by name or UUID, or `*` for all together. By \
        default the request's."),
), responses(
    (status = 200, body = Ranks),
    (status = 404, description = "There is no such tenant."),
    (status = 422, description = "A parameter is invalid or unknown, or the span is too long."),
))]
pub(super) async fn webhooks(
    State(app): State<Arc<App>>,
    caller: FigureReader,
    mut params: Params,
) -> Result<Json<Ranks>, Problem> {
    let asked = Asked::of(&app, &mut params);
    let by = params.take("sort", |name| {
        let found = RankBy::ALL.into_iter().find(|by| by.name() == name);
        found.ok_or_else(|| format!("is {name:?}, must be one of {}", names(RankBy::ALL.map(RankBy::name))))
    });
    let limit = params.take("limit", |value| match value.parse() {
        Ok(limit @ 1..=MAX_RANKED) => Ok(limit),
        _ => Err(format!("is {value:?}, must be 1 to {MAX_RANKED}")),
    });
    let named = params.text("tenant");
    params.finish()?;
    let asked = asked.checked()?;
    let (by, limit) = (by.unwrap_or(RankBy::Delivered), limit.unwrap_or(DEFAULT_RANKED));
    let step = app.engine.figure_step(Step::for_ranking(asked.to.since(asked.from)), asked.from);
    let span = asked.in_steps(step)?;
    let tenant = tenant(&app, &caller, named.as_deref())?;
    let ranking = app.engine.store().ranked_webhooks(tenant, span, by, limit).await?;
    let shown = |ranked: crate::store::figures::Ranked| RankedWebhook {
        webhook: ranked.uuid,
        name: ranked.name,
        tenant: app.engine.tenants().get(ranked.tenant).map(|tenant| tenant.name().to_owned()).unwrap_or_default(),
        counts: (&ranked.figure).into(),
    };
    Ok(Json(Ranks {
        from: Time(span.from),
        to: Time(span.to),
        sort: by.into(),
        is_partial: ranking.is_partial,
        items: ranking.webhooks.into_iter().map(shown).collect(),
    }))
}

fn names<const N: usize>(names: [&str; N]) -> String {
    names.map(|name| format!("`{name}`")).join(", ")
}
