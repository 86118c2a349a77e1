//! The life of one client around its successive connections: attempts and their one deadline, sends that wait while
//! connecting, the order of callbacks, and the end. Sans-IO, like the connection it wraps.
//!
//! ```text
//!        init            attempt                transport           handshake
//!  New ─────────▶ Down ───────────▶ Dialling ─────────────▶ Up: Upgrading ─────▶ Greeting ─────▶ Open
//!                  ▲                    │                        │    handle_connect│              │
//!                  │ handle_disconnect  │                        │                  ▼   disconnect ▼
//!                  └────────────────────┴────────────────────────┴──────────────── Asked ◀─────────┘
//!
//!  An accepted connection is there from the start: New ─▶ Up once init has run; Down is its end.
//!  from anywhere: stop, an error, a panic ─▶ the connection is closed ─▶ terminate ─▶ Ended
//! ```

mod calls;
mod dial;
mod fed;
mod options;
mod outbox;
mod retry;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use core::net::SocketAddr;
use http::StatusCode;
use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};

pub(crate) use calls::Upcoming;
pub use calls::{Call, ClientState, Command, Counters, Output, Returned, TimerId};
pub use dial::DialId;
use dial::{Addresses, Dialling, Step};
pub(crate) use fed::Fed;
pub use options::{BuildError, ClientOptions};
pub use outbox::cost;
pub(crate) use outbox::{Losses, QUEUE_KEPT, cost_chunk, cost_prepared, cost_ref};
use outbox::{Outbox, Source};
use retry::{Backoff, retry_after};
pub use retry::{Jitter, Reconnect};

use crate::codec::{Chunk, CloseFrame, Frame, FrameRef, Lent, Transmit};
use crate::connection::{Closed, Config, Connection, Event, Outgoing, Rtt, Shutdown, State, Timer, deadline, earliest};
use crate::error::{ConnectPhase, DisconnectReason, NetworkError, SendError, StopReason};
use crate::handler::{Action, Attempt, Connected, Retry};
use crate::handshake::{Acceptance, ClientRequest, Negotiated, Rejection};
use crate::sparse::Sparse;
use crate::transport::{TcpOptions, TlsError, TlsTarget, TransportFacts};
use crate::{Role, pool};

/// A client's life, for any runtime.
///
/// Feed it what happens, then poll [`poll_output`](Self::poll_output) until `None`. `I` is the handler's info type,
/// `T` a ticket that is handed back when a waiting send is settled.
pub struct Session<I, T> {
    /// `None`: it never dials, the transport was there from the start.
    dial: Option<Box<Dial>>,
    config: Arc<Config>,
    phase: Phase,
    outstanding: Option<Outstanding>,
    /// The callback under way has to be dropped.
    abandon: bool,
    /// `None` for a client that has had none.
    infos: Option<Box<Infos<I>>>,
    /// The info's turn: infos and frames alternate.
    info_turn: bool,
    /// `handle_disconnect` is to be called, with the last reason.
    lost: bool,
    outbox: Outbox<T>,
    outputs: Sparse<Output<I, T>>,
    /// What a handler that leaves it to the policy gets.
    then: Then,
    stop: Option<Box<Stop>>,
    last: Option<Box<DisconnectReason>>,
    /// The last connection ended by `disconnect`, or by both Closes with 1000 or 1001.
    clean: bool,
    /// A client that has a name lives on though no handle is left.
    named: bool,
    unreachable: bool,
    frames_received: u64,
}

struct Infos<I> {
    /// So many were delivered or cancelled since the handles were last told.
    released: usize,
    due: VecDeque<I>,
    delayed: BTreeMap<(Instant, TimerId), I>,
}

impl<I> Infos<I> {
    fn next(&mut self) -> Option<I> {
        let info = self.due.pop_front()?;
        self.released += 1;
        Some(info)
    }
}

impl<I> Default for Infos<I> {
    fn default() -> Self {
        Self { released: 0, due: VecDeque::new(), delayed: BTreeMap::new() }
    }
}

/// What a client has that dials.
struct Dial {
    target: Arc<Target>,
    random: Random,
    /// Attempts that have begun, and when the first did.
    attempts: u32,
    first_attempt: Option<Instant>,
    backoff: Backoff,
    /// When the last opening handshake was complete.
    up_since: Option<Instant>,
    next_id: u32,
}

impl Dial {
    fn next_id(&mut self) -> DialId {
        self.next_id = self.next_id.wrapping_add(1);
        DialId(self.next_id)
    }
}

/// What to dial, and how: what is kept of a client's options. Clients that are alike [share it](pool::target).
#[derive(PartialEq, Eq)]
pub(crate) struct Target {
    request: ClientRequest,
    connect_timeout: Duration,
    reconnect: Option<Box<Reconnect>>,
    /// `None`: the defaults.
    tcp: Option<Box<TcpOptions>>,
}

impl Target {
    pub(crate) fn new(
        request: ClientRequest,
        connect_timeout: Duration,
        reconnect: Option<Reconnect>,
        tcp: TcpOptions,
    ) -> Self {
        let tcp = Some(tcp).filter(|tcp| *tcp != TcpOptions::default()).map(Box::new);
        Self { request, connect_timeout, reconnect: reconnect.map(Box::new), tcp }
    }
}

/// Where nonces, masking keys and the jitter of retries come from. Drawn from once or twice a connection: a generator that
/// was kept would keep its buffer. Its seed is good for one draw, which begins with the next.
struct Random([u8; 32]);

impl Random {
    fn draw<R>(&mut self, draw: impl FnOnce(&mut ChaCha12Rng) -> R) -> R {
        let mut generator = ChaCha12Rng::from_seed(self.0);
        generator.fill_bytes(&mut self.0);
        draw(&mut generator)
    }
}

#[expect(clippy::large_enum_variant, reason = "one a client, and the connection is what the hot path reads")]
enum Phase {
    /// `init` has not run. With the connection, where there is one already.
    New(Option<Box<Accepted>>),
    /// Disconnected. The next attempt, if one is to come, begins then.
    Down(Option<Instant>),
    Dialling(Box<Dialling>),
    Up(Up),
    Ended,
}

/// Server: a connection that begins once `init` has run.
struct Accepted {
    opening: Opening,
    facts: TransportFacts,
}

#[expect(clippy::large_enum_variant, reason = "boxed as a whole")]
enum Opening {
    /// Its request waits for this reply.
    Asked(Connection, Acceptance),
    /// Another HTTP server has replied. It begins, or is closed, by this time.
    Upgraded { agreed: Negotiated, seed: [u8; 32], deadline: Instant },
}

/// A transport is there. Whether the connection over it still takes anything, the connection itself says.
struct Up {
    connection: Connection,
    stage: Stage,
}

enum Stage {
    /// The upgrade request is out.
    Upgrading(Box<TransportFacts>),
    /// The handshake is complete: `handle_connect` is to be called with this, or is running (`None`).
    Greeting(Option<Box<Connected>>),
    Open,
    /// A close was asked for, and goes out behind what was accepted before it.
    Asked(Box<Ask>),
}

struct Ask {
    /// The reason that `handle_disconnect` is to see.
    reason: DisconnectReason,
    deadline: Instant,
    then: Then,
    /// `handle_connect` still runs: what it pushes goes before what waited for it, and that before the Close.
    greeting: bool,
}

/// What follows a connection or an attempt, unless `handle_disconnect` decides otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// What the options say.
    Policy,
    /// An attempt at once: a new connection was asked for.
    Dial,
    /// Nothing, whatever `handle_disconnect` says: a disconnect was asked for of which its reason does not tell.
    Stay,
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

/// The end, decided and not reached.
struct Stop {
    reason: StopReason,
    /// A callback still running then is dropped.
    deadline: Instant,
    terminated: bool,
}

/// What becomes of a frame that is sent now: the one answer for sends, pushes and handles.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outlet {
    Disconnected,
    /// It waits for a connection, or for `handle_connect` to return.
    Waiting,
    Open,
    Closing,
    Stopped,
}

impl<I, T: PartialEq> Session<I, T> {
    /// A client that has done nothing yet: the first output is [`Call::Init`].
    ///
    /// `seed` has to be unpredictable: nonces and masking keys come from it.
    #[must_use]
    pub fn new(options: Arc<ClientOptions>, seed: [u8; 32]) -> Self {
        let options = Arc::unwrap_or_clone(options);
        let ClientOptions { request, name, connect_timeout, reconnect, tcp, connection } = options;
        let dial = Dial {
            target: pool::target(Target::new(request, connect_timeout, reconnect, tcp)),
            random: Random(seed),
            attempts: 0,
            first_attempt: None,
            backoff: Backoff::default(),
            up_since: None,
            next_id: 0,
        };
        let mut session = Self::with(Phase::New(None), Some(Box::new(dial)), pool::config(connection));
        session.named = name.is_some();
        session
    }

    /// The life of one connection that a server accepts: `init`, the reply, `handle_connect` and so on. It never dials;
    /// when the connection is lost and `handle_disconnect` has run, it ends. `connection` has a request that waits for
    /// an answer, to which `reply` has to fit.
    #[must_use]
    pub fn accepted(connection: Connection, reply: Acceptance, facts: TransportFacts, config: Arc<Config>) -> Self {
        Self::opening(Opening::Asked(connection, reply), facts, config)
    }

    /// The same for a stream whose opening handshake another HTTP server has done: it begins once `init` has run, which is
    /// bounded as if the request waited for it. `seed` has to be unpredictable and fresh.
    #[must_use]
    pub fn upgraded(
        now: Instant,
        agreed: Negotiated,
        facts: TransportFacts,
        config: Arc<Config>,
        seed: [u8; 32],
    ) -> Self {
        let deadline = deadline(now, config.decision_timeout);
        Self::opening(Opening::Upgraded { agreed, seed, deadline }, facts, config)
    }

    fn opening(opening: Opening, facts: TransportFacts, config: Arc<Config>) -> Self {
        Self::with(Phase::New(Some(Box::new(Accepted { opening, facts }))), None, config)
    }

    fn with(phase: Phase, dial: Option<Box<Dial>>, config: Arc<Config>) -> Self {
        Self {
            dial,
            config,
            phase,
            outstanding: None,
            abandon: false,
            infos: None,
            info_turn: false,
            lost: false,
            outbox: Outbox::new(),
            outputs: Sparse::new(),
            then: Then::Policy,
            stop: None,
            last: None,
            clean: false,
            named: false,
            unreachable: false,
            frames_received: 0,
        }
    }

    /// The client's state.
    #[must_use]
    pub fn state(&self) -> ClientState {
        match &self.phase {
            Phase::New(_) | Phase::Down(_) => ClientState::Disconnected,
            Phase::Dialling(_) => ClientState::Connecting,
            Phase::Up(Up { stage: Stage::Upgrading(_), .. }) => ClientState::Connecting,
            Phase::Up(_) => ClientState::Connected,
            Phase::Ended => ClientState::Stopped,
        }
    }

    fn outlet(&self) -> Outlet {
        match &self.phase {
            Phase::Ended => Outlet::Stopped,
            _ if self.stop.is_some() => Outlet::Closing,
            Phase::New(_) | Phase::Down(_) => Outlet::Disconnected,
            Phase::Dialling(_) => Outlet::Waiting,
            Phase::Up(up) => match (up.connection.state(), &up.stage) {
                (State::Closing | State::Closed, _) | (_, Stage::Asked(_)) => Outlet::Closing,
                (State::Connecting, _) | (_, Stage::Upgrading(_) | Stage::Greeting(_)) => Outlet::Waiting,
                (State::Open, Stage::Open) => Outlet::Open,
            },
        }
    }

    /// Whether sends are refused because a Close was asked for, sent or received.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.outlet() == Outlet::Closing
    }

    /// Whether the last connection ended as it should: by `disconnect`, or by both Closes with 1000 or 1001.
    #[must_use]
    pub fn ended_cleanly(&self) -> bool {
        self.clean
    }

    // ---- commands

    /// Whether this is a server's connection: it never dials.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.dial.is_none()
    }

    /// For the transports that it asks for.
    pub(crate) fn tcp(&self) -> TcpOptions {
        self.dial.as_ref().and_then(|dial| dial.target.tcp.as_deref().cloned()).unwrap_or_default()
    }

    /// When the next attempt begins, while one is to come.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Down(at) => at,
            _ => None,
        }
    }

    /// Something that another task wants.
    pub fn command(&mut self, now: Instant, command: Command<I, T>) {
        match command {
            Command::Send { frame, ticket, own } => self.send(now, frame, ticket, own),
            Command::SendPrepared { frame, from, skips } => {
                if let Some(unseen) = skips {
                    self.outbox.skip(from, unseen);
                }
                if self.refusal(false).is_none() {
                    self.outbox.send_prepared(self.phase.connection_mut(), now, frame, from);
                    self.pump(now);
                } else {
                    self.outbox.drop_prepared(&frame);
                }
            }
            Command::Skip(broadcast) => self.outbox.skip(broadcast, 0),
            Command::SendChunk { message, chunk, ticket, own } => {
                if self.refusal(own).is_none() {
                    self.outbox.send_chunk(message, chunk, ticket, own);
                    self.pump(now);
                } else {
                    self.outbox.drop_chunk(&chunk, ticket, false, &self.last_reason());
                }
            }
            Command::Abandon(message) => {
                // Where a Close was asked for already, that is what follows.
                if self.outbox.abandon(message) && self.outlet() == Outlet::Open {
                    self.disconnect(now, CloseFrame::internal_error(), DisconnectReason::Abandoned, false);
                }
                self.pump(now);
            }
            Command::Flush { ticket, own } => {
                self.outbox.flush(self.phase.connection(), ticket, own, &self.last_reason());
                self.pump(now);
                self.give_back_if_over(); // the end may wait for the very callback that waits for this
            }
            Command::FlushMessage { message, ticket } => {
                self.outbox.flush_message(message, ticket, &self.last_reason());
                self.pump(now);
                self.give_back_if_over();
            }
            Command::Forget(ticket) => self.outbox.forget(ticket),
            Command::Info(info) => self.infos.get_or_insert_default().due.push_back(info),
            Command::InfoAfter { id, delay, info } => {
                self.infos.get_or_insert_default().delayed.insert((deadline(now, delay), id), info);
            }
            Command::Cancel(id) => self.cancel(id),
            Command::Connect => self.connect(now),
            Command::Reconnect(_) if matches!(self.phase, Phase::Down(_)) => self.connect(now),
            Command::Reconnect(close) => self.disconnect(now, close, DisconnectReason::Local, true),
            Command::Disconnect(close) => self.disconnect(now, close, DisconnectReason::Local, false),
            Command::Stop(close) => self.stop(now, close, StopReason::Stopped),
        }
    }

    /// Frames that handles have sent, and nobody waits for: as a [`Command::Send`] each.
    pub(crate) fn feed(&mut self, now: Instant, fed: &mut Fed) {
        fed.drain(|next| match next {
            fed::Next::Copied(frame) if self.send_short(frame) => {}
            fed::Next::Copied(frame) => self.send(now, frame.to_frame(), None, false),
            fed::Next::Owned(frame) => self.send(now, frame, None, false),
        });
    }

    #[inline(always)]
    fn send_short(&mut self, frame: FrameRef<'_>) -> bool {
        let connection = if self.outlet() == Outlet::Open { self.phase.connection_mut() } else { None };
        connection.is_some_and(|connection| self.outbox.send_short(&mut connection.outgoing(), frame, Source::Handle))
    }

    /// Nobody can reach the client any more: disconnected, it ends.
    pub fn set_unreachable(&mut self, unreachable: bool) {
        self.unreachable = unreachable;
    }

    fn cancel(&mut self, id: TimerId) {
        let Some(infos) = &mut self.infos else { return };
        let before = infos.delayed.len();
        infos.delayed.retain(|&(_, other), _| other != id);
        infos.released += before - infos.delayed.len();
    }

    /// What has happened so far, in numbers.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let (sent, Losses { dropped, refused }) = (self.outbox.sent, self.outbox.losses());
        let attempts = self.dial.as_ref().map_or(0, |dial| dial.attempts.into());
        Counters { attempts, frames_received: self.frames_received, frames_sent: sent, dropped, refused }
    }

    /// What was dropped and refused so far, if that is more than at the last call.
    pub(crate) fn take_losses(&mut self) -> Option<Losses> {
        self.outbox.take_losses()
    }

    /// Round-trip times of the present connection; see [`Connection::rtt`].
    #[must_use]
    pub fn rtt(&self) -> Option<Rtt> {
        self.phase.connection().and_then(Connection::rtt)
    }

    /// Infos that left the queue since the last call.
    pub fn take_released_infos(&mut self) -> usize {
        self.infos.as_mut().map_or(0, |infos| mem::take(&mut infos.released))
    }

    /// The cost of handles' sends that left the queue since the last call: of frames, and of parts of messages.
    pub fn take_released(&mut self) -> (usize, usize) {
        self.outbox.take_released()
    }

    fn send(&mut self, now: Instant, frame: Frame, ticket: Option<T>, own: bool) {
        let source = if own { Source::Own } else { Source::Handle };
        match self.refusal(own) {
            None => self.enqueue(now, frame, ticket, source),
            Some(refusal) => self.outbox.refuse(refusal(frame), ticket, source),
        }
    }

    /// Why a send is refused, if it is. `own`: by the client's own handle, which cannot wait for a connection that its own
    /// callback may hold up.
    #[inline]
    fn refusal(&self, own: bool) -> Option<fn(Frame) -> SendError> {
        match self.outlet() {
            Outlet::Closing => Some(SendError::Closing),
            Outlet::Disconnected => Some(SendError::Disconnected),
            Outlet::Stopped => Some(SendError::Stopped),
            Outlet::Waiting if own && self.outstanding != Some(Outstanding::Connect) => Some(SendError::Disconnected),
            Outlet::Waiting | Outlet::Open => None,
        }
    }

    /// A callback's push: never refused for lack of room, always while there is no connection to take it.
    fn push(&mut self, now: Instant, frame: Frame) {
        let greets = matches!(&self.phase, Phase::Up(up) if up.is_greeting() && up.connection.state() == State::Open);
        if greets || self.outlet() == Outlet::Open {
            self.enqueue(now, frame, None, Source::Push);
        } else {
            self.outbox.count_refused();
        }
    }

    #[inline]
    fn enqueue(&mut self, now: Instant, frame: Frame, ticket: Option<T>, source: Source) {
        self.outbox.send(self.phase.connection_mut(), now, frame, ticket, source);
        self.pump(now);
    }

    /// Encodes what waits, as far as there is room.
    fn pump(&mut self, now: Instant) {
        if let Some(connection) = self.phase.connection_mut() {
            self.outbox.pump(connection, now);
        }
    }

    /// An attempt by hand.
    fn connect(&mut self, now: Instant) {
        if self.stop.is_some() || self.dial.is_none() {
            return;
        }
        if let Phase::Up(up) = &mut self.phase {
            // An end is under way: this is about what follows.
            match &mut up.stage {
                Stage::Asked(ask) => ask.then = Then::Dial,
                _ if up.connection.state() != State::Open => self.then = Then::Dial,
                _ => {}
            }
        }
        if matches!(self.phase, Phase::New(_)) {
            self.then = Then::Dial; // once init has returned
        }
        if !matches!(self.phase, Phase::Down(_)) {
            return;
        }
        if self.lost || self.outstanding == Some(Outstanding::Disconnect) {
            self.then = Then::Dial; // once handle_disconnect has returned
        } else {
            self.begin_attempt(now);
        }
    }

    fn disconnect(&mut self, now: Instant, close: CloseFrame, reason: DisconnectReason, redial: bool) {
        // With the reason that is given here, the policy stays down.
        let then = if redial { Then::Dial } else { Then::Policy };
        let late = if redial { Then::Dial } else { Then::Stay };
        match &mut self.phase {
            Phase::Ended => {}
            // Before the first attempt it is as between two: there is one to come.
            Phase::New(_) => self.then = late,
            Phase::Down(retry_at) => (*retry_at, self.then) = (None, late),
            Phase::Dialling(_) => {
                self.attempt_failed(now, reason);
                self.then = then;
            }
            Phase::Up(Up { stage: Stage::Upgrading(_), connection, .. }) => {
                connection.abort(now);
                self.attempt_failed(now, reason);
                self.then = then;
            }
            Phase::Up(up) => {
                up.connection.discard_input();
                // An end that is under way already keeps its reason; what follows it is still to be chosen.
                if let Stage::Asked(ask) = &mut up.stage {
                    ask.then = then;
                } else if up.connection.state() != State::Open {
                    self.then = late;
                } else {
                    let deadline = deadline(now, self.config.close_timeout);
                    let greeting = matches!(up.stage, Stage::Greeting(None));
                    if !greeting {
                        self.outbox.give_back_held(&reason);
                    }
                    self.outbox.close(close);
                    up.stage = Stage::Asked(Box::new(Ask { reason, deadline, then, greeting }));
                    self.pump(now);
                }
                self.advance(now);
            }
        }
    }

    fn stop(&mut self, now: Instant, close: CloseFrame, reason: StopReason) {
        if self.stop.is_some() || matches!(self.phase, Phase::Ended) {
            return;
        }
        let deadline = deadline(now, self.config.close_timeout);
        self.stop = Some(Box::new(Stop { reason, deadline, terminated: false }));
        self.lost = false;
        self.disconnect(now, close, DisconnectReason::Local, false);
    }

    // ---- the attempt

    fn begin_attempt(&mut self, now: Instant) {
        let Some(dial) = &mut self.dial else { return };
        self.then = Then::Policy;
        self.outbox.attempt();
        dial.attempts += 1;
        dial.first_attempt.get_or_insert(now);
        let deadline = deadline(now, dial.target.connect_timeout);
        self.phase = Phase::Dialling(Box::new(Dialling::new(dial.target.request.clone(), deadline)));
    }

    fn prepared(&mut self, now: Instant, request: ClientRequest) {
        let (Phase::Dialling(dialling), Some(dial)) = (&mut self.phase, &mut self.dial) else { return };
        let id = dial.next_id();
        dialling.request = request;
        if let Some(address) = dialling.literal() {
            return self.try_addresses(now, Addresses::new(vec![address]));
        }
        dialling.step = Step::Resolve(id);
        let (host, port) = (dialling.request.host().to_owned(), dialling.request.port());
        self.outputs.push_back(Output::Resolve(id, host, port));
    }

    /// The outcome of [`Output::Resolve`].
    pub fn resolved(&mut self, now: Instant, id: DialId, outcome: io::Result<Vec<SocketAddr>>) {
        if !matches!(&self.phase, Phase::Dialling(dialling) if matches!(dialling.step, Step::Resolve(at) if at == id)) {
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
        let (Phase::Dialling(dialling), Some(dial)) = (&mut self.phase, &mut self.dial) else { return };
        match addresses.next(now, dialling.deadline) {
            Some(address) => {
                let id = dial.next_id();
                dialling.step = Step::Tcp(id, addresses);
                self.outputs.push_back(Output::Dial(id, address));
            }
            None => {
                let failure = addresses.failure.unwrap_or(DisconnectReason::ConnectTimeout(ConnectPhase::Tcp));
                self.attempt_failed(now, failure);
            }
        }
    }

    /// Takes the addresses out of the step that `id` names: for the next try, or because this one has succeeded.
    fn take_addresses(&mut self, id: DialId) -> Option<Addresses> {
        let Phase::Dialling(dialling) = &mut self.phase else { return None };
        match mem::replace(&mut dialling.step, Step::Between) {
            Step::Tcp(at, addresses) if at == id => Some(addresses),
            other => {
                dialling.step = other;
                None
            }
        }
    }

    /// The outcome of [`Output::Dial`].
    pub fn dialled(&mut self, now: Instant, id: DialId, outcome: io::Result<TransportFacts>) {
        let Some(mut addresses) = self.take_addresses(id) else { return };
        let Phase::Dialling(dialling) = &mut self.phase else { return };
        match outcome {
            Err(error) => {
                addresses.failure = Some(DisconnectReason::Tcp(error.into()));
                self.try_addresses(now, addresses);
            }
            Ok(_) if dialling.request.is_secure() => {
                dialling.step = Step::Tls(id);
                self.outputs.push_back(Output::StartTls(id, TlsTarget::new(dialling.request.host())));
            }
            Ok(facts) => self.upgrade(facts),
        }
    }

    /// The outcome of [`Output::StartTls`].
    pub fn tls_done(&mut self, now: Instant, id: DialId, outcome: Result<TransportFacts, TlsError>) {
        if !matches!(&self.phase, Phase::Dialling(dialling) if matches!(dialling.step, Step::Tls(at) if at == id)) {
            return;
        }
        match outcome {
            Ok(facts) => self.upgrade(facts),
            Err(error) => self.attempt_failed(now, DisconnectReason::Tls(error)),
        }
    }

    /// A transport is there: the upgrade request goes out.
    fn upgrade(&mut self, facts: TransportFacts) {
        let (Phase::Dialling(dialling), Some(dial)) = (&self.phase, &mut self.dial) else { return };
        let mut seed = [0; 32];
        dial.random.draw(|random| random.fill_bytes(&mut seed));
        // The connection's own handshake timer has the deadline from here.
        let deadline = dialling.deadline;
        let connection = Connection::client(&dialling.request, self.config.clone(), seed, deadline);
        self.phase = Phase::Up(Up { connection, stage: Stage::Upgrading(Box::new(facts)) });
        self.outbox.hold();
    }

    /// The attempt is over without a connection.
    fn attempt_failed(&mut self, now: Instant, reason: DisconnectReason) {
        let mut reached = true; // a server, or not even meant to
        match mem::replace(&mut self.phase, Phase::Down(None)) {
            Phase::Dialling(dialling) => {
                reached = matches!(dialling.step, Step::Prepare { .. });
                if let Some(id) = dialling.id() {
                    self.outputs.push_back(Output::Cancel(id));
                }
                self.abandon |= self.outstanding == Some(Outstanding::Prepare);
            }
            Phase::Up(mut up) => {
                self.outputs.push_back(Output::Shutdown(up.connection.poll_shutdown().unwrap_or(Shutdown::Abort)));
            }
            other => {
                self.phase = other; // the attempt is over already
                return;
            }
        }
        self.clean = matches!(reason, DisconnectReason::Local);
        self.last = Some(Box::new(reason.clone()));
        let asked = matches!(reason, DisconnectReason::Local | DisconnectReason::Requested(_));
        let hopeless = self.reconnect().is_none() && self.counters().attempts == 1 && !reached && !asked;
        if self.stop.is_none() && hopeless {
            // There was never a server to talk to. Most likely the address is wrong, and whoever started the client is told.
            let deadline = deadline(now, self.config.close_timeout);
            self.stop = Some(Box::new(Stop { reason: StopReason::Disconnected(reason), deadline, terminated: false }));
        } else if self.stop.is_none() {
            self.lost = true; // what waits is given back once handle_disconnect has run
            return;
        }
        self.give_back();
    }

    /// Without a connection: everything that waits goes back.
    fn give_back(&mut self) {
        let error = if matches!(self.phase, Phase::Ended) { SendError::Stopped } else { SendError::Disconnected };
        let reason = self.last_reason();
        self.outbox.give_back(error, &reason);
        self.outbox.lose(&reason);
    }

    // ---- the connection

    /// Takes what has arrived; see [`Connection::handle_input`].
    #[inline]
    pub fn handle_input(&mut self, now: Instant, input: &mut BytesMut) {
        let Phase::Up(up) = &mut self.phase else { return input.clear() };
        up.connection.handle_input(now, input);
        if !up.connection.has_frames() || up.connection.has_news() {
            self.advance(now);
        }
    }

    /// The transport has taken `n` bytes; see [`Connection::handle_written`].
    #[inline]
    pub fn handle_written(&mut self, now: Instant, n: usize) {
        if let Phase::Up(up) = &mut self.phase {
            up.connection.handle_written(now, n);
            if up.connection.state() != State::Open {
                self.advance(now);
            }
            self.pump(now);
        }
    }

    /// See [`Connection::rest`].
    #[inline]
    pub(crate) fn rest(&mut self) {
        if let Phase::Up(up) = &mut self.phase {
            up.connection.rest();
        }
        self.outbox.rest();
        self.outputs.rest();
    }

    /// What the transport takes next has yet to be flushed.
    #[inline]
    pub(crate) fn set_unflushed(&mut self) {
        if let Phase::Up(up) = &mut self.phase {
            up.connection.set_unflushed();
        }
    }

    /// All that the transport has taken is with the operating system.
    #[inline]
    pub fn handle_flushed(&mut self, now: Instant) {
        if let Phase::Up(up) = &mut self.phase {
            up.connection.handle_flushed();
            self.outbox.handle_flushed(up.connection.written());
            if up.connection.state() != State::Open {
                self.advance(now);
            }
        }
    }

    /// The peer has ended its direction.
    pub fn handle_eof(&mut self, now: Instant) {
        if let Phase::Up(up) = &mut self.phase {
            up.connection.handle_eof(now);
            self.advance(now);
        }
    }

    /// The transport failed.
    pub fn handle_lost(&mut self, now: Instant, error: io::Error) {
        if let Phase::Up(up) = &mut self.phase {
            up.connection.handle_lost(now, NetworkError::from(error));
            self.advance(now);
        }
    }

    /// Takes the connection's events, other than frames, as far as the application is ready for them, and gives back
    /// at once what a connection that is over will not send.
    fn advance(&mut self, now: Instant) {
        self.give_back_if_over();
        while let Phase::Up(up) = &mut self.phase {
            let Up { connection, stage, .. } = up;
            if !connection.has_news() {
                let greeted = !matches!(stage, Stage::Greeting(Some(_)));
                let idle = self.outstanding.is_none() && greeted;
                // Of an attempt that fails no callback has seen anything.
                let ready = idle || self.stop.is_some() || matches!(stage, Stage::Asked(_) | Stage::Upgrading(_));
                if connection.has_frames() || !ready {
                    return;
                }
            }
            if connection.is_ending() && !connection.has_news() {
                self.outbox.pump_pushes(connection, now);
            }
            match connection.poll_event() {
                Some(Event::Open(negotiated)) => {
                    up.greet(*negotiated);
                    self.dial.iter_mut().for_each(|dial| dial.up_since = Some(now));
                }
                Some(Event::Closed(closed)) => self.connection_ended(now, *closed),
                Some(Event::Frame(_) | Event::Chunk(_) | Event::Request(_) | Event::Http(_)) => {} // none can come here
                None => return self.give_back_if_over(),
            }
        }
    }

    /// Nothing begins any more: not even a callback that waits for its own send may hold that up.
    fn give_back_if_over(&mut self) {
        let Phase::Up(Up { connection, stage, .. }) = &mut self.phase else { return };
        let over = matches!(connection.state(), State::Closing | State::Closed);
        if !over || self.outbox.is_settled() || matches!(stage, Stage::Upgrading(_)) {
            return;
        }
        let reason = match (&*stage, connection.outcome()) {
            (Stage::Asked(ask), _) => ask.reason.clone(),
            (_, Some(closed)) => closed.reason(),
            (_, None) => DisconnectReason::Local,
        };
        self.outbox.give_back(SendError::Closing, &reason);
        if connection.state() == State::Closed {
            self.outbox.lose(&reason);
        }
    }

    fn connection_ended(&mut self, now: Instant, closed: Closed) {
        let Phase::Up(up) = &mut self.phase else { return };
        let reason = match &up.stage {
            Stage::Upgrading(_) => return self.attempt_failed(now, closed.reason()),
            Stage::Asked(ask) => {
                self.then = ask.then;
                ask.reason.clone()
            }
            Stage::Greeting(_) | Stage::Open => closed.reason(),
        };
        if let Some(dial) = &mut self.dial {
            let uptime = dial.up_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            match &dial.target.reconnect {
                Some(reconnect) => dial.backoff.lived(reconnect, uptime),
                None => dial.backoff.lived(&Reconnect::default(), uptime),
            }
        }
        if let Some(how) = up.connection.poll_shutdown() {
            self.outputs.push_back(Output::Shutdown(how));
        }
        let normal = closed.close.as_ref().is_some_and(|close| matches!(u16::from(close.code()), 1000 | 1001));
        self.clean = closed.was_clean && normal || matches!(reason, DisconnectReason::Local);
        self.phase = Phase::Down(None);
        self.last = Some(Box::new(reason));
        self.give_back();
        self.lost = self.stop.is_none();
    }

    // ---- timers

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let (connection, other) = match &self.phase {
            Phase::Ended => return None,
            Phase::New(accepted) => (accepted.as_ref().and_then(|accepted| accepted.opening.poll_timeout()), None),
            Phase::Down(retry_at) => (retry_at.map(|at| (at, Timer::Retry)), None),
            Phase::Dialling(dialling) => {
                let address = dialling.address_deadline().map(|at| (at, Timer::Address));
                (Some((dialling.deadline, Timer::Connect)), address)
            }
            Phase::Up(up) => {
                let ask = match &up.stage {
                    Stage::Asked(ask) => Some((ask.deadline, Timer::Ask)),
                    _ => None,
                };
                (up.connection.poll_timeout(), ask)
            }
        };
        let callback = match &self.stop {
            Some(stop) if self.outstanding.is_some() => {
                Some((stop.deadline, if stop.terminated { Timer::Terminate } else { Timer::Ask }))
            }
            _ => None,
        };
        let delayed = self.infos.as_ref().and_then(|infos| infos.delayed.first_key_value());
        let info = delayed.map(|(&(at, _), _)| (at, Timer::Info));
        earliest([connection, other, callback, info])
    }

    /// A deadline may have come. Early or repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(infos) = &mut self.infos {
            while let Some(due) = infos.delayed.first_entry().filter(|due| due.key().0 <= now) {
                infos.due.push_back(due.remove());
            }
        }
        match &mut self.phase {
            Phase::New(Some(accepted)) if accepted.opening.poll_timeout().is_some_and(|(at, _)| at <= now) => {
                let reason = DisconnectReason::ConnectTimeout(ConnectPhase::Prepare);
                self.refuse_new(now, Some(StopReason::Disconnected(reason)));
                self.abandon = self.outstanding.is_some();
            }
            Phase::Down(Some(at)) if *at <= now => self.begin_attempt(now),
            Phase::Dialling(dialling) if dialling.deadline <= now => {
                let phase = dialling.phase();
                self.attempt_failed(now, DisconnectReason::ConnectTimeout(phase));
            }
            Phase::Dialling(dialling) if dialling.address_deadline().is_some_and(|at| at <= now) => {
                if let Some(id) = dialling.id() {
                    self.give_up_address(now, id);
                }
            }
            Phase::Up(Up { connection, stage, .. }) => {
                if matches!(&*stage, Stage::Asked(ask) if ask.deadline <= now) {
                    connection.abort(now);
                }
                if connection.is_ending() && connection.poll_timeout().is_some_and(|(at, _)| at <= now) {
                    self.outbox.pump_pushes(connection, now);
                }
                connection.handle_timeout(now);
                self.advance(now);
            }
            _ => {}
        }
        self.abandon |= self.outstanding.is_some() && self.stop.as_ref().is_some_and(|stop| stop.deadline <= now);
    }

    fn give_up_address(&mut self, now: Instant, id: DialId) {
        if let Some(mut addresses) = self.take_addresses(id) {
            self.outputs.push_back(Output::Cancel(id));
            addresses.failure = Some(DisconnectReason::ConnectTimeout(ConnectPhase::Tcp));
            self.try_addresses(now, addresses);
        }
    }

    // ---- callbacks

    /// The callback under way has to be dropped, and [`Returned::Dropped`] reported.
    #[inline]
    #[must_use]
    pub fn call_abandoned(&self) -> bool {
        self.abandon
    }

    /// The next message or pong, if delivering one is what comes next: the hot half of [`poll_output`](Self::poll_output). It
    /// counts as a [`Call::Frame`].
    ///
    /// Inlined into who calls the handler, as [`Decoder::poll`](crate::codec::Decoder::poll) is.
    #[inline(always)]
    pub fn poll_message(&mut self) -> Option<Frame> {
        let message = self.deliverable().0?.poll_message()?;
        self.delivered();
        Some(message)
    }

    /// The same message, lent. It stays the next until [`took_lent`](Self::took_lent).
    #[inline(always)]
    pub(crate) fn lend_message(&mut self) -> Option<LentMessage<'_, T>> {
        let (deliverable, outbox) = self.deliverable();
        let (lent, outgoing) = deliverable?.lend_message()?;
        Some(LentMessage { lent, outgoing, outbox })
    }

    /// The message that was lent is dealt with. It counts as delivered, and [`called`](Self::called) is to follow.
    #[inline(always)]
    pub(crate) fn took_lent(&mut self) {
        if let Phase::Up(up) = &mut self.phase {
            up.connection.skip();
            self.delivered();
        }
    }

    /// A frame is with its callback.
    #[inline(always)]
    fn delivered(&mut self) {
        self.frames_received += 1;
        self.outstanding = Some(Outstanding::Frame);
        self.info_turn = true;
    }

    /// The connection, if it is its turn to have something delivered; and what is sent goes through.
    #[inline(always)]
    fn deliverable(&mut self) -> (Option<&mut Connection>, &mut Outbox<T>) {
        let waits = self.outstanding.is_some() || self.info_turn && self.has_info() || !self.may_deliver();
        let connection = match &mut self.phase {
            Phase::Up(Up { connection, stage: Stage::Open, .. }) if !waits => Some(connection),
            _ => None,
        };
        (connection, &mut self.outbox)
    }

    /// As [`poll_message`](Self::poll_message), where a part of a message comes next.
    fn poll_chunk(&mut self) -> Option<Chunk> {
        let chunk = self.deliverable().0?.poll_chunk()?;
        self.frames_received += u64::from(chunk.last);
        self.outstanding = Some(Outstanding::Frame);
        self.info_turn = true;
        Some(chunk)
    }

    /// The next callback waits while what callbacks sent is over its bound.
    #[inline]
    fn may_deliver(&self) -> bool {
        self.outbox.pushed() < self.config.limits.send_queue() && self.stop.is_none()
    }

    /// The callback under way wants nothing done: [`called`](Self::called) with `Action::Continue`, for the hot path.
    #[inline]
    pub fn continued(&mut self, now: Instant) {
        if self.outstanding != Some(Outstanding::Frame) {
            return self.called(now, Returned::Action(Ok(Action::Continue)));
        }
        self.outstanding = None;
        self.abandon = false;
        self.after_call(now);
    }

    /// What became of the callback under way.
    pub fn called(&mut self, now: Instant, returned: Returned) {
        let outstanding = self.outstanding.take();
        self.abandon = false;
        match returned {
            Returned::Init(outcome) => {
                self.initialised(now, outcome.map_err(|error| StopReason::Handler(error.into())));
            }
            Returned::Prepare(Ok(request)) => self.prepared(now, *request),
            Returned::Prepare(Err(error)) => self.attempt_failed(now, DisconnectReason::Prepare(error.into())),
            Returned::Action(Ok(action)) => self.act(now, action),
            Returned::Action(Err(error)) => {
                self.stop(now, CloseFrame::internal_error(), StopReason::Handler(error.into()));
            }
            Returned::Retry(retry) => {
                self.give_back();
                self.retry(now, retry);
            }
            Returned::Terminated => self.end(),
            Returned::Dropped => match outstanding {
                Some(Outstanding::Terminate) => self.end(),
                Some(Outstanding::Disconnect) => self.give_back(),
                Some(Outstanding::Init) => {
                    // It was stuck, and the end was asked for. It did not succeed: there is nothing to terminate.
                    self.refuse_new(now, None);
                    self.stop.iter_mut().for_each(|stop| stop.terminated = true);
                }
                _ => {}
            },
            Returned::Panicked => {
                let deadline = deadline(now, self.config.close_timeout);
                self.stop = Some(Box::new(Stop { reason: StopReason::Panicked, deadline, terminated: true }));
                self.lost = false;
                self.infos.iter_mut().for_each(|infos| infos.due.clear());
                if !self.refuse_new(now, None) {
                    self.disconnect(now, CloseFrame::internal_error(), DisconnectReason::Local, false);
                }
            }
        }
        if outstanding == Some(Outstanding::Connect) {
            self.greeted(now);
        }
        self.after_call(now);
    }

    fn initialised(&mut self, now: Instant, outcome: Result<(), StopReason>) {
        let Phase::New(accepted) = &mut self.phase else { return };
        let accepted = accepted.take();
        let then = mem::replace(&mut self.then, Then::Policy);
        let goes_on = self.stop.is_none() && then != Then::Stay;
        match (accepted, outcome) {
            (Some(accepted), Ok(())) if goes_on => self.accept(now, *accepted),
            (Some(accepted), outcome) => self.refuse(now, *accepted, outcome.err()),
            (None, Ok(())) => {
                self.phase = Phase::Down(None);
                if goes_on {
                    self.begin_attempt(now);
                }
                self.clean = then == Then::Stay;
            }
            (None, Err(reason)) => {
                self.phase = Phase::Ended;
                self.outputs.push_back(Output::Stopped(reason));
            }
        }
    }

    /// Server: the reply goes out, and the connection is open.
    fn accept(&mut self, now: Instant, accepted: Accepted) {
        let Accepted { opening, facts } = accepted;
        let connection = match opening {
            Opening::Asked(mut connection, reply) => {
                if connection.accept(now, reply).is_err() {
                    connection.abort(now); // a reply that does not fit: whoever made this has not checked it
                }
                connection
            }
            Opening::Upgraded { agreed, seed, .. } => {
                Connection::upgraded(now, Role::Server, agreed, self.config.clone(), seed)
            }
        };
        self.phase = Phase::Up(Up { connection, stage: Stage::Upgrading(Box::new(facts)) });
        self.outbox.hold();
    }

    /// Server: as [`refuse`](Self::refuse), if `init` has not returned.
    fn refuse_new(&mut self, now: Instant, reason: Option<StopReason>) -> bool {
        let Phase::New(accepted) = &mut self.phase else { return false };
        let Some(accepted) = accepted.take() else { return false };
        self.refuse(now, *accepted, reason);
        true
    }

    /// Server: `init` has failed, or taken too long, for this reason; or the end was asked for meanwhile. The peer is
    /// told, then all is over.
    fn refuse(&mut self, now: Instant, accepted: Accepted, reason: Option<StopReason>) {
        let Accepted { opening, facts } = accepted;
        let ends = self.stop.as_ref().is_some_and(|stop| matches!(stop.reason, StopReason::Stopped));
        let connection = match opening {
            Opening::Asked(mut connection, _) => {
                connection.handle_timeout(now);
                let status = if ends { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR };
                if let Ok(rejection) = Rejection::new(status) {
                    let _ = connection.reject(now, rejection); // answered already, where it was too late
                }
                connection
            }
            // Too late for a status: a Close has to say it.
            Opening::Upgraded { agreed, seed, .. } => {
                let mut connection = Connection::upgraded(now, Role::Server, agreed, self.config.clone(), seed);
                let _open = connection.poll_event(); // nobody is to be told
                connection.close(now, &if ends { CloseFrame::going_away() } else { CloseFrame::internal_error() });
                connection
            }
        };
        if let Some(reason) = reason {
            let deadline = deadline(now, self.config.close_timeout);
            self.stop = Some(Box::new(Stop { reason, deadline, terminated: true }));
        }
        self.phase = Phase::Up(Up { connection, stage: Stage::Upgrading(Box::new(facts)) });
    }

    #[inline]
    fn after_call(&mut self, now: Instant) {
        match &self.phase {
            Phase::Up(up) if up.connection.has_frames() && self.stop.is_none() => {} // they are all there is to do
            _ => self.advance(now),
        }
    }

    /// What `handle_disconnect` wants.
    fn retry(&mut self, now: Instant, retry: Retry) {
        if self.stop.is_some() {
            return;
        }
        let reason = self.last_reason();
        match (retry, self.reconnect()) {
            (Retry::Stop, _) => {
                self.clean = false; // asked for as an end with this reason
                self.stop(now, CloseFrame::normal(), StopReason::Disconnected(reason));
            }
            _ if self.dial.is_none() => self.stop(now, CloseFrame::normal(), StopReason::Disconnected(reason)),
            _ if self.then == Then::Stay => {}
            (Retry::Policy, _) if self.then == Then::Dial => return self.begin_attempt(now),
            (Retry::After(delay), _) => {
                self.dial.iter_mut().for_each(|dial| dial.backoff.count());
                self.retry_in(now, delay);
            }
            (Retry::Reconnect, _) => self.retry_later(now, &reason),
            (Retry::Policy, Some(reconnect)) if reason.is_transient() => {
                if self.dial.as_ref().is_some_and(|dial| dial.backoff.is_exhausted(reconnect)) {
                    self.clean = false;
                    self.stop(now, CloseFrame::normal(), StopReason::MaxRetriesExceeded(reason));
                } else {
                    self.retry_later(now, &reason);
                }
            }
            (Retry::Policy | Retry::Stay, _) => {}
        }
        self.then = Then::Policy;
    }

    fn reconnect(&self) -> Option<&Reconnect> {
        self.dial.as_ref().and_then(|dial| dial.target.reconnect.as_deref())
    }

    fn retry_later(&mut self, now: Instant, reason: &DisconnectReason) {
        let reconnect = self.reconnect().cloned().unwrap_or_default();
        let floor = match reason {
            DisconnectReason::Rejected(rejected) => retry_after(&rejected.headers),
            _ => Duration::ZERO,
        };
        let Some(dial) = &mut self.dial else { return };
        let delay = dial.random.draw(|random| dial.backoff.next(&reconnect, random)).max(floor);
        self.retry_in(now, delay);
    }

    fn retry_in(&mut self, now: Instant, delay: Duration) {
        if let Phase::Down(retry_at) = &mut self.phase {
            *retry_at = Some(deadline(now, delay));
        }
    }

    /// `handle_connect` has returned: what waited for it may leave.
    fn greeted(&mut self, now: Instant) {
        if let Phase::Up(up) = &mut self.phase {
            if up.is_greeting() {
                match &mut up.stage {
                    Stage::Asked(ask) => ask.greeting = false,
                    stage => *stage = Stage::Open,
                }
                self.outbox.let_go();
                self.pump(now);
            }
        }
    }

    fn act(&mut self, now: Instant, action: Action) {
        match action {
            Action::Continue => {}
            Action::Push(frame) => self.push(now, frame),
            Action::PushAll(frames) => frames.into_iter().for_each(|frame| self.push(now, frame)),
            Action::Disconnect(close) => {
                self.disconnect(now, close.clone(), DisconnectReason::Requested(close), false);
            }
            Action::Reconnect(_) if matches!(self.phase, Phase::Down(_)) => self.connect(now),
            Action::Reconnect(close) => {
                self.disconnect(now, close.clone(), DisconnectReason::Requested(close), true);
            }
            Action::Stop => self.stop(now, CloseFrame::normal(), StopReason::Stopped),
            Action::StopWith(close) => self.stop(now, close, StopReason::Stopped),
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self, now: Instant) -> Option<Output<I, T>> {
        match self.poll_upcoming(now)? {
            Upcoming::Output(output) => Some(output),
            Upcoming::Message => self.poll_message().map(|message| Output::Call(Call::Frame(message))),
        }
    }

    /// [`poll_output`](Self::poll_output), which leaves a message where it is.
    pub(crate) fn poll_upcoming(&mut self, now: Instant) -> Option<Upcoming<I, T>> {
        loop {
            if let Some((ticket, outcome)) = self.outbox.poll_settled() {
                return Some(Upcoming::Output(Output::Settle(ticket, outcome)));
            }
            if let Some(output) = self.outputs.pop_front() {
                return Some(Upcoming::Output(output));
            }
            if let Phase::Up(up) = &mut self.phase {
                if let Some(how) = up.connection.poll_shutdown() {
                    return Some(Upcoming::Output(Output::Shutdown(how)));
                }
            }
            if self.deliverable().0.is_some_and(|connection| connection.is_message_next()) {
                return Some(Upcoming::Message);
            }
            if let Some(call) = self.next_call(now) {
                return Some(Upcoming::Output(Output::Call(call)));
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
            Phase::New(_) if self.stop.is_none() => (Outstanding::Init, Call::Init),
            Phase::New(_) | Phase::Down(_) if self.stop.is_some() => return self.next_end(now),
            _ if self.stop.is_some() => return None,
            Phase::Down(_) if self.lost => {
                self.lost = false;
                (Outstanding::Disconnect, Call::Disconnect(Box::new(self.last_reason())))
            }
            Phase::Dialling(dialling) if matches!(dialling.step, Step::Prepare { called: false }) => {
                dialling.step = Step::Prepare { called: true };
                let dial = self.dial.as_ref()?;
                let elapsed = dial.first_attempt.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
                let attempt = Attempt { number: dial.attempts, last: self.last.as_deref().cloned(), elapsed };
                (Outstanding::Prepare, Call::Prepare(Box::new((attempt, dialling.request.clone()))))
            }
            Phase::Up(Up { stage: Stage::Greeting(connected), .. }) if connected.is_some() => {
                (Outstanding::Connect, Call::Connect(connected.take()?))
            }
            _ if may_deliver => return self.next_delivery(now),
            _ => return None,
        };
        self.outstanding = Some(outstanding);
        Some(call)
    }

    /// The end was decided and there is no connection any more.
    fn next_end(&mut self, now: Instant) -> Option<Call<I>> {
        let stop = self.stop.as_mut()?;
        if matches!(self.phase, Phase::New(Some(_))) {
            // Before init has even run: the peer is told all the same, and there is nothing to terminate.
            stop.terminated = true;
            self.refuse_new(now, None);
            return None;
        }
        if stop.terminated || matches!(self.phase, Phase::New(_)) {
            self.end(); // a callback panicked, or init did not succeed
            return None;
        }
        stop.terminated = true;
        stop.deadline = deadline(now, self.config.close_timeout);
        self.outstanding = Some(Outstanding::Terminate);
        Some(Call::Terminate(Box::new(stop.reason.clone())))
    }

    /// What is no [message](Self::poll_message): a ping or a part of a message, or an info, in turns.
    fn next_delivery(&mut self, now: Instant) -> Option<Call<I>> {
        if let Some(ping) = self.deliverable().0.and_then(Connection::poll_frame) {
            self.delivered();
            return Some(Call::Frame(ping));
        }
        if let Some(chunk) = self.poll_chunk() {
            return Some(Call::Chunk(Box::new(chunk)));
        }
        if let Some(info) = self.infos.as_mut().and_then(|infos| infos.next()) {
            self.info_turn = false;
            self.outstanding = Some(Outstanding::Info);
            return Some(Call::Info(info));
        }
        let waits = self.retry_at().is_some()
            || self.infos.as_ref().is_some_and(|infos| !infos.delayed.is_empty())
            || self.named;
        if matches!(self.phase, Phase::Down(_)) && self.unreachable && !waits {
            self.stop(now, CloseFrame::normal(), StopReason::Disconnected(self.last_reason()));
            return self.next_end(now);
        }
        None
    }

    #[inline]
    fn has_info(&self) -> bool {
        self.infos.as_ref().is_some_and(|infos| !infos.due.is_empty())
    }

    fn last_reason(&self) -> DisconnectReason {
        self.last.as_deref().cloned().unwrap_or(DisconnectReason::Local)
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.infos = None;
        self.give_back();
        if let Some(stop) = self.stop.take() {
            self.outputs.push_back(Output::Stopped(stop.reason));
        }
    }

    /// The client is dropped where it stands, its connection with it: what had not begun goes back. No output follows.
    pub fn abort(&mut self) -> impl Iterator<Item = (T, Result<(), SendError>)> + '_ {
        self.phase = Phase::Ended;
        self.outbox.give_back(SendError::Stopped, &DisconnectReason::Local);
        self.outbox.lose(&DisconnectReason::Local);
        std::iter::from_fn(|| self.outbox.poll_settled())
    }

    // ---- out

    /// The connection, for an application that goes on without a session.
    pub(crate) fn take_connection(&mut self) -> Option<Connection> {
        match mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Up(up) => Some(up.connection),
            _ => None,
        }
    }

    /// What to write next.
    #[inline]
    #[must_use]
    pub fn transmit(&self) -> Option<Transmit<'_>> {
        match &self.phase {
            Phase::Up(up) => Some(up.connection.transmit()),
            _ => None,
        }
    }

    /// Bytes that wait to be written.
    #[inline]
    #[must_use]
    pub fn queued(&self) -> usize {
        match &self.phase {
            Phase::Up(up) => up.connection.queued(),
            _ => 0,
        }
    }

    /// Whether to read; see [`Connection::wants_input`].
    #[inline]
    #[must_use]
    pub fn wants_input(&self) -> bool {
        matches!(&self.phase, Phase::Up(up) if up.connection.wants_input())
    }

    /// How many bytes the frame under way still lacks.
    #[inline]
    #[must_use]
    pub fn read_hint(&self) -> usize {
        match &self.phase {
            Phase::Up(up) => up.connection.read_hint(),
            _ => 0,
        }
    }

    /// Frames have been read that no callback has had.
    #[inline]
    pub(crate) fn has_frames(&self) -> bool {
        self.phase.connection().is_some_and(Connection::has_frames)
    }

    /// See [`Connection::set_copy_small`].
    pub fn set_copy_small(&mut self, on: bool) {
        if let Phase::Up(up) = &mut self.phase {
            up.connection.set_copy_small(on);
        }
    }
}

impl Phase {
    /// The connection, once its handshake is complete.
    fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Up(Up { stage: Stage::Upgrading(_), .. }) => None,
            Self::Up(up) => Some(&up.connection),
            _ => None,
        }
    }

    #[inline]
    fn connection_mut(&mut self) -> Option<&mut Connection> {
        match self {
            Self::Up(Up { stage: Stage::Upgrading(_), .. }) => None,
            Self::Up(up) => Some(&mut up.connection),
            _ => None,
        }
    }
}

impl Opening {
    /// When `init` has taken too long.
    fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        match self {
            Self::Asked(connection, _) => connection.poll_timeout(),
            Self::Upgraded { deadline, .. } => Some((*deadline, Timer::Handshake)),
        }
    }
}

impl Up {
    /// `handle_connect` is to run, or runs.
    fn is_greeting(&self) -> bool {
        match &self.stage {
            Stage::Greeting(_) => true,
            Stage::Asked(ask) => ask.greeting,
            _ => false,
        }
    }

    /// The handshake is complete.
    fn greet(&mut self, negotiated: Negotiated) {
        if let Stage::Upgrading(facts) = &mut self.stage {
            let connected = Connected { negotiated, transport: mem::take(&mut **facts) };
            self.stage = Stage::Greeting(Some(Box::new(connected)));
        }
    }
}

/// A message that is lent to a callback, and the way to answer it meanwhile.
pub(crate) struct LentMessage<'a, T> {
    lent: Lent<'a>,
    outgoing: Outgoing<'a>,
    outbox: &'a mut Outbox<T>,
}

impl<'a, T> LentMessage<'a, T> {
    #[inline(always)]
    pub(crate) fn frame(&self) -> FrameRef<'a> {
        self.lent.frame
    }

    /// What a callback pushes. It is given back, as a frame of its own, where it cannot be encoded at once, or must not be.
    #[inline(always)]
    pub(crate) fn push(mut self, frame: FrameRef<'_>, at_once: bool) -> Option<Box<Frame>> {
        let begun = at_once && self.outbox.send_short(&mut self.outgoing, frame, Source::Push);
        if begun { None } else { Some(self.lent.own(frame)) }
    }
}

impl<I, T: PartialEq> fmt::Debug for Session<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("state", &self.state())
            .field("timeout", &self.poll_timeout())
            .finish_non_exhaustive()
    }
}
