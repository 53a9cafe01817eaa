//! Extended attributes: which belong to a file, and which are the overlay's own notes about it.
//!
//! Captured: `user.*`, `trusted.*`, POSIX ACLs and file capabilities. Labels of a security module (`security.selinux`, IMA,
//! …) are the node's business and come from the new container. The overlay's notes live under a prefix of their own in the
//! upper directory; what the container itself sets there is escaped by the kernel (`trusted.overlay.x` of the container is
//! `trusted.overlay.overlay.x` in the upper directory, Linux 6.7) and is captured as the container sees it.

use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr};
use rustix::io::Errno;

use crate::error::At as _;
use crate::index::limits::{MAX_XATTR, MAX_XATTRS};
use crate::upper::Marks;
use crate::{FilesError, Xattr};

/// Longest list of names: `XATTR_LIST_MAX`.
const MAX_LIST: usize = 64 << 10;

/// Whether attributes of this name belong to the file.
pub(crate) fn is_captured(name: &[u8]) -> bool {
    const WHOLE: [&[u8]; 3] =
        [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
    let in_namespace = |prefix: &[u8]| name.len() > prefix.len() && name.starts_with(prefix);
    in_namespace(b"user.") || in_namespace(b"trusted.") || WHOLE.contains(&name)
}

/// What the overlay notes about a name in its upper directory.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notes {
    /// A directory hides what is below it.
    pub(crate) opaque: bool,
    /// A file of no bytes stands for a whiteout.
    pub(crate) whiteout: bool,
}

/// Attributes of a name in an upper directory: those of the file, ascending, and the overlay's notes. `path` is a way to
/// the name whose last component is not followed; `shown` is for errors.
pub(crate) fn of_upper(
    path: &Path,
    shown: &Path,
    marks: Marks,
) -> Result<(Vec<Xattr>, Notes), FilesError> {
    let (mut out, mut notes, mut total) = (Vec::new(), Notes::default(), 0);
    for name in names(path).at("list the attributes of", shown)? {
        let name = match marks.prefix().zip(marks.note(&name)) {
            // Escaped: the container's own.
            Some((prefix, rest)) if rest.starts_with(b"overlay.") => [prefix, &rest[8..]].concat(),
            Some((_, note)) => {
                notes.read(note, path, shown, &name)?;
                continue;
            }
            None => name.clone(),
        };
        if !is_captured(&name) {
            continue;
        }
        let stored = marks.escape(&name);
        let Some(value) = value(path, &stored).at("read an attribute of", shown)? else { continue };
        total += name.len() + value.len();
        if total > MAX_XATTRS {
            let why = "its extended attributes have more than 1 MiB";
            return Err(FilesError::Unsupported { path: shown.to_owned(), why });
        }
        out.push(Xattr { name, value });
    }
    out.sort_unstable();
    Ok((out, notes))
}

impl Notes {
    /// Reads one note of the overlay. Those that a restore cannot make again are refused; the rest is the kernel's own
    /// bookkeeping about inodes of this node.
    fn read(
        &mut self,
        note: &[u8],
        path: &Path,
        shown: &Path,
        name: &[u8],
    ) -> Result<(), FilesError> {
        let refuse = |why| Err(FilesError::Unsupported { path: shown.to_owned(), why });
        match note {
            b"opaque" => {
                self.opaque =
                    value(path, name).at("read an attribute of", shown)? == Some(b"y".to_vec());
            }
            b"whiteout" => self.whiteout = true,
            b"redirect" => {
                return refuse("it was renamed in place: mount overlays with redirect_dir=off");
            }
            b"metacopy" => {
                return refuse("only its attributes were copied: mount overlays with metacopy=off");
            }
            b"protattr" => return refuse("it is immutable or append-only: clear that with chattr"),
            _ => {}
        }
        Ok(())
    }
}

/// Makes the attributes of a name exactly these, as far as they are of a kind that is captured. `escape` gives the name
/// under which an attribute is set.
pub(crate) fn set_exactly(
    path: &Path,
    wanted: &[Xattr],
    escape: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<(), Errno> {
    let wanted: Vec<(Vec<u8>, &[u8])> =
        wanted.iter().map(|x| (escape(&x.name), x.value.as_slice())).collect();
    for name in names(path)? {
        if is_captured(&name) && !wanted.iter().any(|(n, _)| *n == name) {
            match lremovexattr(path, name.as_slice()) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(e) => return Err(e),
            }
        }
    }
    wanted
        .iter()
        .try_for_each(|(name, value)| lsetxattr(path, name.as_slice(), value, XattrFlags::empty()))
}

/// All names. File systems without attributes have none.
fn names(path: &Path) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list = [0u8; 1024];
    let list = match llistxattr(path, &mut list[..]) {
        Ok(n) => list[..n].to_vec(),
        Err(Errno::RANGE) => {
            let mut list = vec![0; MAX_LIST];
            let n = llistxattr(path, list.as_mut_slice())?;
            list.truncate(n);
            list
        }
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(e) => return Err(e),
    };
    Ok(list.split(|b| *b == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// The value, or `None` if it has just gone.
fn value(path: &Path, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut out = vec![0; 256];
    let n = match lgetxattr(path, name, out.as_mut_slice()) {
        Err(Errno::RANGE) => {
            out.resize(MAX_XATTR, 0);
            lgetxattr(path, name, out.as_mut_slice())
        }
        other => other,
    };
    match n {
        Ok(n) => {
            out.truncate(n);
            Ok(Some(out))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_the_file_are_captured_and_labels_of_the_node_are_not() {
        for name in ["user.a", "trusted.b", "security.capability", "system.posix_acl_access"] {
            assert!(is_captured(name.as_bytes()), "{name}");
        }
        for name in ["user.", "security.selinux", "security.ima", "system.nfs4_acl", "x", ""] {
            assert!(!is_captured(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_the_container_sets_under_the_overlays_prefix_is_escaped() {
        assert_eq!(Marks::Trusted.escape(b"trusted.overlay.x"), b"trusted.overlay.overlay.x");
        assert_eq!(Marks::Trusted.escape(b"user.overlay.x"), b"user.overlay.x");
        assert_eq!(Marks::User.escape(b"user.overlay.opaque"), b"user.overlay.overlay.opaque");
        assert_eq!(Marks::None.escape(b"trusted.overlay.x"), b"trusted.overlay.x");
    }
}
