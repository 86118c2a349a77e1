//! The Autobahn TestSuite against our endpoints: sections 1 to 10, which are RFC 6455.
//!
//! Installs the suite below the target folder, runs it on 127.0.0.1 against the example programs of the adapters, clients
//! and servers, and lets `summarize` judge: every case OK, none NON-STRICT, INFORMATIONAL only where nothing else exists.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::args::Args;
use crate::process::{self, Running, target_dir};

/// Sections 1 to 10; there is no section 8.
const SECTIONS: [&str; 9] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"];
/// Big messages and speed: what `--quick` leaves out.
const SLOW_SECTION: &str = "9.*";
/// Cases in sections 1 to 10, and those without section 9.
const CASES: usize = 301;
const QUICK_CASES: usize = 247;

/// The runtimes, each with its package and what its example programs' names end in.
const RUNTIMES: [(&str, &str, &str); 2] =
    [("tokio", "parley-tokio", ""), ("async-std", "parley-async-std", "_async_std")];

/// What a server is asked for: by a handler, and by a loop around a `WebSocket`; each once more by the server that has its
/// messages in parts.
const WAYS: [(&str, Whole, &str); 4] = [
    ("handler", Whole::Yes, "/"),
    ("socket", Whole::Yes, "/socket"),
    ("handler-in-parts", Whole::No, "/"),
    ("socket-in-parts", Whole::No, "/socket"),
];

/// Whether a server's messages come whole.
#[derive(Clone, Copy)]
enum Whole {
    Yes,
    No,
}

/// How long the suite may take to listen, and the client to run all cases.
const START_LIMIT: Duration = Duration::from_secs(60);
const RUN_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What is to be run: which cases, and how many they have to be.
struct Plan {
    patterns: Vec<String>,
    expected: Option<usize>,
}

pub(crate) fn run(mut args: Args) -> Outcome {
    let (client, server) = (args.option("--client")?, args.option("--server")?);
    let quick = args.flag("--quick");
    let cases = args.option("--cases")?;
    args.finish()?;
    if quick && cases.is_some() {
        return Err("--quick and --cases exclude each other".to_owned());
    }
    let all = client.is_none() && server.is_none();
    let (clients, servers) = (chosen("--client", client, all)?, chosen("--server", server, all)?);
    let plan = match cases {
        Some(list) => Plan { patterns: patterns_of(&list)?, expected: None },
        None if quick => {
            let quick = SECTIONS.iter().filter(|section| **section != SLOW_SECTION);
            Plan { patterns: quick.map(|section| (*section).to_owned()).collect(), expected: Some(QUICK_CASES) }
        }
        None => Plan { patterns: SECTIONS.map(str::to_owned).to_vec(), expected: Some(CASES) },
    };

    let wstest = set_up()?;
    let work = target_dir().join("autobahn");
    let mut expected = plan.expected;
    let mut ended = Ok(());
    let mut reports = Vec::new();
    for runtime in clients {
        let folder = fresh(&work.join(format!("clients-{}", runtime.0)))?;
        let (planned, outcome) = test_client(&wstest, &work, &folder, runtime, &plan)?;
        expected.get_or_insert(planned);
        ended = ended.and(outcome);
        reports.push(folder);
    }
    for runtime in servers {
        let folder = fresh(&work.join(format!("servers-{}", runtime.0)))?;
        test_server(&wstest, &work, &folder, runtime, &plan)?;
        reports.push(folder);
    }

    // Judged in any case: the reports say which case a client failed in.
    let mut summarize = Command::new("python3");
    summarize.arg(scripts().join("summarize")).args(["--forbid", "NON-STRICT"]);
    if let Some(expected) = expected {
        summarize.args(["--expect", &expected.to_string()]);
    }
    let judged = process::run(summarize.args(&reports));
    ended.and(judged)
}

type Runtime = &'static (&'static str, &'static str, &'static str);

/// The runtimes that an option names; without any option all of them, with another none.
fn chosen(option: &str, name: Option<String>, all: bool) -> Result<Vec<Runtime>, String> {
    let Some(name) = name else { return Ok(if all { RUNTIMES.iter().collect() } else { Vec::new() }) };
    match RUNTIMES.iter().find(|(known, ..)| *known == name) {
        Some(runtime) => Ok(vec![runtime]),
        None => Err(format!("{option} {name}: only {}", RUNTIMES.map(|(name, ..)| name).join(" and "))),
    }
}

/// An empty folder. The suite leaves old reports in place, and they would be judged again.
fn fresh(folder: &Path) -> Result<PathBuf, String> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder.to_owned())
}

fn build((_, package, suffix): Runtime, program: &str) -> Result<PathBuf, String> {
    let example = format!("{program}{suffix}");
    process::build(&["build", "--release", "--package", package, "--example", &example], &example)
}

/// Runs the suite's server against our client; returns how many cases there were.
fn test_client(
    wstest: &Path,
    work: &Path,
    reports: &Path,
    runtime: Runtime,
    plan: &Plan,
) -> Result<(usize, Outcome), String> {
    let program = build(runtime, "autobahn_client")?;
    let (suite, port, planned) = start_suite(wstest, work, reports, &plan.patterns)?;
    let mut ended = Ok(());
    for (way, words) in [("", &[][..]), ("-in-parts", &["parts"])] {
        let agent = format!("parley-{}{way}", runtime.0);
        println!("running {planned} cases against the client {agent}");
        let started = Instant::now();
        ended = ended.and(run_client(&program, port, &agent, words));
        println!("the client took {:.1} s", started.elapsed().as_secs_f32());
    }
    drop(suite);
    Ok((planned, ended))
}

/// Runs the suite's client against our server.
fn test_server(wstest: &Path, work: &Path, reports: &Path, runtime: Runtime, plan: &Plan) -> Outcome {
    let program = build(runtime, "autobahn_server")?;
    let (mut server, whole, in_parts) = start_server(&program, work)?;
    let spec = fs::read_to_string(scripts().join("fuzzingclient.json"))
        .map_err(|error| format!("fuzzingclient.json: {error}"))?;
    let servers = WAYS.map(|(name, kind, path)| {
        let addr = match kind {
            Whole::Yes => &whole,
            Whole::No => &in_parts,
        };
        format!("{{\"agent\": \"parley-{}-{name}\", \"url\": \"ws://{addr}{path}\"}}", runtime.0)
    });
    let spec_path = work.join("fuzzingclient.json");
    let from = "[{\"agent\": \"parley\", \"url\": \"ws://127.0.0.1:9002\"}]";
    let spec = filled(
        spec,
        "fuzzingclient.json",
        "servers",
        reports,
        &plan.patterns,
        (from, format!("[{}]", servers.join(", "))),
    )?;
    fs::write(&spec_path, spec).map_err(|error| format!("{}: {error}", spec_path.display()))?;

    println!("running the cases against the server parley-{}, by {} ways", runtime.0, WAYS.len());
    let log_path = work.join("wstest.log");
    let log = File::create(&log_path).map_err(|error| format!("{}: {error}", log_path.display()))?;
    let errors = log.try_clone().map_err(|error| format!("{}: {error}", log_path.display()))?;
    let mut command = process::die_with_us(wstest);
    command.args(["-m", "fuzzingclient", "-s"]).arg(&spec_path).current_dir(work).stdout(log).stderr(errors);
    let started = Instant::now();
    let status = Running::start(&mut command)?.wait(RUN_LIMIT)?;
    println!("the suite took {:.1} s", started.elapsed().as_secs_f32());
    match server.ended()? {
        Some(status) => Err(format!("the server ended ({status})")),
        None if status.success() => Ok(()),
        None => Err(format!("the suite failed ({status}): see {}", log_path.display())),
    }
}

/// Starts a server, which says on which addresses it listens: where messages come whole, and where in parts.
fn start_server(program: &Path, work: &Path) -> Result<(Running, String, String), String> {
    let said_path = work.join("server.log");
    let said = File::create(&said_path).map_err(|error| format!("{}: {error}", said_path.display()))?;
    let mut server = Running::start(process::die_with_us(program).arg("127.0.0.1:0").stdout(said))?;
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let said = fs::read_to_string(&said_path).unwrap_or_default();
        if let Some((whole, in_parts)) = addresses(&said) {
            return Ok((server, whole.to_owned(), in_parts.to_owned()));
        }
        if let Some(status) = server.ended()? {
            return Err(format!("the server ended before it listened ({status})"));
        }
        if Instant::now() >= deadline {
            return Err(format!("the server did not listen within {} s", START_LIMIT.as_secs()));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Of both lines that a server says.
fn addresses(said: &str) -> Option<(&str, &str)> {
    said.strip_prefix("listening on ")?.strip_suffix('\n')?.split_once("\nin parts on ")
}

/// The patterns of a list such as `1.*,7.9.1`; they go into a JSON file, so only what a case's number has is let in.
fn patterns_of(list: &str) -> Result<Vec<String>, String> {
    let is_pattern = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.' || c == '*');
    let words: Vec<_> = list.split(',').map(str::trim).collect();
    match words.iter().find(|word| !is_pattern(word)) {
        Some(word) => Err(format!("--cases: `{word}` is no case, write 1.1.1 or 1.* or 1.1.1,7.*")),
        None => Ok(words.into_iter().map(str::to_owned).collect()),
    }
}

fn scripts() -> PathBuf {
    process::root().join("xtask/autobahn")
}

/// Installs the suite, or finds it installed; returns the path of `wstest`.
fn set_up() -> Result<PathBuf, String> {
    let folder = target_dir().join("tools/autobahn");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let printed = process::output(Command::new("bash").arg(scripts().join("setup")).arg(&folder))?;
    let path = printed.lines().last().ok_or("setup printed no path")?;
    Ok(PathBuf::from(path))
}

/// Starts the fuzzing server; returns it with its port and the number of cases it has chosen.
fn start_suite(
    wstest: &Path,
    work: &Path,
    reports: &Path,
    patterns: &[String],
) -> Result<(Running, u16, usize), String> {
    let spec = fs::read_to_string(scripts().join("fuzzingserver.json"))
        .map_err(|error| format!("fuzzingserver.json: {error}"))?;
    let mut last_error = String::new();
    // A port found free may be taken before the suite binds it.
    for _ in 0..3 {
        let port = free_port()?;
        let spec_path = work.join("fuzzingserver.json");
        fs::write(&spec_path, spec_for(&spec, port, reports, patterns)?)
            .map_err(|error| format!("{}: {error}", spec_path.display()))?;
        let log_path = work.join("wstest.log");
        let log = File::create(&log_path).map_err(|error| format!("{}: {error}", log_path.display()))?;
        let errors = log.try_clone().map_err(|error| format!("{}: {error}", log_path.display()))?;

        let mut command = process::die_with_us(wstest);
        command.args(["-m", "fuzzingserver", "-u", "0", "-s"]).arg(&spec_path);
        command.env("PYTHONUNBUFFERED", "1").current_dir(work).stdout(log).stderr(errors);
        let mut suite = Running::start(&mut command)?;
        match wait_for(&mut suite, port, &log_path) {
            Ok(planned) => return Ok((suite, port, planned)),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port on 127.0.0.1: {error}"))
}

/// The committed spec with our port, folder and cases.
fn spec_for(spec: &str, port: u16, reports: &Path, patterns: &[String]) -> Result<String, String> {
    let url = ("\"ws://127.0.0.1:9001\"", format!("\"ws://127.0.0.1:{port}\""));
    filled(spec.to_owned(), "fuzzingserver.json", "clients", reports, patterns, url)
}

/// A committed spec with our folder, cases and addresses.
fn filled(
    mut spec: String,
    name: &str,
    role: &str,
    reports: &Path,
    patterns: &[String],
    addresses: (&str, String),
) -> Result<String, String> {
    let reports =
        reports.to_str().filter(|path| !path.contains(['"', '\\'])).ok_or("the target folder's name is odd")?;
    let cases: Vec<_> = patterns.iter().map(|pattern| format!("\"{pattern}\"")).collect();
    for (from, to) in [
        (addresses.0, addresses.1),
        (&*format!("\"./reports/{role}\""), format!("\"{reports}\"")),
        ("\"cases\": [\"*\"]", format!("\"cases\": [{}]", cases.join(", "))),
    ] {
        if !spec.contains(from) {
            return Err(format!("{name} has no {from} to replace"));
        }
        spec = spec.replace(from, &to);
    }
    Ok(spec)
}

/// Waits until the suite listens; returns how many cases it says it will run.
fn wait_for(suite: &mut Running, port: u16, log: &Path) -> Result<usize, String> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let said = fs::read_to_string(log).unwrap_or_default();
        if let Some(status) = suite.ended()? {
            return Err(format!("the suite ended before it listened ({status}):\n{said}"));
        }
        if let Some(planned) = planned(&said)
            && TcpStream::connect(("127.0.0.1", port)).is_ok()
        {
            return Ok(planned);
        }
        if Instant::now() >= deadline {
            return Err(format!("the suite did not listen within {} s:\n{said}", START_LIMIT.as_secs()));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// "Ok, will run 301 test cases for any clients connecting"
fn planned(said: &str) -> Option<usize> {
    let (_, rest) = said.split_once("will run ")?;
    rest.split_whitespace().next()?.parse().ok()
}

fn run_client(program: &Path, port: u16, agent: &str, words: &[&str]) -> Outcome {
    let mut command = process::die_with_us(program);
    command.arg(format!("ws://127.0.0.1:{port}")).arg(agent).args(words);
    let status = Running::start(&mut command)?.wait(RUN_LIMIT)?;
    if status.success() { Ok(()) } else { Err(format!("the client failed ({status})")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_spec_takes_port_folder_and_cases() {
        let spec = include_str!("../autobahn/fuzzingserver.json");
        let spec = spec_for(spec, 1234, Path::new("/t/clients"), &["1.*".to_owned(), "7.9.1".to_owned()]);
        let spec = spec.expect("the committed spec has all three");
        assert!(spec.contains("\"url\": \"ws://127.0.0.1:1234\""));
        assert!(spec.contains("\"outdir\": \"/t/clients\""));
        assert!(spec.contains("\"cases\": [\"1.*\", \"7.9.1\"]"));
        assert!(spec_for("{}", 1, Path::new("/t"), &[]).is_err());
    }

    #[test]
    fn a_server_has_said_both_addresses_or_none() {
        assert_eq!(addresses("listening on a:1\nin parts on b:2\n"), Some(("a:1", "b:2")));
        assert_eq!(addresses("listening on a:1\nin parts on b:2"), None);
        assert_eq!(addresses("listening on a:1\n"), None);
    }

    #[test]
    fn only_numbers_of_cases_get_into_the_spec() {
        assert_eq!(patterns_of("1.*, 7.9.1"), Ok(vec!["1.*".to_owned(), "7.9.1".to_owned()]));
        assert!(patterns_of("1.*,\"]").is_err());
        assert!(patterns_of("").is_err());
    }

    #[test]
    fn the_number_of_cases_is_read_from_the_suites_words() {
        assert_eq!(planned("x\nOk, will run 301 test cases for any clients connecting\n"), Some(301));
        assert_eq!(planned("x\n"), None);
    }
}
