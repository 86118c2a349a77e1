//! What the bench programs have in common: how they measure, and what becomes of the figures.
//!
//! | file | job |
//! |---|---|
//! | `run.rs` | [`Run`]: the figures of one program, with the machine and the versions; a JSON file |
//! | `rounds.rs` | [`compete`]: the libraries of one row in turn, A B B A |
//! | `targets.rs` | what Parley has set itself, a bound a row |
//! | `report.rs` | the tables and the verdicts |
//! | `chart.rs` | the chart of the README |
//!
//! All figures are costs: the smaller is the better.
//!
//! `cargo xtask bench` asks of a program that it takes `--out FILE`, `--quick`, and for the comparison without link-time optimisation
//! `--list` (the rows, one a line), `--row ROW`, `--half` (of the rounds) and `--append` (to the file's values).

pub mod chart;
pub mod report;
#[cfg(feature = "bench")]
pub mod rounds;
pub mod run;
pub mod targets;

pub use report::Report;
#[cfg(feature = "bench")]
pub use rounds::{Contender, Effort, compete};
pub use run::{Run, Sample};

/// Whether a column is one of Parley's own.
#[must_use]
pub fn is_ours(library: &str) -> bool {
    library.starts_with("parley")
}

/// Whether a column is no WebSocket library, but what there is to compare with: a copy, or an echo without framing.
#[must_use]
pub fn is_reference(library: &str) -> bool {
    ["memcpy", "raw-tcp", "simdutf8", "std"].contains(&library)
}

/// So many messages in batches of at most so many. (To ask of each message whether it is the last of its batch takes a division,
/// which would be part of every library's figure.)
pub fn batches(messages: u64, batch: u64) -> impl Iterator<Item = u64> {
    let rest = messages % batch;
    std::iter::repeat_n(batch, (messages / batch) as usize).chain((rest > 0).then_some(rest))
}

/// The middle one of the values; of an even number, the mean of the two in the middle. `None` if there is none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => Some(sorted[middle]),
        _ => Some((sorted.get(middle.checked_sub(1)?)? + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_full_but_for_the_last() {
        assert_eq!(batches(7, 3).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(batches(6, 3).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(batches(0, 3).count(), 0);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    }
}
