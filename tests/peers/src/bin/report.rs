//! What the bench programs have written, as tables: `report FILE.json ...`; or as a chart for a light page and one for a dark:
//! `report --chart LIGHT.svg DARK.svg FILE.json ...`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use parley_peers::bench::{Report, Run, chart};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.as_slice() {
        [option, light, dark, files @ ..] if option == "--chart" && !files.is_empty() => draw(light, dark, files),
        [option, ..] if option.starts_with("--") => usage(),
        [] => usage(),
        files => read(files).map(|report| print!("{}", report.text())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> Result<(), String> {
    Err("usage: report [--chart LIGHT.svg DARK.svg] FILE.json ...".to_owned())
}

fn read(files: &[String]) -> Result<Report, String> {
    let runs: Result<Vec<_>, _> = files.iter().map(|file| Run::read(Path::new(file))).collect();
    runs.map(Report::new)
}

fn draw(light: &str, dark: &str, files: &[String]) -> Result<(), String> {
    let report = read(files)?;
    if let Some(run) = report.runs.iter().find(|run| run.quick) {
        return Err(format!("the run of `{}` was a quick one: its figures are not to be shown", run.program));
    }
    let (light_chart, dark_chart) = chart::charts(&report);
    for (path, svg) in [(light, light_chart), (dark, dark_chart)] {
        fs::write(path, svg).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}
