//! What was planned for one client: drawn once, before its world begins.

use std::time::Duration;

use parley_proto::session::{Jitter, Reconnect};

use crate::dice::Dice;
use crate::sim::Link;

/// How the network fails a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Eof,
    Reset,
    /// Nothing comes any more, and what is written goes nowhere.
    Silence,
    /// Writes fail; reads do not.
    Writes,
    /// As TLS tells of an end without `close_notify`.
    Unexpected,
}

impl Cut {
    /// Where, in bytes read or written, and how.
    pub(super) fn draw(dice: &mut Dice) -> (usize, Self) {
        let at = dice.pick(&[50, 200, 600, 3000, 20_000]);
        let how = [Self::Eof, Self::Reset, Self::Silence, Self::Writes, Self::Unexpected];
        (dice.below(at), dice.pick(&how))
    }
}

/// Who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// The library's server role.
    Real,
    /// A script that need not keep to the protocol.
    Raw,
    /// Nobody.
    Absent,
}

/// How the client comes back by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) base: Duration,
    pub(super) max: Duration,
    pub(super) first: Option<Duration>,
    pub(super) most: Option<u32>,
    pub(super) full: bool,
    pub(super) uptime: Duration,
}

impl Policy {
    fn draw(dice: &mut Dice) -> Self {
        let millis = Duration::from_millis;
        let base = dice.pick(&[20, 300, 1000]);
        Self {
            base: millis(base),
            max: millis(dice.pick(&[base, 4 * base, 30_000])),
            first: dice.chance(30).then(|| millis(dice.pick(&[0, 5, 2000]))),
            most: dice.chance(40).then(|| dice.pick(&[0, 1, 3])),
            full: dice.chance(30),
            uptime: millis(dice.pick(&[0, 500, 5000])),
        }
    }

    /// The options' default: what `Retry::Reconnect` goes by where reconnection is off.
    pub(super) const OFF: Self = Self {
        base: Duration::from_secs(1),
        max: Duration::from_secs(30),
        first: None,
        most: None,
        full: false,
        uptime: Duration::from_secs(5),
    };

    pub(super) fn options(self) -> Reconnect {
        let reconnect = Reconnect::default().base(self.base).max(self.max).min_uptime(self.uptime);
        let reconnect = reconnect.jitter(if self.full { Jitter::Full } else { Jitter::Half });
        let reconnect = self.first.into_iter().fold(reconnect, Reconnect::first_delay);
        self.most.into_iter().fold(reconnect, Reconnect::max_retries)
    }

    /// Rule 4.16: the shortest and the longest delay before retry `n`.
    pub(super) fn bounds(self, n: u32) -> (Duration, Duration) {
        let most = match self.first {
            Some(first) if n == 0 => first,
            _ => (0..n).fold(self.base, |delay, _| (delay * 2).min(self.max)).min(self.max),
        };
        (if self.full { Duration::ZERO } else { most / 2 }, most)
    }
}

/// What was planned.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) link: Link,
    /// Bytes that one read or write of the client moves at most.
    pub(super) chunk: usize,
    /// How often a read or write is not ready, in per cent.
    pub(super) pending: usize,
    /// For how long then, in milliseconds; 0: it is ready when asked again.
    pub(super) delay: usize,
    /// After so many bytes read (or written) of the first connection.
    pub(super) cut: Option<(usize, Cut)>,
    /// How often a later one is cut, in per cent.
    pub(super) rough: usize,
    pub(super) peer: Peer,
    /// Nobody listens for some of the time.
    pub(super) outages: bool,
    /// How often the real server refuses the upgrade, in per cent.
    pub(super) refuses: usize,
    pub(super) policy: Option<Policy>,
    /// So often `handle_disconnect` forces an attempt.
    pub(super) forces: usize,
    /// How often a callback is slow, pushes, closes and so on, in per cent.
    pub(super) lively: usize,
    /// How often a callback fails, panics, hangs, in per cent.
    pub(super) wicked: usize,
    pub(super) read_ahead: usize,
    pub(super) send_queue: usize,
    pub(super) info_queue: usize,
    pub(super) senders: usize,
    pub(super) ops: usize,
    pub(super) big: usize,
    /// Everybody sends as much as he can, and the peer is slow.
    pub(super) pressed: bool,
    /// When it is stopped at the latest.
    pub(super) horizon: Duration,
    pub(super) abort: bool,
    pub(super) named: bool,
    pub(super) jumps: bool,
    pub(super) connect_timeout: Duration,
    /// The client's: the interval, and the wait for an answer.
    pub(super) keepalive: Option<(Duration, Duration)>,
    /// The real server sends pings of its own so often.
    pub(super) server_keepalive: Option<Duration>,
    pub(super) write_timeout: Duration,
    /// The end of the client's direction fails.
    pub(super) bad_shutdown: bool,
    /// How often a peer pings instead of what it would send, in per cent.
    pub(super) pings: usize,
    /// How often the real server stops reading for very long, in per cent.
    pub(super) deaf: usize,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let calm = dice.chance(25);
        let brisk = dice.chance(20);
        let chunk = dice.pick(&[1, 2, 7, 100, 5000, usize::MAX, usize::MAX, usize::MAX]);
        let chunk = if brisk { usize::MAX } else { chunk };
        let mut link = Link::default();
        link.capacity = dice.pick(&[64, 1000, 16 * 1024, 64 * 1024]);
        link.chunk = dice.pick(&[1, 50, usize::MAX, usize::MAX]);
        if brisk {
            link = Link::default();
        }
        link.staged = dice.chance(30);
        let peer = match dice.below(100) {
            _ if calm => Peer::Real,
            0..65 => Peer::Real,
            65..95 => Peer::Raw,
            _ => Peer::Absent,
        };
        let cut = Cut::draw(dice);
        let comes_back = dice.chance(50);
        let plan = Self {
            link,
            chunk,
            pending: dice.pick(&[0, 10, 50]),
            delay: if brisk {
                20
            } else if chunk < 100 {
                dice.pick(&[0, 0, 5])
            } else {
                dice.pick(&[0, 0, 20, 300])
            },
            cut: (!calm && dice.chance(35)).then_some(cut),
            rough: if calm { 0 } else { dice.pick(&[0, 30, 80]) },
            peer,
            outages: comes_back && !calm && dice.chance(30),
            refuses: if calm { 0 } else { dice.pick(&[0, 0, 10, 60]) },
            policy: (comes_back && dice.chance(80)).then(|| Policy::draw(dice)),
            forces: if comes_back { dice.pick(&[0, 2, 6]) } else { 0 },
            lively: dice.pick(&[0, 10, 40]),
            wicked: if calm || dice.chance(60) { 0 } else { dice.pick(&[1, 5]) },
            read_ahead: dice.pick(&[256, 4096, 256 * 1024]),
            send_queue: dice.pick(&[200, 4096, 1024 * 1024]),
            info_queue: dice.pick(&[1, 5, 1024]),
            senders: dice.below(4),
            ops: dice.pick(&[3, 10, 30]),
            big: if chunk < 100 || link.chunk < 50 { 300 } else { dice.pick(&[60, 300, 5000, 70_000]) },
            horizon: dice.pick(&[Duration::ZERO, Duration::from_secs(2)])
                + dice.millis(if comes_back { 25_000 } else { 10_000 }),
            abort: !calm && dice.chance(4),
            named: dice.chance(20),
            jumps: !calm && dice.chance(15),
            connect_timeout: dice.pick(&[Duration::from_secs(10), Duration::from_secs(1)]),
            keepalive: {
                let millis = Duration::from_millis;
                let short = Some((millis(300), millis(2000)));
                dice.pick(&[None, short, short, Some((millis(20_000), millis(20_000)))])
            },
            server_keepalive: dice.chance(30).then(|| dice.millis(1000)),
            write_timeout: dice.pick(&[Duration::from_secs(30), Duration::from_secs(1)]),
            bad_shutdown: dice.chance(10),
            pings: dice.pick(&[0, 10, 90]),
            deaf: if calm { 0 } else { dice.pick(&[0, 0, 50]) },
            pressed: false,
        };
        if dice.chance(12) { plan.press(dice) } else { plan }
    }

    /// The same under pressure: queues are full, on a network that does move.
    fn press(self, dice: &mut Dice) -> Self {
        Self {
            pressed: true,
            link: self.link.capacity(16 * 1024).chunk(usize::MAX),
            chunk: usize::MAX,
            delay: 20,
            lively: dice.pick(&[10, 40]),
            wicked: 0,
            senders: 3,
            ops: 80,
            big: dice.pick(&[300, 20_000]),
            send_queue: dice.pick(&[4096, 100_000, 1024 * 1024]),
            read_ahead: dice.pick(&[4096, 256 * 1024]),
            info_queue: dice.pick(&[1, 5, 20]),
            ..self
        }
    }

    /// Whether the network does what it can.
    pub(super) fn is_quick(&self) -> bool {
        let quick = self.chunk >= 1000 && self.link.chunk >= 1000 && self.delay <= 20;
        quick && self.link.capacity >= 16 * 1024 && !self.jumps
    }
}
