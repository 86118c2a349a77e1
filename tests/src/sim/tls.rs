//! The simulated platform with TLS that is real: rustls, over the simulated pipes.
//!
//! [`SimRuntime`] as a platform gives TLS a fate and leaves the bytes plain, which is what a test of deadlines wants. This
//! one is for those who want an adapter in memory, with all that TLS does to a stream: records, flushes, `close_notify`.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;
use parley_proto::driver::{
    Clock, Platform, Runtime, TcpOptions, Tls, TlsClient, TlsError, TlsFacts, TlsTarget, Transport, TransportFacts,
};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use parley_proto::testing::Listener;

use super::{SimClock, SimRuntime, SimStream, SimTransport};

/// Bytes of one read.
const SCRATCH: usize = 16 * 1024;

/// A simulated connection, plain or under TLS.
pub struct TlsTransport(Layers);

enum Layers {
    Plain(SimTransport),
    Tls(Box<TlsStream<SimStream>>),
}

impl From<SimTransport> for TlsTransport {
    fn from(transport: SimTransport) -> Self {
        Self(Layers::Plain(transport))
    }
}

impl From<TlsStream<SimStream>> for TlsTransport {
    fn from(stream: TlsStream<SimStream>) -> Self {
        Self(Layers::Tls(Box::new(stream)))
    }
}

impl TlsTransport {
    fn into_plain(self) -> Result<SimTransport, TlsError> {
        match self.0 {
            Layers::Plain(transport) => Ok(transport),
            Layers::Tls(_) => Err(TlsError::unavailable("TLS inside TLS")),
        }
    }
}

impl Transport for TlsTransport {
    fn poll_read(&mut self, cx: &mut Context<'_>, window: &mut BytesMut) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Layers::Plain(transport) => Transport::poll_read(transport, cx, window),
            Layers::Tls(stream) => {
                let mut scratch = [0; SCRATCH];
                let room = SCRATCH.min(window.capacity() - window.len());
                let mut read = ReadBuf::new(&mut scratch[..room]);
                ready!(Pin::new(stream).poll_read(cx, &mut read))?;
                window.extend_from_slice(read.filled());
                Poll::Ready(Ok(read.filled().len()))
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Layers::Plain(transport) => Transport::poll_write(transport, cx, bytes),
            Layers::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layers::Plain(transport) => Transport::poll_flush(transport, cx),
            Layers::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layers::Plain(transport) => Transport::poll_shutdown(transport, cx),
            Layers::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn facts(&self) -> TransportFacts {
        match &self.0 {
            Layers::Plain(transport) => transport.facts(),
            Layers::Tls(stream) => {
                let (transport, session) = stream.get_ref();
                transport.0.facts().with_tls(TlsFacts::of_session(session))
            }
        }
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport").field("facts", &self.facts()).finish()
    }
}

/// [`SimRuntime`], but that TLS takes place.
#[derive(Debug)]
pub struct TlsRuntime {
    runtime: SimRuntime,
    client: Arc<TlsClient>,
}

impl Clock for TlsRuntime {
    fn now(&self) -> Instant {
        self.runtime.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.runtime.poll_sleep(cx, until)
    }
}

impl Runtime for TlsRuntime {
    type Transport = TlsTransport;

    fn seed(&self) -> [u8; 32] {
        self.runtime.seed()
    }

    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        self.runtime.resolve(host, port)
    }

    fn dial(
        &self,
        addr: SocketAddr,
        options: &TcpOptions,
    ) -> impl Future<Output = io::Result<TlsTransport>> + Send + 'static {
        let dialled = self.runtime.dial(addr, options);
        async move { Ok(dialled.await?.into()) }
    }

    fn start_tls(
        &self,
        transport: TlsTransport,
        target: &TlsTarget,
    ) -> impl Future<Output = Result<TlsTransport, TlsError>> + Send + 'static {
        let (client, target) = (self.client.clone(), target.clone());
        async move {
            let name = client.server_name(&target)?;
            let connector = TlsConnector::from(client.load()?);
            let stream =
                connector.connect(name, SimStream(transport.into_plain()?)).await.map_err(TlsError::of_handshake)?;
            Ok(TlsStream::from(stream).into())
        }
    }
}

impl Platform for TlsRuntime {
    type Tls = Tls;
    type Clock = SimClock;
    type Listener = Listener;
    type ServerTls = Arc<ServerConfig>;

    const TLS: bool = true;

    fn create(tls: Tls) -> io::Result<Self> {
        Ok(Self { runtime: SimRuntime::create(())?, client: Arc::new(TlsClient::new(tls)) })
    }

    fn clock() -> SimClock {
        <SimRuntime as Platform>::clock()
    }

    fn is_running() -> bool {
        SimRuntime::is_running()
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        SimRuntime::spawn(task);
    }

    fn bind(addr: SocketAddr) -> io::Result<Listener> {
        SimRuntime::bind(addr)
    }

    fn local_addr(listener: &Listener) -> io::Result<SocketAddr> {
        SimRuntime::local_addr(listener)
    }

    async fn accept(listener: &mut Listener, options: &TcpOptions) -> io::Result<TlsTransport> {
        Ok(SimRuntime::accept(listener, options).await?.into())
    }

    fn accept_tls(
        transport: TlsTransport,
        tls: &Arc<ServerConfig>,
    ) -> impl Future<Output = Result<TlsTransport, TlsError>> + Send + 'static {
        let acceptor = TlsAcceptor::from(tls.clone());
        async move {
            let stream = acceptor.accept(SimStream(transport.into_plain()?)).await.map_err(TlsError::of_handshake)?;
            Ok(TlsStream::from(stream).into())
        }
    }
}
