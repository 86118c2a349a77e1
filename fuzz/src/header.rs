//! A frame's header (RFC 6455, section 5.2): any bytes are read as the naive reader reads them, and any header comes back.
//!
//! Promises: an answer stays the same when more comes behind it; an error is given no earlier than nothing could mend it; the
//! bytes of a legal header are the only ones for it.

use parley_proto::codec::{FrameHeader, OpCode, Rsv};

use crate::input::Input;
use crate::naive::{self, Read};

/// Checks the promises on one input: the bytes of a header, and a header made of them.
///
/// # Panics
///
/// If one is broken.
pub fn run(input: &[u8]) {
    read(input);
    write(Input::new(input));
}

fn read(input: &[u8]) {
    let mut before = Ok(None);
    for len in 0..=input.len().min(16) {
        let bytes = &input[..len];
        let decoded = FrameHeader::decode(bytes);
        if before != Ok(None) {
            assert_eq!(decoded, before, "more bytes have changed the answer");
            continue;
        }
        match (&decoded, naive::header(bytes)) {
            (Ok(None), Read::Incomplete) | (Err(_), Read::Illegal(_)) => {}
            (Ok(Some((header, size))), Read::Whole(naive)) => {
                assert_eq!((*size, header.fin, header.opcode.bits()), (naive.size, naive.fin, naive.opcode));
                assert_eq!((header.masking_key, header.payload_len), (naive.key, naive.len));
                let rsv = [(Rsv::RSV1, 4), (Rsv::RSV2, 2), (Rsv::RSV3, 1)];
                assert!(rsv.iter().all(|(rsv, bit)| header.rsv.contains(*rsv) == (naive.rsv & bit != 0)));
                let mut again = Vec::new();
                header.encode(&mut again);
                assert_eq!(again, bytes[..*size], "another form of the same header");
            }
            (Err(_), Read::Incomplete) => {
                for filling in [0x00, 0x01, 0x7F, 0x80, 0xFF] {
                    let filled = [bytes, &[filling; 14]].concat();
                    assert!(matches!(naive::header(&filled), Read::Illegal(_)), "{decoded:?} although more may come");
                }
            }
            (_, naive) => panic!("{decoded:?}, but to the naive reader it is {naive:?}"),
        }
        before = decoded;
    }
}

fn write(mut input: Input<'_>) {
    let (first, flags) = (input.byte(), input.byte());
    let Ok(opcode) = OpCode::from_bits(first & 0xF) else { return };
    let rsv = [(0x40, Rsv::RSV1), (0x20, Rsv::RSV2), (0x10, Rsv::RSV3)];
    let rsv = rsv.into_iter().filter(|(bit, _)| first & bit != 0).fold(Rsv::NONE, |all, (_, rsv)| all.union(rsv));
    let masking_key = (flags & 0x1 != 0).then(|| [input.byte(), input.byte(), input.byte(), input.byte()]);
    // As many bits of length as the flags say, so that every form is common.
    let length = (0..8).fold(0, |length, _| length << 8 | u64::from(input.byte()));
    let payload_len = length >> 1 >> (flags >> 2);
    let header = FrameHeader { fin: first & 0x80 != 0, rsv, opcode, masking_key, payload_len };
    let mut wire = Vec::new();
    header.encode(&mut wire);
    let legal = !opcode.is_control() || header.fin && payload_len <= 125;
    match FrameHeader::decode(&wire) {
        Ok(decoded) => assert!(legal && decoded == Some((header, wire.len())), "{header:?} came back as {decoded:?}"),
        Err(error) => assert!(!legal, "{header:?}: {error}"),
    }
}
