//! What arrived in the freeze.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use godwit_image::Space;
use godwit_types::{Bytes, PageNumber, PageRange};

use crate::page::PAGE;
use crate::protocol::{Layout, ProtocolError};
use crate::{Arena, Budget, CaptureError, Span};

/// Where the bytes of a frozen run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrozenState {
    /// In memory: in this span, from this page on.
    Bytes {
        /// Index of the span.
        span: u32,
        /// First page within it.
        page: u32,
    },
    /// Equal to what the baseline knows of the same pages.
    Same,
    /// Zeros.
    Zero,
}

/// Pages that arrived and lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrozenRun {
    /// Which pages.
    pub range: PageRange,
    /// Whether CRIU marked them as LAZY. What may be lazy is decided by the memory area, not by this.
    pub lazy: bool,
    /// Where their bytes are.
    pub state: FrozenState,
}

impl FrozenState {
    /// The state of the page that lies so many pages further.
    pub(crate) fn advanced(self, pages: u64) -> Self {
        match self {
            Self::Bytes { span, page } => Self::Bytes { span, page: page + pages as u32 },
            other => other,
        }
    }
}

impl FrozenRun {
    fn is_continued_by(&self, next: &Self) -> bool {
        self.range.end() == next.range.first
            && self.lazy == next.lazy
            && self.state.advanced(self.range.count) == next.state
    }

    /// The part of it within `window`.
    pub(crate) fn within(&self, window: PageRange) -> Option<Self> {
        let first = self.range.first.max(window.first);
        let end = self.range.end().min(window.end());
        let count = end.0.checked_sub(first.0).filter(|n| *n > 0)?;
        let state = self.state.advanced(first.0 - self.range.first.0);
        Some(Self { range: PageRange::new(first, count), state, ..*self })
    }
}

/// Appends a run, joined with the last one where it continues it.
pub(crate) fn append(runs: &mut Vec<FrozenRun>, run: FrozenRun) {
    match runs.last_mut() {
        Some(last) if last.is_continued_by(&run) => last.range.count += run.range.count,
        _ => runs.push(run),
    }
}

/// Everything that CRIU sent for one container, by address space; complete and acknowledged.
#[derive(Debug, Default)]
pub struct Received {
    pub(crate) spaces: BTreeMap<Space, Vec<FrozenRun>>,
    pub(crate) spans: Vec<Span>,
    pub(crate) layout: Option<Layout>,
}

impl Received {
    /// Sorts the runs and makes sure that no page came twice.
    pub(crate) fn new(
        spaces: BTreeMap<Space, Vec<FrozenRun>>,
        spans: Vec<Span>,
        layout: Option<Layout>,
    ) -> Result<Self, CaptureError> {
        let spaces = spaces.into_iter().map(|(space, runs)| Ok((space, sorted(runs)?)));
        Ok(Self { spaces: spaces.collect::<Result<_, ProtocolError>>()?, spans, layout })
    }

    /// The address spaces, each with its runs, ascending and as few as possible. One without pages has none.
    #[must_use]
    pub fn spaces(&self) -> &BTreeMap<Space, Vec<FrozenRun>> {
        &self.spaces
    }

    /// The bytes of a run; `None` if they are not held (unchanged, or zeros).
    #[must_use]
    pub fn bytes(&self, run: &FrozenRun) -> Option<&[u8]> {
        let FrozenState::Bytes { span, page } = run.state else { return None };
        let start = page as usize * PAGE;
        let length = run.range.count as usize * PAGE;
        self.spans.get(span as usize)?.bytes().get(start..start + length)
    }

    /// Pages that arrived.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.spaces.values().flatten().map(|r| r.range.count).sum()
    }

    /// Pages whose bytes are held.
    #[must_use]
    pub fn held_pages(&self) -> u64 {
        let held = |r: &&FrozenRun| matches!(r.state, FrozenState::Bytes { .. });
        self.spaces.values().flatten().filter(held).map(|r| r.range.count).sum()
    }

    /// The bytes that are held.
    #[must_use]
    pub fn held(&self) -> Bytes {
        Bytes(self.held_pages() * PAGE as u64)
    }

    /// Which header CRIU used; `None` if it sent nothing.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        self.layout
    }
}

impl Received {
    /// Reads pages of a held process again, as far as they arrived: what its memory has now takes the place of what came.
    ///
    /// # Errors
    /// [`CaptureError::Process`] if one cannot be read, [`CaptureError::Map`] without memory for them.
    pub fn read_again(
        &mut self,
        space: Space,
        pid: i32,
        pages: &[PageNumber],
    ) -> Result<(), CaptureError> {
        let Some(runs) = self.spaces.get_mut(&space) else { return Ok(()) };
        let arrived = |page: &&PageNumber| position(runs, **page).is_some();
        let pages: Vec<PageNumber> = pages.iter().filter(arrived).copied().collect();
        if pages.is_empty() {
            return Ok(());
        }
        let bytes = Bytes((pages.len() * PAGE) as u64);
        let mut span = Arena::new(Budget::new(bytes).reserve(bytes)?)?.take(bytes.0 as usize)?;
        let failed =
            |source| CaptureError::Process { attempt: "read the memory again", pid, source };
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(failed)?;
        for (page, out) in pages.iter().zip(span.bytes_mut().chunks_exact_mut(PAGE)) {
            memory.read_exact_at(out, page.0 * PAGE as u64).map_err(failed)?;
        }
        let number = self.spans.len() as u32;
        self.spans.push(span);
        for (page, at) in pages.into_iter().zip(0..) {
            replace(runs, page, FrozenState::Bytes { span: number, page: at });
        }
        Ok(())
    }
}

/// The run that has this page.
fn position(runs: &[FrozenRun], page: PageNumber) -> Option<usize> {
    let at = runs.partition_point(|run| run.range.end() <= page);
    runs.get(at).filter(|run| run.range.first <= page).map(|_| at)
}

/// Gives one page of a run another state.
fn replace(runs: &mut Vec<FrozenRun>, page: PageNumber, state: FrozenState) {
    let Some(at) = position(runs, page) else { return };
    let run = runs[at];
    let behind = PageNumber(page.0 + 1);
    let part = |first: PageNumber, end: PageNumber| {
        run.within(PageRange::new(first, end.0.saturating_sub(first.0)))
    };
    let one = FrozenRun { range: PageRange::new(page, 1), state, ..run };
    let parts = [part(run.range.first, page), Some(one), part(behind, run.range.end())];
    runs.splice(at..=at, parts.into_iter().flatten());
}

fn sorted(mut runs: Vec<FrozenRun>) -> Result<Vec<FrozenRun>, ProtocolError> {
    runs.sort_by_key(|r| r.range.first);
    let twice = runs.windows(2).find(|w| w[0].range.end() > w[1].range.first);
    if let Some(w) = twice {
        return Err(ProtocolError::Twice(w[1].range.first.0));
    }
    let mut out = Vec::with_capacity(runs.len());
    runs.into_iter().for_each(|r| append(&mut out, r));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64, state: FrozenState) -> FrozenRun {
        FrozenRun { range: PageRange::new(PageNumber(first), count), lazy: false, state }
    }

    #[test]
    fn a_page_that_is_read_again_is_what_the_process_has_now() {
        // Two pages of ours, wherever they begin.
        let mine = vec![7_u8; 3 * PAGE];
        let first = (mine.as_ptr() as u64).div_ceil(PAGE as u64);
        let space = Space::Task(1);
        for came in [FrozenState::Same, FrozenState::Zero] {
            let spaces = BTreeMap::from([(space, vec![run(first - 1, 3, came)])]);
            let mut received = Received { spaces, spans: Vec::new(), layout: None };
            let pages = [PageNumber(first), PageNumber(first + 7)];
            received.read_again(space, std::process::id() as i32, &pages).unwrap();
            let runs = received.spaces()[&space].clone();
            let read = FrozenState::Bytes { span: 0, page: 0 };
            let expected = [run(first - 1, 1, came), run(first, 1, read), run(first + 1, 1, came)];
            assert_eq!(runs, expected);
            assert_eq!(received.bytes(&runs[1]), Some(&[7; PAGE][..]));
        }
        drop(mine);
    }

    #[test]
    fn a_run_keeps_its_other_pages_at_both_ends() {
        let bytes = |page| FrozenState::Bytes { span: 0, page };
        let other = FrozenState::Bytes { span: 1, page: 0 };
        for (page, expected) in [
            (10, vec![run(10, 1, other), run(11, 2, bytes(6))]),
            (12, vec![run(10, 2, bytes(5)), run(12, 1, other)]),
            (13, vec![run(10, 3, bytes(5))]),
        ] {
            let mut runs = vec![run(10, 3, bytes(5))];
            replace(&mut runs, PageNumber(page), other);
            assert_eq!(runs, expected);
        }
    }
}
