//! How a container's init process ended, in its bundle: for who cleans up after a shim that died after it (`bootstrap/delete`).
//!
//! A file that was not written to its end cannot be read, which is as if there were none.

use std::path::Path;

use crate::error::{Error, Result};
use crate::reaper::Exit;

const FILE: &str = "exit.godwit.json";

/// Writes it down.
///
/// # Errors
/// The bundle cannot be written.
pub fn write(bundle: &Path, exit: Exit) -> Result<()> {
    let file = bundle.join(FILE);
    let attempt = format!("write {}", file.display());
    let text = serde_json::to_vec(&exit).map_err(Error::io(attempt.clone()))?;
    std::fs::write(&file, text).map_err(Error::io(attempt))
}

/// What was written; nothing if the init process outlived its shim.
#[must_use]
pub fn read(bundle: &Path) -> Option<Exit> {
    serde_json::from_slice(&std::fs::read(bundle.join(FILE)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_read_as_it_was_written_and_half_of_it_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), None);
        let exit = Exit::now(42);
        write(dir.path(), exit).unwrap();
        assert_eq!(read(dir.path()), Some(exit));
        let text = std::fs::read(dir.path().join(FILE)).unwrap();
        std::fs::write(dir.path().join(FILE), &text[..text.len() / 2]).unwrap();
        assert_eq!(read(dir.path()), None);
    }
}
