//! Which frame holds which block of digests of one address space.

use std::collections::BTreeMap;

use super::BlockNumber;
use crate::cursor::{Cursor, put_signed, put_varint};
use crate::header::{self, Kind};
use crate::limits::{MAX_MAP_BYTES, MAX_PAGE, MAX_RUNS};
use crate::{FrameRef, FrameUsage, ImageError, PackSlot, compress};

/// Blocks that are not in it have no digest for any page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestIndex {
    blocks: BTreeMap<BlockNumber, FrameRef>,
}

impl DigestIndex {
    /// The frame that holds this block.
    #[must_use]
    pub fn get(&self, block: BlockNumber) -> Option<FrameRef> {
        self.blocks.get(&block).copied()
    }

    /// Says where a block is.
    pub fn insert(&mut self, block: BlockNumber, frame: FrameRef) {
        self.blocks.insert(block, frame);
    }

    /// All blocks, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (BlockNumber, FrameRef)> + '_ {
        self.blocks.iter().map(|(b, f)| (*b, *f))
    }

    /// The blocks from `first` to before `end`, ascending.
    pub fn range(
        &self,
        first: BlockNumber,
        end: BlockNumber,
    ) -> impl Iterator<Item = (BlockNumber, FrameRef)> + '_ {
        let end = end.max(first);
        self.blocks.range(first..end).map(|(b, f)| (*b, *f))
    }

    /// How many blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Adds the frames that it refers to.
    pub fn count_usage(&self, usage: &mut FrameUsage) {
        self.blocks.values().for_each(|f| usage.add(*f, 1));
    }

    /// Its bytes: header, length, zstd of columns (gaps of block numbers, differences of slots, of frame numbers).
    ///
    /// # Errors
    /// Too many blocks.
    pub fn encode(&self) -> Result<Vec<u8>, ImageError> {
        let size = self.len() as u64;
        if size > MAX_RUNS {
            return Err(ImageError::Limit { what: "digest blocks", size, limit: MAX_RUNS });
        }
        let mut columns = Vec::new();
        put_varint(&mut columns, size);
        let mut next = 0;
        for block in self.blocks.keys() {
            put_varint(&mut columns, block.0 - next);
            next = block.0 + 1;
        }
        put_differences(&mut columns, self.blocks.values().map(|f| f.pack.0));
        put_differences(&mut columns, self.blocks.values().map(|f| f.frame));
        let mut body = Vec::new();
        put_varint(&mut body, columns.len() as u64);
        body.extend_from_slice(&compress::compress("digest index", &columns)?);
        Ok(header::wrap(Kind::DigestIndex, &body))
    }

    /// Reads an index of which nothing is believed.
    ///
    /// # Errors
    /// Damaged or above a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        const WHAT: &str = "digest index";
        let mut c = Cursor::new(WHAT, header::unwrap(Kind::DigestIndex, bytes)?);
        let length = c.bounded(WHAT, MAX_MAP_BYTES)?;
        let columns = compress::decompress(WHAT, c.take(c.left())?, length)?;
        let mut c = Cursor::new(WHAT, &columns);
        let n = c.count("digest blocks", MAX_RUNS)?;
        let numbers = block_numbers(&mut c, n)?;
        let slots = differences(&mut c, n)?;
        let frames = differences(&mut c, n)?;
        c.end()?;
        let refs = slots.into_iter().zip(frames);
        let refs = refs.map(|(slot, frame)| FrameRef { pack: PackSlot(slot), frame });
        Ok(Self { blocks: numbers.into_iter().zip(refs).collect() })
    }
}

fn block_numbers(c: &mut Cursor<'_>, n: usize) -> Result<Vec<BlockNumber>, ImageError> {
    let mut next = 0u64;
    let mut out = Vec::with_capacity(n);
    for _ in 0..n {
        let number = next + c.bounded("block number", MAX_PAGE)?;
        next = number + 1;
        if next > MAX_PAGE / super::BLOCK_PAGES {
            return Err(c.invalid("a block's number is too high"));
        }
        out.push(BlockNumber(number));
    }
    Ok(out)
}

fn put_differences(out: &mut Vec<u8>, values: impl Iterator<Item = u32>) {
    let mut last = 0;
    for v in values {
        put_signed(out, i64::from(v) - i64::from(last));
        last = v;
    }
}

fn differences(c: &mut Cursor<'_>, n: usize) -> Result<Vec<u32>, ImageError> {
    let mut last = 0i64;
    let mut out = Vec::with_capacity(n);
    for _ in 0..n {
        let value = last.checked_add(c.signed()?).and_then(|v| u32::try_from(v).ok());
        let value = value.ok_or_else(|| c.invalid("a difference is too large"))?;
        last = value.into();
        out.push(value);
    }
    Ok(out)
}
