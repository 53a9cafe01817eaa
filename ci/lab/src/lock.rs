//! One user of one thing at a time, by `flock`: a lab, a step that fills the cache. Ends with the process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};
use crate::places;

/// How often a waiting process looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// An exclusive lock on a file, until dropped. The file holds the holder's process id, for messages only.
#[derive(Debug)]
pub(crate) struct LabLock {
    _file: File,
}

impl LabLock {
    /// Takes the lock, waiting up to `patience` for another holder; says so on standard error when it has to wait.
    ///
    /// # Errors
    /// [`LabError::Held`] when the other holder does not end in time.
    pub(crate) fn take(path: &Path, name: &str, patience: Duration) -> Result<Self> {
        if let Some(dir) = path.parent() {
            places::make_dir(dir)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(LabError::io("opening", path))?;
        wait_for(&file, path, name, patience)?;
        file.set_len(0).map_err(LabError::io("writing", path))?;
        write!(file, "{}", std::process::id()).map_err(LabError::io("writing", path))?;
        Ok(Self { _file: file })
    }
}

fn wait_for(file: &File, path: &Path, name: &str, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(LabError::io("locking", path)(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        let holder = places::read(path).unwrap_or_default();
        if Instant::now() >= end {
            return Err(LabError::Held { lab: name.to_owned(), holder });
        }
        if !told {
            eprintln!("waiting for {name}, in use by process {holder}");
            told = true;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it_and_gets_it_after_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = LabLock::take(&path, "x", Duration::ZERO).unwrap();
        let refused = LabLock::take(&path, "x", Duration::ZERO).unwrap_err();
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        // A program being started elsewhere in this process shares the descriptor for a moment.
        LabLock::take(&path, "x", Duration::from_secs(10)).unwrap();
    }
}
