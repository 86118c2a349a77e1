//! The timers of a connection: one enum, one table.

use std::time::Instant;

/// What a deadline is for. The name of the timer that is due finds a loop that spins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timer {
    /// The opening handshake has to be complete.
    Handshake,
    /// A closing handshake has to be complete, or an error has to take effect.
    Close,
    /// A whole attempt to connect has to be complete.
    Connect,
    /// One of several addresses has had its share of the time.
    Address,
    /// A close or stop that the application asked for has to be complete, with all that was queued before it.
    Ask,
    /// `terminate` has to be done.
    Terminate,
}

/// The timers of one connection. A later kind (keepalive, write stall) is one more field here and in [`Self::all`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Table {
    pub(crate) handshake: Option<Instant>,
    pub(crate) close: Option<Instant>,
}

impl Table {
    fn all(self) -> [(Option<Instant>, Timer); 2] {
        [(self.handshake, Timer::Handshake), (self.close, Timer::Close)]
    }

    /// The earliest deadline.
    pub(crate) fn next(self) -> Option<(Instant, Timer)> {
        earliest(self.all())
    }

    /// Disarms one timer that is due, and says which.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = self.next()?;
        if at > now {
            return None;
        }
        match timer {
            Timer::Handshake => self.handshake = None,
            _ => self.close = None,
        }
        Some(timer)
    }
}

/// The earliest of several deadlines.
pub(crate) fn earliest<const N: usize>(deadlines: [(Option<Instant>, Timer); N]) -> Option<(Instant, Timer)> {
    deadlines.into_iter().filter_map(|(at, timer)| at.map(|at| (at, timer))).min_by_key(|&(at, _)| at)
}
