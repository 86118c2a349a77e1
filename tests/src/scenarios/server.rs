//! A server: its requests, its answers, its sessions, and how it ends.

use std::fmt;
use std::future::pending;
use std::panic::resume_unwind;
use std::time::Duration;

use bytes::Bytes;
use parley_proto::codec::{Chunk, Frame, FrameError};
use parley_proto::driver::{AcceptError, Broadcast, Error, Handle, MessageWriter, Slow, StartError};

use parley_proto::connection::Config;
use parley_proto::handshake::{Acceptance, ClientRequest, Origins, Rejection};
use parley_proto::session::ClientState;
use parley_proto::{Action, BoxError, DisconnectReason, Handler, ProtocolError, Role, StopReason};
use parley_tests::peers;
use parley_tests::raw::{End, RawConn, frame, header, masked_frame};
use parley_tests::recorder::{Events, Recorder, Seen, answering, recorder};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{Bed, CLOSE, LONG, SHORT, Serving, TEXT, close, echo};
use crate::adapter::{self, Client, WebSocket};

pub(super) const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// What a client is refused with.
fn refusal<T: fmt::Debug>(result: Result<T, Error>) -> (u16, String) {
    match result {
        Err(Error::Disconnected(DisconnectReason::Rejected(rejected))) => {
            (rejected.status.as_u16(), String::from_utf8(rejected.body.to_vec()).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

/// A frame as this client by hand sends it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    masked_frame(first, [1, 2, 3, 4], payload)
}

/// What a server sends: nothing of it is masked (section 5.1).
async fn unmasked(peer: &mut RawConn) -> (u8, Vec<u8>) {
    let frame = peer.frame().await;
    assert_eq!(frame.masking_key, None, "{frame:?}");
    (frame.first, frame.payload)
}

/// A client by hand, the session that serves it, and what its handler sees from the first frame on.
async fn served(
    serving: &Serving,
    answer: impl FnMut(&Seen) -> Action + Send + 'static,
) -> (RawConn, Client<Recorder, u32>, Events) {
    let mut peer = serving.dial(REQUEST).await;
    let (handler, mut events) = answering(answer);
    let session = serving.next().await.accept(handler).await.unwrap();
    let response = peer.head().await;
    assert_eq!(header(&response, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{response}");
    events.connected().await;
    (peer, session, events)
}

// Requests

pub(crate) async fn a_handler_serves_a_client(bed: Bed) {
    let serving = bed.serve();
    let builder = bed.builder(&serving.url("/chat")).subprotocol("v2").unwrap().subprotocol("v1").unwrap();
    let (handler, mut events) = answering(echo);
    let accept = async {
        let reply = Acceptance::new().subprotocol("v1").header("x-served-by", "parley").unwrap();
        serving.next().await.accept_with(reply, |_| handler).await.unwrap()
    };
    let (socket, session) = tokio::join!(builder.connect(), accept);
    let mut socket = socket.unwrap();
    assert_eq!(socket.connected().subprotocol(), Some("v1"));
    assert_eq!(socket.connected().headers()["x-served-by"], "parley");
    assert_eq!(events.connected().await.subprotocol(), Some("v1"));

    socket.send(Frame::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("hello"));
    assert_eq!(events.frame().await, Frame::text("hello"));
    session.send_frame(Frame::binary("of its own accord")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::binary("of its own accord"));

    socket.close().await.unwrap();
    assert!(socket.closed().unwrap().was_clean);
    assert!(
        matches!(events.disconnected().await, DisconnectReason::Remote(Some(frame)) if u16::from(frame.code()) == 1000)
    );
    session.join().await.unwrap();
    assert_eq!(serving.server.shutdown(LONG).await, 0);
    assert!(serving.server.next().await.is_none());
}

pub(crate) async fn a_request_is_seen_as_it_came(bed: Bed) {
    let serving = bed.serve();
    let builder = bed.builder(&serving.url("/a%20b/c?x=1&y")).header("x-one", "1").unwrap();
    let builder = builder.header("origin", "https://example.com").unwrap().subprotocol("v1").unwrap();
    let accept = async {
        let incoming = serving.next().await;
        let request = incoming.request();
        assert_eq!((request.path(), request.query()), ("/a%20b/c", Some("x=1&y")));
        assert_eq!(request.host(), serving.addr.to_string());
        assert_eq!(request.origin(), Some("https://example.com"));
        assert_eq!(request.headers()["x-one"], "1");
        assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["v1"]);
        let facts = incoming.transport().clone();
        assert_eq!(facts.local_addr, Some(serving.addr));
        assert_eq!(facts.tls.is_some(), bed.secure);
        if let Some(tls) = &facts.tls {
            assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
            assert!(tls.peer_certificates.is_empty(), "the client showed none");
        }
        incoming.into_websocket().await.unwrap();
        facts
    };
    let (socket, seen) = tokio::join!(builder.connect(), accept);
    assert_eq!(socket.unwrap().connected().transport.local_addr, seen.peer_addr);
}

pub(crate) async fn hazard_21_an_origin_that_is_not_welcome_is_refused(bed: Bed) {
    const OURS: &str = "https://example.com";
    let listed = || Origins::list([OURS]).unwrap();
    for (origins, origin, welcome) in [
        (listed(), Some(OURS), true),
        (listed(), Some("https://evil.example"), false),
        (listed(), Some("null"), false),
        (listed(), None, true),
        (listed().required(), None, false),
        (Origins::same_host(), Some("http://SERVER"), true),
        (Origins::same_host(), Some(OURS), false),
        (Origins::any().required(), None, false),
    ] {
        let serving = bed.serve_with(origins, |builder| builder);
        let mut builder = bed.builder(&serving.url("/"));
        if let Some(origin) = origin {
            let origin = origin.replace("SERVER", &serving.addr.to_string());
            builder = builder.header("origin", origin).unwrap();
        }
        if welcome {
            let accept = async { serving.next().await.into_websocket().await };
            let (client, server) = tokio::join!(builder.connect(), accept);
            let _ = (client.unwrap(), server.unwrap());
        } else {
            assert_eq!(refusal(builder.connect().await).0, 403, "{origin:?}");
        }
        assert_eq!(serving.server.stats().refused, u64::from(!welcome), "{origin:?}");
    }
}

pub(crate) async fn a_rejection_reaches_the_client(bed: Bed) {
    let serving = bed.serve();
    let reject = async {
        let rejection = Rejection::new(http::StatusCode::UNAUTHORIZED).unwrap();
        let rejection = rejection.header("www-authenticate", "Bearer").unwrap().body("no token");
        serving.next().await.reject(rejection);
    };
    let (refused, ()) = tokio::join!(bed.builder(&serving.url("/")).connect(), reject);
    match &refused {
        Err(Error::Disconnected(DisconnectReason::Rejected(rejected))) => {
            assert_eq!(rejected.headers["www-authenticate"], "Bearer");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(refusal(refused), (401, "no token".to_owned()));
}

pub(crate) async fn a_dropped_request_is_answered_with_503(bed: Bed) {
    let serving = bed.serve();
    let drop_it = async { drop(serving.next().await) };
    let (refused, ()) = tokio::join!(bed.builder(&serving.url("/")).connect(), drop_it);
    assert_eq!(refusal(refused).0, 503);
}

pub(crate) async fn a_request_that_nobody_answers_gets_503(bed: Bed) {
    let serving = bed.serve_with(Origins::any(), |builder| builder.decision_timeout(Duration::from_millis(200)));
    let (refused, incoming) = tokio::join!(bed.builder(&serving.url("/")).connect(), serving.next());
    assert_eq!(refusal(refused).0, 503);
    let late = incoming.accept(recorder().0).await;
    assert!(matches!(late, Err(StartError::Disconnected(_))), "{late:?}");
}

pub(crate) async fn a_failing_init_is_answered_with_500(bed: Bed) {
    #[derive(Debug)]
    struct Fails;

    impl Handler for Fails {
        async fn init(&mut self) -> Result<(), BoxError> {
            Err("no database".into())
        }
    }

    let serving = bed.serve();
    let accept = async { serving.next().await.accept(Fails).await };
    let (refused, failed) = tokio::join!(bed.builder(&serving.url("/")).connect(), accept);
    assert!(matches!(&failed, Err(StartError::Init(error)) if error.to_string() == "no database"), "{failed:?}");
    assert_eq!(refusal(refused).0, 500);
}

pub(crate) async fn a_request_without_upgrade_is_answered(bed: Bed) {
    let serving = bed.serve_with(Origins::any(), |builder| {
        builder.on_http(|request| {
            let body = format!("{} {}\n", request.method(), request.uri().path());
            http::Response::new(Bytes::from(body))
        })
    });
    for (method, body) in [("GET", &b"GET /health\n"[..]), ("HEAD", b"")] {
        let mut peer = serving.dial(format!("{method} /health HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
        let head = peer.head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let len = format!("{method} /health\n").len().to_string();
        assert_eq!(header(&head, "content-length"), Some(len.as_str()));
        assert_eq!(peer.end().await, End::Fin);
        assert_eq!(&peer.received()[head.len()..], body);
    }
    assert_eq!(serving.server.stats().answered, 2);

    let serving = bed.serve();
    let mut peer = serving.dial(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = peer.head().await;
    assert!(head.starts_with("HTTP/1.1 426 ") && header(&head, "upgrade") == Some("websocket"), "{head}");
}

// Sessions

pub(crate) async fn frames_in_the_packet_of_the_request_are_delivered(bed: Bed) {
    let serving = bed.serve();
    let packet = [REQUEST, &masked(TEXT, b"first"), &masked(TEXT, b"second")].concat();
    let mut peer = serving.dial(&packet).await;
    let session = serving.next().await.accept(answering(echo).0).await.unwrap();
    peer.head().await;
    assert_eq!(unmasked(&mut peer).await, (TEXT, b"first".to_vec()));
    assert_eq!(unmasked(&mut peer).await, (TEXT, b"second".to_vec()));
    drop(session);

    let peer = serving.dial(&packet).await;
    let mut socket = serving.next().await.into_websocket().await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("first"));
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("second"));
    drop(peer);
}

/// The server reads on behind its Close: what lies unread would make a reset of its end, and the Close would be lost.
pub(crate) async fn a_protocol_error_of_a_client_is_answered_and_drained(bed: Bed) {
    let serving = bed.serve();
    let (mut peer, session, mut events) = served(&serving, echo).await;
    peer.send(&[masked(TEXT, b"good"), frame(TEXT, b"not masked")].concat()).await;
    assert_eq!(unmasked(&mut peer).await, (TEXT, b"good".to_vec()));
    assert_eq!(unmasked(&mut peer).await, (CLOSE, close(1002, "")));
    peer.send(&[0; 200_000]).await;
    peer.shutdown().await;
    assert_eq!(peer.end().await, End::Fin);
    assert_eq!(events.frame().await, Frame::text("good"));
    let reason = events.disconnected().await;
    let expected = ProtocolError::Frame(FrameError::MaskMissing);
    assert!(matches!(&reason, DisconnectReason::Protocol(error) if *error == expected), "{reason:?}");
    let error = session.join().await.unwrap_err();
    assert!(matches!(error.reason(), StopReason::Disconnected(DisconnectReason::Protocol(_))), "{error:?}");
}

pub(crate) async fn hazard_22_a_panic_of_a_served_handler_fails_one_connection_alone(bed: Bed) {
    let serving = bed.serve();
    let (mut other, other_session, _events) = served(&serving, echo).await;
    // Without the hook, which would print.
    let panics = |seen: &Seen| match seen {
        Seen::Frame(_) => resume_unwind(Box::new("on purpose")),
        _ => Action::Continue,
    };
    let (mut peer, session, _seen) = served(&serving, panics).await;
    peer.send(&masked(TEXT, b"go")).await;
    assert_eq!(unmasked(&mut peer).await, (CLOSE, close(1011, "")));
    peer.shutdown().await;
    assert_eq!(peer.end().await, End::Fin);
    assert!(matches!(session.join().await.unwrap_err().reason(), StopReason::Panicked));

    other.send(&masked(TEXT, b"unharmed?")).await;
    assert_eq!(unmasked(&mut other).await, (TEXT, b"unharmed?".to_vec()));
    drop(other_session);
}

// Bounds

/// Before TLS, and within the request.
pub(crate) async fn hazard_2_a_silent_client_is_given_up(bed: Bed) {
    let serving = bed.serve_with(Origins::any(), |builder| builder.handshake_timeout(SHORT));
    let mut silent = peers::dial(serving.addr, false).await;
    let mut slow = serving.dial(b"GET / HTTP/1.1\r\nHo").await;
    silent.end().await;
    slow.end().await;
    assert_eq!(silent.received(), b"");
    // Whoever is still counted is waited for.
    assert_eq!(serving.server.shutdown(LONG).await, 0);
    let stats = serving.server.stats();
    assert_eq!((stats.accepted, stats.failed, stats.connections, stats.undecided), (2, 2, 0, 0), "{stats:?}");
}

pub(crate) async fn accepting_waits_while_there_are_enough(bed: Bed) {
    let serving = bed.serve_with(Origins::any(), |builder| builder.max_connections(1));
    let (mut first, mut first_served) = bed.sockets(&serving).await;
    let then = async {
        // Long enough for a second one to be accepted, if it were to be.
        first.send(Frame::text("alone?")).await.unwrap();
        assert_eq!(first_served.next().await.unwrap().unwrap(), Frame::text("alone?"));
        assert_eq!(serving.server.stats().connections, 1);
        let (closed, none) = tokio::join!(first.close(), first_served.next());
        closed.unwrap();
        assert!(none.is_none());
        drop(first_served);
        serving.next().await.into_websocket().await.unwrap()
    };
    let (second, mut second_served) = tokio::join!(bed.builder(&serving.url("/")).connect(), then);
    second.unwrap().send(Frame::text("my turn")).await.unwrap();
    assert_eq!(second_served.next().await.unwrap().unwrap(), Frame::text("my turn"));
    assert_eq!((serving.server.stats().accepted, serving.server.stats().connections), (2, 1));
}

// The end of a server

pub(crate) async fn a_broadcast_reaches_all_who_have_subscribed(bed: Bed) {
    let serving = bed.serve();
    let room = Broadcast::new(Slow::Drop);
    let large = Frame::binary(vec![7; 100_000]);
    let mut members = Vec::new();
    for _ in 0..3 {
        let accept = async { serving.next().await.accept(recorder().0).await.unwrap() };
        let (socket, session) = tokio::join!(bed.builder(&serving.url("/")).connect(), accept);
        session.wait_for(ClientState::Connected).await.unwrap();
        let subscription = room.subscribe(&session);
        members.push((socket.unwrap(), session, subscription));
    }
    for frame in [Frame::text("to all"), large.clone(), Frame::text("")] {
        assert_eq!(room.send(&frame).unwrap().queued, 3);
    }
    for (socket, ..) in &mut members {
        for frame in [Frame::text("to all"), large.clone(), Frame::text("")] {
            assert_eq!(socket.next().await.unwrap().unwrap(), frame);
        }
    }

    // A client masks what it sends: its server reads the same.
    let (handler, mut events) = recorder();
    let accept = async { serving.next().await.into_websocket().await.unwrap() };
    let (client, mut socket) = tokio::join!(bed.builder(&serving.url("/")).start(handler), accept);
    let client: Client<Recorder, u32> = client.unwrap();
    events.connected().await;
    let upstream = Broadcast::new(Slow::Drop);
    let _subscription = upstream.subscribe(&client);
    for frame in [Frame::text("up"), large] {
        assert_eq!(upstream.send(&frame).unwrap().queued, 1);
        assert_eq!(socket.next().await.unwrap().unwrap(), frame);
    }
}

/// Sends every big message back as it comes, through its own handle.
struct InParts {
    own: Handle,
    message: Option<MessageWriter>,
}

impl Handler for InParts {
    async fn handle_chunk(&mut self, chunk: Chunk) -> Result<Action, BoxError> {
        let mut message = match self.message.take() {
            Some(message) => message,
            None => self.own.begin_binary().await,
        };
        if chunk.last {
            message.finish_with(chunk.payload).await?;
        } else {
            message.write(chunk.payload).await?;
            message.flush().await?;
            self.message = Some(message);
        }
        Ok(Action::Continue)
    }
}

pub(crate) async fn a_big_message_goes_through_handlers_in_parts(bed: Bed) {
    let serving = bed.serve_with(Origins::any(), |builder| builder.chunks_above(1_000));
    let (handler, mut events) = recorder();
    let accept = async {
        let make = |own| InParts { own, message: None };
        serving.next().await.accept_with::<_, ()>(Acceptance::new(), make).await.unwrap()
    };
    let (client, session) = tokio::join!(bed.builder(&serving.url("/")).start(handler), accept);
    let client: Client<Recorder, u32> = client.unwrap();
    events.connected().await;
    let mut message = client.begin_binary().await;
    for part in 0..100 {
        message.write(vec![part; 10_000]).await.unwrap();
    }
    message.finish().await.unwrap();
    let Frame::Binary(echoed) = events.frame().await else { panic!("no binary message") };
    assert_eq!(echoed.len(), 1_000_000);
    assert!(echoed.chunks(10_000).enumerate().all(|(part, payload)| payload.iter().all(|&byte| byte == part as u8)));
    client.stop().await;
    client.join().await.unwrap();
    session.join().await.unwrap();
}

pub(crate) async fn a_shutdown_closes_all_with_1001_and_waits(bed: Bed) {
    let serving = bed.serve();
    let (mut first, mut served_by_loop) = bed.sockets(&serving).await;
    let (handler, mut events) = answering(echo);
    let accept = async { serving.next().await.accept(handler).await.unwrap() };
    let (second, session) = tokio::join!(bed.builder(&serving.url("/")).connect(), accept);
    let mut second = second.unwrap();
    events.connected().await;
    assert_eq!(serving.server.stats().connections, 2);

    async fn code_of(socket: &mut WebSocket) -> u16 {
        assert!(socket.next().await.is_none());
        socket.closed().unwrap().code()
    }
    let ended = async {
        assert!(served_by_loop.next().await.is_none());
        drop(served_by_loop); // it counts as long as somebody holds it
    };
    let (left, one, other, ()) =
        tokio::join!(serving.server.shutdown(LONG), code_of(&mut first), code_of(&mut second), ended);
    assert_eq!((left, one, other), (0, 1001, 1001));
    session.join().await.unwrap();
    assert!(matches!(events.terminated().await, StopReason::Stopped));
    let refused = bed.builder(&serving.url("/")).connect().await;
    assert!(matches!(refused, Err(Error::Disconnected(DisconnectReason::Tcp(_)))), "{refused:?}");
}

pub(crate) async fn what_does_not_end_in_time_is_dropped(bed: Bed) {
    #[derive(Debug)]
    struct Stuck(UnboundedSender<Frame>);

    impl Handler for Stuck {
        async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
            self.0.send(frame)?;
            pending().await
        }
    }

    let serving = bed.serve_with(Origins::any(), |builder| builder.close_timeout(LONG));
    let (sender, mut seen) = unbounded_channel();
    let accept = async { serving.next().await.accept(Stuck(sender)).await.unwrap() };
    let (client, session) = tokio::join!(bed.builder(&serving.url("/")).connect(), accept);
    let mut client = client.unwrap();
    client.send(Frame::text("wait")).await.unwrap();
    assert_eq!(seen.recv().await, Some(Frame::text("wait")));
    assert_eq!(serving.server.shutdown(Duration::from_millis(50)).await, 1);
    assert!(matches!(session.join().await.unwrap_err().reason(), StopReason::Aborted));
}

// Streams of the user's own

/// Under `wss` too: who brings a stream has seen to TLS.
pub(crate) async fn a_stream_of_the_users_own_is_served(bed: Bed) {
    let serving = bed.serve_with(Origins::same_host(), |builder| builder);
    let (near, far) = adapter::pair();
    let request = ClientRequest::new(&format!("{}://example.com/x", bed.scheme())).unwrap();
    let (handler, mut events) = answering(echo);
    let accept = async {
        let incoming = serving.server.accept(adapter::transport(far)).await.unwrap();
        assert_eq!((incoming.request().path(), incoming.request().host()), ("/x", "example.com"));
        assert_eq!(incoming.transport().peer_addr, None);
        incoming.accept(handler).await.unwrap()
    };
    let (client, session) = tokio::join!(adapter::client(near, request), accept);
    let mut client = client.unwrap();
    events.connected().await;
    let message = Frame::binary(vec![7; 100_000]);
    let (sent, got) = tokio::join!(client.send(message.clone()), events.frame());
    sent.unwrap();
    assert_eq!(got, message);
    assert_eq!(client.next().await.unwrap().unwrap(), message);
    client.close().await.unwrap();
    session.join().await.unwrap();

    let (near, far) = adapter::pair();
    let mut request = ClientRequest::new("ws://example.com/").unwrap();
    request.header("origin", "https://evil.example").unwrap();
    let (refused, not_accepted) =
        tokio::join!(adapter::client(near, request), serving.server.accept(adapter::transport(far)));
    assert_eq!(refusal(refused).0, 403);
    assert!(matches!(not_accepted, Err(AcceptError::Origin)), "{not_accepted:?}");
}

pub(crate) async fn a_handler_serves_what_another_server_has_upgraded(bed: Bed) {
    let serving = bed.serve_with(Origins::same_host(), |builder| builder);
    let request = http::Request::get("/chat")
        .header("host", "example.com")
        .header("origin", "https://example.com")
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13");
    let (agreed, response) =
        serving.server.check(&request.body(()).unwrap()).unwrap().accept(&Acceptance::new()).unwrap();
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

    let (near, far) = adapter::pair();
    let mut client = adapter::upgraded(near, Role::Client, agreed.clone(), Config::new(Role::Client)).unwrap();
    let upgraded = serving.server.upgraded(adapter::transport(far), agreed).unwrap();
    let (handler, mut events) = answering(echo);
    let session = upgraded.accept(handler).await.unwrap();
    events.connected().await;
    client.send(Frame::text("hello")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Frame::text("hello"));
    let (left, none) = tokio::join!(serving.server.shutdown(LONG), client.next());
    assert!(left == 0 && none.is_none());
    assert_eq!(client.closed().unwrap().code(), 1001);
    session.join().await.unwrap();
}
