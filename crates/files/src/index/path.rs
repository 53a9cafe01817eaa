//! From depths and names to paths.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::Entry;

/// Whether this can be a name in a directory and nothing else: no path, not the directory itself or its parent.
pub(crate) fn is_name(name: &[u8]) -> bool {
    let plain = !name.is_empty() && name.len() <= super::limits::MAX_NAME;
    plain && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, b'/' | 0))
}

/// The path of the entry that was entered last. Entries come in the order of the index.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    path: Vec<u8>,
    /// Length of the path of the entry at each depth.
    ends: Vec<usize>,
}

impl Paths {
    /// Goes to the next entry; its path.
    pub(crate) fn enter(&mut self, entry: &Entry) -> &Path {
        let depth = usize::from(entry.depth).min(self.ends.len());
        self.ends.truncate(depth);
        self.path.truncate(self.ends.last().copied().unwrap_or(0));
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&entry.name);
        self.ends.push(self.path.len());
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The path of the directory that holds the entry that was entered last.
    pub(crate) fn parent(&self) -> PathBuf {
        let end = self.ends.len().checked_sub(2).and_then(|at| self.ends.get(at));
        PathBuf::from(std::ffi::OsString::from_vec(self.path[..end.copied().unwrap_or(0)].to_vec()))
    }
}
