//! Durable, atomic changes of a directory: whole bytes under a name, or no name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ulid::Ulid;

use crate::blob::Creation;

/// Directory of unfinished files; no key can name it.
const TEMPORARY: &str = ".tmp";
/// A file that is older was left by a crash.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// A directory may be removed, empty, between our `mkdir` and our `link`: then both are done again.
const TRIES: usize = 16;

/// Makes the root usable.
pub(super) fn prepare(root: &Path) -> io::Result<()> {
    make_directories(&root.join(TEMPORARY))?;
    tidy(root)
}

/// Removes what crashes left behind, where anything is.
pub(super) fn tidy(root: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(TEMPORARY)) {
        Err(e) if super::is_absent(&e) => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if is_abandoned(&entry) {
            // What cannot be removed now, because nothing can be written here, harms nobody.
            let _ = remove_if_there(&entry.path());
        }
    }
    Ok(())
}

fn is_abandoned(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|m| m.modified());
    modified.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age > ABANDONED))
}

/// Creates `path` with `body`, unless it exists.
///
/// An error means that nothing was given the name. A failure to sync the directory after that is
/// [`Creation::Unknown`]: the object is visible, and may be gone after a power cut.
pub(super) fn create(root: &Path, path: &Path, body: &[u8]) -> io::Result<Creation> {
    let unfinished = Unfinished::write(root, body)?;
    match name(root, path, |path| fs::hard_link(&unfinished.0, path)) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Creation::Exists),
        Err(e) => return unnamed(e),
    }
    Ok(match sync_parent(path) {
        Ok(()) => Creation::Created,
        Err(e) => Creation::Unknown(format!("linked, but the directory could not be synced: {e}")),
    })
}

/// Whether a failed `link(2)` had no effect. A network file system can lose the reply to a link that took place.
fn unnamed(e: io::Error) -> io::Result<Creation> {
    match e.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::ReadOnlyFilesystem => Err(e),
        _ => Ok(Creation::Unknown(format!("link failed: {e}"))),
    }
}

/// Writes `path`, replacing what is there.
pub(super) fn put(root: &Path, path: &Path, body: &[u8]) -> io::Result<()> {
    let unfinished = Unfinished::write(root, body)?;
    name(root, path, |path| fs::rename(&unfinished.0, path))?;
    sync_parent(path)
}

/// Deletes `path` and the directories that become empty by it.
pub(super) fn delete(root: &Path, path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if super::is_absent(&e) || e.kind() == io::ErrorKind::IsADirectory => return Ok(()),
        Err(e) => return Err(e),
    }
    sync_parent(path)?;
    // A directory that is not empty, or was filled again meanwhile, stays.
    let above = path.ancestors().skip(1).take_while(|dir| *dir != root);
    for directory in above {
        if fs::remove_dir(directory).is_err() {
            break;
        }
    }
    Ok(())
}

fn name(root: &Path, path: &Path, link: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut left = TRIES;
    loop {
        match make_parents(root, path).and_then(|()| link(path)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && left > 0 => left -= 1,
            result => return result,
        }
    }
}

/// Creates the directories between `root` and `path` that do not exist, each durably.
fn make_parents(root: &Path, path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if parent == root || parent.is_dir() {
        return Ok(());
    }
    make_parents(root, parent)?;
    match DirBuilder::new().mode(0o700).create(parent) {
        Ok(()) => sync_parent(parent),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Removed again above us: the caller's link fails with the same and tries again.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn make_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match File::open(parent) {
        Ok(directory) => directory.sync_all(),
        // Removed, empty, by a delete next to us: nothing of ours is in it. Or it was, and is there again.
        Err(e) if e.kind() == io::ErrorKind::NotFound => match path.exists() {
            true => File::open(parent)?.sync_all(),
            false => Ok(()),
        },
        Err(e) => Err(e),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A synced file without its final name; removed on drop (a renamed one is gone already).
struct Unfinished(PathBuf);

impl Unfinished {
    fn write(root: &Path, body: &[u8]) -> io::Result<Self> {
        let path = root.join(TEMPORARY).join(Ulid::generate().to_string());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let unfinished = Self(path);
        file.write_all(body)?;
        file.sync_all()?;
        Ok(unfinished)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Best effort: what stays is removed when the store is opened a day later.
        let _ = remove_if_there(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_is_removed_a_day_later_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path()).unwrap();
        let (old, new) = (dir.path().join(".tmp/old"), dir.path().join(".tmp/new"));
        for path in [&old, &new] {
            fs::write(path, "x").unwrap();
        }
        let yesterday = SystemTime::now() - ABANDONED - Duration::from_secs(60);
        File::options().write(true).open(&old).unwrap().set_modified(yesterday).unwrap();
        prepare(dir.path()).unwrap();
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn nothing_temporary_stays_behind_a_write() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path()).unwrap();
        let path = dir.path().join("a/b");
        assert_eq!(create(dir.path(), &path, b"1").unwrap(), Creation::Created);
        assert_eq!(create(dir.path(), &path, b"2").unwrap(), Creation::Exists);
        put(dir.path(), &path, b"3").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"3");
        assert_eq!(fs::read_dir(dir.path().join(TEMPORARY)).unwrap().count(), 0);
        delete(dir.path(), &path).unwrap();
        assert!(!dir.path().join("a").exists(), "an empty directory was left");
    }
}
