//! Owner, mode, extended attributes and times of what has been made.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    futimens, lsetxattr, utimensat,
};

use super::Target;
use super::make::Place;
use crate::error::At as _;
use crate::xattr::set_exactly;
use crate::{FilesError, Inode, Marks, Time, What};

/// Of anything but a directory. Owner first: it takes set-uid bits and capabilities away.
pub(super) fn of_name(place: &Place<'_>, inode: &Inode, target: Target) -> Result<(), FilesError> {
    let Place { dir, name, path } = *place;
    let (uid, gid) = owner(inode);
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .at("change the owner of", path)?;
    // Links have none. Everything else was made here, so it is no link that could be followed.
    if !matches!(inode.what, What::Symlink { .. }) {
        chmodat(dir, name, mode(inode), AtFlags::empty()).at("change the mode of", path)?;
    }
    extended(&way(dir, name), path, inode, target)?;
    utimensat(dir, name, &times(inode), AtFlags::SYMLINK_NOFOLLOW).at("set the times of", path)
}

/// Of a directory that has all its names.
pub(super) fn of_directory(
    dir: BorrowedFd<'_>,
    path: &Path,
    inode: &Inode,
    target: Target,
) -> Result<(), FilesError> {
    let (uid, gid) = owner(inode);
    fchown(dir, Some(uid), Some(gid)).at("change the owner of", path)?;
    fchmod(dir, mode(inode)).at("change the mode of", path)?;
    let way = way(dir, b".");
    extended(&way, path, inode, target)?;
    if let (Target::Upper(marks), What::Directory { opaque: true }) = (target, &inode.what)
        && let Some(prefix) = marks.prefix()
    {
        let name = [prefix, b"opaque"].concat();
        lsetxattr(&way, name.as_slice(), b"y", XattrFlags::empty()).at("mark as opaque", path)?;
    }
    futimens(dir, &times(inode)).at("set the times of", path)
}

fn extended(way: &Path, path: &Path, inode: &Inode, target: Target) -> Result<(), FilesError> {
    let escape = |name: &[u8]| match target {
        Target::Merged => name.to_vec(),
        Target::Upper(marks) => Marks::escape(marks, name),
    };
    set_exactly(way, &inode.xattrs, escape).at("set the attributes of", path)
}

/// A path to a name in an open directory; its last component is not followed by the calls for attributes.
pub(super) fn way(dir: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(OsStr::from_bytes(name))
}

fn owner(inode: &Inode) -> (Uid, Gid) {
    (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid))
}

fn mode(inode: &Inode) -> Mode {
    Mode::from_raw_mode(inode.mode.into())
}

fn times(inode: &Inode) -> Timestamps {
    let of = |t: Time| Timespec { tv_sec: t.seconds, tv_nsec: t.nanos.into() };
    Timestamps { last_access: of(inode.accessed), last_modification: of(inode.modified) }
}
