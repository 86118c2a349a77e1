//! The example `axum`: a WebSocket beside ordinary routes of one server.

use parley_tokio::{Client, DisconnectReason, Error, Frame};

use crate::{Serving, get, printed_by, within_deadline};

#[tokio::test]
async fn it_talks_to_itself_and_ends() {
    let printed = printed_by("axum").await;
    let lines: Vec<_> = printed.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "GET /        There is a WebSocket at /ws, and a count of its messages at /echoed.",
            "GET /ws      101 Switching Protocols",
            r#"Text("hello")"#,
            r#"Text("from")"#,
            r#"Text("one port")"#,
            "closed with 1000",
            "GET /echoed  3",
        ]
    );
}

#[tokio::test]
async fn it_serves_the_upgrade_to_its_own_pages_and_other_routes_beside_it() {
    within_deadline(async {
        let server = Serving::start("axum", &["--serve", "127.0.0.1:0"], "listening on http://").await;
        let addr = &server.addr;
        let url = format!("ws://{addr}/ws");
        let own = Client::builder(&url).unwrap().header("origin", format!("http://{addr}")).unwrap();
        let mut socket = own.connect().await.unwrap();
        socket.send(Frame::text("grüße")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("grüße"));
        assert!(get(addr, "/echoed").await.ends_with("\r\n\r\n1"));

        // No more than 64 KiB.
        socket.send(Frame::binary(vec![0; 64 * 1024 + 1])).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
        assert_eq!(socket.closed().unwrap().code(), 1009);

        let other = Client::builder(&url).unwrap().header("origin", "http://example.com").unwrap();
        match other.connect().await.unwrap_err() {
            Error::Disconnected(DisconnectReason::Rejected(rejected)) => assert_eq!(rejected.status.as_u16(), 403),
            error => panic!("{error}"),
        }
        assert!(get(addr, "/ws").await.starts_with("HTTP/1.1 426 "));
        assert!(get(addr, "/elsewhere").await.starts_with("HTTP/1.1 404 "));
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn an_interrupt_sees_its_connections_off() {
    within_deadline(async {
        let mut server = Serving::start("axum", &["--serve", "127.0.0.1:0"], "listening on http://").await;
        let mut socket = parley_tokio::connect(&format!("ws://{}/ws", server.addr)).await.unwrap();
        socket.send(Frame::text("hello")).await.unwrap();
        socket.next().await.unwrap().unwrap();
        server.interrupt().await;
        assert!(socket.next().await.is_none());
        assert_eq!(socket.closed().unwrap().code(), 1001);
        assert_eq!(server.printed.next_line().await.unwrap(), None);
        assert!(server.child.wait().await.unwrap().success());
    })
    .await;
}
