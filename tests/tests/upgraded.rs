//! Connections whose handshake another HTTP server has done: hyper, and axum.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::Body;
use axum::routing::any;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parley_tests::raw::{self, RawConn};
use parley_tokio::{Acceptance, Config, Error, Frame, Request, Role, upgraded};
use tokio::net::TcpListener;

/// What a handler has to write: the checks, the response, and the connection in a task of its own.
fn echo<B>(mut request: http::Request<B>) -> http::Response<Bytes> {
    let handshake = match Request::from_http(&request) {
        Ok(handshake) => handshake,
        Err(error) => return error.to_http(),
    };
    let offered = handshake.subprotocols().any(|name| name == "v1");
    let reply = if offered { Acceptance::new().subprotocol("v1") } else { Acceptance::new() };
    let (agreed, response) = handshake.accept(&reply).unwrap();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.unwrap());
        let mut socket = upgraded(stream, Role::Server, agreed, Config::new(Role::Server))?;
        while let Some(frame) = socket.next().await {
            socket.send(frame?).await?;
        }
        Ok::<_, Error>(())
    });
    response.map(|()| Bytes::new())
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

async fn by_hyper() -> SocketAddr {
    let (listener, addr) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request| async { Ok::<_, Infallible>(echo(request).map(Body::from)) });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    addr
}

async fn by_axum() -> SocketAddr {
    let (listener, addr) = listener().await;
    let app =
        axum::Router::new().route("/chat", any(async |request: axum::extract::Request| echo(request).map(Body::from)));
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

async fn check(addr: SocketAddr) {
    let builder = parley_tokio::Client::builder(&format!("ws://{addr}/chat")).unwrap().subprotocol("v1").unwrap();
    let mut socket = builder.connect().await.unwrap();
    assert_eq!(socket.connected().subprotocol(), Some("v1"));
    let large = Frame::binary(vec![7; 300_000]);
    for frame in [Frame::text("hello"), large] {
        socket.send(frame.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), frame);
    }
    socket.close().await.unwrap();
    assert!(socket.closed().unwrap().was_clean);

    // What came with the request is not lost between the two.
    let mut conn = RawConn::dial(addr).await;
    let request = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v1\r\n\r\n";
    conn.send(&[&request[..], &raw::masked_frame(0x81, [1, 2, 3, 4], b"early")].concat()).await;
    let head = conn.head().await;
    assert_eq!(raw::header(&head, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(conn.frame().await.payload, b"early");

    let mut conn = RawConn::dial(addr).await;
    conn.send(b"GET /chat HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = conn.head().await;
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
    assert_eq!(raw::header(&head, "sec-websocket-version"), Some("13"));
    assert_eq!(raw::header(&head, "upgrade"), Some("websocket"));
}

#[tokio::test]
async fn a_connection_that_hyper_has_upgraded() {
    check(by_hyper().await).await;
}

#[tokio::test]
async fn a_connection_that_axum_has_upgraded() {
    check(by_axum().await).await;
}
