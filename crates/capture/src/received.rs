//! What arrived in the freeze.

use std::collections::BTreeMap;

use godwit_image::Space;
use godwit_types::PageRange;

use crate::page::PAGE;
use crate::protocol::{Layout, ProtocolError};
use crate::{CaptureError, Span};

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
#[derive(Debug)]
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

    /// Which header CRIU used; `None` if it sent nothing.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        self.layout
    }
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
