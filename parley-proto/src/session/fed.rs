//! Frames on their way from the handles to their client.

use std::collections::VecDeque;

use crate::codec::{Frame, FrameRef, OpCode};

/// Payloads of up to this many bytes are copied: that costs less than to count who refers to them, in two tasks.
const COPIED: usize = 1024;
/// So many bytes of room are kept when it is empty.
const KEPT: usize = 8 * 1024;
/// A frame begins with the length of its payload and its opcode in one word.
const HEAD: usize = size_of::<u64>();
/// The opcode of a frame that is among `owned`.
const OWNED: u8 = u8::MAX;

/// Frames that nobody waits for, in order. A word: the handles of many clients never send.
#[derive(Default)]
pub(crate) struct Fed(Option<Box<Frames>>);

#[derive(Default)]
struct Frames {
    /// The small ones, one behind the other, and a mark for each of the others.
    bytes: Vec<u8>,
    owned: VecDeque<Frame>,
}

/// The next of them.
pub(super) enum Next<'a> {
    Copied(FrameRef<'a>),
    Owned(Frame),
}

impl Fed {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|frames| frames.bytes.is_empty())
    }

    /// Whether it is a message so small that [`push_copy`](Self::push_copy) costs less than [`push`](Self::push).
    #[inline(always)]
    pub(crate) fn is_small(frame: FrameRef<'_>) -> bool {
        frame.len() <= COPIED && !frame.opcode().is_control()
    }

    /// A small message.
    #[inline(always)]
    pub(crate) fn push_copy(&mut self, frame: FrameRef<'_>) {
        debug_assert!(Self::is_small(frame));
        self.0.get_or_insert_default().put(frame.opcode().bits(), frame.payload());
    }

    /// Any frame.
    pub(crate) fn push(&mut self, frame: Frame) {
        let frames = self.0.get_or_insert_default();
        frames.put(OWNED, &[]);
        frames.owned.push_back(frame);
    }

    /// Gives the frames to `take`, one by one. Nothing is left of them then.
    #[inline(always)]
    pub(super) fn drain(&mut self, mut take: impl FnMut(Next<'_>)) {
        const TEXT: u8 = OpCode::Text.bits();
        const BINARY: u8 = OpCode::Binary.bits();
        let Some(Frames { bytes, owned }) = self.0.as_deref_mut() else { return };
        let mut rest = &bytes[..];
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD>() {
            let head = u64::from_le_bytes(*head);
            let (payload, behind) = behind.split_at((head >> 8) as usize);
            match head as u8 {
                TEXT => take(Next::Copied(FrameRef::of_kind(OpCode::Text, payload))),
                BINARY => take(Next::Copied(FrameRef::binary(payload))),
                _ => owned.pop_front().into_iter().for_each(|frame| take(Next::Owned(frame))),
            }
            rest = behind;
        }
        bytes.clear();
    }

    /// Of the room for a burst little is kept.
    pub(crate) fn shrink(&mut self) {
        if let Some(frames) = &mut self.0 {
            frames.bytes.shrink_to(KEPT);
            frames.owned = VecDeque::new();
        }
    }
}

impl Frames {
    #[inline(always)]
    fn put(&mut self, opcode: u8, payload: &[u8]) {
        self.bytes.reserve(HEAD + payload.len());
        self.bytes.extend_from_slice(&((payload.len() as u64) << 8 | u64::from(opcode)).to_le_bytes());
        self.bytes.extend_from_slice(payload);
    }
}

#[cfg(test)]
impl Fed {
    /// All of them.
    pub(crate) fn take(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.drain(|next| {
            frames.push(match next {
                Next::Copied(frame) => frame.to_frame(),
                Next::Owned(frame) => frame,
            });
        });
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_kind_and_size_keep_their_order() {
        let mut fed = Fed::default();
        let frames: Vec<Frame> = (0..40)
            .flat_map(|n| {
                let len = [0, 1, 125, COPIED, COPIED + 1, 100_000][n % 6];
                let text = "a".repeat(len);
                [Frame::text(text.clone()), Frame::binary(text), Frame::ping(vec![n as u8]), Frame::pong("")]
            })
            .collect();
        for round in 0..2 {
            for frame in &frames {
                match Fed::is_small(frame.into()) {
                    true => fed.push_copy(frame.into()),
                    false => fed.push(frame.clone()),
                }
                assert!(!fed.is_empty());
            }
            assert_eq!(fed.take(), frames, "round {round}");
            assert!(fed.is_empty());
        }
        let held = |fed: &Fed| fed.0.as_ref().map(|frames| (frames.bytes.capacity(), frames.owned.capacity())).unwrap();
        assert!(held(&fed).0 > KEPT);
        fed.shrink();
        assert!(held(&fed).0 <= KEPT && held(&fed).1 == 0);
    }
}
