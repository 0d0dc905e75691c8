//! `Retry-After`, schedules and what follows an attempt: never sooner than the schedule says, never later than a day.
//! Input: the header; a schedule as JSON; the status and the attempt as JSON.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use postrider::clock::UnixMicros;
use postrider::delivery::exchange::Exchange;
use postrider::delivery::retry::{
    MAX_DELAY, MAX_SCHEDULE_DELAYS, MAX_WAIT, Next, Rules, Schedule, next, parse_retry_after,
};
use postrider::delivery::statuses::{StatusLists, StatusSpan, Statuses};
use postrider::delivery::verdict::Reading;
use postrider::delivery::{End, JITTER, Outcome};
use postrider_fuzz::{NOW, parts};

fuzz_target!(|input: &[u8]| {
    let mut parts = parts(input);
    let retry_after = parse_retry_after(parts.next().unwrap_or_default());
    let given: Option<Vec<f64>> = parts.next().and_then(|json| serde_json::from_slice(json).ok());
    let (status, attempt, now): (u16, u32, i64) =
        parts.next().and_then(|json| serde_json::from_slice(json).ok()).unwrap_or((503, 1, NOW.0));
    let schedule = given.map_or_else(|| Ok(Schedule::server()), |seconds| Schedule::from_seconds(&seconds));
    let Ok(schedule) = schedule else { return };
    assert!(schedule.delays().len() <= MAX_SCHEDULE_DELAYS && schedule.delays().iter().all(|d| *d <= MAX_DELAY));
    let now = UnixMicros(now);
    let outcome = Outcome {
        started_at: now,
        duration: Duration::ZERO,
        end: End::Status(status),
        headers: Default::default(),
        response: Default::default(),
        retry_after,
        exchange: Exchange::default(),
        control: None,
    };
    let scheduled = (attempt as usize).checked_sub(1).and_then(|index| schedule.delays().get(index)).copied();
    let retry_on = Statuses::new(StatusSpan::one(408).into_iter().collect());
    let lists = StatusLists { retry_on, ..StatusLists::default() };
    for jitter in [*JITTER.start(), 1.0, *JITTER.end()] {
        let rules = Rules { schedule: &schedule, reading: Reading { lists: &[&lists], doubt: None } };
        match next(attempt, &outcome, rules, now, jitter) {
            Next::Delivered => assert!((200..300).contains(&status)),
            Next::Dead { error } => {
                assert!(!error.is_empty());
                assert!(scheduled.is_none() || !(status == 429 || status == 408 || status >= 500));
            }
            Next::RetryAt { at, error } => {
                assert!(!error.is_empty());
                let scheduled = scheduled.expect("the schedule has a delay left");
                let shortest = scheduled.mul_f64(jitter).min(MAX_DELAY);
                // Less than a microsecond is cut off; no moment is after the last one.
                let slack = Duration::from_micros(2);
                assert!(at.since(now) + slack >= shortest || at.0 == i64::MAX, "{at} is too soon");
                assert!(at.since(now) <= MAX_DELAY && MAX_DELAY < MAX_WAIT, "{at} is too late");
            }
        }
    }
});
