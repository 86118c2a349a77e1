//! What goes into a session and what comes out of it.

use std::time::Duration;

use core::net::SocketAddr;

use super::DialId;
use crate::codec::{Chunk, CloseFrame, Frame, PreparedFrame};
use crate::connection::Shutdown;
use crate::error::{BoxError, DisconnectReason, SendError, StopReason};
use crate::handler::{Action, Attempt, Connected, Retry};
use crate::handshake::ClientRequest;
use crate::transport::TlsTarget;

/// A session's numbers since its start; what each means is said in [`Stats`](crate::driver::Stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Attempts to connect.
    pub attempts: u64,
    /// Frames delivered.
    pub frames_received: u64,
    /// Frames begun.
    pub frames_sent: u64,
    /// Frames accepted and not sent.
    pub dropped: u64,
    /// Pushes refused.
    pub refused: u64,
}

/// Names a delayed info.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId(pub(crate) u64);

/// What a client is, as its handles see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientState {
    /// No connection, none being made.
    Disconnected,
    /// An attempt is under way; sends wait for it.
    Connecting,
    /// The opening handshake is complete.
    Connected,
    /// The client has ended.
    Stopped,
}

/// What other tasks ask of a client. `T` is handed back in [`Output::Settle`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Command<I, T> {
    /// Send a frame. `own`: by the client's own handle, which waits for nothing.
    Send {
        /// What to send.
        frame: Frame,
        /// Settled once the frame has left, or will not.
        ticket: Option<T>,
        /// By the client's own handle.
        own: bool,
    },
    /// Send a frame that a broadcast has encoded.
    SendPrepared {
        /// What to send.
        frame: PreparedFrame,
        /// The broadcast, by the client's number for it.
        from: u64,
        /// It takes the place of what waits of the same broadcast, and of so many that were not even seen.
        skips: Option<u64>,
    },
    /// Drop what waits of this broadcast.
    Skip(u64),
    /// Send a part of a message: the first takes the message's place among what is sent, the others follow it there.
    SendChunk {
        /// The message, by the client's number for it.
        message: u64,
        /// What to send; in order.
        chunk: Chunk,
        /// Settled once it has left, or is lost.
        ticket: Option<T>,
        /// By the client's own handle.
        own: bool,
    },
    /// No more parts of this message will come.
    Abandon(u64),
    /// Settle this once all that was accepted before has left. `own`: for the client's own handle, which waits for
    /// no connection.
    Flush {
        /// Settled then.
        ticket: T,
        /// By the client's own handle.
        own: bool,
    },
    /// Settle this once the parts of this message that were accepted before have left, whatever waits for its end.
    FlushMessage {
        /// The message, by the client's number for it.
        message: u64,
        /// Settled then.
        ticket: T,
    },
    /// Whoever waits for this flush has given up: settle it now, if it is not settled yet.
    Forget(T),
    /// Deliver this to `handle_info`.
    Info(I),
    /// Deliver this to `handle_info` later.
    InfoAfter {
        /// Names it for [`Cancel`](Self::Cancel).
        id: TimerId,
        /// From the moment that the command is seen.
        delay: Duration,
        /// What to deliver.
        info: I,
    },
    /// Forget a delayed info, if it was not delivered yet.
    Cancel(TimerId),
    /// Begin an attempt now, if disconnected: a delay before one is skipped.
    Connect,
    /// Close the connection with this and dial again; while disconnected as `Connect`.
    Reconnect(CloseFrame),
    /// Close the connection, or abandon the attempt; the client lives on.
    Disconnect(CloseFrame),
    /// Close the connection behind all that was accepted before, then end.
    Stop(CloseFrame),
}

impl<I, T> Command<I, T> {
    /// Whether it asks for nothing that `last`, the request just before it, has not asked for.
    pub(crate) fn repeats(&self, last: &Self) -> bool {
        match (self, last) {
            (Self::Connect, Self::Connect)
            | (Self::Reconnect(_), Self::Reconnect(_))
            | (Self::Disconnect(_), Self::Disconnect(_))
            | (Self::Stop(_), Self::Stop(_)) => true, // the first one's Close is the one that is sent
            (Self::Cancel(id), Self::Cancel(other)) => id == other,
            _ => false,
        }
    }

    /// Whether no frame is accepted behind it.
    pub(crate) fn closes(&self) -> bool {
        matches!(self, Self::Disconnect(_) | Self::Reconnect(_) | Self::Stop(_))
    }
}

/// What comes next, for a driver that takes messages by [`poll_message`](super::Session::poll_message).
pub(crate) enum Upcoming<I, T> {
    /// That has one.
    Message,
    Output(Output<I, T>),
}

/// What the session wants done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output<I, T> {
    /// Look up a host: answer with [`resolved`](super::Session::resolved).
    Resolve(DialId, String, u16),
    /// Open a TCP connection: answer with [`dialled`](super::Session::dialled).
    Dial(DialId, SocketAddr),
    /// Run TLS over the connection just dialled: answer with [`tls_done`](super::Session::tls_done).
    StartTls(DialId, TlsTarget),
    /// Give up a step; an answer to it would be ignored.
    Cancel(DialId),
    /// End or close the transport.
    Shutdown(Shutdown),
    /// Run a callback: answer with [`called`](super::Session::called).
    Call(Call<I>),
    /// A ticket's outcome.
    Settle(T, Result<(), SendError>),
    /// The client has ended. Nothing comes after this but the answers to later commands.
    Stopped(StopReason),
}

/// A callback to run. One at a time.
#[derive(Debug)]
#[non_exhaustive]
pub enum Call<I> {
    /// [`Handler::init`](crate::Handler::init)
    Init,
    /// [`Handler::prepare`](crate::Handler::prepare)
    Prepare(Box<(Attempt, ClientRequest)>),
    /// [`Handler::handle_connect`](crate::Handler::handle_connect)
    Connect(Box<Connected>),
    /// [`Handler::handle_frame`](crate::Handler::handle_frame), or
    /// [`handle_ping`](crate::Handler::handle_ping) for a ping
    Frame(Frame),
    /// [`Handler::handle_chunk`](crate::Handler::handle_chunk)
    Chunk(Box<Chunk>),
    /// [`Handler::handle_info`](crate::Handler::handle_info)
    Info(I),
    /// [`Handler::handle_disconnect`](crate::Handler::handle_disconnect)
    Disconnect(Box<DisconnectReason>),
    /// [`Handler::terminate`](crate::Handler::terminate)
    Terminate(Box<StopReason>),
}

/// What became of a [`Call`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Returned {
    /// Of `Init`.
    Init(Result<(), BoxError>),
    /// Of `Prepare`: the request as the handler left it.
    Prepare(Result<Box<ClientRequest>, BoxError>),
    /// Of `Connect`, `Frame`, `Info`.
    Action(Result<Action, BoxError>),
    /// Of `Disconnect`.
    Retry(Retry),
    /// Of `Terminate`.
    Terminated,
    /// The callback's future was dropped, as [`call_abandoned`](super::Session::call_abandoned) asked.
    Dropped,
    /// It panicked: no callback may run any more.
    Panicked,
}
