//! The server role: connections come in, their requests are read, the application decides.
//!
//! ```text
//!  accept ─▶ TLS ─▶ request ─▶ origin ─▶ Incoming ─▶ accept(handler) ─▶ a session that never dials
//!    ▲       └── handshake timeout ─┘       │  │ └──▶ into_websocket ──▶ WebSocket
//!    │                                      │  └────▶ reject, dropped, decision timeout ─▶ a response, then closed
//!  room: connections, undecided requests    └ one task watches it meanwhile
//! ```
//!
//! Or another HTTP server does all that, and hands over the stream: `upgraded.rs`.

mod upgraded;

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use core::net::SocketAddr;
use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};

use super::Ending;
use super::builder::running;
use super::census::{Census, Notice, Permit, Turn, Undecided};
use super::client::{Client, StartError, client_of};
use super::handle::{Handle, Shared, Ticket};
use super::io::Io;
use super::link::Link;
use super::pipe::Pipe;
use super::runtime::{Clock, Platform, Runtime, Transport};
use super::socket::{Error, WebSocket};
use super::trace;
use crate::codec::CloseFrame;
use crate::connection::{Config, Connection, Event, Keepalive, deadline};
use crate::error::{ConnectPhase, DisconnectReason};
use crate::handler::Handler;
use crate::handshake::{Acceptance, Origins, Rejection, Request};
use crate::session::Session;
use crate::transport::{TcpOptions, TlsError, TlsTarget, TransportFacts};
use crate::{Limits, Role};
pub use upgraded::Upgraded;

/// Between two tries to accept, while the system refuses (too many open files, say): from this, doubling, to that.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Answers requests that ask for no upgrade.
type OnHttp = dyn Fn(&http::Request<()>) -> http::Response<Bytes> + Send + Sync;

/// A server's options; every one but the origins has a default.
#[must_use = "a builder does nothing until it is bound or built"]
pub struct ServerBuilder<P: Platform> {
    origins: Origins,
    handshake_timeout: Duration,
    max_connections: usize,
    max_handshakes: usize,
    config: Config,
    tcp: TcpOptions,
    tls: Option<P::ServerTls>,
    on_http: Option<Arc<OnHttp>>,
}

impl<P: Platform> ServerBuilder<P> {
    fn new(origins: Origins) -> Self {
        Self {
            origins,
            handshake_timeout: Duration::from_secs(5),
            max_connections: 10_000,
            max_handshakes: 256,
            config: Config::new(Role::Server),
            tcp: TcpOptions::default(),
            tls: None,
            on_http: None,
        }
    }

    /// From the moment a connection is accepted until its request has been read, TLS included; then it is dropped.
    /// Default 5 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// From the request until the application has accepted or rejected it; then the answer is 503. For a handler it
    /// includes `init`. Default 10 s.
    pub fn decision_timeout(mut self, timeout: Duration) -> Self {
        self.config.decision_timeout = timeout;
        self
    }

    /// Connections at a time, those under way included. While there are as many, the next one waits, and the others in the
    /// system's backlog; but see [`max_handshakes`](Self::max_handshakes). At least 1. Default 10,000.
    pub fn max_connections(mut self, most: usize) -> Self {
        self.max_connections = most.max(1);
        self
    }

    /// Connections at a time whose request is being read, or waits for the application's answer. At least 1. Default 256.
    ///
    /// While there are as many, or [`max_connections`](Self::max_connections) in all, a new one takes the place of that which
    /// has been silent for longest, if for more than a second: peers that connect and send no request slow others down, and do not keep them out. While all of them wait
    /// for the application, no more are accepted.
    pub fn max_handshakes(mut self, most: usize) -> Self {
        self.max_handshakes = most.max(1);
        self
    }

    /// From the first Close, ours or the peer's, until the transport is closed. Default 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.config.close_timeout = timeout;
        self
    }

    /// When to ping a silent client, and how long to wait for any byte then; `None`: never. Default 20 s and 20 s.
    pub fn keepalive(mut self, keepalive: Option<Keepalive>) -> Self {
        self.config.keepalive = keepalive;
        self
    }

    /// How long output may wait without the client taking a byte of it. Default 30 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.config.write_timeout = timeout;
        self
    }

    /// Messages bigger than this many bytes, and all that come in fragments, are received in parts and never held whole:
    /// by [`handle_chunk`](crate::Handler::handle_chunk), or [`WebSocket::next_part`]. The limit on messages still holds, and may
    /// then be larger than memory. Default: every message is whole.
    pub fn chunks_above(mut self, bytes: usize) -> Self {
        self.config.chunks_above = Some(bytes);
        self
    }

    /// Bounds on the memory of each connection. Default: [`Limits::server`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Options of each TCP connection; the local address has no meaning here. Default: nodelay.
    pub fn tcp(mut self, options: TcpOptions) -> Self {
        self.tcp = options;
        self
    }

    /// Serves `wss://`, with this configuration of rustls. Default: `ws://`.
    pub fn tls(mut self, tls: P::ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Answers requests that ask for no upgrade: `GET` and `HEAD` without a body, such as a health check or a page. The
    /// connection closes behind the response, which has the close timeout to leave; what says so, and the response's
    /// length, are added to it.
    ///
    /// The function runs in the server's task: it has to return soon. Default: none, and the answer is 426.
    pub fn on_http<F>(mut self, answer: F) -> Self
    where
        F: Fn(&http::Request<()>) -> http::Response<Bytes> + Send + Sync + 'static,
    {
        self.on_http = Some(Arc::new(answer));
        self.config.plain_http = true;
        self
    }

    /// Listens on an address, such as `"127.0.0.1:8080"` or `"[::]:80"`; port 0 is one of the system's choice. Names are
    /// not looked up.
    ///
    /// # Errors
    ///
    /// It is no address; or the system's: the address is in use, say. Outside of the platform's runtime.
    pub fn bind(self, addr: &str) -> io::Result<Server<P>> {
        let addr = addr.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        running::<P>()?;
        self.listen(P::bind(addr)?)
    }

    /// Serves what a listener of the user's own accepts.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn listen(self, listener: P::Listener) -> io::Result<Server<P>> {
        let addr = P::local_addr(&listener)?;
        let mut server = self.build()?;
        server.local_addr = Some(addr);
        P::spawn(accept_all(server.shared.clone(), listener));
        Ok(server)
    }

    /// A server that listens nowhere, for [`Server::accept`].
    ///
    /// # Errors
    ///
    /// Outside of the platform's runtime, or where that gives no random bytes.
    pub fn build(self) -> io::Result<Server<P>> {
        running::<P>()?;
        let shared = Arc::new(Inner {
            seeds: Mutex::new(ChaCha12Rng::from_seed(P::create(P::Tls::default())?.seed())),
            config: Arc::new(self.config.clone()),
            options: self,
            census: Arc::default(),
            queue: Mutex::default(),
            counters: Counters::default(),
        });
        Ok(Server { shared, local_addr: None })
    }
}

impl<P: Platform> fmt::Debug for ServerBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("origins", &self.origins)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("max_connections", &self.max_connections)
            .field("max_handshakes", &self.max_handshakes)
            .field("config", &self.config)
            .field("tcp", &self.tcp)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// A server: requests come out of [`next`](Self::next), each to be accepted or rejected.
///
/// Its connections are tasks of their own. Dropping it stops accepting, and leaves those that were accepted alone;
/// [`shutdown`](Self::shutdown) sees them off. All methods take `&self`: share it by an `Arc`.
///
/// The guide has a [page on servers](crate::guide::servers).
pub struct Server<P: Platform> {
    shared: Arc<Inner<P>>,
    local_addr: Option<SocketAddr>,
}

/// What the server, its tasks and its requests share.
struct Inner<P: Platform> {
    /// Each connection's seed is drawn from it.
    seeds: Mutex<ChaCha12Rng>,
    config: Arc<Config>,
    options: ServerBuilder<P>,
    census: Arc<Census>,
    queue: Mutex<Queue<P>>,
    counters: Counters,
}

struct Queue<P: Platform> {
    requests: VecDeque<Incoming<P::Transport, P>>,
    waiting: Vec<Waker>,
    /// Nobody looks any more: a request that was kept here would keep all this alive.
    closed: bool,
}

impl<P: Platform> Default for Queue<P> {
    fn default() -> Self {
        Self { requests: VecDeque::new(), waiting: Vec::new(), closed: false }
    }
}

#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    answered: AtomicU64,
}

/// A server's numbers, as plain ones; all but the first two since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections at this moment, those whose request has no answer yet included.
    pub connections: usize,
    /// Requests that are being read, or wait for the application.
    pub undecided: usize,
    /// Connections that came in.
    pub accepted: u64,
    /// Times that the system gave an error instead of a connection.
    pub accept_errors: u64,
    /// Handshakes that failed: TLS, no request in time, a malformed one.
    pub failed: u64,
    /// Of those, such as gave way to newer ones: see [`max_handshakes`](ServerBuilder::max_handshakes).
    pub displaced: u64,
    /// Requests that were refused for their origin.
    pub refused: u64,
    /// Requests without upgrade that were answered.
    pub answered: u64,
}

/// Why a stream that was handed to [`Server::accept`] gives no request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AcceptError {
    /// The server is shutting down.
    ShuttingDown,
    /// TLS, the stream, or the request failed.
    Handshake(DisconnectReason),
    /// The request's origin is not welcome.
    Origin,
    /// It asked for no upgrade, and was answered.
    Answered,
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShuttingDown => f.write_str("the server is shutting down"),
            Self::Handshake(reason) => reason.fmt(f),
            Self::Origin => f.write_str("the request's origin is not welcome"),
            Self::Answered => f.write_str("the request asked for no upgrade"),
        }
    }
}

impl std::error::Error for AcceptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Handshake(reason) => Some(reason),
            _ => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Platform> Server<P> {
    /// The options of a server that welcomes these origins.
    pub fn builder(origins: Origins) -> ServerBuilder<P> {
        ServerBuilder::new(origins)
    }

    /// Listens on an address, without options: see [`ServerBuilder::bind`].
    ///
    /// # Errors
    ///
    /// As [`ServerBuilder::bind`].
    pub fn bind(addr: &str, origins: Origins) -> io::Result<Self> {
        Self::builder(origins).bind(addr)
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// The next request; `None` once the server shuts down. Several tasks may wait at a time. Requests that nobody took
    /// in time, and that were answered for it, do not come.
    ///
    /// Cancel-safe.
    pub async fn next(&self) -> Option<Incoming<P::Transport, P>> {
        poll_fn(|cx| {
            loop {
                let mut queue = lock(&self.shared.queue);
                match queue.requests.pop_front() {
                    Some(incoming) => {
                        drop(queue);
                        if !incoming.is_over() {
                            return Poll::Ready(Some(incoming));
                        }
                    }
                    None if queue.closed => return Poll::Ready(None),
                    None => {
                        if !queue.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                            queue.waiting.push(cx.waker().clone());
                        }
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }

    /// The request on a stream of the user's own, which is up: TLS, if any, has been seen to. The server's options hold
    /// for it, but for the bounds on how many there are, and it takes part in [`shutdown`](Self::shutdown).
    ///
    /// Cancel-safe: dropped, it closes the stream.
    ///
    /// # Errors
    ///
    /// There is no request for the application to answer, see [`AcceptError`].
    pub async fn accept<T: Transport>(&self, transport: T) -> Result<Incoming<T, P>, AcceptError> {
        let permit = self.shared.census.admit().ok_or(AcceptError::ShuttingDown)?;
        let clock = P::clock();
        let undecided = self.shared.census.brought();
        let until = deadline(clock.now(), self.shared.options.handshake_timeout);
        let incoming = self.shared.clone().request(transport, permit, undecided, clock, until).await?;
        P::spawn(watch(incoming.asked.slot.clone()));
        Ok(incoming)
    }

    /// The server's numbers.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        let Counters { accepted, accept_errors, failed, refused, answered } = &self.shared.counters;
        let (connections, undecided) = self.shared.census.count();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerStats {
            connections,
            undecided,
            accepted: load(accepted),
            accept_errors: load(accept_errors),
            failed: load(failed),
            displaced: self.shared.census.displaced(),
            refused: load(refused),
            answered: load(answered),
        }
    }

    /// Stops accepting, closes every connection with 1001 behind what was sent before, and waits for the last to end, at
    /// most for `limit`; then drops the rest, and says how many they were. Requests that nobody has answered get a 503.
    ///
    /// A client of [`Incoming::accept`] is stopped; a [`WebSocket`] closes when it is polled next.
    ///
    /// Cancel-safe: dropped, the connections go on to close; called again, it waits again.
    pub async fn shutdown(&self, limit: Duration) -> usize {
        self.shared.stop_accepting();
        let connections = self.shared.census.tell(Notice::Leave);
        let mut clock = P::clock();
        let until = deadline(clock.now(), limit);
        let census = &self.shared.census;
        let empty = poll_fn(|cx| match census.poll_empty(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => clock.poll_sleep(cx, until).map(|()| false),
        });
        let dropped = if empty.await { 0 } else { census.tell(Notice::Gone) };
        trace::shut_down(connections, dropped);
        dropped
    }
}

impl<P: Platform> Drop for Server<P> {
    fn drop(&mut self) {
        self.shared.stop_accepting();
    }
}

impl<P: Platform> fmt::Debug for Server<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("local_addr", &self.local_addr).field("stats", &self.stats()).finish()
    }
}

impl<P: Platform> Inner<P> {
    fn stop_accepting(&self) {
        self.census.close();
        let mut queue = lock(&self.queue);
        queue.closed = true;
        let (requests, waiting) = (std::mem::take(&mut queue.requests), std::mem::take(&mut queue.waiting));
        drop(queue);
        drop(requests); // each is answered
        waiting.into_iter().for_each(Waker::wake);
    }

    /// For one connection: what its own pings carry comes from it. To ask the system each time would cost a call of it.
    fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        lock(&self.seeds).fill_bytes(&mut seed);
        seed
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A request for whoever waits for the next.
    fn deliver(&self, incoming: Incoming<P::Transport, P>) {
        let mut queue = lock(&self.queue);
        if queue.closed {
            drop(queue);
            return drop(incoming); // it is answered
        }
        queue.requests.push_back(incoming);
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Reads the request, and answers it where that is not the application's to do.
    async fn request<T: Transport>(
        self: Arc<Self>,
        transport: T,
        mut permit: Permit,
        undecided: Undecided,
        clock: P::Clock,
        until: Instant,
    ) -> Result<Incoming<T, P>, AcceptError> {
        let facts = transport.facts();
        let seed = self.seed();
        let connection = Connection::server(self.config.clone(), seed, until);
        // Boxed from the start: it is what the task that waits for the request would else be made of.
        let mut link = Box::new(Link::over(connection, transport, BytesMut::new(), clock));
        permit.undecided = Some(Box::new(undecided));
        link.permit = Some(Box::new(permit));
        loop {
            match poll_fn(|cx| link.poll_next(cx)).await {
                Event::Request(request) if self.options.origins.allow(&request) => {
                    trace::requested(&request);
                    let undecided = link.undecided();
                    let slot = Arc::new(Slot(Mutex::new(Place::Waiting(link, None))));
                    let asked = Asked { request: *request, facts, slot, server: self, undecided };
                    return Ok(Incoming { asked: Box::new(asked) });
                }
                Event::Request(request) => {
                    Self::count(&self.counters.refused);
                    trace::refused(&request);
                    if let Ok(rejection) = Rejection::new(http::StatusCode::FORBIDDEN) {
                        let _ = link.connection.reject(link.now, rejection); // a request waits
                    }
                    drop(link.undecided());
                    P::spawn(finish(link));
                    return Err(AcceptError::Origin);
                }
                Event::Http(request) => {
                    if let Some(on_http) = &self.options.on_http {
                        Self::count(&self.counters.answered);
                        let response = on_http(&request);
                        trace::answered(request.uri().path(), response.status().as_u16());
                        if link.connection.respond(link.now, &response).is_err() {
                            link.connection.abort(link.now); // an interim status is no answer
                        }
                    }
                    drop(link.undecided());
                    P::spawn(finish(link));
                    return Err(AcceptError::Answered);
                }
                Event::Closed(closed) => {
                    Self::count(&self.counters.failed);
                    trace::handshake_failed(&closed.reason());
                    return Err(AcceptError::Handshake(closed.reason()));
                }
                Event::Open(_) | Event::Frame(_) | Event::Chunk(_) => {} // none comes before
            }
        }
    }
}

/// Accepts connections until the server stops.
async fn accept_all<P: Platform>(server: Arc<Inner<P>>, mut listener: P::Listener) {
    let ServerBuilder { max_connections, max_handshakes, .. } = server.options;
    let census = server.census.clone();
    let mut clock = P::clock();
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        let accepted = {
            let mut accept = pin!(P::accept(&mut listener, &server.options.tcp));
            poll_fn(|cx| match census.poll_leaving(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => accept.as_mut().poll(cx).map(Some),
            })
            .await
        };
        match accepted {
            None => return,
            Some(Ok(transport)) => {
                pause = ACCEPT_PAUSE.0;
                Inner::<P>::count(&server.counters.accepted);
                if cfg!(feature = "tracing") {
                    trace::accepted(&transport.facts()); // which asks the system
                }
                let turn = poll_fn(|cx| {
                    loop {
                        match census.turn(cx, clock.now(), max_connections, max_handshakes) {
                            Turn::Now => return Poll::Ready(true),
                            Turn::Never => return Poll::Ready(false),
                            Turn::At(Some(at)) if clock.poll_sleep(cx, at).is_ready() => {}
                            Turn::At(_) => return Poll::Pending,
                        }
                    }
                });
                if !turn.await {
                    return;
                }
                if let Some(permit) = census.admit() {
                    let undecided = census.undecided(clock.now(), &permit);
                    P::spawn(greet(server.clone(), transport, permit, undecided));
                }
            }
            Some(Err(error)) => {
                Inner::<P>::count(&server.counters.accept_errors);
                trace::accept_failed(&error);
                if !is_about_one_connection(&error) {
                    let until = deadline(clock.now(), pause);
                    pause = (pause * 2).min(ACCEPT_PAUSE.1);
                    poll_fn(|cx| match census.poll_leaving(cx) {
                        Poll::Ready(()) => Poll::Ready(()),
                        Poll::Pending => clock.poll_sleep(cx, until),
                    })
                    .await;
                }
            }
        }
    }
}

/// The next one may well succeed at once.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// One connection, from its first byte until the application has decided about it.
async fn greet<P: Platform>(server: Arc<Inner<P>>, transport: P::Transport, mut permit: Permit, undecided: Undecided) {
    let mut clock = P::clock();
    let until = deadline(clock.now(), server.options.handshake_timeout);
    let transport = match &server.options.tls {
        None => transport,
        Some(tls) => match secure::<P>(transport, tls, &mut permit, &mut clock, until).await {
            Some(Ok(transport)) => transport,
            failed => {
                let late = DisconnectReason::ConnectTimeout(ConnectPhase::Tls);
                let reason = failed.and_then(Result::err).map_or(late, DisconnectReason::Tls);
                trace::handshake_failed(&reason);
                return Inner::<P>::count(&server.counters.failed);
            }
        },
    };
    if let Ok(incoming) = server.clone().request(transport, permit, undecided, clock, until).await {
        let slot = incoming.asked.slot.clone();
        server.deliver(incoming);
        watch(slot).await;
    }
}

/// The server's side of a TLS handshake, as long as there is time.
async fn secure<P: Platform>(
    transport: P::Transport,
    tls: &P::ServerTls,
    permit: &mut Permit,
    clock: &mut P::Clock,
    until: Instant,
) -> Option<Result<P::Transport, TlsError>> {
    let mut handshake = Box::pin(P::accept_tls(transport, tls));
    poll_fn(|cx| {
        if permit.notice(cx) != Notice::Stay {
            return Poll::Ready(None);
        }
        match handshake.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => clock.poll_sleep(cx, until).map(|()| None),
        }
    })
    .await
}

/// Where a connection waits while the application decides.
struct Slot<T, C>(Mutex<Place<T, C>>);

enum Place<T, C> {
    /// With the task that watches it.
    Waiting(Box<Link<T, C>>, Option<Waker>),
    Taken,
    /// It ended, for this reason.
    Over(DisconnectReason),
}

/// Keeps a connection's deadline until it is taken, or has ended.
async fn watch<T: Transport, C: Clock>(slot: Arc<Slot<T, C>>) {
    poll_fn(|cx| {
        let mut place = lock(&slot.0);
        let Place::Waiting(link, watcher) = &mut *place else { return Poll::Ready(()) };
        loop {
            match link.poll_next(cx) {
                Poll::Ready(Event::Closed(closed)) => {
                    *place = Place::Over(closed.reason());
                    return Poll::Ready(());
                }
                Poll::Ready(_) => {}
                Poll::Pending => {
                    *watcher = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    })
    .await;
}

/// Sees a response out.
async fn finish<T: Transport, C: Clock>(mut link: Box<Link<T, C>>) {
    while !matches!(poll_fn(|cx| link.poll_next(cx)).await, Event::Closed(_)) {}
}

/// A request that waits for the application to [`accept`](Self::accept) or [`reject`](Self::reject) it, within the
/// [decision timeout](ServerBuilder::decision_timeout). Dropped without either it is answered with 503.
pub struct Incoming<T: Transport, P: Platform> {
    /// Boxed: the task that takes this has room for it as long as it lives.
    asked: Box<Asked<T, P>>,
}

struct Asked<T: Transport, P: Platform> {
    request: Request,
    facts: TransportFacts,
    slot: Arc<Slot<T, P::Clock>>,
    server: Arc<Inner<P>>,
    /// Until it is answered.
    undecided: Option<Box<Undecided>>,
}

impl<T: Transport, P: Platform> Incoming<T, P> {
    /// What the client asks for: path, headers, subprotocols on offer, origin.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.asked.request
    }

    /// Addresses, and what TLS agreed on.
    #[must_use]
    pub fn transport(&self) -> &TransportFacts {
        &self.asked.facts
    }

    /// Accepts, and gives the connection to a handler, which is a [`Client`] like any other but that it never dials:
    /// `prepare` is not called, and when the connection has ended and `handle_disconnect` has run, so has the client,
    /// whatever that returned. Resolves once `init` has run; an error of it is answered with 500.
    ///
    /// Dropped before it resolves, the client runs on, detached.
    ///
    /// # Errors
    ///
    /// `init` failed, or the connection is gone.
    pub fn accept<H, I>(self, handler: H) -> impl Future<Output = Result<Client<H, I, P>, StartError>>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        self.accept_with(Acceptance::new(), |_| handler)
    }

    /// [`accept`](Self::accept) with a subprotocol or headers, and with a handler that gets the client's own handle.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept); the subprotocol was not on offer.
    pub fn accept_with<H, I>(
        mut self,
        reply: Acceptance,
        make: impl FnOnce(Handle<I>) -> H,
    ) -> impl Future<Output = Result<Client<H, I, P>, StartError>>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        // Boxed, like the next: a task that goes on has no room to keep for how the connection was accepted.
        Box::pin(async move {
            self.asked.request.agree(&reply).map_err(StartError::Reply)?;
            let link = self.take().map_err(StartError::Disconnected)?;
            let client = {
                let Link { connection, pipe, clock, permit, .. } = *link;
                let facts = std::mem::take(&mut self.asked.facts);
                let session = Session::accepted(connection, reply, facts, self.asked.server.config.clone());
                serve::<T, P, H, I>(session, pipe, clock, &self.asked.server, permit, make)
            };
            client.started().await?;
            Ok(client)
        })
    }

    /// Accepts, for a loop of one's own. Resolves once the response is on its way.
    ///
    /// Cancel-safe: dropped, it closes the connection.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub fn into_websocket(self) -> impl Future<Output = Result<WebSocket<T, P::Clock>, Error>> + use<T, P> {
        self.into_websocket_with(Acceptance::new())
    }

    /// [`into_websocket`](Self::into_websocket) with a subprotocol or headers.
    ///
    /// # Errors
    ///
    /// As [`into_websocket`](Self::into_websocket); [`Error::Reply`]: the subprotocol was not on offer.
    pub fn into_websocket_with(
        mut self,
        reply: Acceptance,
    ) -> impl Future<Output = Result<WebSocket<T, P::Clock>, Error>> + use<T, P> {
        Box::pin(async move {
            self.asked.request.agree(&reply).map_err(Error::Reply)?;
            let mut link = self.take()?;
            link.now = link.clock.now();
            if link.connection.accept(link.now, reply).is_ok() {
                link.offer();
            }
            let facts = std::mem::take(&mut self.asked.facts);
            let mut socket = WebSocket::opened(link, facts).await?;
            drop(self);
            socket.flush().await?;
            Ok(socket)
        })
    }

    /// Rejects with a status, headers and a body of one's own.
    pub fn reject(mut self, rejection: Rejection) {
        self.answer(rejection);
    }

    fn answer(&mut self, rejection: Rejection) {
        self.asked.undecided = None; // before whoever watches can see the connection off
        let watcher = match &mut *lock(&self.asked.slot.0) {
            Place::Waiting(link, watcher) => {
                link.now = link.clock.now(); // the close timeout counts from here
                let _ = link.connection.reject(link.now, rejection); // where it is too late, it was answered
                watcher.take()
            }
            Place::Taken | Place::Over(_) => None,
        };
        watcher.into_iter().for_each(Waker::wake);
    }

    /// It was answered already, or is gone.
    fn is_over(&self) -> bool {
        match &*lock(&self.asked.slot.0) {
            Place::Waiting(link, _) => link.connection.outcome().is_some(),
            Place::Taken | Place::Over(_) => true,
        }
    }

    /// The connection, which is not watched any more. One that was answered already is left to its watcher, who sees
    /// the answer out.
    fn take(&self) -> Result<Box<Link<T, P::Clock>>, DisconnectReason> {
        let mut place = lock(&self.asked.slot.0);
        if let Place::Waiting(link, watcher) = &mut *place {
            link.now = link.clock.now();
            link.connection.handle_timeout(link.now);
            if let Some(outcome) = link.connection.outcome() {
                let watcher = watcher.take();
                drop(place);
                watcher.into_iter().for_each(Waker::wake);
                return Err(outcome.reason());
            }
        }
        match std::mem::replace(&mut *place, Place::Taken) {
            Place::Waiting(link, watcher) => {
                drop(place);
                watcher.into_iter().for_each(Waker::wake);
                Ok(link)
            }
            Place::Taken => Err(DisconnectReason::Local),
            Place::Over(reason) => Err(reason),
        }
    }
}

impl<T: Transport, P: Platform> Drop for Incoming<T, P> {
    fn drop(&mut self) {
        if let Ok(rejection) = Rejection::new(http::StatusCode::SERVICE_UNAVAILABLE) {
            self.answer(rejection);
        }
    }
}

impl<T: Transport, P: Platform> fmt::Debug for Incoming<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("request", &self.asked.request).field("transport", &self.asked.facts).finish()
    }
}

/// The server side of the opening handshake over a stream of the user's own, without options: whatever is asked for is
/// accepted, if its origin is welcome. A [`Server`] shows the request first.
///
/// # Errors
///
/// [`Error::Accept`]: there was no request to accept; [`Error::Runtime`].
pub async fn server<P: Platform, T: Transport>(
    transport: T,
    origins: Origins,
) -> Result<WebSocket<T, P::Clock>, Error> {
    let server = Server::<P>::builder(origins).build().map_err(|error| Error::Runtime(error.into()))?;
    server.accept(transport).await.map_err(Error::Accept)?.into_websocket().await
}

/// Begins a session over a transport that is up, in a task of its own. No async fn: a future of it would hold all this, twice.
fn serve<T: Transport, P: Platform, H, I>(
    session: Session<I, Ticket>,
    pipe: Pipe<T>,
    clock: P::Clock,
    server: &Inner<P>,
    permit: Option<Box<Permit>>,
    make: impl FnOnce(Handle<I>) -> H,
) -> Client<H, I, P>
where
    H: Handler<I>,
    I: Send + 'static,
{
    let shared = Shared::new(&server.config.limits);
    let own = Handle::new(shared.clone(), true);
    let handler = make(own.clone());
    let ending = Ending::new(shared.clone(), None);
    let runtime = Undialled { clock, transport: PhantomData };
    let io = Io::new(runtime, session, ending).with_pipe(pipe);
    let (client, life) = client_of(io, shared, handler);
    let attention = Attention { permit: permit.map(|permit| *permit), own, told: false };
    P::spawn(Attended { life: Some(life), attention: Box::new(attention) });
    client.on()
}

/// A client's life, which its server may end. The connection counts until it is dropped. No async fn: that would hold the
/// life twice.
struct Attended<F, I> {
    /// `None`: it is over.
    life: Option<F>,
    /// Boxed: a task is small.
    attention: Box<Attention<I>>,
}

/// What the server has to say to a client, and how.
struct Attention<I> {
    permit: Option<Permit>,
    own: Handle<I>,
    told: bool,
}

impl<F: Future<Output = ()> + Unpin, I: Send + 'static> Future for Attended<F, I> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { life, attention } = self.get_mut();
        let Attention { permit, own, told } = &mut **attention;
        let notice = permit.as_mut().map_or(Notice::Stay, |permit| permit.notice(cx));
        match notice {
            Notice::Stay => {}
            Notice::Leave if *told => {}
            Notice::Leave => {
                *told = true;
                own.ask_to_stop(CloseFrame::going_away());
            }
            Notice::Gone => *life = None, // the connection and its callbacks are dropped
        }
        if let Some(living) = life {
            ready!(Pin::new(living).poll(cx));
            *life = None;
        }
        *permit = None;
        Poll::Ready(())
    }
}

/// The runtime of a session that never dials.
struct Undialled<C, T> {
    clock: C,
    transport: PhantomData<fn() -> T>,
}

impl<C: Clock, T: Transport> Clock for Undialled<C, T> {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.clock.poll_sleep(cx, until)
    }
}

/// None of this is ever asked for: the session has a transport from the start, and no second one.
impl<C: Clock, T: Transport> Runtime for Undialled<C, T> {
    type Transport = T;

    fn seed(&self) -> [u8; 32] {
        [0; 32]
    }

    fn resolve(&self, _: &str, _: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn dial(&self, _: SocketAddr, _: &TcpOptions) -> impl Future<Output = io::Result<T>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn start_tls(&self, _: T, _: &TlsTarget) -> impl Future<Output = Result<T, TlsError>> + Send + 'static {
        std::future::ready(Err(TlsError::Io(Arc::new(io::ErrorKind::Unsupported.into()))))
    }
}
