//! The example `client`: its transcript, and a session with a server elsewhere.

use std::process::Stdio;

use parley_tests::raw::{End, RawConn, RawServer, frame};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::{example, masked, printed_by, within_deadline};

const TRANSCRIPT: &str = include_str!("../../../parley-tokio/examples/client/transcript.txt");

#[test]
fn the_readme_shows_how_the_transcript_begins() {
    let readme = include_str!("../../../README.md");
    let (_, shown) = readme.split_once("```text\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    assert!(TRANSCRIPT.starts_with(shown), "{shown}");
    assert!(shown.lines().count() >= 4);
}

#[tokio::test]
async fn the_embedded_run_is_the_committed_transcript() {
    let stdout = printed_by("client").await;
    assert_eq!(masked(&stdout), masked(TRANSCRIPT), "\n{stdout}");
}

/// The example in a session with a server of this test's.
struct Session {
    child: Child,
    printed: Lines<BufReader<ChildStdout>>,
    peer: RawConn,
}

impl Session {
    async fn start() -> Self {
        let server = RawServer::bind().await;
        let mut child = Command::new(example("client"))
            .arg(server.url("/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let printed = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut peer = server.accept().await;
        peer.upgrade("").await;
        let mut session = Self { child, printed, peer };
        session.prints("connected 101 Switching Protocols").await;
        session
    }

    async fn prints(&mut self, what: &str) {
        let line = self.printed.next_line().await.unwrap().expect("a line");
        assert_eq!(masked(&line), [what]);
    }

    async fn types(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    /// A line each way.
    async fn talk(&mut self) {
        self.types("hello\n").await;
        let sent = self.peer.frame().await;
        assert_eq!((sent.first, sent.payload.as_slice()), (0x81, &b"hello"[..]));
        self.peer.send(&frame(0x81, b"hi there")).await;
        self.prints("text hi there").await;
        self.peer.send(&frame(0x82, &[1, 2])).await;
        self.prints(r#"frame Binary(b"\x01\x02")"#).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn an_interrupt_closes_a_session_with_1000() {
    within_deadline(async {
        let mut session = Session::start().await;
        session.talk().await;
        // Of that process alone; stdin stays open.
        let pid = session.child.id().unwrap().to_string();
        let kill = Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
        assert!(kill.success());
        let close = session.peer.frame().await;
        assert_eq!((close.first, close.payload.as_slice()), (0x88, &b"\x03\xe8"[..]));
        session.peer.send(&frame(0x88, b"\x03\xe8")).await;
        session.peer.shutdown().await;
        assert_eq!(session.peer.end().await, End::Fin);
        session.prints("main closing with 1000").await;
        assert_eq!(session.printed.next_line().await.unwrap(), None);
        let status = session.child.wait().await.unwrap();
        assert!(status.success(), "{status}");
    })
    .await;
}

#[tokio::test]
async fn a_session_ends_well_when_the_server_closes_with_1000() {
    within_deadline(async {
        let mut session = Session::start().await;
        session.talk().await;
        // At the end of stdin it goes on to print what arrives.
        drop(session.child.stdin.take());
        session.peer.send(&frame(0x81, b"more")).await;
        session.prints("text more").await;
        session.peer.send(&frame(0x88, b"\x03\xe8")).await;
        let close = session.peer.frame().await;
        assert_eq!((close.first, close.payload.as_slice()), (0x88, &b"\x03\xe8"[..]));
        session.peer.shutdown().await;
        assert_eq!(session.peer.end().await, End::Fin);
        session.prints("disconnected closed by the peer with 1000").await;
        let status = session.child.wait().await.unwrap();
        assert!(status.success(), "{status}");
    })
    .await;
}
