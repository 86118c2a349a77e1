//! [`Transport`]: a TCP connection of tokio, plain or under TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
#[cfg(feature = "tls")]
use parley_proto::driver::TlsFacts;
use parley_proto::driver::{self, TransportFacts};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
#[cfg(feature = "tls")]
use tokio_rustls::TlsStream;
use tokio_util::io::poll_read_buf;

/// A byte stream over TCP, plain or under TLS.
///
/// Bytes are read into the spare capacity of the driver's window, which is not zeroed first, and a batch of slices
/// leaves in one system call (plain) or in shared records (TLS).
///
/// Under TLS a write is complete only once [`poll_flush`](driver::Transport::poll_flush) is: rustls keeps up to 64 KiB of
/// ciphertext that the socket has not taken. The end of the TCP stream without the peer's `close_notify` (RFC 8446,
/// section 6.1) is an error of kind [`UnexpectedEof`](io::ErrorKind::UnexpectedEof): the stream may have been cut.
#[derive(Debug)]
pub struct Transport(Stream);

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    /// Boxed: over 1 KiB of session state, against 32 bytes of a socket.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
}

/// Runs an expression on whichever stream there is, pinned.
macro_rules! on_stream {
    ($transport:expr, $stream:ident => $body:expr) => {
        match &mut $transport.0 {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $body
            }
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $body
            }
        }
    };
}

impl Transport {
    /// The TCP stream, unless TLS runs over it.
    #[cfg(feature = "tls")]
    pub(crate) fn into_plain(self) -> Option<TcpStream> {
        match self.0 {
            Stream::Plain(stream) => Some(stream),
            Stream::Tls(_) => None,
        }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.0 {
            Stream::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self(Stream::Plain(stream))
    }
}

/// A stream whose TLS handshake is done, by either side.
#[cfg(feature = "tls")]
impl From<TlsStream<TcpStream>> for Transport {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self(Stream::Tls(Box::new(stream)))
    }
}

impl driver::Transport for Transport {
    fn poll_read(&mut self, cx: &mut Context<'_>, window: &mut BytesMut) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => poll_read_buf(stream, cx, window))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => match bytes {
            [only] => stream.poll_write(cx, only),
            _ => stream.poll_write_vectored(cx, bytes),
        })
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_flush(cx))
    }

    /// A connection that is gone already counts as shut down.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(on_stream!(self, stream => stream.poll_shutdown(cx))) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    fn facts(&self) -> TransportFacts {
        let tcp = self.tcp();
        let facts = TransportFacts::new(tcp.local_addr().ok(), tcp.peer_addr().ok());
        match &self.0 {
            Stream::Plain(_) => facts,
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => facts.with_tls(TlsFacts::of_session(stream.get_ref().1)),
        }
    }
}
