//! One transport and the bytes on their way through it: for a client's session, and for a bare connection.
//!
//! One read fills a window from the thread's pool; what a turn produced leaves in one vectored write; a pipe at rest
//! holds no window.

use std::io::{self, IoSlice};
use std::mem;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::runtime::Transport;
use crate::codec::{Frame, HEAD, Transmit};
use crate::connection::{Connection, ENCODE_AHEAD, Shutdown};
use crate::pool::{self, WINDOW};
use crate::session::Session;

/// Bytes read and written in one poll of the task before it yields to others.
const BUDGET: u32 = 256 * 1024;
/// Slices of one vectored write.
const SLICES: usize = 16;
/// For so many reads small frames are copied out, after a window was found to be still in use.
const COPIED_READS: u8 = 64;
/// An unfinished frame up to this size leaves its window while the task sleeps.
const LEFTOVER: usize = 4 * 1024;
/// A window that waiting frames are slices of is read into for as long as so much of it is left: else a few bytes of each
/// would pin all of it.
const TAIL: usize = WINDOW / 4;
/// The longest header (section 5.2).
const HEADER: usize = 14;
/// Where big frames come one after the other, the buffer of the next does not grow step by step up to so much: a payload of
/// 1 MiB, its header, and the next one's.
const MAX_LAST: usize = 1024 * 1024 + 2 * HEADER;
/// An empty window has at most so much room, lest a small frame that is kept pin a large buffer.
const MAX_WINDOW: usize = 2 * WINDOW;

/// Whose bytes they are.
pub(super) trait Engine {
    fn wants_input(&self) -> bool;
    fn read_hint(&self) -> usize;
    fn queued(&self) -> usize;
    /// Frames wait in it, which are slices of what was read.
    fn has_frames(&self) -> bool;
    fn transmit(&self) -> Option<Transmit<'_>>;
    fn set_copy_small(&mut self, on: bool);
    /// `now` is asked only where time matters.
    fn handle_input(&mut self, now: impl FnOnce() -> Instant, input: &mut BytesMut);
    fn handle_eof(&mut self, now: Instant);
    fn handle_lost(&mut self, now: Instant, error: io::Error);
    /// What [`handle_written`](Self::handle_written) tells of next has yet to be flushed.
    fn set_unflushed(&mut self);
    /// As there.
    fn handle_written(&mut self, now: impl FnOnce() -> Instant, n: usize);
    fn handle_flushed(&mut self, now: impl FnOnce() -> Instant);
}

pub(super) struct Pipe<T> {
    /// `None` before it is up and after it was closed.
    transport: Option<T>,
    /// Begins with the unfinished frame, if there is one.
    window: BytesMut,
    /// It refers to memory of a window's size or more, even when it is empty and shows no capacity.
    owns_window: bool,
    /// That memory is larger than [`MAX_WINDOW`], however little of it is left to be shown: it holds no small frames.
    is_big: bool,
    copied_reads: u8,
    /// What the last frame took, if that was more than a [`WINDOW`].
    last: u32,
    /// Something was written and not flushed.
    unflushed: bool,
    /// The outgoing direction is being ended.
    shutting_down: bool,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    budget: u32,
    /// The budget is used up, and the task will be polled again at once.
    yields: bool,
}

impl<T: Transport> Pipe<T> {
    pub(super) fn new() -> Self {
        Self {
            transport: None,
            window: BytesMut::new(),
            owns_window: false,
            is_big: false,
            copied_reads: 0,
            last: WINDOW as u32,
            unflushed: false,
            shutting_down: false,
            bytes_received: 0,
            bytes_sent: 0,
            budget: 0,
            yields: false,
        }
    }

    /// With a transport that is up, and what was read from it already.
    pub(super) fn over(transport: T, input: BytesMut) -> Self {
        Self { window: input, ..Self { transport: Some(transport), ..Self::new() } }
    }

    /// After a wait the task may read and write again.
    pub(super) fn renew_budget(&mut self) {
        (self.budget, self.yields) = (BUDGET, false);
    }

    /// The task has been woken to go on with a new budget: what is held will be needed again.
    #[inline]
    pub(super) fn yields(&self) -> bool {
        self.yields
    }

    #[cfg(test)]
    pub(super) fn transport_mut(&mut self) -> &mut T {
        self.transport.as_mut().unwrap()
    }

    #[cfg(test)]
    pub(super) fn copied_reads_left(&self) -> u8 {
        self.copied_reads
    }

    pub(super) fn is_up(&self) -> bool {
        self.transport.is_some()
    }

    /// A transport that has just come up.
    pub(super) fn adopt(&mut self, transport: T) -> &T {
        self.unflushed = false;
        self.shutting_down = false;
        self.copied_reads = 0; // a new connection's decoder does not copy
        self.last = WINDOW as u32;
        self.transport.insert(transport)
    }

    /// Gives up the transport, for a TLS handshake over it.
    pub(super) fn take(&mut self) -> Option<T> {
        self.transport.take()
    }

    /// Input that was left over, for an engine that takes it now.
    pub(super) fn offer<E: Engine>(&mut self, engine: &mut E, now: Instant) {
        if !self.window.is_empty() {
            engine.handle_input(|| now, &mut self.window);
        }
    }

    pub(super) fn shut_down(&mut self, how: Shutdown) {
        match how {
            Shutdown::Write => self.shutting_down = true,
            Shutdown::Close => self.close(),
            Shutdown::Abort => self.abort(),
        }
    }

    /// Ends the outgoing direction as far as that goes without waiting, and closes.
    fn close(&mut self) {
        if let Some(transport) = &mut self.transport {
            // A stream that cannot take its last bytes now is closed all the same; the peer sees an end without them.
            let _ = transport.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
        self.abort();
    }

    pub(super) fn abort(&mut self) {
        self.transport = None;
        self.shutting_down = false;
        self.unflushed = false;
        self.release_window();
        self.window = BytesMut::new();
    }

    /// One read. True: something has changed.
    pub(super) fn poll_read<E: Engine>(
        &mut self,
        cx: &mut Context<'_>,
        engine: &mut E,
        mut now: impl FnMut() -> Instant,
    ) -> bool {
        if self.transport.is_none() || !engine.wants_input() {
            return false;
        }
        if self.budget == 0 {
            self.yields = true;
            cx.waker().wake_by_ref();
            return false;
        }
        if engine.queued() >= ENCODE_AHEAD && self.poll_write(cx, engine, &mut now) {
            return true;
        }
        self.make_room(engine);
        let Some(transport) = &mut self.transport else { return false };
        match transport.poll_read(cx, &mut self.window) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => engine.handle_eof(now()),
            Poll::Ready(Ok(n)) => {
                self.bytes_received += n as u64;
                self.budget = self.budget.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
                let arrived = self.window.len();
                engine.handle_input(&mut now, &mut self.window);
                if self.window.len() < arrived {
                    self.last = arrived.clamp(WINDOW, MAX_LAST) as u32; // at most that: it fits
                }
            }
            Poll::Ready(Err(error)) if is_interrupted(&error) => {
                self.budget = self.budget.saturating_sub(1);
            }
            Poll::Ready(Err(error)) => match error.kind() {
                // TLS tells an end without `close_notify` by an error; for the connection it is an end like any other:
                // unclean before a Close, without meaning behind both.
                io::ErrorKind::UnexpectedEof => engine.handle_eof(now()),
                _ => engine.handle_lost(now(), error),
            },
        }
        true
    }

    /// Room for the next read. A frame that fits a window gets one from the pool; a bigger one has a buffer of its
    /// own, which grows with what arrives (never by what was announced) up to just what the frame lacks.
    fn make_room<E: Engine>(&mut self, engine: &mut E) {
        let held = self.window.len();
        if held == 0 {
            return self.fresh_window(engine);
        }
        let spare = self.window.capacity() - held;
        let hint = engine.read_hint();
        let needed = if hint == 0 { LEFTOVER } else { hint };
        let lacking = needed.saturating_add(HEADER); // so that the next frame's comes along
        if held.saturating_add(lacking) > WINDOW {
            // As much again as has come, or as the last frame took; a header more, lest little be left for another step.
            let most = held.max(self.last as usize) + 2 * HEADER;
            let more = if hint == 0 { held } else { lacking.min(most) };
            if spare < needed.min(more) && !self.window.try_reclaim(more) {
                self.grow(more);
            }
            // What fits behind the frame may all be small frames, and one read brings them.
            if self.window.capacity() - held > more.max(hint).saturating_add(MAX_WINDOW) {
                self.move_window(BytesMut::with_capacity(held + more));
            }
        } else if spare < lacking.max(LEFTOVER) || self.is_big {
            let room = if hint == 0 { self.room() } else { WINDOW };
            if self.is_big || !self.window.try_reclaim(room - held) || self.window.capacity() > MAX_WINDOW {
                self.move_window(empty_window(room));
            }
        }
    }

    /// Just so much more room, and nothing before what is held: what is read beyond a frame would have to be moved. The
    /// memory grows where it lies, if that can be: one of each size on the way would leave holes in the heap.
    fn grow(&mut self, more: usize) {
        let mut memory = Vec::from(mem::take(&mut self.window));
        memory.reserve_exact(more);
        self.is_big = memory.capacity() > MAX_WINDOW;
        self.window = BytesMut::from(Bytes::from(memory));
        self.owns_window = true;
    }

    /// What an empty window is to hold.
    fn room(&self) -> usize {
        (self.last as usize).min(MAX_WINDOW)
    }

    fn move_window(&mut self, mut window: BytesMut) {
        window.extend_from_slice(&self.window);
        self.release_window();
        self.is_big = window.capacity() > MAX_WINDOW;
        self.window = window;
        self.owns_window = true;
    }

    /// An empty window: the one at hand, unless somebody keeps a slice of it. If that is the application, it may be a small
    /// frame, kept for long.
    fn fresh_window<E: Engine>(&mut self, engine: &mut E) {
        if self.last as usize > MAX_WINDOW {
            // Another big frame is to be expected: what came before its length was known would be moved.
            self.release_window();
            self.window = BytesMut::with_capacity(LEFTOVER);
            return;
        }
        if self.owns_window {
            if self.window.try_reclaim(self.room()) && self.window.capacity() <= MAX_WINDOW && !self.is_big {
                return self.count_copied_read(engine);
            }
            let waiting = engine.has_frames();
            if self.has_tail(waiting) {
                return;
            }
            if self.window.capacity() < WINDOW && self.copied_reads == 0 && !waiting {
                self.copied_reads = COPIED_READS;
                engine.set_copy_small(true);
            }
            self.release_window();
        }
        self.window = empty_window(self.room());
        self.owns_window = true;
    }

    /// Frames that wait hold the window anyway, and there is room behind them.
    fn has_tail(&self, waiting: bool) -> bool {
        waiting && self.owns_window && !self.is_big && self.window.capacity() - self.window.len() >= TAIL
    }

    fn release_window(&mut self) {
        let is_big = mem::take(&mut self.is_big);
        if mem::take(&mut self.owns_window) {
            let window = mem::take(&mut self.window);
            if !is_big {
                pool::give_window(window);
            }
        }
    }

    fn count_copied_read<E: Engine>(&mut self, engine: &mut E) {
        if self.copied_reads > 0 {
            self.copied_reads -= 1;
            if self.copied_reads == 0 {
                engine.set_copy_small(false);
            }
        }
    }

    /// Before the task sleeps: a connection at rest holds no window, a small leftover just itself.
    pub(super) fn rest<E: Engine>(&mut self, engine: &E) {
        if self.has_tail(engine.has_frames()) {
            return;
        }
        let held = self.window.len();
        if held == 0 {
            self.release_window();
            self.window = BytesMut::new();
        } else if held <= LEFTOVER && self.owns_window {
            let leftover = BytesMut::from(&self.window[..]);
            self.release_window();
            self.window = leftover;
        }
    }

    /// Writes a frame from where it is, if nothing else waits. `None`: it was not begun. False: it was accepted, and has yet to
    /// leave like any other output.
    #[inline]
    pub(super) fn write_through(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        frame: &Frame,
        mut now: impl FnMut() -> Instant,
    ) -> Option<bool> {
        if self.budget == 0 || self.unflushed || self.shutting_down {
            return None;
        }
        let transport = self.transport.as_mut()?;
        let mut head = [0; HEAD];
        let offer = connection.offer(frame, &mut head)?;
        let polled = match offer {
            [head, []] => transport.poll_write(cx, &[IoSlice::new(head)]),
            pieces => transport.poll_write(cx, &pieces.map(IoSlice::new)),
        };
        let n = if let Poll::Ready(Ok(n)) = polled { n } else { 0 };
        let took_all = connection.take_offer(offer, frame, n);
        match loss(polled) {
            Some(error) => Engine::handle_lost(connection, now(), error),
            None if n > 0 => self.count_sent(connection, n),
            None => {}
        }
        Some(took_all && self.poll_flush(cx, connection, now).is_ready() && !self.unflushed)
    }

    /// Writes what there is, as far as it goes. True: something has changed for somebody who waits.
    pub(super) fn poll_write<E: Engine>(
        &mut self,
        cx: &mut Context<'_>,
        engine: &mut E,
        mut now: impl FnMut() -> Instant,
    ) -> bool {
        let mut progress = false;
        while let Some(transmit) = engine.transmit() {
            let Some(transport) = &mut self.transport else { return false };
            if transmit.is_empty() {
                break;
            }
            if self.budget == 0 {
                self.yields = true;
                cx.waker().wake_by_ref();
                break;
            }
            let polled = match transmit.contiguous() {
                Some(bytes) => transport.poll_write(cx, &[IoSlice::new(bytes)]),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let count = transmit.fill(&mut slices);
                    transport.poll_write(cx, &slices[..count])
                }
            };
            match polled {
                Poll::Pending => {
                    engine.handle_written(&mut now, 0);
                    break;
                }
                Poll::Ready(Ok(n)) if n > 0 => {
                    progress = true;
                    self.count_sent(engine, n);
                    engine.handle_written(&mut now, n);
                }
                failed => match loss(failed) {
                    None => self.budget = self.budget.saturating_sub(1),
                    Some(error) => {
                        engine.handle_lost(now(), error);
                        return true;
                    }
                },
            }
        }
        if self.unflushed {
            if self.poll_flush(cx, engine, &mut now).is_pending() {
                return progress;
            }
            if self.unflushed {
                return true;
            }
            progress = true; // also when the writes were long ago: their senders wait
        }
        let Some(transport) = &mut self.transport else { return false };
        if self.shutting_down && engine.queued() == 0 {
            match transport.poll_shutdown(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) if is_interrupted(&error) => cx.waker().wake_by_ref(),
                // One that fails has nobody left to tell.
                Poll::Ready(_) => {
                    self.shutting_down = false;
                    progress = true;
                }
            }
        }
        progress
    }

    /// The transport has taken `n` bytes.
    #[inline]
    fn count_sent<E: Engine>(&mut self, engine: &mut E, n: usize) {
        self.unflushed = true;
        self.bytes_sent += n as u64;
        self.budget = self.budget.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
        engine.set_unflushed();
    }

    /// Flushes what was written. Ready and still unflushed: the transport is lost.
    #[inline]
    fn poll_flush<E: Engine>(
        &mut self,
        cx: &mut Context<'_>,
        engine: &mut E,
        mut now: impl FnMut() -> Instant,
    ) -> Poll<()> {
        let Some(transport) = &mut self.transport else { return Poll::Pending };
        match ready!(transport.poll_flush(cx)) {
            Ok(()) => {
                self.unflushed = false;
                engine.handle_flushed(&mut now);
            }
            Err(error) if is_interrupted(&error) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Err(error) => engine.handle_lost(now(), error),
        }
        Poll::Ready(())
    }

    /// All that was written is with the operating system.
    pub(super) fn is_flushed(&self) -> bool {
        !self.unflushed
    }
}

fn empty_window(room: usize) -> BytesMut {
    if room > WINDOW { BytesMut::with_capacity(room) } else { pool::window() }
}

/// Why a write that took nothing means that the transport is lost, if it does.
fn loss(polled: Poll<io::Result<usize>>) -> Option<io::Error> {
    match polled {
        Poll::Ready(Ok(0)) => Some(io::ErrorKind::WriteZero.into()),
        Poll::Ready(Err(error)) if !is_interrupted(&error) => Some(error),
        _ => None,
    }
}

/// Nothing has happened: the call is to be made again, each time for some of the budget.
fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

impl<I, T: PartialEq> Engine for Session<I, T> {
    #[inline]
    fn wants_input(&self) -> bool {
        self.wants_input()
    }

    #[inline]
    fn read_hint(&self) -> usize {
        self.read_hint()
    }

    #[inline]
    fn queued(&self) -> usize {
        self.queued()
    }

    #[inline]
    fn has_frames(&self) -> bool {
        self.has_frames()
    }

    #[inline]
    fn transmit(&self) -> Option<Transmit<'_>> {
        self.transmit()
    }

    #[inline]
    fn set_copy_small(&mut self, on: bool) {
        self.set_copy_small(on);
    }

    #[inline]
    fn handle_input(&mut self, now: impl FnOnce() -> Instant, input: &mut BytesMut) {
        self.handle_input(now(), input);
    }

    fn handle_eof(&mut self, now: Instant) {
        self.handle_eof(now);
    }

    fn handle_lost(&mut self, now: Instant, error: io::Error) {
        self.handle_lost(now, error);
    }

    #[inline]
    fn handle_written(&mut self, now: impl FnOnce() -> Instant, n: usize) {
        self.handle_written(now(), n);
    }

    #[inline]
    fn set_unflushed(&mut self) {
        self.set_unflushed();
    }

    #[inline]
    fn handle_flushed(&mut self, now: impl FnOnce() -> Instant) {
        self.handle_flushed(now());
    }
}

impl Engine for Connection {
    #[inline]
    fn wants_input(&self) -> bool {
        self.wants_input()
    }

    #[inline]
    fn read_hint(&self) -> usize {
        self.read_hint()
    }

    #[inline]
    fn queued(&self) -> usize {
        self.queued()
    }

    #[inline]
    fn has_frames(&self) -> bool {
        self.has_frames()
    }

    #[inline]
    fn transmit(&self) -> Option<Transmit<'_>> {
        Some(self.transmit())
    }

    #[inline]
    fn set_copy_small(&mut self, on: bool) {
        self.set_copy_small(on);
    }

    #[inline]
    fn handle_input(&mut self, now: impl FnOnce() -> Instant, input: &mut BytesMut) {
        self.handle_input_by(now, input);
    }

    fn handle_eof(&mut self, now: Instant) {
        self.handle_eof(now);
    }

    fn handle_lost(&mut self, now: Instant, error: io::Error) {
        self.handle_lost(now, error.into());
    }

    #[inline]
    fn handle_written(&mut self, now: impl FnOnce() -> Instant, n: usize) {
        self.handle_written_by(now, n);
    }

    #[inline]
    fn set_unflushed(&mut self) {
        self.set_unflushed();
    }

    #[inline]
    fn handle_flushed(&mut self, _: impl FnOnce() -> Instant) {
        self.handle_flushed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::TransportFacts;

    /// Lacks so much of what it holds; takes `take` bytes of a read.
    #[derive(Default)]
    struct Reader {
        hint: usize,
        take: usize,
        eof: bool,
        /// What it took waits in it.
        waiting: bool,
        copies: bool,
        /// What it took, kept by it or by the application.
        kept: Vec<BytesMut>,
    }

    impl Engine for Reader {
        fn wants_input(&self) -> bool {
            true
        }
        fn read_hint(&self) -> usize {
            self.hint
        }
        fn queued(&self) -> usize {
            0
        }
        fn has_frames(&self) -> bool {
            self.waiting
        }
        fn transmit(&self) -> Option<Transmit<'_>> {
            None
        }
        fn set_copy_small(&mut self, on: bool) {
            self.copies = on;
        }
        fn handle_input(&mut self, _: impl FnOnce() -> Instant, input: &mut BytesMut) {
            let taken = input.split_to(self.take.min(input.len()));
            if self.waiting {
                self.kept.push(taken);
            }
        }
        fn handle_eof(&mut self, _: Instant) {
            self.eof = true;
        }
        fn handle_lost(&mut self, _: Instant, _: io::Error) {}
        fn set_unflushed(&mut self) {}
        fn handle_written(&mut self, _: impl FnOnce() -> Instant, _: usize) {}
        fn handle_flushed(&mut self, _: impl FnOnce() -> Instant) {}
    }

    /// Has always more, and fills what room there is, up to so many bytes.
    struct Source(usize);

    impl Transport for Source {
        fn poll_read(&mut self, _: &mut Context<'_>, window: &mut BytesMut) -> Poll<io::Result<usize>> {
            let n = (window.capacity() - window.len()).min(self.0);
            window.resize(window.len() + n, 7);
            Poll::Ready(Ok(n))
        }
        fn poll_write(&mut self, _: &mut Context<'_>, _: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn facts(&self) -> TransportFacts {
            TransportFacts::default()
        }
    }

    #[test]
    fn who_has_used_up_its_budget_yields_and_is_woken_until_it_has_another() {
        struct Woken(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let (mut pipe, mut reader) = (Pipe::new(), Reader { take: WINDOW, ..Reader::default() });
        read(&mut pipe, &mut reader, WINDOW);
        assert!(!pipe.yields());
        let woken = std::sync::Arc::new(Woken(false.into()));
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        while pipe.poll_read(&mut cx, &mut reader, Instant::now) {
            assert!(pipe.bytes_received <= u64::from(BUDGET) + WINDOW as u64 && !pipe.yields());
        }
        assert!(pipe.yields() && woken.0.load(std::sync::atomic::Ordering::SeqCst));
        pipe.renew_budget();
        assert!(!pipe.yields());
    }

    fn read(pipe: &mut Pipe<Source>, reader: &mut Reader, up_to: usize) {
        pipe.renew_budget();
        pipe.transport = Some(Source(up_to));
        assert!(pipe.poll_read(&mut Context::from_waker(Waker::noop()), reader, Instant::now));
    }

    /// Reads a frame of so many bytes to its end, and takes it. What was read behind it stays.
    fn read_frame(pipe: &mut Pipe<Source>, reader: &mut Reader, len: usize) {
        loop {
            let held = pipe.window.len();
            reader.hint = if held == 0 { 0 } else { len - held };
            reader.take = 0;
            pipe.make_room(reader);
            if pipe.window.capacity() >= len {
                reader.take = len;
            }
            read(pipe, reader, usize::MAX);
            if reader.take > 0 {
                reader.hint = 0;
                return;
            }
        }
    }

    #[test]
    fn copying_begins_when_the_application_keeps_frames_and_not_while_they_wait_for_it() {
        let (mut pipe, mut reader) = (Pipe::new(), Reader { take: 1000, waiting: true, ..Reader::default() });
        for _ in 0..3 {
            read(&mut pipe, &mut reader, 1000);
            assert!(!reader.copies, "they wait");
        }
        assert_eq!(reader.kept.len(), 3);
        reader.waiting = false; // the application has them all, and keeps them
        read(&mut pipe, &mut reader, 1000);
        assert!(reader.copies);
        reader.kept.clear();
        for _ in 0..=COPIED_READS {
            read(&mut pipe, &mut reader, 1000);
        }
        assert!(!reader.copies, "it keeps none any more");
    }

    #[test]
    fn a_window_whose_frames_wait_is_filled_before_the_next_is_taken() {
        const READ: usize = 4200;
        let (mut pipe, mut reader) = (Pipe::new(), Reader { take: READ, waiting: true, ..Reader::default() });
        for _ in 0..64 {
            read(&mut pipe, &mut reader, READ);
            pipe.rest(&reader);
        }
        let follows = |pair: &&[BytesMut]| pair[0].as_ptr_range().end == pair[1].as_ptr();
        let windows = 1 + reader.kept.windows(2).filter(|pair| !follows(pair)).count();
        assert!(windows <= (64 * READ).div_ceil(WINDOW - TAIL - READ), "{windows} windows");
        reader.waiting = false;
        pipe.rest(&reader);
        assert!(!pipe.owns_window, "nothing waits any more");
    }

    /// A head that a limit of the user's allows: nothing tells how much of it lacks.
    #[test]
    fn there_is_room_for_a_head_that_is_larger_than_a_window() {
        let (mut pipe, mut reader) = (Pipe::new(), Reader::default());
        while pipe.window.len() < 1_000_000 {
            read(&mut pipe, &mut reader, 1000);
            assert!(!reader.eof, "a read without room looks like the end");
        }
        assert!(pipe.window.capacity() <= 2 * (pipe.window.len() + LEFTOVER));
    }

    #[test]
    fn behind_a_big_frame_a_header_gets_room_for_one_like_it_and_no_more() {
        for len in [200_000, 700_000, 1024 * 1024] {
            let (mut pipe, mut reader) = (Pipe::new(), Reader::default());
            for _ in 0..5 {
                read_frame(&mut pipe, &mut reader, len);
                let held = pipe.window.len();
                if held == 0 {
                    read(&mut pipe, &mut reader, HEADER);
                }
                reader.hint = 16 * 1024 * 1024;
                pipe.make_room(&mut reader);
                let held = pipe.window.len();
                // All of the memory, whatever is shown of it.
                let memory = Vec::from(mem::take(&mut pipe.window));
                let size = memory.capacity();
                pipe.window = BytesMut::from(Bytes::from(memory));
                assert!(size <= len + 4 * HEADER + held + WINDOW, "{size} bytes behind a frame of {len}");
            }
        }
    }

    #[test]
    fn behind_a_big_frame_no_more_than_a_window_of_small_ones_is_read_at_once() {
        for len in (100_000..2_000_000).step_by(40_000) {
            let (mut pipe, mut reader) = (Pipe::new(), Reader::default());
            read_frame(&mut pipe, &mut reader, len);
            assert!(pipe.window.len() <= MAX_WINDOW, "{} bytes read behind a frame of {len}", pipe.window.len());
            if pipe.window.is_empty() {
                continue;
            }
            reader.hint = 5;
            pipe.make_room(&mut reader);
            assert!(pipe.window.capacity() <= MAX_WINDOW, "{} of room behind {len}", pipe.window.capacity());
        }
    }

    #[test]
    fn behind_a_big_frame_little_is_read_until_the_next_length_is_known() {
        let (mut pipe, mut reader) = (Pipe::new(), Reader::default());
        read_frame(&mut pipe, &mut reader, 1024 * 1024);
        pipe.window.clear();
        reader.take = 0;
        read(&mut pipe, &mut reader, usize::MAX);
        assert_eq!(pipe.window.len(), LEFTOVER);
        reader.take = LEFTOVER; // they were small ones
        pipe.offer(&mut reader, Instant::now());
        pipe.last = WINDOW as u32;
        pipe.rest(&reader);
        assert_eq!(pipe.window.capacity(), 0, "at rest");
        read(&mut pipe, &mut reader, usize::MAX);
        assert!(pipe.bytes_received > 1024 * 1024 + WINDOW as u64, "and then as much as ever");
    }

    /// Else a small frame that is kept, by whoever gets that window next, keeps all of it.
    #[test]
    fn a_big_buffer_does_not_pass_for_a_window() {
        for len in (100_000..2_000_000).step_by(10_000) {
            let (mut pipe, mut reader) = (Pipe::new(), Reader::default());
            read_frame(&mut pipe, &mut reader, len);
            pipe.window.clear();
            pipe.rest(&reader);
            let mut next = pool::window();
            assert!(!next.try_reclaim(MAX_WINDOW + 1), "behind a frame of {len}");
            pool::give_window(next);
        }
    }
}
