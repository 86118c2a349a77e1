//! Where the peers of a scenario live: on a tokio runtime of their own, over loopback, whatever runtime is under test. Where
//! that is the simulated one, they are in its world.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::ca::Ca;
use crate::raw::{RawConn, RawServer};
use crate::sim::{Listener, Sim, SimStream};

/// What no scenario takes, however loaded the machine: one that is not over by then hangs.
const DEADLINE: Duration = Duration::from_secs(120);

static PEERS: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime for the peers")
});

/// The authority that the servers of all scenarios have their certificates from.
pub static CA: LazyLock<Ca> = LazyLock::new(|| Ca::new("scenarios"));

static TLS: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| CA.server_config(&[]));

/// The configuration of a `wss://` server under [`CA`]; `None` for `ws://`.
#[must_use]
pub fn server_config(secure: bool) -> Option<Arc<ServerConfig>> {
    secure.then(|| TLS.clone())
}

/// Runs a future beside the scenario. Its handle can be awaited on any runtime.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    PEERS.spawn(future)
}

/// Runs a future beside the scenario, where its peers are, and gives its outcome.
pub fn beside<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Pin<Box<dyn Future<Output = T> + Send>> {
    match Sim::running_here() {
        Some(sim) => Box::pin(sim.spawn(future)),
        None => Box::pin(outcome(spawn(future))),
    }
}

/// The outcome of a future that needs the peers' runtime around it.
pub async fn on_peers<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    outcome(spawn(future)).await
}

async fn outcome<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => resume_unwind(error.try_into_panic().unwrap_or_else(|error| Box::new(error.to_string()))),
    }
}

/// Where something listens.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// Its address.
    pub addr: SocketAddr,
    /// Whether it speaks TLS.
    pub secure: bool,
}

impl Address {
    /// The URL of `path` (which begins with a slash) there.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "wss" } else { "ws" };
        format!("{scheme}://{}{path}", self.addr)
    }
}

/// A server that is played by hand, on any runtime: in the world that runs on this thread, else on loopback.
#[derive(Clone)]
pub struct Server {
    place: Place,
    secure: bool,
}

#[derive(Clone)]
enum Place {
    Loopback(Arc<RawServer>),
    World(Arc<Listener>),
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url("/")).finish()
    }
}

impl Server {
    /// On a port of the system's choice.
    pub async fn bind(secure: bool) -> Self {
        let place = match Sim::running_here() {
            Some(sim) => Place::World(Arc::new(sim.listen(sim.free_addr()))),
            None => Place::Loopback(Arc::new(on_peers(RawServer::bind()).await)),
        };
        Self { place, secure }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        match &self.place {
            Place::Loopback(server) => server.addr(),
            Place::World(listener) => listener.addr(),
        }
    }

    /// The URL of `path` (which begins with a slash) here.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        Address { addr: self.addr(), secure: self.secure }.url(path)
    }

    /// The next connection, its TLS handshake done.
    ///
    /// # Panics
    ///
    /// The handshake failed.
    pub async fn accept(&self) -> RawConn {
        if !self.secure {
            return self.accept_tcp().await;
        }
        self.try_accept_tls().await.expect("a TLS handshake")
    }

    /// The next connection as it is: under `wss://` no TLS handshake is done.
    pub async fn accept_tcp(&self) -> RawConn {
        match &self.place {
            Place::World(listener) => listener.accept().await,
            Place::Loopback(server) => {
                let server = server.clone();
                on_peers(async move { RawConn::new(server.accept_tcp().await) }).await
            }
        }
    }

    /// The next connection, after a TLS handshake that may fail.
    ///
    /// # Errors
    ///
    /// What the handshake failed with, as this side sees it.
    pub async fn try_accept_tls(&self) -> io::Result<RawConn> {
        let acceptor = TlsAcceptor::from(TLS.clone());
        match &self.place {
            Place::World(listener) => {
                RawConn::accept_tls(SimStream(listener.accept_transport().await), &acceptor).await
            }
            Place::Loopback(server) => {
                let server = server.clone();
                on_peers(async move { RawConn::accept_tls(server.accept_tcp().await, &acceptor).await }).await
            }
        }
    }
}

/// A client that is played by hand: connected, and under TLS its handshake done.
///
/// # Panics
///
/// Nobody accepts; the handshake failed.
pub async fn dial(addr: SocketAddr, secure: bool) -> RawConn {
    match Sim::running_here() {
        Some(sim) if secure => {
            let stream = SimStream(sim.dial_transport(addr));
            RawConn::connect_tls(stream, CA.client_config(), addr).await.expect("a TLS handshake")
        }
        Some(sim) => sim.dial(addr),
        None if secure => on_peers(RawConn::dial_tls(addr, CA.client_config())).await,
        None => on_peers(RawConn::dial(addr)).await,
    }
}

/// An address that refuses connections for as long as the guard lives: that of a socket which is bound, so that nobody
/// else gets it, and not listening. In a world nobody else would get it anyway.
#[must_use]
pub fn refusing() -> (Option<Socket>, SocketAddr) {
    if let Some(sim) = Sim::running_here() {
        return (None, sim.free_addr());
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback has a free port");
    let addr = socket.local_addr().expect("a bound socket has an address").as_socket().expect("an IP address");
    (Some(socket), addr)
}

/// Runs a scenario, which fails where it hangs.
///
/// # Panics
///
/// As the scenario does; when it takes 2 minutes.
pub fn within_deadline(scenario: impl FnOnce() + Send + 'static) {
    let (done, wait) = channel::<()>();
    let thread = thread::spawn(move || {
        let _done = done; // dropped at the end, also by a panic
        scenario();
    });
    match wait.recv_timeout(DEADLINE) {
        Err(RecvTimeoutError::Timeout) => panic!("hangs: not over within {DEADLINE:?}"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {
            thread.join().unwrap_or_else(|panic: Box<dyn Any + Send>| resume_unwind(panic));
        }
    }
}
