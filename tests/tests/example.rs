//! The example `client` as a user runs it: its transcript, and a session with a server elsewhere.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use parley_tests::raw::{End, RawConn, RawServer, frame};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A run that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// The example's binary, of the same profile as this test.
///
/// `cargo test --workspace` has built it already; then cargo finds it fresh. Where only this package is tested, it is
/// built now.
fn example() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // <target>[/<triple>]/<profile>/deps/<this test>
        let test = env::current_exe().unwrap();
        let profile_dir = test.ancestors().nth(2).unwrap();
        let profile = match profile_dir.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let above = profile_dir.parent().unwrap();
        let built_for = above.file_name().and_then(|name| name.to_str()).filter(|name| name.contains('-'));
        let is_target_dir = above.join(".rustc_info.json").exists();
        let target_dir = if is_target_dir { above } else { above.parent().unwrap() };

        let mut cargo = std::process::Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
        // All of the workspace, so that the features of dependencies are those of `cargo test --workspace`.
        cargo.current_dir(manifest_dir.parent().unwrap()).args([
            "build",
            "--quiet",
            "--workspace",
            "--example",
            "client",
        ]);
        cargo.args(["--profile", profile]).arg("--target-dir").arg(target_dir);
        if let (false, Some(triple)) = (is_target_dir, built_for) {
            cargo.args(["--target", triple]);
        }
        // What cargo tells the test of its package would make build scripts run again.
        for (name, _) in env::vars_os().filter(|(name, _)| is_of_the_package(name)) {
            cargo.env_remove(name);
        }
        let built = cargo.stdin(Stdio::null()).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        profile_dir.join("examples").join(format!("client{}", env::consts::EXE_SUFFIX))
    })
}

fn is_of_the_package(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// Without the times that lines begin with.
fn masked(printed: &str) -> Vec<&str> {
    printed.lines().map(|line| line.split_once(" ms  ").expect("a line begins with its time").1).collect()
}

async fn within_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("hangs")
}

const TRANSCRIPT: &str = include_str!("../../parley-tokio/examples/client/transcript.txt");

#[test]
fn the_readme_shows_how_the_transcript_begins() {
    let readme = include_str!("../../README.md");
    let (_, shown) = readme.split_once("```text\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    assert!(TRANSCRIPT.starts_with(shown), "{shown}");
    assert!(shown.lines().count() >= 4);
}

#[tokio::test]
async fn the_embedded_run_is_the_committed_transcript() {
    let run = Command::new(example()).stdin(Stdio::null()).kill_on_drop(true).output();
    let Output { status, stdout, stderr } = within_deadline(run).await.unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}\n{stdout}{stderr}");
    assert_eq!(masked(&stdout), masked(TRANSCRIPT), "\n{stdout}");
    assert_eq!(stderr, "");
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
        let mut child = Command::new(example())
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
