//! A receiver that a test can look into: it keeps what arrives and answers as told.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// One request, whole.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// When it was whole.
    pub(crate) at: Instant,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are ASCII"))
    }

    pub(crate) fn event_id(&self) -> String {
        self.header("x-decnet-event-id").to_owned()
    }
}

/// What to answer, and after how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer(pub(crate) u16, pub(crate) Duration);

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Self(status, Duration::ZERO)
    }
}

/// Listens on a free port of the loopback until it is dropped.
pub(crate) struct TestReceiver {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    /// Requests being answered now, and the most that there ever were.
    at_once: Arc<(AtomicUsize, AtomicUsize)>,
    count: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl TestReceiver {
    /// `answer` sees each request and its number, from 0.
    pub(crate) async fn start(answer: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_saying(move |n, request| (answer(n, request), None)).await
    }

    /// As [`Self::start`], with a header of the answer.
    pub(crate) async fn start_saying(
        answer: impl Fn(usize, &Received) -> (Answer, Option<(&'static str, &'static str)>) + Send + Sync + 'static,
    ) -> Self {
        let with_body = move |n, request: &Received| {
            let (answer, header) = answer(n, request);
            (answer, header, Bytes::new())
        };
        Self::start_answering(with_body).await
    }

    /// As [`Self::start_saying`], with the answer's body, too.
    pub(crate) async fn start_answering<B: Into<Bytes>>(
        answer: impl Fn(usize, &Received) -> (Answer, Option<(&'static str, &'static str)>, B) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let (counted, count) = watch::channel(0);
        let at_once = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let (log, busy) = (Arc::clone(&received), Arc::clone(&at_once));
        let answer = Arc::new(answer);
        let counted = Arc::new(counted);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (log, busy, answer, counted) =
                    (Arc::clone(&log), Arc::clone(&busy), Arc::clone(&answer), Arc::clone(&counted));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (log, busy, answer, counted) =
                        (Arc::clone(&log), Arc::clone(&busy), Arc::clone(&answer), Arc::clone(&counted));
                    async move {
                        let (head, body) = request.into_parts();
                        let Ok(body) = body.collect().await else { return Ok(Response::default()) };
                        let path = head.uri.path().to_owned();
                        let request = Received {
                            method: head.method.to_string(),
                            path,
                            headers: head.headers,
                            body: body.to_bytes(),
                            at: Instant::now(),
                        };
                        let (Answer(status, delay), extra, said) = {
                            let mut log = log.lock().expect("no test panics while it holds the log");
                            let (status, extra, said) = answer(log.len(), &request);
                            log.push(request);
                            counted.send_replace(log.len());
                            (status, extra, said.into())
                        };
                        busy.1.fetch_max(busy.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::time::sleep(delay).await;
                        busy.0.fetch_sub(1, Ordering::SeqCst);
                        let mut response = Response::new(Full::new(said));
                        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                        if let Some((name, value)) = extra {
                            response.headers_mut().insert(name, http::HeaderValue::from_static(value));
                        }
                        Ok::<_, Infallible>(response)
                    }
                });
                connections
                    .spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, received, at_once, count, task }
    }

    pub(crate) async fn healthy() -> Self {
        Self::start(|_, _| 200.into()).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no test panics while it holds the log").clone()
    }

    /// The most requests that were being answered at once.
    pub(crate) fn peak(&self) -> usize {
        self.at_once.1.load(Ordering::SeqCst)
    }

    pub(crate) fn received_count(&self) -> usize {
        *self.count.borrow()
    }

    /// The ids of the events, in order of arrival.
    pub(crate) fn event_ids(&self) -> Vec<String> {
        self.received.lock().expect("no test panics while it holds the log").iter().map(Received::event_id).collect()
    }

    /// How often each event has arrived.
    pub(crate) fn arrivals(&self) -> HashMap<String, usize> {
        let mut arrivals = HashMap::new();
        for id in self.event_ids() {
            *arrivals.entry(id).or_default() += 1;
        }
        arrivals
    }

    /// Waits until at least `count` requests have arrived, for half a minute at most.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Received> {
        let mut watched = self.count.clone();
        let arrived = tokio::time::timeout(Duration::from_secs(30), watched.wait_for(|seen| *seen >= count)).await;
        // What it found keeps the count locked. A request that arrives now holds the log and waits for the count, and
        // this would wait for the log.
        let arrived = arrived.map(drop);
        let received = self.received();
        assert!(arrived.is_ok(), "{} of {count} requests arrived", received.len());
        received
    }
}

impl Drop for TestReceiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}
