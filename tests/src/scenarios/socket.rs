//! A [`WebSocket`]: a connection for a loop of one's own, and its halves.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use parley_proto::codec::{CloseFrame, Frame, FrameError};
use parley_proto::connection::{Config, Keepalive};
use parley_proto::driver::{Error, Part};
use parley_proto::handshake::{ClientRequest, Negotiated, Origins};
use parley_proto::{DisconnectReason, ProtocolError, Role, SendError};
use parley_tests::peers;
use parley_tests::raw::{End, RawConn, frame};

use super::{BINARY, Bed, CLOSE, PING, PONG, SHORT, TEXT, close, close_of, masked, spawn};
use crate::adapter::{self, ClientBuilder, WebSocket};

/// A socket, and a server that is played by hand.
pub(super) async fn open(bed: &Bed) -> (WebSocket, RawConn) {
    open_with(bed, |builder| builder).await
}

pub(super) async fn open_with(bed: &Bed, options: impl FnOnce(ClientBuilder) -> ClientBuilder) -> (WebSocket, RawConn) {
    let server = bed.server().await;
    let accept = async {
        let mut peer = server.accept().await;
        peer.upgrade("").await;
        peer
    };
    let (socket, peer) = tokio::join!(options(bed.builder(&server.url("/"))).connect(), accept);
    (socket.unwrap(), peer)
}

/// The reason of the one error that a socket ends with.
pub(super) async fn reason(socket: &mut WebSocket) -> DisconnectReason {
    let error = socket.next().await.unwrap().unwrap_err();
    assert!(socket.next().await.is_none(), "it is told once");
    match error {
        Error::Disconnected(reason) => reason,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_socket_sends_and_receives_and_a_clean_end_is_none(bed: Bed) {
    let (mut socket, mut peer) = open(&bed).await;
    socket.send(Frame::text("hello")).await.unwrap();
    assert_eq!(masked(&mut peer).await, (TEXT, b"hello".to_vec()));
    peer.send(&[frame(BINARY, &[0, 0xff]), frame(PING, b"alive?")].concat()).await;
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::binary(vec![0, 0xff]));
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::ping("alive?"));
    assert_eq!(masked(&mut peer).await, (PONG, b"alive?".to_vec()));

    peer.send(&[frame(TEXT, b"last"), frame(CLOSE, &close(4000, "bye"))].concat()).await;
    peer.shutdown().await;
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("last"));
    assert!(socket.next().await.is_none());
    assert!(socket.next().await.is_none(), "and none comes after it");
    assert_eq!(close_of(&mut peer).await, close(4000, ""));
    let closed = socket.closed().unwrap();
    assert_eq!((closed.code(), closed.was_clean), (4000, true));
    let late = socket.send(Frame::text("late")).await;
    assert!(matches!(&late, Err(Error::Send(SendError::Closing(frame))) if *frame == Frame::text("late")), "{late:?}");
}

pub(crate) async fn a_socket_closes(bed: Bed) {
    let (mut socket, mut peer) = open(&bed).await;
    socket.feed(Frame::text("before")).await.unwrap();
    let answer = async {
        assert_eq!(masked(&mut peer).await, (TEXT, b"before".to_vec()));
        assert_eq!(close_of(&mut peer).await, close(3000, "done"));
        // What comes behind our Close is not delivered.
        peer.send(&[frame(TEXT, b"late"), frame(CLOSE, &close(3000, ""))].concat()).await;
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin);
    };
    let (closed, ()) = tokio::join!(socket.close_with(CloseFrame::new(3000, "done").unwrap()), answer);
    closed.unwrap();
    assert!(socket.next().await.is_none());
    assert!(socket.closed().unwrap().was_clean);
}

// Ends of another kind

pub(crate) async fn a_socket_tells_an_eof_once(bed: Bed) {
    let (mut socket, mut peer) = open(&bed).await;
    peer.send(&frame(TEXT, b"last")).await;
    peer.shutdown().await;
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("last"));
    assert!(matches!(reason(&mut socket).await, DisconnectReason::Eof));
    assert!(matches!(socket.flush().await, Err(Error::Disconnected(DisconnectReason::Eof))));
    assert_eq!(socket.closed().unwrap().code(), 1006);
}

pub(crate) async fn a_refusal_is_an_error_of_connect(bed: Bed) {
    let server = bed.server().await;
    let refuse = async {
        let mut peer = server.accept().await;
        peer.head().await;
        peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
        peer
    };
    let (refused, _peer) = tokio::join!(bed.builder(&server.url("/")).connect(), refuse);
    let error = refused.unwrap_err();
    let Some(DisconnectReason::Rejected(rejected)) = error.reason() else { panic!("{error:?}") };
    assert_eq!((rejected.status.as_u16(), &rejected.body[..]), (401, &b"no"[..]));

    let (_socket, addr) = peers::refusing();
    let error = bed.builder(&format!("{}://{addr}/", bed.scheme())).connect().await.unwrap_err();
    assert!(matches!(error.reason(), Some(DisconnectReason::Tcp(_))), "{error:?}");
}

pub(crate) async fn a_protocol_error_ends_a_socket_with_its_code(bed: Bed) {
    let (mut socket, mut peer) = open(&bed).await;
    peer.send(&[frame(TEXT, b"good"), frame(TEXT, b"\xff")].concat()).await;
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("good"));
    let answer = async {
        assert_eq!(close_of(&mut peer).await, close(1007, ""));
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin);
    };
    let (reason, ()) = tokio::join!(reason(&mut socket), answer);
    let expected = ProtocolError::Frame(FrameError::InvalidUtf8);
    assert!(matches!(&reason, DisconnectReason::Protocol(error) if *error == expected), "{reason:?}");
}

pub(crate) async fn a_silent_peer_of_a_socket_is_given_up(bed: Bed) {
    let keepalive = Keepalive::new(Duration::from_millis(200), SHORT).unwrap();
    let (mut socket, mut peer) = open_with(&bed, |builder| builder.keepalive(Some(keepalive))).await;
    let answer = async {
        let ping = peer.frame().await;
        assert_eq!(ping.first, PING);
        peer.send(&frame(PONG, &ping.payload)).await;
        assert_eq!(peer.frame().await.first, PING); // and this one is not answered
    };
    let (reason, ()) = tokio::join!(reason(&mut socket), answer);
    assert!(matches!(reason, DisconnectReason::KeepaliveTimeout), "{reason:?}");
    assert!(socket.rtt().is_some());
}

pub(crate) async fn a_dropped_socket_sends_no_close(bed: Bed) {
    let (mut socket, mut peer) = open(&bed).await;
    socket.send(Frame::text("last")).await.unwrap();
    drop(socket);
    assert_eq!(masked(&mut peer).await, (TEXT, b"last".to_vec()));
    let received = peer.received().len();
    assert_eq!(peer.end().await, if bed.secure { End::Cut } else { End::Fin });
    assert_eq!(peer.received().len(), received, "no Close was sent");
}

// Sending

pub(crate) async fn the_halves_of_a_socket_work_in_two_tasks(bed: Bed) {
    const MESSAGES: u32 = 200;
    let server = bed.echo_server();
    let (mut sender, mut receiver) = bed.builder(&server.url("/")).connect().await.unwrap().split();
    let sending = spawn(async move {
        for number in 0..MESSAGES {
            sender.send(Frame::text(number.to_string())).await.unwrap();
        }
        sender
    });
    let receiving = spawn(async move {
        for number in 0..MESSAGES {
            assert_eq!(receiver.next().await.unwrap().unwrap(), Frame::text(number.to_string()));
        }
        receiver
    });
    let mut sender = sending.await.unwrap();
    let mut receiver = receiving.await.unwrap();

    let ended = spawn(async move {
        assert!(receiver.next().await.is_none(), "the other half closes");
        receiver
    });
    sender.close().await.unwrap();
    let socket = sender.reunite(ended.await.unwrap()).unwrap();
    assert!(socket.closed().unwrap().was_clean);
}

pub(crate) async fn ten_thousand_frames_fed_to_a_socket_arrive_in_order(bed: Bed) {
    let (mut socket, mut peer) = open(&bed).await;
    let feed = async {
        for number in 0..10_000_u32 {
            socket.feed(Frame::text(number.to_string())).await.unwrap();
        }
        socket.flush().await.unwrap();
    };
    let receive = async {
        for number in 0..10_000_u32 {
            assert_eq!(masked(&mut peer).await, (TEXT, number.to_string().into_bytes()));
        }
    };
    tokio::join!(feed, receive);
}

/// What is sent may wait for the replies to the other frames of a read, never for longer.
pub(crate) async fn a_corked_socket_answers_a_batch(bed: Bed) {
    let (mut socket, mut peer) = open(&bed).await;
    socket.set_auto_cork(true);
    socket.send(Frame::text("nothing waits")).await.unwrap();
    assert_eq!(masked(&mut peer).await.1, b"nothing waits");
    for batch in [&["1"][..], &["2", "3", "4"]] {
        let frames: Vec<Vec<u8>> = batch.iter().map(|text| frame(TEXT, text.as_bytes())).collect();
        peer.send(&frames.concat()).await;
        for &text in batch {
            let received = socket.next().await.unwrap().unwrap();
            assert_eq!(received, Frame::text(text));
            socket.send(received).await.unwrap();
        }
        for &text in batch {
            assert_eq!(masked(&mut peer).await, (TEXT, text.into()));
        }
    }
}

pub(crate) async fn a_mebibyte_goes_both_ways_between_sockets(bed: Bed) {
    let serving = bed.serve();
    let (mut client, mut server) = bed.sockets(&serving).await;
    let message = Frame::binary((0..1024 * 1024_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let (sent, got) = tokio::join!(client.send(message.clone()), server.next());
    sent.unwrap();
    assert!(got.unwrap().unwrap() == message);
    let (sent, got) = tokio::join!(server.send(message.clone()), client.next());
    sent.unwrap();
    assert!(got.unwrap().unwrap() == message);
    let (closed, none) = tokio::join!(server.close(), client.next());
    closed.unwrap();
    assert!(none.is_none());
}

// Streams of the user's own

/// Under `wss` too: who brings a stream has seen to TLS.
pub(crate) async fn a_socket_over_a_stream_of_the_users_own(bed: Bed) {
    let (near, far) = adapter::pair();
    let request = ClientRequest::new(&format!("{}://example.com/x", bed.scheme())).unwrap();
    let (client, server) = tokio::join!(adapter::client(near, request), adapter::server(far, Origins::same_host()));
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.connected().transport.peer_addr, None);
    let message = Frame::binary(vec![7; 100_000]);
    let (sent, got) = tokio::join!(server.send(message.clone()), client.next());
    sent.unwrap();
    assert!(got.unwrap().unwrap() == message);
    let (closed, none) = tokio::join!(client.close(), server.next());
    closed.unwrap();
    assert!(none.is_none());
}

pub(crate) async fn a_big_message_goes_through_sockets_in_parts(bed: Bed) {
    let serving = bed.serve_with(Origins::any(), |builder| builder.chunks_above(1_000));
    let echo = async {
        let mut socket = serving.next().await.into_websocket().await.unwrap();
        let mut chunks = 0;
        while let Some(part) = socket.next_part().await {
            match part.unwrap() {
                Part::Chunk(chunk) => {
                    chunks += 1;
                    socket.feed_chunk(chunk).await.unwrap();
                }
                Part::Frame(frame) => socket.feed(frame).await.unwrap(),
            }
        }
        chunks
    };
    let talk = async {
        let mut socket = bed.builder(&serving.url("/")).connect().await.unwrap();
        let big = Frame::text("\u{20ac}".repeat(300_000));
        socket.feed(big.clone()).await.unwrap();
        socket.feed(Frame::text("small")).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap() == big, "put together again");
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("small"));
        socket.close().await.unwrap();
    };
    let (chunks, ()) = tokio::join!(echo, talk);
    assert!(chunks > 1, "{chunks}");
}

pub(crate) async fn a_stream_that_was_upgraded_elsewhere(_: Bed) {
    let (near, far) = adapter::pair();
    let agreed = Negotiated::new(StatusCode::SWITCHING_PROTOCOLS, HeaderMap::new()).with_subprotocol("v1").unwrap();
    let mut client = adapter::upgraded(near, Role::Client, agreed.clone(), Config::new(Role::Client)).unwrap();
    let mut server = adapter::upgraded(far, Role::Server, agreed, Config::new(Role::Server)).unwrap();
    assert_eq!(client.connected().subprotocol(), Some("v1"));
    client.send(Frame::text("to the server")).await.unwrap();
    assert_eq!(server.next().await.unwrap().unwrap(), Frame::text("to the server"));
    server.send(Frame::text("to the client")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Frame::text("to the client"));
    let (closed, none) = tokio::join!(server.close(), client.next());
    closed.unwrap();
    assert!(none.is_none());
}
