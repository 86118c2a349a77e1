//! The examples as a user runs them: what they print, and how they behave towards others.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

mod axum;
mod chat;
mod client;
mod ticker;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};

/// Those with tests here.
const EXAMPLES: [&str; 4] = ["axum", "chat", "client", "ticker"];
/// A run that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// An example's binary, of the same profile as this test.
///
/// `cargo test --workspace` has built it already; then cargo finds it fresh. Where only this package is tested, it is
/// built now.
fn example(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
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
        cargo.current_dir(manifest_dir.parent().unwrap()).args(["build", "--quiet", "--workspace"]);
        cargo.args(EXAMPLES.iter().flat_map(|name| ["--example", name]));
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
        profile_dir.join("examples")
    });
    assert!(EXAMPLES.contains(&name), "{name} is not among those that are built");
    folder.join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

fn is_of_the_package(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// What an example prints that ends by itself, and well.
async fn printed_by(name: &str) -> String {
    let run = Command::new(example(name)).stdin(Stdio::null()).kill_on_drop(true).output();
    let Output { status, stdout, stderr } = within_deadline(run).await.unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}\n{stdout}{stderr}");
    assert_eq!(stderr, "", "\n{stdout}");
    stdout
}

/// Without the times that lines begin with.
fn masked(printed: &str) -> Vec<&str> {
    printed.lines().map(|line| line.split_once(" ms  ").expect("a line begins with its time").1).collect()
}

/// What a browser gets for a path.
async fn get(addr: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

/// An example that serves, until it is dropped.
struct Serving {
    child: Child,
    printed: Lines<BufReader<ChildStdout>>,
    addr: String,
}

impl Serving {
    /// `says` stands before the address in the first line that it prints.
    async fn start(name: &str, args: &[&str], says: &str) -> Self {
        let mut child =
            Command::new(example(name)).args(args).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = printed.next_line().await.unwrap().expect("a line");
        let addr = line.strip_prefix(says).and_then(|rest| rest.strip_suffix('/')).expect(&line).to_owned();
        Self { child, printed, addr }
    }

    /// Sends it, and it alone, what Ctrl-C does.
    #[cfg(unix)]
    async fn interrupt(&self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    }
}

async fn within_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("hangs")
}
