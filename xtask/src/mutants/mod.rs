//! The simulator against broken copies of the library: each [mutant](list::MUTANTS) has to be caught.
//!
//! The workspace is copied below the target folder, and every mutant written into the copy, each behind a condition of
//! its own that an environment variable makes true. So all of them are built at once, and the sources stay as they are.
//!
//! ```text
//! workspace ─ copy ─▶ target/mutants ─ replace ─▶ build once ─▶ run: none, it passes; 1, 2, 3 …: each fails
//! ```

mod list;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::args::Args;
use crate::process::{self, Running, cargo, root, target_dir};
use list::{MUTANTS, Mutant};

/// Seeds within which a mutant has to be caught.
const SEEDS: u64 = 2000;
/// One that is not at an end by then hangs, and is caught.
const PATIENCE: Duration = Duration::from_secs(60);
/// Which mutant the program shall be.
const CHOICE: &str = "PARLEY_MUTANT";
/// What a mutant writes where its condition is to stand.
const CONDITION: &str = "MUTANT";
/// What the program is built from and as, so that it does not take the place of the sound one.
const PROGRAM: (&str, &str) = ("tests/src/bin/sim.rs", "mutants");

/// Added to the copy of the library.
const CHOOSER: &str = r#"
/// Whether the library is to be broken in this way.
pub(crate) fn mutant(number: usize) -> bool {
    static CHOSEN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    let choose = || std::env::var("PARLEY_MUTANT").ok().and_then(|number| number.parse().ok()).unwrap_or(0);
    *CHOSEN.get_or_init(choose) == number
}
"#;

pub(crate) fn run(mut args: Args) -> Outcome {
    let seeds = args.number("--seeds")?.unwrap_or(SEEDS);
    let only = args.number("--only")?;
    args.finish()?;
    let copy = target_dir().join("mutants");
    copy_workspace(&copy)?;
    let program = build(&copy)?;

    let simulate = |number: usize| {
        let mut command = Command::new(&program);
        command.args(["--seeds", &seeds.to_string()]).env(CHOICE, number.to_string());
        command
    };
    println!("no mutant:");
    process::run(&mut simulate(0))?;
    let mut missed = Vec::new();
    for (index, mutant) in MUTANTS.iter().enumerate() {
        let number = index + 1;
        if only.is_some_and(|only| only != number as u64) {
            continue;
        }
        let started = Instant::now();
        let caught = catch(&mut simulate(number), &copy.join("output"))?;
        let seconds = started.elapsed().as_secs_f32();
        match caught {
            Some(how) => println!("{number:3}  {seconds:5.1} s  {}: {how}", mutant.what),
            None => {
                println!("{number:3}  {seconds:5.1} s  {}: NOT CAUGHT", mutant.what);
                missed.push(number.to_string());
            }
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "within {seeds} seeds the simulator does not see the mutants {} of xtask/src/mutants/list.rs: it lacks a check, \
         or worlds in which they matter",
        missed.join(", ")
    ))
}

/// How a mutant showed itself; `None`: it did not.
fn catch(command: &mut Command, output: &Path) -> Result<Option<String>, String> {
    let file = fs::File::create(output).map_err(|error| format!("{}: {error}", output.display()))?;
    // What its panics say is of no interest.
    let mut running = Running::start(command.stdout(file).stderr(Stdio::null()))?;
    match running.wait(PATIENCE) {
        Err(_) => return Ok(Some("it hangs".to_owned())),
        Ok(status) if status.success() => return Ok(None),
        Ok(_) => {}
    }
    drop(running);
    let text = fs::read(output).map_err(|error| format!("{}: {error}", output.display()))?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().skip_while(|line| !(line.starts_with("seed ") && line.ends_with(" failed:")));
    let (seed, rule) = (lines.next().unwrap_or("it crashed"), lines.next().unwrap_or("").trim());
    Ok(Some(format!("{} {rule}", seed.trim_end_matches(" failed:"))))
}

/// All that cargo wants to see of the workspace, with the mutants in it.
fn copy_workspace(to: &Path) -> Outcome {
    let mut changed = mutated()?;
    let root = root();
    let (from, name) = PROGRAM;
    let program = fs::read(root.join(from)).map_err(|error| format!("{from}: {error}"))?;
    write(&to.join("tests/src/bin").join(name).with_extension("rs"), &program)?;
    changed.insert(root.join(from), None);
    let manifest = root.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(|error| format!("Cargo.toml: {error}"))?;
    changed.insert(manifest, Some(other_version(&text)?));
    for file in ["Cargo.toml", "Cargo.lock", "README.md"] {
        copy(&root.join(file), &to.join(file), &changed)?;
    }
    for folder in ["parley-proto", "parley-tokio", "parley-async-std", "tests", "xtask"] {
        copy(&root.join(folder), &to.join(folder), &changed)?;
    }
    Ok(())
}

/// The workspace's manifest with another version of its packages. To cargo the same package in a folder of the same name
/// is the same, whatever workspace it is in: without this the two would take each other's place in the target folder.
fn other_version(manifest: &str) -> Result<String, String> {
    let start = "[workspace.package]\nversion = \"";
    let (before, rest) = manifest.split_once(start).ok_or(format!("Cargo.toml has no line behind {start}"))?;
    let (version, rest) = rest.split_once('"').ok_or("Cargo.toml has a version without an end")?;
    Ok(format!("{before}{start}{version}+mutants\"{rest}"))
}

/// Files that differ in the copy, or are not in it.
type Changed = BTreeMap<PathBuf, Option<String>>;

/// A file, or a folder with all that is in it.
fn copy(from: &Path, to: &Path, changed: &Changed) -> Outcome {
    let failed = |error| format!("{}: {error}", from.display());
    if let Some(changed) = changed.get(from) {
        return changed.iter().try_for_each(|text| write(to, text.as_bytes()));
    }
    if !from.is_dir() {
        return write(to, &fs::read(from).map_err(failed)?);
    }
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != "target" {
            copy(&entry.path(), &to.join(entry.file_name()), changed)?;
        }
    }
    Ok(())
}

/// What has not changed is not written, lest it be built again.
fn write(to: &Path, text: &[u8]) -> Outcome {
    if fs::read(to).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    fs::write(to, text).map_err(|error| format!("{}: {error}", to.display()))
}

/// The library's files with all mutants in them.
fn mutated() -> Result<Changed, String> {
    let library = root().join("parley-proto/src");
    let mut files: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (index, mutant) in MUTANTS.iter().enumerate() {
        files.entry(mutant.file).or_default().push((index + 1, mutant));
    }
    files.entry("lib.rs").or_default();
    let mut changed = Changed::new();
    for (file, mutants) in files {
        let path = library.join(file);
        let source = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut text = replace(&source, &mutants)?;
        if file == "lib.rs" {
            text.push_str(CHOOSER);
        }
        changed.insert(path, Some(text));
    }
    Ok(changed)
}

/// A file's source with its mutants.
fn replace(source: &str, mutants: &[(usize, &Mutant)]) -> Result<String, String> {
    let mut places = Vec::new();
    for (number, mutant) in mutants {
        places.push((
            place(source, mutant).map_err(|problem| format!("mutant {number}: {problem}"))?,
            *number,
            *mutant,
        ));
    }
    places.sort_unstable_by_key(|(at, ..)| *at);
    let (mut out, mut done) = (String::new(), 0);
    for (at, number, mutant) in places {
        if at < done {
            return Err(format!("mutant {number} ({}) overlaps another: give one of them a shorter text", mutant.what));
        }
        out.push_str(&source[done..at]);
        out.push_str(&mutant.broken.replace(CONDITION, &format!("crate::mutant({number})")));
        done = at + mutant.sound.len();
    }
    out.push_str(&source[done..]);
    Ok(out)
}

/// Where a mutant's text stands.
fn place(source: &str, mutant: &Mutant) -> Result<usize, String> {
    let Mutant { what, file, sound, broken } = mutant;
    if !broken.contains(CONDITION) {
        return Err(format!("\"{what}\" has no {CONDITION} in what it writes"));
    }
    let mut places = source.match_indices(sound);
    match (places.next(), places.count()) {
        (Some((at, _)), 0) => Ok(at),
        (found, more) => Err(format!(
            "\"{what}\" does not fit parley-proto/src/{file}: its text has to occur there once, and does {} times. The \
             code has changed, so change the mutant in xtask/src/mutants/list.rs with it, such that it breaks the same \
             rule:\n{sound}",
            usize::from(found.is_some()) + more
        )),
    }
}

/// The simulator on the broken library. What the two depend on is shared with the sound build.
fn build(copy: &Path) -> Result<PathBuf, String> {
    let (_, name) = PROGRAM;
    let mut command = cargo();
    command.args(["build", "--profile", "sim", "--package", "parley-tests", "--bin", name]);
    command.current_dir(copy).env("CARGO_TARGET_DIR", target_dir());
    process::built(&mut command, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Mutant = Mutant { what: "one", file: "a.rs", sound: "a < b", broken: "(a < b || MUTANT)" };
    const TWO: Mutant = Mutant { what: "two", file: "a.rs", sound: "c();", broken: "if !MUTANT { c(); }" };

    #[test]
    fn every_mutant_fits_the_sources() {
        let library = root().join("parley-proto/src");
        for (index, mutant) in MUTANTS.iter().enumerate() {
            let source = fs::read_to_string(library.join(mutant.file)).unwrap();
            place(&source, mutant).map_err(|problem| format!("mutant {}: {problem}", index + 1)).unwrap();
        }
    }

    #[test]
    fn the_copy_has_a_version_of_its_own() {
        let manifest = "[workspace.package]\nversion = \"1.2.3\"\nedition = \"2024\"\n";
        let other = "[workspace.package]\nversion = \"1.2.3+mutants\"\nedition = \"2024\"\n";
        assert_eq!(other_version(manifest).unwrap(), other);
        assert!(other_version("").is_err());
    }

    #[test]
    fn mutants_are_written_behind_their_numbers() {
        let mutated = replace("if a < b { c(); }", &[(2, &TWO), (1, &ONE)]).unwrap();
        assert_eq!(mutated, "if (a < b || crate::mutant(1)) { if !crate::mutant(2) { c(); } }");
    }

    #[test]
    fn a_text_that_is_gone_or_not_alone_is_named() {
        let gone = replace("if a <= b {}", &[(1, &ONE)]).unwrap_err();
        assert!(gone.contains("mutant 1") && gone.contains("0 times"), "{gone}");
        let twice = replace("c(); c();", &[(2, &TWO)]).unwrap_err();
        assert!(twice.contains("2 times"), "{twice}");
    }
}
