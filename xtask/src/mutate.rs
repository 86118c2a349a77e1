//! Do the tests bite? `cargo mutants` on the codec and the connection: every small change of the code that it can think
//! of has to fail a test, or [`EXPLAINED`] has to say why it need not.
//!
//! Each mutant meets the tests that are likeliest to see it; those that pass meet all that are run here:
//!
//! ```text
//! files of a group ─ shard K of N ─▶ its first tests ─ missed ─▶ all tests ─ missed ─▶ explained, or not
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::args::Args;
use crate::process::{self, cargo, root, target_dir};

/// Whose mutants tests/MUTANTS.md names: another version may think of others.
const VERSION: &str = "27.1.0";
/// In percent, of the mutants that compile.
const CAUGHT: usize = 90;
/// Those that survive, with the reason.
const EXPLAINED: &str = "tests/MUTANTS.md";

/// Sources, and the tests that are likeliest to see what is changed in them.
struct Group {
    name: &'static str,
    files: &'static str,
    first: Tests,
}

/// Tests of some packages.
struct Tests {
    packages: &'static [&'static str],
    /// As `cargo test` names them.
    targets: &'static [&'static str],
    /// Parts of the names of tests; empty: all of them.
    names: &'static [&'static str],
    /// Seconds after which they hang, and the mutant is caught.
    patience: &'static str,
    /// Cases of each property; `None`: as many as the tests want.
    cases: Option<&'static str>,
}

const GROUPS: &[Group] = &[
    Group {
        name: "codec",
        files: "parley-proto/src/codec/*.rs",
        first: Tests {
            packages: &["parley-proto"],
            targets: &["--lib"],
            names: &["codec::", "connection::"],
            patience: "60",
            cases: Some("32"),
        },
    },
    Group {
        name: "connection",
        files: "parley-proto/src/connection/*.rs",
        first: Tests {
            packages: &["parley-tests"],
            targets: &["--test=connection", "--test=liveness", "--test=session"],
            names: &[],
            patience: "60",
            cases: Some("64"),
        },
    },
];

const ALL: Tests = Tests {
    packages: &["parley-proto", "parley-tests"],
    targets: &[
        "--lib",
        "--test=behaviour",
        "--test=connection",
        "--test=errors",
        "--test=faults",
        "--test=liveness",
        "--test=memory",
        "--test=serving",
        "--test=session",
        "--test=simulated",
        "--test=sockets",
        "--test=walks",
    ],
    names: &[],
    patience: "300",
    cases: None,
};

/// What became of mutants, by their names.
#[derive(Debug, Default, PartialEq)]
struct Fate {
    caught: Vec<String>,
    /// Their tests did not end: caught as well.
    hung: Vec<String>,
    missed: Vec<String>,
    /// They do not compile.
    unviable: Vec<String>,
}

pub(crate) fn run(mut args: Args) -> Outcome {
    let shard = args.option("--shard")?;
    let only = args.option("--group")?;
    args.finish()?;
    let names: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
    if let Some(only) = only.as_deref().filter(|only| !names.contains(only)) {
        return Err(format!("--group {only}: no such group, there is {}", names.join(", ")));
    }
    find_cargo_mutants()?;
    let explained = fs::read_to_string(root().join(EXPLAINED)).map_err(|error| format!("{EXPLAINED}: {error}"))?;

    let mut fates = Vec::new();
    for group in GROUPS.iter().filter(|group| only.as_deref().is_none_or(|only| only == group.name)) {
        let folder = target_dir().join("mutation").join(group.name);
        let mut fate = test(&folder.join("first"), group.files, &group.first, shard.as_deref(), &[])?;
        if !fate.missed.is_empty() {
            println!("{}: all tests on the {} mutants that passed the first", group.name, fate.missed.len());
            let missed = std::mem::take(&mut fate.missed);
            let second = test(&folder.join("all"), group.files, &ALL, None, &missed)?;
            fate.caught.extend(second.caught);
            fate.hung.extend(second.hung);
            fate.missed = second.missed;
        }
        fates.push((group.name, fate));
    }
    report(&fates, &explained)
}

/// The table, and whether it is good enough.
fn report(fates: &[(&str, Fate)], explained: &str) -> Outcome {
    let (mut problems, mut unexplained) = (Vec::new(), Vec::new());
    for (_, fate) in fates {
        for mutant in &fate.missed {
            let known = is_explained(mutant, explained);
            println!("survives{} {mutant}", if known { ", explained: " } else { ": " });
            if !known {
                unexplained.push(mutant);
            }
        }
    }
    println!("{:12} {:>7} {:>7} {:>7} {:>9} {:>8}", "", "caught", "hung", "missed", "unviable", "caught");
    for (name, fate) in fates {
        let percent = percent(fate).ok_or(format!("{name}: no mutant compiled, so nothing was tested"))?;
        let [caught, hung, missed, unviable] =
            [&fate.caught, &fate.hung, &fate.missed, &fate.unviable].map(|mutants| mutants.len());
        println!("{name:12} {caught:7} {hung:7} {missed:7} {unviable:9} {percent:6.1} %");
        if percent < CAUGHT as f64 {
            problems.push(format!("{name}: {percent:.1} % are caught, and {CAUGHT} % have to be"));
        }
    }
    if !unexplained.is_empty() {
        problems.push(format!(
            "{} survive that {EXPLAINED} does not explain: each lacks a test, or a reason",
            unexplained.len()
        ));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

/// How many of those that compile are caught; `None`: none compiles.
fn percent(fate: &Fate) -> Option<f64> {
    let caught = fate.caught.len() + fate.hung.len();
    let viable = caught + fate.missed.len();
    (viable > 0).then(|| 100.0 * caught as f64 / viable as f64)
}

/// Whether the page has a line for this mutant, below the heading of its file: where it stands in the file, and so its line
/// and column, does not matter.
fn is_explained(mutant: &str, page: &str) -> bool {
    let Some((place, what)) = mutant.split_once(": ") else { return false };
    let Some((file, _)) = place.split_once(':') else { return false };
    let heading = format!("## {file}");
    let section = page.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
    let row = format!("- `{what}`");
    section.into_iter().any(|line| line.starts_with(&row))
}

/// Runs `tests` on the mutants of `files`: on a shard of them, or on those called `only`.
fn test(folder: &Path, files: &str, tests: &Tests, shard: Option<&str>, only: &[String]) -> Result<Fate, String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // cargo-mutants would ask only those of the package that it mutates.
    println!("the tests have to pass on the sources as they are:");
    let mut sound = cargo();
    sound.args(["test", "--quiet", "--profile", "mutate"]).env("CARGO_TARGET_DIR", target_dir().join("mutation/build"));
    sound.args(tests.packages.iter().flat_map(|package| ["--package", package])).args(tests.targets);
    process::run(sound.arg("--").args(tests.names))?;

    let mut command = cargo();
    // The sources are copied before they are changed, and what is built of the copy takes no other build's place.
    command.args(["mutants", "--jobs", "1", "--profile", "mutate", "--baseline", "skip", "--timeout", tests.patience]);
    command.args(["--caught", "--file", files]);
    command.arg("--output").arg(folder).env("CARGO_TARGET_DIR", target_dir().join("mutation/build"));
    if let Some(shard) = shard {
        command.args(["--sharding", "round-robin", "--shard", shard]);
    }
    for name in only {
        command.arg("--re").arg(format!("^{}$", escaped(name)));
    }
    for package in tests.packages {
        command.args(["--test-package", package]);
    }
    // That a property fails is all that is asked.
    command.envs([("PROPTEST_MAX_SHRINK_ITERS", "0"), ("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")]);
    if let Some(cases) = tests.cases {
        command.env("PROPTEST_CASES", cases);
    }
    // Behind `--` they would hold for the run alone, and all other tests be built as well.
    command.args(tests.targets.iter().map(|target| format!("--cargo-arg={target}")));
    command.arg("--");
    if !tests.names.is_empty() {
        command.arg("--").args(tests.names);
    }
    let status = command.status().map_err(|error| format!("cargo mutants: {error}"))?;
    // 0: all are caught; 2: some are missed; 3: some hang. Anything else says that it could not do its work.
    match status.code() {
        Some(0 | 2 | 3) => {}
        _ => return Err(format!("cargo mutants failed ({status})")),
    }
    let mut fate = read(&folder.join("mutants.out"))?;
    if !only.is_empty() {
        // It tests mutants that delete a field whatever their names are.
        for mutants in [&mut fate.caught, &mut fate.hung, &mut fate.missed, &mut fate.unviable] {
            mutants.retain(|mutant| only.contains(mutant));
        }
    }
    Ok(fate)
}

/// What `cargo mutants` has written down.
fn read(folder: &Path) -> Result<Fate, String> {
    let names = |file: &str| {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<Vec<String>, String>(text.lines().map(str::to_owned).collect())
    };
    Ok(Fate {
        caught: names("caught.txt")?,
        hung: names("timeout.txt")?,
        missed: names("missed.txt")?,
        unviable: names("unviable.txt")?,
    })
}

/// `text` as a regular expression that fits nothing else.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

fn find_cargo_mutants() -> Outcome {
    let install = format!("cargo install --locked cargo-mutants --version {VERSION}");
    let version =
        Command::new("cargo").args(["mutants", "--version"]).output().ok().filter(|said| said.status.success());
    let Some(version) = version else { return Err(format!("cargo-mutants is not installed: {install}")) };
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    if !version.ends_with(VERSION) {
        println!("{version} may think of other mutants than {EXPLAINED}, which is for {VERSION}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Mutants\n\n## a/b.rs\n\n- `replace < with <= in f` (twice): the same at the edge\n\n## a/c.rs\n\n- `delete ! in g`: so\n";

    #[test]
    fn an_explanation_is_found_by_file_and_change_alone() {
        assert!(is_explained("a/b.rs:7:1: replace < with <= in f", PAGE));
        assert!(is_explained("a/b.rs:99:30: replace < with <= in f", PAGE));
        assert!(is_explained("a/c.rs:1:1: delete ! in g", PAGE));
        assert!(!is_explained("a/c.rs:7:1: replace < with <= in f", PAGE), "another file");
        assert!(!is_explained("a/b.rs:7:1: replace < with == in f", PAGE), "another change");
        assert!(!is_explained("a/b.rs:7:1: replace < with <= in", PAGE), "a part of a name");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("a.rs:1:2: replace * with + in <A>::b"), r"a\.rs:1:2: replace \* with \+ in <A>::b");
    }

    #[test]
    fn what_survives_fails_the_task_unless_it_is_explained_and_rare() {
        let names = |count: usize, name: &str| vec![name.to_owned(); count];
        let known = "a/c.rs:1:1: delete ! in g";
        let fate = |caught, hung, missed| Fate {
            caught: names(caught, "x"),
            hung: names(hung, "x"),
            missed,
            unviable: Vec::new(),
        };
        assert_eq!(report(&[("a", fate(8, 1, names(1, known)))], PAGE), Ok(()));
        assert!(report(&[("a", fate(9, 0, names(1, "a/b.rs:1:1: delete ! in g")))], PAGE).is_err(), "not explained");
        assert!(report(&[("a", fate(8, 0, names(1, known)))], PAGE).is_err(), "88.9 %");
        assert!(report(&[("a", fate(0, 0, Vec::new()))], PAGE).is_err(), "nothing was tested");
        assert_eq!(report(&[("a", fate(1, 0, Vec::new()))], ""), Ok(()));
    }
}
