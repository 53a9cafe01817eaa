//! `descriptors.json`: what the container's standard streams were. runc maps the pipes among them to the new ones.

use std::path::Path;

use crate::Error;
use crate::images::read_bounded;

/// Name of the file, runc's.
pub const FILE: &str = "descriptors.json";
/// Three links.
const MAX_FILE: usize = 64 << 10;

/// Writes the file.
///
/// # Errors
/// [`Error::Io`].
pub fn write(images: &Path, descriptors: &[String; 3]) -> Result<(), Error> {
    let path = images.join(FILE);
    let bytes = serde_json::to_vec(descriptors).map_err(|e| Error::image(FILE, e.to_string()))?;
    std::fs::write(&path, bytes).map_err(Error::io(format!("write {}", path.display())))
}

/// Reads the file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Image`] unless it holds three short words.
pub fn read(images: &Path) -> Result<[String; 3], Error> {
    let bytes = read_bounded(&images.join(FILE), MAX_FILE)?;
    serde_json::from_slice(&bytes).map_err(|e| Error::image(FILE, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_are_read_back_as_runc_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let links = ["", "pipe:[7]", "pipe:[8]"].map(str::to_owned);
        write(dir.path(), &links).unwrap();
        assert_eq!(read(dir.path()).unwrap(), links);
        std::fs::write(dir.path().join(FILE), "[1]").unwrap();
        assert!(matches!(read(dir.path()), Err(Error::Image { .. })));
    }
}
