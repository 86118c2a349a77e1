//! How a connection ends: close codes (RFC 6455, section 7.4) and the payload of close frames (section 5.5.1).

use std::fmt;

use bytes::{BufMut, Bytes};

use super::header::MAX_CONTROL;
use super::{FrameError, Utf8Bytes};

/// Bytes of a close code on the wire.
const CODE: usize = 2;

/// The code of a close frame: why the connection ends (section 7.4).
///
/// Any number can be held, so that a code that was received can be reported; [`is_sendable`](Self::is_sendable)
/// tells those that may go on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: a server goes down, or a browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a kind of data that this endpoint cannot accept.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1007: data that contradicts its type, such as text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: a message against this endpoint's policy.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message too big to process.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1010: the server agreed to none of the extensions that the client needs.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// 1011: the endpoint met something unexpected.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the service restarts (registered with IANA after the RFC).
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: the service is overloaded (registered with IANA after the RFC).
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// 1014: a gateway got an invalid response (registered with IANA after the RFC).
    pub const BAD_GATEWAY: Self = Self(1014);

    /// The number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether a close frame may carry it: 1000 to 1003, 1007 to 1014, 3000 to 4999.
    ///
    /// 1004 is reserved; 1005, 1006 and 1015 stand for the absence of a code and "MUST NOT be set as a status code"
    /// (section 7.4.1); the rest is for future versions or undefined (section 7.4.2).
    #[must_use]
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl From<u16> for CloseCode {
    fn from(code: u16) -> Self {
        Self(code)
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> Self {
        code.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The payload of a close frame: a code that may be sent, and a reason of at most
/// [`MAX_REASON`](Self::MAX_REASON) bytes. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CloseFrame {
    code: CloseCode,
    reason: Utf8Bytes,
}

/// A close frame that must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseFrameError {
    /// The code is not [sendable](CloseCode::is_sendable).
    CodeNotSendable(CloseCode),
    /// The reason is longer than [`CloseFrame::MAX_REASON`].
    ReasonTooLong {
        /// Its length in bytes.
        len: usize,
    },
}

impl fmt::Display for CloseFrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CodeNotSendable(code) => write!(f, "close code {code} must not be sent"),
            Self::ReasonTooLong { len } => {
                write!(f, "close reason of {len} bytes exceeds the {} that fit", CloseFrame::MAX_REASON)
            }
        }
    }
}

impl std::error::Error for CloseFrameError {}

impl CloseFrame {
    /// The longest reason in bytes: a control frame's 125 less the code's 2.
    pub const MAX_REASON: usize = MAX_CONTROL - CODE;

    /// A close frame with a code and a reason, which may be empty.
    ///
    /// # Errors
    ///
    /// The code is not [sendable](CloseCode::is_sendable), or the reason is longer than
    /// [`MAX_REASON`](Self::MAX_REASON) bytes.
    pub fn new(code: impl Into<CloseCode>, reason: impl Into<Utf8Bytes>) -> Result<Self, CloseFrameError> {
        let (code, reason) = (code.into(), reason.into());
        if !code.is_sendable() {
            return Err(CloseFrameError::CodeNotSendable(code));
        }
        if reason.len() > Self::MAX_REASON {
            return Err(CloseFrameError::ReasonTooLong { len: reason.len() });
        }
        Ok(Self { code, reason })
    }

    /// Code 1000 without a reason: the purpose is fulfilled.
    #[must_use]
    pub const fn normal() -> Self {
        Self::bare(CloseCode::NORMAL)
    }

    /// Code 1001 without a reason: this endpoint goes away.
    #[must_use]
    pub const fn going_away() -> Self {
        Self::bare(CloseCode::GOING_AWAY)
    }

    /// Code 1011 without a reason: this endpoint met something unexpected.
    #[must_use]
    pub const fn internal_error() -> Self {
        Self::bare(CloseCode::INTERNAL_ERROR)
    }

    /// The frame that fails a connection for `error` (section 7.1.7), without a reason: the peer that breaks the
    /// protocol is not the one to read it.
    #[must_use]
    pub const fn failure(error: &FrameError) -> Self {
        Self::bare(error.close_code())
    }

    /// `code` has to be sendable.
    const fn bare(code: CloseCode) -> Self {
        debug_assert!(code.is_sendable());
        Self { code, reason: Utf8Bytes::from_static("") }
    }

    /// The code, always sendable.
    #[inline]
    #[must_use]
    pub const fn code(&self) -> CloseCode {
        self.code
    }

    /// The reason, empty if none was given.
    #[inline]
    #[must_use]
    pub const fn reason(&self) -> &Utf8Bytes {
        &self.reason
    }

    /// Decodes the (unmasked) payload of a close frame. `None`: it is empty, the peer gave no code.
    ///
    /// # Errors
    ///
    /// [`ClosePayloadTruncated`](FrameError::ClosePayloadTruncated) for a single byte,
    /// [`CloseCodeInvalid`](FrameError::CloseCodeInvalid) for a code that is not sendable,
    /// [`InvalidUtf8`](FrameError::InvalidUtf8) for the reason, [`ControlTooLong`](FrameError::ControlTooLong) above
    /// 125 bytes.
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, FrameError> {
        if payload.len() > MAX_CONTROL {
            return Err(FrameError::ControlTooLong);
        }
        let Some((code, reason)) = payload.split_first_chunk::<CODE>() else {
            return if payload.is_empty() { Ok(None) } else { Err(FrameError::ClosePayloadTruncated) };
        };
        let code = CloseCode(u16::from_be_bytes(*code));
        if !code.is_sendable() {
            return Err(FrameError::CloseCodeInvalid(code.0));
        }
        let reason = Utf8Bytes::try_from(Bytes::copy_from_slice(reason)).map_err(|_| FrameError::InvalidUtf8)?;
        Ok(Some(Self { code, reason }))
    }

    /// Appends the payload, 2 to 125 bytes, to `out`.
    ///
    /// # Panics
    ///
    /// If `out` has no room for it.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u16(self.code.0);
        out.put_slice(self.reason.as_bytes());
    }
}

impl fmt::Display for CloseFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.fmt(f)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hazard_11_sendable_codes_are_those_of_section_7_4() {
        let sendable = |code: u16| CloseCode::from(code).is_sendable();
        for code in 0..=u16::MAX {
            let expected =
                (1000..=1003).contains(&code) || (1007..=1014).contains(&code) || (3000..5000).contains(&code);
            assert_eq!(sendable(code), expected, "{code}");
        }
    }

    #[test]
    fn only_what_may_be_sent_can_be_built() {
        let error = CloseFrame::new(1005, "").unwrap_err();
        assert_eq!(error, CloseFrameError::CodeNotSendable(CloseCode::from(1005)));
        assert!(CloseFrame::new(CloseCode::NORMAL, "x".repeat(123)).is_ok());
        let error = CloseFrame::new(CloseCode::NORMAL, "x".repeat(124)).unwrap_err();
        assert_eq!(error, CloseFrameError::ReasonTooLong { len: 124 });
        assert!(error.to_string().contains("124"), "{error}");
    }

    #[test]
    fn payloads_survive_the_wire() {
        let mut out = Vec::new();
        CloseFrame::new(1001, "bye").unwrap().encode(&mut out);
        assert_eq!(out, b"\x03\xE9bye");
        let frame = CloseFrame::decode(&out).unwrap().unwrap();
        assert_eq!((frame.code(), frame.reason().as_str()), (CloseCode::GOING_AWAY, "bye"));
        assert_eq!(frame.to_string(), "1001 (bye)");
        assert_eq!((u16::from(frame.code()), frame.code().get()), (1001, 1001));
    }

    #[test]
    fn hazard_11_payloads_are_checked() {
        assert_eq!(CloseFrame::decode(b""), Ok(None));
        assert_eq!(CloseFrame::decode(b"\x03"), Err(FrameError::ClosePayloadTruncated));
        assert_eq!(CloseFrame::decode(b"\x03\xE8"), Ok(Some(CloseFrame::normal())));
        assert_eq!(CloseFrame::decode(b"\x03\xED"), Err(FrameError::CloseCodeInvalid(1005)));
        assert_eq!(CloseFrame::decode(b"\x03\xE8\xFF"), Err(FrameError::InvalidUtf8));
        assert_eq!(CloseFrame::decode(&[3; 126]), Err(FrameError::ControlTooLong));
        let longest = [&b"\x03\xE8"[..], &[b'x'; 123]].concat();
        assert_eq!(CloseFrame::decode(&longest), Ok(Some(CloseFrame::new(1000, "x".repeat(123)).unwrap())));
    }
}
