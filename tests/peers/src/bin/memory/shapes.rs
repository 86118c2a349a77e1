//! What is received and sent: messages that are the same in every run, and their bytes on the wire, written without any library.

use std::sync::Arc;

use bytes::Bytes;

/// A side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// A message as its receiver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    pub payload: Bytes,
}

/// How messages look.
#[derive(Clone, Copy)]
pub struct Shape {
    pub kind: Kind,
    /// What the payload repeats.
    pub alphabet: &'static str,
    pub shortest: usize,
    pub longest: usize,
    pub fragments: usize,
}

pub const WORDS: &str = "the quick brown fox jumps over the lazy dog; ";
pub const JSON: &str = r#"{"e":"trade","s":"BTCUSDT","p":"64123.45","q":"0.00210","T":1732492800000,"m":true},"#;
pub const CJK: &str = "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏";
/// ASCII, two, three and four bytes a character.
pub const MIXED: &str = "The price of Käse in Kraków is 12,50 €, says 東京, and Ελλάδα agrees 🧀; ";

impl Shape {
    pub const fn text(alphabet: &'static str, shortest: usize, longest: usize) -> Self {
        Self { kind: Kind::Text, alphabet, shortest, longest, fragments: 1 }
    }

    pub const fn binary(length: usize) -> Self {
        Self { kind: Kind::Binary, alphabet: WORDS, shortest: length, longest: length, fragments: 1 }
    }

    pub const fn in_fragments(self, fragments: usize) -> Self {
        Self { fragments, ..self }
    }

    /// A megabyte of messages, at least two, at most 4,096: more than a branch predictor learns, and less than most caches hold.
    fn count(self) -> usize {
        (1024 * 1024 / self.longest.max(1)).clamp(2, 4_096)
    }

    /// The messages, with lengths drawn anew for each.
    pub fn messages(self) -> Vec<Message> {
        let mut random = Random(1);
        (0..self.count())
            .map(|_| {
                let length = random.between(self.shortest, self.longest);
                Message { kind: self.kind, payload: repeated(self.alphabet, length).into_bytes().into() }
            })
            .collect()
    }

    /// The messages as the peer of `role` puts them on the wire.
    pub fn wire(self, role: Role) -> Arc<[u8]> {
        let mut random = Random(2);
        let mut wire = Vec::new();
        for message in self.messages() {
            for (number, fragment) in message.payload.chunks(message.payload.len().div_ceil(self.fragments)).enumerate()
            {
                let fin = if number + 1 == self.fragments { 0x80 } else { 0 };
                let opcode = match (number, self.kind) {
                    (0, Kind::Text) => 0x1,
                    (0, Kind::Binary) => 0x2,
                    _ => 0x0,
                };
                let key = (role == Role::Server).then(|| (random.next() as u32).to_be_bytes());
                frame_onto(&mut wire, fin | opcode, key, fragment);
            }
        }
        wire.into()
    }
}

/// So many bytes of text that repeats `alphabet`, filled up with dots where the next character does not fit.
pub fn repeated(alphabet: &str, length: usize) -> String {
    let mut text = String::with_capacity(length);
    for character in alphabet.chars().cycle() {
        if text.len() + character.len_utf8() > length {
            break;
        }
        text.push(character);
    }
    while text.len() < length {
        text.push('.');
    }
    text
}

/// SplitMix64: lengths and masking keys that are the same in every run.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }
}

/// One frame (RFC 6455, section 5.2).
fn frame_onto(wire: &mut Vec<u8>, first: u8, masking_key: Option<[u8; 4]>, payload: &[u8]) {
    let mask_bit = if masking_key.is_some() { 0x80 } else { 0 };
    wire.push(first);
    match payload.len() {
        length @ 0..126 => wire.push(mask_bit | length as u8),
        length @ 126..65_536 => {
            wire.push(mask_bit | 126);
            wire.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            wire.push(mask_bit | 127);
            wire.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = masking_key.unwrap_or_default();
    wire.extend(masking_key.iter().flatten());
    wire.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// The bytes of a message that leaves in one frame.
pub fn framed_length(role: Role, payload: usize) -> u64 {
    let length = match payload {
        0..126 => 0,
        126..65_536 => 2,
        _ => 8,
    };
    let key = if role == Role::Client { 4 } else { 0 };
    (2 + length + key + payload) as u64
}

/// The messages in what `role` has sent, one a frame, and their masking keys.
///
/// # Panics
///
/// If it is anything else.
pub fn parsed(role: Role, mut wire: &[u8]) -> Vec<(Message, [u8; 4])> {
    fn take<const N: usize>(wire: &mut &[u8]) -> [u8; N] {
        let (head, rest) = wire.split_first_chunk().expect("a whole frame");
        *wire = rest;
        *head
    }
    let mut messages = Vec::new();
    while !wire.is_empty() {
        let [first, second] = take(&mut wire);
        let kind = match first {
            0x81 => Kind::Text,
            0x82 => Kind::Binary,
            other => panic!("{other:#x} begins no message in one frame"),
        };
        assert_eq!(second & 0x80 != 0, role == Role::Client, "clients mask, and servers do not");
        let length = match second & 0x7F {
            126 => usize::from(u16::from_be_bytes(take(&mut wire))),
            127 => usize::try_from(u64::from_be_bytes(take(&mut wire))).expect("it lies in memory"),
            length => usize::from(length),
        };
        let key = if role == Role::Client { take(&mut wire) } else { [0; 4] };
        let (payload, rest) = wire.split_at(length);
        wire = rest;
        let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        messages.push((Message { kind, payload }, key));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_on_the_wire_is_what_is_parsed() {
        // A client sends what a server receives.
        for shape in [Shape::text(JSON, 100, 200), Shape::binary(65_535), Shape::binary(65_536)] {
            let parsed = parsed(Role::Client, &shape.wire(Role::Server));
            let messages: Vec<_> = parsed.into_iter().map(|(message, _)| message).collect();
            assert_eq!(messages, shape.messages());
        }
    }

    #[test]
    fn the_length_of_a_frame_is_known() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let mut wire = Vec::new();
            frame_onto(&mut wire, 0x82, Some([1; 4]), &vec![0; length]);
            assert_eq!(framed_length(Role::Client, length), wire.len() as u64);
            assert_eq!(framed_length(Role::Server, length), wire.len() as u64 - 4);
        }
    }

    #[test]
    fn a_text_fills_its_length_with_whole_characters() {
        assert_eq!(repeated("天地", 7), "天地.");
        assert_eq!(repeated("ab", 5), "ababa");
    }
}
