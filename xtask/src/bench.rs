//! Parley against other libraries, and instructions a message against their budgets.
//!
//! The programs that compare are in `tests/peers`, built with link-time optimisation. Each writes its figures to a JSON file below
//! `target/bench`, of which the program `report` there makes tables. `--no-lto` builds and runs them once more without, row by
//! row in turn with the others.
//!
//! Instructions are counted of `tests/benches/data_path.rs`, built in the release profile without LTO, as users build; by callgrind
//! over N and over 2N messages: the difference leaves the set-up out and repeats within 1 %.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::args::Args;
use crate::process::{self, root, target_dir};
use crate::{Outcome, callgrind};

/// The compiler that the budgets hold for; another one generates other code.
const BUDGET_RUSTC: &str = "rustc 1.95.0";
/// How far a figure may lie above its budget, in per cent: with that compiler, and with another.
const SLACK: u64 = 5;
const SLACK_OTHER_RUSTC: u64 = 15;

/// Instructions a message, by the program's names for layer and row. Lower them as the figures get lower.
const BUDGETS: &[(&str, u64)] = &[
    ("codec/server-receive-text-8-125", 220),
    ("codec/client-receive-json-100-200", 220),
    ("codec/server-receive-text-1024", 715),
    ("codec/server-receive-text-4096-by-8", 5_800),
    ("codec/client-send-128-by-64", 205),
    ("codec/server-send-128-by-64", 145),
    ("connection/server-receive-text-8-125", 255),
    ("connection/client-receive-json-100-200", 255),
    ("connection/client-send-128-by-64", 218),
    ("connection/server-send-128-by-64", 160),
];

/// Messages of the shorter counted run: enough that what happens once in 64 KiB or 64 frames averages out.
const MESSAGES: u64 = 8_192;
const MESSAGES_QUICK: u64 = 2_048;

/// The programs of `tests/peers` that measure, by the names of their binaries and of their files.
const PROGRAMS: &[&str] = &["memory", "sockets"];
/// Its profiles: with link-time optimisation, as it is quoted, and without.
const LTO: &str = "lto";
const NO_LTO: &str = "nolto";

pub(crate) fn run(mut args: Args) -> Outcome {
    let count = args.flag("--instructions");
    let quick = args.flag("--quick");
    let no_lto = args.flag("--no-lto");
    let only = args.option("--only")?;
    args.finish()?;
    if count {
        if no_lto || only.is_some() {
            return Err("--instructions counts one program, built without LTO".to_owned());
        }
        return instructions(quick);
    }
    let programs: Vec<_> =
        PROGRAMS.iter().copied().filter(|name| only.as_deref().is_none_or(|only| only == *name)).collect();
    if programs.is_empty() {
        return Err(format!("--only takes one of {}", PROGRAMS.join(", ")));
    }
    compare(&programs, quick, no_lto)
}

/// Runs the programs and prints what came out.
fn compare(programs: &[&str], quick: bool, no_lto: bool) -> Outcome {
    let mut files = Vec::new();
    for name in programs {
        let with = (file(name, LTO), peers_program(name, "bench", LTO)?);
        let without = match no_lto {
            true => Some((file(name, NO_LTO), peers_program(name, "bench", NO_LTO)?)),
            false => None,
        };
        for (file, _) in [Some(&with), without.as_ref()].into_iter().flatten() {
            if file.exists() {
                fs::remove_file(file).map_err(|error| format!("{}: {error}", file.display()))?;
            }
        }
        let measure = |(file, program): &(PathBuf, PathBuf), more: &[&str]| {
            let mut command = Command::new(program);
            command.arg("--out").arg(file).args(more);
            if quick {
                command.arg("--quick");
            }
            process::run(&mut command)
        };
        match &without {
            None => measure(&with, &[])?,
            // Row by row, A B B A, in runs of half the length that add up: between whole runs a machine changes too much.
            Some(without) => {
                for row in process::output(Command::new(&with.1).arg("--list"))?.lines() {
                    for one in [&with, without, without, &with] {
                        measure(one, &["--append", "--half", "--row", row])?;
                    }
                }
            }
        }
        files.extend([Some(with), without].into_iter().flatten().map(|(file, _)| file));
    }
    process::run(Command::new(peers_program("report", "report", "dev")?).args(files))
}

/// Builds a program of `tests/peers` with this feature alone, which spares what the others need.
pub(crate) fn peers_program(name: &str, feature: &str, profile: &str) -> Result<PathBuf, String> {
    let mut command = process::cargo();
    command
        .args([
            "build",
            "--locked",
            "--no-default-features",
            "--features",
            feature,
            "--profile",
            profile,
            "--bin",
            name,
        ])
        .current_dir(root().join("tests/peers"))
        .env("CARGO_TARGET_DIR", target_dir().join("bench/build"));
    process::built(&mut command, name)
}

/// Where a program's figures go: `memory.json`, `memory-nolto.json`.
fn file(program: &str, profile: &str) -> PathBuf {
    let suffix = if profile == LTO { String::new() } else { format!("-{profile}") };
    target_dir().join("bench").join(format!("{program}{suffix}.json"))
}

/// The files of all programs that have been run, with link-time optimisation.
pub(crate) fn figures() -> Vec<PathBuf> {
    PROGRAMS.iter().map(|name| file(name, LTO)).filter(|file| file.exists()).collect()
}

fn instructions(quick: bool) -> Outcome {
    let program =
        process::build(&["build", "--release", "--package", "parley-tests", "--bench", "data_path"], "data_path")?;
    let rows = process::output(Command::new(&program).arg("list"))?;
    let rows: Vec<_> = rows.lines().collect();
    if let Some((missing, _)) = BUDGETS.iter().find(|(row, _)| !rows.contains(row)) {
        return Err(format!("{missing} has a budget, but the program has no such row"));
    }

    let rustc = process::rustc_version(&mut Command::new("rustc"))?;
    let slack = if is_budgeted(&rustc) {
        SLACK
    } else {
        eprintln!("the budgets are for {BUDGET_RUSTC}, this is {rustc}: {SLACK_OTHER_RUSTC} % of slack");
        SLACK_OTHER_RUSTC
    };

    let messages = if quick { MESSAGES_QUICK } else { MESSAGES };
    println!("instructions a message ({rustc}, {slack} % of slack)");
    println!("  {:42} {:>8} {:>8}", "row", "figure", "budget");
    let mut over = Vec::new();
    for row in rows {
        let budget = BUDGETS.iter().find(|(name, _)| *name == row).map(|(_, budget)| *budget);
        let budget = budget.ok_or_else(|| format!("{row} has no budget"))?;
        let counted = |messages: u64| callgrind::count(&program, &["run", row, &messages.to_string()]);
        let once = counted(messages)?;
        let twice = counted(2 * messages)?;
        let figure = twice.saturating_sub(once) / messages;
        let is_over = is_over(figure, budget, slack);
        println!("  {row:42} {figure:>8} {budget:>8}{}", if is_over { "  over" } else { "" });
        if is_over {
            over.push(row);
        }
    }
    if over.is_empty() { Ok(()) } else { Err(format!("over budget: {}", over.join(", "))) }
}

fn is_budgeted(rustc: &str) -> bool {
    rustc.strip_prefix(BUDGET_RUSTC).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn is_over(figure: u64, budget: u64, slack: u64) -> bool {
    figure * 100 > budget * (100 + slack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_may_use_the_slack_and_no_more() {
        assert!(!is_over(105, 100, 5));
        assert!(is_over(106, 100, 5));
    }

    #[test]
    fn the_budgets_know_their_compiler() {
        assert!(is_budgeted("rustc 1.95.0 (59807616e 2026-04-14)"));
        assert!(!is_budgeted("rustc 1.95.1"));
        assert!(!is_budgeted("rustc 1.95.0-beta.1"));
    }
}
