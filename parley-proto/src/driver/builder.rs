//! The options of a client or a socket as a user sets them, and the ways to begin, for every [`Platform`].

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderName, HeaderValue};

use super::client::{Client, JoinError, Setup, StartError};
use super::handle::Handle;
use super::runtime::{Platform, Transport};
use super::socket::{Error, WebSocket};
use crate::connection::{Config, Keepalive};
use crate::error::StopReason;
use crate::handler::Handler;
use crate::handshake::{ClientRequest, Negotiated};
use crate::limits::Limits;
use crate::session::{BuildError, ClientOptions, Reconnect};
use crate::transport::TcpOptions;
use crate::{Role, pool};

impl<P: Platform> Client<(), (), P> {
    /// The options of a client for a URL, `ws://` or `wss://`. User info in it becomes `Authorization: Basic`.
    ///
    /// # Errors
    ///
    /// Names the part of the URL that is wrong, and why; `wss://` without the feature `tls`.
    pub fn builder(url: &str) -> Result<ClientBuilder<P>, BuildError> {
        let options = ClientOptions::new(url)?;
        if options.request.is_secure() && !P::TLS {
            return Err(BuildError::TlsNotBuiltIn);
        }
        Ok(ClientBuilder { options: Box::new(options), tls: P::Tls::default() })
    }
}

/// A client's options; every one has a default. [`start`](Self::start) and [`run`](Self::run) make a client that runs a
/// [`Handler`], [`connect`](Self::connect) a [`WebSocket`] for a loop of one's own.
#[must_use = "a builder does nothing until it is started, run or connected"]
pub struct ClientBuilder<P: Platform> {
    /// Boxed: it lies in the task that dials, for as long as that lives.
    options: Box<ClientOptions>,
    tls: P::Tls,
}

impl<P: Platform> Clone for ClientBuilder<P> {
    fn clone(&self) -> Self {
        Self { options: self.options.clone(), tls: self.tls.clone() }
    }
}

impl<P: Platform> fmt::Debug for ClientBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("options", &self.options).field("tls", &self.tls).finish()
    }
}

impl<P: Platform> ClientBuilder<P> {
    /// Adds a header to the upgrade request. Default: a `User-Agent` alone.
    ///
    /// # Errors
    ///
    /// The name or value is not one that a header can have, or the name is one that the handshake owns.
    pub fn header<N, V>(mut self, name: N, value: V) -> Result<Self, BuildError>
    where
        N: TryInto<HeaderName>,
        V: TryInto<HeaderValue>,
    {
        self.options.request.header(name, value)?;
        Ok(self)
    }

    /// Offers a subprotocol, behind those offered before (RFC 6455, section 1.9). Default: none.
    ///
    /// # Errors
    ///
    /// The name is not a token, or offered already.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Result<Self, BuildError> {
        self.options.request.subprotocol(name)?;
        Ok(self)
    }

    /// A name in the process, by which [`lookup`](super::lookup) finds the client; it then lives on though no handle is
    /// left. Default: none. One that is in use is an error of `start`, and of `run`'s future.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// One deadline over `prepare`, DNS, TCP, TLS and the upgrade. Default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// Coming back by itself after what is transient. Default: off.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.options.reconnect = Some(reconnect);
        self
    }

    /// From the first Close, ours or the peer's, until the transport is closed. Default 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.options.connection.close_timeout = timeout;
        self
    }

    /// When to ping a silent server, and how long to wait for any byte then; `None`: never. Default 20 s and 20 s.
    pub fn keepalive(mut self, keepalive: Option<Keepalive>) -> Self {
        self.options.connection.keepalive = keepalive;
        self
    }

    /// How long output may wait without the server taking a byte of it. Default 30 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.options.connection.write_timeout = timeout;
        self
    }

    /// Messages bigger than this many bytes, and all that come in fragments, are received in parts and never held whole:
    /// by [`handle_chunk`](crate::Handler::handle_chunk), or [`WebSocket::next_part`]. The limit on messages still holds, and may
    /// then be larger than memory. Default: every message is whole.
    pub fn chunks_above(mut self, bytes: usize) -> Self {
        self.options.connection.chunks_above = Some(bytes);
        self
    }

    /// Bounds on memory. Default: [`Limits::client`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.connection.limits = limits;
        self
    }

    /// Options of the TCP connection. Default: nodelay.
    pub fn tcp(mut self, options: TcpOptions) -> Self {
        self.options.tcp = options;
        self
    }

    /// Roots, certificates, a whole configuration. Default: the operating system's trust roots. Without the adapter's
    /// feature `tls` there is nothing to set.
    pub fn tls(mut self, tls: P::Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Starts the client on the current runtime. Resolves once the handler's `init` has run, before anything connects.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its first poll, nothing is started. Dropped while `init` runs, the client is detached: it goes on,
    /// until nobody can reach it and it is disconnected.
    ///
    /// # Errors
    ///
    /// No runtime, a name in use, or `init` failed.
    pub async fn start<H, I>(self, handler: H) -> Result<Client<H, I, P>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        self.start_with(|_| handler).await
    }

    /// [`start`](Self::start) with a handler that gets the client's own handle.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its first poll, nothing is started. Dropped while `init` runs, the client is detached: it goes on,
    /// until nobody can reach it and it is disconnected.
    ///
    /// # Errors
    ///
    /// No runtime, a name in use, or `init` failed.
    pub async fn start_with<H, I>(self, make: impl FnOnce(Handle<I>) -> H) -> Result<Client<H, I, P>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        if !P::is_running() {
            return Err(StartError::NoRuntime);
        }
        let (platform, setup) = self.into_parts();
        let handler = make(setup.own_handle());
        let (client, life) = setup.client(platform.map_err(StartError::Runtime)?, handler);
        P::spawn(life);
        client.started().await?;
        Ok(client.on())
    }

    /// The same client as a future, for the user to spawn, join, supervise. It resolves when the client has ended;
    /// without reconnection that is after its one connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping it aborts the client: the connection is closed at once, without a Close, everybody who waits is answered,
    /// and no callback runs. The handler is dropped with it.
    ///
    /// # Errors
    ///
    /// As [`Client::join`].
    pub fn run<H, I>(self, handler: H) -> impl Future<Output = Result<H, JoinError<H>>> + Send + use<P, H, I>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        let (platform, setup) = self.into_parts();
        Self::run_on(platform, setup, handler)
    }

    /// [`run`](Self::run) with a handler that gets the client's own handle.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// As [`Client::join`].
    pub fn run_with<H, I, F>(self, make: F) -> impl Future<Output = Result<H, JoinError<H>>> + Send + use<P, H, I, F>
    where
        F: FnOnce(Handle<I>) -> H,
        H: Handler<I>,
        I: Send + 'static,
    {
        let (platform, setup) = self.into_parts();
        let handler = make(setup.own_handle());
        Self::run_on(platform, setup, handler)
    }

    #[expect(clippy::manual_async_fn, reason = "the future has to be Send, which an async fn does not promise")]
    fn run_on<H, I>(
        platform: io::Result<P>,
        setup: Setup<I>,
        handler: H,
    ) -> impl Future<Output = Result<H, JoinError<H>>> + Send + use<P, H, I>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        async move {
            // Here, not at the call: the future may be made outside of the runtime that polls it.
            match running::<P>().and(platform) {
                Ok(platform) => setup.run(platform, handler).await,
                Err(error) => Err(JoinError::new(StopReason::Runtime(error.into()), Some(handler))),
            }
        }
    }

    fn into_parts<I: Send + 'static>(self) -> (io::Result<P>, Setup<I>) {
        (P::create(self.tls), Setup::new(*self.options))
    }

    /// Dials, and does the opening handshake. Name and reconnection are not for this: a [`WebSocket`] is one
    /// connection.
    ///
    /// Cancel-safe: dropped, it abandons the attempt.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`] with what a client's `handle_disconnect` would see; [`Error::Runtime`].
    pub fn connect(self) -> impl Future<Output = Result<WebSocket<P::Transport, P::Clock>, Error>> + use<P> {
        // Boxed: the task that goes on with the socket has no room to keep for how it was dialled.
        Box::pin(async move {
            let platform = platform::<P>(self.tls)?;
            WebSocket::connect(platform, P::clock(), *self.options).await
        })
    }

    /// The opening handshake over a transport that is up, as it is: for `wss://` too, TLS has been seen to. The connect
    /// timeout covers it.
    ///
    /// Cancel-safe: dropped, it closes the transport.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_over<T: Transport>(
        self,
        transport: T,
    ) -> impl Future<Output = Result<WebSocket<T, P::Clock>, Error>> + use<P, T> {
        Box::pin(async move {
            let platform = platform::<P>(self.tls)?;
            let ClientOptions { request, connection, connect_timeout, .. } = *self.options;
            let seed = platform.seed();
            WebSocket::client(P::clock(), transport, &request, pool::config(connection), connect_timeout, seed).await
        })
    }
}

/// A client for a request that was made before. Whether its URL is `wss://` is looked at when it dials.
impl<P: Platform> From<ClientRequest> for ClientBuilder<P> {
    fn from(request: ClientRequest) -> Self {
        Self { options: Box::new(request.into()), tls: P::Tls::default() }
    }
}

/// A [`WebSocket`] over a transport whose opening handshake was done elsewhere: by hyper, axum, or over HTTP/2.
///
/// # Errors
///
/// [`Error::Runtime`]: no runtime around this task, or no unpredictable bytes.
pub fn upgraded<P: Platform, T: Transport>(
    transport: T,
    role: Role,
    agreed: Negotiated,
    config: Config,
) -> Result<WebSocket<T, P::Clock>, Error> {
    let seed = platform::<P>(P::Tls::default())?.seed();
    Ok(WebSocket::upgraded(P::clock(), transport, role, agreed, pool::config(config), BytesMut::new(), seed))
}

/// The platform, where its runtime is around this task.
fn platform<P: Platform>(tls: P::Tls) -> Result<P, Error> {
    running::<P>().and_then(|()| P::create(tls)).map_err(|error| Error::Runtime(error.into()))
}

/// An error outside of the platform's runtime.
pub(super) fn running<P: Platform>() -> io::Result<()> {
    if P::is_running() { Ok(()) } else { Err(io::Error::other("there is no runtime around this task")) }
}
