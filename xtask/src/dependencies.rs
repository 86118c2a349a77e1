//! What the published crates depend on: DEPENDENCIES.md lists it, with reasons; cargo-deny looks at licences, duplicates and sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::args::Args;
use crate::process::{self, root};

const LIST: &str = "DEPENDENCIES.md";
/// The published crates, by the words of the list's second column.
const CRATES: [(&str, &str); 3] =
    [("proto", "parley-proto"), ("tokio", "parley-tokio"), ("async-std", "parley-async-std")];
/// The version that the configuration was written for.
const DENY: &str = "0.20.2";

pub(crate) fn run(mut args: Args) -> Outcome {
    let list_alone = args.flag("--list");
    args.finish()?;
    let list = read(&root().join(LIST))?;
    let mut actual = BTreeSet::new();
    for (word, name) in CRATES {
        let manifest = read(&root().join(name).join("Cargo.toml"))?;
        actual.extend(direct(&manifest).into_iter().map(|dependency| (dependency, word.to_owned())));
    }
    let findings = differences(&actual, &listed(&list)?);
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    if !findings.is_empty() {
        return Err(format!("{LIST}: {} finding(s)", findings.len()));
    }
    println!("{LIST} lists what the crates depend on: {} entries", actual.len());
    if list_alone {
        return Ok(());
    }
    if !process::on_path("cargo-deny") {
        return Err(format!(
            "licences, duplicates and sources need cargo-deny: cargo install --locked --version {DENY} cargo-deny"
        ));
    }
    let config = root().join("xtask/deny.toml");
    let mut deny = Command::new("cargo-deny");
    deny.current_dir(root()).arg("--config").arg(config).args(["check", "licenses", "bans", "sources"]);
    process::run(&mut deny)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The dependencies of a manifest, optional ones and those of some targets too; those of tests and our own crates not.
fn direct(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside =
                section == "dependencies" || (section.starts_with("target.") && section.ends_with(".dependencies"));
        } else if inside && !line.starts_with('#') {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !name.is_empty() && !name.starts_with("parley-") {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// The list's rows, as pairs of a dependency and a crate that has it. A row without a reason is an error.
fn listed(list: &str) -> Result<BTreeSet<(String, String)>, String> {
    let mut pairs = BTreeSet::new();
    for line in list.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, of, purpose, _] = cells[..] else { return Err(format!("not four columns: {line}")) };
        let name = name.trim_matches('`');
        if purpose.is_empty() {
            return Err(format!("{name}: for what?"));
        }
        for word in of.split(',').map(str::trim).filter(|word| !word.contains(' ')) {
            pairs.insert((name.to_owned(), word.to_owned()));
        }
    }
    Ok(pairs)
}

fn differences(actual: &BTreeSet<(String, String)>, listed: &BTreeSet<(String, String)>) -> Vec<String> {
    let missing = actual.difference(listed).map(|(name, of)| format!("`{name}`, of {of}, is not in the list"));
    let stale = listed.difference(actual).map(|(name, of)| format!("{of} does not depend on `{name}`"));
    missing.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_all_their_sections() {
        let manifest = "[package]\nname = \"a\"\n[dependencies]\nparley-proto.workspace = true\n\nb.workspace = true\n# c = \"1\"\n\
                        d = { version = \"1\" }\n[target.'cfg(unix)'.dependencies]\ne = \"1\"\n[dev-dependencies]\nf = \"1\"\n";
        assert_eq!(direct(manifest).into_iter().collect::<Vec<_>>(), ["b", "d", "e"]);
    }

    #[test]
    fn a_list_that_differs_is_told_how() {
        let list = "| crate | of |\n|---|---|\n| `b` | proto, tokio, with `tls` | x | |\n| `z` | proto | x | y |\n";
        let pair = |name: &str, of: &str| (name.to_owned(), of.to_owned());
        let listed = listed(list).unwrap();
        assert_eq!(listed, BTreeSet::from([pair("b", "proto"), pair("b", "tokio"), pair("z", "proto")]));
        let actual = BTreeSet::from([pair("b", "proto"), pair("b", "tokio"), pair("c", "tokio")]);
        assert_eq!(
            differences(&actual, &listed),
            ["`c`, of tokio, is not in the list", "proto does not depend on `z`"]
        );
    }

    #[test]
    fn a_row_says_what_it_is_for() {
        assert!(listed("| `b` | proto | | because |").is_err());
        assert!(listed("| `b` | proto |").is_err());
    }
}
