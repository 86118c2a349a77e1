//! The fuzz targets, as functions of their input: `fuzz_targets/` hands them to libFuzzer, the tests here the corpora.

pub mod decoder;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let mut seeds = 0;
        for entry in fs::read_dir(&folder).expect("the corpus is committed") {
            let path = entry.expect("the corpus can be listed").path();
            println!("{}", path.display());
            run(&fs::read(&path).expect("a seed can be read"));
            seeds += 1;
        }
        assert!(seeds > 0);
    }

    #[test]
    fn the_decoder_keeps_its_promises_on_every_seed() {
        replay("decoder", super::decoder::run);
    }
}
