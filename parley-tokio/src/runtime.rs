//! [`Tokio`]: what the driver asks of a runtime, answered by tokio.

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use parley_proto::driver::{Clock, Platform, Runtime, TcpOptions, TlsError, TlsTarget};
use rand::rngs::{ChaCha12Rng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Sleep;

use crate::Transport;
#[cfg(feature = "tls")]
use crate::tls::{Connector, Tls};

type SocketHook = dyn Fn(SockRef<'_>) -> io::Result<()> + Send + Sync;

/// The [`Runtime`] of tokio.
///
/// Its methods need a tokio runtime around them, one built with `enable_all` (or with `enable_io` and
/// `enable_time`); in a runtime without them tokio panics.
pub struct Tokio {
    timer: Timer,
    /// Boxed: a word in each client, of which few have one.
    socket_hook: Option<Arc<Box<SocketHook>>>,
    #[cfg(feature = "tls")]
    connector: Connector,
}

/// Drawn from the system once in a process, for the day when the system fails to give more: see [`Tokio::seed`].
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

impl Tokio {
    /// A runtime for one client, with the default TLS options where the feature `tls` is on.
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
}

impl fmt::Debug for Tokio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("Tokio").field("socket_hook", &self.socket_hook.is_some()).finish_non_exhaustive()
    }
}

/// One sleep on tokio's clock, which a test may have paused.
///
/// It holds no timer entry until something sleeps. One that is set to an earlier moment is left alone and set again
/// when it fires, so that a deadline which moves with every read costs nothing per read.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Clock for Timer {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let until = tokio::time::Instant::from_std(until);
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if until < sleep.deadline() {
            sleep.as_mut().reset(until);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if until <= sleep.deadline() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
    }
}

impl Clock for Tokio {
    fn now(&self) -> Instant {
        self.timer.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.timer.poll_sleep(cx, until)
    }
}

impl Runtime for Tokio {
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
            let look_up = move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
            let addrs = blocking(look_up).await.map_err(io::Error::other)??;
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

impl Platform for Tokio {
    #[cfg(feature = "tls")]
    type Tls = Tls;
    #[cfg(not(feature = "tls"))]
    type Tls = ();

    type Clock = Timer;
    type Listener = TcpListener;
    #[cfg(feature = "tls")]
    type ServerTls = Arc<crate::rustls::ServerConfig>;
    #[cfg(not(feature = "tls"))]
    type ServerTls = std::convert::Infallible;

    const TLS: bool = cfg!(feature = "tls");

    #[cfg(feature = "tls")]
    fn create(tls: Tls) -> io::Result<Self> {
        Self::new().map(|tokio| tokio.with_tls(tls))
    }

    #[cfg(not(feature = "tls"))]
    fn create((): ()) -> io::Result<Self> {
        Self::new()
    }

    fn clock() -> Timer {
        Timer::default()
    }

    fn is_running() -> bool {
        tokio::runtime::Handle::try_current().is_ok()
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        drop(tokio::spawn(task));
    }

    fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    fn local_addr(listener: &TcpListener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(listener: &mut TcpListener, options: &TcpOptions) -> io::Result<Transport> {
        let (stream, _) = listener.accept().await?;
        // Some systems refuse options of a socket that the client has reset meanwhile: not the listener's fault.
        let options = configure(SockRef::from(&stream), options);
        options.map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))?;
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

/// Work that may block, on a thread for it. It is cancelled only by a runtime that shuts down and has not begun it: then
/// nothing comes of it, for that drops the client as well, whose attempt must not be seen to fail before.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match spawn_blocking(work).await {
        Err(error) if error.is_cancelled() => pending().await,
        outcome => outcome,
    }
}

async fn dial(addr: SocketAddr, options: &TcpOptions, hook: Option<&SocketHook>) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
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
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(addr).await
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
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    fn first_poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn seeds_differ_also_when_the_system_gives_none() {
        let (a, b) = (Tokio::new().unwrap(), Tokio::new().unwrap());
        let spare = Spare::draw().unwrap();
        let seeds = [a.seed(), a.seed(), b.seed(), spare.seed(), spare.seed()];
        for (i, one) in seeds.iter().enumerate() {
            assert!(seeds[..i].iter().all(|other| other != one), "seed {i} came twice");
        }
    }

    #[test]
    fn work_that_a_shutdown_cancels_does_not_fail() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let gone = runtime.handle().clone();
        drop(runtime);
        let _entered = gone.enter();
        let cancelled = first_poll(spawn_blocking(|| ()));
        assert!(matches!(cancelled, Poll::Ready(Err(error)) if error.is_cancelled()));
        assert!(first_poll(blocking(|| ())).is_pending());
    }

    #[test]
    fn debug_shows_no_key() {
        let tokio = Tokio::new().unwrap();
        assert!(!format!("{tokio:?}").contains("key"));
    }
}
