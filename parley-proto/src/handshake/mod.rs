//! The opening handshake over HTTP/1.1: RFC 6455, section 4.
//!
//! | file | its grammar or job |
//! |---|---|
//! | `url` | ws and wss URIs (section 3) and the `Host` field |
//! | `request` | [`ClientRequest`]: what a client asks for, and its bytes (4.1) |
//! | `reply` | [`Acceptance`] and [`Rejection`]: what a server answers (4.2.2) |
//! | `negotiated` | [`Negotiated`]: what both sides agreed on |
//! | `fields` | header fields that an application adds, and how they are kept out of logs |
//! | `head` | where a head ends, its limits, its syntax (RFC 9112) |
//! | `tokens`, `extensions` | the two list grammars (4.3, 9.1) |
//! | `accept` | `Sec-WebSocket-Key` and `Sec-WebSocket-Accept` |
//! | `body` | the body of a response that refuses |
//! | `client`, `server` | the two state machines |
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
mod origin;
mod reply;
mod request;
mod server;
mod tokens;
mod url;

pub use client::{ClientFailure, ClientHandshake, Rejected};
pub use error::{ApiMisuse, HandshakeError, HeadSyntax, HeaderError, SubprotocolError, UrlError, UrlPart};
pub use extensions::Extension;
pub use negotiated::Negotiated;
pub use origin::{OriginError, Origins};
pub use reply::{Acceptance, Rejection};
pub use request::ClientRequest;
pub use server::{Request, ServerHandshake, ServerRefusal};
