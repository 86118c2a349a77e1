//! What a client is told once, before it starts.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::Reconnect;
use crate::connection::Config;
use crate::handshake::{ClientRequest, HeaderError, SubprotocolError, UrlError};
use crate::transport::TcpOptions;
use crate::{LimitError, Limits, Role};

/// A client's options. The adapters' builders set them; the defaults are those of the guide.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// URL, headers and subprotocols. Each attempt starts from a copy, which `prepare` may change.
    pub request: ClientRequest,
    /// A name in the process, by which [`lookup`](crate::driver::lookup) finds the client. A client that has one lives on
    /// though no handle is left. Default `None`.
    pub name: Option<String>,
    /// One absolute deadline over `prepare`, DNS, TCP, TLS and the upgrade. Default 10 s.
    pub connect_timeout: Duration,
    /// Coming back by itself. Default `None`: off.
    pub reconnect: Option<Reconnect>,
    /// Options of the TCP connection.
    pub tcp: TcpOptions,
    /// Limits and the close timeout of each connection.
    pub connection: Config,
}

impl ClientOptions {
    /// The defaults for a URL, `ws://` or `wss://`.
    ///
    /// # Errors
    ///
    /// Names the part of the URL that is wrong, and why.
    pub fn new(url: &str) -> Result<Self, BuildError> {
        Ok(ClientRequest::new(url)?.into())
    }

    /// The limits of each connection.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.connection.limits
    }

    /// Adds a header to the upgrade request.
    ///
    /// # Errors
    ///
    /// The name or value is not one that a header can have, or the name is one that the handshake owns.
    pub fn header<N, V>(mut self, name: N, value: V) -> Result<Self, BuildError>
    where
        N: TryInto<HeaderName>,
        V: TryInto<HeaderValue>,
    {
        self.request.header(name, value)?;
        Ok(self)
    }

    /// Offers a subprotocol, behind those offered before.
    ///
    /// # Errors
    ///
    /// The name is not a token, or offered already.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Result<Self, BuildError> {
        self.request.subprotocol(name)?;
        Ok(self)
    }
}

/// The defaults.
impl From<ClientRequest> for ClientOptions {
    fn from(request: ClientRequest) -> Self {
        Self {
            request,
            name: None,
            connect_timeout: Duration::from_secs(10),
            reconnect: None,
            tcp: TcpOptions::default(),
            connection: Config::new(Role::Client),
        }
    }
}

/// What is wrong with an option.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The URL.
    Url(UrlError),
    /// A header of the request.
    Header(HeaderError),
    /// A subprotocol.
    Subprotocol(SubprotocolError),
    /// A limit.
    Limit(LimitError),
    /// The URL is `wss://`, and the adapter was built without TLS.
    TlsNotBuiltIn,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(error) => error.fmt(f),
            Self::Header(error) => error.fmt(f),
            Self::Subprotocol(error) => error.fmt(f),
            Self::Limit(error) => error.fmt(f),
            Self::TlsNotBuiltIn => f.write_str("wss:// needs the feature `tls`"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Url(error) => Some(error),
            Self::Header(error) => Some(error),
            Self::Subprotocol(error) => Some(error),
            Self::Limit(error) => Some(error),
            Self::TlsNotBuiltIn => None,
        }
    }
}

impl From<UrlError> for BuildError {
    fn from(error: UrlError) -> Self {
        Self::Url(error)
    }
}

impl From<HeaderError> for BuildError {
    fn from(error: HeaderError) -> Self {
        Self::Header(error)
    }
}

impl From<SubprotocolError> for BuildError {
    fn from(error: SubprotocolError) -> Self {
        Self::Subprotocol(error)
    }
}

impl From<LimitError> for BuildError {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}
