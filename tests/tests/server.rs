//! The server role on tokio, over real sockets.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use parley_tests::raw::{End, RawConn};
use parley_tokio::{
    Acceptance, Action, BoxError, Client, Connected, DisconnectReason, Error, Frame, Handler, Origins, Rejection,
    Server, ServerBuilder, StartError, StopReason,
};

#[derive(Debug)]
struct Echo;

impl Handler for Echo {
    async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
        Ok(Frame::text(connected.subprotocol().unwrap_or("none").to_owned()).into())
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        Ok(Action::Push(frame))
    }
}

fn server(builder: ServerBuilder) -> (Server, SocketAddr) {
    let server = builder.bind("127.0.0.1:0").unwrap();
    let addr = server.local_addr().unwrap();
    (server, addr)
}

fn any() -> ServerBuilder {
    Server::builder(Origins::any())
}

#[tokio::test]
async fn a_handler_serves_a_client() {
    let (server, addr) = server(any());
    let client = tokio::spawn(async move {
        let builder = Client::builder(&format!("ws://{addr}/chat")).unwrap().subprotocol("v1").unwrap();
        let mut socket = builder.connect().await.unwrap();
        assert_eq!(socket.connected().subprotocol(), Some("v1"));
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("v1"));
        socket.send(Frame::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("hello"));
        socket.close().await.unwrap();
        assert!(socket.closed().unwrap().was_clean);
    });
    let incoming = server.next().await.unwrap();
    assert_eq!(incoming.request().path(), "/chat");
    assert!(incoming.transport().peer_addr.is_some());
    let session = incoming.accept_with(Acceptance::new().subprotocol("v1"), |_| Echo).await.unwrap();
    session.join().await.unwrap();
    client.await.unwrap();
    assert_eq!(server.shutdown(Duration::from_secs(5)).await, 0);
    assert!(server.next().await.is_none());
}

#[tokio::test]
async fn a_request_becomes_a_websocket_or_is_rejected() {
    let (server, addr) = server(any());
    let url = format!("ws://{addr}/");
    let (client, socket) = tokio::join!(parley_tokio::connect(&url), async {
        server.next().await.unwrap().into_websocket().await.unwrap()
    });
    let (mut client, mut socket) = (client.unwrap(), socket);
    socket.send(Frame::text("from the server")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Frame::text("from the server"));
    let (closed, next) = tokio::join!(socket.close(), client.next());
    closed.unwrap();
    assert!(next.is_none());

    let (refused, ()) = tokio::join!(parley_tokio::connect(&url), async {
        let rejection = Rejection::new(http::StatusCode::UNAUTHORIZED).unwrap().body("no token");
        server.next().await.unwrap().reject(rejection);
    });
    let Err(Error::Disconnected(DisconnectReason::Rejected(rejected))) = refused else { panic!("{refused:?}") };
    assert_eq!((rejected.status.as_u16(), &rejected.body[..]), (401, &b"no token"[..]));

    let (refused, ()) = tokio::join!(parley_tokio::connect(&url), async {
        drop(server.next().await.unwrap());
    });
    let Err(Error::Disconnected(DisconnectReason::Rejected(rejected))) = refused else { panic!("{refused:?}") };
    assert_eq!(rejected.status, 503);
}

/// Hazard 21.
#[tokio::test]
async fn an_origin_that_is_not_welcome_is_refused() {
    let (server, addr) = server(Server::builder(Origins::list(["https://example.com"]).unwrap().required()));
    for (origin, status) in [(Some("https://evil.example"), 403), (None, 403), (Some("https://example.com"), 101)] {
        let mut builder = Client::builder(&format!("ws://{addr}/")).unwrap();
        if let Some(origin) = origin {
            builder = builder.header("origin", origin).unwrap();
        }
        let task = tokio::spawn(builder.connect());
        if status == 101 {
            server.next().await.unwrap().into_websocket().await.unwrap();
            task.await.unwrap().unwrap();
        } else {
            let Err(Error::Disconnected(DisconnectReason::Rejected(rejected))) = task.await.unwrap() else { panic!() };
            assert_eq!(rejected.status, status);
        }
    }
    assert_eq!(server.stats().refused, 2);
}

#[tokio::test]
async fn a_request_without_upgrade_is_answered_and_the_connection_closes() {
    let (_server, addr) = server(any().on_http(|request| {
        let body = format!("{} {}\n", request.method(), request.uri().path());
        http::Response::new(Bytes::from(body))
    }));
    let mut conn = RawConn::dial(addr).await;
    conn.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = conn.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(conn.receive(12).await, b"GET /health\n");
    assert_eq!(conn.end().await, End::Fin);

    let (_server, addr) = server(any());
    let mut conn = RawConn::dial(addr).await;
    conn.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(conn.head().await.starts_with("HTTP/1.1 426 "));
}

#[tokio::test]
async fn an_init_that_fails_is_answered_with_500() {
    #[derive(Debug)]
    struct Failing;
    impl Handler for Failing {
        async fn init(&mut self) -> Result<(), BoxError> {
            Err("no database".into())
        }
    }
    let (server, addr) = server(any());
    let task = tokio::spawn(async move { parley_tokio::connect(&format!("ws://{addr}/")).await });
    let error = server.next().await.unwrap().accept(Failing).await.unwrap_err();
    assert!(matches!(error, StartError::Init(_)), "{error:?}");
    let Err(Error::Disconnected(DisconnectReason::Rejected(rejected))) = task.await.unwrap() else { panic!() };
    assert_eq!(rejected.status, 500);
}

#[tokio::test]
async fn shutdown_closes_all_with_1001_and_waits() {
    let (server, addr) = server(any());
    let url = format!("ws://{addr}/");
    let (client, socket) = tokio::join!(parley_tokio::connect(&url), async {
        server.next().await.unwrap().into_websocket().await.unwrap()
    });
    let (mut first, mut socket) = (client.unwrap(), socket);
    let (client, session) =
        tokio::join!(parley_tokio::connect(&url), async { server.next().await.unwrap().accept(Echo).await.unwrap() });
    let mut second = client.unwrap();
    assert_eq!(second.next().await.unwrap().unwrap(), Frame::text("none"));
    assert_eq!(server.stats().connections, 2);
    let (left, first_end, second_end, served) = tokio::join!(
        server.shutdown(Duration::from_secs(10)),
        async {
            assert!(first.next().await.is_none());
            first.closed().unwrap().code()
        },
        async {
            assert!(second.next().await.is_none());
            second.closed().unwrap().code()
        },
        async {
            let next = socket.next().await;
            drop(socket);
            next
        },
    );
    assert_eq!((left, first_end, second_end), (0, 1001, 1001));
    assert!(served.is_none());
    assert!(session.join().await.is_ok());
    assert!(matches!(parley_tokio::connect(&url).await, Err(Error::Disconnected(DisconnectReason::Tcp(_)))));
}

#[tokio::test]
async fn what_does_not_end_in_time_is_dropped() {
    #[derive(Debug)]
    struct Stuck;
    impl Handler for Stuck {
        async fn handle_frame(&mut self, _: Frame) -> Result<Action, BoxError> {
            std::future::pending().await
        }
    }
    let (server, addr) = server(any().close_timeout(Duration::from_secs(60)));
    let url = format!("ws://{addr}/");
    let (client, session) =
        tokio::join!(parley_tokio::connect(&url), async { server.next().await.unwrap().accept(Stuck).await.unwrap() });
    let mut client = client.unwrap();
    client.send(Frame::text("wait")).await.unwrap();
    assert_eq!(server.shutdown(Duration::from_millis(50)).await, 1);
    assert!(matches!(session.join().await.unwrap_err().reason(), StopReason::Aborted));
}

#[tokio::test]
async fn a_stream_of_the_users_own_is_served_and_dialled_over() {
    let (near, far) = tokio::io::duplex(256);
    let server = any().build().unwrap();
    let request = parley_tokio::ClientRequest::new("ws://example.com/x").unwrap();
    let (client, socket) = tokio::join!(parley_tokio::client(near, request), async {
        let incoming = server.accept(parley_tokio::Transport::new(far)).await.unwrap();
        assert_eq!((incoming.request().path(), incoming.request().host()), ("/x", "example.com"));
        incoming.into_websocket().await.unwrap()
    });
    let (mut client, mut socket) = (client.unwrap(), socket);
    let message = Frame::binary(vec![7; 100_000]);
    let (sent, got) = tokio::join!(client.send(message.clone()), socket.next());
    sent.unwrap();
    assert_eq!(got.unwrap().unwrap(), message);
}

/// Four tasks on four threads, through a stream that holds a few bytes: nobody misses a wake.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn halves_of_both_sides_on_many_threads() {
    async fn both<S>(socket: parley_tokio::WebSocket<S>) -> parley_tokio::WebSocket<S>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, mut receiver) = socket.split();
        let frame = |n: usize| Frame::binary(vec![n as u8; n * 7919 % 1500]);
        let sending = tokio::spawn(async move {
            for n in 0..300 {
                match n % 3 {
                    0 => sender.feed(frame(n)).await.unwrap(),
                    _ => sender.send(frame(n)).await.unwrap(),
                }
            }
            sender.flush().await.unwrap();
            sender
        });
        let receiving = tokio::spawn(async move {
            for n in 0..300 {
                assert_eq!(receiver.next().await.unwrap().unwrap(), frame(n));
            }
            receiver
        });
        let (sender, receiver) = (sending.await.unwrap(), receiving.await.unwrap());
        sender.reunite(receiver).unwrap()
    }
    for buffer in [7, 64, 100_000] {
        let (near, far) = tokio::io::duplex(buffer);
        let server = any().build().unwrap();
        let request = parley_tokio::ClientRequest::new("ws://example.com/").unwrap();
        let (client, socket) = tokio::join!(parley_tokio::client(near, request), async {
            server.accept(parley_tokio::Transport::new(far)).await.unwrap().into_websocket().await.unwrap()
        });
        let exchange = async { tokio::join!(both(client.unwrap()), both(socket)) };
        let (mut client, mut socket) = tokio::time::timeout(Duration::from_secs(60), exchange).await.unwrap();
        let (closed, next) = tokio::join!(client.close(), socket.next());
        closed.unwrap();
        assert!(next.is_none());
    }
}

#[tokio::test]
async fn a_socket_that_has_ended_keeps_no_place_though_a_half_of_it_is_kept() {
    let (server, addr) = server(any().max_connections(1));
    let url = format!("ws://{addr}/");
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (client, socket) = tokio::join!(parley_tokio::connect(&url), async {
            server.next().await.unwrap().into_websocket().await.unwrap()
        });
        let (sender, mut receiver) = socket.split();
        kept.push(sender);
        let mut client = client.unwrap();
        let (closed, end) = tokio::join!(client.close(), receiver.next());
        closed.unwrap();
        assert!(end.is_none());
    }
    assert_eq!(server.stats().connections, 0);
}
