//! What an opening handshake settled: RFC 6455, sections 4.1 and 4.2.2.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

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
    headers: Arc<HeaderMap>,
    subprotocol: Option<Arc<str>>,
    extensions: Arc<[Extension]>,
}

impl Negotiated {
    /// An agreement without subprotocol and extensions. `status` is that of the response (101; 200 over HTTP/2),
    /// `headers` are what the peer sent.
    #[must_use]
    pub fn new(status: StatusCode, headers: HeaderMap) -> Self {
        Self::shared(status, Arc::new(headers))
    }

    pub(crate) fn shared(status: StatusCode, headers: Arc<HeaderMap>) -> Self {
        Self { status, headers, subprotocol: None, extensions: Arc::new([]) }
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
        &self.headers
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
            .field("headers", &Redacted(&self.headers))
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
    fn a_subprotocol_is_a_token() {
        let agreed = Negotiated::new(StatusCode::OK, HeaderMap::new());
        assert_eq!(agreed.clone().with_subprotocol("a b"), Err(SubprotocolError::NotAToken));
        assert_eq!(agreed.with_subprotocol(""), Err(SubprotocolError::NotAToken));
    }
}
