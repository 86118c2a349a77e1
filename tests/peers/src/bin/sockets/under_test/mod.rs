//! The process under test: one library in one role, as its users would write it.

pub mod messages;
pub mod parley;
pub mod peers;
pub mod raw;
pub mod rivals_async_std;

use std::error::Error;
use std::future::Future;
use std::io::{self, Write};

use futures_util::FutureExt;

use crate::job::Job;
use crate::process;

pub type BoxError = Box<dyn Error + Send + Sync>;

/// Messages above all that are sent here: the defaults of some libraries are lower.
pub const MESSAGE_MOST: usize = 16 * 1024 * 1024;

/// Does the job, until the process is ended.
///
/// # Errors
///
/// The library's.
pub fn run(job: &Job) -> Result<(), BoxError> {
    let cores = if job.workers > 1 { vec![process::UNDER_TEST, process::LOAD] } else { vec![process::UNDER_TEST] };
    process::pin(&cores)?;
    process::raise_open_files(20_000)?;
    match job.runtime.as_str() {
        "tokio" => tokio(job),
        "async-std" => async_std::task::block_on(async {
            match job.library.as_str() {
                "parley" => parley::run::<parley_async_std::AsyncStd>(job).await,
                _ => rivals_async_std::run(job).await,
            }
        }),
        other => Err(format!("no runtime is called {other}").into()),
    }
}

fn tokio(job: &Job) -> Result<(), BoxError> {
    let runtime = match job.workers {
        0 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        workers => tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?,
    };
    runtime.block_on(async {
        match job.library.as_str() {
            "parley" => parley::run::<parley_tokio::Tokio>(job).await,
            "raw-tcp" => raw::run(job).await,
            _ => peers::run(job).await,
        }
    })
}

/// Says where a server listens.
fn listening(port: u16) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{port}")?;
    out.flush()
}

/// What a library cannot be asked for.
fn unknown(job: &Job) -> BoxError {
    format!("{} on {} has no {:?}", job.library, job.runtime, job.role).into()
}

/// A connection's task. Its end is an error to most libraries: the load drops its connections when it has got what it wanted. What goes
/// wrong before shows in the load, and here with `PARLEY_BENCH_ERRORS` in the environment.
///
/// It adds nothing to the task: an async function would hold its argument twice, and the memory of a connection is measured.
fn told<E: Into<BoxError>>(task: impl Future<Output = Result<(), E>>) -> impl Future<Output = ()> {
    task.map(|result| {
        if let Err(error) = result
            && std::env::var_os("PARLEY_BENCH_ERRORS").is_some()
        {
            eprintln!("{}", error.into());
        }
    })
}
