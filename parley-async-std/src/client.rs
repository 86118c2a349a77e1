//! A client on async-std: its builder, and what its user holds.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use parley_proto::connection::Keepalive;
use parley_proto::driver::{self, Setup, TcpOptions};
use parley_proto::session::{BuildError, ClientOptions, Reconnect};
use parley_proto::{Handler, Limits, StopReason};

use crate::{AsyncStd, Handle, JoinError, StartError};

/// A client that was started. It derefs to its [`Handle`]; dropping it detaches the client.
///
/// ```no_run
/// # use parley_async_std::{Client, Frame};
/// # async fn example() -> Result<(), parley_async_std::BoxError> {
/// let client = Client::builder("wss://example.com/chat")?.start(()).await?;
/// client.send_frame(Frame::text("hello")).await?;
/// client.stop().await;
/// client.join().await?;
/// # Ok(())
/// # }
/// ```
pub struct Client<H, I = ()>(driver::Client<H, I>);

impl<H, I> fmt::Debug for Client<H, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Client<(), ()> {
    /// The options of a client for a URL, `ws://` or `wss://`. User info in it becomes `Authorization: Basic`.
    ///
    /// # Errors
    ///
    /// Names the part of the URL that is wrong, and why; `wss://` without the feature `tls`.
    pub fn builder(url: &str) -> Result<ClientBuilder, BuildError> {
        let options = ClientOptions::new(url)?;
        if options.request.is_secure() && !AsyncStd::supports_tls() {
            return Err(BuildError::TlsNotBuiltIn);
        }
        Ok(ClientBuilder {
            options,
            #[cfg(feature = "tls")]
            tls: crate::Tls::new(),
        })
    }
}

impl<H, I> Client<H, I> {
    /// Waits for the client's end, and gives the handler back. Gives up this handle: a client that is disconnected
    /// and has no other ends now.
    ///
    /// Not cancel-safe: dropped, it detaches the client.
    ///
    /// # Errors
    ///
    /// The client ended otherwise than by `stop`, `Action::Stop`, or a clean close.
    pub async fn join(self) -> Result<H, JoinError<H>> {
        self.0.join().await
    }

    /// Another handle, for another task.
    #[must_use]
    pub fn handle(&self) -> Handle<I> {
        self.0.handle()
    }
}

impl<H, I> Deref for Client<H, I> {
    type Target = Handle<I>;

    fn deref(&self) -> &Handle<I> {
        &self.0
    }
}

/// A client's options; every one has a default.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started or run"]
pub struct ClientBuilder {
    options: ClientOptions,
    #[cfg(feature = "tls")]
    tls: crate::Tls,
}

impl ClientBuilder {
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
        self.options = self.options.header(name, value)?;
        Ok(self)
    }

    /// Offers a subprotocol, behind those offered before (RFC 6455, section 1.9). Default: none.
    ///
    /// # Errors
    ///
    /// The name is not a token, or offered already.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Result<Self, BuildError> {
        self.options = self.options.subprotocol(name)?;
        Ok(self)
    }

    /// A name in the process, by which [`lookup`](crate::lookup) finds the client; it then lives on though no handle is
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

    /// Roots, certificates, a whole configuration. Default: the operating system's trust roots.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Starts the client as a task of async-std. Resolves once the handler's `init` has run, before anything connects.
    ///
    /// # Errors
    ///
    /// `init` failed. async-std starts its threads when they are needed: there is no [`StartError::NoRuntime`].
    pub async fn start<H, I>(self, handler: H) -> Result<Client<H, I>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        self.start_with(|_| handler).await
    }

    /// [`start`](Self::start) with a handler that gets the client's own handle.
    ///
    /// # Errors
    ///
    /// `init` failed.
    pub async fn start_with<H, I>(self, make: impl FnOnce(Handle<I>) -> H) -> Result<Client<H, I>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        let (runtime, setup) = self.into_parts();
        let handler = make(setup.own_handle());
        let (client, life) = setup.client(runtime.map_err(StartError::Runtime)?, handler);
        async_std::task::spawn(life);
        client.started().await?;
        Ok(Client(client))
    }

    /// The same client as a future, for the user to spawn, join, supervise, on whatever executor. It resolves when the
    /// client has ended; without reconnection that is after its one connection. Dropping it closes the connection at
    /// once.
    ///
    /// # Errors
    ///
    /// As [`Client::join`].
    pub fn run<H, I>(self, handler: H) -> impl Future<Output = Result<H, JoinError<H>>> + Send + use<H, I>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        let (runtime, setup) = self.into_parts();
        Self::run_on(runtime, setup, handler)
    }

    /// [`run`](Self::run) with a handler that gets the client's own handle.
    ///
    /// # Errors
    ///
    /// As [`Client::join`].
    pub fn run_with<H, I, F>(self, make: F) -> impl Future<Output = Result<H, JoinError<H>>> + Send + use<H, I, F>
    where
        F: FnOnce(Handle<I>) -> H,
        H: Handler<I>,
        I: Send + 'static,
    {
        let (runtime, setup) = self.into_parts();
        let handler = make(setup.own_handle());
        Self::run_on(runtime, setup, handler)
    }

    #[expect(clippy::manual_async_fn, reason = "the future has to be Send, which an async fn does not promise")]
    fn run_on<H, I>(
        runtime: io::Result<AsyncStd>,
        setup: Setup<I>,
        handler: H,
    ) -> impl Future<Output = Result<H, JoinError<H>>> + Send + use<H, I>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        async move {
            match runtime {
                Ok(runtime) => setup.run(runtime, handler).await,
                Err(error) => Err(JoinError::new(StopReason::Runtime(error.into()), Some(handler))),
            }
        }
    }

    fn into_parts<I: Send + 'static>(self) -> (io::Result<AsyncStd>, Setup<I>) {
        let runtime = AsyncStd::new();
        #[cfg(feature = "tls")]
        let runtime = runtime.map(|runtime| runtime.with_tls(self.tls));
        (runtime, Setup::new(self.options))
    }
}
