//! What must be absent from a layer, checked on its code (comments, strings and tests left out).
//!
//! The core does no I/O, reads no clock and draws no randomness; an adapter takes no protocol decision and is short.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::lexer::{self, Kind, Token};
use crate::{Outcome, process};

/// Lines of code that one adapter may have: neither blank, nor comment, nor test.
const ADAPTER_LINES: usize = 700;

/// Paths that the core may not name, and why. `*` as the last part means a glob import.
const CORE_PATHS: &[(&[&str], &str)] = &[
    (&["std", "net"], "sockets belong to the adapters (core::net addresses are data)"),
    (&["std", "fs"], "the core reads no files"),
    (&["std", "env"], "the core reads no environment"),
    (&["std", "*"], "a glob hides what is used"),
    (&["std", "thread", "*"], "a glob hides what is used"),
    (&["thread", "sleep"], "the core never sleeps"),
    (&["thread", "spawn"], "the core starts no threads"),
    (&["thread", "scope"], "the core starts no threads"),
    (&["thread", "Builder"], "the core starts no threads"),
    (&["Instant", "now"], CLOCK),
    (&["rand", "rng"], "randomness is an argument"),
    (&["rand", "random"], "randomness is an argument"),
    (&["rand", "make_rng"], "randomness is an argument"),
];

/// Names that the core may not have, wherever they come from.
const CORE_NAMES: &[(&str, &str)] = &[
    ("tokio", "the core names no runtime"),
    ("async_std", "the core names no runtime"),
    ("SystemTime", "calendars are for the adapters"),
    ("UNIX_EPOCH", "calendars are for the adapters"),
    ("getrandom", "randomness is an argument"),
    ("OsRng", "randomness is an argument"),
    ("SysRng", "randomness is an argument"),
    ("ThreadRng", "randomness is an argument"),
    ("thread_rng", "randomness is an argument"),
    ("from_os_rng", "randomness is an argument"),
];

/// The one folder of the core that may own a clock: the test kit has to be a runtime, since tests have none else, and its
/// virtual clock counts from one reading of the real one, for an `Instant` comes from nowhere else. The rest holds there too.
const TEST_KIT: &str = "parley-proto/src/testing";

/// What is said of code that reads a clock.
const CLOCK: &str = "time is an argument";

/// Names that an adapter may re-export (`pub use`) but not use.
const ADAPTER_NAMES: &[&str] = &["CloseCode", "OpCode", "FrameHeader"];

/// Close codes of RFC 6455, section 7.4.
const CLOSE_CODES: std::ops::RangeInclusive<u64> = 1000..=1015;

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let root = process::root();
    let mut findings = Vec::new();

    let core = sources(&root.join("parley-proto/src"))?;
    for (path, tokens) in &core {
        let may_have_clock = path.starts_with(root.join(TEST_KIT));
        let found = core_findings(tokens).into_iter().filter(|finding| !(may_have_clock && finding.is_of_clock()));
        findings.extend(found.map(|finding| finding.at(&root, path)));
    }
    println!("parley-proto: {} lines of code in {} files", lines_of(&core), core.len());

    for adapter in ["parley-tokio", "parley-async-std"] {
        let files = sources(&root.join(adapter).join("src"))?;
        for (path, tokens) in &files {
            findings.extend(adapter_findings(tokens).into_iter().map(|finding| finding.at(&root, path)));
        }
        let lines = lines_of(&files);
        println!("{adapter}: {lines} of {ADAPTER_LINES} lines of code");
        if lines > ADAPTER_LINES {
            findings.push(format!("{adapter}/src: {lines} lines of code, {ADAPTER_LINES} are allowed"));
        }
    }

    if findings.is_empty() {
        println!("nothing where it does not belong");
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    Err(format!("{} finding(s)", findings.len()))
}

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    what: String,
}

impl Finding {
    fn is_of_clock(&self) -> bool {
        self.what.ends_with(CLOCK)
    }

    fn at(self, root: &Path, path: &Path) -> String {
        format!("{}:{}: {}", path.strip_prefix(root).unwrap_or(path).display(), self.line, self.what)
    }
}

/// The sources below `folder`, each without its tests.
pub(crate) fn sources(folder: &Path) -> Result<Vec<(PathBuf, Vec<Token>)>, String> {
    let read = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut found = Vec::new();
    let mut tests = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let (tokens, modules) = lexer::without_tests(&lexer::lex(&fs::read_to_string(&path).map_err(read)?));
                // `mod tests;` in lib.rs, main.rs or mod.rs is a neighbour, elsewhere it is in the file's own folder.
                let owner = match path.file_stem().and_then(|stem| stem.to_str()) {
                    Some("lib" | "main" | "mod") => folder.clone(),
                    _ => path.with_extension(""),
                };
                for module in modules {
                    tests.insert(owner.join(&module).with_extension("rs"));
                    tests.insert(owner.join(&module));
                }
                found.push((path, tokens));
            }
        }
    }
    found.retain(|(path, _)| !path.ancestors().any(|part| tests.contains(part)));
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn lines_of(files: &[(PathBuf, Vec<Token>)]) -> usize {
    let lines =
        |tokens: &[Token]| tokens.iter().flat_map(|token| token.line..=token.last_line).collect::<BTreeSet<_>>().len();
    files.iter().map(|(_, tokens)| lines(tokens)).sum()
}

fn core_findings(tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in paths(tokens) {
        for (forbidden, why) in CORE_PATHS {
            if path.has(forbidden) {
                findings.push(path.finding(&forbidden.join("::"), why));
            }
        }
        for (name, why) in CORE_NAMES {
            // A runtime's companion crates (tokio_util, say) belong to the runtime.
            let is_it =
                |part: &String| part.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
            if path.parts.iter().any(is_it) {
                findings.push(path.finding(name, why));
            }
        }
        if let (Some("std" | "Instant" | "thread" | "rand"), Some(alias)) =
            (path.parts.last().map(String::as_str), &path.alias)
        {
            findings.push(path.finding(&format!("as {alias}"), "another name hides what is used"));
        }
    }
    for window in tokens.windows(3) {
        // Instant::elapsed reads the clock too.
        if window[0].kind.is('.') && window[1].kind.is_ident("elapsed") && window[2].kind.is('(') {
            findings.push(Finding { line: window[1].line, what: format!("`.elapsed()`: {CLOCK}") });
        }
    }
    findings
}

fn adapter_findings(tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in paths(tokens).iter().filter(|path| !path.exported) {
        for name in ADAPTER_NAMES {
            if path.parts.iter().any(|part| part == name) {
                findings.push(path.finding(name, "the protocol is decided in parley-proto"));
            }
        }
        if path.parts.windows(2).any(|pair| pair[0] == "Retry") {
            findings.push(path.finding("Retry::", "retries are decided in parley-proto"));
        }
    }
    for token in tokens {
        if let Kind::Number(text) = &token.kind
            && value(text).is_some_and(|value| CLOSE_CODES.contains(&value))
        {
            let what = format!("`{text}` is a close code: these are decided in parley-proto");
            findings.push(Finding { line: token.line, what });
        }
    }
    findings
}

/// The value of an integer as written: 1_000u16, 0x3e8, 0o1750, 0b1111101000.
fn value(text: &str) -> Option<u64> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    let (digits, radix) = match digits.get(..2) {
        Some("0x") => (&digits[2..], 16),
        Some("0o") => (&digits[2..], 8),
        Some("0b") => (&digits[2..], 2),
        _ => (digits.as_str(), 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let is_integer = suffix.is_empty() || suffix.starts_with(['u', 'i']);
    if is_integer { u64::from_str_radix(number, radix).ok() } else { None }
}

/// One path of the code. In a `use` tree every leaf is a path of its own, from the root.
#[derive(Debug, Default)]
pub(crate) struct CodePath {
    pub(crate) parts: Vec<String>,
    pub(crate) alias: Option<String>,
    /// Comes from a `pub use`.
    pub(crate) exported: bool,
    line: usize,
}

impl CodePath {
    fn has(&self, wanted: &[&str]) -> bool {
        self.parts.windows(wanted.len()).any(|window| window == wanted)
    }

    fn finding(&self, what: &str, why: &str) -> Finding {
        Finding { line: self.line, what: format!("`{what}`: {why}") }
    }
}

pub(crate) fn paths(tokens: &[Token]) -> Vec<CodePath> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let Kind::Ident(name) = &tokens[at].kind else {
            at += 1;
            continue;
        };
        // `use<..>` is a capture list.
        if name == "use" && !tokens.get(at + 1).is_some_and(|token| token.kind.is('<')) {
            let exported = is_exported(&tokens[..at]);
            let first = paths.len();
            at = use_tree(tokens, at + 1, &[], &mut paths);
            paths[first..].iter_mut().for_each(|path| path.exported = exported);
            continue;
        }
        let mut path = CodePath { parts: vec![name.clone()], line: tokens[at].line, ..CodePath::default() };
        at += 1;
        while let (Some(Kind::PathSep), Some(Kind::Ident(name))) = (kind(tokens, at), kind(tokens, at + 1)) {
            path.parts.push(name.clone());
            at += 2;
        }
        // `extern crate std as other`
        if let (Some(keyword), Some(Kind::Ident(alias))) = (kind(tokens, at), kind(tokens, at + 1))
            && keyword.is_ident("as")
            && path.parts == ["std"]
        {
            path.alias = Some(alias.clone());
        }
        paths.push(path);
    }
    paths
}

fn kind(tokens: &[Token], at: usize) -> Option<&Kind> {
    tokens.get(at).map(|token| &token.kind)
}

/// Whether what comes before a `use` makes it `pub use`; `pub(crate) use` exports nothing.
fn is_exported(before: &[Token]) -> bool {
    before.last().is_some_and(|token| token.kind.is_ident("pub"))
}

/// Reads one tree of a `use` into `paths`; returns the place behind it.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], paths: &mut Vec<CodePath>) -> usize {
    let mut path = CodePath { parts: prefix.to_vec(), ..CodePath::default() };
    path.line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(kind) = kind(tokens, at) {
        match kind {
            Kind::Ident(word) if word == "as" => {
                if let Some(Kind::Ident(alias)) = self::kind(tokens, at + 1) {
                    path.alias = Some(alias.clone());
                }
                at += 2;
            }
            Kind::Ident(word) if word == "self" && !path.parts.is_empty() => at += 1,
            Kind::Ident(word) => {
                path.parts.push(word.clone());
                at += 1;
            }
            Kind::Punct('*') => {
                path.parts.push("*".to_owned());
                at += 1;
            }
            Kind::PathSep => at += 1,
            Kind::Punct('{') => {
                at += 1;
                while let Some(kind) = self::kind(tokens, at) {
                    match kind {
                        Kind::Punct('}') => return at + 1,
                        Kind::Punct(',') => at += 1,
                        _ => {
                            let next = use_tree(tokens, at, &path.parts, paths);
                            // What is no `use` tree at all must not hold the loop up.
                            at = next.max(at + 1);
                        }
                    }
                }
                return at;
            }
            _ => break,
        }
    }
    paths.push(path);
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> Vec<Token> {
        lexer::without_tests(&lexer::lex(source)).0
    }

    fn core(source: &str) -> Vec<usize> {
        let mut lines: Vec<_> = core_findings(&code(source)).into_iter().map(|finding| finding.line).collect();
        lines.dedup();
        lines
    }

    fn adapter(source: &str) -> Vec<usize> {
        adapter_findings(&code(source)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn the_core_may_not_touch_the_world() {
        for source in [
            "use std::net::TcpStream;",
            "use std::{io, net};",
            "use std::{io, net::{IpAddr, TcpStream}};",
            "let a: ::std :: net::IpAddr;",
            "use std::*;",
            "use std as other;",
            "use std::{self as other};",
            "extern crate std as other;",
            "use tokio::io;",
            "tokio_util::io::poll_read_buf(a);",
            "use async_std as runtime;",
            "let now = Instant::now();",
            "let now = std::time::Instant::now();",
            "use std::time::Instant as Clock;",
            "start.elapsed()",
            "let t: SystemTime;",
            "getrandom::fill(a);",
            "use rand::rngs::{OsRng, StdRng};",
            "let r = rand::rng();",
            "use rand::rng;",
            "let r: u8 = rand::random();",
            "ChaCha12Rng::from_os_rng()",
            "std::thread::sleep(d);",
            "use std::{thread::spawn};",
            "std::thread::Builder::new()",
            "use std::thread::*;",
            "std::fs::read(p)",
            "use std::{env, fmt};",
        ] {
            assert_eq!(core(source), [1], "{source}");
        }
        assert_eq!(core("use std::thread;\nfn f() { thread::spawn(g) }"), [2]);
    }

    #[test]
    fn the_test_kit_may_have_a_clock_and_nothing_else() {
        let found =
            core_findings(&code("Instant::now(); a.elapsed(); SystemTime::now(); std::net::bind(); rand::rng();"));
        let are_of_clock: Vec<_> = found.iter().map(Finding::is_of_clock).collect();
        assert_eq!(are_of_clock, [true, false, false, false, true]); // paths come before calls
    }

    #[test]
    fn what_the_core_needs_is_allowed() {
        for source in [
            "use core::net::SocketAddr;",
            "use std::{fmt, io, time::Instant};",
            "fn f(now: Instant) { self.now = now; }",
            "// std::net\n/* tokio */ \"Instant::now()\"; r#\"std::fs\"#;",
            "//! let x = tokio::spawn(y);",
            "#[cfg(test)]\nmod tests { use std::net; fn f() { Instant::now(); } }",
            "let rng = ChaCha12Rng::from_seed(seed);",
            "fn f<'a>() -> impl Sized + use<'a> { std::mem::take(a) }",
            "let elapsed = now - start;",
        ] {
            assert_eq!(core(source), [0; 0], "{source}");
        }
    }

    #[test]
    fn findings_name_their_line() {
        assert_eq!(core("a\n/*\n*/ b(\n\"\n\", Instant::now())"), [5]);
        assert_eq!(core("use std::{\n    io,\n    net,\n};"), [3]);
    }

    #[test]
    fn an_adapter_may_not_decide() {
        for source in [
            "close(CloseFrame::new(CloseCode::NORMAL))",
            "use parley_proto::codec::CloseCode;",
            "pub(crate) use parley_proto::codec::CloseCode;",
            "match frame.opcode { OpCode::TEXT => {} }",
            "return Retry::After(d);",
            "close(1_000);",
            "close(0x3e8u16);",
            "if code == 1015 {}",
            "FrameHeader::decode(b)",
        ] {
            assert_eq!(adapter(source), [1], "{source}");
        }
    }

    #[test]
    fn an_adapter_may_forward_and_export() {
        for source in [
            "pub use parley_proto::{CloseCode, CloseFrame, Retry, codec::OpCode};",
            "handle.disconnect_with(close)",
            "let a = [999, 1016, 10000]; let b = 1000.5; let c = 1000f32;",
            "/// Closes with 1000.\nfn close(c: CloseFrame) -> Retry {}",
            "#[cfg(test)]\nmod tests { const C: CloseCode = CloseCode(1000); }",
        ] {
            assert_eq!(adapter(source), [0; 0], "{source}");
        }
    }

    #[test]
    fn lines_of_code_leave_out_comments_blanks_and_tests() {
        let source = "//! a\n\nfn b() {\n    // c\n    let d = \"e\n\nf\";\n}\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(lines_of(&[(PathBuf::new(), code(source))]), 5);
    }

    #[test]
    fn integers_are_read_in_every_base() {
        assert_eq!(value("1_000u16"), Some(1000));
        assert_eq!(value("0x3E8"), Some(1000));
        assert_eq!(value("0b11_1110_1000"), Some(1000));
        assert_eq!(value("1000.5"), None);
        assert_eq!(value("1e3"), None);
    }
}
