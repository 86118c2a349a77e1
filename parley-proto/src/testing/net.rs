//! Names, addresses and TLS, each with the fate that a test gave it; and who listens.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::panic::Location;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Link, Sim, SimTransport, Wire, lock};
use crate::driver::{TlsError, TlsFacts, TransportFacts};

/// The first address that is given to a name: of the block that is set aside for benchmarks (RFC 2544).
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// What becomes of a look-up, a dial, or a TLS handshake.
///
/// ```
/// use std::io::ErrorKind;
/// use std::time::Duration;
/// use parley_proto::testing::{Fate, Sim};
///
/// let sim = Sim::new();
/// sim.on_resolve("feed.example", Fate::fail(ErrorKind::NotFound));
/// sim.on_resolve("slow.example", Fate::ok(vec!["10.0.0.1:80".parse().unwrap()]).after(Duration::from_secs(2)));
/// sim.on_dial("10.0.0.1:80".parse().unwrap(), Fate::Never); // a firewall that drops packets
/// ```
#[derive(Clone, Debug)]
pub enum Fate<T, E = io::ErrorKind> {
    /// This, at once.
    Now(Result<T, E>),
    /// This, so much later.
    After(Duration, Result<T, E>),
    /// Nothing, ever.
    Never,
}

impl<T, E> Fate<T, E> {
    /// It succeeds at once.
    #[must_use]
    pub fn ok(value: T) -> Self {
        Self::Now(Ok(value))
    }

    /// It fails at once.
    #[must_use]
    pub fn fail(error: E) -> Self {
        Self::Now(Err(error))
    }

    /// The same, so much later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        match self {
            Self::Now(outcome) => Self::After(delay, outcome),
            Self::After(sooner, outcome) => Self::After(sooner + delay, outcome),
            Self::Never => Self::Never,
        }
    }
}

/// What the network is told.
#[derive(Default)]
pub(super) struct Net {
    resolving: HashMap<String, Fate<Vec<SocketAddr>>>,
    dialling: HashMap<SocketAddr, Fate<()>>,
    tls: Option<Fate<TlsFacts, TlsError>>,
    /// Names that somebody listens at, or has.
    names: BTreeMap<String, Ipv4Addr>,
    listeners: HashMap<SocketAddr, Arc<Mutex<Backlog>>>,
    dialled: u16,
    given_out: u16,
    pub(super) runtimes: u8,
}

impl Net {
    pub(super) fn resolving(&self, host: &str, port: u16) -> Fate<Vec<SocketAddr>> {
        let host = host.to_ascii_lowercase();
        if let Some(fate) = self.resolving.get(&host) {
            return fate.clone();
        }
        match self.names.get(&host) {
            Some(&ip) => Fate::ok(vec![SocketAddr::from((ip, port))]),
            None if host == "localhost" => Fate::ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]),
            None => Fate::fail(io::ErrorKind::NotFound),
        }
    }

    pub(super) fn dialling(&self, addr: SocketAddr) -> Fate<()> {
        self.dialling.get(&addr).cloned().unwrap_or(Fate::ok(()))
    }

    pub(super) fn tls(&self) -> Fate<TlsFacts, TlsError> {
        self.tls.clone().unwrap_or_else(|| Fate::ok(TlsFacts::new(None, None, Vec::new())))
    }

    fn free_port(&mut self) -> u16 {
        self.given_out += 1;
        9_000 + self.given_out
    }

    /// The address of `host:port`; a name that is new gets one.
    fn place(&mut self, place: &str) -> Option<SocketAddr> {
        let mut addr = match place.parse() {
            Ok(addr) => addr,
            Err(_) => {
                let (host, port) = place.rsplit_once(':')?;
                let (host, port) = (host.to_ascii_lowercase(), port.parse().ok()?);
                if host.is_empty() || host.contains(['/', ':', '[', ']', '@']) {
                    return None;
                }
                SocketAddr::new(self.ip(host), port)
            }
        };
        if addr.port() == 0 {
            addr.set_port(self.free_port());
        }
        Some(addr)
    }

    fn ip(&mut self, host: String) -> IpAddr {
        if host == "localhost" {
            return Ipv4Addr::LOCALHOST.into();
        }
        let next = FIRST_ADDRESS.to_bits() + u32::try_from(self.names.len()).unwrap_or(u32::MAX / 2);
        (*self.names.entry(host).or_insert(Ipv4Addr::from_bits(next))).into()
    }
}

/// Connections that nobody has accepted yet.
#[derive(Default)]
struct Backlog {
    link: Link,
    waiting: VecDeque<SimTransport>,
    waker: Option<Waker>,
    wire: Option<Wire>,
    /// What a server that accepts gets first.
    errors: VecDeque<io::ErrorKind>,
}

impl Sim {
    /// What a look-up of `host` comes to, from now on. Default: the address of whoever has listened at this name, else
    /// `NotFound`; an address as host is never looked up.
    pub fn on_resolve(&self, host: &str, fate: Fate<Vec<SocketAddr>>) {
        self.net(|net| net.resolving.insert(host.to_ascii_lowercase(), fate));
    }

    /// What dialling `addr` comes to, from now on. Default: accepted where somebody [listens](Self::listen), else
    /// `ConnectionRefused`.
    pub fn on_dial(&self, addr: SocketAddr, fate: Fate<()>) {
        self.net(|net| net.dialling.insert(addr, fate));
    }

    /// What every TLS handshake of a client comes to, from now on. Default: it is done, with no facts worth mention.
    ///
    /// There is no TLS on these links: with `wss://` the bytes stay plain, and the handshake is this fate alone.
    pub fn on_tls(&self, fate: Fate<TlsFacts, TlsError>) {
        self.net(|net| net.tls = Some(fate));
    }

    /// Forgets what [`on_resolve`](Self::on_resolve), [`on_dial`](Self::on_dial) and [`on_tls`](Self::on_tls) were told:
    /// the defaults are back.
    pub fn heal(&self) {
        self.net(|net| {
            net.resolving.clear();
            net.dialling.clear();
            net.tls = None;
        });
    }

    /// Listens at `host:port`, for a test to play the server, or for a [`Server`](super::Server).
    ///
    /// The host is a name, which then has an address in this world, or an address; port 0 is one that is free. A
    /// client reaches it by a URL of this host and port: `ws://` has port 80, `wss://` 443, unless the URL says
    /// otherwise.
    ///
    /// # Panics
    ///
    /// If `place` is not `host:port`, or somebody listens there already.
    #[track_caller]
    pub fn listen(&self, place: impl fmt::Display) -> Listener {
        let place = place.to_string();
        self.try_listen(&place).unwrap_or_else(|error| panic!("cannot listen at {place:?}: {error}"))
    }

    pub(super) fn try_listen(&self, place: &str) -> io::Result<Listener> {
        let addr = self.net(|net| net.place(place)).ok_or_else(|| io::Error::other("it is not `host:port`"))?;
        let backlog: Arc<Mutex<Backlog>> = Arc::default();
        let is_free = self.net(|net| {
            let is_free = !net.listeners.contains_key(&addr);
            if is_free {
                net.listeners.insert(addr, backlog.clone());
            }
            is_free
        });
        if !is_free {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let place = if place.ends_with(":0") { addr.to_string().into() } else { place.into() };
        Ok(Listener { sim: self.clone(), addr, place, backlog, owns: true })
    }

    /// Another hand on whoever listens at an address: on a [`Server`](super::Server)'s listener, say. `None`: nobody does.
    #[must_use]
    pub fn listener(&self, addr: SocketAddr) -> Option<Listener> {
        let backlog = self.net(|net| net.listeners.get(&addr).cloned())?;
        Some(Listener { sim: self.clone(), addr, place: addr.to_string().into(), backlog, owns: false })
    }

    /// An address on loopback that is given out once, and where nobody listens.
    #[must_use]
    pub fn free_addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.net(Net::free_port)))
    }

    /// The two ends of a connection that nobody has dialled: for
    /// [`connect_over`](crate::driver::ClientBuilder::connect_over), say. The first counts as the client's.
    #[must_use]
    pub fn pair(&self, link: Link) -> (SimTransport, SimTransport) {
        SimTransport::pair(self, link, TransportFacts::default())
    }

    /// Connects to whoever listens there, for a test to play the client byte by byte.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused`: nobody does.
    pub fn dial(&self, addr: SocketAddr) -> io::Result<SimTransport> {
        let (backlog, port) = self.net(|net| {
            net.dialled = net.dialled % 15_000 + 1;
            (net.listeners.get(&addr).cloned(), 49_999 + net.dialled)
        });
        let Some(backlog) = backlog else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let facts = TransportFacts::new(Some(local), Some(addr));
        let (client, waker) = {
            let mut backlog = lock(&backlog);
            let (client, peer) = SimTransport::pair(self, backlog.link, facts);
            backlog.waiting.push_back(peer);
            (client, backlog.waker.take())
        };
        waker.into_iter().for_each(Waker::wake);
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
}

/// Where clients arrive. Dropped, it refuses further ones, and resets those whom nobody has accepted.
///
/// [`accept`](Self::accept) and its like give scripted peers; or a [`Server`](super::Server)
/// [listens](crate::driver::ServerBuilder::listen) here.
pub struct Listener {
    pub(super) sim: Sim,
    addr: SocketAddr,
    /// As the test wrote it.
    pub(super) place: Arc<str>,
    backlog: Arc<Mutex<Backlog>>,
    /// It ends the listening when it is dropped.
    owns: bool,
}

impl Listener {
    /// What the connections are like that are dialled from now on. Default: [`Link::default`].
    pub fn set_link(&self, link: Link) {
        lock(&self.backlog).link = link;
    }

    /// Its address, which [`Sim::on_dial`] wants.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next accepts of a [`Server`](super::Server) give these errors, one after the other.
    pub fn fail_accepts(&self, errors: impl IntoIterator<Item = io::ErrorKind>) {
        let errors: Vec<_> = errors.into_iter().collect();
        let waker = {
            let mut backlog = lock(&self.backlog);
            backlog.errors.extend(errors);
            backlog.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// The next connection's other end, before anything was read or written: for a server by hand, byte by byte.
    ///
    /// Cancel-safe.
    #[track_caller]
    pub fn accept_transport(&self) -> impl Future<Output = SimTransport> + Send {
        self.next_transport(Location::caller())
    }

    pub(super) fn next_transport(&self, at: &'static Location<'static>) -> impl Future<Output = SimTransport> + Send {
        self.sim.wait(at, || format!("a connection to {}", self.place), |cx| self.poll_accept(cx))
    }

    fn poll_accept(&self, cx: &Context<'_>) -> Poll<SimTransport> {
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

    /// As a server sees it.
    pub(super) fn poll_server(&self, cx: &Context<'_>) -> Poll<io::Result<SimTransport>> {
        let error = lock(&self.backlog).errors.pop_front();
        match error {
            Some(error) => Poll::Ready(Err(error.into())),
            None => self.poll_accept(cx).map(Ok),
        }
    }

    /// A hand on the connection that was accepted last, by whomever.
    ///
    /// # Panics
    ///
    /// If none was.
    #[must_use]
    #[track_caller]
    pub fn wire(&self) -> Wire {
        lock(&self.backlog).wire.clone().expect("a connection was accepted")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.owns {
            let gone = self.sim.net(|net| net.listeners.remove(&self.addr));
            let waiting = std::mem::take(&mut lock(&self.backlog).waiting);
            drop((gone, waiting)); // what is closed wakes whom it may: no lock is held
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("place", &self.place).field("addr", &self.addr).finish_non_exhaustive()
    }
}
