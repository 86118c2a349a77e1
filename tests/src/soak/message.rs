//! What goes over the connections: messages that say which they are, and whether they are whole.
//!
//! ```text
//! connection  side stream  sequence  checksum          body
//! 16 digits    1     1     8 digits  16 digits         letters, of any length
//! ```
//!
//! All in ASCII, so that a text and a binary message look alike. The checksum is over the rest.

use std::fmt;
use std::sync::LazyLock;

use bytes::Bytes;
use parley_proto::codec::Frame;

use crate::dice::Dice;

/// Bytes before the body.
const HEAD: usize = 16 + 1 + 1 + 8 + 16;
/// Where the checksum lies.
const SUM: std::ops::Range<usize> = HEAD - 16..HEAD;
/// The largest message.
const LARGEST: usize = 100 * 1024;

/// Bodies are cut out of this.
static LETTERS: LazyLock<String> = LazyLock::new(|| {
    let mut dice = Dice::new(0);
    (0..2 * LARGEST).map(|_| char::from(b'a' + dice.below(26) as u8)).collect()
});

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    pub(super) fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Where on one side a message comes from. Within each of these there is one order; between them there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stream {
    /// What callbacks push of their own accord.
    Push,
    /// What another task sends by a handle, or what the loop around a socket sends.
    Sent,
    /// What callbacks send by the client's own handle.
    Own,
    /// What answers a message of the peer's.
    Echo,
    /// Pings, by a handle or a loop.
    Ping,
    /// Messages without a byte. They bear no number: they are counted.
    Empty,
}

impl Stream {
    pub(super) const ALL: [Self; 6] = [Self::Push, Self::Sent, Self::Own, Self::Echo, Self::Ping, Self::Empty];
}

/// What a message says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Label {
    /// The connection that it was meant for.
    pub(super) id: u64,
    pub(super) side: Side,
    pub(super) stream: Stream,
    /// From 0.
    pub(super) seq: u32,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, side, stream, seq } = self;
        write!(f, "{stream:?} {seq} of the {side:?} of connection {id}")
    }
}

/// How long a body shall be: mostly short, at times up to 100 KiB with the head.
pub(super) fn size(dice: &mut Dice) -> usize {
    match dice.below(100) {
        0..10 => 0,
        10..75 => dice.below(300),
        75..95 => dice.below(4096),
        _ => dice.below(LARGEST - HEAD + 1),
    }
}

impl Label {
    /// The message, with a body of so many bytes.
    pub(super) fn message(self, size: usize) -> String {
        let body = &LETTERS[(self.id as usize ^ self.seq as usize) % LARGEST..][..size.min(LARGEST - HEAD)];
        let Self { id, side, stream, seq } = self;
        let mut message = String::with_capacity(HEAD + body.len());
        message.push_str(&format!("{id:016x}{}{}{seq:08x}", side as u8, stream as u8));
        let sum = sum(message.as_bytes(), body.as_bytes());
        message.push_str(&format!("{sum:016x}"));
        message.push_str(body);
        message
    }

    /// The same as a frame, text or binary.
    pub(super) fn frame(self, size: usize) -> Frame {
        let message = self.message(size);
        if self.seq % 2 == 1 { Frame::binary(Bytes::from(message)) } else { Frame::text(message) }
    }

    /// A ping of this number.
    pub(super) fn ping(self) -> Frame {
        Frame::ping(Bytes::from(self.message(0)))
    }

    /// What a message says; or that it is none of ours, or not whole.
    pub(super) fn read(message: &[u8]) -> Result<Self, String> {
        let damaged = || format!("a message of {} bytes is damaged", message.len());
        let head = message.get(..HEAD).filter(|head| head.is_ascii()).ok_or_else(damaged)?;
        let number = |at: std::ops::Range<usize>| {
            str::from_utf8(&head[at]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(damaged)
        };
        if number(SUM)? != sum(&head[..SUM.start], &message[HEAD..]) {
            return Err(damaged());
        }
        let side = [Side::Client, Side::Server].get(number(16..17)? as usize).copied().ok_or_else(damaged)?;
        let stream = Stream::ALL.get(number(17..18)? as usize).copied().ok_or_else(damaged)?;
        Ok(Self { id: number(0..16)?, side, stream, seq: number(18..26)? as u32 })
    }
}

/// FNV-1a, eight bytes at a time, over the two and their lengths.
fn sum(head: &[u8], body: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325;
    let mut mix = |word: u64| sum = (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    for part in [head, body] {
        mix(part.len() as u64);
        let words = part.chunks_exact(8);
        let rest = words.remainder();
        words.for_each(|word| mix(word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))));
        rest.iter().for_each(|byte| mix(u64::from(*byte)));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label { id: 77, side: Side::Server, stream: Stream::Echo, seq: 4_000_000_000 };

    #[test]
    fn a_message_says_what_it_is() {
        for size in [0, 1, 7, 8, 300, LARGEST - HEAD] {
            let message = LABEL.message(size);
            assert_eq!(message.len(), HEAD + size);
            assert_eq!(Label::read(message.as_bytes()), Ok(LABEL));
        }
        assert!(LABEL.ping().len() <= 125);
    }

    #[test]
    fn a_byte_that_is_changed_missing_or_too_many_is_seen() {
        let message = LABEL.message(100).into_bytes();
        for at in 0..message.len() {
            let mut other = message.clone();
            other[at] ^= 1;
            assert!(Label::read(&other).is_err(), "byte {at} changed");
            other.copy_from_slice(&message);
            other.remove(at);
            // Where two neighbours are the same, it is the length that tells.
            assert!(Label::read(&other).is_err(), "byte {at} missing");
            other.splice(at..at, [message[at]; 2]);
            assert!(Label::read(&other).is_err(), "byte {at} doubled");
        }
    }
}
