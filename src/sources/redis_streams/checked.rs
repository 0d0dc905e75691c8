//! The connection that the client gets: what the server sends is looked at on its way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answers::Answers;
use crate::sources::dial::Stream;

/// What is read at once.
const READ_BYTES: usize = 64 * 1024;

pub(super) struct Checked {
    stream: Box<dyn Stream>,
    answers: Answers,
    read: Box<[u8]>,
}

impl Checked {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, answers: Answers::default(), read: vec![0; READ_BYTES].into_boxed_slice() }
    }
}

impl AsyncRead for Checked {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, answers, read } = &mut *self;
        while !answers.has_ready() {
            let mut buffer = ReadBuf::new(read);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            answers.take(buffer.filled()).map_err(io::Error::other)?;
        }
        let most = into.remaining();
        into.put_slice(answers.give(most));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Checked {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
