//! Changes of files that a crash cannot tear: written beside the target, synced, renamed; and what a file is now.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use godwit_wire::failpoint::site;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Ending of the name beside a target under which its next version is written. Neither containerd's imports (`*.toml`) nor systemd
/// take such a name for theirs.
const NEXT: &str = "godwit-next";

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// Nothing.
    Absent,
    /// A directory.
    Directory,
    /// A file.
    File {
        /// BLAKE3 of its bytes, in hexadecimal.
        digest: String,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: PathBuf,
    },
}

impl State {
    /// What is there now.
    ///
    /// # Errors
    /// It cannot be read, or is something else (a device, a socket).
    pub fn of(path: &Path) -> Result<Self> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Self::Absent),
            Err(why) => return Err(Error::io("look at", path)(why)),
        };
        if meta.is_symlink() {
            let target = fs::read_link(path).map_err(Error::io("read the link", path))?;
            return Ok(Self::Link { target });
        }
        match (meta.is_dir(), meta.is_file()) {
            (true, _) => Ok(Self::Directory),
            (_, true) => Ok(Self::File {
                digest: digest_of(path)?,
                mode: meta.permissions().mode() & 0o7777,
            }),
            _ => Err(Error::Refused(format!(
                "{} is neither a file nor a directory: move it away",
                path.display()
            ))),
        }
    }

    /// A file with these bytes.
    #[must_use]
    pub fn of_bytes(bytes: &[u8], mode: u32) -> Self {
        Self::File { digest: blake3::hash(bytes).to_hex().to_string(), mode }
    }
}

/// BLAKE3 of a file, in hexadecimal.
///
/// # Errors
/// It cannot be read.
pub fn digest_of(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    hasher.update_reader(file).map_err(Error::io("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Writes; each function ends when its change would outlive a power loss, unless the disk is volatile.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// Nobody waits for the disk.
    pub volatile: bool,
}

impl Disk {
    /// A file with these bytes in place of whatever file or link is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        self.replace(path, mode, |next| next.write_all(bytes))
    }

    /// A copy of `from` in place of whatever is there.
    ///
    /// # Errors
    /// One cannot be read or the other not be written.
    pub fn copy(self, from: &Path, to: &Path, mode: u32) -> Result<()> {
        let mut source = File::open(from).map_err(Error::io("open", from))?;
        self.replace(to, mode, |next| std::io::copy(&mut source, next).map(drop))
    }

    /// A symbolic link in place of whatever file or link is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn link(self, path: &Path, target: &Path) -> Result<()> {
        let next = next_of(path);
        self.remove(&next)?;
        symlink(target, &next).map_err(Error::io("make the link", &next))?;
        self.rename(&next, path)
    }

    /// Nothing there any more; it may have been gone.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Ok(()) => self.sync_parent(path),
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
            Err(why) => Err(Error::io("remove", path)(why)),
        }
    }

    /// No tree there any more; it may have been gone.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_tree(self, path: &Path) -> Result<()> {
        match fs::remove_dir_all(path) {
            Ok(()) => self.sync_parent(path),
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
            Err(why) => Err(Error::io("remove", path)(why)),
        }
    }

    /// A directory, whose parent exists.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_dir(self, path: &Path) -> Result<()> {
        match fs::create_dir(path) {
            Ok(()) => self.sync_parent(path),
            Err(why) if why.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(why) => Err(Error::io("make", path)(why)),
        }
    }

    /// Removes a directory if nothing is in it.
    ///
    /// # Errors
    /// It cannot be removed although it is empty.
    pub fn remove_empty(self, path: &Path) -> Result<()> {
        match fs::remove_dir(path) {
            Ok(()) => self.sync_parent(path),
            Err(why) => match why.kind() {
                ErrorKind::NotFound
                | ErrorKind::DirectoryNotEmpty
                | ErrorKind::ResourceBusy
                | ErrorKind::NotADirectory => Ok(()),
                _ => Err(Error::io("remove", path)(why)),
            },
        }
    }

    fn replace(
        self,
        path: &Path,
        mode: u32,
        fill: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<()> {
        let next = next_of(path);
        // It may be a link that somebody has put there: never written through.
        self.remove(&next)?;
        let mut file = File::create_new(&next).map_err(Error::io("make", &next))?;
        fill(&mut file).map_err(Error::io("write", &next))?;
        let permissions = Permissions::from_mode(mode);
        file.set_permissions(permissions).map_err(Error::io("set the mode of", &next))?;
        if !self.volatile {
            file.sync_all().map_err(Error::io("sync", &next))?;
        }
        self.rename(&next, path)
    }

    fn rename(self, next: &Path, path: &Path) -> Result<()> {
        site("install.written");
        fs::rename(next, path).map_err(Error::io("put in place", path))?;
        self.sync_parent(path)
    }

    fn sync_parent(self, path: &Path) -> Result<()> {
        if self.volatile {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(path);
        let dir = File::open(parent).map_err(Error::io("open", parent))?;
        dir.sync_all().map_err(Error::io("sync", parent))
    }
}

/// Where the next version of a file is written.
#[must_use]
pub fn next_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{NEXT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Disk = Disk { volatile: false };

    #[test]
    fn a_program_in_use_is_replaced_and_what_runs_keeps_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sleep");
        DISK.copy(Path::new("/bin/sleep"), &path, 0o755).unwrap();
        let mut child = std::process::Command::new(&path).arg("60").spawn().unwrap();
        DISK.put(&path, b"new", 0o755).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_state_tells_bytes_mode_and_target() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert_eq!(State::of(&path).unwrap(), State::Absent);
        DISK.put(&path, b"one", 0o600).unwrap();
        assert_eq!(State::of(&path).unwrap(), State::of_bytes(b"one", 0o600));
        assert_ne!(State::of(&path).unwrap(), State::of_bytes(b"one", 0o644));
        DISK.link(&path, Path::new("/nowhere")).unwrap();
        assert_eq!(State::of(&path).unwrap(), State::Link { target: "/nowhere".into() });
        DISK.remove(&path).unwrap();
        DISK.remove(&path).unwrap();
        assert_eq!(State::of(dir.path()).unwrap(), State::Directory);
    }

    #[test]
    fn what_a_crash_has_left_beside_a_file_is_written_over_and_not_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("x"), dir.path().join("victim"));
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, next_of(&path)).unwrap();
        DISK.put(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(!next_of(&path).exists());
    }
}
