//! Lists of extensions (RFC 6455, section 9.1) in the lines of a request, read by splitting as well.
//!
//! Promises: the two readings agree; names, parameters and values are tokens; the list, written again with or without quotes, reads
//! the same.

use parley_proto::handshake::{HandshakeError, Request};

/// An extension: its name, and its parameters.
type Named = (String, Vec<(String, Option<String>)>);

/// Checks one input: the values of `Sec-WebSocket-Extensions`, one a line.
///
/// # Panics
///
/// If a promise is broken.
pub fn run(input: &[u8]) {
    let lines: Vec<_> = input.split(|byte| *byte == b'\n').collect();
    let Some(read) = offered(&lines) else { return };
    assert_eq!(read, naive(&lines));
    let Some(list) = read else { return };
    let quoted = |value: &str, [open, escape, close]: [&str; 3]| {
        let chars: String = value.chars().map(|char| format!("{escape}{char}")).collect();
        format!("={open}{chars}{close}")
    };
    for quotes in [["", "", ""], ["\"", "", "\""], ["\"", "\\", "\""]] {
        let params = |params: &[(String, Option<String>)]| -> String {
            let value =
                |value: &Option<String>| value.as_deref().map(|value| quoted(value, quotes)).unwrap_or_default();
            params.iter().map(|(name, given)| format!(";{name}{}", value(given))).collect()
        };
        let line: Vec<_> = list.iter().map(|(name, given)| format!("{name}{}", params(given))).collect();
        assert_eq!(offered(&[line.join(",").as_bytes()]), Some(Some(list.clone())), "{line:?}");
    }
}

/// What a server makes of the lines: outer `None` if no such field can be; inner `None` if it refuses them.
fn offered(lines: &[&[u8]]) -> Option<Option<Vec<Named>>> {
    let mut request = http::Request::get("/")
        .header("host", "a")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    for line in lines {
        request = request.header("sec-websocket-extensions", *line);
    }
    let request = request.body(()).ok()?;
    match Request::from_http(&request) {
        Ok(request) => {
            let params = |(name, value): (&str, Option<&str>)| (name.to_owned(), value.map(str::to_owned));
            Some(Some(
                request.extensions().map(|one| (one.name().to_owned(), one.params().map(params).collect())).collect(),
            ))
        }
        Err(HandshakeError::Malformed(field)) if field == "sec-websocket-extensions" => Some(None),
        Err(error) => panic!("{error}"),
    }
}

fn naive(lines: &[&[u8]]) -> Option<Vec<Named>> {
    let mut list = Vec::new();
    for line in lines {
        // Nothing that is legal has a comma or a semicolon in quotes.
        let line = std::str::from_utf8(line).ok()?;
        for element in line.split(',').map(trim).filter(|element| !element.is_empty()) {
            let mut parts = element.split(';').map(trim);
            let name = token(parts.next()?)?;
            let params = parts.map(|part| match part.split_once('=') {
                None => Some((token(part)?, None)),
                Some((name, value)) => Some((token(trim(name))?, Some(unquoted(trim(value))?))),
            });
            list.push((name, params.collect::<Option<_>>()?));
        }
    }
    if list.is_empty() { None } else { Some(list) }
}

fn trim(part: &str) -> &str {
    part.trim_matches([' ', '\t'])
}

fn token(part: &str) -> Option<String> {
    let separators = "()<>@,;:\\\"/[]?={} \t";
    let legal = |char: char| ('!'..='~').contains(&char) && !separators.contains(char);
    (!part.is_empty() && part.chars().all(legal)).then(|| part.to_owned())
}

fn unquoted(value: &str) -> Option<String> {
    let Some(quoted) = value.strip_prefix('"') else { return token(value) };
    let mut chars = quoted.strip_suffix('"')?.chars();
    let mut value = String::new();
    while let Some(char) = chars.next() {
        value.push(if char == '\\' { chars.next()? } else { char });
    }
    token(&value)
}
