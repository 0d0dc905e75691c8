//! Tokens that are fetched when one is needed, one fetch at a time, and kept in memory until shortly before they expire.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::login::Login;
use super::oauth2::ClientCredentials;
use crate::clock::{Clock, UnixMicros};
use crate::delivery::End;
use crate::delivery::client::{Client, OutgoingRequest, Target};
use crate::delivery::guard::Destination;
use crate::delivery::retry::{RetryAfter, parse_retry_after};

/// The largest answer of a token endpoint, in bytes.
pub const MAX_TOKEN_ANSWER_BYTES: usize = 64 * 1024;
/// The time before its end at which a token is no longer used, so that it does not expire on its way. At most a quarter
/// of its lifetime.
pub const EXPIRY_MARGIN: Duration = Duration::from_secs(30);
/// The timeout of a fetch. An attempt that waits for it ends by its own timeout, which is no longer.
const FETCH_TIMEOUT: Duration = Duration::from_mins(1);

/// The pause after a fetch that failed, which doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// What the pause doubles up to.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause that a token endpoint may ask for with `Retry-After`.
const MAX_ASKED_PAUSE: Duration = Duration::from_hours(1);
/// The statuses with which `Retry-After` counts.
const ASKS_FOR_TIME: [u16; 2] = [429, 503];

/// The credential of one attempt.
pub(in crate::delivery) struct Authorization {
    pub(in crate::delivery) value: HeaderValue,
    /// Whether it was fetched before this attempt, so that a new token may be accepted where this one is refused.
    pub(in crate::delivery) is_cached: bool,
}

/// A token endpoint, and the present token.
pub(super) struct TokenSource {
    endpoint: Destination,
    request: TokenRequest,
    /// Locked while a token is fetched, so that concurrent attempts wait for the same token.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    failed: Option<Failed>,
}

/// The last fetch failed. Until the next, all attempts get its error: whoever cannot log in must not try for each delivery.
struct Failed {
    end: End,
    again_at: Instant,
    /// What the next failure adds.
    pause: Duration,
}

struct Token {
    value: HeaderValue,
    fetched_at: Instant,
    /// The token is used between this time and `usable_until`, by the clock.
    usable_from: UnixMicros,
    usable_until: UnixMicros,
}

/// How a token is asked for.
pub(super) enum TokenRequest {
    OAuth2(ClientCredentials),
    Login(Login),
}

impl TokenRequest {
    fn build(&self, target: Target<'_>, now: UnixMicros) -> Result<OutgoingRequest, End> {
        match self {
            Self::OAuth2(credentials) => credentials.build(target, now),
            Self::Login(login) => login.build(target),
        }
    }

    /// The value of the header that carries the token, and the token's lifetime.
    fn read(&self, answer: &Response<Bytes>) -> Result<(HeaderValue, Duration), String> {
        match self {
            Self::OAuth2(_) => ClientCredentials::read(answer),
            Self::Login(login) => login.read(answer),
        }
    }
}

impl TokenSource {
    pub(super) fn new(endpoint: Destination, request: TokenRequest) -> Self {
        Self { endpoint, request, state: Mutex::default() }
    }

    /// The header that carries the token; `None`: `Authorization`.
    pub(super) fn header(&self) -> Option<&str> {
        match &self.request {
            TokenRequest::OAuth2(_) => None,
            TokenRequest::Login(login) => login.header(),
        }
    }

    pub(super) fn endpoint(&self) -> &Destination {
        &self.endpoint
    }

    /// The present token, or a new one. `target` is the endpoint with its route.
    pub(super) async fn get(
        &self,
        client: &Client,
        target: Target<'_>,
        clock: &dyn Clock,
    ) -> Result<Authorization, End> {
        let asked_at = Instant::now();
        let mut state = self.state.lock().await;
        let now = clock.now();
        let usable = |token: &&Token| (token.usable_from..token.usable_until).contains(&now);
        if let Some(token) = state.token.as_ref().filter(usable) {
            return Ok(Authorization { value: token.value.clone(), is_cached: token.fetched_at < asked_at });
        }
        if let Some(Failed { end, .. }) = state.failed.as_ref().filter(|failed| asked_at < failed.again_at) {
            return Err(end.clone());
        }
        match self.fetch(client, target, now).await {
            Ok((value, lifetime)) => {
                let usable_until = now.after(lifetime.saturating_sub(EXPIRY_MARGIN.min(lifetime / 4)));
                let token = Token { value: value.clone(), fetched_at: Instant::now(), usable_from: now, usable_until };
                *state = State { token: Some(token), failed: None };
                Ok(Authorization { value, is_cached: false })
            }
            Err((end, asked)) => {
                let pause = state.failed.as_ref().map_or(FIRST_PAUSE, |failed| failed.pause);
                let again_at = Instant::now() + asked.unwrap_or_default().min(MAX_ASKED_PAUSE).max(pause);
                let failed = Failed { end: end.clone(), again_at, pause: (2 * pause).min(MAX_PAUSE) };
                *state = State { token: None, failed: Some(failed) };
                Err(end)
            }
        }
    }

    /// Drops the present token if it is the refused one.
    pub(super) async fn forget(&self, refused: &Authorization) {
        let mut state = self.state.lock().await;
        if state.token.as_ref().is_some_and(|token| token.value == refused.value) {
            state.token = None;
        }
    }

    async fn fetch(
        &self,
        client: &Client,
        target: Target<'_>,
        now: UnixMicros,
    ) -> Result<(HeaderValue, Duration), (End, Option<Duration>)> {
        let build = || self.request.build(target, now);
        let fetched = client.request_by(target, build, MAX_TOKEN_ANSWER_BYTES, FETCH_TIMEOUT).await;
        let answer = fetched.map_err(|end| (without_token(end), None))?;
        self.request.read(&answer).map_err(|reason| {
            let asked = answer.headers().get("retry-after").and_then(|value| parse_retry_after(value.as_bytes()));
            let asked = asked.filter(|_| ASKS_FOR_TIME.contains(&answer.status().as_u16()));
            let pause = asked.map(|asked| match asked {
                RetryAfter::Delay(delay) => delay,
                RetryAfter::At(at) => at.since(now),
            });
            (End::Auth(format!("no token: {reason}")), pause)
        })
    }
}

/// The end of an attempt that got no token. A refusal of the guard and a lack of local resources are kept, since they
/// are not the receiver's fault.
fn without_token(end: End) -> End {
    match end {
        End::Blocked(reason) => End::Blocked(format!("token_url: {reason}")),
        End::Local(_) | End::Proxy(_) => end,
        end => End::Auth(format!("no token: {}", end.error_text().unwrap_or_default())),
    }
}
