//! The merge-join of known digests and new ones, in address order, one block of each in memory.

use godwit_types::PageNumber;

use super::{BlockNumber, DigestBlock, DigestIndex, KnownDigests};
use crate::{PackWriter, PageDigest, SinkError, WriteError};

/// Takes the digests of all stored pages in ascending order and makes the new index: a block that is equal to the known
/// one shares its frame, any other is written. Pages that are not given have no digest afterwards.
pub struct DigestMerge<'a> {
    known: &'a mut dyn KnownDigests,
    writer: &'a mut PackWriter,
    index: DigestIndex,
    open: Option<(BlockNumber, DigestBlock)>,
}

impl<'a> DigestMerge<'a> {
    /// Joins with `known`, writes changed blocks with `writer` (of kind [`crate::PackKind::Digests`]).
    pub fn new(known: &'a mut dyn KnownDigests, writer: &'a mut PackWriter) -> Self {
        Self { known, writer, index: DigestIndex::default(), open: None }
    }

    /// What was known of this page. Ask before the digest of the page, or of a later one, is given.
    ///
    /// # Errors
    /// The known block cannot be read.
    pub fn known(&mut self, page: PageNumber) -> Result<Option<PageDigest>, SinkError> {
        let block = self.known.block(BlockNumber::of(page))?;
        Ok(block.and_then(|b| b.digests.get(page)))
    }

    /// The digest of a page that lies behind all earlier ones.
    ///
    /// # Errors
    /// A finished block cannot be written.
    pub fn push(&mut self, page: PageNumber, digest: PageDigest) -> Result<(), WriteError> {
        let number = BlockNumber::of(page);
        if self.open.as_ref().is_some_and(|(n, _)| *n != number) {
            self.close()?;
        }
        let (_, block) = self.open.get_or_insert_with(|| (number, DigestBlock::default()));
        block.set(page, Some(digest));
        Ok(())
    }

    fn close(&mut self) -> Result<(), WriteError> {
        let Some((number, block)) = self.open.take() else { return Ok(()) };
        let known = self.known.block(number)?;
        let same = known.filter(|k| *k.digests == block).and_then(|k| k.frame);
        let frame = match same {
            Some(frame) => frame,
            None => self.writer.write(&block.encode())?,
        };
        self.index.insert(number, frame);
        Ok(())
    }

    /// The index of all blocks that have a digest now.
    ///
    /// # Errors
    /// The last block cannot be written.
    pub fn finish(mut self) -> Result<DigestIndex, WriteError> {
        self.close()?;
        Ok(self.index)
    }
}

#[cfg(test)]
mod tests;
