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

/// What has to happen in some of the worlds, lest a rule be kept because nothing ever tried it.
#[test]
fn the_worlds_are_wide() {
    let wanted = [
        "keepalive timeout",
        "write timeout",
        "stream ended without a Close",
        "closed by the peer with 1008",
        "upgrade refused with status 503",
        "connect timeout during DNS",
        "connect timeout during upgrade",
        "given up after the last retry",
        "disconnected by a callback",
        "protocol error",
        "answers After",
        "is cancelled",
        "server stops reading",
        "net is back",
        "panics",
        "clock jumps",
    ];
    let mut missing = wanted.to_vec();
    for seed in 0..400 {
        let trace = seeds::run(seed).trace.join("\n");
        missing.retain(|wanted| !trace.contains(wanted));
    }
    assert!(missing.is_empty(), "never seen: {missing:?}");
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
