//! A connection as a stream and a sink of frames, for those who keep their own loop.

use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_sink::Sink;

use super::client::Setup;
use super::io::{self, Io};
use super::link::Link;
use super::runtime::{Clock, Runtime, Transport};
use super::server::AcceptError;
use super::trace;
use super::{Ending, TransportFacts};
use crate::Role;
use crate::codec::{Chunk, CloseFrame, Frame, FrameRef, Lent, Utf8Bytes};
use crate::connection::{Closed, Config, Connection, Event, Outgoing, Rtt, State, deadline};
use crate::error::{ChunkError, DisconnectReason, NetworkError, SendError, StopReason};
use crate::handler::Connected;
use crate::handshake::{ApiMisuse, ClientRequest, Negotiated};
use crate::session::{BuildError, Call, ClientOptions, Returned};

/// What can go wrong with a [`WebSocket`].
// The wide tag keeps the frame in `Result<Frame, Error>` aligned: behind a tag of two bytes it is moved by loads that straddle
// the stores before them, which costs more than decoding it.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[repr(u64)]
pub enum Error {
    /// An option is wrong: the URL, say. Nothing was tried.
    Build(BuildError),
    /// There is no runtime, or it cannot give what a connection needs, such as unpredictable bytes.
    Runtime(NetworkError),
    /// There is no connection for this reason: dialling failed, or it ended otherwise than by a closing handshake.
    Disconnected(DisconnectReason),
    /// A frame was refused, and is given back.
    Send(SendError),
    /// A part of a message was refused, and is given back.
    Chunk(ChunkError),
    /// Server: the reply does not fit the request.
    Reply(ApiMisuse),
    /// Server: there was no request to accept.
    Accept(AcceptError),
}

impl Error {
    /// Why there is no connection, if that is what went wrong.
    #[must_use]
    pub fn reason(&self) -> Option<&DisconnectReason> {
        match self {
            Self::Disconnected(reason) | Self::Send(SendError::Lost(reason)) => Some(reason),
            _ => None,
        }
    }

    /// The frame that was refused.
    #[must_use]
    pub fn into_frame(self) -> Option<Frame> {
        match self {
            Self::Send(error) => error.into_frame(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(error) => error.fmt(f),
            Self::Runtime(error) => write!(f, "the runtime cannot run a connection: {error}"),
            Self::Disconnected(reason) => reason.fmt(f),
            Self::Send(error) => error.fmt(f),
            Self::Chunk(error) => error.fmt(f),
            Self::Reply(error) => error.fmt(f),
            Self::Accept(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Build(error) => Some(error),
            Self::Runtime(error) => Some(error),
            Self::Disconnected(reason) => Some(reason),
            Self::Send(error) => Some(error),
            Self::Chunk(error) => Some(error),
            Self::Reply(error) => Some(error),
            Self::Accept(error) => Some(error),
        }
    }
}

/// As [`WebSocket::next_ref`] has it.
impl From<Box<Error>> for Error {
    fn from(error: Box<Error>) -> Self {
        *error
    }
}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl From<DisconnectReason> for Error {
    fn from(reason: DisconnectReason) -> Self {
        Self::Disconnected(reason)
    }
}

/// A connection of either role, once its opening handshake is complete: a [`Stream`] and a [`Sink`] of [`Frame`]s.
///
/// ```text
/// next   ─▶ a frame at hand ─▶ it, without a look at anything else
///        └▶ none ─▶ read ─▶ would wait ─▶ all that is queued leaves ─▶ wait
/// feed   ─▶ room? encoded : what is queued leaves first
/// send   ─▶ feed, then flush
/// close  ─▶ our Close behind what was fed ─▶ the peer's Close ─▶ the end of the stream
/// ```
///
/// Pings are answered by themselves: the pong leaves with the read that brought the ping, and the ping is then
/// yielded like any other frame. Keepalive, write and close timeouts advance while any method is polled; a socket that
/// nobody polls does nothing. Dropping it closes the transport without a closing handshake.
///
/// # Batches
///
/// [`send`](Self::send) writes at once, a system call a frame. For many small frames [`feed`](Self::feed) them and
/// [`flush`](Self::flush) once, or set [`auto_cork`](Self::set_auto_cork).
///
/// # Cancel safety
///
/// All methods are cancel-safe: a frame is yielded once or not at all, and is sent whole or not at all. A frame whose
/// `send` or `feed` was dropped while it waited for room was not accepted; dropped later, it leaves with what is polled
/// next.
pub struct WebSocket<T, C> {
    /// Boxed: a future that holds a socket, or hands one on, is small.
    link: Box<Link<T, C>>,
    tasks: Tasks,
    auto_cork: bool,
    /// The sink has said that it takes a frame: it does, though pongs have filled the room since.
    promised: bool,
    /// Since output left last, the connection was asked for input.
    has_read: bool,
    /// The stream has told the end by an error.
    told: bool,
    closed: Option<Box<Closed>>,
    connected: Box<Connected>,
    /// Parts of a message that are put together for [`next`](Self::next).
    joining: Option<Box<BytesMut>>,
}

/// What [`WebSocket::next_part`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A whole message, a ping or a pong.
    Frame(Frame),
    /// A part of a message.
    Chunk(Chunk),
}

/// The way to answer a frame that is lent by [`WebSocket::next_with_reply`]: there is room for one frame.
///
/// What it is fed leaves with a [`flush`](WebSocket::flush), with 112 KiB, or when the next frame has to be waited for. For more than one frame there are the socket's own methods, once this
/// and the frame are dropped.
pub struct Reply<'a> {
    lent: Lent<'a>,
    outgoing: Outgoing<'a>,
}

impl<'a> Reply<'a> {
    #[inline(always)]
    fn to((lent, outgoing): (Lent<'a>, Outgoing<'a>)) -> (FrameRef<'a>, Self) {
        (lent.frame, Self { lent, outgoing })
    }

    /// Accepts a frame. It is copied, unless it has 8 KiB or more and is what was lent, or a good part of it.
    ///
    /// # Errors
    ///
    /// [`Error::Send`] with the frame: the connection is not open any more, a control frame has more than 125 bytes, or
    /// a message is being sent in parts.
    #[inline(always)]
    pub fn feed_ref(mut self, frame: FrameRef<'_>) -> Result<(), Error> {
        if self.outgoing.reply_short(frame) {
            Ok(())
        } else {
            self.outgoing.send_boxed(self.lent.own(frame)).map_err(|error| Error::Send(*error))
        }
    }

    /// Accepts a frame.
    ///
    /// # Errors
    ///
    /// As [`feed_ref`](Self::feed_ref).
    pub fn feed(self, frame: Frame) -> Result<(), Error> {
        self.outgoing.send(frame).map(drop).map_err(Error::Send)
    }
}

impl fmt::Debug for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("to", &self.lent.frame).finish_non_exhaustive()
    }
}

/// What came of reading: no frame, lest it be moved.
enum More {
    /// A frame, or a part of one, is with the connection.
    AtHand,
    /// A message that came in parts.
    Joined(Box<Frame>),
    /// There is no more; the first to hear of it is told why, if that is an error.
    End(Option<Box<Error>>),
}

/// Who polls: the one that waits for frames, or the one that waits for output to leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Read,
    Write,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Read => Self::Write,
            Self::Write => Self::Read,
        }
    }
}

/// The tasks behind the two sides, which may differ, as after [`split`](WebSocket::split). A transport wakes one waker
/// at a time: it gets one that wakes whichever side waits.
#[derive(Default)]
struct Tasks {
    /// Of the task behind each side that waits, unless they are two.
    one: Option<Waker>,
    two: Option<Box<(Arc<Both>, Waker)>>,
    waits: [bool; 2],
}

struct Both {
    wakers: [Waker; 2],
    waits: [AtomicBool; 2],
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        for (waits, waker) in self.waits.iter().zip(&self.wakers) {
            if waits.swap(false, Ordering::SeqCst) {
                waker.wake_by_ref();
            }
        }
    }
}

impl Tasks {
    /// What the transport shall wake, now that `side` polls from this task. A wake may come at once, so that the side
    /// counts as waiting from here.
    fn register(&mut self, side: Side, cx: &Context<'_>) -> &Waker {
        self.waits[side as usize] = true;
        if !self.waker(side).is_some_and(|known| known.will_wake(cx.waker())) {
            self.change(side, cx.waker().clone());
        }
        if let Some((both, _)) = self.two.as_deref() {
            both.waits[side as usize].store(true, Ordering::SeqCst);
        }
        match (&self.two, &self.one) {
            (Some(two), _) => &two.1,
            (None, Some(waker)) => waker,
            (None, None) => unreachable!("the side has a task by now"),
        }
    }

    fn waker(&self, side: Side) -> Option<&Waker> {
        match &self.two {
            Some(two) => Some(&two.0.wakers[side as usize]),
            None => self.one.as_ref(),
        }
    }

    /// `side` has come to another task. The other side stays with its own, if it waits.
    fn change(&mut self, side: Side, waker: Waker) {
        let other = side.other();
        let others = self.waker(other).filter(|others| self.waits[other as usize] && !others.will_wake(&waker));
        (self.one, self.two) = match others.cloned() {
            None => (Some(waker), None),
            Some(others) => {
                let wakers = if side == Side::Read { [waker, others] } else { [others, waker] };
                let both = Arc::new(Both { wakers, waits: self.waits.map(AtomicBool::new) });
                (None, Some(Box::new((both.clone(), both.into()))))
            }
        };
    }

    /// `side` waits no longer.
    fn done(&mut self, side: Side) {
        self.waits[side as usize] = false;
        if let Some((both, _)) = self.two.as_deref() {
            both.waits[side as usize].store(false, Ordering::SeqCst);
        }
    }

    /// What one side did is what the other may wait for.
    fn tell(&mut self, side: Side) {
        if self.waits[side as usize] {
            if let Some(waker) = self.waker(side) {
                waker.wake_by_ref();
            }
        }
    }
}

impl<T: Transport, C: Clock> WebSocket<T, C> {
    fn new(link: Box<Link<T, C>>, mut connected: Box<Connected>) -> Self {
        connected.negotiated.pack();
        Self {
            link,
            tasks: Tasks::default(),
            auto_cork: false,
            promised: false,
            has_read: false,
            told: false,
            closed: None,
            connected,
            joining: None,
        }
    }

    /// Dials, and does the opening handshake: [`Client`](super::Client)'s options, without a handler. Reconnection and
    /// the name are not for this.
    ///
    /// Cancel-safe: dropped, it abandons the attempt.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`] with what a client's `handle_disconnect` would see.
    pub async fn connect<R>(runtime: R, clock: C, mut options: ClientOptions) -> Result<Self, Error>
    where
        R: Runtime<Transport = T>,
    {
        options.reconnect = None;
        options.name = None;
        let (session, shared) = Setup::<()>::new(options).into_session(runtime.seed());
        let ending = Ending::new(shared, None);
        let mut io = Box::new(Io::new(runtime, session, ending));
        loop {
            let returned = match poll_fn(|cx| io.poll_next(cx)).await {
                io::Next::Call(Call::Connect(connected)) => {
                    let link = io.into_link(clock).ok_or(DisconnectReason::Local)?;
                    return Ok(Self::new(Box::new(link), connected));
                }
                io::Next::Call(Call::Init) => Returned::Init(Ok(())),
                io::Next::Call(Call::Prepare(call)) => Returned::Prepare(Ok(Box::new(call.1))),
                io::Next::Call(Call::Disconnect(reason)) => return Err((*reason).into()),
                io::Next::Call(Call::Terminate(_)) => Returned::Terminated,
                // None can come here.
                io::Next::Message | io::Next::Call(Call::Frame(_) | Call::Chunk(_) | Call::Info(())) => {
                    Returned::Dropped
                }
                io::Next::Stopped(StopReason::Disconnected(reason)) => return Err(reason.into()),
                io::Next::Stopped(_) => return Err(DisconnectReason::Local.into()),
            };
            io.called(returned);
        }
    }

    /// The client side of the opening handshake over a stream that is up, within `timeout`. `seed` has to be
    /// unpredictable and fresh.
    ///
    /// Cancel-safe: dropped, it closes the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`]: the server refused, took too long, broke the protocol, or the stream failed.
    pub async fn client(
        clock: C,
        transport: T,
        request: &ClientRequest,
        config: Arc<Config>,
        timeout: Duration,
        seed: [u8; 32],
    ) -> Result<Self, Error> {
        let facts = transport.facts();
        let connection = Connection::client(request, config, seed, deadline(clock.now(), timeout));
        let link = Box::new(Link::over(connection, transport, BytesMut::new(), clock));
        Self::opened(link, facts).await
    }

    /// Waits until the opening handshake is complete.
    pub(super) async fn opened(mut link: Box<Link<T, C>>, facts: TransportFacts) -> Result<Self, Error> {
        loop {
            match poll_fn(|cx| link.poll_next(cx)).await {
                Event::Open(negotiated) => {
                    let connected = Connected { negotiated: *negotiated, transport: facts };
                    return Ok(Self::new(link, Box::new(connected)));
                }
                Event::Closed(closed) => return Err(closed.reason().into()),
                Event::Request(_) | Event::Http(_) | Event::Frame(_) | Event::Chunk(_) => {} // none comes before
            }
        }
    }

    /// Over a stream whose opening handshake was done elsewhere: by hyper, axum, or over HTTP/2. `input` is what was
    /// read of it behind the handshake.
    #[must_use]
    pub fn upgraded(
        clock: C,
        transport: T,
        role: Role,
        agreed: Negotiated,
        config: Arc<Config>,
        input: BytesMut,
        seed: [u8; 32],
    ) -> Self {
        let connected = Connected { negotiated: agreed.clone(), transport: transport.facts() };
        let mut connection = Connection::upgraded(clock.now(), role, agreed, config, seed);
        let _open = connection.poll_event(); // known from the start
        Self::new(Box::new(Link::over(connection, transport, input, clock)), Box::new(connected))
    }

    /// What the opening handshake settled, and the transport's addresses and TLS.
    #[must_use]
    pub fn connected(&self) -> &Connected {
        &self.connected
    }

    /// How the connection ended; `None` while it has not. [`Stream`] and [`Sink`] end before, if the application has yet
    /// to be told.
    #[must_use]
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_deref()
    }

    /// Round-trip times by keepalive's pings; `None` before the first was answered.
    #[must_use]
    pub fn rtt(&self) -> Option<Rtt> {
        self.link.connection.rtt()
    }

    /// While on, [`send`](Self::send) writes at once only when no received frame waits to be yielded: the replies to
    /// all that one read brought leave in one write. What `send` left behind leaves when [`next`](Self::next) finds
    /// nothing more at hand, or with [`flush`](Self::flush): do not wait for anything else before. Default off.
    pub fn set_auto_cork(&mut self, on: bool) {
        self.auto_cork = on;
    }

    /// The next frame: a whole message, a ping (its pong is on its way), or a pong. `None` after a closing handshake,
    /// whoever began it, and after an error; then [`closed`](Self::closed) tells the code.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// Once: [`Error::Disconnected`], when the connection ended in another way than by a closing handshake.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "it is awaited")]
    pub fn next(&mut self) -> impl Future<Output = Option<Result<Frame, Error>>> {
        Next { socket: self }
    }

    /// [`next`](Self::next) for who is done with a frame before the next one: it is lent, out of the buffer that it was read
    /// into, and no reference to that is counted: two atomic operations a frame. The buffer, all of a large message or a window
    /// of up to 128 KiB, is held until the next is asked for. The [halves](Self::split) lend nothing.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next), boxed: a frame that shares its place with an error of many words is moved by way of memory, which
    /// costs more than all else. An [`Error`] can be made of it, so that `?` serves.
    #[inline]
    pub fn next_ref<'a>(
        &'a mut self,
    ) -> impl Future<Output = Option<Result<FrameRef<'a>, Box<Error>>>> + use<'a, T, C> {
        NextRef { socket: Some(self) }
    }

    /// [`next_ref`](Self::next_ref), once there is room for an answer as well, which may be sent while the frame is lent. What answers
    /// the frames of one read leaves in one write, or with 112 KiB.
    ///
    /// ```
    /// # use parley_proto::driver::{Clock, Error, Transport, WebSocket};
    /// async fn echo<T: Transport, C: Clock>(mut socket: WebSocket<T, C>) -> Result<(), Error> {
    ///     while let Some(message) = socket.next_with_reply().await {
    ///         let (frame, reply) = message?;
    ///         if !frame.opcode().is_control() {
    ///             reply.feed_ref(frame)?;
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`next_ref`](Self::next_ref).
    #[inline]
    pub async fn next_with_reply(&mut self) -> Option<Result<(FrameRef<'_>, Reply<'_>), Box<Error>>> {
        if !(self.link.connection.is_frame_next() && self.link.connection.has_room_for_reply()) {
            match poll_fn(|cx| self.poll_exchange(cx)).await {
                More::AtHand => {}
                More::Joined(frame) => {
                    self.link.connection.encode_pong();
                    return Some(Ok(Reply::to(self.link.connection.lend(*frame))));
                }
                More::End(error) => return error.map(Err),
            }
        }
        self.link.connection.encode_pong();
        self.link.connection.poll_lent().map(|lent| Ok(Reply::to(lent)))
    }

    /// The next frame or part of a message, where messages come [in parts](Config::chunks_above); `next` and the stream put
    /// the parts together. Keep to one of the two until a message has ended: what `next` has gathered of it is dropped by
    /// this, and what this has given out of it is missing there, so that the message is not yielded.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub async fn next_part(&mut self) -> Option<Result<Part, Error>> {
        poll_fn(|cx| self.poll_next_part(cx)).await
    }

    /// Sends a frame, and waits until the operating system has it; see [`set_auto_cork`](Self::set_auto_cork).
    ///
    /// Cancel-safe: see [the type](Self#cancel-safety).
    ///
    /// # Errors
    ///
    /// [`Error::Send`] gives the frame back; [`Error::Disconnected`] when the connection ended meanwhile.
    #[inline]
    pub fn send(&mut self, frame: Frame) -> impl Future<Output = Result<(), Error>> {
        Send(Feed { socket: self, frame: Some(frame) })
    }

    /// Accepts a frame once less than 64 KiB wait to be written. It leaves with a [`flush`](Self::flush), with 64 KiB,
    /// or when [`next`](Self::next) would wait.
    ///
    /// Cancel-safe: see [the type](Self#cancel-safety).
    ///
    /// # Errors
    ///
    /// [`Error::Send`] gives the frame back.
    #[inline]
    pub fn feed(&mut self, frame: Frame) -> impl Future<Output = Result<(), Error>> {
        Feed { socket: self, frame: Some(frame) }
    }

    /// [`feed`](Self::feed) for a payload that somebody else holds, a buffer that is used again, say: it is copied, which is cheap
    /// below 8 KiB. Above that `feed` sends a payload from where it is.
    ///
    /// Cancel-safe: see [the type](Self#cancel-safety).
    ///
    /// # Errors
    ///
    /// [`Error::Send`] with a copy of the frame.
    #[inline]
    pub fn feed_ref<'a>(&'a mut self, frame: FrameRef<'a>) -> impl Future<Output = Result<(), Error>> + use<'a, T, C> {
        FeedRef { socket: self, frame, waits: None }
    }

    /// Accepts a part of a message, as [`feed`](Self::feed) a frame. Until the last part is fed, no other message can be sent.
    ///
    /// Cancel-safe: see [the type](Self#cancel-safety).
    ///
    /// # Errors
    ///
    /// [`Error::Chunk`] gives the part back.
    pub async fn feed_chunk(&mut self, chunk: Chunk) -> Result<(), Error> {
        if !self.has_room() {
            poll_fn(|cx| self.poll_room(cx)).await;
        }
        self.start_chunk(chunk)
    }

    /// Waits until the operating system has all that was sent and fed.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`]: the connection ended before.
    pub async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_flushed(cx)).await
    }

    /// Closes with 1000; see [`close_with`](Self::close_with).
    ///
    /// # Errors
    ///
    /// As [`close_with`](Self::close_with).
    pub async fn close(&mut self) -> Result<(), Error> {
        self.close_with(CloseFrame::normal()).await
    }

    /// Starts the closing handshake behind all that was sent and fed, and waits for its end, at most for the
    /// [close timeout](Config::close_timeout). What arrives meanwhile is dropped. Closing again changes nothing.
    ///
    /// Cancel-safe: the Close leaves, and the end comes, with whatever is polled next.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`], when the connection ended in another way than by a closing handshake.
    pub async fn close_with(&mut self, close: CloseFrame) -> Result<(), Error> {
        poll_fn(|cx| self.poll_closed(cx, &close)).await
    }

    // ---- polls

    /// Inlined into whoever waits, with what makes a frame; all else is behind one call.
    #[inline(always)]
    pub(super) fn poll_next_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Error>>> {
        loop {
            if let Some(frame) = self.link.connection.poll_frame() {
                return Poll::Ready(Some(Ok(frame)));
            }
            match ready!(self.poll_whole(cx)) {
                More::AtHand => {}
                More::Joined(frame) => return Poll::Ready(Some(Ok(*frame))),
                More::End(error) => return Poll::Ready(error.map(|error| Err(*error))),
            }
        }
    }

    /// [`poll_more`](Self::poll_more), until there is more than parts, which are put together.
    #[inline(never)]
    fn poll_whole(&mut self, cx: &mut Context<'_>) -> Poll<More> {
        loop {
            let more = ready!(self.poll_more(cx));
            let chunk = if matches!(more, More::AtHand) { self.link.connection.poll_chunk() } else { None };
            match chunk.map(|chunk| self.join(chunk)) {
                None => return Poll::Ready(more),
                Some(None) => {}
                Some(Some(frame)) => return Poll::Ready(More::Joined(Box::new(frame))),
            }
        }
    }

    /// [`poll_whole`](Self::poll_whole), unless a frame is at hand, with room for an answer to it.
    #[inline(never)]
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<More> {
        ready!(self.poll_room(cx));
        if self.link.connection.is_frame_next() { Poll::Ready(More::AtHand) } else { self.poll_whole(cx) }
    }

    /// The next frame or part, for who wants the parts and not the whole.
    pub(super) fn poll_next_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, Error>>> {
        loop {
            if let Some(frame) = self.link.connection.poll_frame() {
                return Poll::Ready(Some(Ok(Part::Frame(frame))));
            }
            if let Some(chunk) = self.link.connection.poll_chunk() {
                self.joining = None;
                return Poll::Ready(Some(Ok(Part::Chunk(chunk))));
            }
            match ready!(self.poll_more(cx)) {
                More::AtHand | More::Joined(_) => {}
                More::End(error) => return Poll::Ready(error.map(|error| Err(*error))),
            }
        }
    }

    /// Reads until there is a frame or a part of one, or the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<More> {
        self.has_read = true;
        loop {
            if self.closed.is_some() {
                let told = mem::replace(&mut self.told, true);
                return Poll::Ready(More::End(self.end().err().filter(|_| !told).map(Box::new)));
            }
            match ready!(self.poll_side(Side::Read, cx, Link::poll_event)) {
                None => return Poll::Ready(More::AtHand),
                Some(event) => self.take(event),
            }
        }
    }

    /// A message that came in parts, with its last. The decoder has held it against the limit, and checked a text.
    #[cold]
    fn join(&mut self, chunk: Chunk) -> Option<Frame> {
        if chunk.first {
            self.joining = Some(Box::default());
        }
        // Parts of a message whose beginning `next_part` gave out are no message.
        let joining = self.joining.as_mut()?;
        joining.extend_from_slice(&chunk.payload);
        if !chunk.last {
            return None;
        }
        let payload = self.joining.take().map_or_else(Bytes::new, |joining| joining.freeze());
        Some(if chunk.text { Frame::Text(Utf8Bytes::from_validated(payload)) } else { Frame::Binary(payload) })
    }

    /// Polls for one side; what comes of it may be what the other waits for.
    fn poll_side<O>(
        &mut self,
        side: Side,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Link<T, C>, &mut Context<'_>) -> Poll<O>,
    ) -> Poll<O> {
        let Self { link, tasks, .. } = self;
        let state = link.connection.state();
        let received = link.pipe.bytes_received;
        let sent = (link.pipe.bytes_sent, link.pipe.is_flushed());
        let mut cx = Context::from_waker(tasks.register(side, cx));
        link.wake(&cx);
        let polled = poll(link, &mut cx);
        if polled.is_ready() {
            tasks.done(side);
        }
        let news = state != link.connection.state();
        match side {
            Side::Read if news || sent != (link.pipe.bytes_sent, link.pipe.is_flushed()) => tasks.tell(Side::Write),
            Side::Write if news || received != link.pipe.bytes_received => tasks.tell(Side::Read),
            _ => {}
        }
        polled
    }

    fn take(&mut self, event: Event) {
        if let Event::Closed(closed) = event {
            trace::closed(&closed, self.link.pipe.bytes_received, self.link.pipe.bytes_sent);
            self.closed = Some(closed);
            self.tasks.tell(Side::Read);
            self.tasks.tell(Side::Write);
        }
    }

    /// How the connection has ended.
    fn end(&self) -> Result<(), Error> {
        match &self.closed {
            Some(closed) if closed.error.is_some() => Err(closed.reason().into()),
            _ => Ok(()),
        }
    }

    /// What was sent is to wait for the replies to the frames at hand.
    #[inline]
    fn defers(&self) -> bool {
        self.auto_cork && self.link.connection.has_frames()
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.link.connection.has_room() || self.link.connection.state() != State::Open
    }

    /// Ready as well when there is nothing to wait for any more: the frame is then refused.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_output(cx, Self::has_room)
    }

    /// [`poll_room`](Self::poll_room) for a sink, whose promise holds until [`start`](Self::start).
    pub(super) fn poll_promise(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.poll_room(cx);
        self.promised = polled.is_ready();
        polled
    }

    /// A frame for which there may be no room, or which is large, or is refused.
    #[inline(never)]
    fn poll_feed(&mut self, cx: &mut Context<'_>, frame: Frame) -> Fed {
        if !self.has_room() && self.poll_room(cx).is_pending() {
            return Fed::Waits(Box::new(frame));
        }
        match self.start(frame) {
            Ok(()) => Fed::Done,
            Err(error) => Fed::Refused(Box::new(error)),
        }
    }

    pub(super) fn start(&mut self, frame: Frame) -> Result<(), Error> {
        let Self { link, promised, .. } = self;
        let sent = match mem::take(promised) {
            true => link.connection.send_anyway(link.now, frame),
            false => link.connection.send(link.now, frame),
        };
        sent.map(drop).map_err(Error::Send)
    }

    pub(super) fn start_chunk(&mut self, chunk: Chunk) -> Result<(), Error> {
        self.link.connection.send_chunk(self.link.now, chunk).map(drop).map_err(Error::Chunk)
    }

    #[inline]
    pub(super) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_written(cx).map(|error| error.map_or(Ok(()), |error| Err(*error)))
    }

    /// A frame with which nothing else waits leaves at once, past the output buffer. `None`: it was not begun; false: what is left
    /// of it has to be [waited for](Self::poll_flushed).
    #[inline(never)]
    fn write_through(&mut self, cx: &mut Context<'_>, frame: &Frame) -> Option<bool> {
        // Nobody is to be told, and nobody to be woken where all leaves at once.
        if self.tasks.waits != [false; 2] || self.defers() {
            return None;
        }
        self.link.wake(cx);
        let left = self.link.write_through(cx, frame);
        if left == Some(true) {
            self.release_output();
        }
        left
    }

    /// All that was encoded has left, or will not.
    #[inline(never)]
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Option<Box<Error>>> {
        if self.tasks.waits == [false; 2] {
            // Nobody is to be told, and nobody to be woken where all leaves at once.
            self.link.wake(cx);
            self.link.write(cx);
        }
        let flushed = |socket: &Self| socket.link.connection.queued() == 0 && socket.link.pipe.is_flushed();
        self.poll_output(cx, |socket| flushed(socket) || socket.link.connection.state() == State::Closed).map(|()| {
            if self.link.connection.state() == State::Open {
                return None;
            }
            let cut_off = self.link.connection.is_cut_off();
            let reason = match self.link.connection.outcome().as_ref().or(self.closed.as_deref()) {
                Some(closed) if closed.error.is_some() || cut_off && closed.received => closed.reason(),
                Some(_) if cut_off => DisconnectReason::Local, // by us, or for want of the peer's Close
                _ => return None,
            };
            Some(Box::new(reason.into()))
        })
    }

    /// Writes until `done`. While the peer takes nothing, reading goes on as far as there is room, lest both wait for
    /// each other. Frames stay where they are, for the other side.
    fn poll_output(&mut self, cx: &mut Context<'_>, done: impl Fn(&Self) -> bool) -> Poll<()> {
        while !done(self) {
            let polled = self.poll_side(Side::Write, cx, |link, cx| {
                if link.write(cx) {
                    return Poll::Ready(None);
                }
                if link.pipe.yields() {
                    link.rest();
                    return Poll::Pending;
                }
                let event = if link.connection.has_frames() { None } else { link.event() };
                if event.is_some() || link.read(cx) || link.write(cx) || link.keep_time(cx) {
                    return Poll::Ready(event);
                }
                link.rest();
                Poll::Pending
            });
            match polled {
                Poll::Ready(Some(event)) => self.take(event),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        self.release_output();
        Poll::Ready(())
    }

    /// Nobody may come to say that the connection rests: who reads has done so, or nobody does.
    #[inline]
    fn release_output(&mut self) {
        let has_read = mem::take(&mut self.has_read) || self.link.connection.has_frames();
        if self.tasks.waits[Side::Read as usize] || !has_read {
            self.link.connection.release_output();
        }
    }

    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>, close: &CloseFrame) -> Poll<Result<(), Error>> {
        if self.closed.is_none() {
            self.link.now = self.link.clock.now(); // the close timeout counts from here
            self.link.connection.close(self.link.now, close);
        }
        loop {
            if self.closed.is_some() {
                return Poll::Ready(self.end());
            }
            match ready!(self.poll_side(Side::Write, cx, Link::poll_event)) {
                None => self.link.connection.discard_input(), // there was no connection any more to close
                Some(event) => self.take(event),
            }
        }
    }
}

/// See [`WebSocket::next`]: no `async fn`, for what that awaits is not inlined into it without link-time optimisation.
#[must_use = "futures do nothing unless polled"]
struct Next<'a, T, C> {
    socket: &'a mut WebSocket<T, C>,
}

impl<T: Transport, C: Clock> Future for Next<'_, T, C> {
    type Output = Option<Result<Frame, Error>>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().socket.poll_next_frame(cx)
    }
}

/// See [`WebSocket::next_ref`]: no `async fn`, as [`FeedRef`] is none.
#[must_use = "futures do nothing unless polled"]
struct NextRef<'a, T, C> {
    /// `None` behind the end.
    socket: Option<&'a mut WebSocket<T, C>>,
}

impl<'a, T: Transport, C: Clock> Future for NextRef<'a, T, C> {
    type Output = Option<Result<FrameRef<'a>, Box<Error>>>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let next = self.get_mut();
        let Some(socket) = &mut next.socket else { return Poll::Ready(None) };
        let more = match socket.link.connection.is_frame_next() {
            true => More::AtHand,
            false => ready!(socket.poll_whole(cx)),
        };
        // Taken only now that there is something: what is lent lives as long as the socket is borrowed.
        let Some(socket) = next.socket.take() else { return Poll::Ready(None) };
        Poll::Ready(match more {
            More::AtHand => socket.link.connection.poll_lent().map(|(lent, _)| Ok(lent.frame)),
            More::Joined(frame) => Some(Ok(socket.link.connection.lend(*frame).0.frame)),
            More::End(error) => error.map(Err),
        })
    }
}

/// A frame on its way into a socket.
///
/// No `async fn`, which would move the frame from state to state: the usual one is encoded at the first poll.
#[must_use = "futures do nothing unless polled"]
struct Feed<'a, T, C> {
    socket: &'a mut WebSocket<T, C>,
    /// `None` once it is accepted.
    frame: Option<Frame>,
}

impl<T: Transport, C: Clock> Future for Feed<'_, T, C> {
    type Output = Result<(), Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let feed = self.get_mut();
        if let Some(frame) = feed.frame.take() {
            // What is called for the unusual gets the frame itself, not a reference to where it is: so the usual one need be nowhere.
            if !feed.socket.link.connection.outgoing().send_short(FrameRef::from(&frame)) {
                match feed.socket.poll_feed(cx, frame) {
                    Fed::Done => {}
                    Fed::Refused(error) => return Poll::Ready(Err(*error)),
                    Fed::Waits(frame) => {
                        feed.frame = Some(*frame);
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A frame on its way through a socket.
#[must_use = "futures do nothing unless polled"]
struct Send<'a, T, C>(Feed<'a, T, C>);

impl<T: Transport, C: Clock> Future for Send<'_, T, C> {
    type Output = Result<(), Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self(feed) = self.get_mut();
        if let Some(frame) = &feed.frame {
            let through = feed.socket.write_through(cx, frame);
            if through.is_some() {
                feed.frame = None;
            }
            if through == Some(true) {
                return Poll::Ready(Ok(()));
            }
        }
        ready!(Pin::new(&mut *feed).poll(cx))?;
        if feed.socket.defers() { Poll::Ready(Ok(())) } else { feed.socket.poll_flushed(cx) }
    }
}

/// [`Feed`] of a frame that is lent. Nor is this an `async fn`: what one captures is moved before it is looked at.
#[must_use = "futures do nothing unless polled"]
struct FeedRef<'a, T, C> {
    socket: &'a mut WebSocket<T, C>,
    frame: FrameRef<'a>,
    /// A copy that waits for room.
    waits: Option<Box<Frame>>,
}

impl<T: Transport, C: Clock> Future for FeedRef<'_, T, C> {
    type Output = Result<(), Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let feed = self.get_mut();
        if feed.waits.is_none() && feed.socket.link.connection.outgoing().send_short(feed.frame) {
            return Poll::Ready(Ok(()));
        }
        feed.poll_copy(cx).map(|error| error.map_or(Ok(()), |error| Err(*error)))
    }
}

impl<T: Transport, C: Clock> FeedRef<'_, T, C> {
    #[inline(never)]
    fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<Option<Box<Error>>> {
        let frame = self.waits.take().map_or_else(|| self.frame.to_frame(), |frame| *frame);
        match self.socket.poll_feed(cx, frame) {
            Fed::Done => Poll::Ready(None),
            Fed::Refused(error) => Poll::Ready(Some(error)),
            Fed::Waits(frame) => {
                self.waits = Some(frame);
                Poll::Pending
            }
        }
    }
}

/// What became of a frame that could not be encoded at once.
enum Fed {
    Done,
    Refused(Box<Error>),
    Waits(Box<Frame>),
}

impl<T: Transport, C: Clock> Stream for WebSocket<T, C> {
    type Item = Result<Frame, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_next_frame(cx)
    }
}

/// Closing sends 1000 and waits for the end, as [`WebSocket::close`] does.
impl<T: Transport, C: Clock> Sink<Frame> for WebSocket<T, C> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_promise(cx).map(Ok)
    }

    fn start_send(self: Pin<&mut Self>, frame: Frame) -> Result<(), Error> {
        self.get_mut().start(frame)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_flushed(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.get_mut().poll_closed(cx, &CloseFrame::normal())
    }
}

impl<T, C> fmt::Debug for WebSocket<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("connection", &self.link.connection)
            .field("connected", &self.connected)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::io::{self, IoSlice};
    use std::time::Instant;

    use super::*;
    use crate::codec::Decoder;
    use crate::connection::Keepalive;
    use crate::pool::{self, WINDOW};

    /// Goes on only by hand.
    struct Still {
        time: Instant,
        looks: Cell<u32>,
        until: Option<Instant>,
    }

    impl Clock for Still {
        fn now(&self) -> Instant {
            self.looks.set(self.looks.get() + 1);
            self.time
        }
        fn poll_sleep(&mut self, _: &mut Context<'_>, until: Instant) -> Poll<()> {
            self.until = Some(until);
            Poll::Pending
        }
    }

    /// Each read brings one of `reads`; each write is taken as a whole, unless `takes` has something to say.
    #[derive(Default)]
    struct Script {
        reads: VecDeque<Vec<u8>>,
        /// Where the windows of the reads began, and how much room they had.
        windows: Vec<(usize, usize)>,
        writes: Vec<usize>,
        /// The pieces of each write.
        pieces: Vec<usize>,
        /// What the next writes come to: so many bytes, or a wait, or an error.
        takes: VecDeque<Poll<io::Result<usize>>>,
        written: Vec<u8>,
        /// Flushes wait.
        stuck: bool,
    }

    impl Transport for Script {
        fn poll_read(&mut self, _: &mut Context<'_>, window: &mut BytesMut) -> Poll<io::Result<usize>> {
            let Some(read) = self.reads.pop_front() else { return Poll::Pending };
            self.windows.push((window.as_ptr() as usize, window.capacity()));
            assert!(window.capacity() - window.len() >= read.len());
            window.extend_from_slice(&read);
            Poll::Ready(Ok(read.len()))
        }
        fn poll_write(&mut self, _: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let n = match self.takes.pop_front() {
                Some(takes) => ready!(takes)?.min(all.len()),
                None => all.len(),
            };
            self.writes.push(n);
            self.pieces.push(pieces.len());
            self.written.extend_from_slice(&all[..n]);
            Poll::Ready(Ok(n))
        }
        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.stuck { Poll::Pending } else { Poll::Ready(Ok(())) }
        }
        fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn facts(&self) -> TransportFacts {
            TransportFacts::default()
        }
    }

    fn socket(role: Role, reads: impl IntoIterator<Item = Vec<u8>>) -> WebSocket<Script, Still> {
        let transport = Script { reads: reads.into_iter().collect(), ..Script::default() };
        let (agreed, config) = (
            Negotiated::new(http::StatusCode::SWITCHING_PROTOCOLS, http::HeaderMap::new()),
            Arc::new(Config::new(role)),
        );
        let clock = Still { time: Instant::now(), looks: Cell::new(0), until: None };
        WebSocket::upgraded(clock, transport, role, agreed, config, BytesMut::new(), [0; 32])
    }

    fn transport(socket: &mut WebSocket<Script, Still>) -> &mut Script {
        socket.link.pipe.transport_mut()
    }

    fn now<O>(future: impl Future<Output = O>) -> Option<O> {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// So many binary frames of `len` bytes, as a server sends them.
    fn frames(count: usize, len: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            match u8::try_from(len) {
                Ok(len) if len < 126 => bytes.extend([0x82, len]),
                _ => bytes.extend([0x82, 0x7E, (len >> 8) as u8, len as u8]),
            }
            bytes.resize(bytes.len() + usize::from(len), 7);
        }
        bytes
    }

    #[test]
    fn what_was_lent_is_given_up_before_the_next_read() {
        let mut socket = socket(Role::Client, (0..4).map(|_| frames(50, 996)));
        for _ in 0..4 * 50 {
            now(socket.next_ref()).unwrap().unwrap().unwrap();
        }
        let windows = &transport(&mut socket).windows;
        assert!(windows.iter().all(|window| window.0 == windows[0].0), "{windows:x?}");
    }

    #[test]
    fn who_only_borrows_frames_has_none_copied() {
        let mut socket = socket(Role::Client, (0..4).map(|_| frames(50, 996)));
        for _ in 0..4 * 50 {
            now(socket.next_ref()).unwrap().unwrap().unwrap();
        }
        assert_eq!(socket.link.pipe.copied_reads_left(), 0);
    }

    #[test]
    fn a_socket_that_was_lent_frames_gives_its_window_back_when_it_waits() {
        let mut socket = socket(Role::Client, [frames(50, 996)]);
        for _ in 0..50 {
            now(socket.next_ref()).unwrap().unwrap().unwrap();
        }
        let used = transport(&mut socket).windows[0].0;
        assert!(now(socket.next_ref()).is_none());
        let window = pool::window();
        assert!(window.capacity() >= WINDOW);
        assert_eq!(window.as_ptr() as usize, used, "the window of the read is in the pool");
    }

    #[test]
    fn reads_that_bring_frames_need_no_clock() {
        let mut socket = socket(Role::Client, (0..4).map(|_| frames(3, 100)));
        socket.link.clock.looks.set(0);
        for _ in 0..4 * 3 {
            now(socket.next()).unwrap().unwrap().unwrap();
        }
        assert_eq!(socket.link.clock.looks.get(), 0);
        assert!(now(socket.next()).is_none());
        assert_eq!(socket.link.clock.looks.get(), 1);
    }

    #[test]
    fn silence_counts_from_the_wait_behind_the_last_frame() {
        let mut socket = socket(Role::Client, [frames(2, 100), frames(2, 100)]);
        let start = socket.link.clock.time;
        for seconds in [7, 15] {
            socket.link.clock.time = start + Duration::from_secs(seconds);
            now(socket.next()).unwrap().unwrap().unwrap();
            now(socket.next()).unwrap().unwrap().unwrap();
        }
        socket.link.clock.time = start + Duration::from_secs(16);
        assert!(now(socket.next()).is_none());
        assert_eq!(socket.link.clock.until, Some(start + Duration::from_secs(16) + Keepalive::default().interval()));
    }

    #[test]
    fn the_closing_handshake_counts_from_when_the_close_was_read() {
        let mut socket = socket(Role::Client, [[frames(1, 100), vec![0x88, 0]].concat()]);
        socket.link.clock.time += Duration::from_secs(100);
        let at = socket.link.clock.time;
        now(socket.next()).unwrap().unwrap().unwrap();
        assert!(now(socket.next()).is_none(), "the server closes the stream");
        let timeout = socket.link.connection.poll_timeout().unwrap().0.duration_since(at);
        assert_eq!(timeout, Config::new(Role::Client).close_timeout);
    }

    #[test]
    fn the_answers_to_one_read_leave_in_one_write() {
        let read = frames(5000, 10); // 60,000 bytes; 80,000 as a client sends them
        let mut socket = socket(Role::Client, [read]);
        for _ in 0..5000 {
            let (frame, reply) = now(socket.next_with_reply()).unwrap().unwrap().unwrap();
            reply.feed_ref(frame).unwrap();
        }
        assert!(now(socket.next_with_reply()).is_none());
        assert_eq!(transport(&mut socket).writes, [80_000]);
    }

    #[test]
    fn a_buffer_that_answers_have_filled_is_used_again() {
        let mut socket = socket(Role::Client, [frames(5000, 10)]);
        loop {
            let (_, reply) = now(socket.next_with_reply()).unwrap().unwrap().unwrap();
            reply.feed_ref(FrameRef::binary(&[1; 200])).unwrap();
            if !socket.link.connection.has_room_for_reply() {
                break;
            }
        }
        now(socket.flush()).unwrap().unwrap();
        socket.link.connection.release_output();
        let output = pool::output();
        assert!(output.capacity() >= WINDOW, "{} bytes of room in the pool", output.capacity());
    }

    #[test]
    fn a_large_frame_leaves_with_its_header_in_one_write_of_two_pieces() {
        for fed in [false, true] {
            let mut socket = socket(Role::Server, []);
            let frame = Frame::binary(vec![7; 100_000]);
            if fed {
                now(socket.feed(frame)).unwrap().unwrap();
                now(socket.flush()).unwrap().unwrap();
            } else {
                now(socket.send(frame)).unwrap().unwrap();
            }
            let Script { writes, pieces, .. } = transport(&mut socket);
            assert_eq!((&writes[..], &pieces[..]), (&[100_010][..], &[2][..]));
        }
    }

    /// What a peer of `role` has sent: the payloads of its frames.
    fn payloads(role: Role, bytes: &[u8]) -> Vec<Bytes> {
        let peer = if role == Role::Client { Role::Server } else { Role::Client };
        let limits = crate::Limits::client().with_message(1 << 20).unwrap();
        let (mut decoder, mut payloads) = (Decoder::new(peer, &limits), Vec::new());
        decoder.decode(&mut BytesMut::from(bytes), &mut |_| {});
        while let Some(frame) = decoder.poll() {
            payloads.push(frame.into_payload());
        }
        assert!(decoder.end().is_none());
        payloads
    }

    const LENS: [usize; 11] = [0, 1, 125, 126, 242, 243, 300, 8191, 8192, 65_536, 100_000];

    #[test]
    fn a_message_that_is_sent_alone_leaves_whole_however_it_is_taken() {
        for (role, len) in [Role::Client, Role::Server].into_iter().flat_map(|role| LENS.map(|len| (role, len))) {
            for first in [0, 1, 2, 5, 9, 10, 14, 60, len / 2, len, len + 1] {
                let mut socket = socket(role, []);
                let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let takes = &mut transport(&mut socket).takes;
                takes.extend((first > 0).then_some(Poll::Ready(Ok(first))));
                takes.push_back(Poll::Pending);
                let frame = Frame::binary(plain.clone());
                let (sent, kept) = (first >= len + 14, frame.clone());
                {
                    let mut sending = std::pin::pin!(socket.send(frame));
                    let mut cx = Context::from_waker(Waker::noop());
                    if sending.as_mut().poll(&mut cx).is_pending() {
                        assert!(!sent && sending.as_mut().poll(&mut cx).is_ready());
                    }
                }
                transport(&mut socket).takes.clear();
                now(socket.send(Frame::text("behind"))).unwrap().unwrap();
                let written = &transport(&mut socket).written;
                assert_eq!(
                    payloads(role, written),
                    [&plain[..], b"behind"],
                    "{len} bytes by a {role:?}, {first} first"
                );
                assert_eq!(kept.payload(), &plain, "a payload that others share is not touched");
            }
        }
    }

    /// As with a stream of TLS.
    #[test]
    fn a_message_that_is_sent_alone_has_left_when_it_is_flushed() {
        let mut socket = socket(Role::Server, []);
        transport(&mut socket).stuck = true;
        assert!(now(socket.send(Frame::text("one"))).is_none());
        assert!(now(socket.flush()).is_none());
        transport(&mut socket).stuck = false;
        assert!(now(socket.flush()).unwrap().is_ok());
        assert_eq!(payloads(Role::Server, &transport(&mut socket).written), ["one"]);
    }

    #[test]
    fn a_message_that_is_sent_alone_learns_why_it_could_not_leave() {
        let errors = [Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())), Poll::Ready(Ok(0))];
        for (error, kind) in errors.into_iter().zip([io::ErrorKind::BrokenPipe, io::ErrorKind::WriteZero]) {
            let mut socket = socket(Role::Server, []);
            transport(&mut socket).takes.push_back(error);
            let error = now(socket.send(Frame::text("lost"))).unwrap().unwrap_err();
            let Error::Disconnected(DisconnectReason::Tcp(error)) = error else { panic!("{error:?}") };
            assert_eq!(error.kind(), kind);
        }
    }

    #[test]
    fn an_interrupted_write_is_made_again() {
        let mut socket = socket(Role::Server, []);
        transport(&mut socket).takes.push_back(Poll::Ready(Err(io::ErrorKind::Interrupted.into())));
        now(socket.send(Frame::text("one"))).unwrap().unwrap();
        assert_eq!(payloads(Role::Server, &transport(&mut socket).written), ["one"]);
    }
}
