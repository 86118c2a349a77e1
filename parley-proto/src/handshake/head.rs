//! The head of a request or response: where it ends, its limits, its syntax. RFC 9112, sections 2 to 5.
//!
//! [`HeadScanner`] looks at each byte once, however the input is cut, and enforces limits and line syntax as bytes
//! arrive; only a complete head is parsed, once. Where RFC 9112 lets a recipient be lenient (bare LF, folds, empty
//! lines in front), this one is not: on a fresh connection nothing but an attack needs it.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::error::{HandshakeError, HeadSyntax};
use super::fields::is_secret;
use super::tokens::is_tchar;
use crate::Limits;

/// Whose head it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
}

/// Finds the end of a head that lies at the front of a growing buffer.
#[derive(Clone, Debug)]
pub(crate) struct HeadScanner {
    kind: Kind,
    head_limit: usize,
    line_limit: usize,
    field_limit: usize,
    /// Bytes looked at, counted from the front of the buffer; never more than `head_limit`.
    scanned: usize,
    /// How many of them belong to the line under way.
    line: usize,
    fields: usize,
    place: Place,
}

/// What the next byte belongs to.
///
/// ```text
/// First ─▶ StartLine ─▶ StartLineCr ─▶ LineStart ─▶ Name ─▶ Value ─▶ ValueCr
///                                       │   ▲                          │
///                                       ▼   └──────────────────────────┘
///                                      EndCr ─▶ End
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    First,
    StartLine,
    StartLineCr,
    LineStart,
    Name,
    Value,
    ValueCr,
    EndCr,
    End,
}

impl HeadScanner {
    pub(crate) fn new(kind: Kind, limits: &Limits) -> Self {
        Self {
            kind,
            head_limit: limits.head(),
            line_limit: limits.header_line(),
            field_limit: limits.headers(),
            scanned: 0,
            line: 0,
            fields: 0,
            place: Place::First,
        }
    }

    /// Fields seen so far.
    pub(crate) fn fields(&self) -> usize {
        self.fields
    }

    /// Takes the head off the front of `input` once it is complete; leaves what follows.
    ///
    /// Between two calls `input` may only grow at its end.
    pub(crate) fn take(&mut self, input: &mut BytesMut) -> Result<Option<BytesMut>, HandshakeError> {
        for &byte in input.get(self.scanned..).unwrap_or_default() {
            self.step(byte)?;
            if self.place == Place::End {
                return Ok(Some(input.split_to(self.scanned)));
            }
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<(), HandshakeError> {
        use HeadSyntax::{BareCr, BareLf, ControlByte, FieldName, Fold, SpaceBeforeColon, StartLine};
        if self.scanned >= self.head_limit {
            return Err(self.too_large(self.head_limit, HandshakeError::HeadTooLarge { limit: self.head_limit }));
        }
        if self.line >= self.line_limit {
            return Err(self.too_large(self.line_limit, HandshakeError::LineTooLong { limit: self.line_limit }));
        }
        self.scanned += 1;
        self.line += 1;
        self.place = match (self.place, byte) {
            (Place::StartLineCr | Place::ValueCr, b'\n') => {
                self.line = 0;
                Place::LineStart
            }
            (Place::EndCr, b'\n') => Place::End,
            (Place::StartLineCr | Place::ValueCr | Place::EndCr, _) => return Err(HandshakeError::Syntax(BareCr)),
            (_, b'\n') => return Err(HandshakeError::Syntax(BareLf)),
            (_, 0..=8 | 11 | 12 | 14..=31 | 127) => return Err(HandshakeError::Syntax(ControlByte(byte))),
            (Place::First, b'\r') => return Err(HandshakeError::Syntax(StartLine)),
            (Place::StartLine, b'\r') => Place::StartLineCr,
            (Place::First | Place::StartLine, _) => Place::StartLine,
            (Place::LineStart, b'\r') => Place::EndCr,
            (Place::LineStart, b' ' | b'\t') => return Err(HandshakeError::Syntax(Fold)),
            (Place::LineStart, _) if self.fields >= self.field_limit => {
                return Err(HandshakeError::TooManyHeaders { limit: self.field_limit });
            }
            (Place::LineStart, _) if is_tchar(byte) => {
                self.fields += 1;
                Place::Name
            }
            (Place::Name, b':') => Place::Value,
            (Place::Name, b' ' | b'\t') => return Err(HandshakeError::Syntax(SpaceBeforeColon)),
            (Place::Name, _) if is_tchar(byte) => Place::Name,
            (Place::LineStart | Place::Name, _) => return Err(HandshakeError::Syntax(FieldName)),
            (Place::Value, b'\r') => Place::ValueCr,
            (Place::Value, _) => Place::Value,
            // Not reached: `take` stops at the end.
            (Place::End, _) => Place::End,
        };
        Ok(())
    }

    fn too_large(&self, limit: usize, otherwise: HandshakeError) -> HandshakeError {
        match (self.kind, self.place) {
            (Kind::Request, Place::First | Place::StartLine | Place::StartLineCr) => {
                HandshakeError::RequestLineTooLong { limit }
            }
            _ => otherwise,
        }
    }
}

/// The minor version of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
}

impl Version {
    fn new(minor: Option<u8>) -> Result<Self, HandshakeError> {
        match minor {
            Some(0) => Ok(Self::Http10),
            Some(1) => Ok(Self::Http11),
            _ => Err(HandshakeError::HttpVersion),
        }
    }
}

#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
}

#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) version: Version,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

/// Parses a complete head of `fields` fields.
pub(crate) fn parse_request(head: &[u8], fields: usize) -> Result<RequestHead, HandshakeError> {
    let mut slots = vec![httparse::EMPTY_HEADER; fields];
    let mut request = httparse::Request::new(&mut slots);
    let result = request.parse(head);
    let version = |head| first_line(head).split(|&byte| byte == b' ').nth(2);
    check(result, head, version)?;
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(HandshakeError::Syntax(HeadSyntax::StartLine));
    };
    Ok(RequestHead {
        method: method.to_owned(),
        target: target.to_owned(),
        version: Version::new(request.version)?,
        headers: header_map(request.headers)?,
    })
}

/// Parses a complete head of `fields` fields.
pub(crate) fn parse_response(head: &[u8], fields: usize) -> Result<ResponseHead, HandshakeError> {
    let mut slots = vec![httparse::EMPTY_HEADER; fields];
    let mut response = httparse::Response::new(&mut slots);
    let result = response.parse(head);
    let version = |head| first_line(head).split(|&byte| byte == b' ').next();
    check(result, head, version)?;
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    Ok(ResponseHead {
        version: Version::new(response.version)?,
        status: status.ok_or(HandshakeError::Syntax(HeadSyntax::StartLine))?,
        headers: header_map(response.headers)?,
    })
}

fn check<'h>(
    result: httparse::Result<usize>,
    head: &'h [u8],
    version: impl Fn(&'h [u8]) -> Option<&'h [u8]>,
) -> Result<(), HandshakeError> {
    let syntax = match result {
        Ok(httparse::Status::Complete(len)) if len == head.len() => return Ok(()),
        Err(httparse::Error::Version) => match version(head) {
            // Something else than the version is wrong.
            Some(b"HTTP/1.0" | b"HTTP/1.1") => HeadSyntax::StartLine,
            Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => {
                return Err(HandshakeError::HttpVersion);
            }
            _ => HeadSyntax::StartLine,
        },
        Err(httparse::Error::HeaderName) => HeadSyntax::FieldName,
        Err(httparse::Error::HeaderValue) => HeadSyntax::FieldValue,
        _ => HeadSyntax::StartLine,
    };
    Err(HandshakeError::Syntax(syntax))
}

fn first_line(head: &[u8]) -> &[u8] {
    head.split(|&byte| byte == b'\r').next().unwrap_or_default()
}

fn header_map(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, HandshakeError> {
    let mut map = HeaderMap::try_with_capacity(fields.len()).unwrap_or_default();
    for field in fields {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HandshakeError::Syntax(HeadSyntax::FieldName))?;
        let mut value =
            HeaderValue::from_bytes(field.value).map_err(|_| HandshakeError::Syntax(HeadSyntax::FieldValue))?;
        if is_secret(&name) {
            value.set_sensitive(true);
        }
        // The map has a bound of its own, 32,768 entries, which matters when the limit is set above it.
        let limit = map.len();
        map.try_append(name, value).map_err(|_| HandshakeError::TooManyHeaders { limit })?;
    }
    Ok(map)
}

/// The value of a field that must not be repeated.
pub(crate) fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, HandshakeError> {
    let mut values = headers.get_all(&name).iter();
    let value = values.next();
    if values.next().is_some() { Err(HandshakeError::Repeated(name)) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(head: usize, line: usize, fields: usize) -> Limits {
        Limits::server().with_head(head).unwrap().with_header_line(line).unwrap().with_headers(fields).unwrap()
    }

    fn scan(kind: Kind, limits: &Limits, head: &[u8]) -> Result<Option<usize>, HandshakeError> {
        let whole = HeadScanner::new(kind, limits).take(&mut head.into()).map(|head| head.map(|head| head.len()));
        // One byte at a time gives the same.
        let mut scanner = HeadScanner::new(kind, limits);
        let mut input = BytesMut::new();
        let mut single = Ok(None);
        for &byte in head {
            input.extend_from_slice(&[byte]);
            single = scanner.take(&mut input).map(|head| head.map(|head| head.len()));
            if single != Ok(None) {
                break;
            }
        }
        assert_eq!(whole, single);
        whole
    }

    #[test]
    fn the_head_is_taken_and_what_follows_stays() {
        let mut input = BytesMut::from(&b"GET / HTTP/1.1\r\na:b\r\n\r\n\x81\x00"[..]);
        let head = HeadScanner::new(Kind::Request, &Limits::server()).take(&mut input).unwrap().unwrap();
        assert_eq!(head, &b"GET / HTTP/1.1\r\na:b\r\n\r\n"[..]);
        assert_eq!(input, &b"\x81\x00"[..]);
    }

    #[test]
    fn hazard_1_limits_are_inclusive() {
        let head = b"GET / HTTP/1.1\r\nname: a value of 23\r\nb:\r\n\r\n";
        assert_eq!(head.len(), 43);
        for kind in [Kind::Request, Kind::Response] {
            assert_eq!(scan(kind, &limits(44, 22, 3), head), Ok(Some(43)));
            assert_eq!(scan(kind, &limits(43, 21, 2), head), Ok(Some(43)));
            assert_eq!(scan(kind, &limits(42, 21, 2), head), Err(HandshakeError::HeadTooLarge { limit: 42 }));
            assert_eq!(scan(kind, &limits(43, 20, 2), head), Err(HandshakeError::LineTooLong { limit: 20 }));
            assert_eq!(scan(kind, &limits(43, 21, 1), head), Err(HandshakeError::TooManyHeaders { limit: 1 }));
        }
        assert_eq!(scan(Kind::Request, &limits(43, 16, 2), &head[..16]), Ok(None));
        for (limits, limit) in [(limits(43, 15, 2), 15), (limits(15, 43, 2), 15)] {
            assert_eq!(scan(Kind::Request, &limits, head), Err(HandshakeError::RequestLineTooLong { limit }));
        }
        assert_eq!(scan(Kind::Response, &limits(43, 15, 2), head), Err(HandshakeError::LineTooLong { limit: 15 }));
    }

    #[test]
    fn a_limit_holds_before_the_head_is_complete() {
        let endless = [b'a'; 101];
        assert_eq!(scan(Kind::Request, &limits(200, 100, 1), &endless[..100]), Ok(None));
        assert!(scan(Kind::Request, &limits(200, 100, 1), &endless).is_err());
    }

    #[test]
    fn hazard_6_smuggled_lines_are_refused() {
        use HeadSyntax::*;
        for (rest, syntax) in [
            (&b"\r\nHost : a\r\n\r\n"[..], SpaceBeforeColon),
            (b"\r\nHost\t: a\r\n\r\n", SpaceBeforeColon),
            (b"\r\nHost a\r\n\r\n", SpaceBeforeColon),
            (b"\r\nHost: a\rb: c\r\n\r\n", BareCr),
            (b"\r\nHost: a\r\r\n\r\n", BareCr),
            (b"\rHost: a\r\n\r\n", BareCr),
            (b"\r\nHost: a\r\n\rb", BareCr),
            (b"\r\nHost: a\nb: c\r\n\r\n", BareLf),
            (b"\nHost: a\r\n\r\n", BareLf),
            (b"\r\nHost: a\r\n\n", BareLf),
            (b"\r\nHost\n: a\r\n\n", BareLf),
            (b"\r\nHost: a\0b\r\n\r\n", ControlByte(0)),
            (b"\r\nHo\0st: a\r\n\r\n", ControlByte(0)),
            (b"\0\r\nHost: a\r\n\r\n", ControlByte(0)),
            (b"\r\nHost: a\x7f\r\n\r\n", ControlByte(0x7f)),
            (b"\r\nHost: a\x0b\r\n\r\n", ControlByte(0x0b)),
            (b"\r\nHost: a\r\n b: c\r\n\r\n", Fold),
            (b"\r\nHost: a\r\n\tb\r\n\r\n", Fold),
            (b"\r\n Host: a\r\n\r\n", Fold),
            (b"\r\nHost: a\r\n \r\n\r\n", Fold),
            (b"\r\nHost\r\n\r\n", FieldName),
            (b"\r\n: a\r\n\r\n", FieldName),
            (b"\r\nH\xe9: a\r\n\r\n", FieldName),
            (b"\r\nH(: a\r\n\r\n", FieldName),
        ] {
            for (kind, line) in [(Kind::Request, &b"GET / HTTP/1.1"[..]), (Kind::Response, b"HTTP/1.1 101 OK")] {
                let head = [line, rest].concat();
                assert_eq!(scan(kind, &Limits::server(), &head), Err(HandshakeError::Syntax(syntax)), "{rest:?}");
            }
        }
        assert_eq!(
            scan(Kind::Request, &Limits::server(), b"\r\nGET / HTTP/1.1\r\n\r\n"),
            Err(HandshakeError::Syntax(StartLine))
        );
    }

    #[test]
    fn start_lines_are_strict() {
        let syntax = Some(HandshakeError::Syntax(HeadSyntax::StartLine));
        let version = Some(HandshakeError::HttpVersion);
        for (line, error) in [
            ("GET / HTTP/1.1", None),
            ("GET / HTTP/1.0", None),
            ("GET / HTTP/0.9", version.clone()),
            ("GET / HTTP/1.2", version.clone()),
            ("PRI * HTTP/2.0", version.clone()),
            ("GET / HTTP/1.10", syntax.clone()),
            ("GET / http/1.1", syntax.clone()),
            ("GET /", syntax.clone()),
            ("GET", syntax.clone()),
            (" GET / HTTP/1.1", syntax.clone()),
            ("GET  / HTTP/1.1", syntax.clone()),
            ("GET /  HTTP/1.1", syntax.clone()),
            ("GET / HTTP/1.1 ", syntax.clone()),
            ("GET\t/ HTTP/1.1", syntax.clone()),
            ("G(T / HTTP/1.1", syntax.clone()),
        ] {
            let head = format!("{line}\r\n\r\n");
            assert_eq!(parse_request(head.as_bytes(), 0).err(), error, "{line:?}");
        }
        for (line, error) in [
            ("HTTP/1.1 101 Switching Protocols", None),
            ("HTTP/1.1 101 ", None),
            ("HTTP/1.1 101", None),
            ("HTTP/1.1 101 a\tb \u{e9}", None),
            ("HTTP/1.0 200 OK", None),
            ("HTTP/1.2 101 OK", version.clone()),
            ("HTTP/2.0 101 OK", version),
            ("HTTP/1.1 99 OK", syntax.clone()),
            ("HTTP/1.1 099 OK", syntax.clone()),
            ("HTTP/1.1 1010 OK", syntax.clone()),
            ("HTTP/1.1  101 OK", syntax.clone()),
            ("HTTP/1.1 1x1 OK", syntax.clone()),
            ("ICY 200 OK", syntax.clone()),
            (" HTTP/1.1 101 OK", syntax),
        ] {
            let head = format!("{line}\r\n\r\n");
            assert_eq!(parse_response(head.as_bytes(), 0).err(), error, "{line:?}");
        }
    }

    #[test]
    fn values_are_trimmed_and_may_have_any_high_byte() {
        let head = b"GET / HTTP/1.1\r\na: \t b c \t\r\na:\x80\xff\r\nc:\r\nd: \r\nCookie: x\r\n\r\n";
        let request = parse_request(head, 5).unwrap();
        let values: Vec<_> = request.headers.get_all("a").iter().map(|value| value.as_bytes()).collect();
        assert_eq!(values, [&b"b c"[..], b"\x80\xff"]);
        assert_eq!(request.headers["c"], "");
        assert_eq!(request.headers["d"], "");
        assert!(request.headers["cookie"].is_sensitive());
    }

    #[test]
    fn more_fields_than_the_map_holds_are_an_error() {
        let mut head = b"GET / HTTP/1.1\r\n".to_vec();
        for n in 0..40_000 {
            head.extend_from_slice(format!("a{n}:\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        assert!(matches!(parse_request(&head, 40_000), Err(HandshakeError::TooManyHeaders { .. })));
    }

    /// A scanner that began anew with each byte would take hours.
    #[test]
    fn hazard_3_a_long_line_that_comes_byte_by_byte_costs_its_length() {
        let size = 1 << 20;
        let mut head = b"GET / HTTP/1.1\r\na:".to_vec();
        head.resize(size, b' ');
        head.extend_from_slice(b"\r\n\r\n");
        let mut scanner = HeadScanner::new(Kind::Request, &limits(2 * size, 2 * size, 1));
        let mut input = BytesMut::new();
        let mut found = None;
        for &byte in &head {
            input.extend_from_slice(&[byte]);
            found = scanner.take(&mut input).unwrap();
        }
        assert_eq!(parse_request(&found.unwrap(), scanner.fields()).unwrap().headers["a"], "");
    }

    #[test]
    fn hazard_3_each_byte_of_a_head_is_looked_at_once_however_it_is_cut() {
        let mut head = b"GET / HTTP/1.1\r\n".to_vec();
        (0..50).for_each(|n| head.extend(format!("name-{n}: value {n}\r\n").bytes()));
        for size in 1..20 {
            let mut scanner = HeadScanner::new(Kind::Request, &Limits::server());
            let mut input = BytesMut::new();
            for piece in head.chunks(size) {
                input.extend_from_slice(piece);
                assert_eq!(scanner.take(&mut input), Ok(None));
                // A step counts its byte, so that steps and bytes are as many.
                assert_eq!(scanner.scanned, input.len());
            }
        }
    }

    proptest::proptest! {
        /// The scanner lets nothing through that the parser takes for another number of fields.
        #[test]
        fn scanner_and_parser_agree(rest in "([a-c \t:\r\n]|\r\n|\r\n|a: b){0,20}") {
            let mut input = BytesMut::from(format!("GET / HTTP/1.1\r\n{rest}\r\n\r\n").as_bytes());
            let mut scanner = HeadScanner::new(Kind::Request, &Limits::server());
            if let Ok(Some(head)) = scanner.take(&mut input) {
                let request = parse_request(&head, scanner.fields()).unwrap();
                assert_eq!(request.headers.len(), scanner.fields());
            }
        }
    }
}
