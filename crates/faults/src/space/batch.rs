//! Changes that were read since the last quiet moment, and the order in which they really happened.
//!
//! # Why the order of reading is not enough
//! The kernel queues UNMAP, REMAP and FORK after it has dropped the lock of the address space. So `munmap(X)` by one thread and
//! `mremap(Y → X)` by another, to whom the kernel gave the X that was just freed, can be read in the wrong order; believing it would
//! discard live pages, or give one block the contents of another. Each of these threads holds the kernel's counter "mappings are
//! changing" from before the change until after its event was read. So two events can be in the wrong order only if there was no
//! *quiet* moment between them, and at a quiet moment everything that has happened has been read.
//!
//! An `mremap` that moves is told twice: REMAP, then UNMAP of the source, after which the thread goes on. The second is an echo: what is
//! at the source by then belongs to somebody else.
//!
//! # How it is found
//! Take one page. Events free it (UNMAP, the source of a REMAP) or fill it (the target of a REMAP), and must alternate. Whether it is
//! filled at the quiet moment is asked of the kernel; with the number of either kind this says what came first. Of one kind, the order
//! of reading is believed. For a child, a page that only one change touched says whether the child has seen that change; for the rest,
//! the child is a picture of its parent at some point of the order: the one at which the pages that changed were filled or free as they
//! are in the child.
//!
//! Not covered: `MREMAP_DONTUNMAP` (frees nothing) or growing in place (fills without an event) on the very pages that were moved to and
//! freed again within one unquiet moment, and three threads or more that within one such moment reuse each other's addresses in turn.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Change, Memory};
use crate::uffd::Probed;

/// See the module.
#[derive(Default)]
pub(super) struct Batch {
    changes: Vec<Change>,
    /// Sources of moves of which the kernel has not told yet that they are unmapped.
    echoes: Vec<Range<u64>>,
    /// Whether a page was filled in a child, by index of its fork and page, as soon as it was worth asking: the child runs on.
    sights: HashMap<(usize, u64), bool>,
    since: Option<Instant>,
}

/// A batch with more changes, or waiting for longer, is applied as it was read: as many threads that do nothing but change mappings
/// let no page in meanwhile, and their children wait.
const MOST: usize = 512;
const LONGEST: Duration = Duration::from_secs(2);
/// Pages that are asked for to find the place of one fork. Each costs a system call, under the exclusive lock.
const MOST_PAGES: usize = 256;

/// What happened, in order, and for each child which of the changes it has seen.
pub(super) struct Ordered {
    pub(super) changes: Vec<Change>,
    pub(super) forks: Vec<(super::Unborn, Vec<bool>)>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn push(&mut self, change: Change) {
        match &change {
            Change::Remap { from, len, .. } => self.echoes.push(*from..from + len),
            Change::Unmap(range) => {
                if let Some(echo) = self.echoes.iter().position(|e| e == range) {
                    self.echoes.swap_remove(echo);
                    return;
                }
            }
            Change::Remove(_) | Change::Fork(_) => {}
        }
        self.since.get_or_insert_with(Instant::now);
        self.changes.push(change);
        self.look_at_children();
    }

    /// Asks what children have of the change that was added last, or the child that was added last of all changes.
    fn look_at_children(&mut self) {
        let last = self.changes.len() - 1;
        let pairs: Vec<(usize, usize)> = match self.changes[last] {
            Change::Fork(_) => self.moves().map(|change| (last, change)).collect(),
            _ => self.forks().map(|fork| (fork, last)).collect(),
        };
        for (fork, change) in pairs {
            let Change::Fork(child) = &self.changes[fork] else { continue };
            for page in self.changes[change].ends() {
                if let Some(filled) = is_filled(child.memory.as_ref(), page) {
                    self.sights.entry((fork, page)).or_insert(filled);
                }
            }
        }
    }

    /// Whether a page was filled in a child when it was looked at.
    fn in_child(&self, fork: usize, page: u64) -> Option<bool> {
        self.sights.get(&(fork, page)).copied()
    }

    /// Whether it has waited long enough for a quiet moment.
    pub(super) fn is_overdue(&self) -> bool {
        self.changes.len() > MOST || self.since.is_some_and(|t| t.elapsed() > LONGEST)
    }

    /// Takes everything out in the order in which it was read.
    pub(super) fn take_as_read(&mut self) -> Ordered {
        let order: Vec<usize> = self.moves().collect();
        let seen = |fork| (fork, order.iter().map(|i| *i < fork).collect());
        let forks = self.forks().map(seen).collect();
        self.take(&order, forks)
    }

    /// Takes everything out in the order in which it happened; `None`, and nothing is taken, if it is not quiet any more.
    pub(super) fn take_as_happened(&mut self, memory: &dyn Memory) -> Option<Ordered> {
        let order = self.order(memory)?;
        let seen = |fork| Some((fork, self.seen_by(fork, &order, memory)?));
        let forks = self.forks().map(seen).collect::<Option<_>>()?;
        self.echoes.clear();
        Some(self.take(&order, forks))
    }

    fn take(&mut self, order: &[usize], forks: Vec<(usize, Vec<bool>)>) -> Ordered {
        self.since = None;
        self.sights.clear();
        let mut slots: Vec<Option<Change>> = self.changes.drain(..).map(Some).collect();
        let forks = forks.into_iter().filter_map(|(fork, seen)| match slots[fork].take() {
            Some(Change::Fork(child)) => Some((child, seen)),
            _ => None,
        });
        let forks = forks.collect();
        Ordered { changes: order.iter().filter_map(|i| slots[*i].take()).collect(), forks }
    }

    fn forks(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.changes.len()).filter(|i| matches!(self.changes[*i], Change::Fork(_)))
    }

    fn moves(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.changes.len()).filter(|i| !matches!(self.changes[*i], Change::Fork(_)))
    }

    /// Indexes of all but the forks, in the order in which they happened: each change after those that came before it on a page that
    /// both touched, else as they were read.
    fn order(&self, memory: &dyn Memory) -> Option<Vec<usize>> {
        let mut left: Vec<usize> = self.moves().collect();
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); self.changes.len()];
        for (at, late) in left.iter().enumerate() {
            for early in &left[..at] {
                match self.happened_before(*late, *early, memory)? {
                    Some(true) => before[*early].push(*late),
                    Some(false) => before[*late].push(*early),
                    None => {}
                }
            }
        }
        let mut order = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let free = |index: &usize| before[*index].iter().all(|b| !left.contains(b));
            // A circle cannot be; if our picture is wrong, the order of reading breaks it.
            let at = left.iter().position(free).unwrap_or(0);
            order.push(left.remove(at));
        }
        Some(order)
    }

    /// Whether `late`, read after `early`, came before it; inside, `None` if they have no page in common.
    fn happened_before(
        &self,
        late: usize,
        early: usize,
        memory: &dyn Memory,
    ) -> Option<Option<bool>> {
        let (a, b) = (&self.changes[early], &self.changes[late]);
        let Some(page) = overlap(&b.frees(), &a.fills()) else {
            let shared =
                a.touches().iter().any(|x| b.touches().iter().any(|y| overlap(x, y).is_some()));
            return Some(shared.then_some(false));
        };
        let filled = usize::from(is_filled(memory, page)?);
        let count = |upto: usize, which: fn(&Change) -> Range<u64>| {
            self.changes[..upto].iter().filter(|c| which(c).contains(&page)).count()
        };
        let all = self.changes.len();
        let filled_first = filled + count(all, Change::frees) == 1 + count(all, Change::fills);
        let (free, fill) = (count(late, Change::frees), count(early, Change::fills));
        // Filled at first: free, fill, free, fill, … Free at first: fill, free, fill, free, …
        Some(Some(if filled_first { free <= fill } else { free < fill }))
    }

    /// Which of the ordered changes a child has seen.
    fn seen_by(&self, fork: usize, order: &[usize], memory: &dyn Memory) -> Option<Vec<bool>> {
        let position = self.position_of(fork, order, memory)?;
        let seen = order.iter().enumerate().map(|(at, index)| match &self.changes[*index] {
            Change::Remove(_) => *index < fork,
            _ => self.was_seen(*index, fork).unwrap_or(at < position),
        });
        Some(seen.collect())
    }

    /// Whether a child has this change in its address space, if pages that no other change touched can tell.
    fn was_seen(&self, index: usize, fork: usize) -> Option<bool> {
        let change = &self.changes[index];
        if let Some(page) = self.own_page(index, &change.fills()) {
            return self.in_child(fork, page);
        }
        let page = self.own_page(index, &change.frees())?;
        match self.in_child(fork, page)? {
            true => Some(false),
            // What is unmapped may have been free before, in part.
            false => matches!(change, Change::Remap { .. }).then_some(true),
        }
    }

    /// The first or last page of a range, if no other change touched it.
    fn own_page(&self, index: usize, range: &Range<u64>) -> Option<u64> {
        let ends = [range.start, range.end.saturating_sub(1)];
        ends.into_iter().filter(|_| !range.is_empty()).find(|page| {
            let mut others = self.changes.iter().enumerate().filter(|(i, _)| *i != index);
            !others.any(|(_, c)| c.frees().contains(page) || c.fills().contains(page))
        })
    }

    /// Before how many of the ordered changes the fork came, most likely.
    fn position_of(&self, fork: usize, order: &[usize], memory: &dyn Memory) -> Option<usize> {
        let as_read = order.iter().filter(|i| **i < fork).count();
        let mut pages: Vec<u64> = order.iter().flat_map(|i| self.changes[*i].ends()).collect();
        pages.sort_unstable();
        pages.dedup();
        let mut wrong = vec![0u32; order.len() + 1];
        for page in pages.into_iter().take(MOST_PAGES) {
            let Some(in_child) = self.in_child(fork, page) else { continue };
            let mut filled = is_filled(memory, page)?;
            for position in (0..=order.len()).rev() {
                if let Some(undone) = order.get(position) {
                    filled = self.before(*undone, page, filled);
                }
                wrong[position] += u32::from(filled != in_child);
            }
        }
        (0..wrong.len()).min_by_key(|k| (wrong[*k], k.abs_diff(as_read)))
    }

    /// Whether a page was filled before a change, if it was or was not after it.
    fn before(&self, index: usize, page: u64, after: bool) -> bool {
        let change = &self.changes[index];
        change.frees().contains(&page) || after && !change.fills().contains(&page)
    }
}

fn is_filled(memory: &dyn Memory, page: u64) -> Option<bool> {
    match memory.probe(page) {
        Probed::Changing => None,
        Probed::Registered => Some(true),
        Probed::Absent | Probed::Gone => Some(false),
    }
}

/// The first page that both ranges have.
fn overlap(a: &Range<u64>, b: &Range<u64>) -> Option<u64> {
    let start = a.start.max(b.start);
    (start < a.end.min(b.end)).then_some(start)
}
