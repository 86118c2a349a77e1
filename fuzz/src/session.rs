//! A client's life, or that of a connection that a server accepts, under any commands, outcomes, bytes and times.
//!
//! ```text
//!  input   0        then, one after another
//!        +--------+---------------------------------------+
//!        | flags  | operation, and what it needs          |
//!        +--------+---------------------------------------+
//! ```
//!
//! Promises: every ticket is settled once, as sent only where the bytes have left and as refused only where they have not, with the
//! frame given back; callbacks never overlap and come in the guide's order; one `Stopped`, and nothing after it but settlements; what
//! leaves is legal for its role; what is held for sending is bounded; a timer that was handled is not due any more; it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parley_proto::codec::{CloseFrame, Frame, PreparedFrame};
use parley_proto::connection::{Config, Connection, ENCODE_AHEAD, Event, Shutdown};
use parley_proto::handshake::{Acceptance, ClientRequest, ServerHandshake};
use parley_proto::session::{Call, ClientOptions, ClientState, Command, DialId, Output, Reconnect, Returned, Session};
use parley_proto::transport::{TlsError, TransportFacts};
use parley_proto::{Action, Limits, Retry, Role, SendError};

use crate::choices;
use crate::input::Input;
use crate::naive::{self, Listener, Said};

/// Flag: a connection that a server accepts, instead of a client.
pub const ACCEPTED: u8 = 0x1;
/// Flag: `wss`.
pub const SECURE: u8 = 0x2;
/// Flag: the host is an address.
pub const ADDRESS: u8 = 0x4;
/// Flag: it reconnects by itself.
pub const RECONNECTS: u8 = 0x8;
/// Flag: messages above 10 bytes come in parts.
pub const CHUNKS: u8 = 0x10;
/// Flag: limits are small.
pub const SMALL_LIMITS: u8 = 0x20;
/// Flag: outputs are taken after every operation.
pub const EAGER: u8 = 0x40;
/// Flag: it is dropped in the end where it stands.
pub const DROPPED: u8 = 0x80;

/// Bytes that may be queued beside 64 KiB and one frame: pongs while nothing is taken, pushes behind the end, and heads.
const PONGS_AND_HEADS: usize = 4 * ENCODE_AHEAD + 4096;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Operations; each takes what it needs from the input.
pub mod op {
    /// All outputs are taken.
    pub const POLL: u8 = 0;
    /// The step of dialling that is under way succeeds.
    pub const STEP: u8 = 1;
    /// It fails.
    pub const STEP_FAILS: u8 = 2;
    /// The server takes the upgrade.
    pub const UPGRADE: u8 = 3;
    /// The callback under way returns, in one of many ways.
    pub const RETURN: u8 = 4;
    /// The peer sends a frame.
    pub const PEER_FRAME: u8 = 5;
    /// The peer sends some bytes.
    pub const PEER_BYTES: u8 = 6;
    /// The transport takes so many bytes.
    pub const WRITTEN: u8 = 7;
    /// It takes all, and they are flushed.
    pub const FLUSHED: u8 = 8;
    /// A frame is sent, with a ticket.
    pub const SEND: u8 = 9;
    /// One that a broadcast has encoded.
    pub const SEND_PREPARED: u8 = 10;
    /// A part of a message.
    pub const SEND_CHUNK: u8 = 11;
    /// The rest of it will not come.
    pub const ABANDON: u8 = 12;
    /// A flush is asked for.
    pub const FLUSH: u8 = 13;
    /// The newest is given up.
    pub const FORGET: u8 = 14;
    /// An info is sent.
    pub const INFO: u8 = 15;
    /// Time passes, or goes back.
    pub const TIME: u8 = 16;
    /// A disconnect, a stop and the like are asked for.
    pub const ASK: u8 = 17;
    /// The peer ends its direction.
    pub const EOF: u8 = 18;
    /// The transport fails.
    pub const LOST: u8 = 19;
    /// No handle is left, or one is again.
    pub const UNREACHABLE: u8 = 20;
    /// How many there are.
    pub const COUNT: u8 = 21;
}

/// Runs a session through the operations of one input, then to its end.
///
/// # Panics
///
/// If a promise is broken.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let mut world = World::new(flags);
    for _ in 0..choices::OPERATIONS {
        if input.is_empty() {
            break;
        }
        world.apply(&mut input);
        if flags & EAGER != 0 {
            world.poll();
        }
        world.check();
    }
    if flags & DROPPED != 0 { world.drop() } else { world.finish() }
}

enum Step {
    Resolve(DialId),
    Dial(DialId),
    Tls(DialId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callback {
    Init,
    Prepare,
    Connect,
    Frame,
    Info,
    Disconnect,
    Terminate,
}

struct World {
    session: Session<u8, u32>,
    role: Role,
    now: Instant,
    step: Option<Step>,
    /// The transport, if there is one.
    wire: Option<Wire>,
    call: Option<Callback>,
    called: Vec<Callback>,
    connected: bool,
    panicked: bool,
    issued: u32,
    /// Tickets that are not settled, with their frames; flushes and parts have none.
    open: BTreeMap<u32, Option<Frame>>,
    flushes: Vec<u32>,
    /// Numbers of the frames that have left as a whole, over all connections.
    left: BTreeSet<u32>,
    /// The message that is being sent in parts.
    message: Option<u64>,
    messages: u64,
    biggest: usize,
    ended: bool,
}

/// What has left on one transport.
struct Wire {
    output: Vec<u8>,
    listener: Option<Listener>,
    held: BytesMut,
    upgraded: bool,
}

impl World {
    fn new(flags: u8) -> Self {
        let role = if flags & ACCEPTED != 0 { Role::Server } else { Role::Client };
        let mut config = Config::new(role);
        if flags & SMALL_LIMITS != 0 {
            let set =
                || Limits::client().with_message(40)?.with_read_ahead(100)?.with_send_queue(200)?.with_info_queue(2);
            config.limits = set().expect("none of these is 0 or usize::MAX");
        }
        config.chunks_above = (flags & CHUNKS != 0).then_some(10);
        let now = Instant::now() + Duration::from_secs(1 << 30);
        let (session, wire) = match role {
            Role::Server => {
                let config = Arc::new(config);
                let mut connection = Connection::server(config.clone(), [1; 32], now + Duration::from_secs(5));
                connection.handle_input(now, &mut BytesMut::from(REQUEST));
                assert!(matches!(connection.poll_event(), Some(Event::Request(_))), "it is a request");
                let session = Session::accepted(connection, Acceptance::new(), TransportFacts::default(), config);
                (session, Some(Wire::new()))
            }
            Role::Client => {
                let mut options = ClientOptions::from(request(flags));
                options.connection = config;
                options.reconnect = (flags & RECONNECTS != 0).then(|| Reconnect::default().max_retries(3));
                (Session::new(Arc::new(options), [1; 32]), None)
            }
        };
        Self {
            session,
            role,
            now,
            step: None,
            wire,
            call: None,
            called: Vec::new(),
            connected: false,
            panicked: false,
            issued: 0,
            open: BTreeMap::new(),
            flushes: Vec::new(),
            left: BTreeSet::new(),
            message: None,
            messages: 0,
            biggest: 0,
            ended: false,
        }
    }

    fn apply(&mut self, input: &mut Input<'_>) {
        match input.byte() % op::COUNT {
            op::POLL => self.poll(),
            op::STEP => self.step(false),
            op::STEP_FAILS => self.step(true),
            op::UPGRADE => self.upgrade(),
            op::RETURN => {
                let how = input.byte();
                self.returns(how);
            }
            op::PEER_FRAME => {
                let frame = choices::peer_frame(input, self.role);
                self.input(&frame);
            }
            op::PEER_BYTES => self.input(input.counted()),
            op::WRITTEN => self.written(input.word().into()),
            op::FLUSHED => {
                self.written(usize::MAX);
                self.session.handle_flushed(self.now);
            }
            op::SEND => self.send(input),
            op::SEND_PREPARED => {
                let (choice, payload) = (input.byte(), choices::payload(input));
                self.biggest = self.biggest.max(payload.len());
                let frame = PreparedFrame::new(&Frame::binary(payload)).expect("no control frame");
                let (from, skips) = (u64::from(choice & 0x3), (choice & 0x4 != 0).then(|| u64::from(choice >> 4)));
                self.command(if choice & 0x8 != 0 {
                    Command::Skip(from)
                } else {
                    Command::SendPrepared { frame, from, skips }
                });
            }
            op::SEND_CHUNK => self.send_chunk(input),
            op::ABANDON => {
                if let Some(message) = self.message.take() {
                    self.command(Command::Abandon(message));
                }
            }
            op::FLUSH => {
                let ticket = self.ticket(None);
                self.flushes.push(ticket);
                self.command(Command::Flush { ticket, own: input.byte() & 0x1 != 0 });
            }
            op::FORGET => {
                if let Some(ticket) = self.flushes.pop() {
                    self.command(Command::Forget(ticket));
                    self.poll();
                    assert!(!self.open.contains_key(&ticket), "it is settled now at the latest");
                }
            }
            op::INFO => self.command(Command::Info(1)),
            op::TIME => {
                self.now = choices::time(input, self.now, self.session.poll_timeout().map(|(at, _)| at));
                // What one call makes of it may itself be due: a close that was given up, a callback to be dropped.
                for _ in 0..3 {
                    self.session.handle_timeout(self.now);
                    self.poll();
                }
                let due = self.session.poll_timeout();
                assert!(due.is_none_or(|(at, _)| at > self.now), "{due:?} is due although it was handled");
            }
            op::ASK => {
                let (choice, close) = (input.byte(), choices::close(input));
                self.command(match choice % 4 {
                    0 => Command::Connect,
                    1 => Command::Reconnect(close),
                    2 => Command::Disconnect(close),
                    _ => Command::Stop(close),
                });
            }
            op::EOF => self.session.handle_eof(self.now),
            op::LOST => self.session.handle_lost(self.now, ErrorKind::ConnectionReset.into()),
            _ => self.session.set_unreachable(input.byte() & 0x1 != 0),
        }
    }

    fn command(&mut self, command: Command<u8, u32>) {
        self.session.command(self.now, command);
    }

    fn ticket(&mut self, frame: Option<Frame>) -> u32 {
        self.issued += 1;
        self.open.insert(self.issued, frame);
        self.issued
    }

    /// Sends a frame that begins with its ticket's number.
    fn send(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        let number = (self.issued + 1).to_be_bytes();
        let payload = [b"#".as_slice(), &number, &choices::payload(input)].concat();
        self.biggest = self.biggest.max(payload.len());
        let frame = if choice & 0x1 != 0 { Frame::ping(payload) } else { Frame::binary(payload) };
        let ticket = self.ticket(Some(frame.clone()));
        self.command(Command::Send { frame, ticket: Some(ticket), own: choice & 0x2 != 0 });
    }

    /// A part that fits those before it, as a handle takes care that it does.
    fn send_chunk(&mut self, input: &mut Input<'_>) {
        let mut chunk = choices::chunk(input);
        let own = input.byte() & 0x1 != 0;
        self.biggest = self.biggest.max(chunk.payload.len());
        (chunk.text, chunk.first) = (false, self.message.is_none());
        let message = *self.message.get_or_insert_with(|| {
            self.messages += 1;
            self.messages
        });
        if chunk.last {
            self.message = None;
        }
        let ticket = Some(self.ticket(None));
        self.command(Command::SendChunk { message, chunk, ticket, own });
    }

    fn step(&mut self, fails: bool) {
        let error = || Error::from(ErrorKind::ConnectionRefused);
        let outcome = |made: bool| if made { Ok(TransportFacts::default()) } else { Err(error()) };
        match self.step.take() {
            None => {}
            Some(Step::Resolve(id)) => {
                let addresses = [[10, 0, 0, 1], [10, 0, 0, 2]].map(|address| (address, 80).into()).to_vec();
                self.session.resolved(self.now, id, if fails { Err(error()) } else { Ok(addresses) });
                self.session.resolved(self.now, id, Ok(Vec::new())); // too late
            }
            Some(Step::Dial(id)) => {
                self.wire = (!fails).then(Wire::new);
                self.session.dialled(self.now, id, outcome(!fails));
                self.session.dialled(self.now, id, outcome(fails)); // too late
            }
            Some(Step::Tls(id)) => {
                self.wire = (!fails).then(Wire::new);
                self.session.tls_done(self.now, id, outcome(!fails).map_err(|error| TlsError::Io(Arc::new(error))));
            }
        }
    }

    fn input(&mut self, bytes: &[u8]) {
        let Some(wire) = &mut self.wire else { return };
        wire.held.extend_from_slice(bytes);
        if self.session.wants_input() {
            self.session.handle_input(self.now, &mut wire.held);
        }
    }

    fn upgrade(&mut self) {
        self.written(usize::MAX);
        let Some(wire) = &mut self.wire else { return };
        if self.role == Role::Server || std::mem::replace(&mut wire.upgraded, true) {
            return;
        }
        let mut server = ServerHandshake::new(&Limits::server());
        match server.handle_input(&mut BytesMut::from(&*wire.output)) {
            Ok(Some(_)) => {
                let (_, head) = server.accept(&Acceptance::new()).expect("it waits");
                self.input(&head);
            }
            asked => assert!(matches!(asked, Ok(None)), "{asked:?}"),
        }
    }

    fn written(&mut self, n: usize) {
        let Some(wire) = &mut self.wire else { return };
        let Some(transmit) = self.session.transmit() else { return };
        let bytes: Vec<u8> = transmit.iter().flatten().copied().take(n).collect();
        self.session.handle_written(self.now, bytes.len());
        let said = wire.hear(self.role, &bytes);
        self.left.extend(said.iter().filter_map(|said| match said {
            Said::Message(_, payload) | Said::Ping(payload) => match payload.split_first_chunk::<5>() {
                Some(([b'#', number @ ..], _)) => Some(u32::from_be_bytes(*number)),
                _ => None,
            },
            _ => None,
        }));
    }

    fn returns(&mut self, how: u8) {
        let Some(call) = self.call.take() else { return };
        let close = CloseFrame::normal();
        let returned = match (call, how % 16) {
            (_, 15) => {
                self.panicked = true;
                Returned::Panicked
            }
            (Callback::Init, 14) => Returned::Init(Err("no".into())),
            (Callback::Init, _) => Returned::Init(Ok(())),
            (Callback::Prepare, 14) => Returned::Prepare(Err("no".into())),
            (Callback::Prepare, _) => Returned::Prepare(Ok(Box::new(request(how)))),
            (Callback::Disconnect, how) => Returned::Retry(match how % 5 {
                0 => Retry::Policy,
                1 => Retry::Stay,
                2 => Retry::Stop,
                3 => Retry::Reconnect,
                _ => Retry::After(Duration::from_secs(u64::from(how))),
            }),
            (Callback::Terminate, _) => Returned::Terminated,
            (_, how) => Returned::Action(match how {
                6 | 7 => Ok(Frame::text("pushed").into()),
                8 => Ok(vec![Frame::ping("x"), Frame::binary(vec![0; 900]), Frame::ping(vec![0; 126])].into()),
                9 => Ok(Action::Disconnect(close)),
                10 => Ok(Action::Reconnect(close)),
                11 => Ok(Action::Stop),
                12 => Ok(Action::StopWith(close)),
                14 => Err("no".into()),
                _ => Ok(Action::Continue),
            }),
        };
        self.session.called(self.now, returned);
    }

    /// Takes all outputs.
    fn poll(&mut self) {
        loop {
            while let Some(output) = self.session.poll_output(self.now) {
                let answers = matches!(output, Output::Settle(..)); // to commands that come too late
                assert!(!self.ended || answers, "{output:?} comes after the end");
                self.output(output);
            }
            if !self.session.call_abandoned() || self.call.take().is_none() {
                return;
            }
            self.session.called(self.now, Returned::Dropped);
        }
    }

    fn output(&mut self, output: Output<u8, u32>) {
        match output {
            Output::Resolve(id, host, _) => {
                assert!(!host.is_empty() && host.parse::<core::net::IpAddr>().is_err(), "{host} is resolved");
                self.step = Some(Step::Resolve(id));
            }
            Output::Dial(id, _) => self.step = Some(Step::Dial(id)),
            Output::StartTls(id, _) => {
                assert!(self.wire.is_some(), "TLS over nothing");
                self.step = Some(Step::Tls(id));
            }
            Output::Cancel(_) => (self.step, self.wire) = (None, None),
            Output::Shutdown(how) => {
                assert!(self.wire.is_some() || how == Shutdown::Abort, "{how:?} of nothing");
                if how != Shutdown::Write {
                    self.wire = None;
                }
            }
            Output::Settle(ticket, outcome) => self.settle(ticket, outcome),
            Output::Stopped(_) => {
                assert!(self.call.is_none(), "it ends while a callback runs");
                self.ended = true;
            }
            Output::Call(call) => self.call(&call),
            output => panic!("{output:?}"),
        }
    }

    fn settle(&mut self, ticket: u32, outcome: Result<(), SendError>) {
        let Some(frame) = self.open.remove(&ticket) else { panic!("{ticket} is settled twice") };
        let Some(frame) = frame else { return };
        match outcome {
            Ok(()) => assert!(self.left.contains(&ticket), "{ticket} is settled as sent, and has not left"),
            Err(SendError::Lost(_)) => {}
            Err(error) => {
                assert_eq!(error.frame(), Some(&frame), "a refused frame comes back");
                assert!(!self.left.contains(&ticket), "{ticket} was given back, and has left");
            }
        }
    }

    fn call(&mut self, call: &Call<u8>) {
        assert!(self.call.is_none(), "{call:?} while {:?} runs", self.call);
        assert!(!self.panicked, "{call:?} after a panic");
        assert_ne!(self.called.last(), Some(&Callback::Terminate), "terminate is the last");
        let callback = match call {
            Call::Init => Callback::Init,
            Call::Prepare(_) => Callback::Prepare,
            Call::Connect(_) => Callback::Connect,
            Call::Frame(_) | Call::Chunk(_) => Callback::Frame,
            Call::Info(_) => Callback::Info,
            Call::Disconnect(_) => Callback::Disconnect,
            Call::Terminate(_) => Callback::Terminate,
            call => panic!("{call:?}"),
        };
        assert_eq!(callback == Callback::Init, self.called.is_empty(), "init is the first");
        match callback {
            Callback::Prepare | Callback::Connect => {
                assert!(!self.connected, "{callback:?} without handle_disconnect before");
                self.connected = callback == Callback::Connect;
            }
            Callback::Frame => assert!(self.connected, "a frame ahead of handle_connect"),
            Callback::Disconnect | Callback::Terminate => {
                assert!(self.wire.is_none(), "the transport is closed before");
                self.connected = false;
            }
            Callback::Init | Callback::Info => {}
        }
        self.call = Some(callback);
        self.called.push(callback);
    }

    fn check(&mut self) {
        let queued = self.session.queued();
        assert!(queued <= ENCODE_AHEAD + self.biggest + 14 + PONGS_AND_HEADS + 20 * 1024, "{queued} bytes are queued");
        if self.session.state() == ClientState::Stopped {
            assert_eq!((self.session.poll_timeout(), queued, self.session.wants_input()), (None, 0, false));
        }
    }

    /// Stops it and lets everything run its course: it has to end.
    fn finish(mut self) {
        self.command(Command::Stop(CloseFrame::normal()));
        for _ in 0..20 {
            self.poll();
            self.written(usize::MAX);
            self.session.handle_flushed(self.now);
            self.returns(0);
            self.poll();
            self.check();
            if let Some((at, _)) = self.session.poll_timeout() {
                self.now = self.now.max(at);
                self.session.handle_timeout(self.now);
            }
        }
        assert!(self.ended && self.session.state() == ClientState::Stopped, "it does not end");
        assert!(self.wire.is_none(), "the transport is left open");
        let ticket = self.ticket(Some(Frame::text("late")));
        self.command(Command::Send { frame: Frame::text("late"), ticket: Some(ticket), own: false });
        self.command(Command::Connect);
        self.poll();
        self.check();
        assert!(self.open.is_empty(), "not settled: {:?}", self.open);
    }

    fn drop(mut self) {
        for (ticket, outcome) in self.session.abort().collect::<Vec<_>>() {
            self.settle(ticket, outcome);
        }
        assert!(self.open.is_empty(), "not settled: {:?}", self.open);
        assert_eq!(self.session.state(), ClientState::Stopped);
    }
}

impl Wire {
    fn new() -> Self {
        Self { output: Vec::new(), listener: None, held: BytesMut::new(), upgraded: false }
    }

    /// Takes what was written, which begins with a head.
    fn hear(&mut self, role: Role, bytes: &[u8]) -> Vec<Said> {
        let mut frames = bytes.to_vec();
        if self.listener.is_none() {
            self.output.extend_from_slice(bytes);
            if !self.output.windows(4).any(|four| four == b"\r\n\r\n") {
                return Vec::new();
            }
            let (lines, rest) = naive::head(&self.output);
            if role == Role::Server && !lines[0].contains(" 101 ") {
                return Vec::new();
            }
            frames = rest.to_vec();
            self.listener = Some(Listener::new(role));
        }
        let heard = self.listener.as_mut().map(|listener| listener.hear(&frames));
        heard.unwrap_or(Ok(Vec::new())).unwrap_or_else(|rule| panic!("{role:?} sends {rule}"))
    }
}

fn request(flags: u8) -> ClientRequest {
    let scheme = if flags & SECURE != 0 { "wss" } else { "ws" };
    let host = if flags & ADDRESS != 0 { "10.0.0.1" } else { "a.test" };
    ClientRequest::new(&format!("{scheme}://{host}/")).expect("a URL")
}
