//! One batch of an address space: page by page to its source.

use std::sync::Arc;

use godwit_image::{
    DigestIndex, DigestMerge, PackKind, PackWriter, PageDigest, PageMap, PageRun, PageSource,
};
use godwit_types::{PageNumber, PageRange};

use super::recent::Recent;
use super::{Assembly, Plan};
use crate::filler::Filler;
use crate::known::Known;
use crate::page::{PAGE, is_zero};
use crate::ranges::contains;
use crate::work::Batch;
use crate::{Baseline, CaptureError, FrozenRun, FrozenState};

/// The result of one batch.
pub(super) struct Done {
    /// Ascending.
    pub(super) runs: Vec<PageRun>,
    pub(super) digests: DigestIndex,
    /// Written last.
    pub(super) recent: Recent,
}

/// What one thread has of its own: packs, and frames in the making.
pub(super) struct Worker<'a> {
    assembly: &'a Assembly<'a>,
    data: PackWriter,
    digests: PackWriter,
    lazy: Filler,
    eager: Filler,
}

impl<'a> Worker<'a> {
    pub(super) fn new(assembly: &'a Assembly<'a>) -> Result<Self, CaptureError> {
        let writer = |kind| assembly.packs.writer(kind, Arc::clone(&assembly.sink));
        Ok(Self {
            assembly,
            data: writer(PackKind::Data)?,
            digests: writer(PackKind::Digests)?,
            lazy: Filler::new(),
            eager: Filler::new(),
        })
    }

    /// Hands on the last packs; gives the bytes stored.
    pub(super) fn end(self) -> Result<u64, CaptureError> {
        let stored = self.data.stored() + self.digests.stored();
        self.data.finish()?;
        self.digests.finish()?;
        Ok(stored)
    }

    pub(super) fn batch(&mut self, plan: &Plan<'_>, batch: &Batch) -> Result<Done, CaptureError> {
        let Self { assembly, data, digests, lazy, eager } = self;
        let (mut known, map) =
            Known::of(plan.space, assembly.baselines, assembly.parent, batch.end);
        let mut pages = Pages {
            merge: DigestMerge::new(&mut known, digests),
            map,
            baseline: assembly.baselines.and_then(|b| b.get(plan.space)),
            eager: &plan.eager,
            fillers: (lazy, eager),
            data,
            runs: Vec::new(),
            recent: Recent::default(),
        };
        for run in runs_of(plan.runs, batch) {
            pages.run(&run, assembly.received.bytes(&run))?;
        }
        pages.finish()
    }
}

/// The parts of the frozen runs that lie in a batch, ascending.
fn runs_of<'a>(runs: &'a [FrozenRun], batch: &'a Batch) -> impl Iterator<Item = FrozenRun> + 'a {
    batch.ranges.iter().flat_map(|window| {
        let from = runs.partition_point(|r| r.range.end() <= window.first);
        let behind = runs[from..].iter().take_while(|r| r.range.first < window.end());
        behind.filter_map(|r| r.within(*window))
    })
}

struct Pages<'a> {
    merge: DigestMerge<'a>,
    map: Option<&'a PageMap>,
    baseline: Option<&'a Baseline>,
    eager: &'a [PageRange],
    /// Lazy and eager pages do not share frames: the eager ones are fetched first.
    fillers: (&'a mut Filler, &'a mut Filler),
    data: &'a mut PackWriter,
    runs: Vec<PageRun>,
    recent: Recent,
}

impl Pages<'_> {
    fn run(&mut self, run: &FrozenRun, bytes: Option<&[u8]>) -> Result<(), CaptureError> {
        let first = run.range.first;
        match (run.state, bytes) {
            (FrozenState::Zero, _) => self.runs.push(PageRun::zero(run.range)),
            (FrozenState::Same, _) => self.same(run.range)?,
            (FrozenState::Bytes { .. }, Some(bytes)) => {
                let pages = (first.0..).map(PageNumber).zip(bytes.chunks_exact(PAGE));
                for (page, bytes) in pages {
                    self.page(page, bytes)?;
                }
            }
            (FrozenState::Bytes { .. }, None) => {
                return Err(CaptureError::Unknown { page: first.0 });
            }
        }
        Ok(())
    }

    /// Pages that the freeze found equal to the baseline.
    fn same(&mut self, range: PageRange) -> Result<(), CaptureError> {
        let baseline = self.baseline.ok_or(CaptureError::Unknown { page: range.first.0 })?;
        let mut pages = 0;
        for run in baseline.map.runs_within(range) {
            pages += run.range.count;
            self.runs.push(run);
        }
        for page in (range.first.0..range.end().0).map(PageNumber) {
            let digest = baseline.digest(page).filter(|_| pages == range.count);
            let digest = digest.ok_or(CaptureError::Unknown { page: page.0 })?;
            self.merge.push(page, digest)?;
        }
        Ok(())
    }

    /// A page whose bytes are here.
    fn page(&mut self, page: PageNumber, bytes: &[u8]) -> Result<(), CaptureError> {
        if is_zero(bytes) {
            self.runs.push(PageRun::zero(PageRange::new(page, 1)));
            return Ok(());
        }
        let digest = PageDigest::of(bytes);
        match self.known(page, digest)? {
            Some(source) => self.runs.push(PageRun { range: PageRange::new(page, 1), source }),
            None => {
                let (lazy, eager) = &mut self.fillers;
                let is_eager = contains(self.eager, page);
                let filler = if is_eager { eager } else { lazy };
                filler.add(page, bytes, self.data, &mut self.runs)?;
                if self.map.is_some() && !is_eager {
                    self.recent.push(page);
                }
            }
        }
        self.merge.push(page, digest)?;
        Ok(())
    }

    /// Where a page with this digest is stored already.
    fn known(
        &mut self,
        page: PageNumber,
        digest: PageDigest,
    ) -> Result<Option<PageSource>, CaptureError> {
        let Some(map) = self.map else { return Ok(None) };
        if self.merge.known(page)? != Some(digest) {
            return Ok(None);
        }
        Ok(map.lookup(page).filter(|s| matches!(s, PageSource::Stored { .. })))
    }

    fn finish(mut self) -> Result<Done, CaptureError> {
        self.fillers.0.flush(self.data, &mut self.runs)?;
        self.fillers.1.flush(self.data, &mut self.runs)?;
        self.runs.sort_by_key(|r| r.range.first);
        Ok(Done { runs: self.runs, digests: self.merge.finish()?, recent: self.recent })
    }
}
