//! The async-std adapter below the driver, and what only streams of futures-io can do.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_io::{AsyncRead, AsyncWrite};
use parley_async_std::{AsyncStd, Frame, Tls, Transport};
use parley_proto::driver::{Clock, Runtime, TcpOptions, TlsTarget, Transport as _, TransportFacts};
use parley_tests::echo::EchoServer;
use parley_tests::io::{read, read_exact, shutdown, write_all};
use parley_tests::peers::{CA, Server, on_peers, server_config};
use parley_tests::raw::{End, RawConn};

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

/// A transport, its socket once more to look at, and the peer.
async fn fed() -> (Transport, TcpStream, RawConn) {
    let server = Server::bind(false).await;
    let stream = smol::Async::<TcpStream>::connect(server.addr()).await.unwrap();
    let socket = stream.get_ref().try_clone().unwrap();
    (Transport::from(stream), socket, server.accept().await)
}

/// What the next read is done by: one that brought much.
async fn read_much(transport: &mut Transport, socket: &TcpStream, peer: &mut RawConn) {
    peer.send(&[1; 20_000]).await;
    arrived(socket, 20_000).await;
    assert_eq!(read(transport, &mut BytesMut::with_capacity(20_000)).await.unwrap(), 20_000);
}

/// So much has come.
async fn arrived(socket: &TcpStream, len: usize) {
    let mut seen = vec![0; len];
    loop {
        match socket.peek(&mut seen) {
            Ok(n) if n == len => return,
            Ok(n) => assert_ne!(n, 0, "the end"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        smol::future::yield_now().await;
    }
}

/// Held in each of the windows below, but those that are empty.
const HELD: &[u8] = b"held";

/// A window with room for about 50,000 bytes, and what else refers to its memory.
fn window(shape: &str) -> (BytesMut, Option<BytesMut>) {
    const ROOM: usize = 50_000;
    let behind = |len: usize, memory: usize| {
        let mut window = BytesMut::with_capacity(memory);
        window.resize(len, 9);
        window.extend_from_slice(HELD);
        let before = window.split_to(len);
        (window, before)
    };
    match shape {
        "empty" => (BytesMut::with_capacity(ROOM), None),
        "held" => (behind(0, ROOM + HELD.len()).0, None),
        "behind what nobody has any more" => (behind(20_000, 70_000 + HELD.len()).0, None),
        "with little room behind what nobody has any more" => (behind(20_000, 50_000).0, None),
        "behind what somebody keeps" => {
            let (window, before) = behind(20_000, 70_000 + HELD.len());
            (window, Some(before))
        }
        "empty, behind what somebody keeps" => {
            let (mut window, before) = behind(20_000, 70_000 + HELD.len());
            drop(window.split());
            (window, Some(before))
        }
        "a part of a large buffer" => {
            let mut window = behind(20_000, 1024 * 1024).0;
            drop(window.split_off(HELD.len() + ROOM));
            (window, None)
        }
        "more held than there is room for" => {
            let (mut window, _) = behind(20_000, 121_000);
            window.resize(51_000, 9);
            (window, None)
        }
        other => panic!("no shape is called {other}"),
    }
}

const SHAPES: [&str; 8] = [
    "empty",
    "held",
    "behind what nobody has any more",
    "with little room behind what nobody has any more",
    "behind what somebody keeps",
    "empty, behind what somebody keeps",
    "a part of a large buffer",
    "more held than there is room for",
];

#[test]
fn after_much_a_window_of_any_shape_takes_what_it_has_room_for() {
    block_on(async {
        for shape in SHAPES {
            let (mut transport, socket, mut peer) = fed().await;
            read_much(&mut transport, &socket, &mut peer).await;
            let (mut window, kept) = window(shape);
            let (before, room) = (window.clone(), window.capacity() - window.len());
            let sent: Vec<_> = (0..room + 5_000).map(|i| (i % 251) as u8).collect();
            peer.send(&sent).await;
            arrived(&socket, sent.len()).await;
            let n = read(&mut transport, &mut window).await.unwrap();
            // Where nobody has it any more, what lies before a window with much room is room as well.
            let expected = if shape == "behind what nobody has any more" { sent.len() } else { room };
            assert_eq!(n, expected, "{shape}");
            let mut rest = BytesMut::with_capacity(sent.len());
            while n + rest.len() < sent.len() {
                assert_ne!(read(&mut transport, &mut rest).await.unwrap(), 0, "{shape}");
            }
            assert_eq!(window.len(), before.len() + n, "{shape}");
            assert!([&window[..], &rest].concat() == [&before[..], &sent].concat(), "{shape}");
            assert!(kept.is_none_or(|kept| kept.iter().all(|byte| *byte == 9)), "{shape}");
        }
    });
}

#[test]
fn after_much_a_window_of_any_shape_keeps_what_it_holds_when_nothing_comes() {
    block_on(async {
        for shape in SHAPES {
            let (mut transport, socket, mut peer) = fed().await;
            read_much(&mut transport, &socket, &mut peer).await;
            let (mut window, _kept) = window(shape);
            let (before, room) = (window.clone(), window.capacity() - window.len());
            let polled = poll_fn(|cx| Poll::Ready(transport.poll_read(cx, &mut window))).await;
            assert!(polled.is_pending(), "{shape}: {polled:?}");
            assert_eq!(window, before, "{shape}");
            assert!(window.capacity() - window.len() >= room, "{shape}");
            peer.send(b"more").await;
            while window.len() < before.len() + 4 {
                assert_ne!(read(&mut transport, &mut window).await.unwrap(), 0, "{shape}");
            }
            assert_eq!(window, [&before[..], b"more"].concat(), "{shape}");

            read_much(&mut transport, &socket, &mut peer).await;
            peer.shutdown().await;
            let (mut window, _kept) = self::window(shape);
            assert_eq!(read(&mut transport, &mut window).await.unwrap(), 0, "{shape}");
            assert_eq!(window, before, "{shape}: nor at the end");
        }
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
