//! What an opening handshake settled: RFC 6455, sections 4.1 and 4.2.2.

use std::fmt;
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::error::SubprotocolError;
use super::extensions::Extension;
use super::fields::Redacted;
use super::tokens::is_token;

/// What both sides agreed on. Cheap to clone.
///
/// The handshakes of this module make one. Whoever upgrades by other means (hyper, axum, HTTP/2) builds it:
///
/// ```
/// # use parley_proto::handshake::Negotiated;
/// # use http::{HeaderMap, StatusCode};
/// let agreed = Negotiated::new(StatusCode::SWITCHING_PROTOCOLS, HeaderMap::new()).with_subprotocol("chat")?;
/// assert_eq!(agreed.subprotocol(), Some("chat"));
/// # Ok::<(), parley_proto::handshake::SubprotocolError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Negotiated {
    status: StatusCode,
    headers: Kept,
    subprotocol: Option<Arc<str>>,
    /// `None` when there are none.
    extensions: Option<Arc<Vec<Extension>>>,
}

/// The peer's header fields.
#[derive(Clone)]
enum Kept {
    Map(Arc<HeaderMap>),
    Packed(Packed),
}

/// Names that are kept as their place here: those of most handshakes, the most frequent first.
const KNOWN: [HeaderName; 18] = [
    header::HOST,
    header::UPGRADE,
    header::CONNECTION,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::ORIGIN,
    header::USER_AGENT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::PRAGMA,
    header::COOKIE,
    header::AUTHORIZATION,
    header::DATE,
    header::SERVER,
];
/// Of what comes first of a field: it is a place in [`KNOWN`], not a length.
const PLACE: u16 = 1 << 15;
/// Of a value's length: the value is to be kept out of logs.
const SENSITIVE: u32 = 1 << 31;

/// Header fields in one piece, for a connection that is to live long: a map takes some 100 bytes a field, and many small
/// allocations. The map is made again when somebody asks for it.
///
/// ```text
/// fields   | PLACE and place, or name's length (2) | SENSITIVE and value's length (4) | name | value | ...
/// ```
#[derive(Clone)]
struct Packed {
    fields: Arc<[u8]>,
    map: OnceLock<Arc<HeaderMap>>,
}

impl Packed {
    /// `None`: a length is none that a field can have.
    fn new(map: &HeaderMap) -> Option<Self> {
        let room =
            |(name, value): (_, &HeaderValue)| 6 + Self::name(name).map_or(0, |(_, text)| text.len()) + value.len();
        let mut fields = Vec::with_capacity(map.iter().map(room).sum());
        for (name, value) in map {
            let (head, text) = Self::name(name)?;
            let len = u32::try_from(value.len()).ok().filter(|len| len & SENSITIVE == 0)?;
            fields.extend(head.to_be_bytes());
            fields.extend((len | if value.is_sensitive() { SENSITIVE } else { 0 }).to_be_bytes());
            fields.extend(text.as_bytes());
            fields.extend(value.as_bytes());
        }
        Some(Self { fields: fields.into(), map: OnceLock::new() })
    }

    /// What stands for a name: its length and itself, or its place in [`KNOWN`] and nothing.
    fn name(name: &HeaderName) -> Option<(u16, &str)> {
        match KNOWN.iter().position(|known| known == name) {
            Some(place) => Some((PLACE | u16::try_from(place).ok()?, "")),
            None => {
                let len = u16::try_from(name.as_str().len()).ok().filter(|len| len & PLACE == 0)?;
                Some((len, name.as_str()))
            }
        }
    }

    fn map(&self) -> &HeaderMap {
        self.map.get_or_init(|| {
            let mut map = HeaderMap::new();
            let mut rest = &self.fields[..];
            // They came out of such a map, so that all of them fit one.
            while let Some((name, value, after)) = Self::field(rest) {
                let _ = map.try_append(name, value);
                rest = after;
            }
            Arc::new(map)
        })
    }

    /// The first field, and what follows it.
    fn field(fields: &[u8]) -> Option<(HeaderName, HeaderValue, &[u8])> {
        let (head, rest) = fields.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (head, len) = (u16::from_be_bytes(*head), u32::from_be_bytes(*len));
        let (name, rest) = match head & PLACE {
            0 => {
                let (name, rest) = rest.split_at_checked(head.into())?;
                (HeaderName::from_bytes(name).ok()?, rest)
            }
            _ => (KNOWN.get(usize::from(head & !PLACE))?.clone(), rest),
        };
        let (value, rest) = rest.split_at_checked(usize::try_from(len & !SENSITIVE).ok()?)?;
        let mut value = HeaderValue::from_bytes(value).ok()?;
        value.set_sensitive(len & SENSITIVE != 0);
        Some((name, value, rest))
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.map() == other.map()
    }
}

impl Eq for Kept {}

impl Kept {
    fn map(&self) -> &HeaderMap {
        match self {
            Self::Map(map) => map,
            Self::Packed(packed) => packed.map(),
        }
    }
}

impl Negotiated {
    /// An agreement without subprotocol and extensions. `status` is that of the response (101; 200 over HTTP/2),
    /// `headers` are what the peer sent.
    #[must_use]
    pub fn new(status: StatusCode, headers: HeaderMap) -> Self {
        Self::shared(status, Arc::new(headers))
    }

    pub(crate) fn shared(status: StatusCode, headers: Arc<HeaderMap>) -> Self {
        Self { status, headers: Kept::Map(headers), subprotocol: None, extensions: None }
    }

    /// Takes little memory from here on.
    pub(crate) fn pack(&mut self) {
        if let Kept::Map(map) = &self.headers {
            if let Some(packed) = Packed::new(map) {
                self.headers = Kept::Packed(packed);
            }
        }
    }

    /// Sets the subprotocol.
    ///
    /// # Errors
    ///
    /// `name` is no token.
    pub fn with_subprotocol(mut self, name: &str) -> Result<Self, SubprotocolError> {
        if !is_token(name.as_bytes()) {
            return Err(SubprotocolError::NotAToken);
        }
        self.subprotocol = Some(name.into());
        Ok(self)
    }

    /// Sets the extensions, which are those that both sides agreed on, in order.
    pub(crate) fn with_extensions(mut self, extensions: Vec<Extension>) -> Self {
        self.extensions = Some(extensions).filter(|extensions| !extensions.is_empty()).map(Arc::new);
        self
    }

    /// The status of the response: 101 over HTTP/1.1.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the peer sent: the response's fields for a client, the request's for a server.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.headers.map()
    }

    /// The subprotocol in use (RFC 6455, section 1.9).
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// The extensions in use (RFC 6455, section 9). None for now.
    #[must_use]
    pub fn extensions(&self) -> &[Extension] {
        self.extensions.as_ref().map_or(&[], |extensions| extensions)
    }
}

impl fmt::Debug for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiated")
            .field("status", &self.status)
            .field("headers", &Redacted(self.headers()))
            .field("subprotocol", &self.subprotocol)
            .field("extensions", &self.extensions())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_keeps_cookies() {
        let mut headers = HeaderMap::new();
        headers.insert("set-cookie", "hunter2".parse().unwrap());
        headers.insert("server", "x".parse().unwrap());
        let text = format!("{:?}", Negotiated::new(StatusCode::OK, headers));
        assert!(text.contains("<redacted>") && text.contains("server") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn packed_headers_are_the_same_headers() {
        let (long, long_name) = ("v".repeat(70_000), "n".repeat(30_000));
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("b", "1"),
            ("cookie", "hunter2"),
            ("empty", ""),
            ("b", "\u{e9}"),
            ("a", &long),
            ("b", "1"),
            (&long_name, "1"),
            ("host", "h"),
            ("server", ""),
        ] {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).or(HeaderValue::from_bytes(value.as_bytes())).unwrap());
        }
        headers.get_mut("cookie").unwrap().set_sensitive(true);
        for headers in [HeaderMap::new(), headers] {
            let agreed = Negotiated::new(StatusCode::OK, headers.clone());
            let mut packed = agreed.clone();
            packed.pack();
            assert!(matches!(&packed.headers, Kept::Packed(packed) if packed.map.get().is_none()));
            assert_eq!(packed, agreed);
            assert_eq!(packed.headers(), &headers);
            assert!(packed.headers().iter().eq(&headers), "in the same order");
            assert!(packed.headers().iter().all(|(name, value)| value.is_sensitive() == (name == "cookie")));
            assert_eq!(format!("{packed:?}"), format!("{agreed:?}"));
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_not_packed() {
        let mut headers = HeaderMap::new();
        headers.insert("n".repeat(1 << 15).parse::<HeaderName>().unwrap(), HeaderValue::from_static("v"));
        let agreed = Negotiated::new(StatusCode::OK, headers);
        let mut packed = agreed.clone();
        packed.pack();
        assert!(matches!(&packed.headers, Kept::Map(_)));
        assert_eq!(packed, agreed);
    }

    #[test]
    fn a_subprotocol_is_a_token() {
        let agreed = Negotiated::new(StatusCode::OK, HeaderMap::new());
        assert_eq!(agreed.clone().with_subprotocol("a b"), Err(SubprotocolError::NotAToken));
        assert_eq!(agreed.with_subprotocol(""), Err(SubprotocolError::NotAToken));
    }
}
