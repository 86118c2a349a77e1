//! TLS for `wss://` (RFC 6455, section 4.1, step 5), by rustls: the user's options, and what is made of them.
//!
//! Whom to trust and what to offer is the same on every runtime. The handshake itself is an adapter's, on its streams.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, CommonState, ProtocolVersion};
use rustls_platform_verifier::Verifier;

use crate::transport::{TlsError, TlsFacts, TlsTarget};

/// The one application protocol that this client speaks (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// How the peer of a `wss://` URL is checked, and what this side shows of itself.
///
/// Without any option the operating system's trust roots decide, for the name in the URL. There is no option that
/// skips the check of certificate or name; who needs that builds a [`ClientConfig`] by rustls's `dangerous()`.
///
/// ```
/// # use parley_proto::driver::Tls;
/// # fn load(path: &str) -> Vec<u8> { path.into() }
/// let tls = Tls::new().root_certificate(load("company-ca.der")).server_name("ws.internal");
/// ```
///
/// Nothing is read or checked before the first TLS handshake; what is wrong with the options (no trust roots on the
/// system, a certificate that is none, no crypto provider) is then [`TlsError::Unavailable`].
///
/// The crypto provider is the one given to [`provider`](Self::provider), else `ring` where that feature is on (the
/// default), else `aws-lc-rs` where that one is. rustls's process-wide default is neither read nor set.
///
/// The guide has a [page on TLS](crate::guide::tls).
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

    fn is_default(&self) -> bool {
        let Self { config, provider, roots, extra_roots, identity, server_name } = self;
        config.is_none()
            && provider.is_none()
            && matches!(roots, Roots::Platform)
            && extra_roots.is_empty()
            && identity.is_none()
            && server_name.is_none()
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
                TlsError::unavailable("no crypto provider: neither `ring` nor `aws-lc-rs` is on, none was given")
            })?,
        };
        let verifier = self.verifier(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::unavailable)?
            // Not dangerous: either verifier checks chain and name.
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.identity.as_deref() {
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(TlsError::unavailable)?
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
                    roots.add(root.clone()).map_err(TlsError::unavailable)?;
                }
                let builder =
                    rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
                Ok(builder.build().map_err(TlsError::unavailable)?)
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
    Verifier::new_with_extra_roots(extra.iter().cloned(), Arc::clone(provider)).map_err(TlsError::unavailable)
}

/// Android's verifier takes no further roots.
#[cfg(target_os = "android")]
fn platform_verifier(extra: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
    if !extra.is_empty() {
        return Err(TlsError::unavailable("extra trust roots are not supported on Android: give a `ClientConfig`"));
    }
    Verifier::new(Arc::clone(provider)).map_err(TlsError::unavailable)
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

/// One client's TLS, for adapters: its options, and the configuration made of them at the first handshake and kept, so
/// that a reconnect can resume the session. Clones share both.
///
/// With the default options it holds nothing until it is used: most clients have it, and many dial `ws://` alone.
#[derive(Debug)]
pub struct TlsClient(OnceLock<Arc<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    options: Tls,
    config: OnceLock<Arc<ClientConfig>>,
}

impl TlsClient {
    /// Nothing is loaded yet.
    #[must_use]
    pub fn new(options: Tls) -> Self {
        match options.is_default() {
            true => Self(OnceLock::new()),
            false => Self(Arc::new(Inner { options, config: OnceLock::new() }).into()),
        }
    }

    fn inner(&self) -> &Arc<Inner> {
        self.0.get_or_init(Arc::default)
    }

    /// The name to ask for: that of the options, else the target's.
    ///
    /// # Errors
    ///
    /// [`TlsError::ServerName`].
    pub fn server_name(&self, target: &TlsTarget) -> Result<ServerName<'static>, TlsError> {
        let name = self.inner().options.server_name.as_ref().unwrap_or(&target.server_name);
        ServerName::try_from(name.clone()).map_err(|_| TlsError::ServerName(name.clone()))
    }

    /// The configuration, if it was loaded.
    #[must_use]
    pub fn config(&self) -> Option<Arc<ClientConfig>> {
        self.inner().config.get().cloned()
    }

    /// The configuration. Loading it may read files: it belongs on a thread that may block. What fails is not kept, so
    /// that the next attempt tries again.
    ///
    /// # Errors
    ///
    /// [`TlsError::Unavailable`]: the options do not work here.
    pub fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let loaded = match self.config() {
            Some(config) => config,
            None => self.inner().options.client_config()?,
        };
        Ok(Arc::clone(self.inner().config.get_or_init(|| loaded)))
    }
}

impl Clone for TlsClient {
    fn clone(&self) -> Self {
        Self(self.inner().clone().into())
    }
}

impl TlsError {
    /// What a handshake failed with, by the error of rustls's adapters to async streams: they put rustls's own errors into
    /// an `io::Error`; the others are the transport's.
    #[must_use]
    pub fn of_handshake(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::Handshake(Arc::new(error)),
            Err(error) => Self::Io(Arc::new(error)),
        }
    }
}

impl TlsFacts {
    /// What the handshake of a session agreed on.
    #[must_use]
    pub fn of_session(session: &CommonState) -> Self {
        Self::new(
            session.protocol_version().map(version_name),
            session.alpn_protocol().map(Bytes::copy_from_slice),
            session.peer_certificates().unwrap_or_default().iter().map(|der| Bytes::copy_from_slice(der)).collect(),
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    #[test]
    fn without_a_provider_tls_is_unavailable_and_nothing_panics() {
        assert!(matches!(Tls::new().client_config(), Err(TlsError::Unavailable(_))));
    }

    #[test]
    fn default_options_take_no_room_before_they_are_used() {
        let client = TlsClient::new(Tls::new());
        assert!(client.0.get().is_none());
        let clone = client.clone();
        assert!(Arc::ptr_eq(client.inner(), clone.inner()), "a reconnect can resume the session");
        let named = TlsClient::new(Tls::new().server_name("a"));
        assert_eq!(named.server_name(&TlsTarget::new("b")).unwrap(), ServerName::try_from("a").unwrap());
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
