//! The server role on tokio: what is not in the scenarios.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use parley_tokio::{Origins, Server};

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
