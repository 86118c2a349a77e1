//! WebSocket (RFC 6455) as a sans-IO core: codec, handshake, connection, client session, and one runtime-neutral
//! driver.

pub mod codec;
pub mod connection;
pub mod driver;
mod error;
mod handler;
pub mod handshake;
mod limits;
mod pool;
pub mod session;

pub use error::{
    BoxError, ConnectPhase, DisconnectReason, NetworkError, ProtocolError, SendError, SharedError, StopReason,
};
pub use handler::{Action, Attempt, Connected, Handler, Retry};
pub use limits::{LimitError, Limits};

/// Which side of a connection an endpoint is (RFC 6455, section 1.2): clients mask what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Dials, sends masked frames, receives unmasked ones.
    Client,
    /// Accepts, sends unmasked frames, receives masked ones.
    Server,
}
