//! What is sent and received: whole messages, pings and pongs (RFC 6455, sections 5.5 and 5.6).

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use super::{FrameError, OpCode, utf8};

/// Bytes that are known to be UTF-8. Cheap to clone; a slice of a buffer that others may share.
///
/// Text that arrives is checked once, on its way in. This crate has no `unsafe` code, so that every view of the
/// bytes as a `str` ([`as_str`](Self::as_str), `Deref`, `Display`) checks them again: some 10 ns for 100 bytes of
/// ASCII. Take the `str` once and keep it; what works on the bytes ([`as_bytes`](Self::as_bytes),
/// [`len`](Self::len), `==`, ordering, hashing) costs nothing.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utf8Bytes(
    /// Invariant: valid UTF-8.
    Bytes,
);

/// Cheap: the bytes are shared.
impl Clone for Utf8Bytes {
    #[inline]
    fn clone(&self) -> Self {
        Self(share(&self.0))
    }
}

/// A slice of all of it is a clone that is put together here; `Bytes::clone` comes through memory, and whoever moves it waits for
/// the stores.
#[inline]
fn share(bytes: &Bytes) -> Bytes {
    bytes.slice(..)
}

impl Utf8Bytes {
    /// A string that lives as long as the program; no allocation.
    #[inline]
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// Bytes that have been through a check already.
    #[inline]
    pub(crate) fn from_validated(bytes: Bytes) -> Self {
        debug_assert!(std::str::from_utf8(&bytes).is_ok());
        Self(bytes)
    }

    /// The text. Checks the bytes again: see the type.
    #[must_use]
    pub fn as_str(&self) -> &str {
        simdutf8::basic::from_utf8(&self.0).expect("every constructor of Utf8Bytes takes UTF-8 only")
    }

    /// The bytes of the text.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The length in bytes.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no text.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a copy.
    #[inline]
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for Utf8Bytes {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Utf8Bytes {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<[u8]> for Utf8Bytes {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Borrow<str> for Utf8Bytes {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// As `str` is hashed, which `Borrow` asks for.
impl std::hash::Hash for Utf8Bytes {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Utf8Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl fmt::Debug for Utf8Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq<str> for Utf8Bytes {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for Utf8Bytes {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl PartialEq<Utf8Bytes> for str {
    fn eq(&self, other: &Utf8Bytes) -> bool {
        other == self
    }
}

impl PartialEq<Utf8Bytes> for &str {
    fn eq(&self, other: &Utf8Bytes) -> bool {
        other == self
    }
}

impl From<String> for Utf8Bytes {
    #[inline]
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&'static str> for Utf8Bytes {
    #[inline]
    fn from(text: &'static str) -> Self {
        Self::from_static(text)
    }
}

impl From<Utf8Bytes> for Bytes {
    #[inline]
    fn from(text: Utf8Bytes) -> Self {
        text.0
    }
}

impl TryFrom<Bytes> for Utf8Bytes {
    type Error = FrameError;

    /// [`FrameError::InvalidUtf8`] if the bytes are not UTF-8.
    fn try_from(bytes: Bytes) -> Result<Self, FrameError> {
        utf8::check(&bytes)?;
        Ok(Self(bytes))
    }
}

/// A message, a ping or a pong. Cheap to clone.
///
/// Messages are whole: how a peer fragments them does not show. Close frames are not among these: see
/// [`CloseFrame`](super::CloseFrame).
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Frame {
    /// A text message (0x1).
    Text(Utf8Bytes),
    /// A binary message (0x2).
    Binary(Bytes),
    /// A ping (0x9); at most 125 bytes can be sent.
    Ping(Bytes),
    /// A pong (0xA); at most 125 bytes can be sent.
    Pong(Bytes),
}

/// Cheap: the payload is shared.
impl Clone for Frame {
    #[inline]
    fn clone(&self) -> Self {
        match self {
            Self::Text(text) => Self::Text(text.clone()),
            Self::Binary(payload) => Self::Binary(share(payload)),
            Self::Ping(payload) => Self::Ping(share(payload)),
            Self::Pong(payload) => Self::Pong(share(payload)),
        }
    }
}

impl Frame {
    /// A text message.
    #[inline]
    #[must_use]
    pub fn text(text: impl Into<Utf8Bytes>) -> Self {
        Self::Text(text.into())
    }

    /// A binary message.
    #[inline]
    #[must_use]
    pub fn binary(payload: impl Into<Bytes>) -> Self {
        Self::Binary(payload.into())
    }

    /// A ping.
    #[inline]
    #[must_use]
    pub fn ping(payload: impl Into<Bytes>) -> Self {
        Self::Ping(payload.into())
    }

    /// A pong.
    #[inline]
    #[must_use]
    pub fn pong(payload: impl Into<Bytes>) -> Self {
        Self::Pong(payload.into())
    }

    /// The payload; the bytes of a text.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        match self {
            Self::Text(text) => &text.0,
            Self::Binary(payload) | Self::Ping(payload) | Self::Pong(payload) => payload,
        }
    }

    /// The payload, without a copy.
    #[inline]
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        match self {
            Self::Text(text) => text.0,
            Self::Binary(payload) | Self::Ping(payload) | Self::Pong(payload) => payload,
        }
    }

    /// Bytes of payload.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload().len()
    }

    /// Whether the payload is empty.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload().is_empty()
    }

    /// What the frame is on the wire.
    #[inline]
    #[must_use]
    pub const fn opcode(&self) -> OpCode {
        match self {
            Self::Text(_) => OpCode::Text,
            Self::Binary(_) => OpCode::Binary,
            Self::Ping(_) => OpCode::Ping,
            Self::Pong(_) => OpCode::Pong,
        }
    }

    /// A ping or a pong.
    #[inline]
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.opcode().is_control()
    }
}

/// A message, a ping or a pong that somebody else holds: the buffer that it was read into, say.
///
/// No reference is counted for it, which is a good part of what a small [`Frame`] costs. Who wants to keep it
/// [copies](Self::to_frame) it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameRef<'a>(Payload<'a>);

/// With a wide tag: one of a byte is moved in parts, and read before they are all there.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Payload<'a> {
    /// Invariant: valid UTF-8.
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
}

impl<'a> FrameRef<'a> {
    /// A text message.
    #[inline]
    #[must_use]
    pub const fn text(text: &'a str) -> Self {
        Self(Payload::Text(text.as_bytes()))
    }

    /// A binary message.
    #[inline]
    #[must_use]
    pub const fn binary(payload: &'a [u8]) -> Self {
        Self(Payload::Binary(payload))
    }

    /// A ping.
    #[inline]
    #[must_use]
    pub const fn ping(payload: &'a [u8]) -> Self {
        Self(Payload::Ping(payload))
    }

    /// A pong.
    #[inline]
    #[must_use]
    pub const fn pong(payload: &'a [u8]) -> Self {
        Self(Payload::Pong(payload))
    }

    /// A message, ping or pong; a text has been through a check already.
    #[inline(always)]
    pub(crate) fn of_kind(opcode: OpCode, payload: &'a [u8]) -> Self {
        debug_assert!(opcode != OpCode::Text || std::str::from_utf8(payload).is_ok());
        Self(match opcode {
            OpCode::Text => Payload::Text(payload),
            OpCode::Ping => Payload::Ping(payload),
            OpCode::Pong => Payload::Pong(payload),
            OpCode::Binary | OpCode::Continuation | OpCode::Close => Payload::Binary(payload),
        })
    }

    /// [`Text`](OpCode::Text), [`Binary`](OpCode::Binary), [`Ping`](OpCode::Ping) or [`Pong`](OpCode::Pong).
    #[inline]
    #[must_use]
    pub const fn opcode(self) -> OpCode {
        match self.0 {
            Payload::Text(_) => OpCode::Text,
            Payload::Binary(_) => OpCode::Binary,
            Payload::Ping(_) => OpCode::Ping,
            Payload::Pong(_) => OpCode::Pong,
        }
    }

    /// The payload; the bytes of a text.
    #[inline]
    #[must_use]
    pub const fn payload(self) -> &'a [u8] {
        match self.0 {
            Payload::Text(payload) | Payload::Binary(payload) | Payload::Ping(payload) | Payload::Pong(payload) => {
                payload
            }
        }
    }

    /// Bytes of payload.
    #[inline]
    #[must_use]
    pub const fn len(self) -> usize {
        self.payload().len()
    }

    /// Whether the payload is empty.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.payload().is_empty()
    }

    /// The text, if it is one. Checks the bytes again: see [`Utf8Bytes`].
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        match self.0 {
            Payload::Text(text) => Some(simdutf8::basic::from_utf8(text).expect("every text is UTF-8")),
            _ => None,
        }
    }

    /// A frame of its own, with a copy of the payload.
    #[must_use]
    pub fn to_frame(self) -> Frame {
        self.with_payload(Bytes::copy_from_slice(self.payload()))
    }

    /// A frame of this kind, with this payload in other memory.
    pub(super) fn with_payload(self, payload: Bytes) -> Frame {
        debug_assert_eq!(self.payload(), payload);
        match self.0 {
            Payload::Text(_) => Frame::Text(Utf8Bytes::from_validated(payload)),
            Payload::Binary(_) => Frame::Binary(payload),
            Payload::Ping(_) => Frame::Ping(payload),
            Payload::Pong(_) => Frame::Pong(payload),
        }
    }
}

impl fmt::Debug for FrameRef<'_> {
    /// As a [`Frame`] would be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_frame().fmt(f)
    }
}

impl<'a> From<&'a Frame> for FrameRef<'a> {
    #[inline(always)]
    fn from(frame: &'a Frame) -> Self {
        Self(match frame {
            Frame::Text(text) => Payload::Text(text.as_bytes()),
            Frame::Binary(payload) => Payload::Binary(payload),
            Frame::Ping(payload) => Payload::Ping(payload),
            Frame::Pong(payload) => Payload::Pong(payload),
        })
    }
}

impl From<Utf8Bytes> for Frame {
    #[inline]
    fn from(text: Utf8Bytes) -> Self {
        Self::Text(text)
    }
}

impl From<String> for Frame {
    #[inline]
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<&'static str> for Frame {
    #[inline]
    fn from(text: &'static str) -> Self {
        Self::text(text)
    }
}

impl From<Bytes> for Frame {
    #[inline]
    fn from(payload: Bytes) -> Self {
        Self::Binary(payload)
    }
}

impl From<Vec<u8>> for Frame {
    #[inline]
    fn from(payload: Vec<u8>) -> Self {
        Self::binary(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_bytes_and_str_at_once() {
        let text = Utf8Bytes::from("na\u{EF}ve".to_owned());
        assert_eq!(text, "na\u{EF}ve");
        assert_eq!((text.len(), text.is_empty(), Utf8Bytes::default().is_empty()), (6, false, true));
        assert_eq!(text.chars().count(), 5);
        assert_eq!(format!("{text} {text:?}"), "na\u{EF}ve \"na\u{EF}ve\"");
        assert_eq!(Utf8Bytes::try_from(text.clone().into_bytes()), Ok(text));
        assert_eq!(Utf8Bytes::try_from(Bytes::from_static(b"\xFF")), Err(FrameError::InvalidUtf8));
    }

    #[test]
    fn text_compares_with_str_from_both_sides() {
        let text = Utf8Bytes::from_static("abc");
        for other in ["abc", "", "ab", "abd"] {
            let answers = [text == *other, text == other, *other == text, other == text];
            assert_eq!(answers, [other == "abc"; 4], "{other}");
        }
    }

    #[test]
    fn text_turns_into_str_and_bytes() {
        let text = Utf8Bytes::from_static("abc");
        assert_eq!((&*text, AsRef::<str>::as_ref(&text)), ("abc", "abc"));
        assert_eq!(AsRef::<[u8]>::as_ref(&text), b"abc");
        assert_eq!(Bytes::from(text), "abc");
    }

    #[test]
    fn text_is_found_in_a_map_by_str() {
        let map = std::collections::HashMap::from([(Utf8Bytes::from_static("key"), 1)]);
        assert_eq!(map.get("key"), Some(&1));
    }

    #[test]
    fn frames_know_their_opcode_and_payload() {
        let frames = [Frame::from("a"), Frame::from(vec![1, 2]), Frame::ping("abc"), Frame::pong("")];
        let opcodes = [OpCode::Text, OpCode::Binary, OpCode::Ping, OpCode::Pong];
        for ((frame, opcode), len) in frames.into_iter().zip(opcodes).zip([1, 2, 3, 0]) {
            assert_eq!((frame.opcode(), frame.len(), frame.is_empty()), (opcode, len, len == 0));
            assert_eq!(frame.is_control(), opcode.is_control());
            let lent = FrameRef::from(&frame);
            assert_eq!((lent.opcode(), lent.payload(), lent.to_frame()), (opcode, &frame.payload()[..], frame.clone()));
            assert_eq!((lent.len(), lent.is_empty(), format!("{lent:?}")), (len, len == 0, format!("{frame:?}")));
            assert_eq!(lent.as_str(), (opcode == OpCode::Text).then_some("a"));
            assert_eq!(frame.clone().into_payload(), *frame.payload());
        }
    }
}
