//! A client's side of the opening handshake: RFC 6455, section 4.1.

use std::fmt;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, StatusCode};

use super::accept;
use super::body::BodyReader;
use super::error::HandshakeError;
use super::extensions::{Extension, extensions};
use super::fields::Redacted;
use super::head::{HeadScanner, Kind, ResponseHead, Version, parse_response, single};
use super::negotiated::Negotiated;
use super::request::ClientRequest;
use super::tokens::{contains_protocol, contains_token, is_token};
use crate::Limits;
use crate::limits::INTERIM_RESPONSES;

/// A client's opening handshake, from the request sent to the response checked (RFC 6455, section 4.1).
///
/// Send the head that [`new`](Self::new) returns, then pass what arrives to [`handle_input`](Self::handle_input)
/// until it returns something. All calls are legal at any time; after the end they repeat it.
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    /// The only right value of `Sec-WebSocket-Accept`.
    accept: String,
    /// What was offered.
    subprotocols: Vec<String>,
    limits: Limits,
    state: State,
}

/// ```text
/// Head ─▶ Head (interim) ─▶ Open
///   │
///   ├─▶ Body ─▶ Failed(Rejected)
///   └─▶ Failed(Protocol)
/// ```
#[derive(Clone, Debug)]
enum State {
    /// Waiting for a response, after some interim ones.
    Head {
        scanner: HeadScanner,
        interim: usize,
    },
    /// Another status than 101 has come.
    Body(Box<Refused>),
    Open,
    Failed(ClientFailure),
}

#[derive(Clone, Debug)]
struct Refused {
    status: StatusCode,
    headers: HeaderMap,
    body: BodyReader,
}

impl Refused {
    fn rejected(&self) -> ClientFailure {
        let (status, headers) = (self.status, self.headers.clone());
        ClientFailure::Rejected(Box::new(Rejected { status, headers, body: self.body.kept() }))
    }
}

impl ClientHandshake {
    /// Begins a handshake: returns the head to send.
    ///
    /// `key_bytes` become `Sec-WebSocket-Key`. They have to be random and used once (section 4.1, item 7).
    #[must_use]
    pub fn new(request: &ClientRequest, key_bytes: [u8; 16], limits: &Limits) -> (Self, Vec<u8>) {
        let key = accept::key(key_bytes);
        let mut head = Vec::with_capacity(512);
        request.encode(&key, &mut head);
        let handshake = Self {
            accept: accept::accept(&key),
            subprotocols: request.subprotocols().to_vec(),
            state: State::Head { scanner: HeadScanner::new(Kind::Response, limits), interim: 0 },
            limits: limits.clone(),
        };
        (handshake, head)
    }

    /// Reads the response. Takes it off the front of `input`; what follows a 101 are frames, and stays.
    ///
    /// `None` asks for more input: append it to what was left.
    ///
    /// # Errors
    ///
    /// The response refuses the upgrade (once enough of its body has come), or is none that RFC 6455 allows.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<Option<Negotiated>, ClientFailure> {
        let result = self.read(input);
        match &result {
            Ok(None) => {}
            Ok(Some(_)) => self.state = State::Open,
            Err(failure) => self.state = State::Failed(failure.clone()),
        }
        result
    }

    /// The transport ended: what it means for the handshake. A response without a length ends so.
    pub fn handle_eof(&mut self) -> ClientFailure {
        let failure = self.refused().unwrap_or(ClientFailure::Protocol(HandshakeError::Eof));
        self.state = State::Failed(failure.clone());
        failure
    }

    /// The deadline has come: the rejection with what there is of its body, if the status is known; else `None`, and
    /// the deadline is the reason.
    pub fn handle_deadline(&mut self) -> Option<ClientFailure> {
        let failure = self.refused()?;
        self.state = State::Failed(failure.clone());
        Some(failure)
    }

    fn refused(&self) -> Option<ClientFailure> {
        match &self.state {
            State::Body(refused) => Some(refused.rejected()),
            State::Failed(failure) => Some(failure.clone()),
            State::Head { .. } | State::Open => None,
        }
    }

    fn read(&mut self, input: &mut BytesMut) -> Result<Option<Negotiated>, ClientFailure> {
        loop {
            let (head, interim) = match &mut self.state {
                State::Head { scanner, interim } => {
                    let Some(head) = scanner.take(input)? else { return Ok(None) };
                    (parse_response(&head, scanner.fields())?, *interim)
                }
                State::Body(refused) => {
                    return if refused.body.handle_input(input) { Err(refused.rejected()) } else { Ok(None) };
                }
                State::Open => return Ok(None),
                State::Failed(failure) => return Err(failure.clone()),
            };
            // An upgrade, and any 1xx, needs HTTP/1.1. A refusal may well come from something older.
            if head.version != Version::Http11 && head.status.is_informational() {
                return Err(HandshakeError::HttpVersion.into());
            }
            self.state = if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some(self.check(head)?));
            } else if head.status.is_informational() {
                // "A client MUST be able to parse one or more 1xx responses": RFC 9110, section 15.2.
                if interim >= INTERIM_RESPONSES {
                    return Err(HandshakeError::TooManyInterimResponses.into());
                }
                State::Head { scanner: HeadScanner::new(Kind::Response, &self.limits), interim: interim + 1 }
            } else {
                let body = BodyReader::new(head.version, head.status, &head.headers, self.limits.rejection_body());
                State::Body(Box::new(Refused { status: head.status, headers: head.headers, body }))
            };
        }
    }

    /// The checks of section 4.1 on a 101, in its order.
    fn check(&self, head: ResponseHead) -> Result<Negotiated, HandshakeError> {
        let headers = head.headers;
        upgrade(&headers)?;
        let accept = single(&headers, SEC_WEBSOCKET_ACCEPT)?.ok_or(HandshakeError::Missing(SEC_WEBSOCKET_ACCEPT))?;
        if accept.as_bytes() != self.accept.as_bytes() {
            return Err(HandshakeError::AcceptMismatch);
        }
        let agreed = chosen_extensions(&headers)?;
        let subprotocol = match single(&headers, SEC_WEBSOCKET_PROTOCOL)? {
            Some(value) if !is_token(value.as_bytes()) => {
                return Err(HandshakeError::Malformed(SEC_WEBSOCKET_PROTOCOL));
            }
            Some(value) => Some(
                self.subprotocols
                    .iter()
                    .find(|offered| offered.as_bytes() == value.as_bytes())
                    .ok_or(HandshakeError::SubprotocolNotOffered)?,
            ),
            None => None,
        };
        let negotiated = Negotiated::new(head.status, headers).with_extensions(agreed);
        match subprotocol {
            Some(name) => negotiated.with_subprotocol(name).map_err(|_| HandshakeError::SubprotocolNotOffered),
            None => Ok(negotiated),
        }
    }
}

/// The extensions that the server chose. No extension is offered yet, so any is one too many: the check against
/// what was offered (section 9.1) belongs here.
fn chosen_extensions(headers: &HeaderMap) -> Result<Vec<Extension>, HandshakeError> {
    let Some(line) = single(headers, SEC_WEBSOCKET_EXTENSIONS)? else { return Ok(Vec::new()) };
    let mut chosen = extensions(line.as_bytes()).peekable();
    // The list has at least one element.
    if chosen.peek().is_none() || chosen.any(|extension| extension.is_err()) {
        return Err(HandshakeError::Malformed(SEC_WEBSOCKET_EXTENSIONS));
    }
    Err(HandshakeError::ExtensionNotOffered)
}

/// `Upgrade` has `websocket` and `Connection` has `upgrade`, as tokens and in any case.
pub(crate) fn upgrade(headers: &HeaderMap) -> Result<(), HandshakeError> {
    match contains_protocol(headers.get_all(UPGRADE), "websocket") {
        Ok(true) => {}
        Ok(false) => return Err(HandshakeError::NotUpgrade(UPGRADE)),
        Err(_) => return Err(HandshakeError::Malformed(UPGRADE)),
    }
    match contains_token(headers.get_all(CONNECTION), "upgrade") {
        Ok(true) => Ok(()),
        Ok(false) => Err(HandshakeError::NotUpgrade(CONNECTION)),
        Err(_) => Err(HandshakeError::Malformed(CONNECTION)),
    }
}

/// Why a client's handshake did not end in a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientFailure {
    /// The server answered with another final status than 101: its decision, and the application's business.
    Rejected(Box<Rejected>),
    /// The server broke the protocol, or the transport ended.
    Protocol(HandshakeError),
}

impl From<HandshakeError> for ClientFailure {
    fn from(error: HandshakeError) -> Self {
        Self::Protocol(error)
    }
}

impl fmt::Display for ClientFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejected) => rejected.fmt(f),
            Self::Protocol(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientFailure {}

/// A response that refuses the upgrade: a redirect, a 401, a 503 (RFC 6455, section 4.1).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected {
    /// Any final status but 101.
    pub status: StatusCode,
    /// The response's header fields.
    pub headers: HeaderMap,
    /// The beginning of the response's body, at most [`Limits::rejection_body`] bytes. Chunks are joined; a content
    /// encoding is left as it is. Shorter than the body was meant to be if the transport or the time ended early.
    pub body: Bytes,
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("status", &self.status)
            .field("headers", &Redacted(&self.headers))
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server refused the upgrade with status {}", self.status.as_str())
    }
}

impl std::error::Error for Rejected {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

    fn handshake(limits: &Limits) -> ClientHandshake {
        let mut request = ClientRequest::new("ws://server.example.com/chat").unwrap();
        request.header("Origin", "http://example.com").unwrap();
        request.subprotocol("chat").unwrap().subprotocol("superchat").unwrap();
        ClientHandshake::new(&request, *b"the sample nonce", limits).0
    }

    type Outcome = (Result<Option<Negotiated>, ClientFailure>, Vec<u8>);

    /// Feeds the pieces; returns the first result, and what is left over then, with the pieces not fed.
    fn feed<'a>(limits: &Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut handshake = handshake(limits);
        let mut input = BytesMut::new();
        let mut result = Ok(None);
        for piece in pieces {
            input.extend_from_slice(piece);
            if result == Ok(None) {
                result = handshake.handle_input(&mut input);
            }
        }
        (result, input.to_vec())
    }

    /// The result for every cut in two and for single bytes, which have to be the same.
    fn respond_with(limits: &Limits, response: &[u8]) -> Outcome {
        let whole = feed(limits, [response]);
        assert_eq!(feed(limits, response.chunks(1)), whole);
        for cut in 1..response.len() {
            let (a, b) = response.split_at(cut);
            assert_eq!(feed(limits, [a, b]), whole, "cut at {cut}");
        }
        whole
    }

    fn respond(response: &[u8]) -> Outcome {
        respond_with(&Limits::client(), response)
    }

    fn error(response: impl AsRef<[u8]>) -> HandshakeError {
        match respond(response.as_ref()).0 {
            Err(ClientFailure::Protocol(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    fn rejected(response: &str) -> Rejected {
        match respond(response.as_bytes()).0 {
            Err(ClientFailure::Rejected(rejected)) => *rejected,
            other => panic!("{response:?}: {other:?}"),
        }
    }

    #[test]
    fn the_example_of_section_1_3() {
        let mut request = ClientRequest::new("ws://server.example.com/chat").unwrap();
        request.header("Origin", "http://example.com").unwrap();
        request.subprotocol("chat").unwrap().subprotocol("superchat").unwrap();
        let (_, head) = ClientHandshake::new(&request, *b"the sample nonce", &Limits::client());
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: chat, superchat\r\nUser-Agent: parley/VERSION\r\n\
             origin: http://example.com\r\n\r\n"
                .replace("VERSION", env!("CARGO_PKG_VERSION"))
        );
        let (result, rest) = respond(RESPONSE.as_bytes());
        let negotiated = result.unwrap().unwrap();
        assert_eq!(negotiated.status(), 101);
        assert_eq!(negotiated.subprotocol(), Some("chat"));
        assert_eq!(negotiated.headers().len(), 4);
        assert!(negotiated.extensions().is_empty() && rest.is_empty());
    }

    #[test]
    fn frames_behind_the_101_stay() {
        let (result, rest) = respond(&[RESPONSE.as_bytes(), b"\x81\x02hi\x88\x00"].concat());
        assert!(result.unwrap().is_some());
        assert_eq!(rest, b"\x81\x02hi\x88\x00");
    }

    #[test]
    fn fields_match_as_tokens_in_any_case() {
        for (from, to) in [
            ("Upgrade: websocket", "UPGRADE:WebSocket"),
            ("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: websocket"),
            ("Connection: Upgrade", "connection: keep-alive, uPGRADE"),
            ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade"),
            ("Sec-WebSocket-Protocol: chat\r\n", ""),
            ("101 Switching Protocols", "101 "),
            ("101 Switching Protocols", "101"),
            ("=\r\n", "= \t\r\nX: \u{e9}\r\n"),
        ] {
            assert!(matches!(respond(RESPONSE.replace(from, to).as_bytes()).0, Ok(Some(_))), "{to}");
        }
    }

    /// Hazards 4 and 5.
    #[test]
    fn hazard_4_every_wrong_101_is_refused() {
        use HandshakeError::*;
        for (from, to, wanted) in [
            ("HTTP/1.1", "HTTP/1.0", HttpVersion),
            ("HTTP/1.1", "HTTP/2.0", HttpVersion),
            ("Upgrade: websocket\r\n", "", NotUpgrade(UPGRADE)),
            ("Upgrade: websocket", "Upgrade: websockets", NotUpgrade(UPGRADE)),
            ("Upgrade: websocket", "Upgrade: my-websocket", NotUpgrade(UPGRADE)),
            ("Upgrade: websocket", "Upgrade: web socket", Malformed(UPGRADE)),
            ("Connection: Upgrade\r\n", "", NotUpgrade(CONNECTION)),
            ("Connection: Upgrade", "Connection: no-upgrade", NotUpgrade(CONNECTION)),
            ("Connection: Upgrade", "Connection: \"upgrade\"", Malformed(CONNECTION)),
            ("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "", Missing(SEC_WEBSOCKET_ACCEPT)),
            ("s3pPLMBi", "S3pPLMBi", AcceptMismatch),
            ("xOo=", "xOo", AcceptMismatch),
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "", AcceptMismatch),
            ("xOo=", "xOo=\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", Repeated(SEC_WEBSOCKET_ACCEPT)),
            ("col: chat", "col: Chat", SubprotocolNotOffered),
            ("col: chat", "col: other", SubprotocolNotOffered),
            ("col: chat", "col: chat, superchat", Malformed(SEC_WEBSOCKET_PROTOCOL)),
            ("col: chat", "col: chat,", Malformed(SEC_WEBSOCKET_PROTOCOL)),
            ("col: chat", "col:", Malformed(SEC_WEBSOCKET_PROTOCOL)),
            ("col: chat", "col: chat\r\nSec-WebSocket-Protocol: chat", Repeated(SEC_WEBSOCKET_PROTOCOL)),
            ("col: chat", "col: chat\r\nSec-WebSocket-Extensions: permessage-deflate", ExtensionNotOffered),
            ("col: chat", "col: chat\r\nSec-WebSocket-Extensions: a;", Malformed(SEC_WEBSOCKET_EXTENSIONS)),
            ("col: chat", "col: chat\r\nSec-WebSocket-Extensions: ,", Malformed(SEC_WEBSOCKET_EXTENSIONS)),
            (
                "col: chat",
                "col: chat\r\nSec-WebSocket-Extensions: a\r\nSec-WebSocket-Extensions: b",
                Repeated(SEC_WEBSOCKET_EXTENSIONS),
            ),
        ] {
            let response = RESPONSE.replace(from, to);
            assert_ne!(response, RESPONSE);
            assert_eq!(error(&response), wanted, "{to}");
        }
    }

    #[test]
    fn hazard_5_a_subprotocol_is_refused_when_none_was_offered() {
        let request = ClientRequest::new("ws://a").unwrap();
        let (mut handshake, _) = ClientHandshake::new(&request, *b"the sample nonce", &Limits::client());
        let result = handshake.handle_input(&mut BytesMut::from(RESPONSE));
        assert_eq!(result, Err(HandshakeError::SubprotocolNotOffered.into()));
    }

    #[test]
    fn hazard_1_four_interim_responses_are_passed_over() {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n".repeat(2);
        let (result, rest) = respond(format!("{interim}{RESPONSE}\u{1}").as_bytes());
        assert!(matches!(result, Ok(Some(_))));
        assert_eq!(rest, [1]);
        let five = format!("{interim}HTTP/1.1 102 Processing\r\n\r\n");
        assert_eq!(error(&five), HandshakeError::TooManyInterimResponses);
        assert_eq!(rejected(&format!("{interim}HTTP/1.1 403 \r\ncontent-length: 0\r\n\r\n")).status, 403);
        assert_eq!(error("HTTP/1.0 100 Continue\r\n\r\n"), HandshakeError::HttpVersion);
    }

    #[test]
    fn another_status_is_a_rejection_with_its_body() {
        let rejection = rejected("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nhello, world");
        assert_eq!(rejection.status, 401);
        assert_eq!(rejection.headers["www-authenticate"], "Basic");
        assert_eq!(rejection.body, "hello");
        let chunked = "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(rejected(chunked).body, "hello");
        assert_eq!(rejected("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").status, 200);
        assert_eq!(rejected("HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n").status, 404);
        assert_eq!(rejected("HTTP/1.1 302 \r\nLocation: /\r\nContent-Length: 0\r\n\r\n").headers["location"], "/");
    }

    #[test]
    fn hazard_1_no_more_of_a_body_is_read_than_the_limit() {
        let limits = Limits::client().with_rejection_body(8).unwrap();
        for (body, kept) in [("1234567", None), ("12345678", Some("12345678")), ("123456789", Some("12345678"))] {
            let response = format!("HTTP/1.1 500 \r\nContent-Length: 99999999999\r\n\r\n{body}");
            match respond_with(&limits, response.as_bytes()).0 {
                Ok(None) => assert_eq!(kept, None),
                Err(ClientFailure::Rejected(rejected)) => assert_eq!(kept.map(Bytes::from), Some(rejected.body)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn eof_and_deadline_give_what_there_is() {
        let mut early = handshake(&Limits::client());
        assert_eq!(early.handle_input(&mut BytesMut::from("HTTP/1.1 403")), Ok(None));
        assert_eq!(early.handle_deadline(), None);
        assert_eq!(early.handle_eof(), ClientFailure::Protocol(HandshakeError::Eof));
        assert_eq!(early.handle_input(&mut BytesMut::new()), Err(ClientFailure::Protocol(HandshakeError::Eof)));

        let mut late = handshake(&Limits::client());
        assert_eq!(late.handle_input(&mut BytesMut::from("HTTP/1.1 403 No\r\n\r\nsome")), Ok(None));
        let Some(ClientFailure::Rejected(rejected)) = late.clone().handle_deadline() else { panic!() };
        assert_eq!((rejected.status.as_u16(), &rejected.body[..]), (403, &b"some"[..]));
        let failure = late.handle_eof();
        assert_eq!(failure, ClientFailure::Rejected(rejected));
        assert_eq!(late.handle_input(&mut BytesMut::from("more")), Err(failure));
    }

    #[test]
    fn after_the_101_input_is_left_alone() {
        let mut handshake = handshake(&Limits::client());
        assert!(handshake.handle_input(&mut BytesMut::from(RESPONSE)).unwrap().is_some());
        let mut input = BytesMut::from(RESPONSE);
        assert_eq!(handshake.handle_input(&mut input), Ok(None));
        assert_eq!(input, RESPONSE);
    }

    #[test]
    fn hazard_1_limits_are_inclusive() {
        let len = RESPONSE.len();
        let line = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n".len();
        for (limits, ok) in [
            (Limits::client().with_head(len - 1), false),
            (Limits::client().with_head(len), true),
            (Limits::client().with_head(len + 1), true),
            (Limits::client().with_header_line(line - 1), false),
            (Limits::client().with_header_line(line), true),
            (Limits::client().with_header_line(line + 1), true),
            (Limits::client().with_headers(3), false),
            (Limits::client().with_headers(4), true),
            (Limits::client().with_headers(5), true),
        ] {
            assert_eq!(respond_with(&limits.unwrap(), RESPONSE.as_bytes()).0.is_ok(), ok);
        }
    }

    #[test]
    fn debug_keeps_secrets() {
        let rejected = rejected("HTTP/1.1 401 \r\nSet-Cookie: hunter2\r\nContent-Length: 7\r\n\r\nhunter3");
        let text = format!("{rejected:?} {rejected}");
        assert!(text.contains("401") && !text.contains("hunter"), "{text}");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..200_usize) {
            let cut = cut.min(bytes.len());
            let (a, b) = bytes.split_at(cut);
            prop_assert_eq!(feed(&Limits::client(), [a, b]), feed(&Limits::client(), [&bytes[..]]));
        }

        #[test]
        fn damaged_responses_never_panic(at in 0..RESPONSE.len(), byte: u8, kind in 0..3) {
            let mut response = RESPONSE.as_bytes().to_vec();
            match kind {
                0 => response[at] = byte,
                1 => response.insert(at, byte),
                _ => drop(response.remove(at)),
            }
            prop_assert_eq!(feed(&Limits::client(), response.chunks(1)), feed(&Limits::client(), [&response[..]]));
        }
    }
}
