//! The directory of one attempt to restore, on tmpfs: CRIU's images, sockets and log.
//!
//! Owned by the shim that made it, which holds a lock on it for as long as it lives; the kernel drops the lock of a shim that was
//! killed. So whoever gets the lock of a directory knows that nobody will ever use it, and may remove it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use godwit_types::{OpId, names};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::error::{Error, Result};

/// CRIU's log of a restore.
const LOG: &str = "restore.log";

/// See the module. Removed when dropped.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    /// Dropped after the directory is removed.
    _lock: File,
}

impl WorkDir {
    /// Makes the directory of an attempt.
    ///
    /// # Errors
    /// It is there already, or cannot be made.
    pub fn make(op: OpId) -> Result<Self> {
        let parent = parent();
        if let Err(why) = Self::sweep() {
            warn!(why = why.chain(), "what dead restores have left stays");
        }
        let path = parent.join(op.to_string());
        make(&parent, &path).map_err(Error::io(format!("make {}", path.display())))
    }

    /// Removes the directories of attempts whose shims were killed.
    ///
    /// # Errors
    /// The operating system's; the rest is left to the next sweep.
    pub fn sweep() -> Result<()> {
        let parent = parent();
        sweep(&parent).map_err(Error::io(format!("sweep {}", parent.display())))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where CRIU writes its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// CRIU's first error, if it wrote one.
    #[must_use]
    pub fn first_error(&self) -> Option<String> {
        let log = std::fs::read_to_string(self.log()).ok()?;
        let line = log.lines().find(|line| line.contains("Error ("))?;
        Some(line.trim().to_owned())
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(why) = std::fs::remove_dir_all(&self.path) {
            warn!(%why, dir = %self.path.display(), "removing the directory of a restore failed");
        }
    }
}

fn parent() -> PathBuf {
    Path::new(names::RUN_DIR).join("restores")
}

fn make(parent: &Path, path: &Path) -> io::Result<WorkDir> {
    DirBuilder::new().mode(0o700).recursive(true).create(parent)?;
    // Nobody sweeps between the making and the locking.
    let _gate = locked(parent, FlockOperation::LockExclusive)?;
    DirBuilder::new().mode(0o700).create(path)?;
    let lock = locked(path, FlockOperation::NonBlockingLockExclusive)?;
    Ok(WorkDir { path: path.to_owned(), _lock: lock })
}

fn sweep(parent: &Path) -> io::Result<()> {
    for (path, _lock) in abandoned(parent)? {
        std::fs::remove_dir_all(&path)?;
        info!(dir = %path.display(), "the directory of a dead restore is removed");
    }
    Ok(())
}

/// The directories that no living shim owns, with their locks.
fn abandoned(parent: &Path) -> io::Result<Vec<(PathBuf, File)>> {
    let _gate = match locked(parent, FlockOperation::LockExclusive) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        gate => gate?,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parent)? {
        let path = entry?.path();
        match locked(&path, FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => found.push((path, lock)),
            // A living shim's, or its shim removes it at this moment.
            Err(why) if is_owned(&why) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(found)
}

fn is_owned(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotFound)
}

/// Opens and locks a directory; children do not inherit the lock.
fn locked(path: &Path, how: FlockOperation) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let dir = open(path, flags, Mode::empty())?;
    loop {
        match flock(&dir, how) {
            Err(Errno::INTR) => {}
            done => return done.map(|()| File::from(dir)).map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("restores");
        (dir, parent)
    }

    #[test]
    fn only_what_nobody_owns_is_swept() {
        let (_dir, parent) = dir();
        let (living, dead) = (parent.join("living"), parent.join("dead"));
        let owned = make(&parent, &living).unwrap();
        let killed = make(&parent, &dead).unwrap();
        std::fs::create_dir(dead.join("images")).unwrap();
        std::fs::write(dead.join("images/core-1.img"), "x").unwrap();
        sweep(&parent).unwrap();
        assert!(living.exists() && dead.exists());
        // A shim that is killed removes nothing, and its lock goes.
        flock(&killed._lock, FlockOperation::Unlock).unwrap();
        sweep(&parent).unwrap();
        assert!(living.exists() && !dead.exists());
        std::mem::forget(killed);
        drop(owned);
        assert!(!living.exists());
    }

    #[test]
    fn a_directory_is_made_once_and_no_directory_is_nothing_to_sweep() {
        let (_dir, parent) = dir();
        sweep(&parent).unwrap();
        let path = parent.join("op");
        let _owned = make(&parent, &path).unwrap();
        assert_eq!(make(&parent, &path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
