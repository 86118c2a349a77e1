//! One connection of either role (RFC 6455, sections 4 to 7) under any operations in any order.
//!
//! ```text
//!  input   0        then, one after another
//!        +--------+---------------------------------------+
//!        | flags  | operation, and what it needs          |
//!        +--------+---------------------------------------+
//! ```
//!
//! Promises: states go one way; one terminal event, the last, and one last word about the transport; clean only where both Closes were
//! sent; what is delivered is what came, in order, within the limits; what leaves is legal for its role and is what was accepted, in
//! order; a refused frame comes back; what is held for sending is bounded; a timer that was handled is not due any more, and the clock
//! may do as it likes; it ends.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use parley_proto::codec::{Frame, PreparedFrame};
use parley_proto::connection::{Closed, Config, Connection, ENCODE_AHEAD, Event, Shutdown, State};
use parley_proto::handshake::{Acceptance, ClientRequest, Negotiated, Rejection, ServerHandshake};
use parley_proto::{Limits, Role};

use crate::choices;
use crate::input::Input;
use crate::naive::{self, Listener, Said};

/// Flag: a client.
pub const CLIENT: u8 = 0x1;
/// Flag: the handshake was done elsewhere, the connection is open.
pub const UPGRADED: u8 = 0x2;
/// Flag: limits are small, so that short inputs reach them.
pub const SMALL_LIMITS: u8 = 0x4;
/// Flag: messages above 10 bytes come in parts.
pub const CHUNKS: u8 = 0x8;
/// Flag: plain requests are events.
pub const PLAIN_HTTP: u8 = 0x10;
/// Flag: no pings of its own.
pub const NO_KEEPALIVE: u8 = 0x20;

/// Bytes that may be queued beside 64 KiB and one frame: pongs while nothing is taken, and heads.
const PONGS_AND_HEADS: usize = 4 * ENCODE_AHEAD + 4096;

/// Operations; each takes what it needs from the input.
pub mod op {
    /// The peer sends a frame.
    pub const PEER_FRAME: u8 = 0;
    /// The peer sends some bytes.
    pub const PEER_BYTES: u8 = 1;
    /// The peer sends its part of the handshake, as it should be.
    pub const PEER_HANDSHAKE: u8 = 2;
    /// One event is taken.
    pub const POLL: u8 = 3;
    /// All are.
    pub const POLL_ALL: u8 = 4;
    /// The transport takes so many bytes.
    pub const WRITTEN: u8 = 5;
    /// It takes all.
    pub const WRITTEN_ALL: u8 = 6;
    /// A frame is sent.
    pub const SEND: u8 = 7;
    /// A part of a message is.
    pub const SEND_CHUNK: u8 = 8;
    /// An encoded frame is.
    pub const SEND_PREPARED: u8 = 9;
    /// A server answers.
    pub const ANSWER: u8 = 10;
    /// Time passes, or goes back.
    pub const TIME: u8 = 11;
    /// The application closes.
    pub const CLOSE: u8 = 12;
    /// The peer ends its direction.
    pub const EOF: u8 = 13;
    /// The transport fails.
    pub const LOST: u8 = 14;
    /// What is to become of the transport is asked.
    pub const SHUTDOWN: u8 = 15;
    /// The application wants nothing more.
    pub const DISCARD: u8 = 16;
    /// It gives up.
    pub const ABORT: u8 = 17;
    /// How many there are.
    pub const COUNT: u8 = 18;
}

/// Runs a connection through the operations of one input, then to its end.
///
/// # Panics
///
/// If a promise is broken.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut world = World::new(input.byte());
    for _ in 0..choices::OPERATIONS {
        if input.is_empty() {
            break;
        }
        world.apply(&mut input);
        world.check();
    }
    world.finish();
}

struct World {
    connection: Connection,
    role: Role,
    config: Arc<Config>,
    now: Instant,
    upgraded: bool,
    state: State,
    held: BytesMut,
    /// What came in frames, if it is known where they begin.
    peer: Option<Listener>,
    /// What it said that was not delivered yet; the rest of it may be dropped.
    heard: VecDeque<Said>,
    discards: bool,
    /// A message that is delivered in parts.
    parts: Option<(bool, Vec<u8>)>,
    asked: bool,
    answered: bool,
    opened: bool,
    closed: Option<Closed>,
    output: Vec<u8>,
    /// Messages that were accepted.
    sent: Vec<(bool, Vec<u8>)>,
    /// One that is accepted in parts.
    sending: Option<(bool, Vec<u8>)>,
    biggest: usize,
    shutdowns: Vec<Shutdown>,
}

impl World {
    fn new(flags: u8) -> Self {
        let role = if flags & CLIENT != 0 { Role::Client } else { Role::Server };
        let mut config = Config::new(role);
        if flags & SMALL_LIMITS != 0 {
            let set = || Limits::client().with_message(40)?.with_fragments(4)?.with_head(300)?.with_read_ahead(100);
            config.limits = set().expect("none of these is 0 or usize::MAX");
        }
        config.chunks_above = (flags & CHUNKS != 0).then_some(10);
        config.plain_http = flags & PLAIN_HTTP != 0;
        if flags & NO_KEEPALIVE != 0 {
            config.keepalive = None;
        }
        let config = Arc::new(config);
        // Far from where the clock begins, so that it may go back.
        let now = Instant::now() + Duration::from_secs(1 << 30);
        let deadline = now + Duration::from_secs(10);
        let upgraded = flags & UPGRADED != 0;
        let connection = match role {
            _ if upgraded => {
                let agreed = Negotiated::new(StatusCode::SWITCHING_PROTOCOLS, HeaderMap::new());
                Connection::upgraded(now, role, agreed, config.clone(), [1; 32])
            }
            Role::Client => {
                let request = ClientRequest::new("ws://a/").expect("a URL");
                Connection::client(&request, config.clone(), [1; 32], deadline)
            }
            Role::Server => Connection::server(config.clone(), [1; 32], deadline),
        };
        Self {
            state: connection.state(),
            connection,
            role,
            config,
            now,
            upgraded,
            held: BytesMut::new(),
            peer: upgraded.then(|| Listener::new(other(role))),
            heard: VecDeque::new(),
            discards: false,
            parts: None,
            asked: false,
            answered: false,
            opened: false,
            closed: None,
            output: Vec::new(),
            sent: Vec::new(),
            sending: None,
            biggest: 0,
            shutdowns: Vec::new(),
        }
    }

    fn apply(&mut self, input: &mut Input<'_>) {
        match input.byte() % op::COUNT {
            op::PEER_FRAME => {
                let frame = choices::peer_frame(input, self.role);
                self.input(&frame);
            }
            op::PEER_BYTES => {
                let bytes = input.counted();
                self.input(bytes);
            }
            op::PEER_HANDSHAKE => self.handshake(),
            op::POLL => drop(self.poll()),
            op::POLL_ALL => while self.poll() {},
            op::WRITTEN => self.written(input.word().into()),
            op::WRITTEN_ALL => self.written(usize::MAX),
            op::SEND => {
                let frame = choices::frame(input);
                let sent = self.connection.send(self.now, frame.clone());
                self.sent(&frame, sent.map_err(|refused| refused.into_frame()));
            }
            op::SEND_CHUNK => self.send_chunk(input),
            op::SEND_PREPARED => {
                let frame = choices::frame(input);
                let Ok(prepared) = PreparedFrame::new(&frame) else { return };
                let sent = self.connection.send_prepared(self.now, &prepared);
                self.sent(&frame, sent.map_err(|refused| refused.into_frame()));
            }
            op::ANSWER => self.answer(input),
            op::TIME => {
                self.now = choices::time(input, self.now, self.connection.poll_timeout().map(|(at, _)| at));
                self.connection.handle_timeout(self.now);
                let due = self.connection.poll_timeout();
                assert!(due.is_none_or(|(at, _)| at > self.now), "{due:?} is due although it was handled");
            }
            op::CLOSE => {
                self.connection.close(self.now, &choices::close(input));
                self.discards = true;
            }
            op::EOF => self.connection.handle_eof(self.now),
            op::LOST => self.connection.handle_lost(self.now, std::io::Error::from(ErrorKind::ConnectionReset).into()),
            op::SHUTDOWN => self.shutdown(),
            op::DISCARD => {
                self.connection.discard_input();
                self.discards = true;
            }
            _ => self.connection.abort(self.now),
        }
    }

    fn input(&mut self, bytes: &[u8]) {
        let (wanted, state) = (self.connection.wants_input(), self.connection.state());
        if let Some(peer) = &mut self.peer {
            match peer.hear(bytes) {
                Ok(said) => self.heard.extend(said),
                // The frames before are delivered all the same, but where they end is not known here.
                Err(_) => self.peer = None,
            }
        }
        self.held.extend_from_slice(bytes);
        self.connection.handle_input(self.now, &mut self.held);
        let limits = &self.config.limits;
        let most = limits.head().max(limits.message().max(125) + 14);
        assert!(!wanted || self.held.len() <= most || state == State::Connecting, "{} bytes are held", self.held.len());
    }

    fn handshake(&mut self) {
        if self.upgraded || self.connection.state() != State::Connecting || !self.held.is_empty() || self.peer.is_some()
        {
            return;
        }
        let answer = match self.role {
            Role::Server => {
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: \
                13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                    .to_vec()
            }
            Role::Client => {
                self.written(usize::MAX);
                let mut server = ServerHandshake::new(&Limits::server());
                let asked = server.handle_input(&mut BytesMut::from(&*self.output));
                assert!(matches!(asked, Ok(Some(_))), "a client asks: {asked:?}");
                server.accept(&Acceptance::new()).expect("it waits").1
            }
        };
        self.input(&answer);
        // Where bytes came before, this may have been the rest of something else.
        if self.connection.state() == State::Open || self.role == Role::Server && !self.connection.wants_input() {
            self.peer = Some(Listener::new(other(self.role)));
        }
    }

    fn answer(&mut self, input: &mut Input<'_>) {
        let answered = match input.byte() % 4 {
            0 | 1 => self.connection.accept(self.now, Acceptance::new()),
            2 => self.connection.reject(self.now, Rejection::new(StatusCode::FORBIDDEN).expect("it rejects")),
            _ => self.connection.respond(self.now, &http::Response::new(Bytes::from(choices::payload(input)))),
        };
        self.biggest = self.biggest.max(2 * usize::from(u16::MAX));
        assert!(answered.is_err() || self.role == Role::Server, "a client answered");
        if answered.is_ok() {
            self.answered = true;
            self.input(b""); // what came meanwhile
        }
    }

    fn sent(&mut self, frame: &Frame, sent: Result<u64, Option<Frame>>) {
        match sent {
            Ok(end) => {
                assert_eq!((end, self.state), (self.connection.encoded(), State::Open));
                self.biggest = self.biggest.max(frame.len());
                match frame {
                    Frame::Text(text) => self.sent.push((true, text.as_bytes().to_vec())),
                    Frame::Binary(bytes) => self.sent.push((false, bytes.to_vec())),
                    Frame::Ping(_) | Frame::Pong(_) => {}
                }
            }
            Err(back) => assert_eq!(back.as_ref(), Some(frame), "a refused frame comes back"),
        }
    }

    fn send_chunk(&mut self, input: &mut Input<'_>) {
        let chunk = choices::chunk(input);
        match self.connection.send_chunk(self.now, chunk.clone()) {
            Err(refused) => assert_eq!(refused.into_chunk(), Some(chunk), "a refused part comes back"),
            Ok(end) => {
                assert_eq!((end, self.state), (self.connection.encoded(), State::Open));
                assert_eq!(chunk.first, self.sending.is_none(), "a part out of order is accepted");
                self.biggest = self.biggest.max(chunk.payload.len());
                let (text, message) = self.sending.get_or_insert((chunk.text, Vec::new()));
                assert_eq!(*text, chunk.text, "a part of another kind is accepted");
                message.extend_from_slice(&chunk.payload);
                if chunk.last {
                    self.sent.extend(self.sending.take());
                }
            }
        }
    }

    fn written(&mut self, n: usize) {
        let bytes: Vec<u8> = self.connection.transmit().iter().flatten().copied().take(n).collect();
        assert!(bytes.len() <= self.connection.queued());
        self.connection.handle_written(self.now, bytes.len());
        self.output.extend(bytes);
    }

    /// Takes an event; whether there was one.
    fn poll(&mut self) -> bool {
        let Some(event) = self.connection.poll_event() else { return false };
        assert!(self.closed.is_none(), "{event:?} comes after the end");
        match event {
            Event::Request(_) | Event::Http(_) => {
                assert!(self.role == Role::Server && !self.upgraded && !self.asked && !self.opened);
                self.asked = true;
            }
            Event::Open(_) => {
                assert!(!self.opened && (self.answered || self.upgraded || self.role == Role::Client));
                self.opened = true;
            }
            Event::Frame(frame) => {
                let whole = self.config.chunks_above.unwrap_or(usize::MAX).min(self.config.limits.message());
                assert!(frame.len() <= if frame.is_control() { 125 } else { whole }, "{} bytes", frame.len());
                self.delivered(match frame {
                    Frame::Text(text) => Said::Message(true, text.as_bytes().to_vec()),
                    Frame::Binary(bytes) => Said::Message(false, bytes.to_vec()),
                    Frame::Ping(bytes) => Said::Ping(bytes.to_vec()),
                    Frame::Pong(bytes) => Said::Pong(bytes.to_vec()),
                });
            }
            Event::Chunk(chunk) => {
                assert_eq!(chunk.first, self.parts.is_none(), "the parts are in order");
                let (text, mut message) = self.parts.take().unwrap_or((chunk.text, Vec::new()));
                assert_eq!(text, chunk.text);
                message.extend_from_slice(&chunk.payload);
                assert!(message.len() <= self.config.limits.message(), "a message above the limit");
                if chunk.last {
                    self.delivered(Said::Message(text, message));
                } else {
                    self.parts = Some((text, message));
                }
            }
            Event::Closed(closed) => self.closed = Some(*closed),
            event => panic!("{event:?}"),
        }
        true
    }

    fn delivered(&mut self, said: Said) {
        assert!(self.opened, "it opens first");
        if let Said::Message(true, text) = &said {
            assert!(std::str::from_utf8(text).is_ok(), "text that is not UTF-8");
        }
        if self.peer.is_none() {
            return;
        }
        while let Some(next) = self.heard.pop_front() {
            if next == said {
                return;
            }
            // Answers to pings of its own are the connection's affair.
            assert!(self.discards || matches!(next, Said::Pong(_)), "{next:?} was not delivered, {said:?} was");
        }
        panic!("{said:?} was never sent");
    }

    fn shutdown(&mut self) {
        let Some(how) = self.connection.poll_shutdown() else { return };
        assert!(how == Shutdown::Abort || self.connection.queued() == 0, "{how:?} before all has left");
        let last = self.shutdowns.last();
        assert!(last.is_none() || last == Some(&Shutdown::Write) && how != Shutdown::Write, "{how:?} after {last:?}");
        assert_eq!(how == Shutdown::Write, self.connection.state() == State::Closing, "{how:?}");
        self.shutdowns.push(how);
    }

    fn check(&mut self) {
        let state = self.connection.state();
        assert!(state as u8 >= self.state as u8, "from {:?} to {state:?}", self.state);
        self.state = state;
        let queued = self.connection.queued();
        assert!(queued <= ENCODE_AHEAD + self.biggest + 14 + PONGS_AND_HEADS, "{queued} bytes are queued");
        if state == State::Closed {
            assert_eq!((self.connection.poll_timeout(), self.connection.wants_input()), (None, false));
        } else {
            assert_eq!(self.connection.encoded() - self.connection.written(), queued as u64);
            assert!(self.closed.is_none(), "a terminal event, but {state:?}");
        }
    }

    /// Closes it, unless it does so already, and lets time pass: it has to end.
    fn finish(mut self) {
        self.written(usize::MAX);
        while self.poll() {}
        self.connection.close(self.now, &parley_proto::codec::CloseFrame::normal());
        self.discards = true;
        for _ in 0..4 {
            self.written(usize::MAX);
            self.shutdown();
            while self.poll() {}
            self.check();
            if let Some((at, _)) = self.connection.poll_timeout() {
                self.now = self.now.max(at);
                self.connection.handle_timeout(self.now);
            }
        }
        let Some(closed) = self.closed.clone() else { panic!("it does not end: {:?}", self.state) };
        assert!(self.shutdowns.last().is_some_and(|how| *how != Shutdown::Write), "{:?}", self.shutdowns);
        self.after_the_end();
        self.judge(&closed);
    }

    fn after_the_end(&mut self) {
        let output = self.output.len();
        self.connection.close(self.now, &parley_proto::codec::CloseFrame::normal());
        self.connection.handle_eof(self.now);
        self.connection.abort(self.now);
        self.connection.handle_timeout(self.now + Duration::from_secs(3600));
        self.connection.handle_input(self.now, &mut BytesMut::from(&[0x81, 0x80, 1, 2, 3, 4][..]));
        let sent = self.connection.send(self.now, Frame::text("late"));
        self.sent(&Frame::text("late"), sent.map_err(|refused| refused.into_frame()));
        assert!(!self.poll() && self.connection.poll_shutdown().is_none());
        self.written(usize::MAX);
        assert_eq!(self.output.len(), output, "output after the end");
        self.check();
    }

    /// Looks at all that was written.
    fn judge(&self, closed: &Closed) {
        let frames = if self.upgraded {
            &self.output[..]
        } else if !self.output.windows(4).any(|four| four == b"\r\n\r\n") {
            &[] // cut off within the head
        } else {
            let (lines, rest) = naive::head(&self.output);
            if self.role == Role::Client || lines[0].contains(" 101 ") { rest } else { &[] }
        };
        let mut listener = Listener::new(self.role);
        let said = listener.hear(frames).unwrap_or_else(|rule| panic!("{:?} sends {rule}", self.role));
        let messages = said.iter().filter_map(|said| match said {
            Said::Message(text, bytes) => Some((*text, bytes.clone())),
            _ => None,
        });
        let messages: Vec<_> = messages.collect();
        assert!(self.sent.starts_with(&messages), "other messages left than were accepted");
        if self.shutdowns.last() == Some(&Shutdown::Close) && listener.closed {
            assert_eq!(messages.len(), self.sent.len(), "its Close left, and not all before it");
        }
        if closed.was_clean {
            assert!(closed.error.is_none() && closed.code() != 1006);
            assert!(listener.closed, "clean, but our Close has not left");
            assert!(self.peer.as_ref().is_none_or(|peer| peer.closed), "clean, but the peer has sent no Close");
        }
    }
}

fn other(role: Role) -> Role {
    match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}
