//! The pack table of a head, and the frame tables in it: everything that a ranged GET of one frame needs.

use std::collections::BTreeMap;

use super::footer::{decode_name, decode_sealing, encode_name, encode_sealing};
use super::{PackName, PackSlot};
use crate::cursor::{Cursor, put_varint};
use crate::frame::{Codec, FrameRecord, FrameRef};
use crate::limits::{MAX_FRAMES, MAX_FRAMES_PER_PACK, MAX_PACK_BYTES, MAX_PACKS};
use crate::{Digest, ImageError};

/// Records of frames of one pack, by number; all of them (a footer) or those that a checkpoint refers to (a head).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameTable {
    /// Ascending by number.
    frames: Vec<(u32, FrameRecord)>,
}

impl FrameTable {
    /// A complete table: frame n is the n-th record. The records' offsets must ascend.
    #[must_use]
    pub fn complete(records: Vec<FrameRecord>) -> Self {
        Self { frames: (0..).zip(records).collect() }
    }

    /// The record of this frame.
    #[must_use]
    pub fn get(&self, frame: u32) -> Option<&FrameRecord> {
        let at = match self.frames.get(frame as usize) {
            Some((number, _)) if *number == frame => frame as usize,
            _ => self.frames.binary_search_by_key(&frame, |(n, _)| *n).ok()?,
        };
        self.frames.get(at).map(|(_, record)| record)
    }

    /// All records, ascending by number and by offset.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &FrameRecord)> {
        self.frames.iter().map(|(n, r)| (*n, r))
    }

    /// How many frames it describes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether it describes none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether no number is left out.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.frames.last().is_none_or(|(n, _)| *n as usize + 1 == self.frames.len())
    }

    fn retain(&mut self, used: &BTreeMap<u32, u32>) {
        self.frames.retain(|(n, _)| used.contains_key(n));
    }

    /// Every frame lies between these offsets.
    pub(super) fn check_bounds(&self, first: u64, end: u64) -> Result<(), ImageError> {
        let inside = |r: &FrameRecord| r.byte_range().start >= first && r.byte_range().end <= end;
        if self.frames.iter().all(|(_, r)| inside(r)) {
            return Ok(());
        }
        Err(ImageError::Invalid { what: "frame table", why: "a frame lies outside its pack" })
    }

    /// Column by column: number gaps, offset gaps, stored lengths, raw lengths, codecs, digests.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.frames.len() as u64);
        let mut next = 0;
        for (n, _) in &self.frames {
            put_varint(out, u64::from(n - next));
            next = n + 1;
        }
        let mut end = 0;
        for (_, r) in &self.frames {
            put_varint(out, u64::from(r.offset - end));
            end = r.offset + r.stored;
        }
        self.frames.iter().for_each(|(_, r)| put_varint(out, r.stored.into()));
        self.frames.iter().for_each(|(_, r)| put_varint(out, r.raw.into()));
        out.extend(self.frames.iter().map(|(_, r)| r.codec.number()));
        self.frames.iter().for_each(|(_, r)| out.extend_from_slice(&r.digest.0));
    }

    pub(super) fn decode(c: &mut Cursor<'_>) -> Result<Self, ImageError> {
        // A frame takes 37 bytes at least, so what is allocated is bounded by what is there.
        let n = c.count("frames in a pack", MAX_FRAMES_PER_PACK.into())?;
        let numbers = ascending(c, n)?;
        let gaps = column(c, n)?;
        let stored = column(c, n)?;
        let raw = column(c, n)?;
        let codecs = c.take(n)?;
        let mut frames = Vec::with_capacity(n);
        let mut end = 0u64;
        for i in 0..n {
            let offset = end + u64::from(gaps[i]);
            end = offset + u64::from(stored[i]);
            if end > MAX_PACK_BYTES as u64 {
                return Err(c.invalid("a frame lies outside its pack"));
            }
            let codec =
                Codec::from_number(codecs[i]).ok_or_else(|| c.invalid("a codec is not known"))?;
            let digest = Digest(c.array()?);
            let offset = offset as u32;
            let record = FrameRecord { offset, stored: stored[i], raw: raw[i], codec, digest };
            record.check()?;
            frames.push((numbers[i], record));
        }
        Ok(Self { frames })
    }
}

fn column(c: &mut Cursor<'_>, n: usize) -> Result<Vec<u32>, ImageError> {
    (0..n).map(|_| c.u32()).collect()
}

fn ascending(c: &mut Cursor<'_>, n: usize) -> Result<Vec<u32>, ImageError> {
    let mut next = 0u64;
    let mut out = Vec::with_capacity(n);
    for _ in 0..n {
        let number = next + u64::from(c.u32()?);
        if number >= u64::from(MAX_FRAMES_PER_PACK) {
            return Err(c.invalid("a frame's number is too high"));
        }
        next = number + 1;
        out.push(number as u32);
    }
    Ok(out)
}

/// One pack that a checkpoint refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRecord {
    /// Which pack.
    pub name: PackName,
    /// Its size in bytes.
    pub size: u32,
    /// BLAKE3 of its footer, which holds the digests of all its frames.
    pub footer: Digest,
    /// How many frames it holds, referred to or not.
    pub total_frames: u32,
    /// Bytes of all its frames as stored.
    pub total_stored: u32,
    /// The frames that are referred to.
    pub frames: FrameTable,
}

/// Where a frame is and what it must be: all that a ranged GET and its check need.
#[derive(Debug, Clone, Copy)]
pub struct Located<'a> {
    /// The pack.
    pub pack: &'a PackRecord,
    /// The frame within it.
    pub frame: &'a FrameRecord,
}

/// All packs that a checkpoint refers to, its own and those of earlier checkpoints, by slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackTable {
    packs: BTreeMap<PackSlot, PackRecord>,
}

impl PackTable {
    /// Finds a frame.
    ///
    /// # Errors
    /// [`ImageError::UnknownFrame`].
    pub fn locate(&self, frame: FrameRef) -> Result<Located<'_>, ImageError> {
        let unknown = ImageError::UnknownFrame { pack: frame.pack.0, frame: frame.frame };
        let pack = self.packs.get(&frame.pack).ok_or_else(|| unknown.clone())?;
        let frame = pack.frames.get(frame.frame).ok_or(unknown)?;
        Ok(Located { pack, frame })
    }

    /// The pack in this slot.
    #[must_use]
    pub fn get(&self, slot: PackSlot) -> Option<&PackRecord> {
        self.packs.get(&slot)
    }

    /// All packs, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (PackSlot, &PackRecord)> {
        self.packs.iter().map(|(s, r)| (*s, r))
    }

    /// How many packs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// The lowest slot that is above all used ones.
    #[must_use]
    pub fn next_slot(&self) -> PackSlot {
        PackSlot(self.packs.last_key_value().map_or(0, |(s, _)| s.0 + 1))
    }

    /// Puts a pack into a slot.
    pub fn insert(&mut self, slot: PackSlot, record: PackRecord) {
        self.packs.insert(slot, record);
    }

    /// Forgets every frame that is not used, and every pack of which none is. Slots keep their numbers.
    pub fn retain(&mut self, used: &FrameUsage) {
        self.packs.retain(|slot, record| {
            let Some(frames) = used.of_pack(*slot) else { return false };
            record.frames.retain(frames);
            !record.frames.is_empty()
        });
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.packs.len() as u64);
        let mut next = 0;
        for (slot, r) in &self.packs {
            put_varint(&mut out, u64::from(slot.0 - next));
            next = slot.0 + 1;
            encode_name(&mut out, &r.name);
            encode_sealing(&mut out);
            put_varint(&mut out, r.size.into());
            out.extend_from_slice(&r.footer.0);
            put_varint(&mut out, r.total_frames.into());
            put_varint(&mut out, r.total_stored.into());
            r.frames.encode(&mut out);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut c = Cursor::new("pack table", bytes);
        let n = c.count("packs", MAX_PACKS.into())?;
        let mut table = Self::default();
        let (mut next, mut frames) = (0u64, 0u64);
        for _ in 0..n {
            let slot = next + u64::from(c.u32()?);
            next = slot + 1;
            let slot = u32::try_from(slot).map_err(|_| c.invalid("a slot is too high"))?;
            if slot == u32::MAX {
                return Err(c.invalid("a slot is too high"));
            }
            let record = decode_record(&mut c)?;
            frames += record.frames.len() as u64;
            if frames > MAX_FRAMES {
                return Err(ImageError::Limit { what: "frames", size: frames, limit: MAX_FRAMES });
            }
            table.packs.insert(PackSlot(slot), record);
        }
        c.end()?;
        Ok(table)
    }
}

fn decode_record(c: &mut Cursor<'_>) -> Result<PackRecord, ImageError> {
    let name = decode_name(c)?;
    decode_sealing(c)?;
    let limit = MAX_PACK_BYTES as u64;
    let size = c.bounded("size of a pack", limit)? as u32;
    let footer = Digest(c.array()?);
    let total_frames = c.bounded("frames in a pack", MAX_FRAMES_PER_PACK.into())? as u32;
    let total_stored = c.bounded("size of a pack", limit)? as u32;
    let frames = FrameTable::decode(c)?;
    frames.check_bounds(0, size.into())?;
    if frames.len() > total_frames as usize {
        return Err(c.invalid("it has more frames than it says"));
    }
    Ok(PackRecord { name, size, footer, total_frames, total_stored, frames })
}

/// Which frames are referred to, and by how many pages each (1 for anything that is not a page).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameUsage {
    packs: BTreeMap<PackSlot, BTreeMap<u32, u32>>,
}

impl FrameUsage {
    /// Counts `pages` more references to this frame.
    pub fn add(&mut self, frame: FrameRef, pages: u32) {
        let live = self.packs.entry(frame.pack).or_default().entry(frame.frame).or_default();
        *live = live.saturating_add(pages);
    }

    /// References by frame number.
    #[must_use]
    pub fn of_pack(&self, slot: PackSlot) -> Option<&BTreeMap<u32, u32>> {
        self.packs.get(&slot)
    }

    /// References to this frame.
    #[must_use]
    pub fn of_frame(&self, frame: FrameRef) -> u32 {
        self.of_pack(frame.pack).and_then(|p| p.get(&frame.frame)).copied().unwrap_or(0)
    }

    /// Every frame with its references, by slot and number.
    pub fn iter(&self) -> impl Iterator<Item = (FrameRef, u32)> {
        self.packs.iter().flat_map(|(pack, frames)| {
            frames.iter().map(|(frame, live)| (FrameRef { pack: *pack, frame: *frame }, *live))
        })
    }
}
