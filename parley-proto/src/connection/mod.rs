//! One WebSocket connection of either role, from the first byte of its handshake to the last of its Close:
//! RFC 6455, sections 4 to 7, without a socket, a clock or a source of randomness.
//!
//! ```text
//!            handshake complete         close(), peer's Close, error
//! Connecting ──────────────────▶ Open ───────────────────────────────▶ Closing
//!     │                            │ EOF, transport lost                  │ both Closes and EOF, deadline
//!     └──────────────┬─────────────┘                                      │
//!      refusal, EOF, deadline                                             ▼
//!                    └───────────────────────────────────────────────▶ Closed
//! ```
//!
//! Parsing runs ahead of the application: one read may hold many frames and, behind them, a Close or an error. That
//! end takes effect in its turn, when [`poll_event`](Connection::poll_event) has given out the frames before it, so
//! that the application can still answer them. A close timeout bounds the wait.
//!
//! While a connection is open and no Close or error is known of, two timers watch the peer: keepalive what comes from
//! it (`keepalive.rs`), the write stall whether it takes what waits for it.

mod event;
mod keepalive;
mod outgoing;
mod timer;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

pub use event::{Closed, ConnectionError, Event, Initiator, Shutdown, State};
pub use keepalive::{Keepalive, Rtt};
use outgoing::Gate;
pub(crate) use outgoing::Outgoing;
pub use timer::Timer;
pub(crate) use timer::{deadline, earliest};

use crate::codec::{
    Chunk, CloseFrame, Decoder, Encoder, End, Frame, HEAD, Lent, OpCode, PreparedFrame, Transmit, Utf8Validator,
};
use crate::error::{ChunkError, NetworkError, SendError};
use crate::handshake::{
    Acceptance, ApiMisuse, ClientFailure, ClientHandshake, ClientRequest, HandshakeError, Negotiated, Rejection,
    ServerHandshake,
};
use crate::{Limits, Role};

/// Frames are encoded at most this far ahead of what the transport has taken, in bytes; a `WebSocket`'s answers to frames that are
/// lent, 112 KiB. What is encoded has begun.
pub const ENCODE_AHEAD: usize = 64 * 1024;

/// The same where each frame answers one that is at hand: what answers all that one read brought leaves in one write. The answer
/// that goes beyond it still fits into an output buffer that is used again.
const REPLY_AHEAD: usize = 112 * 1024;

/// Output that has grown to this many bytes counts as blocked for pongs: more than the pings of one read can make it.
const PONGS_AHEAD: usize = 4 * ENCODE_AHEAD;

/// What a connection has to be told once: limits and deadlines.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Bounds on memory. Default: [`Limits::client`] or [`Limits::server`].
    pub limits: Limits,
    /// From the first Close, ours or the peer's, until the transport is closed: absolute, not extended by traffic. What
    /// stands behind frames that the application does not take takes effect after half of it. Default 5 s.
    pub close_timeout: Duration,
    /// Pings of our own to a silent peer, and the end of one that does not answer; `None`: neither. Default 20 s and 20 s.
    ///
    /// The wait stands still while reading is paused ([`Connection::wants_input`]) and while output is blocked, and
    /// starts afresh behind both.
    pub keepalive: Option<Keepalive>,
    /// While output waits, the transport has to take at least a byte of it in every such time; otherwise the
    /// connection is lost. Any progress starts the time afresh. Zero ends it at the first write that is not taken
    /// whole. Default 30 s.
    pub write_timeout: Duration,
    /// Messages bigger than this many bytes, and all that come in fragments (their size is not known before their end),
    /// are received in parts, as [`Event::Chunk`], and never held whole: [`Limits::message`] may then be larger than what one
    /// would hold. Default `None`: every message is whole.
    pub chunks_above: Option<usize>,
    /// Server: from the request until the application accepts or rejects it; then the answer is 503. Default 10 s.
    pub decision_timeout: Duration,
    /// Server: requests that ask for no upgrade are events, instead of being refused with 426. Default `false`.
    pub plain_http: bool,
}

impl Config {
    /// The defaults of a role.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        let limits = match role {
            Role::Client => Limits::client(),
            Role::Server => Limits::server(),
        };
        Self {
            limits,
            close_timeout: Duration::from_secs(5),
            keepalive: Some(Keepalive::DEFAULT),
            write_timeout: Duration::from_secs(30),
            chunks_above: None,
            decision_timeout: Duration::from_secs(10),
            plain_http: false,
        }
    }
}

/// One connection.
///
/// The intended loop: bytes from the transport go to [`handle_input`](Self::handle_input); then
/// [`poll_event`](Self::poll_event) until `None`, answering with [`send`](Self::send); then
/// [`transmit`](Self::transmit) is written and [`handle_written`](Self::handle_written) told; then
/// [`poll_shutdown`](Self::poll_shutdown); then wait for the transport or for [`poll_timeout`](Self::poll_timeout).
/// Any other order is legal too, and any chunking of the same input gives the same events.
///
/// ```
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
/// use bytes::BytesMut;
/// use parley_proto::codec::Frame;
/// use parley_proto::connection::{Config, Connection, Event};
/// use parley_proto::handshake::{Acceptance, ClientRequest};
/// use parley_proto::Role;
///
/// let now = Instant::now();
/// let deadline = now + Duration::from_secs(10);
/// let request = ClientRequest::new("ws://localhost/chat")?;
/// let mut client = Connection::client(&request, Arc::new(Config::new(Role::Client)), [1; 32], deadline);
/// let mut server = Connection::server(Arc::new(Config::new(Role::Server)), [2; 32], deadline);
///
/// fn carry(now: Instant, from: &mut Connection, to: &mut Connection) {
///     while !from.transmit().is_empty() {
///         let bytes: Vec<u8> = from.transmit().iter().flatten().copied().collect();
///         from.handle_written(now, bytes.len());
///         to.handle_input(now, &mut BytesMut::from(&bytes[..]));
///     }
/// }
///
/// carry(now, &mut client, &mut server);
/// assert!(matches!(server.poll_event(), Some(Event::Request(request)) if request.path() == "/chat"));
/// server.accept(now, Acceptance::default())?;
/// carry(now, &mut server, &mut client);
/// assert!(matches!(client.poll_event(), Some(Event::Open(_))));
///
/// client.send(now, Frame::text("hello"))?;
/// carry(now, &mut client, &mut server);
/// assert!(matches!(server.poll_event(), Some(Event::Open(_))));
/// assert!(matches!(server.poll_event(), Some(Event::Frame(Frame::Text(text))) if &*text == "hello"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Connection {
    role: Role,
    phase: Phase,
    decoder: Decoder,
    encoder: Encoder,
    /// The transport has not taken all that it was offered, and the last of what it took then.
    blocked: Option<Instant>,
    /// The newest ping's payload, while output is blocked: one pong answers them all (section 5.5.3).
    pong: Option<Box<Bytes>>,
    /// What is known of the peer's being alive.
    life: Life,
    /// Those that are armed.
    timers: Table,
    shutdown: Option<Shutdown>,
    /// The peer ended its direction while a Close or an error had yet to take effect.
    peer_ended: bool,
    /// A message that is being sent in parts.
    sending: Option<Box<Sending>>,
    /// The transport holds on to some of what it has taken.
    unflushed: bool,
    /// The end came before all output had left.
    cut_off: bool,
    /// Reported once, before any frame.
    news: Option<Box<Event>>,
    config: Arc<Config>,
}

use keepalive::{Due, Life};
use timer::Table;

/// Each variant owns what only its state needs.
enum Phase {
    ClientHandshake(Box<ClientHandshake>),
    ServerHandshake(Box<ServerHandshake>),
    /// Server: the request is with the application.
    Deciding(Box<ServerHandshake>),
    Open,
    Closing(Box<Closing>),
    /// Holds the final event until it was polled.
    Closed(Option<Box<Closed>>),
}

impl Phase {
    /// That of a connection that is not open.
    fn gate(&self) -> Gate {
        if self.state() == State::Connecting { Gate::Connecting } else { Gate::Closing }
    }

    fn state(&self) -> State {
        match self {
            Self::ClientHandshake(_) | Self::ServerHandshake(_) | Self::Deciding(_) => State::Connecting,
            Self::Open => State::Open,
            Self::Closing(_) => State::Closing,
            Self::Closed(_) => State::Closed,
        }
    }
}

/// What has been sent of a message in parts.
#[derive(Clone, Copy)]
struct Sending {
    text: bool,
    utf8: Utf8Validator,
}

/// A closing handshake under way. Our Close is in the output, or was.
struct Closing {
    initiator: Initiator,
    /// The peer's Close was seen; with its payload.
    received: Option<Option<CloseFrame>>,
    /// Why we failed the connection.
    error: Option<ConnectionError>,
    /// The peer has ended its direction: once our output has left, all is done.
    eof: bool,
}

impl Closing {
    fn outcome(&self) -> Closed {
        Closed {
            initiator: self.initiator,
            was_clean: self.received.is_some() && self.error.is_none(),
            received: self.received.is_some(),
            close: self.received.clone().flatten(),
            error: self.error.clone(),
        }
    }
}

impl Connection {
    /// A client's connection: the request is in the output at once.
    ///
    /// `seed` has to be unpredictable and fresh: the nonce, every masking key (section 10.3) and what our own pings
    /// carry come from it.
    #[must_use]
    pub fn client(request: &ClientRequest, config: Arc<Config>, seed: [u8; 32], deadline: Instant) -> Self {
        let mut encoder = Encoder::new(Role::Client, seed);
        let (handshake, head) = ClientHandshake::new(request, encoder.nonce(), &config.limits);
        encoder.raw(&head);
        let timers = Table::handshake(deadline);
        let life = Life::new(deadline);
        Self::new(Role::Client, Phase::ClientHandshake(Box::new(handshake)), encoder, life, timers, config)
    }

    /// A server's connection, which waits for a request until `deadline`. What our own pings carry comes from `seed`.
    #[must_use]
    pub fn server(config: Arc<Config>, seed: [u8; 32], deadline: Instant) -> Self {
        let handshake = ServerHandshake::new(&config.limits);
        let encoder = Encoder::new(Role::Server, seed);
        let timers = Table::handshake(deadline);
        let life = Life::new(deadline);
        Self::new(Role::Server, Phase::ServerHandshake(Box::new(handshake)), encoder, life, timers, config)
    }

    /// A connection whose handshake was done elsewhere: by hyper, axum, or over HTTP/2.
    #[must_use]
    pub fn upgraded(now: Instant, role: Role, agreed: Negotiated, config: Arc<Config>, seed: [u8; 32]) -> Self {
        let (encoder, life) = (Encoder::new(role, seed), Life::new(now));
        let mut connection = Self::new(role, Phase::Open, encoder, life, Table::default(), config);
        connection.news = Some(Box::new(Event::Open(Box::new(agreed))));
        connection
    }

    fn new(role: Role, phase: Phase, encoder: Encoder, life: Life, timers: Table, config: Arc<Config>) -> Self {
        let mut decoder = Decoder::new(role, &config.limits);
        decoder.set_chunks_above(config.chunks_above);
        Self {
            role,
            phase,
            decoder,
            encoder,
            blocked: None,
            pong: None,
            life,
            timers,
            shutdown: None,
            peer_ended: false,
            sending: None,
            unflushed: false,
            cut_off: false,
            news: None,
            config,
        }
    }

    /// This endpoint's role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The state, as the application has seen it: what was parsed ahead does not count yet.
    #[must_use]
    pub fn state(&self) -> State {
        self.phase.state()
    }

    // ---- in: the transport and the clock

    /// Takes what has arrived. Whole frames leave `input`; an unfinished one stays at its front, where the next bytes
    /// are to be appended. Never fails: an error is a state, and reported by [`poll_event`](Self::poll_event).
    pub fn handle_input(&mut self, now: Instant, input: &mut BytesMut) {
        match &mut self.phase {
            Phase::Open => {}
            Phase::ClientHandshake(handshake) => match handshake.handle_input(input) {
                Ok(None) => return,
                Ok(Some(negotiated)) => self.open(now, negotiated),
                Err(failure) => return self.fail_client_handshake(failure),
            },
            Phase::ServerHandshake(handshake) => match handshake.handle_input(input) {
                Ok(None) => return,
                Ok(Some(request)) => return self.decide(now, Event::Request(Box::new(request))),
                Err(refusal) => {
                    if let Some(request) = refusal.request.filter(|_| self.config.plain_http) {
                        return self.decide(now, Event::Http(request));
                    }
                    self.encoder.raw(&refusal.response);
                    return self.refuse(now, refusal.error.into());
                }
            },
            Phase::Deciding(_) => return,
            Phase::Closing(_) => return self.handle_input_closing(input),
            Phase::Closed(_) => return input.clear(),
        }
        if !input.is_empty() {
            self.life.sign(now);
        }
        self.decode(input);
        self.life.set_untimed(self.is_full());
        if self.begins_to_end() {
            self.arm_end(now);
        }
    }

    /// [`handle_input`](Self::handle_input) of what a read has brought, that asks for the time only where that matters. As a
    /// sign of life it is [given one](Self::set_time) when the timers are looked at next.
    #[inline]
    pub(crate) fn handle_input_by(&mut self, now: impl FnOnce() -> Instant, input: &mut BytesMut) {
        if !matches!(self.phase, Phase::Open) || self.life.has_unanswered() {
            return self.handle_input(now(), input);
        }
        self.decode(input);
        self.life.set_untimed(true);
        if self.begins_to_end() {
            self.arm_end(now());
        }
    }

    /// Something came without a time, which has to be told before the timers are looked at.
    #[inline]
    pub(crate) fn is_untimed(&self) -> bool {
        self.life.is_untimed() && !self.is_full()
    }

    /// See [`handle_input_by`](Self::handle_input_by).
    pub(crate) fn set_time(&mut self, now: Instant) {
        self.life.set_time(now);
    }

    /// A Close or an error was parsed, and no timer runs for it.
    #[inline]
    fn begins_to_end(&self) -> bool {
        self.decoder.end().is_some() && !self.timers.is_closing()
    }

    fn arm_end(&mut self, now: Instant) {
        self.timers.armed().effect = Some(deadline(now, self.config.close_timeout / 2));
        self.arm_close(now);
    }

    /// Once: the time from the first Close, ours or theirs, is not extended by anything.
    fn arm_close(&mut self, now: Instant) {
        self.timers.armed().close.get_or_insert(deadline(now, self.config.close_timeout));
    }

    /// Frames off the front of `input`; each ping is answered here, so that no application can forget it.
    /// A pong to a ping of our own is for us alone.
    fn decode(&mut self, input: &mut BytesMut) {
        let Self { decoder, encoder, blocked, pong, life, .. } = self;
        decoder.decode_with(input, &mut |opcode, payload| {
            if opcode == OpCode::Pong {
                return !life.answered(payload);
            }
            let answer = Bytes::copy_from_slice(payload);
            if blocked.is_some() || encoder.queued() >= PONGS_AHEAD {
                *pong = Some(Box::new(answer));
            } else {
                encoder.frame(Frame::Pong(answer));
            }
            true
        });
    }

    /// After our Close: frames are parsed and checked, not delivered, pings not answered.
    fn handle_input_closing(&mut self, input: &mut BytesMut) {
        let Phase::Closing(closing) = &mut self.phase else { return input.clear() };
        if closing.received.is_some() || closing.error.is_some() {
            return input.clear(); // section 7.1.7: no more data is processed
        }
        self.decoder.decode(input, &mut |_| {});
        match self.decoder.end() {
            Some(End::Close(close)) => {
                closing.received = Some(close.clone());
                if self.role == Role::Server {
                    self.shutdown = Some(Shutdown::Write);
                }
            }
            Some(End::Error(error)) => {
                closing.error = Some((*error).into()); // no second Close: the stream is dropped
                self.finish_closing(Shutdown::Abort);
            }
            None => {}
        }
    }

    /// Nothing has come of the last input but more of a frame.
    pub(crate) fn is_mid_frame(&self) -> bool {
        let decoder = &self.decoder;
        let is_open = matches!(self.phase, Phase::Open) && self.news.is_none();
        is_open && decoder.read_hint() > 0 && !decoder.has_frames() && decoder.end().is_none()
    }

    /// How many bytes the frame under way still lacks; 0 when that is not known.
    #[must_use]
    pub fn read_hint(&self) -> usize {
        self.decoder.read_hint()
    }

    /// While on, small frames are copied out of the input instead of being slices of it: for an application that
    /// keeps small frames long after the read that brought them.
    pub fn set_copy_small(&mut self, on: bool) {
        self.decoder.set_copy_small(on);
    }

    /// The transport has taken `n` bytes of [`transmit`](Self::transmit). Less than all of that (0 too) means that it is
    /// blocked until the next call: meanwhile only the newest ping is remembered, and the
    /// [write timeout](Config::write_timeout) runs from the last byte that was taken.
    #[inline]
    pub fn handle_written(&mut self, now: Instant, n: usize) {
        self.handle_written_by(|| now, n);
        self.release_output();
    }

    /// Nobody may come to say that it rests: neither an output buffer nor a queue is held in which nothing waits.
    #[inline]
    pub(crate) fn release_output(&mut self) {
        self.encoder.release_if_empty();
        if self.decoder.holds_queue() {
            self.decoder.release_if_empty();
        }
    }

    /// [`handle_written`](Self::handle_written) that asks for the time where it matters: not when all has left at once. A small
    /// output buffer is held until the connection [rests](Self::rest).
    #[inline]
    pub(crate) fn handle_written_by(&mut self, now: impl FnOnce() -> Instant, n: usize) {
        let took_all = self.encoder.take(n);
        if self.encoder.queued() == 0 && self.blocked.is_none() && !self.life.has_unanswered() {
            return self.handle_all_written();
        }
        let now = now();
        self.life.written(now, self.encoder.written());
        if self.encoder.queued() == 0 {
            self.handle_drained(now);
        } else if took_all {
            if self.blocked.take().is_some() {
                self.life.drained(now);
            }
        } else if n > 0 || self.blocked.is_none() {
            self.blocked = Some(now);
        }
    }

    fn handle_drained(&mut self, now: Instant) {
        if self.blocked.take().is_some() {
            self.life.drained(now);
        }
        self.handle_all_written();
    }

    fn handle_all_written(&mut self) {
        if self.pong.is_some() {
            self.encode_pong();
        }
        self.finish_when_all_left();
    }

    /// Whoever drives it is about to wait: what can be made again is not held.
    #[inline]
    pub(crate) fn rest(&mut self) {
        self.encoder.rest();
        self.decoder.release_if_empty();
    }

    /// The transport has yet to be flushed; nobody says so where writing is all there is to it.
    #[inline]
    pub(crate) fn set_unflushed(&mut self) {
        self.unflushed = true;
    }

    /// All that the transport has taken has left.
    pub(crate) fn handle_flushed(&mut self) {
        self.unflushed = false;
        self.finish_when_all_left();
    }

    /// Behind the peer's end there is our output to wait for: closing now would cut it off.
    fn finish_when_all_left(&mut self) {
        let ended = matches!(&self.phase, Phase::Closing(closing) if closing.eof);
        if ended && self.encoder.queued() == 0 && !self.unflushed {
            self.finish_closing(Shutdown::Close);
        }
    }

    /// The connection has ended before all that was sent had left.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// Pings and pongs go ahead of data not yet begun (section 5.5.2: as soon as is practical).
    #[inline]
    pub(crate) fn encode_pong(&mut self) {
        if let Some(payload) = self.pong.take() {
            self.encode_pong_of(*payload);
        }
    }

    #[inline(never)]
    fn encode_pong_of(&mut self, payload: Bytes) {
        if matches!(self.phase, Phase::Open) {
            self.encoder.frame(Frame::Pong(payload));
        }
    }

    #[inline(always)]
    fn gate(&self) -> Gate {
        match self.phase {
            Phase::Open if self.pong.is_none() && self.sending.is_none() => Gate::Open,
            Phase::Open if self.pong.is_some() => Gate::Pong,
            Phase::Open => Gate::Parts,
            _ => self.phase.gate(),
        }
    }

    /// The peer has ended its direction.
    pub fn handle_eof(&mut self, _now: Instant) {
        match &mut self.phase {
            Phase::ClientHandshake(handshake) => {
                let failure = handshake.handle_eof();
                self.fail_client_handshake(failure);
            }
            Phase::ServerHandshake(_) | Phase::Deciding(_) => {
                self.finish(Shutdown::Close, Self::lost(ConnectionError::Eof));
            }
            // A Close or an error stands behind frames that the application has not seen: their answers, then our
            // Close may still reach the peer.
            Phase::Open if self.decoder.end().is_some() => self.peer_ended = true,
            Phase::Open => self.finish(Shutdown::Close, Self::lost(ConnectionError::Eof)),
            Phase::Closing(closing) => {
                closing.eof = true;
                if closing.received.is_none() && closing.error.is_none() {
                    closing.error = Some(ConnectionError::Eof);
                }
                self.finish_when_all_left();
            }
            Phase::Closed(_) => {}
        }
    }

    /// The transport failed: a read or write returned this error.
    pub fn handle_lost(&mut self, _now: Instant, error: NetworkError) {
        match &mut self.phase {
            Phase::Closing(closing) => {
                // A reset behind both Closes keeps the code (section 7.1.5).
                if closing.received.is_none() && closing.error.is_none() {
                    closing.error = Some(ConnectionError::Network(error));
                }
                self.finish_closing(Shutdown::Abort);
            }
            Phase::Open => {
                let mut closed = Self::lost(ConnectionError::Network(error));
                match self.decoder.end() {
                    Some(End::Close(close)) => {
                        closed = Closed { close: close.clone(), received: true, error: None, ..closed };
                    }
                    Some(End::Error(error)) => closed = Self::lost((*error).into()),
                    None => {}
                }
                self.finish(Shutdown::Abort, closed);
            }
            Phase::Closed(_) => {}
            // A refusal whose body was cut off is a refusal.
            Phase::ClientHandshake(handshake) => match handshake.handle_deadline() {
                Some(failure) => self.fail_client_handshake(failure),
                None => self.finish(Shutdown::Abort, Self::lost(ConnectionError::Network(error))),
            },
            Phase::ServerHandshake(_) | Phase::Deciding(_) => {
                self.finish(Shutdown::Abort, Self::lost(ConnectionError::Network(error)));
            }
        }
    }

    /// A deadline may have come. Early or repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.poll_timeout() {
            if at > now {
                return;
            }
            self.timers.disarm(timer);
            match (timer, &mut self.phase) {
                (Timer::Handshake, Phase::ClientHandshake(handshake)) => match handshake.handle_deadline() {
                    Some(failure) => self.fail_client_handshake(failure),
                    None => self.finish(Shutdown::Abort, Self::lost(ConnectionError::HandshakeTimeout)),
                },
                (Timer::Handshake, Phase::ServerHandshake(_)) => {
                    self.finish(Shutdown::Abort, Self::lost(ConnectionError::HandshakeTimeout));
                }
                (Timer::Handshake, Phase::Deciding(_)) => self.give_up(now, ConnectionError::HandshakeTimeout),
                (Timer::Effect, Phase::Open) => self.take_effect(),
                (Timer::Close, Phase::Closing(_)) => {
                    let how = if self.encoder.queued() == 0 { Shutdown::Close } else { Shutdown::Abort };
                    self.finish_closing(how);
                }
                (Timer::Keepalive, Phase::Open) => self.keep_alive(now),
                (Timer::WriteStall, Phase::Open) => {
                    self.finish(Shutdown::Abort, Self::lost(ConnectionError::WriteTimeout));
                }
                _ => {}
            }
        }
    }

    /// The peer was silent for as long as it may be. A ping goes behind what is encoded, ahead of all that is not.
    fn keep_alive(&mut self, now: Instant) {
        match self.life.due(now) {
            Due::Resumed => {}
            Due::Ask => {
                let payload = self.life.payload(self.encoder.seed());
                let end = self.encoder.frame(Frame::Ping(Bytes::copy_from_slice(&payload)));
                self.life.asked(now, payload, end);
            }
            Due::Lost => self.finish(Shutdown::Abort, Self::lost(ConnectionError::KeepaliveTimeout)),
        }
    }

    /// Round-trip times by our own pings; `None` before the first was answered.
    #[must_use]
    pub fn rtt(&self) -> Option<Rtt> {
        self.life.rtt()
    }

    // ---- the application

    /// Server: accepts the upgrade that [`Event::Request`] asked for. Input that was left behind the request is to be
    /// handed to [`handle_input`](Self::handle_input) again.
    ///
    /// # Errors
    ///
    /// No request is waiting, or the reply names a subprotocol that was not offered.
    pub fn accept(&mut self, now: Instant, reply: Acceptance) -> Result<(), ApiMisuse> {
        let Phase::Deciding(handshake) = &mut self.phase else { return Err(ApiMisuse::NoRequest) };
        let (negotiated, head) = handshake.accept(&reply)?;
        self.encoder.raw(&head);
        self.open(now, negotiated);
        Ok(())
    }

    /// Server: refuses the upgrade with a response of the application's own; the connection then ends.
    ///
    /// # Errors
    ///
    /// No request is waiting.
    pub fn reject(&mut self, now: Instant, reply: Rejection) -> Result<(), ApiMisuse> {
        let Phase::Deciding(handshake) = &mut self.phase else { return Err(ApiMisuse::NoRequest) };
        let response = handshake.reject(&reply)?;
        self.encoder.raw(&response);
        self.refuse(now, ConnectionError::Refused);
        Ok(())
    }

    /// Server: answers the request that [`Event::Http`] told of; the connection then ends. To `HEAD` the body is not sent.
    ///
    /// # Errors
    ///
    /// No such request is waiting, or the status is an interim one (1xx).
    pub fn respond(&mut self, now: Instant, response: &http::Response<Bytes>) -> Result<(), ApiMisuse> {
        let Phase::Deciding(handshake) = &mut self.phase else { return Err(ApiMisuse::NoRequest) };
        let (head, body) = handshake.respond_in_two(response)?;
        self.encoder.raw(&head);
        self.encoder.raw_shared(body);
        self.refuse(now, ConnectionError::Refused);
        Ok(())
    }

    /// Encodes a frame behind what is there, and returns the output offset at its end: once
    /// [`written`](Self::written) has reached it, the transport has the whole frame.
    ///
    /// # Errors
    ///
    /// Gives the frame back when there is no room ([`has_room`](Self::has_room)), when the connection is not open,
    /// when a control frame has more than 125 bytes, and when another message is being sent in parts.
    #[inline]
    pub fn send(&mut self, _now: Instant, frame: Frame) -> Result<u64, SendError> {
        if self.has_room() && self.gate() == Gate::Open && !frame.is_control() {
            return Ok(self.encoder.frame(frame));
        }
        self.send_unusual(frame, true)
    }

    /// [`send`](Self::send) without the bound: for a callback's pushes, which their own rule bounds.
    #[inline]
    pub(crate) fn send_anyway(&mut self, _now: Instant, frame: Frame) -> Result<u64, SendError> {
        if self.gate() == Gate::Open && !frame.is_control() {
            return Ok(self.encoder.frame(frame));
        }
        self.send_unusual(frame, false)
    }

    /// Where something is in the way, or may be.
    #[inline(never)]
    fn send_unusual(&mut self, frame: Frame, bounded: bool) -> Result<u64, SendError> {
        if bounded && !self.has_room() && matches!(self.phase, Phase::Open) {
            return Err(SendError::Full(frame));
        }
        self.encode_pong();
        self.outgoing().send(frame)
    }

    /// What sends, by itself.
    #[inline(always)]
    pub(crate) fn outgoing(&mut self) -> Outgoing<'_> {
        Outgoing { gate: self.gate(), encoder: &mut self.encoder }
    }

    /// What to write of a frame at once, if nothing is in its way and nothing else waits: see [`Encoder::offer`].
    #[inline(always)]
    pub(crate) fn offer<'a>(&mut self, frame: &'a Frame, head: &'a mut [u8; HEAD]) -> Option<[&'a [u8]; 2]> {
        if self.encoder.queued() > 0 || self.gate() != Gate::Open { None } else { self.encoder.offer(frame, head) }
    }

    /// See [`Encoder::take_offer`].
    #[inline]
    pub(crate) fn take_offer(&mut self, offer: [&[u8]; 2], frame: &Frame, n: usize) -> bool {
        self.encoder.take_offer(offer, frame, n)
    }

    /// As [`send`](Self::send), a frame that many connections send. An error gives back nothing that its sender does not
    /// have.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn send_prepared(&mut self, _now: Instant, frame: &PreparedFrame) -> Result<u64, SendError> {
        if !matches!(self.phase, Phase::Open) {
            return Err(match self.state() {
                State::Connecting => SendError::Disconnected(frame.to_frame()),
                _ => SendError::Closing(frame.to_frame()),
            });
        }
        if !self.has_room() {
            return Err(SendError::Full(frame.to_frame()));
        }
        if self.sending.is_some() && !frame.is_control() {
            return Err(SendError::OutOfTurn(frame.to_frame()));
        }
        self.encode_pong();
        Ok(self.encoder.prepared(frame))
    }

    /// Encodes a part of a message, as a fragment (section 5.4), and returns the output offset at its end.
    ///
    /// # Errors
    ///
    /// Gives the part back when there is no room ([`has_room`](Self::has_room)), when the connection is not open, when it is
    /// out of order, and when the text is no UTF-8 with it.
    pub fn send_chunk(&mut self, _now: Instant, chunk: Chunk) -> Result<u64, ChunkError> {
        if !matches!(self.phase, Phase::Open) {
            return Err(match self.state() {
                State::Connecting => ChunkError::Disconnected(chunk),
                _ => ChunkError::Closing(chunk),
            });
        }
        if !self.has_room() {
            return Err(ChunkError::Full(chunk));
        }
        let mut sending = match self.sending.as_deref() {
            None if chunk.first => Sending { text: chunk.text, utf8: Utf8Validator::new() },
            Some(&sending) if !chunk.first && sending.text == chunk.text => sending,
            _ => return Err(ChunkError::OutOfTurn(chunk)),
        };
        if chunk.text {
            let fed = sending.utf8.feed(&chunk.payload);
            if fed.is_err() || chunk.last && sending.utf8.finish().is_err() {
                return Err(ChunkError::NotUtf8(chunk));
            }
        }
        self.sending = if chunk.last { None } else { Some(Box::new(sending)) };
        self.encode_pong();
        Ok(self.encoder.fragment(chunk.opcode(), chunk.last, chunk.payload))
    }

    /// Whether [`send`](Self::send) takes a frame: less than 64 KiB wait to be written.
    #[inline]
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.encoder.queued() < ENCODE_AHEAD
    }

    /// Whether there is room for the answer to a frame that is at hand.
    #[inline(always)]
    pub(crate) fn has_room_for_reply(&self) -> bool {
        self.encoder.queued() < REPLY_AHEAD
    }

    /// The output offset that the transport has reached: what is below it has left.
    #[inline]
    #[must_use]
    pub fn written(&self) -> u64 {
        self.encoder.written()
    }

    /// The output offset at the end of all that was encoded.
    #[inline]
    #[must_use]
    pub fn encoded(&self) -> u64 {
        self.encoder.end()
    }

    /// Starts the closing handshake (section 7.1.2) behind all that was sent. Frames that were received and not yet
    /// polled are dropped, later ones checked and dropped. During the opening handshake it ends the connection at
    /// once; a request that waits for an answer gets 503. Idempotent: a second call changes nothing.
    pub fn close(&mut self, now: Instant, close: &CloseFrame) {
        match &self.phase {
            Phase::Open => {
                let ended = self.decoder.end().cloned();
                self.decoder.discard_frames();
                self.encode_pong();
                self.encoder.close(Some(close));
                let eof = self.peer_ended;
                let closing = match ended {
                    None => Closing { initiator: Initiator::Local, received: None, error: None, eof },
                    Some(End::Close(close)) => {
                        Closing { initiator: Initiator::Local, received: Some(close), error: None, eof }
                    }
                    Some(End::Error(error)) => {
                        Closing { initiator: Initiator::Local, received: None, error: Some(error.into()), eof }
                    }
                };
                self.start_closing(closing);
                self.arm_close(now);
            }
            Phase::Closing(_) => self.decoder.discard_frames(),
            Phase::Closed(_) => {}
            Phase::Deciding(_) => self.give_up(now, ConnectionError::Refused),
            _ => {
                let closed = Closed { initiator: Initiator::Local, ..Self::lost(ConnectionError::Eof) };
                self.finish(Shutdown::Abort, Closed { error: None, ..closed });
            }
        }
    }

    /// Frames that were received and not yet polled are dropped, and whatever comes; reading never pauses again.
    /// [`close`](Self::close) does so itself; this is for a Close that still waits for frames before it.
    pub fn discard_input(&mut self) {
        self.decoder.discard_frames();
    }

    /// Ends the connection at once: what was not written is lost.
    pub fn abort(&mut self, _now: Instant) {
        match &self.phase {
            Phase::Closed(_) => {}
            Phase::Closing(_) => self.finish_closing(Shutdown::Abort),
            _ => {
                let closed = Self::lost(ConnectionError::Eof);
                self.finish(Shutdown::Abort, Closed { initiator: Initiator::Local, error: None, ..closed });
            }
        }
    }

    // ---- out

    /// The next event. A Close or an error that stands behind the frames takes effect when they have all been given
    /// out and this is called again.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        match self.poll_frame() {
            Some(frame) => Some(Event::Frame(frame)),
            None => self.poll_rare_event(),
        }
    }

    fn poll_rare_event(&mut self) -> Option<Event> {
        if let Some(news) = self.news.take() {
            return Some(*news);
        }
        if let Some(chunk) = self.decoder.poll_chunk() {
            return Some(Event::Chunk(chunk));
        }
        if matches!(self.phase, Phase::Open) && self.decoder.end().is_some() {
            self.take_effect();
        }
        match &mut self.phase {
            Phase::Closed(closed) => closed.take().map(Event::Closed),
            _ => None,
        }
    }

    /// The next frame, if that is the next event: the hot half of [`poll_event`](Self::poll_event).
    #[inline(always)]
    pub(crate) fn poll_frame(&mut self) -> Option<Frame> {
        if self.news.is_some() {
            return None;
        }
        self.decoder.next_frame()
    }

    /// [`poll_frame`](Self::poll_frame), lent, and what may answer it.
    #[inline(always)]
    pub(crate) fn poll_lent(&mut self) -> Option<(Lent<'_>, Outgoing<'_>)> {
        if self.news.is_some() {
            return None;
        }
        let gate = self.gate();
        Some((self.decoder.next_lent()?, Outgoing { gate, encoder: &mut self.encoder }))
    }

    /// Lends what [`poll_message`](Self::poll_message) would give, with what may answer it. It stays the next, until
    /// [`skip`](Self::skip).
    #[inline(always)]
    pub(crate) fn lend_message(&mut self) -> Option<(Lent<'_>, Outgoing<'_>)> {
        if self.news.is_some() {
            return None;
        }
        let gate = self.gate();
        Some((self.decoder.lend_message()?, Outgoing { gate, encoder: &mut self.encoder }))
    }

    /// Drops the next frame, which was lent.
    #[inline(always)]
    pub(crate) fn skip(&mut self) {
        self.decoder.skip();
    }

    /// [`poll_frame`](Self::poll_frame) has one.
    #[inline(always)]
    pub(crate) fn is_frame_next(&self) -> bool {
        self.news.is_none() && self.decoder.is_frame_next()
    }

    /// Lends a frame that was put together elsewhere.
    pub(crate) fn lend(&mut self, frame: Frame) -> (Lent<'_>, Outgoing<'_>) {
        let gate = self.gate();
        (self.decoder.lend(frame), Outgoing { gate, encoder: &mut self.encoder })
    }

    /// The next message or pong, if that is the next event.
    #[inline(always)]
    pub(crate) fn poll_message(&mut self) -> Option<Frame> {
        if self.news.is_some() { None } else { self.decoder.poll_message() }
    }

    /// [`poll_message`](Self::poll_message) has one.
    pub(crate) fn is_message_next(&self) -> bool {
        self.news.is_none() && self.decoder.is_message_next()
    }

    /// The next part of a message, if that is the next event.
    pub(crate) fn poll_chunk(&mut self) -> Option<Chunk> {
        if self.news.is_some() { None } else { self.decoder.poll_chunk() }
    }

    /// A Close or an error was parsed and has not taken effect yet.
    #[inline]
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Open) && self.decoder.end().is_some()
    }

    /// How the connection ends, as far as that is known, before [`Event::Closed`] is polled.
    pub(crate) fn outcome(&self) -> Option<Closed> {
        match &self.phase {
            Phase::Closed(closed) => closed.as_deref().cloned(),
            Phase::Closing(closing) => Some(closing.outcome()),
            _ => None,
        }
    }

    /// The next event is not a frame: the handshake was completed.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.news.is_some()
    }

    /// [`poll_event`](Self::poll_event) has nothing.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        let phase = match &self.phase {
            Phase::Open => self.decoder.end().is_none(),
            Phase::Closed(closed) => closed.is_none(),
            _ => true,
        };
        phase && self.news.is_none() && !self.decoder.has_frames()
    }

    /// The next is asked for: whoever was lent the last frame has no use for it any more.
    #[inline]
    pub(crate) fn forget_lent(&mut self) {
        self.decoder.forget_lent();
    }

    /// Frames wait to be polled.
    #[inline]
    pub(crate) fn has_frames(&self) -> bool {
        self.decoder.has_frames()
    }

    /// What to write next. When that was taken, by [`handle_written`](Self::handle_written), there may be more.
    #[inline]
    #[must_use]
    pub fn transmit(&self) -> Transmit<'_> {
        self.encoder.transmit()
    }

    /// Bytes that wait to be written.
    #[inline]
    #[must_use]
    pub fn queued(&self) -> usize {
        self.encoder.queued()
    }

    /// What to do with the transport, once [`transmit`](Self::transmit) is empty; `Abort` does not wait.
    #[inline]
    pub fn poll_shutdown(&mut self) -> Option<Shutdown> {
        self.shutdown?;
        if self.encoder.queued() > 0 && self.shutdown != Some(Shutdown::Abort) {
            return None;
        }
        self.shutdown.take()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next, and for what. It may be due at once: when
    /// reading goes on after a pause, that call starts the wait for a silent peer afresh.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        // Any Close or error that is known of has armed the close timer, and that one decides from then on.
        let watch = match (self.blocked, &self.config.keepalive) {
            _ if !matches!(self.phase, Phase::Open) || self.timers.is_closing() => None,
            (Some(since), _) => Some((deadline(since, self.config.write_timeout), Timer::WriteStall)),
            (None, Some(keepalive)) if !self.is_full() => Some((self.life.deadline(keepalive), Timer::Keepalive)),
            _ => None,
        };
        self.timers.next(watch)
    }

    /// Whether to read: false while received frames wait for the application up to their bound, and while a Close or
    /// an error has yet to take effect.
    #[inline]
    #[must_use]
    pub fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Open => self.decoder.end().is_none() && !self.is_full(),
            Phase::ClientHandshake(_) | Phase::ServerHandshake(_) => true,
            Phase::Closing(ref closing) => !closing.eof,
            Phase::Deciding(_) | Phase::Closed(_) => false,
        }
    }

    /// Received frames wait for the application up to their bound.
    #[inline]
    fn is_full(&self) -> bool {
        self.decoder.backlog() >= self.config.limits.read_ahead()
    }

    // ---- transitions

    /// Server: a request is the application's to answer.
    fn decide(&mut self, now: Instant, request: Event) {
        self.news = Some(Box::new(request));
        self.timers.armed().handshake = Some(deadline(now, self.config.decision_timeout));
        let Phase::ServerHandshake(handshake) = std::mem::replace(&mut self.phase, Phase::Open) else {
            unreachable!("only a handshake that was under way asks");
        };
        self.phase = Phase::Deciding(handshake);
    }

    fn open(&mut self, now: Instant, negotiated: Negotiated) {
        self.life.start(now);
        self.timers.disarm(Timer::Handshake);
        self.phase = Phase::Open;
        self.news = Some(Box::new(Event::Open(Box::new(negotiated))));
    }

    /// What was parsed behind the last frame happens now.
    fn take_effect(&mut self) {
        let eof = self.peer_ended;
        let closing = match self.decoder.end() {
            None => return,
            Some(End::Close(close)) => {
                let close = close.clone();
                self.encode_pong();
                // Section 5.5.1: the reply typically echoes the code.
                let echo = close.as_ref().and_then(|close| CloseFrame::new(close.code(), "").ok());
                self.encoder.close(echo.as_ref());
                Closing { initiator: Initiator::Remote, received: Some(close), error: None, eof }
            }
            Some(End::Error(error)) => {
                let error = *error;
                self.encode_pong();
                self.encoder.close(Some(&CloseFrame::failure(&error)));
                Closing { initiator: Initiator::Local, received: None, error: Some(error.into()), eof }
            }
        };
        self.start_closing(closing);
    }

    /// Our Close is queued.
    fn start_closing(&mut self, closing: Closing) {
        self.timers.disarm(Timer::Effect);
        let over = closing.received.is_some() || closing.error.is_some();
        self.shutdown = match self.role {
            // Section 7.1.1: the server ends TCP first; it drains, lest unread data turn its FIN into a reset.
            Role::Server if over => Some(Shutdown::Write),
            _ => None,
        };
        self.phase = Phase::Closing(Box::new(closing));
    }

    fn fail_client_handshake(&mut self, failure: ClientFailure) {
        let (how, error) = match failure {
            ClientFailure::Rejected(rejected) => (Shutdown::Close, ConnectionError::Rejected(rejected)),
            ClientFailure::Protocol(HandshakeError::Eof) => (Shutdown::Close, ConnectionError::Eof),
            ClientFailure::Protocol(error) => (Shutdown::Abort, error.into()),
        };
        self.finish(how, Self::lost(error));
    }

    /// Server: the request that waits gets 503.
    fn give_up(&mut self, now: Instant, error: ConnectionError) {
        if let Phase::Deciding(handshake) = &mut self.phase {
            let response = handshake.give_up();
            self.encoder.raw(&response);
            self.refuse(now, error);
        }
    }

    /// Server: a response that refuses the upgrade is in the output; it leaves, the rest is drained.
    fn refuse(&mut self, now: Instant, error: ConnectionError) {
        let closing = Closing { initiator: Initiator::Local, received: None, error: Some(error), eof: false };
        self.start_closing(closing);
        self.timers = Table::default();
        self.timers.armed().close = Some(deadline(now, self.config.close_timeout));
    }

    fn finish_closing(&mut self, how: Shutdown) {
        let Phase::Closing(closing) = &self.phase else { return };
        let mut closed = closing.outcome();
        // Section 7.1.4: our Close, the last of the output, has to have left as well.
        closed.was_clean &= self.encoder.queued() == 0 && !self.unflushed;
        self.finish(how, closed);
    }

    fn finish(&mut self, how: Shutdown, closed: Closed) {
        self.timers = Table::default();
        self.pong = None;
        self.cut_off = self.unflushed || self.encoder.queued() > 0;
        if how == Shutdown::Abort || matches!(closed.error, Some(ConnectionError::Eof)) {
            self.encoder.clear();
        }
        self.shutdown = Some(how);
        self.phase = Phase::Closed(Some(Box::new(closed)));
    }

    /// An end that the other side or the network caused, without a Close.
    fn lost(error: ConnectionError) -> Closed {
        Closed { initiator: Initiator::Remote, close: None, was_clean: false, error: Some(error), received: false }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("role", &self.role)
            .field("state", &self.state())
            .field("queued", &self.queued())
            .field("timeout", &self.poll_timeout())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};

    /// A server with both Closes behind it; the transport has taken all, and may hold on to it.
    fn both_closes(now: Instant) -> Connection {
        let agreed = Negotiated::new(StatusCode::SWITCHING_PROTOCOLS, HeaderMap::new());
        let mut server = Connection::upgraded(now, Role::Server, agreed, Arc::new(Config::new(Role::Server)), [1; 32]);
        assert!(matches!(server.poll_event(), Some(Event::Open(_))));
        server.close(now, &CloseFrame::normal());
        server.handle_input(now, &mut BytesMut::from(&b"\x88\x80\x01\x02\x03\x04"[..]));
        server.set_unflushed();
        server.handle_written(now, server.queued());
        server
    }

    #[test]
    fn what_the_transport_holds_has_to_leave_before_the_end_is_a_clean_one() {
        let now = Instant::now();
        let mut server = both_closes(now);
        server.handle_eof(now);
        assert_eq!(server.state(), State::Closing);
        server.handle_flushed();
        assert_eq!((server.state(), server.is_cut_off()), (State::Closed, false));
        assert!(matches!(server.poll_event(), Some(Event::Closed(closed)) if closed.was_clean));
    }

    #[test]
    fn what_the_transport_never_took_is_cut_off() {
        let now = Instant::now();
        for (written, cut_off) in [(1, true), (2, false)] {
            let mut server = both_closes(now);
            server.handle_flushed();
            server.encoder.frame(Frame::ping(""));
            server.handle_written(now, written);
            server.handle_timeout(now + Duration::from_secs(5));
            assert_eq!((server.state(), server.is_cut_off()), (State::Closed, cut_off), "{written} of 2 bytes");
        }
    }

    #[test]
    fn what_the_transport_never_let_go_is_cut_off() {
        let now = Instant::now();
        let mut server = both_closes(now);
        server.handle_timeout(now + Duration::from_secs(5));
        assert_eq!((server.state(), server.is_cut_off()), (State::Closed, true));
        assert!(matches!(server.poll_event(), Some(Event::Closed(closed)) if !closed.was_clean));
    }
}
