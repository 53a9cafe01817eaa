//! Where the known digests of an address space come from: a baseline, else the parent checkpoint, else nowhere.

use std::collections::BTreeMap;

use godwit_image::{
    BlockNumber, FrameSource, KnownBlock, KnownDigests, PageMap, SinkError, Space, SpaceHead,
    StoredDigests,
};

use crate::{Baseline, Baselines};

/// The parent checkpoint of one container.
#[derive(Clone, Copy)]
pub struct Parent<'a> {
    /// Its address spaces, from its head.
    pub spaces: &'a BTreeMap<Space, SpaceHead>,
    /// Its frames, by the slots of its head's pack table.
    pub frames: &'a dyn FrameSource,
}

impl std::fmt::Debug for Parent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parent").field("spaces", &self.spaces.len()).finish_non_exhaustive()
    }
}

/// Known digests of one address space.
pub(crate) enum Known<'a> {
    Nothing,
    Stored(StoredDigests<'a>),
    Baseline(&'a Baseline),
}

impl<'a> Known<'a> {
    /// What is known of a space, read up to before block `end`, and where its pages are.
    pub(crate) fn of(
        space: Space,
        baselines: Option<&'a Baselines>,
        parent: Option<Parent<'a>>,
        end: BlockNumber,
    ) -> (Self, Option<&'a PageMap>) {
        if let Some(baselines) = baselines {
            let baseline = baselines.get(space);
            return (baseline.map_or(Self::Nothing, Self::Baseline), baseline.map(Baseline::map));
        }
        let head = parent.and_then(|p| Some((p.spaces.get(&space)?, p.frames)));
        match head {
            None => (Self::Nothing, None),
            Some((head, frames)) => {
                (Self::Stored(StoredDigests::new(&head.digests, frames, end)), Some(&head.map))
            }
        }
    }
}

impl KnownDigests for Known<'_> {
    fn block(&mut self, number: BlockNumber) -> Result<Option<KnownBlock<'_>>, SinkError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Stored(stored) => stored.block(number),
            Self::Baseline(baseline) => baseline.block(number),
        }
    }
}
