//! Whether the machine's clock may be deleted by: one that is wrong for a minute must not end what was to be kept for months.

use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::UnixMicros;

/// The most by which the clock may gain on the steady clock between two looks; more is a jump.
pub(super) const MAX_CLOCK_JUMP: Duration = Duration::from_mins(1);
/// The greatest age of the newest event or act at a start. Beyond it, the clock may have jumped while the server was
/// off.
pub(super) const MAX_UNSEEN_TIME: Duration = Duration::from_hours(24);
/// After a jump, a clock that runs on for this long is trusted again.
pub(super) const CLOCK_PROBATION: Duration = Duration::from_hours(24);

/// Decides whether to trust the clock.
#[derive(Debug, Default)]
pub(super) struct ClockTrust(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The clock and the steady clock at the last look.
    last: Option<(UnixMicros, Duration)>,
    doubt: Option<Doubt>,
}

/// A jump ahead of the clock.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The time without the jump, and the steady clock at that look.
    expected: UnixMicros,
    since: Duration,
}

/// The result of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    Trusted,
    /// This look is the first that finds the jump.
    Jumped {
        by: Duration,
    },
    StillDoubted,
    /// The clock was set right, or has run on for [`CLOCK_PROBATION`].
    TrustedAgain,
}

impl ClockTrust {
    /// `steady` never jumps. `newest` is the time of the newest event or audited act; it is used at the first look.
    pub(super) fn look(&self, now: UnixMicros, steady: Duration, newest: Option<UnixMicros>) -> Belief {
        let mut state = self.0.lock();
        let last = state.last.replace((now, steady));
        if let Some(Doubt { expected, since }) = state.doubt {
            let passed = steady.saturating_sub(since);
            let is_set_right = now <= expected.after(passed).after(MAX_CLOCK_JUMP);
            if !is_set_right && passed < CLOCK_PROBATION {
                return Belief::StillDoubted;
            }
            state.doubt = None;
            return Belief::TrustedAgain;
        }
        let (expected, allowed) = match (last, newest) {
            (Some((at, then)), _) => (at.after(steady.saturating_sub(then)), MAX_CLOCK_JUMP),
            (None, Some(newest)) => (newest, MAX_UNSEEN_TIME),
            (None, None) => return Belief::Trusted,
        };
        let by = now.since(expected);
        if by <= allowed {
            return Belief::Trusted;
        }
        state.doubt = Some(Doubt { expected: expected.after(allowed), since: steady });
        Belief::Jumped { by }
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.0.lock().doubt.is_some()
    }

    /// An operator confirms that the clock is right. Returns whether it was doubted.
    pub(super) fn confirm(&self) -> bool {
        self.0.lock().doubt.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const HOUR: Duration = Duration::from_hours(1);
    const START: UnixMicros = UnixMicros(1_790_000_000_000_000);

    fn trusted() -> ClockTrust {
        let trust = ClockTrust::default();
        assert_eq!(trust.look(START, HOUR, Some(START)), Belief::Trusted);
        trust
    }

    #[test]
    fn a_clock_that_runs_is_trusted_and_one_that_is_set_back_too() {
        let trust = trusted();
        assert_eq!(trust.look(START.after(DAY), HOUR + DAY, None), Belief::Trusted);
        assert_eq!(trust.look(START, HOUR + DAY + HOUR, None), Belief::Trusted);
        assert_eq!(trust.look(START.after(HOUR), HOUR + DAY + 2 * HOUR, None), Belief::Trusted);
    }

    #[test]
    fn a_jump_ahead_is_doubted_until_it_is_set_right() {
        let trust = trusted();
        let later = |minutes: u32| HOUR + Duration::from_mins(1) * minutes;
        let ahead = START.after(400 * DAY);
        assert_eq!(
            trust.look(ahead, later(1), None),
            Belief::Jumped { by: 399 * DAY + Duration::from_mins(24 * 60 - 1) }
        );
        assert_eq!(trust.look(ahead.after(Duration::from_mins(1)), later(2), None), Belief::StillDoubted);
        assert!(trust.is_doubted());
        assert_eq!(trust.look(START.after(Duration::from_mins(3)), later(3), None), Belief::TrustedAgain);
        assert_eq!(trust.look(START.after(Duration::from_mins(4)), later(4), None), Belief::Trusted);
    }

    #[test]
    fn a_jump_that_lasts_or_is_confirmed_is_the_time() {
        let trust = trusted();
        let ahead = START.after(40 * DAY);
        assert!(matches!(trust.look(ahead, HOUR, None), Belief::Jumped { .. }));
        assert_eq!(trust.look(ahead.after(DAY), HOUR + DAY, None), Belief::TrustedAgain);
        assert!(matches!(trust.look(ahead.after(9 * DAY), HOUR + DAY, None), Belief::Jumped { .. }));
        assert!(trust.confirm() && !trust.confirm());
        assert_eq!(trust.look(ahead.after(9 * DAY), HOUR + DAY, None), Belief::Trusted);
    }

    #[test]
    fn a_start_long_after_the_newest_event_is_in_doubt() {
        for (age, expected) in [(DAY, Belief::Trusted), (DAY + HOUR, Belief::Jumped { by: DAY + HOUR })] {
            assert_eq!(ClockTrust::default().look(START.after(age), HOUR, Some(START)), expected);
        }
        assert_eq!(ClockTrust::default().look(START, HOUR, None), Belief::Trusted, "nothing is there to be deleted");
    }
}
