//! The TLS handshakes of `wss://` on streams of futures-io.

use std::sync::Arc;

use futures_io::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector};
pub use parley_proto::driver::Tls;
use parley_proto::driver::rustls::{ClientConfig, ServerConfig};
use parley_proto::driver::{TlsClient, TlsError, TlsTarget};

use crate::Transport;

/// One client's TLS.
#[derive(Clone, Debug)]
pub(crate) struct Connector(TlsClient);

impl Connector {
    pub(crate) fn new(options: Tls) -> Self {
        Self(TlsClient::new(options))
    }

    pub(crate) async fn connect<S>(&self, transport: Transport<S>, target: TlsTarget) -> Result<Transport<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let server_name = self.0.server_name(&target)?;
        let socket = transport.into_plain().ok_or_else(|| TlsError::unavailable("TLS inside TLS is not supported"))?;
        let connector = TlsConnector::from(self.config().await?);
        let stream = connector.connect(server_name, socket).await.map_err(TlsError::of_handshake)?;
        Ok(Transport::secured(stream.into()))
    }

    /// Loaded off the async threads, since files may be read.
    async fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.0.config() {
            return Ok(config);
        }
        let client = self.0.clone();
        async_std::task::spawn_blocking(move || client.load()).await
    }
}

/// A server's side of the handshake.
pub(crate) async fn accept(transport: Transport, config: Arc<ServerConfig>) -> Result<Transport, TlsError> {
    let socket = transport.into_plain().ok_or_else(|| TlsError::unavailable("TLS inside TLS is not supported"))?;
    let stream = TlsAcceptor::from(config).accept(socket).await.map_err(TlsError::of_handshake)?;
    Ok(Transport::secured(stream.into()))
}
