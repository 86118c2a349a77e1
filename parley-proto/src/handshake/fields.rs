//! Header fields that an application adds to a request or reply, in its order.
//!
//! A [`HeaderValue`] cannot hold a line break, so no field built here can become two (RFC 9112, section 11.1).

use std::fmt;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::error::HeaderError;

/// Fields in the order in which they were added.
#[derive(Clone, Default)]
pub(crate) struct Fields(Vec<(HeaderName, HeaderValue)>);

/// With the mark of what is to be kept secret, which values leave out of account: one is not to stand for the other.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        let secrets = |fields: &Self| fields.iter().map(|(_, value)| value.is_sensitive()).collect::<Vec<_>>();
        self.0 == other.0 && secrets(self) == secrets(other)
    }
}

impl Eq for Fields {}

impl Fields {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Replaces the first field of that name, in its place, and removes the others; adds it when there is none.
    pub(crate) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        let mut value = Some(value);
        self.0.retain_mut(|field| {
            if field.0 != name {
                return true;
            }
            value.take().is_some_and(|value| {
                field.1 = value;
                true
            })
        });
        if let Some(value) = value {
            self.0.push((name, value));
        }
    }

    pub(crate) fn remove(&mut self, name: &HeaderName) {
        self.0.retain(|field| field.0 != name);
    }

    pub(crate) fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.0.iter().find(|field| field.0 == name).map(|field| &field.1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, Shown::new(name, value)))).finish()
    }
}

/// Makes a field of what an application passes.
pub(crate) fn field<N, V>(name: N, value: V) -> Result<(HeaderName, HeaderValue), HeaderError>
where
    N: TryInto<HeaderName>,
    V: TryInto<HeaderValue>,
{
    let name = name.try_into().map_err(|_| HeaderError::Name)?;
    if is_reserved(&name) {
        return Err(HeaderError::Reserved(name));
    }
    let Ok(mut value) = value.try_into() else { return Err(HeaderError::Value(name)) };
    if is_secret(&name) {
        value.set_sensitive(true);
    }
    Ok((name, value))
}

/// Fields that the handshake sets, and those that change where a message ends or what its connection is.
pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: [HeaderName; 7] = [
        header::CONNECTION,
        header::UPGRADE,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TRAILER,
        header::TE,
        header::EXPECT,
    ];
    RESERVED.contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
        || name.as_str().starts_with("sec-websocket-")
}

/// Fields whose values are kept out of `Debug`.
pub(crate) fn is_secret(name: &HeaderName) -> bool {
    const SECRET: [HeaderName; 4] =
        [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE];
    SECRET.contains(name)
}

/// A field's value as `Debug` shows it.
enum Shown<'a> {
    Value(&'a HeaderValue),
    Secret,
}

impl<'a> Shown<'a> {
    fn new(name: &HeaderName, value: &'a HeaderValue) -> Self {
        if value.is_sensitive() || is_secret(name) { Self::Secret } else { Self::Value(value) }
    }
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Secret => f.write_str("<redacted>"),
        }
    }
}

/// A header map whose `Debug` keeps secrets.
pub(crate) struct Redacted<'a>(pub(crate) &'a HeaderMap);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, Shown::new(name, value)))).finish()
    }
}

/// A resource name whose `Debug` keeps the query.
pub(crate) struct RedactedQuery<'a>(pub(crate) &'a str);

impl fmt::Debug for RedactedQuery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once('?') {
            Some((path, _)) => write!(f, "\"{path}?<redacted>\""),
            None => self.0.fmt(f),
        }
    }
}

/// Appends one line of a head.
pub(crate) fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_handshake_are_reserved_in_any_case() {
        for name in [
            "Connection",
            "UPGRADE",
            "Sec-WebSocket-Key",
            "sec-websocket-anything",
            "content-length",
            "Transfer-Encoding",
            "Keep-Alive",
            "TE",
        ] {
            assert!(matches!(field(name, "x"), Err(HeaderError::Reserved(_))), "{name}");
        }
        assert!(field("x-connection", "x").is_ok());
    }

    #[test]
    fn a_line_break_cannot_be_built() {
        for value in ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "\r\n"] {
            assert!(matches!(field("x", value), Err(HeaderError::Value(_))), "{value:?}");
        }
        for name in ["", "a b", "a:b", "a\r\nb", "é", "a\0"] {
            assert_eq!(field(name, "x").unwrap_err(), HeaderError::Name, "{name:?}");
        }
    }

    #[test]
    fn set_replaces_in_place() {
        let mut fields = Fields::default();
        for (name, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            let (name, value) = field(name, value).unwrap();
            fields.add(name, value);
        }
        let (name, value) = field("a", "4").unwrap();
        fields.set(name, value);
        let list: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(list, [("a", "4"), ("b", "2")]);
    }
}
