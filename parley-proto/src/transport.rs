//! What is asked of a transport, and what is known of one: data that passes between the layers.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use core::net::{IpAddr, SocketAddr};

/// What is known of a transport once it is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportFacts {
    /// This end's address.
    pub local_addr: Option<SocketAddr>,
    /// The peer's address.
    pub peer_addr: Option<SocketAddr>,
    /// `None` without TLS.
    pub tls: Option<Box<TlsFacts>>,
}

impl TransportFacts {
    /// Facts with these addresses and without TLS.
    #[must_use]
    pub fn new(local_addr: Option<SocketAddr>, peer_addr: Option<SocketAddr>) -> Self {
        Self { local_addr, peer_addr, tls: None }
    }

    /// The same with TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsFacts) -> Self {
        self.tls = Some(Box::new(tls));
        self
    }
}

/// What a TLS handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The protocol version, as in `"TLSv1.3"`.
    pub version: Option<String>,
    /// The application protocol (ALPN), if one was agreed on.
    pub alpn: Option<Bytes>,
    /// The peer's certificates in DER, its own first.
    pub peer_certificates: Arc<[Bytes]>,
}

impl TlsFacts {
    /// Facts of a handshake.
    #[must_use]
    pub fn new(version: Option<String>, alpn: Option<Bytes>, peer_certificates: Vec<Bytes>) -> Self {
        Self { version, alpn, peer_certificates: peer_certificates.into() }
    }
}

/// Options of a TCP connection, applied before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpOptions {
    /// `TCP_NODELAY`. Default `true`: the driver writes whole batches, Nagle's algorithm would only delay them.
    pub nodelay: bool,
    /// Idle time before TCP's own probes. Default `None`: off.
    pub keepalive: Option<Duration>,
    /// `SO_SNDBUF` in bytes. Default `None`: the system's choice.
    pub send_buffer: Option<usize>,
    /// `SO_RCVBUF` in bytes. Default `None`: the system's choice.
    pub recv_buffer: Option<usize>,
    /// The local address to dial from. Default `None`: the system's choice.
    pub local_addr: Option<IpAddr>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { nodelay: true, keepalive: None, send_buffer: None, recv_buffer: None, local_addr: None }
    }
}

/// Whom a TLS handshake is to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsTarget {
    /// The name (or the address, as text, without brackets) that the certificate has to be for.
    pub server_name: String,
}

impl TlsTarget {
    /// A target by its name.
    #[must_use]
    pub fn new(server_name: impl Into<String>) -> Self {
        Self { server_name: server_name.into() }
    }
}

/// Why a TLS handshake failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The transport failed or ended during the handshake. Worth another try.
    Io(Arc<io::Error>),
    /// The peer's certificate was refused, or the peers agree on no version, cipher or protocol.
    Handshake(Arc<dyn std::error::Error + Send + Sync>),
    /// The name of the target is not one that a certificate can carry.
    ServerName(String),
    /// This side's TLS cannot work: no trust roots, no crypto provider, or built without TLS.
    Unavailable(Arc<dyn std::error::Error + Send + Sync>),
}

impl TlsError {
    /// This side's TLS cannot work, for this reason.
    #[must_use]
    pub fn unavailable(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(reason.into().into())
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "TLS handshake interrupted: {error}"),
            Self::Handshake(error) => write!(f, "TLS handshake failed: {error}"),
            Self::ServerName(name) => write!(f, "`{name}` is not a name that TLS can verify"),
            Self::Unavailable(error) => write!(f, "TLS is not available: {error}"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(&**error),
            Self::Handshake(error) | Self::Unavailable(error) => Some(&**error),
            Self::ServerName(_) => None,
        }
    }
}
