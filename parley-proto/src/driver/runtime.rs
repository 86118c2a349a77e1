//! What a runtime has to be.
//!
//! An adapter implements [`Clock`], [`Runtime`], [`Transport`] and [`Platform`], and takes no decision of the protocol.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use core::net::SocketAddr;

use crate::transport::{TcpOptions, TlsError, TlsTarget, TransportFacts};

/// Time, as a runtime has it.
pub trait Clock: Send + Unpin + 'static {
    /// The present moment, on a clock that never goes back.
    fn now(&self) -> Instant;

    /// Ready once `until` has come; else the task is woken then. One sleep at a time: another `until` replaces it. Most calls
    /// come with a later one than the last, since input moves it: a clock that keeps the earlier sleep, and is woken by it once in vain,
    /// sets few.
    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()>;
}

/// Names and connections: what the driver asks of a runtime beside [time](Clock). See the [guide](crate::guide::adapter).
///
/// The futures are `'static`, so that a deadline can be polled beside them; dropping one abandons the attempt.
pub trait Runtime: Clock {
    /// A byte stream, plain or under TLS.
    type Transport: Transport;

    /// 32 bytes from the operating system's random source. Masking keys and nonces grow out of them.
    fn seed(&self) -> [u8; 32];

    /// Looks up the addresses of `host`, each with `port`, in the order in which they shall be tried.
    ///
    /// # Errors
    ///
    /// The resolver's error; no address at all counts as one.
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static;

    /// Opens a TCP connection.
    ///
    /// # Errors
    ///
    /// The system's error: refused, unreachable, and so on.
    fn dial(
        &self,
        addr: SocketAddr,
        options: &TcpOptions,
    ) -> impl Future<Output = io::Result<Self::Transport>> + Send + 'static;

    /// Runs the client side of a TLS handshake over `transport` and checks the peer's certificate for `target`.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    fn start_tls(
        &self,
        transport: Self::Transport,
        target: &TlsTarget,
    ) -> impl Future<Output = Result<Self::Transport, TlsError>> + Send + 'static;
}

/// A connected byte stream.
pub trait Transport: Send + Unpin + 'static {
    /// Appends what has arrived to `window`, at most its spare capacity; `Ok(0)` is the end of the stream.
    ///
    /// The driver never passes a window without spare capacity.
    ///
    /// # Errors
    ///
    /// The system's error. A TLS stream that ends without `close_notify` is `UnexpectedEof`.
    fn poll_read(&mut self, cx: &mut Context<'_>, window: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// Takes some of `bytes`, in order, and says how many.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Ready once the operating system has all that was written.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the outgoing direction (`close_notify` under TLS, then FIN); reading goes on.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Addresses, and what TLS agreed on.
    fn facts(&self) -> TransportFacts;
}

/// A whole adapter: a [`Runtime`] that can be made on the spot, and that runs tasks. The builders are written for it.
///
/// The guide has a [page on writing one](crate::guide::adapter).
pub trait Platform: Runtime + Sized {
    /// A client's options of TLS.
    type Tls: Clone + fmt::Debug + Default + Send + Sync + 'static;

    /// What a connection keeps of the runtime once it is up.
    type Clock: Clock;

    /// What a server's connections come from.
    type Listener: Send + 'static;
    /// A server's configuration of TLS.
    type ServerTls: Clone + Send + Sync + 'static;

    /// Whether `wss://` can work: whether TLS was built in.
    const TLS: bool;

    /// A runtime for one client, or one connection.
    ///
    /// # Errors
    ///
    /// The system's random source gave nothing. Nothing can be sent safely then (RFC 6455, section 10.3, wants
    /// unpredictable masking keys).
    fn create(tls: Self::Tls) -> io::Result<Self>;

    /// A clock for one connection.
    fn clock() -> Self::Clock;

    /// Whether this task can wait for time and sockets here, and spawn others.
    fn is_running() -> bool;

    /// Runs a task beside this one.
    fn spawn(task: impl Future<Output = ()> + Send + 'static);

    /// Listens on an address; port 0 is one of the system's choice. It does not block.
    ///
    /// # Errors
    ///
    /// The system's.
    fn bind(addr: SocketAddr) -> io::Result<Self::Listener>;

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// The system's.
    fn local_addr(listener: &Self::Listener) -> io::Result<SocketAddr>;

    /// The next connection. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// The system's; the listener is still good.
    fn accept(
        listener: &mut Self::Listener,
        options: &TcpOptions,
    ) -> impl Future<Output = io::Result<Self::Transport>> + Send;

    /// Runs the server side of a TLS handshake over `transport`.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    fn accept_tls(
        transport: Self::Transport,
        tls: &Self::ServerTls,
    ) -> impl Future<Output = Result<Self::Transport, TlsError>> + Send + 'static;
}
