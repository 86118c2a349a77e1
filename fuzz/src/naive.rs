//! A second reading of RFC 6455, section 5, and of HTTP heads: slow, short, and without a line of the library's.
//!
//! It judges whole streams, and knows no limits: what is legal here is what the RFC allows any peer to send.

use parley_proto::Role;

/// One header, and how many bytes it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// FIN.
    pub fin: bool,
    /// RSV1 to RSV3, in three bits.
    pub rsv: u8,
    /// Opcode.
    pub opcode: u8,
    /// Masking key.
    pub key: Option<[u8; 4]>,
    /// Payload length.
    pub len: u64,
    /// Bytes of the header.
    pub size: usize,
}

/// What stands at the front of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read<T> {
    /// There is more to come.
    Incomplete,
    /// It is against the rule named here.
    Illegal(&'static str),
    /// This.
    Whole(T),
}

/// The header at the front of `bytes`, once it is there as a whole.
#[must_use]
pub fn header(bytes: &[u8]) -> Read<Header> {
    let at = |index: usize| bytes.get(index).copied().map(u64::from);
    let (Some(first), Some(second)) = (at(0), at(1)) else { return Read::Incomplete };
    let extended = match second & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let masked = second & 0x80 != 0;
    let size = 2 + extended + if masked { 4 } else { 0 };
    if bytes.len() < size {
        return Read::Incomplete;
    }
    let len = match extended {
        0 => second & 0x7F,
        n => bytes[2..2 + n].iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
    };
    let (fin, opcode) = (first & 0x80 != 0, (first & 0xF) as u8);
    match (extended, len) {
        (2, 0..126) | (8, 0..0x1_0000) => return Read::Illegal("a length that is not minimal"),
        (8, 0x8000_0000_0000_0000..) => return Read::Illegal("a length of 64 bits"),
        _ => {}
    }
    match opcode {
        0x3..=0x7 | 0xB.. => return Read::Illegal("a reserved opcode"),
        0x8.. if !fin => return Read::Illegal("a control frame in fragments"),
        0x8.. if len > 125 => return Read::Illegal("a control frame that is too long"),
        _ => {}
    }
    let key = if masked { bytes[size - 4..size].try_into().ok() } else { None };
    Read::Whole(Header { fin, rsv: (first >> 4 & 0x7) as u8, opcode, key, len, size })
}

/// What a peer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A whole message; true for text.
    Message(bool, Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A Close, with its code.
    Close(Option<u16>),
}

/// What a peer of one role sends, from the first frame on.
#[derive(Clone, Debug)]
pub struct Listener {
    from: Role,
    held: Vec<u8>,
    message: Option<(bool, Vec<u8>)>,
    /// A Close was read: nothing may follow it.
    pub closed: bool,
}

impl Listener {
    /// Listens to a peer of this role.
    #[must_use]
    pub const fn new(from: Role) -> Self {
        Self { from, held: Vec::new(), message: None, closed: false }
    }

    /// Whether the bytes so far end between two messages.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        self.held.is_empty() && self.message.is_none()
    }

    /// Takes what comes next.
    ///
    /// # Errors
    ///
    /// The rule that is broken; nothing is said after that.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Vec<Said>, &'static str> {
        self.held.extend_from_slice(bytes);
        let mut said = Vec::new();
        let mut taken = 0;
        loop {
            let rest = &self.held[taken..];
            if self.closed && !rest.is_empty() {
                return Err("something after a Close");
            }
            let header = match header(rest) {
                Read::Whole(header) => header,
                Read::Incomplete => break,
                Read::Illegal(rule) => return Err(rule),
            };
            if header.rsv != 0 {
                return Err("a reserved bit");
            }
            if header.key.is_some() != (self.from == Role::Client) {
                return Err("clients mask, servers do not");
            }
            let Some(end) = usize::try_from(header.len).ok().and_then(|len| header.size.checked_add(len)) else {
                break;
            };
            let Some(payload) = rest.get(header.size..end) else { break };
            let key = header.key.unwrap_or_default();
            let payload = payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
            taken += end;
            said.extend(self.frame(header, payload)?);
        }
        self.held.drain(..taken);
        Ok(said)
    }

    fn frame(&mut self, header: Header, payload: Vec<u8>) -> Result<Option<Said>, &'static str> {
        match (header.opcode, &mut self.message) {
            (0x0, None) => return Err("nothing to continue"),
            (0x0, Some((_, message))) => message.extend(payload),
            (0x1 | 0x2, Some(_)) => return Err("a message within a message"),
            (0x1 | 0x2, None) => self.message = Some((header.opcode == 0x1, payload)),
            (0x9, _) => return Ok(Some(Said::Ping(payload))),
            (0xA, _) => return Ok(Some(Said::Pong(payload))),
            (0x8, _) => {
                self.closed = true;
                return close(&payload).map(|code| Some(Said::Close(code)));
            }
            _ => unreachable!("a header has none of the others"),
        }
        if !header.fin {
            return Ok(None);
        }
        match self.message.take() {
            Some((true, text)) if std::str::from_utf8(&text).is_err() => Err("text that is not UTF-8"),
            message => Ok(message.map(|(text, payload)| Said::Message(text, payload))),
        }
    }
}

/// One frame, its first byte as given, in the shortest form of its length.
#[must_use]
pub fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mask_bit = if key.is_some() { 0x80 } else { 0 };
    let mut wire = vec![first];
    match payload.len() {
        len @ 0..=125 => wire.push(mask_bit | len as u8),
        len @ 126..=0xFFFF => {
            wire.push(mask_bit | 126);
            wire.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            wire.push(mask_bit | 127);
            wire.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    wire.extend(key.iter().flatten());
    let key = key.unwrap_or_default();
    wire.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    wire
}

/// The code in the payload of a Close (section 5.5.1), if it has one (section 7.4).
///
/// # Errors
///
/// The rule that is broken.
pub fn close(payload: &[u8]) -> Result<Option<u16>, &'static str> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() { Ok(None) } else { Err("half a close code") };
    };
    let code = u16::from_be_bytes([*high, *low]);
    // 1012 to 1014 were registered with IANA after the RFC.
    if code < 1000 || matches!(code, 1004..=1006 | 1015..=2999 | 5000..) {
        return Err("a close code that must not be sent");
    }
    if std::str::from_utf8(reason).is_err() {
        return Err("a reason that is not UTF-8");
    }
    Ok(Some(code))
}

/// The lines of an HTTP head that stands at the front of `bytes`, without the empty one, and what follows it.
///
/// # Panics
///
/// If there is no whole head, or a line has something else in it than visible characters, spaces and tabs.
#[must_use]
pub fn head(bytes: &[u8]) -> (Vec<&str>, &[u8]) {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head has an end");
    let head = std::str::from_utf8(&bytes[..end]).expect("a head of ours is text");
    let lines: Vec<_> = head.split("\r\n").collect();
    let visible = |line: &&str| line.chars().all(|char| char == '\t' || !char.is_control());
    assert!(lines.iter().all(visible), "a line of a head breaks: {lines:?}");
    assert!(lines.iter().skip(1).all(|line| line.contains(": ")), "a line of a head is no field: {lines:?}");
    (lines, &bytes[end + 4..])
}

/// The value of the one field of that name in the lines of a head.
///
/// # Panics
///
/// If there are several.
#[must_use]
pub fn field<'a>(lines: &[&'a str], name: &str) -> Option<&'a str> {
    let mut values = lines.iter().skip(1).filter_map(|line| {
        let (this, value) = line.split_once(": ")?;
        this.eq_ignore_ascii_case(name).then_some(value)
    });
    let value = values.next();
    assert_eq!(values.next(), None, "{name} twice");
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_section_5_7_are_heard() {
        let mut server = Listener::new(Role::Server);
        let hello = Said::Message(true, b"Hello".to_vec());
        assert_eq!(server.hear(b"\x81\x05Hello\x01\x03Hel"), Ok(vec![hello.clone()]));
        assert_eq!(server.hear(b"\x80\x02lo\x89\x05Hello"), Ok(vec![hello.clone(), Said::Ping(b"Hello".to_vec())]));
        let mut client = Listener::new(Role::Client);
        assert_eq!(client.hear(&[0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58]), Ok(vec![hello]));
        assert!(client.hear(b"\x81\x00").is_err() && server.hear(b"\x88\x01x").is_err());
    }
}
