//! Putting a writable layer into a root file system, before any process of the new container exists.
//!
//! ```text
//! check       devices allowed, room on the file system; nothing is changed yet
//! forwards    each name in the order of the index: made, filled, given its attributes; directories stay 0700
//! backwards   attributes of directories, the deepest first: nothing below moves their times any more
//! ```
//! # Hostile indexes
//! [`FileIndex::decode`] has no paths that leave the root, no doubles and no parents that are not directories; here, each
//! directory is resolved by `openat2` beneath the root without symbolic links or mounts on the way, and every name is
//! made anew or not at all. Contents cannot be larger than what the file system has room for.
//! # Failure, cancellation
//! A part of the names is there then: the root file system must be thrown away.

mod attributes;
mod contents;
mod devices;
mod empty;
mod make;

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use godwit_image::FrameSource;
use godwit_types::Bytes;
use rustix::fs::{Dir, Mode, OFlags, fstatvfs, openat};

use self::contents::Frames;
use self::make::{Maker, Place};
use crate::error::At as _;
use crate::index::{Paths, is_name};
use crate::upper::open_below;
use crate::{FileIndex, FilesError, Halt, Inode, Marks, Node, What};

pub use devices::Devices;
pub use empty::empty;

/// What the files are put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A mounted overlay of the same image (or any root file system of it): deletions are carried out, the overlay writes
    /// its notes itself.
    Merged,
    /// An empty upper directory of an overlay that is *not* mounted: notes are written with these marks. Without marks
    /// ([`Marks::None`]) an empty directory that is no part of an overlay.
    Upper(Marks),
}

/// What is to be applied, where, and what for.
#[derive(Clone, Copy)]
pub struct Application<'a> {
    /// Where: the root directory. Nobody else uses it.
    pub root: &'a Path,
    /// What it is.
    pub target: Target,
    /// What is put there.
    pub index: &'a FileIndex,
    /// Reads the frames of the index' checkpoint.
    pub frames: &'a dyn FrameSource,
    /// Whether device nodes may be among it.
    pub devices: Devices,
    /// Ends it early.
    pub halt: &'a Halt,
}

/// What was applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Names, deletions included.
    pub names: u64,
    /// Bytes written into files.
    pub contents: Bytes,
}

/// Applies. Memory: the index, and at most 32 MiB of contents.
///
/// # Errors
/// [`FilesError`]. Those with code `Refused` are found before anything is changed, except a file system that gets full or
/// cannot hold an attribute.
pub fn apply(request: &Application<'_>) -> Result<Applied, FilesError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(rustix::fs::CWD, request.root, flags, Mode::empty())
        .at("open the root file system", request.root)?;
    check(request, root.as_fd())?;
    let mut work = Work::new(request, root.as_fd());
    let directories = work.forwards()?;
    work.backwards(directories)?;
    Ok(work.applied)
}

/// Everything that can be refused before the first change.
fn check(request: &Application<'_>, root: BorrowedFd<'_>) -> Result<(), FilesError> {
    for (path, entry) in request.index.paths() {
        if let Node::Inode(inode) = &entry.node
            && let What::Device(device) = &inode.what
            && request.devices == Devices::Refuse
        {
            return Err(FilesError::Device { path, major: device.major, minor: device.minor });
        }
    }
    if matches!(request.target, Target::Upper(_)) && !is_empty(root, request.root)? {
        return Err(FilesError::NotEmpty { path: request.root.to_owned() });
    }
    let room = fstatvfs(root).at("look at the file system of", request.root)?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    // File systems that make inodes as needed count none.
    let free_inodes = if room.f_files == 0 { u64::MAX } else { room.f_favail };
    let (need, inodes) = (request.index.bytes(), request.index.entries.len() as u64);
    match need > free || inodes > free_inodes {
        true => Err(FilesError::NoRoom { need, inodes, free, free_inodes }),
        false => Ok(()),
    }
}

fn is_empty(root: BorrowedFd<'_>, path: &Path) -> Result<bool, FilesError> {
    for item in Dir::read_from(root).at("list", path)? {
        let item = item.at("list", path)?;
        if !matches!(item.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A directory whose attributes are still to be set.
struct Later<'a> {
    path: PathBuf,
    inode: &'a Inode,
}

struct Work<'a> {
    request: &'a Application<'a>,
    root: BorrowedFd<'a>,
    frames: Frames<'a>,
    /// The directory that names are being made in.
    current: Option<(PathBuf, OwnedFd)>,
    /// Paths of inodes that have further names.
    linked: HashMap<u32, PathBuf>,
    applied: Applied,
}

impl<'a> Work<'a> {
    fn new(request: &'a Application<'a>, root: BorrowedFd<'a>) -> Self {
        let frames = Frames::new(&request.index.frames, request.frames, request.halt);
        let (linked, applied) = (HashMap::new(), Applied::default());
        Self { request, root, frames, current: None, linked, applied }
    }

    fn forwards(&mut self) -> Result<Vec<Later<'a>>, FilesError> {
        let entries = &self.request.index.entries;
        let links: HashSet<u32> = entries
            .iter()
            .filter_map(|e| match e.node {
                Node::Link(to) => Some(to),
                _ => None,
            })
            .collect();
        let (mut later, mut paths) = (Vec::new(), Paths::default());
        for (number, entry) in (0u32..).zip(entries) {
            self.request.halt.check()?;
            let path = paths.enter(entry).to_owned();
            if links.contains(&number) {
                self.linked.insert(number, path.clone());
            }
            if entry.depth > 0 {
                let parent = paths.parent();
                self.one(&parent, &entry.name, &path, &entry.node)?;
            }
            if let Node::Inode(inode) = &entry.node
                && matches!(inode.what, What::Directory { .. })
            {
                later.push(Later { path, inode });
            }
            self.applied.names += 1;
        }
        self.current = None;
        Ok(later)
    }

    fn one(
        &mut self,
        parent: &Path,
        name: &[u8],
        path: &Path,
        node: &Node,
    ) -> Result<(), FilesError> {
        // Decoding has seen to it; an index that was never encoded has not been decoded.
        if !is_name(name) {
            return Err(FilesError::Invalid { why: "a name is a path, or no name at all" });
        }
        let dir = match self.current.take() {
            Some((at, dir)) if at == parent => dir,
            _ => open_below(self.root, parent).at("open", parent)?,
        };
        let place = Place { dir: dir.as_fd(), name, path };
        let maker = Maker { target: self.request.target };
        match node {
            Node::Whiteout => maker.whiteout(&place)?,
            Node::Link(to) => self.link(&maker, &place, *to)?,
            Node::Inode(inode) => {
                let written = maker.inode(&place, inode, &mut self.frames)?;
                self.applied.contents.0 += written;
            }
        }
        self.current = Some((parent.to_owned(), dir));
        Ok(())
    }

    fn link(&self, maker: &Maker, place: &Place<'_>, to: u32) -> Result<(), FilesError> {
        let unknown = FilesError::Invalid { why: "a hard link leads to nothing before it" };
        let first = self.linked.get(&to).ok_or(unknown)?;
        let parent = first.parent().unwrap_or(Path::new(""));
        let dir = open_below(self.root, parent).at("open", parent)?;
        maker.link(place, dir.as_fd(), first)
    }

    fn backwards(&self, directories: Vec<Later<'_>>) -> Result<(), FilesError> {
        for Later { path, inode } in directories.iter().rev() {
            self.request.halt.check()?;
            let dir = open_below(self.root, path).at("open", path)?;
            attributes::of_directory(dir.as_fd(), path, inode, self.request.target)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
