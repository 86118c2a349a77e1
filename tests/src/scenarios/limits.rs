//! Limits over real sockets: each is inclusive, in both roles. What is at it passes, what is one above does not.

use std::future::Future;

use parley_proto::Limits;
use parley_proto::codec::Frame;
use parley_proto::driver::Error;
use parley_proto::handshake::Origins;
use parley_tests::raw::{RawConn, frame, header, masked_frame, switching_protocols};

use super::{BINARY, Bed, CLOSE};

const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Of what is received on an open connection.
fn received() -> Limits {
    let limits = Limits::client().with_message(1000).unwrap();
    limits.with_fragments(4).unwrap().with_empty_fragments(2).unwrap()
}

/// A message as fragments, of these payloads; then the length that is to come, or the code that is to follow.
struct Case(Vec<usize>, Result<usize, u16>);

/// One below each limit, at it, and one above.
fn cases() -> Vec<Case> {
    let message = |len, outcome| Case(vec![len], outcome);
    let fragments = |count, outcome| Case(vec![1; count], outcome);
    let empty = |count, outcome| Case([vec![1], vec![0; count], vec![1]].concat(), outcome);
    vec![
        message(999, Ok(999)),
        message(1000, Ok(1000)),
        message(1001, Err(1009)),
        Case(vec![500, 500], Ok(1000)),
        Case(vec![500, 501], Err(1009)),
        fragments(3, Ok(3)),
        fragments(4, Ok(4)),
        fragments(5, Err(1008)),
        empty(1, Ok(2)),
        empty(2, Ok(2)),
        empty(3, Err(1008)),
    ]
}

/// The bytes of a case, from a peer that masks or does not.
fn bytes(fragments: &[usize], masks: bool) -> Vec<u8> {
    let last = fragments.len() - 1;
    let of = |(at, len): (usize, &usize)| {
        let first = if at == last { 0x80 } else { 0 } | if at == 0 { BINARY & 0x0f } else { 0 };
        let payload = vec![7; *len];
        if masks { masked_frame(first, [1, 2, 3, 4], &payload) } else { frame(first, &payload) }
    };
    fragments.iter().enumerate().flat_map(of).collect()
}

/// What one end has got, and what the peer gets for it.
async fn judge(
    got: impl Future<Output = Result<Frame, Error>>,
    peer: &mut RawConn,
    fragments: &[usize],
    outcome: Result<usize, u16>,
) {
    match outcome {
        Ok(len) => assert_eq!(got.await.unwrap().len(), len, "{fragments:?}"),
        Err(code) => {
            let fails = async {
                let frame = peer.frame().await;
                assert_eq!(frame.first, CLOSE, "{frame:?}");
                let mut payload = frame.payload;
                assert_eq!(payload.drain(..2).as_slice(), code.to_be_bytes());
                peer.shutdown().await;
            };
            let (got, ()) = tokio::join!(got, fails);
            assert!(matches!(got, Err(Error::Disconnected(_))), "{fragments:?}: {got:?}");
        }
    }
}

pub(crate) async fn limits_on_what_a_client_receives_are_inclusive(bed: Bed) {
    for Case(fragments, outcome) in cases() {
        let server = bed.server().await;
        let accept = async {
            let mut peer = server.accept().await;
            peer.upgrade("").await;
            peer
        };
        let builder = bed.builder(&server.url("/")).limits(received());
        let (socket, mut peer) = tokio::join!(builder.connect(), accept);
        let mut socket = socket.unwrap();
        peer.send(&bytes(&fragments, false)).await;
        let got = async { socket.next().await.unwrap() };
        judge(got, &mut peer, &fragments, outcome).await;
    }
}

pub(crate) async fn limits_on_what_a_server_receives_are_inclusive(bed: Bed) {
    let serving = bed.serve_with(Origins::any(), |builder| builder.limits(received()));
    for Case(fragments, outcome) in cases() {
        let mut peer = serving.dial(REQUEST.as_bytes()).await;
        let mut socket = serving.next().await.into_websocket().await.unwrap();
        peer.head().await;
        peer.send(&bytes(&fragments, true)).await;
        let got = async { socket.next().await.unwrap() };
        judge(got, &mut peer, &fragments, outcome).await;
    }
}

pub(crate) async fn limits_on_a_request_are_inclusive(bed: Bed) {
    let line = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n".len();
    for (limits, accepted) in [
        (Limits::server().with_head(REQUEST.len() - 1), false),
        (Limits::server().with_head(REQUEST.len()), true),
        (Limits::server().with_head(REQUEST.len() + 1), true),
        (Limits::server().with_header_line(line - 1), false),
        (Limits::server().with_header_line(line), true),
        (Limits::server().with_header_line(line + 1), true),
        (Limits::server().with_headers(4), false),
        (Limits::server().with_headers(5), true),
        (Limits::server().with_headers(6), true),
    ] {
        let limits = limits.unwrap();
        let serving = bed.serve_with(Origins::any(), |builder| builder.limits(limits.clone()));
        let mut peer = serving.dial(REQUEST.as_bytes()).await;
        if accepted {
            serving.next().await.into_websocket().await.unwrap();
        }
        let head = peer.head().await;
        let status = head.split(' ').nth(1).unwrap();
        assert_eq!(status, if accepted { "101" } else { "431" }, "{limits:?}");
    }
}

/// Larger than what one read takes.
pub(crate) async fn a_head_may_be_as_long_as_its_limit(bed: Bed) {
    let filler = format!("x-filler: {}\r\n", "y".repeat(1000)).repeat(300);
    let request = format!("{}{filler}\r\n", &REQUEST[..REQUEST.len() - "\r\n".len()]);
    let limits = Limits::server().with_head(request.len()).unwrap().with_headers(400).unwrap();
    let serving = bed.serve_with(Origins::any(), |builder| builder.limits(limits.clone()));
    let mut peer = serving.dial(request.as_bytes()).await;
    serving.next().await.into_websocket().await.unwrap();
    assert!(peer.head().await.starts_with("HTTP/1.1 101 "));
}

pub(crate) async fn limits_on_a_response_are_inclusive(bed: Bed) {
    let some = "GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let response = switching_protocols(some, "");
    let accept = header(&response, "sec-websocket-accept").unwrap();
    let line = "Sec-WebSocket-Accept: \r\n".len() + accept.len();
    for (limits, accepted) in [
        (Limits::client().with_head(response.len() - 1), false),
        (Limits::client().with_head(response.len()), true),
        (Limits::client().with_head(response.len() + 1), true),
        (Limits::client().with_header_line(line - 1), false),
        (Limits::client().with_header_line(line), true),
        (Limits::client().with_header_line(line + 1), true),
        (Limits::client().with_headers(2), false),
        (Limits::client().with_headers(3), true),
        (Limits::client().with_headers(4), true),
    ] {
        let limits = limits.unwrap();
        let server = bed.server().await;
        let accept = async {
            let mut peer = server.accept().await;
            peer.upgrade("").await;
            peer
        };
        let builder = bed.builder(&server.url("/")).limits(limits.clone());
        let (socket, _peer) = tokio::join!(builder.connect(), accept);
        assert_eq!(socket.is_ok(), accepted, "{limits:?}: {socket:?}");
    }
}
