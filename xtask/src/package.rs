//! `package`: the crates as they would be published, and that nothing else is needed to build them.
//!
//! `cargo package` verifies too, but keeps what it has unpacked of our own crates in cargo's home, by version: a second run would
//! hold the adapters against the core of the first. So that part is done here.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::args::Args;
use crate::process::{self, cargo, root, target_dir};

const CRATES: [&str; 3] = ["parley-proto", "parley-tokio", "parley-async-std"];

/// What has to lie in each beside its sources, and is the same for all.
const LICENSES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let mut package = cargo();
    // Offline: what the workspace was built with is all that it takes.
    package.args(["package", "--no-verify", "--offline", "--locked", "--allow-dirty"]);
    package.args(CRATES.iter().flat_map(|name| ["--package", name]));
    process::run(&mut package)?;

    let version = version(&read(&root().join("Cargo.toml"))?).ok_or("Cargo.toml has no version")?.to_owned();
    let packages = target_dir().join("package");
    let unpacked = packages.join("unpacked");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).map_err(|error| format!("{}: {error}", unpacked.display()))?;
    }
    fs::create_dir_all(&unpacked).map_err(|error| format!("{}: {error}", unpacked.display()))?;
    for name in CRATES {
        let archive = packages.join(format!("{name}-{version}.crate"));
        process::run(Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(&unpacked))?;
        let folder = unpacked.join(format!("{name}-{version}"));
        for license in LICENSES {
            if read(&folder.join(license))? != read(&root().join(license))? {
                return Err(format!("{name}: {license} is not the project's: is it a link that was not followed?"));
            }
        }
        read(&folder.join("README.md"))?;
    }
    write(&unpacked.join("Cargo.toml"), &workspace(&version))?;
    write(&unpacked.join("Cargo.lock"), &read(&root().join("Cargo.lock"))?)?;
    let mut check = cargo();
    check.args(["check", "--workspace", "--all-targets", "--all-features", "--offline"]);
    process::run(check.current_dir(&unpacked).env("CARGO_TARGET_DIR", target_dir()))
}

/// A workspace of what was unpacked, in which each crate gets its siblings as if from the registry.
fn workspace(version: &str) -> String {
    let members = CRATES.map(|name| format!("\"{name}-{version}\"")).join(", ");
    let patches = CRATES.map(|name| format!("{name} = {{ path = \"{name}-{version}\" }}\n")).concat();
    format!("[workspace]\nresolver = \"3\"\nmembers = [{members}]\n\n[patch.crates-io]\n{patches}")
}

/// The version that all crates share: the first in the workspace's manifest.
fn version(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_workspace() {
        let manifest =
            "[workspace]\nresolver = \"3\"\n[workspace.package]\nversion = \"1.2.3\"\n[x]\nversion = \"9.0\"\n";
        assert_eq!(version(manifest), Some("1.2.3"));
        assert_eq!(version("[workspace]\n"), None);
    }

    #[test]
    fn each_crate_gets_its_siblings_from_the_packages() {
        let manifest = workspace("1.2.3");
        assert!(manifest.contains("members = [\"parley-proto-1.2.3\", \"parley-tokio-1.2.3\""));
        assert!(manifest.contains("[patch.crates-io]\nparley-proto = { path = \"parley-proto-1.2.3\" }\n"));
    }
}
