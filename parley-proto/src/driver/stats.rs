//! Numbers of a client's life, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use crate::connection::Rtt;
use crate::session::{Counters, Losses};

/// A client's numbers since its start. The driver brings them up to date whenever it comes to rest or yields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Attempts to connect that have begun.
    pub attempts: u64,
    /// Messages, pings and pongs that were delivered to callbacks.
    pub frames_received: u64,
    /// Messages, pings and pongs of the application whose encoding has begun.
    pub frames_sent: u64,
    /// Bytes that the transport has delivered, handshakes and headers included; under TLS those inside it.
    pub bytes_received: u64,
    /// Bytes that the transport has taken, likewise.
    pub bytes_sent: u64,
    /// Bytes that handles have queued and that have not begun to be sent, with some 32 for each frame.
    pub queued: u64,
    /// Frames that were accepted, by `feed_frame`, `try_send_frame` or as a push, and then not sent.
    pub dropped: u64,
    /// Pushes that were refused: while not connected, or for their size.
    pub refused: u64,
    /// Round-trip times of keepalive on the present connection; `None` before its first ping was answered.
    pub rtt: Option<Rtt>,
}

/// No round-trip time yet.
const NONE: u64 = u64::MAX;

/// What the driver writes and handles read, without a lock; what was lost, which is little, goes another way.
pub(super) struct Published([AtomicU64; 8]);

impl Default for Published {
    fn default() -> Self {
        let published = Self(Default::default());
        published.store(&Counters::default(), 0, 0, None);
        published
    }
}

impl Published {
    pub(super) fn store(&self, counters: &Counters, bytes_received: u64, bytes_sent: u64, rtt: Option<Rtt>) {
        let Counters { attempts, frames_received, frames_sent, .. } = *counters;
        let [last, smoothed, min] = match rtt {
            None => [NONE; 3],
            Some(rtt) => {
                [rtt.last, rtt.smoothed, rtt.min].map(|time| u64::try_from(time.as_nanos()).unwrap_or(NONE - 1))
            }
        };
        let numbers = [attempts, frames_received, frames_sent, bytes_received, bytes_sent, last, smoothed, min];
        for (place, number) in self.0.iter().zip(numbers) {
            place.store(number, Ordering::Relaxed);
        }
    }

    pub(super) fn load(&self, queued: usize, losses: Losses) -> Stats {
        let [attempts, frames_received, frames_sent, bytes_received, bytes_sent, last, smoothed, min] =
            std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed));
        let rtt = (last != NONE).then(|| {
            let [last, smoothed, min] = [last, smoothed, min].map(Duration::from_nanos);
            Rtt { last, smoothed, min }
        });
        let (queued, Losses { dropped, refused }) = (queued as u64, losses);
        Stats { attempts, frames_received, frames_sent, bytes_received, bytes_sent, queued, dropped, refused, rtt }
    }
}
