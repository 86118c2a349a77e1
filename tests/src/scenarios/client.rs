//! A client: its handler, its handle, and a server that is played by hand.

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use parley_proto::codec::{CloseFrame, Frame, FrameError};
use parley_proto::connection::Keepalive;
use parley_proto::driver::{Clock, Handle, Runtime, Setup, StartError, TcpOptions, TlsError, TlsTarget};
use parley_proto::handshake::HandshakeError;
use parley_proto::session::{ClientOptions, ClientState};
use parley_proto::{
    Action, BoxError, ConnectPhase, DisconnectReason, Handler, Limits, ProtocolError, SendError, StopReason,
};
use parley_tests::ca::Ca;
use parley_tests::peers;
use parley_tests::raw::{End, frame, header, switching_protocols};
use parley_tests::recorder::{Recorder, Seen, answering, recorder};

use super::{BINARY, Bed, CLOSE, Open, PING, PONG, SHORT, TEXT, close, close_of, disconnected, echo, masked};
use crate::adapter::{self, Client, ClientBuilder, Platform, Tls};

// Messages

pub(crate) async fn text_and_binary_messages_arrive(bed: Bed) {
    let mut open = bed.open().await;
    open.peer.send(&frame(TEXT, "für dich".as_bytes())).await;
    assert_eq!(open.events.frame().await, Frame::text("für dich"));
    open.peer.send(&frame(BINARY, &[0, 0xff, 1])).await;
    assert_eq!(open.events.frame().await, Frame::binary(vec![0, 0xff, 1]));
    open.peer.send(&frame(TEXT, b"")).await;
    assert_eq!(open.events.frame().await, Frame::text(""));
    open.stop().await;
}

pub(crate) async fn a_message_of_a_mebibyte_goes_both_ways(bed: Bed) {
    let payload: Vec<u8> = (0..1024 * 1024_u32).map(|i| (i % 251) as u8).collect();
    let mut open = bed.open().await;
    let bytes = frame(BINARY, &payload);
    let ((), got) = tokio::join!(open.peer.send(&bytes), open.events.frame());
    assert!(got == Frame::binary(payload.clone()));

    let (sent, got) = tokio::join!(open.client.send_frame(got), masked(&mut open.peer));
    sent.unwrap();
    assert!(got == (BINARY, payload));
    open.stop().await;
}

pub(crate) async fn fragments_arrive_as_one_message(bed: Bed) {
    let mut open = bed.open().await;
    // A character of three bytes is cut twice, and a ping stands between.
    for part in [frame(0x01, b"a\xe2"), frame(PING, b"now"), frame(0x00, b"\x82"), frame(0x80, b"\xac.")] {
        open.peer.send(&part).await;
    }
    assert!(matches!(open.events.next().await, Seen::Ping(payload) if payload == "now"));
    assert_eq!(open.events.frame().await, Frame::text("a€."));
    assert_eq!(masked(&mut open.peer).await, (PONG, b"now".to_vec()));

    for part in [frame(0x02, b""), frame(0x00, &[1; 300]), frame(0x80, &[2; 70_000])] {
        open.peer.send(&part).await;
    }
    assert_eq!(open.events.frame().await, Frame::binary([vec![1; 300], vec![2; 70_000]].concat()));
    open.stop().await;
}

pub(crate) async fn a_callback_echoes(bed: Bed) {
    let mut open = bed.open_answering(echo).await;
    for payload in ["one", "two", ""] {
        open.peer.send(&frame(TEXT, payload.as_bytes())).await;
        assert_eq!(masked(&mut open.peer).await, (TEXT, payload.into()));
        assert_eq!(open.events.frame().await, Frame::text(payload));
    }
    open.stop().await;
}

pub(crate) async fn a_ping_is_answered(bed: Bed) {
    let mut open = bed.open().await;
    open.peer.send(&[frame(PING, b"1"), frame(PING, b""), frame(PING, &[7; 125])].concat()).await;
    for payload in [&b"1"[..], b"", &[7; 125]] {
        assert_eq!(masked(&mut open.peer).await, (PONG, payload.to_vec()));
        assert!(matches!(open.events.next().await, Seen::Ping(seen) if seen == payload));
    }
    // A ping of ours, and its pong.
    open.client.send_frame(Frame::ping("there?")).await.unwrap();
    assert_eq!(masked(&mut open.peer).await, (PING, b"there?".to_vec()));
    open.peer.send(&frame(PONG, b"there?")).await;
    assert_eq!(open.events.frame().await, Frame::pong("there?"));
    open.stop().await;
}

// The opening handshake

pub(crate) async fn a_subprotocol_is_agreed_on(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let builder = bed.builder(&server.url("/")).subprotocol("chat.v1").unwrap().subprotocol("chat.v2").unwrap();
    let client = builder.start(handler).await.unwrap();
    let mut peer = server.accept().await;
    let request = peer.upgrade("Sec-WebSocket-Protocol: chat.v2\r\nX-Answer: 42\r\n").await;
    assert_eq!(header(&request, "sec-websocket-protocol"), Some("chat.v1, chat.v2"));
    let connected = events.connected().await;
    assert_eq!(connected.subprotocol(), Some("chat.v2"));
    assert_eq!(connected.headers()["x-answer"], "42");
    assert_eq!(connected.negotiated.status(), 101);
    assert_eq!(connected.transport.peer_addr, Some(server.addr()));
    Open { client, events, peer, request }.stop().await;
}

pub(crate) async fn the_server_sees_headers_and_basic_credentials(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let url = format!("{}://user:p%40ss@{}/path?query=1", bed.scheme(), server.addr());
    let builder = bed.builder(&url).header("x-one", "1").unwrap().header("x-two", "2").unwrap();
    let client = builder.start(handler).await.unwrap();
    let mut peer = server.accept().await;
    let request = peer.upgrade("").await;
    assert!(request.starts_with("GET /path?query=1 HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(&request, "host"), Some(server.addr().to_string().as_str()));
    assert_eq!(header(&request, "upgrade"), Some("websocket"));
    assert_eq!(header(&request, "sec-websocket-version"), Some("13"));
    let credentials = format!("Basic {}", BASE64_STANDARD.encode("user:p@ss"));
    assert_eq!(header(&request, "authorization"), Some(credentials.as_str()));
    assert_eq!((header(&request, "x-one"), header(&request, "x-two")), (Some("1"), Some("2")));
    assert!(request.find("x-one") < request.find("x-two"), "in order: {request}");
    assert!(header(&request, "user-agent").is_some_and(|agent| agent.starts_with("parley")));
    events.connected().await;
    Open { client, events, peer, request }.stop().await;
}

pub(crate) async fn a_header_overrides_the_credentials_of_the_url(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let url = format!("{}://user:pass@{}/", bed.scheme(), server.addr());
    let client = bed.builder(&url).header("authorization", "Bearer x").unwrap().start(handler).await.unwrap();
    let mut peer = server.accept().await;
    let request = peer.upgrade("").await;
    assert_eq!(header(&request, "authorization"), Some("Bearer x"));
    assert_eq!(request.to_ascii_lowercase().matches("authorization:").count(), 1);
    events.connected().await;
    Open { client, events, peer, request }.stop().await;
}

pub(crate) async fn frames_in_the_packet_of_the_101_are_delivered(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let client = bed.builder(&server.url("/")).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    let request = peer.head().await;
    let head = switching_protocols(&request, "");
    peer.send(&[head.as_bytes(), &frame(TEXT, b"first"), &frame(BINARY, b"second")].concat()).await;
    events.connected().await;
    assert_eq!(events.frame().await, Frame::text("first"));
    assert_eq!(events.frame().await, Frame::binary("second"));
    Open { client, events, peer, request }.stop().await;
}

pub(crate) async fn a_refusal_reaches_the_handler(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let client = bed.builder(&server.url("/")).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    let request = peer.head().await;
    peer.send(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 9\r\n\r\nno token\n").await;
    let DisconnectReason::Rejected(rejected) = events.disconnected().await else { panic!("not Rejected") };
    assert_eq!(rejected.status, 401);
    assert_eq!(rejected.headers["www-authenticate"], "Bearer");
    assert_eq!(rejected.body, "no token\n");
    assert_eq!(peer.end().await, End::Fin);
    assert_eq!(peer.received(), request.as_bytes(), "no frame was sent");
    assert_eq!(client.state(), ClientState::Disconnected, "the client lives on");

    let reason = disconnected(client.join().await);
    assert!(matches!(reason, DisconnectReason::Rejected(again) if again.status == 401));
    assert!(matches!(events.terminated().await, StopReason::Disconnected(DisconnectReason::Rejected(_))));
}

pub(crate) async fn hazard_4_a_handshake_that_breaks_the_protocol_sends_no_frame(bed: Bed) {
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let wrong_key = format!("HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{accept}\r\n");
    for (answer, expected) in [
        (Err(wrong_key.as_str()), HandshakeError::AcceptMismatch),
        (Ok("Sec-WebSocket-Protocol: other\r\n"), HandshakeError::SubprotocolNotOffered),
        (Ok("Sec-WebSocket-Extensions: permessage-deflate\r\n"), HandshakeError::ExtensionNotOffered),
    ] {
        let server = bed.server().await;
        let (handler, mut events) = recorder();
        let builder = bed.builder(&server.url("/")).subprotocol("chat").unwrap();
        let client = builder.start(handler).await.unwrap();
        let mut peer = server.accept().await;
        let request = peer.head().await;
        let head = answer.map_or_else(str::to_owned, |lines| switching_protocols(&request, lines));
        peer.send(head.as_bytes()).await;
        match events.disconnected().await {
            DisconnectReason::Protocol(ProtocolError::Handshake(error)) => assert_eq!(error, expected),
            other => panic!("{other:?} instead of {expected:?}"),
        }
        peer.end().await;
        assert_eq!(peer.received(), request.as_bytes(), "no frame was sent");
        let reason = disconnected(client.join().await);
        assert!(matches!(reason, DisconnectReason::Protocol(_)), "{reason:?}");
    }
}

// The closing handshake

pub(crate) async fn the_peer_closes(bed: Bed) {
    for (payload, clean) in [
        (close(1000, "bye"), true),
        (close(1001, ""), true),
        (close(4000, "in your own range"), false),
        (close(1014, ""), false),
        (Vec::new(), false),
    ] {
        let Open { client, mut events, mut peer, .. } = bed.open().await;
        peer.send(&frame(CLOSE, &payload)).await;
        assert_eq!(close_of(&mut peer).await, payload[..payload.len().min(2)], "the code is echoed");
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin);

        let seen = match events.disconnected().await {
            DisconnectReason::Remote(None) => Vec::new(),
            DisconnectReason::Remote(Some(seen)) => close(seen.code().into(), seen.reason()),
            other => panic!("{other:?}"),
        };
        assert_eq!(seen, payload);
        assert_eq!(client.state(), ClientState::Disconnected);
        match client.join().await {
            Ok(_) => assert!(clean, "{payload:?}"),
            Err(error) => {
                assert!(!clean, "{payload:?}: {error}");
                let reason = error.reason().clone();
                assert!(matches!(reason, StopReason::Disconnected(DisconnectReason::Remote(_))), "{reason:?}");
                assert!(error.into_handler().is_some());
            }
        }
        events.terminated().await;
        events.nothing_more().await;
    }
}

/// How a client is asked to close.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Disconnect,
    DisconnectWith,
    Stop,
    StopWith,
    ActionDisconnect,
    ActionStop,
    ActionStopWith,
}

pub(crate) async fn this_side_closes(bed: Bed) {
    use Ask::{ActionDisconnect, ActionStop, ActionStopWith, Disconnect, DisconnectWith, Stop, StopWith};
    for ask in [Disconnect, DisconnectWith, Stop, StopWith, ActionDisconnect, ActionStop, ActionStopWith] {
        let own = CloseFrame::new(4001, "why not").unwrap();
        let action = match ask {
            ActionDisconnect => Action::Disconnect(own.clone()),
            ActionStop => Action::Stop,
            ActionStopWith => Action::StopWith(own.clone()),
            _ => Action::Continue,
        };
        let open = bed.open_answering(move |seen| match seen {
            Seen::Info(_) => action.clone(),
            _ => Action::Continue,
        });
        let Open { client, mut events, mut peer, .. } = open.await;
        match ask {
            Disconnect => client.disconnect().await,
            DisconnectWith => client.disconnect_with(own).await,
            Stop => client.stop().await,
            StopWith => client.stop_with(own).await,
            _ => {
                client.send_info(1).await.unwrap();
                assert!(matches!(events.next().await, Seen::Info(1)));
            }
        }
        let expected = match ask {
            Disconnect | Stop | ActionStop => close(1000, ""),
            _ => close(4001, "why not"),
        };
        assert_eq!(close_of(&mut peer).await, expected, "{ask:?}");
        // What comes behind our Close is not delivered.
        peer.send(&[frame(TEXT, b"late"), frame(CLOSE, &expected)].concat()).await;
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin, "{ask:?}");

        match ask {
            Disconnect | DisconnectWith => assert!(matches!(events.disconnected().await, DisconnectReason::Local)),
            ActionDisconnect => match events.disconnected().await {
                DisconnectReason::Requested(with) => assert_eq!(with.reason(), "why not"),
                other => panic!("{other:?}"),
            },
            _ => {}
        }
        let joined = client.join().await;
        assert!(joined.is_ok() || matches!(ask, ActionDisconnect), "{ask:?}: {joined:?}");
        drop(joined);
        let reason = events.terminated().await;
        match ask {
            Disconnect | DisconnectWith | ActionDisconnect => assert!(matches!(reason, StopReason::Disconnected(_))),
            _ => assert!(matches!(reason, StopReason::Stopped), "{ask:?}: {reason:?}"),
        }
        events.nothing_more().await;
    }
}

// Ends without one

pub(crate) async fn hazard_13_an_end_without_a_close_is_told_apart(bed: Bed) {
    let Open { client, mut events, mut peer, request } = bed.open().await;
    peer.send(&frame(TEXT, b"last")).await;
    peer.shutdown().await;
    assert_eq!(events.frame().await, Frame::text("last"));
    assert!(matches!(events.disconnected().await, DisconnectReason::Eof));
    assert_eq!(peer.end().await, End::Fin);
    assert_eq!(peer.received(), request.as_bytes(), "1006 is never on the wire");
    assert!(matches!(disconnected(client.join().await), DisconnectReason::Eof));
}

pub(crate) async fn hazard_13_a_reset_is_told_apart(bed: Bed) {
    let Open { client, mut events, peer, .. } = bed.open().await;
    peer.reset();
    match events.disconnected().await {
        DisconnectReason::Tcp(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        other => panic!("{other:?}"),
    }
    assert!(matches!(disconnected(client.join().await), DisconnectReason::Tcp(_)));
}

pub(crate) async fn hazard_14_a_cut_tls_stream_is_no_clean_end(bed: Bed) {
    let Open { client, mut events, mut peer, .. } = bed.open().await;
    peer.send(&frame(TEXT, b"last")).await;
    assert_eq!(events.frame().await, Frame::text("last"));
    drop(peer); // a FIN without `close_notify`
    assert!(matches!(events.disconnected().await, DisconnectReason::Eof));
    assert!(matches!(disconnected(client.join().await), DisconnectReason::Eof));
}

// Attempts that fail

pub(crate) async fn a_refused_connection_ends_the_client(bed: Bed) {
    let (_socket, addr) = peers::refusing();
    let (handler, mut events) = recorder();
    let client = bed.builder(&format!("{}://{addr}/", bed.scheme())).start(handler).await.unwrap();
    match disconnected(client.join().await) {
        DisconnectReason::Tcp(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }
    // The very first attempt: no `handle_disconnect`.
    assert!(matches!(events.terminated().await, StopReason::Disconnected(DisconnectReason::Tcp(_))));
    events.nothing_more().await;
}

/// The adapter's own runtime, but that every host has these addresses.
struct Hosts {
    platform: Platform,
    addresses: Vec<SocketAddr>,
}

impl Clock for Hosts {
    fn now(&self) -> Instant {
        self.platform.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.platform.poll_sleep(cx, until)
    }
}

impl Runtime for Hosts {
    type Transport = <Platform as Runtime>::Transport;

    fn seed(&self) -> [u8; 32] {
        self.platform.seed()
    }

    fn resolve(&self, _: &str, _: u16) -> impl Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'static {
        std::future::ready(Ok(self.addresses.clone()))
    }

    fn dial(
        &self,
        addr: SocketAddr,
        options: &TcpOptions,
    ) -> impl Future<Output = std::io::Result<Self::Transport>> + Send + 'static {
        self.platform.dial(addr, options)
    }

    fn start_tls(
        &self,
        transport: Self::Transport,
        target: &TlsTarget,
    ) -> impl Future<Output = Result<Self::Transport, TlsError>> + Send + 'static {
        self.platform.start_tls(transport, target)
    }
}

pub(crate) async fn the_second_address_is_tried(bed: Bed) {
    let (_socket, refusing) = peers::refusing();
    let server = bed.server().await;
    let url = format!("{}://localhost/", bed.scheme());
    let setup = || Setup::new(ClientOptions::new(&url).unwrap());
    let hosts = |addresses| Hosts { platform: adapter::platform(bed.tls.clone()), addresses };

    let (handler, mut events) = recorder();
    let peer = async {
        let mut peer = server.accept().await;
        let request = peer.upgrade("").await;
        assert_eq!(header(&request, "host"), Some("localhost"));
        peer.send(&frame(CLOSE, &close(1000, ""))).await;
        assert_eq!(close_of(&mut peer).await, close(1000, ""));
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin);
    };
    let (ended, ()) = tokio::join!(setup().run(hosts(vec![refusing, server.addr()]), handler), peer);
    ended.unwrap();
    assert_eq!(events.connected().await.transport.peer_addr, Some(server.addr()));

    let (handler, _) = recorder();
    let reason = disconnected(setup().run(hosts(vec![refusing, refusing]), handler).await);
    assert!(matches!(reason, DisconnectReason::Tcp(error) if error.kind() == ErrorKind::ConnectionRefused));
}

pub(crate) async fn a_server_that_does_not_answer_times_out(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let client = bed.builder(&server.url("/")).connect_timeout(SHORT).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    let request = peer.head().await;
    let reason = events.disconnected().await;
    assert!(matches!(reason, DisconnectReason::ConnectTimeout(ConnectPhase::Upgrade)), "{reason:?}");
    peer.end().await;
    assert_eq!(peer.received(), request.as_bytes(), "no frame was sent");
    assert!(matches!(disconnected(client.join().await), DisconnectReason::ConnectTimeout(ConnectPhase::Upgrade)));
}

pub(crate) async fn hazard_18_a_silent_server_is_pinged_and_given_up(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let keepalive = Keepalive::new(Duration::from_millis(200), SHORT).unwrap();
    let client = bed.builder(&server.url("/")).keepalive(Some(keepalive)).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    peer.upgrade("").await;
    let ping = peer.frame().await;
    assert_eq!(ping.first, PING);
    peer.send(&frame(PONG, &ping.payload)).await;
    let again = peer.frame().await;
    assert_eq!(again.first, PING);
    assert_ne!(ping.payload, again.payload);
    events.connected().await;
    let reason = events.disconnected().await; // no frame before it
    assert!(matches!(reason, DisconnectReason::KeepaliveTimeout), "{reason:?}");
    assert!(matches!(disconnected(client.join().await), DisconnectReason::KeepaliveTimeout));
}

pub(crate) async fn hazard_17_a_server_that_takes_nothing_is_given_up(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let write_timeout = Duration::from_millis(300);
    let client = bed.builder(&server.url("/")).write_timeout(write_timeout).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    peer.upgrade("").await;
    events.connected().await;
    // More than the system's buffers hold.
    let error = client.send_frame(Frame::binary(vec![0; 16 * 1024 * 1024])).await.unwrap_err();
    assert!(matches!(error, SendError::Lost(DisconnectReason::WriteTimeout)), "{error:?}");
    let reason = events.disconnected().await;
    assert!(matches!(reason, DisconnectReason::WriteTimeout), "{reason:?}");
}

pub(crate) async fn a_silent_tls_handshake_times_out(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let client = bed.builder(&server.url("/")).connect_timeout(SHORT).start(handler).await.unwrap();
    let _peer = server.accept_tcp().await;
    let reason = disconnected(client.join().await);
    assert!(matches!(reason, DisconnectReason::ConnectTimeout(ConnectPhase::Tls)), "{reason:?}");
    events.terminated().await;
    events.nothing_more().await;
}

pub(crate) async fn an_unknown_authority_ends_the_client(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let other = Tls::with_config(Arc::new(Ca::new("another").client_config()));
    let client = bed.builder(&server.url("/")).tls(other).start(handler).await.unwrap();
    let (ended, refused) = tokio::join!(client.join(), server.try_accept_tls());
    match disconnected(ended) {
        DisconnectReason::Tls(TlsError::Handshake(error)) => assert!(error.to_string().contains("UnknownIssuer")),
        other => panic!("{other:?}"),
    }
    let alert = refused.unwrap_err().to_string();
    assert!(alert.contains("UnknownCA"), "an alert is all that the server sees: {alert}");
    assert!(matches!(events.terminated().await, StopReason::Disconnected(DisconnectReason::Tls(_))));
    events.nothing_more().await;
}

pub(crate) async fn the_handler_sees_what_tls_agreed_on(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let client = bed.builder(&server.url("/")).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    let request = peer.upgrade("").await;
    let tls = events.connected().await.transport.tls.unwrap();
    assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
    assert_eq!(tls.peer_certificates.len(), 1);
    Open { client, events, peer, request }.stop().await;
}

// Sending

pub(crate) async fn a_sent_frame_is_on_the_wire(bed: Bed) {
    let mut open = bed.open().await;
    open.client.send_frame(Frame::text("one")).await.unwrap();
    assert_eq!(masked(&mut open.peer).await, (TEXT, b"one".to_vec()));
    open.client.try_send_frame(Frame::binary("two")).unwrap();
    open.client.feed_frame(Frame::pong("three")).await.unwrap();
    open.client.flush().await.unwrap();
    let mut got = [masked(&mut open.peer).await, masked(&mut open.peer).await];
    got.sort(); // a pong may overtake data that has not begun
    assert_eq!(got, [(BINARY, b"two".to_vec()), (PONG, b"three".to_vec())]);
    let refused = open.client.send_frame(Frame::ping(vec![0; 126])).await;
    assert!(matches!(refused, Err(SendError::ControlTooLong(frame)) if frame.len() == 126));
    open.stop().await;
}

pub(crate) async fn a_full_queue_gives_the_frame_back(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let limits = Limits::client().with_send_queue(1_000).unwrap();
    let client = bed.builder(&server.url("/")).limits(limits).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    // The attempt is under way: what is sent waits.
    assert_eq!(client.state(), ClientState::Connecting);
    client.try_send_frame(Frame::binary(vec![1; 600])).unwrap();
    match client.try_send_frame(Frame::binary(vec![2; 600])) {
        Err(SendError::Full(frame)) => assert_eq!(frame, Frame::binary(vec![2; 600])),
        other => panic!("{other:?}"),
    }
    let request = peer.head().await;
    let wait_for_room = client.feed_frame(Frame::binary(vec![3; 600]));
    let ((), fed) =
        tokio::join!(async { peer.send(switching_protocols(&request, "").as_bytes()).await }, wait_for_room);
    fed.unwrap();
    events.connected().await;
    assert_eq!(masked(&mut peer).await, (BINARY, vec![1; 600]));
    assert_eq!(masked(&mut peer).await, (BINARY, vec![3; 600]));
    client.send_frame(Frame::binary(vec![4; 600])).await.unwrap();
    assert_eq!(masked(&mut peer).await, (BINARY, vec![4; 600]));
    Open { client, events, peer, request }.stop().await;
}

pub(crate) async fn a_refused_send_gives_the_frame_back(bed: Bed) {
    let Open { client, mut events, mut peer, .. } = bed.open().await;
    let handle = client.handle();
    let mine = Frame::text("mine");
    client.disconnect().await;
    close_of(&mut peer).await;
    let refused = handle.try_send_frame(mine.clone());
    assert!(matches!(refused, Err(SendError::Closing(frame)) if frame == mine));
    let refused = handle.send_frame(mine.clone()).await;
    assert!(matches!(refused, Err(SendError::Closing(frame)) if frame == mine));

    peer.send(&frame(CLOSE, &close(1000, ""))).await;
    peer.shutdown().await;
    events.disconnected().await;
    for refused in [
        handle.try_send_frame(mine.clone()),
        handle.send_frame(mine.clone()).await,
        handle.feed_frame(mine.clone()).await,
    ] {
        assert!(matches!(refused, Err(SendError::Disconnected(frame)) if frame == mine));
    }
    client.stop().await;
    client.join().await.unwrap();
    for refused in [
        handle.try_send_frame(mine.clone()),
        handle.send_frame(mine.clone()).await,
        handle.feed_frame(mine.clone()).await,
    ] {
        assert!(matches!(refused, Err(SendError::Stopped(frame)) if frame == mine));
    }
    assert!(handle.flush().await.is_err());
    assert_eq!(handle.send_info(7).await.unwrap_err().into_info(), 7);
}

pub(crate) async fn ten_thousand_fed_frames_arrive_in_order(bed: Bed) {
    let mut open = bed.open().await;
    let Open { client, peer, .. } = &mut open;
    let feed = async {
        for number in 0..10_000_u32 {
            client.feed_frame(Frame::text(number.to_string())).await.unwrap();
        }
        client.flush().await.unwrap();
    };
    let receive = async {
        for number in 0..10_000_u32 {
            assert_eq!(masked(peer).await, (TEXT, number.to_string().into_bytes()));
        }
    };
    tokio::join!(feed, receive);
    open.stop().await;
}

pub(crate) async fn many_tasks_share_a_handle(bed: Bed) {
    const TASKS: usize = 8;
    const EACH: usize = 200;
    let server = bed.echo_server();
    let (handler, mut events) = recorder();
    let client = bed.builder(&server.url("/")).start(handler).await.unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let handle = client.handle();
            // On another runtime than the client's: a handle needs none.
            peers::beside(async move {
                for number in 0..EACH {
                    handle.send_frame(Frame::text(format!("{task} {number}"))).await.unwrap();
                }
            })
        })
        .collect();
    events.connected().await;
    let mut next = [0; TASKS];
    for _ in 0..TASKS * EACH {
        let Frame::Text(text) = events.frame().await else { panic!("not text") };
        let (task, number) = text.split_once(' ').unwrap();
        let next = &mut next[task.parse::<usize>().unwrap()];
        assert_eq!(number.parse(), Ok(*next), "in order");
        *next += 1;
    }
    for task in tasks {
        task.await;
    }
    client.stop().await;
    client.join().await.unwrap();
}

// A client's life

/// What is sent as soon as `start` has returned waits for the connection.
pub(crate) async fn a_started_client_is_connecting(bed: Bed) {
    let server = bed.echo_server();
    for _ in 0..20 {
        let (handler, mut events) = recorder();
        let client = bed.builder(&server.url("/")).start(handler).await.unwrap();
        assert_ne!(client.state(), ClientState::Disconnected);
        client.try_send_frame(Frame::text("at once")).unwrap();
        events.connected().await;
        assert_eq!(events.frame().await, Frame::text("at once"));
        client.stop().await;
        client.join().await.unwrap();
    }
}

pub(crate) async fn an_info_reaches_the_handler_in_every_state(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = answering(|seen| match seen {
        Seen::Info(number) => Action::Push(Frame::text(number.to_string())),
        _ => Action::Continue,
    });
    let client = bed.builder(&server.url("/")).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    client.send_info(1).await.unwrap();
    loop {
        match events.next().await {
            Seen::Init | Seen::Prepare(_) => {}
            Seen::Info(1) => break,
            other => panic!("{other:?}"),
        }
    }
    peer.upgrade("").await;
    events.connected().await;
    client.try_send_info(2).unwrap();
    assert!(matches!(events.next().await, Seen::Info(2)));
    // The push of the first, while connecting, was refused.
    assert_eq!(masked(&mut peer).await, (TEXT, b"2".to_vec()));
    client.disconnect().await;
    assert_eq!(close_of(&mut peer).await, close(1000, ""));
    peer.send(&frame(CLOSE, &close(1000, ""))).await;
    peer.shutdown().await;
    events.disconnected().await;
    client.send_info(3).await.unwrap();
    assert!(matches!(events.next().await, Seen::Info(3)));
    assert_eq!(peer.end().await, End::Fin);
    client.join().await.unwrap();
}

pub(crate) async fn a_disconnected_client_lives_until_it_is_stopped(bed: Bed) {
    let Open { client, mut events, mut peer, .. } = bed.open().await;
    client.wait_for(ClientState::Connected).await.unwrap();
    client.disconnect().await;
    client.disconnect().await;
    assert_eq!(close_of(&mut peer).await, close(1000, ""));
    let answer = async {
        peer.send(&frame(CLOSE, &close(1000, ""))).await;
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin);
    };
    let (waited, ()) = tokio::join!(client.wait_for(ClientState::Disconnected), answer);
    waited.unwrap();
    assert!(matches!(events.disconnected().await, DisconnectReason::Local));
    client.disconnect().await;
    assert_eq!(client.state(), ClientState::Disconnected);
    client.stop().await;
    client.wait_for(ClientState::Stopped).await.unwrap();
    assert!(matches!(client.wait_for(ClientState::Connected).await, Err(StopReason::Stopped)));
    client.stop().await;
    client.disconnect().await;
    client.join().await.unwrap();
    assert!(matches!(events.terminated().await, StopReason::Stopped));
    events.nothing_more().await;
}

pub(crate) async fn a_disconnect_abandons_the_attempt(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let client = bed.builder(&server.url("/")).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    let request = peer.head().await;
    let waiting = client.send_frame(Frame::text("waits"));
    let (refused, ()) = tokio::join!(waiting, client.disconnect());
    assert!(matches!(refused, Err(SendError::Disconnected(frame)) if frame == Frame::text("waits")));
    assert!(matches!(events.disconnected().await, DisconnectReason::Local));
    peer.end().await;
    assert_eq!(peer.received(), request.as_bytes(), "no frame was sent");
    client.join().await.unwrap();
}

pub(crate) async fn a_failing_init_fails_the_start(bed: Bed) {
    struct Fails;

    impl Handler for Fails {
        async fn init(&mut self) -> Result<(), BoxError> {
            Err("no disk".into())
        }
    }

    struct Panics;

    impl Handler for Panics {
        async fn init(&mut self) -> Result<(), BoxError> {
            resume_unwind(Box::new("on purpose"));
        }
    }

    let (_socket, addr) = peers::refusing();
    let builder = || bed.builder(&format!("{}://{addr}/", bed.scheme()));
    match builder().start(Fails).await {
        Err(StartError::Init(error)) => assert_eq!(error.to_string(), "no disk"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(builder().start(Panics).await, Err(StartError::Panicked)));
    let error = builder().run(Fails).await.err().unwrap();
    assert!(matches!(error.reason(), StopReason::Handler(_)), "{error:?}");
    assert!(error.into_handler().is_some());
}

pub(crate) async fn a_run_returns_after_its_one_connection(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let mut own = None;
    let run = bed.builder(&server.url("/")).run_with(|handle: Handle<u32>| {
        own = Some(handle);
        handler
    });
    let peer = async {
        let mut peer = server.accept().await;
        peer.upgrade("").await;
        peer.send(&frame(CLOSE, &close(1000, "done"))).await;
        assert_eq!(close_of(&mut peer).await, close(1000, ""));
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin);
    };
    let (ended, ()) = tokio::join!(run, peer);
    ended.unwrap();
    // The client's own handle has not kept it alive.
    assert_eq!(own.unwrap().state(), ClientState::Stopped);
    events.connected().await;
    assert!(matches!(events.disconnected().await, DisconnectReason::Remote(Some(_))));
    events.terminated().await;
    events.nothing_more().await;
}

pub(crate) async fn a_run_that_is_dropped_closes_the_socket(bed: Bed) {
    let server = bed.server().await;
    let (handler, mut events) = recorder();
    let mut own = None;
    let mut run = Box::pin(bed.builder(&server.url("/")).run_with(|handle: Handle<u32>| {
        own = Some(handle);
        handler
    }));
    let meanwhile = async {
        let mut peer = server.accept().await;
        let request = peer.upgrade("").await;
        events.connected().await;
        (peer, request)
    };
    let (mut peer, request) = tokio::select! {
        ended = &mut run => panic!("{ended:?}"),
        open = meanwhile => open,
    };
    drop(run);
    events.nothing_more().await;
    assert_eq!(peer.end().await, if bed.secure { End::Cut } else { End::Fin });
    assert_eq!(peer.received(), request.as_bytes(), "no frame was sent");
    let own = own.unwrap();
    assert!(matches!(own.wait_for(ClientState::Connected).await, Err(StopReason::Aborted)));
    assert!(matches!(own.send_frame(Frame::text("late")).await, Err(SendError::Stopped(_))));
}

pub(crate) async fn a_detached_client_goes_on_to_its_connections_end(bed: Bed) {
    let Open { client, mut events, mut peer, .. } = bed.open_answering(echo).await;
    drop(client);
    peer.send(&frame(TEXT, b"still there?")).await;
    assert_eq!(masked(&mut peer).await, (TEXT, b"still there?".to_vec()));
    events.frame().await;
    peer.send(&frame(CLOSE, &close(1000, ""))).await;
    assert_eq!(close_of(&mut peer).await, close(1000, ""));
    peer.shutdown().await;
    assert_eq!(peer.end().await, End::Fin);
    events.disconnected().await;
    events.terminated().await;
    events.nothing_more().await;
}

// Callbacks that fail

pub(crate) async fn hazard_22_a_panic_fails_one_client_alone(bed: Bed) {
    let other = bed.open_answering(echo).await;
    let mut open = bed
        .open_answering(|seen| match seen {
            // Without the hook, which would print.
            Seen::Frame(_) => resume_unwind(Box::new("on purpose")),
            _ => Action::Continue,
        })
        .await;
    let handle = open.client.handle();
    open.peer.send(&[frame(TEXT, b"one"), frame(TEXT, b"two")].concat()).await;
    assert_eq!(close_of(&mut open.peer).await, close(1011, ""));
    assert_eq!(open.events.frame().await, Frame::text("one"));
    open.events.nothing_more().await; // no other callback, and the handler is dropped
    let error = open.ends().await.unwrap_err();
    assert!(matches!(error.reason(), StopReason::Panicked), "{error:?}");
    assert!(error.into_handler().is_none());
    assert!(matches!(handle.send_frame(Frame::text("late")).await, Err(SendError::Stopped(_))));

    let mut other = other;
    other.peer.send(&frame(TEXT, b"unharmed?")).await;
    assert_eq!(masked(&mut other.peer).await, (TEXT, b"unharmed?".to_vec()));
    other.stop().await;
}

pub(crate) async fn an_error_of_a_callback_stops_the_client(bed: Bed) {
    struct Fails;

    impl Handler for Fails {
        async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
            let number: u32 = std::str::from_utf8(frame.payload())?.parse()?;
            Ok(Frame::text((number + 1).to_string()).into())
        }
    }

    let server = bed.server().await;
    let client = bed.builder(&server.url("/")).start(Fails).await.unwrap();
    let mut peer = server.accept().await;
    peer.upgrade("").await;
    peer.send(&[frame(TEXT, b"1"), frame(TEXT, b"two")].concat()).await;
    assert_eq!(masked(&mut peer).await, (TEXT, b"2".to_vec()));
    assert_eq!(close_of(&mut peer).await, close(1011, ""));
    peer.send(&frame(CLOSE, &close(1011, ""))).await;
    peer.shutdown().await;
    assert_eq!(peer.end().await, End::Fin);
    let error = client.join().await.err().unwrap();
    assert!(matches!(error.reason(), StopReason::Handler(error) if error.get().is::<std::num::ParseIntError>()));
    assert!(error.into_handler().is_some());
}

// What a peer may try

pub(crate) async fn hazard_8_a_protocol_error_is_answered_with_its_code(bed: Bed) {
    let limit = Limits::client().message();
    let long = |len: u64| [&[BINARY, 127][..], &len.to_be_bytes()].concat();
    for (bytes, code, expected) in [
        (long(u64::MAX >> 1), 1009, FrameError::MessageTooBig { limit }),
        (long(limit as u64 + 1), 1009, FrameError::MessageTooBig { limit }),
        (long(1 << 63), 1002, FrameError::LengthOverflow),
        (long(65_535), 1002, FrameError::LengthNotMinimal),
        (vec![TEXT, 126, 0, 5], 1002, FrameError::LengthNotMinimal),
        (vec![TEXT, 0x80, 1, 2, 3, 4], 1002, FrameError::MaskUnexpected),
        (vec![0xc1, 0], 1002, FrameError::ReservedBits),
        (vec![0x83, 0], 1002, FrameError::ReservedOpCode(3)),
        (vec![0x80, 0], 1002, FrameError::UnexpectedContinuation),
        (vec![0x09, 0], 1002, FrameError::ControlFragmented),
        (vec![CLOSE, 1, 3], 1002, FrameError::ClosePayloadTruncated),
        (frame(CLOSE, &close(1006, "")), 1002, FrameError::CloseCodeInvalid(1006)),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007, FrameError::InvalidUtf8),
        (frame(TEXT, b"\xc0\x80"), 1007, FrameError::InvalidUtf8),
        // As soon as the bad byte is there: 100 were announced.
        (vec![TEXT, 100, b'a', 0xff], 1007, FrameError::InvalidUtf8),
    ] {
        let Open { client, mut events, mut peer, .. } = bed.open().await;
        peer.send(&bytes).await;
        assert_eq!(close_of(&mut peer).await, close(code, ""), "{bytes:x?}");
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin);
        match events.disconnected().await {
            DisconnectReason::Protocol(ProtocolError::Frame(error)) => assert_eq!(error, expected, "{bytes:x?}"),
            other => panic!("{other:?} for {bytes:x?}"),
        }
        let reason = disconnected(client.join().await);
        assert!(matches!(reason, DisconnectReason::Protocol(_)), "{reason:?}");
    }
}

pub(crate) async fn frames_before_a_protocol_error_are_answered(bed: Bed) {
    let Open { client, mut events, mut peer, .. } = bed.open_answering(echo).await;
    peer.send(&[frame(TEXT, b"1"), frame(TEXT, b"2"), vec![0x83, 0], frame(TEXT, b"3")].concat()).await;
    assert_eq!(masked(&mut peer).await, (TEXT, b"1".to_vec()));
    assert_eq!(masked(&mut peer).await, (TEXT, b"2".to_vec()));
    assert_eq!(close_of(&mut peer).await, close(1002, ""));
    peer.shutdown().await;
    assert_eq!(peer.end().await, End::Fin);
    assert_eq!([events.frame().await, events.frame().await], [Frame::text("1"), Frame::text("2")]);
    assert!(matches!(events.disconnected().await, DisconnectReason::Protocol(_)));
    disconnected(client.join().await);
}

pub(crate) async fn frames_before_the_peers_close_are_answered(bed: Bed) {
    let Open { client, mut events, mut peer, .. } = bed.open_answering(echo).await;
    peer.send(&[frame(TEXT, b"1"), frame(TEXT, b"2"), frame(CLOSE, &close(1000, "")), frame(TEXT, b"3")].concat())
        .await;
    assert_eq!(masked(&mut peer).await, (TEXT, b"1".to_vec()));
    assert_eq!(masked(&mut peer).await, (TEXT, b"2".to_vec()));
    assert_eq!(close_of(&mut peer).await, close(1000, ""));
    peer.shutdown().await;
    assert_eq!(peer.end().await, End::Fin);
    assert_eq!([events.frame().await, events.frame().await], [Frame::text("1"), Frame::text("2")]);
    assert!(matches!(events.disconnected().await, DisconnectReason::Remote(Some(_))));
    client.join().await.unwrap();
}

// Secrets

pub(crate) async fn secrets_stay_out_of_debug(bed: Bed) {
    const SECRET: &str = "s3cr3t";
    let encoded = BASE64_STANDARD.encode(format!("user:{SECRET}"));
    let check = |what: &str| {
        assert!(!what.contains(SECRET) && !what.contains(&encoded), "{what}");
    };
    let server = bed.server().await;
    let url = format!("{}://user:{SECRET}@{}/path?token={SECRET}", bed.scheme(), server.addr());
    let builder = bed.builder(&url).header("cookie", format!("id={SECRET}")).unwrap();
    check(&format!("{builder:?} {builder:#?}"));
    let authorized = bed.builder(&url).header("authorization", format!("Bearer {SECRET}")).unwrap();
    check(&format!("{authorized:?}"));
    for url in [
        format!("ws://user:{SECRET}@host:port/"),
        format!("http://user:{SECRET}@host/"),
        format!("ws://host/#{SECRET}"),
        format!("ws://host/?{SECRET}\n"),
        format!("ws://{SECRET} @host/"),
    ] {
        let error = Client::builder(&url).unwrap_err();
        check(&format!("{error:?} {error}"));
    }
    let error = bed.builder(&url).header("cookie", format!("{SECRET}\r\nx: y")).unwrap_err();
    check(&format!("{error:?} {error}"));

    let (handler, mut events) = recorder();
    let client = builder.start(handler).await.unwrap();
    let mut peer = server.accept().await;
    let request = peer.upgrade(&format!("Set-Cookie: id={SECRET}\r\n")).await;
    assert_eq!(request.matches(SECRET).count(), 2, "the server is told: {request}");
    assert!(request.contains(&encoded), "{request}");
    for seen in [events.next().await, events.next().await, events.next().await] {
        check(&format!("{seen:?}"));
    }
    check(&format!("{client:?}"));
    Open { client, events, peer, request }.stop().await;

    let (handler, mut events) = recorder();
    let client = bed.builder(&url).start(handler).await.unwrap();
    let mut peer = server.accept().await;
    peer.head().await;
    peer.send(format!("HTTP/1.1 403 No\r\nSet-Cookie: {SECRET}\r\nContent-Length: 6\r\n\r\n{SECRET}").as_bytes()).await;
    let reason = events.disconnected().await;
    check(&format!("{reason:?} {reason}"));
    let error = client.join().await.unwrap_err();
    check(&format!("{error:?} {error}"));
    assert!(
        matches!(reason, DisconnectReason::Rejected(rejected) if rejected.body == Bytes::from_static(SECRET.as_bytes()))
    );
}

/// What users may count on when they spawn, share and keep what they hold, checked by the compiler.
#[expect(dead_code, reason = "compiled, never called")]
fn what_users_hold_crosses_threads(builder: ClientBuilder, client: Client<Recorder, u32>) {
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn sent<T: Send + 'static>(_: &T) {}
    shared(&builder);
    shared(&client.handle());
    sent(&client);
    sent(&client.join());
    sent(&builder.clone().start::<Recorder, u32>(recorder().0));
    sent(&builder.clone().start_with::<Recorder, u32>(|_| recorder().0));
    sent(&builder.clone().run::<Recorder, u32>(recorder().0));
    sent(&builder.run_with::<Recorder, u32, _>(|_| recorder().0));
    sent(&adapter::platform(Tls::new()));
    fn transport<R: Runtime>(_: &R, transport: R::Transport) {
        sent(&transport);
    }
}
