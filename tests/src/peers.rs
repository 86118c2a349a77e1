//! Where the peers of a scenario live: on a tokio runtime of their own, whatever runtime the client under test is on.

use std::any::Any;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::ca::Ca;
use crate::raw::{RawConn, RawServer};

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

/// The outcome of a future that needs the peers' runtime around it.
pub async fn on_peers<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    match spawn(future).await {
        Ok(value) => value,
        Err(error) => resume_unwind(error.try_into_panic().unwrap_or_else(|error| Box::new(error.to_string()))),
    }
}

/// A [`RawServer`] that is used from any runtime.
#[derive(Clone, Debug)]
pub struct Server(Arc<RawServer>);

impl Server {
    /// On a port of the system's choice.
    pub async fn bind(secure: bool) -> Self {
        Self(Arc::new(
            on_peers(async move {
                match server_config(secure) {
                    Some(config) => RawServer::bind_tls(config).await,
                    None => RawServer::bind().await,
                }
            })
            .await,
        ))
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    /// The URL of `path` (which begins with a slash) here.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        self.0.url(path)
    }

    /// The next connection, its TLS handshake done.
    pub async fn accept(&self) -> RawConn {
        let server = self.0.clone();
        on_peers(async move { server.accept().await }).await
    }

    /// The next connection as it is.
    pub async fn accept_tcp(&self) -> TcpStream {
        let server = self.0.clone();
        on_peers(async move { server.accept_tcp().await }).await
    }
}

/// An address that refuses connections for as long as the socket lives: bound, so that nobody else gets it, and not
/// listening.
#[must_use]
pub fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback has a free port");
    let addr = socket.local_addr().expect("a bound socket has an address").as_socket().expect("an IP address");
    (socket, addr)
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
