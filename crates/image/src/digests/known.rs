//! Digests that are known from before: those of the parent checkpoint, read block by block.

use std::collections::{BTreeSet, VecDeque};

use godwit_types::Code;

use super::{BlockNumber, DigestBlock, DigestIndex};
use crate::{FrameRef, FrameSource, PackSlot, SinkError};

/// A block that is known, and the frame that holds exactly it, if one does.
#[derive(Debug, Clone, Copy)]
pub struct KnownBlock<'a> {
    /// The digests.
    pub digests: &'a DigestBlock,
    /// Where they are stored already.
    pub frame: Option<FrameRef>,
}

/// Gives known blocks. Asked in ascending order, so that an implementation may read ahead and hold little.
pub trait KnownDigests {
    /// The block of this number; `None` if nothing is known of its pages.
    ///
    /// # Errors
    /// It exists and cannot be read now.
    fn block(&mut self, number: BlockNumber) -> Result<Option<KnownBlock<'_>>, SinkError>;
}

/// How many blocks are asked for at once: 64 × 4 KiB lie together in their pack, one ranged GET.
const AHEAD: usize = 64;

/// The digests of a checkpoint in a store. One block decoded, up to 63 more fetched ahead.
///
/// Digests that are damaged or missing are not known: their pages count as changed and are stored anew. That costs bytes;
/// to fail instead would keep a pod from ever making a checkpoint again.
pub struct StoredDigests<'a> {
    index: &'a DigestIndex,
    frames: &'a dyn FrameSource,
    end: BlockNumber,
    fetched: VecDeque<(BlockNumber, FrameRef, Vec<u8>)>,
    current: Option<(BlockNumber, FrameRef, DigestBlock)>,
    /// Packs with damage: nothing more is read of them.
    damaged: BTreeSet<PackSlot>,
}

impl<'a> StoredDigests<'a> {
    /// Reads blocks of this index; never ahead of the block `end`, which is not read.
    #[must_use]
    pub fn new(index: &'a DigestIndex, frames: &'a dyn FrameSource, end: BlockNumber) -> Self {
        let (fetched, current, damaged) = (VecDeque::new(), None, BTreeSet::new());
        Self { index, frames, end, fetched, current, damaged }
    }

    fn fetch(&mut self, from: BlockNumber, ahead: usize) -> Result<(), SinkError> {
        let sound = |frame: &FrameRef| !self.damaged.contains(&frame.pack);
        let range = self.index.range(from, self.end).filter(|(_, frame)| sound(frame));
        let wanted: Vec<_> = range.take(ahead).collect();
        let refs: Vec<FrameRef> = wanted.iter().map(|(_, frame)| *frame).collect();
        let bytes = self.frames.frames(&refs)?;
        let named = wanted.into_iter().zip(bytes).map(|((number, frame), b)| (number, frame, b));
        self.fetched = named.collect();
        Ok(())
    }

    fn load(&mut self, number: BlockNumber, frame: FrameRef) -> Result<(), SinkError> {
        while self.fetched.front().is_some_and(|(n, _, _)| *n < number) {
            self.fetched.pop_front();
        }
        if self.fetched.front().is_none_or(|(n, _, _)| *n != number) {
            match self.fetch(number, AHEAD) {
                // One of them spoils the answer for all: perhaps not this one.
                Err(e) if is_damage(&e) => self.fetch(number, 1)?,
                other => other?,
            }
        }
        let bytes = self.fetched.pop_front().map(|(_, _, bytes)| bytes).unwrap_or_default();
        let block = DigestBlock::decode(&bytes)
            .map_err(|e| SinkError::with_source(e.code(), "reading page digests", e))?;
        self.current = Some((number, frame, block));
        Ok(())
    }
}

fn is_damage(error: &SinkError) -> bool {
    matches!(error.code(), Code::Corrupt | Code::NotFound)
}

impl KnownDigests for StoredDigests<'_> {
    fn block(&mut self, number: BlockNumber) -> Result<Option<KnownBlock<'_>>, SinkError> {
        let Some(frame) = self.index.get(number) else { return Ok(None) };
        if self.current.as_ref().is_none_or(|(n, _, _)| *n != number) {
            if self.damaged.contains(&frame.pack) {
                return Ok(None);
            }
            match self.load(number, frame) {
                Err(e) if is_damage(&e) => {
                    self.damaged.insert(frame.pack);
                    return Ok(None);
                }
                other => other?,
            }
        }
        let current = self.current.as_ref();
        Ok(current.map(|(_, frame, digests)| KnownBlock { digests, frame: Some(*frame) }))
    }
}
