//! What a server answers to a request: RFC 6455, section 4.2.2.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};

use super::error::{ApiMisuse, HandshakeError, HeaderError};
use super::fields::{Fields, field, is_reserved, put};

/// Accepts a request. Without more, no subprotocol is chosen and no field added.
///
/// ```
/// # use parley_proto::handshake::Acceptance;
/// let reply = Acceptance::new().subprotocol("chat").header("server", "example")?;
/// # Ok::<(), parley_proto::handshake::HeaderError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    subprotocol: Option<String>,
    fields: Fields,
}

impl Acceptance {
    /// An acceptance without subprotocol.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses a subprotocol: one of those that the request offers, else accepting is an [`ApiMisuse`].
    #[must_use]
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocol = Some(name.into());
        self
    }

    /// Adds a header field to the response.
    ///
    /// # Errors
    ///
    /// As [`ClientRequest::header`](super::ClientRequest::header).
    pub fn header<N, V>(mut self, name: N, value: V) -> Result<Self, HeaderError>
    where
        N: TryInto<HeaderName>,
        V: TryInto<HeaderValue>,
    {
        let (name, value) = field(name, value)?;
        self.fields.add(name, value);
        Ok(self)
    }

    /// The subprotocol chosen.
    pub(crate) fn chosen(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// The response's head. The subprotocol has to be one that was offered, which makes it a token.
    pub(crate) fn encode(&self, accept: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        put(&mut out, "Upgrade", b"websocket");
        put(&mut out, "Connection", b"Upgrade");
        put(&mut out, "Sec-WebSocket-Accept", accept.as_bytes());
        if let Some(name) = &self.subprotocol {
            put(&mut out, "Sec-WebSocket-Protocol", name.as_bytes());
        }
        for (name, value) in self.fields.iter() {
            put(&mut out, name.as_str(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

impl Acceptance {
    /// The response's head, for another HTTP server to send.
    pub(crate) fn to_http(&self, accept: &str) -> http::Response<()> {
        let mut response = http::Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let own = [(SEC_WEBSOCKET_ACCEPT, Some(accept)), (SEC_WEBSOCKET_PROTOCOL, self.chosen())];
        for (name, value) in own {
            // Base64 and a token, both of which a value can hold.
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        }
        headers.extend(self.fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        response
    }
}

/// Rejects a request with a status, and closes the connection.
///
/// ```
/// # use parley_proto::handshake::Rejection;
/// # use http::StatusCode;
/// let reply = Rejection::new(StatusCode::UNAUTHORIZED)?.header("www-authenticate", "Bearer")?.body("no token\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Rejection {
    status: StatusCode,
    fields: Fields,
    body: Bytes,
}

impl Rejection {
    /// A rejection without body.
    ///
    /// # Errors
    ///
    /// A status other than 3xx, 4xx, 5xx rejects nothing.
    pub fn new(status: StatusCode) -> Result<Self, ApiMisuse> {
        if !(300..600).contains(&status.as_u16()) {
            return Err(ApiMisuse::RejectionStatus(status));
        }
        Ok(Self { status, fields: Fields::default(), body: Bytes::new() })
    }

    /// Adds a header field. `Connection: close` and `Content-Length` are added by themselves.
    ///
    /// # Errors
    ///
    /// As [`ClientRequest::header`](super::ClientRequest::header).
    pub fn header<N, V>(mut self, name: N, value: V) -> Result<Self, HeaderError>
    where
        N: TryInto<HeaderName>,
        V: TryInto<HeaderValue>,
    {
        let (name, value) = field(name, value)?;
        self.fields.add(name, value);
        Ok(self)
    }

    /// Sets the body. Its `Content-Type` is a header field like any other. A 304 is sent without it.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The complete response.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let fields = self.fields.iter().map(|(name, value)| (name.as_str(), Cow::Borrowed(value.as_bytes())));
        // RFC 9110, section 15.4.5: it "cannot contain content".
        let with_body = self.status != StatusCode::NOT_MODIFIED;
        encode(self.status, "close", fields, &self.body, with_body)
    }
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejection")
            .field("status", &self.status)
            .field("headers", &self.fields)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// The complete response to a request that is in error. To `HEAD` it has no body (RFC 9110, section 9.3.2).
pub(crate) fn refusal(error: &HandshakeError, head_method: bool) -> Vec<u8> {
    let status = error.status();
    // RFC 9110, section 7.8: who sends `Upgrade` names it in `Connection`, too.
    let connection = if status == StatusCode::UPGRADE_REQUIRED { "close, Upgrade" } else { "close" };
    let fields = refusal_fields(status).iter().map(|&(name, value)| (name, Cow::Borrowed(value.as_bytes())));
    encode(status, connection, fields, format!("{error}\n").as_bytes(), !head_method)
}

fn refusal_fields(status: StatusCode) -> &'static [(&'static str, &'static str)] {
    const TYPE: (&str, &str) = ("Content-Type", "text/plain; charset=utf-8");
    match status {
        StatusCode::METHOD_NOT_ALLOWED => &[TYPE, ("Allow", "GET")],
        StatusCode::UPGRADE_REQUIRED => &[TYPE, ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        _ => &[TYPE],
    }
}

impl HandshakeError {
    /// The response to a request that is in error, for another HTTP server to send: after
    /// [`Request::from_http`](super::Request::from_http).
    #[must_use]
    pub fn to_http(&self) -> http::Response<Bytes> {
        let mut response = http::Response::new(Bytes::from(format!("{self}\n")));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        for &(name, value) in refusal_fields(self.status()) {
            // `from_static` wants lower case, the wire has them as RFC 6455 writes them.
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        if self.status() == StatusCode::UPGRADE_REQUIRED {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        response
    }
}

/// The complete response to a request that nobody has answered in time.
pub(crate) fn unavailable() -> Vec<u8> {
    encode(StatusCode::SERVICE_UNAVAILABLE, "close", [], b"", false)
}

/// The head of a response of the application's own. What says where it ends and what becomes of the connection is not
/// the application's to say.
pub(crate) fn respond(response: &http::Response<Bytes>) -> Vec<u8> {
    let fields = response.headers().iter().filter(|(name, _)| !is_reserved(name));
    let fields = fields.map(|(name, value)| (name.as_str(), Cow::Borrowed(value.as_bytes())));
    encode(response.status(), "close", fields, response.body(), false)
}

fn encode<'a>(
    status: StatusCode,
    connection: &str,
    fields: impl IntoIterator<Item = (&'a str, Cow<'a, [u8]>)>,
    body: &[u8],
    with_body: bool,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + if with_body { body.len() } else { 0 });
    let reason = status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
    put(&mut out, "Connection", connection.as_bytes());
    if status != StatusCode::NO_CONTENT {
        put(&mut out, "Content-Length", body.len().to_string().as_bytes()); // RFC 9110, section 8.6
    }
    for (name, value) in fields {
        put(&mut out, name, &value);
    }
    out.extend_from_slice(b"\r\n");
    if with_body {
        out.extend_from_slice(body);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_acceptance_has_its_fields_in_order() {
        let reply = Acceptance::new().subprotocol("chat").header("Server", "x").unwrap().header("a", "b").unwrap();
        assert_eq!(
            text(reply.encode("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\
             server: x\r\na: b\r\n\r\n"
        );
    }

    #[test]
    fn a_rejection_is_a_complete_response() {
        let reply = Rejection::new(StatusCode::UNAUTHORIZED)
            .unwrap()
            .header("www-authenticate", "Bearer")
            .unwrap()
            .body("no token");
        assert_eq!(
            text(reply.encode()),
            "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 8\r\nwww-authenticate: Bearer\r\n\r\n\
             no token"
        );
        let odd = Rejection::new(StatusCode::from_u16(499).unwrap()).unwrap();
        assert_eq!(text(odd.encode()), "HTTP/1.1 499 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let unmodified = Rejection::new(StatusCode::NOT_MODIFIED).unwrap().body("x");
        assert!(unmodified.encode().ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn a_status_that_rejects_nothing_is_misuse() {
        for status in [100, 101, 103, 200, 204, 299, 600, 999] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Rejection::new(status), Err(ApiMisuse::RejectionStatus(status)));
        }
        for status in [300, 302, 400, 403, 503, 599] {
            assert!(Rejection::new(StatusCode::from_u16(status).unwrap()).is_ok());
        }
    }

    proptest::proptest! {
        #[test]
        fn hazard_7_no_built_head_has_more_lines_than_fields(
            fields in proptest::collection::vec(("[a-z\r\n: -]{1,8}", "[ -~\r\n\t\u{0}é]*"), 0..8),
        ) {
            let mut acceptance = Acceptance::new();
            let mut rejection = Rejection::new(StatusCode::FORBIDDEN).unwrap();
            let mut given = 0;
            for (name, value) in &fields {
                if let Ok(more) = acceptance.clone().header(name.as_str(), value.as_str()) {
                    acceptance = more;
                    rejection = rejection.header(name.as_str(), value.as_str()).unwrap();
                    given += 1;
                }
            }
            // The status line, the fields of the handshake, those given, the empty line.
            for (head, lines) in [(acceptance.encode("x"), 1 + 3 + given + 1), (rejection.encode(), 1 + 2 + given + 1)] {
                proptest::prop_assert_eq!(head.iter().filter(|&&byte| byte == b'\n').count(), lines);
                proptest::prop_assert_eq!(head.iter().filter(|&&byte| byte == b'\r').count(), lines);
            }
        }
    }

    #[test]
    fn fields_of_the_handshake_are_reserved() {
        for name in ["Connection", "Sec-WebSocket-Accept", "content-length", "Transfer-Encoding"] {
            assert!(matches!(Acceptance::new().header(name, "x"), Err(HeaderError::Reserved(_))));
            let rejection = Rejection::new(StatusCode::FORBIDDEN).unwrap();
            assert!(matches!(rejection.header(name, "x"), Err(HeaderError::Reserved(_))));
        }
        assert!(matches!(Acceptance::new().header("x", "a\r\nb: c"), Err(HeaderError::Value(_))));
    }
}
