//! Making names in a directory that is open.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

use super::contents::Frames;
use super::{Target, attributes};
use crate::error::At as _;
use crate::{Device, FilesError, Inode, What};

/// A name in an open directory, and its path for errors.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
    pub(super) path: &'a Path,
}

/// Makes names in a target of this kind.
pub(super) struct Maker {
    pub(super) target: Target,
}

impl Maker {
    /// Deletes the name, or notes that it is deleted.
    pub(super) fn whiteout(&self, place: &Place<'_>) -> Result<(), FilesError> {
        match self.target {
            Target::Merged => remove(place),
            Target::Upper(_) => mknodat(
                place.dir,
                place.name,
                FileType::CharacterDevice,
                Mode::empty(),
                makedev(0, 0),
            )
            .at("make the whiteout", place.path),
        }
    }

    /// A further name of what `first` names in `dir`.
    pub(super) fn link(
        &self,
        place: &Place<'_>,
        dir: BorrowedFd<'_>,
        first: &Path,
    ) -> Result<(), FilesError> {
        self.clear(place)?;
        let name = first.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        linkat(dir, name, place.dir, place.name, AtFlags::empty()).at("link", place.path)
    }

    /// Makes an inode with all but, for directories, its attributes. Gives the bytes of contents that were written.
    pub(super) fn inode(
        &self,
        place: &Place<'_>,
        inode: &Inode,
        frames: &mut Frames<'_>,
    ) -> Result<u64, FilesError> {
        if let What::Directory { opaque } = inode.what {
            return self.directory(place, opaque).map(|()| 0);
        }
        self.clear(place)?;
        let mut written = 0;
        let Place { dir, name, path } = *place;
        match &inode.what {
            What::File { size, chunks } => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let fd = openat(dir, name, flags, Mode::RUSR | Mode::WUSR).at("make", path)?;
                written = frames.write_file(&fd, *size, chunks, path)?;
            }
            What::Symlink { target } => symlinkat(target.as_slice(), dir, name).at("make", path)?,
            What::Device(device) => node(place, kind(device), makedev(device.major, device.minor))?,
            What::Fifo => node(place, FileType::Fifo, 0)?,
            What::Socket => node(place, FileType::Socket, 0)?,
            What::Directory { .. } => {}
        }
        attributes::of_name(place, inode, self.target)?;
        Ok(written)
    }

    /// A directory that is there stays, unless what is in it is hidden.
    fn directory(&self, place: &Place<'_>, opaque: bool) -> Result<(), FilesError> {
        if self.target == Target::Merged {
            let there = found(place)?;
            if there == Some(FileType::Directory) && !opaque {
                return Ok(());
            }
            remove(place)?;
        }
        mkdirat(place.dir, place.name, Mode::RWXU).at("make the directory", place.path)
    }

    /// The image may have something of this name; an upper directory has nothing.
    fn clear(&self, place: &Place<'_>) -> Result<(), FilesError> {
        match self.target {
            Target::Merged => remove(place),
            Target::Upper(_) => Ok(()),
        }
    }
}

fn kind(device: &Device) -> FileType {
    if device.block { FileType::BlockDevice } else { FileType::CharacterDevice }
}

fn node(place: &Place<'_>, kind: FileType, device: u64) -> Result<(), FilesError> {
    mknodat(place.dir, place.name, kind, Mode::empty(), device).at("make", place.path)
}

fn found(place: &Place<'_>) -> Result<Option<FileType>, FilesError> {
    match statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(FilesError::io("look at", place.path, e)),
    }
}

/// Removes whatever has this name; links are removed, not followed.
fn remove(place: &Place<'_>) -> Result<(), FilesError> {
    match found(place)? {
        None => Ok(()),
        Some(FileType::Directory) => {
            let way = attributes::way(place.dir, place.name);
            std::fs::remove_dir_all(way).map_err(|source| FilesError::Io {
                attempt: "remove",
                path: place.path.to_owned(),
                source,
            })
        }
        Some(_) => unlinkat(place.dir, place.name, AtFlags::empty()).at("remove", place.path),
    }
}
