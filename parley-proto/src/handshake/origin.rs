//! Which pages may open a connection: RFC 6455, section 10.2, and RFC 6454.

use std::fmt;

use super::server::Request;
use super::url::host_and_port;

/// Which origins a server welcomes. There is no default: a browser lets any page open a connection to any server, and
/// sends the user's cookies along, also to a server on loopback.
///
/// A request without `Origin` comes from no browser, and passes unless [`required`](Self::required): whoever can leave it
/// out can also forge it.
///
/// ```
/// use parley_proto::handshake::Origins;
///
/// let ours = Origins::list(["https://example.com", "https://www.example.com:8443"])?;
/// let own_pages_only = Origins::same_host().required();
/// # Ok::<(), parley_proto::handshake::OriginError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    welcome: Welcome,
    required: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Welcome {
    Any,
    SameHost,
    List(Vec<Origin>),
}

/// Scheme, host and port (RFC 6454, section 4), in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// What is listed is no origin: `scheme://host`, with a port unless it is the scheme's own, and nothing behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginError(String);

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not an origin such as `https://example.com`", self.0)
    }
}

impl std::error::Error for OriginError {}

impl Origins {
    /// Every page of every site. For what is public anyway, and where no cookie or address is a credential.
    #[must_use]
    pub const fn any() -> Self {
        Self { welcome: Welcome::Any, required: false }
    }

    /// Pages from the very host (and port) that the request is for, over either scheme. Behind a proxy that changes
    /// `Host` it refuses all; [`list`](Self::list) them instead.
    #[must_use]
    pub const fn same_host() -> Self {
        Self { welcome: Welcome::SameHost, required: false }
    }

    /// These origins, such as `https://example.com`. `null`, which sandboxed pages and files send, is not among them.
    ///
    /// # Errors
    ///
    /// One of them is no origin: it has a path, say.
    pub fn list<'a>(origins: impl IntoIterator<Item = &'a str>) -> Result<Self, OriginError> {
        let parse = |text: &str| Origin::parse(text).ok_or_else(|| OriginError(text.to_owned()));
        Ok(Self { welcome: Welcome::List(origins.into_iter().map(parse).collect::<Result<_, _>>()?), required: false })
    }

    /// The same, and a request without `Origin` is refused.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Whether a request is welcome.
    #[must_use]
    pub fn allow(&self, request: &Request) -> bool {
        let Some(origin) = request.origin() else { return !self.required };
        match &self.welcome {
            Welcome::Any => true,
            Welcome::SameHost => Origin::parse(origin).is_some_and(|origin| origin.is_at(request.host())),
            Welcome::List(list) => Origin::parse(origin).is_some_and(|origin| list.contains(&origin)),
        }
    }
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let first = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        let rest = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !first || !rest {
            return None;
        }
        let (host, port) = host_and_port(authority).ok()?;
        let scheme = scheme.to_ascii_lowercase();
        let port = port.or_else(|| default_port(&scheme));
        Some(Self { scheme, host: host.as_str().to_owned(), port })
    }

    /// Whether `authority`, a request's `Host`, names this host and port: its port is the scheme's own if it has none.
    /// An origin of another scheme than the web's is nowhere.
    fn is_at(&self, authority: &str) -> bool {
        let Some(own) = default_port(&self.scheme) else { return false };
        host_and_port(authority)
            .is_ok_and(|(host, port)| host.as_str() == self.host && port.unwrap_or(own) == self.port.unwrap_or(own))
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::handshake::ServerHandshake;
    use bytes::BytesMut;

    fn request(host: &str, origin: Option<&str>) -> Request {
        let origin = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
        let head = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{origin}\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let mut input = BytesMut::from(head.as_bytes());
        ServerHandshake::new(&Limits::server()).handle_input(&mut input).unwrap().unwrap()
    }

    #[test]
    fn hazard_21_a_list_is_matched_by_scheme_host_and_port() {
        let origins = Origins::list(["https://example.com", "http://[::1]:8080"]).unwrap();
        for (origin, welcome) in [
            ("https://example.com", true),
            ("HTTPS://Example.COM:443", true),
            ("http://example.com", false),
            ("https://example.com:444", false),
            ("https://example.com.evil.example", false),
            ("https://evil-example.com", false),
            ("https://example.com/", false),
            ("https://user@example.com", false),
            ("http://[::1]:8080", true),
            ("http://[::1]", false),
            ("null", false),
            ("", false),
            ("https://", false),
        ] {
            assert_eq!(origins.allow(&request("a", Some(origin))), welcome, "{origin}");
        }
    }

    #[test]
    fn same_host_goes_by_the_host_that_is_asked_for() {
        for (host, origin, welcome) in [
            ("example.com", "https://example.com", true),
            ("example.com", "http://example.com", true),
            ("example.com:443", "https://example.com", true),
            ("EXAMPLE.com:8080", "http://example.com:8080", true),
            ("example.com:8080", "http://example.com", false),
            ("example.com", "http://example.com:8080", false),
            ("example.com", "https://www.example.com", false),
            ("[::1]:9000", "http://[::1]:9000", true),
            ("example.com", "null", false),
            ("example.com", "chrome-extension://example.com", false),
        ] {
            assert_eq!(Origins::same_host().allow(&request(host, Some(origin))), welcome, "{host} {origin}");
        }
    }

    #[test]
    fn a_request_without_origin_passes_unless_one_is_required() {
        for origins in [Origins::any(), Origins::same_host(), Origins::list([]).unwrap()] {
            assert!(origins.allow(&request("a", None)));
            assert!(!origins.clone().required().allow(&request("a", None)));
        }
        assert!(Origins::any().required().allow(&request("a", Some("null"))));
    }

    #[test]
    fn what_is_listed_has_to_be_an_origin() {
        for text in ["example.com", "https://example.com/", "https://example.com/a", "*", "null", "https://", "://a"] {
            assert_eq!(Origins::list([text]), Err(OriginError(text.to_owned())));
        }
    }
}
