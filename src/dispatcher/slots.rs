//! Slots: the attempts that may be under way at once, over all lanes, and who shares them with whom.
//!
//! A webhook whose attempts fail or take long must not take from the others. So those have shares of their own: when all of
//! them hang, the others have the rest to themselves. And they begin one after the other: many that time out together
//! would begin together again, and keep the processors busy for all others at every such beat. Where the processors are
//! busy, they begin further apart: others have a better use for them.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::breaker::Standing;

/// One in this many slots is for webhooks whose last attempt failed, or that were never tried.
const UNPROVEN_SHARE: u32 = 4;
/// One in this many slots is for webhooks whose last attempt succeeded, but took long.
const SLOW_SHARE: u32 = 4;
/// The time between the beginnings of two attempts in one of these shares: at most 2,000 a second.
const SPACING: Duration = Duration::from_micros(500);
/// The same while the processors are busy: 125 a second.
const MAX_SPACING: Duration = Duration::from_millis(8);
/// A turn that is late by this much shows that the processors are busy. Timers are late by up to 1 ms anyway.
const MAX_TURN_DELAY: Duration = Duration::from_millis(2);

/// The attempts that may be under way at once, over all lanes.
pub(super) struct Slots {
    prompt: SlotShare,
    slow: SlotShare,
    unproven: SlotShare,
}

impl Slots {
    pub(super) fn new(max_in_flight: usize) -> Self {
        let total = u32::try_from(max_in_flight).unwrap_or(u32::MAX).clamp(3, 1 << 20);
        let (slow, unproven) = ((total / SLOW_SHARE).max(1), (total / UNPROVEN_SHARE).max(1));
        Self {
            prompt: SlotShare::new(total - slow - unproven),
            slow: SlotShare::new(slow),
            unproven: SlotShare::new(unproven),
        }
    }

    /// Waits for a slot, and for its turn; `None` once the slots are closed.
    pub(super) async fn take(&self, standing: Standing) -> Option<SemaphorePermit<'_>> {
        let share = match standing {
            Standing::Prompt => return self.prompt.take().await,
            Standing::Slow => &self.slow,
            Standing::Unproven => &self.unproven,
        };
        let slot = share.take().await;
        share.wait_for_turn().await;
        slot
    }

    /// Waits until no attempt is under way.
    pub(super) async fn all_free(&self) {
        let _ = tokio::join!(self.prompt.all(), self.slow.all(), self.unproven.all());
    }

    pub(super) fn in_use(&self) -> usize {
        [&self.prompt, &self.slow, &self.unproven].map(SlotShare::in_use).iter().sum()
    }
}

/// Slots for webhooks of one standing.
struct SlotShare {
    slots: Semaphore,
    count: u32,
    pace: Mutex<SlotPace>,
}

/// The spacing of the attempts of a share.
struct SlotPace {
    next: Instant,
    spacing: Duration,
}

impl SlotPace {
    fn take(&mut self, now: Instant) -> Instant {
        let turn = self.next.max(now);
        self.next = turn + self.spacing;
        turn
    }

    /// Notes by how much a turn was late. One late turn weighs as much as seven punctual ones.
    fn came(&mut self, late: Duration) {
        let spacing = if late > MAX_TURN_DELAY { self.spacing * 2 } else { self.spacing * 9 / 10 };
        self.spacing = spacing.clamp(SPACING, MAX_SPACING);
    }
}

impl SlotShare {
    fn new(count: u32) -> Self {
        let pace = Mutex::new(SlotPace { next: Instant::now(), spacing: SPACING });
        Self { slots: Semaphore::new(count as usize), count, pace }
    }

    async fn take(&self) -> Option<SemaphorePermit<'_>> {
        self.slots.acquire().await.ok()
    }

    async fn wait_for_turn(&self) {
        let now = Instant::now();
        let turn = self.pace.lock().take(now);
        if turn > now {
            tokio::time::sleep_until(turn).await;
            self.pace.lock().came(turn.elapsed());
        }
    }

    /// Waits until all are free, and takes them; `None` once they are closed.
    async fn all(&self) -> Option<SemaphorePermit<'_>> {
        self.slots.acquire_many(self.count).await.ok()
    }

    fn in_use(&self) -> usize {
        self.count as usize - self.slots.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_that_fail_or_are_slow_begin_one_after_the_other() {
        let slots = Slots::new(400);
        let began_at = Instant::now();
        let mut held = Vec::new();
        for _ in 0..200 {
            held.push(slots.take(Standing::Prompt).await.unwrap());
        }
        assert_eq!(began_at.elapsed(), Duration::ZERO);
        held.push(slots.take(Standing::Slow).await.unwrap());
        held.push(slots.take(Standing::Unproven).await.unwrap());
        assert_eq!(began_at.elapsed(), Duration::ZERO, "the first waits for nobody");
        for _ in 1..100 {
            held.push(slots.take(Standing::Unproven).await.unwrap());
        }
        assert!(began_at.elapsed() >= 99 * SPACING, "{:?}", began_at.elapsed());
        assert_eq!(slots.in_use(), 301);
    }

    #[test]
    fn turns_that_come_late_lie_further_apart_until_they_come_in_time() {
        let began_at = Instant::now();
        let mut pace = SlotPace { next: began_at, spacing: SPACING };
        assert_eq!((pace.take(began_at), pace.take(began_at)), (began_at, began_at + SPACING));
        for _ in 0..100 {
            pace.came(MAX_TURN_DELAY + Duration::from_micros(1));
        }
        assert_eq!(pace.spacing, MAX_SPACING);
        let later = began_at + Duration::from_secs(1);
        assert_eq!((pace.take(later), pace.take(later)), (later, later + MAX_SPACING));
        for _ in 0..100 {
            pace.came(MAX_TURN_DELAY);
        }
        assert_eq!(pace.spacing, SPACING);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_that_fail_hang_the_others_have_theirs() {
        let slots = Slots::new(8);
        let _held = (slots.take(Standing::Unproven).await, slots.take(Standing::Unproven).await);
        let one_more = tokio::time::timeout(Duration::from_mins(1), slots.take(Standing::Unproven));
        assert!(one_more.await.is_err());
        assert!(slots.take(Standing::Prompt).await.is_some());
        assert!(slots.take(Standing::Slow).await.is_some());
    }
}
