//! Runs seeds of the simulator on all cores: `sim --seeds N [--from S] [--trace]`. Called by `cargo xtask sim`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use parley_tests::sim::seeds::{self, Run};

/// Every so many seeds, one is run twice.
const TWICE: u64 = 50;

fn main() -> ExitCode {
    let (seeds, from, trace) = match arguments() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("sim: {message}");
            return ExitCode::FAILURE;
        }
    };
    let started = Instant::now();
    let next = AtomicU64::new(from);
    let end = from.saturating_add(seeds);
    let stop = AtomicBool::new(false);
    let failed: Mutex<Option<(u64, Run)>> = Mutex::new(None);
    let cores = if trace { 1 } else { thread::available_parallelism().map_or(1, usize::from) };
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let run = one(seed);
                    if trace {
                        println!("seed {seed}\n{}\n", run.trace.join("\n"));
                    }
                    if !run.failures.is_empty() {
                        stop.store(true, Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        // The lowest of those that fail at the same time.
                        if failed.as_ref().is_none_or(|(before, _)| seed < *before) {
                            *failed = Some((seed, run));
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => {
            println!("{seeds} seeds from {from} passed in {:.1} s", started.elapsed().as_secs_f32());
            ExitCode::SUCCESS
        }
        Some((seed, run)) => {
            if !trace {
                println!("{}\n", run.trace.join("\n"));
            }
            println!("seed {seed} failed:");
            run.failures.iter().for_each(|failure| println!("  {failure}"));
            println!("replay it: cargo xtask sim --seeds 1 --from {seed} --trace");
            ExitCode::FAILURE
        }
    }
}

fn one(seed: u64) -> Run {
    let mut run = seeds::run(seed);
    if seed.checked_rem(TWICE) == Some(0) && seeds::run(seed).trace != run.trace {
        run.failures.push("the same seed did something else the second time".to_owned());
    }
    run
}

fn arguments() -> Result<(u64, u64, bool), String> {
    let (mut seeds, mut from, mut trace) = (1000, 0, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let text = words.next().unwrap_or_default();
            text.parse().map_err(|_| format!("{word} needs a whole number, not `{text}`"))
        };
        match &*word {
            "--seeds" => seeds = number()?,
            "--from" => from = number()?,
            "--trace" => trace = true,
            _ => return Err(format!("`{word}` is unknown here")),
        }
    }
    Ok((seeds, from, trace))
}
