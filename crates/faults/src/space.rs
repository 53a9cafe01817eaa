//! What one address space still lacks, kept true while the process changes its mappings.
//!
//! Owns which page of the checkpoint belongs at which address now ([`Translation`]) and which of them need nothing more ([`Bits`]);
//! does no system call, except by [`Memory::probe`].
//! Invariant 4: a page that was discarded, unmapped or replaced is never pending again.
//!
//! A REMOVE is applied when it is read: the kernel discards only afterwards. Changes of mappings wait in a [`batch`] for a quiet
//! moment, because the kernel does not report them in order; pages are not placed meanwhile (the kernel would not let them in).

mod batch;
mod birth;
mod story;

use std::ops::Range;
use std::sync::Arc;

use crate::bits::Bits;
use crate::layout::{Layout, Run};
use crate::translation::{Piece, Translation};
use crate::uffd::{Probed, Uffd};
use batch::{Batch, Ordered};
use godwit_types::PageNumber;

/// The address space itself, as far as we must ask it.
pub(crate) trait Memory: Send + Sync {
    /// Whether something registered is mapped at this page.
    fn probe(&self, page: u64) -> Probed;
}

impl Memory for Uffd {
    fn probe(&self, page: u64) -> Probed {
        Uffd::probe(self, PageNumber(page))
    }
}

/// What a process did to its mappings, in pages.
pub(crate) enum Change {
    /// Discarded the contents.
    Remove(Range<u64>),
    /// Took the mappings away.
    Unmap(Range<u64>),
    /// Moved `len` pages.
    Remap { from: u64, to: u64, len: u64 },
    /// Forked.
    Fork(Unborn),
}

impl Change {
    /// The pages at which nothing is mapped afterwards.
    fn frees(&self) -> Range<u64> {
        match self {
            Self::Unmap(range) => range.clone(),
            Self::Remap { from, len, .. } => *from..from + len,
            Self::Remove(_) | Self::Fork(_) => 0..0,
        }
    }

    /// All pages that it changes.
    fn touches(&self) -> [Range<u64>; 2] {
        match self {
            Self::Remove(range) => [range.clone(), 0..0],
            _ => [self.frees(), self.fills()],
        }
    }

    /// The pages at which something is mapped afterwards.
    fn fills(&self) -> Range<u64> {
        match self {
            Self::Remap { to, len, .. } => *to..to + len,
            Self::Unmap(_) | Self::Remove(_) | Self::Fork(_) => 0..0,
        }
    }
}

/// Whether everything that was read is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    Yes,
    /// Some of it waits for a quiet moment.
    NotYet,
    /// It has waited for too long, and could have happened in more than one order: what belongs where cannot be known.
    Never,
}

/// A child that nobody serves yet.
pub(crate) struct Unborn {
    pub(crate) id: u64,
    pub(crate) memory: Arc<dyn Memory>,
}

/// A child with what it lacks.
pub(crate) struct Born {
    pub(crate) id: u64,
    pub(crate) space: Space,
}

/// Pages that are to be copied from a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// First page in the process.
    pub(crate) here: u64,
    /// Number of its page within the frame.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) count: u64,
    rank: u64,
}

impl Place {
    /// A run of pages that lies together at `here`.
    pub(crate) fn of(here: u64, run: &Run) -> Self {
        Self { here, offset: run.offset.into(), count: run.count.into(), rank: run.rank }
    }
}

/// See the module.
pub(crate) struct Space {
    layout: Arc<Layout>,
    map: Translation,
    done: Bits,
    batch: Batch,
}

impl Space {
    /// A process as it was restored: everything is missing.
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        let (map, done) = (Translation::identity(), Bits::new(layout.pages()));
        Self { layout, map, done, batch: Batch::default() }
    }

    /// Pages that are still to be placed.
    pub(crate) fn missing(&self) -> u64 {
        self.done.clear()
    }

    /// Whether everything that was read is applied: pages may be placed.
    pub(crate) fn is_settled(&self) -> bool {
        self.batch.is_empty()
    }

    /// Where the page that belongs here is stored; `None` if what belongs here is zeros or is here already.
    pub(crate) fn lookup(&self, here: u64) -> Option<Run> {
        let run = self.layout.page(self.map.origin(here)?)?;
        (!self.done.get(run.rank)).then_some(run)
    }

    /// How many pages from `here` on, at most up to `end`, are not to be placed.
    pub(crate) fn uncovered(&self, here: u64, end: u64) -> u64 {
        (here..end).take_while(|page| self.lookup(*page).is_none()).count() as u64
    }

    /// Whether any page of the frame is still to be placed.
    pub(crate) fn lacks(&self, frame: u32) -> bool {
        self.layout.runs_of(frame).any(|run| self.done.any_clear(run.ranks()))
    }

    /// Where the pages of a frame are to be placed.
    pub(crate) fn places(&self, frame: u32) -> Vec<Place> {
        self.layout.runs_of(frame).flat_map(|run| self.places_of(&run)).collect()
    }

    fn places_of(&self, run: &Run) -> Vec<Place> {
        let mut places = Vec::new();
        for clear in self.done.clear_runs(run.ranks()) {
            let skip = clear.start - run.rank;
            let origins = run.first + skip..run.first + (clear.end - run.rank);
            for piece in self.map.places(origins.clone()) {
                let ahead = piece.origin - origins.start;
                let offset = u64::from(run.offset) + skip + ahead;
                let rank = clear.start + ahead;
                places.push(Place { here: piece.here, offset, count: piece.len, rank });
            }
        }
        places
    }

    /// Part of a place needs nothing more: placed, or found to be there, or found to be mapped no longer.
    /// Returns how many pages that is news for.
    pub(crate) fn settle(&self, place: &Place, first: u64, count: u64) -> u64 {
        let rank = place.rank + (first - place.here);
        self.done.set(rank..rank + count)
    }

    /// Changes of several threads were read at once.
    pub(crate) fn many_at_once(&mut self) {
        self.batch.many_at_once();
    }

    /// Takes in one change that was read.
    pub(crate) fn change(&mut self, change: Change) {
        match change {
            Change::Remove(range) if self.is_settled() => self.remove(range),
            change => {
                let mut batch = std::mem::take(&mut self.batch);
                batch.push(change, &|page| self.lookup(page).is_some());
                self.batch = batch;
            }
        }
    }

    /// Applies what was read, if it is quiet now or has not been for too long. Children appear in `born`.
    pub(crate) fn try_settle(&mut self, memory: &dyn Memory, born: &mut Vec<Born>) -> Settled {
        if self.is_settled() {
            return Settled::Yes;
        }
        let quiet = memory.probe(PROBE_PAGE) != Probed::Changing;
        let mut batch = std::mem::take(&mut self.batch);
        let missing = |page| self.lookup(page).is_some();
        let ordered = if quiet { batch.take_as_happened(memory, &missing) } else { None };
        self.batch = batch;
        match ordered {
            Some(ordered) => self.apply(ordered, born),
            None if !self.batch.is_overdue() => return Settled::NotYet,
            None if self.missing() > 0 && self.batch.is_ambiguous() => return Settled::Never,
            None => {
                tracing::debug!("mappings change without a pause, in an order that is known");
                let ordered = self.batch.take_as_read();
                self.apply(ordered, born);
            }
        }
        Settled::Yes
    }

    fn apply(&mut self, ordered: Ordered, born: &mut Vec<Born>) {
        for (child, seen) in ordered.forks {
            let mut space = self.fork();
            let seen = ordered.changes.iter().zip(seen).filter(|(_, seen)| *seen);
            seen.for_each(|(change, _)| space.apply_one(change));
            born.push(Born { id: child.id, space });
        }
        ordered.changes.iter().for_each(|change| self.apply_one(change));
    }

    fn apply_one(&mut self, change: &Change) {
        match change {
            Change::Unmap(range) | Change::Remove(range) => self.remove(range.clone()),
            Change::Remap { from, to, len } => self.remap(*from, *to, *len),
            Change::Fork(_) => {}
        }
    }

    /// What is missing in this range is missing no more.
    fn remove(&mut self, range: Range<u64>) {
        let pieces = self.map.pieces(range);
        self.discard(&pieces);
    }

    fn remap(&mut self, from: u64, to: u64, len: u64) {
        let replaced = self.map.cut(to..to + len);
        self.discard(&replaced);
        for piece in self.map.cut(from..from + len) {
            self.map.put(piece.moved(from, to));
        }
    }

    fn discard(&self, pieces: &[Piece]) {
        for run in pieces.iter().flat_map(|p| self.layout.runs(p.origins())) {
            self.done.set(run.ranks());
        }
    }

    /// What a child lacks.
    fn fork(&self) -> Self {
        let (layout, map) = (Arc::clone(&self.layout), self.map.clone());
        Self { layout, map, done: self.done.clone(), batch: Batch::default() }
    }
}

/// Any page will do to ask whether it is quiet: the counter is looked at first. Above every `mmap_min_addr`.
const PROBE_PAGE: u64 = 1 << 20;

#[cfg(test)]
mod tests;
