//! A client and a server, and what is between them: they agree.
//!
//! An input is a list of operations: the highest bit says at which end, the others which, and what it needs comes behind it.
//!
//! Promises: what one end was told is a prefix of what the other was given to send, in order and in the same bytes; all of it where
//! nothing was cut off and the receiver did not close; a pong answers a ping; where nothing was cut off both end clean, without
//! waiting for a deadline, and with a code that was sent.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parley_proto::Role;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::connection::{Closed, Config, Connection, Event, State};
use parley_proto::handshake::{Acceptance, ClientRequest};

use crate::choices;
use crate::input::Input;

/// Operations; each takes what it needs from the input.
pub mod op {
    /// Set for the server's end.
    pub const AT_SERVER: u8 = 0x80;
    /// A frame is sent.
    pub const SEND: u8 = 0;
    /// A part of a message is.
    pub const SEND_CHUNK: u8 = 1;
    /// So many bytes are taken from this end to the wire.
    pub const WRITTEN: u8 = 2;
    /// All are.
    pub const WRITTEN_ALL: u8 = 3;
    /// So many bytes of the wire arrive here.
    pub const ARRIVES: u8 = 4;
    /// All do.
    pub const ARRIVES_ALL: u8 = 5;
    /// An event is taken.
    pub const POLL: u8 = 6;
    /// The application closes.
    pub const CLOSE: u8 = 7;
    /// Time passes, at both ends.
    pub const TIME: u8 = 8;
    /// The wire to here is cut.
    pub const EOF: u8 = 9;
    /// The transport fails here.
    pub const LOST: u8 = 10;
    /// How many there are.
    pub const COUNT: u8 = 11;
}

/// Runs both ends through the operations of one input, then to their end.
///
/// # Panics
///
/// If a promise is broken.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut joined = Joined::new();
    for _ in 0..choices::OPERATIONS {
        if input.is_empty() {
            break;
        }
        joined.apply(&mut input);
    }
    joined.finish();
}

struct End {
    connection: Connection,
    /// What is under way to here, and whether that is the last.
    wire: Vec<u8>,
    fin: bool,
    /// Nothing gets through to here any more.
    cut: bool,
    held: BytesMut,
    sent: Vec<Frame>,
    sending: Option<(bool, Vec<u8>)>,
    pongs: Vec<Frame>,
    told: Vec<Frame>,
    /// What this end was asked to close with first.
    closes: Option<u16>,
    closed: Option<Closed>,
}

struct Joined {
    now: Instant,
    ends: [End; 2],
    /// Something was cut off, or may have been given up for its time.
    disturbed: bool,
}

impl Joined {
    fn new() -> Self {
        let now = Instant::now() + Duration::from_secs(1 << 30);
        let deadline = now + Duration::from_secs(10);
        let request = ClientRequest::new("ws://a/").expect("a URL");
        let config = |role| {
            let mut config = Config::new(role);
            // More than all operations together can send.
            config.limits = config.limits.with_message(1 << 30).expect("neither 0 nor usize::MAX");
            Arc::new(config)
        };
        let client = Connection::client(&request, config(Role::Client), [1; 32], deadline);
        let server = Connection::server(config(Role::Server), [2; 32], deadline);
        Self { now, ends: [client, server].map(End::new), disturbed: false }
    }

    fn apply(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        let at = usize::from(choice & op::AT_SERVER != 0);
        let (now, end) = (self.now, &mut self.ends[at]);
        match (choice & !op::AT_SERVER) % op::COUNT {
            op::SEND => end.send(now, choices::frame(input)),
            op::SEND_CHUNK => end.send_chunk(now, input),
            op::WRITTEN => drop(self.written(at, input.word().into())),
            op::WRITTEN_ALL => drop(self.written(at, usize::MAX)),
            op::ARRIVES => drop(self.arrives(at, input.word().into())),
            op::ARRIVES_ALL => drop(self.arrives(at, usize::MAX)),
            op::POLL => drop(end.poll(now)),
            op::CLOSE => {
                let close = choices::close(input);
                self.close(at, &close);
            }
            op::TIME => {
                let due = self.ends.iter().filter_map(|end| Some(end.connection.poll_timeout()?.0)).min();
                self.now = choices::time(input, self.now, due);
                self.ends.iter_mut().for_each(|end| end.connection.handle_timeout(self.now));
                self.disturbed = true;
            }
            op::EOF => {
                end.wire.clear();
                (end.fin, end.cut) = (true, true);
                self.disturbed = true;
            }
            _ => {
                end.connection.handle_lost(now, std::io::Error::from(ErrorKind::ConnectionReset).into());
                self.disturbed = true;
            }
        }
    }

    fn close(&mut self, at: usize, close: &CloseFrame) {
        let end = &mut self.ends[at];
        match end.connection.state() {
            State::Connecting => self.disturbed = true,
            State::Open => end.closes = Some(close.code().get()),
            State::Closing | State::Closed => {}
        }
        // Either way it wants nothing more of what it has not seen.
        end.closes.get_or_insert(0);
        end.connection.close(self.now, close);
    }

    /// Moves up to `n` bytes of output, then its end; whether there was something.
    fn written(&mut self, at: usize, n: usize) -> bool {
        let connection = &mut self.ends[at].connection;
        let bytes: Vec<u8> = connection.transmit().iter().flatten().copied().take(n).collect();
        connection.handle_written(self.now, bytes.len());
        let ends = connection.poll_shutdown().is_some();
        let moved = !bytes.is_empty() || ends;
        let other = &mut self.ends[1 - at];
        if !other.cut {
            other.fin |= ends;
            other.wire.extend(bytes);
        }
        moved
    }

    /// Moves up to `n` bytes in, then the end of the stream, if this end wants to read; whether there was something.
    fn arrives(&mut self, at: usize, n: usize) -> bool {
        let end = &mut self.ends[at];
        if !end.connection.wants_input() || n == 0 {
            return false;
        }
        if end.wire.is_empty() {
            let fin = std::mem::take(&mut end.fin);
            if fin {
                end.connection.handle_eof(self.now);
            }
            return fin;
        }
        let n = n.min(end.wire.len());
        end.held.extend(end.wire.drain(..n));
        end.connection.handle_input(self.now, &mut end.held);
        true
    }

    /// Until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for at in [0, 1] {
                moved |= self.written(at, usize::MAX) | self.arrives(at, usize::MAX);
                while self.ends[at].poll(self.now) {
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn finish(mut self) {
        self.settle();
        self.compare();
        if !self.disturbed && self.ends.iter().all(|end| end.closes.is_none()) {
            assert!(self.ends.iter().all(|end| end.connection.state() == State::Open), "one has closed by itself");
        }
        self.close(0, &CloseFrame::going_away());
        self.settle();
        for _ in 0..4 {
            for at in [0, 1] {
                if let Some((due, _)) = self.ends[at].connection.poll_timeout() {
                    assert!(self.disturbed, "an end waits although nothing was cut off");
                    self.now = self.now.max(due);
                    self.ends[at].connection.handle_timeout(self.now);
                }
            }
            self.settle();
        }
        self.compare();
        let [client, server] = &self.ends;
        for (this, other) in [(client, server), (server, client)] {
            let Some(closed) = &this.closed else { panic!("an end goes on for ever: {:?}", this.connection) };
            let Some(code) = other.closes.or(this.closes) else { panic!("one has asked for it") };
            if !self.disturbed {
                assert!(closed.was_clean && closed.error.is_none(), "{closed:?}");
                assert!(closed.code() == code || Some(closed.code()) == this.closes, "{closed:?}, asked for {code}");
            }
        }
    }

    fn compare(&self) {
        let [client, server] = &self.ends;
        for (this, other) in [(client, server), (server, client)] {
            assert!(this.told.len() <= other.sent.len(), "more was told than sent");
            if let Some(at) = this.told.iter().zip(&other.sent).position(|(told, sent)| told != sent) {
                // Without the payloads, which may be long.
                let shown =
                    |frames: &[Frame]| frames.iter().map(|frame| (frame.opcode(), frame.len())).collect::<Vec<_>>();
                panic!("told otherwise than sent, at {at}: {:?}, {:?}", shown(&this.told), shown(&other.sent));
            }
            for pong in &this.pongs {
                let asked =
                    this.sent.iter().any(|ping| matches!(ping, Frame::Ping(_)) && ping.payload() == pong.payload());
                assert!(asked, "a pong for nothing");
            }
            if !self.disturbed && this.closes.is_none() {
                assert_eq!(this.told.len(), other.sent.len(), "something was lost");
            }
        }
    }
}

impl End {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            wire: Vec::new(),
            fin: false,
            cut: false,
            held: BytesMut::new(),
            sent: Vec::new(),
            sending: None,
            pongs: Vec::new(),
            told: Vec::new(),
            closes: None,
            closed: None,
        }
    }

    fn send(&mut self, now: Instant, frame: Frame) {
        if is_keepalive(&frame) || matches!(frame, Frame::Pong(_)) {
            return; // they could not be told from those that the connection sends by itself
        }
        if self.connection.send(now, frame.clone()).is_ok() {
            self.sent.push(frame);
        }
    }

    fn send_chunk(&mut self, now: Instant, input: &mut Input<'_>) {
        let chunk = choices::chunk(input);
        if self.connection.send_chunk(now, chunk.clone()).is_err() {
            return;
        }
        let (text, message) = self.sending.get_or_insert((chunk.text, Vec::new()));
        message.extend_from_slice(&chunk.payload);
        if chunk.last {
            let message = std::mem::take(message);
            self.sent.push(match *text {
                true => Frame::text(String::from_utf8(message).expect("a text that is accepted is UTF-8")),
                false => Frame::binary(message),
            });
            self.sending = None;
        }
    }

    fn poll(&mut self, now: Instant) -> bool {
        match self.connection.poll_event() {
            None => return false,
            Some(Event::Request(_)) => {
                let waits = self.connection.state() == State::Connecting;
                assert_eq!(self.connection.accept(now, Acceptance::new()).is_ok(), waits);
            }
            Some(Event::Frame(frame)) if is_keepalive(&frame) => {}
            Some(Event::Frame(frame @ Frame::Pong(_))) => self.pongs.push(frame),
            Some(Event::Frame(frame)) => self.told.push(frame),
            Some(Event::Closed(closed)) => self.closed = Some(*closed),
            Some(_) => {}
        }
        true
    }
}

/// Whether it looks like a ping of the connection's own, or the answer to one.
fn is_keepalive(frame: &Frame) -> bool {
    frame.is_control() && frame.len() == 8
}
