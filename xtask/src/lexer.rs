//! A lexer for Rust sources, as much as the checks on them need: comments, strings and lifetimes apart from code.
//!
//! It finds every token's place and never fails: what is not Rust comes out as punctuation.

/// One token of code. Comments and white space are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// Lines are counted from 1.
    pub(crate) line: usize,
    /// Differs from `line` in strings that go over several lines.
    pub(crate) last_line: usize,
}

/// What a token is; text only where a check looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword or name, without the `r#` of a raw one.
    Ident(String),
    /// A number as written, its suffix included.
    Number(String),
    /// A string, byte string, C string or character.
    Quoted,
    Lifetime,
    /// `::`
    PathSep,
    Punct(char),
}

impl Kind {
    pub(crate) fn is_ident(&self, name: &str) -> bool {
        matches!(self, Self::Ident(ident) if ident == name)
    }

    pub(crate) fn is(&self, punct: char) -> bool {
        *self == Self::Punct(punct)
    }
}

/// Splits `source` into its tokens.
pub(crate) fn lex(source: &str) -> Vec<Token> {
    let mut cursor = Cursor { rest: source, line: 1 };
    let mut tokens = Vec::new();
    while let Some(first) = cursor.peek(0) {
        let line = cursor.line;
        if first.is_whitespace() {
            cursor.bump();
        } else if cursor.rest.starts_with("//") {
            cursor.bump_while(|c| c != '\n');
        } else if cursor.rest.starts_with("/*") {
            cursor.block_comment();
        } else {
            let kind = cursor.token(first);
            tokens.push(Token { kind, line, last_line: cursor.line });
        }
    }
    tokens
}

/// `tokens` without the items behind `#[cfg(test)]`, and the names of the modules among these that are other files.
pub(crate) fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut files = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !is_cfg_test(&tokens[at..]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        // Over this attribute and those that follow it, to the item.
        while tokens.get(at).is_some_and(|token| token.kind.is('#')) {
            at = after_group(tokens, at + 1);
        }
        let start = at;
        let in_use = |at: usize| tokens[start..at].iter().any(|token| token.kind.is_ident("use"));
        while at < tokens.len() {
            match &tokens[at].kind {
                Kind::Punct(';') => {
                    at += 1;
                    break;
                }
                Kind::Punct('{') if !in_use(at) => {
                    at = after_group(tokens, at);
                    break;
                }
                Kind::Punct('(' | '[' | '{') => at = after_group(tokens, at),
                _ => at += 1,
            }
        }
        if let [.., Token { kind, .. }, Token { kind: Kind::Ident(name), .. }, end] = &tokens[start..at]
            && kind.is_ident("mod")
            && end.kind.is(';')
        {
            files.push(name.clone());
        }
    }
    (kept, files)
}

/// Whether `tokens` begin with `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
fn is_cfg_test(tokens: &[Token]) -> bool {
    let mut kinds = tokens.iter().map(|token| &token.kind);
    let mut next = |expected: &str| match kinds.next() {
        Some(Kind::Ident(ident)) => ident == expected,
        Some(Kind::Punct(punct)) => expected.chars().eq([*punct]),
        _ => false,
    };
    if !(next("#") && next("[") && next("cfg") && next("(")) {
        return false;
    }
    let predicate = &tokens[4..after_group(tokens, 3).max(4)];
    match predicate {
        [test, close] => test.kind.is_ident("test") && close.kind.is(')'),
        [all, open, parts @ ..] if all.kind.is_ident("all") && open.kind.is('(') => {
            let mut depth = 0_usize;
            parts.iter().any(|token| {
                match token.kind {
                    Kind::Punct('(') => depth += 1,
                    Kind::Punct(')') => depth = depth.saturating_sub(1),
                    _ => {}
                }
                depth == 0 && token.kind.is_ident("test")
            })
        }
        _ => false,
    }
}

/// The place behind the bracket that closes the one at `open`.
fn after_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Punct('(' | '[' | '{') => depth += 1,
            Kind::Punct(')' | ']' | '}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

struct Cursor<'a> {
    rest: &'a str,
    line: usize,
}

impl Cursor<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.chars().nth(ahead)
    }

    fn bump(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn bump_while(&mut self, mut wanted: impl FnMut(char) -> bool) -> String {
        let mut text = String::new();
        while let Some(c) = self.peek(0).filter(|c| wanted(*c)) {
            text.push(c);
            self.bump();
        }
        text
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
            } else if self.rest.starts_with("*/") {
                depth -= 1;
            } else {
                if self.bump().is_none() {
                    return;
                }
                continue;
            }
            self.bump();
            self.bump();
            if depth == 0 {
                return;
            }
        }
    }

    fn token(&mut self, first: char) -> Kind {
        match first {
            '"' => self.string(),
            '\'' => self.character_or_lifetime(),
            '0'..='9' => self.number(),
            ':' if self.peek(1) == Some(':') => {
                self.bump();
                self.bump();
                Kind::PathSep
            }
            c if is_ident_start(c) => self.ident_or_prefixed(),
            c => {
                self.bump();
                Kind::Punct(c)
            }
        }
    }

    /// A name, or a literal with a prefix: r"", r#""#, b"", b'', br"", c"", cr"", r#name.
    fn ident_or_prefixed(&mut self) -> Kind {
        let ident = self.bump_while(is_ident_continue);
        let raw = matches!(ident.as_str(), "r" | "br" | "cr");
        match self.peek(0) {
            Some('"') if raw => self.raw_string(),
            Some('"') if matches!(ident.as_str(), "b" | "c") => self.string(),
            Some('\'') if ident == "b" => self.character_or_lifetime(),
            Some('#') if raw => {
                let hashes = self.rest.chars().take_while(|c| *c == '#').count();
                match self.peek(hashes) {
                    Some('"') => self.raw_string(),
                    Some(c) if ident == "r" && hashes == 1 && is_ident_start(c) => {
                        self.bump();
                        Kind::Ident(self.bump_while(is_ident_continue))
                    }
                    _ => Kind::Ident(ident),
                }
            }
            _ => Kind::Ident(ident),
        }
    }

    fn string(&mut self) -> Kind {
        self.bump();
        while let Some(c) = self.bump() {
            match c {
                '\\' => drop(self.bump()),
                '"' => break,
                _ => {}
            }
        }
        Kind::Quoted
    }

    fn raw_string(&mut self) -> Kind {
        let hashes = self.bump_while(|c| c == '#');
        self.bump();
        let end = format!("\"{hashes}");
        while !self.rest.starts_with(&end) {
            if self.bump().is_none() {
                return Kind::Quoted;
            }
        }
        for _ in end.chars() {
            self.bump();
        }
        Kind::Quoted
    }

    /// `'a'` and `'\n'` are characters, `'a` is a lifetime.
    fn character_or_lifetime(&mut self) -> Kind {
        let is_character = match self.peek(1) {
            Some('\\') => true,
            Some(_) => self.peek(2) == Some('\''),
            None => false,
        };
        self.bump();
        if !is_character {
            self.bump_while(is_ident_continue);
            return Kind::Lifetime;
        }
        while let Some(c) = self.bump() {
            match c {
                '\\' => drop(self.bump()),
                '\'' => break,
                _ => {}
            }
        }
        Kind::Quoted
    }

    /// A number with its base, underscores, fraction and suffix. `1..2` and `1.max(2)` end at the point.
    fn number(&mut self) -> Kind {
        let mut text = self.bump_while(is_ident_continue);
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            self.bump();
            text.push('.');
            text.push_str(&self.bump_while(is_ident_continue));
        }
        Kind::Number(text)
    }
}

fn is_ident_start(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn is_ident_continue(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idents(source: &str) -> Vec<String> {
        named(&lex(source))
    }

    fn named(tokens: &[Token]) -> Vec<String> {
        let name = |token: &Token| match &token.kind {
            Kind::Ident(ident) => Some(ident.clone()),
            _ => None,
        };
        tokens.iter().filter_map(name).collect()
    }

    #[test]
    fn comments_are_no_code() {
        assert_eq!(idents("a // b\nc /* d /* e */ f */ g /// h\ni //! j"), ["a", "c", "g", "i"]);
        assert_eq!(idents("a /* never closed"), ["a"]);
        assert_eq!(idents("a / b"), ["a", "b"]);
    }

    #[test]
    fn strings_are_no_code() {
        assert_eq!(idents(r#"a "b \" c" d b"e" f c"g" h"#), ["a", "d", "f", "h"]);
        assert_eq!(idents(r###"a r"b\" c r#"d " e"# f br##"g "# h"## i cr#"j"# k"###), ["a", "c", "f", "i", "k"]);
        assert_eq!(idents("a \"// b\" c"), ["a", "c"]);
        assert_eq!(idents("a \"never closed"), ["a"]);
    }

    #[test]
    fn characters_are_told_from_lifetimes() {
        assert_eq!(idents(r"a 'b' c '\'' d b'e' f '\u{1F600}' g"), ["a", "c", "d", "f", "g"]);
        assert_eq!(idents("a<'b> c: &'static d"), ["a", "c", "d"]);
        assert_eq!(idents("a '\"' b '\\\\' c"), ["a", "b", "c"]);
    }

    #[test]
    fn raw_names_lose_their_prefix() {
        assert_eq!(idents("r#type r"), ["type", "r"]);
    }

    #[test]
    fn numbers_keep_their_text() {
        let numbers = |source: &str| -> Vec<String> {
            let text = |token: Token| match token.kind {
                Kind::Number(text) => Some(text),
                _ => None,
            };
            lex(source).into_iter().filter_map(text).collect()
        };
        assert_eq!(numbers("1_000u16 0x3e8 1.5 1..2 3.max(4) x5"), ["1_000u16", "0x3e8", "1.5", "1", "2", "3", "4"]);
    }

    #[test]
    fn lines_are_counted_through_strings_and_comments() {
        let tokens = lex("a\n\"b\nc\" /*\n*/ d");
        assert_eq!(
            tokens.iter().map(|token| (token.line, token.last_line)).collect::<Vec<_>>(),
            [(1, 1), (2, 3), (4, 4)]
        );
    }

    #[test]
    fn test_items_are_left_out() {
        let kept = |source: &str| named(&without_tests(&lex(source)).0);
        assert_eq!(kept("a #[cfg(test)] mod tests { fn b() { { } } } c"), ["a", "c"]);
        assert_eq!(kept("a #[cfg(test)] #[path = \"x\"] pub(crate) fn b(c: [u8; 2]) -> D { e } f"), ["a", "f"]);
        assert_eq!(kept("a #[cfg(test)] use b::{c, d}; e"), ["a", "e"]);
        assert_eq!(kept("a #[cfg(all(test, feature = \"x\"))] mod b { c } d"), ["a", "d"]);
        assert_eq!(kept("#[cfg(not(test))] a"), ["cfg", "not", "test", "a"]);
        assert_eq!(kept("#[cfg(all(unix, not(test)))] a"), ["cfg", "all", "unix", "not", "test", "a"]);
    }

    #[test]
    fn test_modules_in_other_files_are_named() {
        assert_eq!(without_tests(&lex("#[cfg(test)] mod tests; mod live;")).1, ["tests"]);
    }
}
