//! Users of DECNET as callers. Their tokens are JWTs that DECNET signs; whether a user is an admin DECNET alone knows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::Semaphore;
use url::Url;
use uuid::Uuid;

use super::super::problem::Problem;
use super::TokenHash;
use crate::clock::UnixMicros;
use crate::delivery::client::{Client, ClientError, ClientOptions};
use crate::delivery::guard::{Destination, DestinationError};
use crate::log_rate::LogRate;

/// The shortest secret of DECNET's tokens, in bytes (RFC 7518, 3.2). DECNET has the same bound.
pub const MIN_DECNET_JWT_SECRET_BYTES: usize = 32;
/// The longest token of a user of DECNET, in bytes. DECNET's have about 300.
pub const MAX_DECNET_JWT_BYTES: usize = 4_096;
/// The most questions to DECNET at once. More wait, within [`DECNET_TIMEOUT`].
pub const MAX_DECNET_QUESTIONS: usize = 4;
/// The time for an answer of DECNET.
pub const DECNET_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long an answer of DECNET holds for questions that came before it, and a refusal for all.
const ANSWER_TTL: Duration = Duration::from_secs(2);
/// The most answers that are remembered.
const MAX_DECNET_ANSWERS: usize = 1_024;
/// The most characters of DECNET's words that a caller is told.
const MAX_TOLD_CHARS: usize = 256;
/// The largest answer of DECNET that is read.
const MAX_DECNET_ANSWER_BYTES: usize = 4 << 20;

/// A route of DECNET that is for admins alone.
const ADMIN_ROUTE: &str = "api/v1/webhooks/";
/// Marks a question, so that a server that asks itself finds out.
const QUESTION: &str = "postrider-asks-decnet";

const ISSUER: &str = "decnet";
const AUDIENCE: &str = "decnet-dashboard";
const KIND: &str = "access";

/// Which DECNET it is.
#[derive(Clone, Debug)]
pub struct DecnetSettings {
    /// The base of its API, as `http://127.0.0.1:8000`.
    pub api: Url,
    /// What it signs tokens with: `DECNET_JWT_SECRET`, at least [`MIN_DECNET_JWT_SECRET_BYTES`] long.
    pub secret: SecretString,
}

/// The reason why DECNET cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum DecnetError {
    #[error("decnet_api: {0}")]
    Api(#[from] DestinationError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the secret of DECNET's tokens: {0}")]
    Secret(#[from] jsonwebtoken::errors::Error),
}

/// What a token says of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uuid: Uuid,
    pub(super) expires_at: UnixMicros,
}

#[derive(Deserialize)]
struct Claims {
    uuid: Uuid,
    typ: String,
    /// Seconds since 1970.
    exp: u64,
}

/// Answers whether a token is of an admin of DECNET.
pub(super) struct DecnetUsers {
    key: DecodingKey,
    validation: Validation,
    client: Client,
    admin_route: Destination,
    /// The route's URL.
    url: String,
    places: Semaphore,
    /// The users about whom DECNET is asked now. Each has one question at a time.
    asked: Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>,
    /// Tokens that DECNET has refused, or let in, a moment ago.
    answers: Mutex<HashMap<TokenHash, Answered>>,
    failures: LogRate,
    /// Lines about tokens that are not good.
    refusals: LogRate,
}

/// An answer of DECNET about a token.
struct Answered {
    verdict: Verdict,
    at: Instant,
}

enum Verdict {
    Admin,
    /// With DECNET's words, as the next one.
    Unauthorized(String),
    Forbidden(String),
}

impl Verdict {
    fn problem(&self) -> Result<(), Problem> {
        match self {
            Self::Admin => Ok(()),
            Self::Unauthorized(words) => Err(Problem::unauthorized(words)),
            Self::Forbidden(words) => Err(Problem::forbidden(words.clone())),
        }
    }
}

/// Whether a bearer token is a JWT by its form.
pub(super) fn is_jwt(token: &str) -> bool {
    token.len() <= MAX_DECNET_JWT_BYTES && token.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl DecnetUsers {
    pub(super) fn new(settings: &DecnetSettings) -> Result<Self, DecnetError> {
        let mut base = settings.api.clone();
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let admin_route = base.join(ADMIN_ROUTE).unwrap_or(base);
        let client = Client::new(ClientOptions::for_named_server(&settings.api))?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // The server's own clock says when a token ends.
        validation.validate_exp = false;
        Ok(Self {
            key: DecodingKey::from_secret(settings.secret.expose_secret().as_bytes())?,
            validation,
            client,
            admin_route: Destination::parse(admin_route.as_str())?,
            url: admin_route.into(),
            places: Semaphore::new(MAX_DECNET_QUESTIONS),
            asked: Mutex::default(),
            answers: Mutex::default(),
            failures: LogRate::default(),
            refusals: LogRate::default(),
        })
    }

    /// The user of a token that DECNET has signed and that is good at `now`.
    pub(super) fn user(&self, token: &str, now: UnixMicros) -> Option<User> {
        let user = self.verified(token, now);
        if let Err(reason) = &user
            && let Some(left_out) = self.refusals.admit(Instant::now())
        {
            tracing::info!(reason, left_out, "a JWT is none of DECNET's; is the secret that of DECNET?");
        }
        user.ok()
    }

    fn verified(&self, token: &str, now: UnixMicros) -> Result<User, String> {
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        let claims = decoded.map_err(|error| error.to_string())?.claims;
        let end = i64::try_from(claims.exp).ok().and_then(|seconds| seconds.checked_mul(1_000_000));
        let expires_at = UnixMicros(end.ok_or("its end is beyond all time")?);
        if claims.typ != KIND {
            return Err(format!("it is no token of the kind {KIND}"));
        }
        if expires_at <= now {
            return Err("it has expired".to_owned());
        }
        Ok(User { uuid: claims.uuid, expires_at })
    }

    /// Whether a request is a question of [`Self::check_admin`], which has come back to this server.
    pub(super) fn is_question(headers: &http::HeaderMap) -> bool {
        headers.contains_key(QUESTION)
    }

    /// Asks DECNET whether the user of a token is an admin. The error is what the caller gets. An answer counts for a
    /// moment, and a user has one question at a time, so that nobody keeps the places from others.
    pub(super) async fn check_admin(&self, token: &str, hash: TokenHash, user: Uuid) -> Result<(), Problem> {
        if let Some(answer) = self.known(hash) {
            return answer;
        }
        let turn = Arc::clone(self.asked.lock().entry(user).or_default());
        let asking = async {
            let _turn = turn.lock().await;
            match self.known(hash) {
                Some(answer) => answer,
                None => self.decided(token, hash).await,
            }
        };
        let answer = tokio::time::timeout(DECNET_TIMEOUT, asking).await;
        drop(turn);
        // Nobody else waits for the turn.
        self.asked.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
        answer.unwrap_or_else(|_| Err(self.silent("no answer in time")))
    }

    /// What DECNET has said of the token a moment ago.
    fn known(&self, hash: TokenHash) -> Option<Result<(), Problem>> {
        let answers = self.answers.lock();
        let answered = answers.get(&hash).filter(|answered| answered.at.elapsed() < ANSWER_TTL)?;
        Some(answered.verdict.problem())
    }

    async fn decided(&self, token: &str, hash: TokenHash) -> Result<(), Problem> {
        let (status, body) = self.ask(token).await.map_err(|reason| self.silent(&reason))?;
        let told = || {
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let words = body["detail"].as_str().map(|words| words.chars().take(MAX_TOLD_CHARS).collect());
            words.unwrap_or_else(|| status.to_string())
        };
        let verdict = match status {
            // The list of webhooks. Another server may answer 200 to anybody.
            StatusCode::OK if serde_json::from_slice::<Vec<IgnoredAny>>(&body).is_ok() => Verdict::Admin,
            StatusCode::OK => {
                return Err(self.silent("the answer is no list of webhooks: is `decnet_api` DECNET's API?"));
            }
            StatusCode::UNAUTHORIZED => Verdict::Unauthorized(told()),
            StatusCode::FORBIDDEN => Verdict::Forbidden(told()),
            _ => return Err(self.silent(&told())),
        };
        let answer = verdict.problem();
        let mut answers = self.answers.lock();
        if answers.len() >= MAX_DECNET_ANSWERS {
            answers.clear();
        }
        answers.insert(hash, Answered { verdict, at: Instant::now() });
        answer
    }

    async fn ask(&self, token: &str) -> Result<(StatusCode, bytes::Bytes), String> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let request = Request::builder()
            .uri(&self.url)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(QUESTION, "1")
            .body(bytes::Bytes::new())
            .map_err(|error| error.to_string())?;
        let answer = self.client.request(&self.admin_route, request, MAX_DECNET_ANSWER_BYTES, DECNET_TIMEOUT).await;
        let (head, body) = answer.map_err(|end| end.error_text().unwrap_or_default())?.into_parts();
        Ok((head.status, body))
    }

    fn silent(&self, reason: &str) -> Problem {
        if let Some(left_out) = self.failures.admit(Instant::now()) {
            tracing::warn!(reason, left_out, "DECNET does not say whether a user is an admin");
        }
        Problem::unavailable("DECNET does not say whether the user is an admin; the server's log says why")
    }
}
