//! A server's side of the opening handshake: RFC 6455, section 4.2.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONTENT_LENGTH, HOST, ORIGIN, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::accept;
use super::client::upgrade;
use super::error::{ApiMisuse, HandshakeError, HeadSyntax};
use super::extensions::{Extension, extensions};
use super::fields::{Redacted, RedactedQuery};
use super::head::{HeadScanner, Kind, RequestHead, Version, parse_request, single};
use super::negotiated::Negotiated;
use super::reply::{Acceptance, Rejection, refusal, respond, unavailable};
use super::tokens::tokens;
use super::url::host_and_port;
use crate::Limits;

/// A server's opening handshake, from the first byte of the request to the response (RFC 6455, section 4.2).
///
/// Pass what arrives to [`handle_input`](Self::handle_input) until it returns a [`Request`]; then answer it, once,
/// with [`accept`](Self::accept) or [`reject`](Self::reject). All calls are legal at any time.
#[derive(Clone, Debug)]
pub struct ServerHandshake {
    state: State,
}

/// ```text
/// Head ─▶ Pending ─▶ Answered
///   └─▶ Refused ──────▲   a plain request may be answered all the same
/// ```
#[derive(Clone, Debug)]
enum State {
    Head(HeadScanner),
    /// The request waits for an answer.
    Pending(Request),
    Answered,
    Refused(ServerRefusal),
}

impl ServerHandshake {
    /// Waits for a request.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { state: State::Head(HeadScanner::new(Kind::Request, limits)) }
    }

    /// Reads the request. Takes its head off the front of `input`; what follows is left, and can only be frames.
    ///
    /// `None` asks for more input (append it to what was left), or says that the request was returned before.
    ///
    /// # Errors
    ///
    /// The request is none that RFC 6455 allows: send the response, then close. Calling again repeats it.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<Option<Request>, ServerRefusal> {
        let (result, plain, head_method) = match &mut self.state {
            State::Head(scanner) => match scanner.take(input) {
                Ok(None) => return Ok(None),
                Ok(Some(head)) => match parse_request(&head, scanner.fields()) {
                    Ok(head) => {
                        let (plain, head_method) = (plain(&head), head.method == "HEAD");
                        (Request::check(head), plain, head_method)
                    }
                    Err(error) => (Err(error), None, false),
                },
                Err(error) => (Err(error), None, false),
            },
            State::Pending(_) | State::Answered => return Ok(None),
            State::Refused(refusal) => return Err(refusal.clone()),
        };
        match result {
            Ok(request) => {
                self.state = State::Pending(request.clone());
                Ok(Some(request))
            }
            Err(error) => {
                let refusal = ServerRefusal { response: refusal(&error, head_method), error, request: plain };
                self.state = State::Refused(refusal.clone());
                Err(refusal)
            }
        }
    }

    /// Accepts the request: returns what was agreed, and the response to send. The connection is then open.
    ///
    /// # Errors
    ///
    /// No request waits, or the client did not offer that subprotocol; the request then waits on.
    pub fn accept(&mut self, reply: &Acceptance) -> Result<(Negotiated, Vec<u8>), ApiMisuse> {
        let State::Pending(request) = &self.state else { return Err(ApiMisuse::NoRequest) };
        let negotiated = request.agree(reply)?;
        let response = reply.encode(&accept::accept(&request.0.key));
        self.state = State::Answered;
        Ok((negotiated, response))
    }

    /// Rejects the request: returns the response to send before closing.
    ///
    /// # Errors
    ///
    /// No request waits.
    pub fn reject(&mut self, reply: &Rejection) -> Result<Vec<u8>, ApiMisuse> {
        let State::Pending(_) = &self.state else { return Err(ApiMisuse::NoRequest) };
        self.state = State::Answered;
        Ok(reply.encode())
    }

    /// Answers a [plain request](ServerRefusal::request) instead of refusing it: returns the response to send before
    /// closing. It has no body where the request was `HEAD`.
    ///
    /// # Errors
    ///
    /// No plain request waits, or the status is an interim one (1xx).
    pub fn respond(&mut self, response: &http::Response<Bytes>) -> Result<Vec<u8>, ApiMisuse> {
        let (mut head, body) = self.respond_in_two(response)?;
        head.extend_from_slice(&body);
        Ok(head)
    }

    /// The same as head and body, of which the latter may be shared by many connections.
    pub(crate) fn respond_in_two(&mut self, response: &http::Response<Bytes>) -> Result<(Vec<u8>, Bytes), ApiMisuse> {
        let State::Refused(ServerRefusal { request: Some(request), .. }) = &self.state else {
            return Err(ApiMisuse::NoRequest);
        };
        if response.status().is_informational() {
            return Err(ApiMisuse::RejectionStatus(response.status()));
        }
        let without_body = request.method() == Method::HEAD
            || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.state = State::Answered;
        Ok((respond(response), if without_body { Bytes::new() } else { response.body().clone() }))
    }

    /// The response to whatever waits, when nobody has answered it.
    pub(crate) fn give_up(&mut self) -> Vec<u8> {
        self.state = State::Answered;
        unavailable()
    }
}

/// A request that breaks the protocol, and the answer to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerRefusal {
    /// What is wrong. The client is at fault.
    pub error: HandshakeError,
    /// The complete HTTP response to send before closing: 400, 405, 414, 426, 431 or 505.
    pub response: Vec<u8>,
    /// The request, if all that is wrong with it is that it asks for no upgrade: a `GET` or `HEAD` without a body. It
    /// may be [answered](ServerHandshake::respond) like any other.
    pub request: Option<Box<http::Request<()>>>,
}

impl PartialEq for ServerRefusal {
    fn eq(&self, other: &Self) -> bool {
        // The response is made of the error; the request says no more.
        (&self.error, &self.response) == (&other.error, &other.response)
    }
}

impl Eq for ServerRefusal {}

impl fmt::Display for ServerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for ServerRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// A valid opening handshake of a client (RFC 6455, section 4.2.1): a GET over HTTP/1.1. Cheap to clone.
///
/// Whether its [`origin`](Self::origin) is welcome is for the server to decide (section 10.2): a browser lets any
/// page open a connection, and sends the user's cookies along.
#[derive(Clone, PartialEq, Eq)]
pub struct Request(Arc<Parts>);

#[derive(PartialEq, Eq)]
struct Parts {
    resource: String,
    host: String,
    key: String,
    origin: Option<String>,
    headers: Arc<HeaderMap>,
}

impl Request {
    /// The handshake in a request that another HTTP server has parsed: hyper or axum, say. With what
    /// [`accept`](Self::accept) returns the server answers, and the upgraded stream is a connection's.
    ///
    /// # Errors
    ///
    /// It is no opening handshake of version 13; [`to_http`](HandshakeError::to_http) is the answer to it.
    pub fn from_http<B>(request: &http::Request<B>) -> Result<Self, HandshakeError> {
        Self::check(RequestHead {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            version: if request.version() == http::Version::HTTP_11 { Version::Http11 } else { Version::Http10 },
            headers: request.headers().clone(),
        })
    }

    /// Accepts a request that another HTTP server has parsed: what was agreed, and the response to send, 101.
    ///
    /// # Errors
    ///
    /// The client did not offer that subprotocol.
    pub fn accept(&self, reply: &Acceptance) -> Result<(Negotiated, http::Response<()>), ApiMisuse> {
        let negotiated = self.agree(reply)?;
        Ok((negotiated, reply.to_http(&accept::accept(&self.0.key))))
    }

    /// What an acceptance would settle.
    pub(crate) fn agree(&self, reply: &Acceptance) -> Result<Negotiated, ApiMisuse> {
        let negotiated = Negotiated::shared(StatusCode::SWITCHING_PROTOCOLS, Arc::clone(&self.0.headers));
        match reply.chosen() {
            None => Ok(negotiated),
            Some(name) if self.subprotocols().any(|offered| offered == name) => {
                negotiated.with_subprotocol(name).map_err(|_| ApiMisuse::SubprotocolNotOffered)
            }
            Some(_) => Err(ApiMisuse::SubprotocolNotOffered),
        }
    }

    /// The checks of section 4.2.1. What the answer depends on, whatever else is wrong, comes first.
    fn check(head: RequestHead) -> Result<Self, HandshakeError> {
        use HandshakeError::{HttpVersion, Malformed, Missing, RequestBody, UnsupportedVersion};
        let headers = head.headers;
        if head.version != Version::Http11 {
            return Err(HttpVersion);
        }
        if head.method != "GET" {
            return Err(HandshakeError::Method);
        }
        // RFC 9112, section 3.2: without a valid `Host`, or with two, the answer is 400, whatever the target.
        let host = text(&headers, HOST)?.ok_or(Missing(HOST))?;
        host_and_port(host).map_err(|_| Malformed(HOST))?;
        let (resource, host) = target(&head.target, host)?;
        if has_body(&headers) {
            return Err(RequestBody);
        }
        upgrade(&headers)?;
        let version = text(&headers, SEC_WEBSOCKET_VERSION)?.ok_or(Missing(SEC_WEBSOCKET_VERSION))?;
        if version != "13" {
            return Err(UnsupportedVersion);
        }
        let key = text(&headers, SEC_WEBSOCKET_KEY)?.ok_or(Missing(SEC_WEBSOCKET_KEY))?.to_owned();
        if !accept::is_key(&key) {
            return Err(Malformed(SEC_WEBSOCKET_KEY));
        }
        // RFC 6454, section 7.3: at most one. An origin that cannot be read must not look like none.
        let origin = text(&headers, ORIGIN)?.map(str::to_owned);
        check_subprotocols(&headers)?;
        check_extensions(&headers)?;
        Ok(Self(Arc::new(Parts { resource, host, key, origin, headers: Arc::new(headers) })))
    }

    /// Path and query: the resource name of RFC 6455, section 3. Printable ASCII that begins with `/`.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.0.resource
    }

    /// The path, without the query. Percent-encodings are left as they are.
    #[must_use]
    pub fn path(&self) -> &str {
        self.resource().split_once('?').map_or(self.resource(), |(path, _)| path)
    }

    /// The query, without its `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.resource().split_once('?').map(|(_, query)| query)
    }

    /// All header fields.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// The host that is asked for, with its port if one was sent: the value of `Host`, or what an absolute request
    /// target says instead (RFC 9112, section 3.2.2).
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The origin of the page that opens the connection, as browsers send it (RFC 6454); `null` is one, too.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.0.origin.as_deref()
    }

    /// The subprotocols on offer, most wanted first; no two are the same.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        // All are valid, by `check`.
        let lines = self.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        lines.flat_map(|line| tokens(line.as_bytes())).filter_map(Result::ok)
    }

    /// The extensions on offer, most wanted first (RFC 6455, section 9.1).
    pub fn extensions(&self) -> impl Iterator<Item = Extension> {
        let lines = self.headers().get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
        lines.flat_map(|line| extensions(line.as_bytes())).filter_map(Result::ok)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("resource", &RedactedQuery(self.resource()))
            .field("host", &self.host())
            .field("headers", &Redacted(self.headers()))
            .finish()
    }
}

/// The request as any HTTP server would see it, if it could be for one: it has no body, and does not ask for an upgrade to
/// WebSocket. One to something else may be ignored (RFC 9110, section 7.8). HTTP/1.0 needs no `Host`: so ask health checks.
fn plain(head: &RequestHead) -> Option<Box<http::Request<()>>> {
    let headers = &head.headers;
    let mut protocols = headers.get_all(UPGRADE).iter().flat_map(|line| tokens(line.as_bytes()));
    let upgrades = protocols.any(|name| name.is_ok_and(|name| name.eq_ignore_ascii_case("websocket")));
    if !matches!(&*head.method, "GET" | "HEAD") || upgrades || has_body(headers) {
        return None;
    }
    let host = match (text(headers, HOST).ok()?, head.version) {
        (Some(host), Version::Http11 | Version::Http10) => host,
        (None, Version::Http10) => "localhost", // only the path is wanted
        _ => return None,
    };
    host_and_port(host).ok()?;
    let (resource, _) = target(&head.target, host).ok()?;
    let mut request = http::Request::builder().method(&*head.method).uri(resource).body(()).ok()?;
    *request.headers_mut() = headers.clone();
    Some(Box::new(request))
}

/// A body would be taken for frames.
fn has_body(headers: &HeaderMap) -> bool {
    let mut length = headers.get_all(CONTENT_LENGTH).iter().map(|value| value.as_bytes());
    headers.contains_key(TRANSFER_ENCODING) || !length.all(|v| !v.is_empty() && v.iter().all(|&byte| byte == b'0'))
}

/// The value of a field that comes at most once and is printable ASCII.
fn text(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, HandshakeError> {
    match single(headers, name.clone())?.map(|value| value.to_str()) {
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(_)) => Err(HandshakeError::Malformed(name)),
        None => Ok(None),
    }
}

/// Resource name and host of a request target: a path, or an absolute URI (section 4.1, item 2), whose host counts
/// instead of `Host`.
fn target(target: &str, host: &str) -> Result<(String, String), HandshakeError> {
    let bad = HandshakeError::Syntax(HeadSyntax::Target);
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(bad);
    }
    if target.starts_with('/') {
        return Ok((target.to_owned(), host.to_owned()));
    }
    let (scheme, rest) = target.split_once("://").ok_or(bad.clone())?;
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(bad);
    }
    let (authority, resource) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    host_and_port(authority).map_err(|_| bad)?;
    let slash = if resource.starts_with('/') { "" } else { "/" };
    Ok((format!("{slash}{resource}"), authority.to_owned()))
}

/// Section 4.1, item 10: at least one, all unique.
fn check_subprotocols(headers: &HeaderMap) -> Result<(), HandshakeError> {
    let mut lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    let mut seen = HashSet::new();
    for name in lines.flat_map(|line| tokens(line.as_bytes())) {
        if !name.is_ok_and(|name| seen.insert(name)) {
            return Err(HandshakeError::Malformed(SEC_WEBSOCKET_PROTOCOL));
        }
    }
    if seen.is_empty() { Err(HandshakeError::Malformed(SEC_WEBSOCKET_PROTOCOL)) } else { Ok(()) }
}

/// Section 9.1: at least one.
fn check_extensions(headers: &HeaderMap) -> Result<(), HandshakeError> {
    let mut lines = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    let mut list = lines.flat_map(|line| extensions(line.as_bytes())).peekable();
    if list.peek().is_none() || list.any(|extension| extension.is_err()) {
        return Err(HandshakeError::Malformed(SEC_WEBSOCKET_EXTENSIONS));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::{ClientHandshake, ClientRequest};
    use proptest::prelude::*;

    const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
         Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

    type Outcome = (Result<Option<Request>, ServerRefusal>, Vec<u8>);

    fn feed<'a>(limits: &Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut handshake = ServerHandshake::new(limits);
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
    fn ask_with(limits: &Limits, request: &[u8]) -> Outcome {
        let whole = feed(limits, [request]);
        assert_eq!(feed(limits, request.chunks(1)), whole);
        for cut in 1..request.len() {
            let (a, b) = request.split_at(cut);
            assert_eq!(feed(limits, [a, b]), whole, "cut at {cut}");
        }
        whole
    }

    fn ask(request: &str) -> Result<Request, ServerRefusal> {
        ask_with(&Limits::server(), request.as_bytes()).0.map(|request| request.expect("a whole request"))
    }

    fn with(from: &str, to: &str) -> String {
        let request = REQUEST.replacen(from, to, 1);
        assert_ne!(request, REQUEST, "{from}");
        request
    }

    fn pending(request: &str) -> ServerHandshake {
        let mut handshake = ServerHandshake::new(&Limits::server());
        handshake.handle_input(&mut BytesMut::from(request)).unwrap().unwrap();
        handshake
    }

    #[test]
    fn the_example_of_section_1_3() {
        let request = ask(REQUEST).unwrap();
        assert_eq!((request.resource(), request.path(), request.query()), ("/chat", "/chat", None));
        assert_eq!(request.host(), "server.example.com");
        assert_eq!(request.origin(), Some("http://example.com"));
        assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["chat", "superchat"]);
        assert_eq!(request.extensions().count(), 0);
        assert_eq!(request.headers().len(), 7);
        let (negotiated, response) = pending(REQUEST).accept(&Acceptance::new().subprotocol("chat")).unwrap();
        assert_eq!(
            String::from_utf8(response).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
        );
        assert_eq!((negotiated.status().as_u16(), negotiated.subprotocol()), (101, Some("chat")));
        assert_eq!(negotiated.headers(), request.headers());
    }

    #[test]
    fn client_and_server_agree() {
        let mut request = ClientRequest::new("wss://user:pass@[::1]:8443/a%20b?c=d").unwrap();
        request.subprotocol("x").unwrap().header("cookie", "k=v").unwrap();
        let (mut client, head) = ClientHandshake::new(&request, [7; 16], &Limits::client());
        let mut server = ServerHandshake::new(&Limits::server());
        let got = server.handle_input(&mut BytesMut::from(&head[..])).unwrap().unwrap();
        assert_eq!((got.host(), got.resource(), got.query()), ("[::1]:8443", "/a%20b?c=d", Some("c=d")));
        let (at_server, response) = server.accept(&Acceptance::new().subprotocol("x")).unwrap();
        let at_client = client.handle_input(&mut BytesMut::from(&response[..])).unwrap().unwrap();
        assert_eq!(at_client.subprotocol(), at_server.subprotocol());
    }

    #[test]
    fn bytes_behind_the_head_stay() {
        let (result, rest) = ask_with(&Limits::server(), &[REQUEST.as_bytes(), b"\x88\x80\0\0\0\0"].concat());
        assert!(result.unwrap().is_some());
        assert_eq!(rest, b"\x88\x80\0\0\0\0");
    }

    #[test]
    fn what_browsers_and_proxies_send_is_accepted() {
        for (from, to) in [
            ("Upgrade: websocket", "upgrade: WebSocket"),
            ("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
            ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade"),
            ("Origin: http://example.com\r\n", ""),
            ("Origin: http://example.com", "Origin: null"),
            ("Host: server.example.com", "Content-Length: 0\r\nHost: a_b.example:8080"),
            ("chat, superchat", "chat\r\nSec-WebSocket-Protocol: superchat"),
            ("chat, superchat", ",chat , ,superchat,"),
            ("Sec-WebSocket-Protocol: chat, superchat\r\n", ""),
            ("13\r\n", "13\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"),
            ("13\r\n", "13\r\nX: \u{e9}\r\n"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAB== "),
        ] {
            assert!(ask(&with(from, to)).is_ok(), "{to}");
        }
    }

    #[test]
    fn hazard_4_every_wrong_request_is_refused() {
        use HandshakeError::*;
        use http::header::{CONNECTION, UPGRADE};
        let target = Syntax(HeadSyntax::Target);
        let two = |field: &str| format!("Host: server.example.com\r\n{field}");
        for (from, to, status, error) in [
            ("HTTP/1.1", "HTTP/1.0", 505, HttpVersion),
            ("HTTP/1.1", "HTTP/2.0", 505, HttpVersion),
            ("HTTP/1.1", "HTTP/1.1x", 400, Syntax(HeadSyntax::StartLine)),
            ("GET", "POST", 405, Method),
            ("GET", "get", 405, Method),
            ("GET", "CONNECT", 405, Method),
            ("/chat", "*", 400, target.clone()),
            ("/chat", "chat", 400, target.clone()),
            ("/chat", "server.example.com:80", 400, target.clone()),
            ("/chat", "ftp://a/", 400, target.clone()),
            ("/chat", "http://user@a/", 400, target.clone()),
            ("/chat", "http:///a", 400, target.clone()),
            ("/chat", "/chat#a", 400, target.clone()),
            ("/chat", "/\u{e9}", 400, target),
            ("Host: server.example.com\r\n", "", 400, Missing(HOST)),
            ("Host: server.example.com", &two("Host: server.example.com"), 400, Repeated(HOST)),
            ("Host: server.example.com", &two("host: other"), 400, Repeated(HOST)),
            ("Host: server.example.com", "Host:", 400, Malformed(HOST)),
            ("Host: server.example.com", "Host: a b", 400, Malformed(HOST)),
            ("Host: server.example.com", "Host: a:b", 400, Malformed(HOST)),
            ("Host: server.example.com", "Host: a@b", 400, Malformed(HOST)),
            ("Host: server.example.com", "Host: a, b", 400, Malformed(HOST)),
            ("Host: server.example.com", "Host: \u{e9}", 400, Malformed(HOST)),
            ("Host: server.example.com", &two("Content-Length: 1"), 400, RequestBody),
            ("Host: server.example.com", &two("Content-Length: +0"), 400, RequestBody),
            ("Host: server.example.com", &two("Content-Length:"), 400, RequestBody),
            ("Host: server.example.com", &two("Content-Length: 0\r\nContent-Length: 5"), 400, RequestBody),
            ("Host: server.example.com", &two("Transfer-Encoding: chunked"), 400, RequestBody),
            ("Host: server.example.com", &two("Transfer-Encoding: identity"), 400, RequestBody),
            ("Upgrade: websocket\r\n", "", 426, NotUpgrade(UPGRADE)),
            ("Upgrade: websocket", "Upgrade: h2c", 426, NotUpgrade(UPGRADE)),
            ("Upgrade: websocket", "Upgrade: xwebsocketx", 426, NotUpgrade(UPGRADE)),
            ("Upgrade: websocket", "Upgrade: web\tsocket", 400, Malformed(UPGRADE)),
            ("Connection: Upgrade\r\n", "", 426, NotUpgrade(CONNECTION)),
            ("Connection: Upgrade", "Connection: close", 426, NotUpgrade(CONNECTION)),
            ("Connection: Upgrade", "Connection: upgrade;", 400, Malformed(CONNECTION)),
            ("Sec-WebSocket-Version: 13\r\n", "", 400, Missing(SEC_WEBSOCKET_VERSION)),
            ("Version: 13", "Version: 8", 426, UnsupportedVersion),
            ("Version: 13", "Version: 013", 426, UnsupportedVersion),
            ("Version: 13", "Version: 13, 8", 426, UnsupportedVersion),
            ("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13", 400, Repeated(SEC_WEBSOCKET_VERSION)),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400, Missing(SEC_WEBSOCKET_KEY)),
            ("ZQ==", "ZQ", 400, Malformed(SEC_WEBSOCKET_KEY)),
            ("ZQ==", "ZQ==\u{e9}", 400, Malformed(SEC_WEBSOCKET_KEY)),
            ("dGhlIHNhbXBsZSBub25jZQ==", "", 400, Malformed(SEC_WEBSOCKET_KEY)),
            ("ZQ==", "ZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", 400, Repeated(SEC_WEBSOCKET_KEY)),
            ("Origin: http://example.com", "Origin: http://\u{e9}", 400, Malformed(ORIGIN)),
            ("Origin: http://example.com", "Origin: http://a\r\nOrigin: http://b", 400, Repeated(ORIGIN)),
            ("chat, superchat", "chat, chat", 400, Malformed(SEC_WEBSOCKET_PROTOCOL)),
            ("chat, superchat", "chat\r\nSec-WebSocket-Protocol: chat", 400, Malformed(SEC_WEBSOCKET_PROTOCOL)),
            ("chat, superchat", "chat superchat", 400, Malformed(SEC_WEBSOCKET_PROTOCOL)),
            ("chat, superchat", " , ", 400, Malformed(SEC_WEBSOCKET_PROTOCOL)),
            ("13\r\n", "13\r\nSec-WebSocket-Extensions: a;\r\n", 400, Malformed(SEC_WEBSOCKET_EXTENSIONS)),
            ("13\r\n", "13\r\nSec-WebSocket-Extensions:\r\n", 400, Malformed(SEC_WEBSOCKET_EXTENSIONS)),
        ] {
            let refusal = ask(&with(from, to)).expect_err(to);
            assert_eq!(refusal.error, error, "{to}");
            let line = format!("HTTP/1.1 {status} ");
            assert!(refusal.response.starts_with(line.as_bytes()), "{to}");
        }
    }

    #[test]
    fn hazard_6_smuggled_requests_get_a_400() {
        for (from, to) in [
            ("Host: ", "Host : "),
            ("Host: ", " Host: "),
            ("Host: server.example.com\r\n", "Host: server.example.com\n"),
            ("Host: server.example.com\r\n", "Host: server.example.com\r"),
            ("Host: server.example.com", "Host: server.example.com\r\n folded: line"),
            ("Host: server.example.com", "Host: server.example.com\0"),
            ("Host: server.example.com", "Host: server.example.com\r\nContent-Length : 5"),
            ("GET", "\r\nGET"),
            ("GET ", "GET\t"),
        ] {
            let refusal = ask(&with(from, to)).unwrap_err();
            assert!(refusal.response.starts_with(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"), "{to:?}");
        }
    }

    #[test]
    fn refusals_are_complete_responses() {
        for (from, to, response) in [
            (
                "Version: 13",
                "Version: 8",
                "HTTP/1.1 426 Upgrade Required\r\nConnection: close, Upgrade\r\nContent-Length: 48\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n\
                 the version of the WebSocket protocol is not 13\n",
            ),
            (
                "GET",
                "POST",
                "HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nContent-Length: 22\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nAllow: GET\r\n\r\nthe method is not GET\n",
            ),
            (
                "GET",
                "HEAD",
                "HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nContent-Length: 22\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nAllow: GET\r\n\r\n",
            ),
        ] {
            let refusal = ask(&with(from, to)).unwrap_err();
            assert_eq!(String::from_utf8(refusal.response).unwrap(), response);
        }
    }

    #[test]
    fn a_plain_request_is_told_and_may_be_answered() {
        let get = "GET /health?a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        let mut handshake = ServerHandshake::new(&Limits::server());
        let refusal = handshake.handle_input(&mut BytesMut::from(get)).unwrap_err();
        assert!(refusal.response.starts_with(b"HTTP/1.1 426 "));
        let request = refusal.request.unwrap();
        assert_eq!((request.method(), request.uri().to_string()), (&Method::GET, "/health?a".to_owned()));
        assert_eq!(request.headers()["x"], "y");
        let mut response = http::Response::new(Bytes::from("fine\n"));
        response.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        response.headers_mut().insert("content-length", "99".parse().unwrap());
        response.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
        let bytes = handshake.respond(&response).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\ncontent-type: text/plain\r\n\r\nfine\n"
        );
        assert_eq!(handshake.respond(&response), Err(ApiMisuse::NoRequest), "once");

        let mut handshake = ServerHandshake::new(&Limits::server());
        let refusal = handshake.handle_input(&mut BytesMut::from(&get.replace("GET", "HEAD")[..])).unwrap_err();
        assert!(refusal.request.is_some() && refusal.response.ends_with(b"\r\n\r\n"));
        assert!(handshake.respond(&response).unwrap().ends_with(b"\r\n\r\n"));

        for (from, to) in [
            ("GET", "POST"),
            ("Host: a", "Host: a b"),
            ("X: y", "Upgrade: h2c, WebSocket"),
            ("Host: a\r\n", ""),
            ("X: y", "Content-Length: 1"),
            ("X: y", "Transfer-Encoding: chunked"),
            ("/health", "health"),
        ] {
            let refusal = ask(&get.replace(from, to)).unwrap_err();
            assert!(refusal.request.is_none(), "{to}");
        }
        for (from, to) in [
            ("X: y", "Upgrade: h2c\r\nConnection: Upgrade"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1\r\nHost: a", "HTTP/1.0"),
        ] {
            let request = ask(&get.replace(from, to)).unwrap_err().request;
            assert_eq!(request.map(|request| request.uri().path().to_owned()).as_deref(), Some("/health"), "{to}");
        }
    }

    #[test]
    fn a_request_that_another_server_parsed_is_checked_and_answered() {
        let request = |version| {
            http::Request::get("/chat?a")
                .header("host", "server.example.com")
                .header("upgrade", "websocket")
                .header("connection", "keep-alive, Upgrade")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("sec-websocket-protocol", "chat")
                .header("sec-websocket-version", version)
                .body(())
                .unwrap()
        };
        assert_eq!(Request::from_http(&request("8")), Err(HandshakeError::UnsupportedVersion));
        let request = Request::from_http(&request("13")).unwrap();
        assert_eq!((request.path(), request.query()), ("/chat", Some("a")));
        let other = Acceptance::new().subprotocol("other");
        assert_eq!(request.accept(&other).unwrap_err(), ApiMisuse::SubprotocolNotOffered);
        let reply = Acceptance::new().subprotocol("chat").header("server", "x").unwrap();
        let (agreed, response) = request.accept(&reply).unwrap();
        assert_eq!((agreed.subprotocol(), response.status().as_u16()), (Some("chat"), 101));
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        let own = ["upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol", "server"];
        assert!(own.iter().all(|name| names.contains(name)) && names.len() == own.len(), "{names:?}");
    }

    #[test]
    fn an_absolute_target_names_the_host() {
        let request = ask(&with("/chat", "http://other.example:81?a")).unwrap();
        assert_eq!((request.host(), request.resource()), ("other.example:81", "/?a"));
        let request = ask(&with("/chat", "HTTPS://other.example/b")).unwrap();
        assert_eq!((request.host(), request.resource()), ("other.example", "/b"));
    }

    #[test]
    fn hazard_1_limits_are_inclusive() {
        let len = REQUEST.len();
        let line = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n".len();
        for (limits, status) in [
            (Limits::server().with_head(len - 1), Some("431")),
            (Limits::server().with_head(len), None),
            (Limits::server().with_head(len + 1), None),
            (Limits::server().with_header_line(line - 1), Some("431")),
            (Limits::server().with_header_line(line), None),
            (Limits::server().with_header_line(line + 1), None),
            (Limits::server().with_headers(6), Some("431")),
            (Limits::server().with_headers(7), None),
            (Limits::server().with_headers(8), None),
            (Limits::server().with_header_line(19), Some("414")),
            (Limits::server().with_header_line(20), Some("431")),
        ] {
            let (result, _) = ask_with(&limits.unwrap(), REQUEST.as_bytes());
            let got = result.err().map(|refusal| String::from_utf8(refusal.response[9..12].to_vec()).unwrap());
            assert_eq!(got.as_deref(), status);
        }
    }

    #[test]
    fn a_request_is_answered_once() {
        let mut early = ServerHandshake::new(&Limits::server());
        assert_eq!(early.accept(&Acceptance::new()).unwrap_err(), ApiMisuse::NoRequest);
        let mut handshake = pending(REQUEST);
        let other = Acceptance::new().subprotocol("other");
        assert_eq!(handshake.accept(&other).unwrap_err(), ApiMisuse::SubprotocolNotOffered);
        let case = Acceptance::new().subprotocol("Chat");
        assert_eq!(handshake.accept(&case).unwrap_err(), ApiMisuse::SubprotocolNotOffered);
        let rejection = Rejection::new(StatusCode::FORBIDDEN).unwrap();
        assert!(handshake.reject(&rejection).unwrap().starts_with(b"HTTP/1.1 403 Forbidden\r\n"));
        assert_eq!(handshake.accept(&Acceptance::new()).unwrap_err(), ApiMisuse::NoRequest);
        assert_eq!(handshake.reject(&rejection).unwrap_err(), ApiMisuse::NoRequest);
        let mut input = BytesMut::from(REQUEST);
        assert_eq!(handshake.handle_input(&mut input), Ok(None));
        assert_eq!(input, REQUEST);
    }

    #[test]
    fn a_refusal_is_repeated() {
        let mut handshake = ServerHandshake::new(&Limits::server());
        let refusal = handshake.handle_input(&mut BytesMut::from("\n")).unwrap_err();
        assert_eq!(handshake.handle_input(&mut BytesMut::from(REQUEST)), Err(refusal));
    }

    #[test]
    fn debug_keeps_secrets() {
        let request = with("/chat", "/chat?hunter1");
        let request = request.replace("Origin", "Cookie: hunter2\r\nAuthorization: hunter3\r\nOrigin");
        let text = format!("{:?} {:?}", ask(&request).unwrap(), pending(&request));
        assert!(text.contains("<redacted>") && text.contains("/chat") && !text.contains("hunter"), "{text}");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..200_usize) {
            let cut = cut.min(bytes.len());
            let (a, b) = bytes.split_at(cut);
            prop_assert_eq!(feed(&Limits::server(), [a, b]), feed(&Limits::server(), [&bytes[..]]));
        }

        #[test]
        fn damaged_requests_never_panic(at in 0..REQUEST.len(), byte: u8, kind in 0..3) {
            let mut request = REQUEST.as_bytes().to_vec();
            match kind {
                0 => request[at] = byte,
                1 => request.insert(at, byte),
                _ => drop(request.remove(at)),
            }
            prop_assert_eq!(feed(&Limits::server(), request.chunks(1)), feed(&Limits::server(), [&request[..]]));
        }
    }
}
