//! The guide's pages: none is left out of the docs, nor of the tests.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// The pages that a list of `name "folder/name.md"` names.
fn listed(source: &str) -> BTreeSet<String> {
    let pages = source.lines().filter_map(|line| {
        let (name, file) = line.trim().split_once(' ')?;
        let stem = file.strip_suffix(".md\"")?.rsplit('/').next()?;
        assert_eq!(stem, name, "a page's module bears its file's name");
        Some(name.to_owned())
    });
    pages.collect()
}

#[test]
fn every_page_of_the_guide_is_a_module_a_test_and_in_the_table_of_pages() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../parley-proto/src/guide");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<_> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let guide = read("parley-proto/src/guide.rs");
    assert_eq!(listed(&guide), files);
    assert_eq!(listed(&read("tests/src/guide.rs")), files);
    for page in files {
        assert!(guide.contains(&format!("//! | [`{page}`] |")), "{page}");
    }
}
