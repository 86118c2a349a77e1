//! [`Transport`]: a byte stream of tokio, plain or under TLS.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
#[cfg(feature = "tls")]
use parley_proto::driver::TlsFacts;
use parley_proto::driver::{self, TransportFacts};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(feature = "tls")]
use tokio_rustls::TlsStream;
use tokio_util::io::poll_read_buf;

/// A byte stream, plain or under TLS: over TCP, or over any stream `S`.
///
/// Bytes are read into the spare capacity of the driver's window, which is not zeroed first, and a batch of slices
/// leaves in one system call (plain) or in shared records (TLS).
///
/// Under TLS a write is complete only once [`poll_flush`](driver::Transport::poll_flush) is: rustls keeps up to 64 KiB of
/// ciphertext that the socket has not taken. The end of the TCP stream without the peer's `close_notify` (RFC 8446,
/// section 6.1) is an error of kind [`UnexpectedEof`](io::ErrorKind::UnexpectedEof): the stream may have been cut.
pub struct Transport<S = TcpStream> {
    stream: Stream<S>,
    facts: fn(&S) -> TransportFacts,
}

enum Stream<S> {
    Plain(S),
    /// Boxed: over 1 KiB of session state, against 32 bytes of a socket.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<S>>),
}

/// Runs an expression on whichever stream there is, pinned.
macro_rules! on_stream {
    ($transport:expr, $stream:ident => $body:expr) => {
        match &mut $transport.stream {
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

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport<S> {
    /// A transport over a stream of the user's own: a Unix socket, a tunnel, TLS of another make.
    ///
    /// The handler sees no addresses of it, unless [`with_facts`](Self::with_facts) tells them; a [`TcpStream`]'s are known
    /// by `From`.
    pub fn new(stream: S) -> Self {
        Self { stream: Stream::Plain(stream), facts: |_| TransportFacts::default() }
    }

    /// The same with a function that tells the stream's addresses. What TLS agreed on over it is added to that.
    #[must_use]
    pub fn with_facts(mut self, facts: fn(&S) -> TransportFacts) -> Self {
        self.facts = facts;
        self
    }

    /// The stream, unless TLS runs over it.
    #[cfg(feature = "tls")]
    pub(crate) fn into_plain(self) -> Option<S> {
        match self.stream {
            Stream::Plain(stream) => Some(stream),
            Stream::Tls(_) => None,
        }
    }
}

fn tcp_addresses(tcp: &TcpStream) -> TransportFacts {
    TransportFacts::new(tcp.local_addr().ok(), tcp.peer_addr().ok())
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self { stream: Stream::Plain(stream), facts: tcp_addresses }
    }
}

/// A stream whose TLS handshake is done, by either side.
#[cfg(feature = "tls")]
impl From<TlsStream<TcpStream>> for Transport {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream)), facts: tcp_addresses }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> driver::Transport for Transport<S> {
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
        match &self.stream {
            Stream::Plain(stream) => (self.facts)(stream),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => {
                let (stream, session) = stream.get_ref();
                (self.facts)(stream).with_tls(TlsFacts::of_session(session))
            }
        }
    }
}

impl<S> fmt::Debug for Transport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("plain", &matches!(self.stream, Stream::Plain(_))).finish_non_exhaustive()
    }
}
