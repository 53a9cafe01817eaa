//! The page map of one process, laid out for look-ups in both directions: page → frame, frame → pages.
//!
//! Immutable and shared by a process and its children. Pages that are zeros, or that the page map does not cover, are not in it.

use std::ops::Range;

use godwit_image::limits::{MAX_PAGE, PAGES_PER_FRAME};
use godwit_image::{FrameRef, PageMap, PageRun, PageSource};

use crate::FaultsError;

/// Pages that lie together in the process and in their frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// First page, as of the checkpoint.
    pub(crate) first: u64,
    /// Number of the first page among all stored pages.
    pub(crate) rank: u64,
    /// Index of the frame in [`Layout`].
    pub(crate) frame: u32,
    /// Number of the first page within the frame.
    pub(crate) offset: u8,
    /// How many pages, at most 32.
    pub(crate) count: u8,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// The part within a range of pages, if any.
    pub(crate) fn within(&self, range: &Range<u64>) -> Option<Self> {
        let first = self.first.max(range.start);
        let end = self.end().min(range.end);
        let skip = first - self.first;
        (first < end).then(|| Self {
            first,
            rank: self.rank + skip,
            frame: self.frame,
            offset: self.offset + skip as u8,
            count: (end - first) as u8,
        })
    }

    pub(crate) fn ranks(&self) -> Range<u64> {
        self.rank..self.rank + u64::from(self.count)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Layout {
    /// Ascending by page.
    runs: Vec<Run>,
    /// Ascending by pack and number: the order in which they lie in the store.
    frames: Vec<FrameRef>,
    /// Indexes of runs, grouped by frame.
    by_frame: Vec<u32>,
    /// For each frame where its group starts in `by_frame`; one more for the end.
    groups: Vec<u32>,
    pages: u64,
}

impl Layout {
    /// Lays out a page map.
    ///
    /// # Errors
    /// [`FaultsError::PageMap`] if it breaks a rule that its own decoder should have held.
    pub fn new(map: &PageMap) -> Result<Self, FaultsError> {
        let mut frames: Vec<FrameRef> = map.runs().filter_map(stored_frame).collect();
        frames.sort_unstable();
        frames.dedup();
        let (mut runs, mut rank, mut end) = (Vec::new(), 0, 0);
        for run in map.runs() {
            let Some(run) = laid_out(run, rank, &frames)? else { continue };
            if run.first < end || run.end() > MAX_PAGE {
                return Err(FaultsError::PageMap { why: "its runs overlap or leave memory" });
            }
            (rank, end) = (rank + u64::from(run.count), run.end());
            runs.push(run);
        }
        let (by_frame, groups) = grouped(&runs, frames.len());
        Ok(Self { runs, frames, by_frame, groups, pages: rank })
    }

    /// Stored pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many frames they are in.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The frame at this index.
    pub(crate) fn frame(&self, index: u32) -> Option<FrameRef> {
        self.frames.get(index as usize).copied()
    }

    /// The run that holds a page of the checkpoint, cut to that page.
    pub(crate) fn page(&self, origin: u64) -> Option<Run> {
        let after = self.runs.partition_point(|r| r.first <= origin);
        self.runs.get(after.checked_sub(1)?)?.within(&(origin..origin + 1))
    }

    /// The runs within a range of pages of the checkpoint, cut at its ends.
    pub(crate) fn runs(&self, origins: Range<u64>) -> impl Iterator<Item = Run> + '_ {
        let from = self.runs.partition_point(|r| r.end() <= origins.start);
        let runs = self.runs[from..].iter().take_while({
            let end = origins.end;
            move |r| r.first < end
        });
        runs.filter_map(move |r| r.within(&origins))
    }

    /// The runs of a frame.
    pub(crate) fn runs_of(&self, frame: u32) -> impl Iterator<Item = Run> + '_ {
        let group = match self.groups.get(frame as usize..frame as usize + 2) {
            Some([from, to]) => *from as usize..*to as usize,
            _ => 0..0,
        };
        self.by_frame[group].iter().map(|i| self.runs[*i as usize])
    }

    /// How many pages the frame must have at least.
    pub(crate) fn pages_wanted(&self, frame: u32) -> u32 {
        self.runs_of(frame).map(|r| u32::from(r.offset) + u32::from(r.count)).max().unwrap_or(0)
    }
}

fn stored_frame(run: PageRun) -> Option<FrameRef> {
    match run.source {
        PageSource::Zero => None,
        PageSource::Stored { frame, .. } => Some(frame),
    }
}

fn laid_out(run: PageRun, rank: u64, frames: &[FrameRef]) -> Result<Option<Run>, FaultsError> {
    let PageSource::Stored { frame, page } = run.source else { return Ok(None) };
    let count = u8::try_from(run.range.count).unwrap_or(u8::MAX);
    if u32::from(page) + u32::from(count) > PAGES_PER_FRAME || count == 0 {
        return Err(FaultsError::PageMap { why: "a run does not fit its frame" });
    }
    let index = frames.binary_search(&frame).ok().and_then(|i| u32::try_from(i).ok());
    let index = index.ok_or(FaultsError::PageMap { why: "it has too many frames" })?;
    Ok(Some(Run { first: run.range.first.0, rank, frame: index, offset: page, count }))
}

/// Indexes of the runs by frame, and where the group of each frame starts.
fn grouped(runs: &[Run], frames: usize) -> (Vec<u32>, Vec<u32>) {
    let mut groups = vec![0u32; frames + 1];
    for run in runs {
        groups[run.frame as usize + 1] += 1;
    }
    for i in 1..groups.len() {
        groups[i] += groups[i - 1];
    }
    let mut next = groups.clone();
    let mut by_frame = vec![0; runs.len()];
    for (index, run) in runs.iter().enumerate() {
        let at = &mut next[run.frame as usize];
        by_frame[*at as usize] = index as u32;
        *at += 1;
    }
    (by_frame, groups)
}

#[cfg(test)]
pub(crate) mod tests {
    use godwit_image::PackSlot;
    use godwit_types::{PageNumber, PageRange};

    use super::*;

    pub(crate) fn frame(pack: u32, frame: u32) -> FrameRef {
        FrameRef { pack: PackSlot(pack), frame }
    }

    /// Runs as (first page, count, pack, frame, page in frame).
    pub(crate) fn layout(runs: &[(u64, u64, u32, u32, u8)]) -> Layout {
        let run = |&(first, count, p, f, page): &(u64, u64, u32, u32, u8)| {
            PageRun::stored(PageRange::new(PageNumber(first), count), frame(p, f), page)
        };
        Layout::new(&runs.iter().map(run).collect()).unwrap()
    }

    #[test]
    fn pages_are_found_and_frames_know_their_pages() {
        let l = layout(&[(10, 4, 1, 0, 0), (20, 2, 0, 7, 3), (22, 3, 1, 0, 4)]);
        assert_eq!((l.pages(), l.frames()), (9, 2));
        assert!(l.page(9).is_none() && l.page(14).is_none() && l.page(25).is_none());
        let p = l.page(21).unwrap();
        assert_eq!((l.frame(p.frame), p.offset, p.rank), (Some(frame(0, 7)), 4, 5));
        let p = l.page(24).unwrap();
        assert_eq!((l.frame(p.frame), p.offset, p.rank), (Some(frame(1, 0)), 6, 8));
        let of: Vec<u64> = l.runs_of(p.frame).map(|r| r.first).collect();
        assert_eq!(of, [10, 22]);
        assert_eq!(l.pages_wanted(p.frame), 7);
        let part: Vec<_> = l.runs(12..21).map(|r| (r.first, r.count)).collect();
        assert_eq!(part, [(12, 2), (20, 1)]);
        assert_eq!(l.runs(0..10).count() + l.runs_of(99).count(), 0);
    }

    #[test]
    fn zeros_are_not_in_it() {
        let zero = PageRun::zero(PageRange::new(PageNumber(3), 1 << 30));
        assert_eq!(Layout::new(&[zero].into_iter().collect()).unwrap().pages(), 0);
    }
}
