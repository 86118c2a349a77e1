//! Instructions, counted by valgrind's callgrind: they repeat where nanoseconds do not.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{self, target_dir};

/// The instructions of one whole run of a program.
pub(crate) fn count(program: &Path, args: &[&str]) -> Result<u64, String> {
    if !process::on_path("valgrind") {
        return Err("counting instructions needs valgrind".to_owned());
    }
    let out = target_dir().join("bench");
    fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let profile = out.join("callgrind.out");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        return Err(format!("valgrind failed on {}:\n{}", args.join(" "), String::from_utf8_lossy(&output.stderr)));
    }
    let text = fs::read_to_string(&profile).map_err(|error| format!("{}: {error}", profile.display()))?;
    total(&text).ok_or_else(|| format!("callgrind counted nothing for {}", args.join(" ")))
}

/// The `summary:` line of callgrind's output file.
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("summary:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_total_is_read() {
        assert_eq!(total("events: Ir\nfn=(1)\n0 5\n\nsummary: 12345\n"), Some(12345));
        assert_eq!(total("events: Ir\n"), None);
    }
}
