//! What an attempt came to, for each delivery that it was made for.

use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::batch::BatchContent;
use super::content::Content;
use super::lane::{Job, Judged, Lane, LaneSettings, Queued};
use super::notices::Notice;
use super::settler::ToSettle;
use crate::clock::{Clock, UnixMicros};
use crate::delivery::exchange::Exchange;
use crate::delivery::retry::Next;
use crate::delivery::verdict::{Evidence, Judgement, Verdict};
use crate::delivery::{AnswerFields, DeliveryState, End, Outcome, Transition, random_jitter};
use crate::fit::fit;
use crate::store::exchange::{Captured, KeptExchange, Part as Kept, SentBody};
use crate::store::{AttemptRecord, DeliveryKey, ExchangeBlob, Settlement};
use crate::webhook::Capture;

/// The most bytes kept of a success's answer, unless its exchange is captured. The answer of a failed attempt is kept as far
/// as it was read.
pub(super) const MAX_KEPT_SUCCESS_RESPONSE_BYTES: usize = 1_024;

/// The end of an attempt.
pub(super) struct Attempted<'a> {
    lane: &'a Arc<Lane>,
    settings: &'a Arc<LaneSettings>,
    /// Of the request.
    whole: Part<'a>,
    /// Of each delivery of a batch, where the answer tells them apart.
    parts: Vec<Part<'a>>,
    response: Bytes,
    exchange: ExchangeBlob,
    pub(super) now: UnixMicros,
    jitter: f64,
}

struct Part<'a> {
    outcome: Outcome,
    judged: Judged<'a>,
}

impl<'a> Attempted<'a> {
    pub(super) fn new(
        shared: &Shared,
        lane: &'a Arc<Lane>,
        settings: &'a Arc<LaneSettings>,
        content: &Content,
        outcome: Outcome,
    ) -> Self {
        let judged = settings.judge(&outcome);
        let is_failure = judged.judgement.verdict != Verdict::Delivered;
        let response = kept_answer(&outcome, settings.capture, is_failure);
        let exchange = KeptExchange {
            timings: outcome.exchange.timings,
            link: outcome.exchange.link,
            captured: settings.capture.keeps(is_failure).then(|| captured(&outcome, content)).flatten(),
        };
        let parts = match content {
            Content::Batch(content) if outcome.is_success() => parts(settings, content, &outcome),
            _ => Vec::new(),
        };
        let whole = Part { outcome, judged };
        Self {
            lane,
            settings,
            whole,
            parts,
            response,
            exchange: exchange.to_blob(),
            now: shared.clock.now(),
            jitter: random_jitter(),
        }
    }

    /// Of the request, for the circuit: a receiver that takes one of several works.
    pub(super) fn of_all(&self) -> (&Outcome, Judgement) {
        let is_delivered = |part: &&Part<'_>| part.judged.judgement.verdict == Verdict::Delivered;
        let part = self.parts.iter().find(is_delivered).or_else(|| self.parts.first()).unwrap_or(&self.whole);
        (&part.outcome, part.judged.judgement)
    }

    /// Whether the receiver refuses a batch for what is in it, which may be one event of many.
    pub(super) fn is_to_be_halved(&self, job: &Job) -> bool {
        let Judgement { verdict, evidence, .. } = self.whole.judged.judgement;
        !job.more.is_empty() && verdict == Verdict::Refused && evidence == Evidence::Alive
    }

    /// The outcome for delivery `index` of the job.
    pub(super) fn settle(&self, index: usize, queued: &Queued) -> ToSettle {
        let Part { outcome, judged } = self.parts.get(index).unwrap_or(&self.whole);
        let round_attempts = queued.round_attempts.saturating_add(1);
        let (transition, error) = match judged.next(round_attempts, outcome, self.now, self.jitter) {
            Next::Delivered => (Transition::delivered(), None),
            Next::RetryAt { at, error } => {
                // When it becomes too old, it is to end.
                let ends_at = self.settings.max_age.map_or(at, |max_age| queued.begins_at.after(max_age));
                (Transition::retry_at(at.min(ends_at), error.clone()), Some(error))
            }
            // The webhook is turned off, and what it is owed is kept.
            Next::Dead { error } if judged.judgement.verdict == Verdict::Gone => {
                (Transition::retry_at(self.now, error.clone()), Some(error))
            }
            Next::Dead { error } => (Transition::dead(error.clone()), Some(error)),
        };
        let key = DeliveryKey { event: queued.seq(), webhook: self.lane.seq };
        let notice = (transition.state() == DeliveryState::Dead).then(|| {
            let (attempts, error) = (queued.attempts.saturating_add(1), error.as_deref().unwrap_or_default());
            Notice::dead(self.settings, key, queued, attempts, outcome.status_code(), error, self.now)
        });
        let attempt = Some(self.record(queued, outcome, error));
        ToSettle::ended(self.lane, Settlement { key, round_attempts, transition, at: self.now, attempt }, notice)
            .begun_at(queued.begins_at)
    }

    /// The attempt of a refused batch, of which the lane sends the halves. It does not count against the schedule.
    pub(super) fn keep(&self, queued: &Queued) -> ToSettle {
        let Part { outcome, judged } = &self.whole;
        let error = match judged.next(u32::MAX, outcome, self.now, self.jitter) {
            Next::Dead { error } | Next::RetryAt { error, .. } => error,
            Next::Delivered => String::new(),
        };
        let settlement = Settlement {
            key: DeliveryKey { event: queued.seq(), webhook: self.lane.seq },
            round_attempts: queued.round_attempts,
            transition: Transition::retry_at(self.now, error.clone()),
            at: self.now,
            attempt: Some(self.record(queued, outcome, Some(error))),
        };
        ToSettle::kept(self.lane, settlement)
    }

    fn record(&self, queued: &Queued, outcome: &Outcome, error: Option<String>) -> AttemptRecord {
        AttemptRecord {
            number: queued.attempts.saturating_add(1),
            started_at: outcome.started_at,
            duration_us: fit(outcome.duration.as_micros(), i64::MAX),
            status_code: outcome.status_code(),
            error,
            response: self.response.clone(),
            exchange: self.exchange.clone(),
        }
    }
}

/// What a successful answer to a batch means for each of its deliveries, if it tells them apart. Of what it does not speak, it
/// is no success unless it says that all went well.
fn parts<'a>(settings: &'a LaneSettings, content: &BatchContent, whole: &Outcome) -> Vec<Part<'a>> {
    let Some(told) = content.form.told(&whole.response) else { return Vec::new() };
    let part = |place: usize| {
        let (headers, response) = (AnswerFields::default(), Bytes::new());
        let status = told.statuses.get(place).copied();
        let end = status.map_or(whole.end.clone(), End::Status);
        let exchange = Exchange::default();
        let outcome = Outcome { end, headers, response, retry_after: None, control: None, exchange, ..*whole };
        let is_doubted = status.is_none() && !told.is_without_errors;
        let doubt = is_doubted.then(|| "the answer does not say what became of the document".to_owned());
        Part { judged: settings.judge_part(&outcome, doubt), outcome }
    };
    (0..content.members.len()).map(part).collect()
}

/// What is kept of the answer's body: little of a success, so that outcomes that wait for a commit are small.
fn kept_answer(outcome: &Outcome, capture: Capture, is_failure: bool) -> Bytes {
    match outcome.response.get(..MAX_KEPT_SUCCESS_RESPONSE_BYTES) {
        _ if capture == Capture::None => Bytes::new(),
        Some(beginning) if !capture.keeps(is_failure) => Bytes::copy_from_slice(beginning),
        _ => outcome.response.clone(),
    }
}

/// What was sent and the head of what came back; `None`: no request was made.
fn captured(outcome: &Outcome, content: &Content) -> Option<Captured> {
    let sent = outcome.exchange.request.as_ref()?;
    let body = match content {
        Content::Batch(_) => SentBody::Batch(sent.body().len() as u64),
        Content::Shaped(shaped) if !shaped.is_the_event() => SentBody::Own(Kept::of(sent.body())),
        Content::Shaped(_) | Content::Event | Content::Late(_) => SentBody::Event,
    };
    let answer = Kept::of(&outcome.answer_head().unwrap_or_default().into());
    Some(Captured { request: Kept::of(&sent.head().into()), body, answer })
}
