//! WebSocket (RFC 6455) as a sans-IO core.

pub mod codec;
pub mod driver;
pub mod handshake;
mod limits;
mod pool;

pub use limits::{LimitError, Limits};

/// Which side of a connection an endpoint is (RFC 6455, section 1.2): clients mask what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Dials, sends masked frames, receives unmasked ones.
    Client,
    /// Accepts, sends unmasked frames, receives masked ones.
    Server,
}
