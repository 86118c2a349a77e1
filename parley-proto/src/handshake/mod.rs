//! The opening handshake over HTTP/1.1: RFC 6455, section 4.
//!
//! Absent: sockets, clocks, randomness. The deadline of the handshake is its owner's; the 16 bytes of a key are an
//! argument. Every cost is linear in the bytes received, however they are cut.

mod accept;
mod body;
mod client;
mod error;
mod extensions;
mod fields;
mod head;
mod negotiated;
mod request;
mod tokens;
mod url;

pub use client::{ClientFailure, ClientHandshake, Rejected};
pub use error::{ApiMisuse, HandshakeError, HeadSyntax, HeaderError, SubprotocolError, UrlError, UrlPart};
pub use extensions::Extension;
pub use negotiated::Negotiated;
pub use request::ClientRequest;
