//! The body of a response that refuses the upgrade: RFC 9112, sections 6 and 7.1. Its beginning is for the
//! application to read, and nothing here can make a client read much of it.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};

use super::head::Version;
use super::tokens::trim;
use super::url::hex_digit;

/// Bytes of chunk headers that are read beyond those that the body's own limit allows.
const FRAMING: usize = 1024;

/// Keeps the first bytes of a body, at most `limit`.
#[derive(Clone, Debug)]
pub(crate) struct BodyReader {
    kept: Vec<u8>,
    limit: usize,
    /// How many bytes of chunk headers may still come.
    framing_left: usize,
    place: Place,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// As many bytes of content, then nothing.
    Content(u64),
    UntilEof,
    /// A chunk's size, and whether it has a digit yet.
    ChunkSize(u64, bool),
    ChunkExtension(u64),
    ChunkSizeLf(u64),
    ChunkData(u64),
    ChunkDataCr,
    ChunkDataLf,
    End,
}

impl BodyReader {
    pub(crate) fn new(version: Version, status: StatusCode, headers: &HeaderMap, limit: usize) -> Self {
        let place = framing(version, status, headers);
        Self { kept: Vec::new(), limit, framing_left: limit.saturating_add(FRAMING), place }
    }

    /// Consumes input; true once there is nothing more to keep. A malformed chunk ends the body.
    pub(crate) fn handle_input(&mut self, input: &mut BytesMut) -> bool {
        loop {
            if self.kept.len() >= self.limit {
                self.place = Place::End;
            }
            match self.place {
                Place::End | Place::Content(0) => return true,
                _ if input.is_empty() => return false,
                Place::UntilEof => {
                    self.keep(input, u64::MAX);
                }
                Place::Content(left) => self.place = Place::Content(left.saturating_sub(self.keep(input, left))),
                Place::ChunkData(0) => self.place = Place::ChunkDataCr,
                Place::ChunkData(left) => self.place = Place::ChunkData(left.saturating_sub(self.keep(input, left))),
                _ => self.place = self.framing_byte(input.get_u8()),
            }
        }
    }

    /// What was kept.
    pub(crate) fn kept(&self) -> Bytes {
        Bytes::copy_from_slice(&self.kept)
    }

    /// Keeps what there is, up to `left`; returns how much it was. Nothing is reserved for what was only announced.
    fn keep(&mut self, input: &mut BytesMut, left: u64) -> u64 {
        let room = self.limit.saturating_sub(self.kept.len()).min(input.len());
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        self.kept.extend_from_slice(&input.split_to(len));
        len as u64
    }

    fn framing_byte(&mut self, byte: u8) -> Place {
        let Some(left) = self.framing_left.checked_sub(1) else { return Place::End };
        self.framing_left = left;
        match (self.place, byte) {
            (Place::ChunkSize(size, true), b'\r') => Place::ChunkSizeLf(size),
            (Place::ChunkSize(size, true), b';' | b' ' | b'\t') => Place::ChunkExtension(size),
            (Place::ChunkSize(size, _), _) => match hex_digit(byte) {
                Some(digit) if size >> 60 == 0 => Place::ChunkSize(size << 4 | u64::from(digit), true),
                _ => Place::End,
            },
            (Place::ChunkExtension(size), b'\r') => Place::ChunkSizeLf(size),
            (Place::ChunkExtension(size), _) if byte != b'\n' => Place::ChunkExtension(size),
            // The trailer is not worth waiting for.
            (Place::ChunkSizeLf(0), _) => Place::End,
            (Place::ChunkSizeLf(size), b'\n') => Place::ChunkData(size),
            (Place::ChunkDataCr, b'\r') => Place::ChunkDataLf,
            (Place::ChunkDataLf, b'\n') => Place::ChunkSize(0, false),
            _ => Place::End,
        }
    }
}

/// RFC 9112, section 6.3. Where it speaks of an unrecoverable error, the body counts as empty: its length cannot be
/// trusted, and status and headers are what matters.
fn framing(version: Version, status: StatusCode, headers: &HeaderMap) -> Place {
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Place::Content(0);
    }
    if let (Version::Http11, Some(last)) = (version, headers.get_all(TRANSFER_ENCODING).iter().next_back()) {
        let last = last.as_bytes().rsplit(|&byte| byte == b',').next().unwrap_or_default();
        let chunked = trim(last).eq_ignore_ascii_case(b"chunked");
        return if chunked { Place::ChunkSize(0, false) } else { Place::UntilEof };
    }
    let mut length = None;
    let values = headers.get_all(CONTENT_LENGTH).iter();
    for value in values.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')) {
        match (decimal(trim(value)), length) {
            (Some(value), None) => length = Some(value),
            (Some(value), Some(before)) if value == before => {}
            _ => return Place::Content(0),
        }
    }
    length.map_or(Place::UntilEof, Place::Content)
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(fields: &[(&'static str, &'static str)], limit: usize) -> BodyReader {
        let headers = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        BodyReader::new(Version::Http11, StatusCode::FORBIDDEN, &headers, limit)
    }

    /// What is kept of `body`, whether it ended, and what is left over.
    fn read(fields: &[(&'static str, &'static str)], limit: usize, body: &[u8]) -> (Vec<u8>, bool, usize) {
        let mut whole = reader(fields, limit);
        let mut input = BytesMut::from(body);
        let done = whole.handle_input(&mut input);
        let mut single = reader(fields, limit);
        let mut ended = single.handle_input(&mut BytesMut::new());
        for &byte in body {
            if ended {
                break;
            }
            ended = single.handle_input(&mut BytesMut::from(&[byte][..]));
        }
        assert_eq!((whole.kept(), done), (single.kept(), ended));
        (whole.kept, done, input.len())
    }

    const CHUNKED: &[(&str, &str)] = &[("transfer-encoding", "chunked")];

    #[test]
    fn a_body_has_its_content_length() {
        let five = &[("content-length", "5")];
        assert_eq!(read(five, 9, b"hell"), (b"hell".to_vec(), false, 0));
        assert_eq!(read(five, 9, b"hello, world"), (b"hello".to_vec(), true, 7));
        assert_eq!(read(&[("content-length", "0")], 9, b"x"), (vec![], true, 1));
        assert_eq!(read(&[("content-length", "5, 5"), ("content-length", "5")], 9, b"hello!").0, b"hello");
        assert_eq!(read(&[("content-length", "18446744073709551615")], 4, b"hello"), (b"hell".to_vec(), true, 1));
    }

    #[test]
    fn a_length_that_cannot_be_trusted_is_an_empty_body() {
        for bad in ["", "+5", "-1", "5, 6", "5 5", "0x5", "18446744073709551616", "5,"] {
            assert_eq!(read(&[("content-length", bad)], 9, b"hello"), (vec![], true, 5), "{bad}");
        }
    }

    #[test]
    fn the_limit_is_inclusive() {
        for (limit, kept, done) in [(4, "hell", true), (5, "hello", true), (6, "hello", false)] {
            assert_eq!(read(&[], limit, b"hello"), (kept.as_bytes().to_vec(), done, 5 - kept.len()));
        }
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(read(CHUNKED, 99, b"5\r\nhello\r\n7;a=b\r\n, world\r\n0\r\n\r\n").0, b"hello, world");
        assert_eq!(read(CHUNKED, 99, b"00A \r\n0123456789\r\n0\r\na: b\r\n\r\n").0, b"0123456789");
        assert_eq!(read(CHUNKED, 7, b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n").0, b"hello, ");
        assert_eq!(
            read(&[("transfer-encoding", "gzip, Chunked"), ("content-length", "1")], 9, b"2\r\nab\r\n0\r\n\r\n").0,
            b"ab"
        );
        assert_eq!(read(&[("transfer-encoding", "gzip")], 9, b"2\r\n"), (b"2\r\n".to_vec(), false, 0));
    }

    #[test]
    fn a_malformed_chunk_ends_the_body() {
        for bad in [
            &b"2\r\nab\r\nx"[..],
            b"2\r\nab\r\n\r\n",
            b"2\r\nabc\r\n",
            b"2\r\nab\n0",
            b"2\r\nab\r\n2\nab",
            b"2\r\nab\r\n2;a\n",
            b"2\r\nab\r\n10000000000000000\r\n",
        ] {
            let (kept, done, _) = read(CHUNKED, 99, bad);
            assert_eq!((&kept[..], done), (&b"ab"[..], true), "{bad:?}");
        }
    }

    #[test]
    fn endless_chunk_headers_end_the_body() {
        let mut body = b"1;".to_vec();
        body.resize(5000, b'x');
        assert!(read(CHUNKED, 10, &body).1);
    }

    #[test]
    fn some_statuses_have_no_body() {
        let mut reader = BodyReader::new(Version::Http11, StatusCode::NOT_MODIFIED, &HeaderMap::new(), 9);
        assert!(reader.handle_input(&mut BytesMut::from("x")));
        assert_eq!(reader.kept(), "");
    }
}
