//! The chart of the README, for a light page and for a dark one, from what `cargo xtask bench` has measured.

use std::process::Command;

use crate::args::Args;
use crate::process::{self, root};
use crate::{Outcome, bench};

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let files = bench::figures();
    if files.is_empty() {
        return Err("nothing has been measured: run `cargo xtask bench` first".to_owned());
    }
    let folder = root().join("tests/peers");
    process::run(
        Command::new(bench::peers_program("report", "report", "dev")?)
            .arg("--chart")
            .args([folder.join("chart.svg"), folder.join("chart-dark.svg")])
            .args(files),
    )
}
