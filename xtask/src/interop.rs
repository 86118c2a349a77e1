//! Our clients and servers against libraries that others use: Python's `websockets` and Node's `ws`, plain and TLS, on
//! both runtimes.
//!
//! The peers are installed below the target folder. A peer whose interpreter is not on this machine is skipped, and
//! said to be.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::args::Args;
use crate::process::{self, Running, target_dir};

const WEBSOCKETS: &str = "websockets==17.4";
const WS: &str = "ws@8.23.0";
const RUNTIMES: [&str; 2] = ["tokio", "async-std"];
/// What is tried with every peer; the programs say what each means.
const CASES: [&str; 10] = [
    "text",
    "binary",
    "1 MiB",
    "fragmented",
    "ping to server",
    "ping from server",
    "close by client",
    "close by server",
    "subprotocol",
    "401",
];
const START_LIMIT: Duration = Duration::from_secs(30);
/// For all cases of one client. Each has a limit of its own in the peers' programs.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// A program that is a peer: how it is started, and what it is called in the table.
struct Peer {
    name: &'static str,
    program: PathBuf,
    script: PathBuf,
    /// Where Node finds the library.
    library: Option<PathBuf>,
}

impl Peer {
    fn command(&self) -> Command {
        let mut command = process::die_with_us(&self.program);
        command.arg(&self.script);
        if let Some(library) = &self.library {
            command.env("WS", library);
        }
        command
    }
}

/// One row of the table: who was client and who server, over what; what became of each case.
struct Row {
    title: String,
    outcomes: BTreeMap<String, String>,
}

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let work = target_dir().join("interop");
    fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let ours = process::build(&["build", "--release", "--package", "parley-tests", "--example", "interop"], "interop")?;
    process::run(Command::new(&ours).arg("certificates").arg(&work))?;

    let (mut peers, mut skipped) = (Vec::new(), Vec::new());
    for peer in [python(), node()] {
        match peer? {
            Ok(peer) => peers.push(peer),
            Err(missing) => skipped.push(missing),
        }
    }
    let mut rows = Vec::new();
    for runtime in RUNTIMES {
        for peer in &peers {
            rows.extend(their_clients(&ours, runtime, peer, &work)?);
            rows.extend(our_clients(&ours, runtime, peer, &work)?);
        }
    }
    report(&rows, &skipped)
}

/// `websockets` in a virtualenv; or what is missing for it.
fn python() -> Result<Result<Peer, String>, String> {
    let Some(python) = ["python3.11", "python3"].into_iter().find(|name| process::on_path(name)) else {
        return Ok(Err(format!("{WEBSOCKETS}: no python3 on the PATH")));
    };
    let folder = target_dir().join("tools/interop-python");
    let program = folder.join("bin/python");
    if !folder.join(WEBSOCKETS).exists() {
        process::run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", WEBSOCKETS];
        process::run(Command::new(&program).args(pip))?;
        mark(&folder.join(WEBSOCKETS))?;
    }
    let script = process::root().join("xtask/interop/peer.py");
    Ok(Ok(Peer { name: "Python websockets", program, script, library: None }))
}

/// `ws` in a folder of its own; or what is missing for it.
fn node() -> Result<Result<Peer, String>, String> {
    if let Some(missing) = ["node", "npm"].into_iter().find(|name| !process::on_path(name)) {
        return Ok(Err(format!("{WS}: no {missing} on the PATH")));
    }
    let folder = target_dir().join("tools/interop-node");
    if !folder.join(WS).exists() {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let npm = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
        process::run(Command::new("npm").args(npm).arg(&folder).arg(WS))?;
        mark(&folder.join(WS))?;
    }
    let script = process::root().join("xtask/interop/peer.mjs");
    Ok(Ok(Peer { name: "Node ws", program: "node".into(), script, library: Some(folder) }))
}

/// The version that is installed, so that another one is installed anew.
fn mark(path: &Path) -> Outcome {
    fs::write(path, "").map_err(|error| format!("{}: {error}", path.display()))
}

fn their_clients(ours: &Path, runtime: &str, peer: &Peer, work: &Path) -> Result<Vec<Row>, String> {
    let mut command = process::die_with_us(ours);
    command.args([runtime, "server"]);
    let (_server, urls) = start_server(command, work)?;
    urls.iter()
        .map(|url| {
            let title = format!("{} ─▶ our server on {runtime}, {}", peer.name, scheme(url));
            Ok(Row { title, outcomes: run_client(peer.command().args(["client", url]), work)? })
        })
        .collect()
}

fn our_clients(ours: &Path, runtime: &str, peer: &Peer, work: &Path) -> Result<Vec<Row>, String> {
    let mut command = peer.command();
    command.arg("server");
    let (_server, urls) = start_server(command, work)?;
    urls.iter()
        .map(|url| {
            let title = format!("our client on {runtime} ─▶ {}, {}", peer.name, scheme(url));
            let mut command = process::die_with_us(ours);
            Ok(Row { title, outcomes: run_client(command.args([runtime, "client", url]), work)? })
        })
        .collect()
}

fn scheme(url: &str) -> &str {
    url.split(':').next().unwrap_or(url)
}

/// Starts a server, which says on which two URLs it listens.
fn start_server(mut command: Command, work: &Path) -> Result<(Running, Vec<String>), String> {
    let said_path = work.join("server.log");
    let said = File::create(&said_path).map_err(|error| format!("{}: {error}", said_path.display()))?;
    command.args(["cert.pem", "key.pem"]).current_dir(work).stdout(said);
    let mut server = Running::start(&mut command)?;
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let said = fs::read_to_string(&said_path).unwrap_or_default();
        if said.ends_with('\n') {
            return Ok((server, said.split_whitespace().map(str::to_owned).collect()));
        }
        if let Some(status) = server.ended()? {
            return Err(format!("a server ended before it listened ({status})"));
        }
        if Instant::now() >= deadline {
            return Err(format!("a server did not listen within {} s", START_LIMIT.as_secs()));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a client through its cases.
fn run_client(command: &mut Command, work: &Path) -> Result<BTreeMap<String, String>, String> {
    let said_path = work.join("client.log");
    let said = File::create(&said_path).map_err(|error| format!("{}: {error}", said_path.display()))?;
    command.arg("ca.pem").current_dir(work).stdout(said).stdin(Stdio::null());
    // One that does not end is killed, and lacks the cases that it has not printed.
    let _ = Running::start(command)?.wait(RUN_LIMIT);
    let said = fs::read_to_string(&said_path).map_err(|error| format!("{}: {error}", said_path.display()))?;
    Ok(outcomes(&said))
}

fn outcomes(said: &str) -> BTreeMap<String, String> {
    said.lines().filter_map(|line| line.split_once('\t')).map(|(name, what)| (name.into(), what.into())).collect()
}

/// Prints the table. Anything but `ok` in all of it is an error, and so is a table without rows.
fn report(rows: &[Row], skipped: &[String]) -> Outcome {
    let width = rows.iter().map(|row| row.title.chars().count()).max().unwrap_or(0);
    println!("{:width$}  {}", "", CASES.join(" | "));
    let (mut passed, mut failures) = (0, Vec::new());
    for row in rows {
        let cells = CASES.map(|case| {
            let what = row.outcomes.get(case).map_or("was not run", String::as_str);
            if what == "ok" {
                passed += 1;
            } else {
                failures.push(format!("{}: {case}: {what}", row.title));
            }
            format!("{:^len$}", if what == "ok" { "ok" } else { "FAIL" }, len = case.chars().count())
        });
        println!("{:width$}  {}", row.title, cells.join(" | "));
    }
    for failure in &failures {
        println!("  FAIL {failure}");
    }
    for missing in skipped {
        println!("  skipped {missing}");
    }
    println!("{passed} passed, {} failed, {} peers skipped", failures.len(), skipped.len());
    match (rows.is_empty(), failures.is_empty()) {
        (true, _) => Err("no peer could be run".to_owned()),
        (false, false) => Err(format!("{} case(s) failed", failures.len())),
        (false, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_was_not_run_fails() {
        let all: String = CASES.iter().map(|case| format!("{case}\tok\n")).collect();
        let row = |said: &str| Row { title: "a".to_owned(), outcomes: outcomes(said) };
        assert_eq!(report(&[row(&all)], &[]), Ok(()));
        assert!(report(&[row(&all.replace("401\tok", "401\tno"))], &[]).is_err());
        assert!(report(&[row(&all.replace("401\tok\n", ""))], &[]).is_err());
        assert!(report(&[], &["b".to_owned()]).is_err());
    }
}
