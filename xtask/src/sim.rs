//! The simulator: seeds of clients at random, each a world that repeats exactly.
//!
//! The program is `tests/src/bin/sim.rs`; it prints the command that replays what failed.

use std::process::Command;

use crate::Outcome;
use crate::args::Args;
use crate::process;

/// Seeds that are run when none are asked for.
const SEEDS: u64 = 1000;

pub(crate) fn run(mut args: Args) -> Outcome {
    let seeds = args.number("--seeds")?.unwrap_or(SEEDS);
    let from = args.option("--from")?.unwrap_or_else(|| "0".to_owned());
    let trace = args.flag("--trace");
    args.finish()?;
    let program = process::build(&["build", "--profile", "sim", "--package", "parley-tests", "--bin", "sim"], "sim")?;
    let mut command = Command::new(program);
    command.args(["--seeds", &seeds.to_string(), "--from", &from]);
    if trace {
        command.arg("--trace");
    }
    process::run(&mut command)
}
