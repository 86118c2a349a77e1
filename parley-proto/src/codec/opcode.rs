//! What a frame is: the opcode (RFC 6455, sections 5.2 and 11.8).

use super::FrameError;

/// The opcode of a frame: bits 4 to 7 of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// A further fragment of the message under way.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The closing handshake (section 5.5.1).
    Close = 0x8,
    /// Asks for a pong (section 5.5.2).
    Ping = 0x9,
    /// Answers a ping, or is sent unasked (section 5.5.3).
    Pong = 0xA,
}

impl OpCode {
    /// The opcode in the low four bits of a frame's first byte; the other bits are not looked at.
    ///
    /// # Errors
    ///
    /// [`FrameError::ReservedOpCode`] for 0x3 to 0x7 and 0xB to 0xF: no extension that gives them a meaning exists here.
    #[inline]
    pub const fn from_bits(bits: u8) -> Result<Self, FrameError> {
        Ok(match bits & 0x0F {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            reserved => return Err(FrameError::ReservedOpCode(reserved)),
        })
    }

    /// The four bits on the wire.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// Close, ping or pong: at most 125 bytes of payload and never fragmented (section 5.5).
    #[inline]
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opcode_survives_the_wire_and_the_others_are_reserved() {
        for bits in 0x0..=0xF {
            match OpCode::from_bits(bits) {
                Ok(opcode) => {
                    assert_eq!(opcode.bits(), bits);
                    assert_eq!(opcode.is_control(), bits >= 0x8);
                }
                Err(error) => {
                    assert!(matches!(bits, 0x3..=0x7 | 0xB..=0xF));
                    assert_eq!(error, FrameError::ReservedOpCode(bits));
                }
            }
        }
    }
}
