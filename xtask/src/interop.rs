//! Our clients and servers against libraries that others use: Python's `websockets` and Node's `ws`, plain and TLS, on
//! both runtimes; with `--browser` against chromium too, and with nginx in between.
//!
//! The libraries are installed below the target folder. A library whose interpreter is not on this machine is skipped, and
//! said to be. Browser and proxy are the system's: what is missing is installed by apt, and where that cannot be, `--browser`
//! fails; `--browser-if-possible` skips them.

mod browser;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
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
const CASES: &[&str] = &[
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

/// Rows with the same cases.
struct Table {
    cases: &'static [&'static str],
    rows: Vec<Row>,
}

/// One row of a table: who was client and who server, over what; what became of each case.
struct Row {
    title: String,
    outcomes: BTreeMap<String, String>,
}

pub(crate) fn run(mut args: Args) -> Outcome {
    let (must, may) = (args.flag("--browser"), args.flag("--browser-if-possible"));
    args.finish()?;
    let programs = match browser::Programs::new_if(must || may) {
        Err(error) if must => return Err(error),
        found => found,
    };
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
    let mut tables = vec![Table { cases: CASES, rows }];
    match programs {
        Err(missing) => skipped.push(format!("chromium and nginx: {missing}")),
        Ok(programs) => {
            let page = process::build(
                &["build", "--release", "--package", "parley-tests", "--example", "browser"],
                "browser",
            )?;
            let (proxied, idle) = browser::through_nginx(&ours, &programs, &work)?;
            tables[0].rows.extend(proxied);
            tables.push(Table { cases: browser::IDLE_CASES, rows: idle });
            tables.push(Table { cases: browser::PAGE_CASES, rows: browser::pages(&page, &programs, &work)? });
        }
    }
    report(&tables, &skipped)
}

/// `websockets` in a virtualenv; or what is missing for it.
fn python() -> Result<Result<Peer, String>, String> {
    let Some(python) = ["python3.11", "python3"].into_iter().find(|name| process::on_path(name)) else {
        return Ok(Err(format!("{WEBSOCKETS}: no python3 on the PATH")));
    };
    let folder = target_dir().join("tools/interop-python");
    let program = folder.join("bin/python");
    if !folder.join(WEBSOCKETS).exists() {
        // Debian has that module in a package of its own.
        if process::run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder)).is_err() {
            return Ok(Err(format!("{WEBSOCKETS}: {python} makes no virtualenv (python3-venv)")));
        }
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
    command.args(["cert.pem", "key.pem"]);
    let mut server = Said::start(command, work, "server.log")?;
    let urls = server.wait_for(START_LIMIT, |said| {
        said.ends_with('\n').then(|| said.split_whitespace().map(str::to_owned).collect())
    })?;
    Ok((server.running, urls))
}

/// A program, and what it has said.
struct Said {
    running: Running,
    path: PathBuf,
}

impl Said {
    fn start(mut command: Command, work: &Path, log: &str) -> Result<Self, String> {
        let path = work.join(log);
        let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let running = Running::start(command.current_dir(work).stdin(Stdio::null()).stdout(file))?;
        Ok(Self { running, path })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// Waits until it has said what is looked for.
    fn wait_for<T>(&mut self, limit: Duration, look: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = look(&self.said()) {
                return Ok(found);
            }
            if let Some(status) = self.running.ended()? {
                return Err(format!("a server ended before it listened ({status})"));
            }
            if Instant::now() >= deadline {
                return Err(format!("a server did not listen within {} s", limit.as_secs()));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port on 127.0.0.1: {error}"))
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

/// Prints the tables. Anything but `ok` in all of them is an error, and so is a table without rows.
fn report(tables: &[Table], skipped: &[String]) -> Outcome {
    let rows = || tables.iter().flat_map(|table| &table.rows);
    let width = rows().map(|row| row.title.chars().count()).max().unwrap_or(0);
    let (mut passed, mut failures) = (0, Vec::new());
    for table in tables {
        println!("\n{:width$}  {}", "", table.cases.join(" | "));
        for row in &table.rows {
            let cells = table.cases.iter().map(|case| {
                let what = row.outcomes.get(*case).map_or("was not run", String::as_str);
                if what == "ok" {
                    passed += 1;
                } else {
                    failures.push(format!("{}: {case}: {what}", row.title));
                }
                format!("{:^len$}", if what == "ok" { "ok" } else { "FAIL" }, len = case.chars().count())
            });
            println!("{:width$}  {}", row.title, cells.collect::<Vec<_>>().join(" | "));
        }
    }
    println!();
    for failure in &failures {
        println!("  FAIL {failure}");
    }
    for missing in skipped {
        println!("  skipped {missing}");
    }
    println!("{passed} passed, {} failed, {} skipped", failures.len(), skipped.len());
    match (tables.iter().any(|table| table.rows.is_empty()), failures.is_empty()) {
        (true, _) => Err("a table without a row: no peer could be run".to_owned()),
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
        let table = |said: &str| {
            let row = Row { title: "a".to_owned(), outcomes: outcomes(said) };
            [Table { cases: CASES, rows: vec![row] }]
        };
        assert_eq!(report(&table(&all), &[]), Ok(()));
        assert!(report(&table(&all.replace("401\tok", "401\tno")), &[]).is_err());
        assert!(report(&table(&all.replace("401\tok\n", "")), &[]).is_err());
        assert!(report(&[Table { cases: CASES, rows: Vec::new() }], &["b".to_owned()]).is_err());
    }
}
