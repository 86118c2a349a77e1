//! A bare connection over its transport: what stands under a [`WebSocket`](super::WebSocket), and under a server's
//! handshake.

use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;

use super::census::{Notice, Permit, Undecided};
use super::pipe::Pipe;
use super::runtime::{Clock, Transport};
use crate::codec::{CloseFrame, Frame};
use crate::connection::{Connection, Event, Shutdown, State};

pub(super) struct Link<T, C> {
    pub(super) connection: Connection,
    pub(super) pipe: Pipe<T>,
    pub(super) clock: C,
    /// The last look at the clock.
    pub(super) now: Instant,
    /// That was in this poll.
    is_fresh: bool,
    /// A server's connection: what the server has to say.
    pub(super) permit: Option<Box<Permit>>,
    /// The last poll ended in waiting: the budget is to be renewed.
    rested: bool,
}

impl<T: Transport, C: Clock> Link<T, C> {
    pub(super) fn new(connection: Connection, pipe: Pipe<T>, clock: C) -> Self {
        let now = clock.now();
        Self { connection, pipe, clock, now, is_fresh: true, permit: None, rested: true }
    }

    /// With a transport that is up, and what was read from it already.
    pub(super) fn over(connection: Connection, transport: T, input: BytesMut, clock: C) -> Self {
        let mut link = Self::new(connection, Pipe::over(transport, input), clock);
        link.offer();
        link
    }

    /// The request was read: what counts it, for whoever decides about it.
    pub(super) fn undecided(&mut self) -> Option<Box<Undecided>> {
        let mut undecided = self.permit.as_mut()?.undecided.take()?;
        undecided.read();
        Some(undecided)
    }

    /// Input that was left over, for a connection that takes it now.
    pub(super) fn offer(&mut self) {
        self.pipe.offer(&mut self.connection, self.now);
    }

    /// The time of this poll. One that finds input, or writes all there is at once, has no use for it.
    fn look(&mut self) -> Instant {
        look(&mut self.clock, &mut self.now, &mut self.is_fresh)
    }

    /// Called first in every poll: the clock is to be looked at again, and after a wait there is a new budget.
    pub(super) fn wake(&mut self, cx: &Context<'_>) {
        self.is_fresh = false;
        if self.rested {
            self.rested = false;
            self.pipe.renew_budget();
        }
        if let Some(permit) = &mut self.permit {
            match permit.notice(cx) {
                Notice::Stay => {}
                Notice::Leave => {
                    let now = self.look();
                    self.connection.close(now, &CloseFrame::going_away());
                }
                Notice::Gone => self.connection.abort(self.now),
            }
        }
    }

    /// The next event that is at hand.
    pub(super) fn event(&mut self) -> Option<Event> {
        let event = self.connection.poll_event();
        if matches!(event, Some(Event::Closed(_))) {
            let how = self.connection.poll_shutdown();
            self.pipe.shut_down(how.unwrap_or(Shutdown::Abort));
            // Whoever keeps the socket keeps no place in its server. A request that failed is counted first.
            self.permit.take_if(|permit| permit.undecided.is_none());
        }
        event
    }

    /// [`wake`](Self::wake), then the next event.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.wake(cx);
        loop {
            if let Some(event) = self.event() {
                return Poll::Ready(event);
            }
            ready!(self.advance(cx));
        }
    }

    /// The next event; `None`: frames are at hand, which are left where they are.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if self.connection.has_frames() && !self.connection.has_news() {
                return Poll::Ready(None);
            }
            if self.connection.is_quiet() {
                // Asked for an event in vain, it would give up what it needs again for the next read as well.
                self.connection.forget_lent();
            } else if let Some(event) = self.event() {
                return Poll::Ready(Some(event));
            }
            ready!(self.advance(cx));
        }
    }

    /// Ready: something has changed.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reads = self.connection.wants_input();
        while self.read(cx) {
            if !self.connection.is_mid_frame() {
                return Poll::Ready(());
            }
        }
        if self.pipe.yields() {
            self.rest();
            return Poll::Pending;
        }
        // Where the transport was asked for input already, that what was queued has left is no reason to ask again.
        let changed = self.write(cx) && !(reads && self.connection.state() == State::Open);
        if changed || self.keep_time(cx) {
            return Poll::Ready(());
        }
        self.rest();
        Poll::Pending
    }

    /// What was queued leaves, as far as it goes. True: something has changed.
    pub(super) fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let Self { connection, pipe, clock, now, is_fresh, .. } = self;
        let mut progress = pipe.poll_write(cx, connection, || look(clock, now, is_fresh));
        if self.pipe.is_up() {
            if let Some(how) = self.connection.poll_shutdown() {
                self.pipe.shut_down(how);
                progress = true;
            }
        }
        progress
    }

    /// A frame with which nothing else waits leaves from where it is: see [`Pipe::write_through`].
    #[inline]
    pub(super) fn write_through(&mut self, cx: &mut Context<'_>, frame: &Frame) -> Option<bool> {
        let Self { connection, pipe, clock, now, is_fresh, .. } = self;
        pipe.write_through(cx, connection, frame, || look(clock, now, is_fresh))
    }

    /// One read. The pongs that it asks for leave at once: the application may not look here again for long.
    pub(super) fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.connection.encoded();
        let Self { connection, pipe, clock, now, is_fresh, .. } = self;
        let progress = pipe.poll_read(cx, connection, || look(clock, now, is_fresh));
        if self.connection.encoded() != before {
            self.write(cx);
        }
        progress
    }

    /// True: a timer was due, or may be.
    pub(super) fn keep_time(&mut self, cx: &mut Context<'_>) -> bool {
        if self.connection.is_untimed() {
            let now = self.look();
            self.connection.set_time(now);
        }
        let Some((at, _)) = self.connection.poll_timeout() else { return false };
        // Whether it is time yet, the clock says without a look at it.
        if at <= self.now {
            let now = self.look();
            self.connection.handle_timeout(now);
            return true;
        }
        let due = self.clock.poll_sleep(cx, at).is_ready();
        if due {
            self.now = self.clock.now();
        }
        due
    }

    /// Before the task waits, or yields.
    pub(super) fn rest(&mut self) {
        self.rested = true;
        if self.pipe.yields() {
            return;
        }
        self.connection.rest(); // first: what it was lent lies in the window
        self.pipe.rest(&self.connection);
    }
}

/// [`Link::look`], while other parts of the link are lent.
fn look<C: Clock>(clock: &mut C, now: &mut Instant, is_fresh: &mut bool) -> Instant {
    if !*is_fresh {
        (*now, *is_fresh) = (clock.now(), true);
    }
    *now
}
