//! The rest of a lane: its receiver has asked for time, and gets nothing until then. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::UnixMicros;
use crate::delivery::retry::MAX_DELAY;
use crate::delivery::verdict;

/// How long a lane rests whose receiver does not say how long; it doubles until an attempt goes well.
const FIRST_REST: Duration = Duration::from_secs(1);
/// What that doubles up to.
const MAX_UNTOLD_REST: Duration = Duration::from_mins(1);

/// When the lane goes on. It does not depend on how clocks are set.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest {
    ends_at: Option<Instant>,
    /// The last rest that the receiver did not measure out; zero after an attempt that went well.
    last_untold: Duration,
}

impl Rest {
    /// The rest of a lane as it was stored. A clock that was set makes none longer than it may be.
    pub(super) fn kept(until: Option<UnixMicros>, now: UnixMicros, instant: Instant) -> Self {
        let left = until.map_or(Duration::ZERO, |until| until.since(now).min(MAX_DELAY));
        Self { ends_at: (!left.is_zero()).then(|| instant + left), ..Self::default() }
    }

    /// The receiver asks for time. Attempts that began before the rest and end in it do not make it longer, unless the
    /// receiver says so.
    pub(super) fn begin(&mut self, asked: verdict::Rest, now: UnixMicros, instant: Instant) {
        let told = asked.delay(now).min(MAX_DELAY);
        if told.is_zero() && self.ends_at(instant).is_some() {
            return;
        }
        let rest = if told.is_zero() {
            self.last_untold = (2 * self.last_untold).clamp(FIRST_REST, MAX_UNTOLD_REST);
            self.last_untold
        } else {
            told
        };
        self.ends_at = self.ends_at.max(Some(instant + rest));
    }

    /// An attempt went well. One that began before the rest says nothing of it.
    pub(super) fn went_well(&mut self, instant: Instant) {
        if self.ends_at(instant).is_none() {
            self.last_untold = Duration::ZERO;
        }
    }

    /// An operator ends it, or it has another receiver.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// Whether it has passed since it was last asked: then the whole lane goes on.
    pub(super) fn has_just_ended(&mut self, instant: Instant) -> bool {
        self.ends_at.take_if(|at| *at <= instant).is_some()
    }

    pub(super) fn ends_at(&self, instant: Instant) -> Option<Instant> {
        self.ends_at.filter(|at| *at > instant)
    }

    /// The same as a moment that can be stored and shown.
    pub(super) fn until(&self, now: UnixMicros, instant: Instant) -> Option<UnixMicros> {
        Some(now.after(self.ends_at(instant)? - instant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::retry::RetryAfter;
    use crate::delivery::verdict::Rest::{Told, Untold};

    const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

    fn told(seconds: u64) -> verdict::Rest {
        Told(RetryAfter::Delay(Duration::from_secs(seconds)))
    }

    #[test]
    fn a_receiver_gets_the_time_it_asks_for_and_a_day_at_most() {
        let start = Instant::now();
        for (asked, seconds) in [
            (told(20), 20),
            (told(86_401), 86_400),
            (told(u64::MAX), 86_400),
            (Told(RetryAfter::At(NOW.after(Duration::from_mins(2)))), 120),
            (Told(RetryAfter::At(UnixMicros(0))), 1),
            (told(0), 1),
            (Untold, 1),
        ] {
            let mut rest = Rest::default();
            rest.begin(asked, NOW, start);
            let ends_at = start + Duration::from_secs(seconds);
            assert_eq!(rest.ends_at(start), Some(ends_at), "{asked:?}");
            assert_eq!(rest.until(NOW, start), Some(NOW.after(Duration::from_secs(seconds))));
            assert!(!rest.has_just_ended(start) && rest.has_just_ended(ends_at) && !rest.has_just_ended(ends_at));
        }
    }

    #[test]
    fn a_rest_that_nobody_measured_doubles_until_an_attempt_goes_well() {
        let (mut rest, mut now) = (Rest::default(), Instant::now());
        let mut lengths = Vec::new();
        for _ in 0..8 {
            rest.begin(Untold, NOW, now);
            // Others that were under way end in the rest, one way or the other.
            rest.begin(Untold, NOW, now);
            rest.went_well(now);
            let ends_at = rest.ends_at(now).unwrap();
            lengths.push((ends_at - now).as_secs());
            now = ends_at;
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60]);
        rest.went_well(now);
        rest.begin(Untold, NOW, now);
        assert_eq!(rest.ends_at(now), Some(now + FIRST_REST));
    }

    #[test]
    fn a_longer_rest_replaces_a_shorter_one_and_not_the_other_way_round() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        for (seconds, expected) in [(20, 20), (5, 20), (30, 30)] {
            rest.begin(told(seconds), NOW, now);
            assert_eq!(rest.ends_at(now), Some(now + Duration::from_secs(expected)));
        }
        rest.end();
        assert_eq!(rest.ends_at(now), None);
    }

    #[test]
    fn a_rest_survives_a_restart_and_a_clock_that_is_set() {
        let instant = Instant::now();
        let left = |until, now| Rest::kept(until, now, instant).ends_at(instant).map(|at| (at - instant).as_secs());
        assert_eq!(left(Some(NOW.after(Duration::from_mins(1))), NOW), Some(60));
        assert_eq!(left(Some(NOW), NOW.after(Duration::from_secs(1))), None);
        assert_eq!(left(Some(NOW), UnixMicros(0)), Some(86_400));
        assert_eq!(left(None, NOW), None);
    }
}
