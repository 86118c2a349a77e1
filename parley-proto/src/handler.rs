//! What a user writes: a [`Handler`], and what its callbacks answer.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::codec::{Chunk, CloseFrame, Frame, FrameRef};
use crate::error::{BoxError, DisconnectReason, StopReason};
use crate::handshake::{ClientRequest, Negotiated};
use crate::transport::TransportFacts;

/// The callbacks of one client. All are optional: an empty impl is a valid client. All but
/// [`handle_frame_ref`](Self::handle_frame_ref) are async.
///
/// Write plain `async fn`s. `Info` is whatever other tasks send to this client; implement `Handler<MyInfo>` for a
/// concrete type (the compiler refuses an `impl<I> Handler<I>`). Callbacks of one client never overlap; while one
/// awaits, output, timers, commands and reading go on.
///
/// ```
/// use parley_proto::{Action, BoxError, Connected, Handler};
/// use parley_proto::codec::Frame;
///
/// struct Echo;
///
/// impl Handler for Echo {
///     async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
///         println!("connected, subprotocol {:?}", connected.subprotocol());
///         Ok(Frame::text("hello").into())
///     }
///
///     async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
///         Ok(Action::Push(frame))
///     }
/// }
/// ```
///
/// A handler that wraps another has to forward every callback: one that is forgotten silently gets the default. The
/// futures of callbacks lie inside the client's future, as big as the biggest; box the rare large ones.
///
/// The guide has a [page on handlers](crate::guide::handlers), and one on [reconnecting](crate::guide::reconnecting).
pub trait Handler<Info: Send + 'static = ()>: Send + 'static {
    /// Runs once, before anything connects.
    ///
    /// # Errors
    ///
    /// Makes `start` return the error; nothing connects, and no other callback runs.
    fn init(&mut self) -> impl Future<Output = Result<(), BoxError>> + Send {
        async { Ok(()) }
    }

    /// Runs before every attempt, inside the connect timeout, and may change the request: a fresh token, another URL.
    /// Dropped by a disconnect and by the timeout.
    ///
    /// # Errors
    ///
    /// The attempt fails with [`DisconnectReason::Prepare`].
    fn prepare(
        &mut self,
        attempt: &Attempt,
        request: &mut ClientRequest,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = (attempt, request);
        async { Ok(()) }
    }

    /// The opening handshake is complete. What this pushes leaves before any frame that was queued while connecting.
    ///
    /// # Errors
    ///
    /// Stops the client: Close 1011, then [`StopReason::Handler`].
    fn handle_connect(&mut self, connected: &Connected) -> impl Future<Output = Result<Action, BoxError>> + Send {
        let _ = connected;
        async { Ok(Action::Continue) }
    }

    /// A whole text or binary message, its fragments joined, or a pong.
    ///
    /// # Errors
    ///
    /// Stops the client: Close 1011, then [`StopReason::Handler`].
    fn handle_frame(&mut self, frame: Frame) -> impl Future<Output = Result<Action, BoxError>> + Send {
        let _ = frame;
        async { Ok(Action::Continue) }
    }

    /// The same message or pong, lent, before [`handle_frame`](Self::handle_frame) gets it: for who need not wait, nor keep
    /// it. It lies in the buffer that it was read into, no reference to that is counted, and no future is made: that is
    /// most of what a small frame costs. What [`Answer::Pass`] leaves, `handle_frame` gets; the default leaves all.
    ///
    /// An answer may lie in the handler, or in the frame:
    ///
    /// ```
    /// use parley_proto::codec::{FrameRef, OpCode};
    /// use parley_proto::{Answer, Handler};
    ///
    /// #[derive(Default)]
    /// struct Count {
    ///     messages: u64,
    /// }
    ///
    /// impl Handler for Count {
    ///     fn handle_frame_ref<'a>(&'a mut self, frame: FrameRef<'a>) -> Answer<'a> {
    ///         match frame.opcode() {
    ///             OpCode::Binary => Answer::Push(frame), // an echo
    ///             OpCode::Text => {
    ///                 self.messages += 1;
    ///                 Answer::Continue
    ///             }
    ///             _ => Answer::Pass,
    ///         }
    ///     }
    /// }
    /// ```
    fn handle_frame_ref<'a>(&'a mut self, frame: FrameRef<'a>) -> Answer<'a> {
        let _ = frame;
        Answer::Pass
    }

    /// A part of a big message, where messages come in parts: where
    /// [`chunks_above`](crate::connection::Config::chunks_above) is set. Its parts come in order, with nothing but pings,
    /// pongs and infos between them. Without this callback a part is an error: nobody would get the message.
    ///
    /// # Errors
    ///
    /// Stops the client: Close 1011, then [`StopReason::Handler`].
    fn handle_chunk(&mut self, chunk: Chunk) -> impl Future<Output = Result<Action, BoxError>> + Send {
        let _ = chunk;
        async { Err("a message came in parts, and the handler has no `handle_chunk`".into()) }
    }

    /// A ping; its pong is queued already, and leaves when a callback first waits, at the latest when those for what was
    /// read with it have run (RFC 6455, section 5.5.2).
    ///
    /// # Errors
    ///
    /// Stops the client: Close 1011, then [`StopReason::Handler`].
    fn handle_ping(&mut self, payload: Bytes) -> impl Future<Output = Result<Action, BoxError>> + Send {
        let _ = payload;
        async { Ok(Action::Continue) }
    }

    /// What another task sent, in every state, alternating with frames. A push while not connected is refused.
    ///
    /// # Errors
    ///
    /// Stops the client: Close 1011, then [`StopReason::Handler`].
    fn handle_info(&mut self, info: Info) -> impl Future<Output = Result<Action, BoxError>> + Send {
        let _ = info;
        async { Ok(Action::Continue) }
    }

    /// The connection ended, or an attempt failed; the transport is closed already.
    fn handle_disconnect(&mut self, reason: &DisconnectReason) -> impl Future<Output = Retry> + Send {
        let _ = reason;
        async { Retry::Policy }
    }

    /// Runs once, last, whenever the client ends after `init` succeeded; not after a panic. Dropped after the close
    /// timeout.
    fn terminate(&mut self, reason: &StopReason) -> impl Future<Output = ()> + Send {
        let _ = reason;
        async {}
    }
}

/// A client that only sends needs no handler of its own.
impl Handler for () {}

/// What a callback wants done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Nothing.
    #[default]
    Continue,
    /// Send this frame, before what other tasks queue later.
    Push(Frame),
    /// Send these frames, in order.
    PushAll(Vec<Frame>),
    /// Closing handshake with this code and reason; the client lives on, disconnected.
    Disconnect(CloseFrame),
    /// The same, then a new attempt at once, unless `handle_disconnect` decides otherwise.
    Reconnect(CloseFrame),
    /// Closing handshake with 1000, then the client ends, without `handle_disconnect`.
    Stop,
    /// The same with this code and reason.
    StopWith(CloseFrame),
}

/// What [`Handler::handle_frame_ref`] makes of a frame that is lent to it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Answer<'a> {
    /// Nothing: [`Handler::handle_frame`] is to have it.
    #[default]
    Pass,
    /// It is dealt with, and nothing is to be done.
    Continue,
    /// Send this frame, as [`Action::Push`] does. It is copied, unless it has 8 KiB or more and is what was lent, or a good part
    /// of it.
    Push(FrameRef<'a>),
    /// What `handle_frame` would return.
    Return(Result<Action, BoxError>),
}

impl From<Action> for Answer<'_> {
    fn from(action: Action) -> Self {
        Self::Return(Ok(action))
    }
}

impl From<Frame> for Action {
    fn from(frame: Frame) -> Self {
        Self::Push(frame)
    }
}

impl From<Vec<Frame>> for Action {
    fn from(frames: Vec<Frame>) -> Self {
        Self::PushAll(frames)
    }
}

/// What `handle_disconnect` wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Follow the client's options: a retry with backoff after what is
    /// [transient](DisconnectReason::is_transient), else, and without reconnection, as [`Stay`](Retry::Stay).
    #[default]
    Policy,
    /// Try again with the backoff, whatever the options say.
    Reconnect,
    /// Try again after this delay.
    After(Duration),
    /// Stay disconnected.
    Stay,
    /// End the client with this reason.
    Stop,
}

/// An attempt to connect that is about to begin.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// Why the attempt or connection before it ended.
    pub last: Option<DisconnectReason>,
    /// Time since the first attempt began.
    pub elapsed: Duration,
}

/// A handshake that was completed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connected {
    /// Status and headers of the response, the subprotocol and extensions agreed on.
    pub negotiated: Negotiated,
    /// Addresses and TLS.
    pub transport: TransportFacts,
}

impl Connected {
    /// The subprotocol that the server chose of those offered.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.negotiated.subprotocol()
    }

    /// The headers of the response.
    #[must_use]
    pub fn headers(&self) -> &http::HeaderMap {
        self.negotiated.headers()
    }
}
