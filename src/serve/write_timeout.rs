//! A stream that gives up a peer that does not read: without it an answer waits for ever, with its connection
//! and its memory.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Fails a write that has waited for `limit` without progress.
pub(super) struct WriteTimeout<S> {
    stream: S,
    limit: Duration,
    /// Runs only while a write waits, so that a peer that reads costs no timer.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, waiting: None }
    }

    fn watch(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        waiting
            .as_mut()
            .poll(context)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    const LIMIT: Duration = Duration::from_secs(30);
    const ANSWER_BYTES: usize = 300_000;
    const DAY: Duration = Duration::from_hours(24);

    /// A server whose answers are large, and the client's end of a connection to it that carries little at once.
    fn serve_one() -> (DuplexStream, JoinHandle<hyper::Result<()>>) {
        let (client, server) = tokio::io::duplex(1_000);
        let answer = service_fn(async |_: Request<hyper::body::Incoming>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; ANSWER_BYTES]))))
        });
        let stream = TokioIo::new(WriteTimeout::new(server, LIMIT));
        (client, tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, answer)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_and_does_not_read_is_let_go() {
        let (mut client, served) = serve_one();
        client.write_all(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20)).await.unwrap();
        let began = Instant::now();
        timeout(DAY, served).await.expect("the connection ends").unwrap().unwrap_err();
        assert!((LIMIT..2 * LIMIT).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_gets_its_answer() {
        let (mut client, served) = serve_one();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let mut piece = vec![0; 20_000];
        let began = Instant::now();
        loop {
            tokio::time::sleep(LIMIT * 9 / 10).await;
            let length = client.read(&mut piece).await.unwrap();
            if length == 0 {
                break;
            }
            answer.extend_from_slice(&piece[..length]);
        }
        assert!(began.elapsed() > 10 * LIMIT, "it takes long in all");
        assert!(answer.ends_with(&vec![b'x'; ANSWER_BYTES]), "it is whole: {} bytes", answer.len());
        served.await.unwrap().unwrap();
    }
}
