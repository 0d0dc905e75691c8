//! The circuit of one webhook: (health, attempt, now) → health. Pure.
//!
//! ```text
//!            failures in a row            cool-down over, something is due
//!   closed ───────────────────► open ──────────────────────────────────► half open
//!     ▲                          ▲                                        │   │
//!     │                          └──── the probe failed: cool-down × 2 ───┘   │
//!     └───────────────── the probe succeeded: width grows from 1 ─────────────┘
//! ```

use std::time::Duration;

use crate::clock::UnixMicros;
use crate::webhook::WebhookHealth;

/// When circuits open and how long they stay so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitSettings {
    /// Failed attempts in a row after which a circuit opens.
    pub threshold: u32,
    /// How long an open circuit rests before its first probe.
    pub cool_down: Duration,
    /// What the cool-down doubles up to.
    pub max_cool_down: Duration,
}

/// A receiver that takes this long for a success is slow: it gets no more slots than the slow have together.
const SLOW_AFTER: Duration = Duration::from_millis(500);

/// Counts failures in a row, opens when there are too many, and probes.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    health: WebhookHealth,
    settings: CircuitSettings,
    width: Width,
    is_slow: bool,
    /// A probe was asked for or is under way: the circuit is half open.
    is_probing: bool,
}

/// How many attempts at once the last ones justify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    /// The last attempt failed, or there was none: one is enough to find out.
    Unproven,
    /// The circuit has closed: as many as there were successes since.
    Growing(usize),
    Full,
}

/// What the last attempt says of the next: with whom it shares slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It succeeded at once.
    Prompt,
    /// It succeeded, and took long. So does a receiver of which the answer never ends.
    Slow,
    /// It failed, or there was none.
    Unproven,
}

/// What an attempt did to the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CircuitChange {
    None,
    /// Half of the failures that open the circuit came in a row.
    Failing,
    Opened,
    /// The probe failed; the next one is later.
    StillOpen,
    /// The receiver answered well after `Failing` or `Opened`. The latter: the circuit closed.
    Recovered {
        was_open: bool,
    },
}

impl Breaker {
    /// A circuit as it was when the health was stored.
    pub(super) fn new(health: WebhookHealth, settings: CircuitSettings) -> Self {
        let is_proven = health.consecutive_failures == 0 && health.last_success_at.is_some();
        let width = if is_proven { Width::Full } else { Width::Unproven };
        Self { health, settings, width, is_slow: false, is_probing: false }
    }

    /// Whether deliveries wait in the store, but for a probe.
    pub(super) fn is_open(&self) -> bool {
        self.health.auto_disabled_at.is_some()
    }

    /// Whether no attempt may begin.
    pub(super) fn is_shut(&self) -> bool {
        self.is_open() && !self.is_probing
    }

    pub(super) fn standing(&self) -> Standing {
        match self.width {
            Width::Unproven => Standing::Unproven,
            Width::Growing(_) | Width::Full if self.is_slow => Standing::Slow,
            Width::Growing(_) | Width::Full => Standing::Prompt,
        }
    }

    /// Attempts that may be under way at once, of at most `max`.
    pub(super) fn width(&self, max: usize) -> usize {
        match self.width {
            _ if self.is_open() => 1,
            Width::Unproven => 1,
            Width::Growing(width) => width.min(max),
            Width::Full => max,
        }
    }

    pub(super) fn health(&self) -> &WebhookHealth {
        &self.health
    }

    /// When the next probe of a shut circuit may begin. A clock that was set back delays it by one cool-down at most.
    pub(super) fn probe_at(&mut self, now: UnixMicros) -> UnixMicros {
        let latest = now.after(self.health.cool_down.max(self.settings.cool_down));
        let at = self.health.probe_at.unwrap_or(now).min(latest);
        self.health.probe_at = Some(at);
        at
    }

    /// The next probe of an open circuit may begin now. The cool-down stays what it was.
    pub(super) fn hasten_probe(&mut self, now: UnixMicros) {
        if self.is_open() {
            self.health.probe_at = Some(now);
        }
    }

    /// Failures beyond those that opened the circuit.
    pub(super) fn failed_probes(&self) -> u32 {
        self.health.consecutive_failures.saturating_sub(self.settings.threshold)
    }

    /// Opens the circuit by half, for one attempt.
    pub(super) fn begin_probe(&mut self) {
        self.is_probing = true;
    }

    /// Nothing was there to probe with.
    pub(super) fn cancel_probe(&mut self) {
        self.is_probing = false;
    }

    /// A success that took so long ends the row of failures and closes the circuit, also one that opened while the
    /// attempt was under way.
    pub(super) fn succeeded(&mut self, took: Duration, now: UnixMicros) -> CircuitChange {
        self.health.last_success_at = Some(now);
        self.health.last_error = None;
        self.went_well(took)
    }

    /// An answer that speaks of its event alone: the receiver works, so it ends the row of failures and closes the circuit
    /// as a success does.
    pub(super) fn answered(&mut self, took: Duration, error: &str, now: UnixMicros) -> CircuitChange {
        self.note(error, now);
        self.went_well(took)
    }

    fn went_well(&mut self, took: Duration) -> CircuitChange {
        self.is_slow = took >= SLOW_AFTER;
        let was_open = self.is_open();
        let was_failing = self.health.consecutive_failures >= self.failing_threshold();
        self.width = match self.width {
            _ if was_open => Width::Growing(1),
            Width::Unproven | Width::Full => Width::Full,
            Width::Growing(width) => Width::Growing(width.saturating_add(1)),
        };
        self.close();
        if was_open || was_failing { CircuitChange::Recovered { was_open } } else { CircuitChange::None }
    }

    pub(super) fn failed(&mut self, error: &str, now: UnixMicros) -> CircuitChange {
        self.width = Width::Unproven;
        self.health.consecutive_failures = self.health.consecutive_failures.saturating_add(1);
        self.note(error, now);
        if self.is_open() {
            // Others than the probe were under way when it opened.
            if !std::mem::take(&mut self.is_probing) {
                return CircuitChange::None;
            }
            self.health.cool_down = (2 * self.health.cool_down).min(self.settings.max_cool_down);
            self.health.probe_at = Some(now.after(self.health.cool_down));
            return CircuitChange::StillOpen;
        }
        let failures = self.health.consecutive_failures;
        if failures >= self.settings.threshold {
            self.health.auto_disabled_at = Some(now);
            self.health.cool_down = self.settings.cool_down;
            self.health.probe_at = Some(now.after(self.settings.cool_down));
            CircuitChange::Opened
        } else if failures == self.failing_threshold() {
            CircuitChange::Failing
        } else {
            CircuitChange::None
        }
    }

    /// An attempt that failed through no fault of the receiver, as one that the egress guard refused.
    pub(super) fn excused(&mut self, error: &str, now: UnixMicros) {
        self.width = Width::Unproven;
        if std::mem::take(&mut self.is_probing) {
            self.health.probe_at = Some(now.after(self.health.cool_down));
        }
        self.note(error, now);
    }

    /// An operator switched the webhook on: what went wrong before is over.
    pub(super) fn reset(&mut self) {
        self.close();
        self.health.last_error = None;
    }

    fn close(&mut self) {
        self.is_probing = false;
        self.health.consecutive_failures = 0;
        self.health.auto_disabled_at = None;
        self.health.probe_at = None;
        self.health.cool_down = Duration::ZERO;
    }

    /// Whether the circuit has been open for so long.
    pub(super) fn is_open_for(&self, time: Duration, now: UnixMicros) -> bool {
        self.health.auto_disabled_at.is_some_and(|since| now.since(since) >= time)
    }

    fn failing_threshold(&self) -> u32 {
        self.settings.threshold.div_ceil(2)
    }

    /// A failure that is shown and does not count.
    pub(super) fn note(&mut self, error: &str, now: UnixMicros) {
        self.health.last_failure_at = Some(now);
        self.health.last_error = Some(error.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixMicros = UnixMicros(1_000);
    const TOOK: Duration = Duration::from_millis(5);
    const MIN: Duration = Duration::from_secs(30);
    const MAX: Duration = Duration::from_hours(1);

    fn settings(threshold: u32) -> CircuitSettings {
        CircuitSettings { threshold, cool_down: MIN, max_cool_down: MAX }
    }

    fn breaker(threshold: u32) -> Breaker {
        Breaker::new(WebhookHealth::default(), settings(threshold))
    }

    fn opened() -> Breaker {
        let mut breaker = breaker(1);
        assert_eq!(breaker.failed("http 503", NOW), CircuitChange::Opened);
        breaker
    }

    #[test]
    fn opens_at_the_threshold_and_not_again() {
        let mut breaker = breaker(3);
        assert_eq!(breaker.failed("http 503", NOW), CircuitChange::None);
        assert_eq!(breaker.failed("http 503", NOW), CircuitChange::Failing);
        assert_eq!(breaker.failed("http 503", NOW), CircuitChange::Opened);
        assert_eq!(breaker.failed("http 503", UnixMicros(2_000)), CircuitChange::None);
        assert_eq!(breaker.health().auto_disabled_at, Some(NOW));
        assert_eq!(breaker.health().consecutive_failures, 4);
        assert!(breaker.is_shut());
    }

    #[test]
    fn one_success_starts_the_count_anew() {
        let mut breaker = breaker(2);
        assert_eq!(breaker.failed("http 503", NOW), CircuitChange::Failing);
        assert_eq!(breaker.succeeded(TOOK, NOW), CircuitChange::Recovered { was_open: false });
        assert_eq!(breaker.failed("http 503", NOW), CircuitChange::Failing);
        assert!(!breaker.is_open());
    }

    #[test]
    fn what_went_wrong_is_forgotten_after_a_success_and_at_an_operator_s_word() {
        let words: [fn(&mut Breaker); 2] = [|breaker| _ = breaker.succeeded(TOOK, NOW), Breaker::reset];
        for word in words {
            let mut breaker = opened();
            assert_eq!(breaker.health().last_error.as_deref(), Some("http 503"));
            word(&mut breaker);
            assert_eq!((&breaker.health().last_error, breaker.is_open()), (&None, false));
        }
    }

    #[test]
    fn an_answer_that_speaks_of_its_event_closes_the_circuit_and_is_no_success() {
        let mut breaker = opened();
        breaker.begin_probe();
        assert_eq!(breaker.answered(TOOK, "non-retryable 400", NOW), CircuitChange::Recovered { was_open: true });
        assert!(!breaker.is_open() && breaker.standing() == Standing::Prompt);
        let health = breaker.health();
        assert_eq!((health.consecutive_failures, health.last_success_at), (0, None));
        assert_eq!(health.last_error.as_deref(), Some("non-retryable 400"));
    }

    #[test]
    fn an_operator_s_word_brings_the_next_probe_forward_and_no_other() {
        let mut breaker = opened();
        breaker.hasten_probe(NOW);
        assert_eq!(breaker.probe_at(NOW), NOW);
        breaker.begin_probe();
        breaker.failed("http 503", NOW);
        assert_eq!(breaker.probe_at(NOW).since(NOW), 2 * MIN);
        let mut closed = self::breaker(1);
        closed.hasten_probe(NOW);
        assert_eq!(closed.health().probe_at, None);
    }

    #[test]
    fn probes_ever_later_while_they_fail() {
        let mut breaker = opened();
        let mut now = NOW;
        let mut expected = MIN;
        for _ in 0..10 {
            let at = breaker.probe_at(now);
            assert_eq!(at.since(now), expected);
            now = at;
            breaker.begin_probe();
            assert!(!breaker.is_shut() && breaker.width(32) == 1);
            assert_eq!(breaker.failed("http 503", now), CircuitChange::StillOpen);
            assert!(breaker.is_shut());
            expected = (2 * expected).min(MAX);
        }
        assert_eq!(breaker.probe_at(now).since(now), MAX);
        assert_eq!(breaker.health().auto_disabled_at, Some(NOW), "open since the first time");
    }

    #[test]
    fn a_probe_that_succeeds_closes_it_and_the_width_grows_by_each_success() {
        let mut breaker = opened();
        breaker.begin_probe();
        assert_eq!(breaker.succeeded(TOOK, NOW), CircuitChange::Recovered { was_open: true });
        assert!(!breaker.is_open() && breaker.standing() == Standing::Prompt);
        for width in [1, 2, 3, 4, 4] {
            assert_eq!(breaker.width(4), width);
            assert_eq!(breaker.succeeded(TOOK, NOW), CircuitChange::None);
        }
        // The next circuit begins with the short cool-down.
        assert_eq!(breaker.failed("http 503", NOW), CircuitChange::Opened);
        assert_eq!(breaker.probe_at(NOW).since(NOW), MIN);
    }

    #[test]
    fn the_last_attempt_says_with_whom_the_next_one_shares_slots() {
        let mut breaker = breaker(2);
        assert_eq!(breaker.standing(), Standing::Unproven);
        breaker.succeeded(SLOW_AFTER, NOW);
        assert_eq!(breaker.standing(), Standing::Slow);
        breaker.succeeded(SLOW_AFTER.saturating_sub(Duration::from_micros(1)), NOW);
        assert_eq!(breaker.standing(), Standing::Prompt);
        breaker.succeeded(SLOW_AFTER, NOW);
        breaker.failed("http 503", NOW);
        assert_eq!(breaker.standing(), Standing::Unproven);
    }

    #[test]
    fn a_late_success_closes_an_open_circuit() {
        let mut breaker = opened();
        assert_eq!(breaker.succeeded(TOOK, NOW), CircuitChange::Recovered { was_open: true });
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_blocked_destination_is_the_operators_fault() {
        let mut breaker = breaker(1);
        breaker.excused("egress_blocked: private address", NOW);
        assert!(!breaker.is_open());
        assert_eq!(breaker.health().consecutive_failures, 0);
        assert_eq!(breaker.health().last_error.as_deref(), Some("egress_blocked: private address"));
        // A probe that it ends says nothing; the next one is after the same cool-down.
        let mut breaker = opened();
        breaker.begin_probe();
        breaker.excused("egress_blocked: private address", NOW);
        assert!(breaker.is_shut());
        assert_eq!(breaker.probe_at(NOW).since(NOW), MIN);
    }

    #[test]
    fn an_open_circuit_stays_open_over_a_restart_with_its_cool_down() {
        let mut before = opened();
        before.begin_probe();
        before.failed("http 500", NOW);
        let mut after = Breaker::new(before.health().clone(), settings(1));
        assert!(after.is_shut());
        assert_eq!(after.probe_at(NOW).since(NOW), 2 * MIN);
    }

    #[test]
    fn a_clock_that_was_set_delays_a_probe_by_one_cool_down_at_most() {
        let day = UnixMicros(0).after(Duration::from_hours(24));
        let mut breaker = breaker(1);
        breaker.failed("http 500", day);
        let hour_back = UnixMicros(day.0 - 3_600_000_000);
        assert_eq!(breaker.probe_at(hour_back).since(hour_back), MIN);
        let years_on = day.after(Duration::from_hours(24 * 3_650));
        assert!(breaker.probe_at(years_on) <= years_on);
    }

    proptest! {
        /// Over any history: shut only while open, never two probes at once, and the cool-down within its bounds.
        #[test]
        fn no_history_breaks_it(steps in proptest::collection::vec((0..5_u8, 0..200_i64), 0..200), threshold in 1..8_u32) {
            let mut breaker = breaker(threshold);
            let mut now = NOW;
            let mut row = 0;
            for (step, seconds) in steps {
                now = now.after(Duration::from_secs(seconds.unsigned_abs()));
                match step {
                    0 => {
                        breaker.succeeded(TOOK, now);
                        row = 0;
                        prop_assert!(!breaker.is_open());
                    }
                    1 | 2 => {
                        let was_open = breaker.is_open();
                        row += 1;
                        let change = breaker.failed("http 500", now);
                        prop_assert_eq!(change == CircuitChange::Opened, !was_open && row >= threshold);
                    }
                    3 => breaker.excused("egress_blocked: x", now),
                    _ => {
                        if breaker.is_shut() && breaker.probe_at(now) <= now {
                            breaker.begin_probe();
                        }
                    }
                }
                prop_assert_eq!(breaker.health().consecutive_failures, row);
                prop_assert_eq!(breaker.health().probe_at.is_some(), breaker.is_open());
                if breaker.is_open() {
                    prop_assert!((MIN..=MAX).contains(&breaker.health().cool_down));
                    prop_assert!(breaker.probe_at(now).since(now) <= MAX);
                    prop_assert_eq!(breaker.width(32), 1);
                }
            }
        }
    }
}
