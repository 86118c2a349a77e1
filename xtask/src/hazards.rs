//! `hazards`: each row of the tables in `SECURITY.md`, of promises and of hazards, has a test, and the tests named there exist.
//!
//! A row begins with its number, and its last column says where its tests are, a file and the names of functions there, or the
//! command of a task:
//!
//! ```text
//! | 9 | A length that … | 1002 … | `tests/tests/memory.rs`: `hazard_9_nothing_is…`, `another`; `cargo xtask autobahn` |
//! ```
//!
//! A scenario is found by its name alone, in the list that all runtimes run: `scenarios`: `hazard_14_…`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::args::Args;
use crate::process::root;
use crate::{Outcome, TASKS};

/// Where the list of scenarios is.
const SCENARIOS: &str = "tests/src/scenarios/mod.rs";

/// Where tests bear the number of a hazard.
const FOLDERS: &[&str] = &["parley-proto/src", "parley-tokio/src", "parley-async-std/src", "tests/src", "tests/tests"];

/// Hazards that speak of sockets: a scenario is among their tests, and so runs over real ones with each adapter.
const OVER_SOCKETS: &[u32] = &[4, 5, 11, 13, 14, 16, 17, 18, 21, 22, 25];

/// Hazards of features that are not there yet. An entry that has a test is an error too.
const WITHOUT_TEST: &[(u32, &str)] = &[(19, "compression is not there yet"), (26, "HTTP/2 is not there yet")];

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let page = read(&root().join("SECURITY.md"))?;
    let promises = rows(&page, "## Promises");
    let hazards = rows(&page, "## Hazards");
    let sources = Sources::read()?;
    let mut findings = Vec::new();
    for (table, rows) in [("promise", &promises), ("hazard", &hazards)] {
        findings.extend(gaps(table, rows));
        for row in rows {
            findings.extend(row.tests.iter().filter_map(|test| {
                let fault = sources.fault_of(test)?;
                Some(format!("{table} {}: {fault}", row.number))
            }));
        }
    }
    findings.extend(
        promises.iter().filter(|row| row.tests.is_empty()).map(|row| format!("promise {} has no test", row.number)),
    );
    findings.extend(compare(&hazards, &sources.numbered));
    let excused = WITHOUT_TEST.iter().filter(|(number, _)| hazards.iter().all(|row| row.number != *number));
    findings.extend(excused.map(|(number, _)| format!("hazard {number} is missing, though it is excused")));
    for finding in &findings {
        println!("{finding}");
    }
    println!(
        "{} promises and {} hazards, {} tests that bear a hazard's number",
        promises.len(),
        hazards.len(),
        sources.numbered.len()
    );
    if findings.is_empty() { Ok(()) } else { Err(format!("{} finding(s)", findings.len())) }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What a row names as its test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Function {
        file: String,
        name: String,
    },
    Scenario(String),
    /// The command, behind `cargo xtask`.
    Task(String),
    /// A name that no file stands before.
    Stray(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    number: u32,
    tests: Vec<Test>,
}

/// The rows of the table below a heading.
fn rows(page: &str, heading: &str) -> Vec<Row> {
    let below = page.lines().skip_while(|line| *line != heading).skip(1);
    let section = below.take_while(|line| !line.starts_with("## "));
    let cells = section.filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'));
    cells
        .filter_map(|cells| {
            let (number, rest) = cells.split_once('|')?;
            let (_, tests) = rest.rsplit_once('|')?;
            Some(Row { number: number.trim().parse().ok()?, tests: tests_of(tests) })
        })
        .collect()
}

/// The tests in the last cell of a row.
fn tests_of(cell: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut file = None;
    let mut pieces = cell.split('`').skip(1);
    while let Some(code) = pieces.next() {
        let after = pieces.next().unwrap_or_default();
        if after.starts_with(':') {
            file = Some(code);
        } else if let Some(command) = code.strip_prefix("cargo xtask ") {
            tests.push(Test::Task(command.to_owned()));
        } else {
            tests.push(match file {
                Some("scenarios") => Test::Scenario(code.to_owned()),
                Some(file) => Test::Function { file: file.to_owned(), name: code.to_owned() },
                None => Test::Stray(code.to_owned()),
            });
        }
    }
    tests
}

/// The numbers that are missing below the highest, come twice, or stand out of order.
fn gaps(table: &str, rows: &[Row]) -> Vec<String> {
    if rows.is_empty() {
        return vec![format!("the table of {table}s is empty")];
    }
    let numbers = rows.iter().map(|row| row.number);
    let wrong = (1..).zip(numbers).find(|(expected, number)| expected != number);
    wrong.map(|(expected, number)| format!("{table} {number} stands where {expected} should")).into_iter().collect()
}

/// What the sources say.
struct Sources {
    /// Tests that bear a hazard's number. A scenario is one by its place in the list.
    numbered: BTreeSet<(u32, Test)>,
    scenarios: BTreeSet<String>,
}

impl Sources {
    fn read() -> Result<Self, String> {
        let scenarios = scenarios_of(&read(&root().join(SCENARIOS))?);
        let mut numbered = BTreeSet::new();
        for scenario in &scenarios {
            numbered.extend(number_of(scenario).map(|number| (number, Test::Scenario(scenario.clone()))));
        }
        for folder in FOLDERS {
            numbered_below(folder, &mut numbered)?;
        }
        Ok(Self { numbered, scenarios })
    }

    /// Why a test that a row names is none.
    fn fault_of(&self, test: &Test) -> Option<String> {
        match test {
            Test::Scenario(name) => (!self.scenarios.contains(name)).then(|| format!("no scenario is called {name}")),
            Test::Task(command) => fault_of_task(command),
            Test::Stray(name) => Some(format!("{name} stands behind no file")),
            Test::Function { file, name } => match read(&root().join(file)) {
                Ok(source) if functions(&source).any(|function| function == name) => None,
                Ok(_) => Some(format!("{file} has no test {name}")),
                Err(error) => Some(error),
            },
        }
    }
}

fn fault_of_task(command: &str) -> Option<String> {
    let name = command.split(' ').next().unwrap_or_default();
    if TASKS.iter().all(|task| task.name != name) {
        return Some(format!("no task is called {name}"));
    }
    let (_, target) = command.split_once(" --target ")?;
    let exists = root().join(format!("fuzz/fuzz_targets/{target}.rs")).exists();
    (!exists).then(|| format!("no fuzz target is called {target}"))
}

/// Adds the functions below a folder that bear a hazard's number; those of scenarios are known from the list.
fn numbered_below(folder: &str, numbered: &mut BTreeSet<(u32, Test)>) -> Result<(), String> {
    let entries = fs::read_dir(root().join(folder)).map_err(|error| format!("{folder}: {error}"))?;
    for entry in entries {
        let entry = entry.map_err(|error| format!("{folder}: {error}"))?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            if !SCENARIOS.starts_with(&path) {
                numbered_below(&path, numbered)?;
            }
        } else if path.ends_with(".rs") {
            for name in functions(&read(&entry.path())?) {
                let test = || Test::Function { file: path.clone(), name: name.to_owned() };
                numbered.extend(number_of(name).map(|number| (number, test())));
            }
        }
    }
    Ok(())
}

/// The names in the list of scenarios: a line each, with a comma.
fn scenarios_of(source: &str) -> BTreeSet<String> {
    let is_name =
        |line: &&str| !line.is_empty() && line.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    source.lines().filter_map(|line| line.trim().strip_suffix(',')).filter(is_name).map(str::to_owned).collect()
}

/// The functions that are tests: those whose attributes say so.
fn functions(source: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    source.lines().filter_map(move |line| {
        let line = line.trim_start();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let name = line.trim_start_matches("async ").strip_prefix("fn ")?;
        std::mem::take(&mut is_test).then(|| name.split(['(', '<']).next().unwrap_or_default())
    })
}

/// 15 for `hazard_15_what_happens`.
fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix("hazard_")?.split_once('_')?.0.parse().ok()
}

/// What is wrong between the rows of the hazards and the tests that bear their numbers.
fn compare(hazards: &[Row], numbered: &BTreeSet<(u32, Test)>) -> Vec<String> {
    let mut findings = Vec::new();
    for Row { number, tests } in hazards {
        let excused = WITHOUT_TEST.iter().find(|(excused, _)| excused == number);
        let bears_it = |test: &&Test| numbered.contains(&(*number, (*test).clone()));
        match (tests.iter().any(|test| bears_it(&test)), excused) {
            (false, None) => findings.push(format!("hazard {number} has no test that bears its number")),
            (false, Some(_)) if tests.is_empty() => {}
            (_, Some((_, reason))) => findings.push(format!("hazard {number} has a test, but is excused: {reason}")),
            (true, None) => {}
        }
        let has_scenario = tests.iter().any(|test| matches!(test, Test::Scenario(_)));
        if OVER_SOCKETS.contains(number) && !has_scenario {
            findings.push(format!("hazard {number} speaks of sockets, and has no scenario"));
        }
    }
    for (number, test) in numbered {
        match hazards.iter().find(|row| row.number == *number) {
            Some(row) if row.tests.contains(test) => {}
            Some(_) => findings.push(format!("hazard {number} does not name {test}")),
            None => findings.push(format!("{test} bears the number of hazard {number}, which is none")),
        }
    }
    findings
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function { file, name } => write!(f, "{file}: {name}"),
            Self::Scenario(name) | Self::Task(name) | Self::Stray(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "## Promises\n\n| # | what | tests |\n|---|---|---|\n| 1 | none | `a.rs`: `b` |\n\n## Hazards\n\
        | # | who | what | tests |\n|---|---|---|---|\n| 1 | a `1` | x | `a/b.rs`: `hazard_1_x`, `y`; `scenarios`: `z`; \
        `cargo xtask fuzz --seconds 60` |\n| 2 | b | y | with the feature |\n";

    fn function(name: &str) -> Test {
        Test::Function { file: "a/b.rs".to_owned(), name: name.to_owned() }
    }

    fn row(number: u32, tests: &[Test]) -> Row {
        Row { number, tests: tests.to_vec() }
    }

    #[test]
    fn rows_are_read_from_their_own_table() {
        let tests = [
            function("hazard_1_x"),
            function("y"),
            Test::Scenario("z".to_owned()),
            Test::Task("fuzz --seconds 60".to_owned()),
        ];
        assert_eq!(rows(PAGE, "## Hazards"), [row(1, &tests), row(2, &[])]);
        let promise = Test::Function { file: "a.rs".to_owned(), name: "b".to_owned() };
        assert_eq!(rows(PAGE, "## Promises"), [row(1, &[promise])]);
        assert_eq!(tests_of("`no_file`"), [Test::Stray("no_file".to_owned())]);
    }

    #[test]
    fn a_task_and_a_fuzz_target_have_to_exist() {
        assert_eq!(fault_of_task("fuzz --target decoder"), None);
        assert_eq!(fault_of_task("autobahn"), None);
        assert_eq!(fault_of_task("no --quick").unwrap(), "no task is called no");
        assert_eq!(fault_of_task("fuzz --target no").unwrap(), "no fuzz target is called no");
    }

    #[test]
    fn numbers_go_up_by_one() {
        assert_eq!(gaps("hazard", &[row(1, &[]), row(2, &[])]), [""; 0]);
        assert_eq!(gaps("hazard", &[row(1, &[]), row(3, &[])]), ["hazard 3 stands where 2 should"]);
        assert_eq!(gaps("hazard", &[row(1, &[]), row(1, &[])]), ["hazard 1 stands where 2 should"]);
        assert_eq!(gaps("hazard", &[]), ["the table of hazards is empty"]);
    }

    #[test]
    fn tests_are_the_functions_with_the_attribute() {
        let source = "#[test]\nfn a() {}\nfn helper() {}\n  #[tokio::test(start_paused = true)]\n  async fn b<T>() {}\n\
            #[test]\n#[cfg(unix)]\nfn c() {}\n// fn d() {}";
        assert_eq!(functions(source).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((number_of("hazard_15_x"), number_of("hazard_x"), number_of("other_1_x")), (Some(15), None, None));
    }

    #[test]
    fn scenarios_are_the_lines_of_the_list() {
        let source = "use a::{b, C};\n  both [\n    // A client\n    hazard_2_b,\n    c,\n  ]\nStruct { field, }\n";
        assert_eq!(scenarios_of(source), BTreeSet::from(["hazard_2_b".to_owned(), "c".to_owned()]));
    }

    #[test]
    fn a_hazard_without_a_test_is_found_and_a_test_without_a_row() {
        let own = [function("hazard_1_x")];
        let numbered = BTreeSet::from([(1, own[0].clone())]);
        assert_eq!(compare(&[row(1, &own)], &numbered), [""; 0]);
        let findings = compare(&[row(1, &[function("y")])], &numbered);
        assert_eq!(
            findings,
            ["hazard 1 has no test that bears its number", "hazard 1 does not name a/b.rs: hazard_1_x"]
        );
        assert_eq!(compare(&[], &numbered), ["a/b.rs: hazard_1_x bears the number of hazard 1, which is none"]);
    }

    #[test]
    fn a_hazard_of_sockets_needs_a_scenario_and_one_that_waits_no_test() {
        let own = [function("hazard_4_x")];
        let numbered = BTreeSet::from([(4, own[0].clone())]);
        assert_eq!(compare(&[row(4, &own)], &numbered), ["hazard 4 speaks of sockets, and has no scenario"]);
        assert_eq!(compare(&[row(4, &[own[0].clone(), Test::Scenario("z".to_owned())])], &numbered), [""; 0]);
        assert_eq!(compare(&[row(19, &[])], &BTreeSet::new()), [""; 0]);
        let early = compare(&[row(19, &[function("y")])], &BTreeSet::new());
        assert_eq!(early, ["hazard 19 has a test, but is excused: compression is not there yet"]);
    }
}
