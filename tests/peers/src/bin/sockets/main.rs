//! Parley and its peers over loopback: what a message costs the process under test, in CPU time as the kernel counts it.
//!
//! ```text
//!  core 0: the process under test, one library in one role ◀──loopback──▶ core 1: the load, by hand, and the measurements
//! ```
//!
//! The load is this program; it starts itself once more for each library. All libraries of a row are up at the same time,
//! each at rest while another is measured, and take turns: A B B A. The kernel's work is in the figures, so that an echo
//! without framing, `raw-tcp`, stands beside them.

mod job;
mod load;
mod process;
mod rows;
mod scale;
mod tls;
mod under_test;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("under-test") => match job::Job::from_args(&args[1..]) {
            Some(job) => under_test::run(&job),
            None => Err(format!("no job: {args:?}").into()),
        },
        _ => rows::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sockets: {error}");
            ExitCode::FAILURE
        }
    }
}
