//! The measure of comparison: a loop that signs one body and posts it again and again with hyper, on
//! connections of its own, and does nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::load;
use super::process;
use crate::signing::{Secret, decnet_signature};

/// The rate and the cost of a bare loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bare {
    pub posts_per_s: f64,
    /// CPU of this process for one POST, in microseconds.
    pub cpu_us: f64,
}

/// A connection of hyper that is driven by its user, as it costs least.
struct Posting {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
}

impl Posting {
    async fn connect(host: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver })
    }

    /// Until the answer has been read.
    async fn post(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<()> {
        let sender = &mut self.sender;
        let answered = async { sender.send_request(request).await?.into_body().collect().await };
        tokio::select! {
            biased;
            answer = answered => answer.map(drop)?,
            ended = &mut self.driver => anyhow::bail!("the connection ended: {ended:?}"),
        }
        Ok(())
    }
}

/// Posts for `duration` on `connections` connections to `destinations` in turn.
pub(super) async fn run(destinations: &[String], connections: usize, duration: Duration) -> anyhow::Result<Bare> {
    let posts = Arc::new(AtomicU64::new(0));
    let body = Bytes::from(load::event("bench.node-0.auth", 0, 0));
    let mut opened = Vec::with_capacity(connections);
    for index in 0..connections {
        let url = url::Url::parse(&destinations[index % destinations.len()])?;
        let host = url[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        opened.push((HeaderValue::from_str(&host)?, Posting::connect(&host).await?));
    }
    let cpu_before = process::cpu(std::process::id())?;
    let began_at = Instant::now();
    let until = began_at + duration;
    let loops: Vec<_> = opened
        .into_iter()
        .map(|(host, mut connection)| {
            let (posts, body) = (Arc::clone(&posts), body.clone());
            tokio::spawn(async move {
                let secret = Secret::generate();
                while Instant::now() < until {
                    let request = Request::builder()
                        .method(Method::POST)
                        .uri("/0")
                        .header(header::HOST, host.clone())
                        .header(header::CONTENT_TYPE, "application/json")
                        .header("x-decnet-signature", decnet_signature(&secret, &body))
                        .body(Full::new(body.clone()))?;
                    connection.post(request).await?;
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
