//! The runtime that sees the simulated network, and the whole platform around it: for the builders of clients and
//! servers, whose ways in are functions without a world in them. The world is the one that runs on this thread.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

use core::net::SocketAddr;

use super::executor::SimClock;
use super::{ClientBuilder, Fate, Listener, ServerBuilder, Sim, SimTransport, WebSocket};
use crate::driver::{
    self, Client, Clock, Error, Platform, Runtime, TcpOptions, TlsError, TlsFacts, TlsTarget, Transport,
};
use crate::handshake::Origins;
use crate::session::BuildError;

thread_local! {
    static RUNNING: RefCell<Vec<Sim>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, this world runs on this thread.
pub(super) struct Running;

impl Running {
    pub(super) fn enter(sim: &Sim) -> Self {
        RUNNING.with_borrow_mut(|running| running.push(sim.clone()));
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let sim = RUNNING.with_borrow_mut(Vec::pop);
        drop(sim); // with it the world, which may look who runs
    }
}

impl Sim {
    /// The world that runs on this thread: inside of [`run`](Self::run), and of a task.
    #[must_use]
    pub fn running_here() -> Option<Self> {
        RUNNING.with_borrow(|running| running.last().cloned())
    }

    fn here() -> Self {
        Self::running_here().expect("a world runs on this thread")
    }

    /// The options of a client in this world: those of any adapter's client, the same methods and the same defaults. Its
    /// `start`, `run` or `connect` belongs inside of [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// Names the part of the URL that is wrong, and why.
    pub fn client(&self, url: &str) -> Result<ClientBuilder, BuildError> {
        Client::<(), (), SimRuntime>::builder(url)
    }

    /// A [`WebSocket`] to this URL, with the default options; with others it is
    /// [`client`](Self::client)`(url)?.connect()`.
    ///
    /// # Errors
    ///
    /// The URL is wrong; dialling or the opening handshake failed.
    pub async fn connect(&self, url: &str) -> Result<WebSocket, Error> {
        self.client(url)?.connect().await
    }

    /// The options of a server in this world: those of any adapter's server. Its `bind` wants an address; to listen at a
    /// name, hand a [listener](Self::listen) to its `listen`.
    pub fn server(&self, origins: Origins) -> ServerBuilder {
        driver::Server::builder(origins)
    }

    /// A runtime for a driver that is set up by hand: [`Setup`](driver::Setup). Its seed is a number, another for each.
    #[must_use]
    pub fn runtime(&self) -> SimRuntime {
        let number = self.net(|net| {
            net.runtimes = net.runtimes.wrapping_add(1);
            net.runtimes
        });
        SimRuntime { seed: [number; 32], clock: self.clock() }
    }
}

/// The simulated runtime, as a [`Platform`]: what [`Client`](super::Client), [`Server`](super::Server) and their like are
/// generic over.
///
/// Its randomness is a number, so that masks and jitter repeat too.
pub struct SimRuntime {
    seed: [u8; 32],
    clock: SimClock,
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRuntime").field("sim", &self.clock.sim).finish_non_exhaustive()
    }
}

impl Clock for SimRuntime {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.clock.poll_sleep(cx, until)
    }
}

impl Runtime for SimRuntime {
    type Transport = SimTransport;

    fn seed(&self) -> [u8; 32] {
        self.seed
    }

    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        let sim = self.clock.sim.clone();
        sim.note(format!("net resolve {host}:{port}"));
        let fate = sim.net(|net| net.resolving(host, port));
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
        let sim = self.clock.sim.clone();
        sim.note(format!("net dial {addr}"));
        let fate = sim.net(|net| net.dialling(addr));
        let given_up = GivenUp::new(&sim, "net dial given up");
        async move {
            let outcome = sim.fate(fate).await;
            given_up.not();
            outcome?;
            Sim::dial(&sim, addr)
        }
    }

    fn start_tls(
        &self,
        mut transport: SimTransport,
        target: &TlsTarget,
    ) -> impl Future<Output = Result<SimTransport, TlsError>> + Send + 'static {
        let sim = self.clock.sim.clone();
        sim.note(format!("net tls {}", target.server_name));
        let fate = sim.net(|net| net.tls());
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

/// What every TLS handshake of a server comes to, in place of its configuration:
/// [`ServerBuilder::tls`](crate::driver::ServerBuilder::tls). The bytes stay plain.
#[derive(Clone, Debug)]
pub struct SimServerTls(pub Fate<TlsFacts, TlsError>);

impl Platform for SimRuntime {
    type Tls = ();
    type Clock = SimClock;
    type Listener = Listener;
    type ServerTls = SimServerTls;

    const TLS: bool = true;

    fn create((): ()) -> io::Result<Self> {
        Ok(Sim::here().runtime())
    }

    fn clock() -> SimClock {
        Sim::here().clock()
    }

    fn is_running() -> bool {
        Sim::running_here().is_some()
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        Sim::here().spawn_own(task);
    }

    fn bind(addr: SocketAddr) -> io::Result<Listener> {
        Sim::here().try_listen(&addr.to_string())
    }

    fn local_addr(listener: &Listener) -> io::Result<SocketAddr> {
        Ok(listener.addr())
    }

    async fn accept(listener: &mut Listener, _: &TcpOptions) -> io::Result<SimTransport> {
        poll_fn(|cx| listener.poll_server(cx)).await
    }

    fn accept_tls(
        mut transport: SimTransport,
        tls: &SimServerTls,
    ) -> impl Future<Output = Result<SimTransport, TlsError>> + Send + 'static {
        let (sim, fate) = (Sim::here(), tls.0.clone());
        async move {
            let facts = transport.facts().with_tls(sim.fate(fate).await?);
            transport.set_facts(facts);
            Ok(transport)
        }
    }
}
