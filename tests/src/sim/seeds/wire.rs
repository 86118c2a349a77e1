//! What passes on the wire, read by a second pair of eyes: nothing here comes from the library.

use std::time::Instant;

use bytes::Bytes;

/// A message, ping, pong or Close as it stood on the wire, its fragments joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) opcode: u8,
    pub(super) payload: Bytes,
}

/// Reads one direction: a head, then frames up to the first Close or the first fault.
#[derive(Debug, Default)]
pub(super) struct Reader {
    masked: bool,
    /// The head of the request or response was read.
    pub(super) past_head: bool,
    buffer: Vec<u8>,
    part: Option<(u8, Vec<u8>)>,
    pub(super) frames: Vec<Seen>,
    /// When each of them was whole.
    pub(super) times: Vec<Instant>,
    pub(super) close: Option<Bytes>,
    pub(super) fault: Option<&'static str>,
    /// Bytes came behind the Close.
    pub(super) trailing: bool,
    /// All bytes that passed.
    pub(super) total: usize,
    /// Payload bytes of all that was read whole.
    pub(super) bytes: usize,
}

impl Reader {
    pub(super) fn new(masked: bool) -> Self {
        Self { masked, ..Self::default() }
    }

    pub(super) fn feed(&mut self, now: Instant, bytes: &[u8]) {
        self.total += bytes.len();
        if self.close.is_some() {
            self.trailing |= !bytes.is_empty();
            return;
        }
        self.buffer.extend_from_slice(bytes);
        if !self.past_head {
            let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            self.buffer.drain(..at + 4);
            self.past_head = true;
        }
        while self.fault.is_none() && self.close.is_none() && self.frame() {}
        self.times.resize(self.frames.len(), now);
    }

    fn frame(&mut self) -> bool {
        let [first, second, ..] = self.buffer[..] else { return false };
        if first & 0x70 != 0 || (second & 0x80 != 0) != self.masked || !matches!(first & 0x0f, 0..=2 | 8..=10) {
            return self.fail("reserved bits, masking or opcode");
        }
        let (head, len): (usize, usize) = match second & 0x7f {
            126 if self.buffer.len() < 4 => return false,
            126 => (4, usize::from(u16::from_be_bytes([self.buffer[2], self.buffer[3]]))),
            127 if self.buffer.len() < 10 => return false,
            127 => {
                let mut len = [0; 8];
                len.copy_from_slice(&self.buffer[2..10]);
                (10, usize::try_from(u64::from_be_bytes(len)).unwrap_or(usize::MAX))
            }
            len => (2, usize::from(len)),
        };
        if head == 4 && len < 126 || head == 10 && (len < 0x1_0000 || len >> 63 != 0) {
            return self.fail("a length in more bytes than it needs");
        }
        let (opcode, fin) = (first & 0x0f, first & 0x80 != 0);
        if opcode >= 8 && (len > 125 || !fin) {
            return self.fail("a control frame too long or in fragments");
        }
        let head = head + if self.masked { 4 } else { 0 };
        let Some(end) = head.checked_add(len) else { return self.fail("a length beyond all bounds") };
        if self.buffer.len() < end {
            return false;
        }
        let frame: Vec<u8> = self.buffer.drain(..end).collect();
        let mut payload = frame[head..].to_vec();
        if self.masked {
            payload.iter_mut().zip(frame[head - 4..head].iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        }
        match (opcode, self.part.take()) {
            (8, _) => {
                self.trailing = !self.buffer.is_empty();
                self.close = Some(payload.into());
            }
            (9 | 10, part) => {
                self.part = part;
                self.push(opcode, payload);
            }
            (0, Some((opcode, mut whole))) => {
                whole.extend(payload);
                self.joined(fin, opcode, whole);
            }
            (1 | 2, None) => self.joined(fin, opcode, payload),
            _ => return self.fail("fragments out of order"),
        }
        true
    }

    fn joined(&mut self, fin: bool, opcode: u8, payload: Vec<u8>) {
        if !fin {
            self.part = Some((opcode, payload));
        } else if opcode == 1 && std::str::from_utf8(&payload).is_err() {
            self.fail("text that is not UTF-8");
        } else {
            self.push(opcode, payload);
        }
    }

    fn push(&mut self, opcode: u8, payload: Vec<u8>) {
        self.bytes += payload.len();
        self.frames.push(Seen { opcode, payload: payload.into() });
    }

    fn fail(&mut self, fault: &'static str) -> bool {
        self.fault = Some(fault);
        false
    }
}

/// A payload that says who sent it, as what number, and whether it is whole.
pub(super) fn payload(lane: u32, seq: u32, len: usize) -> Vec<u8> {
    let mut bytes = format!("{lane}.{seq}.{len}.").into_bytes();
    let mut at = lane as usize + seq as usize;
    while bytes.len() < len {
        bytes.push(b'a' + (at % 26) as u8);
        at += 1;
    }
    bytes
}

/// Lane and number of a payload that is whole.
pub(super) fn parse(bytes: &[u8]) -> Option<(u32, u32)> {
    let head = std::str::from_utf8(&bytes[..bytes.len().min(40)]).ok()?;
    let mut parts = head.split('.');
    let lane = parts.next()?.parse().ok()?;
    let seq = parts.next()?.parse().ok()?;
    let len = parts.next()?.parse().ok()?;
    (payload(lane, seq, len) == bytes).then_some((lane, seq))
}
