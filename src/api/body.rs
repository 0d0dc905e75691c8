//! Bodies of requests: read within bounds of time and memory.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::budget::{Budget, Exhausted, Owner, OwnerOf, Share};
use super::problem::{Problem, RETRY_AFTER_BUSY};

/// The timeout of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of all request bodies together. Beyond it a request is refused, with a `Retry-After`. Bodies that
/// arrive in one read are not counted.
pub(super) const MAX_BODIES_BYTES: usize = 256 * 1024 * 1024;
/// The lowest average rate of a body after [`BODY_GRACE`].
const MIN_BODY_BYTES_PER_S: u64 = 16 * 1024;
/// The time before the rate of a body counts.
const BODY_GRACE: Duration = Duration::from_secs(5);
/// The first memory for a body that does not arrive in one piece; from there it doubles as bytes arrive.
const FIRST_BUFFER_BYTES: usize = 64 * 1024;
/// The part of a too large body that is read and discarded, because some clients read the answer only after sending.
const MAX_DISCARDED_BYTES: usize = 4 * 1024 * 1024;

/// A body, and the share of the budget that it holds while it is in use.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    _share: Option<Share>,
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read_body(budget: &Budget, request: Request, limit: usize) -> Result<Received, Problem> {
    let (parts, body) = request.into_parts();
    if let Some(encoding) = parts.headers.get(CONTENT_ENCODING).filter(|value| value.as_bytes() != b"identity") {
        return Err(Problem::content_encoding(format!(
            "{encoding:?} is a content encoding; send the body without one"
        )));
    }
    let reading = async {
        let declared = content_length(&parts.headers);
        if declared.is_none_or(|length| length <= limit) {
            let owner = parts.extensions.get::<OwnerOf>().and_then(OwnerOf::get);
            return collect(budget, owner, body, declared, limit).await;
        }
        // A client that waits for `100 Continue` has not begun to send.
        if !parts.headers.contains_key(EXPECT) {
            discard(body).await;
        }
        Err(Problem::too_large(limit))
    };
    tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail))
    })
}

async fn collect(
    budget: &Budget,
    owner: Option<Owner>,
    mut body: Body,
    declared: Option<usize>,
    limit: usize,
) -> Result<Received, Problem> {
    let began = Instant::now();
    let mut whole = Vec::new();
    let mut share: Option<Share> = None;
    loop {
        let next = tokio::time::timeout_at(began + time_for(whole.len()), body.frame()).await;
        let Some(frame) = next.map_err(|_| too_slow())? else { break };
        let frame = frame.map_err(|error| Problem::json("body".to_owned(), format!("was cut off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            discard(body).await;
            return Err(Problem::too_large(limit));
        }
        // Most bodies arrive in one piece, which is used as it is.
        if whole.is_empty() && declared == Some(data.len()) {
            return Ok(Received { bytes: data, _share: None });
        }
        // Memory is taken for bytes that have arrived, not for the announced length.
        let needed = whole.len() + data.len();
        if needed > whole.capacity() {
            let doubled = (2 * whole.capacity()).max(FIRST_BUFFER_BYTES);
            let capacity = doubled.min(declared.unwrap_or(limit)).max(needed);
            let more = budget.reserve(owner, capacity - whole.capacity()).map_err(no_room)?;
            match &mut share {
                Some(share) => share.add(more),
                None => share = Some(more),
            }
            whole.reserve_exact(capacity - whole.len());
        }
        whole.extend_from_slice(&data);
    }
    Ok(Received { bytes: whole.into(), _share: share })
}

fn no_room(exhausted: Exhausted) -> Problem {
    let detail = match exhausted {
        Exhausted::All => return Problem::unavailable("too many large requests are under way"),
        Exhausted::Tenant => "too many large requests of the tenant are under way",
        Exhausted::Token => "too many large requests with the token are under way",
    };
    Problem::too_many("too-many-bodies", detail, RETRY_AFTER_BUSY)
}

/// The time for the first `bytes` of a body and the piece after them.
fn time_for(bytes: usize) -> Duration {
    BODY_GRACE + Duration::from_secs(bytes as u64 / MIN_BODY_BYTES_PER_S)
}

fn too_slow() -> Problem {
    let detail = format!("the body came more slowly than {MIN_BODY_BYTES_PER_S} bytes a second");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail)
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > MAX_DISCARDED_BYTES {
            return;
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use http_body_util::combinators::BoxBody;
    use hyper::body::Frame;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    /// Sends one piece, or nothing, and does not end.
    struct Stalled(Option<Bytes>);

    impl hyper::body::Body for Stalled {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.take().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
        }
    }

    async fn status_of(body: BoxBody<Bytes, Infallible>, budget: &Budget) -> Result<usize, u16> {
        use axum::response::IntoResponse;
        let received = read_body(budget, Request::new(Body::new(body)), 4_096).await;
        received.map(|received| received.bytes.len()).map_err(|problem| problem.into_response().status().as_u16())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_let_go() {
        assert_eq!(status_of(BoxBody::new(Stalled(None)), &Budget::new(MAX_BODIES_BYTES)).await.unwrap_err(), 408);
    }

    #[tokio::test]
    async fn bodies_beyond_the_budget_are_asked_to_come_back() {
        let body = || BoxBody::new(Full::new(Bytes::from(vec![0; 3_000])));
        let (roomy, tight) = (Budget::new(MAX_BODIES_BYTES), Budget::new(1_024));
        assert_eq!(status_of(body(), &roomy).await, Ok(3_000));
        assert_eq!(status_of(body(), &tight).await, Err(503));
        assert_eq!(tight.left(), 1_024);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_stall_after_the_first_byte_leave_room_for_others() {
        const LARGEST: usize = 16 * 1024 * 1024;
        let budget = Arc::new(Budget::new(MAX_BODIES_BYTES));
        for _ in 0..100 {
            let request = Request::builder().header(CONTENT_LENGTH, LARGEST);
            let request = request.body(Body::new(Stalled(Some(Bytes::from_static(b"["))))).unwrap();
            let budget = Arc::clone(&budget);
            tokio::spawn(async move { read_body(&budget, request, LARGEST).await.map(drop) });
        }
        // The paused clock goes on when all have stalled.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let share = budget.left();
        assert_eq!(share, MAX_BODIES_BYTES - 100 * FIRST_BUFFER_BYTES, "each holds what its byte needs");
        let body = BoxBody::new(Full::new(Bytes::from(vec![0; 3_000])));
        assert_eq!(status_of(body, &budget).await, Ok(3_000));
        tokio::time::sleep(2 * BODY_TIMEOUT).await;
        assert_eq!(budget.left(), MAX_BODIES_BYTES, "all is given back");
    }

    /// Sends a piece each second, for ever.
    struct Trickle {
        piece: usize,
        tick: tokio::time::Interval,
    }

    impl hyper::body::Body for Trickle {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let piece = Bytes::from(vec![b'x'; self.piece]);
            self.tick.poll_tick(context).map(|_| Some(Ok(Frame::data(piece))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_given_up_and_a_slow_one_is_not() {
        let read = async |piece: usize| {
            let trickle = Trickle { piece, tick: tokio::time::interval(Duration::from_secs(1)) };
            let began = Instant::now();
            let request = Request::new(Body::new(BoxBody::new(trickle)));
            let ended = read_body(&Budget::new(MAX_BODIES_BYTES), request, 256 * 1024).await;
            (format!("{:?}", ended.err()), began.elapsed())
        };
        let (error, took) = read(1).await;
        assert!(error.contains("more slowly than") && took < 2 * BODY_GRACE, "{took:?}: {error}");
        let (error, _) = read(usize::try_from(MIN_BODY_BYTES_PER_S).unwrap()).await;
        assert!(error.contains("did not arrive within 30 s"), "it has the whole time: {error}");
    }
}
