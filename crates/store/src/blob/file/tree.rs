//! LIST over a directory tree, in the order of the keys' bytes.

use std::fs;
use std::io;
use std::path::Path;

use crate::blob::{Key, Listed};

/// Up to `limit` objects below `root`; see [`crate::blob::BlobStore::list`].
pub(super) fn list(
    root: &Path,
    prefix: &str,
    after: Option<&Key>,
    limit: usize,
) -> io::Result<Vec<Listed>> {
    let mut walk = Walk { root, prefix, after: after.map(Key::as_str), limit, found: Vec::new() };
    // Only one directory can hold keys with this prefix.
    let start = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
    let inside = start.is_empty() || Key::new(start).is_ok();
    if inside {
        walk.directory(start)?;
    }
    Ok(walk.found)
}

struct Walk<'a> {
    root: &'a Path,
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    found: Vec<Listed>,
}

struct Entry {
    /// The key, with a `/` behind a directory: so that a plain sort gives the order of the keys below.
    key: String,
    is_directory: bool,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &str) -> io::Result<()> {
        for entry in self.entries(directory)? {
            if self.found.len() >= self.limit {
                break;
            }
            self.entry(entry)?;
        }
        Ok(())
    }

    fn entries(&self, directory: &str) -> io::Result<Vec<Entry>> {
        let read = match fs::read_dir(self.root.join(directory)) {
            Ok(read) => read,
            Err(e) if super::is_absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut entries = Vec::new();
        for entry in read {
            entries.extend(self.relevant(directory, &entry?)?);
        }
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// The entry, if it is an object (or a directory that may hold one) of this listing.
    fn relevant(&self, directory: &str, entry: &fs::DirEntry) -> io::Result<Option<Entry>> {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { return Ok(None) };
        let path =
            if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
        if Key::new(path.as_str()).is_err() {
            return Ok(None);
        }
        // Some file systems are asked for it, and it may be gone by then.
        let kind = match entry.file_type() {
            Err(e) if super::is_absent(&e) => return Ok(None),
            other => other?,
        };
        let (key, is_directory) = if kind.is_dir() { (path + "/", true) } else { (path, false) };
        let wanted = (kind.is_dir() || kind.is_file())
            && (key.starts_with(self.prefix) || is_directory && self.prefix.starts_with(&key))
            && !self.is_before(&key, is_directory);
        Ok(wanted.then_some(Entry { key, is_directory }))
    }

    /// Whether nothing of the entry comes after the key where the listing starts.
    fn is_before(&self, key: &str, is_directory: bool) -> bool {
        self.after.is_some_and(|after| key <= after && !(is_directory && after.starts_with(key)))
    }

    fn entry(&mut self, entry: Entry) -> io::Result<()> {
        if entry.is_directory {
            return self.directory(entry.key.trim_end_matches('/'));
        }
        let Ok(key) = Key::new(entry.key) else { return Ok(()) };
        match fs::metadata(self.root.join(key.as_str())) {
            Ok(meta) => self.found.push(super::listed(key, &meta)),
            // Deleted while we looked.
            Err(e) if super::is_absent(&e) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_keys_not_of_the_directories() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b", "a-b/c", "a.txt", "a/a", "b", ".hidden/x", "a/.h"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let keys = |prefix: &str, after: Option<&str>, limit| {
            let after = after.map(|a| Key::new(a).unwrap());
            let found = list(dir.path(), prefix, after.as_ref(), limit).unwrap();
            found.into_iter().map(|l| l.key.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(keys("", None, 9), ["a-b/c", "a.txt", "a/a", "a/b", "b"]);
        assert_eq!(keys("a", Some("a/a"), 9), ["a/b"]);
        assert_eq!(keys("a/", None, 1), ["a/a"]);
        assert_eq!(keys("", Some("a.txt"), 9), ["a/a", "a/b", "b"]);
        assert_eq!(keys("../", None, 9), Vec::<String>::new());
        assert_eq!(keys("nowhere/x", None, 9), Vec::<String>::new());
    }
}
