//! The shim's socket: one per group of containers, found by everyone from what containerd tells.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Where containerd keeps the sockets of shims, unless it says otherwise.
const DIRECTORY: &str = "/run/containerd/s";

/// The path of the socket, by the rule of containerd's own shims: who knows the names finds the shim. It is a digest because the
/// path of a socket is limited to 107 bytes.
#[must_use]
pub fn path(directory: Option<&str>, address: &str, namespace: &str, group: &str) -> PathBuf {
    let digest = Sha256::digest(format!("{address}/{namespace}/{group}"));
    let mut name = String::with_capacity(64);
    for byte in digest {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    Path::new(directory.unwrap_or(DIRECTORY)).join(name)
}

/// As containerd wants it.
#[must_use]
pub fn url(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// Binds the socket; `None` if a shim of this group serves it already.
///
/// # Errors
/// The directory cannot be written.
pub fn bind(path: &Path) -> Result<Option<UnixListener>> {
    let attempt = || Error::io(format!("bind {}", path.display()));
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(attempt())?;
    }
    let listener = match UnixListener::bind(path) {
        Err(why) if why.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(None);
            }
            // Left behind by a shim that was killed.
            std::fs::remove_file(path).map_err(attempt())?;
            UnixListener::bind(path).map_err(attempt())?
        }
        other => other.map_err(attempt())?,
    };
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(attempt())?;
    Ok(Some(listener))
}

/// Removes the socket if nobody serves it. Returns whether nobody does.
pub fn remove_stale(path: &Path) -> bool {
    let stale = UnixStream::connect(path).is_err();
    if stale {
        // Its absence is what we want.
        let _ = std::fs::remove_file(path);
    }
    stale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_served_socket_is_shared_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/s");
        let first = bind(&path).unwrap().unwrap();
        assert!(bind(&path).unwrap().is_none());
        assert!(!remove_stale(&path));
        assert!(path.exists());
        drop(first);
        // A child of another test may hold a copy until it executes its program.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while bind(&path).unwrap().is_none() {
            assert!(std::time::Instant::now() < until, "it is still served");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_path_is_short_and_differs_by_group() {
        let long = "x".repeat(76);
        let path_of = |group: &str| path(None, "/run/containerd/containerd.sock", &long, group);
        assert!(path_of("a").as_os_str().len() < 100);
        assert_ne!(path_of("a"), path_of("b"));
    }

    #[test]
    fn the_path_is_that_of_containerds_own_shims() {
        let found = path(None, "/run/containerd/containerd.sock", "k8s.io", "pod1");
        // printf /run/containerd/containerd.sock/k8s.io/pod1 | sha256sum
        let digest = "8e264b1ad347c80aee5f3dea6e4bb53d72026989222058782273d5db043c7723";
        assert_eq!(found, Path::new(DIRECTORY).join(digest));
    }
}
