//! Writes the seeds by hand of every corpus: `cargo run --bin seeds`, in `fuzz/`.

mod decoder;
mod small;
mod worlds;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    decoder::write()?;
    small::write()?;
    worlds::write()
}

/// The folder of a target's seeds.
struct Corpus(PathBuf);

impl Corpus {
    fn of(target: &str) -> io::Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        println!("{}", folder.display());
        Ok(Self(folder))
    }

    fn write(&self, name: &str, seed: &[u8]) -> io::Result<()> {
        fs::write(self.0.join(name), seed)
    }
}
