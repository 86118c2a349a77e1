//! Parley against other WebSocket libraries: as functions of a fuzzer's input, which `fuzz_targets/` hands to libFuzzer and the tests
//! here to the corpora; and in benches, whose programs are in `src/bin/`.

#[cfg(feature = "fuzz")]
pub mod against_tungstenite;
#[cfg(feature = "report")]
pub mod bench;

#[cfg(all(test, feature = "fuzz"))]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn tungstenite_and_parley_differ_on_seeds_as_listed_only() {
        // The decoder's inputs have the same form.
        for corpus in ["corpus/against_tungstenite", "../../fuzz/corpus/decoder"] {
            let mut seeds = 0;
            for entry in
                fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(corpus)).expect("the corpus is committed")
            {
                let path = entry.expect("the corpus can be listed").path();
                println!("{}", path.display());
                super::against_tungstenite::run(&fs::read(&path).expect("a seed can be read"));
                seeds += 1;
            }
            assert!(seeds > 0);
        }
    }
}
