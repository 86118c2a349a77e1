//! Names, addresses and TLS, each with the fate that a test gave it; and the runtime that sees them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parley_proto::Handler;
use parley_proto::driver::{
    Client, Clock, Handle, Runtime, Setup, StartError, TcpOptions, TlsError, TlsFacts, TlsTarget, Transport,
    TransportFacts,
};
use parley_proto::session::ClientOptions;

use super::executor::Alarm;
use super::{Link, Sim, SimTransport, Wire, lock};
use crate::raw::RawConn;

/// What becomes of a step of dialling.
#[derive(Clone, Debug)]
pub enum Fate<T, E = io::ErrorKind> {
    /// This, at once.
    Now(Result<T, E>),
    /// This, so much later.
    After(Duration, Result<T, E>),
    /// Nothing, ever.
    Never,
}

/// What the network is told.
#[derive(Default)]
pub(super) struct Net {
    hosts: HashMap<String, Fate<Vec<SocketAddr>>>,
    addresses: HashMap<SocketAddr, Fate<()>>,
    tls: Option<Fate<TlsFacts, TlsError>>,
    pub(super) listeners: HashMap<SocketAddr, Arc<Mutex<Backlog>>>,
    dialled: u16,
    given_out: u16,
    runtimes: u8,
}

#[derive(Default)]
pub(super) struct Backlog {
    link: Link,
    pub(super) waiting: VecDeque<SimTransport>,
    pub(super) waker: Option<Waker>,
    wire: Option<Wire>,
    /// What a server that accepts gets first.
    pub(super) errors: VecDeque<io::ErrorKind>,
}

impl Sim {
    /// What a look-up of `host` comes to. Default: it is not found.
    pub fn host(&self, host: &str, fate: Fate<Vec<SocketAddr>>) {
        self.net(|net| net.hosts.insert(host.to_owned(), fate));
    }

    /// What dialling `addr` comes to. Default: accepted where somebody listens, else refused.
    pub fn address(&self, addr: SocketAddr, fate: Fate<()>) {
        self.net(|net| net.addresses.insert(addr, fate));
    }

    /// What every TLS handshake comes to. Default: done, with no facts worth mention.
    pub fn tls(&self, fate: Fate<TlsFacts, TlsError>) {
        self.net(|net| net.tls = Some(fate));
    }

    /// Listens on an address.
    #[must_use]
    pub fn listen(&self, addr: SocketAddr) -> Listener {
        let backlog: Arc<Mutex<Backlog>> = Arc::default();
        self.net(|net| net.listeners.insert(addr, backlog.clone()));
        Listener { addr, backlog }
    }

    /// An address on loopback that is given out once.
    #[must_use]
    pub fn free_addr(&self) -> SocketAddr {
        let number = self.net(|net| {
            net.given_out += 1;
            net.given_out
        });
        SocketAddr::from((Ipv4Addr::LOCALHOST, 9_000 + number))
    }

    /// The two ends of a connection that nobody has dialled.
    #[must_use]
    pub fn pair(&self) -> (SimTransport, SimTransport) {
        SimTransport::pair(self, Link::default(), TransportFacts::default())
    }

    /// A runtime for one client. Its seed is a number, another for each.
    #[must_use]
    pub fn runtime(&self) -> SimRuntime {
        let number = self.net(|net| {
            net.runtimes = net.runtimes.wrapping_add(1);
            net.runtimes
        });
        SimRuntime { seed: [number; 32], sim: self.clone(), alarm: Alarm::new(self.clone()) }
    }

    /// Starts a client here.
    ///
    /// # Errors
    ///
    /// The handler's `init` failed.
    pub async fn start<H, I>(&self, options: ClientOptions, handler: H) -> Result<Client<H, I>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        self.start_with(options, |_| handler).await
    }

    /// Starts a client whose handler gets the client's own handle.
    ///
    /// # Errors
    ///
    /// The handler's `init` failed.
    pub async fn start_with<H, I>(
        &self,
        options: ClientOptions,
        make: impl FnOnce(Handle<I>) -> H,
    ) -> Result<Client<H, I>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        let setup = Setup::new(options);
        let handler = make(setup.own_handle());
        let (client, life) = setup.client(self.runtime(), handler);
        self.spawn(life);
        client.started().await?;
        Ok(client)
    }

    pub(super) async fn fate<T, E>(&self, fate: Fate<T, E>) -> Result<T, E> {
        match fate {
            Fate::Now(outcome) => outcome,
            Fate::After(time, outcome) => {
                self.sleep(time).await;
                outcome
            }
            Fate::Never => pending().await,
        }
    }

    /// A connection to whoever listens.
    pub(super) fn connect(&self, addr: SocketAddr) -> io::Result<SimTransport> {
        let (backlog, port) = self.net(|net| {
            net.dialled += 1;
            (net.listeners.get(&addr).cloned(), 49_999 + net.dialled)
        });
        let Some(backlog) = backlog else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let facts = TransportFacts::new(Some(local), Some(addr));
        let mut backlog = lock(&backlog);
        let (client, peer) = SimTransport::pair(self, backlog.link, facts);
        backlog.waiting.push_back(peer);
        backlog.waker.take().into_iter().for_each(Waker::wake);
        Ok(client)
    }
}

/// Where clients arrive.
pub struct Listener {
    pub(super) addr: SocketAddr,
    pub(super) backlog: Arc<Mutex<Backlog>>,
}

impl Listener {
    /// What the connections are like that are dialled from now on.
    pub fn set_link(&self, link: Link) {
        lock(&self.backlog).link = link;
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection's other end.
    pub async fn accept_transport(&self) -> SimTransport {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    pub(super) fn poll_accept(&self, cx: &Context<'_>) -> Poll<SimTransport> {
        let mut backlog = lock(&self.backlog);
        match backlog.waiting.pop_front() {
            Some(transport) => {
                backlog.wire = Some(transport.wire());
                Poll::Ready(transport)
            }
            None => {
                backlog.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next connection, to be played by hand.
    pub async fn accept(&self) -> RawConn {
        RawConn::new(self.accept_transport().await)
    }

    /// A hand on the connection that was accepted last.
    ///
    /// # Panics
    ///
    /// If none was.
    #[must_use]
    pub fn wire(&self) -> Wire {
        lock(&self.backlog).wire.clone().expect("a connection was accepted")
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// The runtime of one client: the world's clock and network.
pub struct SimRuntime {
    sim: Sim,
    seed: [u8; 32],
    alarm: Alarm,
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRuntime").field("sim", &self.sim).finish_non_exhaustive()
    }
}

impl Clock for SimRuntime {
    fn now(&self) -> Instant {
        self.sim.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.alarm.poll(cx, until)
    }
}

impl Runtime for SimRuntime {
    type Transport = SimTransport;

    fn seed(&self) -> [u8; 32] {
        self.seed
    }

    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        let sim = self.sim.clone();
        sim.note(format!("net resolve {host}:{port}"));
        let fate = sim.net(|net| net.hosts.get(host).cloned()).unwrap_or(Fate::Now(Err(io::ErrorKind::NotFound)));
        let given_up = GivenUp::new(&sim, "net resolve given up");
        async move {
            let outcome = sim.fate(fate).await;
            given_up.not();
            Ok(outcome?)
        }
    }

    fn dial(
        &self,
        addr: SocketAddr,
        _options: &TcpOptions,
    ) -> impl Future<Output = io::Result<SimTransport>> + Send + 'static {
        let sim = self.sim.clone();
        sim.note(format!("net dial {addr}"));
        let fate = sim.net(|net| net.addresses.get(&addr).cloned()).unwrap_or(Fate::Now(Ok(())));
        let given_up = GivenUp::new(&sim, "net dial given up");
        async move {
            let outcome = sim.fate(fate).await;
            given_up.not();
            outcome?;
            sim.connect(addr)
        }
    }

    fn start_tls(
        &self,
        mut transport: SimTransport,
        target: &TlsTarget,
    ) -> impl Future<Output = Result<SimTransport, TlsError>> + Send + 'static {
        let sim = self.sim.clone();
        sim.note(format!("net tls {}", target.server_name));
        let fate = sim.net(|net| net.tls.clone()).unwrap_or(Fate::Now(Ok(TlsFacts::new(None, None, Vec::new()))));
        let given_up = GivenUp::new(&sim, "net tls given up");
        async move {
            let outcome = sim.fate(fate).await;
            given_up.not();
            let facts = transport.facts().with_tls(outcome?);
            transport.set_facts(facts);
            Ok(transport)
        }
    }
}

/// Says in the journal that a step of dialling was dropped.
struct GivenUp(Option<(Sim, &'static str)>);

impl GivenUp {
    fn new(sim: &Sim, line: &'static str) -> Self {
        Self(Some((sim.clone(), line)))
    }

    fn not(mut self) {
        self.0 = None;
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some((sim, line)) = self.0.take() {
            sim.note(line);
        }
    }
}
