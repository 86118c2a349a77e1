//! Masking: RFC 6455, section 5.3.
//!
//! Byte `i` of the payload is XORed with byte `i mod 4` of the key. Everything here works on wide words of a repeated
//! key, which the compiler turns into vector instructions. The last word overlaps the one before it, so that no
//! payload of 16 bytes or more is walked byte by byte.

/// The payload is read and written in words of this many bytes.
const WORD: usize = size_of::<u128>();
/// Four words a step: enough for the compiler to keep four vector registers busy.
const STEP: usize = 4 * WORD;

/// Masks or unmasks `payload`, whose first byte stands at `offset` in the frame's payload.
///
/// Twice with the same key is the identity.
#[inline]
pub fn apply_mask(key: [u8; 4], offset: usize, payload: &mut [u8]) {
    xor(rotated(key, offset), payload);
}

/// The key as it stands `offset` bytes further on.
#[inline]
pub(super) fn rotated(mut key: [u8; 4], offset: usize) -> [u8; 4] {
    key.rotate_left(offset % 4);
    key
}

/// Unmasks `payload`, and says in the same pass whether what comes out is ASCII.
#[inline]
pub(super) fn unmask_is_ascii(key: [u8; 4], payload: &mut [u8]) -> bool {
    xor(key, payload) & HIGH_BITS == 0
}

/// The bit of each byte that ASCII leaves clear.
const HIGH_BITS: u128 = u128::from_ne_bytes([0x80; WORD]);

/// `key` over and over, starting at its byte `phase`.
#[inline]
fn repeated(key: u32, phase: usize) -> u128 {
    let rotation = 8 * (phase % 4) as u32;
    let key = u128::from(key.rotate_right(rotation));
    let key = key | key << 32;
    key | key << 64
}

/// XORs `payload` with `key` in place. Returns all bytes of the outcome, ORed together in words; which byte of the
/// word an outcome lands in says nothing.
#[inline]
fn xor(key: [u8; 4], payload: &mut [u8]) -> u128 {
    let key = u32::from_le_bytes(key);
    let len = payload.len();
    let word = repeated(key, 0);
    // The last word overlaps what the loop below rewrites, so it is read before and written after.
    let Some(last) = payload.last_chunk::<WORD>() else { return xor_short(word, payload) };
    let last = u128::from_le_bytes(*last) ^ repeated(key, len);
    let mut seen = last;
    let mut steps = payload.chunks_exact_mut(STEP);
    for step in &mut steps {
        for bytes in step.chunks_exact_mut(WORD) {
            seen |= xor_word(word, bytes);
        }
    }
    for bytes in steps.into_remainder().chunks_exact_mut(WORD) {
        seen |= xor_word(word, bytes);
    }
    if let Some(bytes) = payload.last_chunk_mut::<WORD>() {
        *bytes = last.to_le_bytes();
    }
    seen
}

/// As [`xor`], for one word: `bytes` has [`WORD`] of them.
#[inline(always)]
fn xor_word(key: u128, bytes: &mut [u8]) -> u128 {
    let mut word = [0; WORD];
    word.copy_from_slice(bytes);
    let word = u128::from_le_bytes(word) ^ key;
    bytes.copy_from_slice(&word.to_le_bytes());
    word
}

/// As [`xor`], for less than a word.
#[inline]
fn xor_short(key: u128, payload: &mut [u8]) -> u128 {
    let mut word = [0; WORD];
    let Some(low) = word.get_mut(..payload.len()) else { return 0 };
    low.copy_from_slice(payload);
    let masked = u128::from_le_bytes(word) ^ key;
    let masked = masked.to_le_bytes();
    payload.copy_from_slice(&masked[..payload.len()]);
    let mut seen = [0; WORD];
    seen[..payload.len()].copy_from_slice(payload);
    u128::from_le_bytes(seen)
}

/// Writes `payload` to `out`, masked, in one pass. Both have the same length.
#[inline]
pub(super) fn copy_masked(key: [u8; 4], payload: &[u8], out: &mut [u8]) {
    debug_assert_eq!(payload.len(), out.len());
    let key = u32::from_le_bytes(key);
    let word = repeated(key, 0);
    let len = payload.len();
    let (Some(last), true) = (payload.last_chunk::<WORD>(), len == out.len()) else {
        for ((out, byte), key) in out.iter_mut().zip(payload).zip(word.to_le_bytes()) {
            *out = byte ^ key;
        }
        return;
    };
    let mut steps = payload.chunks_exact(STEP);
    let mut out_steps = out.chunks_exact_mut(STEP);
    for (step, out) in (&mut steps).zip(&mut out_steps) {
        for (bytes, out) in step.chunks_exact(WORD).zip(out.chunks_exact_mut(WORD)) {
            copy_word(word, bytes, out);
        }
    }
    let out_rest = out_steps.into_remainder();
    for (bytes, out) in steps.remainder().chunks_exact(WORD).zip(out_rest.chunks_exact_mut(WORD)) {
        copy_word(word, bytes, out);
    }
    if let Some(out) = out.last_chunk_mut::<WORD>() {
        *out = (u128::from_le_bytes(*last) ^ repeated(key, len)).to_le_bytes();
    }
}

/// As [`copy_masked`], for one word: both slices have [`WORD`] bytes.
#[inline(always)]
fn copy_word(key: u128, bytes: &[u8], out: &mut [u8]) {
    let mut word = [0; WORD];
    word.copy_from_slice(bytes);
    out.copy_from_slice(&(u128::from_le_bytes(word) ^ key).to_le_bytes());
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
    fn one_high_bit_anywhere_is_seen() {
        let key = [0x80, 0xFF, 0x00, 0x7F];
        for len in 0..=200 {
            let mut masked = by_the_letter(key, 0, &vec![0x7F; len]);
            assert!(unmask_is_ascii(key, &mut masked), "{len} bytes");
            assert_eq!(masked, vec![0x7F; len]);
            for at in 0..len {
                let mut plain = vec![0x20; len];
                plain[at] = 0x80;
                let mut masked = by_the_letter(key, 0, &plain);
                assert!(!unmask_is_ascii(key, &mut masked), "{len} bytes, at {at}");
                assert_eq!(masked, plain);
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
