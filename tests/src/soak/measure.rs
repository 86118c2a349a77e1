//! What the process holds: resident memory, file descriptors, threads. From `/proc`; elsewhere nothing is measured, nor judged.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// Memory is flat if the median of the last quarter is not above that of the second by more than a tenth and this.
const SLACK: u64 = 8 * 1024;
/// Samples from which on quarters mean something.
const ENOUGH: usize = 8;
/// For the last sockets to be closed.
const SETTLE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tide {
    /// No connection, no client, no server.
    Low,
    /// In the middle of a round.
    High,
}

/// One look at the process.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    at: Duration,
    tide: Tide,
    /// Connections at the proxy.
    connections: usize,
    /// KiB.
    rss: Option<u64>,
    files: Option<usize>,
    threads: Option<u64>,
}

impl Sample {
    pub(super) fn take(started: Instant, tide: Tide, connections: usize) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Self {
            at: started.elapsed(),
            tide,
            connections,
            rss: number("VmRSS:"),
            files: files(),
            threads: number("Threads:"),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, tide, connections, rss, files, threads } = self;
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        write!(
            f,
            "{:>5} s  {:4}  {connections:>6} connections  {:>7} KiB  {:>6} descriptors  {:>3} threads",
            at.as_secs(),
            if *tide == Tide::Low { "low" } else { "high" },
            number(*rss),
            number(files.map(|files| files as u64)),
            number(*threads)
        )
    }
}

/// Open file descriptors, that of the look itself included.
pub(super) fn files() -> Option<usize> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}

/// How many there are once all is closed that is going to be.
pub(super) async fn files_at_rest() -> Option<usize> {
    let until = Instant::now() + SETTLE / 5;
    let mut fewest = files();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fewest = fewest.min(files());
    }
    fewest
}

/// Whether there are so many, now or soon: what a task held is closed when it is dropped, which nobody waits for.
pub(super) async fn files_are(base: Option<usize>) -> bool {
    let until = Instant::now() + SETTLE;
    while files() != base {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}

/// At which tides memory grows, and how.
pub(super) fn growth(samples: &[Sample]) -> Vec<(Tide, String)> {
    let at = |tide: Tide| {
        let rss: Vec<_> = samples.iter().filter(|sample| sample.tide == tide).filter_map(|sample| sample.rss).collect();
        grows(&rss).map(|what| (tide, what))
    };
    [at(Tide::Low), at(Tide::High)].into_iter().flatten().collect()
}

fn grows(rss: &[u64]) -> Option<String> {
    if rss.len() < ENOUGH {
        return None;
    }
    let quarter = rss.len() / 4;
    let second = median(&rss[quarter..2 * quarter]);
    let last = median(&rss[rss.len() - quarter..]);
    let most = second + second / 10 + SLACK;
    (last > most).then(|| format!("a median of {last} KiB in the last quarter, {second} KiB in the second"))
}

fn median(rss: &[u64]) -> u64 {
    let mut rss = rss.to_vec();
    rss.sort_unstable();
    rss[rss.len() / 2]
}

/// Ten looks of each kind, spread over the run, and what is made of them.
pub(super) fn print(f: &mut fmt::Formatter<'_>, samples: &[Sample]) -> fmt::Result {
    for tide in [Tide::Low, Tide::High] {
        let samples: Vec<_> = samples.iter().filter(|sample| sample.tide == tide).collect();
        writeln!(f, "  {} looks at {tide:?} tide", samples.len())?;
        let shown = samples.len().min(10);
        for number in 0..shown {
            writeln!(f, "    {}", samples[number * (samples.len() - 1) / shown.max(2).saturating_sub(1)])?;
        }
        if samples.len() < ENOUGH {
            writeln!(f, "    too few to say whether memory grows")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_comes_and_goes_is_flat() {
        let rss: Vec<_> = (0..40).map(|at| 100_000 + 3_000 * (at % 5)).collect();
        assert_eq!(grows(&rss), None);
    }

    #[test]
    fn memory_that_settles_at_first_is_flat() {
        let rss: Vec<_> = (0..40).map(|at| 100_000 - 60_000 / (at + 1)).collect();
        assert_eq!(grows(&rss), None);
    }

    #[test]
    fn memory_that_grows_is_seen() {
        let rss: Vec<_> = (0..40).map(|at| 100_000 + 1_000 * at).collect();
        assert!(grows(&rss).is_some());
    }

    #[test]
    fn descriptors_are_counted() {
        let Some(before) = files() else { return }; // no /proc here
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // Other tests open and close some too: this one's stays.
        assert!(fs::read_dir("/proc/self/fd").unwrap().count() > 0 && before > 0);
        drop(held);
    }
}
