//! What a connection tells its user.

use std::fmt;
use std::sync::Arc;

use crate::codec::{Chunk, CloseFrame, Frame, FrameError};
use crate::error::{ConnectPhase, DisconnectReason, NetworkError, ProtocolError};
use crate::handshake::{HandshakeError, Negotiated, Rejected, Request};

/// What happened, in order. [`Closed`](Event::Closed) comes last, once.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Server: a client asks for the upgrade; answer with [`accept`](super::Connection::accept) or
    /// [`reject`](super::Connection::reject).
    Request(Box<Request>),
    /// Server, with [`plain_http`](super::Config::plain_http): a request that asks for no upgrade; answer with
    /// [`respond`](super::Connection::respond).
    Http(Box<http::Request<()>>),
    /// The opening handshake is complete (RFC 6455, section 4.1).
    Open(Box<Negotiated>),
    /// A whole message, a ping (its pong is queued already) or a pong.
    Frame(Frame),
    /// A part of a message, where messages come in parts: see [`chunks_above`](super::Config::chunks_above).
    Chunk(Chunk),
    /// The connection has ended; the transport is to be closed.
    Closed(Box<Closed>),
}

/// Who began the closing handshake, or ended the connection without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Initiator {
    /// This endpoint.
    Local,
    /// The peer, or the network between.
    Remote,
}

/// How a connection ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Closed {
    /// Who began it.
    pub initiator: Initiator,
    /// The Close that the peer sent, if it sent one with a code.
    pub close: Option<CloseFrame>,
    /// True only when both endpoints have sent a Close (section 7.1.4). False too when the transport has not taken all of ours.
    pub was_clean: bool,
    /// What went wrong, if something did.
    pub error: Option<ConnectionError>,
    pub(crate) received: bool,
}

impl Closed {
    /// The close code of section 7.1.5: the peer's; 1005 when its Close had none, 1006 when it sent no Close.
    #[must_use]
    pub fn code(&self) -> u16 {
        match &self.close {
            Some(close) => close.code().into(),
            None if self.received => 1005,
            None => 1006,
        }
    }

    /// What a client tells its handler: the error, else the peer's Close.
    #[must_use]
    pub fn reason(&self) -> DisconnectReason {
        match &self.error {
            None => DisconnectReason::Remote(self.close.clone()),
            Some(ConnectionError::Protocol(error)) => DisconnectReason::Protocol(error.clone()),
            Some(ConnectionError::Rejected(rejected)) => DisconnectReason::Rejected(Arc::new((**rejected).clone())),
            Some(ConnectionError::Refused) => DisconnectReason::Local,
            Some(ConnectionError::HandshakeTimeout) => DisconnectReason::ConnectTimeout(ConnectPhase::Upgrade),
            Some(ConnectionError::Eof) => DisconnectReason::Eof,
            Some(ConnectionError::KeepaliveTimeout) => DisconnectReason::KeepaliveTimeout,
            Some(ConnectionError::WriteTimeout) => DisconnectReason::WriteTimeout,
            Some(ConnectionError::Network(error)) => DisconnectReason::Tcp(error.clone()),
        }
    }
}

/// What ended a connection otherwise than by a closing handshake.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer broke the protocol.
    Protocol(ProtocolError),
    /// Client: the server answered the upgrade with something else than 101.
    Rejected(Box<Rejected>),
    /// Server: the application refused the upgrade, or answered a request that asked for none.
    Refused,
    /// The opening handshake was not complete at its deadline.
    HandshakeTimeout,
    /// The stream ended without a Close.
    Eof,
    /// The transport failed.
    Network(NetworkError),
    /// No byte arrived in time after a ping of our own: see [`Keepalive`](super::Keepalive).
    KeepaliveTimeout,
    /// Output waited and the peer took no byte of it for the [write timeout](super::Config::write_timeout).
    WriteTimeout,
}

impl From<FrameError> for ConnectionError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(ProtocolError::Frame(error))
    }
}

impl From<HandshakeError> for ConnectionError {
    fn from(error: HandshakeError) -> Self {
        Self::Protocol(ProtocolError::Handshake(error))
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => error.fmt(f),
            Self::Rejected(rejected) => write!(f, "upgrade refused with status {}", rejected.status),
            Self::Refused => f.write_str("the upgrade was refused by the application"),
            Self::HandshakeTimeout => f.write_str("the opening handshake took too long"),
            Self::Eof => f.write_str("the stream ended without a Close"),
            Self::Network(error) => error.fmt(f),
            Self::KeepaliveTimeout => f.write_str("the peer did not answer a ping"),
            Self::WriteTimeout => f.write_str("the peer took no output for too long"),
        }
    }
}

impl std::error::Error for ConnectionError {}

/// The state of a connection (sections 4 and 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The opening handshake is under way.
    Connecting,
    /// Messages pass both ways.
    Open,
    /// A Close was sent; nothing may follow it.
    Closing,
    /// Ended; the transport is closed or about to be.
    Closed,
}

/// What is to be done with the transport, once all output was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shutdown {
    /// End the outgoing direction, go on reading.
    Write,
    /// End the outgoing direction, then close.
    Close,
    /// Close at once; output that was not written is lost.
    Abort,
}
