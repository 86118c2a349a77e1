//! What can go wrong, by who is at fault: the network, the peer, the application.

use std::error::Error;
use std::sync::Arc;
use std::{fmt, io};

use crate::codec::{Chunk, CloseFrame, Frame, FrameError};
use crate::handshake::{HandshakeError, Rejected};
use crate::transport::TlsError;

/// Any error of the application's own, as callbacks return it.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// An error of the application's own that several readers share.
#[derive(Clone)]
pub struct SharedError(Arc<dyn Error + Send + Sync + 'static>);

impl SharedError {
    /// The error itself, to be looked at or downcast.
    #[must_use]
    pub fn get(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl From<BoxError> for SharedError {
    fn from(error: BoxError) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An error of the network: a resolver, a dial, a read or a write.
#[derive(Clone, Debug)]
pub struct NetworkError(Arc<io::Error>);

impl NetworkError {
    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind()
    }

    /// The system's error itself.
    #[must_use]
    pub fn get(&self) -> &io::Error {
        &self.0
    }
}

impl From<io::Error> for NetworkError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for NetworkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// The peer broke a rule of RFC 6455.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// In the opening handshake (section 4).
    Handshake(HandshakeError),
    /// In a frame, a message, or a Close (sections 5 to 8).
    Frame(FrameError),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake(error) => write!(f, "opening handshake: {error}"),
            Self::Frame(error) => error.fmt(f),
        }
    }
}

impl Error for ProtocolError {}

/// How far an attempt to connect had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectPhase {
    /// The handler's `prepare` was running.
    Prepare,
    /// The host's name was being looked up.
    Dns,
    /// A TCP connection was being opened.
    Tcp,
    /// The TLS handshake was under way.
    Tls,
    /// The upgrade request was sent, its response not complete.
    Upgrade,
}

impl fmt::Display for ConnectPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare",
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Upgrade => "upgrade",
        })
    }
}

/// Why a connection ended, or why an attempt failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// A handle asked for it (`disconnect`, `disconnect_with`).
    Local,
    /// A callback asked for it, with this Close.
    Requested(CloseFrame),
    /// The peer closed; `None` when its Close had no code (1005, section 7.1.5).
    Remote(Option<CloseFrame>),
    /// The server answered the upgrade with something else than 101.
    Rejected(Arc<Rejected>),
    /// The attempt took longer than the connect timeout, and had come this far.
    ConnectTimeout(ConnectPhase),
    /// The peer was silent, and no byte came in time after a ping of ours. See [`Keepalive`](crate::connection::Keepalive).
    KeepaliveTimeout,
    /// Output waited and the peer took no byte of it for the [write timeout](crate::connection::Config::write_timeout).
    WriteTimeout,
    /// The peer broke the protocol; the connection was failed with the error's close code (section 7.1.7).
    Protocol(ProtocolError),
    /// The stream ended without a Close (1006, section 7.1.5).
    Eof,
    /// The host's name could not be resolved.
    Dns(NetworkError),
    /// TCP failed: while dialling, or later by a read or a write.
    Tcp(NetworkError),
    /// The TLS handshake failed.
    Tls(TlsError),
    /// The handler's `prepare` returned this error.
    Prepare(SharedError),
    /// A message that was being sent in parts was given up half-way, and the connection closed with 1011: see
    /// [`MessageWriter`](crate::driver::MessageWriter).
    Abandoned,
}

impl DisconnectReason {
    /// Whether another try may well succeed without anything being changed: what a retry by policy goes by.
    ///
    /// It is so for DNS, TCP, an early end, timeouts, TLS that was cut off, a message that was given up, a Close of the peer but for 1002, 1003 and
    /// 1007 to 1010, and the statuses 408, 425, 429, 500, 502, 503 and 504.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Local | Self::Requested(_) | Self::Protocol(_) | Self::Prepare(_) => false,
            Self::Remote(close) => {
                !close.as_ref().is_some_and(|close| matches!(u16::from(close.code()), 1002 | 1003 | 1007..=1010))
            }
            Self::Rejected(rejected) => {
                matches!(rejected.status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
            }
            Self::Tls(error) => matches!(error, TlsError::Io(_)),
            _ => true,
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("disconnected by the application"),
            Self::Requested(close) => write!(f, "disconnected by a callback with {close}"),
            Self::Remote(Some(close)) => write!(f, "closed by the peer with {close}"),
            Self::Remote(None) => f.write_str("closed by the peer without a code"),
            Self::Rejected(rejected) => write!(f, "upgrade refused with status {}", rejected.status),
            Self::ConnectTimeout(phase) => write!(f, "connect timeout during {phase}"),
            Self::KeepaliveTimeout => f.write_str("keepalive timeout: the peer did not answer a ping"),
            Self::WriteTimeout => f.write_str("write timeout: the peer took no output for too long"),
            Self::Protocol(error) => write!(f, "protocol error: {error}"),
            Self::Eof => f.write_str("stream ended without a Close"),
            Self::Dns(error) => write!(f, "name resolution failed: {error}"),
            Self::Tcp(error) => write!(f, "TCP failed: {error}"),
            Self::Tls(error) => error.fmt(f),
            Self::Prepare(error) => write!(f, "prepare failed: {error}"),
            Self::Abandoned => f.write_str("a message in parts was given up half-way"),
        }
    }
}

impl Error for DisconnectReason {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Protocol(error) => Some(error),
            Self::Dns(error) | Self::Tcp(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::Prepare(error) => Some(error.get()),
            _ => None,
        }
    }
}

/// Why a client ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StopReason {
    /// It was asked to: by `stop`, or by a callback's `Action::Stop`.
    Stopped,
    /// A callback returned this error.
    Handler(SharedError),
    /// It was disconnected for this reason, and nobody could reconnect it, or its first attempt failed.
    Disconnected(DisconnectReason),
    /// As many retries as the options allow have failed; the last for this reason.
    MaxRetriesExceeded(DisconnectReason),
    /// It did not begin: another client has its name.
    NameInUse,
    /// A callback panicked.
    Panicked,
    /// The runtime cannot give what a client needs, such as unpredictable bytes.
    Runtime(NetworkError),
    /// The client's future was dropped, or its runtime shut down.
    Aborted,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Handler(error) => write!(f, "stopped by the handler's error: {error}"),
            Self::Disconnected(reason) => reason.fmt(f),
            Self::MaxRetriesExceeded(reason) => write!(f, "given up after the last retry: {reason}"),
            Self::NameInUse => f.write_str("another client has that name"),
            Self::Panicked => f.write_str("a callback panicked"),
            Self::Runtime(error) => write!(f, "the runtime cannot run a client: {error}"),
            Self::Aborted => f.write_str("the client's future was dropped"),
        }
    }
}

impl Error for StopReason {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Handler(error) => Some(error.get()),
            Self::Disconnected(reason) | Self::MaxRetriesExceeded(reason) => Some(reason),
            Self::Runtime(error) => Some(error),
            _ => None,
        }
    }
}

/// Why a frame was not sent. It gives the frame back, unless its encoding had begun.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full; try again, or wait for room.
    Full(Frame),
    /// There is no connection.
    Disconnected(Frame),
    /// The connection is closing: nothing may follow a Close (section 5.5.1).
    Closing(Frame),
    /// The client has ended.
    Stopped(Frame),
    /// A ping or pong with more than 125 bytes of payload (section 5.5).
    ControlTooLong(Frame),
    /// A message while another is being sent in parts (section 5.4).
    OutOfTurn(Frame),
    /// The connection ended for this reason after the frame's encoding had begun: what has reached the peer of it is
    /// unknown.
    Lost(DisconnectReason),
}

impl SendError {
    /// The frame, if it can be given back.
    #[must_use]
    pub fn frame(&self) -> Option<&Frame> {
        match self {
            Self::Full(frame)
            | Self::Disconnected(frame)
            | Self::Closing(frame)
            | Self::Stopped(frame)
            | Self::ControlTooLong(frame)
            | Self::OutOfTurn(frame) => Some(frame),
            Self::Lost(_) => None,
        }
    }

    /// Gives the frame back, if it can be.
    #[must_use]
    pub fn into_frame(self) -> Option<Frame> {
        match self {
            Self::Full(frame)
            | Self::Disconnected(frame)
            | Self::Closing(frame)
            | Self::Stopped(frame)
            | Self::ControlTooLong(frame)
            | Self::OutOfTurn(frame) => Some(frame),
            Self::Lost(_) => None,
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the send queue is full"),
            Self::Disconnected(_) => f.write_str("not connected"),
            Self::Closing(_) => f.write_str("the connection is closing"),
            Self::Stopped(_) => f.write_str("the client has ended"),
            Self::ControlTooLong(frame) => {
                write!(f, "a control frame carries at most 125 bytes, not {}", frame.len())
            }
            Self::OutOfTurn(_) => f.write_str("another message is being sent in parts"),
            Self::Lost(reason) => write!(f, "the connection ended while the frame was being sent: {reason}"),
        }
    }
}

impl Error for SendError {}

/// Why a part of a message was not sent. It gives the part back, unless it was lost.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ChunkError {
    /// There is no room; try again once there is.
    Full(Chunk),
    /// There is no connection, or it is another one than that on which the message began.
    Disconnected(Chunk),
    /// The connection is closing: nothing may follow a Close (section 5.5.1).
    Closing(Chunk),
    /// The client has ended.
    Stopped(Chunk),
    /// The parts are not in order: no message has begun, or another one (section 5.4).
    OutOfTurn(Chunk),
    /// With this part the text is not UTF-8 (section 8.1).
    NotUtf8(Chunk),
    /// The connection ended for this reason after the part was accepted: what has reached the peer of the message is not
    /// whole.
    Lost(DisconnectReason),
}

impl ChunkError {
    /// Gives the part back, if it can be.
    #[must_use]
    pub fn into_chunk(self) -> Option<Chunk> {
        match self {
            Self::Lost(_) => None,
            Self::Full(chunk)
            | Self::Disconnected(chunk)
            | Self::Closing(chunk)
            | Self::Stopped(chunk)
            | Self::OutOfTurn(chunk)
            | Self::NotUtf8(chunk) => Some(chunk),
        }
    }
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "there is no room for a part of a message",
            Self::Disconnected(_) => "not connected",
            Self::Closing(_) => "the connection is closing",
            Self::Stopped(_) => "the client has ended",
            Self::OutOfTurn(_) => "a part of a message out of order",
            Self::NotUtf8(_) => "a part of a text that is not UTF-8",
            Self::Lost(reason) => return write!(f, "the connection ended while a message was being sent: {reason}"),
        })
    }
}

impl Error for ChunkError {}
