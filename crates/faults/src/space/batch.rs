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
//! The order of reading is believed as far as it agrees with what is seen of single pages ([`story`]): whether they were filled at first
//! (something of theirs is still to be placed), are filled at the quiet moment, and were filled in a child when it was born.
//!
//! Not covered: three things at once on the very same page within one unquiet moment, one of them a mapping that grows onto it (the
//! kernel tells nobody), or three threads or more that reuse each other's addresses in turn.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::birth::Birth;
use super::story::{Beliefs, Story};
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
    /// For each change, the pages that are looked at.
    samples: Vec<Vec<u64>>,
    since: Option<Instant>,
    /// How often it was looked in vain for a quiet moment.
    looks: usize,
    /// What was learned of the process.
    beliefs: Beliefs,
}

/// A batch with more changes, or waiting for longer, waits no more: as many threads that do nothing but change mappings let no page in
/// meanwhile, and their children wait. Time alone says nothing: it may be us who had no processor.
const MOST: usize = 512;
const LONGEST: Duration = Duration::from_secs(2);
const LOOKS: usize = 200;
/// How far a range is searched for a page of which something is still to be placed.
const FAR: u64 = 64;

/// What happened, in order, and for each child which of the changes it has seen.
pub(super) struct Ordered {
    pub(super) changes: Vec<Change>,
    pub(super) forks: Vec<(super::Unborn, Vec<bool>)>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Events of several threads waited to be read at once. A thread has one at most, so more than one thread changes mappings.
    pub(super) fn many_at_once(&mut self) {
        self.beliefs.many = true;
    }

    /// `missing` says of a page whether something is to be placed there, as of the last quiet moment.
    pub(super) fn push(&mut self, change: Change, missing: &dyn Fn(u64) -> bool) {
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
        let samples = change.touches().into_iter().flat_map(|r| samples(&r, missing)).collect();
        self.changes.push(change);
        self.samples.push(samples);
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
            for page in &self.samples[change] {
                // A child that is gone says nothing about what it had.
                let filled = match child.memory.probe(*page) {
                    Probed::Registered => true,
                    Probed::Absent => false,
                    Probed::Changing | Probed::Gone => continue,
                };
                self.sights.entry((fork, *page)).or_insert(filled);
            }
        }
    }

    /// It was looked in vain for a quiet moment. Whether it has waited long enough for one.
    pub(super) fn is_overdue(&mut self) -> bool {
        self.looks += 1;
        let late = self.since.is_some_and(|t| t.elapsed() > LONGEST);
        self.changes.len() > MOST || late && self.looks > LOOKS
    }

    /// Whether this can have happened in another order than it was read in, with another end: several threads change mappings, and
    /// something moved to where something else was taken away, or a child was born between moves.
    pub(super) fn is_ambiguous(&self) -> bool {
        if !self.beliefs.many {
            return false;
        }
        let moves: Vec<&Change> = self.changes.iter().filter(|c| !c.frees().is_empty()).collect();
        let fills_what_is_freed =
            |a: &&Change| moves.iter().any(|b| overlap(&a.fills(), &b.frees()).is_some());
        let born_between = self.forks().next().is_some() && !moves.is_empty();
        born_between || moves.iter().any(fills_what_is_freed)
    }

    /// Takes everything out in the order in which it was read.
    pub(super) fn take_as_read(&mut self) -> Ordered {
        let order: Vec<usize> = self.moves().collect();
        let seen = |fork| (fork, order.iter().map(|i| *i < fork).collect());
        let forks = self.forks().map(seen).collect();
        self.take(&order, forks)
    }

    /// Takes everything out in the order in which it happened; `None`, and nothing is taken, if it is not quiet any more.
    pub(super) fn take_as_happened(
        &mut self,
        memory: &dyn Memory,
        missing: &dyn Fn(u64) -> bool,
    ) -> Option<Ordered> {
        let eyes = Eyes { memory, missing };
        self.learn(&eyes)?;
        let order = self.order(&eyes)?;
        let seen = |fork| Some((fork, self.seen_by(fork, &order, &eyes)?));
        let forks = self.forks().map(seen).collect::<Option<_>>()?;
        self.echoes.clear();
        Some(self.take(&order, forks))
    }

    fn take(&mut self, order: &[usize], forks: Vec<(usize, Vec<bool>)>) -> Ordered {
        self.since = None;
        self.sights.clear();
        self.samples.clear();
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

    /// A process whose mappings grow has them grow again.
    fn learn(&mut self, eyes: &Eyes<'_>) -> Option<()> {
        let pages: BTreeSet<u64> = self.samples.iter().flatten().copied().collect();
        for page in pages {
            if self.beliefs.grow {
                break;
            }
            self.beliefs.grow = self.story(self.moves(), page, eyes)?.has_grown();
        }
        Some(())
    }

    /// Indexes of all but the forks, in the order in which they happened: each change after those that came before it on a page that
    /// both touched, else as they were read.
    fn order(&self, eyes: &Eyes<'_>) -> Option<Vec<usize>> {
        let mut left: Vec<usize> = self.moves().collect();
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); self.changes.len()];
        for (at, late) in left.iter().enumerate() {
            for early in &left[..at] {
                match self.is_inverted(*early, *late, eyes)? {
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
    fn is_inverted(&self, early: usize, late: usize, eyes: &Eyes<'_>) -> Option<Option<bool>> {
        let (a, b) = (&self.changes[early], &self.changes[late]);
        let refilled = [overlap(&a.fills(), &b.frees()), overlap(&a.frees(), &b.fills())];
        let pages: Vec<u64> =
            refilled.iter().flatten().flat_map(|r| samples(r, eyes.missing)).collect();
        if pages.is_empty() {
            let shared =
                a.touches().iter().any(|x| b.touches().iter().any(|y| overlap(x, y).is_some()));
            return Some(shared.then_some(false));
        }
        let (mut as_read, mut inverted) = (0, 0);
        for page in pages {
            let story = self.story(self.moves(), page, eyes)?;
            as_read = story.cost_of(early, late).max(as_read);
            inverted = story.cost_of(late, early).max(inverted);
        }
        Some(Some(inverted < as_read))
    }

    /// What these changes did to a page.
    fn story(
        &self,
        order: impl Iterator<Item = usize>,
        page: u64,
        eyes: &Eyes<'_>,
    ) -> Option<Story> {
        let mut story =
            Story::new((eyes.missing)(page).then_some(true), eyes.is_filled(page)?, self.beliefs);
        order.for_each(|index| story.add(index, &self.changes[index], page));
        Some(story)
    }

    /// Which of the ordered changes a child has seen: those that were read before it, unless its pages tell otherwise.
    fn seen_by(&self, fork: usize, order: &[usize], eyes: &Eyes<'_>) -> Option<Vec<bool>> {
        let told = |index: &usize| match self.changes[*index] {
            Change::Remove(_) => Some(*index < fork),
            _ => None,
        };
        let mut birth = Birth::new(order.iter().map(told).collect());
        for page in self.telling_pages(order) {
            let story = self.story(order.iter().copied(), page, eyes)?;
            let places = story.indexes().filter_map(|i| order.iter().position(|o| *o == i));
            birth.add(places.collect(), story.gaps(self.sights.get(&(fork, page)).copied()));
        }
        Some(birth.decide(|at| order[at] < fork))
    }

    /// The pages that were looked at, and of each two changes that share pages, one.
    fn telling_pages(&self, order: &[usize]) -> BTreeSet<u64> {
        let mut pages: BTreeSet<u64> = self.samples.iter().flatten().copied().collect();
        for (at, late) in order.iter().enumerate() {
            for early in &order[..at] {
                let (a, b) = (self.changes[*early].touches(), self.changes[*late].touches());
                let shared = a.iter().flat_map(|x| b.iter().filter_map(|y| overlap(x, y)));
                pages.extend(shared.map(|range| range.start));
            }
        }
        pages
    }
}

/// What can be found out about a page of the process, at a quiet moment.
struct Eyes<'a> {
    memory: &'a dyn Memory,
    /// Whether something was to be placed there when the batch began: it was filled then.
    missing: &'a dyn Fn(u64) -> bool,
}

impl Eyes<'_> {
    /// `None` if it is not quiet any more.
    fn is_filled(&self, page: u64) -> Option<bool> {
        match self.memory.probe(page) {
            Probed::Changing => None,
            Probed::Registered => Some(true),
            Probed::Absent | Probed::Gone => Some(false),
        }
    }
}

/// A few pages that stand for a range: its ends, its middle, and one that matters.
fn samples(range: &Range<u64>, missing: &dyn Fn(u64) -> bool) -> Vec<u64> {
    if range.is_empty() {
        return Vec::new();
    }
    let middle = range.start + (range.end - range.start) / 2;
    let matters = range.clone().take(FAR as usize).find(|page| missing(*page));
    let mut pages: Vec<u64> =
        [range.start, middle, range.end - 1].into_iter().chain(matters).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// The pages that both ranges have.
fn overlap(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let (start, end) = (a.start.max(b.start), a.end.min(b.end));
    (start < end).then_some(start..end)
}
