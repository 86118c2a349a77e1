//! The simulator: the first seeds, that each repeats exactly, and that every mutation of the driver is caught.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use parley_tests::sim::seeds::{self, Mutation};

/// Seeds within which a mutation has to be caught.
const PATIENCE: u64 = 400;

#[test]
fn two_hundred_seeds_keep_the_rules() {
    for seed in 0..200 {
        let run = seeds::run(seed);
        assert!(
            run.failures.is_empty(),
            "{:#?}\n{}\nreplay it: cargo xtask sim --seeds 1 --from {seed} --trace",
            run.failures,
            run.trace.join("\n")
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..40 {
        assert_eq!(seeds::run(seed).trace, seeds::run(seed).trace, "seed {seed}");
    }
}

#[test]
fn seeds_differ() {
    assert_ne!(seeds::run(1).trace, seeds::run(2).trace);
}

#[test]
fn every_mutation_is_caught() {
    let next = AtomicU64::new(0);
    let work = || {
        let mut missed = Vec::new();
        while let Some(&mutation) = Mutation::ALL.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let caught = (0..PATIENCE).find(|seed| !seeds::run_with(*seed, Some(mutation)).failures.is_empty());
            match caught {
                Some(seed) => println!("{mutation}: seed {seed}"),
                None => missed.push(mutation),
            }
        }
        missed
    };
    let missed: Vec<_> = thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(missed.is_empty(), "not caught within {PATIENCE} seeds: {missed:?}");
}
