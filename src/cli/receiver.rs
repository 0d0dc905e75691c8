//! A receiver of webhooks for development: any method, any path, HTTP/1.1.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The largest body taken: the largest event and room for what its canonical form may add.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// The longest wait for answers under way when the receiver stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The most received requests that wait to be shown; beyond it the receiver answers later. With bodies of
/// [`MAX_BODY_BYTES`] these take 64 MiB.
pub(super) const MAX_WAITING_REQUESTS: usize = 16;

/// One request, read whole.
pub(super) struct Received {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The receiver's answer, and its delay.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub delay: Duration,
}

impl From<StatusCode> for Answer {
    fn from(status: StatusCode) -> Self {
        Self { status, delay: Duration::ZERO }
    }
}

/// A receiver that listens until it is stopped.
pub(super) struct Receiver {
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Listens on `listen`; port 0 takes a free one. `answer` is called for every request and must not block.
    pub(super) async fn start<F, A>(listen: SocketAddr, answer: F) -> io::Result<Self>
    where
        F: Fn(Received) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, Arc::new(answer), stopped));
        Ok(Self { address, stop, task })
    }

    /// Stops listening and finishes the answers under way.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        // After the timeout the task is aborted, together with its connections.
        let abort = self.task.abort_handle();
        if tokio::time::timeout(STOP_TIMEOUT, self.task).await.is_err() {
            abort.abort();
        }
    }
}

async fn accept<F, A>(listener: TcpListener, answer: Arc<F>, stopped: watch::Receiver<bool>)
where
    F: Fn(Received) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let mut told = stopped.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&answer), stopped.clone()));
                }
                // Out of file descriptors, most likely: some become free when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
            () = told_to_stop(&mut told) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the receiver was dropped, which ends it as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn serve_connection<F, A>(stream: TcpStream, answer: Arc<F>, mut stopped: watch::Receiver<bool>)
where
    F: Fn(Received) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    // Without it, small answers wait for the peer's delayed ACK.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(request, Arc::clone(&answer)));
    let mut connection = std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A connection that the sender breaks off is no error here.
        _ = connection.as_mut() => return,
        () = told_to_stop(&mut stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn respond<F, A>(request: Request<Incoming>, answer: Arc<F>) -> Result<Response<Empty<Bytes>>, Infallible>
where
    F: Fn(Received) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let (head, body) = request.into_parts();
    let answer = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => {
            answer(Received { method: head.method, uri: head.uri, headers: head.headers, body: body.to_bytes() }).await
        }
        Err(error) if error.is::<LengthLimitError>() => StatusCode::PAYLOAD_TOO_LARGE.into(),
        Err(_) => StatusCode::BAD_REQUEST.into(),
    };
    if !answer.delay.is_zero() {
        tokio::time::sleep(answer.delay).await;
    }
    let mut response = Response::new(Empty::new());
    *response.status_mut() = answer.status;
    Ok(response)
}
