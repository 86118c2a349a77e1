//! What Parley has set itself: for a row, how much of another column's figure its own may be.

/// The column that a bound is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Against {
    /// The cheapest other library of the row, in the same run.
    BestPeer,
    /// One column, wherever it stands: "raw-tcp".
    Column(&'static str),
}

/// A bound on `ours / theirs`.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub group: &'static str,
    pub row: &'static str,
    /// The column of ours that it is for.
    pub ours: &'static str,
    pub against: Against,
    pub at_most: f64,
}

/// A bound on the column "parley", against the best peer.
const fn peer(group: &'static str, row: &'static str, at_most: f64) -> Target {
    Target { group, row, ours: "parley", against: Against::BestPeer, at_most }
}

/// A bound on another column of ours, against the best peer.
const fn column(ours: &'static str, group: &'static str, row: &'static str, at_most: f64) -> Target {
    Target { group, row, ours, against: Against::BestPeer, at_most }
}

/// A bound on the column "parley", against one that is no peer.
const fn reference(group: &'static str, row: &'static str, column: &'static str, at_most: f64) -> Target {
    Target { group, row, ours: "parley", against: Against::Column(column), at_most }
}

pub const TARGETS: &[Target] = &[
    peer("receive", "server, text 8-125 B", 0.40),
    peer("receive", "server, text 1 KiB ASCII", 0.85),
    peer("receive", "server, text 4 KiB in 8 fragments", 0.75),
    peer("receive", "server, binary 64 KiB", 1.0),
    peer("receive", "server, text 64 KiB mixed", 1.0),
    peer("receive", "server, binary 1 MiB", 1.0),
    peer("receive", "client, JSON 100-200 B", 0.55),
    peer("receive", "client, binary 64 KiB", 1.0),
    peer("send", "server, 128 B, flush by 64", 0.5),
    peer("send", "client, 128 B, flush by 64", 0.5),
    peer("send", "server, 64 KiB", 1.0),
    peer("send", "client, 64 KiB", 1.0),
    peer("send", "client, 1 MiB", 1.0),
    reference("echo server, tokio", "depth 64, 128 B", "raw-tcp", 1.09),
    reference("echo server, tokio", "depth 512, 128 B", "raw-tcp", 1.27),
    column("parley-callbacks", "echo server, tokio", "depth 512, 128 B", 0.65),
    reference("echo server, tokio", "100 connections, depth 8, 128 B", "raw-tcp", 1.02),
    peer("echo server, tokio", "depth 4, 64 KiB", 1.0),
    peer("echo server, tokio", "depth 2, 1 MiB", 1.0),
    column("parley-corked", "echo server, tokio", "one send().await a message, depth 64, 128 B", 0.1),
    peer("client, tokio", "receive JSON 100-200 B", 0.42),
    column("parley-callbacks", "client, tokio", "receive JSON 100-200 B", 0.45),
    peer("client, tokio", "receive 64 KiB", 1.0),
    peer("client, tokio", "send 128 B, flush by 64", 0.92),
    column("parley-handle-all", "client, tokio", "send 128 B, flush by 64", 1.10),
    peer("client, tokio", "send 64 KiB", 1.0),
    peer("echo server, async-std", "depth 64, 128 B", 0.6),
    peer("echo server, async-std", "depth 512, 128 B", 0.6),
    peer("echo server, async-std", "100 connections, depth 8, 128 B", 0.6),
    peer("echo server, async-std", "depth 4, 64 KiB", 0.6),
    peer("client, async-std", "receive JSON 100-200 B", 0.35),
    peer("client, async-std", "receive 64 KiB", 0.6),
    peer("client, async-std", "send 128 B, flush by 64", 0.6),
    peer("idle connection, tokio", "resident, 10,000 after a message each", 0.2),
    column("parley-client-callbacks", "idle connection, tokio", "resident, 10,000 after a message each", 0.2),
];

/// The bounds of a row.
pub fn of(group: &str, row: &str) -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().filter(move |target| target.group == group && target.row == row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bound_is_given_twice() {
        for (number, target) in TARGETS.iter().enumerate() {
            let same = |other: &&Target| {
                (other.group, other.row, other.ours, other.against)
                    == (target.group, target.row, target.ours, target.against)
            };
            assert!(!TARGETS[number + 1..].iter().any(|other| same(&other)), "{target:?}");
        }
    }
}
