//! Files without a name that CRIU has copied into its images ("ghosts").

use std::collections::BTreeSet;

use godwit_criu_rpc::image_file::{Kind, MAX_FILE, first_record};
use godwit_criu_rpc::images::GhostFile;

use super::{ImageDir, read_bounded};
use crate::Error;

/// Which files they were: device and inode of the node that was left. What CRIU does not say of one is left out.
///
/// # Errors
/// An image is malformed.
pub fn files(images: &ImageDir) -> Result<BTreeSet<(u32, u64)>, Error> {
    let mut all = BTreeSet::new();
    for name in names(images)? {
        let ghost = record(images, &name)?;
        all.extend(ghost.dev.zip(ghost.ino));
    }
    Ok(all)
}

/// Their images.
pub(crate) fn names(images: &ImageDir) -> Result<Vec<String>, Error> {
    images.names("ghost-file-")
}

/// What one says of its file, whose contents follow.
pub(crate) fn record(images: &ImageDir, name: &str) -> Result<GhostFile, Error> {
    let bytes = match read_bounded(&images.path().join(name), MAX_FILE) {
        Ok(bytes) => bytes,
        Err(Error::Image { .. }) => head(images, name)?,
        Err(e) => return Err(e),
    };
    Ok(first_record(Kind::GhostFile, name, &bytes)?)
}

/// The first bytes of a large file.
fn head(images: &ImageDir, name: &str) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let path = images.path().join(name);
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|f| f.take(4096).read_to_end(&mut bytes))
        .map_err(Error::reading(&path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::tasks::tests::write;

    #[test]
    fn copied_files_are_known_by_device_and_inode() {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        let ghost = |ino| GhostFile { dev: Some(7), ino, ..GhostFile::default() };
        for (name, ino) in [("ghost-file-1.img", Some(9)), ("ghost-file-2.img", None)] {
            write(&images, Kind::GhostFile, name, &[ghost(ino)]);
        }
        assert_eq!(files(&images).unwrap(), BTreeSet::from([(7, 9)]));
    }
}
