//! [`Transport`]: a byte stream of futures-io, plain or under TLS.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IoSlice, Read};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_io::Async;
use bytes::{Bytes, BytesMut};
use futures_io::{AsyncRead, AsyncWrite};
#[cfg(feature = "tls")]
use futures_rustls::TlsStream;
#[cfg(feature = "tls")]
use parley_proto::driver::TlsFacts;
use parley_proto::driver::{self, TransportFacts};

/// Bytes of one read by way of zeroed memory at most: what the driver's windows have room for.
const MOST: usize = 128 * 1024;
/// So much costs more to copy, or to zero, than to make a vector of the window and a window of the vector.
const LARGE: usize = 16 * 1024;
/// With less room a window may be one that frames are slices of, which the driver fills up lest they pin another.
const ROOMY: usize = 48 * 1024;

thread_local! {
    /// What reads go into: futures-io asks for initialised bytes, and these are zeroed once.
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A byte stream, plain or under TLS: over TCP by default, over any stream of futures-io by [`new`](Self::new).
///
/// Bytes are read into a buffer of the thread's, which is zeroed once, and copied from there into the driver's window; where
/// reads come back full, into the window itself, which costs less to zero than so much to copy. Those of [`Async`], without
/// TLS, go into the window as it is where they bring much. A batch of slices leaves in one system call (plain) or in shared
/// records (TLS).
///
/// Under TLS a write is complete only once [`poll_flush`](driver::Transport::poll_flush) is: rustls keeps up to 64 KiB of
/// ciphertext that the socket has not taken. The end of the stream below without the peer's `close_notify` (RFC 8446,
/// section 6.1) is an error of kind [`UnexpectedEof`](io::ErrorKind::UnexpectedEof): the stream may have been cut.
#[derive(Debug)]
pub struct Transport<S = Async<TcpStream>> {
    layers: Layers<S>,
    /// The last read took all that there was room for: so will the next one, most likely.
    full: bool,
    /// It was a [`LARGE`] one, and then the stream may have waited.
    large: bool,
}

#[derive(Debug)]
enum Layers<S> {
    Plain(Socket<S>),
    /// Boxed: over 1 KiB of session state, against some words of a socket.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<Socket<S>>>),
}

/// Runs an expression on whichever stream there is, pinned.
macro_rules! on_stream {
    ($transport:expr, $stream:ident => $body:expr) => {
        match &mut $transport.layers {
            Layers::Plain(stream) => {
                let $stream = Pin::new(stream);
                $body
            }
            #[cfg(feature = "tls")]
            Layers::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $body
            }
        }
    };
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport<S> {
    /// A transport over a stream of the user's own, of smol's or async-net's say.
    ///
    /// Its `poll_close` has to end the outgoing direction and leave the other one open: the closing handshake reads on
    /// (RFC 6455, section 7.1.1). That of [`Async`] and that of async-std's `TcpStream` end nothing; these two have a
    /// `From`, which does it for them.
    ///
    /// The handler sees no addresses of it, unless [`with_facts`](Self::with_facts) tells them.
    pub fn new(stream: S) -> Self {
        Self::plain(stream, Kind { facts: |_| TransportFacts::default(), direct: None, shutdown: None })
    }

    fn plain(stream: S, kind: Kind<S>) -> Self {
        Self { layers: Layers::Plain(Socket { stream, kind, drained: false }), full: false, large: false }
    }

    /// The same with a function that tells the stream's addresses. What TLS agreed on over it is added to that.
    #[must_use]
    pub fn with_facts(mut self, facts: fn(&S) -> TransportFacts) -> Self {
        match &mut self.layers {
            Layers::Plain(socket) => socket.kind.facts = facts,
            #[cfg(feature = "tls")]
            Layers::Tls(stream) => stream.get_mut().0.kind.facts = facts,
        }
        self
    }

    /// A stream whose TLS handshake is done, by either side.
    #[cfg(feature = "tls")]
    pub(crate) fn secured(stream: TlsStream<Socket<S>>) -> Self {
        Self { layers: Layers::Tls(Box::new(stream)), full: false, large: false }
    }

    /// The stream, unless TLS runs over it.
    #[cfg(feature = "tls")]
    pub(crate) fn into_plain(self) -> Option<Socket<S>> {
        match self.layers {
            Layers::Plain(socket) => Some(socket),
            Layers::Tls(_) => None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    /// For reads that bring much, if the stream and the window are fit for it.
    fn read_uncopied(&mut self, cx: &mut Context<'_>, window: &mut BytesMut) -> Option<Poll<io::Result<usize>>> {
        let (held, room) = (window.len(), window.capacity() - window.len());
        // What is held may be moved: no more than is likely to come. A buffer that is larger than a window holds an unfinished
        // frame, which begins where the memory does.
        let fits = room >= ROOMY && (held <= room || window.capacity() > MOST);
        match &mut self.layers {
            Layers::Plain(socket) if fits && self.large => {
                let &Direct { append, poll_readable, .. } = socket.kind.direct.as_ref()?;
                let read = socket.poll_direct(poll_readable, cx, |stream| {
                    let mut memory = into_memory(window);
                    let read = append(stream, &mut memory);
                    *window = BytesMut::from(Bytes::from(memory));
                    read
                });
                Some(socket.done(cx, read, room))
            }
            _ => None,
        }
    }

    /// For reads that are full: so much is zeroed faster than copied.
    fn read_in_place(&mut self, cx: &mut Context<'_>, window: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        let held = window.len();
        window.resize(held + room, 0);
        let read = on_stream!(self, stream => stream.poll_read(cx, &mut window[held..]));
        window.truncate(held + if let Poll::Ready(Ok(n)) = read { n } else { 0 });
        read
    }

    /// For reads that may bring little.
    fn read_by_way_of_scratch(
        &mut self,
        cx: &mut Context<'_>,
        window: &mut BytesMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        // Taken, not borrowed: a stream of the user's may read from another transport inside its own read.
        let mut scratch = READ.try_with(Cell::take).unwrap_or_default();
        if scratch.is_empty() {
            scratch = vec![0; MOST];
        }
        let read = on_stream!(self, stream => stream.poll_read(cx, &mut scratch[..room]));
        if let Poll::Ready(Ok(n)) = read {
            window.extend_from_slice(&scratch[..n]);
        }
        let _ = READ.try_with(|read| read.set(scratch)); // a thread that ends keeps none
        read
    }
}

impl From<Async<TcpStream>> for Transport {
    fn from(stream: Async<TcpStream>) -> Self {
        let kind = Kind {
            facts: |stream: &Async<TcpStream>| {
                let tcp = stream.get_ref();
                TransportFacts::new(tcp.local_addr().ok(), tcp.peer_addr().ok())
            },
            direct: Some(Direct {
                read: |stream, buffer| stream.get_ref().read(buffer),
                append: append_tcp,
                poll_readable: Async::poll_readable,
            }),
            shutdown: Some(|stream| stream.get_ref().shutdown(Shutdown::Write)),
        };
        Self::plain(stream, kind)
    }
}

/// Into memory that is not initialised: the system says how much of it is afterwards, and rustix takes its word.
#[cfg(unix)]
fn append_tcp(stream: &Async<TcpStream>, memory: &mut Vec<u8>) -> io::Result<usize> {
    use rustix::buffer::spare_capacity;
    use rustix::net::{RecvFlags, recv};
    Ok(recv(stream, spare_capacity(memory), RecvFlags::empty()).map(|(_, n)| n)?)
}

#[cfg(not(unix))]
fn append_tcp(stream: &Async<TcpStream>, memory: &mut Vec<u8>) -> io::Result<usize> {
    let held = memory.len();
    memory.resize(memory.capacity(), 0);
    let read = stream.get_ref().read(&mut memory[held..]);
    memory.truncate(held + read.as_ref().map_or(0, |n| *n));
    read
}

impl From<async_std::net::TcpStream> for Transport<async_std::net::TcpStream> {
    fn from(stream: async_std::net::TcpStream) -> Self {
        let kind = Kind {
            facts: |tcp: &async_std::net::TcpStream| TransportFacts::new(tcp.local_addr().ok(), tcp.peer_addr().ok()),
            direct: None,
            shutdown: Some(|tcp| tcp.shutdown(Shutdown::Write)),
        };
        Self::plain(stream, kind)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> driver::Transport for Transport<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, window: &mut BytesMut) -> Poll<io::Result<usize>> {
        let room = (window.capacity() - window.len()).min(MOST);
        let read = match self.read_uncopied(cx, window) {
            Some(read) => read,
            None if self.full => self.read_in_place(cx, window, room),
            None => self.read_by_way_of_scratch(cx, window, room),
        };
        self.full = matches!(read, Poll::Ready(Ok(n)) if n >= room);
        self.large = matches!(read, Poll::Ready(Ok(n)) if n >= room.min(LARGE)) || self.large && read.is_pending();
        read
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
        match ready!(on_stream!(self, stream => stream.poll_close(cx))) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    fn facts(&self) -> TransportFacts {
        match &self.layers {
            Layers::Plain(socket) => socket.facts(),
            #[cfg(feature = "tls")]
            Layers::Tls(stream) => {
                let (socket, session) = stream.get_ref();
                socket.facts().with_tls(TlsFacts::of_session(session))
            }
        }
    }
}

/// What futures-io has no words for, and how a kind of stream does it.
struct Kind<S> {
    facts: fn(&S) -> TransportFacts,
    /// Reads, and waits for input, each without the other.
    direct: Option<Direct<S>>,
    /// Ends the outgoing direction, where `poll_close` does not.
    shutdown: Option<fn(&S) -> io::Result<()>>,
}

struct Direct<S> {
    read: fn(&S, &mut [u8]) -> io::Result<usize>,
    /// Reads into what a vector has of spare capacity, all of it, which is not initialised.
    append: fn(&S, &mut Vec<u8>) -> io::Result<usize>,
    poll_readable: fn(&S, &mut Context<'_>) -> Poll<io::Result<()>>,
}

/// The window as a vector with as much room. That allocates nothing, and moves what is held to where the memory begins: what lay
/// before it is room as well then.
fn into_memory(window: &mut BytesMut) -> Vec<u8> {
    let size = window.capacity();
    let memory = Vec::from(mem::take(window));
    // Somebody else has the memory and keeps it, or it is larger than a window, and has more room than was shown: what is
    // read behind a frame may have to be moved.
    if memory.capacity() < size || memory.capacity() > MOST.max(size) {
        let mut fresh = Vec::with_capacity(size);
        fresh.extend_from_slice(&memory);
        return fresh;
    }
    memory
}

/// The stream below TLS.
pub(crate) struct Socket<S> {
    stream: S,
    kind: Kind<S>,
    /// The last read took less than it could have: there is nothing to have now, so that the next poll waits. Only one
    /// does so, and the one after it reads: `poll_readable` is not sure of an event of the reactor's round in which it
    /// was asked, and would go another one.
    drained: bool,
}

impl<S> Socket<S> {
    fn facts(&self) -> TransportFacts {
        (self.kind.facts)(&self.stream)
    }

    fn poll_direct(
        &mut self,
        poll_readable: fn(&S, &mut Context<'_>) -> Poll<io::Result<()>>,
        cx: &mut Context<'_>,
        mut read: impl FnMut(&S) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if !mem::take(&mut self.drained) {
                match read(&self.stream) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            }
            // Twice: the first may tell of what has been read since. A wait after a short read is safe, since the reactor
            // reports what there is, not what is new: bytes that came between the two end it at once.
            ready!(poll_readable(&self.stream, cx))?;
            ready!(poll_readable(&self.stream, cx))?;
        }
    }

    /// After a read with so much room.
    fn done(&mut self, cx: &Context<'_>, read: Poll<io::Result<usize>>, room: usize) -> Poll<io::Result<usize>> {
        let read = ready!(uninterrupted(cx, read));
        self.drained = matches!(read, Ok(n) if 0 < n && n < room);
        Poll::Ready(read)
    }
}

impl<S: fmt::Debug> fmt::Debug for Socket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let read = match socket.kind.direct {
            Some(Direct { read, poll_readable, .. }) => {
                socket.poll_direct(poll_readable, cx, |stream| read(stream, buffer))
            }
            None => Pin::new(&mut socket.stream).poll_read(cx, buffer),
        };
        socket.done(cx, read, buffer.len())
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        uninterrupted(cx, written).map(|written| some(written, bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bytes.iter().map(|slice| slice.len()).sum();
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        uninterrupted(cx, written).map(|written| some(written, len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        uninterrupted(cx, flushed)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.kind.shutdown {
            Some(shutdown) => Poll::Ready(shutdown(&self.stream)),
            None => Pin::new(&mut self.stream).poll_close(cx),
        }
    }
}

/// A stream that takes nothing of something is an error: futures-rustls would offer it again for ever.
fn some(written: io::Result<usize>, len: usize) -> io::Result<usize> {
    match written {
        Ok(0) if len > 0 => Err(io::ErrorKind::WriteZero.into()),
        written => written,
    }
}

/// An interruption is a wait: TLS above would fail its handshake by it, and encrypt once more what it has taken already.
fn uninterrupted<T>(cx: &Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    match result {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        result => result,
    }
}
