//! Messages in parts: RFC 6455, section 5.4, as an application sees it that does not want them whole.

use bytes::Bytes;

use super::OpCode;

/// A part of a text or binary message.
///
/// The parts of one message come in order, with nothing but pings and pongs between them; put together, their payloads
/// are the message's. How they are cut says nothing: not how the peer fragmented the message, and a part of a text may
/// end inside a character. Of those that are received only the last may be empty.
///
/// To send a message in parts, send its parts in order: the first with `first`, the last with `last`, all of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// The part's bytes. Of a text, all parts together are UTF-8.
    pub payload: Bytes,
    /// Whether the message is a text.
    pub text: bool,
    /// The message begins with this part.
    pub first: bool,
    /// The message ends with this part.
    pub last: bool,
}

impl Chunk {
    /// A part in the middle of a text; see [`first`](Self::first) and [`last`](Self::last).
    #[must_use]
    pub fn text(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), text: true, first: false, last: false }
    }

    /// A part in the middle of a binary message.
    #[must_use]
    pub fn binary(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), text: false, first: false, last: false }
    }

    /// The same as the message's first part.
    #[must_use]
    pub fn first(mut self) -> Self {
        self.first = true;
        self
    }

    /// The same as the message's last part.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.last = true;
        self
    }

    /// What the part is on the wire, where each is a fragment.
    #[must_use]
    pub const fn opcode(&self) -> OpCode {
        match (self.first, self.text) {
            (false, _) => OpCode::Continuation,
            (true, true) => OpCode::Text,
            (true, false) => OpCode::Binary,
        }
    }
}
