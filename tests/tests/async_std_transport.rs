//! The async-std adapter below the driver, and what only streams of futures-io can do.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_io::{AsyncRead, AsyncWrite};
use parley_async_std::{AsyncStd, Frame, Tls, Transport};
use parley_proto::driver::{Clock, Runtime, TcpOptions, TlsTarget, Transport as _, TransportFacts};
use parley_tests::echo::EchoServer;
use parley_tests::io::{read, read_exact, shutdown, write_all};
use parley_tests::peers::{CA, Server, on_peers, server_config};
use parley_tests::raw::End;

mod adapter {
    pub(crate) use parley_async_std::{AsyncStd as Platform, Tls};

    pub(crate) fn platform(tls: Tls) -> Platform {
        Platform::new().unwrap().with_tls(tls)
    }
}

#[macro_use]
#[path = "../src/transports.rs"]
mod transports;

fn block_on(future: impl Future<Output = ()>) {
    async_std::task::block_on(future);
}

transport_tests!();

/// Both directions, the outgoing one to its end first.
async fn check(mut transport: impl parley_proto::driver::Transport, server: &Server) {
    let mut peer = server.accept().await;
    write_all(&mut transport, &mut [IoSlice::new(b"ab"), IoSlice::new(b"c")]).await.unwrap();
    shutdown(&mut transport).await.unwrap();
    assert_eq!(peer.end().await, End::Fin);
    assert_eq!(peer.received(), b"abc");
    peer.send(b"back").await;
    peer.shutdown().await;
    assert_eq!(read_exact(&mut transport, 4).await.unwrap(), "back");
    assert_eq!(read(&mut transport, &mut BytesMut::with_capacity(16)).await.unwrap(), 0);
}

#[test]
fn a_stream_of_async_stds_becomes_a_transport() {
    block_on(async {
        let server = Server::bind(false).await;
        let stream = async_std::net::TcpStream::connect(server.addr()).await.unwrap();
        let transport = Transport::from(stream);
        assert_eq!(transport.facts().peer_addr, Some(server.addr()));
        check(transport, &server).await;
    });
}

#[test]
fn a_stream_of_smols_becomes_a_transport() {
    smol::block_on(async {
        let server = Server::bind(false).await;
        let transport = Transport::new(smol::net::TcpStream::connect(server.addr()).await.unwrap());
        assert_eq!(transport.facts(), TransportFacts::default());
        let transport = transport.with_facts(smols_facts);
        assert_eq!(transport.facts().peer_addr, Some(server.addr()));
        check(transport, &server).await;
    });
}

fn smols_facts(stream: &smol::net::TcpStream) -> TransportFacts {
    TransportFacts::new(stream.local_addr().ok(), stream.peer_addr().ok())
}

#[test]
fn tls_runs_over_a_stream_of_smols() {
    smol::block_on(async {
        let server = Server::bind(true).await;
        let runtime = AsyncStd::new().unwrap().with_tls(Tls::new().root_certificate(CA.root()));
        let stream = smol::net::TcpStream::connect(server.addr()).await.unwrap();
        let accept = async {
            let mut peer = server.accept().await;
            peer.send(b"secret").await;
            peer.shutdown().await;
        };
        let target = TlsTarget::new("localhost");
        let handshake = runtime.start_tls_over(Transport::new(stream).with_facts(smols_facts), &target);
        let (transport, ()) = tokio::join!(handshake, accept);
        let mut transport = transport.unwrap();
        let facts = transport.facts();
        assert_eq!((facts.peer_addr, facts.tls.is_some()), (Some(server.addr()), true));
        assert_eq!(read_exact(&mut transport, 6).await.unwrap(), "secret");
        assert_eq!(read(&mut transport, &mut BytesMut::with_capacity(16)).await.unwrap(), 0, "a clean end");
    });
}

/// A stream inside another: a read of it is a read of a transport, on the same thread.
struct Tunnel(Transport);

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut window = BytesMut::with_capacity(buffer.len());
        self.0.poll_read(cx, &mut window).map_ok(|n| {
            buffer[..n].copy_from_slice(&window);
            n
        })
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}

#[test]
fn a_transport_runs_inside_another() {
    block_on(async {
        let server = Server::bind(false).await;
        let outer = AsyncStd::new().unwrap().dial(server.addr(), &TcpOptions::default()).await.unwrap();
        check(Transport::new(Tunnel(outer)), &server).await;
    });
}

/// Takes nothing.
struct Stuck;

impl AsyncRead for Stuck {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
}

impl AsyncWrite for Stuck {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(0))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_stream_that_takes_nothing_is_an_error() {
    block_on(async {
        let mut transport = Transport::new(Stuck);
        let error = poll_fn(|cx| transport.poll_write(cx, &[IoSlice::new(b"a")])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WriteZero);
        // Under TLS it would be offered again and again.
        let handshake = AsyncStd::new().unwrap().with_tls(Tls::with_config(CA.client_config().into()));
        let result = handshake.start_tls_over(Transport::new(Stuck), &TlsTarget::new("localhost")).await;
        assert!(result.is_err());
    });
}

/// The example `smol` in a form that ends by itself.
#[test]
fn a_client_runs_over_streams_of_the_users_own() {
    use parley_proto::driver::Setup;
    use parley_proto::session::ClientOptions;

    struct Smol(AsyncStd);

    impl Clock for Smol {
        fn now(&self) -> std::time::Instant {
            self.0.now()
        }

        fn poll_sleep(&mut self, cx: &mut Context<'_>, until: std::time::Instant) -> Poll<()> {
            self.0.poll_sleep(cx, until)
        }
    }

    impl Runtime for Smol {
        type Transport = Transport<smol::net::TcpStream>;

        fn seed(&self) -> [u8; 32] {
            self.0.seed()
        }

        fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
            self.0.resolve(host, port)
        }

        fn dial(
            &self,
            addr: SocketAddr,
            options: &TcpOptions,
        ) -> impl Future<Output = io::Result<Self::Transport>> + Send + 'static {
            let nodelay = options.nodelay;
            async move {
                let stream = smol::net::TcpStream::connect(addr).await?;
                stream.set_nodelay(nodelay)?;
                Ok(Transport::new(stream))
            }
        }

        fn start_tls(
            &self,
            transport: Self::Transport,
            target: &TlsTarget,
        ) -> impl Future<Output = Result<Self::Transport, parley_proto::driver::TlsError>> + Send + 'static {
            self.0.start_tls_over(transport, target)
        }
    }

    smol::block_on(async {
        let server = on_peers(EchoServer::bind(server_config(true))).await;
        let (handler, mut events) = parley_tests::recorder::recorder();
        let setup = Setup::new(ClientOptions::new(&server.url("/")).unwrap());
        let runtime = AsyncStd::new().unwrap().with_tls(Tls::new().root_certificate(CA.root()));
        let handle = setup.own_handle();
        let client = smol::spawn(setup.run(Smol(runtime), handler));
        events.connected().await;
        handle.send_frame(Frame::text("hello")).await.unwrap();
        assert_eq!(events.frame().await, Frame::text("hello"));
        handle.stop().await;
        client.await.unwrap();
    });
}
