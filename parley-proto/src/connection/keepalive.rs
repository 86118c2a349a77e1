//! Keeping a connection alive, and finding out that it is not: pings of our own (RFC 6455, section 5.5.2), the wait for
//! any sign of life, and the round-trip times that their pongs give.
//!
//! ```text
//!          no byte for `interval`: ping         no byte for `timeout`
//!  Quiet ────────────────────────────▶ Asked ─────────────────────────▶ the connection is lost
//!    ▲  ▲         any byte               │
//!    │  └────────────────────────────────┘
//!    │ reading goes on: afresh; a look at the clock: from then on
//!  Untimed ◀── received frames wait for the application up to their bound; bytes came, and nobody looked at the clock
//! ```
//!
//! While output is blocked there is neither ping nor verdict: a ping could not leave, and the answer to one that is
//! behind what the peer is still taking may be slow. The write stall decides then. Once output has drained, a ping that
//! is due leaves at once, and the wait for an answer to an earlier one starts afresh.

use std::time::{Duration, Instant};

use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};

use super::deadline;
use crate::LimitError;

/// When to ping a peer that says nothing, and how long to wait for it then.
///
/// A connection that was cut without a word looks like a silent one. So after `interval` without a byte from the peer
/// a ping asks for one, and when nothing at all has come within `timeout` of it, the connection is lost. Any byte is a
/// sign of life, be it in the middle of a message. Intermediaries that drop idle connections after a minute or so
/// are kept content as well. Default: 20 s and 20 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keepalive {
    interval: Duration,
    timeout: Duration,
}

impl Keepalive {
    /// A ping after `interval` without input, the end after another `timeout` without any.
    ///
    /// # Errors
    ///
    /// Zero is refused for both: the pings would never end, or the connection would at once.
    pub fn new(interval: Duration, timeout: Duration) -> Result<Self, LimitError> {
        for (limit, duration) in [("keepalive interval", interval), ("keepalive timeout", timeout)] {
            if duration.is_zero() {
                return Err(LimitError::zero(limit));
            }
        }
        Ok(Self { interval, timeout })
    }

    /// The time without input after which a ping is sent.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// The time after a ping within which a byte has to arrive.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) const DEFAULT: Self = Self { interval: Duration::from_secs(20), timeout: Duration::from_secs(20) };
}

impl Default for Keepalive {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Round-trip times, as the pongs to our own pings give them: from the moment when the transport had taken the whole
/// ping until its pong was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rtt {
    /// The last one.
    pub last: Duration,
    /// Smoothed as in RFC 6298, section 2: seven parts of what it was, one part of the last.
    pub smoothed: Duration,
    /// The smallest of all.
    pub min: Duration,
}

/// An [`Rtt`] in half of its room, which every connection has: in nanoseconds. The smallest of none is `u64::MAX`.
struct Times {
    last: u64,
    smoothed: u64,
    min: u64,
}

impl Times {
    const NONE: Self = Self { last: 0, smoothed: 0, min: u64::MAX };

    fn add(&mut self, time: Duration) {
        let last = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1);
        let smoothed = if self.min == u64::MAX { last } else { self.smoothed - self.smoothed / 8 + last / 8 };
        *self = Self { last, smoothed, min: self.min.min(last) };
    }

    fn rtt(&self) -> Option<Rtt> {
        let [last, smoothed, min] = [self.last, self.smoothed, self.min].map(Duration::from_nanos);
        (self.min < u64::MAX).then_some(Rtt { last, smoothed, min })
    }
}

/// Bytes of payload of our own pings.
pub(super) const PAYLOAD: usize = 8;
/// So many unanswered pings are remembered: a peer may answer late, or only the newest (section 5.5.3).
const UNANSWERED: usize = 4;

/// A ping of our own that was not answered.
struct Ping {
    payload: [u8; PAYLOAD],
    /// The output offset at its end.
    end: u64,
    /// When the transport had taken it.
    left: Option<Instant>,
}

/// What the peer has shown of itself.
pub(super) struct Life {
    /// When the last bytes came, or reading went on.
    last_input: Instant,
    /// Bytes have come since, no one knows when; or reading was paused when the last had been taken.
    untimed: bool,
    /// The number of pings, up to where it begins anew: none of those that went so long ago is awaited.
    pings: u32,
    /// `None` while all are answered.
    asked: Option<Box<Asked>>,
    times: Times,
}

/// Pings that are not answered: at least one.
#[derive(Default)]
struct Asked {
    /// The last asks for a sign of life, and has been waited for since then.
    since: Option<Instant>,
    /// In order.
    pings: Vec<Ping>,
}

/// What the timer's coming means.
pub(super) enum Due {
    /// Reading goes on after a pause, and the wait starts afresh.
    Resumed,
    /// The peer is to be asked with a ping.
    Ask,
    /// It has not answered.
    Lost,
}

impl Life {
    pub(super) fn new(now: Instant) -> Self {
        Self { last_input: now, untimed: false, pings: 0, asked: None, times: Times::NONE }
    }

    /// The connection is open from now on.
    pub(super) fn start(&mut self, now: Instant) {
        self.last_input = now;
    }

    /// Bytes have come. A clock that goes back changes nothing.
    #[inline]
    pub(super) fn sign(&mut self, now: Instant) {
        self.last_input = self.last_input.max(now);
        if let Some(asked) = &mut self.asked {
            asked.since = None;
        }
    }

    /// Whether the time is yet to be told from which to wait for more: the next look at the timers finds out.
    #[inline]
    pub(super) fn set_untimed(&mut self, untimed: bool) {
        self.untimed = untimed;
    }

    #[inline]
    pub(super) fn is_untimed(&self) -> bool {
        self.untimed
    }

    /// Output was blocked and has drained: what was asked before may have been behind it.
    pub(super) fn drained(&mut self, now: Instant) {
        if let Some(since) = self.asked.as_mut().and_then(|asked| asked.since.as_mut()) {
            *since = now.max(*since);
        }
    }

    /// When something is due, while reading is not paused and output not blocked.
    pub(super) fn deadline(&self, keepalive: &Keepalive) -> Instant {
        match self.waited_since() {
            // At once: that look tells.
            _ if self.untimed => self.last_input,
            Some(since) => deadline(since, keepalive.timeout),
            None => deadline(self.last_input, keepalive.interval),
        }
    }

    /// What came without a time came by now; or reading goes on.
    pub(super) fn set_time(&mut self, now: Instant) {
        self.untimed = false;
        self.sign(now);
    }

    /// The deadline has come.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        if self.untimed {
            self.set_time(now);
            return Due::Resumed;
        }
        if self.waited_since().is_some() { Due::Lost } else { Due::Ask }
    }

    fn waited_since(&self) -> Option<Instant> {
        self.asked.as_ref()?.since
    }

    /// The payload of the next ping, out of the connection's seed. The peer cannot know it before.
    pub(super) fn payload(&mut self, seed: &[u8; 32]) -> [u8; PAYLOAD] {
        /// Stream 0 of the same seed gives masking keys.
        const STREAM: u64 = 1;
        const WORDS: u128 = (PAYLOAD / size_of::<u32>()) as u128;
        let mut random = ChaCha12Rng::from_seed(*seed);
        random.set_stream(STREAM);
        random.set_word_pos(WORDS * u128::from(self.pings));
        self.pings = self.pings.wrapping_add(1);
        let mut payload = [0; PAYLOAD];
        random.fill_bytes(&mut payload);
        payload
    }

    /// A ping with this payload is in the output, up to this offset.
    pub(super) fn asked(&mut self, now: Instant, payload: [u8; PAYLOAD], end: u64) {
        let Asked { since, pings } = &mut **self.asked.get_or_insert_default();
        *since = Some(now);
        if pings.len() == UNANSWERED {
            pings.remove(0);
        }
        pings.push(Ping { payload, end, left: None });
    }

    /// The transport has taken all up to this offset.
    #[inline]
    pub(super) fn written(&mut self, now: Instant, offset: u64) {
        if let Some(asked) = &mut self.asked {
            for ping in &mut asked.pings {
                if ping.left.is_none() && ping.end <= offset {
                    ping.left = Some(now);
                }
            }
        }
    }

    /// When output leaves is of interest to some pings.
    #[inline]
    pub(super) fn has_unanswered(&self) -> bool {
        self.asked.is_some()
    }

    /// A pong has come, with the bytes of the last [`sign`](Self::sign). Whether it answers a ping of our own: that one, and
    /// those before it, are answered then.
    pub(super) fn answered(&mut self, payload: &[u8]) -> bool {
        let Some(Asked { pings, .. }) = self.asked.as_deref_mut() else { return false };
        let Some(index) = pings.iter().position(|ping| ping.payload == payload) else { return false };
        if let Some(left) = pings[index].left {
            self.times.add(self.last_input.saturating_duration_since(left));
        }
        pings.drain(..=index);
        if pings.is_empty() {
            self.asked = None; // a connection at rest holds nothing
        }
        true
    }

    pub(super) fn rtt(&self) -> Option<Rtt> {
        self.times.rtt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smoothed_time_is_that_of_rfc_6298() {
        let millis = Duration::from_millis;
        let mut times = Times::NONE;
        assert_eq!(times.rtt(), None);
        for (last, smoothed, min) in [(80, 80, 80), (160, 90, 80), (10, 80, 10)] {
            times.add(millis(last));
            assert_eq!(times.rtt(), Some(Rtt { last: millis(last), smoothed: millis(smoothed), min: millis(min) }));
        }
    }

    #[test]
    fn zero_is_refused() {
        let second = Duration::from_secs(1);
        assert!(Keepalive::new(Duration::ZERO, second).unwrap_err().to_string().contains("interval"));
        assert!(Keepalive::new(second, Duration::ZERO).unwrap_err().to_string().contains("timeout"));
    }

    /// Nor any half of one: none tells anything of the next.
    #[test]
    fn no_payload_comes_twice_and_none_from_the_masking_keys() {
        const HALF: usize = PAYLOAD / 2;
        let mut life = Life::new(Instant::now());
        let mut seen: Vec<u8> = (0..100).flat_map(|_| life.payload(&[7; 32])).collect();
        let mut keys = [0; 16 * PAYLOAD];
        ChaCha12Rng::from_seed([7; 32]).fill_bytes(&mut keys);
        seen.extend(keys);
        let halves: std::collections::HashSet<_> = seen.chunks(HALF).collect();
        assert_eq!(halves.len(), 2 * (100 + 16));
    }

    #[test]
    fn so_many_unanswered_pings_are_remembered() {
        let now = Instant::now();
        let mut life = Life::new(now);
        let payloads: Vec<_> = (0..6).map(|_| life.payload(&[7; 32])).collect();
        for (end, payload) in payloads.iter().enumerate() {
            life.asked(now, *payload, end as u64);
        }
        assert!(!life.answered(&payloads[1]), "too long ago");
        assert!(life.answered(&payloads[3]));
        assert!(!life.answered(&payloads[2]), "those before it are answered too");
        assert!(life.answered(&payloads[5]) && life.asked.is_none());
    }
}
