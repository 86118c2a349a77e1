//! The I/O of one client: transport, timers, dialling, commands. It runs beside the callbacks, in the same task.
//!
//! One turn does all that can be done without waiting: commands come in, outputs are carried out, the transport is
//! read, and what all of that produced leaves in one vectored write before the task sleeps.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::BytesMut;
use core::net::SocketAddr;

use super::Ending;
use super::handle::{Shared, Ticket};
use super::runtime::{Runtime, Transport};
use crate::codec::Frame;
use crate::connection::{ENCODE_AHEAD, Shutdown};
use crate::error::StopReason;
use crate::pool::{self, WINDOW};
use crate::session::{Call, ClientState, Command, DialId, Output, Returned, Session};
use crate::transport::{TcpOptions, TlsError};

/// Bytes read and written in one poll of the task before it yields to others.
const IO_BUDGET: usize = 256 * 1024;
/// Callbacks run in one poll of the task before it yields to others.
const CALL_BUDGET: usize = 1024;
/// Slices of one vectored write.
const SLICES: usize = 16;
/// For so many reads small frames are copied out, after a window was found to be still in use.
const COPIED_READS: u8 = 64;
/// An unfinished frame up to this size leaves its window while the task sleeps.
const LEFTOVER: usize = 4 * 1024;

type Step<T> = Pin<Box<dyn Future<Output = Done<T>> + Send>>;

/// What a step of dialling came to.
enum Done<T> {
    Resolved(io::Result<Vec<SocketAddr>>),
    Dialled(io::Result<T>),
    Tls(Result<T, TlsError>),
}

/// What the loop does next.
pub(super) enum Next<I> {
    Call(Call<I>),
    Stopped(StopReason),
}

pub(super) struct Io<R: Runtime, I> {
    /// Comes before all else on drop: whatever is dropped then, an info of the user's say, finds the client ended.
    pub(super) ending: Ending<I>,
    pub(super) session: Session<I, Ticket>,
    pub(super) now: Instant,
    runtime: R,
    tcp: TcpOptions,
    shared: Arc<Shared<I>>,
    commands: VecDeque<Command<I, Ticket>>,
    transport: Option<R::Transport>,
    /// Begins with the unfinished frame, if there is one.
    window: BytesMut,
    /// It refers to memory of a window's size or more, even when it is empty and shows no capacity.
    owns_window: bool,
    copied_reads: u8,
    /// Something was written and not flushed.
    unflushed: bool,
    /// The outgoing direction is being ended.
    shutting_down: bool,
    /// The steps of dialling under way; boxed, since at rest a future is as big as its largest state.
    steps: Vec<(DialId, Step<R::Transport>)>,
    /// What the runtime's one sleep is set to. Input does not touch it: an early one fires once in vain.
    armed: Option<Instant>,
    known_waker: Option<Waker>,
    published: (ClientState, bool),
    bytes_received: u64,
    bytes_sent: u64,
    io_budget: usize,
    call_budget: usize,
    /// The last poll of the task ended in waiting.
    asleep: bool,
    /// The I/O has not had its turn in this poll of the task.
    io_due: bool,
}

/// Of a client that has ended nothing is left to give back.
impl<R: Runtime, I> Drop for Io<R, I> {
    fn drop(&mut self) {
        self.ending.abort(self.session.abort());
    }
}

impl<R: Runtime, I: Send + 'static> Io<R, I> {
    pub(super) fn new(runtime: R, session: Session<I, Ticket>, tcp: TcpOptions, ending: Ending<I>) -> Self {
        let now = runtime.now();
        Self {
            shared: ending.shared.clone(),
            ending,
            session,
            now,
            runtime,
            tcp,
            commands: VecDeque::new(),
            transport: None,
            window: BytesMut::new(),
            owns_window: false,
            copied_reads: 0,
            unflushed: false,
            shutting_down: false,
            steps: Vec::new(),
            armed: None,
            known_waker: None,
            published: (ClientState::Disconnected, false),
            bytes_received: 0,
            bytes_sent: 0,
            io_budget: 0,
            call_budget: 0,
            asleep: true,
            io_due: true,
        }
    }

    /// Called first in every poll: after a wait there are new budgets and a fresh look at the clock.
    #[inline]
    pub(super) fn resume(&mut self) {
        if self.asleep {
            self.asleep = false;
            self.io_due = true;
            self.shared.awake();
            self.refresh();
            self.io_budget = IO_BUDGET;
            self.call_budget = CALL_BUDGET;
        }
    }

    /// What became of a callback. Deadlines count from here: it may have taken its time without waiting.
    pub(super) fn called(&mut self, returned: Returned) {
        self.refresh();
        self.session.called(self.now, returned);
    }

    fn refresh(&mut self) {
        self.now = self.runtime.now();
    }

    /// The next frame of those at hand, without a look at anything else.
    #[inline]
    pub(super) fn poll_frame(&mut self) -> Option<Frame> {
        if self.call_budget == 0 {
            return None;
        }
        self.call_budget -= 1;
        self.session.poll_frame()
    }

    /// Runs until there is a callback to run, or the client has ended.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next<I>> {
        self.resume();
        if self.call_budget == 0 {
            cx.waker().wake_by_ref(); // others first; what is queued stays for the next turn
            self.tell();
            self.asleep = true;
            return Poll::Pending;
        }
        self.call_budget -= 1;
        let next = self.turn(cx);
        self.asleep = next.is_pending();
        next
    }

    /// Runs beside a callback that waits. True: the callback has to be dropped.
    pub(super) fn poll_beside(&mut self, cx: &mut Context<'_>) -> bool {
        self.refresh();
        let next = self.turn(cx);
        debug_assert!(next.is_pending(), "one callback at a time");
        self.asleep = true;
        self.session.call_abandoned()
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Next<I>> {
        if mem::take(&mut self.io_due) {
            // Once in every poll of the task, lest callbacks that are never at an end starve the I/O.
            self.take_commands();
            let _ = self.poll_steps(cx) | self.poll_read(cx) | self.poll_write(cx) | self.poll_timers(cx);
        }
        loop {
            self.take_commands();
            if let Some(next) = self.carry_out() {
                return Poll::Ready(next);
            }
            if self.session.call_abandoned() {
                return Poll::Pending;
            }
            if self.poll_steps(cx) || self.poll_read(cx) || self.poll_write(cx) || self.poll_timers(cx) {
                continue;
            }
            self.rest();
            if self.shared.sleep(cx, &mut self.known_waker) {
                return Poll::Pending;
            }
            self.shared.awake();
        }
    }

    /// What handles have asked for since the last look.
    #[inline]
    pub(super) fn take_commands(&mut self) {
        if self.shared.is_dirty() {
            self.take_dirty();
        }
    }

    fn take_dirty(&mut self) {
        self.refresh(); // deadlines count from here
        let reachable = self.shared.take_commands(&mut self.commands);
        self.session.set_unreachable(!reachable);
        while let Some(command) = self.commands.pop_front() {
            self.session.command(self.now, command);
        }
    }

    /// Carries out what the session wants. `Some`: what only the loop can do.
    fn carry_out(&mut self) -> Option<Next<I>> {
        let next = loop {
            match self.session.poll_output(self.now) {
                None => break None,
                Some(Output::Call(call)) => break Some(Next::Call(call)),
                Some(Output::Stopped(reason)) => {
                    self.drop_transport();
                    self.steps.clear();
                    break Some(Next::Stopped(reason));
                }
                Some(Output::Settle(ticket, outcome)) => self.shared.settle(ticket, outcome),
                Some(Output::Shutdown(Shutdown::Write)) => self.shutting_down = true,
                Some(Output::Shutdown(Shutdown::Close)) => self.close_transport(),
                Some(Output::Shutdown(Shutdown::Abort)) => self.drop_transport(),
                Some(Output::Cancel(id)) => {
                    self.steps.retain(|(step, _)| *step != id);
                    self.drop_transport();
                }
                Some(Output::Resolve(id, host, port)) => {
                    let resolve = self.runtime.resolve(&host, port);
                    self.steps.push((id, Box::pin(async { Done::Resolved(resolve.await) })));
                }
                Some(Output::Dial(id, addr)) => {
                    let dial = self.runtime.dial(addr, &self.tcp);
                    self.steps.push((id, Box::pin(async { Done::Dialled(dial.await) })));
                }
                Some(Output::StartTls(id, target)) => {
                    if let Some(transport) = self.transport.take() {
                        let tls = self.runtime.start_tls(transport, &target);
                        self.steps.push((id, Box::pin(async { Done::Tls(tls.await) })));
                    }
                }
            }
        };
        self.tell();
        next
    }

    /// Tells the handles what has changed for them.
    pub(super) fn tell(&mut self) {
        let released = self.session.take_released();
        let infos = self.session.take_released_infos();
        if released > 0 || infos > 0 {
            self.shared.release(released, infos);
        }
        let rtt = self.session.rtt();
        self.shared.stats.store(self.session.counters(), self.bytes_received, self.bytes_sent, rtt);
        let state = (self.session.state(), self.session.is_closing());
        if state != self.published && state.0 != ClientState::Stopped {
            self.published = state;
            self.shared.publish(state.0, state.1);
        }
    }

    fn poll_steps(&mut self, cx: &mut Context<'_>) -> bool {
        let mut index = 0;
        while let Some((id, step)) = self.steps.get_mut(index) {
            let id = *id;
            let Poll::Ready(done) = step.as_mut().poll(cx) else {
                index += 1;
                continue;
            };
            drop(self.steps.swap_remove(index));
            self.refresh();
            match done {
                Done::Resolved(outcome) => self.session.resolved(self.now, id, outcome),
                Done::Dialled(outcome) => {
                    let outcome = outcome.map(|transport| self.adopt(transport));
                    self.session.dialled(self.now, id, outcome);
                }
                Done::Tls(outcome) => {
                    let outcome = outcome.map(|transport| self.adopt(transport));
                    self.session.tls_done(self.now, id, outcome);
                }
            }
            return true;
        }
        false
    }

    fn adopt(&mut self, transport: R::Transport) -> super::TransportFacts {
        self.unflushed = false;
        self.shutting_down = false;
        self.copied_reads = 0; // a new connection's decoder does not copy
        self.transport.insert(transport).facts()
    }

    /// Ends the outgoing direction as far as that goes without waiting, and closes.
    fn close_transport(&mut self) {
        if let Some(transport) = &mut self.transport {
            // A stream that cannot take its last bytes now is closed all the same; the peer sees an end without them.
            let _ = transport.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
        self.drop_transport();
    }

    fn drop_transport(&mut self) {
        self.transport = None;
        self.shutting_down = false;
        self.unflushed = false;
        self.release_window();
        self.window = BytesMut::new();
    }

    /// One read. True: something has changed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.transport.is_none() || !self.session.wants_input() {
            return false;
        }
        if self.io_budget == 0 {
            cx.waker().wake_by_ref();
            return false;
        }
        if self.session.queued() >= ENCODE_AHEAD && self.poll_write(cx) {
            return true;
        }
        self.make_room();
        let Some(transport) = &mut self.transport else { return false };
        match transport.poll_read(cx, &mut self.window) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.session.handle_eof(self.now),
            Poll::Ready(Ok(n)) => {
                self.bytes_received += n as u64;
                self.io_budget = self.io_budget.saturating_sub(n);
                self.session.handle_input(self.now, &mut self.window);
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
                self.io_budget = self.io_budget.saturating_sub(1);
            }
            Poll::Ready(Err(error)) => self.handle_read_error(error),
        }
        true
    }

    /// TLS tells an end without `close_notify` by an error; for the connection it is an end like any other: unclean
    /// before a Close, without meaning behind both.
    fn handle_read_error(&mut self, error: io::Error) {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            self.session.handle_eof(self.now);
        } else {
            self.session.handle_lost(self.now, error);
        }
    }

    /// Room for the next read. A frame that fits a window gets one from the pool; a bigger one has a buffer of its
    /// own, which grows with what arrives (never by what was announced) up to just what the frame lacks.
    fn make_room(&mut self) {
        let held = self.window.len();
        if held == 0 {
            return self.fresh_window();
        }
        /// The longest header (section 5.2), so that the next frame's comes along.
        const HEADER: usize = 14;
        let lacking = self.session.read_hint().saturating_add(HEADER).max(LEFTOVER);
        if self.window.capacity() - held >= lacking {
            return;
        }
        if held.saturating_add(lacking) > WINDOW {
            self.window.reserve(lacking.min(held.max(WINDOW)));
            self.owns_window = true;
        } else if !self.window.try_reclaim(WINDOW - held) || self.window.capacity() > 2 * WINDOW {
            let mut window = pool::window();
            window.extend_from_slice(&self.window);
            self.release_window();
            self.window = window;
            self.owns_window = true;
        }
    }

    /// An empty window: the one at hand, unless somebody keeps a slice of it.
    fn fresh_window(&mut self) {
        if self.owns_window {
            if self.window.try_reclaim(WINDOW) && self.window.capacity() <= 2 * WINDOW {
                return self.count_copied_read();
            }
            if self.window.capacity() < WINDOW && self.copied_reads == 0 {
                self.copied_reads = COPIED_READS;
                self.session.set_copy_small(true);
            }
            self.release_window();
        }
        self.window = pool::window();
        self.owns_window = true;
    }

    fn release_window(&mut self) {
        if mem::take(&mut self.owns_window) {
            pool::give_window(mem::take(&mut self.window));
        }
    }

    fn count_copied_read(&mut self) {
        if self.copied_reads > 0 {
            self.copied_reads -= 1;
            if self.copied_reads == 0 {
                self.session.set_copy_small(false);
            }
        }
    }

    /// Before the task sleeps: a connection at rest holds no window, a small leftover just itself.
    fn rest(&mut self) {
        let held = self.window.len();
        if held == 0 {
            self.release_window();
        } else if held <= LEFTOVER && self.owns_window {
            let leftover = BytesMut::from(&self.window[..]);
            self.release_window();
            self.window = leftover;
        }
    }

    /// Writes what there is, as far as it goes. True: something has changed for somebody who waits.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(transport) = &mut self.transport else { return false };
        let mut progress = false;
        while let Some(transmit) = self.session.transmit() {
            if transmit.is_empty() {
                break;
            }
            if self.io_budget == 0 {
                cx.waker().wake_by_ref();
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = transmit.fill(&mut slices);
            match transport.poll_write(cx, &slices[..count]) {
                Poll::Pending => {
                    self.session.handle_written(self.now, 0);
                    break;
                }
                Poll::Ready(Ok(0)) => {
                    self.session.handle_lost(self.now, io::ErrorKind::WriteZero.into());
                    return true;
                }
                Poll::Ready(Ok(n)) => {
                    progress = true;
                    self.unflushed = true;
                    self.bytes_sent += n as u64;
                    self.io_budget = self.io_budget.saturating_sub(n);
                    self.session.handle_written(self.now, n);
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => {
                    self.session.handle_lost(self.now, error);
                    return true;
                }
            }
        }
        if self.unflushed {
            match transport.poll_flush(cx) {
                Poll::Pending => return progress,
                Poll::Ready(Ok(())) => {
                    progress = true; // also when the writes were long ago: their senders wait
                    self.unflushed = false;
                    self.session.handle_flushed();
                }
                Poll::Ready(Err(error)) => {
                    self.session.handle_lost(self.now, error);
                    return true;
                }
            }
        }
        if self.shutting_down && self.session.queued() == 0 && transport.poll_shutdown(cx).is_ready() {
            self.shutting_down = false;
            progress = true;
        }
        progress
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((at, _)) = self.session.poll_timeout() else { return false };
        if at <= self.now {
            self.session.handle_timeout(self.now);
            return true;
        }
        let until = match self.armed {
            Some(armed) if armed <= at => armed,
            _ => at,
        };
        self.armed = Some(until);
        if self.runtime.poll_sleep(cx, until).is_pending() {
            return false;
        }
        self.armed = None;
        self.refresh();
        true
    }
}
