//! The one async loop, generic over [`Runtime`] and [`Transport`].

mod runtime;

pub use runtime::{Runtime, TcpOptions, TlsError, TlsFacts, TlsTarget, Transport, TransportFacts};
