//! Lists of extensions: RFC 6455, section 9.1.
//!
//! ```text
//! extension-list  = 1#extension
//! extension       = extension-token *( ";" extension-param )
//! extension-param = token [ "=" (token | quoted-string) ]   ; what is quoted is a token, too
//! ```

use super::tokens::{Malformed, as_str, is_tchar, is_token};

/// An extension with its parameters, as offered or chosen (RFC 6455, section 9.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Extension {
    name: String,
    params: Vec<(String, Option<String>)>,
}

impl Extension {
    /// Its name, for example `permessage-deflate`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its parameters in order. A value that was quoted comes without its quotes.
    pub fn params(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.params.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
    }
}

/// Reads the extensions of one line; ends after the first that is malformed.
///
/// Extensions come one at a time, so that a hostile list costs no more memory than its longest element.
#[derive(Clone, Debug)]
pub(crate) struct Extensions<'a> {
    rest: &'a [u8],
}

/// The extensions of one line.
pub(crate) fn extensions(line: &[u8]) -> Extensions<'_> {
    Extensions { rest: line }
}

impl Iterator for Extensions<'_> {
    type Item = Result<Extension, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        while let [b',' | b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return None;
        }
        let extension = self.extension();
        if extension.is_err() {
            self.rest = &[];
        }
        Some(extension)
    }
}

impl<'a> Extensions<'a> {
    fn extension(&mut self) -> Result<Extension, Malformed> {
        let name = self.token()?.to_owned();
        let mut params = Vec::new();
        while self.eat(b';') {
            let name = self.token()?.to_owned();
            let value = if self.eat(b'=') { Some(self.value()?) } else { None };
            params.push((name, value));
        }
        match self.rest {
            [] | [b',', ..] => Ok(Extension { name, params }),
            _ => Err(Malformed),
        }
    }

    fn value(&mut self) -> Result<String, Malformed> {
        if !self.eat(b'"') {
            return Ok(self.token()?.to_owned());
        }
        let mut value = Vec::new();
        loop {
            match self.rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    break;
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] if is_tchar(*byte) => {
                    value.push(*byte);
                    self.rest = rest;
                }
                _ => return Err(Malformed),
            }
        }
        self.skip_space();
        // "The value after quoted-string unescaping MUST conform to the 'token' ABNF."
        if is_token(&value) { String::from_utf8(value).map_err(|_| Malformed) } else { Err(Malformed) }
    }

    fn token(&mut self) -> Result<&'a str, Malformed> {
        let end = self.rest.iter().position(|&byte| !is_tchar(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at_checked(end).ok_or(Malformed)?;
        self.rest = rest;
        self.skip_space();
        if token.is_empty() { Err(Malformed) } else { as_str(token) }
    }

    fn eat(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                // No space is skipped inside quotes.
                if byte != b'"' {
                    self.skip_space();
                }
                true
            }
            _ => false,
        }
    }

    /// The grammar has RFC 2616's implied white space between any two words.
    fn skip_space(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Vec<Extension>, Malformed> {
        extensions(line.as_bytes()).collect()
    }

    fn extension(name: &str, params: &[(&str, Option<&str>)]) -> Extension {
        Extension {
            name: name.to_owned(),
            params: params.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect(),
        }
    }

    #[test]
    fn the_examples_of_section_9_1() {
        assert_eq!(parse("deflate-stream"), Ok(vec![extension("deflate-stream", &[])]));
        assert_eq!(
            parse("mux; max-channels=4; flow-control, deflate-stream"),
            Ok(vec![
                extension("mux", &[("max-channels", Some("4")), ("flow-control", None)]),
                extension("deflate-stream", &[])
            ])
        );
        assert_eq!(parse("private-extension"), Ok(vec![extension("private-extension", &[])]));
    }

    #[test]
    fn quotes_and_escapes_are_taken_off() {
        let wanted = Ok(vec![extension("a", &[("b", Some("10")), ("c", None)])]);
        for line in ["a;b=10;c", "a;b=\"10\";c", "a;b=\"1\\0\";c", "a ; b = \"10\" ; c", ", ,a\t;\tb=10;c , ,"] {
            assert_eq!(parse(line), wanted, "{line}");
        }
    }

    #[test]
    fn empty_elements_are_skipped() {
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(parse(" , ,\t"), Ok(vec![]));
        assert_eq!(parse(",a,,b,").map(|list| list.len()), Ok(2));
    }

    #[test]
    fn malformed_lists_are_refused() {
        for line in [
            ";",
            "=",
            "a;",
            "a;;b",
            "a;=1",
            "a;b=",
            "a;b=,c",
            "a b",
            "a;b c",
            "a;b=\"",
            "a;b=\"1",
            "a;b=\"\"",
            "a;b=\"1 2\"",
            "a;b=\" 1\"",
            "a;b=\"1\\\"",
            "a;b=\"\\",
            "a;b=\"1\"2",
            "a;b=\"1,2\"",
            "a/b",
            "\"a\"",
            "a,;b",
            "é",
        ] {
            assert_eq!(parse(line), Err(Malformed), "{line}");
        }
    }

    #[test]
    fn a_long_list_costs_its_length() {
        for (start, element) in [("", ","), ("", " ,"), ("", "a,"), ("a", ";b"), ("a;b=\"", "\\c"), ("a", " ")] {
            let line = format!("{start}{}", element.repeat(1 << 18));
            assert_eq!(extensions(line.as_bytes()).all(|extension| extension.is_ok()), !start.contains('"'));
        }
    }

    #[test]
    fn after_an_error_the_iterator_ends() {
        let mut list = extensions(b"a, b c, d");
        assert!(matches!(list.next(), Some(Ok(_))));
        assert_eq!(list.next(), Some(Err(Malformed)));
        assert_eq!(list.next(), None);
    }
}
