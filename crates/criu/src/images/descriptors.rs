//! `descriptors.json`: what the container's standard streams were. runc maps the pipes among them to the new ones.

use std::path::Path;

use crate::Error;
use crate::images::read_bounded;

/// Name of the file, runc's.
pub const FILE: &str = "descriptors.json";
/// Three links.
const MAX_FILE: usize = 64 << 10;

/// What descriptors 0, 1 and 2 of this process are (`pipe:[123]`, `/dev/null`), in runc's words.
///
/// # Errors
/// [`Error::Io`] when the process is gone or has closed one of them.
pub fn of_process(pid: u32) -> Result<[String; 3], Error> {
    let link = |fd: u32| {
        let path = format!("/proc/{pid}/fd/{fd}");
        std::fs::read_link(&path)
            .map(|l| l.to_string_lossy().into_owned())
            .map_err(Error::io(format!("read {path}")))
    };
    Ok([link(0)?, link(1)?, link(2)?])
}

/// As [`of_process`]; a stream that the process has closed is an empty word, which runc ignores.
#[must_use]
pub fn of_process_lossy(pid: u32) -> [String; 3] {
    [0, 1, 2].map(|fd| {
        std::fs::read_link(format!("/proc/{pid}/fd/{fd}"))
            .map(|l| l.to_string_lossy().into_owned())
            .unwrap_or_default()
    })
}

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
        let links = of_process(std::process::id()).unwrap();
        write(dir.path(), &links).unwrap();
        assert_eq!(read(dir.path()).unwrap(), links);
        assert_eq!(of_process_lossy(std::process::id()), links);
        std::fs::write(dir.path().join(FILE), "[1]").unwrap();
        assert!(matches!(read(dir.path()), Err(Error::Image { .. })));
    }
}
