//! Masking: RFC 6455, section 5.3.
//!
//! Byte `i` of the payload is XORed with byte `i mod 4` of the key. Everything here works on wide words of a repeated
//! key, which the compiler turns into vector instructions. The last word overlaps the one before it, so that no
//! payload of 16 bytes or more is walked byte by byte.

/// Does something with the widest instructions that this processor has (feature `simd`), as far as it is inlined: `$by`, a
/// [`Wide`], is what goes by them.
macro_rules! by_widest {
    ($by:ident => $work:expr) => {{
        #[cfg(feature = "simd")]
        {
            use fearless_simd::Simd;
            fearless_simd::dispatch!(fearless_simd::Level::new(), simd => simd.vectorize(
                #[inline(always)]
                move || {
                    let $by = $crate::codec::mask::Vector(simd);
                    $work
                }
            ))
        }
        #[cfg(not(feature = "simd"))]
        {
            let $by = $crate::codec::mask::Common;
            $work
        }
    }};
}
pub(super) use by_widest;

/// The payload is read and written in words of this many bytes.
const WORD: usize = size_of::<u128>();
/// Two words a step: more would leave small messages a long rest.
const STEP: usize = 2 * WORD;

/// Masks or unmasks `payload`, whose first byte stands at `offset` in the frame's payload.
///
/// Twice with the same key is the identity.
#[inline]
pub fn apply_mask(key: [u8; 4], offset: usize, payload: &mut [u8]) {
    xor(rotated(key, offset), payload);
}

/// The key as it stands `offset` bytes further on.
#[inline]
pub(super) fn rotated(key: [u8; 4], offset: usize) -> [u8; 4] {
    let rotation = 8 * (offset % 4) as u32;
    u32::from_le_bytes(key).rotate_right(rotation).to_le_bytes()
}

/// Unmasks `payload`, and says in the same pass whether what comes out is ASCII.
#[inline]
pub(super) fn unmask_is_ascii(key: [u8; 4], payload: &mut [u8]) -> bool {
    xor(key, payload) & HIGH_BITS == 0
}

/// [`unmask_is_ascii`] within [`by_widest`].
#[inline(always)]
pub(super) fn unmask_is_ascii_by(by: impl Wide, key: [u8; 4], payload: &mut [u8]) -> bool {
    let seen = if payload.len() < LONG { xor_words_by(by, key, payload) } else { xor_long(key, payload) };
    seen & HIGH_BITS == 0
}

/// Whether `text` is ASCII. Reads all of it, hence for what is short.
#[inline]
pub(super) fn is_ascii(text: &[u8]) -> bool {
    let Some(last) = text.last_chunk::<WORD>() else {
        return ends(text).map_or_else(|| text.is_ascii(), |(first, last)| (first | last) & HIGH_BITS == 0);
    };
    let mut seen = u128::from_le_bytes(*last);
    let mut steps = text.chunks_exact(STEP);
    for step in &mut steps {
        for bytes in step.chunks_exact(WORD) {
            seen |= word(bytes);
        }
    }
    // What is left after this is part of the last word.
    if let Some(bytes) = steps.remainder().first_chunk::<WORD>() {
        seen |= word(bytes);
    }
    fold(seen) & HIGH_BITS == 0
}

/// The bit of each byte that ASCII leaves clear.
const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);

/// The key twice. Turned by any number of bytes, it is that of the payload so many bytes further on.
#[inline(always)]
fn doubled(key: [u8; 4]) -> u64 {
    let key = u64::from(u32::from_le_bytes(key));
    key | key << 32
}

/// The doubled key as it stands `offset` bytes further on.
#[inline(always)]
fn turned(key: u64, offset: usize) -> u64 {
    key.rotate_right(8 * (offset % 8) as u32)
}

/// The doubled key in each half of a word.
#[inline(always)]
fn wide(key: u64) -> u128 {
    u128::from(key) | u128::from(key) << 64
}

/// The halves of a word, ORed.
#[inline(always)]
fn fold(word: u128) -> u64 {
    word as u64 | (word >> 64) as u64
}

/// `bytes`, of which there are [`WORD`], as a word.
#[inline(always)]
fn word(bytes: &[u8]) -> u128 {
    let mut word = [0; WORD];
    word.copy_from_slice(bytes);
    u128::from_le_bytes(word)
}

/// The first and the last eight bytes, or the first and the last four, of 4 to 16 bytes: they may overlap.
#[inline(always)]
fn ends(bytes: &[u8]) -> Option<(u64, u64)> {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return Some((u64::from_le_bytes(*first), u64::from_le_bytes(*last)));
    }
    let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
    Some((u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last))))
}

/// Writes what [`ends`] has read: to as many bytes as it was read from.
#[inline(always)]
fn put_ends(out: &mut [u8], first: u64, last: u64) {
    if out.len() >= 8 {
        let end = out.len() - 8;
        out[..8].copy_from_slice(&first.to_le_bytes());
        out[end..].copy_from_slice(&last.to_le_bytes());
    } else if out.len() >= 4 {
        let end = out.len() - 4;
        out[..4].copy_from_slice(&(first as u32).to_le_bytes());
        out[end..].copy_from_slice(&(last as u32).to_le_bytes());
    }
}

/// XORs `payload` with `key` in place. Returns all bytes of the outcome ORed together, in no order; those that are
/// missing from a short payload count as zero.
#[inline]
fn xor(key: [u8; 4], payload: &mut [u8]) -> u64 {
    if payload.len() < LONG { xor_words(key, payload) } else { xor_long(key, payload) }
}

/// From here on it pays to begin at a cache line: words that straddle two cost half as much again.
const LONG: usize = 4 * 1024;
const LINE: usize = 64;
/// Whole lines, and small beside the fastest cache.
const BLOCK: usize = 128 * LINE;

/// [`xor`] of a payload that begins anywhere. From its last block to its first: what arrived last is still in the fastest
/// cache, which has no room for all of a large one.
#[inline(never)]
fn xor_long(key: [u8; 4], payload: &mut [u8]) -> u64 {
    let head = payload.as_ptr().align_offset(LINE).min(payload.len());
    let (head, rest) = payload.split_at_mut(head);
    let (lines, tail) = rest.split_at_mut(rest.len() / LINE * LINE);
    let rest_key = rotated(key, head.len()); // of each line, and of the tail
    xor_words(rest_key, tail) | xor_lines(rest_key, lines) | xor_words(key, head)
}

/// [`xor`] of whole cache lines, block by block from the last on.
fn xor_lines(key: [u8; 4], lines: &mut [u8]) -> u64 {
    let key = doubled(key);
    by_widest!(wide => lines.chunks_mut(BLOCK).rev().fold(0, |seen, block| seen | wide.xor_steps(key, block)))
}

/// What goes through a payload step by step: the instructions that every processor has, or the widest of this one.
pub(super) trait Wide: Copy {
    /// [`xor`] of as many whole steps as there are.
    fn xor_steps(self, key: u64, payload: &mut [u8]) -> u64;
}

/// The instructions that the program was compiled for.
#[derive(Clone, Copy)]
pub(super) struct Common;

impl Wide for Common {
    // By itself, its arrays are in registers.
    #[inline(never)]
    fn xor_steps(self, key: u64, payload: &mut [u8]) -> u64 {
        let (key, mut seen) = (step_key(wide(key)), [0; STEP]);
        for step in payload.chunks_exact_mut(STEP).filter_map(|step| step.first_chunk_mut()) {
            xor_step(&key, step, &mut seen);
        }
        fold_step(seen)
    }
}

/// The widest instructions, where the token says which they are.
#[cfg(feature = "simd")]
#[derive(Clone, Copy)]
pub(super) struct Vector<S>(pub(super) S);

#[cfg(feature = "simd")]
impl<S: fearless_simd::Simd> Wide for Vector<S> {
    #[inline(always)]
    fn xor_steps(self, key: u64, payload: &mut [u8]) -> u64 {
        use fearless_simd::{prelude::*, u8x32};
        let key = u8x32::from_slice(self.0, &step_key(wide(key)));
        let mut seen = u8x32::splat(self.0, 0);
        for step in payload.chunks_exact_mut(STEP) {
            let masked = u8x32::from_slice(self.0, step) ^ key;
            masked.store_slice(step);
            seen |= masked;
        }
        let mut bytes = [0; STEP];
        seen.store_slice(&mut bytes);
        fold_step(bytes)
    }
}

#[inline(always)]
fn fold_step(step: [u8; STEP]) -> u64 {
    step.chunks_exact(WORD).fold(0, |all, bytes| all | fold(word(bytes)))
}

/// [`xor`] from the first byte on, wherever that is.
#[inline]
fn xor_words(key: [u8; 4], payload: &mut [u8]) -> u64 {
    xor_words_by(Common, key, payload)
}

#[inline(always)]
fn xor_words_by(by: impl Wide, key: [u8; 4], payload: &mut [u8]) -> u64 {
    let key = doubled(key);
    let len = payload.len();
    // The last word overlaps what is rewritten before it, so it is read before and written after.
    let Some(last) = payload.last_chunk::<WORD>() else { return xor_short(key, payload) };
    let last = u128::from_le_bytes(*last) ^ wide(turned(key, len));
    let mut seen = fold(last) | by.xor_steps(key, payload);
    if let Some(bytes) = payload[len / STEP * STEP..].first_chunk_mut::<WORD>() {
        let word = u128::from_le_bytes(*bytes) ^ wide(key);
        *bytes = word.to_le_bytes();
        seen |= fold(word);
    }
    if let Some(bytes) = payload.last_chunk_mut::<WORD>() {
        *bytes = last.to_le_bytes();
    }
    seen
}

/// A word of the key, twice.
#[inline(always)]
fn step_key(key: u128) -> [u8; STEP] {
    let mut step = [0; STEP];
    let (low, high) = step.split_at_mut(WORD);
    low.copy_from_slice(&key.to_le_bytes());
    high.copy_from_slice(&key.to_le_bytes());
    step
}

/// XORs `bytes` with `key`, and ORs the outcome to `seen`. Byte by byte is what becomes vector instructions.
#[inline(always)]
fn xor_step<const N: usize>(key: &[u8; N], bytes: &mut [u8; N], seen: &mut [u8; N]) {
    for ((byte, key), seen) in bytes.iter_mut().zip(key).zip(seen) {
        *byte ^= key;
        *seen |= *byte;
    }
}

/// As [`xor`], for less than a word.
#[inline(always)]
fn xor_short(key: u64, payload: &mut [u8]) -> u64 {
    let Some((first, last)) = ends(payload) else {
        let mut seen = 0;
        for (byte, key) in payload.iter_mut().zip(key.to_le_bytes()) {
            *byte ^= key;
            seen |= u64::from(*byte);
        }
        return seen;
    };
    let (first, last) = short_masked(key, payload.len(), first, last);
    put_ends(payload, first, last);
    first | last
}

/// The two ends of a payload of `len` bytes, masked.
#[inline(always)]
fn short_masked(key: u64, len: usize, first: u64, last: u64) -> (u64, u64) {
    // The last eight bytes, or four, start as far into the key as the payload is long.
    let (first_key, last_key) = (key, turned(key, len));
    let width = if len >= 8 { u64::MAX } else { u64::from(u32::MAX) };
    ((first ^ first_key) & width, (last ^ last_key) & width)
}

/// Writes `payload` to `out`, masked, in one pass. Both have the same length.
#[inline]
pub(super) fn copy_masked(key: [u8; 4], payload: &[u8], out: &mut [u8]) {
    debug_assert_eq!(payload.len(), out.len());
    if payload.len() < LONG { copy_masked_words(key, payload, out) } else { copy_masked_long(key, payload, out) }
}

/// [`copy_masked`] of what begins anywhere: what is written begins at a cache line, soon.
#[inline(never)]
fn copy_masked_long(key: [u8; 4], payload: &[u8], out: &mut [u8]) {
    let head = out.as_ptr().align_offset(LINE).min(out.len());
    let ((head, rest), (out_head, out_rest)) = (payload.split_at(head), out.split_at_mut(head));
    copy_masked_words(key, head, out_head);
    copy_masked_words(rotated(key, head.len()), rest, out_rest);
}

/// [`copy_masked`] from the first byte on, wherever that is.
#[inline(always)]
fn copy_masked_words(key: [u8; 4], payload: &[u8], out: &mut [u8]) {
    let key = doubled(key);
    let len = payload.len();
    let Some(last) = payload.last_chunk::<WORD>() else {
        let Some((first, last)) = ends(payload) else {
            for ((out, byte), key) in out.iter_mut().zip(payload).zip(key.to_le_bytes()) {
                *out = byte ^ key;
            }
            return;
        };
        let (first, last) = short_masked(key, len, first, last);
        return put_ends(out, first, last);
    };
    let last = u128::from_le_bytes(*last) ^ wide(turned(key, len));
    let key = wide(key);
    let (mut steps, mut out_steps) = (payload.chunks_exact(STEP), out.chunks_exact_mut(STEP));
    for (step, out) in steps.by_ref().zip(out_steps.by_ref()) {
        if let (Some(step), Some(out)) = (step.first_chunk(), out.first_chunk_mut()) {
            // In a copy of its own: the compiler cannot know that `out` and `step` are apart.
            let mut masked: [u8; STEP] = *step;
            xor_step(&step_key(key), &mut masked, &mut [0; STEP]);
            *out = masked;
        }
    }
    if let (Some(bytes), Some(out)) = (steps.remainder().first_chunk(), out_steps.into_remainder().first_chunk_mut()) {
        *out = (u128::from_le_bytes(*bytes) ^ key).to_le_bytes();
    }
    if let Some(out) = out.last_chunk_mut::<WORD>() {
        *out = last.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Section 5.3, to the letter.
    fn by_the_letter(key: [u8; 4], offset: usize, payload: &[u8]) -> Vec<u8> {
        payload.iter().enumerate().map(|(i, byte)| byte ^ key[(offset + i) % 4]).collect()
    }

    #[test]
    fn every_length_and_offset_is_masked_to_the_letter() {
        let key = [0x37, 0xFA, 0x21, 0x3D];
        let plain: Vec<u8> = (0..400u32).map(|i| (i * 7 % 251) as u8).collect();
        for len in 0..=300 {
            for offset in 0..5 {
                let payload = &plain[offset..offset + len];
                let expected = by_the_letter(key, offset, payload);
                let mut masked = payload.to_vec();
                apply_mask(key, offset, &mut masked);
                assert_eq!(masked, expected, "{len} bytes at {offset}");
                let mut copied = vec![0; len];
                copy_masked(rotated(key, offset), payload, &mut copied);
                assert_eq!(copied, expected, "{len} bytes at {offset}, copied");
            }
        }
    }

    #[test]
    fn one_high_bit_anywhere_in_a_long_payload_is_seen() {
        let key = [0x37, 0xFA, 0x21, 0x3D];
        let plain = vec![0x20; 3 * BLOCK + 2 * LINE];
        for start in [0, 1, 31, 63] {
            for len in [LONG, LONG + 77, BLOCK, 2 * BLOCK + 65, 3 * BLOCK + 63] {
                let masked = by_the_letter(key, 0, &plain[..len]);
                let mut buffer = plain.clone();
                let payload = &mut buffer[start..start + len];
                payload.copy_from_slice(&masked);
                assert!(unmask_is_ascii(key, payload), "{len} bytes from {start}");
                assert_eq!(buffer, plain);
                for at in (0..len).step_by(257).chain(0..130).chain(len - 130..len) {
                    let payload = &mut buffer[start..start + len];
                    payload.copy_from_slice(&masked);
                    payload[at] ^= 0x80;
                    assert!(!unmask_is_ascii(key, payload), "{len} bytes from {start}, at {at}");
                    assert_eq!(std::mem::replace(&mut payload[at], 0x20), 0xA0);
                    assert_eq!(buffer, plain);
                }
            }
        }
    }

    #[test]
    fn a_long_payload_may_begin_anywhere() {
        let key = [0x37, 0xFA, 0x21, 0x3D];
        let plain: Vec<u8> = (0..2 * LONG).map(|n| n as u8).collect();
        for start in 0..=LINE {
            for len in [LONG - 1, LONG, LONG + 1, LONG + LINE] {
                let mut buffer = plain.clone();
                apply_mask(key, start, &mut buffer[start..start + len]);
                assert_eq!(buffer[start..start + len], by_the_letter(key, start, &plain[start..start + len]));
                assert_eq!((&buffer[..start], &buffer[start + len..]), (&plain[..start], &plain[start + len..]));
                let mut copy = plain.clone();
                copy_masked(rotated(key, start), &plain[..len], &mut copy[start..start + len]);
                assert_eq!(copy[start..start + len], by_the_letter(key, start, &plain[..len]));
                assert_eq!((&copy[..start], &copy[start + len..]), (&plain[..start], &plain[start + len..]));
            }
        }
    }

    #[test]
    fn one_high_bit_anywhere_is_seen() {
        let key = [0x80, 0xFF, 0x00, 0x7F];
        for len in 0..=200 {
            let mut masked = by_the_letter(key, 0, &vec![0x7F; len]);
            assert!(unmask_is_ascii(key, &mut masked), "{len} bytes");
            assert!(is_ascii(&masked), "{len} bytes");
            assert_eq!(masked, vec![0x7F; len]);
            for at in 0..len {
                let mut plain = vec![0x20; len];
                plain[at] = 0x80;
                let mut masked = by_the_letter(key, 0, &plain);
                assert!(!unmask_is_ascii(key, &mut masked), "{len} bytes, at {at}");
                assert_eq!(masked, plain);
                assert!(!is_ascii(&plain), "{len} bytes, at {at}");
            }
        }
    }

    #[test]
    fn two_high_bits_do_not_hide_each_other() {
        for len in [5, 8, 13, 16, 40, 64, 75, 96] {
            for (first, second) in (0..len).flat_map(|first| (first + 1..len).map(move |second| (first, second))) {
                let mut plain = vec![0x20; len];
                (plain[first], plain[second]) = (0x80, 0x80);
                assert!(!is_ascii(&plain), "{len} bytes, at {first} and {second}");
                assert!(!unmask_is_ascii([0; 4], &mut plain), "{len} bytes, at {first} and {second}");
            }
        }
    }

    proptest! {
        #[test]
        fn masking_twice_is_the_identity(key: [u8; 4], offset: usize, payload: Vec<u8>) {
            let mut masked = payload.clone();
            apply_mask(key, offset, &mut masked);
            apply_mask(key, offset, &mut masked);
            prop_assert_eq!(masked, payload);
        }

        #[test]
        fn a_payload_may_be_masked_in_parts(key: [u8; 4], payload: Vec<u8>, at: prop::sample::Index) {
            let at = at.index(payload.len() + 1);
            let mut parts = payload.clone();
            apply_mask(key, 0, &mut parts[..at]);
            apply_mask(key, at, &mut parts[at..]);
            prop_assert_eq!(parts, by_the_letter(key, 0, &payload));
        }
    }
}
