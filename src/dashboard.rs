//! The start page: what this is, whether it is well, and how to send a first event.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::api::App;

const STYLE: &str = include_str!("dashboard/style.css");
const PAGE: &str = include_str!("dashboard/start.html");

/// The page may not load, run, frame or send anything. Only its own style is allowed.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style_hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// The pages' routes.
pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/", get(start_page))
}

/// Shows only the figures of `/metrics`, which need no token.
async fn start_page(State(app): State<Arc<App>>) -> impl IntoResponse {
    let figures = app.engine().figures();
    let is_well = app.check_store().await.is_ok();
    let (health, health_text) = if is_well { ("well", "Ready") } else { ("ill", "The store cannot commit") };
    let failing = if figures.circuits_open == 0 { "none" } else { "some" };
    let page = [
        ("{version}", env!("CARGO_PKG_VERSION").to_owned()),
        ("{health}", health.to_owned()),
        ("{health_text}", health_text.to_owned()),
        ("{uptime}", uptime(app.uptime().as_secs())),
        ("{accepted}", figures.events_accepted.to_string()),
        ("{delivered}", figures.deliveries_delivered.to_string()),
        ("{waiting}", (figures.queued + figures.in_flight).to_string()),
        ("{dead}", figures.deliveries_dead.to_string()),
        ("{failing}", failing.to_owned()),
        ("{circuits_open}", figures.circuits_open.to_string()),
        ("{host}", host(app.address())),
        ("{style}", STYLE.to_owned()),
    ]
    .into_iter()
    .fold(PAGE.to_owned(), |page, (name, value)| page.replace(name, &value));
    let headers = [(CONTENT_SECURITY_POLICY, POLICY.as_str()), (REFERRER_POLICY, "no-referrer")];
    (headers, Html(page))
}

/// The address at which a client on this machine reaches the server.
fn host(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_span_is_told_in_its_two_largest_units() {
        assert_eq!(uptime(59), "59 s");
        assert_eq!(uptime(3_599), "59 min");
        assert_eq!(uptime(3_660), "1 h 1 min");
        assert_eq!(uptime(90_000), "1 d 1 h");
    }
}
