//! The example `chat`: people in rooms, the page, a restart, and what becomes of those who do not behave.

use std::time::Duration;

use parley_tokio::{
    Action, BoxError, Client, Connected, DisconnectReason, Error, Frame, Handler, Reconnect, Retry, Transport,
    WebSocket,
};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;

use crate::{Serving, get, within_deadline};

async fn chat(addr: &str) -> Serving {
    Serving::start("chat", &[addr], "open http://").await
}

/// A connection that has not joined.
async fn visit(chat: &Serving) -> Visitor {
    Visitor(parley_tokio::connect(&format!("ws://{}/chat", chat.addr)).await.unwrap())
}

async fn join(chat: &Serving, room: &str, name: &str) -> Visitor {
    let mut visitor = visit(chat).await;
    visitor.send(&format!("join\t{room}\t{name}")).await;
    visitor
}

struct Visitor(WebSocket);

impl Visitor {
    async fn send(&mut self, line: &str) {
        self.0.send(Frame::text(line.to_owned())).await.unwrap();
    }

    async fn line(&mut self) -> String {
        String::from_utf8(self.0.next().await.expect("a frame").unwrap().into_payload().to_vec()).unwrap()
    }

    /// The next line about the room.
    async fn hears(&mut self, wanted: &str) {
        let mut line = self.line().await;
        while line.starts_with("rooms\t") {
            line = self.line().await;
        }
        assert_eq!(timeless(&line), wanted);
    }

    /// The next line about all rooms.
    async fn counts(&mut self) -> String {
        loop {
            let line = self.line().await;
            if line.starts_with("rooms\t") {
                return line;
            }
        }
    }

    /// Reads to the end, and gives the server's code.
    async fn end(mut self) -> u16 {
        while let Some(Ok(_)) = self.0.next().await {}
        self.0.closed().expect("it is over").code()
    }
}

/// What was said has the time in it.
fn timeless(line: &str) -> String {
    match line.strip_prefix("said\t").and_then(|rest| rest.split_once('\t')) {
        Some((time, rest)) if time.parse::<u64>().is_ok() => format!("said\t{rest}"),
        _ => line.to_owned(),
    }
}

#[tokio::test]
async fn a_message_reaches_all_in_the_room_and_nobody_else() {
    within_deadline(async {
        let chat = chat("127.0.0.1:0").await;
        let mut ada = join(&chat, "lobby", "Ada").await;
        ada.hears("here\tlobby\tAda").await;
        let mut grace = join(&chat, "lobby", "Grace Hopper").await;
        grace.hears("here\tlobby\tAda\tGrace Hopper").await;
        ada.hears("joined\tGrace Hopper").await;
        let mut elsewhere = join(&chat, "another room", "Ada").await;
        elsewhere.hears("here\tanother room\tAda").await;

        grace.send("typing").await;
        ada.hears("typing\tGrace Hopper").await; // and she herself hears nothing of it
        ada.send("say\tgrüße, <b>all</b>").await;
        for member in [&mut ada, &mut grace] {
            member.hears("said\tAda\tgrüße, <b>all</b>").await;
        }
        elsewhere.send("say\tnobody else here").await;
        elsewhere.hears("said\tAda\tnobody else here").await;

        grace.0.close().await.unwrap();
        ada.hears("left\tGrace Hopper").await;
        // Who comes later reads what was said.
        let mut alan = join(&chat, "lobby", "Alan").await;
        alan.hears("here\tlobby\tAda\tAlan").await;
        alan.hears("said\tAda\tgrüße, <b>all</b>").await;
        ada.hears("joined\tAlan").await;
        drop(ada); // without a Close
        alan.hears("left\tAda").await;
    })
    .await;
}

#[tokio::test]
async fn all_are_told_how_many_are_in_each_room_and_may_change_it() {
    within_deadline(async {
        let chat = chat("127.0.0.1:0").await;
        let mut ada = join(&chat, "lobby", "Ada").await;
        assert_eq!(ada.counts().await, "rooms\tlobby\t1\trandom\t0\trust\t0");
        let mut grace = join(&chat, "compilers", "Grace").await;
        assert_eq!(ada.counts().await, "rooms\tcompilers\t1\tlobby\t1\trandom\t0\trust\t0");
        assert_eq!(grace.counts().await, "rooms\tcompilers\t1\tlobby\t1\trandom\t0\trust\t0");
        grace.send("join\tlobby\tGrace").await;
        ada.hears("joined\tGrace").await;
        grace.hears("here\tlobby\tAda\tGrace").await;
        assert_eq!(grace.counts().await, "rooms\tlobby\t2\trandom\t0\trust\t0");
    })
    .await;
}

#[tokio::test]
async fn the_page_is_served_and_other_pages_are_refused() {
    within_deadline(async {
        let chat = chat("127.0.0.1:0").await;
        for (path, kind, body) in [
            ("/", "text/html", include_str!("../../../parley-tokio/examples/chat/page.html")),
            ("/page.css", "text/css", include_str!("../../../parley-tokio/examples/chat/page.css")),
            ("/page.js", "text/javascript", include_str!("../../../parley-tokio/examples/chat/page.js")),
        ] {
            let page = get(&chat.addr, path).await;
            assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
            assert!(page.contains(&format!("content-type: {kind}; charset=utf-8\r\n")), "{page}");
            assert!(page.contains("content-security-policy: default-src 'none'; script-src 'self';"), "{page}");
            assert!(page.ends_with(body), "{page}");
            // Texts of others become no markup, and the page's own needs none.
            assert!(!body.contains("innerHTML") && !body.contains("insertAdjacent"));
        }
        assert!(get(&chat.addr, "/favicon.ico").await.starts_with("HTTP/1.1 404 "));

        for (path, origin, status) in [("/chat", "http://example.com", 403), ("/other", "", 404)] {
            let mut builder = Client::builder(&format!("ws://{}{path}", chat.addr)).unwrap();
            if !origin.is_empty() {
                builder = builder.header("origin", origin).unwrap();
            }
            match builder.connect().await.unwrap_err() {
                Error::Disconnected(DisconnectReason::Rejected(refused)) => assert_eq!(refused.status, status),
                error => panic!("{error}"),
            }
        }
        let own = Client::builder(&format!("ws://{}/chat", chat.addr)).unwrap();
        own.header("origin", format!("http://{}", chat.addr)).unwrap().connect().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn who_does_not_behave_is_sent_away() {
    within_deadline(async {
        let chat = chat("127.0.0.1:0").await;
        let mut ada = join(&chat, "lobby", "Ada").await;
        ada.hears("here\tlobby\tAda").await;
        assert_eq!(join(&chat, "lobby", "Ada").await.end().await, 4001);
        let long = "x".repeat(25);
        for name in ["", " Ada", "A\u{202e}da", "<b>", "A\u{200b}da", &long] {
            assert_eq!(join(&chat, "lobby", name).await.end().await, 4000, "{name}");
            assert_eq!(join(&chat, name, "Eve").await.end().await, 4000, "{name}");
        }
        for line in ["say\tbefore joining", "typing", "no such thing", "say\t \t", "say\ta\u{7}b"] {
            let mut visitor = visit(&chat).await;
            visitor.send(line).await;
            assert_eq!(visitor.end().await, 1008, "{line}");
        }
        let mut binary = visit(&chat).await;
        binary.0.send(Frame::binary(vec![1])).await.unwrap();
        assert_eq!(binary.end().await, 1003);
        let mut big = join(&chat, "lobby", "Big").await;
        let _ = big.0.send(Frame::text(format!("say\t{}", "x".repeat(2048)))).await;
        assert_eq!(big.end().await, 1009);
        let mut flood = join(&chat, "lobby", "Flood").await;
        for _ in 0..30 {
            let _ = flood.0.send(Frame::text("say\tagain")).await; // the Close may have come
        }
        assert_eq!(flood.end().await, 1008);
        let mut rooms = Vec::new();
        for number in 0..47 {
            let mut visitor = join(&chat, &format!("room {number}"), "Eve").await;
            visitor.hears(&format!("here\troom {number}\tEve")).await;
            rooms.push(visitor);
        }
        assert_eq!(join(&chat, "one too many", "Eve").await.end().await, 4002);
    })
    .await;
}

#[tokio::test]
async fn a_member_who_does_not_read_is_closed_with_1013_and_holds_nobody_up() {
    within_deadline(async {
        let chat = chat("127.0.0.1:0").await;
        // What the system takes for it does not count to its queue: so it takes little.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(chat.addr.parse().unwrap()).await.unwrap();
        let builder = Client::builder(&format!("ws://{}/chat", chat.addr)).unwrap();
        let mut slow = Visitor(builder.connect_over(Transport::from(stream)).await.unwrap());
        slow.send("join\tlobby\tSlow").await;

        let mut listener = join(&chat, "lobby", "Listener").await;
        let text = "x".repeat(2000);
        // More than the system takes for it and the server keeps for it. Each may say only so much in a second: then it is
        // another's turn.
        for number in 0..300 {
            let name = format!("Speaker {number}");
            let mut speaker = join(&chat, "lobby", &name).await;
            let said = format!("said\t{name}\t{text}");
            for _ in 0..8 {
                speaker.send(&format!("say\t{text}")).await;
                while timeless(&listener.line().await) != said {}
            }
        }
        assert_eq!(slow.end().await, 1013);
        while listener.line().await != "left\tSlow" {}
    })
    .await;
}

/// Joins on every connection, and tells what it hears.
struct Member(mpsc::UnboundedSender<String>);

impl Handler for Member {
    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        Ok(Frame::text("join\tlobby\tAda").into())
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        self.0.send(timeless(std::str::from_utf8(frame.payload())?))?;
        Ok(Action::Continue)
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        let _ = self.0.send(format!("lost: {reason}"));
        Retry::Policy
    }
}

/// Passes over what else there is to hear.
async fn until(heard: &mut mpsc::UnboundedReceiver<String>, wanted: &str) {
    while heard.recv().await.expect("the client goes on") != wanted {}
}

#[cfg(unix)]
#[tokio::test]
async fn a_client_is_back_when_the_server_is() {
    within_deadline(async {
        let mut first = chat("127.0.0.1:0").await;
        let addr = first.addr.clone();
        let (say, mut heard) = mpsc::unbounded_channel();
        let often = Reconnect::default().base(Duration::from_millis(20)).max(Duration::from_millis(200));
        let client =
            Client::builder(&format!("ws://{addr}/chat")).unwrap().reconnect(often).start(Member(say)).await.unwrap();
        until(&mut heard, "here\tlobby\tAda").await;

        // In order, as by Ctrl-C.
        first.interrupt().await;
        until(&mut heard, "lost: closed by the peer with 1001").await;
        assert_eq!(first.printed.next_line().await.unwrap().as_deref(), Some("closing 1 connections"));
        assert!(first.child.wait().await.unwrap().success());
        let mut second = chat(&addr).await;
        until(&mut heard, "here\tlobby\tAda").await;

        // And without a word.
        second.child.kill().await.unwrap();
        let mut third = chat(&addr).await;
        until(&mut heard, "here\tlobby\tAda").await;
        let mut grace = join(&third, "lobby", "Grace").await;
        grace.send("say\twelcome back").await;
        until(&mut heard, "said\tGrace\twelcome back").await;
        client.stop().await;
        client.join().await.unwrap();
        third.interrupt().await;
        assert_eq!(grace.end().await, 1001);
        assert!(third.child.wait().await.unwrap().success());
    })
    .await;
}
