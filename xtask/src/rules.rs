//! `rules`: each numbered rule of the guide has a test that bears its number, and each such test a rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::Outcome;
use crate::args::Args;
use crate::process::root;

/// A rule's number: its section, its place there.
type Rule = (u32, u32);

/// Rules whose test has to wait for what they speak of. An entry that has a test is an error too.
const WITHOUT_TEST: &[(Rule, &str)] = &[];

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let guide = root().join("parley-proto/src/guide.rs");
    let guide = fs::read_to_string(&guide).map_err(|error| format!("{}: {error}", guide.display()))?;
    let rules = rules_of(&guide);
    let mut tests = BTreeMap::new();
    for folder in ["parley-proto/src", "tests/src", "tests/tests"] {
        count_tests(&root().join(folder), &mut tests)?;
    }
    let findings = compare(&rules, &tests);
    for finding in &findings {
        println!("{finding}");
    }
    let count: usize = tests.values().sum();
    println!("{} rules, {count} tests that bear a rule's number", rules.len());
    if findings.is_empty() { Ok(()) } else { Err(format!("{} finding(s)", findings.len())) }
}

/// The rules that the guide states: the numbers in its bold list heads, `- **4.7** …`.
fn rules_of(guide: &str) -> Vec<Rule> {
    let heads = guide.lines().filter_map(|line| line.strip_prefix("//! - **")?.split_once("**"));
    heads.filter_map(|(number, _)| parse(number, '.')).collect()
}

fn parse(number: &str, between: char) -> Option<Rule> {
    let (section, place) = number.split_once(between)?;
    Some((section.parse().ok()?, place.parse().ok()?))
}

/// Adds the tests below a folder: functions named `rule_4_7_what_it_says`.
fn count_tests(folder: &Path, tests: &mut BTreeMap<Rule, usize>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        if path.is_dir() {
            count_tests(&path, tests)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            for rule in tests_of(&source) {
                *tests.entry(rule).or_default() += 1;
            }
        }
    }
    Ok(())
}

fn tests_of(source: &str) -> impl Iterator<Item = Rule> {
    source.lines().filter_map(|line| {
        let name = line.trim_start().trim_start_matches("async ").strip_prefix("fn rule_")?;
        let mut parts = name.splitn(3, '_');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

fn compare(rules: &[Rule], tests: &BTreeMap<Rule, usize>) -> Vec<String> {
    let excused = |rule: &Rule| WITHOUT_TEST.iter().find(|(excused, _)| excused == rule);
    let untested = rules.iter().filter_map(|rule| match (tests.contains_key(rule), excused(rule)) {
        (false, None) => Some(format!("rule {}.{} has no test", rule.0, rule.1)),
        (true, Some((_, reason))) => Some(format!("rule {}.{} has a test, but is excused: {reason}", rule.0, rule.1)),
        _ => None,
    });
    let unknown = tests.keys().filter(|rule| !rules.contains(rule));
    let unknown = unknown.map(|rule| format!("a test bears the number of rule {}.{}, which is none", rule.0, rule.1));
    let twice = rules.iter().enumerate().filter(|(at, rule)| rules[..*at].contains(rule));
    let twice = twice.map(|(_, rule)| format!("rule {}.{} stands in the guide twice", rule.0, rule.1));
    let none = rules.is_empty().then(|| "the guide has no rules".to_owned());
    untested.chain(unknown).chain(twice).chain(none).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str =
        "//! # 3. Callbacks\n//!\n//! - **3.1** `init`.\n//! - **3.10** Not **3.2**.\n//! - **Bold** words.\n";

    #[test]
    fn rules_are_read_from_the_guide() {
        assert_eq!(rules_of(GUIDE), [(3, 1), (3, 10)]);
    }

    #[test]
    fn tests_are_read_from_their_names() {
        let source = "#[test]\nfn rule_3_1_init() {}\n    async fn rule_3_10_x() {}\n// fn rule_9_9_no\nfn other() {}\nfn rule_x() {}";
        assert_eq!(tests_of(source).collect::<Vec<_>>(), [(3, 1), (3, 10)]);
    }

    #[test]
    fn a_rule_without_a_test_is_found_and_a_test_without_a_rule() {
        let tests = BTreeMap::from([((3, 1), 2), ((3, 2), 1)]);
        let findings = compare(&rules_of(GUIDE), &tests);
        assert_eq!(findings, ["rule 3.10 has no test", "a test bears the number of rule 3.2, which is none"]);
        assert_eq!(compare(&[], &BTreeMap::new()), ["the guide has no rules"]);
        assert_eq!(compare(&[(3, 1), (3, 1)], &tests_with((3, 1))), ["rule 3.1 stands in the guide twice"]);
    }

    fn tests_with(rule: Rule) -> BTreeMap<Rule, usize> {
        BTreeMap::from([(rule, 1)])
    }
}
