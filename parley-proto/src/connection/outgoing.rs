//! What sends, apart from what receives: a frame that is lent can be answered while it is.

use super::ENCODE_AHEAD;
use crate::codec::{Encoder, Frame, FrameRef, MAX_CONTROL};
use crate::error::SendError;

/// The sending half of a connection.
pub(crate) struct Outgoing<'a> {
    pub(super) gate: Gate,
    pub(super) encoder: &'a mut Encoder,
}

/// What is in the way of a frame, as long as nothing but frames is sent. Of a word, lest it be moved in parts.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Gate {
    Open,
    /// A pong, which goes first (section 5.5.2: as soon as is practical).
    Pong,
    /// The rest of a message in parts: only control frames go between them.
    Parts,
    Connecting,
    Closing,
}

impl Outgoing<'_> {
    /// See [`Connection::send`](super::Connection::send), but for the bound. A pong that waits was to be sent before.
    pub(crate) fn send(self, frame: Frame) -> Result<u64, SendError> {
        debug_assert!(self.gate != Gate::Pong, "it goes first");
        match self.gate {
            Gate::Connecting => Err(SendError::Disconnected(frame)),
            Gate::Closing => Err(SendError::Closing(frame)),
            _ if frame.is_control() && frame.len() > MAX_CONTROL => Err(SendError::ControlTooLong(frame)),
            Gate::Parts if !frame.is_control() => Err(SendError::OutOfTurn(frame)),
            Gate::Parts | Gate::Pong | Gate::Open => Ok(self.encoder.frame(frame)),
        }
    }

    /// [`send`](Self::send) for what is rare.
    #[inline(always)]
    pub(crate) fn send_boxed(self, frame: Box<Frame>) -> Result<(), Box<SendError>> {
        send_boxed(self.gate, self.encoder, frame)
    }

    /// [`send`](Self::send) for the usual case: false if anything at all is in its way, or the frame is not a small message.
    #[inline(always)]
    pub(crate) fn send_short(&mut self, frame: FrameRef<'_>) -> bool {
        self.encoder.queued() < ENCODE_AHEAD && self.reply_short(frame)
    }

    /// [`send_short`](Self::send_short) for who has found that there is room.
    #[inline(always)]
    pub(crate) fn reply_short(&mut self, frame: FrameRef<'_>) -> bool {
        self.gate == Gate::Open && self.encoder.small_message(frame)
    }
}

/// Of arguments that go in registers, so that an [`Outgoing`] need not be in memory.
#[cold]
#[inline(never)]
#[expect(clippy::boxed_local, reason = "it is a word then")]
fn send_boxed(gate: Gate, encoder: &mut Encoder, frame: Box<Frame>) -> Result<(), Box<SendError>> {
    Outgoing { gate, encoder }.send(*frame).map(drop).map_err(Box::new)
}
