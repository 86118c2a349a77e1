//! Hazards that speak of sockets, by their numbers in `SECURITY.md`: what no other scenario shows.

use std::time::Duration;

use bytes::Bytes;
use parley_proto::codec::{CloseFrame, Frame, FrameError};
use parley_proto::connection::Keepalive;
use parley_proto::driver::{Error, Handle};
use parley_proto::handshake::{HandshakeError, Origins};
use parley_proto::{Action, BoxError, Connected, DisconnectReason, Handler, Limits, ProtocolError, SendError};
use parley_tests::raw::{End, RawConn, frame, masked_frame, switching_protocols};

use super::server::REQUEST;
use super::socket::{open, open_with, reason};
use super::{BINARY, Bed, CLOSE, PING, SHORT, TEXT, close, close_of, masked};
use crate::adapter::{Client, WebSocket};

/// Section 4.1, steps 5 and 6 of what a client has to check.
pub(crate) async fn hazard_5_what_was_not_offered_is_refused_before_the_socket_opens(bed: Bed) {
    use HandshakeError::{ExtensionNotOffered, SubprotocolNotOffered};
    for (lines, expected) in [
        ("Sec-WebSocket-Protocol: other\r\n", SubprotocolNotOffered),
        ("Sec-WebSocket-Protocol: CHAT\r\n", SubprotocolNotOffered),
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n", ExtensionNotOffered),
        ("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n", ExtensionNotOffered),
    ] {
        let server = bed.server().await;
        let builder = bed.builder(&server.url("/")).subprotocol("chat").unwrap();
        let answer = async {
            let mut peer = server.accept().await;
            let request = peer.head().await;
            peer.send(switching_protocols(&request, lines).as_bytes()).await;
            peer.end().await;
            assert_eq!(peer.received(), request.as_bytes(), "no frame was sent");
        };
        let (refused, ()) = tokio::join!(builder.connect(), answer);
        let error = refused.unwrap_err();
        let expected = ProtocolError::Handshake(expected);
        assert!(
            matches!(error.reason(), Some(DisconnectReason::Protocol(error)) if *error == expected),
            "{error:?} for {lines:?}"
        );
    }
}

/// Section 7.4.
pub(crate) async fn hazard_11_a_close_is_echoed_where_its_code_is_legal_and_else_answered_with_an_error(bed: Bed) {
    for code in [1000, 1001, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        let (mut socket, mut peer) = open(&bed).await;
        peer.send(&frame(CLOSE, &close(code, "why"))).await;
        let (none, ()) = tokio::join!(socket.next(), answered(&mut peer, code));
        assert!(none.is_none(), "{none:?} after {code}");
        let closed = socket.closed().unwrap();
        assert_eq!((closed.code(), closed.was_clean), (code, true));
    }
    let mut illegal: Vec<_> = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535]
        .map(|code| (close(code, ""), 1002, FrameError::CloseCodeInvalid(code)))
        .into();
    illegal.push((vec![3], 1002, FrameError::ClosePayloadTruncated));
    illegal.push((b"\x03\xe8\xc3".to_vec(), 1007, FrameError::InvalidUtf8));
    for (payload, code, expected) in illegal {
        let (mut socket, mut peer) = open(&bed).await;
        peer.send(&frame(CLOSE, &payload)).await;
        let (reason, ()) = tokio::join!(reason(&mut socket), answered(&mut peer, code));
        assert_is(&reason, expected);
        assert!(!socket.closed().unwrap().was_clean, "{payload:x?}");
    }
}

/// The socket sends a Close with this code and no reason, and the streams end.
async fn answered(peer: &mut RawConn, code: u16) {
    assert_eq!(close_of(peer).await, close(code, ""));
    peer.shutdown().await;
    assert_eq!(peer.end().await, End::Fin);
}

#[track_caller]
fn assert_is(reason: &DisconnectReason, expected: FrameError) {
    let expected = ProtocolError::Frame(expected);
    assert!(
        matches!(reason, DisconnectReason::Protocol(error) if *error == expected),
        "{reason:?} instead of {expected:?}"
    );
}

/// Both Closes have been seen: how TCP ends makes no difference any more.
pub(crate) async fn hazard_13_a_reset_behind_both_closes_keeps_code_and_cleanness(bed: Bed) {
    let (mut socket, mut peer) = open(&bed).await;
    let answer = async {
        peer.send(&frame(CLOSE, &close(4000, "bye"))).await;
        assert_eq!(close_of(&mut peer).await, close(4000, ""));
        peer.reset();
    };
    let (none, ()) = tokio::join!(socket.next(), answer);
    ended_well(&mut socket, none).await;
}

/// The same of a TLS stream that is cut: nothing can be missing.
pub(crate) async fn hazard_14_behind_both_closes_a_cut_tls_stream_is_a_clean_end(bed: Bed) {
    let (mut socket, mut peer) = open(&bed).await;
    let answer = async {
        peer.send(&frame(CLOSE, &close(4000, "bye"))).await;
        assert_eq!(close_of(&mut peer).await, close(4000, ""));
        drop(peer); // a FIN without `close_notify`
    };
    let (none, ()) = tokio::join!(socket.next(), answer);
    ended_well(&mut socket, none).await;
}

async fn ended_well(socket: &mut WebSocket, next: Option<Result<Frame, Error>>) {
    assert!(next.is_none(), "{next:?}");
    assert!(socket.next().await.is_none());
    let closed = socket.closed().unwrap();
    assert_eq!((closed.code(), closed.was_clean), (4000, true));
}

pub(crate) async fn hazard_14_a_server_tells_a_cut_tls_stream_from_a_clean_end(bed: Bed) {
    let serving = bed.serve();
    let mut peer = serving.dial(REQUEST).await;
    let mut socket = serving.next().await.into_websocket().await.unwrap();
    peer.head().await;
    peer.send(&masked_frame(TEXT, [1, 2, 3, 4], b"last")).await;
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("last"));
    drop(peer);
    assert!(matches!(reason(&mut socket).await, DisconnectReason::Eof));
    assert_eq!(socket.closed().unwrap().code(), 1006);
}

pub(crate) async fn hazard_16_more_fragments_than_the_limit_get_1008(bed: Bed) {
    let limits = |limits: Limits| limits.with_fragments(3).unwrap().with_empty_fragments(2).unwrap();
    for (parts, expected) in [
        (["a", "b", "c", "d"], FrameError::TooManyFragments { limit: 3 }),
        (["", "", "", ""], FrameError::TooManyEmptyFragments { limit: 2 }),
    ] {
        // A client
        let (mut socket, mut peer) = open_with(&bed, |builder| builder.limits(limits(Limits::client()))).await;
        let fragments = parts.iter().enumerate();
        let fragments: Vec<_> =
            fragments.map(|(at, part)| (if at == 0 { 0x01 } else { 0x00 }, part.as_bytes())).collect();
        let bytes: Vec<u8> = fragments.iter().flat_map(|(first, part)| frame(*first, part)).collect();
        peer.send(&bytes).await;
        let (got, ()) = tokio::join!(reason(&mut socket), answered(&mut peer, 1008));
        assert_is(&got, expected);

        // A server
        let serving = bed.serve_with(Origins::any(), |builder| builder.limits(limits(Limits::server())));
        let mut peer = serving.dial(REQUEST).await;
        let mut socket = serving.next().await.into_websocket().await.unwrap();
        peer.head().await;
        let bytes: Vec<u8> =
            fragments.iter().flat_map(|(first, part)| masked_frame(*first, [1, 2, 3, 4], part)).collect();
        peer.send(&bytes).await;
        let answer = async {
            let answer = peer.frame().await;
            assert_eq!((answer.first, answer.payload), (CLOSE, close(1008, "")));
            peer.shutdown().await;
            assert_eq!(peer.end().await, End::Fin);
        };
        let (got, ()) = tokio::join!(reason(&mut socket), answer);
        assert_is(&got, expected);
    }
}

pub(crate) async fn hazard_18_a_peer_that_stalls_within_a_frame_is_given_up(bed: Bed) {
    let keepalive = Keepalive::new(Duration::from_millis(200), SHORT).unwrap();
    let (mut socket, mut peer) = open_with(&bed, |builder| builder.keepalive(Some(keepalive))).await;
    let stall = async {
        peer.send(&[BINARY, 100, 1, 2, 3]).await;
        assert_eq!(peer.frame().await.first, PING); // not answered
    };
    let (reason, ()) = tokio::join!(reason(&mut socket), stall);
    assert!(matches!(reason, DisconnectReason::KeepaliveTimeout), "{reason:?}");
}

/// Where a callback calls its own client.
const PLACES: [&str; 4] = ["connect", "frame", "info", "ping"];

/// Sends in every way there is from within each callback, and closes from within one of them.
struct Reentrant {
    own: Handle<u32>,
    closes_in: &'static str,
}

impl Reentrant {
    async fn call(&self, place: &'static str) -> Result<Action, BoxError> {
        let text = |number: u8| Frame::text(format!("{place} {number}"));
        self.own.feed_frame(text(1)).await?;
        self.own.try_send_frame(text(2))?;
        self.own.send_frame(text(3)).await?;
        self.own.flush().await?;
        if place != self.closes_in {
            return Ok(Action::Push(text(4)));
        }
        self.own.disconnect_with(CloseFrame::new(4001, place)?).await;
        self.own.disconnect().await; // the first has been taken
        let late = self.own.try_send_frame(text(5));
        assert!(matches!(late, Err(SendError::Closing(frame)) if frame == text(5)));
        Ok(Action::Continue)
    }
}

impl Handler<u32> for Reentrant {
    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        self.call("connect").await
    }

    async fn handle_frame(&mut self, _: Frame) -> Result<Action, BoxError> {
        self.own.send_info(1).await?;
        self.call("frame").await
    }

    async fn handle_ping(&mut self, _: Bytes) -> Result<Action, BoxError> {
        self.call("ping").await
    }

    async fn handle_info(&mut self, _: u32) -> Result<Action, BoxError> {
        self.call("info").await
    }
}

pub(crate) async fn hazard_25_a_callback_that_sends_and_closes_waits_for_nobody_and_keeps_the_order(bed: Bed) {
    for closes_in in PLACES {
        let server = bed.server().await;
        let builder = bed.builder(&server.url("/"));
        let client: Client<_, u32> = builder.start_with(|own| Reentrant { own, closes_in }).await.unwrap();
        let mut peer = server.accept().await;
        peer.upgrade("").await;
        for place in PLACES {
            match place {
                "frame" => peer.send(&frame(TEXT, b"go")).await,
                "ping" => {
                    peer.send(&frame(PING, b"")).await;
                    assert_eq!(masked(&mut peer).await, (0x8a, Vec::new()));
                }
                _ => {} // `handle_frame` has sent the info
            }
            for number in 1..=4_u8 {
                if number == 4 && place == closes_in {
                    break;
                }
                assert_eq!(masked(&mut peer).await, (TEXT, format!("{place} {number}").into_bytes()));
            }
            if place == closes_in {
                assert_eq!(close_of(&mut peer).await, close(4001, place));
                break;
            }
        }
        peer.send(&frame(CLOSE, &close(4001, ""))).await;
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin);
        drop(client.join().await);
    }
}
