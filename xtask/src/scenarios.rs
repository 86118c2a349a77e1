//! `scenarios`: the outcomes of the one list of scenarios, counted for each runtime that it has to run on.
//!
//! Counted is what the tests print, not what the list says: a runtime that is left out, a scenario that one of them does
//! not have, fails or ignores, is a finding.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::Outcome;
use crate::args::Args;
use crate::process::{self, cargo};

/// The module around each runtime's list, and the runtime's name.
const RUNTIMES: &[(&str, &str)] = &[
    ("on_tokio_current_thread", "tokio current-thread"),
    ("on_tokio_multi_thread", "tokio multi-thread"),
    ("on_async_std", "async-std"),
    ("on_smol", "smol"),
    ("on_the_simulated_runtime", "simulated"),
];

/// The modules within, one a scheme.
const SCHEMES: &[&str] = &["ws", "wss"];

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let args = ["test", "--package", "parley-tests", "--no-fail-fast"];
    run_tests(cargo().args(args).args(["--test", "tokio", "--test", "async_std", "--test", "simulated"]))
}

/// Runs tests, and counts the scenarios among them.
pub(crate) fn run_tests(command: &mut Command) -> Outcome {
    let (printed, ended) = process::echoed(command)?;
    let tally = Tally::of(&printed);
    println!("\nscenarios: {}", tally.summary());
    let findings = tally.findings();
    for finding in &findings {
        println!("{finding}");
    }
    ended?; // the tests' own failure comes first; it may be why scenarios are missing
    if findings.is_empty() { Ok(()) } else { Err(format!("{} finding(s) about the scenarios", findings.len())) }
}

/// What became of each scenario, by the runtime's module.
#[derive(Default)]
struct Tally<'a>(BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>);

impl<'a> Tally<'a> {
    /// From libtest's lines, `test on_tokio::wss::it_works ... ok`.
    fn of(printed: &'a str) -> Self {
        let mut tally = Self::default();
        for line in printed.lines() {
            let Some((name, outcome)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) else {
                continue;
            };
            let Some((runtime, scenario)) = name.split_once("::") else { continue };
            let scheme = scenario.split("::").next().unwrap_or_default();
            if SCHEMES.contains(&scheme) {
                tally.0.entry(runtime).or_default().insert(scenario, outcome.trim());
            }
        }
        tally
    }

    fn passed(&self, runtime: &str) -> usize {
        self.0.get(runtime).map_or(0, |scenarios| scenarios.values().filter(|&&outcome| outcome == "ok").count())
    }

    fn summary(&self) -> String {
        let counts: Vec<_> = RUNTIMES.iter().map(|(module, name)| format!("{name} {}", self.passed(module))).collect();
        counts.join(", ")
    }

    fn findings(&self) -> Vec<String> {
        let all: BTreeSet<&str> = self.0.values().flat_map(BTreeMap::keys).copied().collect();
        let mut findings = Vec::new();
        if all.is_empty() {
            findings.push("no scenario has run".to_owned());
        }
        for (module, name) in RUNTIMES {
            let ran = self.0.get(module);
            for scenario in &all {
                match ran.and_then(|ran| ran.get(scenario)) {
                    Some(&"ok") => {}
                    Some(outcome) => findings.push(format!("{name}: {scenario}: {outcome}")),
                    None => findings.push(format!("{name} does not have {scenario}")),
                }
            }
        }
        let known = |module: &str| RUNTIMES.iter().any(|(known, _)| *known == module);
        let unknown = self.0.keys().filter(|module| !known(module));
        findings.extend(unknown.map(|module| format!("scenarios ran in {module}, which is no runtime known here")));
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(runtimes: &[(&str, &str)]) -> String {
        let mut printed = String::from("running 9 tests\ntest unit::of_something_else ... ok\n");
        for (module, _) in runtimes {
            printed +=
                &format!("test {module}::ws::a ... ok\ntest {module}::wss::a ... ok\ntest {module}::wss::b ... ok\n");
        }
        printed + "test src/lib.rs - (line 3) ... ok\n"
    }

    #[test]
    fn the_same_list_on_every_runtime_is_no_finding() {
        let printed = printed(RUNTIMES);
        let tally = Tally::of(&printed);
        assert_eq!(tally.findings(), [""; 0]);
        assert_eq!(tally.summary(), "tokio current-thread 3, tokio multi-thread 3, async-std 3, smol 3, simulated 3");
    }

    #[test]
    fn a_scenario_that_is_missing_fails_or_is_ignored_is_found() {
        for (instead, finding) in [
            ("", "smol does not have wss::b"),
            ("test on_smol::wss::b ... FAILED\n", "smol: wss::b: FAILED"),
            ("test on_smol::wss::b ... ignored, no TLS\n", "smol: wss::b: ignored, no TLS"),
        ] {
            let printed = printed(RUNTIMES).replace("test on_smol::wss::b ... ok\n", instead);
            let tally = Tally::of(&printed);
            assert_eq!(tally.findings(), [finding]);
            assert!(tally.summary().contains("smol 2, "), "{}", tally.summary());
        }
    }

    #[test]
    fn a_runtime_that_is_missing_or_unknown_is_found() {
        let others = printed(&RUNTIMES[..4]);
        let findings = Tally::of(&others).findings();
        let missing = ["ws::a", "wss::a", "wss::b"].map(|scenario| format!("simulated does not have {scenario}"));
        assert_eq!(findings, missing);

        let more = printed(RUNTIMES) + "test on_another::ws::a ... ok\n";
        assert_eq!(Tally::of(&more).findings(), ["scenarios ran in on_another, which is no runtime known here"]);
        assert_eq!(Tally::of("").findings(), ["no scenario has run"]);
    }
}
