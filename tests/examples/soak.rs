//! The long run of `parley_tests::soak`, on tokio and async-std: `soak --seconds N [--connections N] [--round SECONDS] [--seed N]`.
//! Called by `cargo xtask soak`.

use std::process::ExitCode;
use std::time::Duration;

use parley_async_std::AsyncStd;
use parley_tests::soak::{self, Options};
use parley_tokio::Tokio;

/// Descriptors a client needs: its socket, the proxy's two, the server's; and a second connection may be ending meanwhile.
const FILES_A_CLIENT: u64 = 8;

fn main() -> ExitCode {
    let outcome = arguments().and_then(|options| {
        raise_limit(options.connections as u64 * FILES_A_CLIENT + 256)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let report = runtime.and_then(|runtime| runtime.block_on(soak::run::<Tokio, AsyncStd>(options)));
        report.map_err(|error| error.to_string())
    });
    match outcome {
        Ok(report) => {
            println!("{report}");
            if report.passed() {
                return ExitCode::SUCCESS;
            }
        }
        Err(message) => eprintln!("soak: {message}"),
    }
    ExitCode::FAILURE
}

/// More open files than many systems allow at first.
fn raise_limit(files: u64) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    if maximum.is_some_and(|maximum| maximum < files) {
        return Err(format!("{files} open files are needed, and {maximum:?} allowed: use fewer --connections"));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum }).map_err(|error| error.to_string())
}

fn arguments() -> Result<Options, String> {
    let [mut seconds, mut connections, mut round, mut seed] = [60, 1000, 30, 1];
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let place = match &*word {
            "--seconds" => &mut seconds,
            "--connections" => &mut connections,
            "--round" => &mut round,
            "--seed" => &mut seed,
            _ => return Err(format!("`{word}` is unknown here")),
        };
        let text = words.next().unwrap_or_default();
        *place = text.parse().map_err(|_| format!("{word} needs a whole number, not `{text}`"))?;
    }
    Ok(Options {
        length: Duration::from_secs(seconds),
        round: Duration::from_secs(round),
        connections: usize::try_from(connections).map_err(|_| "too many connections")?.max(1),
        seed,
    })
}
