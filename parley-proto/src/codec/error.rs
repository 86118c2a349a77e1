//! How a peer can break the framing rules, and the close code that each fault earns (RFC 6455, section 7.4.1).

use std::fmt;

use super::CloseCode;

/// The peer broke a rule of RFC 6455, section 5, or went over a limit: fail the connection (section 7.1.7) with
/// [`close_code`](Self::close_code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameError {
    /// A reserved bit is set and no extension gave it a meaning (5.2).
    ReservedBits,
    /// An opcode that no one has defined (5.2).
    ReservedOpCode(u8),
    /// A client's frame is not masked (5.1).
    MaskMissing,
    /// A server's frame is masked (5.1).
    MaskUnexpected,
    /// A payload length is not in its shortest form (5.2).
    LengthNotMinimal,
    /// The most significant bit of a 64-bit payload length is set (5.2).
    LengthOverflow,
    /// A control frame without the FIN bit (5.5).
    ControlFragmented,
    /// A control frame with more than 125 bytes of payload (5.5).
    ControlTooLong,
    /// A continuation frame, but no message is under way (5.4).
    UnexpectedContinuation,
    /// A new message inside a fragmented one (5.4).
    ExpectedContinuation,
    /// Text, or a close reason, that is not UTF-8 (8.1).
    InvalidUtf8,
    /// A message of more than `limit` bytes of payload.
    MessageTooBig {
        /// [`Limits::message`](crate::Limits::message), in bytes.
        limit: usize,
    },
    /// A message in more than `limit` fragments.
    TooManyFragments {
        /// [`Limits::fragments`](crate::Limits::fragments).
        limit: usize,
    },
    /// More than `limit` fragments in a row without payload.
    TooManyEmptyFragments {
        /// [`Limits::empty_fragments`](crate::Limits::empty_fragments).
        limit: usize,
    },
    /// A close frame with one byte of payload: half a close code (5.5.1).
    ClosePayloadTruncated,
    /// A close code that must not be sent (7.4).
    CloseCodeInvalid(u16),
}

impl FrameError {
    /// The code to fail the connection with (section 7.4.1).
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::InvalidUtf8 => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig { .. } => CloseCode::MESSAGE_TOO_BIG,
            // Both are legal by section 5.4; it is this end that has had enough.
            Self::TooManyFragments { .. } | Self::TooManyEmptyFragments { .. } => CloseCode::POLICY_VIOLATION,
            Self::ReservedBits
            | Self::ReservedOpCode(_)
            | Self::MaskMissing
            | Self::MaskUnexpected
            | Self::LengthNotMinimal
            | Self::LengthOverflow
            | Self::ControlFragmented
            | Self::ControlTooLong
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::ClosePayloadTruncated
            | Self::CloseCodeInvalid(_) => CloseCode::PROTOCOL_ERROR,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits => f.write_str("reserved bits are set"),
            Self::ReservedOpCode(opcode) => write!(f, "reserved opcode 0x{opcode:X}"),
            Self::MaskMissing => f.write_str("frame from a client is not masked"),
            Self::MaskUnexpected => f.write_str("frame from a server is masked"),
            Self::LengthNotMinimal => f.write_str("payload length is not in its shortest form"),
            Self::LengthOverflow => f.write_str("payload length exceeds 63 bits"),
            Self::ControlFragmented => f.write_str("control frame is fragmented"),
            Self::ControlTooLong => f.write_str("control frame has more than 125 bytes of payload"),
            Self::UnexpectedContinuation => f.write_str("continuation frame outside of a fragmented message"),
            Self::ExpectedContinuation => f.write_str("new message inside a fragmented message"),
            Self::InvalidUtf8 => f.write_str("text is not UTF-8"),
            Self::MessageTooBig { limit } => write!(f, "message exceeds the limit of {limit} bytes"),
            Self::TooManyFragments { limit } => write!(f, "message exceeds the limit of {limit} fragments"),
            Self::TooManyEmptyFragments { limit } => write!(f, "message exceeds {limit} empty fragments in a row"),
            Self::ClosePayloadTruncated => f.write_str("close frame has one byte of payload"),
            Self::CloseCodeInvalid(code) => write!(f, "close code {code} must not be sent"),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_map_to_the_close_codes_of_section_7_4_1() {
        assert_eq!(FrameError::ReservedBits.close_code(), CloseCode::PROTOCOL_ERROR);
        assert_eq!(FrameError::CloseCodeInvalid(1005).close_code(), CloseCode::PROTOCOL_ERROR);
        assert_eq!(FrameError::InvalidUtf8.close_code(), CloseCode::INVALID_PAYLOAD);
        assert_eq!(FrameError::MessageTooBig { limit: 1 }.close_code(), CloseCode::MESSAGE_TOO_BIG);
        assert_eq!(FrameError::TooManyFragments { limit: 1 }.close_code(), CloseCode::POLICY_VIOLATION);
        assert_eq!(FrameError::TooManyEmptyFragments { limit: 1 }.close_code(), CloseCode::POLICY_VIOLATION);
    }

    #[test]
    fn messages_name_the_offending_value() {
        assert_eq!(FrameError::ReservedOpCode(0xB).to_string(), "reserved opcode 0xB");
        assert_eq!(FrameError::MessageTooBig { limit: 7 }.to_string(), "message exceeds the limit of 7 bytes");
        assert_eq!(FrameError::CloseCodeInvalid(1005).to_string(), "close code 1005 must not be sent");
    }
}
