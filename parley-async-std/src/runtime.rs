//! [`AsyncStd`]: what the driver asks of a runtime, answered by async-std and its reactor, async-io.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_io::Async;
use async_std::net::ToSocketAddrs;
use futures_io::{AsyncRead, AsyncWrite};
use parley_proto::driver::{Clock, Platform, Runtime, TcpOptions, TlsError, TlsTarget};
use rand::rngs::{ChaCha12Rng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::Transport;
#[cfg(feature = "tls")]
use crate::tls::{Connector, Tls};

type SocketHook = dyn Fn(SockRef<'_>) -> io::Result<()> + Send + Sync;

/// The [`Runtime`] of async-std.
///
/// Its futures can be polled on any executor, smol's say: the reactor has a thread of its own.
pub struct AsyncStd {
    timer: Timer,
    /// Boxed: a word in each client, of which few have one.
    socket_hook: Option<Arc<Box<SocketHook>>>,
    #[cfg(feature = "tls")]
    connector: Connector,
}

/// Drawn from the system once in a process, for the day when the system fails to give more: see [`AsyncStd::seed`].
static SPARE: OnceLock<Spare> = OnceLock::new();

struct Spare {
    key: [u8; 32],
    seeds: AtomicU64,
}

impl Spare {
    fn draw() -> io::Result<&'static Self> {
        if let Some(spare) = SPARE.get() {
            return Ok(spare);
        }
        let mut key = [0; 32];
        SysRng.try_fill_bytes(&mut key).map_err(io::Error::other)?;
        Ok(SPARE.get_or_init(|| Self { key, seeds: AtomicU64::new(0) }))
    }

    /// The next output of a generator whose key is from the system, each from a stream of its own.
    fn seed(&self) -> [u8; 32] {
        let mut generator = ChaCha12Rng::from_seed(self.key);
        generator.set_stream(self.seeds.fetch_add(1, Ordering::Relaxed));
        let mut seed = [0; 32];
        generator.fill_bytes(&mut seed);
        seed
    }
}

impl AsyncStd {
    /// A runtime for one client, with the default `Tls` options where the feature `tls` is on.
    ///
    /// # Errors
    ///
    /// The system's random source gave nothing. Nothing can be sent safely then (RFC 6455, section 10.3, wants
    /// unpredictable masking keys), so a client fails to start rather than run with weak ones.
    pub fn new() -> io::Result<Self> {
        Spare::draw()?;
        Ok(Self {
            timer: Timer::default(),
            socket_hook: None,
            #[cfg(feature = "tls")]
            connector: Connector::new(Tls::default()),
        })
    }

    /// The same with these TLS options. What they need (trust roots) is loaded once, at the first TLS handshake.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.connector = Connector::new(tls);
        self
    }

    /// The same with a function that is called on every socket before it is bound and connected, after
    /// [`TcpOptions`] were applied: for options that these do not have. Its error fails the attempt.
    #[must_use]
    pub fn with_socket_hook(mut self, hook: impl Fn(SockRef<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        self.socket_hook = Some(Arc::new(Box::new(hook)));
        self
    }

    /// The TLS handshake of [`start_tls`](Runtime::start_tls), over a transport of whatever stream: for a [`Runtime`] of
    /// the user's own.
    pub fn start_tls_over<S>(
        &self,
        transport: Transport<S>,
        target: &TlsTarget,
    ) -> impl Future<Output = Result<Transport<S>, TlsError>> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        #[cfg(feature = "tls")]
        {
            let connector = self.connector.clone();
            let target = target.clone();
            async move { connector.connect(transport, target).await }
        }
        #[cfg(not(feature = "tls"))]
        {
            let _ = (transport, target);
            std::future::ready(Err(TlsError::unavailable("built without the feature `tls`")))
        }
    }
}

impl fmt::Debug for AsyncStd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("AsyncStd").field("socket_hook", &self.socket_hook.is_some()).finish_non_exhaustive()
    }
}

/// One sleep on async-io's clock.
///
/// It holds no timer entry until something sleeps. One that is set to an earlier moment is left alone and set again
/// when it fires, so that a deadline which moves with every read costs nothing per read.
#[derive(Debug, Default)]
pub struct Timer(Option<Sleep>);

#[derive(Debug)]
struct Sleep {
    at: Instant,
    timer: async_io::Timer,
}

impl Sleep {
    fn set(&mut self, at: Instant) {
        self.at = at;
        self.timer.set_at(at);
    }
}

impl Clock for Timer {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Sleep { at: until, timer: async_io::Timer::at(until) });
        if until < sleep.at {
            sleep.set(until);
        }
        loop {
            ready!(Pin::new(&mut sleep.timer).poll(cx));
            if until <= sleep.at {
                self.0 = None; // a timer that has fired never does so again
                return Poll::Ready(());
            }
            sleep.set(until);
        }
    }
}

impl Clock for AsyncStd {
    fn now(&self) -> Instant {
        self.timer.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.timer.poll_sleep(cx, until)
    }
}

impl Runtime for AsyncStd {
    type Transport = Transport;

    /// 32 fresh bytes from the system.
    ///
    /// Should the system, which gave bytes when the first runtime of the process was made, fail now, a ChaCha12 generator
    /// keyed with those bytes answers instead: as unpredictable as they are, and never the same seed twice.
    fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        match SysRng.try_fill_bytes(&mut seed) {
            Ok(()) => seed,
            Err(_) => SPARE.get().expect("drawn when this was made").seed(),
        }
    }

    /// The system's resolver (`getaddrinfo`), on a thread for blocking work. Dropping the future abandons the answer;
    /// a running look-up cannot be stopped and keeps its thread until the system gives up.
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        let host = host.to_owned();
        async move {
            let addrs: Vec<_> = (host.as_str(), port).to_socket_addrs().await?.collect();
            if addrs.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
            }
            Ok(addrs)
        }
    }

    fn dial(
        &self,
        addr: SocketAddr,
        options: &TcpOptions,
    ) -> impl Future<Output = io::Result<Transport>> + Send + 'static {
        let options = options.clone();
        let hook = self.socket_hook.clone();
        async move { Ok(Transport::from(dial(addr, &options, hook.as_ref().map(|hook| &***hook)).await?)) }
    }

    fn start_tls(
        &self,
        transport: Transport,
        target: &TlsTarget,
    ) -> impl Future<Output = Result<Transport, TlsError>> + Send + 'static {
        self.start_tls_over(transport, target)
    }
}

impl Platform for AsyncStd {
    #[cfg(feature = "tls")]
    type Tls = Tls;
    #[cfg(not(feature = "tls"))]
    type Tls = ();

    type Clock = Timer;
    type Listener = Async<TcpListener>;
    #[cfg(feature = "tls")]
    type ServerTls = Arc<crate::rustls::ServerConfig>;
    #[cfg(not(feature = "tls"))]
    type ServerTls = std::convert::Infallible;

    const TLS: bool = cfg!(feature = "tls");

    #[cfg(feature = "tls")]
    fn create(tls: Tls) -> io::Result<Self> {
        Self::new().map(|runtime| runtime.with_tls(tls))
    }

    #[cfg(not(feature = "tls"))]
    fn create((): ()) -> io::Result<Self> {
        Self::new()
    }

    fn clock() -> Timer {
        Timer::default()
    }

    /// async-std starts its threads when they are first needed.
    fn is_running() -> bool {
        true
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        drop(async_std::task::spawn(task));
    }

    fn bind(addr: SocketAddr) -> io::Result<Async<TcpListener>> {
        Async::<TcpListener>::bind(addr)
    }

    fn local_addr(listener: &Async<TcpListener>) -> io::Result<SocketAddr> {
        listener.get_ref().local_addr()
    }

    async fn accept(listener: &mut Async<TcpListener>, options: &TcpOptions) -> io::Result<Transport> {
        let (stream, _) = listener.accept().await?;
        // Some systems refuse options on a socket that its client has reset already: that is about this one alone.
        configure(SockRef::from(&stream), options)
            .map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))?;
        Ok(Transport::from(stream))
    }

    fn accept_tls(
        transport: Transport,
        tls: &Self::ServerTls,
    ) -> impl Future<Output = Result<Transport, TlsError>> + Send + 'static {
        #[cfg(feature = "tls")]
        {
            crate::tls::accept(transport, Arc::clone(tls))
        }
        #[cfg(not(feature = "tls"))]
        {
            let (never, _) = (*tls, transport);
            async move { match never {} }
        }
    }
}

async fn dial(addr: SocketAddr, options: &TcpOptions, hook: Option<&SocketHook>) -> io::Result<Async<TcpStream>> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    configure(SockRef::from(&socket), options)?;
    if let Some(hook) = hook {
        hook(SockRef::from(&socket))?;
    }
    if let Some(local) = options.local_addr {
        if local.is_ipv4() != addr.is_ipv4() {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the local address and the peer's are of different families",
            ));
        }
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&addr.into()) {
        Err(error) if !is_under_way(&error) => return Err(error),
        _ => {}
    }
    let stream = Async::new_nonblocking(TcpStream::from(socket))?;
    // Writable once it is connected, or has failed.
    stream.writable().await?;
    match stream.get_ref().take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

/// How a connection that is not there yet is told by `connect`.
fn is_under_way(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
    }
    #[cfg(not(unix))]
    {
        error.kind() == io::ErrorKind::WouldBlock
    }
}

/// Buffers have to be set before the connection is opened: the TCP window scale is fixed by the SYN (RFC 7323).
fn configure(socket: SockRef<'_>, options: &TcpOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(idle) = options.keepalive {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.recv_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_also_when_the_system_gives_none() {
        let (a, b) = (AsyncStd::new().unwrap(), AsyncStd::new().unwrap());
        let spare = Spare::draw().unwrap();
        let seeds = [a.seed(), a.seed(), b.seed(), spare.seed(), spare.seed()];
        for (i, one) in seeds.iter().enumerate() {
            assert!(seeds[..i].iter().all(|other| other != one), "seed {i} came twice");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let runtime = AsyncStd::new().unwrap();
        assert!(!format!("{runtime:?}").contains("key"));
    }
}
