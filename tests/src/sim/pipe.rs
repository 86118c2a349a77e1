//! Two streams back to back, in memory.
//!
//! ```text
//! client end   write ─▶ [ staged ] ─ flush ─▶ [ data ..capacity ] ─▶ read   peer's end
//!              read  ◀─ [ data ..capacity ] ◀─ flush ─ [ staged ] ◀─ write
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, BytesMut};
use parley_proto::driver::{Transport, TransportFacts};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Sim, lock};

/// What a connection is like.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Bytes that a direction holds before a writer has to wait. Default 64 KiB.
    pub capacity: usize,
    /// Bytes that one read or write moves at most. Default: no such bound.
    pub chunk: usize,
    /// What is written leaves only when it is flushed, as under TLS. Default `false`.
    pub staged: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self { capacity: 64 * 1024, chunk: usize::MAX, staged: false }
    }
}

impl Link {
    /// With this capacity.
    #[must_use]
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// With so many bytes at a time.
    #[must_use]
    pub fn chunk(mut self, chunk: usize) -> Self {
        self.chunk = chunk;
        self
    }

    /// With writes that wait for a flush.
    #[must_use]
    pub fn staged(mut self) -> Self {
        self.staged = true;
        self
    }
}

/// One direction.
struct Pipe {
    link: Link,
    staged: VecDeque<u8>,
    data: VecDeque<u8>,
    /// The writer has ended it.
    eof: bool,
    /// Nobody reads it any more.
    deaf: bool,
    /// What every read gives, data or not.
    read_error: Option<io::ErrorKind>,
    /// What every write gives.
    write_error: Option<io::ErrorKind>,
    /// Who waits for data, and who for room: as with a socket, only the one that looked last.
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// So many looks more find a flush under way.
    held_flushes: usize,
    /// Who is to look again when flushes are let go.
    flushing: Option<Waker>,
    /// Bytes that were ever read.
    read: usize,
    /// What each read could have taken.
    rooms: Vec<usize>,
}

impl Pipe {
    fn new(link: Link) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            link,
            staged: VecDeque::new(),
            data: VecDeque::new(),
            eof: false,
            deaf: false,
            read_error: None,
            write_error: None,
            reader: None,
            writer: None,
            held_flushes: 0,
            flushing: None,
            read: 0,
            rooms: Vec::new(),
        }))
    }

    /// Reader and writer look again.
    fn changed(&mut self) {
        self.grown();
        self.shrunk();
    }

    /// The reader looks again.
    fn grown(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
    }

    /// The writer looks again.
    fn shrunk(&mut self) {
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    fn wait_for_room<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn room(&self) -> usize {
        self.link.capacity.saturating_sub(self.data.len())
    }

    fn poll_write(&mut self, cx: &Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        let room = if self.link.staged { self.link.capacity.saturating_sub(self.staged.len()) } else { self.room() };
        let mut room = room.min(self.link.chunk);
        if room == 0 {
            let flushed = self.move_staged();
            return if flushed { self.poll_write(cx, bytes) } else { self.wait_for_room(cx) };
        }
        let mut taken = 0;
        for slice in bytes {
            let part = &slice[..slice.len().min(room)];
            if self.link.staged { &mut self.staged } else { &mut self.data }.extend(part);
            room -= part.len();
            taken += part.len();
        }
        if !self.link.staged {
            self.grown();
        }
        Poll::Ready(Ok(taken))
    }

    /// Some of what is staged leaves. False: nothing could.
    fn move_staged(&mut self) -> bool {
        let n = self.room().min(self.staged.len());
        self.data.extend(self.staged.drain(..n));
        if n > 0 {
            self.grown();
        }
        n > 0
    }

    fn poll_flush(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        if self.held_flushes > 0 {
            self.held_flushes -= 1;
            self.flushing = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.flushing = None; // whoever looks has the answer now
        self.move_staged();
        if self.staged.is_empty() { Poll::Ready(Ok(())) } else { self.wait_for_room(cx) }
    }

    fn poll_end(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_flush(cx)?.is_pending() {
            return Poll::Pending;
        }
        self.eof = true;
        self.grown();
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &Context<'_>, into: &mut impl BufMut, room: usize) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.read_error {
            return Poll::Ready(Err(kind.into()));
        }
        if self.data.is_empty() {
            if self.eof {
                return Poll::Ready(Ok(0));
            }
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.rooms.push(room);
        let n = self.data.len().min(room).min(self.link.chunk);
        let (front, back) = self.data.as_slices();
        let split = n.min(front.len());
        into.put_slice(&front[..split]);
        into.put_slice(&back[..n - split]);
        self.data.drain(..n);
        self.read += n;
        self.shrunk();
        Poll::Ready(Ok(n))
    }

    /// The other end is told by a reset; what was under way is gone.
    fn reset(&mut self) {
        (self.data, self.staged) = (VecDeque::new(), VecDeque::new());
        self.read_error.get_or_insert(io::ErrorKind::ConnectionReset);
        self.write_error.get_or_insert(io::ErrorKind::BrokenPipe);
        self.changed();
    }
}

/// One end of a connection: a [`Transport`], and for peers by hand a stream in tokio's terms.
pub struct SimTransport {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
    facts: TransportFacts,
    /// The client's end says in the journal when it is closed.
    journal: Option<Sim>,
}

impl SimTransport {
    /// Two ends; the first is the client's.
    pub(super) fn pair(sim: &Sim, link: Link, facts: TransportFacts) -> (Self, Self) {
        let (up, down) = (Pipe::new(link), Pipe::new(link));
        let peer = TransportFacts::new(facts.peer_addr, facts.local_addr);
        (
            Self { incoming: down.clone(), outgoing: up.clone(), facts, journal: Some(sim.clone()) },
            Self { incoming: up, outgoing: down, facts: peer, journal: None },
        )
    }

    pub(super) fn set_facts(&mut self, facts: TransportFacts) {
        self.facts = facts;
    }

    /// Seen from the peer's end.
    pub(super) fn wire(&self) -> Wire {
        Wire { up: self.incoming.clone(), down: self.outgoing.clone() }
    }

    /// A read of at most `most` bytes.
    pub(super) fn poll_read_some(
        &mut self,
        cx: &Context<'_>,
        into: &mut BytesMut,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        lock(&self.incoming).poll_read(cx, into, most)
    }

    /// Closes with a reset: the other end loses what it has not read.
    pub fn reset(&self) {
        lock(&self.outgoing).reset();
        lock(&self.incoming).reset();
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        if let Some(sim) = &self.journal {
            sim.note("net closed");
        }
        let unread = {
            let mut incoming = lock(&self.incoming);
            incoming.deaf = true;
            incoming.write_error.get_or_insert(io::ErrorKind::BrokenPipe);
            incoming.changed();
            !incoming.data.is_empty()
        };
        let mut outgoing = lock(&self.outgoing);
        if unread {
            outgoing.reset(); // as TCP does: unread data turns the FIN into a reset
        }
        outgoing.staged.clear();
        outgoing.eof = true;
        outgoing.changed();
    }
}

impl fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTransport").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Transport for SimTransport {
    fn poll_read(&mut self, cx: &mut Context<'_>, window: &mut BytesMut) -> Poll<io::Result<usize>> {
        let room = window.capacity() - window.len();
        assert!(room > 0, "the driver never passes a full window");
        lock(&self.incoming).poll_read(cx, window, room)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        lock(&self.outgoing).poll_write(cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).poll_end(cx)
    }

    fn facts(&self) -> TransportFacts {
        self.facts.clone()
    }
}

impl AsyncRead for SimTransport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        lock(&self.incoming).poll_read(cx, buf, room).map_ok(drop)
    }
}

impl AsyncWrite for SimTransport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.outgoing).poll_write(cx, &[IoSlice::new(bytes)])
    }

    /// As a socket: where TLS has but one write for its alert, more than the first slice leaves.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.outgoing).poll_write(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).poll_end(cx)
    }
}

/// A hand on a connection from outside.
#[derive(Clone)]
pub struct Wire {
    /// From the client to the peer.
    up: Arc<Mutex<Pipe>>,
    down: Arc<Mutex<Pipe>>,
}

impl Wire {
    /// Every further write of the client gives this error.
    pub fn fail_client_writes(&self, kind: io::ErrorKind) {
        let mut up = lock(&self.up);
        up.write_error = Some(kind);
        up.flushing.take().into_iter().for_each(Waker::wake);
        up.changed();
    }

    /// Every further read of the client gives this error.
    pub fn fail_client_reads(&self, kind: io::ErrorKind) {
        let mut down = lock(&self.down);
        down.read_error = Some(kind);
        down.changed();
    }

    /// The client's flushes are under way for so many looks, or until they are let go; nobody is woken in between.
    pub fn hold_client_flushes(&self, looks: usize) {
        lock(&self.up).held_flushes = looks;
    }

    /// The client's flushes are done, and whoever still waits for one is woken.
    pub fn let_client_flushes_go(&self) {
        let mut up = lock(&self.up);
        up.held_flushes = 0;
        up.flushing.take().into_iter().for_each(Waker::wake);
    }

    /// Bytes that the client has written and the peer has not read.
    #[must_use]
    pub fn unread_by_peer(&self) -> usize {
        lock(&self.up).data.len()
    }

    /// Bytes that the peer has written and the client has not read.
    #[must_use]
    pub fn unread_by_client(&self) -> usize {
        lock(&self.down).data.len()
    }

    /// Bytes that the client has ever read.
    #[must_use]
    pub fn read_by_client(&self) -> usize {
        lock(&self.down).read
    }

    /// How many bytes each read of the client could have taken.
    #[must_use]
    pub fn rooms_of_client(&self) -> Vec<usize> {
        lock(&self.down).rooms.clone()
    }

    /// Whether the client has closed its end.
    #[must_use]
    pub fn is_closed_by_client(&self) -> bool {
        lock(&self.down).deaf
    }

    /// Whether the peer has ended its direction.
    #[must_use]
    pub fn is_ended_by_peer(&self) -> bool {
        lock(&self.down).eof
    }

    /// Whether the client has ended its direction.
    #[must_use]
    pub fn is_ended_by_client(&self) -> bool {
        lock(&self.up).eof
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("unread_by_peer", &self.unread_by_peer())
            .field("unread_by_client", &self.unread_by_client())
            .finish()
    }
}
