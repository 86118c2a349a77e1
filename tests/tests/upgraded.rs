//! Connections whose handshake another HTTP server has done: hyper, and axum.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::Body;
use axum::routing::any;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parley_tests::raw::{self, RawConn};
use parley_tokio::{Acceptance, Config, Error, Frame, Request, Role, upgraded};
use tokio::net::TcpListener;

/// What a handler has to write: the checks, the response, and the connection in a task of its own.
fn echo<B>(mut request: http::Request<B>) -> Result<http::Response<()>, Box<dyn std::error::Error + Send + Sync>> {
    let (agreed, response) = Request::from_http(&request)?.accept(&Acceptance::new().subprotocol("v1"))?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.unwrap());
        let mut socket = upgraded(stream, Role::Server, agreed, Config::new(Role::Server))?;
        while let Some(frame) = socket.next().await {
            socket.send(frame?).await?;
        }
        Ok::<_, Error>(())
    });
    Ok(response)
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
            let service = service_fn(|request| async {
                let response = match echo(request) {
                    Ok(response) => response.map(|()| String::new()),
                    Err(error) => {
                        let mut response = http::Response::new(error.to_string());
                        *response.status_mut() = http::StatusCode::BAD_REQUEST;
                        response
                    }
                };
                Ok::<_, Infallible>(response)
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    addr
}

async fn by_axum() -> SocketAddr {
    async fn handler(request: axum::extract::Request) -> Result<http::Response<Body>, (http::StatusCode, String)> {
        let response = echo(request).map_err(|error| (http::StatusCode::BAD_REQUEST, error.to_string()))?;
        Ok(response.map(|()| Body::empty()))
    }
    let (listener, addr) = listener().await;
    let app = axum::Router::new().route("/chat", any(handler));
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
    assert!(conn.head().await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_connection_that_hyper_has_upgraded() {
    check(by_hyper().await).await;
}

#[tokio::test]
async fn a_connection_that_axum_has_upgraded() {
    check(by_axum().await).await;
}
