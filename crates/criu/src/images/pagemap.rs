//! Page maps for CRIU: which pages of an address space are in the image set, and which come later.
//!
//! Owns `pagemap-*.img`. The bytes of eager pages stand in `pages-<n>.img`, one after another in the order of
//! [`eager`]: whoever has the bytes writes that file. A page is lazy if its mapping can be lazy and the page is not hot;
//! **an image set with lazy pages must only be restored with lazy pages on.**

use std::path::PathBuf;

use godwit_criu_rpc::image_file::{ImageFile, Kind};
use godwit_criu_rpc::images::{PagemapEntry, PagemapHead};
use godwit_types::{PAGE_SIZE, PageNumber, PageRange};
use prost::Message as _;

use crate::Error;
use crate::images::ImageDir;
use crate::images::tasks::Task;

/// Flags of an entry (`criu/include/pagemap.h`).
const LAZY: u32 = 2;
const PRESENT: u32 = 4;
/// Most pages of one entry: CRIU counts with 32 bits in its older field.
const MAX_ENTRY: u64 = 1 << 30;

/// What a page map describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// The private memory of the process with this pid inside the container.
    Task(u32),
    /// A shared memory segment (memfd, anonymous shared mapping, System V), by CRIU's id.
    Shmem(u64),
}

impl Space {
    /// Name of its page map.
    #[must_use]
    pub fn file(self) -> String {
        match self {
            Self::Task(vpid) => format!("pagemap-{vpid}.img"),
            Self::Shmem(id) => format!("pagemap-shmem-{id}.img"),
        }
    }
}

/// When a page gets its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// From the pager, while the process runs.
    Lazy,
    /// From `pages-<n>.img`, before the process runs.
    Eager,
}

/// Pages with one fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Which.
    pub range: PageRange,
    /// When.
    pub residence: Residence,
}

/// Divides the captured pages of a process (in order, not overlapping) into lazy and eager ones.
#[must_use]
pub fn split(task: &Task, captured: &[PageRange]) -> Vec<Run> {
    let mut runs = Vec::new();
    for range in captured {
        let mut at = range.first;
        while at < range.end() {
            let (residence, until) = fate(task, at, range.end());
            push(&mut runs, PageRange::new(at, until.0 - at.0), residence);
            at = until;
        }
    }
    runs
}

/// All of them eager: shared memory, or a restore that is not lazy.
#[must_use]
pub fn all_eager(captured: &[PageRange]) -> Vec<Run> {
    let mut runs = Vec::new();
    for range in captured {
        push(&mut runs, *range, Residence::Eager);
    }
    runs
}

/// The eager pages in the order of `pages-<n>.img`.
pub fn eager(runs: &[Run]) -> impl Iterator<Item = PageRange> + '_ {
    runs.iter().filter(|r| r.residence == Residence::Eager).map(|r| r.range)
}

/// Where the eager pages of page map number `pages_id` belong.
#[must_use]
pub fn pages_path(images: &ImageDir, pages_id: u32) -> PathBuf {
    images.path().join(format!("pages-{pages_id}.img"))
}

/// Writes a page map. `pages_id` is the caller's, a different one for each page map of the directory, from 1 on.
///
/// # Errors
/// [`Error::Io`].
pub fn write(images: &ImageDir, space: Space, pages_id: u32, runs: &[Run]) -> Result<(), Error> {
    let mut records = vec![PagemapHead { pages_id }.encode_to_vec()];
    for run in runs {
        let flags = if run.residence == Residence::Lazy { LAZY } else { PRESENT };
        records.extend(pieces(run.range).map(|piece| entry(piece, flags).encode_to_vec()));
    }
    images.write(&space.file(), &ImageFile { kind: Kind::Pagemap, records })
}

/// One entry of a page map as CRIU wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Which pages.
    pub range: PageRange,
    /// The bytes are in `pages-<n>.img`.
    pub present: bool,
    /// They may be left to a pager.
    pub lazy: bool,
}

/// Reads a page map: its `pages_id` and its entries.
///
/// # Errors
/// [`Error::Io`], [`Error::Rpc`], [`Error::Image`] when it is malformed or out of order.
pub fn read(images: &ImageDir, space: Space) -> Result<(u32, Vec<Entry>), Error> {
    let name = space.file();
    let file = images.read(Kind::Pagemap, &name)?;
    let bad = |why: &str| Error::image(name.clone(), why);
    let (head, entries) = file.records.split_first().ok_or_else(|| bad("no head"))?;
    let head = PagemapHead::decode(head.as_slice()).map_err(|e| bad(&e.to_string()))?;
    let mut out = Vec::with_capacity(entries.len());
    let mut last = 0;
    for record in entries {
        let e = PagemapEntry::decode(record.as_slice()).map_err(|e| bad(&e.to_string()))?;
        let count = e.nr_pages.unwrap_or(u64::from(e.compat_nr_pages));
        let first = e.vaddr / PAGE_SIZE;
        let end = first.checked_add(count).filter(|_| count > 0 && first >= last);
        last = end.ok_or_else(|| bad("entries out of order"))?;
        let flags = e.flags.unwrap_or(PRESENT);
        let range = PageRange::new(PageNumber(first), count);
        out.push(Entry { range, present: flags & PRESENT != 0, lazy: flags & LAZY != 0 });
    }
    Ok((head.pages_id, out))
}

/// The residence of a page and the page up to which it holds, at most `end`.
fn fate(task: &Task, at: PageNumber, end: PageNumber) -> (Residence, PageNumber) {
    let index = task.lazy.partition_point(|r| r.end() <= at);
    let mapping = match task.lazy.get(index) {
        Some(mapping) if mapping.first <= at => mapping,
        next => return (Residence::Eager, next.map_or(end, |r| r.first.min(end))),
    };
    let hot = task.hot.partition_point(|p| *p < at);
    match task.hot.get(hot) {
        Some(page) if *page == at => (Residence::Eager, PageNumber(at.0 + 1)),
        next => {
            let until = mapping.end().min(end);
            (Residence::Lazy, next.map_or(until, |p| (*p).min(until)))
        }
    }
}

fn push(runs: &mut Vec<Run>, range: PageRange, residence: Residence) {
    match runs.last_mut() {
        Some(last) if last.residence == residence && last.range.end() == range.first => {
            last.range.count += range.count;
        }
        _ if range.count > 0 => runs.push(Run { range, residence }),
        _ => {}
    }
}

fn pieces(range: PageRange) -> impl Iterator<Item = PageRange> {
    let starts = (range.first.0..range.end().0).step_by(1 << 30);
    starts.map(move |first| PageRange::new(PageNumber(first), MAX_ENTRY.min(range.end().0 - first)))
}

fn entry(range: PageRange, flags: u32) -> PagemapEntry {
    PagemapEntry {
        vaddr: range.first.address(),
        // Required by CRIU's schema; 4.2 and newer read the other one.
        compat_nr_pages: u32::try_from(range.count).unwrap_or(u32::MAX),
        flags: Some(flags),
        nr_pages: Some(range.count),
        in_parent: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, count: u64) -> PageRange {
        PageRange::new(PageNumber(first), count)
    }

    fn task(lazy: Vec<PageRange>, hot: Vec<u64>) -> Task {
        let hot = hot.into_iter().map(PageNumber).collect();
        Task { lazy, hot, ..Task::default() }
    }

    #[test]
    fn hot_pages_and_pages_of_other_mappings_are_eager() {
        let task = task(vec![range(10, 10), range(20, 5)], vec![12, 24]);
        let runs = split(&task, &[range(8, 10), range(20, 10)]);
        let shape: Vec<_> = runs
            .iter()
            .map(|r| (r.range.first.0, r.range.count, r.residence == Residence::Eager))
            .collect();
        let expected = [
            (8, 2, true),
            (10, 2, false),
            (12, 1, true),
            (13, 5, false),
            (20, 4, false),
            (24, 6, true),
        ];
        assert_eq!(shape, expected);
    }

    #[test]
    fn a_page_map_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDir::new(dir.path());
        let runs = [
            Run { range: range(1, 2), residence: Residence::Lazy },
            Run { range: range(3, (1 << 30) + 5), residence: Residence::Eager },
        ];
        write(&images, Space::Task(7), 3, &runs).unwrap();
        let (id, entries) = read(&images, Space::Task(7)).unwrap();
        assert_eq!((id, entries.len()), (3, 3));
        assert_eq!((entries[0].lazy, entries[0].present), (true, false));
        assert_eq!((entries[2].lazy, entries[2].range.count), (false, 5));
        assert_eq!(Space::Shmem(9).file(), "pagemap-shmem-9.img");
    }

    proptest! {
        #[test]
        fn splitting_loses_no_page_and_agrees_with_the_definition(
            lazy in proptest::collection::vec((0u64..4, 1u64..9), 0..6),
            captured in proptest::collection::vec((0u64..4, 1u64..9), 0..8),
            hot in proptest::collection::btree_set(0u64..60, 0..8),
        ) {
            let place = |gaps: Vec<(u64, u64)>| {
                let mut at = 0;
                let mut out = Vec::new();
                for (gap, count) in gaps {
                    out.push(range(at + gap, count));
                    at += gap + count;
                }
                out
            };
            let (lazy, captured) = (place(lazy), place(captured));
            let hot: Vec<u64> = hot.into_iter().collect();
            let runs = split(&task(lazy.clone(), hot.clone()), &captured);
            let inside = |all: &[PageRange], p: u64| {
                all.iter().any(|r| r.first.0 <= p && p < r.end().0)
            };
            for page in 0..120u64 {
                let found: Vec<_> = runs
                    .iter()
                    .filter(|r| r.range.first.0 <= page && page < r.range.end().0)
                    .collect();
                prop_assert_eq!(found.len(), usize::from(inside(&captured, page)));
                if let Some(run) = found.first() {
                    let lazy = inside(&lazy, page) && !hot.contains(&page);
                    prop_assert_eq!(run.residence == Residence::Lazy, lazy);
                }
            }
        }
    }
}
