//! Figures over time: their rows, and how hours and days are made of them.
//!
//! A row has one writer: minutes are written by the node that counted, and so is what a node adds to an hour or a day that is
//! made already. Whoever makes hours and days writes them as [`MADE`]. Readers add up over the writers.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::clock::UnixMicros;
use crate::figures::{Figure, Histogram, Span, Step};
use crate::store::failure::{Failure, corrupt};
use crate::store::figures::{
    ALL_TENANTS, FigureOf, MAX_PURGED_FIGURES, MAX_RANKED_ROWS, MAX_ROLLED_UP, Mark, RankBy, Ranked, Ranking, Tallied,
    Unmade, sources,
};
use crate::store::sql::{Fields, Row, Select, Sql, Value};
use crate::webhook::{TenantSeq, WebhookSeq};

/// The writer of hours and days; and of everything, if there is one node alone.
const MADE: i64 = 0;

/// The columns that [`figure`] reads, in its order.
macro_rules! columns {
    () => {
        "accepted, delivered, failed, dead, skipped, attempts, deliveries"
    };
}

/// The beginnings of all steps of a span: `?1` is the step, `?2` the first, `?3` the end, `?4` the length. With them rows are
/// found by the primary key, step by step. `CROSS JOIN` keeps SQLite from turning the two around.
macro_rules! of_steps {
    ($select:literal, $rest:literal) => {
        concat!(
            "WITH RECURSIVE moment (at) AS (
                 SELECT CAST(?2 AS bigint)
                 UNION ALL
                 SELECT at + CAST(?4 AS bigint) FROM moment WHERE at + CAST(?4 AS bigint) < CAST(?3 AS bigint)
             ) ",
            $select,
            " FROM moment CROSS JOIN figure WHERE figure.step = ?1 AND figure.at = moment.at ",
            $rest
        )
    };
}

impl From<Step> for Value {
    fn from(step: Step) -> Self {
        Self::Integer(match step {
            Step::Minute => 0,
            Step::Hour => 1,
            Step::Day => 2,
        })
    }
}

fn at(span: Span) -> [Value; 4] {
    [span.step.into(), span.from.into(), span.to.into(), Value::Integer(span.step.length_us())]
}

/// Adds what `node` has counted.
pub(super) fn add(sql: &mut dyn Sql, node: i64, tallied: &[Tallied]) -> Result<(), Failure> {
    // Held until the commit, so that nobody makes an hour of these minutes meanwhile.
    let marks = [(Step::Hour, lock_mark(sql, Step::Hour)?), (Step::Day, lock_mark(sql, Step::Day)?)];
    let mut additions: BTreeMap<(Step, UnixMicros, FigureOf), Figure> = BTreeMap::new();
    for Tallied { at, of, figure } in tallied {
        additions.entry((Step::Minute, Step::Minute.floor(*at), *of)).or_default().merge(figure);
        // What is late for its hour may be in time for its day, which it then reaches with the hour.
        for (step, _) in marks.iter().take_while(|(step, mark)| mark.has_passed(*step, *at, *of)) {
            additions.entry((*step, step.floor(*at), *of)).or_default().merge(figure);
        }
    }
    for ((step, at, of), mut figure) in additions {
        if let Some(stored) = stored(sql, (step, at, of), node)? {
            figure.merge(&stored);
        }
        put(sql, (step, at, of), node, &figure)?;
    }
    Ok(())
}

/// Served by the primary key.
fn stored(
    sql: &mut dyn Select,
    (step, at, of): (Step, UnixMicros, FigureOf),
    node: i64,
) -> Result<Option<Figure>, Failure> {
    let row = sql.query_row(
        concat!(
            "SELECT ",
            columns!(),
            " FROM figure WHERE step = ?1 AND at = ?2 AND tenant = ?3 AND webhook = ?4 AND node = ?5"
        ),
        &[step.into(), at.into(), of.tenant.into(), of.webhook.into(), Value::Integer(node)],
    )?;
    row.map(|row| figure(&mut Fields::of(row))).transpose()
}

/// Writes a row, in place of the one that is there.
fn put(
    sql: &mut dyn Sql,
    (step, at, of): (Step, UnixMicros, FigureOf),
    node: i64,
    figure: &Figure,
) -> Result<(), Failure> {
    let count = |count: u64| Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
    sql.execute(
        "INSERT INTO figure
             (step, at, tenant, webhook, node, accepted, delivered, failed, dead, skipped, attempts, deliveries)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (step, at, tenant, webhook, node) DO UPDATE SET
             accepted = excluded.accepted, delivered = excluded.delivered, failed = excluded.failed,
             dead = excluded.dead, skipped = excluded.skipped, attempts = excluded.attempts,
             deliveries = excluded.deliveries",
        &[
            step.into(),
            at.into(),
            of.tenant.into(),
            of.webhook.into(),
            Value::Integer(node),
            count(figure.accepted),
            count(figure.delivered),
            count(figure.failed),
            count(figure.dead),
            count(figure.skipped),
            figure.attempts.encode().into(),
            figure.deliveries.encode().into(),
        ],
    )?;
    Ok(())
}

fn figure(fields: &mut Fields) -> Result<Figure, Failure> {
    Ok(Figure {
        accepted: fields.next()?,
        delivered: fields.next()?,
        failed: fields.next()?,
        dead: fields.next()?,
        skipped: fields.next()?,
        attempts: histogram(fields)?,
        deliveries: histogram(fields)?,
    })
}

/// One that cannot be read is none: a chart without its durations is more than no chart.
fn histogram(fields: &mut Fields) -> Result<Histogram, Failure> {
    let bytes: Vec<u8> = fields.next()?;
    Ok(Histogram::decode(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, "the durations of a step of the figures cannot be read and are left out");
        Histogram::default()
    }))
}

// --- hours and days ---

/// The place before all tenants and webhooks.
const BEFORE_ALL: FigureOf = FigureOf { tenant: TenantSeq(-1), webhook: WebhookSeq(-1) };
const SELECT_MARK: &str = "SELECT at, tenant, webhook FROM figure_mark WHERE step = ?1";

fn lock_mark(sql: &mut dyn Sql, step: Step) -> Result<Mark, Failure> {
    mark(sql.lock("figure_mark", SELECT_MARK, &[step.into()])?)
}

fn mark(rows: Vec<Row>) -> Result<Mark, Failure> {
    let row = rows.into_iter().next().ok_or_else(|| corrupt("a mark of the figures is missing"))?;
    let mut fields = Fields::of(row);
    let at = fields.next()?;
    let (tenant, webhook): (TenantSeq, WebhookSeq) = (fields.next()?, fields.next()?);
    Ok(Mark { at, through: (tenant >= ALL_TENANTS).then_some(FigureOf { tenant, webhook }) })
}

fn set_mark(sql: &mut dyn Sql, step: Step, mark: Mark) -> Result<(), Failure> {
    let through = mark.through.unwrap_or(BEFORE_ALL);
    sql.execute(
        "UPDATE figure_mark SET at = ?2, tenant = ?3, webhook = ?4 WHERE step = ?1",
        &[step.into(), mark.at.into(), through.tenant.into(), through.webhook.into()],
    )?;
    Ok(())
}

/// The first step from `at` on of which there is a row. Served by the primary key.
fn first_from(sql: &mut (impl Select + ?Sized), step: Step, at: UnixMicros) -> Result<Option<UnixMicros>, Failure> {
    let row = sql.query_row(
        "SELECT at FROM figure WHERE step = ?1 AND at >= ?2 ORDER BY at LIMIT 1",
        &[step.into(), at.into()],
    )?;
    row.map(|row| Fields::of(row).next()).transpose()
}

/// Makes a part of the next hour or day that ends by `until`, of the rows of the finer step. Returns whether there may be more
/// to make. The part and the mark are one transaction, so that nothing is made twice and nothing is left out.
pub(super) fn roll_up(sql: &mut dyn Sql, step: Step, until: UnixMicros) -> Result<bool, Failure> {
    let Some(finer) = step.finer() else { return Ok(false) };
    // The order of the locks is that of `add`.
    let hours = lock_mark(sql, Step::Hour)?;
    let (mark, until) = match step {
        Step::Hour | Step::Minute => (hours, until),
        // A day is made when there is nothing left of which its hours are to be made.
        Step::Day => {
            let mark = lock_mark(sql, Step::Day)?;
            let next = match hours.through {
                Some(_) => Some(hours.at),
                None => first_from(sql, Step::Minute, hours.at)?,
            };
            (mark, next.map_or(until, |next| until.min(Step::Hour.floor(next))))
        }
    };
    let begins_at = match mark.through {
        Some(_) => mark.at,
        None => match first_from(sql, finer, mark.at)? {
            Some(first) => step.floor(first),
            None => return Ok(false),
        },
    };
    let ends_at = step.after(begins_at);
    if ends_at > until {
        return Ok(false);
    }
    let span = Span { step: finer, from: begins_at, to: ends_at };
    let (made, through) = sums(sql, span, mark.through)?;
    for (of, figure) in made {
        put(sql, (step, begins_at, of), MADE, &figure)?;
    }
    if step == Step::Day && hours.at < ends_at {
        // What comes late is added to the day as soon as a part of it is made.
        set_mark(sql, Step::Hour, Mark { at: ends_at, through: None })?;
    }
    let at = if through.is_some() { begins_at } else { ends_at };
    set_mark(sql, step, Mark { at, through })?;
    Ok(true)
}

/// The sums over all steps of a span, for the first of those after `after`; and the last of them, unless there are no others.
fn sums(
    sql: &mut dyn Sql,
    span: Span,
    after: Option<FigureOf>,
) -> Result<(BTreeMap<FigureOf, Figure>, Option<FigureOf>), Failure> {
    let after = after.unwrap_or(BEFORE_ALL);
    let mut limit = MAX_ROLLED_UP;
    loop {
        let mut sums: BTreeMap<FigureOf, Figure> = BTreeMap::new();
        // Of a step that was not read to its end, the last may have more rows, and later ones are unknown.
        let mut known_before: Option<FigureOf> = None;
        for at in span.steps() {
            let rows = sql.query(
                concat!(
                    "SELECT tenant, webhook, ",
                    columns!(),
                    " FROM figure WHERE step = ?1 AND at = ?2 AND (tenant, webhook) > (?3, ?4)
                     ORDER BY tenant, webhook, node LIMIT ?5"
                ),
                &[span.step.into(), at.into(), after.tenant.into(), after.webhook.into(), limit_value(limit)],
            )?;
            let (is_cut, mut last) = (rows.len() >= limit, None);
            for row in rows {
                let mut fields = Fields::of(row);
                let of = FigureOf { tenant: fields.next()?, webhook: fields.next()? };
                sums.entry(of).or_default().merge(&figure(&mut fields)?);
                last = Some(of);
            }
            if is_cut {
                known_before = known_before.into_iter().chain(last).min();
            }
        }
        let Some(bound) = known_before else { return Ok((sums, None)) };
        let _ = sums.split_off(&bound);
        if let Some(last) = sums.keys().next_back().copied() {
            return Ok((sums, Some(last)));
        }
        // More nodes than that have written the first.
        limit = limit.saturating_mul(4);
    }
}

fn limit_value(limit: usize) -> Value {
    Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX))
}

/// Deletes steps from before `before`, unless they are still needed to make hours or days. Returns whether there may be more.
/// Served by the primary key.
pub(super) fn purge(sql: &mut dyn Sql, step: Step, before: UnixMicros) -> Result<bool, Failure> {
    let coarser = Step::ALL.into_iter().find(|coarser| coarser.finer() == Some(step));
    let before = match coarser {
        Some(coarser) => before.min(lock_mark(sql, coarser)?.at),
        None => before,
    };
    let (step, before) = (Value::from(step), Value::from(before));
    let last = sql.query_row(
        "SELECT at, tenant, webhook, node FROM figure WHERE step = ?1 AND at < ?2
         ORDER BY at, tenant, webhook, node LIMIT 1 OFFSET ?3",
        &[step.clone(), before.clone(), (MAX_PURGED_FIGURES - 1).into()],
    )?;
    let Some(last) = last else {
        sql.execute("DELETE FROM figure WHERE step = ?1 AND at < ?2", &[step, before])?;
        return Ok(false);
    };
    sql.execute(
        "DELETE FROM figure WHERE step = ?1 AND at < ?2 AND (at, tenant, webhook, node) <= (?3, ?4, ?5, ?6)",
        &[&[step, before], &last[..]].concat(),
    )?;
    Ok(true)
}

// --- reading ---

fn unmade(sql: &mut dyn Select) -> Result<Unmade, Failure> {
    let hours_before = mark(sql.query(SELECT_MARK, &[Step::Hour.into()])?)?.at;
    let days_before = mark(sql.query(SELECT_MARK, &[Step::Day.into()])?)?.at;
    Ok(Unmade {
        hours_before,
        first_minute: first_from(sql, Step::Minute, hours_before)?,
        days_before,
        first_hour: first_from(sql, Step::Hour, days_before)?,
    })
}

/// The steps of a span in which there was something, from the first to the last. Served by the primary key.
pub(super) fn series(sql: &mut dyn Select, of: FigureOf, span: Span) -> Result<BTreeMap<UnixMicros, Figure>, Failure> {
    let spans = sources(span, &unmade(sql)?);
    let mut points: BTreeMap<UnixMicros, Figure> = BTreeMap::new();
    for source in spans {
        for (at, figure) in rows(sql, of, source)? {
            points.entry(span.step.floor(at)).or_default().merge(&figure);
        }
    }
    Ok(points)
}

fn rows(sql: &mut dyn Select, of: FigureOf, span: Span) -> Result<Vec<(UnixMicros, Figure)>, Failure> {
    let [step, from, to, length] = at(span);
    let rows = sql.query(
        of_steps!(
            "SELECT figure.at, accepted, delivered, failed, dead, skipped, attempts, deliveries",
            "AND figure.tenant = ?5 AND figure.webhook = ?6"
        ),
        &[step, from, to, length, of.tenant.into(), of.webhook.into()],
    )?;
    let read = |row| {
        let mut fields = Fields::of(row);
        Ok((fields.next()?, figure(&mut fields)?))
    };
    rows.into_iter().map(read).collect()
}

/// The first `limit` of the webhooks of a tenant or, with [`ALL_TENANTS`], of all. Deleted webhooks are left out.
pub(super) fn ranking(
    sql: &mut dyn Select,
    tenant: TenantSeq,
    span: Span,
    by: RankBy,
    limit: u32,
) -> Result<Ranking, Failure> {
    let spans = sources(span, &unmade(sql)?);
    let (amounts, is_partial) = match by {
        RankBy::Latency => latencies(sql, tenant, &spans)?,
        RankBy::Delivered | RankBy::Failed | RankBy::Dead => amounts(sql, tenant, &spans, by)?,
    };
    let mut by_amount: Vec<(u64, FigureOf)> = amounts.into_iter().map(|(of, amount)| (amount, of)).collect();
    by_amount.retain(|(amount, _)| *amount > 0);
    by_amount.sort_unstable_by(|(a, of_a), (b, of_b)| b.cmp(a).then(of_a.cmp(of_b)));
    let mut webhooks = Vec::new();
    for (_, of) in by_amount {
        if webhooks.len() >= limit as usize {
            break;
        }
        // Served by the primary key.
        let row = sql
            .query_row("SELECT uuid, name FROM webhook WHERE seq = ?1 AND deleted_at IS NULL", &[of.webhook.into()])?;
        let Some(row) = row else { continue };
        let mut fields = Fields::of(row);
        let (uuid, name): (Uuid, String) = (fields.next()?, fields.next()?);
        let mut sum = Figure::default();
        for source in &spans {
            for (_, figure) in rows(sql, of, *source)? {
                sum.merge(&figure);
            }
        }
        webhooks.push(Ranked { tenant: of.tenant, uuid, name, figure: sum });
    }
    Ok(Ranking { webhooks, is_partial })
}

/// How much each webhook has, and whether a part was left out.
type Amounts = (BTreeMap<FigureOf, u64>, bool);

fn amounts(sql: &mut dyn Select, tenant: TenantSeq, spans: &[Span], by: RankBy) -> Result<Amounts, Failure> {
    let mut amounts = BTreeMap::new();
    let is_partial = look(sql, tenant, spans, &mut |mut fields: Fields| {
        let of = FigureOf { tenant: fields.next()?, webhook: fields.next()? };
        let counts: [u64; 3] = [fields.next()?, fields.next()?, fields.next()?];
        let amount = match by {
            RankBy::Failed => counts[1],
            RankBy::Dead => counts[2],
            RankBy::Delivered | RankBy::Latency => counts[0],
        };
        let sum: &mut u64 = amounts.entry(of).or_default();
        *sum = sum.saturating_add(amount);
        Ok(())
    })?;
    Ok((amounts, is_partial))
}

fn latencies(sql: &mut dyn Select, tenant: TenantSeq, spans: &[Span]) -> Result<Amounts, Failure> {
    let mut histograms: BTreeMap<FigureOf, Histogram> = BTreeMap::new();
    let is_partial = look(sql, tenant, spans, &mut |mut fields: Fields| {
        let of = FigureOf { tenant: fields.next()?, webhook: fields.next()? };
        let _: [u64; 3] = [fields.next()?, fields.next()?, fields.next()?];
        histograms.entry(of).or_default().merge(&histogram(&mut fields)?);
        Ok(())
    })?;
    let slow = |(of, histogram): (FigureOf, Histogram)| {
        let p99 = histogram.quantile(0.99).unwrap_or_default();
        (of, u64::try_from(p99.as_micros()).unwrap_or(u64::MAX))
    };
    Ok((histograms.into_iter().map(slow).collect(), is_partial))
}

/// Passes the rows of webhooks to `take`, step by step from the newest; `true`: there were more than [`MAX_RANKED_ROWS`].
/// Served by the primary key.
fn look(
    sql: &mut dyn Select,
    tenant: TenantSeq,
    spans: &[Span],
    take: &mut dyn FnMut(Fields) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let mut left = MAX_RANKED_ROWS;
    for span in spans.iter().rev() {
        let steps: Vec<UnixMicros> = span.steps().collect();
        for at in steps.into_iter().rev() {
            let (all, one) = (
                "SELECT tenant, webhook, delivered, failed, dead, attempts FROM figure
                 WHERE step = ?1 AND at = ?2 AND tenant > ?3 AND webhook > 0 ORDER BY tenant, webhook, node LIMIT ?4",
                "SELECT tenant, webhook, delivered, failed, dead, attempts FROM figure
                 WHERE step = ?1 AND at = ?2 AND tenant = ?3 AND webhook > 0 ORDER BY webhook, node LIMIT ?4",
            );
            let statement = if tenant == ALL_TENANTS { all } else { one };
            let rows = sql.query(statement, &[span.step.into(), at.into(), tenant.into(), left.into()])?;
            left = left.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
            rows.into_iter().try_for_each(|row| take(Fields::of(row)))?;
            if left == 0 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
