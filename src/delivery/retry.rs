//! When to try again: (attempt, outcome, schedule, now) → next. Pure.

use std::time::{Duration, UNIX_EPOCH};

pub use super::outcome::RetryAfter;
use super::outcome::{End, Outcome, final_text, http_text};
use super::verdict::{Judgement, Reading, Verdict, judge};
use crate::clock::UnixMicros;
use crate::event::MAX_DELIVERY_DELAY;

/// The most delays in a schedule.
pub const MAX_SCHEDULE_DELAYS: usize = 64;
/// The longest delay between two attempts; `Retry-After` is clamped to it too.
pub const MAX_DELAY: Duration = Duration::from_hours(24);

const _: () = assert!(MAX_DELIVERY_DELAY.as_secs() <= MAX_DELAY.as_secs());

/// Nothing is due later than this from when it was written, however its schedule, a `Retry-After` or a `deliver_at` was. What seems to
/// be was written while the clock was ahead.
pub const MAX_WAIT: Duration = Duration::from_mins(24 * 60 + 1);

/// Delays between attempts: n delays make at most n + 1 attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Vec<Duration>);

/// What follows an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Delivered,
    RetryAt { at: UnixMicros, error: String },
    Dead { error: String },
}

/// Why delays are no schedule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    #[error("a schedule has at most {MAX_SCHEDULE_DELAYS} delays, this one has {0}")]
    TooManyDelays(usize),
    #[error("delay {index} is {seconds} s; a delay is between 0 and 86,400 s")]
    Delay { index: usize, seconds: f64 },
}

impl Schedule {
    /// The original's: 1, 2, 4 s.
    #[must_use]
    pub fn original() -> Self {
        Self([1, 2, 4].map(Duration::from_secs).to_vec())
    }
    /// The server's default: 1 s, 2 s, 4 s, 30 s, 2 min, 10 min, 30 min, 1 h, 3 h, 6 h, 12 h, 24 h, 24 h.
    #[must_use]
    pub fn server() -> Self {
        const MIN: u64 = 60;
        const H: u64 = 60 * MIN;
        let delays_s = [1, 2, 4, 30, 2 * MIN, 10 * MIN, 30 * MIN, H, 3 * H, 6 * H, 12 * H, 24 * H, 24 * H];
        Self(delays_s.map(Duration::from_secs).to_vec())
    }
    /// A single attempt.
    #[must_use]
    pub fn once() -> Self {
        Self(Vec::new())
    }
    /// Delays in seconds, as the API has them: at most [`MAX_SCHEDULE_DELAYS`], each from 0 to [`MAX_DELAY`].
    pub fn from_seconds(seconds: &[f64]) -> Result<Self, ScheduleError> {
        if seconds.len() > MAX_SCHEDULE_DELAYS {
            return Err(ScheduleError::TooManyDelays(seconds.len()));
        }
        let delay = |(index, &seconds): (usize, &f64)| {
            Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|delay| *delay <= MAX_DELAY)
                .ok_or(ScheduleError::Delay { index, seconds })
        };
        seconds.iter().enumerate().map(delay).collect::<Result<_, _>>().map(Self)
    }
    #[must_use]
    pub fn delays(&self) -> &[Duration] {
        &self.0
    }
    /// What to wait after attempt `attempt` (from 1), or `None` if that was the last.
    #[must_use]
    pub fn delay_after(&self, attempt: u32) -> Option<Duration> {
        let index = usize::try_from(attempt).ok()?.checked_sub(1)?;
        self.0.get(index).copied()
    }
}

/// Reads a `Retry-After` header's value (RFC 9110, section 10.2.3: seconds, or an HTTP date in one of its
/// three forms); nonsense is `None`. More seconds than a number holds are a very long time.
#[must_use]
pub fn parse_retry_after(value: &[u8]) -> Option<RetryAfter> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(RetryAfter::Delay(Duration::from_secs(text.parse().unwrap_or(u64::MAX))));
    }
    let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(RetryAfter::At(UnixMicros(0).after(since_epoch)))
}

/// When and after which answers a delivery is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub schedule: &'a Schedule,
    pub reading: Reading<'a>,
}

impl<'a> From<&'a Schedule> for Rules<'a> {
    fn from(schedule: &'a Schedule) -> Self {
        Self { schedule, reading: Reading::default() }
    }
}

/// Decides what follows attempt `attempt` (from 1) that ended with `outcome`. `jitter` multiplies the
/// schedule's delay and is uniform in [0.8, 1.2].
#[must_use]
pub fn next<'a>(attempt: u32, outcome: &Outcome, rules: impl Into<Rules<'a>>, now: UnixMicros, jitter: f64) -> Next {
    let Rules { schedule, reading } = rules.into();
    let Judgement { verdict, rest, is_doubted, .. } = judge(outcome, reading);
    // A status that is tried again is not called otherwise, nor is one that is final.
    let error = || match (verdict, &outcome.end) {
        _ if is_doubted => format!("answer: {}", reading.doubt.unwrap_or_default()),
        (Verdict::Again, End::Status(status)) => http_text(*status),
        (Verdict::Refused, End::Status(status)) => final_text(*status),
        _ => outcome.error_text().unwrap_or_default(),
    };
    match (verdict, outcome.control) {
        (Verdict::Delivered, _) => Next::Delivered,
        (Verdict::Refused | Verdict::Gone, _) => Next::Dead { error: error() },
        (Verdict::Again, Some(_)) => Next::Dead { error: format!("receiver aborted: {}", error()) },
        (Verdict::Again, None) => match schedule.delay_after(attempt) {
            None => Next::Dead { error: error() },
            Some(delay) => {
                let delay =
                    jittered(delay, jitter).max(rest.map_or(Duration::ZERO, |rest| rest.delay(now).min(MAX_DELAY)));
                Next::RetryAt { at: now.after(delay), error: error() }
            }
        },
    }
}

fn jittered(delay: Duration, jitter: f64) -> Duration {
    Duration::try_from_secs_f64(delay.as_secs_f64() * jitter).unwrap_or(delay).min(MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::DeliveryControl;
    use crate::delivery::exchange::Exchange;
    use crate::delivery::statuses::{StatusLists, StatusSpan, Statuses};
    use proptest::prelude::*;

    const NOW: UnixMicros = UnixMicros(1_790_000_000_000_000);

    fn ended(end: End, retry_after: Option<&str>) -> Outcome {
        Outcome {
            started_at: NOW,
            duration: Duration::ZERO,
            end,
            headers: crate::delivery::AnswerFields::default(),
            response: bytes::Bytes::new(),
            retry_after: retry_after.and_then(|value| parse_retry_after(value.as_bytes())),
            control: None,
            exchange: Exchange::default(),
        }
    }

    fn delay_of(next: &Next) -> Duration {
        match next {
            Next::RetryAt { at, .. } => at.since(NOW),
            other => panic!("no retry: {other:?}"),
        }
    }

    #[test]
    fn the_receiver_s_word_ends_what_would_go_on_and_changes_no_other_end() {
        let told = |end: End, word: &[u8]| {
            let outcome = Outcome { control: DeliveryControl::parse(word), ..ended(end, None) };
            next(1, &outcome, &Schedule::original(), NOW, 1.0)
        };
        let dead = |error: &str| Next::Dead { error: error.to_owned() };
        assert_eq!(told(End::Status(503), b"abort-message"), dead("receiver aborted: http 503"));
        assert_eq!(told(End::Status(503), b" disable "), dead("http 503"));
        for word in [b"disable".as_slice(), b"abort-message"] {
            assert_eq!(told(End::Status(404), word), dead("non-retryable 404"));
            assert_eq!(told(End::Status(204), word), Next::Delivered);
        }
        for unknown in [b"".as_slice(), b"Disable", b"pause", b"disable, abort-message", b"abort-message\xff"] {
            assert!(matches!(told(End::Status(503), unknown), Next::RetryAt { .. }), "{unknown:?}");
        }
    }

    #[test]
    fn a_schedule_of_three_delays_makes_four_attempts() {
        let busy = ended(End::Status(503), None);
        let schedule = Schedule::original();
        for (attempt, seconds) in [(1, 1), (2, 2), (3, 4)] {
            let delay = delay_of(&next(attempt, &busy, &schedule, NOW, 1.0));
            assert_eq!(delay, Duration::from_secs(seconds), "after attempt {attempt}");
        }
        assert_eq!(next(4, &busy, &schedule, NOW, 1.0), Next::Dead { error: "http 503".to_owned() });
        assert_eq!(next(1, &busy, &Schedule::once(), NOW, 1.0), Next::Dead { error: "http 503".to_owned() });
    }

    #[test]
    fn answers_are_told_apart_as_the_original_does() {
        let schedule = Schedule::original();
        for status in [200, 201, 204, 299] {
            assert_eq!(next(1, &ended(End::Status(status), None), &schedule, NOW, 1.0), Next::Delivered, "{status}");
        }
        for status in [100, 199, 300, 302, 304, 400, 401, 404, 408, 410, 425, 428, 430, 499] {
            let dead = Next::Dead { error: format!("non-retryable {status}") };
            assert_eq!(next(1, &ended(End::Status(status), None), &schedule, NOW, 1.0), dead);
        }
        let no_answer = || "x".to_owned();
        let ends = [
            (End::Status(429), "http 429"),
            (End::Status(500), "http 500"),
            (End::Status(599), "http 599"),
            (End::Status(600), "http 600"),
            (End::Status(999), "http 999"),
            (End::Timeout(no_answer()), "timeout: x"),
            (End::Connect(no_answer()), "connect: x"),
            (End::Tls(no_answer()), "tls: x"),
            (End::Dns { reason: no_answer(), detail: "10.0.0.1".to_owned() }, "dns: x"),
            (End::Protocol(no_answer()), "protocol: x"),
            (End::Blocked(no_answer()), "egress_blocked: x"),
        ];
        for (end, text) in ends {
            match next(1, &ended(end, None), &schedule, NOW, 1.0) {
                Next::RetryAt { error, .. } => assert_eq!(error, text),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_webhook_may_have_more_statuses_tried_again() {
        let schedule = Schedule::from_seconds(&[1.0]).unwrap();
        let retry_on = Statuses::new(vec![StatusSpan::one(408).unwrap(), StatusSpan::one(425).unwrap()]);
        let lists = StatusLists { retry_on, ..StatusLists::default() };
        let rules = Rules { schedule: &schedule, reading: Reading { lists: &[&lists], doubt: None } };
        let timeout = ended(End::Status(408), None);
        assert!(matches!(next(1, &timeout, rules, NOW, 1.0), Next::RetryAt { error, .. } if error == "http 408"));
        assert_eq!(next(2, &timeout, rules, NOW, 1.0), Next::Dead { error: "http 408".to_owned() });
        let dead = Next::Dead { error: "non-retryable 404".to_owned() };
        assert_eq!(next(1, &ended(End::Status(404), None), rules, NOW, 1.0), dead);
    }

    #[test]
    fn a_success_that_is_none_is_tried_again_with_the_reason() {
        let schedule = Schedule::from_seconds(&[1.0]).unwrap();
        let reading = Reading { lists: &[], doubt: Some("http 200, and it says no") };
        let rules = Rules { schedule: &schedule, reading };
        let text = "answer: http 200, and it says no";
        let ok = ended(End::Status(200), None);
        assert!(matches!(next(1, &ok, rules, NOW, 1.0), Next::RetryAt { error, .. } if error == text));
        assert_eq!(next(2, &ok, rules, NOW, 1.0), Next::Dead { error: text.to_owned() });
        let final_on = Statuses::new(vec![StatusSpan::one(200).unwrap()]);
        let lists = StatusLists { final_on, ..StatusLists::default() };
        let rules = Rules { schedule: &schedule, reading: Reading { lists: &[&lists], ..reading } };
        assert_eq!(next(1, &ok, rules, NOW, 1.0), Next::Dead { error: "non-retryable 200".to_owned() });
    }

    #[test]
    fn retry_after_postpones_but_never_hastens_nor_exceeds_a_day() {
        let one = Schedule::from_seconds(&[10.0]).unwrap();
        let day = MAX_DELAY.as_secs();
        let cases = [
            (503, "60", 60),
            (429, "60", 60),
            (503, "3", 10),
            (503, "0", 10),
            (503, "99999999999999999999", day),
            (503, "86401", day),
            (503, "Mon, 21 Sep 2026 14:43:20 GMT", 1_800),
            (503, "Monday, 21-Sep-26 14:43:20 GMT", 1_800),
            (503, "Mon Sep 21 14:43:20 2026", 1_800),
            (503, "Thu, 01 Jan 1970 00:00:00 GMT", 10),
            (503, "Fri, 31 Dec 9999 23:59:59 GMT", day),
            (503, "1e300", 10),
            (503, "inf", 10),
            (503, "-5", 10),
            (503, "+5", 10),
            (503, "", 10),
            (503, "tomorrow", 10),
            (500, "60", 10),
            (502, "60", 10),
        ];
        for (status, value, seconds) in cases {
            let delay = delay_of(&next(1, &ended(End::Status(status), Some(value)), &one, NOW, 1.0));
            assert_eq!(delay.as_secs(), seconds, "{status} with Retry-After: {value}");
        }
    }

    #[test]
    fn seconds_that_are_no_delay_are_refused_with_their_place() {
        for bad in [-1.0, f64::NAN, f64::INFINITY, 86_400.1] {
            assert!(matches!(Schedule::from_seconds(&[1.0, bad]), Err(ScheduleError::Delay { index: 1, .. })), "{bad}");
        }
        assert_eq!(Schedule::from_seconds(&[1.0; 65]), Err(ScheduleError::TooManyDelays(65)));
        assert_eq!(Schedule::from_seconds(&[]), Ok(Schedule::once()));
        assert_eq!(Schedule::from_seconds(&[1.0, 2.0, 4.0]), Ok(Schedule::original()));
        assert_eq!(Schedule::server().delays().len(), 13);
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_arithmetic(value in proptest::collection::vec(any::<u8>(), 0..40), digits in "[0-9]{1,30}") {
            for value in [value.as_slice(), digits.as_bytes()] {
                let mut outcome = ended(End::Status(503), None);
                outcome.retry_after = parse_retry_after(value);
                let delay = delay_of(&next(1, &outcome, &Schedule::original(), NOW, 1.2));
                prop_assert!(delay >= Duration::from_millis(1_200) && delay <= MAX_DELAY);
            }
        }

        #[test]
        fn jitter_stays_within_a_fifth(jitter in 0.8..=1.2f64) {
            let delay = delay_of(&next(3, &ended(End::Status(500), None), &Schedule::original(), NOW, jitter));
            prop_assert!(delay >= Duration::from_millis(3_199) && delay <= Duration::from_millis(4_801));
        }
    }
}
