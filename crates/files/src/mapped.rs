//! Files that processes can write without a call: shared, writable mappings. Their times may stand still while they change,
//! so they are read whenever it matters.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use crate::FilesError;
use crate::upper::stat_below;

/// Paths, from the root of the container on, that have a writable shared mapping.
///
/// By path because the inodes that `/proc` shows are the overlay's, not the upper directory's. A path that is also on a
/// volume of the container costs one read too many, no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MappedFiles(BTreeSet<PathBuf>);

impl MappedFiles {
    /// Looks at all mappings of these processes, which are frozen. One that has ended maps nothing.
    ///
    /// # Errors
    /// A process's mappings cannot be read.
    pub fn of(pids: impl IntoIterator<Item = i32>) -> Result<Self, FilesError> {
        let mut out = Self::default();
        for pid in pids {
            let path = PathBuf::from(format!("/proc/{pid}/maps"));
            match std::fs::read(&path) {
                Ok(maps) => out.0.extend(maps.split(|b| *b == b'\n').filter_map(writable_shared)),
                Err(e) if matches!(e.raw_os_error(), Some(2 | 3)) => {}
                Err(source) => return Err(FilesError::Io { attempt: "read", path, source }),
            }
        }
        Ok(out)
    }

    /// As a container would see them whose root is this directory.
    #[cfg(test)]
    pub(crate) fn below(&self, root: &std::path::Path) -> Self {
        let below = self.0.iter().filter_map(|path| path.strip_prefix(root).ok());
        Self(below.map(|path| std::path::Path::new("/").join(path)).collect())
    }

    /// Inodes of those that are in this layer.
    pub(crate) fn inodes(&self, root: BorrowedFd<'_>) -> BTreeSet<u64> {
        let below = self.0.iter().filter_map(|path| path.strip_prefix("/").ok());
        // What is not there is the image's or a volume's.
        below.filter_map(|path| stat_below(root, path).ok()).map(|stat| stat.stx_ino).collect()
    }
}

/// The path of a line of `/proc/PID/maps`, if it is that of a writable shared mapping of a file.
fn writable_shared(line: &[u8]) -> Option<PathBuf> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|b| *b == b' ')?;
        let (field, after) = rest.split_at(end);
        rest = after.trim_ascii_start();
        Some(field)
    };
    let (_range, permissions) = (field()?, field()?);
    let (_offset, _device, _inode) = (field()?, field()?, field()?);
    let shared = permissions.get(1) == Some(&b'w') && permissions.get(3) == Some(&b's');
    let path = rest.strip_suffix(b" (deleted)").unwrap_or(rest);
    (shared && path.starts_with(b"/")).then(|| PathBuf::from(OsString::from_vec(unescape(path))))
}

/// Newlines in paths are shown as `\012`.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match after.strip_prefix(b"012") {
            Some(after) if *first == b'\\' => {
                out.push(b'\n');
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writable_shared_mappings_of_files_count() {
        let line = |text: &str| writable_shared(text.as_bytes());
        let shared = "7f0-7f1 rw-s 00000000 00:2a 77                       /data/lock file.mdb";
        assert_eq!(line(shared), Some("/data/lock file.mdb".into()));
        assert_eq!(line("7f0-7f1 rw-s 0 00:2a 7    /a\\012b"), Some("/a\nb".into()));
        assert_eq!(line("7f0-7f1 rw-s 0 00:2a 7    /gone (deleted)"), Some("/gone".into()));
        for other in [
            "7f0-7f1 rw-p 00000000 00:2a 77    /lib/libc.so",
            "7f0-7f1 r--s 00000000 00:2a 77    /data/read",
            "7f0-7f1 rw-s 00000000 00:05 77    anon_inode:[perf]",
            "7f0-7f1 rw-p 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(line(other), None, "{other}");
        }
    }
}
