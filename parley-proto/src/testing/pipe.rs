//! Two streams back to back, in memory.
//!
//! ```text
//! client end   write ─▶ [ staged ] ─ flush ─▶ [ data ..capacity ] ─▶ read   peer's end
//!              read  ◀─ [ data ..capacity ] ◀─ flush ─ [ staged ] ◀─ write
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::executor::SimClock;
use super::{Sim, lock};
use crate::driver::{Clock, Transport, TransportFacts};

/// What a connection is like, in each of its directions. Default: it moves whatever it is given, at once.
///
/// ```
/// use std::time::Duration;
/// use parley_proto::testing::Link;
///
/// let modem = Link::default().latency(Duration::from_millis(200)).rate(7_000);
/// let pieces = Link::default().chunk(1); // each read and each write moves one byte
/// # let _ = (modem, pieces);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Link {
    /// Bytes that a direction holds, under way or not yet read, before a writer has to wait. Default 64 KiB.
    pub capacity: usize,
    /// Bytes that one read or write moves at most. Default: no such bound.
    pub chunk: usize,
    /// What is written leaves only when it is flushed, as under TLS. Default `false`.
    pub staged: bool,
    /// How long a byte, or the end of the stream, is under way. Default: no time. A reset takes none.
    pub latency: Duration,
    /// Bytes a second; what is written at once arrives at once, when its last byte is due. Default: no such bound.
    pub rate: Option<u32>,
}

impl Default for Link {
    fn default() -> Self {
        Self { capacity: 64 * 1024, chunk: usize::MAX, staged: false, latency: Duration::ZERO, rate: None }
    }
}

impl Link {
    /// With this [`capacity`](Self::capacity) in bytes, at least 1.
    ///
    /// # Panics
    ///
    /// If it is 0: nothing would ever pass.
    #[must_use]
    pub fn capacity(mut self, capacity: usize) -> Self {
        assert!(capacity > 0, "a link holds at least one byte");
        self.capacity = capacity;
        self
    }

    /// With at most so many bytes a read or write, at least 1.
    ///
    /// # Panics
    ///
    /// If it is 0: nothing would ever pass.
    #[must_use]
    pub fn chunk(mut self, chunk: usize) -> Self {
        assert!(chunk > 0, "a link moves at least one byte");
        self.chunk = chunk;
        self
    }

    /// With writes that wait for a flush.
    #[must_use]
    pub fn staged(mut self) -> Self {
        self.staged = true;
        self
    }

    /// With bytes that are so long under way.
    #[must_use]
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// With so many bytes a second, at least 1.
    ///
    /// # Panics
    ///
    /// If it is 0: nothing would ever pass.
    #[must_use]
    pub fn rate(mut self, bytes_per_second: u32) -> Self {
        assert!(bytes_per_second > 0, "a link moves at least one byte a second");
        self.rate = Some(bytes_per_second);
        self
    }
}

/// One direction.
struct Pipe {
    link: Link,
    staged: VecDeque<u8>,
    /// What has left the writer: the first `arrived` bytes are there, the rest is under way.
    data: VecDeque<u8>,
    arrived: usize,
    /// When how many bytes more arrive.
    arrivals: VecDeque<(Instant, usize)>,
    /// When all that was written will have left, at the link's rate.
    idle_at: Option<Instant>,
    /// The writer has ended it.
    eof: bool,
    /// When the reader sees that.
    eof_at: Option<Instant>,
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
    /// Whom to wake when the lock is free.
    woken: Vec<Waker>,
    /// Bytes that were ever read.
    read: usize,
    /// What each read could have taken.
    rooms: Vec<usize>,
}

/// Uses a direction. Wakers are foreign code: they are called when its lock is free.
fn with<T>(pipe: &Mutex<Pipe>, use_it: impl FnOnce(&mut Pipe) -> T) -> T {
    let (outcome, woken) = {
        let mut pipe = lock(pipe);
        (use_it(&mut pipe), mem::take(&mut pipe.woken))
    };
    woken.into_iter().for_each(Waker::wake);
    outcome
}

impl Pipe {
    fn new(link: Link) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            link,
            staged: VecDeque::new(),
            data: VecDeque::new(),
            arrived: 0,
            arrivals: VecDeque::new(),
            idle_at: None,
            eof: false,
            eof_at: None,
            deaf: false,
            read_error: None,
            write_error: None,
            reader: None,
            writer: None,
            held_flushes: 0,
            flushing: None,
            woken: Vec::new(),
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
        self.woken.extend(self.reader.take());
    }

    /// The writer looks again.
    fn shrunk(&mut self) {
        self.woken.extend(self.writer.take());
    }

    fn wait_for_room<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn room(&self) -> usize {
        self.link.capacity.saturating_sub(self.data.len())
    }

    /// So many bytes more of `data` have left the writer.
    fn depart(&mut self, now: Instant, n: usize) {
        if let (Duration::ZERO, None) = (self.link.latency, self.link.rate) {
            self.arrived += n;
        } else {
            let begun = self.idle_at.map_or(now, |idle_at| idle_at.max(now));
            let takes = self.link.rate.map_or(0.0, |rate| n as f64 / f64::from(rate));
            let left = begun + Duration::from_secs_f64(takes);
            self.idle_at = Some(left);
            self.arrivals.push_back((left + self.link.latency, n));
        }
        self.grown();
    }

    /// What is due has arrived.
    fn arrive(&mut self, now: Instant) {
        while let Some(&(_, n)) = self.arrivals.front().filter(|(at, _)| *at <= now) {
            self.arrivals.pop_front();
            self.arrived += n;
        }
    }

    /// When the reader will see something new, if that takes nothing but time.
    fn due(&self) -> Option<Instant> {
        self.arrivals.front().map(|(at, _)| *at).or(self.eof_at)
    }

    fn poll_write(&mut self, now: Instant, cx: &Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        let room = if self.link.staged { self.link.capacity.saturating_sub(self.staged.len()) } else { self.room() };
        let mut room = room.min(self.link.chunk);
        if room == 0 {
            let flushed = self.move_staged(now);
            return if flushed { self.poll_write(now, cx, bytes) } else { self.wait_for_room(cx) };
        }
        let mut taken = 0;
        for slice in bytes {
            let part = &slice[..slice.len().min(room)];
            if self.link.staged { &mut self.staged } else { &mut self.data }.extend(part);
            room -= part.len();
            taken += part.len();
        }
        if !self.link.staged {
            self.depart(now, taken);
        }
        Poll::Ready(Ok(taken))
    }

    /// Some of what is staged leaves. False: nothing could.
    fn move_staged(&mut self, now: Instant) -> bool {
        let n = self.room().min(self.staged.len());
        self.data.extend(self.staged.drain(..n));
        if n > 0 {
            self.depart(now, n);
        }
        n > 0
    }

    fn poll_flush(&mut self, now: Instant, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        if self.held_flushes > 0 {
            self.held_flushes -= 1;
            self.flushing = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.flushing = None; // whoever looks has the answer now
        self.move_staged(now);
        if self.staged.is_empty() { Poll::Ready(Ok(())) } else { self.wait_for_room(cx) }
    }

    fn poll_end(&mut self, now: Instant, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_flush(now, cx)?.is_pending() {
            return Poll::Pending;
        }
        self.end(now);
        Poll::Ready(Ok(()))
    }

    /// The writer ends it.
    fn end(&mut self, now: Instant) {
        if !self.eof {
            self.eof = true;
            let left = self.idle_at.map_or(now, |idle_at| idle_at.max(now));
            self.eof_at = Some(left + self.link.latency);
        }
        self.grown();
    }

    fn poll_read(
        &mut self,
        now: Instant,
        cx: &Context<'_>,
        into: &mut impl BufMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.read_error {
            return Poll::Ready(Err(kind.into()));
        }
        self.arrive(now);
        if self.arrived == 0 {
            if self.data.is_empty() && self.eof_at.is_some_and(|at| at <= now) {
                return Poll::Ready(Ok(0));
            }
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.rooms.push(room);
        let n = self.arrived.min(room).min(self.link.chunk);
        let (front, back) = self.data.as_slices();
        let split = n.min(front.len());
        into.put_slice(&front[..split]);
        into.put_slice(&back[..n - split]);
        self.data.drain(..n);
        self.arrived -= n;
        self.read += n;
        self.shrunk();
        Poll::Ready(Ok(n))
    }

    /// The other end is told by a reset; what was under way is gone.
    fn reset(&mut self) {
        (self.data, self.staged) = (VecDeque::new(), VecDeque::new());
        (self.arrived, self.arrivals) = (0, VecDeque::new());
        self.read_error.get_or_insert(io::ErrorKind::ConnectionReset);
        self.write_error.get_or_insert(io::ErrorKind::BrokenPipe);
        self.changed();
    }
}

/// One end of a connection: a [`Transport`] for the driver, and bytes by hand for a test.
///
/// Dropped, it closes the connection as TCP does: the other end reads the end of the stream, or a reset if bytes were
/// left unread here.
pub struct SimTransport {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
    facts: TransportFacts,
    clock: SimClock,
    /// The client's end says in the journal when it is closed.
    is_client: bool,
}

impl SimTransport {
    /// Two ends; the first is the client's.
    pub(super) fn pair(sim: &Sim, link: Link, facts: TransportFacts) -> (Self, Self) {
        let (up, down) = (Pipe::new(link), Pipe::new(link));
        let peer = TransportFacts::new(facts.peer_addr, facts.local_addr);
        let (incoming, outgoing) = (down.clone(), up.clone());
        (
            Self { incoming, outgoing, facts, clock: sim.clock(), is_client: true },
            Self { incoming: up, outgoing: down, facts: peer, clock: sim.clock(), is_client: false },
        )
    }

    pub(super) fn set_facts(&mut self, facts: TransportFacts) {
        self.facts = facts;
    }

    /// A hand on the connection from outside.
    #[must_use]
    pub fn wire(&self) -> Wire {
        let (ours, theirs) = (self.outgoing.clone(), self.incoming.clone());
        let (up, down) = if self.is_client { (ours, theirs) } else { (theirs, ours) };
        Wire { up, down }
    }

    /// The bytes that come next, some or all of what is there; empty at the end of the stream.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// A reset by the other end; what [`Wire`] was told.
    pub async fn read(&mut self) -> io::Result<Bytes> {
        let mut window = BytesMut::with_capacity(16 * 1024);
        poll_fn(|cx| self.poll_read(cx, &mut window)).await?;
        Ok(window.freeze())
    }

    /// Writes all of `bytes`, and flushes. Waits while the link is full.
    ///
    /// Not cancel-safe: dropped, it may have written a part.
    ///
    /// # Errors
    ///
    /// The other end has closed the connection; what [`Wire`] was told.
    pub async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.poll_write(cx, &[IoSlice::new(bytes)])).await?;
            bytes = &bytes[n..];
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Closes with a reset: the other end loses what it has not read.
    pub fn reset(&self) {
        with(&self.outgoing, Pipe::reset);
        with(&self.incoming, Pipe::reset);
    }

    /// What arrives later than it was written wakes the reader then.
    fn wake_when_due(&mut self, cx: &mut Context<'_>) {
        if let Some(at) = with(&self.incoming, |incoming| incoming.due()) {
            let _pending = self.clock.poll_sleep(cx, at);
        }
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        if self.is_client {
            self.clock.sim.note("net closed");
        }
        let now = self.clock.now();
        let unread = with(&self.incoming, |incoming| {
            incoming.deaf = true;
            incoming.write_error.get_or_insert(io::ErrorKind::BrokenPipe);
            incoming.changed();
            !incoming.data.is_empty()
        });
        with(&self.outgoing, |outgoing| {
            if unread {
                outgoing.reset(); // as TCP does: unread data turns the FIN into a reset
            }
            outgoing.staged.clear();
            outgoing.end(now);
            outgoing.changed();
        });
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
        let now = self.clock.now();
        let read = with(&self.incoming, |incoming| incoming.poll_read(now, cx, window, room));
        if read.is_pending() {
            self.wake_when_due(cx);
        }
        read
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let now = self.clock.now();
        with(&self.outgoing, |outgoing| outgoing.poll_write(now, cx, bytes))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = self.clock.now();
        with(&self.outgoing, |outgoing| outgoing.poll_flush(now, cx))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = self.clock.now();
        with(&self.outgoing, |outgoing| outgoing.poll_end(now, cx))
    }

    fn facts(&self) -> TransportFacts {
        self.facts.clone()
    }
}

/// A hand on a connection from outside: faults of the client's end, and looks at what is under way.
///
/// The client is who dialled, the peer whom it reached.
#[derive(Clone)]
pub struct Wire {
    /// From the client to the peer.
    up: Arc<Mutex<Pipe>>,
    down: Arc<Mutex<Pipe>>,
}

impl Wire {
    /// Every further write of the client gives this error.
    pub fn fail_client_writes(&self, kind: io::ErrorKind) {
        with(&self.up, |up| {
            up.write_error = Some(kind);
            up.woken.extend(up.flushing.take());
            up.changed();
        });
    }

    /// Every further read of the client gives this error.
    pub fn fail_client_reads(&self, kind: io::ErrorKind) {
        with(&self.down, |down| {
            down.read_error = Some(kind);
            down.changed();
        });
    }

    /// The client's flushes are pending for so many polls, or until they are let go; nobody is woken in between.
    pub fn hold_client_flushes(&self, looks: usize) {
        lock(&self.up).held_flushes = looks;
    }

    /// The client's flushes are done, and whoever still waits for one is woken.
    pub fn let_client_flushes_go(&self) {
        with(&self.up, |up| {
            up.held_flushes = 0;
            up.woken.extend(up.flushing.take());
        });
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

    /// How many bytes each read of the client that found some could have taken.
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
