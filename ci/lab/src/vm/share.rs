//! Files of the host as a read-only disk: an ext4 image that is made anew for each machine.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::command::{self, host, run};
use crate::error::{LabError, Result};
use crate::places;

/// Beside the files: what ext4 itself needs.
const SPARE_MIB: u64 = 16;

/// Makes `share.img` in `dir` with these files under these names.
pub(super) fn make(dir: &Path, files: &[(PathBuf, String)]) -> Result<()> {
    let tree = dir.join("share");
    places::remove(&tree)?;
    places::make_dir(&tree)?;
    let mut bytes = 0;
    for (file, name) in files {
        let to = tree.join(name);
        places::make_dir(to.parent().unwrap_or(&tree))?;
        let failed = || LabError::io("copying", file);
        // The machine reads slowly: it gets no more of a program than it runs.
        match is_program(file).map_err(failed())? {
            true => command::strip(file, &to)?,
            false => std::fs::copy(file, &to).map(drop).map_err(failed())?,
        }
        bytes += std::fs::metadata(&to).map_err(failed())?.len();
    }
    // An eighth more: block maps and directories.
    let mib = (bytes + bytes / 8).div_ceil(1 << 20) + SPARE_MIB;
    let image = dir.join("share.img");
    places::remove(&image)?;
    run(&mut host(&[
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-d",
        &tree.display().to_string(),
        &image.display().to_string(),
        &format!("{mib}M"),
    ]))?;
    places::remove(&tree)
}

fn is_program(file: &Path) -> std::io::Result<bool> {
    let mut magic = [0; 4];
    let read = std::fs::File::open(file)?.read(&mut magic)?;
    Ok(read == magic.len() && magic == *b"\x7fELF")
}
