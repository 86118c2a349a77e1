//! The Autobahn TestSuite against our endpoints: sections 1 to 10, which are RFC 6455.
//!
//! Installs the suite below the target folder, runs it on a free port of 127.0.0.1 against the client's example
//! program, and lets `summarize` judge: every case OK, none NON-STRICT, INFORMATIONAL only where nothing else exists.

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

/// What `--client` can be, with the package and the example that is the client.
const CLIENTS: [(&str, &str, &str); 2] =
    [("tokio", "parley-tokio", "autobahn_client"), ("async-std", "parley-async-std", "autobahn_client_async_std")];

/// How long the suite may take to listen, and the client to run all cases.
const START_LIMIT: Duration = Duration::from_secs(60);
const RUN_LIMIT: Duration = Duration::from_secs(20 * 60);

pub(crate) fn run(mut args: Args) -> Outcome {
    let client = args.option("--client")?;
    let server = args.option("--server")?;
    let quick = args.flag("--quick");
    let cases = args.option("--cases")?;
    args.finish()?;
    if let Some(server) = server {
        return Err(format!("--server {server}: no server can be tested yet, only {}", clients()));
    }
    let client = client.unwrap_or_else(|| "tokio".to_owned());
    let Some((_, package, example)) = CLIENTS.iter().find(|(name, ..)| *name == client) else {
        return Err(format!("--client {client}: no such client, only {}", clients()));
    };
    if quick && cases.is_some() {
        return Err("--quick and --cases exclude each other".to_owned());
    }

    let (patterns, expected) = match cases {
        Some(list) => (patterns_of(&list)?, None),
        None if quick => {
            let quick = SECTIONS.iter().filter(|section| **section != SLOW_SECTION);
            (quick.map(|section| (*section).to_owned()).collect(), Some(QUICK_CASES))
        }
        None => (SECTIONS.iter().map(|section| (*section).to_owned()).collect(), Some(CASES)),
    };

    let wstest = set_up()?;
    let program = process::build(&["build", "--release", "--package", package, "--example", example], example)?;

    let work = target_dir().join("autobahn");
    let reports = work.join("clients");
    // The suite leaves old reports in place, and they would be judged again.
    if reports.exists() {
        fs::remove_dir_all(&reports).map_err(|error| format!("{}: {error}", reports.display()))?;
    }
    fs::create_dir_all(&reports).map_err(|error| format!("{}: {error}", reports.display()))?;

    let (suite, port, planned) = start_suite(&wstest, &work, &reports, &patterns)?;
    let expected = expected.unwrap_or(planned);
    let agent = format!("parley-{client}");
    println!("running {planned} cases against {agent} on port {port}");
    let started = Instant::now();
    let ended = run_client(&program, port, &agent);
    println!("the client took {:.1} s", started.elapsed().as_secs_f32());
    drop(suite);

    // Judged in any case: the reports say which case a client failed in.
    let judged = process::run(
        Command::new("python3")
            .arg(scripts().join("summarize"))
            .args(["--expect", &expected.to_string(), "--forbid", "NON-STRICT"])
            .arg(&reports),
    );
    ended.and(judged)
}

fn clients() -> String {
    CLIENTS.map(|(name, ..)| format!("`--client {name}`")).join(" and ")
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

        let mut command = die_with_us(wstest);
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
    let reports =
        reports.to_str().filter(|path| !path.contains(['"', '\\'])).ok_or("the target folder's name is odd")?;
    let cases: Vec<_> = patterns.iter().map(|pattern| format!("\"{pattern}\"")).collect();
    let mut spec = spec.to_owned();
    for (from, to) in [
        ("\"ws://127.0.0.1:9001\"", format!("\"ws://127.0.0.1:{port}\"")),
        ("\"./reports/clients\"", format!("\"{reports}\"")),
        ("\"cases\": [\"*\"]", format!("\"cases\": [{}]", cases.join(", "))),
    ] {
        if !spec.contains(from) {
            return Err(format!("fuzzingserver.json has no {from} to replace"));
        }
        spec = spec.replace(from, &to);
    }
    Ok(spec)
}

/// `program`, where possible in such a way that the kernel ends it if this task is killed.
fn die_with_us(program: &Path) -> Command {
    if !process::on_path("setpriv") {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
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

fn run_client(program: &Path, port: u16, agent: &str) -> Outcome {
    let mut command = die_with_us(program);
    command.arg(format!("ws://127.0.0.1:{port}")).arg(agent);
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
