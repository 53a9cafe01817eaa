//! The bytes of an index: `docs/format/layer.md`. Decoding believes nothing: what comes out of it has no path that leaves
//! the root, no name twice, no parent that is not a directory before it, and no number above its limit.

mod entry;

use godwit_image::cursor::{Cursor, put_signed, put_varint};
use godwit_image::header::{self, Kind};
use godwit_image::{FrameRef, ImageError, PackSlot};

use self::entry::{get_entry, put_entry};
use super::limits::{MAX_ENTRIES, MAX_PATH};
use super::{Entry, FileIndex, Instance, Node, Time, What};
use crate::FilesError;

/// Bytes of an entry at least: depth, name, kind.
const LEAST_ENTRY: usize = 3;

impl FileIndex {
    /// Its bytes, for the section `files` of a container's head, which compresses them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_instance(&mut out, &self.instance);
        put_varint(&mut out, self.frames.len() as u64);
        let mut last = FrameRef { pack: PackSlot(0), frame: 0 };
        for frame in &self.frames {
            put_signed(&mut out, i64::from(frame.pack.0) - i64::from(last.pack.0));
            put_signed(&mut out, i64::from(frame.frame) - i64::from(last.frame));
            last = *frame;
        }
        put_varint(&mut out, self.entries.len() as u64);
        for (number, entry) in self.entries.iter().enumerate() {
            put_entry(&mut out, number, entry);
        }
        header::wrap(Kind::FileIndex, &out)
    }

    /// Reads and checks what [`FileIndex::encode`] wrote.
    ///
    /// # Errors
    /// [`FilesError::Index`] with the rule that is broken, or the version that is not read.
    pub fn decode(bytes: &[u8]) -> Result<Self, FilesError> {
        get_index(bytes).map_err(FilesError::Index)
    }
}

fn get_index(bytes: &[u8]) -> Result<FileIndex, ImageError> {
    let body = header::unwrap(Kind::FileIndex, bytes)?;
    let mut c = Cursor::new(Kind::FileIndex.name(), body);
    let instance = get_instance(&mut c)?;
    let frames = get_frames(&mut c)?;
    let n = c.count_of("names of an index", LEAST_ENTRY, MAX_ENTRIES)?;
    let mut order = Order::default();
    let mut entries: Vec<Entry> = Vec::new();
    for number in 0..n {
        let entry = get_entry(&mut c, number, frames.len())?;
        order.admit(&entry)?;
        check_link(&entry, &entries)?;
        entries.push(entry);
    }
    c.end()?;
    if entries.is_empty() {
        return Err(invalid("it has no root"));
    }
    Ok(FileIndex { instance, frames, entries })
}

fn invalid(why: &'static str) -> ImageError {
    ImageError::Invalid { what: Kind::FileIndex.name(), why }
}

/// Gives bytes a header that is right.
#[cfg(test)]
pub(crate) fn seal(bytes: Vec<u8>) -> Vec<u8> {
    header::wrap(Kind::FileIndex, &bytes[header::HEADER_BYTES..])
}

fn put_instance(out: &mut Vec<u8>, instance: &Instance) {
    out.extend_from_slice(&instance.boot);
    put_varint(out, instance.device);
    put_varint(out, instance.ino);
    put_time(out, instance.born);
}

fn get_instance(c: &mut Cursor<'_>) -> Result<Instance, ImageError> {
    Ok(Instance { boot: c.array()?, device: c.varint()?, ino: c.varint()?, born: get_time(c)? })
}

pub(super) fn put_time(out: &mut Vec<u8>, time: Time) {
    put_signed(out, time.seconds);
    put_varint(out, time.nanos.into());
}

pub(super) fn get_time(c: &mut Cursor<'_>) -> Result<Time, ImageError> {
    let time = Time { seconds: c.signed()?, nanos: c.u32()? };
    match time.nanos < 1_000_000_000 {
        true => Ok(time),
        false => Err(invalid("a time has more than 10⁹ nanoseconds")),
    }
}

fn get_frames(c: &mut Cursor<'_>) -> Result<Vec<FrameRef>, ImageError> {
    // Two bytes each at least, so what is allocated is bounded by what is there.
    let n = c.count_of("frames of an index", 2, u64::MAX)?;
    let mut frames = Vec::with_capacity(n);
    let mut last = FrameRef { pack: PackSlot(0), frame: 0 };
    for _ in 0..n {
        last = FrameRef {
            pack: PackSlot(moved(last.pack.0, c.signed()?)?),
            frame: moved(last.frame, c.signed()?)?,
        };
        frames.push(last);
    }
    Ok(frames)
}

/// A number and a difference.
pub(super) fn moved(from: u32, by: i64) -> Result<u32, ImageError> {
    let to = i64::from(from).checked_add(by).and_then(|to| u32::try_from(to).ok());
    to.ok_or_else(|| invalid("a difference leads below zero or above 32 bits"))
}

/// The order of entries: what makes a sequence of depths and names a tree.
#[derive(Default)]
struct Order {
    /// The last entry of each depth on the way to the last one: name, length of its path, whether it is a directory.
    way: Vec<(Vec<u8>, usize, bool)>,
}

impl Order {
    fn admit(&mut self, entry: &Entry) -> Result<(), ImageError> {
        let depth = usize::from(entry.depth);
        if (depth == 0) != self.way.is_empty() || depth > self.way.len() {
            return Err(invalid("a name has no directory"));
        }
        let is_directory = matches!(&entry.node, Node::Inode(inode) if matches!(inode.what, What::Directory { .. }));
        let length = match depth.checked_sub(1).and_then(|above| self.way.get(above)) {
            None if is_directory && entry.name.is_empty() => 0,
            None => return Err(invalid("the root is not a directory")),
            Some((_, _, false)) => {
                return Err(invalid("a name is in something that is no directory"));
            }
            Some((_, length, true)) => *length + usize::from(*length > 0) + entry.name.len(),
        };
        if length > MAX_PATH {
            return Err(invalid("a path is too long"));
        }
        if depth > 0 && !super::is_name(&entry.name) {
            return Err(invalid("a name is a path, or no name at all"));
        }
        if self.way.get(depth).is_some_and(|(before, ..)| *before >= entry.name) {
            return Err(invalid("names of a directory are twice or not in order"));
        }
        self.way.truncate(depth);
        self.way.push((entry.name.clone(), length, is_directory));
        Ok(())
    }
}

/// A further name is one of an inode before it, which is no directory and no further name itself.
fn check_link(entry: &Entry, before: &[Entry]) -> Result<(), ImageError> {
    let Node::Link(to) = entry.node else { return Ok(()) };
    match before.get(to as usize).map(|e| &e.node) {
        Some(Node::Inode(inode)) if !matches!(inode.what, What::Directory { .. }) => Ok(()),
        _ => Err(invalid("a hard link leads to nothing before it")),
    }
}

#[cfg(test)]
mod tests;
