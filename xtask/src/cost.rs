//! What a peer sends costs work in proportion to its bytes, however they are cut: twice as many may cost at most 2.5 times as
//! many instructions.
//!
//! The program is `tests/benches/cost.rs`. Each row is counted with no unit of its subject, with N, and with 2N; what it costs to begin
//! is taken off both.

use crate::Outcome;
use crate::args::Args;
use crate::callgrind;
use crate::process;

/// cost(2n) < 2.5 cost(n), in tenths.
const BOUND_TENTHS: u64 = 25;

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let program = process::build(&["build", "--release", "--package", "parley-tests", "--bench", "cost"], "cost")?;
    let rows = process::output(std::process::Command::new(&program).arg("list"))?;
    println!("instructions for n units and for 2n of what a peer sends, beyond those to begin");
    println!("  {:32} {:>8} {:>12} {:>12} {:>6}", "row", "n", "n", "2n", "ratio");
    let mut over = Vec::new();
    let mut count = 0;
    for line in rows.lines() {
        let (row, size) = line.split_once(' ').ok_or_else(|| format!("no size in `{line}`"))?;
        let size: u64 = size.parse().map_err(|_| format!("no number in `{line}`"))?;
        let counted = |units: u64| callgrind::count(&program, &["run", row, &units.to_string()]);
        let begin = counted(0)?;
        let once = counted(size)?.saturating_sub(begin);
        let twice = counted(2 * size)?.saturating_sub(begin);
        let steep = is_steep(once, twice);
        let ratio = twice as f64 / once.max(1) as f64;
        println!("  {row:32} {size:>8} {once:>12} {twice:>12} {ratio:>6.2}{}", if steep { "  over" } else { "" });
        if steep {
            over.push(row);
        }
        count += 1;
    }
    if count == 0 {
        return Err("the program has no rows".to_owned());
    }
    if over.is_empty() { Ok(()) } else { Err(format!("more than linear: {}", over.join(", "))) }
}

/// A row that costs nothing measures nothing, and fails as well.
fn is_steep(once: u64, twice: u64) -> bool {
    once == 0 || twice <= once || twice * 10 >= once * BOUND_TENTHS
}

#[cfg(test)]
mod tests {
    use super::is_steep;

    #[test]
    fn twice_as_much_may_cost_less_than_two_and_a_half_times_as_much() {
        assert!(!is_steep(100, 249));
        assert!(is_steep(100, 250));
        assert!(is_steep(0, 0));
        assert!(is_steep(100, 100));
    }
}
