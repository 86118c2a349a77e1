//! ws and wss URIs: RFC 6455, section 3; RFC 3986. The same host grammar reads the `Host` field.

use core::net::Ipv6Addr;
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::error::{UrlError, UrlPart};

/// A parsed URL. No part of it can hold a line break or a space.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) secure: bool,
    pub(crate) port: u16,
    /// The host is an IPv6 address.
    ipv6: bool,
    /// In one piece, since a client keeps it for as long as it lives.
    ///
    /// ```text
    /// host | resource
    ///      host_len
    /// ```
    text: Box<str>,
    host_len: usize,
    /// `Basic …`, made of the user info. Boxed: few have it.
    pub(crate) authorization: Option<Box<HeaderValue>>,
}

/// A registered name or IPv4 address in lower case, or an IPv6 address without its brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Name(String),
    Ipv6(String),
}

impl Url {
    pub(crate) fn parse(url: &str) -> Result<Self, UrlError> {
        // "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be used."
        if url.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::MissingScheme)?;
        let secure = match scheme {
            _ if scheme.eq_ignore_ascii_case("ws") => false,
            _ if scheme.eq_ignore_ascii_case("wss") => true,
            "" => return Err(UrlError::MissingScheme),
            _ if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
                return Err(UrlError::UnsupportedScheme);
            }
            _ => return Err(UrlError::ForbiddenCharacter(UrlPart::Scheme)),
        };
        let (authority, resource) = match rest.find(['/', '?']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let (user_info, authority) = match authority.rsplit_once('@') {
            Some((user_info, authority)) => (Some(user_info), authority),
            None => (None, authority),
        };
        let authorization = user_info.map(basic).transpose()?.flatten();
        let (host, port) = host_and_port(authority)?;
        let (ipv6, mut text) = match host {
            Host::Name(name) => (false, name),
            Host::Ipv6(address) => (true, address),
        };
        let host_len = text.len();
        text.push_str(&encode_resource(resource)?);
        Ok(Self {
            secure,
            port: port.unwrap_or(if secure { 443 } else { 80 }),
            ipv6,
            text: text.into(),
            host_len,
            authorization: authorization.map(Box::new),
        })
    }

    /// A registered name or IPv4 address in lower case, or an IPv6 address without its brackets.
    pub(crate) fn host(&self) -> &str {
        &self.text[..self.host_len]
    }

    /// Path and query, never empty: the resource name of section 3.
    pub(crate) fn resource(&self) -> &str {
        &self.text[self.host_len..]
    }

    /// The value of `Host`: the port only when it is not the scheme's own (section 4.1, item 4).
    pub(crate) fn host_field(&self) -> String {
        let mut field = if self.ipv6 { format!("[{}]", self.host()) } else { self.host().to_owned() };
        if self.port != if self.secure { 443 } else { 80 } {
            let _ = write!(field, ":{}", self.port);
        }
        field
    }
}

impl Host {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Name(host) | Self::Ipv6(host) => host,
        }
    }
}

/// `host [ ":" port ]`, an empty port being none (RFC 3986, section 3.2.3).
pub(crate) fn host_and_port(authority: &str) -> Result<(Host, Option<u16>), UrlError> {
    if !authority.is_ascii() {
        return Err(UrlError::HostNotAscii);
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(UrlError::Ipv6)?;
        let address: Ipv6Addr = address.parse().map_err(|_| UrlError::Ipv6)?;
        let port = match port.strip_prefix(':') {
            Some(port) => port,
            None if port.is_empty() => "",
            None => return Err(UrlError::Ipv6),
        };
        (Host::Ipv6(address.to_string()), port)
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        if host.is_empty() && !port.contains(':') {
            return Err(UrlError::EmptyHost);
        }
        if port.contains(':') {
            return Err(UrlError::Ipv6);
        }
        if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
            return Err(UrlError::ForbiddenCharacter(UrlPart::Host));
        }
        (Host::Name(host.to_ascii_lowercase()), port)
    };
    Ok((host, parse_port(port)?))
}

fn parse_port(port: &str) -> Result<Option<u16>, UrlError> {
    if port.is_empty() {
        return Ok(None);
    }
    // `parse` alone would let a sign through.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::Port);
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(UrlError::Port),
        Ok(port) => Ok(Some(port)),
    }
}

/// The path and query as they go on the request line: `/` in front, what RFC 3986 does not allow percent-encoded.
fn encode_resource(resource: &str) -> Result<String, UrlError> {
    let mut out = String::with_capacity(resource.len() + 1);
    if !resource.starts_with('/') {
        out.push('/');
    }
    for char in resource.chars() {
        match char {
            '\0'..=' ' | '\x7f' => return Err(UrlError::ForbiddenCharacter(UrlPart::Resource)),
            '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' | '\u{80}'.. => {
                for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "%{byte:02X}");
                }
            }
            _ => out.push(char),
        }
    }
    Ok(out)
}

/// `Basic` credentials (RFC 7617) of `user[:password]`; none of an empty user info.
fn basic(user_info: &str) -> Result<Option<HeaderValue>, UrlError> {
    if user_info.is_empty() {
        return Ok(None);
    }
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let mut credentials = percent_decode(user)?;
    // The colon ends the user's name, so the name cannot hold one.
    if credentials.contains(&b':') {
        return Err(UrlError::UserInfo);
    }
    credentials.push(b':');
    credentials.extend(percent_decode(password)?);
    let mut value =
        HeaderValue::try_from(format!("Basic {}", STANDARD.encode(credentials))).map_err(|_| UrlError::UserInfo)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn percent_decode(part: &str) -> Result<Vec<u8>, UrlError> {
    let mut out = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            0..=b' ' | 0x7f => return Err(UrlError::ForbiddenCharacter(UrlPart::UserInfo)),
            b'@' => return Err(UrlError::UserInfo),
            b'%' => match (bytes.next().and_then(hex_digit), bytes.next().and_then(hex_digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(UrlError::UserInfo),
            },
            byte => byte,
        };
        // "The user-id and password MUST NOT contain any control characters": RFC 7617, section 2.
        if byte.is_ascii_control() {
            return Err(UrlError::UserInfo);
        }
        out.push(byte);
    }
    Ok(out)
}

/// The value of a hexadecimal digit.
pub(crate) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(url: &str) -> Url {
        Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn ports_and_paths_have_defaults() {
        for (text, secure, host, port, resource, field) in [
            ("ws://example.com", false, "example.com", 80, "/", "example.com"),
            ("wss://example.com", true, "example.com", 443, "/", "example.com"),
            ("WSS://Example.COM/Chat?a=B", true, "example.com", 443, "/Chat?a=B", "example.com"),
            ("ws://example.com:443/", false, "example.com", 443, "/", "example.com:443"),
            ("wss://example.com:443/", true, "example.com", 443, "/", "example.com"),
            ("wss://example.com:80/", true, "example.com", 80, "/", "example.com:80"),
            ("ws://example.com:/", false, "example.com", 80, "/", "example.com"),
            ("ws://example.com?q", false, "example.com", 80, "/?q", "example.com"),
            ("ws://example.com?q=a/b?c@d:e", false, "example.com", 80, "/?q=a/b?c@d:e", "example.com"),
            ("ws://10.0.0.1:8080/a//b", false, "10.0.0.1", 8080, "/a//b", "10.0.0.1:8080"),
            ("ws://[::1]", false, "::1", 80, "/", "[::1]"),
            ("wss://[2001:DB8::1]:9000/x", true, "2001:db8::1", 9000, "/x", "[2001:db8::1]:9000"),
        ] {
            let url = url(text);
            assert_eq!(
                (url.secure, url.host(), url.port, url.resource(), url.host_field().as_str()),
                (secure, host, port, resource, field),
                "{text}"
            );
        }
    }

    #[test]
    fn what_a_uri_cannot_hold_is_percent_encoded() {
        assert_eq!(url("ws://a/é?q={\"x\"}|%zz").resource(), "/%C3%A9?q=%7B%22x%22%7D%7C%zz");
    }

    #[test]
    fn errors_name_the_part() {
        use UrlError::*;
        for (text, error) in [
            ("ws://a/#", Fragment),
            ("http://a b/#x", Fragment),
            ("", MissingScheme),
            ("example.com", MissingScheme),
            ("://a", MissingScheme),
            ("ws:a", MissingScheme),
            ("ws:/a", MissingScheme),
            ("http://a", UnsupportedScheme),
            ("https://a", UnsupportedScheme),
            ("wsss://a", UnsupportedScheme),
            (" ws://a", ForbiddenCharacter(UrlPart::Scheme)),
            ("ws://", EmptyHost),
            ("ws:///a", EmptyHost),
            ("ws://?a", EmptyHost),
            ("ws://:80", EmptyHost),
            ("ws://u:p@/", EmptyHost),
            ("ws://münchen.de", HostNotAscii),
            ("ws://a b", ForbiddenCharacter(UrlPart::Host)),
            ("ws://a\r\nb", ForbiddenCharacter(UrlPart::Host)),
            ("ws://a\\b", ForbiddenCharacter(UrlPart::Host)),
            ("ws://a%20b", ForbiddenCharacter(UrlPart::Host)),
            ("ws://::1", Ipv6),
            ("ws://[::1", Ipv6),
            ("ws://[::1]x", Ipv6),
            ("ws://[fe80::1%25eth0]", Ipv6),
            ("ws://[a]", Ipv6),
            ("ws://[]", Ipv6),
            ("ws://a:0", Port),
            ("ws://a:65536", Port),
            ("ws://a:+80", Port),
            ("ws://a:8 0", Port),
            ("ws://a:x", Port),
            ("ws://[::1]:x", Port),
            ("ws://u%@a", UserInfo),
            ("ws://u%4@a", UserInfo),
            ("ws://u%zz@a", UserInfo),
            ("ws://u%0d%0a@a", UserInfo),
            ("ws://u%3a:p@a", UserInfo),
            ("ws://u@b@a", UserInfo),
            ("ws://u s:p@a", ForbiddenCharacter(UrlPart::UserInfo)),
            ("ws://a/b c", ForbiddenCharacter(UrlPart::Resource)),
            ("ws://a/b\r\nc: d", ForbiddenCharacter(UrlPart::Resource)),
            ("ws://a/\0", ForbiddenCharacter(UrlPart::Resource)),
            ("ws://a?\t", ForbiddenCharacter(UrlPart::Resource)),
            ("ws://a/\x7f", ForbiddenCharacter(UrlPart::Resource)),
        ] {
            assert_eq!(Url::parse(text).err(), Some(error), "{text:?}");
        }
    }

    #[test]
    fn user_info_becomes_basic_credentials() {
        for (text, credentials) in [
            ("ws://user:pass@a", Some("user:pass")),
            ("ws://user@a", Some("user:")),
            ("ws://:pass@a", Some(":pass")),
            ("ws://us%40er:p%3Aa:ss@a", Some("us@er:p:a:ss")),
            ("ws://@a", None),
            ("ws://a/x@y", None),
        ] {
            let wanted = credentials.map(|credentials| format!("Basic {}", STANDARD.encode(credentials)));
            let got = url(text).authorization;
            assert_eq!(got.as_ref().map(|value| value.to_str().unwrap()), wanted.as_deref(), "{text}");
            assert!(got.is_none_or(|value| value.is_sensitive()));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_url_panics_or_puts_a_break_on_the_request_line(text in "(ws://|wss://)?\\PC*|ws://a/[ -~\r\n\t]*|[^a]*") {
            if let Ok(url) = Url::parse(&text) {
                assert!(url.resource().starts_with('/'));
                assert!(url.resource().bytes().all(|byte| byte.is_ascii_graphic()));
                assert!(url.host_field().bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
