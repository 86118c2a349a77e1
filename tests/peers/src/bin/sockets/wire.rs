//! Frames, handshakes and payloads by hand: nothing of any library's, for the load and for the echo without framing.

use std::io::{self, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// The opcode of a text message (RFC 6455, section 5.2).
pub const TEXT: u8 = 0x1;

/// Any key does: the load is no client that needs protection from its own payloads.
const MASKING_KEY: [u8; 4] = [0x9d, 0x2c, 0x51, 0xe7];

const HEAD_MOST: usize = 4096;

/// Who sends a frame: a client's are masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Client,
    Server,
}

/// Adds one whole text frame.
pub fn frame(out: &mut Vec<u8>, from: From, payload: &[u8]) {
    let masked = if from == From::Client { 0x80 } else { 0 };
    out.push(0x80 | TEXT);
    match payload.len() {
        length @ 0..=125 => out.push(masked | length as u8),
        length @ 126..=0xffff => {
            out.push(masked | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(masked | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    match from {
        From::Client => {
            out.extend(MASKING_KEY);
            out.extend(payload.iter().zip(MASKING_KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
        }
        From::Server => out.extend(payload),
    }
}

/// A frame at the front of `input`: its payload, unmasked, and the bytes that it takes. `None` while it is not whole.
///
/// # Errors
///
/// It is no whole text message, or masked where it should not be and the other way round.
pub fn parse(input: &[u8], from: From) -> io::Result<Option<(Vec<u8>, usize)>> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    if *first != 0x80 | TEXT || (second & 0x80 != 0) != (from == From::Client) {
        return Err(io::Error::other(format!("a frame that begins with {first:#04x} {second:#04x}")));
    }
    let (length, rest) = match (second & 0x7f, rest) {
        (126, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
            let length = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            (usize::try_from(length).map_err(io::Error::other)?, rest)
        }
        (126 | 127, _) => return Ok(None),
        (length, rest) => (usize::from(length), rest),
    };
    let (key, rest) = match (from, rest) {
        (From::Server, rest) => ([0; 4], rest),
        (From::Client, [a, b, c, d, rest @ ..]) => ([*a, *b, *c, *d], rest),
        (From::Client, _) => return Ok(None),
    };
    let head = input.len() - rest.len();
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    Ok(Some((payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect(), head + length)))
}

/// ASCII text of this size that looks like a message of a market feed; other numbers for another `seed`.
pub fn json(size: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut text = format!("{{\"id\":{},\"values\":[", seed % 1000);
    while text.len() < size {
        text.push_str(&format!("{}.{:02},", next() % 100_000, next() % 100));
    }
    text.truncate(size.saturating_sub(2).max(size.min(1)));
    while text.len() < size {
        text.push(if text.len() + 1 == size { '}' } else { ']' });
    }
    text
}

/// Messages of this size; for 0 of 100 to 200 bytes, each size as often as the others.
pub fn payloads(size: usize) -> Vec<String> {
    match size {
        0 => (0..1010).map(|number| json(100 + (number * 37 % 101) as usize, number)).collect(),
        size => (0..(65_536 / size).clamp(1, 1000) as u64).map(|number| json(size, number)).collect(),
    }
}

/// The request of a client's opening handshake.
pub fn request(port: u16) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// The response to a request's head.
///
/// # Errors
///
/// The request has no key.
pub fn response(head: &str) -> io::Result<String> {
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value.trim())
    });
    let key = key.ok_or_else(|| io::Error::other(format!("no key in {head:?}")))?;
    let accept = STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")));
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
}

/// Where a head ends, if it does.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Reads a head and nothing behind it: the other side waits for what comes of it.
///
/// # Errors
///
/// The stream's, or a head without an end.
pub fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while head_end(&head).is_none() {
        let count = stream.read(&mut buffer)?;
        if count == 0 || head.len() > HEAD_MOST {
            return Err(io::Error::other(format!("no end of a head after {} bytes", head.len())));
        }
        head.extend(&buffer[..count]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// The client's side of the opening handshake.
///
/// # Errors
///
/// The stream's, or a response that refuses.
pub fn open(stream: &mut (impl Read + Write), port: u16) -> io::Result<()> {
    stream.write_all(request(port).as_bytes())?;
    stream.flush()?;
    opened(&read_head(stream)?)
}

/// Whether a response agrees.
///
/// # Errors
///
/// It does not.
pub fn opened(head: &str) -> io::Result<()> {
    match head.starts_with("HTTP/1.1 101 ") && head.ends_with("\r\n\r\n") {
        true => Ok(()),
        false => Err(io::Error::other(format!("refused: {head:?}"))),
    }
}

/// The server's side of the opening handshake.
///
/// # Errors
///
/// The stream's, or a request that is none.
pub fn answer(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let head = read_head(stream)?;
    stream.write_all(response(&head)?.as_bytes())?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_parsed_as_it_was_made_and_not_before_it_is_whole() {
        for size in [0, 5, 125, 126, 0xffff, 0x10000] {
            for from in [From::Client, From::Server] {
                let text = json(size, 7);
                assert_eq!(text.len(), size);
                let mut bytes = Vec::new();
                frame(&mut bytes, from, text.as_bytes());
                assert_eq!(parse(&bytes[..bytes.len() - 1], from).unwrap(), None);
                assert_eq!(parse(&bytes, from).unwrap(), Some((text.into_bytes(), bytes.len())));
            }
        }
        assert_eq!(parse(b"\x81\x05Hello", From::Server).unwrap(), Some((b"Hello".to_vec(), 7)), "RFC 6455, 5.7");
        assert!(parse(b"\x81\x05Hello", From::Client).is_err(), "a client's frame is masked");
    }

    #[test]
    fn the_response_has_the_accept_of_rfc_6455() {
        let response = response(&request(80)).unwrap();
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{response}");
        assert!(opened(&response).is_ok());
    }

    #[test]
    fn a_feed_has_all_sizes_alike() {
        let feed = payloads(0);
        assert_eq!(feed.len(), 1010);
        assert_eq!(feed.iter().map(String::len).sum::<usize>(), 150 * 1010);
    }
}
