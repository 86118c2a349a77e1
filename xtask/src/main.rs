//! The project's tasks: `cargo xtask TASK`. This file dispatches; each task is a file of its own.

#![forbid(unsafe_code)]

mod args;
mod autobahn;
mod bench;
mod callgrind;
mod ci;
mod cost;
mod dependencies;
mod fuzz;
mod hazards;
mod interop;
mod lexer;
mod mutants;
mod package;
mod parity;
mod process;
mod purity;
mod rules;
mod scenarios;
mod sim;
mod soak;

use std::process::ExitCode;

use args::Args;

/// What a task ends in: the message says what failed, for the person who ran it.
type Outcome = Result<(), String>;

struct Task {
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    run: fn(Args) -> Outcome,
}

const TASKS: &[Task] = &[
    Task { name: "ci", usage: "", about: "everything that CI checks, in its order", run: ci::run },
    Task { name: "purity", usage: "", about: "what must be absent from each layer's sources", run: purity::run },
    Task { name: "parity", usage: "", about: "the adapters have the same public names", run: parity::run },
    Task {
        name: "package",
        usage: "",
        about: "the crates as they would be published, and that they build from nothing else",
        run: package::run,
    },
    Task {
        name: "rules",
        usage: "",
        about: "each rule of the guide has a test that bears its number",
        run: rules::run,
    },
    Task {
        name: "hazards",
        usage: "",
        about: "each promise and each hazard of SECURITY.md has a test, and the tests named there exist",
        run: hazards::run,
    },
    Task {
        name: "dependencies",
        usage: "[--list]",
        about: "each dependency is listed with its reason; licences, duplicates and sources, by cargo-deny",
        run: dependencies::run,
    },
    Task {
        name: "scenarios",
        usage: "",
        about: "the one list of scenarios on every runtime, counted",
        run: scenarios::run,
    },
    Task {
        name: "autobahn",
        usage: "[--client tokio|async-std] [--server tokio|async-std] [--quick] [--cases 1.*,7.9.1]",
        about: "the Autobahn TestSuite against our endpoints: without --client and --server all four",
        run: autobahn::run,
    },
    Task {
        name: "interop",
        usage: "[--browser|--browser-if-possible]",
        about: "our clients and servers against Python's websockets and Node's ws; against chromium, and through nginx",
        run: interop::run,
    },
    Task {
        name: "fuzz",
        usage: "[--seconds N] [--target T] [--minimise]",
        about: "the fuzz targets, on their committed corpora",
        run: fuzz::run,
    },
    Task {
        name: "sim",
        usage: "[--seeds N] [--from S] [--trace]",
        about: "clients at random under a virtual clock, a world a seed",
        run: sim::run,
    },
    Task {
        name: "soak",
        usage: "[--minutes N|--seconds N] [--connections N] [--round SECONDS] [--seed S]",
        about: "a thousand clients through a proxy that delays, cuts and resets; memory and descriptors stay flat",
        run: soak::run,
    },
    Task {
        name: "mutants",
        usage: "[--seeds N] [--only NUMBER]",
        about: "the simulator against broken copies of the library: each has to be caught",
        run: mutants::run,
    },
    Task {
        name: "bench",
        usage: "[--only memory] [--no-lto] [--quick], or --instructions [--quick]",
        about: "Parley against other libraries; or instructions a message against their budgets",
        run: bench::run,
    },
    Task {
        name: "cost",
        usage: "",
        about: "the work for what a peer sends grows with its bytes, and no faster",
        run: cost::run,
    },
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(name) = words.next() else {
        print!("{}", overview());
        return ExitCode::SUCCESS;
    };
    if ["help", "--help", "-h"].contains(&name.as_str()) {
        print!("{}", overview());
        return ExitCode::SUCCESS;
    }
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        eprint!("no task is called `{name}`\n\n{}", overview());
        return ExitCode::FAILURE;
    };
    match (task.run)(Args::new(words.collect())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask {name}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn overview() -> String {
    let mut text = String::from("cargo xtask TASK\n\n");
    for task in TASKS {
        text.push_str(&format!("  {:12} {}\n", task.name, task.about));
        if !task.usage.is_empty() {
            text.push_str(&format!("               {}\n", task.usage));
        }
    }
    text
}
