//! An adapter below the driver: its `Runtime`, and its transport by hand, over loopback.
//!
//! One list for every runtime, used as `scenarios` is: a runtime's test includes this file with `#[macro_use] #[path]`,
//! has a module `adapter` with the adapter's `Tls`, `Platform` (its `Runtime`) and `platform(Tls)`, and in a module with
//! `fn block_on` it calls `transport_tests!()`.

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parley_proto::driver::{Clock, Runtime, TcpOptions, TlsError, TlsTarget, Transport as _};
use parley_tests::ca::Ca;
use parley_tests::io::{read, read_exact, shutdown, write_all};
use parley_tests::peers::{on_peers, refusing, spawn};
use rustls::{AlertDescription, CertificateError, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::adapter::{Platform, Tls, platform};

type Transport = <Platform as Runtime>::Transport;

/// A test of each, on `super::block_on`.
macro_rules! transport_tests {
    () => {
        transport_tests! {
            a_plain_transport_echoes_and_shuts_down_by_halves,
            a_read_appends_and_keeps_to_the_spare_capacity,
            what_comes_after_a_short_read_is_read,
            a_window_keeps_what_it_holds_also_after_a_full_read,
            windows_of_any_size_take_a_stream_in_order,
            windows_of_any_size_take_a_stream_in_order_over_tls,
            a_reset_is_an_error_to_read_and_none_to_shut_down,
            a_refused_dial_is_the_systems_error,
            tcp_options_are_set_before_the_hook_sees_the_socket,
            the_hooks_error_fails_the_attempt,
            a_local_address_of_the_other_family_is_refused,
            names_and_literals_resolve_with_the_port,
            a_tls_transport_echoes_and_shuts_down_by_halves,
            an_address_is_verified_as_an_address,
            a_certificate_of_an_unknown_authority_fails_the_handshake,
            a_certificate_for_another_name_fails_the_handshake,
            another_server_name_can_be_asked_for,
            a_name_that_no_certificate_can_carry_is_told_apart,
            a_ready_configuration_offers_http_1_alone,
            a_client_certificate_is_shown_to_a_server_that_asks,
            a_root_that_is_no_certificate_makes_tls_unavailable,
            a_system_without_trust_roots_makes_tls_unavailable,
            a_peer_that_does_not_speak_tls_fails_the_handshake,
            a_transport_that_ends_in_the_handshake_is_an_io_error,
            a_dropped_handshake_closes_the_connection,
            a_tls_stream_cut_between_records_is_unexpected_eof,
            a_tls_stream_cut_inside_a_record_is_unexpected_eof,
            one_read_takes_many_small_records,
            many_slices_arrive_in_order_over_tls,
            a_sleep_fires_and_stays_due,
            an_earlier_moment_replaces_a_later_one,
            a_later_moment_replaces_an_earlier_one,
            a_moment_in_the_past_is_due_at_once,
        }

        #[test]
        #[ignore = "needs an environment without trust roots: a_system_without_trust_roots_makes_tls_unavailable"]
        fn without_trust_roots() {
            block_on($crate::transports::without_trust_roots());
        }
    };
    ($($name:ident,)*) => {
        $(#[test]
        fn $name() {
            parley_tests::peers::within_deadline(|| block_on($crate::transports::$name()));
        })*
    };
}

const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// Accepts one connection and hands it to `peer`.
async fn serve<F, T>(peer: impl FnOnce(TcpStream) -> F + Send + 'static) -> (SocketAddr, JoinHandle<T>)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let listener = on_peers(TcpListener::bind(ANY_PORT)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        peer(stream).await
    });
    (addr, task)
}

/// Sends what it is given, piece by piece, and ends when the sender is dropped.
async fn serve_what_is_given() -> (tokio::sync::mpsc::Sender<&'static [u8]>, SocketAddr, JoinHandle<()>) {
    let (go, mut gone) = tokio::sync::mpsc::channel::<&'static [u8]>(1);
    let (addr, server) = serve(async move |mut stream: TcpStream| {
        while let Some(bytes) = gone.recv().await {
            stream.write_all(bytes).await.unwrap();
        }
    })
    .await;
    (go, addr, server)
}

/// The same as [`serve`], under TLS.
async fn serve_tls<F, T>(
    config: Arc<ServerConfig>,
    peer: impl FnOnce(TlsStream<TcpStream>) -> F + Send + 'static,
) -> (SocketAddr, JoinHandle<T>)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    serve(async move |stream| peer(TlsAcceptor::from(config).accept(stream).await.unwrap()).await).await
}

/// Accepts one connection whose TLS handshake must fail, and gives the server's view of why.
async fn refuse_tls(config: Arc<ServerConfig>) -> (SocketAddr, JoinHandle<rustls::Error>) {
    serve(async move |stream| {
        let error = TlsAcceptor::from(config).accept(stream).await.expect_err("the client goes away");
        error.downcast::<rustls::Error>().expect("by an alert")
    })
    .await
}

async fn echo(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            n => stream.write_all(&buffer[..n]).await.unwrap(),
        }
        stream.flush().await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

async fn dial(platform: &Platform, addr: SocketAddr) -> Transport {
    platform.dial(addr, &TcpOptions::default()).await.unwrap()
}

async fn dial_tls(tls: Tls, addr: SocketAddr, name: &str) -> Result<Transport, TlsError> {
    let platform = platform(tls);
    let transport = dial(&platform, addr).await;
    platform.start_tls(transport, &TlsTarget::new(name)).await
}

/// rustls's reason for a failed handshake.
fn reason(result: Result<Transport, TlsError>) -> rustls::Error {
    match result {
        Err(TlsError::Handshake(error)) => error.downcast_ref::<rustls::Error>().expect("rustls's own error").clone(),
        other => panic!("{other:?}"),
    }
}

async fn check_echo(transport: &mut Transport) {
    write_all(transport, &mut [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")]).await.unwrap();
    assert_eq!(read_exact(transport, 5).await.unwrap(), "abcde");
    // Reading goes on after our end is shut, and shutting it again is harmless.
    write_all(transport, &mut [IoSlice::new(b"last")]).await.unwrap();
    shutdown(transport).await.unwrap();
    assert_eq!(read_exact(transport, 4).await.unwrap(), "last");
    assert_eq!(read(transport, &mut BytesMut::with_capacity(16)).await.unwrap(), 0, "a clean end");
    shutdown(transport).await.unwrap();
}

// Plain TCP

pub(crate) async fn a_plain_transport_echoes_and_shuts_down_by_halves() {
    let (addr, server) = serve(echo).await;
    let mut transport = dial(&platform(Tls::new()), addr).await;
    let facts = transport.facts();
    assert_eq!(facts.peer_addr, Some(addr));
    assert_eq!(facts.local_addr.unwrap().ip(), Ipv4Addr::LOCALHOST);
    assert_eq!(facts.tls, None);
    check_echo(&mut transport).await;
    server.await.unwrap();
}

pub(crate) async fn a_read_appends_and_keeps_to_the_spare_capacity() {
    let (addr, server) = serve(async |mut stream: TcpStream| stream.write_all(b"0123456789").await.unwrap()).await;
    let mut transport = dial(&platform(Tls::new()), addr).await;
    server.await.unwrap();

    let mut window = BytesMut::with_capacity(8);
    window.extend_from_slice(b"got:");
    assert_eq!(read(&mut transport, &mut window).await.unwrap(), 4);
    assert_eq!(window, "got:0123");
    assert_eq!(window.capacity(), 8);
}

/// A transport may wait instead of reading where the last read was short: neither bytes nor the end may be missed then,
/// wherever they come in between.
pub(crate) async fn what_comes_after_a_short_read_is_read() {
    let (go, addr, server) = serve_what_is_given().await;
    let mut transport = dial(&platform(Tls::new()), addr).await;
    let mut window = BytesMut::with_capacity(64);
    for (bytes, polled_first) in [(&b"one"[..], false), (b"two", true), (b"three", false), (b"four", true)] {
        if polled_first {
            let polled = poll_fn(|cx| Poll::Ready(transport.poll_read(cx, &mut window))).await;
            assert!(polled.is_pending(), "{polled:?}");
        }
        go.send(bytes).await.unwrap();
        window.clear();
        while window.len() < bytes.len() {
            assert_ne!(read(&mut transport, &mut window).await.unwrap(), 0);
        }
        assert_eq!(window, bytes);
    }
    drop(go);
    server.await.unwrap();
    assert_eq!(read(&mut transport, &mut window).await.unwrap(), 0);
    assert_eq!(read(&mut transport, &mut window).await.unwrap(), 0, "and again");
}

/// A transport may read in another way where the last read took all there was room for.
pub(crate) async fn a_window_keeps_what_it_holds_also_after_a_full_read() {
    let (go, addr, server) = serve_what_is_given().await;
    let mut transport = dial(&platform(Tls::new()), addr).await;
    go.send(b"0123").await.unwrap();
    let mut window = BytesMut::with_capacity(4);
    while window.len() < 4 {
        assert_ne!(read(&mut transport, &mut window).await.unwrap(), 0);
    }
    assert_eq!(window, "0123");

    let mut window = BytesMut::with_capacity(64);
    window.extend_from_slice(b"got:");
    let polled = poll_fn(|cx| Poll::Ready(transport.poll_read(cx, &mut window))).await;
    assert!(polled.is_pending(), "{polled:?}");
    assert_eq!(window, "got:", "nothing came");
    go.send(b"45").await.unwrap();
    while window.len() < 6 {
        assert_ne!(read(&mut transport, &mut window).await.unwrap(), 0);
    }
    assert_eq!((window.as_ref(), window.capacity()), (&b"got:45"[..], 64));
    drop(go);
    server.await.unwrap();
    assert_eq!(read(&mut transport, &mut window).await.unwrap(), 0);
    assert_eq!(window, "got:45", "nor at the end");
}

pub(crate) async fn windows_of_any_size_take_a_stream_in_order() {
    let sent = long_stream();
    let bytes = sent.clone();
    let (addr, server) = serve(async move |mut stream: TcpStream| stream.write_all(&bytes).await.unwrap()).await;
    take_in_order(dial(&platform(Tls::new()), addr).await, &sent).await;
    server.await.unwrap();
}

pub(crate) async fn windows_of_any_size_take_a_stream_in_order_over_tls() {
    let sent = long_stream();
    let bytes = sent.clone();
    let ca = Ca::new("trusted");
    let (addr, server) = serve_tls(ca.server_config(&[]), async move |mut stream| {
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let transport = dial_tls(Tls::new().root_certificate(ca.root()), addr, "localhost").await.unwrap();
    take_in_order(transport, &sent).await;
    server.await.unwrap();
}

/// 2 MiB, which repeat at no power of two.
fn long_stream() -> Vec<u8> {
    (0..2 * 1024 * 1024_u32).map(|i| (i % 251) as u8).collect()
}

/// Windows with room for a byte to more than any system call brings, which hold something already.
async fn take_in_order(mut transport: Transport, sent: &[u8]) {
    let mut got = Vec::new();
    for room in [1, 14, 4096, 65_536, 65_560, 131_072, 1_048_576].into_iter().cycle() {
        let mut window = BytesMut::with_capacity(4 + room);
        window.extend_from_slice(b"got:");
        let n = read(&mut transport, &mut window).await.unwrap();
        assert!(n <= room && window.len() == 4 + n, "{n} of {room}, {} held", window.len());
        let (before, new) = window.split_at(4);
        assert_eq!(before, b"got:");
        got.extend_from_slice(new);
        if n == 0 {
            break;
        }
    }
    assert!(got == sent, "{} bytes, other than the {} sent", got.len(), sent.len());
}

pub(crate) async fn a_reset_is_an_error_to_read_and_none_to_shut_down() {
    let (addr, server) = serve(async |mut stream: TcpStream| {
        // Not before the client knows that it is connected.
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 1);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let mut transport = dial(&platform(Tls::new()), addr).await;
    write_all(&mut transport, &mut [IoSlice::new(b".")]).await.unwrap();
    server.await.unwrap();

    let error = read(&mut transport, &mut BytesMut::with_capacity(16)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    shutdown(&mut transport).await.unwrap();
}

pub(crate) async fn a_refused_dial_is_the_systems_error() {
    let (_socket, addr) = refusing();
    let error = platform(Tls::new()).dial(addr, &TcpOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

pub(crate) async fn tcp_options_are_set_before_the_hook_sees_the_socket() {
    let (addr, server) = serve(async |stream: TcpStream| stream.peer_addr().unwrap().ip()).await;
    let seen = Arc::new(AtomicBool::new(false));
    let platform = platform(Tls::new()).with_socket_hook({
        let seen = Arc::clone(&seen);
        move |socket| {
            assert!(socket.tcp_nodelay()?);
            assert!(socket.keepalive()?);
            // Linux doubles what is asked for.
            assert!(socket.send_buffer_size()? >= 20_000 && socket.recv_buffer_size()? >= 30_000);
            assert!(socket.send_buffer_size()? < 100_000 && socket.recv_buffer_size()? < 100_000);
            assert!(socket.peer_addr().is_err(), "not connected yet");
            seen.store(true, Ordering::Relaxed);
            Ok(())
        }
    });
    let mut options = TcpOptions::default();
    options.keepalive = Some(Duration::from_secs(60));
    options.send_buffer = Some(20_000);
    options.recv_buffer = Some(30_000);
    options.local_addr = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)));
    let transport = platform.dial(addr, &options).await.unwrap();
    assert!(seen.load(Ordering::Relaxed));
    assert_eq!(transport.facts().local_addr.unwrap().ip(), options.local_addr.unwrap());
    assert_eq!(server.await.unwrap(), options.local_addr.unwrap());
}

pub(crate) async fn the_hooks_error_fails_the_attempt() {
    let platform = platform(Tls::new()).with_socket_hook(|_| Err(ErrorKind::PermissionDenied.into()));
    let error = platform.dial(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), &TcpOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

pub(crate) async fn a_local_address_of_the_other_family_is_refused() {
    let mut options = TcpOptions::default();
    options.local_addr = Some(IpAddr::V6(Ipv6Addr::LOCALHOST));
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let error = platform(Tls::new()).dial(addr, &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

pub(crate) async fn names_and_literals_resolve_with_the_port() {
    let platform = platform(Tls::new());
    assert_eq!(platform.resolve("127.0.0.1", 80).await.unwrap(), [SocketAddr::from((Ipv4Addr::LOCALHOST, 80))]);
    assert_eq!(platform.resolve("::1", 443).await.unwrap(), [SocketAddr::from((Ipv6Addr::LOCALHOST, 443))]);
    let addrs = platform.resolve("localhost", 9001).await.unwrap();
    assert!(!addrs.is_empty() && addrs.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 9001), "{addrs:?}");
    // A label over 63 bytes: refused without asking a server.
    assert!(platform.resolve(&"a".repeat(64), 80).await.is_err());
}

// TLS

pub(crate) async fn a_tls_transport_echoes_and_shuts_down_by_halves() {
    let ca = Ca::new("trusted");
    let (addr, server) = serve_tls(ca.server_config(&["h2", "http/1.1"]), async |stream| {
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        echo(stream).await;
        name
    })
    .await;
    let mut transport = dial_tls(Tls::new().root_certificate(ca.root()), addr, "localhost").await.unwrap();

    let facts = transport.facts();
    assert_eq!(facts.peer_addr, Some(addr));
    let tls = facts.tls.unwrap();
    assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
    assert_eq!(tls.alpn, Some(Bytes::from_static(b"http/1.1")));
    assert_eq!(tls.peer_certificates.len(), 1);

    check_echo(&mut transport).await;
    assert_eq!(server.await.unwrap().as_deref(), Some("localhost"));
    assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "the process's default is not ours to set");
}

pub(crate) async fn an_address_is_verified_as_an_address() {
    let ca = Ca::new("trusted");
    let (addr, server) = serve_tls(ca.server_config(&[]), echo).await;
    let mut transport = dial_tls(Tls::new().root_certificate(ca.root()), addr, "127.0.0.1").await.unwrap();
    assert_eq!(transport.facts().tls.unwrap().alpn, None);
    check_echo(&mut transport).await;
    server.await.unwrap();
}

pub(crate) async fn a_certificate_of_an_unknown_authority_fails_the_handshake() {
    let (addr, server) = refuse_tls(Ca::new("unknown").server_config(&[])).await;
    let trusted = Ca::new("trusted");
    let result = dial_tls(Tls::new().root_certificate(trusted.root()), addr, "localhost").await;
    assert_eq!(reason(result), rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
    assert_eq!(server.await.unwrap(), rustls::Error::AlertReceived(AlertDescription::UnknownCA));
}

pub(crate) async fn a_certificate_for_another_name_fails_the_handshake() {
    let ca = Ca::new("trusted");
    let (addr, server) = refuse_tls(ca.server_config(&[])).await;
    let result = dial_tls(Tls::new().root_certificate(ca.root()), addr, "elsewhere.example").await;
    assert!(matches!(
        reason(result),
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
    ));
    assert_eq!(server.await.unwrap(), rustls::Error::AlertReceived(AlertDescription::BadCertificate));
}

pub(crate) async fn another_server_name_can_be_asked_for() {
    let ca = Ca::new("trusted");
    let (addr, server) = serve_tls(ca.server_config(&[]), echo).await;
    let tls = Tls::new().root_certificate(ca.root()).server_name("localhost");
    let mut transport = dial_tls(tls, addr, "elsewhere.example").await.unwrap();
    check_echo(&mut transport).await;
    server.await.unwrap();
}

pub(crate) async fn a_name_that_no_certificate_can_carry_is_told_apart() {
    let (addr, server) = serve(async |mut stream: TcpStream| stream.read(&mut [0; 16]).await.unwrap()).await;
    let result = dial_tls(Tls::new(), addr, "not a name").await;
    assert!(matches!(result, Err(TlsError::ServerName(name)) if name == "not a name"));
    assert_eq!(server.await.unwrap(), 0, "nothing was sent");
}

pub(crate) async fn a_ready_configuration_offers_http_1_alone() {
    let ca = Ca::new("trusted");
    let (addr, server) = serve_tls(ca.server_config(&["h2", "http/1.1"]), echo).await;
    let mut config = ca.client_config();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut transport = dial_tls(Tls::with_config(Arc::new(config)), addr, "localhost").await.unwrap();
    assert_eq!(transport.facts().tls.unwrap().alpn, Some(Bytes::from_static(b"http/1.1")));
    check_echo(&mut transport).await;
    server.await.unwrap();
}

pub(crate) async fn a_client_certificate_is_shown_to_a_server_that_asks() {
    let ca = Ca::new("trusted");
    let (chain, key) = ca.issue(&["client.example"]);
    let secret = format!("{:?}", key.secret_der());
    let tls = Tls::new().root_certificate(ca.root()).client_certificate(chain.clone(), key);
    assert!(!format!("{tls:?}").contains(secret.trim_matches(['[', ']'])), "the key stays out of Debug");
    let (addr, server) = serve_tls(ca.server_config_with_client_auth(), async |stream| {
        let shown = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        echo(stream).await;
        shown
    })
    .await;
    let mut transport = dial_tls(tls, addr, "localhost").await.unwrap();
    check_echo(&mut transport).await;
    assert_eq!(server.await.unwrap(), chain);
}

pub(crate) async fn a_root_that_is_no_certificate_makes_tls_unavailable() {
    let (addr, server) = serve(async |mut stream: TcpStream| stream.read(&mut [0; 16]).await.unwrap()).await;
    let result = dial_tls(Tls::new().root_certificate(b"no DER".to_vec()), addr, "localhost").await;
    assert!(matches!(result, Err(TlsError::Unavailable(_))), "{result:?}");
    assert_eq!(server.await.unwrap(), 0, "nothing was sent");
}

/// The environment is the process's, so that the case runs in one of its own.
pub(crate) async fn a_system_without_trust_roots_makes_tls_unavailable() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["without_trust_roots", "--ignored"])
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
}

pub(crate) async fn without_trust_roots() {
    let (addr, server) = serve(async |mut stream: TcpStream| stream.read(&mut [0; 16]).await.unwrap()).await;
    let result = dial_tls(Tls::new(), addr, "localhost").await;
    assert!(matches!(result, Err(TlsError::Unavailable(_))), "{result:?}");
    assert_eq!(server.await.unwrap(), 0, "nothing was sent");
}

pub(crate) async fn a_peer_that_does_not_speak_tls_fails_the_handshake() {
    let (addr, server) = serve(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Drains, so that the end is a FIN and no reset.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    })
    .await;
    let result = dial_tls(Tls::new().root_certificate(Ca::new("any").root()), addr, "localhost").await;
    assert!(matches!(reason(result), rustls::Error::InvalidMessage(_)));
    server.await.unwrap();
}

pub(crate) async fn a_transport_that_ends_in_the_handshake_is_an_io_error() {
    let (addr, server) = serve(async |mut stream: TcpStream| {
        assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
    })
    .await;
    let result = dial_tls(Tls::new().root_certificate(Ca::new("any").root()), addr, "localhost").await;
    assert!(matches!(&result, Err(TlsError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof), "{result:?}");
    server.await.unwrap();
}

pub(crate) async fn a_dropped_handshake_closes_the_connection() {
    let (addr, server) = serve(async |mut stream: TcpStream| stream.read_to_end(&mut Vec::new()).await.unwrap()).await;
    let tls = Tls::with_config(Arc::new(Ca::new("any").client_config()));
    let platform = platform(tls);
    let transport = dial(&platform, addr).await;
    let mut handshake = Box::pin(platform.start_tls(transport, &TlsTarget::new("localhost")));
    let polled = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
    assert!(polled.is_pending(), "{polled:?}");
    drop(handshake);
    server.await.unwrap();
}

pub(crate) async fn a_tls_stream_cut_between_records_is_unexpected_eof() {
    let ca = Ca::new("trusted");
    let (addr, server) = serve_tls(ca.server_config(&[]), async |mut stream| {
        stream.write_all(b"whole").await.unwrap();
        stream.flush().await.unwrap();
        // Dropped without `close_notify`: the socket sends a bare FIN.
    })
    .await;
    let mut transport = dial_tls(Tls::new().root_certificate(ca.root()), addr, "localhost").await.unwrap();
    server.await.unwrap();
    assert_eq!(read_exact(&mut transport, 5).await.unwrap(), "whole");
    let error = read(&mut transport, &mut BytesMut::with_capacity(16)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

pub(crate) async fn a_tls_stream_cut_inside_a_record_is_unexpected_eof() {
    let ca = Ca::new("trusted");
    let (addr, server) = serve_tls(ca.server_config(&[]), async |stream| {
        let (mut tcp, mut session) = stream.into_inner();
        session.writer().write_all(b"never seen").unwrap();
        let mut wire = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut wire).unwrap();
        }
        wire.pop();
        tcp.write_all(&wire).await.unwrap();
    })
    .await;
    let mut transport = dial_tls(Tls::new().root_certificate(ca.root()), addr, "localhost").await.unwrap();
    server.await.unwrap();
    let error = read(&mut transport, &mut BytesMut::with_capacity(64)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

pub(crate) async fn one_read_takes_many_small_records() {
    let ca = Ca::new("trusted");
    let (addr, server) = serve_tls(ca.server_config(&[]), async |mut stream| {
        for digit in b"0123456789" {
            stream.write_all(&[*digit]).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    })
    .await;
    let mut transport = dial_tls(Tls::new().root_certificate(ca.root()), addr, "localhost").await.unwrap();
    server.await.unwrap();
    let mut window = BytesMut::with_capacity(64);
    assert_eq!(read(&mut transport, &mut window).await.unwrap(), 10);
    assert_eq!(window, "0123456789");
    assert_eq!(read(&mut transport, &mut window).await.unwrap(), 0);
}

pub(crate) async fn many_slices_arrive_in_order_over_tls() {
    // 3,000 slices of 0 to 600 bytes, far more than rustls buffers and one system call takes.
    let parts: Vec<Vec<u8>> = (0..3_000_usize).map(|i| vec![i as u8; i * 7 % 601]).collect();
    let whole = parts.concat();
    let ca = Ca::new("trusted");
    let (addr, server) = serve_tls(ca.server_config(&[]), async |mut stream| {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        got
    })
    .await;
    let mut transport = dial_tls(Tls::new().root_certificate(ca.root()), addr, "localhost").await.unwrap();

    let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let first = poll_fn(|cx| transport.poll_write(cx, &slices)).await.unwrap();
    assert!(first > parts[..10].concat().len(), "one write takes many slices: {first} bytes");
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, first);
    write_all(&mut transport, rest).await.unwrap();
    shutdown(&mut transport).await.unwrap();
    assert!(server.await.unwrap() == whole);
}

// Time

/// Longer than any test.
const FAR: Duration = Duration::from_secs(3600);
const NEAR: Duration = Duration::from_millis(5);

fn poll_sleep(platform: &mut Platform, until: Instant) -> Poll<()> {
    platform.poll_sleep(&mut Context::from_waker(Waker::noop()), until)
}

async fn sleep(platform: &mut Platform, until: Instant) {
    poll_fn(|cx| platform.poll_sleep(cx, until)).await;
    assert!(platform.now() >= until);
}

pub(crate) async fn a_sleep_fires_and_stays_due() {
    let mut platform = platform(Tls::new());
    let until = platform.now() + NEAR;
    sleep(&mut platform, until).await;
    assert_eq!(poll_sleep(&mut platform, until), Poll::Ready(()), "and stays due");
    let until = platform.now() + NEAR;
    sleep(&mut platform, until).await;
}

pub(crate) async fn an_earlier_moment_replaces_a_later_one() {
    let mut platform = platform(Tls::new());
    let start = platform.now();
    assert_eq!(poll_sleep(&mut platform, start + FAR), Poll::Pending);
    sleep(&mut platform, start + NEAR).await;
    assert!(platform.now() < start + FAR);
}

pub(crate) async fn a_later_moment_replaces_an_earlier_one() {
    let mut platform = platform(Tls::new());
    let start = platform.now();
    // It may have fired by the second poll, on a slow machine.
    let _ = poll_sleep(&mut platform, start + NEAR);
    sleep(&mut platform, start + 4 * NEAR).await;
    // And once more, from a timer that has fired.
    sleep(&mut platform, start + 8 * NEAR).await;
}

pub(crate) async fn a_moment_in_the_past_is_due_at_once() {
    let mut platform = platform(Tls::new());
    let past = platform.now();
    sleep(&mut platform, past + NEAR).await;
    assert_eq!(poll_sleep(&mut platform, past), Poll::Ready(()));
}
