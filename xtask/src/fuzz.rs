//! The fuzz targets of `fuzz/` and `tests/peers/`, run by libFuzzer from their committed corpora.
//!
//! Builds with a nightly toolchain and AddressSanitizer, the way `cargo fuzz` does, without needing it installed. Where no
//! nightly is installed it builds with the toolchain at hand, without the sanitizer. New inputs and crashes go below the target
//! folder, so that a run leaves the tree clean; `--minimise` is what writes a corpus back. All targets are built first, then
//! several run at a time.

use std::fs::{self, File};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::Outcome;
use crate::args::Args;
use crate::process::{self, root, target_dir};

/// A binary for libFuzzer, in a package that has `corpus/NAME` for it.
#[derive(Clone, Copy, Debug)]
struct Target {
    package: &'static str,
    name: &'static str,
}

const TARGETS: &[Target] = &[
    Target { package: "fuzz", name: "header" },
    Target { package: "fuzz", name: "decoder" },
    Target { package: "fuzz", name: "client_handshake" },
    Target { package: "fuzz", name: "server_handshake" },
    Target { package: "fuzz", name: "extensions" },
    Target { package: "fuzz", name: "url" },
    Target { package: "fuzz", name: "utf8" },
    Target { package: "fuzz", name: "close" },
    Target { package: "fuzz", name: "connection" },
    Target { package: "fuzz", name: "joined" },
    Target { package: "fuzz", name: "session" },
    Target { package: "tests/peers", name: "against_tungstenite" },
];
const DEFAULT_SECONDS: u64 = 60;
/// Resident memory at which libFuzzer calls a run a failure, in MiB: a decoder that allocates by an announced length.
const MEMORY_LIMIT: u32 = 1024;
/// Bytes of one input: enough for every length form (7, 16 and 64 bits) and many chunks.
const INPUT_LIMIT: u32 = 70_000;
/// Seconds that one input may take.
const INPUT_TIMEOUT: u32 = 10;
/// Bytes of found inputs that are committed for one target, the shortest first.
const FOUND_LIMIT: usize = 8 * 1024;
/// Lines of libFuzzer's log that are shown when it found something.
const LOG_LINES: usize = 40;

/// What makes LLVM count edges and comparisons for libFuzzer.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

pub(crate) fn run(mut args: Args) -> Outcome {
    let seconds = args.number("--seconds")?;
    let target = args.option("--target")?;
    let minimise = args.flag("--minimise");
    args.finish()?;
    if minimise && seconds.is_some() {
        return Err("--minimise runs no longer than it needs: leave --seconds out".to_owned());
    }
    let targets: Vec<Target> = match &target {
        None => TARGETS.to_vec(),
        Some(name) => match TARGETS.iter().find(|target| target.name == name) {
            Some(target) => vec![*target],
            None => {
                let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
                return Err(format!("--target {name}: no such target, there is {}", names.join(", ")));
            }
        },
    };
    let toolchain = Toolchain::find()?;
    toolchain.build(&targets)?;
    if minimise {
        return targets.iter().try_for_each(|target| write_back(*target, &toolchain.program(*target)));
    }
    let left = Mutex::new(targets.into_iter());
    let failures = Mutex::new(Vec::new());
    let next = || left.lock().ok()?.next();
    let work = || {
        while let Some(target) = next() {
            if let Err(error) = fuzz(target, &toolchain.program(target), seconds.unwrap_or(DEFAULT_SECONDS)) {
                eprintln!("{error}");
                failures.lock().map(|mut failures| failures.push(target.name)).unwrap_or_default();
            }
        }
    };
    thread::scope(|scope| {
        // One more than there are processors: most targets have little left to find, and CI has three minutes for all.
        for _ in 0..=thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    if failures.is_empty() { Ok(()) } else { Err(format!("failed: {}", failures.join(", "))) }
}

struct Toolchain {
    nightly: bool,
    host: String,
}

impl Toolchain {
    fn find() -> Result<Self, String> {
        let version = Command::new("rustc")
            .args(["+nightly", "-vV"])
            .stderr(Stdio::null())
            .output()
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let nightly = version.is_some();
        let version = match version {
            Some(version) => version,
            None => {
                eprintln!("no nightly toolchain is installed: fuzzing without AddressSanitizer");
                process::output(Command::new("rustc").arg("-vV"))?
            }
        };
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc -vV names no host")?;
        Ok(Self { nightly, host: host.to_owned() })
    }

    /// Builds the targets of each package in one go, all into one folder: what they have in common is built once.
    fn build(&self, targets: &[Target]) -> Outcome {
        let mut packages: Vec<_> = targets.iter().map(|target| target.package).collect();
        packages.dedup();
        packages.into_iter().try_for_each(|package| {
            let names = targets.iter().filter(|target| target.package == package).map(|target| target.name);
            process::run(self.cargo_build(package).args(names.flat_map(|name| ["--bin", name])))
        })
    }

    fn cargo_build(&self, package: &str) -> Command {
        let mut flags = COVERAGE.to_vec();
        if self.nightly {
            flags.push("-Zsanitizer=address");
        }
        let mut command = Command::new("cargo");
        if self.nightly {
            command.arg("+nightly");
        }
        // With --target the flags do not reach build scripts and macros, which run on their own.
        command
            .args(["build", "--release", "--locked", "--target", &self.host])
            .current_dir(root().join(package))
            .env("CARGO_TARGET_DIR", Self::folder())
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        // The cargo that runs this task pins its own toolchain for its children.
        for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
            command.env_remove(variable);
        }
        command
    }

    fn folder() -> PathBuf {
        target_dir().join("fuzz/build")
    }

    fn program(&self, target: Target) -> PathBuf {
        Self::folder().join(&self.host).join("release").join(target.name)
    }
}

/// Runs `target` for `seconds` from a copy of its corpus.
fn fuzz(target: Target, program: &Path, seconds: u64) -> Outcome {
    let name = target.name;
    let work = target_dir().join("fuzz").join(name);
    let corpus = work.join("corpus");
    let artefacts = work.join("artefacts");
    // Inputs found by earlier runs stay: they save the way back to where those got.
    copy_files(&committed(target), &corpus)?;
    create(&artefacts)?;

    let log_path = work.join("log");
    let log = File::create(&log_path).map_err(|error| format!("{}: {error}", log_path.display()))?;
    println!("fuzzing {name} for {seconds} s from {} inputs, log in {}", files(&corpus)?.len(), log_path.display());
    let mut command = process::die_with_us(program);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={INPUT_LIMIT}"))
        .arg(format!("-rss_limit_mb={MEMORY_LIMIT}"))
        .arg(format!("-timeout={INPUT_TIMEOUT}"))
        .arg(format!("-artifact_prefix={}/", artefacts.display()))
        .arg(&corpus)
        .current_dir(&work)
        .stdout(Stdio::null())
        .stderr(log);
    let before = files(&artefacts)?;
    let ended = process::run(&mut command);
    let said = String::from_utf8_lossy(&fs::read(&log_path).unwrap_or_default()).into_owned();
    let found: Vec<_> = files(&artefacts)?.into_iter().filter(|path| !before.contains(path)).collect();
    if ended.is_ok() && found.is_empty() {
        println!("{name}: {}", said.lines().rfind(|line| line.starts_with("Done ")).unwrap_or("no runs were counted"));
        return Ok(());
    }
    eprintln!("{}", complaint(&said));
    match found.first() {
        None => Err(format!("{name}: {}", ended.err().unwrap_or_default())),
        // A slow unit leaves a file without failing the run.
        Some(first) => {
            Err(format!("{name} failed on {}\nrun it again: {} {}", listed(&found), program.display(), first.display()))
        }
    }
}

/// The part of libFuzzer's log that says what was found: from the panic on, or from its own error, else the end.
fn complaint(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let first = ["panicked at", "ERROR: "].iter().find_map(|mark| lines.iter().position(|line| line.contains(mark)));
    let first = first.unwrap_or(lines.len().saturating_sub(LOG_LINES));
    lines[first..].iter().take(LOG_LINES).copied().collect::<Vec<_>>().join("\n")
}

/// Replaces what the committed corpus of `target` has beside seeds by hand by a small set that covers as much as all of it, this
/// machine's findings included.
fn write_back(target: Target, program: &Path) -> Outcome {
    let name = target.name;
    let work = target_dir().join("fuzz").join(name);
    let found = work.join("corpus");
    let merged = work.join("merged");
    create(&found)?;
    if merged.exists() {
        fs::remove_dir_all(&merged).map_err(|error| format!("{}: {error}", merged.display()))?;
    }
    create(&merged)?;
    let committed = committed(target);
    // By what is reached alone: how often it is would be a reason to keep thousands.
    process::run(
        Command::new(program)
            .args(["-set_cover_merge=1", "-use_value_profile=0", "-use_counters=0"])
            .arg(format!("-max_len={INPUT_LIMIT}"))
            .args([&merged, &committed, &found])
            .current_dir(&work),
    )?;
    let kept = files(&merged)?;
    if kept.is_empty() {
        return Err(format!("{name}: nothing was kept, the corpus stays as it is"));
    }
    // Seeds with a name stay: they were written by hand for a reason that coverage does not know.
    let mut contents = Vec::new();
    for path in files(&committed)? {
        if is_found(&path) {
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        } else {
            contents.push(fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
        }
    }
    let mut found = Vec::new();
    for path in &kept {
        let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if let Some(name) = path.file_name()
            && !contents.contains(&bytes)
        {
            found.push((bytes, name.to_owned()));
        }
    }
    found.sort_by_key(|(bytes, _)| bytes.len());
    let (mut added, mut size) = (0, 0);
    for (bytes, name) in found {
        size += bytes.len();
        if size > FOUND_LIMIT {
            break;
        }
        fs::write(committed.join(&name), bytes).map_err(|error| format!("{}: {error}", committed.display()))?;
        added += 1;
    }
    println!("{name}: {} seeds by hand, {added} found by fuzzing", contents.len());
    Ok(())
}

/// libFuzzer names what it finds by the SHA-1 of the content.
fn is_found(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn committed(target: Target) -> PathBuf {
    root().join(target.package).join("corpus").join(target.name)
}

fn create(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn copy_files(from: &Path, to: &Path) -> Outcome {
    create(to)?;
    for path in files(from)? {
        if let Some(name) = path.file_name() {
            fs::copy(&path, to.join(name)).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        files.push(entry.map_err(failed)?.path());
    }
    files.sort();
    Ok(files)
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_by_hand_are_told_from_found_ones() {
        assert!(is_found(Path::new("c/da39a3ee5e6b4b0d3255bfef95601890afd80709")));
        assert!(!is_found(Path::new("c/server-masked-hello")));
    }

    #[test]
    fn the_complaint_begins_with_the_panic() {
        assert_eq!(
            complaint("#1 pulse\nthread panicked at x\nleft: 1\nERROR: libFuzzer"),
            "thread panicked at x\nleft: 1\nERROR: libFuzzer"
        );
        assert_eq!(complaint("#1 pulse\n==1== ERROR: out-of-memory"), "==1== ERROR: out-of-memory");
        assert_eq!(complaint("#1 pulse"), "#1 pulse");
    }

    #[test]
    fn every_target_has_a_corpus() {
        for target in TARGETS {
            assert!(!files(&committed(*target)).expect("the corpus is committed").is_empty(), "{target:?}");
        }
    }
}
