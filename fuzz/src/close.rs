//! The payload of a Close (RFC 6455, sections 5.5.1 and 7.4): read as the naive reader reads it, by itself and in a frame, and
//! written back the same; and no [`CloseFrame`] can be made that could not be sent.

use bytes::BytesMut;
use parley_proto::codec::{CloseFrame, Decoder, End, FrameError, FrameHeader, OpCode, Rsv, Utf8Bytes};
use parley_proto::{Limits, Role};

use crate::naive;

/// Checks one input, a payload.
///
/// # Panics
///
/// If a promise is broken.
pub fn run(payload: &[u8]) {
    let decoded = CloseFrame::decode(payload);
    if payload.len() > 125 {
        assert_eq!(decoded, Err(FrameError::ControlTooLong));
    } else {
        let code = decoded.as_ref().map(|close| close.as_ref().map(|close| close.code().get()));
        assert_eq!(code.ok(), naive::close(payload).ok(), "{decoded:?}");
        if let Ok(Some(close)) = &decoded {
            let mut again = Vec::new();
            close.encode(&mut again);
            assert_eq!(again, payload);
            assert_eq!(CloseFrame::new(close.code(), close.reason().clone()).as_ref(), Ok(close));
        }
        in_a_frame(payload, &decoded);
    }
    made(payload);
}

fn in_a_frame(payload: &[u8], decoded: &Result<Option<CloseFrame>, FrameError>) {
    for (role, masking_key) in [(Role::Client, None), (Role::Server, Some([0; 4]))] {
        let mut wire = BytesMut::new();
        let payload_len = payload.len() as u64;
        FrameHeader { fin: true, rsv: Rsv::NONE, opcode: OpCode::Close, masking_key, payload_len }.encode(&mut wire);
        wire.extend_from_slice(payload);
        let mut decoder = Decoder::new(role, &Limits::client());
        decoder.decode(&mut wire, &mut |_| {});
        let end = decoded.clone().map_or_else(End::Error, End::Close);
        assert_eq!(decoder.poll(), None);
        assert_eq!(decoder.end(), Some(&end));
        if let End::Error(error) = end {
            assert!(CloseFrame::failure(&error).code().is_sendable(), "{error}");
        }
    }
}

/// The same bytes as an application's choice of code and reason.
fn made(payload: &[u8]) {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else { return };
    let Ok(reason) = std::str::from_utf8(reason) else { return };
    let code = u16::from_be_bytes(*code);
    let made = CloseFrame::new(code, Utf8Bytes::from(reason.to_owned()));
    assert_eq!(made.is_ok(), CloseFrame::decode(payload).is_ok(), "{made:?}");
}
