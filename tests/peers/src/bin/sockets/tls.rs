//! rustls for the load, and the certificate that both sides use.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

/// The load as a client, and as a server.
pub type TlsClient = StreamOwned<ClientConnection, TcpStream>;
pub type TlsServer = StreamOwned<ServerConnection, TcpStream>;

/// Who the server is: a certificate and its key, as DER.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Identity {
    /// A fresh one, for 127.0.0.1.
    ///
    /// # Errors
    ///
    /// rcgen's.
    pub fn fresh() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        Ok(Self { certificate: made.cert.der().to_vec(), key: made.signing_key.serialize_der() })
    }

    /// A server that is this one.
    ///
    /// # Errors
    ///
    /// rustls's.
    pub fn server(&self) -> io::Result<Arc<ServerConfig>> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(self.certificate.clone())], key)
            .map_err(io::Error::other)?;
        Ok(Arc::new(config))
    }

    /// A client that trusts this one alone.
    ///
    /// # Errors
    ///
    /// rustls's.
    pub fn client(&self) -> io::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.certificate.clone())).map_err(io::Error::other)?;
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    /// The load's end of a connection to a server.
    ///
    /// # Errors
    ///
    /// rustls's.
    pub fn over_client(&self, stream: TcpStream) -> io::Result<TlsClient> {
        let session = ClientConnection::new(self.client()?, name()).map_err(io::Error::other)?;
        Ok(StreamOwned::new(session, stream))
    }

    /// The load's end of a connection of a client.
    ///
    /// # Errors
    ///
    /// rustls's.
    pub fn over_server(&self, stream: TcpStream) -> io::Result<TlsServer> {
        let session = ServerConnection::new(self.server()?).map_err(io::Error::other)?;
        Ok(StreamOwned::new(session, stream))
    }
}

/// Whom the clients ask for.
pub fn name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())
}
