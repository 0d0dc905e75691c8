//! Figures over time: whose they are, where they are read from, and how much at once.

use std::time::Duration;

use uuid::Uuid;

use crate::clock::UnixMicros;
use crate::figures::{Figure, Span, Step};
use crate::webhook::{TenantSeq, WebhookSeq};

/// The most rows that one transaction adds figures to, beside those of hours and days that are made already.
pub const MAX_FLUSHED_ROWS: usize = 128;
/// The most webhooks and sums of which one transaction makes an hour or a day.
pub const MAX_ROLLED_UP: usize = 64;
/// The most rows that one step of a purge deletes.
pub const MAX_PURGED_FIGURES: u32 = 500;
/// The most rows that a ranking of webhooks looks at, those of the newest time first.
pub const MAX_RANKED_ROWS: u32 = 100_000;
/// The most webhooks of a ranking.
pub const MAX_RANKED: u32 = 100;
/// The most steps of which hours and days are shown that are not made yet.
const MAX_UNMADE_STEPS: i64 = 5_760;
/// An hour or a day is made so long after its end. A node that writes figures of it later adds them to what was made.
pub const ROLL_UP_DELAY: Duration = Duration::from_mins(5);

/// The webhook of a tenant's sum.
pub const ALL_WEBHOOKS: WebhookSeq = WebhookSeq(0);
/// The tenant of the sum of all.
pub const ALL_TENANTS: TenantSeq = TenantSeq(0);

/// Whose figures: of a webhook, of a tenant's webhooks together ([`ALL_WEBHOOKS`]), or of all ([`ALL_TENANTS`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FigureOf {
    pub tenant: TenantSeq,
    pub webhook: WebhookSeq,
}

impl FigureOf {
    pub const ALL: Self = Self { tenant: ALL_TENANTS, webhook: ALL_WEBHOOKS };

    #[must_use]
    pub fn tenant(tenant: TenantSeq) -> Self {
        Self { tenant, webhook: ALL_WEBHOOKS }
    }
}

/// What a node has counted in a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tallied {
    /// The beginning of the minute.
    pub at: UnixMicros,
    pub of: FigureOf,
    pub figure: Figure,
}

/// By what webhooks are ranked: the most of it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankBy {
    Delivered,
    Failed,
    Dead,
    /// The duration that 99 of 100 attempts did not exceed.
    Latency,
}

impl RankBy {
    pub const ALL: [Self; 4] = [Self::Delivered, Self::Failed, Self::Dead, Self::Latency];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Latency => "latency",
        }
    }
}

/// Webhooks by rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    pub webhooks: Vec<Ranked>,
    /// There was more to look at than [`MAX_RANKED_ROWS`]: the oldest part of the span was left out.
    pub is_partial: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    pub tenant: TenantSeq,
    pub uuid: Uuid,
    pub name: String,
    pub figure: Figure,
}

/// How far hours or days are made: before `at` all are; of the one that begins there those up to and with `through`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: UnixMicros,
    pub(super) through: Option<FigureOf>,
}

impl Mark {
    /// Whether figures of `at` no longer reach the step that the mark is about, unless they are added to it.
    pub(super) fn has_passed(&self, step: Step, at: UnixMicros, of: FigureOf) -> bool {
        let begins_at = step.floor(at);
        begins_at < self.at || (begins_at == self.at && self.through.is_some_and(|through| of <= through))
    }
}

/// The beginning of what is not made yet, by the step that is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unmade {
    /// Hours before this one are made.
    pub(super) hours_before: UnixMicros,
    /// The first minute from there on of which there is something.
    pub(super) first_minute: Option<UnixMicros>,
    pub(super) days_before: UnixMicros,
    /// The first hour from there on of which there is something.
    pub(super) first_hour: Option<UnixMicros>,
}

/// The spans of rows in which the figures of `span` are: of its own step as far as it is made, the rest of finer ones.
pub(super) fn sources(span: Span, unmade: &Unmade) -> Vec<Span> {
    let made = |step: Step, before: UnixMicros| Span { step, from: span.from, to: span.to.min(before) };
    let rest = |step: Step, first: Option<UnixMicros>, before: UnixMicros| {
        let first = first.unwrap_or(span.to).max(span.from);
        // More than this is left only by a server whose hours are not made for days.
        let to = span.to.min(before);
        let from = first.max(UnixMicros(to.0.saturating_sub(MAX_UNMADE_STEPS.saturating_mul(step.length_us()))));
        Span { step, from, to }
    };
    let all = UnixMicros(i64::MAX);
    let minutes = rest(Step::Minute, unmade.first_minute, all);
    let spans = match span.step {
        Step::Minute => vec![span],
        Step::Hour => vec![made(Step::Hour, unmade.hours_before), minutes],
        Step::Day => {
            vec![made(Step::Day, unmade.days_before), rest(Step::Hour, unmade.first_hour, unmade.hours_before), minutes]
        }
    };
    spans.into_iter().filter(|span| span.points() > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(number: i64) -> UnixMicros {
        UnixMicros(number * Step::Hour.length_us())
    }

    #[test]
    fn what_is_not_made_yet_is_read_from_finer_steps() {
        let unmade = Unmade {
            hours_before: hour(50),
            first_minute: Some(hour(51)),
            days_before: hour(24),
            first_hour: Some(hour(30)),
        };
        let of = |step, from, to| Span { step, from: hour(from), to: hour(to) };
        assert_eq!(sources(of(Step::Minute, 0, 60), &unmade), [of(Step::Minute, 0, 60)]);
        assert_eq!(sources(of(Step::Hour, 10, 60), &unmade), [of(Step::Hour, 10, 50), of(Step::Minute, 51, 60)]);
        assert_eq!(sources(of(Step::Hour, 10, 50), &unmade), [of(Step::Hour, 10, 50)]);
        assert_eq!(sources(of(Step::Hour, 55, 60), &unmade), [of(Step::Minute, 55, 60)]);
        let days = [of(Step::Day, 0, 24), of(Step::Hour, 30, 50), of(Step::Minute, 51, 72)];
        assert_eq!(sources(of(Step::Day, 0, 72), &unmade), days);
        let nothing = Unmade { first_minute: None, first_hour: None, ..unmade };
        assert_eq!(sources(of(Step::Day, 0, 72), &nothing), [of(Step::Day, 0, 24)]);
        assert_eq!(sources(of(Step::Hour, 0, 72), &nothing), [of(Step::Hour, 0, 50)]);
    }

    #[test]
    fn no_more_of_what_is_unmade_is_read_than_there_should_be() {
        let unmade =
            Unmade { hours_before: hour(0), first_minute: Some(hour(0)), days_before: hour(0), first_hour: None };
        let read = sources(Span { step: Step::Hour, from: hour(0), to: hour(1_000) }, &unmade);
        assert_eq!(read, [Span { step: Step::Minute, from: hour(1_000 - 96), to: hour(1_000) }]);
    }

    #[test]
    fn a_mark_has_passed_what_it_has_made() {
        let of = |tenant, webhook| FigureOf { tenant: TenantSeq(tenant), webhook: WebhookSeq(webhook) };
        let mark = |through| Mark { at: hour(5), through };
        let minute = UnixMicros(hour(5).0 + 60_000_000);
        assert!(mark(None).has_passed(Step::Hour, UnixMicros(hour(5).0 - 1), of(9, 9)));
        assert!(!mark(None).has_passed(Step::Hour, minute, FigureOf::ALL));
        assert!(mark(Some(of(1, 3))).has_passed(Step::Hour, minute, of(1, 3)));
        assert!(!mark(Some(of(1, 3))).has_passed(Step::Hour, minute, of(1, 4)));
        assert!(!mark(Some(of(1, 3))).has_passed(Step::Hour, minute, of(2, 0)));
        assert!(!mark(Some(of(1, 3))).has_passed(Step::Hour, hour(6), of(1, 1)));
    }
}
