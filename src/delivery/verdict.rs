//! What the end of an attempt means: for the delivery, for the circuit of its webhook, and for the lane. Pure.
//! `docs/delivery.md` has the same table for users.

use std::time::Duration;

use super::outcome::{DeliveryControl, End, GONE, Outcome, RetryAfter};
use super::statuses::{StatusKind, StatusLists};
use crate::clock::UnixMicros;

/// What the end of an attempt means for its delivery, whatever the schedule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has it.
    Delivered,
    /// To be tried again.
    Again,
    /// The receiver wants this event never.
    Refused,
    /// The receiver wants no event any more.
    Gone,
}

/// What the end of an attempt says of the receiver, to the circuit of its webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    Success,
    /// The receiver works, and this event is not for it.
    Alive,
    Failure,
    /// Nothing: the fault is ours, or the receiver has asked for time.
    Nothing,
}

/// How long the receiver asks to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// As its `Retry-After` says.
    Told(RetryAfter),
    /// It did not say: a second at first, then longer.
    Untold,
}

impl Rest {
    /// How long the receiver asks to be left alone, not clamped; zero if it does not say.
    #[must_use]
    pub fn delay(self, now: UnixMicros) -> Duration {
        match self {
            Self::Told(RetryAfter::Delay(delay)) => delay,
            Self::Told(RetryAfter::At(at)) => at.since(now),
            Self::Untold => Duration::ZERO,
        }
    }
}

/// All that the end of an attempt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub evidence: Evidence,
    pub rest: Option<Rest>,
    /// It would be a success by its status, and its answer says otherwise.
    pub is_doubted: bool,
}

/// What is said of answers beside the rules for all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading<'a> {
    /// What the first of these says of a status holds.
    pub lists: &'a [&'a StatusLists],
    /// Why an answer with the status of a success is none.
    pub doubt: Option<&'a str>,
}

impl Judgement {
    const fn new(verdict: Verdict, evidence: Evidence) -> Self {
        Self { verdict, evidence, rest: None, is_doubted: false }
    }

    const DELIVERED: Self = Self::new(Verdict::Delivered, Evidence::Success);
    const FAILED: Self = Self::new(Verdict::Again, Evidence::Failure);
    /// No fault of the receiver's.
    const EXCUSED: Self = Self::new(Verdict::Again, Evidence::Nothing);
}

/// Judges an attempt.
#[must_use]
pub fn judge(outcome: &Outcome, reading: Reading<'_>) -> Judgement {
    let listed = |status: u16| reading.lists.iter().find_map(|lists| lists.kind(status));
    let judgement = match &outcome.end {
        End::Status(status) => match listed(*status) {
            None => judge_status(*status, outcome.retry_after),
            Some(StatusKind::Success) => Judgement::DELIVERED,
            Some(StatusKind::Final) => Judgement::new(Verdict::Refused, Evidence::Alive),
            Some(StatusKind::Retry) => again(*status, outcome.retry_after),
        },
        end => judge_silence(end),
    };
    let is_doubted = reading.doubt.is_some() && judgement.verdict == Verdict::Delivered;
    let judgement = if is_doubted { Judgement { is_doubted, ..Judgement::FAILED } } else { judgement };
    let is_over = outcome.control == Some(DeliveryControl::Disable) && judgement.verdict != Verdict::Delivered;
    if is_over { Judgement { verdict: Verdict::Gone, ..judgement } } else { judgement }
}

fn judge_status(status: u16, retry_after: Option<RetryAfter>) -> Judgement {
    match status {
        200..=299 => Judgement::DELIVERED,
        429 | 500.. => again(status, retry_after),
        GONE => Judgement::new(Verdict::Gone, Evidence::Nothing),
        400 | 409 | 411 | 413 | 414 | 415 | 422 | 431 => Judgement::new(Verdict::Refused, Evidence::Alive),
        // The request as such is wrong, or the receiver is.
        _ => Judgement::new(Verdict::Refused, Evidence::Failure),
    }
}

/// `Retry-After` counts with the two statuses that RFC 6585 and RFC 9110 give it for.
fn again(status: u16, retry_after: Option<RetryAfter>) -> Judgement {
    match status {
        429 => Judgement { rest: Some(retry_after.map_or(Rest::Untold, Rest::Told)), ..Judgement::EXCUSED },
        503 => Judgement { rest: retry_after.map(Rest::Told), ..Judgement::FAILED },
        _ => Judgement::FAILED,
    }
}

/// Of an attempt without an answer.
fn judge_silence(end: &End) -> Judgement {
    match end {
        End::Blocked(_) | End::Local(_) | End::Proxy(_) | End::Auth(_) | End::Unshaped(_) => Judgement::EXCUSED,
        _ => Judgement::FAILED,
    }
}

impl End {
    /// Whether it speaks against the receiver, as long as a webhook says nothing else. A blocked destination, a proxy or
    /// a token endpoint that fails, or a lack of descriptors is the operator's affair.
    #[must_use]
    pub fn counts_as_failure(&self) -> bool {
        let judgement = match self {
            Self::Status(status) => judge_status(*status, None),
            end => judge_silence(end),
        };
        judgement.evidence == Evidence::Failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::exchange::Exchange;
    use crate::delivery::statuses::Statuses;

    fn ended(end: End, retry_after: Option<RetryAfter>) -> Outcome {
        Outcome {
            started_at: UnixMicros(0),
            duration: Duration::ZERO,
            end,
            headers: crate::delivery::AnswerFields::default(),
            response: bytes::Bytes::new(),
            retry_after,
            control: None,
            exchange: Exchange::default(),
        }
    }

    fn of_status(status: u16) -> (Verdict, Evidence) {
        let judgement = judge(&ended(End::Status(status), None), Reading::default());
        (judgement.verdict, judgement.evidence)
    }

    #[test]
    fn every_status_has_its_row() {
        for status in [200, 204, 299] {
            assert_eq!(of_status(status), (Verdict::Delivered, Evidence::Success), "{status}");
        }
        for status in [400, 409, 411, 413, 414, 415, 422, 431] {
            assert_eq!(of_status(status), (Verdict::Refused, Evidence::Alive), "{status}");
        }
        for status in [100, 199, 300, 304, 401, 403, 404, 408, 425, 499] {
            assert_eq!(of_status(status), (Verdict::Refused, Evidence::Failure), "{status}");
        }
        for status in [500, 503, 508, 599, 600, 999] {
            assert_eq!(of_status(status), (Verdict::Again, Evidence::Failure), "{status}");
        }
        assert_eq!(of_status(429), (Verdict::Again, Evidence::Nothing));
        assert_eq!(of_status(410), (Verdict::Gone, Evidence::Nothing));
    }

    #[test]
    fn what_is_no_answer_is_tried_again_and_counts_where_the_receiver_is_at_fault() {
        let text = || "x".to_owned();
        let against = [
            End::Timeout(text()),
            End::Connect(text()),
            End::Tls(text()),
            End::Dns { reason: text(), detail: text() },
            End::Protocol(text()),
        ];
        let excused =
            [End::Blocked(text()), End::Local(text()), End::Proxy(text()), End::Auth(text()), End::Unshaped(text())];
        for (ends, judgement) in [(&against, Judgement::FAILED), (&excused, Judgement::EXCUSED)] {
            for end in ends {
                assert_eq!(judge(&ended(end.clone(), None), Reading::default()), judgement, "{end:?}");
                assert_eq!(end.counts_as_failure(), judgement.evidence == Evidence::Failure, "{end:?}");
            }
        }
    }

    #[test]
    fn a_receiver_asks_for_time_with_two_statuses() {
        let minute = RetryAfter::Delay(Duration::from_mins(1));
        let rest = |status, retry_after| judge(&ended(End::Status(status), retry_after), Reading::default()).rest;
        assert_eq!(rest(429, None), Some(Rest::Untold));
        assert_eq!(rest(503, None), None);
        for status in [429, 503] {
            assert_eq!(rest(status, Some(minute)), Some(Rest::Told(minute)));
        }
        for status in [200, 400, 404, 410, 500, 502] {
            assert_eq!(rest(status, Some(minute)), None, "{status}");
        }
    }

    #[test]
    fn the_first_list_that_has_a_status_says_what_it_means() {
        let list = |items: &[&str]| Statuses::new(items.iter().map(|item| item.parse().unwrap()).collect());
        let own = StatusLists { final_on: list(&["500", "429"]), success_on: list(&["409"]), ..StatusLists::default() };
        let server =
            StatusLists { retry_on: list(&["4xx", "200"]), success_on: list(&["503"]), final_on: list(&["5xx"]) };
        let lists = [&own, &server];
        let judged = |status| {
            let judgement = judge(&ended(End::Status(status), None), Reading { lists: &lists, doubt: None });
            (judgement.verdict, judgement.evidence)
        };
        assert_eq!(judged(500), (Verdict::Refused, Evidence::Alive), "the webhook's own");
        assert_eq!(judged(429), (Verdict::Refused, Evidence::Alive));
        assert_eq!(judged(409), (Verdict::Delivered, Evidence::Success), "the webhook's own before the server's");
        assert_eq!(judged(404), (Verdict::Again, Evidence::Failure), "the server's");
        assert_eq!(judged(200), (Verdict::Again, Evidence::Failure));
        assert_eq!(judged(502), (Verdict::Refused, Evidence::Alive));
        assert_eq!(judged(410), (Verdict::Gone, Evidence::Nothing), "no class means it");
        assert_eq!(judged(204), (Verdict::Delivered, Evidence::Success), "no list has it");
        let busy = StatusLists { retry_on: list(&["429"]), ..StatusLists::default() };
        let judgement = judge(&ended(End::Status(429), None), Reading { lists: &[&busy], doubt: None });
        assert_eq!((judgement.evidence, judgement.rest), (Evidence::Nothing, Some(Rest::Untold)), "it is what it is");
    }

    #[test]
    fn a_success_in_doubt_is_none_and_nothing_else_is_doubted() {
        let judged = |status| judge(&ended(End::Status(status), None), Reading { lists: &[], doubt: Some("x") });
        let doubted = judged(200);
        assert_eq!((doubted.verdict, doubted.evidence), (Verdict::Again, Evidence::Failure));
        assert!(doubted.is_doubted && !judged(503).is_doubted && judged(400).verdict == Verdict::Refused);
    }

    #[test]
    fn a_receiver_that_wants_no_more_is_gone_with_any_status_but_keeps_what_it_took() {
        let told = |status| Outcome { control: Some(DeliveryControl::Disable), ..ended(End::Status(status), None) };
        assert_eq!(judge(&told(204), Reading::default()).verdict, Verdict::Delivered);
        for status in [400, 404, 410, 429, 503] {
            assert_eq!(judge(&told(status), Reading::default()).verdict, Verdict::Gone, "{status}");
        }
    }
}
