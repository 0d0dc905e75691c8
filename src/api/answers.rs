//! Answers on their way: their bytes have a budget, since a client that does not read keeps its answer in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// Bodies of all answers that are not sent yet; beyond it a large one is refused, and its caller asked to come back.
const MAX_ANSWERS_BYTES: usize = 256 * 1024 * 1024;
/// Bodies up to this do not count: a connection has a buffer as large.
const FREE_ANSWER_BYTES: u64 = 64 * 1024;
/// As much of a body as is handed to a connection at once, so that the rest waits here.
const PIECE_BYTES: usize = 64 * 1024;
const BUDGET_UNIT_BYTES: u64 = 1024;

/// The budget.
pub(super) struct Answers(Arc<Semaphore>);

impl Default for Answers {
    fn default() -> Self {
        Self::of(MAX_ANSWERS_BYTES)
    }
}

impl Answers {
    fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.div_ceil(1024))))
    }

    /// The answer with its share of the budget, which it holds until the last of it leaves; a refusal, if there is none.
    pub(super) fn admit(&self, answer: Response) -> Response {
        let bytes = answer.body().size_hint().lower();
        if bytes <= FREE_ANSWER_BYTES {
            return answer;
        }
        let share = u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES)).ok();
        match share.and_then(|share| Arc::clone(&self.0).try_acquire_many_owned(share).ok()) {
            Some(share) => answer.map(|body| Body::new(Counted { body, piece: Bytes::new(), _share: share })),
            None => Problem::unavailable("too many large answers are on their way").into_response(),
        }
    }
}

/// A body in pieces, and its share of the budget.
struct Counted {
    body: Body,
    /// What has come of the body and is not handed on yet.
    piece: Bytes,
    _share: OwnedSemaphorePermit,
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
    use axum::http::StatusCode;
    use http_body_util::BodyExt;

    const MIB: usize = 1024 * 1024;

    fn answer(bytes: usize) -> Response {
        Response::new(Body::from((0..bytes).map(|at| (at % 251).to_le_bytes()[0]).collect::<Vec<_>>()))
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_take_no_more_than_their_budget() {
        let answers = Answers::of(3 * MIB);
        let unread: Vec<Response> = (0..60).map(|_| answers.admit(answer(MIB))).collect();
        let sent = unread.iter().filter(|answer| answer.status() == StatusCode::OK).count();
        assert_eq!(sent, 3, "the others are asked to come back");
        let refused = unread.iter().find(|answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE).unwrap();
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(answers.admit(answer(60_000)).status(), StatusCode::OK, "small ones go on");
        drop(unread);
        assert_eq!(answers.admit(answer(3 * MIB)).status(), StatusCode::OK, "what is gone counts no more");
    }

    #[tokio::test]
    async fn an_answer_is_whole_and_counts_until_the_last_of_it_leaves() {
        let answers = Answers::of(MIB);
        let mut body = answers.admit(answer(MIB)).into_body();
        assert_eq!(body.size_hint().exact(), Some(MIB as u64), "its length is known");
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES);
            whole.extend_from_slice(&piece);
            assert_eq!(body.size_hint().exact(), Some((MIB - whole.len()) as u64));
            assert_eq!(answers.admit(answer(MIB)).status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        assert_eq!(whole, answer(MIB).into_body().collect().await.unwrap().to_bytes());
        drop(body);
        assert_eq!(answers.admit(answer(MIB)).status(), StatusCode::OK);
    }
}
