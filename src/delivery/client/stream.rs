//! What a connection runs on: a socket, TLS over one, or TLS through TLS to a proxy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A stream to a receiver.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// To a receiver, within the TLS of a proxy.
    Nested(Box<TlsStream<Stream>>),
}

impl Stream {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Nested(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }

    /// Several pieces in one system call, or in one record of TLS.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Nested(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // Nothing is held back there.
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Nested(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// TLS over it, with the server `name`.
    pub(super) async fn secured(self, connector: &TlsConnector, name: ServerName<'static>) -> io::Result<Self> {
        match self {
            Self::Plain(stream) => connector.connect(name, stream).await.map(|stream| Self::Tls(Box::new(stream))),
            // Boxed: the futures of those that have no such proxy need not be as large.
            within => {
                let handshake = Box::pin(connector.connect(name, within));
                handshake.await.map(|stream| Self::Nested(Box::new(stream)))
            }
        }
    }
}

/// For the TLS and for the proxy's protocol on top of it.
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Self::poll_read(self.get_mut(), cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self.get_mut(), cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(self.get_mut(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Nested(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
