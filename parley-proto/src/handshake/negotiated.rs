//! What an opening handshake settled: RFC 6455, sections 4.1 and 4.2.2.

use std::fmt;
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

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
    extensions: Arc<[Extension]>,
}

/// The peer's header fields.
#[derive(Clone)]
enum Kept {
    Map(Arc<HeaderMap>),
    Packed(Arc<Packed>),
}

/// Header fields in one piece, for a connection that is to live long: a map takes some 100 bytes a field, and many small
/// allocations. The map is made again when somebody asks for it.
///
/// ```text
/// fields   | name's length (2) | value's length (4) | sensitive (1) | name | value | ...
/// ```
struct Packed {
    fields: Box<[u8]>,
    map: OnceLock<Box<HeaderMap>>,
}

impl Packed {
    /// `None`: a length is none that a field can have.
    fn new(map: &HeaderMap) -> Option<Self> {
        let mut fields =
            Vec::with_capacity(map.iter().map(|(name, value)| 7 + name.as_str().len() + value.len()).sum());
        for (name, value) in map {
            let name = name.as_str().as_bytes();
            fields.extend(u16::try_from(name.len()).ok()?.to_be_bytes());
            fields.extend(u32::try_from(value.len()).ok()?.to_be_bytes());
            fields.push(u8::from(value.is_sensitive()));
            fields.extend(name);
            fields.extend(value.as_bytes());
        }
        Some(Self { fields: fields.into(), map: OnceLock::new() })
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
            Box::new(map)
        })
    }

    /// The first field, and what follows it.
    fn field(fields: &[u8]) -> Option<(HeaderName, HeaderValue, &[u8])> {
        let (name_len, rest) = fields.split_first_chunk()?;
        let (value_len, rest) = rest.split_first_chunk()?;
        let (sensitive, rest) = rest.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*name_len)))?;
        let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*value_len)).ok()?)?;
        let mut value = HeaderValue::from_bytes(value).ok()?;
        value.set_sensitive(*sensitive != 0);
        Some((HeaderName::from_bytes(name).ok()?, value, rest))
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
        Self { status, headers: Kept::Map(headers), subprotocol: None, extensions: Arc::default() }
    }

    /// Takes little memory from here on.
    pub(crate) fn pack(&mut self) {
        if let Kept::Map(map) = &self.headers {
            if let Some(packed) = Packed::new(map) {
                self.headers = Kept::Packed(Arc::new(packed));
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
        self.extensions = extensions.into();
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
        &self.extensions
    }
}

impl fmt::Debug for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiated")
            .field("status", &self.status)
            .field("headers", &Redacted(self.headers()))
            .field("subprotocol", &self.subprotocol)
            .field("extensions", &self.extensions)
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
        let long = "v".repeat(70_000);
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("b", "1"), ("cookie", "hunter2"), ("empty", ""), ("b", "\u{e9}"), ("a", &long), ("b", "1")]
        {
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
    fn a_subprotocol_is_a_token() {
        let agreed = Negotiated::new(StatusCode::OK, HeaderMap::new());
        assert_eq!(agreed.clone().with_subprotocol("a b"), Err(SubprotocolError::NotAToken));
        assert_eq!(agreed.with_subprotocol(""), Err(SubprotocolError::NotAToken));
    }
}
