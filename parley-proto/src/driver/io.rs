//! The I/O of one client: transport, timers, dialling, commands. It runs beside the callbacks, in the same task.
//!
//! One turn does all that can be done without waiting: commands come in, outputs are carried out, the transport is
//! read, and what all of that produced leaves in one vectored write before the task sleeps.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use core::net::SocketAddr;

use super::Ending;
use super::handle::{Taken, Ticket};
use super::link::Link;
use super::pipe::Pipe;
use super::runtime::{Clock, Runtime, Transport};
use super::trace::Trace;
use crate::codec::Frame;
use crate::error::{BoxError, StopReason};
use crate::handler::{Action, Answer, Handler};
use crate::session::{Call, ClientState, DialId, Output, Returned, Session, Upcoming};
use crate::transport::TlsError;

/// Callbacks run in one poll of the task before it yields to others.
const CALL_BUDGET: u32 = 1024;
type Step<T> = Pin<Box<dyn Future<Output = Done<T>> + Send>>;
type Steps<T> = Vec<(DialId, Step<T>)>;

/// What a step of dialling came to.
enum Done<T> {
    Resolved(io::Result<Vec<SocketAddr>>),
    Dialled(io::Result<T>),
    Tls(Result<T, TlsError>),
}

/// What the loop does next.
pub(super) enum Next<I> {
    /// [`Io::poll_message`] has one.
    Message,
    Call(Call<I>),
    Stopped(StopReason),
}

impl<I> Next<I> {
    /// The callback, if it is not for a message.
    ///
    /// # Errors
    ///
    /// The client has ended, for this reason.
    #[inline]
    pub(super) fn into_call(self) -> Result<Option<Call<I>>, StopReason> {
        match self {
            Self::Message => Ok(None),
            Self::Call(call) => Ok(Some(call)),
            Self::Stopped(reason) => Err(reason),
        }
    }
}

/// What came of lending a message to the handler. No more than that: what the callback returned would be moved.
pub(super) enum Offered {
    /// There is none.
    Nothing,
    /// The handler is to have it as a frame.
    Passed,
    /// It is dealt with.
    Done,
}

pub(super) struct Io<R: Runtime, I> {
    /// Comes before all else on drop: whatever is dropped then, an info of the user's say, finds the client ended.
    pub(super) ending: Ending<I>,
    pub(super) session: Session<I, Ticket>,
    pub(super) now: Instant,
    runtime: R,
    /// Empty but while it is taken in; `None` for a client of which no handle has asked anything.
    taken: Option<Box<Taken<I>>>,
    pipe: Pipe<R::Transport>,
    /// The steps of dialling under way; `None` while there are none.
    steps: Option<Box<Steps<R::Transport>>>,
    known_waker: Option<Waker>,
    published: (ClientState, bool),
    call_budget: u32,
    /// The last poll of the task ended in waiting.
    asleep: bool,
    /// The I/O has not had its turn in this poll of the task.
    io_due: bool,
    pub(super) trace: Trace,
}

/// Of a client that has ended nothing is left to give back.
impl<R: Runtime, I> Drop for Io<R, I> {
    fn drop(&mut self) {
        self.ending.abort(self.session.abort());
        self.tell(); // what was given back by that
    }
}

impl<R: Runtime, I> Io<R, I> {
    /// Tells the handles what has changed for them.
    pub(super) fn tell(&mut self) {
        let (released, parts) = self.session.take_released();
        let infos = self.session.take_released_infos();
        if released > 0 || parts > 0 || infos > 0 {
            self.ending.shared.release(released, parts, infos);
        }
        if let Some(losses) = self.session.take_losses() {
            self.ending.shared.tell_losses(losses);
        }
        let rtt = self.session.rtt();
        self.ending.shared.stats.store(&self.session.counters(), self.pipe.bytes_received, self.pipe.bytes_sent, rtt);
        let state = (self.session.state(), self.session.is_closing());
        if state != self.published && state.0 != ClientState::Stopped {
            self.published = state;
            self.ending.shared.publish(state.0, state.1);
        }
    }
}

impl<R: Runtime, I: Send + 'static> Io<R, I> {
    pub(super) fn new(runtime: R, session: Session<I, Ticket>, ending: Ending<I>) -> Self {
        let now = runtime.now();
        let trace = Trace::new(now, ending.wanted_name(), session.is_accepted());
        Self {
            ending,
            session,
            now,
            runtime,
            taken: None,
            pipe: Pipe::new(),
            steps: None,
            known_waker: None,
            published: (ClientState::Disconnected, false),
            call_budget: 0,
            asleep: true,
            io_due: true,
            trace,
        }
    }

    /// Over a transport that is up already.
    pub(super) fn with_pipe(mut self, pipe: Pipe<R::Transport>) -> Self {
        self.pipe = pipe;
        self
    }

    /// What was read behind the request, for a connection that was accepted just now.
    pub(super) fn offer(&mut self) {
        self.pipe.offer(&mut self.session, self.now);
    }

    /// The connection and its transport, for an application that goes on without a session.
    pub(super) fn into_link<C: Clock>(mut self, clock: C) -> Option<Link<R::Transport, C>> {
        let connection = self.session.take_connection()?;
        Some(Link::new(connection, mem::replace(&mut self.pipe, Pipe::new()), clock))
    }

    /// Called first in every poll: after a wait there are new budgets and a fresh look at the clock.
    #[inline]
    pub(super) fn resume(&mut self) {
        if self.asleep {
            self.asleep = false;
            self.io_due = true;
            self.ending.shared.awake();
            self.refresh();
            self.pipe.renew_budget();
            self.call_budget = CALL_BUDGET;
        }
    }

    /// What became of a callback. Deadlines count from here: it may have taken its time without waiting.
    pub(super) fn called(&mut self, returned: Returned) {
        self.refresh();
        match &returned {
            Returned::Prepare(outcome) => self.trace.phase(self.now, "prepare", outcome.is_ok()),
            Returned::Retry(_) => {
                self.session.called(self.now, returned);
                if let Some(at) = self.session.retry_at() {
                    self.trace.retry(self.now, at);
                }
                return;
            }
            _ => {}
        }
        self.session.called(self.now, returned);
    }

    fn refresh(&mut self) {
        self.now = self.runtime.now();
    }

    /// The next message of those at hand, without a look at anything else.
    #[inline(always)]
    pub(super) fn poll_message(&mut self) -> Option<Frame> {
        if self.call_budget == 0 {
            return None;
        }
        self.call_budget -= 1;
        self.session.poll_message()
    }

    /// Lends the next message, if there is one, to a handler that may deal with it at once.
    #[inline(always)]
    pub(super) fn lend_message<H: Handler<I>>(&mut self, handler: &mut H) -> Offered {
        if self.call_budget == 0 {
            return Offered::Nothing;
        }
        let Some(message) = self.session.lend_message() else { return Offered::Nothing };
        match handler.handle_frame_ref(message.frame()) {
            Answer::Pass => return Offered::Passed,
            Answer::Continue => self.lent_done(),
            // What the callback has sent by a handle goes first.
            Answer::Push(frame) => match message.push(frame, !self.ending.shared.is_dirty()) {
                None => self.lent_done(),
                Some(frame) => self.lent_returned(Ok(Action::Push(*frame))),
            },
            Answer::Return(returned) => self.lent_returned(returned),
        }
        Offered::Done
    }

    /// A message that was lent is dealt with, and nothing is to be done.
    #[inline(always)]
    fn lent_done(&mut self) {
        self.call_budget -= 1;
        self.session.took_lent();
        self.take_commands();
        self.session.continued(self.now);
    }

    #[inline(never)]
    fn lent_returned(&mut self, returned: Result<Action, BoxError>) {
        self.call_budget -= 1;
        self.session.took_lent();
        self.acted(Some(returned));
    }

    /// What was asked for while the callback ran comes first: its own sends go before what it returns to push. `None`: it was
    /// dropped.
    #[inline]
    pub(super) fn acted(&mut self, returned: Option<Result<Action, BoxError>>) {
        self.take_commands();
        match returned {
            Some(Ok(Action::Continue)) => self.session.continued(self.now),
            Some(Ok(action @ (Action::Push(_) | Action::PushAll(_)))) => {
                self.session.called(self.now, Returned::Action(Ok(action)));
            }
            Some(returned) => self.called(Returned::Action(returned)),
            None => self.called(Returned::Dropped),
        }
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
            if !self.pipe.yields() {
                self.pipe.rest(&self.session);
                self.session.rest();
            }
            if self.ending.shared.sleep(cx, &mut self.known_waker) {
                return Poll::Pending;
            }
            self.ending.shared.awake();
        }
    }

    /// What handles have asked for since the last look.
    #[inline]
    pub(super) fn take_commands(&mut self) {
        if self.ending.shared.is_dirty() {
            self.take_dirty();
        }
    }

    #[inline(never)]
    fn take_dirty(&mut self) {
        self.refresh(); // deadlines count from here
        let reachable = self.ending.shared.take(&mut self.taken);
        self.session.set_unreachable(!reachable);
        let Some(taken) = &mut self.taken else { return };
        self.session.feed(self.now, &mut taken.fed);
        while let Some(command) = taken.commands.pop_front() {
            self.session.command(self.now, command);
        }
        taken.shrink();
    }

    /// Carries out what the session wants. `Some`: what only the loop can do.
    fn carry_out(&mut self) -> Option<Next<I>> {
        let next = loop {
            let output = match self.session.poll_upcoming(self.now) {
                None => break None,
                Some(Upcoming::Message) => break Some(Next::Message),
                Some(Upcoming::Output(output)) => output,
            };
            match output {
                Output::Call(call) => break Some(Next::Call(call)),
                Output::Stopped(reason) => {
                    self.pipe.abort();
                    self.steps = None;
                    break Some(Next::Stopped(reason));
                }
                Output::Settle(ticket, outcome) => self.ending.shared.settle(ticket, outcome),
                Output::Shutdown(how) => self.pipe.shut_down(how),
                Output::Cancel(id) => {
                    self.steps.take_if(|steps| {
                        steps.retain(|(step, _)| *step != id);
                        steps.is_empty()
                    });
                    self.pipe.abort();
                }
                Output::Resolve(id, host, port) => {
                    self.trace.begin(self.now);
                    let resolve = self.runtime.resolve(&host, port);
                    self.begin(id, async { Done::Resolved(resolve.await) });
                }
                Output::Dial(id, addr) => {
                    self.trace.begin(self.now);
                    let dial = self.runtime.dial(addr, &self.session.tcp());
                    self.begin(id, async { Done::Dialled(dial.await) });
                }
                Output::StartTls(id, target) => {
                    if let Some(transport) = self.pipe.take() {
                        let tls = self.runtime.start_tls(transport, &target);
                        self.begin(id, async { Done::Tls(tls.await) });
                    }
                }
            }
        };
        self.tell();
        if cfg!(feature = "tracing") {
            self.trace(next.as_ref());
        }
        next
    }

    fn trace(&mut self, next: Option<&Next<I>>) {
        match next {
            Some(Next::Call(Call::Prepare(call))) => self.trace.attempt(self.now, &call.0, &call.1),
            Some(Next::Call(Call::Connect(connected))) => {
                self.trace.connected(self.now, connected, self.ending.shared.numbers());
            }
            Some(Next::Call(Call::Disconnect(reason))) => {
                self.trace.disconnected(self.now, reason, self.ending.shared.numbers());
            }
            Some(Next::Stopped(reason)) => self.trace.stopped(reason),
            _ => {}
        }
        let counters = self.session.counters();
        let (dropped, refused) = (counters.dropped, counters.refused);
        self.trace.lost(dropped, refused);
    }

    fn begin(&mut self, id: DialId, step: impl Future<Output = Done<R::Transport>> + Send + 'static) {
        self.steps.get_or_insert_default().push((id, Box::pin(step)));
    }

    fn poll_steps(&mut self, cx: &mut Context<'_>) -> bool {
        let mut index = 0;
        while let Some((id, step)) = self.steps.as_mut().and_then(|steps| steps.get_mut(index)) {
            let id = *id;
            let Poll::Ready(done) = step.as_mut().poll(cx) else {
                index += 1;
                continue;
            };
            if let Some(steps) = &mut self.steps {
                drop(steps.swap_remove(index));
            }
            self.steps.take_if(|steps| steps.is_empty());
            self.refresh();
            match done {
                Done::Resolved(outcome) => {
                    self.trace.phase(self.now, "dns", outcome.is_ok());
                    self.session.resolved(self.now, id, outcome);
                }
                Done::Dialled(outcome) => {
                    self.trace.phase(self.now, "tcp", outcome.is_ok());
                    let outcome = outcome.map(|transport| self.pipe.adopt(transport).facts());
                    self.session.dialled(self.now, id, outcome);
                }
                Done::Tls(outcome) => {
                    self.trace.phase(self.now, "tls", outcome.is_ok());
                    let outcome = outcome.map(|transport| self.pipe.adopt(transport).facts());
                    self.session.tls_done(self.now, id, outcome);
                }
            }
            return true;
        }
        false
    }

    /// One read. True: something has changed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        self.pipe.poll_read(cx, &mut self.session, || self.now)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        self.pipe.poll_write(cx, &mut self.session, || self.now)
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((at, _)) = self.session.poll_timeout() else { return false };
        if at <= self.now {
            self.session.handle_timeout(self.now);
            return true;
        }
        if self.runtime.poll_sleep(cx, at).is_pending() {
            return false;
        }
        self.refresh();
        true
    }
}
