//! Contents of files out of frames: fetched ahead in the order of the index, a bounded number of them in memory.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;

use godwit_image::{Digest, FrameRef, FrameSource};
use rustix::fs::ftruncate;
use rustix::io::{Errno, pwrite};

use crate::capture::cut;
use crate::error::At as _;
use crate::{Chunk, FilesError, Halt};

/// Frames asked for at once: 16 MiB. Where they lie together a store has several ranged GETs of 4 MiB on their way at the same time.
const AHEAD: usize = 128;
/// The same for a frame that was here before: 4 MiB. What follows it was here as well.
const AGAIN: usize = 32;
/// Frames in memory at most: 32 MiB. Small files of many checkpoints share frames back and forth.
const HELD: usize = 256;

/// See the module.
pub(super) struct Frames<'a> {
    frames: &'a [FrameRef],
    source: &'a dyn FrameSource,
    halt: &'a Halt,
    held: HashMap<u32, Vec<u8>>,
    /// The oldest first.
    order: VecDeque<u32>,
    /// The first frame that was never asked for.
    new: u32,
}

impl<'a> Frames<'a> {
    pub(super) fn new(frames: &'a [FrameRef], source: &'a dyn FrameSource, halt: &'a Halt) -> Self {
        Self { frames, source, halt, held: HashMap::new(), order: VecDeque::new(), new: 0 }
    }

    /// Fills a new file. Gives the bytes that were written.
    pub(super) fn write_file(
        &mut self,
        fd: &OwnedFd,
        size: u64,
        chunks: &[Chunk],
        path: &Path,
    ) -> Result<u64, FilesError> {
        ftruncate(fd, size).at("set the length of", path)?;
        let mut written = 0;
        for chunk in chunks {
            self.halt.check()?;
            let bytes = self.bytes(chunk)?;
            write_all(fd, bytes, chunk.offset).at("write", path)?;
            written += u64::from(chunk.length);
        }
        Ok(written)
    }

    /// The bytes of a chunk, compared with its digest.
    fn bytes(&mut self, chunk: &Chunk) -> Result<&[u8], FilesError> {
        if !self.held.contains_key(&chunk.frame) {
            self.fetch(chunk.frame)?;
        }
        let (from, to) = (chunk.at as usize, chunk.at as usize + chunk.length as usize);
        let bytes = self.held.get(&chunk.frame).and_then(|raw| raw.get(from..to));
        let bytes = bytes.ok_or(FilesError::Invalid { why: "a chunk is outside of its frame" })?;
        match cut(&Digest::of(bytes)) == chunk.digest {
            true => Ok(bytes),
            false => {
                Err(FilesError::Invalid { why: "a file's contents are not those of its digest" })
            }
        }
    }

    /// Fetches a frame and those that are likely to be next.
    fn fetch(&mut self, first: u32) -> Result<(), FilesError> {
        let unknown = FilesError::Invalid { why: "a chunk is in a frame that is not there" };
        let ahead = self.frames.get(first as usize..).ok_or(unknown)?;
        let most = if first < self.new { AGAIN } else { AHEAD };
        let (numbers, wanted): (Vec<u32>, Vec<FrameRef>) = (first..)
            .zip(ahead.iter().take(most))
            .filter(|(number, _)| !self.held.contains_key(number))
            .unzip();
        while self.order.len() + numbers.len() > HELD {
            let Some(oldest) = self.order.pop_front() else { break };
            self.held.remove(&oldest);
        }
        let raw = self.source.frames(&wanted)?;
        self.new = numbers.last().map_or(self.new, |last| self.new.max(last + 1));
        self.order.extend(&numbers);
        self.held.extend(numbers.into_iter().zip(raw));
        Ok(())
    }
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match pwrite(fd, bytes, at) {
            Ok(n) => {
                bytes = &bytes[n..];
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
