//! The life of one client around its successive connections: attempts and their one deadline, sends that wait while
//! connecting, the order of callbacks, and the end. Sans-IO, like the connection it wraps.
//!
//! ```text
//!          init            attempt                handshake complete
//!   New ─────────▶ Down ─────────────▶ Dialling ─▶ Up ───────────────▶ (callbacks, frames)
//!                   ▲  ▲                  │         │
//!                   │  └──────────────────┘         │  handle_disconnect
//!                   └───────────────────────────────┘
//!   from anywhere: stop, an error, a panic ─▶ the connection is closed ─▶ terminate ─▶ Ended
//! ```

mod dial;
mod options;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use core::net::SocketAddr;
use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};

pub use dial::DialId;
use dial::{Addresses, Dialling, Stage};
pub use options::{BuildError, ClientOptions};

use crate::codec::{CloseFrame, Frame, Transmit};
use crate::connection::{Closed, Config, Connection, ConnectionError, Event, Shutdown, State, Timer, earliest};
use crate::driver::{TlsError, TlsTarget, TransportFacts};
use crate::error::{BoxError, ConnectPhase, DisconnectReason, NetworkError, SendError, StopReason};
use crate::handler::{Action, Attempt, Connected, Retry};
use crate::handshake::ClientRequest;

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
    /// Settle this once all that was accepted before has left. `own`: for the client's own handle, which waits for
    /// no connection.
    Flush {
        /// Settled then.
        ticket: T,
        /// By the client's own handle.
        own: bool,
    },
    /// Deliver this to `handle_info`.
    Info(I),
    /// Close the connection, or abandon the attempt; the client lives on.
    Disconnect(CloseFrame),
    /// Close the connection behind all that was accepted before, then end.
    Stop(CloseFrame),
}

impl<I, T> Command<I, T> {
    /// Whether no frame is accepted behind it.
    pub(crate) fn closes(&self) -> bool {
        matches!(self, Self::Disconnect(_) | Self::Stop(_))
    }
}

/// What the session wants done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output<I, T> {
    /// Look up a host: answer with [`resolved`](Session::resolved).
    Resolve(DialId, String, u16),
    /// Open a TCP connection: answer with [`dialled`](Session::dialled).
    Dial(DialId, SocketAddr),
    /// Run TLS over the connection just dialled: answer with [`tls_done`](Session::tls_done).
    StartTls(DialId, TlsTarget),
    /// Give up a step; an answer to it would be ignored.
    Cancel(DialId),
    /// End or close the transport.
    Shutdown(Shutdown),
    /// Run a callback: answer with [`called`](Session::called).
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
    /// The callback's future was dropped, as [`call_abandoned`](Session::call_abandoned) asked.
    Dropped,
    /// It panicked: no callback may run any more.
    Panicked,
}

/// A client's life, for any runtime.
///
/// Feed it what happens, then poll [`poll_output`](Self::poll_output) until `None`. `I` is the handler's info type,
/// `T` a ticket that is handed back when a waiting send is settled.
pub struct Session<I, T> {
    options: Arc<ClientOptions>,
    config: Arc<Config>,
    rng: Box<ChaCha12Rng>,
    phase: Phase,
    outstanding: Option<Outstanding>,
    /// The callback under way has to be dropped.
    abandon: bool,

    // what waits for a callback
    infos: VecDeque<I>,
    /// The info's turn: infos and frames alternate.
    info_turn: bool,
    connected: Option<Box<Connected>>,
    lost: Option<Box<DisconnectReason>>,

    // what waits to be encoded: pings and pongs first, then the rest in order
    control: VecDeque<Outgoing<T>>,
    outbox: VecDeque<Outgoing<T>>,
    /// Sends that callbacks pushed and that are not begun, in cost.
    pushed: usize,
    /// Sends of handles that were begun or settled since the last [`take_released`](Self::take_released), in cost.
    released: usize,
    /// The outbox of other tasks waits for `handle_connect` to return.
    hold: bool,
    /// Begun and not flushed: the output offset at which each ticket is settled.
    unsettled: VecDeque<(u64, T)>,
    /// Up to this output offset the operating system has all.
    flushed: u64,

    outputs: VecDeque<Output<I, T>>,
    attempts: Attempts,
    connect_deadline: Option<Instant>,
    /// Of the transport, until the handshake over it is complete.
    facts: Option<Box<TransportFacts>>,
    ask: Option<Ask>,
    stop: Option<Box<Stop>>,
    last: Option<DisconnectReason>,
    /// The last connection ended by `disconnect`, or by both Closes with 1000 or 1001.
    clean: bool,
    unreachable: bool,
    next_id: u64,
}

#[expect(clippy::large_enum_variant, reason = "one a client, and the connection is what the hot path reads")]
enum Phase {
    /// `init` has not run.
    New,
    Down,
    Dialling(Box<Dialling>),
    Up(Connection),
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outstanding {
    Init,
    Prepare,
    Connect,
    Frame,
    Info,
    Disconnect,
    Terminate,
}

enum Outgoing<T> {
    Frame {
        frame: Frame,
        ticket: Option<T>,
        pushed: bool,
    },
    Flush(T),
    /// A close that was asked for, behind all that was accepted before it.
    Close(CloseFrame),
}

#[derive(Default)]
struct Attempts {
    number: u32,
    first: Option<Instant>,
}

/// A close that the application asked for, until the connection is down.
struct Ask {
    /// The reason that `handle_disconnect` is to see.
    reason: DisconnectReason,
    deadline: Instant,
}

/// The end, decided and not reached.
struct Stop {
    reason: StopReason,
    /// A callback still running then is dropped.
    deadline: Instant,
    terminated: bool,
}

/// What a frame costs of a queue's bound beside its payload, so that empty frames are bounded too.
const FRAME_COST: usize = 32;

/// What a frame costs of a queue's bound, in bytes.
#[must_use]
pub fn cost(frame: &Frame) -> usize {
    frame.len().saturating_add(FRAME_COST)
}

impl<I, T> Session<I, T> {
    /// A client that has done nothing yet: the first output is [`Call::Init`].
    ///
    /// `seed` has to be unpredictable: nonces and masking keys come from it.
    #[must_use]
    pub fn new(options: Arc<ClientOptions>, seed: [u8; 32]) -> Self {
        Self {
            config: Arc::new(options.connection.clone()),
            options,
            rng: Box::new(ChaCha12Rng::from_seed(seed)),
            phase: Phase::New,
            outstanding: None,
            abandon: false,
            infos: VecDeque::new(),
            info_turn: false,
            connected: None,
            lost: None,
            control: VecDeque::new(),
            outbox: VecDeque::new(),
            pushed: 0,
            released: 0,
            hold: false,
            unsettled: VecDeque::new(),
            flushed: 0,
            outputs: VecDeque::new(),
            attempts: Attempts::default(),
            connect_deadline: None,
            facts: None,
            ask: None,
            stop: None,
            last: None,
            clean: false,
            unreachable: false,
            next_id: 0,
        }
    }

    /// The client's state.
    #[must_use]
    pub fn state(&self) -> ClientState {
        match &self.phase {
            Phase::New | Phase::Down => ClientState::Disconnected,
            Phase::Dialling(_) => ClientState::Connecting,
            Phase::Up(connection) if connection.state() == State::Connecting => ClientState::Connecting,
            Phase::Up(_) => ClientState::Connected,
            Phase::Ended => ClientState::Stopped,
        }
    }

    /// Whether sends are refused because a Close was asked for, sent or received.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.ask.is_some()
            || self.stop.is_some()
            || matches!(&self.phase, Phase::Up(connection)
                if matches!(connection.state(), State::Closing | State::Closed))
    }

    /// Whether the last connection ended as it should: by `disconnect`, or by both Closes with 1000 or 1001.
    #[must_use]
    pub fn ended_cleanly(&self) -> bool {
        self.clean
    }

    // ---- commands

    /// Something that another task wants.
    pub fn command(&mut self, now: Instant, command: Command<I, T>) {
        match command {
            Command::Send { frame, ticket, own } => self.send(now, frame, ticket, own),
            Command::Flush { ticket, own } => self.flush(ticket, own),
            Command::Info(info) => self.infos.push_back(info),
            Command::Disconnect(close) => self.disconnect(now, close, DisconnectReason::Local),
            Command::Stop(close) => self.stop(now, close, StopReason::Stopped),
        }
    }

    /// Nobody can reach the client any more: disconnected, it ends.
    pub fn set_unreachable(&mut self, unreachable: bool) {
        self.unreachable = unreachable;
    }

    /// The cost of handles' sends that left the queue since the last call.
    pub fn take_released(&mut self) -> usize {
        mem::take(&mut self.released)
    }

    fn send(&mut self, now: Instant, frame: Frame, ticket: Option<T>, own: bool) {
        let waits = match &self.phase {
            _ if self.is_closing() => return self.refuse(SendError::Closing(frame), ticket, false),
            Phase::New | Phase::Down => return self.refuse(SendError::Disconnected(frame), ticket, false),
            Phase::Ended => return self.refuse(SendError::Stopped(frame), ticket, false),
            Phase::Dialling(_) => true,
            Phase::Up(connection) => connection.state() == State::Connecting || self.hold,
        };
        if frame.is_control() && frame.len() > 125 {
            return self.refuse(SendError::ControlTooLong(frame), ticket, false);
        }
        // The client's own handle cannot wait for a connection that its own callback holds up.
        if waits && own {
            if self.outstanding != Some(Outstanding::Connect) {
                return self.refuse(SendError::Disconnected(frame), ticket, false);
            }
            return self.encode(now, frame, ticket, false);
        }
        self.enqueue(now, frame, ticket, false);
    }

    fn flush(&mut self, ticket: T, own: bool) {
        let idle = self.control.is_empty() && self.outbox.is_empty();
        match &self.phase {
            // What waits for handle_connect to return is not its own.
            Phase::Up(connection) if connection.state() != State::Connecting && (idle || own && self.hold) => {
                self.unsettled.push_back((connection.encoded(), ticket));
                self.settle_flushed();
            }
            Phase::Up(connection) if connection.state() != State::Connecting => {
                self.outbox.push_back(Outgoing::Flush(ticket));
            }
            _ if idle || own => self.outputs.push_back(Output::Settle(ticket, Ok(()))),
            _ => self.outbox.push_back(Outgoing::Flush(ticket)),
        }
    }

    /// A callback's push: never refused for lack of room.
    fn push(&mut self, now: Instant, frame: Frame) {
        if self.is_closing() || !matches!(&self.phase, Phase::Up(up) if up.state() == State::Open) {
            return; // a push while not connected is refused
        }
        if frame.is_control() && frame.len() > 125 {
            return;
        }
        if self.hold {
            return self.encode(now, frame, None, true); // ahead of what waited while connecting
        }
        self.enqueue(now, frame, None, true);
    }

    /// Encodes at once when nothing is before it and there is room, else puts it in line.
    #[inline]
    fn enqueue(&mut self, now: Instant, frame: Frame, ticket: Option<T>, pushed: bool) {
        if let Phase::Up(connection) = &self.phase {
            let first = self.control.is_empty() && (self.outbox.is_empty() || frame.is_control());
            if first && !self.hold && connection.has_room() {
                return self.encode(now, frame, ticket, pushed);
            }
        }
        if pushed {
            self.pushed += cost(&frame);
        }
        let queue = if frame.is_control() { &mut self.control } else { &mut self.outbox };
        queue.push_back(Outgoing::Frame { frame, ticket, pushed });
    }

    #[inline]
    fn encode(&mut self, now: Instant, frame: Frame, ticket: Option<T>, pushed: bool) {
        let Phase::Up(connection) = &mut self.phase else { return };
        let released = if pushed { 0 } else { cost(&frame) };
        match connection.send_anyway(now, frame) {
            Ok(end) => {
                self.released += released;
                if let Some(ticket) = ticket {
                    self.unsettled.push_back((end, ticket));
                }
            }
            Err(error) => self.refuse(error, ticket, pushed),
        }
    }

    /// A send that will never begin: its frame goes back to whoever waits for it.
    fn refuse(&mut self, error: SendError, ticket: Option<T>, pushed: bool) {
        if let SendError::Full(frame)
        | SendError::Disconnected(frame)
        | SendError::Closing(frame)
        | SendError::Stopped(frame)
        | SendError::ControlTooLong(frame) = &error
        {
            if !pushed {
                self.released += cost(frame);
            }
        }
        if let Some(ticket) = ticket {
            self.outputs.push_back(Output::Settle(ticket, Err(error)));
        }
    }

    /// Encodes what waits, as far as there is room.
    fn pump(&mut self, now: Instant) {
        if self.hold || (self.control.is_empty() && self.outbox.is_empty()) {
            return;
        }
        while let Phase::Up(connection) = &mut self.phase {
            if !connection.has_room() || connection.state() != State::Open {
                return;
            }
            match self.control.pop_front().or_else(|| self.outbox.pop_front()) {
                None => return,
                Some(Outgoing::Frame { frame, ticket, pushed }) => {
                    if pushed {
                        self.pushed = self.pushed.saturating_sub(cost(&frame));
                    }
                    self.encode(now, frame, ticket, pushed);
                }
                Some(Outgoing::Flush(ticket)) => {
                    self.unsettled.push_back((connection.encoded(), ticket));
                    self.settle_flushed();
                }
                Some(Outgoing::Close(close)) => connection.close(now, &close),
            }
        }
    }

    fn disconnect(&mut self, now: Instant, close: CloseFrame, reason: DisconnectReason) {
        match &mut self.phase {
            Phase::New | Phase::Down | Phase::Ended => {}
            Phase::Dialling(_) => self.attempt_failed(now, reason),
            Phase::Up(connection) if connection.state() == State::Connecting => {
                connection.abort(now);
                self.attempt_failed(now, reason);
            }
            Phase::Up(connection) => {
                if self.ask.is_none() {
                    connection.discard_input();
                    self.connected = None;
                    self.ask = Some(Ask { reason, deadline: now + self.config.close_timeout });
                    self.hold = false;
                    self.outbox.push_back(Outgoing::Close(close));
                    self.pump(now);
                    self.advance(now);
                }
            }
        }
    }

    fn stop(&mut self, now: Instant, close: CloseFrame, reason: StopReason) {
        if self.stop.is_some() || matches!(self.phase, Phase::Ended) {
            return;
        }
        let deadline = now + self.config.close_timeout;
        self.stop = Some(Box::new(Stop { reason, deadline, terminated: false }));
        self.lost = None;
        self.disconnect(now, close, DisconnectReason::Local);
    }

    // ---- the attempt

    fn begin_attempt(&mut self, now: Instant) {
        self.attempts.number += 1;
        self.attempts.first.get_or_insert(now);
        self.connect_deadline = Some(now + self.options.connect_timeout);
        self.phase = Phase::Dialling(Box::new(Dialling::new(self.options.request.clone())));
    }

    fn next_id(&mut self) -> DialId {
        self.next_id += 1;
        DialId(self.next_id)
    }

    fn prepared(&mut self, now: Instant, request: ClientRequest) {
        let id = self.next_id();
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        dialling.request = request;
        if let Some(address) = dialling.literal() {
            return self.try_addresses(now, Addresses::new(vec![address]));
        }
        dialling.stage = Stage::Resolve(id);
        let (host, port) = (dialling.request.host().to_owned(), dialling.request.port());
        self.outputs.push_back(Output::Resolve(id, host, port));
    }

    /// The outcome of [`Output::Resolve`].
    pub fn resolved(&mut self, now: Instant, id: DialId, outcome: io::Result<Vec<SocketAddr>>) {
        if !matches!(&self.phase, Phase::Dialling(dialling) if matches!(dialling.stage, Stage::Resolve(at) if at == id))
        {
            return;
        }
        match outcome {
            Ok(addresses) if addresses.is_empty() => {
                let error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                self.attempt_failed(now, DisconnectReason::Dns(error.into()));
            }
            Ok(addresses) => self.try_addresses(now, Addresses::new(addresses)),
            Err(error) => self.attempt_failed(now, DisconnectReason::Dns(error.into())),
        }
    }

    fn try_addresses(&mut self, now: Instant, mut addresses: Addresses) {
        let deadline = self.connect_deadline.unwrap_or(now);
        match addresses.next(now, deadline) {
            Some(address) => {
                let id = self.next_id();
                if let Phase::Dialling(dialling) = &mut self.phase {
                    dialling.stage = Stage::Tcp(id, addresses);
                    self.outputs.push_back(Output::Dial(id, address));
                }
            }
            None => {
                let failure = addresses.failure.unwrap_or(DisconnectReason::ConnectTimeout(ConnectPhase::Tcp));
                self.attempt_failed(now, failure);
            }
        }
    }

    /// Takes the addresses out of the stage that `id` names, for the next try.
    fn take_addresses(&mut self, id: DialId) -> Option<Addresses> {
        let Phase::Dialling(dialling) = &mut self.phase else { return None };
        match mem::replace(&mut dialling.stage, Stage::Tls(id)) {
            Stage::Tcp(at, addresses) if at == id => Some(addresses),
            other => {
                dialling.stage = other;
                None
            }
        }
    }

    /// The outcome of [`Output::Dial`].
    pub fn dialled(&mut self, now: Instant, id: DialId, outcome: io::Result<TransportFacts>) {
        let Some(mut addresses) = self.take_addresses(id) else { return };
        match outcome {
            Err(error) => {
                addresses.failure = Some(DisconnectReason::Tcp(error.into()));
                self.try_addresses(now, addresses);
            }
            Ok(facts) => {
                let Phase::Dialling(dialling) = &mut self.phase else { return };
                if dialling.request.is_secure() {
                    let target = TlsTarget::new(dialling.request.host());
                    self.outputs.push_back(Output::StartTls(id, target)); // the stage is Tls(id) already
                } else {
                    self.upgrade(now, facts);
                }
            }
        }
    }

    /// The outcome of [`Output::StartTls`].
    pub fn tls_done(&mut self, now: Instant, id: DialId, outcome: Result<TransportFacts, TlsError>) {
        if !matches!(&self.phase, Phase::Dialling(dialling) if matches!(dialling.stage, Stage::Tls(at) if at == id)) {
            return;
        }
        match outcome {
            Ok(facts) => self.upgrade(now, facts),
            Err(error) => self.attempt_failed(now, DisconnectReason::Tls(error)),
        }
    }

    /// A transport is there: the upgrade request goes out.
    fn upgrade(&mut self, now: Instant, facts: TransportFacts) {
        let Phase::Dialling(dialling) = &self.phase else { return };
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let deadline = self.connect_deadline.unwrap_or(now);
        let connection = Connection::client(&dialling.request, self.config.clone(), seed, deadline);
        self.connect_deadline = None; // the connection's own handshake timer has it now
        self.phase = Phase::Up(connection);
        self.flushed = 0;
        self.hold = true;
        self.connected = None;
        self.facts = Some(Box::new(facts));
    }

    /// The attempt is over without a connection.
    fn attempt_failed(&mut self, now: Instant, reason: DisconnectReason) {
        let mut reached = ConnectPhase::Upgrade;
        match mem::replace(&mut self.phase, Phase::Down) {
            Phase::Dialling(dialling) => {
                reached = dialling.phase();
                if let Some(id) = dialling.id() {
                    self.outputs.push_back(Output::Cancel(id));
                }
                if self.outstanding == Some(Outstanding::Prepare) {
                    self.abandon = true;
                }
            }
            Phase::Up(mut connection) => {
                let how = connection.poll_shutdown().unwrap_or(Shutdown::Abort);
                self.outputs.push_back(Output::Shutdown(how));
            }
            other => {
                self.phase = other; // the attempt is over already
                return;
            }
        }
        self.connect_deadline = None;
        self.hold = false;
        self.connected = None;
        self.facts = None;
        self.clean = matches!(reason, DisconnectReason::Local);
        self.last = Some(reason.clone());
        if self.stop.is_some() {
            return self.settle_waiting();
        }
        let network = match reason {
            DisconnectReason::Dns(_) | DisconnectReason::Tcp(_) | DisconnectReason::Tls(_) => {
                reached != ConnectPhase::Upgrade
            }
            DisconnectReason::ConnectTimeout(_) => !matches!(reached, ConnectPhase::Upgrade | ConnectPhase::Prepare),
            _ => false,
        };
        if network && self.attempts.number == 1 {
            // Nothing was ever reached: most likely the address is wrong, and whoever started the client is told.
            let deadline = now + self.config.close_timeout;
            let reason = StopReason::Disconnected(reason);
            self.stop = Some(Box::new(Stop { reason, deadline, terminated: false }));
            return self.settle_waiting();
        }
        self.lost = Some(Box::new(reason)); // what waits is settled once handle_disconnect has run
    }

    /// Gives back every frame that waits and every ticket.
    fn settle_waiting(&mut self) {
        self.pushed = 0;
        let reason = self.last.clone().unwrap_or(DisconnectReason::Local);
        for (_, ticket) in mem::take(&mut self.unsettled) {
            self.outputs.push_back(Output::Settle(ticket, Err(SendError::Lost(reason.clone()))));
        }
        let stopped = matches!(self.phase, Phase::Ended);
        for waiting in mem::take(&mut self.control).into_iter().chain(mem::take(&mut self.outbox)) {
            match waiting {
                Outgoing::Frame { frame, ticket, pushed } => {
                    let open = matches!(self.phase, Phase::Up(_));
                    let error = match () {
                        () if stopped => SendError::Stopped(frame),
                        () if open => SendError::Closing(frame),
                        () => SendError::Disconnected(frame),
                    };
                    self.refuse(error, ticket, pushed);
                }
                Outgoing::Flush(ticket) => {
                    self.outputs.push_back(Output::Settle(ticket, Err(SendError::Lost(reason.clone()))));
                }
                Outgoing::Close(_) => {}
            }
        }
    }

    // ---- the connection

    /// Takes what has arrived; see [`Connection::handle_input`].
    #[inline]
    pub fn handle_input(&mut self, now: Instant, input: &mut BytesMut) {
        match &mut self.phase {
            Phase::Up(connection) => {
                connection.handle_input(now, input);
                if !connection.has_frames() || connection.has_news() {
                    self.advance(now);
                }
            }
            _ => input.clear(),
        }
    }

    /// The transport has taken `n` bytes; see [`Connection::handle_written`].
    #[inline]
    pub fn handle_written(&mut self, now: Instant, n: usize) {
        if let Phase::Up(connection) = &mut self.phase {
            connection.handle_written(now, n);
            if connection.state() != State::Open {
                self.advance(now);
            }
            self.pump(now);
        }
    }

    /// All that the transport has taken is with the operating system.
    #[inline]
    pub fn handle_flushed(&mut self) {
        if let Phase::Up(connection) = &self.phase {
            self.flushed = connection.written();
            self.settle_flushed();
        }
    }

    #[inline]
    fn settle_flushed(&mut self) {
        while self.unsettled.front().is_some_and(|&(end, _)| end <= self.flushed) {
            if let Some((_, ticket)) = self.unsettled.pop_front() {
                self.outputs.push_back(Output::Settle(ticket, Ok(())));
            }
        }
    }

    /// The peer has ended its direction.
    pub fn handle_eof(&mut self, now: Instant) {
        if let Phase::Up(connection) = &mut self.phase {
            connection.handle_eof(now);
            self.advance(now);
        }
    }

    /// The transport failed.
    pub fn handle_lost(&mut self, now: Instant, error: io::Error) {
        if let Phase::Up(connection) = &mut self.phase {
            connection.handle_lost(now, NetworkError::from(error));
            self.advance(now);
        }
    }

    /// Takes the connection's events, other than frames, as far as the application is ready for them.
    fn advance(&mut self, now: Instant) {
        while let Phase::Up(connection) = &mut self.phase {
            let idle = self.outstanding.is_none() && self.connected.is_none();
            let ready = (idle || self.ask.is_some()) && !connection.has_frames();
            if !ready && !connection.has_news() {
                return;
            }
            if connection.is_ending() {
                // A Close that fails the connection follows what callbacks pushed before; others' frames are dropped.
                self.flush_pushes(now);
            }
            let Phase::Up(connection) = &mut self.phase else { return };
            match connection.poll_event() {
                Some(Event::Open(negotiated)) => {
                    let transport = self.facts.take().map(|facts| *facts).unwrap_or_default();
                    self.connected = Some(Box::new(Connected { negotiated: *negotiated, transport }));
                }
                Some(Event::Closed(closed)) => self.connection_ended(now, *closed),
                Some(Event::Frame(_) | Event::Request(_)) => {} // discarded frames, never a request as client
                None => return,
            }
        }
    }

    /// The connection is about to close for the peer's or an error's sake.
    fn flush_pushes(&mut self, now: Instant) {
        let waiting = mem::take(&mut self.control).into_iter().chain(mem::take(&mut self.outbox));
        let (pushes, others): (Vec<_>, Vec<_>) =
            waiting.partition(|waiting| matches!(waiting, Outgoing::Frame { pushed: true, .. }));
        for push in pushes {
            if let Outgoing::Frame { frame, ticket, pushed } = push {
                self.encode(now, frame, ticket, pushed);
            }
        }
        self.pushed = 0;
        for other in others {
            match other {
                Outgoing::Frame { frame, ticket, .. } => self.refuse(SendError::Closing(frame), ticket, false),
                Outgoing::Flush(_) => self.outbox.push_back(other), // settled when the connection is down
                Outgoing::Close(_) => {}
            }
        }
    }

    fn connection_ended(&mut self, now: Instant, closed: Closed) {
        let Phase::Up(connection) = &mut self.phase else { return };
        let attempt = self.facts.is_some(); // they are taken when the handshake is complete
        if let Some(how) = connection.poll_shutdown() {
            self.outputs.push_back(Output::Shutdown(how));
        }
        let normal = closed.close.as_ref().is_some_and(|close| matches!(u16::from(close.code()), 1000 | 1001));
        let clean = closed.was_clean && normal;
        let asked = self.ask.take().map(|ask| ask.reason);
        let reason = asked.unwrap_or_else(|| reason(closed));
        if attempt {
            return self.attempt_failed(now, reason);
        }
        self.phase = Phase::Down;
        self.hold = false;
        self.connected = None;
        self.clean = clean || matches!(reason, DisconnectReason::Local);
        self.last = Some(reason.clone());
        self.settle_waiting();
        if self.stop.is_none() {
            self.lost = Some(Box::new(reason));
        }
    }

    // ---- timers

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let (connection, address) = match &self.phase {
            Phase::Up(connection) => (connection.poll_timeout(), None),
            Phase::Dialling(dialling) => match &dialling.stage {
                Stage::Tcp(_, addresses) => (None, addresses.until),
                _ => (None, None),
            },
            Phase::Ended => return None,
            _ => (None, None),
        };
        let ask = self.ask.as_ref().map(|ask| ask.deadline);
        let own = match &self.stop {
            None if ask.is_none() && self.connect_deadline.is_none() && address.is_none() => return connection,
            Some(stop) if self.outstanding.is_some() => {
                let timer = if stop.terminated { Timer::Terminate } else { Timer::Ask };
                Some((stop.deadline, timer))
            }
            _ => None,
        };
        earliest([
            (ask, Timer::Ask),
            (self.connect_deadline, Timer::Connect),
            (address, Timer::Address),
            (own.map(|(at, _)| at), own.map_or(Timer::Ask, |(_, timer)| timer)),
            (connection.map(|(at, _)| at), connection.map_or(Timer::Close, |(_, timer)| timer)),
        ])
    }

    /// A deadline may have come. Early or repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.connect_deadline.is_some_and(|at| at <= now) {
            if let Phase::Dialling(dialling) = &self.phase {
                let phase = dialling.phase();
                self.attempt_failed(now, DisconnectReason::ConnectTimeout(phase));
            }
        }
        self.handle_address_timeout(now);
        if self.ask.as_ref().is_some_and(|ask| ask.deadline <= now) {
            if let Phase::Up(connection) = &mut self.phase {
                connection.abort(now);
            }
            self.advance(now);
        }
        if let Phase::Up(connection) = &mut self.phase {
            connection.handle_timeout(now);
            self.advance(now);
        }
        if self.outstanding.is_some() && self.stop.as_ref().is_some_and(|stop| stop.deadline <= now) {
            self.abandon = true;
        }
    }

    fn handle_address_timeout(&mut self, now: Instant) {
        let Phase::Dialling(dialling) = &self.phase else { return };
        let Stage::Tcp(id, addresses) = &dialling.stage else { return };
        let id = *id;
        if addresses.until.is_some_and(|until| until <= now) {
            if let Some(mut addresses) = self.take_addresses(id) {
                self.outputs.push_back(Output::Cancel(id));
                addresses.failure = Some(DisconnectReason::ConnectTimeout(ConnectPhase::Tcp));
                self.try_addresses(now, addresses);
            }
        }
    }

    // ---- callbacks

    /// The callback under way has to be dropped, and [`Returned::Dropped`] reported.
    #[inline]
    #[must_use]
    pub fn call_abandoned(&self) -> bool {
        self.abandon
    }

    /// The next frame, if delivering one is what comes next: the hot half of [`poll_output`](Self::poll_output). It
    /// counts as a [`Call::Frame`].
    #[inline]
    pub fn poll_frame(&mut self) -> Option<Frame> {
        if self.outstanding.is_some() || self.hold || self.info_turn && !self.infos.is_empty() || !self.may_deliver() {
            return None;
        }
        let Phase::Up(connection) = &mut self.phase else { return None };
        let frame = connection.poll_frame()?;
        self.outstanding = Some(Outstanding::Frame);
        self.info_turn = true;
        Some(frame)
    }

    /// The next callback waits while what callbacks pushed is over its bound.
    #[inline]
    fn may_deliver(&self) -> bool {
        self.pushed < self.config.limits.send_queue() && self.ask.is_none() && self.stop.is_none()
    }

    /// What became of the callback under way.
    #[inline]
    pub fn called(&mut self, now: Instant, returned: Returned) {
        let outstanding = self.outstanding.take();
        self.abandon = false;
        match returned {
            Returned::Action(Ok(Action::Continue)) if outstanding != Some(Outstanding::Connect) => {}
            returned => self.called_with(now, outstanding, returned),
        }
        if let Phase::Up(connection) = &self.phase {
            if connection.has_frames() && self.ask.is_none() {
                return; // the next frame is all there is to do
            }
        }
        self.advance(now);
    }

    fn called_with(&mut self, now: Instant, outstanding: Option<Outstanding>, returned: Returned) {
        match returned {
            Returned::Init(Ok(())) => {
                self.phase = Phase::Down;
                if self.stop.is_none() {
                    self.begin_attempt(now);
                }
            }
            Returned::Init(Err(error)) => {
                self.phase = Phase::Ended;
                self.outputs.push_back(Output::Stopped(StopReason::Handler(error.into())));
            }
            Returned::Prepare(Ok(request)) => self.prepared(now, *request),
            Returned::Prepare(Err(error)) => self.attempt_failed(now, DisconnectReason::Prepare(error.into())),
            Returned::Action(Ok(action)) => self.act(now, action),
            Returned::Action(Err(error)) => {
                self.stop(now, CloseFrame::internal_error(), StopReason::Handler(error.into()));
            }
            Returned::Retry(Retry::Stop) => {
                let reason = StopReason::Disconnected(self.last.clone().unwrap_or(DisconnectReason::Local));
                self.clean = false; // asked for as an end with this reason
                self.settle_waiting();
                self.stop(now, CloseFrame::normal(), reason);
            }
            Returned::Retry(_) => self.settle_waiting(),
            Returned::Terminated => self.end(),
            Returned::Dropped if outstanding == Some(Outstanding::Terminate) => self.end(),
            Returned::Dropped => {}
            Returned::Panicked => {
                let deadline = now + self.config.close_timeout;
                self.stop = Some(Box::new(Stop { reason: StopReason::Panicked, deadline, terminated: true }));
                self.lost = None;
                self.infos.clear();
                self.disconnect(now, CloseFrame::internal_error(), DisconnectReason::Local);
            }
        }
        if outstanding == Some(Outstanding::Connect) && self.hold {
            self.hold = false;
            self.pump(now);
        }
    }

    fn act(&mut self, now: Instant, action: Action) {
        match action {
            Action::Continue => {}
            Action::Push(frame) => self.push(now, frame),
            Action::PushAll(frames) => frames.into_iter().for_each(|frame| self.push(now, frame)),
            Action::Disconnect(close) => self.disconnect(now, close.clone(), DisconnectReason::Requested(close)),
            Action::Stop => self.stop(now, CloseFrame::normal(), StopReason::Stopped),
            Action::StopWith(close) => self.stop(now, close, StopReason::Stopped),
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self, now: Instant) -> Option<Output<I, T>> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if let Phase::Up(connection) = &mut self.phase {
                if let Some(how) = connection.poll_shutdown() {
                    return Some(Output::Shutdown(how));
                }
            }
            if let Some(call) = self.next_call(now) {
                return Some(Output::Call(call));
            }
            if self.outputs.is_empty() {
                return None;
            }
        }
    }

    fn next_call(&mut self, now: Instant) -> Option<Call<I>> {
        if self.outstanding.is_some() {
            return None;
        }
        let may_deliver = self.may_deliver();
        let (outstanding, call) = match &mut self.phase {
            Phase::Ended => return None,
            Phase::New if self.attempts.number == 0 && self.stop.is_none() => (Outstanding::Init, Call::Init),
            Phase::New if self.stop.is_some() => {
                self.end(); // init did not succeed: no terminate
                return None;
            }
            Phase::Down if self.stop.is_some() => {
                let deadline = now + self.config.close_timeout;
                let stop = self.stop.as_mut()?;
                if stop.terminated {
                    self.end();
                    return None;
                }
                stop.terminated = true;
                stop.deadline = deadline;
                (Outstanding::Terminate, Call::Terminate(Box::new(stop.reason.clone())))
            }
            _ if self.stop.is_some() => return None,
            Phase::Down if self.lost.is_some() => (Outstanding::Disconnect, Call::Disconnect(self.lost.take()?)),
            Phase::Dialling(dialling) if matches!(dialling.stage, Stage::Prepare { called: false }) => {
                dialling.stage = Stage::Prepare { called: true };
                let elapsed = self.attempts.first.map_or(Default::default(), |at| now.saturating_duration_since(at));
                let attempt = Attempt { number: self.attempts.number, last: self.last.clone(), elapsed };
                (Outstanding::Prepare, Call::Prepare(Box::new((attempt, dialling.request.clone()))))
            }
            Phase::Up(_) if self.connected.is_some() => (Outstanding::Connect, Call::Connect(self.connected.take()?)),
            _ if may_deliver => return self.next_delivery(now),
            _ => return None,
        };
        self.outstanding = Some(outstanding);
        Some(call)
    }

    /// A frame or an info, in turns.
    fn next_delivery(&mut self, now: Instant) -> Option<Call<I>> {
        if let Some(frame) = self.poll_frame() {
            return Some(Call::Frame(frame));
        }
        if let Some(info) = self.infos.pop_front() {
            self.info_turn = false;
            self.outstanding = Some(Outstanding::Info);
            return Some(Call::Info(info));
        }
        if matches!(self.phase, Phase::Down) && self.unreachable {
            let reason = StopReason::Disconnected(self.last.clone().unwrap_or(DisconnectReason::Local));
            self.stop(now, CloseFrame::normal(), reason);
            return self.next_call(now);
        }
        None
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.infos.clear();
        self.settle_waiting();
        if let Some(stop) = self.stop.take() {
            self.outputs.push_back(Output::Stopped(stop.reason));
        }
    }

    // ---- out

    /// What to write next.
    #[inline]
    #[must_use]
    pub fn transmit(&self) -> Option<Transmit<'_>> {
        match &self.phase {
            Phase::Up(connection) => Some(connection.transmit()),
            _ => None,
        }
    }

    /// Bytes that wait to be written.
    #[inline]
    #[must_use]
    pub fn queued(&self) -> usize {
        match &self.phase {
            Phase::Up(connection) => connection.queued(),
            _ => 0,
        }
    }

    /// Whether anybody waits to hear that the output was flushed.
    #[inline]
    #[must_use]
    pub fn awaits_flush(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Whether to read; see [`Connection::wants_input`].
    #[inline]
    #[must_use]
    pub fn wants_input(&self) -> bool {
        matches!(&self.phase, Phase::Up(connection) if connection.wants_input())
    }

    /// How many bytes the frame under way still lacks.
    #[inline]
    #[must_use]
    pub fn read_hint(&self) -> usize {
        match &self.phase {
            Phase::Up(connection) => connection.read_hint(),
            _ => 0,
        }
    }

    /// See [`Connection::set_copy_small`].
    pub fn set_copy_small(&mut self, on: bool) {
        if let Phase::Up(connection) = &mut self.phase {
            connection.set_copy_small(on);
        }
    }
}

/// Why a connection ended that nobody here asked to end.
fn reason(closed: Closed) -> DisconnectReason {
    match closed.error {
        None => DisconnectReason::Remote(closed.close),
        Some(ConnectionError::Protocol(error)) => DisconnectReason::Protocol(error),
        Some(ConnectionError::Rejected(rejected)) => DisconnectReason::Rejected(Arc::new(*rejected)),
        Some(ConnectionError::Refused) => DisconnectReason::Local,
        Some(ConnectionError::HandshakeTimeout) => DisconnectReason::ConnectTimeout(ConnectPhase::Upgrade),
        Some(ConnectionError::Eof) => DisconnectReason::Eof,
        Some(ConnectionError::Network(error)) => DisconnectReason::Tcp(error),
    }
}

impl<I, T> fmt::Debug for Session<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("state", &self.state())
            .field("timeout", &self.poll_timeout())
            .finish_non_exhaustive()
    }
}
