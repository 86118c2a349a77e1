//! Lists of tokens: RFC 6455, section 4.3; RFC 9110, sections 5.6.1 and 5.6.2.
//!
//! One pass over each line. Lines of a repeated field count as one list, and no element spans two of them.

use http::HeaderValue;

/// A list breaks its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Whether `byte` may stand in a token.
pub(crate) fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `value` is a token: not empty, and nothing but token characters.
pub(crate) fn is_token(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|&byte| is_tchar(byte))
}

/// The elements of a comma list of tokens. Empty elements are skipped, as RFC 9110, section 5.6.1.2 requires.
pub(crate) fn tokens(line: &[u8]) -> impl Iterator<Item = Result<&str, Malformed>> {
    elements(line).map(|element| if is_token(element) { as_str(element) } else { Err(Malformed) })
}

/// Whether the list has `wanted`, in any case. One malformed element spoils the list.
pub(crate) fn contains_token<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
    wanted: &str,
) -> Result<bool, Malformed> {
    let mut found = false;
    for token in lines.into_iter().flat_map(|line| tokens(line.as_bytes())) {
        found |= token?.eq_ignore_ascii_case(wanted);
    }
    Ok(found)
}

/// The same for the elements of `Upgrade`, which may have a version: `token ["/" token]` (RFC 9110, section 7.8).
pub(crate) fn contains_protocol<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
    wanted: &str,
) -> Result<bool, Malformed> {
    let mut found = false;
    for element in lines.into_iter().flat_map(|line| elements(line.as_bytes())) {
        if !element.splitn(2, |&byte| byte == b'/').all(is_token) {
            return Err(Malformed);
        }
        found |= element.eq_ignore_ascii_case(wanted.as_bytes());
    }
    Ok(found)
}

fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// `value` without the optional white space around it: spaces and tabs.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

pub(crate) fn as_str(value: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(value).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<const N: usize>(lines: [&'static str; N]) -> [HeaderValue; N] {
        lines.map(HeaderValue::from_static)
    }

    #[test]
    fn a_token_is_found_in_any_case_and_on_any_line() {
        for found in [
            &lines(["upgrade"])[..],
            &lines(["Upgrade"]),
            &lines(["keep-alive, Upgrade"]),
            &lines([" ,\tkeep-alive ,, UPGRADE\t, "]),
            &lines(["keep-alive", "upgrade"]),
        ] {
            assert_eq!(contains_token(found, "upgrade"), Ok(true), "{found:?}");
        }
    }

    #[test]
    fn hazard_4_a_substring_is_no_token() {
        for absent in [
            &lines(["upgraded"])[..],
            &lines(["no-upgrade"]),
            &lines(["up", "grade"]),
            &lines([""]),
            &lines([]),
            &lines([",,,"]),
        ] {
            assert_eq!(contains_token(absent, "upgrade"), Ok(false), "{absent:?}");
        }
    }

    #[test]
    fn one_bad_element_spoils_the_list() {
        for bad in ["upgrade, a b", "upgrade, \"a\"", "upgrade; q=1", "up\tgrade", "upgrade, a/b"] {
            assert_eq!(contains_token(&lines([bad]), "upgrade"), Err(Malformed), "{bad}");
        }
        let latin = HeaderValue::from_bytes(b"upgrade, \xe9").unwrap();
        assert_eq!(contains_token([&latin], "upgrade"), Err(Malformed));
    }

    #[test]
    fn a_long_list_costs_its_length() {
        for element in [",", " ", "a,", " , "] {
            let line = HeaderValue::try_from(element.repeat(1 << 19)).unwrap();
            assert_eq!(contains_token([&line], "b"), Ok(false));
        }
    }

    #[test]
    fn an_upgrade_element_may_have_a_version() {
        assert_eq!(contains_protocol(&lines(["h2c, IRC/6.9, WebSocket"]), "websocket"), Ok(true));
        assert_eq!(contains_protocol(&lines(["websocket/13"]), "websocket"), Ok(false));
        for bad in ["websocket, a/b/c", "websocket, /a", "websocket, a/", "web socket"] {
            assert_eq!(contains_protocol(&lines([bad]), "websocket"), Err(Malformed), "{bad}");
        }
    }
}
