//! The page map of one address space: where each of its pages is.
//!
//! Complete in every checkpoint: a restore never walks a chain. Pages that it does not cover were not there (never
//! touched, or discarded): they read as zeros, as in any new mapping. Invariant: runs are disjoint, ascending, not empty,
//! a stored run lies within one frame, and neighbours that could be one run are one run.

mod builder;
mod codec;

use std::collections::BTreeMap;
use std::ops::Bound;

use godwit_types::{PAGE_SIZE, PageNumber, PageRange};

use crate::limits::{MAX_PAGE, PAGES_PER_FRAME};
use crate::{FrameRef, FrameUsage};

pub use builder::PageMapBuilder;

/// Where the pages of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageSource {
    /// All zeros; stored nowhere.
    Zero,
    /// In a frame, one after the other.
    Stored {
        /// The frame.
        frame: FrameRef,
        /// Number of the run's first page within the frame (0 to 31).
        page: u8,
    },
}

impl PageSource {
    /// The source of the page that lies `pages` further.
    #[must_use]
    pub fn advanced(self, pages: u64) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Stored { frame, page } => Self::Stored { frame, page: page + pages as u8 },
        }
    }

    /// First byte of the page within the raw bytes of its frame; `None` for a page of zeros.
    #[must_use]
    pub fn frame_offset(self) -> Option<(FrameRef, usize)> {
        match self {
            Self::Zero => None,
            Self::Stored { frame, page } => Some((frame, usize::from(page) * PAGE_SIZE as usize)),
        }
    }
}

/// Pages that lie together, in memory and in their frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRun {
    /// Which pages.
    pub range: PageRange,
    /// Where the first of them is; the others follow.
    pub source: PageSource,
}

impl PageRun {
    /// A run of zeros.
    #[must_use]
    pub fn zero(range: PageRange) -> Self {
        Self { range, source: PageSource::Zero }
    }

    /// `range` must not be longer than what is left of the frame from `page` on.
    #[must_use]
    pub fn stored(range: PageRange, frame: FrameRef, page: u8) -> Self {
        Self { range, source: PageSource::Stored { frame, page } }
    }

    /// The part of it within `range`, if any.
    #[must_use]
    pub fn within(&self, range: PageRange) -> Option<Self> {
        let first = self.range.first.max(range.first);
        let end = self.range.end().min(range.end());
        let count = end.0.checked_sub(first.0).filter(|n| *n > 0)?;
        let source = self.source.advanced(first.0 - self.range.first.0);
        Some(Self { range: PageRange::new(first, count), source })
    }

    /// Whether it satisfies the invariant by itself.
    pub(crate) fn is_valid(&self) -> bool {
        let PageRange { first, count } = self.range;
        let below_end = first.0.checked_add(count).is_some_and(|end| end <= MAX_PAGE);
        let in_frame = match self.source {
            PageSource::Zero => true,
            PageSource::Stored { page, .. } => {
                count <= u64::from(PAGES_PER_FRAME)
                    && u64::from(page) + count <= u64::from(PAGES_PER_FRAME)
            }
        };
        count > 0 && below_end && in_frame
    }

    /// Whether `next` continues this run, in memory and in the frame.
    pub(crate) fn is_continued_by(&self, next: &Self) -> bool {
        let follows = self.range.end() == next.range.first;
        follows
            && match (self.source, next.source) {
                (PageSource::Zero, PageSource::Zero) => true,
                (
                    PageSource::Stored { frame: a, page },
                    PageSource::Stored { frame: b, page: after },
                ) => a == b && u64::from(page) + self.range.count == u64::from(after),
                _ => false,
            }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Value {
    count: u64,
    source: PageSource,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageMap {
    runs: BTreeMap<u64, Value>,
}

fn run((first, value): (&u64, &Value)) -> PageRun {
    PageRun { range: PageRange::new(PageNumber(*first), value.count), source: value.source }
}

impl PageMap {
    /// A map that covers nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where this page is; `None` if the map does not cover it.
    #[must_use]
    pub fn lookup(&self, page: PageNumber) -> Option<PageSource> {
        self.run_at(page).map(|r| r.source)
    }

    /// The rest of the run that holds this page, from this page on.
    #[must_use]
    pub fn run_at(&self, page: PageNumber) -> Option<PageRun> {
        let before = self.runs.range(..=page.0).next_back().map(run)?;
        before.within(PageRange::new(page, before.range.end().0.checked_sub(page.0)?))
    }

    /// All runs, ascending.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = PageRun> + '_ {
        self.runs.iter().map(run)
    }

    /// The runs within `range`, cut at its ends, ascending.
    pub fn runs_within(&self, range: PageRange) -> impl Iterator<Item = PageRun> + '_ {
        let start =
            self.runs.range(..=range.first.0).next_back().map_or(range.first.0, |(k, _)| *k);
        self.runs
            .range(start.min(range.end().0)..range.end().0)
            .map(run)
            .filter_map(move |r| r.within(range))
    }

    /// How many runs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Pages that it covers.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs.values().map(|v| v.count).sum()
    }

    /// Pages of zeros that it covers.
    #[must_use]
    pub fn zero_pages(&self) -> u64 {
        let zero = |v: &&Value| v.source == PageSource::Zero;
        self.runs.values().filter(zero).map(|v| v.count).sum()
    }

    /// Covers these pages, whatever covered them before.
    ///
    /// # Panics
    /// Never; a run that breaks the invariant (empty, longer than its frame) is ignored in release builds and a defect
    /// of the caller in debug builds.
    pub fn insert(&mut self, new: PageRun) {
        debug_assert!(new.is_valid(), "{new:?}");
        if !new.is_valid() {
            return;
        }
        self.remove(new.range);
        let mut new = new;
        if let Some(before) = self.runs.range(..new.range.first.0).next_back().map(run)
            && before.is_continued_by(&new)
        {
            let count = before.range.count + new.range.count;
            new = PageRun { range: PageRange::new(before.range.first, count), ..before };
        }
        if let Some(after) = self.runs.get_key_value(&new.range.end().0).map(run)
            && new.is_continued_by(&after)
        {
            self.runs.remove(&after.range.first.0);
            new.range.count += after.range.count;
        }
        self.put(new);
    }

    fn put(&mut self, r: PageRun) {
        self.runs.insert(r.range.first.0, Value { count: r.range.count, source: r.source });
    }

    /// Covers these pages no longer.
    pub fn remove(&mut self, range: PageRange) {
        let hit: Vec<PageRun> = self.touching(range).collect();
        for r in hit {
            self.runs.remove(&r.range.first.0);
            let before = range.first.0.saturating_sub(r.range.first.0);
            let after = r.range.end().0.saturating_sub(range.end().0);
            if before > 0 {
                self.put(PageRun { range: PageRange::new(r.range.first, before), ..r });
            }
            if after > 0 {
                let source = r.source.advanced(r.range.count - after);
                self.put(PageRun { range: PageRange::new(range.end(), after), source });
            }
        }
    }

    /// The whole runs that share a page with `range`.
    fn touching(&self, range: PageRange) -> impl Iterator<Item = PageRun> + '_ {
        let end = range.end().0;
        let before = self.runs.range(..range.first.0).next_back().map(run);
        let before = before.filter(move |r| range.count > 0 && r.range.end() > range.first);
        let from = Bound::Included(range.first.0.min(end));
        before.into_iter().chain(self.runs.range((from, Bound::Excluded(end))).map(run))
    }

    /// Moves what covers `from` to the addresses from `to` on (an mremap); what was there is covered no longer.
    pub fn shift(&mut self, from: PageRange, to: PageNumber) {
        let moved: Vec<PageRun> = self.runs_within(from).collect();
        self.remove(from);
        self.remove(PageRange::new(to, from.count));
        for r in moved {
            let first = PageNumber(r.range.first.0 - from.first.0 + to.0);
            self.insert(PageRun { range: PageRange::new(first, r.range.count), ..r });
        }
    }

    /// Covers only what lies in these ranges too (the VMAs that still exist). They must be disjoint.
    #[must_use]
    pub fn restricted_to(&self, ranges: &[PageRange]) -> Self {
        let mut out = Self::new();
        ranges.iter().flat_map(|r| self.runs_within(*r)).for_each(|r| out.insert(r));
        out
    }

    /// This map with all of `changes` laid over it.
    #[must_use]
    pub fn overlaid(&self, changes: &Self) -> Self {
        let mut out = self.clone();
        changes.runs().for_each(|r| out.insert(r));
        out
    }

    /// Adds the frames that it refers to, each with the number of its live pages.
    pub fn count_usage(&self, usage: &mut FrameUsage) {
        for r in self.runs() {
            if let PageSource::Stored { frame, .. } = r.source {
                usage.add(frame, r.range.count as u32);
            }
        }
    }
}

impl FromIterator<PageRun> for PageMap {
    /// Later runs win over earlier ones.
    fn from_iter<T: IntoIterator<Item = PageRun>>(iter: T) -> Self {
        let mut map = Self::new();
        iter.into_iter().for_each(|r| map.insert(r));
        map
    }
}

#[cfg(test)]
mod tests;
