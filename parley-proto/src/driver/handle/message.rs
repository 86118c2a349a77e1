//! A message that a task sends in parts, through a handle.

use std::fmt;
use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;

use super::{Entry, Handle, Inner, Outcome, Slot, Ticket, wake};
use crate::codec::{Chunk, Utf8Validator};
use crate::error::{ChunkError, SendError};
use crate::session::{ClientState, Command, cost_chunk};

/// Parts that wait to be encoded, in bytes: what a client holds of a message beyond its send queue.
pub(super) const PARTS: usize = 64 * 1024;

/// A message that is sent in parts, by [`Handle::begin_text`] or [`Handle::begin_binary`].
///
/// Each part leaves as it comes, as a fragment (RFC 6455, section 5.4). [`write`](Self::write) waits while 64 KiB of
/// them wait, so that a message of any size takes no more memory than that.
///
/// Peers bound how many fragments a message may have (131,072 where they are of this library's make), and each costs them and
/// the network some bytes: gather lines and the like to parts of some KiB. An empty part sends nothing, but for the last.
///
/// # While it is open
///
/// A close that is asked for does not wait for its end, and gives back what waits for it. Pings and pongs go between the parts. Messages that others send wait for its end, in the send queue as always: who
/// waits for such a one to leave before finishing this one waits in vain. Whoever else begins a message in parts waits until this
/// one is finished or dropped.
///
/// # Dropped before it is finished
///
/// Of a message of which nothing has left nothing is sent. One that has begun cannot be taken back (the protocol knows no way),
/// and must not pass for a whole one: the connection is closed with 1011, for the reason
/// [`Abandoned`](crate::DisconnectReason::Abandoned), after which the policy of reconnecting dials anew.
#[must_use = "dropped, it closes the connection"]
pub struct MessageWriter<I = ()> {
    handle: Handle<I>,
    id: u64,
    /// What a text has yet to be followed by; `None`: binary.
    utf8: Option<Utf8Validator>,
    /// The connection on which it began.
    epoch: Option<u32>,
    /// Whether it is this message's turn; an own handle's does not wait for it.
    admitted: bool,
    /// It has begun, and its last part was not accepted yet.
    unfinished: bool,
}

impl<I> fmt::Debug for MessageWriter<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageWriter").field("text", &self.utf8.is_some()).finish_non_exhaustive()
    }
}

impl<I> Handle<I> {
    /// Begins a text that is sent in parts, once no other message is being sent so. A part may end inside a character.
    ///
    /// Through the client's own handle it does not wait: another such message makes every `write` fail with
    /// [`ChunkError::OutOfTurn`].
    ///
    /// ```no_run
    /// # async fn example(handle: parley_proto::driver::Handle) -> Result<(), parley_proto::ChunkError> {
    /// let mut message = handle.begin_text().await;
    /// for line in ["[", "1,", "2"] {
    ///     message.write(line).await?; // waits while the peer does not keep up
    /// }
    /// message.finish_with("]").await?; // with the operating system
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped, it gives up its place, and nothing is sent.
    pub async fn begin_text(&self) -> MessageWriter<I> {
        self.begin(Some(Utf8Validator::new())).await
    }

    /// Begins a binary message that is sent in parts; otherwise as [`begin_text`](Self::begin_text).
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped, it gives up its place, and nothing is sent.
    pub async fn begin_binary(&self) -> MessageWriter<I> {
        self.begin(None).await
    }

    async fn begin(&self, utf8: Option<Utf8Validator>) -> MessageWriter<I> {
        let mut entry = Entry { shared: &self.shared, place: None, gate: |inner| &mut inner.seldom().writers };
        let (id, admitted) = poll_fn(|cx| {
            let mut inner = self.shared.lock();
            let mut next = None;
            let admitted = if self.own {
                inner.seldom().writers.try_enter(1)
            } else if inner.stopped().is_some() {
                false // whatever is written gets the reason; the place is given up on drop
            } else {
                match inner.seldom().writers.poll_enter(&mut entry.place, 1, cx) {
                    Poll::Ready(first) => next = first,
                    Poll::Pending => return Poll::Pending,
                }
                true
            };
            let messages = &mut inner.seldom().messages;
            *messages += 1;
            let id = *messages;
            drop(inner);
            wake(next);
            Poll::Ready((id, admitted))
        })
        .await;
        MessageWriter { handle: self.clone(), id, utf8, epoch: None, admitted, unfinished: false }
    }
}

impl<I> MessageWriter<I> {
    /// Sends a part once there is room: resolves when it is accepted. The first waits for a connection as any other send does.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped before it returns, this part is not sent, and the message can go on with another.
    ///
    /// # Errors
    ///
    /// See [`ChunkError`]; it gives the part back. After `NotUtf8` the message can go on with another part; after any other
    /// error it is over.
    pub async fn write(&mut self, payload: impl Into<Bytes>) -> Result<(), ChunkError> {
        self.accept(payload.into(), false).await.map(drop)
    }

    /// Waits until the operating system has all parts that were written, whatever waits for the message's end.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped, it leaves nothing behind, and what was accepted is sent all the same.
    ///
    /// # Errors
    ///
    /// [`ChunkError::Lost`] when the connection ended before.
    pub async fn flush(&mut self) -> Result<(), ChunkError> {
        if self.epoch.is_none() {
            return Ok(());
        }
        let shared = &self.handle.shared;
        let ticket = {
            let mut inner = shared.lock();
            if inner.stopped().is_some() {
                return Err(ChunkError::Lost(inner.lost()));
            }
            let ticket = inner.slots.insert(Slot::Waiting(None));
            shared.put(inner, Command::FlushMessage { message: self.id, ticket });
            ticket
        };
        lost(Outcome { shared, ticket, flush: true }.wait().await)
    }

    /// Ends the message with an empty part, and waits until the operating system has all of it.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the last part is accepted, the message is [not finished](Self#dropped-before-it-is-finished); later,
    /// it is sent whole all the same.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write); [`ChunkError::Lost`] when the connection ended before.
    pub async fn finish(self) -> Result<(), ChunkError> {
        self.finish_with(Bytes::new()).await
    }

    /// [`finish`](Self::finish) with a last part.
    ///
    /// # Cancel safety
    ///
    /// As for [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// As for [`finish`](Self::finish).
    pub async fn finish_with(mut self, payload: impl Into<Bytes>) -> Result<(), ChunkError> {
        let ticket = self.accept(payload.into(), true).await?;
        let shared = self.handle.shared.clone();
        drop(self); // the next one's turn
        lost(Outcome { shared: &shared, ticket, flush: false }.wait().await)
    }

    /// Waits for room and accepts the part. The ticket means something only for the last.
    async fn accept(&mut self, payload: Bytes, last: bool) -> Result<Ticket, ChunkError> {
        let text = self.utf8.is_some();
        let chunk = Chunk { payload, text, first: self.epoch.is_none(), last };
        if !self.admitted && self.handle.shared.lock().stopped().is_none() {
            return Err(ChunkError::OutOfTurn(chunk));
        }
        let mut utf8 = self.utf8;
        if let Some(utf8) = &mut utf8 {
            if utf8.feed(&chunk.payload).is_err() || last && utf8.finish().is_err() {
                return Err(ChunkError::NotUtf8(chunk));
            }
        }
        if chunk.payload.is_empty() && !last {
            return Ok(usize::MAX);
        }
        let cost = cost_chunk(&chunk);
        let Self { handle: Handle { shared, own }, id, epoch, .. } = self;
        let mut entry = Entry { shared, place: None, gate: |inner| &mut inner.seldom().parts };
        let mut chunk = Some(chunk);
        let began = *epoch;
        let mut waited = began;
        let (ticket, at) = poll_fn(|cx| {
            let mut inner = shared.lock();
            let Some(waiting) = chunk.take() else { return Poll::Pending }; // polled again after the end
            let at = *waited.get_or_insert(inner.epoch);
            if let Some(refusal) = inner.refusal_of_part(*own, at) {
                return Poll::Ready(Err(refusal(waiting))); // the place is given up on drop
            }
            let mut next = None;
            if *own {
                inner.seldom().parts.used += cost;
            } else {
                match inner.seldom().parts.poll_enter(&mut entry.place, cost, cx) {
                    Poll::Ready(first) => next = first,
                    Poll::Pending => {
                        chunk = Some(waiting);
                        return Poll::Pending;
                    }
                }
            }
            let ticket = last.then(|| inner.slots.insert(Slot::Waiting(None)));
            shared.put(inner, Command::SendChunk { message: *id, chunk: waiting, ticket, own: *own });
            wake(next);
            Poll::Ready(Ok((ticket.unwrap_or(usize::MAX), at)))
        })
        .await?;
        drop(entry);
        (self.epoch, self.utf8, self.unfinished) = (Some(at), utf8, !last);
        Ok(ticket)
    }
}

/// What becomes of a part once it is accepted: it leaves, or is lost.
fn lost(outcome: Result<(), SendError>) -> Result<(), ChunkError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(SendError::Lost(reason)) => Err(ChunkError::Lost(reason)),
        Err(_) => unreachable!("no frame is given back by a part"),
    }
}

impl<I> Drop for MessageWriter<I> {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        let mut inner = shared.lock();
        let tell = self.unfinished && inner.stopped().is_none();
        if tell {
            inner.commands.push_back(Command::Abandon(self.id));
        }
        let next = if self.admitted { inner.seldom().writers.release(1) } else { None };
        drop(inner);
        wake(next);
        if tell {
            shared.notify();
        }
    }
}

impl<I> Inner<I> {
    /// Why a part of a message that belongs to the connection `epoch` cannot be accepted now, if so.
    fn refusal_of_part(&self, own: bool, epoch: u32) -> Option<fn(Chunk) -> ChunkError> {
        match self.state {
            ClientState::Stopped => Some(ChunkError::Stopped),
            _ if self.epoch != epoch => Some(ChunkError::Disconnected),
            ClientState::Disconnected => Some(ChunkError::Disconnected),
            _ if self.closing => Some(ChunkError::Closing),
            ClientState::Connecting if own => Some(ChunkError::Disconnected),
            ClientState::Connecting | ClientState::Connected => None,
        }
    }
}
