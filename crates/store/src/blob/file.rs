//! Objects as files of a directory.
//!
//! # Crash consistency
//! An object is written under a temporary name, synced, and only then given its name: by `link(2)`, which fails if
//! the name exists (create), or by `rename(2)` (put). Then the directory is synced. So a name always leads to whole
//! bytes, and what was acknowledged outlives a power cut. Temporary files live in `.tmp` below the root, which no key
//! can name; what a crash leaves there is removed when the store is opened a day later.
//!
//! # Cancellation
//! The work runs on the blocking pool and is not interrupted by a drop: see [`super::BlobStore`].

mod tree;
mod write;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{BlobStore, Creation, Key, Listed};
use crate::error::BlobError;
use crate::store::Access;

/// A directory, on a local disk or a network file system whose `link(2)` is atomic.
#[derive(Debug, Clone)]
pub struct FileStore {
    root: Arc<Root>,
}

#[derive(Debug)]
struct Root {
    name: String,
    path: PathBuf,
}

impl FileStore {
    /// Opens the directory, as far as `access` allows: creates it (mode 0700) where it does not exist, removes what crashes left
    /// behind.
    ///
    /// # Errors
    /// The path is not absolute, or the file system refuses.
    pub fn open(path: &Path, access: Access) -> Result<Self, BlobError> {
        let root = Root { name: format!("file://{}", path.display()), path: path.to_owned() };
        root.prepare(access).map_err(|e| root.failed("open the directory", e))?;
        Ok(Self { root: Arc::new(root) })
    }

    async fn run<T: Send + 'static>(
        &self,
        action: String,
        work: impl FnOnce(&Root) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let root = Arc::clone(&self.root);
        match tokio::task::spawn_blocking(move || work(&root)).await {
            Ok(result) => result,
            Err(e) => Err(self.root.failed(&action, io::Error::other(e))),
        }
    }
}

impl Root {
    fn prepare(&self, access: Access) -> io::Result<()> {
        if !self.path.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path must be absolute"));
        }
        match access {
            Access::Read => Ok(()),
            Access::Write => write::tidy(&self.path),
            Access::Create => write::prepare(&self.path),
        }
    }

    fn path_of(&self, key: &Key) -> PathBuf {
        self.path.join(key.as_str())
    }

    fn missing(&self, key: &Key) -> BlobError {
        BlobError::NotFound { store: self.name.clone(), key: key.clone() }
    }

    fn failed(&self, action: &str, e: io::Error) -> BlobError {
        let (store, action) = (self.name.clone(), action.to_owned());
        match e.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::InvalidInput => BlobError::Denied { store, action, source: e.into() },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                BlobError::Full { store, action, source: e.into() }
            }
            _ => BlobError::Unavailable { store, action, source: e.into() },
        }
    }

    /// Opens a file that is an object; a directory on the way or in its place is no object.
    fn open(&self, key: &Key) -> Result<(File, u64), BlobError> {
        let opened = File::open(self.path_of(key)).and_then(|f| Ok((f.metadata()?, f)));
        match opened {
            Ok((meta, file)) if meta.is_file() => Ok((file, meta.len())),
            Ok(_) => Err(self.missing(key)),
            Err(e) if is_absent(&e) => Err(self.missing(key)),
            Err(e) => Err(self.failed(&format!("read {key}"), e)),
        }
    }

    fn read(&self, key: &Key, file: &File, range: Range<u64>) -> Result<Bytes, BlobError> {
        let action = || format!("read {key}");
        let length = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|e| self.failed(&action(), io::Error::other(e)))?;
        let mut body = vec![0; length];
        file.read_exact_at(&mut body, range.start).map_err(|e| self.failed(&action(), e))?;
        Ok(body.into())
    }

    fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        let (file, size) = self.open(key)?;
        if size > limit {
            let (store, key) = (self.name.clone(), key.clone());
            return Err(BlobError::TooLarge { store, key, size, limit });
        }
        self.read(key, &file, 0..size)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        let (file, size) = self.open(key)?;
        if range.end > size || range.start > range.end {
            let (store, key) = (self.name.clone(), key.clone());
            return Err(BlobError::OutOfRange { store, key, end: range.end });
        }
        self.read(key, &file, range)
    }

    fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        match std::fs::metadata(self.path_of(key)) {
            Ok(meta) if meta.is_file() => Ok(Some(listed(key.clone(), &meta))),
            Ok(_) => Ok(None),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.failed(&format!("look at {key}"), e)),
        }
    }
}

/// A component that does not exist, or is a file where a directory would have to be.
fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn listed(key: Key, meta: &std::fs::Metadata) -> Listed {
    let modified = meta.modified().unwrap_or(std::time::SystemTime::UNIX_EPOCH);
    Listed { key, size: meta.len(), modified }
}

#[async_trait]
impl BlobStore for FileStore {
    fn name(&self) -> &str {
        &self.root.name
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        let key = key.clone();
        let action = format!("create {key}");
        let run = self.run(action.clone(), move |root| {
            write::create(&root.path, &root.path_of(&key), &body)
                .map_err(|e| root.failed(&format!("create {key}"), e))
        });
        run.await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        let key = key.clone();
        let run = self.run(format!("write {key}"), move |root| {
            write::put(&root.path, &root.path_of(&key), &body)
                .map_err(|e| root.failed(&format!("write {key}"), e))
        });
        run.await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        let key = key.clone();
        self.run(format!("read {key}"), move |root| root.get(&key, limit)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        let key = key.clone();
        self.run(format!("read {key}"), move |root| root.get_range(&key, range)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let run = self.run(format!("list {prefix}"), move |root| {
            tree::list(&root.path, &prefix, after.as_ref(), limit)
                .map_err(|e| root.failed(&format!("list {prefix}"), e))
        });
        run.await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        let key = key.clone();
        self.run(format!("look at {key}"), move |root| root.head(&key)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        let key = key.clone();
        let run = self.run(format!("delete {key}"), move |root| {
            write::delete(&root.path, &root.path_of(&key))
                .map_err(|e| root.failed(&format!("delete {key}"), e))
        });
        run.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_room_or_no_right_is_told_so_and_does_not_try_again() {
        let root = Root { name: "file:///s".to_owned(), path: PathBuf::from("/s") };
        let told = |kind: io::ErrorKind| root.failed("write x", kind.into());
        for full in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert!(matches!(told(full), BlobError::Full { .. }), "{full}");
            assert!(told(full).to_string().contains("make room"), "{full}");
        }
        for denied in [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied] {
            assert!(matches!(told(denied), BlobError::Denied { .. }), "{denied}");
        }
        assert!(matches!(told(io::ErrorKind::TimedOut), BlobError::Unavailable { .. }));
    }
}
