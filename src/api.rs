//! The REST API: one file a resource, errors as problem details, described by an OpenAPI document.

mod answers;
mod attempts;
mod audit;
pub mod auth;
mod body;
mod budget;
mod change;
mod clock;
mod cloudevents;
pub mod cors;
mod deliveries;
mod events;
mod figures;
mod filters;
mod health;
mod imports;
mod incoming;
mod inlets;
mod input;
mod keys;
mod metrics;
mod nodes;
mod openapi;
pub mod problem;
mod refusals;
mod replays;
mod shapes;
mod sources;
mod stats;
mod stored_events;
mod tenants;
mod tokens;
mod views;
mod waiting;
mod webhook_list;
mod webhook_tests;
mod webhooks;

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{post, put};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::normalize_path::NormalizePath;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::answers::Answers;
use self::auth::{Auth, Peer};
use self::body::MAX_BODIES_BYTES;
use self::budget::{Budget, OwnerOf};
use self::cors::Cors;
use self::health::Readiness;
pub use self::health::{is_about_health, no_connection_left};
use self::incoming::InletCounts;
pub use self::metrics::ConnectionCounts;
use self::metrics::Requests;
pub use self::openapi::openapi;
use self::problem::Problem;
use self::refusals::Refusals;
use crate::engine::Engine;
use crate::fair::Turns;
use crate::sources::Sources;
use crate::webhook::TenantSeq;

/// The most large bodies of events that are parsed at the same time.
const MAX_PARSINGS: usize = 1;

/// The context of all handlers.
pub struct App {
    engine: Arc<Engine>,
    sources: Arc<Sources>,
    auth: Auth,
    requests: Requests,
    inlets: InletCounts,
    connections: Arc<ConnectionCounts>,
    /// The memory of all request bodies.
    bodies: Budget,
    /// Turns of tenants for the parsing of large bodies on blocking threads.
    parsing: Turns<TenantSeq>,
    /// The memory of all answers until they are sent.
    answers: Answers,
    readiness: Readiness,
    /// Set when a shutdown begins, for [`health`].
    draining: AtomicBool,
    refusals: Refusals,
    cors: Cors,
    started: Instant,
    /// The address on which the server listens.
    address: SocketAddr,
}

impl App {
    #[must_use]
    pub fn new(engine: Arc<Engine>, sources: Arc<Sources>, auth: Auth, cors: Cors, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            engine,
            sources,
            auth,
            requests: Requests::default(),
            inlets: InletCounts::default(),
            connections: Arc::default(),
            bodies: Budget::new(MAX_BODIES_BYTES),
            parsing: Turns::new(MAX_PARSINGS),
            answers: Answers::default(),
            readiness: Readiness::default(),
            draining: AtomicBool::new(false),
            refusals: Refusals::default(),
            cors,
            started: Instant::now(),
            address,
        })
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes `/readyz` fail, so that load balancers send no more requests.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The counters of connections, for the server that gives them places.
    pub fn connection_counts(&self) -> Arc<ConnectionCounts> {
        Arc::clone(&self.connections)
    }

    /// Notes a connection that broke. A connection without valid HTTP was answered with 400.
    pub fn note_broken(&self, error: &hyper::Error, Peer(peer): Peer) {
        if error.is_parse() {
            self.refusals.note_malformed(Some(peer));
        }
        tracing::debug!(%error, "a connection broke");
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The API's routes with their descriptions.
fn documented_routes() -> OpenApiRouter<Arc<App>> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(stored_events::list, events::publish))
        .routes(routes!(events::publish_batch))
        .routes(routes!(stored_events::show))
        .routes(routes!(stored_events::erase))
        .routes(routes!(replays::resend))
        .routes(routes!(webhook_list::list, webhooks::create))
        .routes(routes!(imports::import))
        .routes(routes!(webhooks::show, webhooks::update, webhooks::delete))
        .routes(routes!(webhook_tests::test))
        .routes(routes!(webhooks::resume))
        .routes(routes!(keys::rotate))
        .routes(routes!(replays::start))
        .routes(routes!(deliveries::list))
        .routes(routes!(replays::retry_all))
        .routes(routes!(replays::discard_all))
        .routes(routes!(deliveries::show))
        .routes(routes!(attempts::show_attempt))
        .routes(routes!(deliveries::retry))
        .routes(routes!(deliveries::discard))
        .routes(routes!(shapes::list))
        .routes(routes!(shapes::preview))
        .routes(routes!(filters::preview))
        .routes(routes!(replays::list))
        .routes(routes!(replays::show))
        .routes(routes!(replays::cancel))
        .routes(routes!(stats::show))
        .routes(routes!(figures::show))
        .routes(routes!(figures::webhooks))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(inlets::list, inlets::create))
        .routes(routes!(inlets::show, inlets::update, inlets::delete))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::show, tenants::update, tenants::delete))
        .routes(routes!(clock::confirm))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::drain))
        .routes(routes!(nodes::resume))
        .routes(routes!(sources::list))
        .routes(routes!(sources::rejected))
        .routes(routes!(sources::show_rejected, sources::discard))
        .routes(routes!(sources::retry))
        .routes(routes!(audit::list))
        .routes(routes!(openapi::document));
    OpenApiRouter::new()
        .nest("/api/v1", v1)
        .routes(routes!(incoming::receive))
        .route("/in/{inlet}", put(incoming::receive).options(incoming::ask))
        .route("/in/{inlet}/{*path}", post(incoming::receive).put(incoming::receive).options(incoming::ask))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::exposition))
}

/// Answers every request: the API's routes, `pages`, and a problem for everything else.
pub fn service(app: &Arc<App>, pages: Router<Arc<App>>) -> NormalizePath<Router> {
    let (routes, _) = documented_routes().split_for_parts();
    let routes = guarded(routes.merge(pages)).layer(middleware::from_fn_with_state(Arc::clone(app), observe));
    NormalizePath::trim_trailing_slash(routes.with_state(Arc::clone(app)))
}

/// Answers requests without a route, and requests whose handler panics.
fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .fallback(|| async { Problem::not_found("route") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "the route has no such method")
        })
        .layer(CatchPanicLayer::custom(|panic: Box<dyn Any + Send>| panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Problem::internal(format!("a handler panicked: {}", text.unwrap_or("no message"))).into_response()
}

/// Counts a request, answers preflights, and adds the headers about sniffing, caching and other origins to the answer.
async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let started = Instant::now();
    let consent = app.cors.consent(&request);
    let mut response = if let Some(refusal) = refusals::of_head(&request) {
        app.refusals.note_malformed(peer);
        refusal
    } else if let Some(leave) = consent.to_preflight(&request) {
        leave
    } else {
        let owner = OwnerOf::default();
        request.extensions_mut().insert(owner.clone());
        let answer = next.run(request).await;
        app.answers.admit(owner.get(), answer)
    };
    let path = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    app.refusals.note(response.status(), &method, path, peer);
    app.requests.count(&method, route.as_ref(), response.status());
    tracing::debug!(
        %method,
        route = path,
        status = response.status().as_u16(),
        elapsed_us = started.elapsed().as_micros(),
        "answered"
    );
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    consent.tell(headers);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http_body_util::BodyExt;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    #[tokio::test]
    async fn a_panic_becomes_500_without_details() {
        async fn handler() -> &'static str {
            panic!("the secret is hunter2")
        }
        let routes: Router = guarded(Router::new().route("/", axum::routing::get(handler)));
        let response = TowerToHyperService::new(routes).call(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["content-type"], problem::CONTENT_TYPE_PROBLEM);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&body).contains("hunter2"));
    }
}
