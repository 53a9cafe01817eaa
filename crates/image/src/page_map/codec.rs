//! The encoded page map: header, length, zstd of columns. `docs/format/pagemap.md`.
//!
//! Columns: gaps between runs, lengths, kinds, and for runs of kind 2 only: slot, frame and page. A frame that simply
//! follows the one of the last stored run (dense memory) costs one byte of kind, which zstd makes nothing of.

use godwit_types::{PageNumber, PageRange};

use super::{PageMap, PageMapBuilder, PageRun, PageSource};
use crate::cursor::{Cursor, put_signed, put_varint};
use crate::header::{self, Kind};
use crate::limits::{MAX_MAP_BYTES, MAX_PAGE, MAX_RUNS};
use crate::{FrameRef, ImageError, PackSlot, compress};

const ZERO: u8 = 0;
/// The frame after that of the last stored run, from its first page on.
const NEXT_FRAME: u8 = 1;
const ELSEWHERE: u8 = 2;

impl PageMap {
    /// Its bytes.
    ///
    /// # Errors
    /// More than 16 Mi runs.
    pub fn encode(&self) -> Result<Vec<u8>, ImageError> {
        let runs = self.len() as u64;
        if runs > MAX_RUNS {
            return Err(ImageError::Limit { what: "runs", size: runs, limit: MAX_RUNS });
        }
        let columns = self.columns();
        let mut body = Vec::new();
        put_varint(&mut body, columns.len() as u64);
        body.extend_from_slice(&compress::compress("page map", &columns)?);
        Ok(header::wrap(Kind::PageMap, &body))
    }

    pub(super) fn columns(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.len() as u64);
        let mut end = 0;
        for r in self.runs() {
            put_varint(&mut out, r.range.first.0 - end);
            end = r.range.end().0;
        }
        self.runs().for_each(|r| put_varint(&mut out, r.range.count));
        let mut last = START;
        for r in self.runs() {
            let kind = kind_after(last, r.source);
            last = stored_or(last, r.source);
            out.push(kind);
        }
        let mut last = START;
        for r in self.runs() {
            if let (ELSEWHERE, PageSource::Stored { frame, page }) =
                (kind_after(last, r.source), r.source)
            {
                put_signed(&mut out, i64::from(frame.pack.0) - i64::from(last.pack.0));
                put_signed(&mut out, i64::from(frame.frame) - i64::from(last.frame));
                out.push(page);
            }
            last = stored_or(last, r.source);
        }
        out
    }

    /// Reads a map of which nothing is believed. Whether the frames exist is for [`crate::PackTable::locate`].
    ///
    /// # Errors
    /// Damaged, or it breaks the invariant of a page map.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut c = Cursor::new("page map", header::unwrap(Kind::PageMap, bytes)?);
        let length = c.bounded("page map", MAX_MAP_BYTES)?;
        let packed = c.take(c.left())?;
        let columns = compress::decompress("page map", packed, length)?;
        decode_columns(&mut Cursor::new("page map", &columns))
    }
}

const START: FrameRef = FrameRef { pack: PackSlot(0), frame: 0 };

fn kind_after(last: FrameRef, source: PageSource) -> u8 {
    match source {
        PageSource::Zero => ZERO,
        PageSource::Stored { frame, page: 0 }
            if frame.pack == last.pack && Some(frame.frame) == last.frame.checked_add(1) =>
        {
            NEXT_FRAME
        }
        PageSource::Stored { .. } => ELSEWHERE,
    }
}

fn stored_or(last: FrameRef, source: PageSource) -> FrameRef {
    match source {
        PageSource::Zero => last,
        PageSource::Stored { frame, .. } => frame,
    }
}

fn decode_columns(c: &mut Cursor<'_>) -> Result<PageMap, ImageError> {
    let n = c.count("runs", MAX_RUNS)?;
    let ranges = decode_ranges(c, n)?;
    let kinds = c.take(n)?;
    let mut builder = PageMapBuilder::new();
    let mut last = START;
    for (range, kind) in ranges.into_iter().zip(kinds) {
        let source = match *kind {
            ZERO => PageSource::Zero,
            NEXT_FRAME => PageSource::Stored { frame: following(c, last)?, page: 0 },
            ELSEWHERE => {
                let pack = PackSlot(moved(c, last.pack.0)?);
                let frame = moved(c, last.frame)?;
                PageSource::Stored { frame: FrameRef { pack, frame }, page: c.byte()? }
            }
            _ => return Err(c.invalid("a kind of run is not known")),
        };
        last = stored_or(last, source);
        builder.push(PageRun { range, source })?;
    }
    c.end()?;
    Ok(builder.finish())
}

fn decode_ranges(c: &mut Cursor<'_>, n: usize) -> Result<Vec<PageRange>, ImageError> {
    let mut gaps = Vec::with_capacity(n);
    for _ in 0..n {
        gaps.push(c.bounded("page number", MAX_PAGE)?);
    }
    let mut end = 0u64;
    let mut ranges = Vec::with_capacity(n);
    for gap in gaps {
        let count = c.bounded("pages of a run", MAX_PAGE)?;
        let first = end + gap;
        end = first + count;
        if end > MAX_PAGE {
            return Err(c.invalid("a page number is too high"));
        }
        ranges.push(PageRange::new(PageNumber(first), count));
    }
    Ok(ranges)
}

fn following(c: &Cursor<'_>, last: FrameRef) -> Result<FrameRef, ImageError> {
    let frame =
        last.frame.checked_add(1).ok_or_else(|| c.invalid("a frame's number is too high"))?;
    Ok(FrameRef { frame, ..last })
}

fn moved(c: &mut Cursor<'_>, from: u32) -> Result<u32, ImageError> {
    let to = i64::from(from).checked_add(c.signed()?);
    to.and_then(|to| u32::try_from(to).ok()).ok_or_else(|| c.invalid("a difference is too large"))
}
