//! Where the lab keeps things on the host: the cache (kept for ever) and the state of each lab (gone after `down`).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{LabError, Result};

/// Directory of what is built once: root file systems, test tools, images.
/// `GODWIT_LAB_CACHE`, else `~/.cache/godwit-lab`.
#[must_use]
pub fn cache() -> PathBuf {
    let home = env::var_os("HOME").unwrap_or_else(|| "/root".into());
    named_by("GODWIT_LAB_CACHE").unwrap_or_else(|| PathBuf::from(home).join(".cache/godwit-lab"))
}

/// Directory of all labs' state, on a file system that overlayfs accepts as upper directory.
/// `GODWIT_LAB_STATE`, else `/var/tmp/godwit-lab`.
#[must_use]
pub fn state() -> PathBuf {
    named_by("GODWIT_LAB_STATE").unwrap_or_else(|| PathBuf::from("/var/tmp/godwit-lab"))
}

/// The directory that a variable names, from the root: mounts and other processes are told of it.
fn named_by(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).and_then(|path| std::path::absolute(path).ok())
}

pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(LabError::io("creating", path))
}

pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).map_err(LabError::io("writing", path))
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(LabError::io("reading", path))
}

/// Removes a file or a tree; that it is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::io("removing", path)(error))
        }
        _ => Ok(()),
    }
}
