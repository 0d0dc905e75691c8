//! Figures over time: what happened within a step of time, as counts and histograms. Pure: collecting is the dispatcher's,
//! keeping the store's.

mod durations;
mod histogram;

use std::time::Duration;

pub(crate) use self::durations::DurationCounter;
pub use self::durations::Durations;
pub use self::histogram::{BUCKETS, FIRST_BOUND_US, Histogram, LAST_BOUND_US, NoHistogram};
use crate::clock::UnixMicros;

/// The most points of one series. A day by the minute has 1,440.
pub const MAX_POINTS: u64 = 1_500;
/// The longest spans that are shown by the minute and by the hour if nobody asks for a step.
const BY_MINUTE: Duration = Duration::from_hours(6);
const BY_HOUR: Duration = Duration::from_hours(14 * 24);
/// The same for rankings, which look at all webhooks of each step.
const RANKED_BY_MINUTE: Duration = Duration::from_hours(2);
const RANKED_BY_HOUR: Duration = Duration::from_hours(5 * 24);

/// What happened to the deliveries of a webhook, of a tenant or of all in a step of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    /// Of a webhook: events that it is to get. Of a tenant or of all: events, whether a webhook matches or not.
    pub accepted: u64,
    /// Deliveries that arrived.
    pub delivered: u64,
    /// Attempts that failed. A batch has one for each of its deliveries, as in the log of attempts.
    pub failed: u64,
    /// Deliveries that were given up.
    pub dead: u64,
    /// Deliveries that were not to be made: filtered, or the webhook was off.
    pub skipped: u64,
    /// How long attempts took, failed ones too.
    pub attempts: Histogram,
    /// How long it took from the acceptance, the `deliver_at` of an event or the wish of an operator until the delivery.
    pub deliveries: Histogram,
}

impl Figure {
    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.failed = self.failed.saturating_add(other.failed);
        self.dead = self.dead.saturating_add(other.dead);
        self.skipped = self.skipped.saturating_add(other.skipped);
        self.attempts.merge(&other.attempts);
        self.deliveries.merge(&other.deliveries);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The length of a step. Steps begin at whole ones of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Minute,
    Hour,
    Day,
}

impl Step {
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }

    #[must_use]
    pub fn length(self) -> Duration {
        match self {
            Self::Minute => Duration::from_mins(1),
            Self::Hour => Duration::from_hours(1),
            Self::Day => Duration::from_hours(24),
        }
    }

    #[must_use]
    pub fn length_us(self) -> i64 {
        match self {
            Self::Minute => 60_000_000,
            Self::Hour => 3_600_000_000,
            Self::Day => 86_400_000_000,
        }
    }

    /// The step of which this one is made; `None`: it is made of what happens.
    #[must_use]
    pub fn finer(self) -> Option<Self> {
        match self {
            Self::Minute => None,
            Self::Hour => Some(Self::Minute),
            Self::Day => Some(Self::Hour),
        }
    }

    /// The beginning of the step that has `at` in it.
    #[must_use]
    pub fn floor(self, at: UnixMicros) -> UnixMicros {
        UnixMicros(at.0.saturating_sub(at.0.rem_euclid(self.length_us())))
    }

    /// The beginning of the first step that does not begin before `at`.
    #[must_use]
    pub fn ceil(self, at: UnixMicros) -> UnixMicros {
        let floor = self.floor(at);
        if floor == at { at } else { self.after(floor) }
    }

    /// The beginning of the step after the one that begins at `at`.
    #[must_use]
    pub fn after(self, at: UnixMicros) -> UnixMicros {
        UnixMicros(at.0.saturating_add(self.length_us()))
    }

    /// The step in which a span is shown if nobody asks for another.
    #[must_use]
    pub fn for_span(span: Duration) -> Self {
        Self::within(span, BY_MINUTE, BY_HOUR)
    }

    /// The step in which webhooks are ranked over a span.
    #[must_use]
    pub fn for_ranking(span: Duration) -> Self {
        Self::within(span, RANKED_BY_MINUTE, RANKED_BY_HOUR)
    }

    fn within(span: Duration, by_minute: Duration, by_hour: Duration) -> Self {
        match span {
            span if span <= by_minute => Self::Minute,
            span if span <= by_hour => Self::Hour,
            _ => Self::Day,
        }
    }
}

/// A span of whole steps: from the beginning of the first to the end of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub step: Step,
    pub from: UnixMicros,
    pub to: UnixMicros,
}

impl Span {
    /// The steps that have something of the time from `from` to before `to` in them.
    #[must_use]
    pub fn around(step: Step, from: UnixMicros, to: UnixMicros) -> Self {
        let from = step.floor(from);
        Self { step, from, to: step.ceil(to).max(from) }
    }

    /// How many steps it has.
    #[must_use]
    pub fn points(self) -> u64 {
        let length_us = self.to.0.saturating_sub(self.from.0).max(0);
        length_us.unsigned_abs() / self.step.length_us().unsigned_abs()
    }

    /// The beginnings of its steps.
    pub fn steps(self) -> impl Iterator<Item = UnixMicros> {
        let step = self.step;
        std::iter::successors(Some(self.from), move |at| Some(step.after(*at))).take_while(move |at| *at < self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_begin_at_whole_ones() {
        let at = UnixMicros(1_790_000_042_500_000);
        assert_eq!(Step::Minute.floor(at).to_string(), "2026-09-21T14:14:00.000000Z");
        assert_eq!(Step::Hour.floor(at).to_string(), "2026-09-21T14:00:00.000000Z");
        assert_eq!(Step::Day.floor(at).to_string(), "2026-09-21T00:00:00.000000Z");
        assert_eq!(Step::Day.ceil(at).to_string(), "2026-09-22T00:00:00.000000Z");
        for step in Step::ALL {
            assert_eq!(step.length().as_micros(), u128::from(step.length_us().unsigned_abs()));
            assert_eq!(step.floor(step.floor(at)), step.floor(at));
            assert_eq!(step.ceil(step.floor(at)), step.floor(at));
            assert_eq!(step.floor(UnixMicros(-1)).0, -step.length_us(), "before 1970 too");
            assert!(step.finer().is_none_or(|finer| step.length_us() % finer.length_us() == 0));
            assert_eq!(Step::by_name(step.name()), Some(step));
        }
        assert_eq!(Step::by_name("week"), None);
    }

    #[test]
    fn a_span_has_the_steps_that_it_touches() {
        let minute = |number: i64| UnixMicros(number * 60_000_000);
        let span = Span::around(Step::Minute, UnixMicros(59_999_999), UnixMicros(120_000_001));
        assert_eq!((span.from, span.to, span.points()), (minute(0), minute(3), 3));
        assert_eq!(span.steps().collect::<Vec<_>>(), [0, 1, 2].map(minute));
        let whole = Span::around(Step::Minute, minute(1), minute(2));
        assert_eq!((whole.points(), whole.steps().count()), (1, 1));
        let backward = Span::around(Step::Hour, minute(600), minute(0));
        assert_eq!((backward.points(), backward.steps().count()), (0, 0));
        let all_time = Span::around(Step::Minute, UnixMicros(i64::MIN), UnixMicros(i64::MAX));
        assert!(all_time.points() > MAX_POINTS);
    }

    #[test]
    fn a_step_is_chosen_so_that_the_points_are_few() {
        let hours = |hours| Step::for_span(Duration::from_hours(hours));
        assert_eq!([0, 1, 6].map(hours), [Step::Minute; 3]);
        assert_eq!([7, 24, 336].map(hours), [Step::Hour; 3]);
        assert_eq!([337, 10_000].map(hours), [Step::Day; 2]);
        let ranked = |hours| Step::for_ranking(Duration::from_hours(hours));
        assert_eq!([2, 3, 120, 121].map(ranked), [Step::Minute, Step::Hour, Step::Hour, Step::Day]);
    }

    #[test]
    fn figures_add_up() {
        let mut figure =
            Figure { accepted: 1, delivered: 2, failed: 3, dead: 4, skipped: u64::MAX, ..Figure::default() };
        figure.attempts.add(Duration::from_millis(3));
        let other = figure.clone();
        figure.merge(&other);
        assert_eq!((figure.accepted, figure.delivered, figure.failed, figure.dead), (2, 4, 6, 8));
        assert_eq!((figure.skipped, figure.attempts.count(), figure.deliveries.count()), (u64::MAX, 2, 0));
        assert!(Figure::default().is_empty() && !figure.is_empty());
    }
}
