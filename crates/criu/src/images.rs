//! Reading, building and editing a directory of CRIU's images.
//!
//! Owns what Godwit needs of them: the processes and their mappings ([`tasks`]), page maps for a lazy or eager restore
//! ([`pagemap`]), sockets under another address ([`inet`]), limits of the new spec ([`limits`]), the container's
//! standard streams ([`descriptors`]), copied files ([`ghosts`]), CRIU's own numbers ([`stats`]). Everything that is read may come from a hostile
//! checkpoint: sizes and counts are checked before anything is allocated. Judging contents is [`crate::vet`]'s.

pub mod descriptors;
pub mod ghosts;
pub mod inet;
pub mod limits;
pub mod pagemap;
pub mod stats;
mod streams;
pub mod tasks;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use godwit_criu_rpc::image_file::{ImageFile, Kind, MAX_FILE};

use crate::Error;

/// Most files in an image directory: a few for each of 65 536 processes and threads.
const MAX_FILES: usize = 1 << 20;

/// A directory of images.
#[derive(Debug, Clone)]
pub struct ImageDir(PathBuf);

impl ImageDir {
    /// The directory at this path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads one image.
    ///
    /// # Errors
    /// [`Error::Io`] (with `NotFound` when there is none), [`Error::Rpc`] when it is malformed.
    pub fn read(&self, kind: Kind, name: &str) -> Result<ImageFile, Error> {
        let bytes = read_bounded(&self.0.join(name), MAX_FILE)?;
        Ok(ImageFile::parse(kind, name, &bytes)?)
    }

    /// As [`ImageDir::read`], `None` when there is none.
    ///
    /// # Errors
    /// As [`ImageDir::read`].
    pub fn read_if_there(&self, kind: Kind, name: &str) -> Result<Option<ImageFile>, Error> {
        match self.read(kind, name) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Writes one image, replacing it as a whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, name: &str, image: &ImageFile) -> Result<(), Error> {
        let path = self.0.join(name);
        std::fs::write(&path, image.encode())
            .map_err(Error::io(format!("write {}", path.display())))
    }

    /// Removes a file if it is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.0.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()))(e))
            }
            _ => Ok(()),
        }
    }

    /// Names of the images `<prefix>*.img`, sorted.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Image`] when there are absurdly many.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let io = |e| Error::reading(&self.0)(e);
        let mut names = Vec::new();
        for (count, item) in std::fs::read_dir(&self.0).map_err(io)?.enumerate() {
            if count > MAX_FILES {
                return Err(Error::image(self.0.display().to_string(), "too many files"));
            }
            let name = item.map_err(io)?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(prefix) && name.ends_with(".img") {
                names.push(name.into_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let file = std::fs::File::open(path).map_err(Error::reading(path))?;
    let meta = file.metadata().map_err(Error::reading(path))?;
    if !meta.is_file() || meta.len() > limit as u64 {
        let name = path.display().to_string();
        return Err(Error::image(name, format!("not a file of at most {limit} bytes")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    file.take(limit as u64).read_to_end(&mut bytes).map_err(Error::reading(path))?;
    Ok(bytes)
}
