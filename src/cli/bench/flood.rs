//! A flood of requests, in a process of its own, so that what it costs its sender slows down nothing that is measured.
//! It is told on its standard input what to ask, and asks until that ends.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::load::client;
use super::node::TOKEN;
use crate::delivery::client::Client;
use crate::delivery::guard::Destination;

/// The pause of a caller after a refusal or a broken connection.
const PAUSE: Duration = Duration::from_millis(10);
const MAX_ANSWER_BYTES: usize = 16 << 20;
const TIMEOUT: Duration = Duration::from_mins(1);

/// A request for a tenant, with the bench's token.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Call {
    /// `GET` and so on.
    pub method: String,
    pub url: String,
    pub tenant: String,
    /// JSON; empty: none.
    pub body: String,
}

/// Callers that repeat a call without a pause.
#[derive(Deserialize, Serialize)]
struct Order {
    call: Call,
    callers: usize,
}

impl Call {
    pub(super) async fn send(&self, client: &Client) -> anyhow::Result<(StatusCode, Bytes)> {
        Ready::new(self.clone())?.send(client).await
    }
}

/// A call with its parts prepared.
struct Ready {
    method: Method,
    destination: Destination,
    tenant: String,
    body: Bytes,
}

impl Ready {
    fn new(Call { method, url, tenant, body }: Call) -> anyhow::Result<Self> {
        let method = Method::from_bytes(method.as_bytes())?;
        Ok(Self { method, destination: Destination::parse(&url)?, tenant, body: body.into() })
    }

    async fn send(&self, client: &Client) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(self.method.clone())
            .uri(self.destination.as_str())
            .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-postrider-tenant", &self.tenant)
            .body(self.body.clone())?;
        let answer = client
            .request(&self.destination, request, MAX_ANSWER_BYTES, TIMEOUT)
            .await
            .map_err(|end| anyhow::anyhow!("no answer: {end:?}"))?;
        Ok((answer.status(), answer.into_body()))
    }

    /// Repeats the call for ever, with a pause after a refusal.
    async fn repeat(&self, client: &Client) {
        loop {
            if !self.send(client).await.is_ok_and(|(status, _)| status.is_success()) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The process of a flood.
pub(super) async fn run() -> anyhow::Result<()> {
    let mut order = String::new();
    std::io::stdin().read_line(&mut order)?;
    let Order { call, callers } = serde_json::from_str(&order).context("that is no order")?;
    let (call, client) = (Arc::new(Ready::new(call)?), client()?);
    for _ in 0..callers {
        let (call, client) = (Arc::clone(&call), client.clone());
        tokio::spawn(async move { call.repeat(&client).await });
    }
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// The benchmark's handle to the process of a flood. Its drop ends the flood.
pub(super) struct Flooding(Child);

impl Flooding {
    pub(super) fn start(call: &Call, callers: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "--flood"])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start the flood")?;
        let mut order = serde_json::to_vec(&Order { call: call.clone(), callers })?;
        order.push(b'\n');
        child.stdin.as_mut().context("the flood has no standard input")?.write_all(&order)?;
        Ok(Self(child))
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
