//! Answers on their way: their bytes have a budget, since a client that does not read keeps its answer in memory.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use super::budget::{Budget, Exhausted, Owner, Share};
use super::problem::{Problem, RETRY_AFTER_BUSY};

/// The most bytes of all answers that are not sent yet. Beyond it a large answer is refused, with a `Retry-After`.
const MAX_ANSWERS_BYTES: usize = 256 * 1024 * 1024;
/// Bodies up to this size are not counted, since each connection has a buffer of this size.
const FREE_ANSWER_BYTES: u64 = 64 * 1024;
/// The largest piece of a body that is passed to a connection, so that the rest waits here.
const PIECE_BYTES: usize = 64 * 1024;

/// The budget.
pub(super) struct Answers(Budget);

impl Default for Answers {
    fn default() -> Self {
        Self(Budget::new(MAX_ANSWERS_BYTES))
    }
}

impl Answers {
    /// The answer to a request of `owner`, with a share of the budget that it holds until its last piece leaves.
    /// Without such a share, a refusal.
    pub(super) fn admit(&self, owner: Option<Owner>, answer: Response) -> Response {
        let bytes = answer.body().size_hint().lower();
        if bytes <= FREE_ANSWER_BYTES {
            return answer;
        }
        let share = self.0.reserve(owner, usize::try_from(bytes).unwrap_or(usize::MAX));
        match share {
            Ok(share) => answer.map(|body| Body::new(Counted { body, piece: Bytes::new(), _share: share })),
            Err(exhausted) => no_room(exhausted).into_response(),
        }
    }
}

fn no_room(exhausted: Exhausted) -> Problem {
    let detail = match exhausted {
        Exhausted::All => return Problem::unavailable("too many large answers are on their way"),
        Exhausted::Tenant => "too many large answers to the tenant are on their way",
        Exhausted::Token => "too many large answers to the token are on their way",
    };
    Problem::too_many("too-many-answers", detail, RETRY_AFTER_BUSY)
}

/// A body in pieces, and its share of the budget.
struct Counted {
    body: Body,
    /// The part of the body that has come and is not passed on yet.
    piece: Bytes,
    _share: Share,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.piece.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.piece.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, here) = (self.body.size_hint(), self.piece.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + here);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + here);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::TenantSeq;
    use axum::http::StatusCode;
    use http_body_util::BodyExt;

    const MIB: usize = 1024 * 1024;

    fn answer(bytes: usize) -> Response {
        Response::new(Body::from((0..bytes).map(|at| (at % 251).to_le_bytes()[0]).collect::<Vec<_>>()))
    }

    fn owner(tenant: i64) -> Owner {
        Owner { tenant: TenantSeq(tenant), token: None }
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_take_no_more_than_their_share() {
        let answers = Answers(Budget::new(12 * MIB));
        let mut unread = Vec::new();
        // The last have no token at all.
        for (owner, refusal) in [(Some(owner(1)), 429), (Some(owner(2)), 429), (Some(owner(3)), 429), (None, 503)] {
            let flood: Vec<Response> = (0..20).map(|_| answers.admit(owner, answer(MIB))).collect();
            assert_eq!(flood.iter().filter(|answer| answer.status() == StatusCode::OK).count(), 3);
            assert!(
                flood[3..].iter().all(|answer| answer.status() == refusal && answer.headers()["retry-after"] == "1")
            );
            unread.push(flood);
        }
        assert_eq!(
            answers.admit(Some(owner(4)), answer(MIB)).status(),
            StatusCode::SERVICE_UNAVAILABLE,
            "all is taken"
        );
        assert_eq!(answers.admit(Some(owner(4)), answer(60_000)).status(), StatusCode::OK, "small ones go on");
        unread.pop();
        assert_eq!(
            answers.admit(Some(owner(4)), answer(3 * MIB)).status(),
            StatusCode::OK,
            "what is gone counts no more"
        );
    }

    #[tokio::test]
    async fn an_answer_is_whole_and_counts_until_the_last_of_it_leaves() {
        let answers = Answers(Budget::new(4 * MIB));
        let mut body = answers.admit(Some(owner(1)), answer(MIB)).into_body();
        assert_eq!(body.size_hint().exact(), Some(MIB as u64), "its length is known");
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES);
            whole.extend_from_slice(&piece);
            assert_eq!(body.size_hint().exact(), Some((MIB - whole.len()) as u64));
            assert_eq!(answers.admit(Some(owner(1)), answer(MIB)).status(), StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!(whole, answer(MIB).into_body().collect().await.unwrap().to_bytes());
        drop(body);
        assert_eq!(answers.admit(Some(owner(1)), answer(MIB)).status(), StatusCode::OK);
    }
}
