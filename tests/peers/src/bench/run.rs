//! The figures of one program, and where they come from: a JSON file that [`Report`](super::Report) reads.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::median;

/// The crates whose versions are noted.
const CRATES: &[&str] = &[
    "async-std",
    "async-tungstenite",
    "fastwebsockets",
    "parley-proto",
    "sockudo-ws",
    "soketto",
    "tokio",
    "tokio-tungstenite",
    "tokio-websockets",
    "tungstenite",
    "web-socket",
    "yawc",
];

/// What one library took in one row, one value a round.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Sample {
    /// A table: "receive", "echo server".
    pub group: String,
    /// A workload in it: "server, text 8-125 B".
    pub row: String,
    /// A column: "parley", "tungstenite", "raw-tcp".
    pub library: String,
    /// Of what: "ns", "B".
    pub unit: String,
    pub values: Vec<f64>,
    /// A letter behind the figure: it does not do what the row is about, and is no peer there. "w" for one write call a message in
    /// a row about batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

impl Sample {
    /// # Panics
    ///
    /// If there is no value: a sample is what was measured.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.values).expect("a sample has values")
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
}

impl Machine {
    /// This one, as far as it tells.
    #[must_use]
    pub fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.trim().to_owned()),
            cores: available_parallelism().map_or(1, NonZero::get),
            kernel: format!("{} {}", std::env::consts::OS, kernel.trim()).trim().to_owned(),
        }
    }
}

/// One program's figures.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Run {
    /// "memory", "sockets".
    pub program: String,
    /// The profile that it was built in: "lto", or "nolto".
    pub profile: String,
    /// Whether it took the short way, whose figures are not to be quoted.
    pub quick: bool,
    pub date: String,
    pub machine: Machine,
    pub rustc: String,
    /// By crate, of what was compared.
    pub versions: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

impl Run {
    /// An empty run of this program, on this machine, today.
    #[must_use]
    pub fn start(program: &str, quick: bool) -> Self {
        Self {
            program: program.to_owned(),
            profile: profile(),
            quick,
            date: date(SystemTime::now()),
            machine: Machine::this(),
            rustc: rustc(),
            versions: versions(include_str!("../../Cargo.lock")),
            samples: Vec::new(),
        }
    }

    /// Adds a sample. To a sample that is there already its values are added.
    pub fn add(&mut self, sample: Sample) {
        let same = |other: &&mut Sample| {
            (&other.group, &other.row, &other.library) == (&sample.group, &sample.row, &sample.library)
        };
        match self.samples.iter_mut().find(same) {
            Some(there) => there.values.extend(sample.values),
            None => self.samples.push(sample),
        }
    }

    /// # Errors
    ///
    /// The file cannot be read, or is no run.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let run: Self = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        match run.samples.iter().find(|sample| sample.values.is_empty()) {
            Some(empty) => Err(format!("{}: no values for {} in {}", path.display(), empty.library, empty.row)),
            None => Ok(run),
        }
    }

    /// Writes the file. With `append`, behind the values of a run of the same program that is there.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or what is there cannot be appended to.
    pub fn write(mut self, path: &Path, append: bool) -> Result<(), String> {
        if append && path.exists() {
            let mut before = Self::read(path)?;
            let kind = |run: &Self| (run.program.clone(), run.profile.clone(), run.versions.clone());
            if kind(&before) != kind(&self) {
                return Err(format!("{}: a run of another program, profile or versions", path.display()));
            }
            let samples = std::mem::take(&mut self.samples);
            samples.into_iter().for_each(|sample| before.add(sample));
            before.quick |= self.quick;
            self = before;
        }
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let text = serde_json::to_vec_pretty(&self).map_err(|error| format!("{}: {error}", path.display()))?;
        fs::write(path, text).map_err(failed)
    }
}

/// The folder that cargo has put this program into is called like the profile.
fn profile() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().and_then(Path::file_name).unwrap_or_default();
    folder.to_string_lossy().into_owned()
}

/// The compiler at hand: the one that has just built this, when `cargo xtask bench` runs it.
fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map_or_else(|_| "rustc".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The versions of [`CRATES`] in a Cargo.lock.
fn versions(lock: &str) -> BTreeMap<String, String> {
    let quoted = |line: Option<&str>, key: &str| Some(line?.strip_prefix(key)?.trim_matches('"').to_owned());
    let packages = lock.split("[[package]]").filter_map(|package| {
        let mut lines = package.trim_start().lines();
        Some((quoted(lines.next(), "name = ")?, quoted(lines.next(), "version = ")?))
    });
    packages.filter(|(name, _)| CRATES.contains(&name.as_str())).collect()
}

/// The day, in UTC: "2026-11-30".
fn date(now: SystemTime) -> String {
    let days = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(library: &str, values: &[f64]) -> Sample {
        Sample {
            group: "receive".to_owned(),
            row: "text".to_owned(),
            library: library.to_owned(),
            unit: "ns".to_owned(),
            values: values.to_vec(),
            mark: None,
        }
    }

    #[test]
    fn a_day_is_told_from_the_seconds() {
        let day = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(1_796_083_199), "2026-11-30");
        assert_eq!(day(1_798_675_200), "2026-12-31");
    }

    #[test]
    fn every_crate_has_its_version_in_the_lock_file() {
        let versions = versions(include_str!("../../Cargo.lock"));
        assert_eq!(versions.len(), CRATES.len(), "{versions:?}");
        assert!(versions["tungstenite"].starts_with("0."), "{versions:?}");
    }

    #[test]
    fn a_run_is_read_as_it_was_written_and_appended_to() {
        let path = std::env::temp_dir().join(format!("parley-bench-{}.json", std::process::id()));
        let mut run = Run::start("memory", false);
        run.add(sample("parley", &[1.0, 2.0]));
        run.clone().write(&path, false).unwrap();
        assert_eq!(Run::read(&path).unwrap(), run);

        let mut next = Run::start("memory", false);
        next.add(sample("parley", &[3.0]));
        next.add(sample("yawc", &[4.0]));
        next.write(&path, true).unwrap();
        let both = Run::read(&path).unwrap();
        assert_eq!(both.samples, [sample("parley", &[1.0, 2.0, 3.0]), sample("yawc", &[4.0])]);

        let other = Run::start("sockets", false);
        assert!(other.write(&path, true).is_err(), "another program's file");
        fs::remove_file(path).unwrap();
    }
}
