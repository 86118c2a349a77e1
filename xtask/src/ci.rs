//! All that CI checks, in its order; the first step that fails ends the run.

use std::fs;
use std::time::Instant;

use crate::args::Args;
use crate::process::{self, cargo, root, target_dir};
use crate::{
    Outcome, autobahn, bench, cost, dependencies, fuzz, hazards, interop, mutants, package, parity, purity, rules,
    scenarios, sim,
};

type Step = (&'static str, fn() -> Outcome);

const STEPS: &[Step] = &[
    ("format", || process::run(cargo().args(["fmt", "--all", "--check"]))),
    ("format of fuzz/ and tests/peers/", || {
        ["fuzz", "tests/peers"]
            .into_iter()
            .try_for_each(|package| process::run(cargo().args(["fmt", "--check"]).current_dir(root().join(package))))
    }),
    ("clippy", || {
        let args = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
        process::run(cargo().args(args))
    }),
    ("each feature alone", || {
        // Warnings are errors: a feature that is off must leave nothing unused behind.
        for package in ["parley-proto", "parley-tokio", "parley-async-std"] {
            for features in ["", "tls", "ring", "aws-lc-rs", "webpki-roots", "testing", "tracing", "simd"] {
                let args = ["clippy", "--quiet", "--package", package, "--no-default-features", "--features", features];
                process::run(cargo().args(args).args(["--", "-D", "warnings"]))?;
            }
        }
        Ok(())
    }),
    ("the README's test command, and the scenarios in it", || {
        let readme = fs::read_to_string(root().join("README.md")).map_err(|error| format!("README.md: {error}"))?;
        let command = test_command(&readme).ok_or("README.md has no line that starts with `cargo test`")?;
        println!("{command}");
        scenarios::run_tests(cargo().args(command.split_whitespace().skip(1)))
    }),
    ("the codec with `simd`", || {
        process::run(cargo().args([
            "test",
            "--quiet",
            "--package",
            "parley-proto",
            "--features",
            "simd",
            "--lib",
            "codec",
        ]))
    }),
    ("docs", || {
        let args = ["doc", "--workspace", "--no-deps", "--all-features"];
        process::run(cargo().args(args).env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("packages", || package::run(words(""))),
    ("purity", || purity::run(words(""))),
    ("parity of the adapters", || parity::run(words(""))),
    ("rules", || rules::run(words(""))),
    ("hazards", || hazards::run(words(""))),
    ("list of dependencies", || dependencies::run(words("--list"))),
    ("simulator", || sim::run(words("--seeds 2000"))),
    ("faults, memory and random walks, all of them", || {
        // What takes an optimised build to be done in full.
        let tests = ["--test", "faults", "--test", "memory", "--test", "walks"];
        process::run(cargo().args(["test", "--quiet", "--release", "--package", "parley-tests"]).args(tests))
    }),
    ("mutants", || mutants::run(words(""))),
    ("autobahn", || autobahn::run(words(""))),
    ("other libraries, a browser, a proxy", || interop::run(words("--browser-if-possible"))),
    ("benches against other libraries: that they build, and their report", || {
        let package = root().join("tests/peers");
        let bench = |words: &str| {
            let mut command = cargo();
            command
                .args(words.split(' '))
                .current_dir(&package)
                .env("CARGO_TARGET_DIR", target_dir().join("bench/build"));
            command
        };
        let clippy = "clippy --quiet --locked --no-default-features --features bench --bins --lib -- -D warnings";
        process::run(&mut bench(clippy))?;
        process::run(&mut bench("test --quiet --locked --no-default-features --features report"))
    }),
    ("instruction budgets", || bench::run(words("--instructions"))),
    ("cost by the byte", || cost::run(words(""))),
    ("fuzz", || fuzz::run(words("--seconds 20"))),
];

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let started = Instant::now();
    let mut timings = Vec::new();
    for (number, (name, step)) in STEPS.iter().enumerate() {
        println!("\n== {} of {}: {name}", number + 1, STEPS.len());
        let step_started = Instant::now();
        step().map_err(|error| format!("step `{name}`: {error}"))?;
        timings.push((name, step_started.elapsed().as_secs_f32()));
    }
    println!("\n== all {} steps passed in {:.0} s", STEPS.len(), started.elapsed().as_secs_f32());
    for (name, seconds) in timings {
        println!("{seconds:7.1} s  {name}");
    }
    Ok(())
}

fn words(line: &str) -> Args {
    Args::new(line.split_whitespace().map(str::to_owned).collect())
}

/// What the README tells a user to type, so that it cannot differ from what is tested.
fn test_command(readme: &str) -> Option<&str> {
    let command = readme.lines().map(str::trim).find(|line| line.starts_with("cargo test"))?;
    Some(command.split('#').next().unwrap_or(command).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_command_is_the_readmes() {
        assert_eq!(
            test_command("# A\n```sh\ncargo run\ncargo test --workspace   # all\n```\n"),
            Some("cargo test --workspace")
        );
        assert_eq!(test_command("run `cargo test`"), None);
    }
}
