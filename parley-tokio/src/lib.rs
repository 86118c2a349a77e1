//! tokio

mod runtime;
#[cfg(feature = "tls")]
mod tls;
mod transport;

#[cfg(feature = "tls")]
pub use rustls;

pub use runtime::Tokio;
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use transport::Transport;

use parley_proto::driver::TlsError;

/// This side's TLS cannot work, for this reason.
fn unavailable(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
    TlsError::Unavailable(reason.into().into())
}
