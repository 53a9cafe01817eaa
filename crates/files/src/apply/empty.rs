//! Emptying a directory of a new pod before its contents are put back.
//!
//! Keeps: nothing outside of the directory is touched. No symbolic link is followed, and what is mounted in it is not entered: it is
//! another's, and the directory cannot be emptied then.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::FilesError;
use crate::error::At as _;
use crate::upper::open_below;

/// Removes what is in a directory, which must not be a symbolic link.
///
/// # Errors
/// [`FilesError::Mounted`] before anything is removed; [`FilesError::Io`], a part of it may be gone then.
pub fn empty(path: &Path) -> Result<(), FilesError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(rustix::fs::CWD, path, flags, Mode::empty()).at("open", path)?;
    let (directories, others) = tree(root.as_fd(), path)?;
    // Of a directory all are gone before it is.
    for (name, flags) in others
        .iter()
        .map(|name| (name, AtFlags::empty()))
        .chain(directories.iter().rev().map(|name| (name, AtFlags::REMOVEDIR)))
    {
        remove(root.as_fd(), name, flags).at("remove", &path.join(name))?;
    }
    Ok(())
}

/// Directories, each before what is in it, and all else.
fn tree(root: BorrowedFd<'_>, path: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), FilesError> {
    let (mut directories, mut others) = (Vec::new(), Vec::new());
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let here = path.join(&below);
        let dir = match open_below(root, &below) {
            Err(Errno::XDEV) => return Err(FilesError::Mounted { path: here }),
            opened => opened.at("open", &here)?,
        };
        for item in Dir::read_from(&dir).at("list", &here)? {
            let item = item.at("list", &here)?;
            let name = item.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).at("look at", &here)?;
            let name = below.join(OsStr::from_bytes(name));
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => left.push(name),
                _ => others.push(name),
            }
        }
        if !below.as_os_str().is_empty() {
            directories.push(below);
        }
    }
    Ok((directories, others))
}

fn remove(root: BorrowedFd<'_>, name: &Path, flags: AtFlags) -> Result<(), Errno> {
    let parent = open_below(root, name.parent().unwrap_or(Path::new("")))?;
    unlinkat(&parent, name.file_name().unwrap_or_default(), flags)
}

#[cfg(test)]
mod tests {
    use godwit_types::Code;
    use rustix::mount::{MountFlags, mount, mount_bind};

    use super::*;
    use crate::fixture::sys::with_own_mounts;

    #[test]
    fn all_that_is_in_a_directory_goes_and_nothing_that_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        std::fs::create_dir_all(own.join("a/b/c")).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("kept"), "x").unwrap();
        std::fs::write(own.join("a/b/file"), "y").unwrap();
        std::os::unix::fs::symlink(&other, own.join("a/link")).unwrap();
        std::os::unix::fs::symlink("/nonexistent", own.join("broken")).unwrap();
        empty(&own).unwrap();
        assert_eq!(std::fs::read_dir(&own).unwrap().count(), 0);
        assert!(other.join("kept").exists());
        std::os::unix::fs::symlink(&other, dir.path().join("way")).unwrap();
        assert!(empty(&dir.path().join("way")).is_err());
        assert!(other.join("kept").exists());
    }

    #[test]
    fn what_is_mounted_in_it_is_not_entered() {
        with_own_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            let (own, other) = (dir.path().join("own"), dir.path().join("other"));
            std::fs::create_dir_all(own.join("a/tmpfs")).unwrap();
            std::fs::create_dir_all(own.join("a/bound")).unwrap();
            std::fs::create_dir(&other).unwrap();
            std::fs::write(own.join("first"), "z").unwrap();
            std::fs::write(other.join("kept"), "x").unwrap();
            // Also of the same file system.
            mount_bind(&other, own.join("a/bound")).unwrap();
            let refused = empty(&own).unwrap_err();
            assert!(other.join("kept").exists() && own.join("first").exists());
            assert_eq!(refused.code(), Code::Refused);
            assert!(refused.to_string().contains("a/bound"), "{refused}");
            rustix::mount::unmount(own.join("a/bound"), rustix::mount::UnmountFlags::empty())
                .unwrap();
            mount("tmpfs", own.join("a/tmpfs"), "tmpfs", MountFlags::empty(), c"size=1m").unwrap();
            std::fs::write(own.join("a/tmpfs/kept"), "x").unwrap();
            assert!(matches!(empty(&own), Err(FilesError::Mounted { .. })));
            assert!(own.join("a/tmpfs/kept").exists());
        });
    }
}
