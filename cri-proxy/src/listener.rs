//! Where the listening socket comes from: systemd, a predecessor, or a path.
//!
//! An inherited socket (`LISTEN_FDS`, sd_listen_fds(3)) goes before a path: its file and its queue outlive every process that
//! serves it, so clients that connect between two processes wait and do not fail.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use listenfd::ListenFd;

use crate::error::ProxyError;

/// The socket to serve, not blocking.
///
/// # Errors
/// There is none, it is served already, or it cannot be made.
pub fn listener(path: Option<&Path>) -> Result<UnixListener, ProxyError> {
    let mut inherited = ListenFd::from_env();
    let listener = match inherited.take_unix_listener(0).map_err(ProxyError::Inherited)? {
        Some(listener) => listener,
        None => bind(path.ok_or(ProxyError::NoSocket)?)?,
    };
    listener.set_nonblocking(true).map_err(ProxyError::Inherited)?;
    Ok(listener)
}

/// Makes the socket, root's alone. A socket that nobody serves any more is replaced.
fn bind(path: &Path) -> Result<UnixListener, ProxyError> {
    let failed = |source| ProxyError::Listen { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    remove_dead(path)?;
    // Made under another name: nobody connects before it is root's alone.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = Path::new(&hidden);
    let listener = UnixListener::bind(hidden).map_err(failed)?;
    std::fs::set_permissions(hidden, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(hidden, path).map_err(failed)?;
    Ok(listener)
}

fn remove_dead(path: &Path) -> Result<(), ProxyError> {
    let failed = |source| ProxyError::Listen { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ProxyError::NoSocketFile { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(_) => Err(ProxyError::InUse { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_roots_alone_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/cri.sock");
        let first = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let refused = bind(&path).unwrap_err().to_string();
        assert!(refused.contains("another process serves"), "{refused}");
        drop(first);
        let _second = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left behind: {names:?}");
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "mine").unwrap();
        let refused = bind(&path).unwrap_err().to_string();
        assert!(refused.contains("say another path"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
