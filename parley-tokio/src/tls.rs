//! The TLS handshakes of `wss://` on tokio's streams.

use std::sync::Arc;

pub use parley_proto::driver::Tls;
use parley_proto::driver::rustls::{ClientConfig, ServerConfig};
use parley_proto::driver::{TlsClient, TlsError, TlsTarget};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::Transport;
use crate::runtime::blocking;

/// One client's TLS.
#[derive(Clone, Debug)]
pub(crate) struct Connector(TlsClient);

impl Connector {
    pub(crate) fn new(options: Tls) -> Self {
        Self(TlsClient::new(options))
    }

    pub(crate) async fn connect(&self, transport: Transport, target: TlsTarget) -> Result<Transport, TlsError> {
        let server_name = self.0.server_name(&target)?;
        let tcp = transport.into_plain().ok_or_else(|| TlsError::unavailable("TLS inside TLS is not supported"))?;
        let connector = TlsConnector::from(self.config().await?);
        let stream = connector.connect(server_name, tcp).await.map_err(TlsError::of_handshake)?;
        Ok(Transport::from(TlsStream::from(stream)))
    }

    /// Loaded off the async threads, since files may be read.
    async fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.0.config() {
            return Ok(config);
        }
        let client = self.0.clone();
        match blocking(move || client.load()).await {
            Ok(result) => result,
            Err(error) => Err(TlsError::unavailable(error)),
        }
    }
}

/// A server's side of the handshake.
pub(crate) async fn accept(transport: Transport, config: Arc<ServerConfig>) -> Result<Transport, TlsError> {
    let tcp = transport.into_plain().ok_or_else(|| TlsError::unavailable("TLS inside TLS is not supported"))?;
    let stream = TlsAcceptor::from(config).accept(tcp).await.map_err(TlsError::of_handshake)?;
    Ok(Transport::from(TlsStream::from(stream)))
}
