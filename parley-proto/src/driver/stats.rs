//! Numbers of a client's life, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::Counters;

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
}

/// What the driver writes and handles read, without a lock.
#[derive(Default)]
pub(super) struct Published([AtomicU64; 7]);

impl Published {
    pub(super) fn store(&self, counters: &Counters, bytes_received: u64, bytes_sent: u64) {
        let Counters { attempts, frames_received, frames_sent, dropped, refused } = *counters;
        let numbers = [attempts, frames_received, frames_sent, bytes_received, bytes_sent, dropped, refused];
        for (place, number) in self.0.iter().zip(numbers) {
            place.store(number, Ordering::Relaxed);
        }
    }

    pub(super) fn load(&self, queued: usize) -> Stats {
        let [attempts, frames_received, frames_sent, bytes_received, bytes_sent, dropped, refused] =
            std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed));
        let queued = queued as u64;
        Stats { attempts, frames_received, frames_sent, bytes_received, bytes_sent, queued, dropped, refused }
    }
}
