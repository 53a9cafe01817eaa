//! What is known of memory before the freeze: for each page a digest and where a page with that digest is stored.

use std::collections::BTreeMap;

use godwit_image::{
    BlockNumber, DigestBlock, FrameRef, KnownBlock, KnownDigests, PageDigest, PageMap, SinkError,
    Space, SpaceHead, StoredDigests,
};
use godwit_types::PageNumber;

use crate::{CaptureError, Parent, Stop};

/// Digests of a block, and the frame of the parent's digests that holds exactly them, if one does.
#[derive(Debug, Clone, Default)]
pub(crate) struct BaseBlock {
    pub(crate) digests: DigestBlock,
    pub(crate) frame: Option<FrameRef>,
}

/// One address space. Invariant: a page that has a digest is stored according to the map, with that digest.
///
/// About 4.3 KiB for each MiB of memory.
#[derive(Debug, Default)]
pub struct Baseline {
    pub(crate) map: PageMap,
    pub(crate) blocks: BTreeMap<BlockNumber, BaseBlock>,
}

impl Baseline {
    /// The digest of this page.
    #[must_use]
    pub fn digest(&self, page: PageNumber) -> Option<PageDigest> {
        self.blocks.get(&BlockNumber::of(page))?.digests.get(page)
    }

    /// Where its pages are.
    #[must_use]
    pub fn map(&self) -> &PageMap {
        &self.map
    }

    /// What the parent knows of one address space.
    pub(crate) fn of_parent(head: &SpaceHead, parent: &Parent<'_>) -> Result<Self, CaptureError> {
        let mut baseline = Self { map: head.map.clone(), blocks: BTreeMap::new() };
        baseline.add_missing_blocks(head, parent)?;
        Ok(baseline)
    }

    /// Adds the parent's blocks where there is none yet.
    pub(crate) fn add_missing_blocks(
        &mut self,
        head: &SpaceHead,
        parent: &Parent<'_>,
    ) -> Result<(), CaptureError> {
        let mut stored = StoredDigests::new(&head.digests, parent.frames, BlockNumber(u64::MAX));
        for (number, frame) in head.digests.iter() {
            if self.blocks.contains_key(&number) {
                continue;
            }
            if let Some(known) = stored.block(number)? {
                let block = BaseBlock { digests: known.digests.clone(), frame: Some(frame) };
                self.blocks.insert(number, block);
            }
        }
        Ok(())
    }
}

/// A baseline as known digests: see [`KnownDigests`].
impl KnownDigests for &Baseline {
    fn block(&mut self, number: BlockNumber) -> Result<Option<KnownBlock<'_>>, SinkError> {
        let block = self.blocks.get(&number);
        Ok(block.map(|b| KnownBlock { digests: &b.digests, frame: b.frame }))
    }
}

/// All address spaces of one container.
#[derive(Debug, Default)]
pub struct Baselines {
    pub(crate) spaces: BTreeMap<Space, Baseline>,
}

impl Baselines {
    /// What is known without reading live memory: the parent checkpoint.
    ///
    /// # Errors
    /// The parent's digests cannot be read.
    pub fn of_parent(parent: &Parent<'_>, stop: &Stop) -> Result<Self, CaptureError> {
        let mut spaces = BTreeMap::new();
        for (space, head) in parent.spaces {
            stop.check()?;
            spaces.insert(*space, Baseline::of_parent(head, parent)?);
        }
        Ok(Self { spaces })
    }

    /// One address space.
    #[must_use]
    pub fn get(&self, space: Space) -> Option<&Baseline> {
        self.spaces.get(&space)
    }
}
