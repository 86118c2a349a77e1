//! What a client asks for, and the head that asks: RFC 6455, section 4.1.

use std::fmt;

use http::header::{self, HeaderName, HeaderValue};

use super::error::{HeaderError, SubprotocolError, UrlError};
use super::fields::{Fields, RedactedQuery, field, put};
use super::tokens::is_token;
use super::url::{Url, host_and_port};

const USER_AGENT: &str = concat!("parley/", env!("CARGO_PKG_VERSION"));

/// An opening handshake to be: URL, header fields, subprotocols.
///
/// ```
/// # use parley_proto::handshake::ClientRequest;
/// let mut request = ClientRequest::new("wss://example.com/chat?room=1")?;
/// request.header("origin", "https://example.com")?.subprotocol("chat.v2")?.subprotocol("chat.v1")?;
/// assert_eq!((request.host(), request.port(), request.resource()), ("example.com", 443, "/chat?room=1"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `Debug` shows neither user info, nor the query, nor the values of `Authorization`, `Proxy-Authorization`,
/// `Cookie`, and of those marked [sensitive](HeaderValue::set_sensitive).
#[derive(Clone)]
pub struct ClientRequest {
    url: Url,
    /// `None` while nothing was added.
    added: Option<Box<Added>>,
}

/// What the user has added to a request.
#[derive(Clone, Default, PartialEq, Eq)]
struct Added {
    fields: Fields,
    subprotocols: Vec<String>,
}

impl PartialEq for ClientRequest {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && self.added() == other.added()
    }
}

impl Eq for ClientRequest {}

impl ClientRequest {
    /// A request for `url`, which begins with `ws://` or `wss://` in any case (RFC 6455, section 3).
    ///
    /// The port is 80 or 443 by default, an empty path is `/`, a query is kept. Characters of path and query that a
    /// URI cannot hold are percent-encoded. User info becomes `Authorization: Basic`, unless that field is given.
    ///
    /// # Errors
    ///
    /// A fragment, another scheme, a host that is empty or not ASCII, a bad port, bad user info, a space or control
    /// character anywhere. The error names the part, and never quotes the URL.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        Ok(Self { url: Url::parse(url)?, added: None })
    }

    fn added(&self) -> &Added {
        match &self.added {
            Some(added) => added,
            None => const { &Added { fields: Fields::new(), subprotocols: Vec::new() } },
        }
    }

    fn add(&mut self) -> &mut Added {
        self.added.get_or_insert_default()
    }

    /// Changes the URL; header fields and subprotocols stay, those meant for another host too.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); the URL is then what it was.
    pub fn set_url(&mut self, url: &str) -> Result<&mut Self, UrlError> {
        self.url = Url::parse(url)?;
        Ok(self)
    }

    /// Adds a header field behind those already given; an ordinary one may be given more than once.
    ///
    /// `Host` replaces the value made of the URL. `User-Agent` replaces `parley/<version>`.
    ///
    /// # Errors
    ///
    /// A name that is no token; a value with a line break or another control character; a field that belongs to the
    /// handshake (`Connection`, `Upgrade`, all of `Sec-WebSocket-*`) or to HTTP's framing (`Content-Length`,
    /// `Transfer-Encoding`, `Expect`, …); `Host` for a second time, or with a value that is no `host[:port]`.
    pub fn header<N, V>(&mut self, name: N, value: V) -> Result<&mut Self, HeaderError>
    where
        N: TryInto<HeaderName>,
        V: TryInto<HeaderValue>,
    {
        let (name, value) = checked(name, value)?;
        if name == header::HOST && self.added().fields.get(&name).is_some() {
            return Err(HeaderError::Repeated(name));
        }
        self.add().fields.add(name, value);
        Ok(self)
    }

    /// Sets a header field to one value, in the place of the first that it replaces: a fresh token, say.
    ///
    /// # Errors
    ///
    /// As [`header`](Self::header), but `Host` may be set again.
    pub fn set_header<N, V>(&mut self, name: N, value: V) -> Result<&mut Self, HeaderError>
    where
        N: TryInto<HeaderName>,
        V: TryInto<HeaderValue>,
    {
        let (name, value) = checked(name, value)?;
        self.add().fields.set(name, value);
        Ok(self)
    }

    /// Removes all header fields of that name. One that was never given is no error.
    pub fn remove_header<N: TryInto<HeaderName>>(&mut self, name: N) -> &mut Self {
        if let Ok(name) = name.try_into() {
            self.add().fields.remove(&name);
        }
        self
    }

    /// The header fields given so far, in order; not those that the handshake adds.
    pub fn headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.added().fields.iter()
    }

    /// Offers a subprotocol, behind those already offered (RFC 6455, sections 1.9 and 4.1, item 10).
    ///
    /// # Errors
    ///
    /// A name that is no token, or that is offered already. Case matters.
    pub fn subprotocol(&mut self, name: impl Into<String>) -> Result<&mut Self, SubprotocolError> {
        let name = name.into();
        if !is_token(name.as_bytes()) {
            return Err(SubprotocolError::NotAToken);
        }
        if self.added().subprotocols.contains(&name) {
            return Err(SubprotocolError::Repeated);
        }
        self.add().subprotocols.push(name);
        Ok(self)
    }

    /// Offers no subprotocol any more.
    pub fn clear_subprotocols(&mut self) -> &mut Self {
        self.add().subprotocols.clear();
        self
    }

    /// The subprotocols on offer, most wanted first.
    #[must_use]
    pub fn subprotocols(&self) -> &[String] {
        &self.added().subprotocols
    }

    /// Whether the scheme is `wss`: the connection runs over TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.url.secure
    }

    /// The URL's host in lower case, an IPv6 address without its brackets: what to look up and to dial.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host()
    }

    /// The URL's port, or its scheme's: 80 or 443.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.url.port
    }

    /// Path and query as they go on the request line: the resource name of RFC 6455, section 3.
    #[must_use]
    pub fn resource(&self) -> &str {
        self.url.resource()
    }

    /// Appends the request's head. `key` is the value of `Sec-WebSocket-Key`.
    pub(crate) fn encode(&self, key: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(self.url.resource().as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        match self.added().fields.get(&header::HOST) {
            Some(host) => put(out, "Host", host.as_bytes()),
            None => put(out, "Host", self.url.host_field().as_bytes()),
        }
        put(out, "Upgrade", b"websocket");
        put(out, "Connection", b"Upgrade");
        put(out, "Sec-WebSocket-Key", key.as_bytes());
        put(out, "Sec-WebSocket-Version", b"13");
        if !self.subprotocols().is_empty() {
            put(out, "Sec-WebSocket-Protocol", self.subprotocols().join(", ").as_bytes());
        }
        if self.added().fields.get(&header::USER_AGENT).is_none() {
            put(out, "User-Agent", USER_AGENT.as_bytes());
        }
        if let (Some(authorization), None) = (&self.url.authorization, self.added().fields.get(&header::AUTHORIZATION))
        {
            put(out, "Authorization", authorization.as_bytes());
        }
        for (name, value) in self.added().fields.iter().filter(|(name, _)| *name != header::HOST) {
            put(out, name.as_str(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn checked<N, V>(name: N, value: V) -> Result<(HeaderName, HeaderValue), HeaderError>
where
    N: TryInto<HeaderName>,
    V: TryInto<HeaderValue>,
{
    let (name, value) = field(name, value)?;
    if name == header::HOST && value.to_str().ok().is_none_or(|host| host_and_port(host).is_err()) {
        return Err(HeaderError::Value(name));
    }
    Ok((name, value))
}

impl fmt::Debug for ClientRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRequest")
            .field("secure", &self.url.secure)
            .field("host", &self.url.host())
            .field("port", &self.url.port)
            .field("resource", &RedactedQuery(self.url.resource()))
            .field("headers", &self.added().fields)
            .field("subprotocols", &self.subprotocols())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn head(request: &ClientRequest) -> String {
        let mut out = Vec::new();
        request.encode(KEY, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn request(url: &str) -> ClientRequest {
        ClientRequest::new(url).unwrap()
    }

    #[test]
    fn the_smallest_request() {
        assert_eq!(
            head(&request("ws://server.example.com")),
            "GET / HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             User-Agent: parley/VERSION\r\n\r\n"
                .replace("VERSION", env!("CARGO_PKG_VERSION"))
        );
    }

    #[test]
    fn the_largest_request() {
        let mut request = request("wss://us%20er:pa%3Ass@[::1]:9443/chat?a=b");
        request
            .header("Origin", "http://example.com")
            .and_then(|request| request.header("x-two", "2"))
            .and_then(|request| request.header("X-Two", HeaderValue::from_static("1")))
            .and_then(|request| request.header(header::USER_AGENT, String::from("me")))
            .unwrap();
        request.subprotocol("chat").unwrap().subprotocol("superchat").unwrap();
        assert_eq!(
            head(&request),
            "GET /chat?a=b HTTP/1.1\r\nHost: [::1]:9443\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: chat, superchat\r\nAuthorization: Basic dXMgZXI6cGE6c3M=\r\n\
             origin: http://example.com\r\nx-two: 2\r\nx-two: 1\r\nuser-agent: me\r\n\r\n"
        );
    }

    #[test]
    fn a_given_authorization_wins_over_user_info() {
        let mut request = request("ws://user:pass@a");
        request.header("authorization", "Bearer x").unwrap();
        let head = head(&request);
        assert!(head.contains("authorization: Bearer x\r\n") && !head.contains("Basic"), "{head}");
    }

    #[test]
    fn host_is_overridden_once_and_validated() {
        let mut request = request("ws://a:81");
        request.header("host", "b:82").unwrap();
        assert!(matches!(request.header("Host", "c"), Err(HeaderError::Repeated(_))));
        let text = head(&request);
        assert!(text.starts_with("GET / HTTP/1.1\r\nHost: b:82\r\nUpgrade") && !text.contains("host:"), "{text}");
        request.set_header("host", "d").unwrap();
        assert!(head(&request).contains("Host: d\r\n"));
        for bad in ["", "a b", "a/b", "user@a", "é", "a,b"] {
            assert!(matches!(request.set_header("host", bad), Err(HeaderError::Value(_))), "{bad}");
        }
        request.remove_header("host");
        assert!(head(&request).contains("Host: a:81\r\n"));
    }

    #[test]
    fn a_new_url_keeps_the_fields_and_a_bad_one_changes_nothing() {
        let mut request = request("ws://user@a/x");
        request.header("x", "y").unwrap();
        request.set_url("wss://b/z").unwrap();
        assert_eq!(request.set_url("http://c").unwrap_err(), UrlError::UnsupportedScheme);
        assert_eq!((request.host(), request.port(), request.is_secure()), ("b", 443, true));
        let head = head(&request);
        assert!(head.contains("x: y\r\n") && !head.contains("Authorization"), "{head}");
    }

    #[test]
    fn subprotocols_are_tokens_and_unique() {
        let mut request = request("ws://a");
        request.subprotocol("chat").unwrap().subprotocol("Chat").unwrap();
        assert_eq!(request.subprotocol("chat").unwrap_err(), SubprotocolError::Repeated);
        for bad in ["", "a b", "a,b", "a\r\nb", "é", "a/b", "\"a\""] {
            assert_eq!(request.subprotocol(bad).unwrap_err(), SubprotocolError::NotAToken, "{bad}");
        }
        assert_eq!(request.subprotocols(), ["chat", "Chat"]);
        assert!(request.clear_subprotocols().subprotocols().is_empty());
    }

    #[test]
    fn debug_keeps_secrets() {
        let mut request = request("ws://hunter1:hunter2@a/path?token=hunter3");
        let mut sensitive = HeaderValue::from_static("hunter8");
        sensitive.set_sensitive(true);
        for (name, value) in [
            ("authorization", HeaderValue::from_static("hunter4")),
            ("cookie", HeaderValue::from_static("hunter5")),
            ("proxy-authorization", HeaderValue::from_static("hunter6")),
            ("x-key", sensitive),
            ("x-shown", HeaderValue::from_static("shown")),
        ] {
            request.header(name, value).unwrap();
        }
        let text = format!("{request:?} {request:#?}");
        assert!(text.contains("<redacted>") && text.contains("shown") && text.contains("/path"), "{text}");
        assert!(!text.contains("hunter"), "{text}");
        let error = ClientRequest::new("ws://hunter1:hunter2@a:x/?hunter3").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter"));
    }

    proptest! {
        #[test]
        fn hazard_7_no_built_head_has_more_lines_than_fields(
            resource in "\\PC*|[/?a\r\n :]*",
            fields in prop::collection::vec(("[a-z\r\n: -]{1,8}|host", "[ -~\r\n\t\u{0}é]*"), 0..8),
            names in prop::collection::vec("[a-z,\r\n ]{1,4}", 0..4),
        ) {
            let Ok(mut request) = ClientRequest::new(&format!("ws://a/{resource}")) else { return Ok(()) };
            for (name, value) in &fields {
                let _ = request.header(name.as_str(), value.as_str());
            }
            for name in names {
                let _ = request.subprotocol(name);
            }
            let mut out = Vec::new();
            request.encode(KEY, &mut out);
            let given = request.headers().filter(|(name, _)| *name != header::HOST).count();
            let fixed = 5 + usize::from(!request.subprotocols().is_empty())
                + usize::from(request.headers().all(|(name, _)| *name != header::USER_AGENT));
            // The request line, the fields, the empty line.
            let lines = 1 + fixed + given + 1;
            prop_assert_eq!(out.windows(2).filter(|pair| pair == b"\r\n").count(), lines);
            prop_assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), lines);
            prop_assert_eq!(out.iter().filter(|&&byte| byte == b'\r').count(), lines);
            prop_assert!(out.ends_with(b"\r\n\r\n"));
        }
    }
}
