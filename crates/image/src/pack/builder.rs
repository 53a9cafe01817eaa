//! Building one pack in memory.

use super::footer::footer_bound;
use super::{Footer, FrameTable, PackName, PackRecord, TRAILER_MAGIC};
use crate::Digest;
use crate::frame::{EncodedFrame, FrameRecord};
use crate::header::{HEADER_BYTES, Header, Kind};
use crate::limits::{MAX_FRAMES_PER_PACK, MAX_PACK_BYTES};

/// A pack in the making. Grows one buffer up to 16 MiB; the buffer can be handed in, to be used again and again.
#[derive(Debug)]
pub struct PackBuilder {
    name: PackName,
    bytes: Vec<u8>,
    frames: Vec<FrameRecord>,
}

impl PackBuilder {
    /// Starts a pack in this buffer, whose contents are forgotten and whose capacity is kept.
    #[must_use]
    pub fn new(name: PackName, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(HEADER_BYTES, 0);
        Self { name, bytes: buffer, frames: Vec::new() }
    }

    /// The pack that is being built.
    #[must_use]
    pub fn name(&self) -> &PackName {
        &self.name
    }

    /// How many frames it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Appends a frame and gives its number, or `None` if the pack is full: then finish it and start the next one.
    pub fn push(&mut self, frame: &EncodedFrame<'_>) -> Option<u32> {
        let number = self.frames.len();
        let size = self.bytes.len() + frame.stored.len() + footer_bound(number + 1);
        if size > MAX_PACK_BYTES || number >= MAX_FRAMES_PER_PACK as usize {
            return None;
        }
        self.frames.push(FrameRecord {
            offset: self.bytes.len() as u32,
            stored: frame.stored.len() as u32,
            raw: frame.raw,
            codec: frame.codec,
            digest: frame.digest,
        });
        self.bytes.extend_from_slice(frame.stored);
        Some(number as u32)
    }

    /// Writes footer, trailer and header. Gives the bytes of the object and its record, with all frames in it.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, PackRecord) {
        let Self { name, mut bytes, frames } = self;
        let total_stored = (bytes.len() - HEADER_BYTES) as u32;
        let total_frames = frames.len() as u32;
        let footer = Footer { name, frames: FrameTable::complete(frames) };
        let encoded = footer.encode();
        bytes.extend_from_slice(&encoded);
        bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&TRAILER_MAGIC);
        let length = (bytes.len() - HEADER_BYTES) as u64;
        let header = Header::new(Kind::Pack, length, crc32fast::hash(&encoded));
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode(Kind::Pack));
        let record = PackRecord {
            name,
            size: bytes.len() as u32,
            footer: Digest::of(&encoded),
            total_frames,
            total_stored,
            frames: footer.frames,
        };
        (bytes, record)
    }
}
