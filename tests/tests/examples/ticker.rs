//! The example `ticker`: it notices each way in which its feed fails, and has the prices again.

use crate::{masked, printed_by};

const TRANSCRIPT: &str = include_str!("../../../parley-tokio/examples/ticker/transcript.txt");

/// What has to come in this order, whatever lies between: how many ticks a snapshot makes up for depends on the moment.
const STORY: [&str; 22] = [
    "client  is connected, and subscribes",
    "client  snapshot 100: EUR/USD 1.0840, GBP/USD 1.2710",
    "client  tick 101: EUR/USD 1.0839",
    "client  tick 102: GBP/USD 1.2711",
    "client  tick 103: EUR/USD 1.0842",
    "client  gap before tick 106: asks for a snapshot, since 2 are missing",
    "client  snapshot 1",
    "feed    drops the connection",
    "client  has lost its connection: ",
    "client  is connected, and subscribes",
    "client  snapshot 115: ",
    "client  tick 116: ",
    "client  no ticks, though the feed answers pings in ",
    "client  has lost its connection: disconnected by a callback with 1008 (no ticks)",
    "client  is connected, and subscribes",
    "client  snapshot 124: ",
    "client  has lost its connection: keepalive timeout",
    "client  is connected, and subscribes",
    "client  snapshot 133: ",
    "client  the market has closed",
    "main    the last prices are EUR/USD 1.0827, GBP/USD 1.2722",
    "main    connections 4, ",
];

fn tells_the_story(printed: &str) {
    let mut lines = masked(printed).into_iter();
    for wanted in STORY {
        assert!(lines.any(|line| line.starts_with(wanted)), "no {wanted:?} in its place in\n{printed}");
    }
}

#[test]
fn the_committed_transcript_tells_the_story() {
    tells_the_story(TRANSCRIPT);
}

#[tokio::test]
async fn each_failure_of_the_feed_is_noticed_and_mended() {
    let printed = printed_by("ticker").await;
    tells_the_story(&printed);
    // No price is shown that a missed tick may have changed: a tick follows on the tick or the snapshot before it.
    let mut sequence = 0;
    for line in masked(&printed) {
        let Some((kind, number)) =
            line.strip_prefix("client  ").and_then(|rest| rest.split_once(": ")?.0.split_once(' '))
        else {
            continue;
        };
        match (kind, number.parse::<u64>()) {
            ("snapshot", Ok(number)) => sequence = number,
            ("tick", Ok(number)) if !line.contains("ignored") => {
                sequence += 1;
                assert_eq!(number, sequence, "\n{printed}");
            }
            _ => {}
        }
    }
    assert_eq!(sequence, 137, "\n{printed}");
}
