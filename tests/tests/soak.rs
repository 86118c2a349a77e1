//! A short run of what `cargo xtask soak` does for long.

use std::time::Duration;

use parley_async_std::AsyncStd;
use parley_tests::peers::within_deadline;
use parley_tests::soak::{self, Options};
use parley_tokio::Tokio;

/// The one test of its process: it counts the process's file descriptors.
#[test]
fn a_short_run_loses_doubles_and_leaks_nothing() {
    within_deadline(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let two = Duration::from_secs(2);
        let options = Options { length: 2 * two, round: two, connections: 40, seed: 1 };
        let report = runtime.block_on(soak::run::<Tokio, AsyncStd>(options)).unwrap();
        assert!(report.passed(), "{report}\n{}", report.violations().join("\n"));
        assert!(report.opened() > 40 && report.messages() > 40, "{report}");
    });
}
