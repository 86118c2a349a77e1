//! TLS for `wss://` (RFC 6455, section 4.1, step 5), by rustls: the user's options, and what is made of them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use parley_proto::driver::{TlsError, TlsFacts, TlsTarget};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, CommonState, ProtocolVersion, ServerConfig};
use rustls_platform_verifier::Verifier;
use tokio::sync::OnceCell;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::runtime::blocking;
use crate::{Transport, unavailable};

/// The one application protocol that this client speaks (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// How the peer of a `wss://` URL is checked, and what this side shows of itself.
///
/// Without any option the operating system's trust roots decide, for the name in the URL. There is no option that
/// skips the check of certificate or name; who needs that builds a [`ClientConfig`] by rustls's `dangerous()`.
///
/// ```
/// # fn load(path: &str) -> Vec<u8> { path.into() }
/// use parley_tokio::Tls;
///
/// let tls = Tls::new().root_certificate(load("company-ca.der")).server_name("ws.internal");
/// ```
///
/// Nothing is read or checked before the first TLS handshake; what is wrong with the options (no trust roots on the
/// system, a certificate that is none, no crypto provider) is then [`TlsError::Unavailable`].
///
/// The crypto provider is the one given to [`provider`](Self::provider), else `ring` where that feature is on (the
/// default), else `aws-lc-rs` where that one is. rustls's process-wide default is neither read nor set.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    config: Option<Arc<ClientConfig>>,
    provider: Option<Arc<CryptoProvider>>,
    roots: Roots,
    extra_roots: Vec<CertificateDer<'static>>,
    identity: Option<Arc<Identity>>,
    server_name: Option<String>,
}

/// Where trust begins, before what the user adds.
#[derive(Clone, Copy, Debug, Default)]
enum Roots {
    #[default]
    Platform,
    #[cfg(feature = "webpki-roots")]
    Webpki,
}

/// A certificate chain and its key. `Debug` of the key elides it.
#[derive(Debug)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Tls {
    /// The operating system's trust roots, no client certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A configuration of the user's own making, used as it is but for its ALPN protocols, which become `http/1.1`
    /// alone: one shared with an HTTP client may offer `h2`, and the upgrade would fail.
    ///
    /// It holds its own provider, roots and client certificate: of the methods below only
    /// [`server_name`](Self::server_name) has an effect then.
    #[must_use]
    pub fn with_config(config: Arc<ClientConfig>) -> Self {
        Self { config: Some(config), ..Self::default() }
    }

    /// Trusts this root certificate (DER) as well as the others. May be called for each of several.
    #[must_use]
    pub fn root_certificate(mut self, der: impl Into<CertificateDer<'static>>) -> Self {
        self.extra_roots.push(der.into());
        self
    }

    /// Trusts Mozilla's roots as compiled in, instead of the operating system's.
    ///
    /// For systems that bring none. The list is as old as the build, and local policy does not reach it.
    #[cfg(feature = "webpki-roots")]
    #[must_use]
    pub fn webpki_roots(mut self) -> Self {
        self.roots = Roots::Webpki;
        self
    }

    /// Shows this certificate (DER, followed by its intermediates) to a server that asks for one.
    #[must_use]
    pub fn client_certificate(mut self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        self.identity = Some(Arc::new(Identity { chain, key }));
        self
    }

    /// The name to ask for (SNI) and to find in the certificate. Default: the host of the URL.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The implementation of the cryptography.
    #[must_use]
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Reads the system's roots from disk where the platform keeps them there: may block.
    fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = &self.config {
            return Ok(with_alpn(config));
        }
        let provider = match &self.provider {
            Some(provider) => Arc::clone(provider),
            None => default_provider().ok_or_else(|| {
                unavailable("no crypto provider: neither `ring` nor `aws-lc-rs` is on, none was given")
            })?,
        };
        let verifier = self.verifier(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unavailable)?
            // Not dangerous: either verifier checks chain and name.
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.identity.as_deref() {
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(unavailable)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        match self.roots {
            Roots::Platform if self.extra_roots.is_empty() && self.provider.is_none() => {
                Ok(shared_platform_verifier(provider)?)
            }
            Roots::Platform => Ok(Arc::new(platform_verifier(&self.extra_roots, provider)?)),
            #[cfg(feature = "webpki-roots")]
            Roots::Webpki => {
                let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
                for root in &self.extra_roots {
                    roots.add(root.clone()).map_err(unavailable)?;
                }
                let builder =
                    rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
                Ok(builder.build().map_err(unavailable)?)
            }
        }
    }
}

/// The operating system's verdict, for every client that asks for nothing else.
///
/// Some 150 certificates are read and parsed for it where the system keeps them in files, so that clients alive at the
/// same time share one. They share no session tickets.
fn shared_platform_verifier(provider: &Arc<CryptoProvider>) -> Result<Arc<Verifier>, TlsError> {
    static SHARED: Mutex<Weak<Verifier>> = Mutex::new(Weak::new());

    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(verifier) = shared.upgrade() {
        return Ok(verifier);
    }
    let verifier = Arc::new(platform_verifier(&[], provider)?);
    *shared = Arc::downgrade(&verifier);
    Ok(verifier)
}

#[cfg(not(target_os = "android"))]
fn platform_verifier(extra: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
    Verifier::new_with_extra_roots(extra.iter().cloned(), Arc::clone(provider)).map_err(unavailable)
}

/// Android's verifier takes no further roots.
#[cfg(target_os = "android")]
fn platform_verifier(extra: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
    if !extra.is_empty() {
        return Err(unavailable("extra trust roots are not supported on Android: give a `ClientConfig`"));
    }
    Verifier::new(Arc::clone(provider)).map_err(unavailable)
}

fn default_provider() -> Option<Arc<CryptoProvider>> {
    #[cfg(feature = "ring")]
    {
        Some(Arc::new(rustls::crypto::ring::default_provider()))
    }
    #[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
    {
        Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
    }
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    {
        None
    }
}

fn with_alpn(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    if config.alpn_protocols == [ALPN] {
        return Arc::clone(config);
    }
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

/// One client's TLS: its options, and the configuration made of them at the first handshake and kept, so that a
/// reconnect can resume the session.
#[derive(Debug)]
pub(crate) struct Connector {
    options: Tls,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Connector {
    pub(crate) fn new(options: Tls) -> Self {
        Self { options, config: OnceCell::new() }
    }

    pub(crate) async fn connect(&self, transport: Transport, target: TlsTarget) -> Result<Transport, TlsError> {
        let name = self.options.server_name.clone().unwrap_or(target.server_name);
        let Ok(server_name) = ServerName::try_from(name.clone()) else {
            return Err(TlsError::ServerName(name));
        };
        let tcp = transport.into_plain().ok_or_else(|| unavailable("TLS inside TLS is not supported"))?;
        let config = Arc::clone(self.config.get_or_try_init(|| self.load()).await?);
        let stream = TlsConnector::from(config).connect(server_name, tcp).await.map_err(handshake_error)?;
        Ok(Transport::from(tokio_rustls::TlsStream::from(stream)))
    }

    /// Off the async threads, since files may be read. Not kept when it fails: the next attempt tries again.
    async fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let options = self.options.clone();
        match blocking(move || options.client_config()).await {
            Ok(result) => result,
            Err(error) => Err(unavailable(error)),
        }
    }
}

/// A server's side of the handshake.
pub(crate) async fn accept(transport: Transport, config: Arc<ServerConfig>) -> Result<Transport, TlsError> {
    let tcp = transport.into_plain().ok_or_else(|| unavailable("TLS inside TLS is not supported"))?;
    let stream = TlsAcceptor::from(config).accept(tcp).await.map_err(handshake_error)?;
    Ok(Transport::from(tokio_rustls::TlsStream::from(stream)))
}

/// tokio-rustls puts rustls's own errors into an `io::Error`; the others are the transport's.
fn handshake_error(error: io::Error) -> TlsError {
    match error.downcast::<rustls::Error>() {
        Ok(error) => TlsError::Handshake(Arc::new(error)),
        Err(error) => TlsError::Io(Arc::new(error)),
    }
}

/// The names that TLS libraries agree on, as in `"TLSv1.3"`.
fn version_name(version: ProtocolVersion) -> String {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2".to_owned(),
        ProtocolVersion::TLSv1_3 => "TLSv1.3".to_owned(),
        other => format!("{other:?}"),
    }
}

/// What the handshake of a session agreed on.
pub(crate) fn facts(session: &CommonState) -> TlsFacts {
    TlsFacts::new(
        session.protocol_version().map(version_name),
        session.alpn_protocol().map(Bytes::copy_from_slice),
        session.peer_certificates().unwrap_or_default().iter().map(|der| Bytes::copy_from_slice(der)).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    #[test]
    fn without_a_provider_tls_is_unavailable_and_nothing_panics() {
        assert!(matches!(Tls::new().client_config(), Err(TlsError::Unavailable(_))));
    }

    #[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
    #[test]
    fn clients_without_options_share_the_platforms_verifier() {
        let provider = default_provider().unwrap();
        match (shared_platform_verifier(&provider), shared_platform_verifier(&provider)) {
            (Ok(one), Ok(other)) => assert!(Arc::ptr_eq(&one, &other)),
            (Err(TlsError::Unavailable(_)), Err(TlsError::Unavailable(_))) => {} // no trust roots here
            other => panic!("{other:?}"),
        }
    }

    #[cfg(all(feature = "webpki-roots", any(feature = "ring", feature = "aws-lc-rs")))]
    #[test]
    fn compiled_in_roots_need_nothing_of_the_system() {
        let config = Tls::new().webpki_roots().client_config().unwrap();
        assert_eq!(config.alpn_protocols, [ALPN]);
        assert!(matches!(
            Tls::new().webpki_roots().root_certificate(b"no DER".to_vec()).client_config(),
            Err(TlsError::Unavailable(_))
        ));
    }
}
