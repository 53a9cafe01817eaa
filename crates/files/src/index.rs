//! What a writable layer holds: every name with its attributes, and where its contents lie in packs.
//!
//! Complete in each checkpoint: a restore never walks a chain of parents. Attributes are as the container sees them; how
//! an overlay writes them down (`trusted.overlay.*`, character devices 0/0) is known to `xattr` and `upper` only.

mod codec;
pub mod limits;
mod path;

use std::path::PathBuf;

use godwit_image::{FrameRef, FrameUsage, PackTable};

use crate::FilesError;

#[cfg(test)]
pub(crate) use codec::seal;
pub(crate) use path::{Paths, is_name};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileIndex {
    /// The upper directory that was captured: numbers of inodes mean nothing in another one.
    pub instance: Instance,
    /// The frames that chunks name by their place here.
    pub frames: Vec<FrameRef>,
    /// Each directory before what is in it, the names of a directory ascending. The first is the root itself.
    pub entries: Vec<Entry>,
}

/// One upper directory, for as long as it exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Instance {
    /// Boot of the node: device numbers change with it.
    pub boot: [u8; 16],
    /// Device of the file system.
    pub device: u64,
    /// Inode of the directory.
    pub ino: u64,
    /// When the directory was made.
    pub born: Time,
}

/// A time of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// And nanoseconds, less than 10⁹.
    pub nanos: u32,
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How many directories are above it; 0 for the root alone.
    pub depth: u16,
    /// The name in its directory; empty for the root alone.
    pub name: Vec<u8>,
    /// What it names.
    pub node: Node,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The name is hidden: what the image has there is deleted.
    Whiteout,
    /// Another name of the inode of this earlier entry.
    Link(u32),
    /// An inode of its own.
    Inode(Box<Inode>),
}

/// A file of any type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Permissions with set-uid, set-gid and sticky bit.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub accessed: Time,
    /// Last change of contents.
    pub modified: Time,
    /// Extended attributes, ascending by name.
    pub xattrs: Vec<Xattr>,
    /// What it is.
    pub what: What,
    /// How it was found, for the next capture.
    pub seen: Seen,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// With its namespace.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// The types of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory. An opaque one hides all that the image has in it.
    Directory {
        /// Whether it is.
        opaque: bool,
    },
    /// A regular file. What no chunk covers is a hole.
    File {
        /// Its length.
        size: u64,
        /// Ascending, disjoint.
        chunks: Vec<Chunk>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
    /// A device node.
    Device(Device),
    /// A named pipe.
    Fifo,
    /// A Unix socket. (Only its name: who listens is CRIU's.)
    Socket,
}

/// A device node's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Block or character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// A part of a file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes, at most 128 KiB.
    pub length: u32,
    /// Which of [`FileIndex::frames`].
    pub frame: u32,
    /// Where in the frame.
    pub at: u32,
    /// BLAKE3 of these bytes, cut to 16.
    pub digest: [u8; 16],
}

/// What tells later whether a file is the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its inode.
    pub ino: u64,
    /// Last change of anything, by the source's clock.
    pub changed: Time,
    /// Whether any change since it was read must have moved `changed`.
    pub settled: bool,
}

impl FileIndex {
    /// Adds every frame that contents of files lie in.
    pub fn count_usage(&self, usage: &mut FrameUsage) {
        self.frames.iter().for_each(|frame| usage.add(*frame, 1));
    }

    /// Bytes of contents, holes not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files().flat_map(|(_, chunks)| chunks).map(|c| u64::from(c.length)).sum()
    }

    /// Every entry with its path from the root of the layer on. The root's is empty.
    pub fn paths(&self) -> impl Iterator<Item = (PathBuf, &Entry)> {
        let mut paths = Paths::default();
        self.entries.iter().map(move |entry| (paths.enter(entry).to_owned(), entry))
    }

    /// All regular files: size and chunks.
    pub(crate) fn files(&self) -> impl Iterator<Item = (u64, &[Chunk])> {
        self.entries.iter().filter_map(|entry| match &entry.node {
            Node::Inode(inode) => match &inode.what {
                What::File { size, chunks } => Some((*size, chunks.as_slice())),
                _ => None,
            },
            _ => None,
        })
    }

    /// Every chunk lies in a frame that the checkpoint's pack table has.
    ///
    /// # Errors
    /// [`FilesError::Image`] for an unknown frame, [`FilesError::Invalid`] for a chunk that leaves its frame.
    pub fn check_frames(&self, packs: &PackTable) -> Result<(), FilesError> {
        let mut raw = Vec::with_capacity(self.frames.len());
        for frame in &self.frames {
            raw.push(packs.locate(*frame)?.frame.raw);
        }
        let inside = |c: &Chunk| {
            let end = u64::from(c.at) + u64::from(c.length);
            raw.get(c.frame as usize).is_some_and(|raw| end <= u64::from(*raw))
        };
        match self.files().flat_map(|(_, chunks)| chunks).all(inside) {
            true => Ok(()),
            false => Err(FilesError::Invalid { why: "a file's contents leave their frame" }),
        }
    }
}
