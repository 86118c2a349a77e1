//! Which lines of `parley-proto` the tests run, by `cargo tarpaulin`.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::Outcome;
use crate::args::Args;
use crate::process::{self, cargo, root, target_dir};

/// The version that the figures of tests/MUTANTS.md are from.
const VERSION: &str = "0.37.5";
/// In percent, of all lines.
const COVERED: f64 = 95.0;
/// Whose lines count.
const SOURCES: &str = "parley-proto/src/";

/// The tests that are made for it, beside its own: those on the simulated runtime, or on none. Those on sockets run the same code.
const TESTS: &[&str] = &[
    "behaviour",
    "connection",
    "errors",
    "faults",
    "kit",
    "liveness",
    "memory",
    "seeds",
    "server",
    "serving",
    "session",
    "simulated",
    "sockets",
    "telemetry",
    "upgraded",
    "walks",
];

/// A file's lines: how often each was run.
type Lines = BTreeMap<usize, u64>;

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let installed = Command::new("cargo").args(["tarpaulin", "--version"]).output();
    if !installed.is_ok_and(|said| said.status.success()) {
        return Err(format!(
            "cargo-tarpaulin is not installed: cargo install --locked cargo-tarpaulin --version {VERSION}"
        ));
    }
    let folder = target_dir().join("coverage");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut command = cargo();
    command.args(["tarpaulin", "--engine", "llvm", "--locked", "--skip-clean", "--timeout", "600", "--out", "Lcov"]);
    command.args(["--package", "parley-proto", "--package", "parley-tests", "--lib", "--test"]).args(TESTS);
    command.args(["--include-files", &format!("{SOURCES}*")]);
    command.arg("--output-dir").arg(&folder).arg("--target-dir").arg(folder.join("build"));
    process::run(&mut command)?;
    let path = folder.join("lcov.info");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    report(&files(&text))
}

/// The table, and whether it is good enough.
fn report(files: &BTreeMap<String, Lines>) -> Outcome {
    let (mut all, mut covered) = (0, 0);
    for (file, lines) in files {
        let missed: Vec<usize> = lines.iter().filter(|(_, runs)| **runs == 0).map(|(line, _)| *line).collect();
        all += lines.len();
        covered += lines.len() - missed.len();
        if !missed.is_empty() {
            println!("{:5.1} %  {file}: {}", percent(lines.len() - missed.len(), lines.len()), ranges(&missed));
        }
    }
    if all == 0 {
        return Err(format!("no line of {SOURCES} was counted"));
    }
    let percent = percent(covered, all);
    println!("{percent:.2} % of {all} lines in {} files of {SOURCES} are covered", files.len());
    if percent < COVERED { Err(format!("{percent:.2} % is less than {COVERED} %")) } else { Ok(()) }
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}

/// The library's files in a report in the format of lcov: `SF:` names a file, `DA:` a line and how often it was run.
fn files(lcov: &str) -> BTreeMap<String, Lines> {
    let root = format!("{}/", root().display());
    let mut files: BTreeMap<String, Lines> = BTreeMap::new();
    let mut file = String::new();
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            file = path.strip_prefix(&root).unwrap_or(path).to_owned();
        } else if let Some((number, runs)) = line.strip_prefix("DA:").and_then(|line| line.split_once(','))
            && let (Ok(number), Ok(runs)) = (number.parse(), runs.parse::<u64>())
            && file.starts_with(SOURCES)
        {
            *files.entry(file.clone()).or_default().entry(number).or_default() += runs;
        }
    }
    files
}

/// "3-5, 8" for 3, 4, 5, 8.
fn ranges(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown =
        |&(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(shown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_by_file_and_other_peoples_files_are_not() {
        let root = root();
        let root = root.display();
        let report = format!(
            "TN:\nSF:{root}/parley-proto/src/a.rs\nFN:1,f\nDA:3,0\nDA:4,2\nend_of_record\n\
             SF:parley-proto/src/b.rs\nDA:1,0\nDA:1,1\nend_of_record\nSF:/elsewhere/parley-proto/src/c.rs\nDA:1,0\n"
        );
        let files = files(&report);
        assert_eq!(files["parley-proto/src/a.rs"], Lines::from([(3, 0), (4, 2)]));
        assert_eq!(files["parley-proto/src/b.rs"], Lines::from([(1, 1)]), "of a generic, one line for each type");
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn too_few_lines_fail_the_task_and_so_does_none() {
        let lines = |covered| (0..100).map(|line| (line, u64::from(line < covered))).collect::<Lines>();
        assert_eq!(report(&BTreeMap::from([("a".to_owned(), lines(95))])), Ok(()));
        assert!(report(&BTreeMap::from([("a".to_owned(), lines(94))])).is_err());
        assert!(report(&BTreeMap::new()).is_err());
    }

    #[test]
    fn lines_that_follow_each_other_are_a_range() {
        assert_eq!(ranges(&[3, 4, 5, 8]), "3-5, 8");
        assert_eq!(ranges(&[]), "");
    }
}
