//! The server role on tokio: what is not in the scenarios.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use bytes::Bytes;
use parley_tests::raw::{End, RawConn};
use parley_tokio::{Frame, Origins, Server};

#[tokio::test]
async fn a_socket_that_has_ended_keeps_no_place_though_a_half_of_it_is_kept() {
    let server = Server::builder(Origins::any()).max_connections(1).bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
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

#[tokio::test]
async fn both_ends_of_a_stream_of_the_users_own() {
    let (near, far) = tokio::io::duplex(256);
    let request = parley_tokio::ClientRequest::new("ws://example.com/").unwrap();
    let (client, server) =
        tokio::join!(parley_tokio::client(near, request), parley_tokio::server(far, Origins::same_host()));
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    server.send(Frame::text("hello")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Frame::text("hello"));
    let (closed, end) = tokio::join!(client.close(), server.next());
    closed.unwrap();
    assert!(end.is_none());
}

#[tokio::test]
async fn a_big_page_arrives_whole() {
    let page = Bytes::from(vec![b'p'; 300_000]);
    let answer = page.clone();
    let builder = Server::builder(Origins::any()).on_http(move |_| http::Response::new(answer.clone()));
    let server = builder.bind("127.0.0.1:0").unwrap();
    let mut conn = RawConn::dial(server.local_addr().unwrap()).await;
    conn.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(conn.head().await.contains("Content-Length: 300000\r\n"));
    assert!(conn.receive(page.len()).await == page);
    assert_eq!(conn.end().await, End::Fin);
}
