//! A server with one source of a broker.

use std::path::Path;

use postrider::serve::ServeSettings;
use serde_json::Value;

use super::source;
use crate::support::receiver::TestReceiver;
use crate::support::server::{self, TestServer};

/// A server with this source, and a receiver of all topics below `orders`.
pub(super) async fn serve(text: &str, folder: &Path) -> (TestServer, TestReceiver) {
    let sources = source(&format!("name = 'shop'\n{text}"));
    let server = TestServer::start_with(ServeSettings { sources, ..server::settings(folder) }).await;
    let receiver = TestReceiver::healthy().await;
    server.webhook("w", &receiver.url("/"), "orders.>").await;
    (server, receiver)
}

/// The source, when it is as wanted.
pub(super) async fn become_state(server: &TestServer, state: &str) -> Value {
    server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == state).await[0].clone()
}

/// The reason of a source that fails, when it has these words.
pub(super) async fn fails_with(server: &TestServer, words: &str) {
    let has_words = |source: &Value| source["reason"].as_str().is_some_and(|reason| reason.contains(words));
    server.wait_for("/api/v1/sources", |sources| sources[0]["state"] == "failing" && has_words(&sources[0])).await;
}
