//! Writes the golden files of the current version into a directory: `cargo run -p godwit-image --example golden -- DIR`.
//! Refuses to touch a file that exists.

#[path = "../tests/golden/sample.rs"]
mod sample;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).ok_or("which directory?")?;
    let files = [
        ("pack.bin", sample::pack().0.bytes),
        ("head.bin", sample::head().encode()?.bytes),
        ("head_recent.bin", sample::head_recent().encode()?.bytes),
        ("page_map.bin", sample::page_map().encode()?),
        ("digest_block.bin", sample::digest_block().encode()),
        ("digest_index.bin", sample::digest_index().encode()?),
        ("manifest.json", sample::manifest().encode()?),
    ];
    for (name, bytes) in files {
        let path = Path::new(&directory).join(name);
        OpenOptions::new().write(true).create_new(true).open(path)?.write_all(&bytes)?;
    }
    Ok(())
}
