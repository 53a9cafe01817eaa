//! Sealed memfds: things larger than a packet, that nobody can change or shorten after they were checked.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::WireError;

const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// A memfd that holds exactly these bytes, sealed against every change.
///
/// # Errors
/// [`WireError::Io`].
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, WireError> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING))
        .map_err(WireError::io("memfd_create"))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).map_err(|source| WireError::Io { action: "filling a memfd", source })?;
    let fd = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(WireError::io("sealing a memfd"))?;
    Ok(fd)
}

/// The bytes of a sealed memfd, at most `limit` of them.
///
/// # Errors
/// [`WireError::Field`] if it is not sealed against writing and shrinking or holds more than `limit` bytes; [`WireError::Io`].
pub fn read(fd: OwnedFd, limit: u64) -> Result<Vec<u8>, WireError> {
    let seals = rustix::fs::fcntl_get_seals(&fd).unwrap_or(SealFlags::empty());
    if !seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW) {
        return Err(WireError::Field { field: "memfd", value: "not sealed".to_owned() });
    }
    let mut file = std::fs::File::from(fd);
    let io = |source| WireError::Io { action: "reading a memfd", source };
    let len = file.metadata().map_err(io)?.len();
    if len > limit {
        return Err(WireError::Field { field: "memfd", value: format!("{len} bytes") });
    }
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    file.read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_read_back_and_cannot_be_changed() {
        let fd = sealed("spec", b"{}").expect("memfd");
        let other = std::fs::File::from(fd.try_clone().expect("dup"));
        assert!((&other).write(b"x").is_err());
        assert!(other.set_len(0).is_err());
        assert_eq!(read(fd, 16).expect("read"), b"{}");
    }

    #[test]
    fn unsealed_and_oversized_memfds_are_refused() {
        let open = rustix::fs::memfd_create("x", MemfdFlags::ALLOW_SEALING).expect("memfd");
        assert!(matches!(read(open, 16), Err(WireError::Field { .. })));
        let long = sealed("x", &[0; 17]).expect("memfd");
        assert!(matches!(read(long, 16), Err(WireError::Field { .. })));
    }
}
