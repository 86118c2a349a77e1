//! Text that arrives in pieces: RFC 6455, section 8.1, and RFC 3629, section 4.

use super::{FrameError, mask};

/// Up to this size in bytes it pays to look for ASCII first.
const SHORT: usize = 512;

/// Checks UTF-8 that is cut anywhere, also inside a character.
///
/// ```
/// use parley_proto::codec::Utf8Validator;
///
/// let mut text = Utf8Validator::new();
/// text.feed(b"caf\xC3")?; // half of an e with an acute accent
/// text.feed(b"\xA9")?;
/// text.finish()?;
/// # Ok::<(), parley_proto::codec::FrameError>(())
/// ```
///
/// It accepts and refuses what [`std::str::from_utf8`] does, and refuses at the first byte that cannot continue what
/// came before: overlong forms, surrogates and code points above U+10FFFF at their second byte. An error is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utf8Validator {
    /// Bytes that the character under way lacks: 0 to 3.
    lacks: u8,
    /// The least byte that may come next, if the character lacks one.
    low: u8,
    /// The greatest.
    high: u8,
}

impl Default for Utf8Validator {
    fn default() -> Self {
        Self::new()
    }
}

impl Utf8Validator {
    /// At the start of a text.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self { lacks: 0, low: 0x80, high: 0xBF }
    }

    /// Takes the next bytes of the text.
    ///
    /// # Errors
    ///
    /// [`FrameError::InvalidUtf8`] if no text starts like this.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        while self.lacks > 0 {
            let [byte, rest @ ..] = bytes else { return Ok(()) };
            self.step(*byte)?;
            bytes = rest;
        }
        let (whole, begun) = bytes.split_at(boundary(bytes));
        if simdutf8::basic::from_utf8(whole).is_err() {
            return Err(FrameError::InvalidUtf8);
        }
        begun.iter().try_for_each(|byte| self.step(*byte))
    }

    /// Ends the text; the validator is at the start of the next one.
    ///
    /// # Errors
    ///
    /// [`FrameError::InvalidUtf8`] if the text ends inside a character.
    pub fn finish(&mut self) -> Result<(), FrameError> {
        let ends_on_boundary = self.is_boundary();
        *self = Self::new();
        if ends_on_boundary { Ok(()) } else { Err(FrameError::InvalidUtf8) }
    }

    /// Whether the text could end here.
    #[inline]
    #[must_use]
    pub const fn is_boundary(&self) -> bool {
        self.lacks == 0
    }

    /// One byte, by the table of RFC 3629, section 4.
    fn step(&mut self, byte: u8) -> Result<(), FrameError> {
        if self.lacks > 0 {
            if byte < self.low || byte > self.high {
                return Err(FrameError::InvalidUtf8);
            }
            *self = Self { lacks: self.lacks - 1, ..Self::new() };
            return Ok(());
        }
        let (lacks, low, high) = match byte {
            0x00..=0x7F => (0, 0x80, 0xBF),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            // Below A0: overlong.
            0xE0 => (2, 0xA0, 0xBF),
            // Above 9F: surrogates.
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            // Below 90: overlong.
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            // Above 8F: beyond U+10FFFF.
            0xF4 => (3, 0x80, 0x8F),
            _ => return Err(FrameError::InvalidUtf8),
        };
        *self = Self { lacks, low, high };
        Ok(())
    }
}

/// Checks a text that is here as a whole. What is short and ASCII, as most of it is, is spared the call.
#[inline]
pub(super) fn check(text: &[u8]) -> Result<(), FrameError> {
    if is_short_ascii(text) { Ok(()) } else { check_any(text) }
}

/// Whether `text` is ASCII, and so short that it pays to look.
#[inline(always)]
pub(super) fn is_short_ascii(text: &[u8]) -> bool {
    text.len() <= SHORT && mask::is_ascii(text)
}

/// Checks a text that is here as a whole and probably not ASCII.
pub(super) fn check_any(text: &[u8]) -> Result<(), FrameError> {
    match simdutf8::basic::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(FrameError::InvalidUtf8),
    }
}

/// Where the last character of `bytes` starts if more bytes could complete it, else the end of `bytes`.
fn boundary(bytes: &[u8]) -> usize {
    for (back, byte) in bytes.iter().rev().take(3).enumerate() {
        let width = match byte {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
            0x00..=0x7F => 1,
        };
        let present = back + 1;
        return if width > present { bytes.len() - present } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq)]
    enum Verdict {
        Valid,
        Incomplete,
        Invalid,
    }

    fn by_std(bytes: &[u8]) -> Verdict {
        match std::str::from_utf8(bytes) {
            Ok(_) => Verdict::Valid,
            Err(error) if error.error_len().is_none() => Verdict::Incomplete,
            Err(_) => Verdict::Invalid,
        }
    }

    fn fed(parts: &[&[u8]]) -> Verdict {
        let mut validator = Utf8Validator::new();
        for part in parts {
            if validator.feed(part).is_err() {
                return Verdict::Invalid;
            }
        }
        if validator.finish().is_ok() { Verdict::Valid } else { Verdict::Incomplete }
    }

    fn assert_every_cut_agrees(bytes: &[u8]) {
        let expected = by_std(bytes);
        for i in 0..=bytes.len() {
            for j in i..=bytes.len() {
                assert_eq!(fed(&[&bytes[..i], &bytes[i..j], &bytes[j..]]), expected, "{bytes:x?} at {i} and {j}");
            }
        }
    }

    #[test]
    fn the_edges_of_every_range_agree_with_std() {
        let edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED];
        let more = [0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF];
        let edges: Vec<u8> = edges.into_iter().chain(more).collect();
        for &a in &edges {
            for &b in &edges {
                for &c in &edges {
                    assert_every_cut_agrees(&[a, b, c]);
                    for &d in &edges {
                        let bytes = [a, b, c, d];
                        assert_eq!(fed(&[&bytes]), by_std(&bytes), "{bytes:x?}");
                        assert_eq!(fed(&[&[a], &[b], &[c], &[d]]), by_std(&bytes), "{bytes:x?}");
                    }
                }
            }
        }
    }

    #[test]
    fn it_fails_at_the_second_byte_of_what_can_never_be_a_character() {
        for bytes in [[0xE0, 0x9F], [0xED, 0xA0], [0xF0, 0x8F], [0xF4, 0x90]] {
            let mut validator = Utf8Validator::new();
            assert_eq!(validator.feed(&bytes[..1]), Ok(()));
            assert_eq!(validator.feed(&bytes[1..]), Err(FrameError::InvalidUtf8));
        }
    }

    proptest! {
        #[test]
        fn hazard_10_text_agrees_with_std_on_every_cut(text in ".{0,40}") {
            assert_every_cut_agrees(text.as_bytes());
        }

        #[test]
        fn hazard_10_damaged_text_agrees_with_std_on_every_cut(text in ".{1,24}", at: prop::sample::Index, byte: u8) {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            assert_every_cut_agrees(&bytes);
        }

        #[test]
        fn long_text_agrees_with_std(text in ".{100,400}", at: prop::sample::Index, damage: Option<(prop::sample::Index, u8)>) {
            let mut bytes = text.into_bytes();
            if let Some((place, byte)) = damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            let at = at.index(bytes.len());
            prop_assert_eq!(fed(&[&bytes[..at], &bytes[at..]]), by_std(&bytes));
        }
    }
}
