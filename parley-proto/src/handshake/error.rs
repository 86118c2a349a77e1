//! Errors of the opening handshake. The type says who is at fault; none of them carries a secret or a peer's bytes.

use std::fmt;

use http::{HeaderName, StatusCode};

/// The handshake failed. The peer is at fault (for [`Eof`](Self::Eof): the peer or the network).
///
/// A response that merely refuses the upgrade is no such error: see [`Rejected`](super::Rejected).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The head is longer than [`Limits::head`](crate::Limits::head).
    HeadTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The request line is longer than [`Limits::header_line`](crate::Limits::header_line), or than the whole head
    /// may be.
    RequestLineTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A status line or header line is longer than [`Limits::header_line`](crate::Limits::header_line).
    LineTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The head has more fields than [`Limits::headers`](crate::Limits::headers).
    TooManyHeaders {
        /// The limit, in fields.
        limit: usize,
    },
    /// The head breaks the syntax of HTTP/1.1 (RFC 9112).
    Syntax(HeadSyntax),
    /// Not HTTP/1.1. HTTP/1.0 knows no upgrade (RFC 9110, section 7.8).
    HttpVersion,
    /// A request by another method than GET (section 4.1, item 2).
    Method,
    /// A field that the handshake requires is absent.
    Missing(HeaderName),
    /// A field that may appear once appears again.
    Repeated(HeaderName),
    /// A field's value breaks its grammar.
    Malformed(HeaderName),
    /// `Upgrade` without `websocket`, or `Connection` without `upgrade`.
    NotUpgrade(HeaderName),
    /// A request for another version of the protocol than 13 (section 4.4).
    UnsupportedVersion,
    /// A request with a body. What would follow the head are frames.
    RequestBody,
    /// `Sec-WebSocket-Accept` does not answer our key (section 4.1).
    AcceptMismatch,
    /// The server chose a subprotocol that was not offered.
    SubprotocolNotOffered,
    /// The server chose an extension that was not offered.
    ExtensionNotOffered,
    /// More interim (1xx) responses than the four that are passed over.
    TooManyInterimResponses,
    /// The transport ended before the handshake did.
    Eof,
}

/// How a head breaks the syntax of HTTP/1.1 (RFC 9112).
///
/// A lenient reader in front of a strict one is how requests are smuggled, so each of these is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadSyntax {
    /// The first line is no request line or status line.
    StartLine,
    /// The request target is neither a path nor an absolute http(s) URI (RFC 9112, section 3.2).
    Target,
    /// CR without LF.
    BareCr,
    /// LF without CR.
    BareLf,
    /// A control byte: NUL, DEL, or another below 0x20.
    ControlByte(u8),
    /// A header line that continues the one before (obs-fold).
    Fold,
    /// White space between a field's name and its colon.
    SpaceBeforeColon,
    /// A field's name that is no token, or a line without a colon.
    FieldName,
    /// A field's value that cannot be kept.
    FieldValue,
}

impl HandshakeError {
    /// The status with which a server refuses: the one place that decides it.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::RequestLineTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge { .. } | Self::LineTooLong { .. } | Self::TooManyHeaders { .. } => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            // Rather than 400: the usual cause is a proxy that forwards in HTTP/1.0, and 505 tells its operator what
            // to change.
            Self::HttpVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            // Sections 4.2.2 and 4.4.
            Self::NotUpgrade(_) | Self::UnsupportedVersion => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadTooLarge { limit } => write!(f, "the head is longer than {limit} bytes"),
            Self::RequestLineTooLong { limit } => write!(f, "the request line is longer than {limit} bytes"),
            Self::LineTooLong { limit } => write!(f, "a line of the head is longer than {limit} bytes"),
            Self::TooManyHeaders { limit } => write!(f, "the head has more than {limit} fields"),
            Self::Syntax(syntax) => write!(f, "the head is malformed: {syntax}"),
            Self::HttpVersion => f.write_str("HTTP/1.1 is required"),
            Self::Method => f.write_str("the method is not GET"),
            Self::Missing(name) => write!(f, "the field `{name}` is missing"),
            Self::Repeated(name) => write!(f, "the field `{name}` is repeated"),
            Self::Malformed(name) => write!(f, "the field `{name}` is malformed"),
            Self::NotUpgrade(name) => write!(f, "the field `{name}` does not ask for an upgrade to websocket"),
            Self::UnsupportedVersion => f.write_str("the version of the WebSocket protocol is not 13"),
            Self::RequestBody => f.write_str("the request has a body"),
            Self::AcceptMismatch => f.write_str("the field `sec-websocket-accept` does not answer the key"),
            Self::SubprotocolNotOffered => f.write_str("the server chose a subprotocol that was not offered"),
            Self::ExtensionNotOffered => f.write_str("the server chose an extension that was not offered"),
            Self::TooManyInterimResponses => f.write_str("too many interim responses"),
            Self::Eof => f.write_str("the transport ended during the opening handshake"),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl fmt::Display for HeadSyntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartLine => f.write_str("bad first line"),
            Self::Target => f.write_str("bad request target"),
            Self::BareCr => f.write_str("CR without LF"),
            Self::BareLf => f.write_str("LF without CR"),
            Self::ControlByte(byte) => write!(f, "control byte {byte:#04x}"),
            Self::Fold => f.write_str("folded header line"),
            Self::SpaceBeforeColon => f.write_str("white space before a colon"),
            Self::FieldName => f.write_str("bad field name"),
            Self::FieldValue => f.write_str("bad field value"),
        }
    }
}

/// A URL that no connection can be opened to (RFC 6455, section 3). The application is at fault.
///
/// It names the part and the reason, and never quotes the URL, which may hold a password or a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UrlError {
    /// A fragment (`#…`), which a ws URI must not have. Percent-encode a `#` that is meant as data.
    Fragment,
    /// No `ws://` or `wss://` in front.
    MissingScheme,
    /// A scheme other than `ws` and `wss`.
    UnsupportedScheme,
    /// No host.
    EmptyHost,
    /// A host that is not ASCII. Pass its punycode form (`xn--…`).
    HostNotAscii,
    /// Brackets without an IPv6 address in them, or an IPv6 address without brackets.
    Ipv6,
    /// A port that is not a number from 1 to 65,535.
    Port,
    /// User info with a bad percent-encoding, an encoded control character, an encoded colon in the user's name, or
    /// an `@` that is not encoded.
    UserInfo,
    /// A space, a control character, or another one that this part cannot have.
    ForbiddenCharacter(UrlPart),
}

/// A part of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UrlPart {
    /// `wss`.
    Scheme,
    /// `user:password`.
    UserInfo,
    /// The host.
    Host,
    /// The port.
    Port,
    /// Path and query: the resource name of section 3.
    Resource,
    /// What follows a `#`.
    Fragment,
}

impl UrlError {
    /// The part of the URL that is wrong.
    #[must_use]
    pub fn part(&self) -> UrlPart {
        match self {
            Self::Fragment => UrlPart::Fragment,
            Self::MissingScheme | Self::UnsupportedScheme => UrlPart::Scheme,
            Self::EmptyHost | Self::HostNotAscii | Self::Ipv6 => UrlPart::Host,
            Self::Port => UrlPart::Port,
            Self::UserInfo => UrlPart::UserInfo,
            Self::ForbiddenCharacter(part) => *part,
        }
    }
}

impl fmt::Display for UrlPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "scheme",
            Self::UserInfo => "user info",
            Self::Host => "host",
            Self::Port => "port",
            Self::Resource => "path or query",
            Self::Fragment => "fragment",
        })
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad {} in URL: ", self.part())?;
        f.write_str(match self {
            Self::Fragment => "a WebSocket URL has none",
            Self::MissingScheme => "`ws://` or `wss://` is missing",
            Self::UnsupportedScheme => "it has to be `ws` or `wss`",
            Self::EmptyHost => "it is empty",
            Self::HostNotAscii => "it is not ASCII",
            Self::Ipv6 => "an IPv6 address is written in brackets",
            Self::Port => "it has to be a number from 1 to 65535",
            Self::UserInfo => "it cannot be sent as basic credentials, or an `@` in it is not percent-encoded",
            Self::ForbiddenCharacter(_) => "a character is not allowed there",
        })
    }
}

impl std::error::Error for UrlError {}

/// A header field that cannot be added to a request or reply. The application is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// The name is no token (RFC 9110, section 5.1).
    Name,
    /// The value of this field has a line break or another byte that it cannot have.
    Value(HeaderName),
    /// The handshake sets this field itself, or it would break the message's framing.
    Reserved(HeaderName),
    /// This field can be set once.
    Repeated(HeaderName),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("bad name of a header field"),
            Self::Value(name) => write!(f, "bad value for the header field `{name}`"),
            Self::Reserved(name) => write!(f, "the header field `{name}` belongs to the handshake"),
            Self::Repeated(name) => write!(f, "the header field `{name}` can be set once"),
        }
    }
}

impl std::error::Error for HeaderError {}

/// A subprotocol that cannot be offered (RFC 6455, section 4.1, item 10). The application is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubprotocolError {
    /// The name is empty or no token: letters, digits and ``!#$%&'*+-.^_`|~``.
    NotAToken,
    /// The name is offered already.
    Repeated,
}

impl fmt::Display for SubprotocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAToken => "the name of a subprotocol has to be a token",
            Self::Repeated => "the subprotocol is offered already",
        })
    }
}

impl std::error::Error for SubprotocolError {}

/// A call that does not fit the state of the handshake or the request. The application is at fault; the connection
/// is unharmed, and another call may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ApiMisuse {
    /// No request waits for an answer: none has come yet, or it was answered.
    NoRequest,
    /// The client did not offer that subprotocol.
    SubprotocolNotOffered,
    /// The status is not 3xx, 4xx or 5xx, so it rejects nothing.
    RejectionStatus(StatusCode),
}

impl fmt::Display for ApiMisuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRequest => f.write_str("no request waits for an answer"),
            Self::SubprotocolNotOffered => f.write_str("the client did not offer that subprotocol"),
            Self::RejectionStatus(status) => write!(f, "a request cannot be rejected with {}", status.as_str()),
        }
    }
}

impl std::error::Error for ApiMisuse {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_a_request_has_its_status() {
        for (error, status) in [
            (HandshakeError::RequestLineTooLong { limit: 1 }, 414),
            (HandshakeError::HeadTooLarge { limit: 1 }, 431),
            (HandshakeError::LineTooLong { limit: 1 }, 431),
            (HandshakeError::TooManyHeaders { limit: 1 }, 431),
            (HandshakeError::HttpVersion, 505),
            (HandshakeError::Method, 405),
            (HandshakeError::UnsupportedVersion, 426),
            (HandshakeError::NotUpgrade(http::header::UPGRADE), 426),
            (HandshakeError::Missing(http::header::HOST), 400),
            (HandshakeError::Syntax(HeadSyntax::BareLf), 400),
        ] {
            assert_eq!(error.status().as_u16(), status, "{error}");
        }
    }

    #[test]
    fn an_error_names_the_part_of_the_url() {
        assert_eq!(
            UrlError::ForbiddenCharacter(UrlPart::Host).to_string(),
            "bad host in URL: a character is not allowed there"
        );
    }
}
