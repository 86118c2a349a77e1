//! What waits to be sent, and who waits for it to leave.
//!
//! ```text
//!  control ─┐                        begun: never given back
//!           ├─▶ encoded ─▶ the transport ─▶ the operating system
//!  data ────┘   (connection)                 settles its tickets
//!  given back when the connection ends
//! ```

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use crate::codec::{Chunk, CloseFrame, Frame, FrameRef, PreparedFrame};
use crate::connection::{Connection, Outgoing, State};
use crate::error::{DisconnectReason, SendError};
use crate::sparse::Sparse;

/// What a frame costs of a queue's bound beside its payload, so that empty frames are bounded too.
const FRAME_COST: usize = 32;

/// So much room is kept of a queue that is empty: what one held for a burst is not held for good.
pub(crate) const QUEUE_KEPT: usize = 256;

/// What a frame costs of a queue's bound, in bytes.
#[must_use]
pub fn cost(frame: &Frame) -> usize {
    frame.len().saturating_add(FRAME_COST)
}

/// As [`cost`].
pub(crate) fn cost_ref(frame: FrameRef<'_>) -> usize {
    frame.len().saturating_add(FRAME_COST)
}

/// As [`cost`].
#[must_use]
pub(crate) fn cost_prepared(frame: &PreparedFrame) -> usize {
    frame.len().saturating_add(FRAME_COST)
}

/// As [`cost`].
#[must_use]
pub(crate) fn cost_chunk(chunk: &Chunk) -> usize {
    chunk.payload.len().saturating_add(FRAME_COST)
}

/// Who sends a frame, and so which bound it counts to until it has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Another task: the bound of the handles' queue, kept there.
    Handle,
    /// The client's own handle: both bounds.
    Own,
    /// A callback's push: the next callback waits while it is over the bound.
    Push,
}

enum Item<T> {
    Frame {
        frame: Frame,
        ticket: Option<T>,
        source: Source,
    },
    /// Of a broadcast, by its number: nobody waits for it, and it counts to the bound of the handles' queue.
    Prepared {
        frame: PreparedFrame,
        from: u64,
    },
    /// A message in parts, with those of them that have not left.
    Message(Box<Message<T>>),
    /// One of them.
    Part {
        chunk: Chunk,
        ticket: Option<T>,
        own: bool,
    },
    Flush(T),
    /// A close that was asked for, behind all that was accepted before it.
    Close(CloseFrame),
}

/// A message in parts. What others send waits for its end, but for control frames.
struct Message<T> {
    /// The client's number for it.
    id: u64,
    /// Its parts; and in their turn what the callback that sends it puts between them: control frames, and flushes, which
    /// wait for no more than the parts before them.
    parts: VecDeque<Item<T>>,
    /// More parts are to come. So it is with one message at most.
    open: bool,
    /// A part has left: it can neither be taken back nor be left as it is.
    begun: bool,
}

/// The sends of one client.
pub(super) struct Outbox<T> {
    /// Pings and pongs go ahead of data that is not begun (section 5.5).
    control: Sparse<Item<T>>,
    data: Sparse<Item<T>>,
    /// Only the first items of `data` may leave: what `handle_connect` sends goes ahead of what waited for it.
    held: bool,
    /// Cost of what callbacks sent and that is not begun.
    pushed: usize,
    /// Cost of what handles sent and that has begun, or was given back, since the handles were last told.
    released: usize,
    /// Begun and not flushed: the output offset at which each ticket is settled.
    begun: Sparse<(u64, T)>,
    /// Up to this output offset the operating system has all.
    flushed: u64,
    settled: Sparse<(T, Result<(), SendError>)>,
    /// Frames whose encoding has begun.
    pub(super) sent: u64,
    /// `None` for a client that has needed none of it.
    seldom: Option<Box<Seldom<T>>>,
    /// Of this attempt or its connection, a frame was dropped that a handle had accepted and nobody waits for: a flush tells.
    unsent: bool,
}

/// What few clients need.
struct Seldom<T> {
    /// The message whose turn it is: nothing but control frames goes between its parts (section 5.4).
    writing: Option<Box<Message<T>>>,
    /// So many items at the front of `data` go ahead of all else: what `handle_connect` sent.
    first: usize,
    /// As [`Outbox::released`] for parts of messages, which have a bound of their own: what waits for a message's end fills the
    /// other.
    released_parts: usize,
    losses: Losses,
    /// They have grown since the handles were last told.
    is_news: bool,
}

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Self { writing: None, first: 0, released_parts: 0, losses: Losses::default(), is_news: false }
    }
}

impl<T> Seldom<T> {
    fn is_empty(&self) -> bool {
        let Self { writing, first, released_parts, losses, is_news } = self;
        writing.is_none() && (*first, *released_parts, *losses, *is_news) == (0, 0, Losses::default(), false)
    }
}

/// Frames that did not leave.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// Those that were accepted and nobody waits for.
    pub(crate) dropped: u64,
    /// Pushes that were refused from the start.
    pub(crate) refused: u64,
}

impl<T> Outbox<T> {
    pub(super) fn new() -> Self {
        Self {
            control: Sparse::new(),
            data: Sparse::new(),
            held: false,
            pushed: 0,
            released: 0,
            begun: Sparse::new(),
            flushed: 0,
            settled: Sparse::new(),
            sent: 0,
            seldom: None,
            unsent: false,
        }
    }

    /// A new attempt: what the last one lost was told, or nobody asked.
    pub(super) fn attempt(&mut self) {
        self.unsent = false;
    }

    /// A new connection: what waits goes on waiting until [`let_go`](Self::let_go).
    pub(super) fn hold(&mut self) {
        self.held = true;
        self.set_first(0);
        self.flushed = 0;
    }

    /// `handle_connect` has returned: what waited for it may leave behind what it sent.
    pub(super) fn let_go(&mut self) {
        self.held = false;
    }

    pub(super) fn pushed(&self) -> usize {
        self.pushed
    }

    /// Of frames, and of parts.
    pub(super) fn take_released(&mut self) -> (usize, usize) {
        let parts = self.seldom.as_mut().map_or(0, |seldom| mem::take(&mut seldom.released_parts));
        (mem::take(&mut self.released), parts)
    }

    fn first(&self) -> usize {
        self.seldom.as_ref().map_or(0, |seldom| seldom.first)
    }

    fn set_first(&mut self, first: usize) {
        if first != self.first() {
            self.seldom.get_or_insert_default().first = first;
        }
    }

    /// Behind what `handle_connect` has sent before, ahead of all else.
    fn insert_first(&mut self, item: Item<T>) {
        let first = self.first();
        self.data.insert(first, item);
        self.set_first(first + 1);
    }

    fn writing(&mut self) -> Option<&mut Message<T>> {
        self.seldom.as_mut()?.writing.as_deref_mut()
    }

    fn take_writing(&mut self) -> Option<Box<Message<T>>> {
        self.seldom.as_mut()?.writing.take()
    }

    pub(super) fn losses(&self) -> Losses {
        self.seldom.as_ref().map_or(Losses::default(), |seldom| seldom.losses)
    }

    /// What was lost so far, if that is more than at the last call.
    pub(super) fn take_losses(&mut self) -> Option<Losses> {
        let seldom = self.seldom.as_mut()?;
        mem::take(&mut seldom.is_news).then_some(seldom.losses)
    }

    fn count_dropped(&mut self, frames: u64) {
        if frames > 0 {
            let seldom = self.seldom.get_or_insert_default();
            seldom.losses.dropped += frames;
            seldom.is_news = true;
        }
    }

    /// A push is refused from the start.
    pub(super) fn count_refused(&mut self) {
        let seldom = self.seldom.get_or_insert_default();
        seldom.losses.refused += 1;
        seldom.is_news = true;
    }

    pub(super) fn poll_settled(&mut self) -> Option<(T, Result<(), SendError>)> {
        self.settled.pop_front()
    }

    /// The client's task is about to wait: what is empty holds no memory, or little where much went through it.
    #[inline]
    pub(super) fn rest(&mut self) {
        self.control.rest();
        self.data.shrink_to(QUEUE_KEPT);
        self.begun.rest();
        self.settled.rest();
        self.seldom.take_if(|seldom| seldom.is_empty());
    }

    #[inline]
    fn is_writing(&self) -> bool {
        self.seldom.as_ref().is_some_and(|seldom| seldom.writing.is_some())
    }

    /// Nothing waits, and nothing has to.
    #[inline]
    fn is_empty(&self) -> bool {
        self.control.is_empty() && self.data.is_empty() && !self.is_writing()
    }

    /// In line, or encoded at once when nothing is before it and there is room. Without a connection it waits for one.
    #[inline]
    pub(super) fn send(
        &mut self,
        connection: Option<&mut Connection>,
        now: Instant,
        frame: Frame,
        ticket: Option<T>,
        source: Source,
    ) {
        if frame.is_control() && frame.len() > 125 {
            return self.refuse(SendError::ControlTooLong(frame), ticket, source);
        }
        if let Some(connection) = connection {
            if !self.held && self.is_empty() && connection.has_room() {
                return self.begin(connection, now, frame, ticket, source);
            }
        }
        if source != Source::Handle {
            self.pushed += cost(&frame);
        }
        let is_control = frame.is_control();
        let item = Item::Frame { frame, ticket, source };
        if self.held && source != Source::Handle {
            match self.message_before_handle_connect() {
                Some(message) if is_control => message.parts.push_back(item),
                _ => self.insert_first(item),
            }
        } else if is_control {
            self.control.push_back(item);
        } else {
            self.data.push_back(item);
        }
    }

    /// [`send`](Self::send) for the usual frame, for which nobody waits: false if anything at all is in its way.
    #[inline(always)]
    pub(super) fn send_short(&mut self, outgoing: &mut Outgoing<'_>, frame: FrameRef<'_>, source: Source) -> bool {
        let begun = !self.held && self.is_empty() && outgoing.send_short(frame);
        if begun {
            self.count_begun(if source == Source::Push { 0 } else { cost_ref(frame) });
        }
        begun
    }

    /// As [`send`](Self::send), a frame of a broadcast.
    pub(super) fn send_prepared(
        &mut self,
        connection: Option<&mut Connection>,
        now: Instant,
        frame: PreparedFrame,
        from: u64,
    ) {
        match connection {
            Some(connection) if !self.held && self.is_empty() && connection.has_room() => {
                self.begin_prepared(connection, now, &frame);
            }
            _ if frame.is_control() => self.control.push_back(Item::Prepared { frame, from }),
            _ => self.data.push_back(Item::Prepared { frame, from }),
        }
    }

    /// What waits of this broadcast will not be sent, nor were `unseen` of its frames.
    pub(super) fn skip(&mut self, broadcast: u64, unseen: u64) {
        let (mut skipped, mut dropped) = (0, unseen);
        // Frames of a broadcast are never among those that `handle_connect` sent: `first` stays right.
        for queue in [&mut self.control, &mut self.data].into_iter().filter(|queue| !queue.is_empty()) {
            let before = queue.len();
            queue.retain(|item| match item {
                Item::Prepared { frame, from } if *from == broadcast => {
                    skipped += cost_prepared(frame);
                    false
                }
                _ => true,
            });
            dropped += (before - queue.len()) as u64;
        }
        self.count_dropped(dropped);
        self.released += skipped;
    }

    /// A frame of a broadcast that this client cannot send.
    pub(super) fn drop_prepared(&mut self, frame: &PreparedFrame) {
        self.released += cost_prepared(frame);
        self.count_dropped(1);
    }

    fn begin_prepared(&mut self, connection: &mut Connection, now: Instant, frame: &PreparedFrame) {
        match connection.send_prepared(now, frame) {
            Ok(_) => {
                self.sent += 1;
                self.released += cost_prepared(frame);
            }
            Err(_) => self.drop_prepared(frame),
        }
    }

    /// A part of a message, behind those before it; the first in line like any other frame. Part of a message that is unknown,
    /// since the connection on which it began is gone, is lost.
    pub(super) fn send_chunk(&mut self, id: u64, chunk: Chunk, ticket: Option<T>, own: bool) {
        let (first, open) = (chunk.first, !chunk.last);
        if !first && self.message(id).is_none() {
            return self.drop_chunk(&chunk, ticket, false, &DisconnectReason::Local);
        }
        if own {
            self.pushed += cost_chunk(&chunk);
        }
        let part = Item::Part { chunk, ticket, own };
        match self.message(id) {
            Some(message) => {
                message.open = open;
                message.parts.push_back(part);
            }
            None => {
                let message = Item::Message(Box::new(Message { id, parts: [part].into(), open, begun: false }));
                if self.held && own {
                    self.insert_first(message);
                } else {
                    self.data.push_back(message);
                }
            }
        }
    }

    fn message(&mut self, id: u64) -> Option<&mut Message<T>> {
        let waiting = self.data.iter_mut().rev().filter_map(|item| match item {
            Item::Message(message) => Some(&mut **message),
            _ => None,
        });
        let writing = self.seldom.as_mut().and_then(|seldom| seldom.writing.as_deref_mut());
        writing.into_iter().chain(waiting).find(|message| message.id == id)
    }

    /// Where the message stands that has more parts to come. `None` within: its turn has come.
    fn place_of_open(&self) -> Option<Option<usize>> {
        let writing = self.seldom.as_ref().and_then(|seldom| seldom.writing.as_ref());
        if writing.is_some_and(|message| message.open) {
            return Some(None);
        }
        self.data.iter().rposition(|item| matches!(item, Item::Message(message) if message.open)).map(Some)
    }

    fn message_at(&mut self, place: Option<usize>) -> Option<&mut Message<T>> {
        let Some(at) = place else { return self.writing() };
        match &mut self.data[at] {
            Item::Message(message) => Some(message),
            _ => None,
        }
    }

    /// The message that `handle_connect` has begun and not ended.
    fn message_before_handle_connect(&mut self) -> Option<&mut Message<T>> {
        let place = self.place_of_open().filter(|at| at.is_none_or(|at| at < self.first()))?;
        self.message_at(place)
    }

    /// No more parts of this message come, and those that wait do not leave. True: some have left, and the message can neither
    /// go on nor be taken back.
    pub(super) fn abandon(&mut self, id: u64) -> bool {
        if self.writing().is_some_and(|message| message.id == id) {
            let Some(mut message) = self.take_writing() else { return false };
            message.open = false;
            message.parts = self.without_chunks(message.parts);
            if message.begun {
                self.seldom.get_or_insert_default().writing = Some(message);
                return true;
            }
            self.put_back(0, message.parts, self.held || self.first() > 0);
        } else if let Some(at) =
            self.data.iter().position(|item| matches!(item, Item::Message(message) if message.id == id))
        {
            let Some(Item::Message(message)) = self.data.remove(at) else { return false };
            let first = at < self.first();
            self.set_first(self.first() - usize::from(first));
            let between = self.without_chunks(message.parts);
            self.put_back(at, between, first);
        }
        false
    }

    /// Drops the parts, keeps what stood between them.
    fn without_chunks(&mut self, parts: VecDeque<Item<T>>) -> VecDeque<Item<T>> {
        let mut between = VecDeque::new();
        for item in parts {
            match item {
                Item::Part { chunk, ticket, own } => self.drop_chunk(&chunk, ticket, own, &DisconnectReason::Local),
                other => between.push_back(other),
            }
        }
        between
    }

    /// In the place of a message that was taken back. `first`: it was among what `handle_connect` sent.
    fn put_back(&mut self, at: usize, items: VecDeque<Item<T>>, first: bool) {
        self.set_first(self.first() + if first { items.len() } else { 0 });
        for item in items.into_iter().rev() {
            self.data.insert(at, item);
        }
    }

    /// A part that will not be sent.
    pub(super) fn drop_chunk(&mut self, chunk: &Chunk, ticket: Option<T>, own: bool, reason: &DisconnectReason) {
        self.uncount_chunk(chunk, own);
        if let Some(ticket) = ticket {
            self.settled.push_back((ticket, Err(SendError::Lost(reason.clone()))));
        }
    }

    fn uncount_chunk(&mut self, chunk: &Chunk, own: bool) {
        let cost = cost_chunk(chunk);
        self.seldom.get_or_insert_default().released_parts += cost;
        if own {
            self.pushed = self.pushed.saturating_sub(cost);
        }
    }

    /// Settles `ticket` when all that was accepted before has left. `own`: it waits for nothing that waits for a
    /// callback to return. Where a handle accepted a frame in the moment of a close, and it was dropped, that is lost.
    pub(super) fn flush(&mut self, connection: Option<&Connection>, ticket: T, own: bool, reason: &DisconnectReason) {
        if self.unsent {
            return self.settled.push_back((ticket, Err(SendError::Lost(reason.clone()))));
        }
        match connection {
            None if own || self.is_empty() => return self.settled.push_back((ticket, Ok(()))),
            Some(connection) if !self.held && self.is_empty() => {
                self.begun.push_back((connection.encoded(), ticket));
                return self.settle_flushed();
            }
            _ => {}
        }
        let flush = Item::Flush(ticket);
        if self.held && own {
            match self.message_before_handle_connect() {
                Some(message) => message.parts.push_back(flush),
                None => self.insert_first(flush),
            }
            return;
        }
        // The parts of a message leave as they come; what waits for its end does not.
        let is_last = |at: Option<usize>| at.map_or(0, |at| at + 1) == self.data.len() && self.control.is_empty();
        let open = self.place_of_open().filter(|&at| own || is_last(at));
        match open.and_then(|at| self.message_at(at)) {
            Some(message) => message.parts.push_back(flush),
            None => self.data.push_back(flush),
        }
    }

    /// The same for the parts of a message; for one that is gone, with its connection say, they are lost.
    pub(super) fn flush_message(&mut self, id: u64, ticket: T, reason: &DisconnectReason) {
        match self.message(id) {
            Some(message) => message.parts.push_back(Item::Flush(ticket)),
            None => self.settled.push_back((ticket, Err(SendError::Lost(reason.clone())))),
        }
    }

    /// Nobody waits for this flush any more. It is settled now: flushes are not bounded, and one that stayed where it is
    /// would stay as long as output is blocked.
    pub(super) fn forget(&mut self, ticket: T)
    where
        T: PartialEq,
    {
        let is_it = |item: &Item<T>| matches!(item, Item::Flush(other) if *other == ticket);
        let waiting = self.data.iter_mut().filter_map(|item| match item {
            Item::Message(message) => Some(message),
            _ => None,
        });
        let writing = self.seldom.as_mut().and_then(|seldom| seldom.writing.as_mut());
        let within = writing.into_iter().chain(waiting).find_map(|message| {
            let at = message.parts.iter().rposition(is_it)?;
            message.parts.remove(at)
        });
        if within.is_none() {
            if let Some(at) = self.data.iter().rposition(is_it) {
                self.data.remove(at);
                self.set_first(self.first() - usize::from(at < self.first()));
            } else if let Some(at) = self.begun.iter().rposition(|(_, other)| *other == ticket) {
                self.begun.remove(at);
            } else {
                return; // settled before
            }
        }
        self.settled.push_back((ticket, Ok(())));
    }

    /// A Close behind all that was accepted before, and so behind what waits for `handle_connect` to return. A message that
    /// waits for more parts, which do not come any more, is taken back while it can be.
    pub(super) fn close(&mut self, close: CloseFrame) {
        let open = self.place_of_open().and_then(|place| self.message_at(place)).filter(|message| !message.begun);
        if let Some(id) = open.map(|message| message.id) {
            self.abandon(id);
        }
        self.data.push_back(Item::Close(close));
    }

    /// `handle_connect` will not run: what waits for it must not leave ahead of what it would have sent.
    pub(super) fn give_back_held(&mut self, reason: &DisconnectReason) {
        if self.held {
            self.give_back(SendError::Closing, reason);
        }
    }

    /// Encodes what waits, as far as there is room.
    pub(super) fn pump(&mut self, connection: &mut Connection, now: Instant) {
        while !self.is_empty() && connection.has_room() && connection.state() == State::Open {
            match self.next() {
                None => return,
                Some(Item::Frame { frame, ticket, source }) => {
                    self.uncount(&frame, source);
                    self.begin(connection, now, frame, ticket, source);
                }
                Some(Item::Prepared { frame, .. }) => self.begin_prepared(connection, now, &frame),
                Some(Item::Message(message)) => self.seldom.get_or_insert_default().writing = Some(message),
                Some(Item::Part { chunk, ticket, own }) => self.begin_part(connection, now, chunk, ticket, own),
                Some(Item::Flush(ticket)) => {
                    self.begun.push_back((connection.encoded(), ticket));
                    self.settle_flushed();
                }
                Some(Item::Close(close)) => connection.close(now, &close),
            }
        }
    }

    /// What leaves next.
    fn next(&mut self) -> Option<Item<T>> {
        if self.is_writing() {
            let control = if self.held { None } else { self.control.pop_front() };
            if let Some(item) = control.or_else(|| self.writing()?.parts.pop_front()) {
                return Some(item);
            }
            if !self.cut_short() {
                return None;
            }
        }
        if self.first() > 0 {
            self.set_first(self.first() - 1);
            self.data.pop_front()
        } else if self.held {
            None
        } else {
            self.control.pop_front().or_else(|| self.data.pop_front())
        }
    }

    fn begin_part(&mut self, connection: &mut Connection, now: Instant, chunk: Chunk, ticket: Option<T>, own: bool) {
        self.uncount_chunk(&chunk, own);
        if chunk.last {
            self.sent += 1;
            self.take_writing();
        } else if let Some(message) = self.writing() {
            message.begun = true;
        }
        match (connection.send_chunk(now, chunk), ticket) {
            (Ok(end), Some(ticket)) => self.begun.push_back((end, ticket)),
            (Err(_), Some(ticket)) => self.settled.push_back((ticket, Err(SendError::Lost(DisconnectReason::Local)))),
            (_, None) => {}
        }
    }

    /// A Close waits for the end of the open message, which does not come any more: what waits between them goes back.
    fn cut_short(&mut self) -> bool {
        let Some(close) = self.data.iter().position(|item| matches!(item, Item::Close(_))) else { return false };
        let behind = self.data.split_off(close);
        self.give_back_waiting(SendError::Closing, &DisconnectReason::Local);
        self.data = behind.into();
        true
    }

    /// The connection is about to close for the peer's or an error's sake: what callbacks sent still goes before that.
    pub(super) fn pump_pushes(&mut self, connection: &mut Connection, now: Instant) {
        let items = self.control.take().into_iter().chain(self.data.take());
        for item in items.collect::<Vec<_>>() {
            match item {
                Item::Frame { frame, ticket, source } if source != Source::Handle => {
                    self.uncount(&frame, source);
                    self.begin(connection, now, frame, ticket, source);
                }
                other => self.data.push_back(other),
            }
        }
        self.held = false;
        self.set_first(0);
    }

    fn uncount(&mut self, frame: &Frame, source: Source) {
        if source != Source::Handle {
            self.pushed = self.pushed.saturating_sub(cost(frame));
        }
    }

    #[inline]
    fn begin(&mut self, connection: &mut Connection, now: Instant, frame: Frame, ticket: Option<T>, source: Source) {
        let released = if source == Source::Push { 0 } else { cost(&frame) };
        match connection.send_anyway(now, frame) {
            Ok(end) => {
                self.count_begun(released);
                if let Some(ticket) = ticket {
                    self.begun.push_back((end, ticket));
                }
            }
            // The message that is open will not end: nothing but the Close follows.
            Err(SendError::OutOfTurn(frame)) => self.refuse(SendError::Closing(frame), ticket, source),
            Err(error) => self.refuse(error, ticket, source),
        }
    }

    #[inline]
    fn count_begun(&mut self, released: usize) {
        self.sent += 1;
        self.released += released;
    }

    /// A send that will never begin: its frame goes back to whoever waits for it.
    pub(super) fn refuse(&mut self, error: SendError, ticket: Option<T>, source: Source) {
        if source != Source::Push {
            self.released += error.frame().map_or(0, cost);
        }
        match ticket {
            Some(ticket) => self.settled.push_back((ticket, Err(error))),
            None if matches!(error, SendError::ControlTooLong(_)) && source == Source::Push => self.count_refused(),
            None => {
                self.count_dropped(1);
                self.unsent |= source != Source::Push;
            }
        }
    }

    /// All that the transport has taken is with the operating system.
    #[inline]
    pub(super) fn handle_flushed(&mut self, written: u64) {
        self.flushed = written;
        self.settle_flushed();
    }

    #[inline]
    fn settle_flushed(&mut self) {
        while self.begun.front().is_some_and(|&(end, _)| end <= self.flushed) {
            if let Some((_, ticket)) = self.begun.pop_front() {
                self.settled.push_back((ticket, Ok(())));
            }
        }
    }

    /// Gives back what has not begun. A flush that waited behind it is lost with it.
    pub(super) fn give_back(&mut self, error: fn(Frame) -> SendError, reason: &DisconnectReason) {
        self.give_back_waiting(error, reason);
        (self.held, self.pushed) = (false, 0);
    }

    fn give_back_waiting(&mut self, error: fn(Frame) -> SendError, reason: &DisconnectReason) {
        self.set_first(0);
        let message = self.take_writing().map(Item::Message);
        let waiting = self.control.take().into_iter().chain(self.data.take());
        for item in message.into_iter().chain(waiting).collect::<Vec<_>>() {
            self.give_back_item(item, error, reason);
        }
    }

    fn give_back_item(&mut self, item: Item<T>, error: fn(Frame) -> SendError, reason: &DisconnectReason) {
        match item {
            Item::Frame { frame, ticket, source } => {
                self.uncount(&frame, source);
                self.refuse(error(frame), ticket, source);
            }
            Item::Prepared { frame, .. } => self.drop_prepared(&frame),
            Item::Message(message) => {
                message.parts.into_iter().for_each(|item| self.give_back_item(item, error, reason));
            }
            Item::Part { chunk, ticket, own } => self.drop_chunk(&chunk, ticket, own, reason),
            Item::Flush(ticket) => self.settled.push_back((ticket, Err(SendError::Lost(reason.clone())))),
            Item::Close(_) => {}
        }
    }

    /// The transport is gone: of what had begun and was not flushed, nobody knows what arrived.
    pub(super) fn lose(&mut self, reason: &DisconnectReason) {
        for (_, ticket) in self.begun.take() {
            self.settled.push_back((ticket, Err(SendError::Lost(reason.clone()))));
        }
    }

    /// Whether anything is left to give back or to lose.
    pub(super) fn is_settled(&self) -> bool {
        self.is_empty() && self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_that_is_forgotten_leaves_nothing_behind() {
        let now = Instant::now();
        let mut outbox = Outbox::new();
        outbox.send(None, now, Frame::text("waits"), Some(0), Source::Handle);
        for ticket in 1..100 {
            outbox.flush(None, ticket, false, &DisconnectReason::Local);
            outbox.forget(ticket);
            assert!(matches!(outbox.poll_settled(), Some((settled, Ok(()))) if settled == ticket));
            outbox.forget(ticket); // once is enough
            assert_eq!((outbox.data.len(), outbox.settled.len()), (1, 0));
        }
        outbox.begun.extend([(10, 100), (10, 101), (20, 102)]);
        outbox.forget(101);
        assert!(outbox.poll_settled().is_some());
        assert_eq!(*outbox.begun, [(10, 100), (20, 102)]);
    }

    #[test]
    fn a_flush_behind_a_frame_that_was_dropped_is_lost() {
        let mut outbox = Outbox::new();
        let frame = || SendError::Closing(Frame::text("accepted while a callback closed"));
        outbox.refuse(frame(), Some(0), Source::Handle); // this one is told
        outbox.refuse(frame(), None, Source::Push);
        outbox.flush(None, 1, false, &DisconnectReason::Eof);
        outbox.refuse(frame(), None, Source::Handle);
        outbox.flush(None, 2, false, &DisconnectReason::Eof);
        outbox.attempt();
        outbox.flush(None, 3, false, &DisconnectReason::Eof);
        let outcomes: Vec<_> = std::iter::from_fn(|| outbox.poll_settled()).collect();
        assert!(
            matches!(
                &outcomes[..],
                [
                    (0, Err(SendError::Closing(_))),
                    (1, Ok(())),
                    (2, Err(SendError::Lost(DisconnectReason::Eof))),
                    (3, Ok(()))
                ]
            ),
            "{outcomes:?}"
        );
    }

    #[test]
    fn a_client_that_sends_while_handle_connect_runs_holds_nothing_for_that_once_it_rests() {
        let now = Instant::now();
        let mut outbox = Outbox::new();
        outbox.hold();
        outbox.send(None, now, Frame::text("ahead"), Some(1), Source::Own);
        outbox.rest();
        assert_eq!(outbox.first(), 1, "it waits");
        assert!(matches!(outbox.next(), Some(Item::Frame { ticket: Some(1), .. })));
        outbox.rest();
        assert!(outbox.seldom.is_none());
        outbox.count_refused();
        outbox.rest();
        assert_eq!(outbox.losses().refused, 1);
    }

    #[test]
    fn what_may_leave_ahead_is_counted_when_a_flush_among_it_is_forgotten() {
        let now = Instant::now();
        let mut outbox = Outbox::new();
        outbox.hold();
        outbox.send(None, now, Frame::text("waits"), Some(0), Source::Handle);
        outbox.send(None, now, Frame::text("ahead"), Some(1), Source::Own);
        outbox.data.insert(1, Item::Flush(2)); // as with a connection, while `handle_connect` runs
        outbox.set_first(2);
        outbox.send(None, now, Frame::text("ahead too"), Some(3), Source::Own);
        outbox.forget(2);
        assert_eq!(outbox.first(), 2);
        let order: Vec<_> =
            outbox.data.iter().map(|item| matches!(item, Item::Frame { ticket: Some(1 | 3), .. })).collect();
        assert_eq!(order, [true, true, false]);
    }
}
