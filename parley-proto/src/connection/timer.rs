//! The timers of a connection: one enum, one table.

use std::time::{Duration, Instant};

/// What a deadline is for. The name of the timer that is due finds a loop that spins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timer {
    /// The opening handshake has to be complete.
    Handshake,
    /// A Close or an error that stands behind undelivered frames takes effect all the same.
    Effect,
    /// A closing handshake has to be complete.
    Close,
    /// The peer is silent: it is to be pinged, or has not answered.
    Keepalive,
    /// The peer has to take some of the output that waits.
    WriteStall,
    /// A whole attempt to connect has to be complete.
    Connect,
    /// The next attempt is to begin.
    Retry,
    /// An info is to be delivered.
    Info,
    /// One of several addresses has had its share of the time.
    Address,
    /// A close or stop that the application asked for has to be complete, with all that was queued before it.
    Ask,
    /// `terminate` has to be done.
    Terminate,
}

/// The timers of one connection that are armed: in memory of their own, for at rest none is. [`Timer::Keepalive`] and
/// [`Timer::WriteStall`] never are: input and output move them all the time, so the connection works them out whenever it is
/// asked.
#[derive(Debug, Default)]
pub(crate) struct Table(Option<Box<Armed>>);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Armed {
    pub(crate) handshake: Option<Instant>,
    pub(crate) effect: Option<Instant>,
    pub(crate) close: Option<Instant>,
}

impl Table {
    /// With the deadline of a handshake.
    pub(crate) fn handshake(at: Instant) -> Self {
        Self(Some(Box::new(Armed { handshake: Some(at), ..Armed::default() })))
    }

    /// To arm one.
    pub(crate) fn armed(&mut self) -> &mut Armed {
        self.0.get_or_insert_default()
    }

    /// Whether a closing handshake has to be complete by some time.
    pub(crate) fn is_closing(&self) -> bool {
        self.0.as_ref().is_some_and(|armed| armed.close.is_some())
    }

    /// The earliest deadline, among them that of the timer which watches the peer.
    pub(crate) fn next(&self, watch: Option<(Instant, Timer)>) -> Option<(Instant, Timer)> {
        let Some(Armed { handshake, effect, close }) = self.0.as_deref() else { return watch };
        earliest([
            handshake.map(|at| (at, Timer::Handshake)),
            effect.map(|at| (at, Timer::Effect)),
            close.map(|at| (at, Timer::Close)),
            watch,
        ])
    }

    /// Disarms a timer: it has come, or is needed no more.
    pub(crate) fn disarm(&mut self, timer: Timer) {
        let Some(armed) = &mut self.0 else { return };
        match timer {
            Timer::Handshake => armed.handshake = None,
            Timer::Effect => armed.effect = None,
            Timer::Close => armed.close = None,
            _ => {}
        }
        if matches!(**armed, Armed { handshake: None, effect: None, close: None }) {
            self.0 = None;
        }
    }
}

/// The earliest of several deadlines.
pub(crate) fn earliest<const N: usize>(deadlines: [Option<(Instant, Timer)>; N]) -> Option<(Instant, Timer)> {
    deadlines.into_iter().flatten().min_by_key(|&(at, _)| at)
}

/// `now + timeout`, however long that is: a timeout beyond what the clock can hold is a century.
pub(crate) fn deadline(now: Instant, timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now.checked_add(timeout).or_else(|| now.checked_add(CENTURY)).unwrap_or(now)
}
