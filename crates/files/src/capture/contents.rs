//! Contents of files on their way into frames: full chunks get a frame each, smaller ones share.
//!
//! A frame has a number at once; where it lies in a pack is known when it is written, which in the freeze is later.

use std::collections::HashMap;
use std::sync::Arc;

use godwit_image::{FrameRef, PackKind, PackRegistry, PackSink, PackWriter};
use godwit_types::Bytes;

use super::FileStats;
use crate::index::limits::MAX_CHUNK;
use crate::{FileIndex, FilesError, Node, What};

/// See the module.
#[derive(Debug)]
pub(super) struct Contents {
    writer: PackWriter,
    /// By number; `None` until it is written.
    frames: Vec<Option<FrameRef>>,
    /// The frame that small chunks are added to.
    open: Option<Kept>,
    kept: Vec<Kept>,
    /// In the freeze: bytes that may still be kept.
    room: Option<u64>,
    stats: FileStats,
}

#[derive(Debug)]
struct Kept {
    number: u32,
    bytes: Vec<u8>,
}

impl Contents {
    /// Begins with the frames of the parent's index, which keep their numbers.
    pub(super) fn new(
        packs: &Arc<PackRegistry>,
        sink: Arc<dyn PackSink>,
        parent: Vec<FrameRef>,
    ) -> Result<Self, FilesError> {
        let writer = packs.writer(PackKind::Data, sink)?;
        let frames = parent.into_iter().map(Some).collect();
        let stats = FileStats::default();
        Ok(Self { writer, frames, open: None, kept: Vec::new(), room: None, stats })
    }

    /// Hands all that was written so far to the sink.
    pub(super) fn hand_on(&mut self) -> Result<(), FilesError> {
        self.close()?;
        Ok(self.writer.hand_on()?)
    }

    /// From now on so many bytes are kept in memory rather than written.
    pub(super) fn enter_freeze(&mut self, room: u64) {
        self.room = Some(room);
    }

    /// Counts bytes that were read.
    pub(super) fn count_read(&mut self, bytes: u64) {
        match self.room {
            None => self.stats.read.0 += bytes,
            Some(_) => self.stats.read_frozen.0 += bytes,
        }
    }

    /// Takes 1 byte to 128 KiB; gives the number of the frame and where in it they begin.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(u32, u32), FilesError> {
        if self.room.is_some() {
            self.stats.changed_frozen.0 += bytes.len() as u64;
        }
        if bytes.len() == MAX_CHUNK {
            let number = self.number()?;
            self.put(number, bytes)?;
            return Ok((number, 0));
        }
        if self.open.as_ref().is_some_and(|open| open.bytes.len() + bytes.len() > MAX_CHUNK) {
            self.close()?;
        }
        let number = match &self.open {
            Some(open) => open.number,
            None => self.number()?,
        };
        let open = self.open.get_or_insert_with(|| Kept { number, bytes: Vec::new() });
        let at = open.bytes.len() as u32;
        open.bytes.extend_from_slice(bytes);
        Ok((number, at))
    }

    fn number(&mut self) -> Result<u32, FilesError> {
        let too_many = FilesError::TooMany { what: "frames", limit: u32::MAX.into() };
        let number = u32::try_from(self.frames.len()).map_err(|_| too_many)?;
        self.frames.push(None);
        Ok(number)
    }

    fn close(&mut self) -> Result<(), FilesError> {
        match self.open.take() {
            None => Ok(()),
            Some(open) => self.put(open.number, &open.bytes),
        }
    }

    /// Keeps a frame while there is room; else writes it.
    fn put(&mut self, number: u32, bytes: &[u8]) -> Result<(), FilesError> {
        let length = bytes.len() as u64;
        match &mut self.room {
            Some(room) if *room >= length => {
                *room -= length;
                self.kept.push(Kept { number, bytes: bytes.to_vec() });
                return Ok(());
            }
            Some(_) => self.stats.stored_frozen.0 += length,
            None => {}
        }
        self.write(number, bytes)
    }

    fn write(&mut self, number: u32, bytes: &[u8]) -> Result<(), FilesError> {
        let frame = self.writer.write(bytes)?;
        if let Some(place) = self.frames.get_mut(number as usize) {
            *place = Some(frame);
        }
        Ok(())
    }

    /// Writes all that is left. Gives the places of all frames.
    pub(super) fn finish(mut self) -> Result<(Vec<Option<FrameRef>>, FileStats), FilesError> {
        for kept in std::mem::take(&mut self.kept) {
            self.write(kept.number, &kept.bytes)?;
        }
        if let Some(open) = self.open.take() {
            self.write(open.number, &open.bytes)?;
        }
        self.stats.stored = Bytes(self.writer.stored());
        self.writer.finish()?;
        Ok((self.frames, self.stats))
    }
}

/// Numbers the frames anew, in the order in which a restore needs them; those of deleted files are forgotten.
pub(super) fn keep_used(
    index: &mut FileIndex,
    frames: &[Option<FrameRef>],
) -> Result<(), FilesError> {
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    index.frames.clear();
    for entry in &mut index.entries {
        let Node::Inode(inode) = &mut entry.node else { continue };
        let What::File { chunks, .. } = &mut inode.what else { continue };
        for chunk in chunks {
            let number = match numbers.get(&chunk.frame) {
                Some(number) => *number,
                None => {
                    let written = frames.get(chunk.frame as usize).copied().flatten();
                    let unknown =
                        FilesError::Invalid { why: "a chunk is in a frame that was never written" };
                    index.frames.push(written.ok_or(unknown)?);
                    let number = index.frames.len() as u32 - 1;
                    numbers.insert(chunk.frame, number);
                    number
                }
            };
            chunk.frame = number;
        }
    }
    Ok(())
}
