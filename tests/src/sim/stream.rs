//! A simulated connection as tokio's traits have it: for rustls, and for peers by hand.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use parley_proto::driver::Transport;
use parley_proto::testing::SimTransport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end of a connection.
#[derive(Debug)]
pub struct SimStream(pub SimTransport);

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut window = window(buf.remaining());
        ready!(self.0.poll_read(cx, &mut window))?;
        buf.put_slice(&window);
        Poll::Ready(Ok(()))
    }
}

/// A window for exactly so many bytes.
pub(crate) fn window(room: usize) -> BytesMut {
    let mut window = BytesMut::with_capacity(room);
    drop(window.split_off(room)); // what the allocator gave in addition
    window
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, &[IoSlice::new(bytes)])
    }

    /// As a socket: where TLS has but one write for its alert, more than the first slice leaves.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}
