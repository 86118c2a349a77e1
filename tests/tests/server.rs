//! The server role on tokio: what is not in the scenarios.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

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
