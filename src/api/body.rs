//! Bodies of requests: read within bounds of time and memory, of which no tenant and no token takes all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use super::problem::{Problem, RETRY_AFTER_BUSY};
use crate::webhook::TenantSeq;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bodies of all requests together; beyond it a request is asked to come back. Bodies of one read are not counted.
const MAX_BODIES_BYTES: usize = 256 * 1024 * 1024;
/// Of them those of one tenant, however many its tokens.
const MAX_TENANT_BODIES_BYTES: usize = MAX_BODIES_BYTES / 2;
/// Of them those of one token.
const MAX_TOKEN_BODIES_BYTES: usize = MAX_BODIES_BYTES / 4;
/// How slowly a body may arrive on the average, once [`BODY_GRACE`] is over.
const MIN_BODY_BYTES_PER_S: u64 = 16 * 1024;
/// How long a body may take before its rate counts.
const BODY_GRACE: Duration = Duration::from_secs(5);
const BUDGET_UNIT_BYTES: usize = 1024;
/// The first memory for a body that does not arrive in one piece; from there it doubles as bytes arrive.
const FIRST_BUFFER_BYTES: usize = 64 * 1024;
/// How much of a body that is too large is read and thrown away, so that a client that only then reads sees the answer.
const MAX_DISCARDED_BYTES: usize = 4 * 1024 * 1024;

/// Who sends a body, as an extension of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyOwner {
    pub(super) tenant: TenantSeq,
    /// `None`: the environment's.
    pub(super) token: Option<Uuid>,
}

/// Whose bytes are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Account {
    Tenant(TenantSeq),
    Token(TenantSeq, Option<Uuid>),
}

impl BodyOwner {
    /// With the most that each may have.
    fn accounts(self) -> [(Account, usize); 2] {
        [
            (Account::Tenant(self.tenant), MAX_TENANT_BODIES_BYTES),
            (Account::Token(self.tenant, self.token), MAX_TOKEN_BODIES_BYTES),
        ]
    }
}

/// How much memory the bodies of all requests may take.
pub(super) struct Bodies {
    all: Arc<Semaphore>,
    taken: Arc<Mutex<HashMap<Account, usize>>>,
}

/// A part of that memory; dropping it gives it back.
struct Share {
    permit: OwnedSemaphorePermit,
    owner: Option<BodyOwner>,
    bytes: usize,
    taken: Arc<Mutex<HashMap<Account, usize>>>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self::of(MAX_BODIES_BYTES)
    }
}

impl Bodies {
    fn of(bytes: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(bytes / BUDGET_UNIT_BYTES)), taken: Arc::default() }
    }

    fn reserve(&self, owner: Option<BodyOwner>, bytes: usize) -> Result<Share, Problem> {
        let mut taken = self.taken.lock();
        for (account, most) in owner.iter().flat_map(|owner| owner.accounts()) {
            if taken.get(&account).copied().unwrap_or_default() + bytes > most {
                let detail = match account {
                    Account::Tenant(_) => "too many large requests of the tenant are under way",
                    Account::Token(..) => "too many large requests with the token are under way",
                };
                return Err(Problem::too_many("too-many-bodies", detail, RETRY_AFTER_BUSY));
            }
        }
        let permit = u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES))
            .ok()
            .and_then(|units| Arc::clone(&self.all).try_acquire_many_owned(units).ok())
            .ok_or_else(|| Problem::unavailable("too many large requests are under way"))?;
        for (account, _) in owner.iter().flat_map(|owner| owner.accounts()) {
            *taken.entry(account).or_default() += bytes;
        }
        Ok(Share { permit, owner, bytes, taken: Arc::clone(&self.taken) })
    }

    #[cfg(test)]
    fn left(&self) -> usize {
        self.all.available_permits() * BUDGET_UNIT_BYTES
    }
}

impl Share {
    /// Takes `more` over, which is of the same owner.
    fn add(&mut self, mut more: Self) {
        if let Some(permit) = more.permit.split(more.permit.num_permits()) {
            self.permit.merge(permit);
        }
        self.bytes += std::mem::take(&mut more.bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        for (account, _) in self.owner.iter().flat_map(|owner| owner.accounts()) {
            if let Some(bytes) = taken.get_mut(&account) {
                *bytes = bytes.saturating_sub(self.bytes);
                if *bytes == 0 {
                    taken.remove(&account);
                }
            }
        }
    }
}

/// A body, and the share of the budget that it holds while it is in use.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    _share: Option<Share>,
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read_body(budget: &Bodies, request: Request, limit: usize) -> Result<Received, Problem> {
    let (parts, body) = request.into_parts();
    if let Some(encoding) = parts.headers.get(CONTENT_ENCODING).filter(|value| value.as_bytes() != b"identity") {
        return Err(Problem::media_type(format!("{encoding:?} is a content encoding; send the body without one")));
    }
    let reading = async {
        let declared = content_length(&parts.headers);
        if declared.is_none_or(|length| length <= limit) {
            let owner = parts.extensions.get::<BodyOwner>().copied();
            return collect(budget, owner, body, declared, limit).await;
        }
        // A client that expects `100 Continue` has not begun to send.
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
    budget: &Bodies,
    owner: Option<BodyOwner>,
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
        // What a client says it will send takes nothing from others until it is here.
        let needed = whole.len() + data.len();
        if needed > whole.capacity() {
            let doubled = (2 * whole.capacity()).max(FIRST_BUFFER_BYTES);
            let capacity = doubled.min(declared.unwrap_or(limit)).max(needed);
            let more = budget.reserve(owner, capacity - whole.capacity())?;
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

/// How long the first `bytes` of a body and the piece after them may take.
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

    async fn status_of(body: BoxBody<Bytes, Infallible>, budget: &Bodies) -> Result<usize, u16> {
        use axum::response::IntoResponse;
        let received = read_body(budget, Request::new(Body::new(body)), 4_096).await;
        received.map(|received| received.bytes.len()).map_err(|problem| problem.into_response().status().as_u16())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_let_go() {
        assert_eq!(status_of(BoxBody::new(Stalled(None)), &Bodies::default()).await.unwrap_err(), 408);
    }

    #[tokio::test]
    async fn bodies_beyond_the_budget_are_asked_to_come_back() {
        let body = || BoxBody::new(Full::new(Bytes::from(vec![0; 3_000])));
        let (roomy, tight) = (Bodies::default(), Bodies::of(BUDGET_UNIT_BYTES));
        assert_eq!(status_of(body(), &roomy).await, Ok(3_000));
        assert_eq!(status_of(body(), &tight).await, Err(503));
        assert_eq!(tight.left(), BUDGET_UNIT_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_stall_after_the_first_byte_leave_room_for_others() {
        const LARGEST: usize = 16 * 1024 * 1024;
        let budget = Arc::new(Bodies::default());
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
            let ended = read_body(&Bodies::default(), request, 256 * 1024).await;
            (format!("{:?}", ended.err()), began.elapsed())
        };
        let (error, took) = read(1).await;
        assert!(error.contains("more slowly than") && took < 2 * BODY_GRACE, "{took:?}: {error}");
        let (error, _) = read(usize::try_from(MIN_BODY_BYTES_PER_S).unwrap()).await;
        assert!(error.contains("did not arrive within 30 s"), "it has the whole time: {error}");
    }

    #[test]
    fn no_token_and_no_tenant_takes_the_room_of_others() {
        const MIB: usize = 1024 * 1024;
        let bodies = Bodies::default();
        let owner = |tenant, token| Some(BodyOwner { tenant: TenantSeq(tenant), token: Some(Uuid::from_u128(token)) });
        let flood = |owner| {
            let mut shares: Vec<Share> = Vec::new();
            while let Ok(share) = bodies.reserve(owner, MIB) {
                shares.push(share);
            }
            shares
        };
        let mut held = flood(owner(1, 1));
        assert_eq!(held.len() * MIB, MAX_TOKEN_BODIES_BYTES);
        held.extend(flood(owner(1, 2)));
        assert!(flood(owner(1, 3)).is_empty(), "a third token makes no more of the tenant");
        assert_eq!(held.len() * MIB, MAX_TENANT_BODIES_BYTES);
        let refused = format!("{:?}", bodies.reserve(owner(1, 3), MIB).err());
        assert!(refused.contains("429") && refused.contains("of the tenant"), "{refused}");
        let mut others = bodies.reserve(owner(2, 4), MIB).unwrap();
        others.add(bodies.reserve(owner(2, 4), MIB).unwrap());
        drop((held, others));
        assert_eq!(bodies.left(), MAX_BODIES_BYTES);
        assert!(bodies.taken.lock().is_empty(), "all is given back");
    }
}
