//! What the adapters have in common: a program moves from one runtime to the other by another `use`.
//!
//! Compared are the names of the files, the features, the names that `lib.rs` exports, and the signatures of all public
//! functions. What differs on purpose is named here with its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::args::Args;
use crate::lexer::{Kind, Token};
use crate::{Outcome, process, purity};

/// The adapters, each with the name of its runtime type: the one name that differs.
const ADAPTERS: [(&str, &str); 2] = [("parley-tokio", "Tokio"), ("parley-async-std", "AsyncStd")];

/// Functions that one adapter has and the other lacks: adapter, file, name, and why.
const ALONE: &[(&str, &str, &str, &str)] =
    &[("parley-async-std", "runtime.rs", "start_tls_over", "a `Runtime` of the user's own, over smol's streams say")];

/// The runtime type's name where two adapters are compared.
const RUNTIME: &str = "<runtime>";

pub(crate) fn run(args: Args) -> Outcome {
    args.finish()?;
    let mut shapes = Vec::new();
    for (adapter, runtime) in ADAPTERS {
        shapes.push((adapter, shape(&process::root().join(adapter), runtime)?));
    }
    let [(one, ours), (other, theirs)] = &shapes[..] else { return Err("two adapters are compared".to_owned()) };
    let findings = differences(one, ours, other, theirs, ALONE);
    if findings.is_empty() {
        println!("{one} and {other}: the same {} files, features, names and signatures", ours.len());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    Err(format!("{} finding(s)", findings.len()))
}

/// One thing that an adapter has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    File(String),
    Feature(String),
    Export(String),
    /// File, name, signature.
    Function(String, String, String),
}

impl Item {
    fn shown(&self) -> String {
        match self {
            Self::File(name) => format!("the file src/{name}"),
            Self::Feature(name) => format!("the feature `{name}`"),
            Self::Export(name) => format!("the export `{name}`"),
            Self::Function(file, _, signature) => format!("in {file} `{signature}`"),
        }
    }

    fn is(&self, file: &str, name: &str) -> bool {
        matches!(self, Self::Function(its_file, its_name, _) if its_file == file && its_name == name)
    }
}

/// All that is compared of the adapter in `folder`.
fn shape(folder: &Path, runtime: &str) -> Result<BTreeSet<Item>, String> {
    let manifest = folder.join("Cargo.toml");
    let manifest = fs::read_to_string(&manifest).map_err(|error| format!("{}: {error}", manifest.display()))?;
    let mut items: BTreeSet<_> = features(&manifest).into_iter().map(Item::Feature).collect();
    let src = folder.join("src");
    for (path, tokens) in purity::sources(&src)? {
        let file = path.strip_prefix(&src).unwrap_or(&path).display().to_string();
        if file == "lib.rs" {
            items.extend(exports(&tokens, runtime).into_iter().map(Item::Export));
        }
        let functions = functions(&tokens, runtime).into_iter();
        items.extend(functions.map(|(name, signature)| Item::Function(file.clone(), name, signature)));
        items.insert(Item::File(file));
    }
    Ok(items)
}

fn differences(
    one: &str,
    ours: &BTreeSet<Item>,
    other: &str,
    theirs: &BTreeSet<Item>,
    alone: &[(&str, &str, &str, &str)],
) -> Vec<String> {
    let mut findings = Vec::new();
    let mut used = vec![false; alone.len()];
    for (has, items, lacks, others) in [(one, ours, other, theirs), (other, theirs, one, ours)] {
        for item in items.difference(others) {
            match alone.iter().position(|(adapter, file, name, _)| *adapter == has && item.is(file, name)) {
                Some(index) => used[index] = true,
                None => findings.push(format!("{has} has, and {lacks} lacks: {}", item.shown())),
            }
        }
    }
    for ((adapter, file, name, _), used) in alone.iter().zip(used) {
        if !used {
            findings.push(format!("`{name}` in {file} is no longer {adapter}'s alone: see xtask/src/parity.rs"));
        }
    }
    findings
}

/// The names below `[features]`.
fn features(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "[features]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

/// What `pub use` and `pub` items of a `lib.rs` are called.
fn exports(tokens: &[Token], runtime: &str) -> BTreeSet<String> {
    let used = purity::paths(tokens).into_iter().filter(|path| path.exported);
    let mut names: BTreeSet<_> = used.filter_map(|path| path.alias.or_else(|| path.parts.last().cloned())).collect();
    for window in tokens.windows(3) {
        if let [first, keyword, Token { kind: Kind::Ident(name), .. }] = window
            && first.kind.is_ident("pub")
            && ["mod", "struct", "enum", "trait", "fn", "const", "static", "type"]
                .iter()
                .any(|word| keyword.kind.is_ident(word))
        {
            names.insert(name.clone());
        }
    }
    names.into_iter().map(|name| if name == runtime { RUNTIME.to_owned() } else { name }).collect()
}

/// Name and signature of every function that is `pub` without restriction.
fn functions(tokens: &[Token], runtime: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if !token.kind.is_ident("pub") {
            continue;
        }
        let rest = &tokens[at + 1..];
        let qualifiers =
            rest.iter().take_while(|token| ["const", "async", "unsafe"].iter().any(|word| token.kind.is_ident(word)));
        let start = qualifiers.count();
        let [keyword, Token { kind: Kind::Ident(name), .. }, ..] = &rest[start..] else { continue };
        if !keyword.kind.is_ident("fn") {
            continue;
        }
        let signature = rest.iter().take_while(|token| !token.kind.is('{') && !token.kind.is(';'));
        let words: Vec<_> = signature.map(|token| word(&token.kind, runtime)).collect();
        found.push((name.clone(), words.join(" ")));
    }
    found
}

fn word(kind: &Kind, runtime: &str) -> String {
    match kind {
        Kind::Ident(name) if name == runtime => RUNTIME.to_owned(),
        Kind::Ident(text) | Kind::Number(text) => text.clone(),
        Kind::Quoted => "\"\"".to_owned(),
        Kind::Lifetime => "'_".to_owned(),
        Kind::PathSep => "::".to_owned(),
        Kind::Punct(punct) => punct.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::lex;

    #[test]
    fn exports_are_names_of_uses_and_items() {
        let source = "mod a; use b::C; pub(crate) use d::E; pub use f::{G, h::I as J}; pub use k; pub fn l() {}\n\
            pub mod m {} pub use r::Tokio;";
        let names: Vec<_> = exports(&lex(source), "Tokio").into_iter().collect();
        assert_eq!(names, ["<runtime>", "G", "J", "k", "l", "m"]);
    }

    #[test]
    fn functions_are_compared_by_their_signatures() {
        let source = "impl A { pub async fn a(&self, b: Tokio) -> C { pub_fn() } pub(crate) fn d() {} fn e() {} }\n\
            pub const fn f<'a>() -> &'a str where G: H {}";
        assert_eq!(
            functions(&lex(source), "Tokio"),
            [
                ("a".to_owned(), "async fn a ( & self , b : <runtime> ) - > C".to_owned()),
                ("f".to_owned(), "const fn f < '_ > ( ) - > & '_ str where G : H".to_owned()),
            ]
        );
    }

    #[test]
    fn features_are_read_from_the_manifest() {
        assert_eq!(
            features("[a]\nb = 1\n[features]\n# c = d\ntls = [\n  \"x\",\n]\nring = []\n[e]\nf = 1"),
            ["tls", "ring"]
        );
    }

    fn function(name: &str, signature: &str) -> Item {
        Item::Function("a.rs".to_owned(), name.to_owned(), signature.to_owned())
    }

    #[test]
    fn a_difference_is_found_on_either_side() {
        let one =
            BTreeSet::from([Item::Export("A".to_owned()), Item::Export("B".to_owned()), function("f", "fn f (x)")]);
        let other = BTreeSet::from([Item::Export("A".to_owned()), function("f", "fn f ()")]);
        assert_eq!(
            differences("one", &one, "other", &other, &[]),
            [
                "one has, and other lacks: the export `B`",
                "one has, and other lacks: in a.rs `fn f (x)`",
                "other has, and one lacks: in a.rs `fn f ()`",
            ]
        );
        assert_eq!(differences("one", &one, "other", &one, &[]), [""; 0]);
    }

    #[test]
    fn an_exception_holds_for_its_adapter_and_as_long_as_it_is_needed() {
        let one = BTreeSet::from([function("f", "fn f ()")]);
        let none = BTreeSet::new();
        let alone = [("one", "a.rs", "f", "why")];
        assert_eq!(differences("one", &one, "other", &none, &alone), [""; 0]);
        assert_eq!(differences("one", &none, "other", &one, &alone).len(), 2);
        assert_eq!(differences("one", &one, "other", &one, &alone).len(), 1);
    }
}
