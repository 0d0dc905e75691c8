//! The measure of comparison: a loop that signs one body and posts it again and again, on
//! connections of its own, and does nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use tokio::time::Instant;

use super::load;
use super::process;
use crate::delivery::guard::Destination;
use crate::signing::{Secret, decnet_signature};

/// The rate and the cost of a bare loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bare {
    pub posts_per_s: f64,
    /// CPU of this process for one POST, in microseconds.
    pub cpu_us: f64,
}

/// Posts for `duration` on `connections` connections to `destinations` in turn.
pub(super) async fn run(destinations: &[String], connections: usize, duration: Duration) -> anyhow::Result<Bare> {
    let client = load::client()?;
    let posts = Arc::new(AtomicU64::new(0));
    let body = Bytes::from(load::event("bench.node-0.auth", 0, 0));
    let mut opened = Vec::with_capacity(connections);
    for index in 0..connections {
        let destination = Destination::parse(&destinations[index % destinations.len()])?;
        let connection = client.connect(&destination).await.map_err(|end| anyhow!("cannot connect: {end:?}"))?;
        opened.push((destination, connection));
    }
    let cpu_before = process::cpu(std::process::id())?;
    let began_at = Instant::now();
    let until = began_at + duration;
    let loops: Vec<_> = opened
        .into_iter()
        .map(|(destination, mut connection)| {
            let (posts, body) = (Arc::clone(&posts), body.clone());
            tokio::spawn(async move {
                let secret = Secret::generate();
                let host = HeaderValue::from_str(
                    &url::Url::parse(destination.as_str())?[url::Position::BeforeHost..url::Position::AfterPort],
                )?;
                let mut answer = BytesMut::new();
                while Instant::now() < until {
                    let request = Request::builder()
                        .method(Method::POST)
                        .uri("/0")
                        .header(header::HOST, host.clone())
                        .header(header::CONTENT_TYPE, "application/json")
                        .header("x-decnet-signature", decnet_signature(&secret, &body))
                        .body(Full::new(body.clone()))?;
                    let response = connection.send(request).await.map_err(|end| anyhow!("{end:?}"))?;
                    connection.read_body(response.into_body(), &mut answer, 1_024).await;
                    posts.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for each in loops {
        each.await??;
    }
    let posts = posts.load(Ordering::Relaxed) as f64;
    let cpu = process::cpu(std::process::id())?.saturating_sub(cpu_before);
    Ok(Bare { posts_per_s: posts / began_at.elapsed().as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / posts })
}
