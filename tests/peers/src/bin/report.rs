//! What the bench programs have written, as tables: `report FILE.json ...`.

use std::path::Path;
use std::process::ExitCode;

use parley_peers::bench::{Report, Run};

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: report FILE.json ...");
        return ExitCode::FAILURE;
    }
    let runs: Result<Vec<_>, _> = files.iter().map(|file| Run::read(Path::new(file))).collect();
    match runs {
        Ok(runs) => {
            print!("{}", Report::new(runs).text());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
