//! The header of a frame: RFC 6455, section 5.2.
//!
//! ```text
//!  byte 0            byte 1            then                         then
//! +-+-+-+-+-------+ +-+-------------+ +--------------------------+ +-----------------------+
//! |F|R|R|R| opcode| |M| length      | | 16-bit length if 126     | | masking key, 4 bytes, |
//! |I|S|S|S|  (4)  | |A|   (7)       | | 64-bit length if 127     | | if MASK is set        |
//! |N|V|V|V|       | |S|             | |                          | |                       |
//! | |1|2|3|       | |K|             | |                          | |                       |
//! +-+-+-+-+-------+ +-+-------------+ +--------------------------+ +-----------------------+
//! ```

use bytes::BufMut;

use super::{FrameError, OpCode};

/// FIN: the last, or only, fragment of a message.
pub(super) const FIN: u8 = 0x80;
/// MASK: a masking key follows the length.
pub(super) const MASK: u8 = 0x80;
/// The largest payload of a control frame, and the largest length that seven bits carry as themselves.
pub(crate) const MAX_CONTROL: usize = 125;
/// Bytes of a masking key.
pub(super) const KEY: usize = 4;
/// The 7-bit length that says: the length is in the next two bytes.
pub(super) const LENGTH_16: u8 = 126;
/// The 7-bit length that says: the length is in the next eight bytes.
pub(super) const LENGTH_64: u8 = 127;
/// The longest header there is.
pub(super) const MAX_HEADER: usize = 14;

/// The three reserved bits of a header. They are zero unless an extension gives them a meaning (section 5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rsv(u8);

impl Rsv {
    /// No bit set.
    pub const NONE: Self = Self(0x0);
    /// RSV1; permessage-deflate marks compressed messages with it (RFC 7692, section 6).
    pub const RSV1: Self = Self(0x4);
    /// RSV2.
    pub const RSV2: Self = Self(0x2);
    /// RSV3.
    pub const RSV3: Self = Self(0x1);

    /// The bits of a frame's first byte.
    #[inline]
    const fn from_first_byte(byte: u8) -> Self {
        Self((byte >> 4) & 0x7)
    }

    /// Whether no bit is set.
    #[inline]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether all bits of `other` are set.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The first two bytes of a header: all that decides whether the frame may come now, whatever its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) fin: bool,
    pub(super) rsv: Rsv,
    pub(super) opcode: OpCode,
    pub(super) masked: bool,
    /// The 7-bit length: the length itself, [`LENGTH_16`] or [`LENGTH_64`].
    pub(super) length: u8,
}

impl Prefix {
    pub(super) const LEN: usize = 2;

    /// Checks the opcode and, for control frames, FIN and length (sections 5.2 and 5.5).
    pub(super) const fn decode(first: u8, second: u8) -> Result<Self, FrameError> {
        let opcode = match opcode_of(first) {
            Ok(opcode) => opcode,
            Err(error) => return Err(error),
        };
        let length = second & !MASK;
        if opcode.is_control() && length as usize > MAX_CONTROL {
            return Err(FrameError::ControlTooLong);
        }
        let (fin, masked) = (first & FIN != 0, second & MASK != 0);
        Ok(Self { fin, rsv: Rsv::from_first_byte(first), opcode, masked, length })
    }

    /// The bytes of the whole header, with the key.
    pub(super) const fn header_len(self) -> usize {
        let extended = match self.length {
            LENGTH_16 => 2,
            LENGTH_64 => 8,
            _ => 0,
        };
        Self::LEN + extended + if self.masked { KEY } else { 0 }
    }

    /// The payload length; `extended` follows the prefix. `None`: incomplete. An error shows at the first byte that settles it.
    pub(super) fn payload_len(self, extended: &[u8]) -> Result<Option<u64>, FrameError> {
        match self.length {
            LENGTH_16 => {
                let Some(bytes) = extended.first_chunk() else { return Ok(None) };
                let length = u16::from_be_bytes(*bytes);
                if usize::from(length) <= MAX_CONTROL {
                    return Err(FrameError::LengthNotMinimal);
                }
                Ok(Some(u64::from(length)))
            }
            LENGTH_64 => {
                // "the most significant bit MUST be 0"
                if extended.first().is_some_and(|byte| byte & 0x80 != 0) {
                    return Err(FrameError::LengthOverflow);
                }
                // "the minimal number of bytes MUST be used": 16 bits would have carried what leaves six zero bytes.
                if extended.first_chunk() == Some(&[0; 6]) {
                    return Err(FrameError::LengthNotMinimal);
                }
                Ok(extended.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)))
            }
            length => Ok(Some(u64::from(length))),
        }
    }
}

/// What the first byte alone can show: a reserved opcode (5.2) or a fragmented control frame (5.5).
const fn opcode_of(first: u8) -> Result<OpCode, FrameError> {
    match OpCode::from_bits(first) {
        Ok(opcode) if opcode.is_control() && first & FIN == 0 => Err(FrameError::ControlFragmented),
        other => other,
    }
}

/// The header of one frame.
///
/// Whether masking, reserved bits or a continuation are right at this place is for the [`Decoder`](super::Decoder)
/// to say: it depends on the role and on what came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The last, or only, fragment of a message.
    pub fin: bool,
    /// The reserved bits.
    pub rsv: Rsv,
    /// What the frame is.
    pub opcode: OpCode,
    /// The key that the payload is masked with; every client's frame has one (section 5.3).
    pub masking_key: Option<[u8; 4]>,
    /// Bytes of payload that follow the header, at most 2^63 - 1.
    pub payload_len: u64,
}

impl FrameHeader {
    /// Decodes the header at the front of `input`, and says how many bytes it takes. `None`: incomplete.
    ///
    /// # Errors
    ///
    /// A reserved opcode, a control frame that is fragmented or announces more than 125 bytes, a length that is not
    /// in its shortest form or has bit 63 set; each as soon as the bytes show it (sections 5.2 and 5.5).
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let (first, second) = match *input {
            [] => return Ok(None),
            [first] => return opcode_of(first).map(|_| None),
            [first, second, ..] => (first, second),
        };
        let prefix = Prefix::decode(first, second)?;
        let Some(payload_len) = prefix.payload_len(&input[Prefix::LEN..])? else { return Ok(None) };
        let len = prefix.header_len();
        let Some(header) = input.get(..len) else { return Ok(None) };
        let masking_key = if prefix.masked { header.last_chunk().copied() } else { None };
        Ok(Some((Self { fin: prefix.fin, rsv: prefix.rsv, opcode: prefix.opcode, masking_key, payload_len }, len)))
    }

    /// Appends the header to `out`, 2 to 14 bytes, as the fields say: that they are legal is the caller's part.
    ///
    /// # Panics
    ///
    /// If `out` has no room for it.
    pub fn encode(&self, out: &mut impl BufMut) {
        let (header, len) = self.to_bytes();
        out.put_slice(&header[..len]);
    }

    /// The header, and how many of the bytes it takes.
    #[inline]
    pub(super) fn to_bytes(self) -> ([u8; MAX_HEADER], usize) {
        let mut bytes = [0; MAX_HEADER];
        bytes[0] = if self.fin { FIN } else { 0 } | self.rsv.0 << 4 | self.opcode.bits();
        let (length, mut len) = match self.payload_len {
            // The guards of the arms make both casts exact.
            length @ 0..126 => (length as u8, 2),
            length @ 126..0x1_0000 => {
                bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                (LENGTH_16, 4)
            }
            length => {
                bytes[2..10].copy_from_slice(&length.to_be_bytes());
                (LENGTH_64, 10)
            }
        };
        bytes[1] = length;
        if let Some(key) = self.masking_key {
            bytes[1] |= MASK;
            bytes[len..len + 4].copy_from_slice(&key);
            len += 4;
        }
        (bytes, len)
    }
}

/// Writes a header to the front of `out`, which has room for the longest, and returns its length.
///
/// As [`FrameHeader::encode`], without the detour over a header.
#[inline]
pub(super) fn put_header(out: &mut [u8], first: u8, payload_len: usize, key: Option<[u8; 4]>) -> usize {
    let mask_bit = if key.is_some() { MASK } else { 0 };
    let Some(out) = out.first_chunk_mut::<MAX_HEADER>() else { return 0 };
    out[0] = first;
    let len = if payload_len <= MAX_CONTROL {
        out[1] = mask_bit | payload_len as u8;
        2
    } else if let Ok(payload_len) = u16::try_from(payload_len) {
        out[1] = mask_bit | LENGTH_16;
        out[2..4].copy_from_slice(&payload_len.to_be_bytes());
        4
    } else {
        out[1] = mask_bit | LENGTH_64;
        out[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
        10
    };
    match key {
        Some(key) => {
            out[len..len + 4].copy_from_slice(&key);
            len + 4
        }
        None => len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(opcode: OpCode, masking_key: Option<[u8; 4]>, payload_len: u64) -> FrameHeader {
        FrameHeader { fin: true, rsv: Rsv::NONE, opcode, masking_key, payload_len }
    }

    fn encoded(header: FrameHeader) -> Vec<u8> {
        let mut out = Vec::new();
        header.encode(&mut out);
        out
    }

    #[test]
    fn the_union_of_reserved_bits_has_those_of_both() {
        assert_eq!(Rsv::RSV1.union(Rsv::RSV1), Rsv::RSV1);
        assert_eq!(Rsv::RSV1.union(Rsv::NONE), Rsv::RSV1);
        assert_eq!(Rsv::RSV1.union(Rsv::RSV3).0, 0x5);
    }

    #[test]
    fn lengths_take_the_shortest_form() {
        let cases: [(u64, &[u8]); 7] = [
            (0, &[0x82, 0]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65535, &[0x82, 126, 0xFF, 0xFF]),
            (65536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (1 << 32, &[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0]),
            (i64::MAX as u64, &[0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
        ];
        for (len, bytes) in cases {
            let header = header(OpCode::Binary, None, len);
            assert_eq!(encoded(header), bytes);
            assert_eq!(FrameHeader::decode(bytes), Ok(Some((header, bytes.len()))));
        }
    }

    #[test]
    fn other_forms_are_refused_as_soon_as_they_show() {
        let cases: [(&[u8], FrameError); 6] = [
            (&[0x82, 126, 0, 125], FrameError::LengthNotMinimal),
            (&[0x82, 126, 0, 0], FrameError::LengthNotMinimal),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0], FrameError::LengthNotMinimal),
            (&[0x82, 127, 0x80], FrameError::LengthOverflow),
            (&[0x82, 127, 0xFF], FrameError::LengthOverflow),
            (&[0x82, 0xFF, 0x80], FrameError::LengthOverflow),
        ];
        for (bytes, error) in cases {
            assert_eq!(FrameHeader::decode(bytes), Err(error));
            assert_eq!(FrameHeader::decode(&bytes[..bytes.len() - 1]), Ok(None));
        }
    }

    #[test]
    fn control_frames_are_short_and_whole() {
        for opcode in [0x8, 0x9, 0xA] {
            assert_eq!(FrameHeader::decode(&[opcode]), Err(FrameError::ControlFragmented));
            assert!(FrameHeader::decode(&[FIN | opcode, 125]).unwrap().is_some());
            assert_eq!(FrameHeader::decode(&[FIN | opcode, 126]), Err(FrameError::ControlTooLong));
            assert_eq!(FrameHeader::decode(&[FIN | opcode, 127]), Err(FrameError::ControlTooLong));
        }
    }

    #[test]
    fn reserved_opcodes_show_in_the_first_byte() {
        for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
            assert_eq!(FrameHeader::decode(&[FIN | opcode]), Err(FrameError::ReservedOpCode(opcode)));
        }
    }

    #[test]
    fn reserved_bits_are_kept_for_extensions() {
        let (header, _) = FrameHeader::decode(&[0xD1, 0]).unwrap().unwrap();
        assert_eq!(header.rsv, Rsv::RSV1.union(Rsv::RSV3));
        assert!(header.rsv.contains(Rsv::RSV1) && !header.rsv.contains(Rsv::RSV2));
        assert_eq!(encoded(header), [0xD1, 0]);
    }

    proptest! {
        #[test]
        fn headers_survive_the_wire_and_no_prefix_is_enough(
            fin: bool,
            rsv in 0u8..8,
            opcode in prop::sample::select(vec![OpCode::Continuation, OpCode::Text, OpCode::Binary, OpCode::Ping]),
            masking_key: Option<[u8; 4]>,
            shift in 1u32..64,
            length: u64,
        ) {
            let control = opcode.is_control();
            let payload_len = if control { length % 126 } else { length >> shift };
            let header = FrameHeader { fin: fin || control, rsv: Rsv(rsv), opcode, masking_key, payload_len };
            let bytes = encoded(header);
            prop_assert_eq!(FrameHeader::decode(&bytes), Ok(Some((header, bytes.len()))));
            for end in 0..bytes.len() {
                prop_assert_eq!(FrameHeader::decode(&bytes[..end]), Ok(None));
            }
        }
    }
}
