//! The circuit of one webhook: (health, attempt, now) → health. Pure.

use crate::clock::UnixMicros;
use crate::webhook::WebhookHealth;

/// Counts failures in a row and opens when there are too many.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    health: WebhookHealth,
    threshold: u32,
    /// Whether the last attempt succeeded; a webhook that never answered is not proven.
    is_proven: bool,
}

/// What an attempt did to the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Opened,
    Closed,
}

impl Breaker {
    /// A circuit as it was when the health was stored.
    pub(super) fn new(health: WebhookHealth, threshold: u32) -> Self {
        let is_proven = health.consecutive_failures == 0 && health.last_success_at.is_some();
        Self { health, threshold, is_proven }
    }

    pub(super) fn is_open(&self) -> bool {
        self.health.auto_disabled_at.is_some()
    }

    pub(super) fn is_proven(&self) -> bool {
        self.is_proven
    }

    pub(super) fn health(&self) -> &WebhookHealth {
        &self.health
    }

    /// A success ends the row of failures; it closes a circuit that opened while it was under way.
    pub(super) fn succeeded(&mut self, now: UnixMicros) -> Change {
        let was_open = self.is_open();
        self.is_proven = true;
        self.health.consecutive_failures = 0;
        self.health.last_success_at = Some(now);
        self.health.auto_disabled_at = None;
        if was_open { Change::Closed } else { Change::None }
    }

    pub(super) fn failed(&mut self, error: &str, now: UnixMicros) -> Change {
        self.is_proven = false;
        self.health.consecutive_failures = self.health.consecutive_failures.saturating_add(1);
        self.note(error, now);
        if self.is_open() || self.health.consecutive_failures < self.threshold {
            return Change::None;
        }
        self.health.auto_disabled_at = Some(now);
        Change::Opened
    }

    /// An attempt that failed through no fault of the receiver, as one that the egress guard refused.
    pub(super) fn excused(&mut self, error: &str, now: UnixMicros) {
        self.is_proven = false;
        self.note(error, now);
    }

    /// An operator switched the webhook on.
    pub(super) fn close(&mut self) {
        self.health.consecutive_failures = 0;
        self.health.auto_disabled_at = None;
    }

    fn note(&mut self, error: &str, now: UnixMicros) {
        self.health.last_failure_at = Some(now);
        self.health.last_error = Some(error.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMicros = UnixMicros(1_000);

    #[test]
    fn opens_at_the_threshold_and_not_again() {
        let mut breaker = Breaker::new(WebhookHealth::default(), 3);
        assert_eq!(breaker.failed("http 503", NOW), Change::None);
        assert_eq!(breaker.failed("http 503", NOW), Change::None);
        assert_eq!(breaker.failed("http 503", NOW), Change::Opened);
        assert_eq!(breaker.failed("http 503", UnixMicros(2_000)), Change::None);
        assert_eq!(breaker.health().auto_disabled_at, Some(NOW));
        assert_eq!(breaker.health().consecutive_failures, 4);
    }

    #[test]
    fn one_success_starts_the_count_anew() {
        let mut breaker = Breaker::new(WebhookHealth::default(), 2);
        breaker.failed("http 503", NOW);
        assert_eq!(breaker.succeeded(NOW), Change::None);
        assert_eq!(breaker.failed("http 503", NOW), Change::None);
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_late_success_closes_an_open_circuit() {
        let mut breaker = Breaker::new(WebhookHealth::default(), 1);
        assert_eq!(breaker.failed("timeout: waiting for the response", NOW), Change::Opened);
        assert_eq!(breaker.succeeded(NOW), Change::Closed);
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_blocked_destination_is_the_operators_fault() {
        let mut breaker = Breaker::new(WebhookHealth::default(), 1);
        breaker.excused("egress_blocked: private address", NOW);
        assert!(!breaker.is_open());
        assert_eq!(breaker.health().consecutive_failures, 0);
        assert_eq!(breaker.health().last_error.as_deref(), Some("egress_blocked: private address"));
    }

    #[test]
    fn an_open_circuit_stays_open_over_a_restart() {
        let mut before = Breaker::new(WebhookHealth::default(), 1);
        before.failed("http 500", NOW);
        assert!(Breaker::new(before.health().clone(), 1).is_open());
    }
}
