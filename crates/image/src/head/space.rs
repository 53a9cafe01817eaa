//! An address space in a head: where its pages are, and which of them CRIU restores itself.

use godwit_types::PageRange;

use crate::{DigestIndex, PageMap, PageRun};

/// Names an address space within its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Memory of the process with this virtual pid.
    Task(u32),
    /// A shared memory segment (shmem, memfd, SysV) by CRIU's shmid.
    Shmem(u64),
}

impl Space {
    /// The name of CRIU's image that lists its pages: `pagemap-7.img`, `pagemap-shmem-3.img`.
    #[must_use]
    pub fn pagemap_image(self) -> String {
        match self {
            Self::Task(vpid) => format!("pagemap-{vpid}.img"),
            Self::Shmem(id) => format!("pagemap-shmem-{id}.img"),
        }
    }
}

/// One address space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpaceHead {
    /// Where every page is, eager ones included.
    pub map: PageMap,
    /// The pages that CRIU must find in its own images (flag PRESENT): what cannot be lazy, and what it touches itself
    /// before it resumes. Disjoint, ascending, each covered by the map. All others are lazy.
    pub eager: Vec<PageRange>,
    /// Digests of its stored pages.
    pub digests: DigestIndex,
    /// The lazy pages that were written last before the dump: what a restore fetches first, its hot set. Disjoint,
    /// ascending, at most [`crate::limits::MAX_RECENT_PAGES`]. A hint: it may name pages that the map does not cover. Empty
    /// where nothing told them from the others, and in the heads of older versions.
    pub recent: Vec<PageRange>,
}

/// One entry of CRIU's pagemap image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagemapEntry {
    /// Which pages.
    pub range: PageRange,
    /// PRESENT, with bytes in the pages image, instead of LAZY.
    pub eager: bool,
}

impl SpaceHead {
    /// The entries of CRIU's pagemap image, ascending, as few as possible. The bytes of the eager ones, in this order,
    /// are its pages image: [`SpaceHead::eager_runs`].
    #[must_use]
    pub fn pagemap(&self) -> Vec<PagemapEntry> {
        let mut out: Vec<PagemapEntry> = Vec::new();
        let mut eager = self.eager.iter().peekable();
        for run in self.map.runs() {
            let mut first = run.range.first;
            while first < run.range.end() {
                while eager.next_if(|e| e.end() <= first).is_some() {}
                let (end, is_eager) = match eager.peek() {
                    Some(e) if e.first <= first => (e.end(), true),
                    Some(e) => (e.first, false),
                    None => (run.range.end(), false),
                };
                let end = end.min(run.range.end());
                push(&mut out, PageRange::new(first, end.0 - first.0), is_eager);
                first = end;
            }
        }
        out
    }

    /// The runs of all eager pages, ascending: what the pages image is made of (zeros are written out).
    pub fn eager_runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        self.eager.iter().flat_map(|range| self.map.runs_within(*range))
    }
}

fn push(out: &mut Vec<PagemapEntry>, range: PageRange, eager: bool) {
    match out.last_mut() {
        Some(last) if last.eager == eager && last.range.end() == range.first => {
            last.range.count += range.count;
        }
        _ => out.push(PagemapEntry { range, eager }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameRef, PackSlot};
    use godwit_types::PageNumber;
    use proptest::prelude::*;

    fn range(first: u64, count: u64) -> PageRange {
        PageRange::new(PageNumber(first), count)
    }

    #[test]
    fn eager_pages_split_lazy_entries_and_neighbours_are_joined() {
        let frame = FrameRef { pack: PackSlot(0), frame: 0 };
        let map = [
            PageRun::stored(range(10, 5), frame, 0),
            PageRun::zero(range(15, 5)),
            PageRun::zero(range(40, 1)),
        ];
        let space = SpaceHead {
            map: map.into_iter().collect(),
            eager: vec![range(12, 1), range(14, 2), range(40, 1)],
            ..SpaceHead::default()
        };
        let entries: Vec<_> = space.pagemap().iter().map(|e| (e.range, e.eager)).collect();
        assert_eq!(
            entries,
            [
                (range(10, 2), false),
                (range(12, 1), true),
                (range(13, 1), false),
                (range(14, 2), true),
                (range(16, 4), false),
                (range(40, 1), true),
            ]
        );
        let eager: u64 = space.eager_runs().map(|r| r.range.count).sum();
        assert_eq!(eager, 4);
    }

    proptest! {
        #[test]
        fn a_pagemap_lists_every_page_once_and_rightly(
            pages in prop::collection::btree_set(0u64..100, 0..80),
            eager in prop::collection::btree_set(0u64..100, 0..30),
        ) {
            let single = |p: &u64| range(*p, 1);
            let eager: Vec<u64> = eager.intersection(&pages).copied().collect();
            let space = SpaceHead {
                map: pages.iter().map(|p| PageRun::zero(single(p))).collect(),
                eager: eager.iter().map(single).collect(),
                ..SpaceHead::default()
            };
            let listed: Vec<(u64, bool)> = space.pagemap().iter()
                .flat_map(|e| (e.range.first.0..e.range.end().0).map(|p| (p, e.eager))).collect();
            let expected: Vec<(u64, bool)> =
                pages.iter().map(|p| (*p, eager.contains(p))).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}
