//! A frame that is encoded once for many receivers: RFC 6455, section 5.2.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{FIN, MAX_CONTROL, MAX_HEADER, put_header};
use super::{Frame, OpCode, Utf8Bytes};
use crate::SendError;

/// A message, ping or pong as it goes over the wire from a server, for any number of connections.
///
/// A server's frames are not masked (section 5.1), so that the same message is the same bytes to all its receivers: here
/// header and payload lie behind each other in one buffer that they share. A clone is a reference. A client masks each of
/// its frames anew (section 5.3) and encodes it as any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedFrame {
    wire: Bytes,
    header: usize,
    opcode: OpCode,
}

impl PreparedFrame {
    /// Encodes a frame. The payload is copied, once.
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] for a ping or pong above 125 bytes (section 5.5).
    pub fn new(frame: &Frame) -> Result<Self, SendError> {
        if frame.is_control() && frame.len() > MAX_CONTROL {
            return Err(SendError::ControlTooLong(frame.clone()));
        }
        let opcode = frame.opcode();
        let mut head = [0; MAX_HEADER];
        let header = put_header(&mut head, FIN | opcode.bits(), frame.len(), None);
        let mut wire = BytesMut::with_capacity(header + frame.len());
        wire.put_slice(&head[..header]);
        wire.put_slice(frame.payload());
        Ok(Self { wire: wire.freeze(), header, opcode })
    }

    /// Header and payload, as a server sends them.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.wire
    }

    /// The frame; its payload is a slice of the buffer that all share.
    #[must_use]
    pub fn to_frame(&self) -> Frame {
        let payload = self.wire.slice(self.header..);
        match self.opcode {
            OpCode::Text => Frame::Text(Utf8Bytes::from_validated(payload)),
            OpCode::Ping => Frame::Ping(payload),
            OpCode::Pong => Frame::Pong(payload),
            _ => Frame::Binary(payload),
        }
    }

    /// Whether it is a ping or pong.
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.opcode.is_control()
    }

    /// The payload's length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wire.len() - self.header
    }

    /// Whether there is no payload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_frame_and_its_bytes() {
        for frame in [
            Frame::text("Grüße"),
            Frame::text(""),
            Frame::binary(vec![7; 125]),
            Frame::binary(vec![7; 126]),
            Frame::binary(vec![7; 70_000]),
            Frame::ping("a"),
            Frame::pong(vec![0; 125]),
        ] {
            let prepared = PreparedFrame::new(&frame).unwrap();
            assert_eq!((prepared.to_frame(), prepared.len()), (frame.clone(), frame.len()));
            assert_eq!((prepared.is_empty(), prepared.is_control()), (frame.is_empty(), frame.is_control()));
            let mut encoder = crate::codec::Encoder::new(crate::Role::Server, [0; 32]);
            encoder.frame(frame);
            assert_eq!(encoder.transmit().iter().flatten().copied().collect::<Vec<_>>(), *prepared.as_bytes());
        }
    }

    #[test]
    fn a_control_frame_too_long_is_refused() {
        let ping = Frame::ping(vec![0; 126]);
        let error = PreparedFrame::new(&ping).unwrap_err();
        assert_eq!(error.into_frame(), Some(ping));
    }
}
