//! `/healthz` and `/readyz`: is the process alive, may it be given work.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::App;
use super::input::Params;
use super::problem::Problem;
use crate::sources::Status;
use crate::store::StoreError;

/// A store that does not answer within this time is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// The time for which the result of a check is cached, since a check costs a rolled-back event and a real commit with
/// its fsync, and needs no token.
const CHECK_TTL: Duration = Duration::from_secs(1);

/// The paths that are answered on a connection without a place.
const HEALTH_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Whether a request is for one of these paths.
pub fn is_about_health<B>(request: &http::Request<B>) -> bool {
    HEALTH_PATHS.contains(&request.uri().path().trim_end_matches('/'))
}

/// The answer to any other request on a connection without a place.
pub fn no_connection_left() -> Response {
    Problem::unavailable("too many connections are open").into_response()
}

/// The cached result of a check whether the store can accept and commit.
#[derive(Default)]
pub(super) struct Readiness(Arc<Mutex<Option<Checked>>>);

struct Checked {
    at: Instant,
    result: Result<(), StoreError>,
}

impl Readiness {
    /// The result of `check`, cached. Only one check runs at a time; concurrent requests wait for its result.
    async fn probe(
        &self,
        check: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    ) -> Result<(), StoreError> {
        let mut last = Arc::clone(&self.0).lock_owned().await;
        if let Some(checked) = last.as_ref().filter(|checked| checked.at.elapsed() < CHECK_TTL) {
            return checked.result.clone();
        }
        // In a task of its own, so that clients that hang up do not each start a check.
        let checking = tokio::spawn(async move {
            let result = timeout(CHECK_TIMEOUT, check)
                .await
                .unwrap_or_else(|_| Err(StoreError::Unavailable("it does not answer".to_owned())));
            *last = Some(Checked { at: Instant::now(), result: result.clone() });
            result
        });
        checking.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the check failed".to_owned())))
    }
}

impl App {
    /// Fails while the store cannot accept or commit, or takes longer than 2 s. Cheap to call often.
    pub async fn check_store(&self) -> Result<(), StoreError> {
        let engine = Arc::clone(&self.engine);
        self.readiness.probe(async move { engine.store().check().await }).await
    }
}

/// All is well.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Is the process alive
#[utoipa::path(get, path = "/healthz", tag = "operation", security(()), responses((status = 200, body = Health)))]
pub(super) async fn alive() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// May it be given work
///
/// It may if its store can accept and commit, and it is not shutting down. With `?sources` all sources of this node must
/// be well, too.
#[utoipa::path(get, path = "/readyz", tag = "operation", security(()),
    params(("sources" = Option<bool>, Query, description = "Look at the sources, too.")), responses(
    (status = 200, body = Health),
    (status = 503, description = "It is shutting down, its store cannot accept or commit, or a source is in trouble."),
    (status = 507, description = "The store is full."),
))]
pub(super) async fn ready(State(app): State<Arc<App>>, mut params: Params) -> Result<Json<Health>, Problem> {
    let with_sources = params.flag("sources");
    if app.draining.load(Ordering::Relaxed) {
        return Err(Problem::unavailable("the server is shutting down"));
    }
    app.check_store().await?;
    let names = |status: &Status| status.state().0.trouble().is_some().then(|| status.name().to_owned());
    let troubled: Vec<String> = app.sources.statuses().filter(|_| with_sources).filter_map(names).collect();
    if troubled.is_empty() {
        Ok(Json(Health { status: "ok" }))
    } else {
        // The reasons may name hosts; `GET /sources` has them, for operators.
        Err(Problem::unavailable(&format!("in trouble: source {}", troubled.join(", source "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_cost_one_check_a_second() {
        let readiness = Arc::new(Readiness::default());
        let checks = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let (readiness, checks) = (Arc::clone(&readiness), Arc::clone(&checks));
            tokio::spawn(async move {
                let check = async move {
                    checks.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Err(StoreError::Full("no space left".to_owned()))
                };
                readiness.probe(check).await
            })
        };
        // The first hangs up before it is answered.
        let first = ask();
        tokio::time::sleep(Duration::from_millis(10)).await;
        first.abort();
        for asked in (0..20).map(|_| ask()).collect::<Vec<_>>() {
            assert!(matches!(asked.await.unwrap(), Err(StoreError::Full(_))));
        }
        assert_eq!(checks.load(Ordering::Relaxed), 1);
        tokio::time::sleep(CHECK_TTL).await;
        ask().await.unwrap().unwrap_err();
        assert_eq!(checks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_not_ready() {
        let readiness = Readiness::default();
        let asked = timeout(2 * CHECK_TIMEOUT, readiness.probe(std::future::pending())).await;
        assert!(matches!(asked, Ok(Err(StoreError::Unavailable(_)))));
    }
}
