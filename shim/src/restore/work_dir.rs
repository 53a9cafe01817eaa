//! The directory of one attempt to restore, on tmpfs: CRIU's images, sockets and log.
//!
//! Owned by the shim that made it, which holds a lock on it for as long as it lives; the kernel drops the lock of a shim that was
//! killed. So whoever gets the lock of a directory knows that nobody will ever use it, and may remove it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use godwit_criu_rpc::log::{self, LogError};
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
    /// The first of the operating system; that one is left to the next sweep, all others are removed.
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
    fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// CRIU's first error, if it wrote one. All of its log goes into ours: its own goes with the directory.
    #[must_use]
    pub fn first_error(&self) -> Option<LogError> {
        let text = log::read(&self.log());
        text.lines().for_each(|line| warn!(criu = line, "a restore has failed"));
        log::first_error(&text)
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

/// Directories with their locks.
type Locked = Vec<(PathBuf, File)>;

fn sweep(parent: &Path) -> io::Result<()> {
    let (found, unlocked) = abandoned(parent)?;
    remove(found).and(unlocked)
}

/// Goes on after an error; returns the first.
fn remove(found: Locked) -> io::Result<()> {
    let mut outcome = Ok(());
    for (path, _lock) in found {
        match std::fs::remove_dir_all(&path) {
            Ok(()) => info!(dir = %path.display(), "the directory of a dead restore is removed"),
            // Its owner removed it, then dropped the lock.
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => outcome = outcome.and(Err(why)),
        }
    }
    outcome
}

/// The directories that no living shim owns, and the first error of those that could not be locked.
fn abandoned(parent: &Path) -> io::Result<(Locked, io::Result<()>)> {
    let _gate = match locked(parent, FlockOperation::LockExclusive) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Ok(()))),
        gate => gate?,
    };
    let (mut found, mut outcome) = (Vec::new(), Ok(()));
    for entry in std::fs::read_dir(parent)? {
        let path = entry?.path();
        match locked(&path, FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => found.push((path, lock)),
            Err(why) if is_none(&why) => {}
            Err(why) => outcome = outcome.and(Err(why)),
        }
    }
    Ok((found, outcome))
}

/// A living shim's, or its shim removes it at this moment, or it is no directory and so nobody's attempt.
fn is_none(why: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, WouldBlock};
    matches!(why.kind(), WouldBlock | NotFound | NotADirectory)
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
    fn what_is_no_directory_stays_and_does_not_end_a_sweep() {
        let (_dir, parent) = dir();
        // So that one comes before the directory in any order.
        for name in ["a", "z"] {
            std::fs::create_dir_all(&parent).unwrap();
            std::fs::write(parent.join(name), "x").unwrap();
        }
        let dead = parent.join("m");
        let killed = make(&parent, &dead).unwrap();
        flock(&killed._lock, FlockOperation::Unlock).unwrap();
        sweep(&parent).unwrap();
        assert!(!dead.exists() && parent.join("a").exists() && parent.join("z").exists());
        std::mem::forget(killed);
    }

    #[test]
    fn a_directory_that_is_gone_and_one_that_stays_do_not_keep_the_others() {
        let (_dir, parent) = dir();
        let owned = make(&parent, &parent.join("dead")).unwrap();
        let plain = parent.join("plain");
        std::fs::write(&plain, "x").unwrap();
        let lock = || File::open(&parent).unwrap();
        let gone = (parent.join("gone"), lock());
        remove(vec![gone, (owned.path().to_owned(), lock())]).unwrap();
        assert!(!owned.path().exists());
        std::fs::create_dir(owned.path()).unwrap();
        assert!(remove(vec![(plain, lock()), (owned.path().to_owned(), lock())]).is_err());
        assert!(!owned.path().exists());
        std::mem::forget(owned);
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
