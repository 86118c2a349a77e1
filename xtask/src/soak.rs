//! A long run over sockets: a thousand clients through a proxy that delays, cuts and resets.
//!
//! The program is `tests/examples/soak.rs`, its checks are in `tests/src/soak`; it prints a report, and fails on any violation.

use std::process::Command;

use crate::Outcome;
use crate::args::Args;
use crate::process;

/// Minutes that are run when none are asked for.
const MINUTES: u64 = 10;

pub(crate) fn run(mut args: Args) -> Outcome {
    let (minutes, seconds) = (args.number("--minutes")?, args.number("--seconds")?);
    let options = ["--connections", "--round", "--seed"].map(|name| (name, args.number(name)));
    args.finish()?;
    let program =
        process::build(&["build", "--profile", "sim", "--package", "parley-tests", "--example", "soak"], "soak")?;
    let mut command = Command::new(program);
    command.args(["--seconds", &length(minutes, seconds)?.to_string()]);
    for (name, number) in options {
        if let Some(number) = number? {
            command.args([name, &number.to_string()]);
        }
    }
    process::run(&mut command)
}

/// In seconds.
fn length(minutes: Option<u64>, seconds: Option<u64>) -> Result<u64, String> {
    match (minutes, seconds) {
        (Some(_), Some(_)) => Err("--minutes or --seconds, not both".to_owned()),
        (None, Some(seconds)) => Ok(seconds),
        (minutes, None) => minutes.unwrap_or(MINUTES).checked_mul(60).ok_or_else(|| "that is for ever".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_in_minutes_or_in_seconds() {
        assert_eq!(length(None, None), Ok(600));
        assert_eq!(length(Some(2), None), Ok(120));
        assert_eq!(length(None, Some(5)), Ok(5));
        assert!(length(Some(1), Some(5)).is_err());
        assert!(length(Some(u64::MAX), None).is_err());
    }
}
